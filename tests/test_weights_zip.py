"""The zip that torch.save writes, and every other zip, which is refused."""

from __future__ import annotations

import struct
import warnings
import zipfile
from pathlib import Path

import pytest
from torch_files import GOOD, MEMBERS, canary, patched, read_bytes, refused, zipped  # noqa: F401 (a fixture)


def archives() -> dict[str, bytes]:
    good = zipped(MEMBERS)
    directory = struct.unpack("<I", good[-6:-2])[0]
    second = directory + 46 + len("archive/data.pkl")
    return {
        "compressed": zipped(MEMBERS, compress_type=zipfile.ZIP_DEFLATED),
        "compressed by bzip2": zipped(MEMBERS, compress_type=zipfile.ZIP_BZIP2),
        "compressed, and not said so": patched(good, directory + 20, struct.pack("<I", 5)),
        "encrypted": patched(patched(good, directory + 8, b"\x01"), 6, b"\x01"),
        "encrypted in one place": patched(good, directory + 8, b"\x01"),
        "encrypted in its own header alone": patched(good, 6, b"\x01"),
        "a member on another disk": patched(good, second + 34, b"\x01"),
        "a checksum that is wrong in both places": patched(patched(good, directory + 16, b"\x01\x02\x03\x04"), 14, b"\x01\x02\x03\x04"),
        "two of one name": zipped([*MEMBERS, MEMBERS[0]]),
        "two pickles": zipped([*MEMBERS, ("other/data.pkl", GOOD)]),
        "no pickle": zipped(MEMBERS[1:]),
        "no storage": zipped(MEMBERS[:1]),
        "nothing": zipped([]),
        "a pickle at the top": zipped([("data.pkl", GOOD), ("data/0", bytes(96))]),
        "up and out": zipped([*MEMBERS, ("../../canary", b"x")]),
        "up and out below": zipped([*MEMBERS, ("archive/../canary", b"x")]),
        "absolute": zipped([*MEMBERS, ("/canary", b"x")]),
        "backslash": zipped([*MEMBERS, ("archive\\..\\canary", b"x")]),
        "a drive": zipped([*MEMBERS, ("C:/canary", b"x")]),
        "deep": zipped([*MEMBERS, ("archive/data/0/1", b"x")]),
        "control characters": zipped([*MEMBERS, ("archive/\x1b[2J", b"x")]),
        "a TorchScript": zipped([*MEMBERS, ("archive/constants.pkl", b"\x80\x02).")]),
        "big endian": zipped([*MEMBERS, ("archive/byteorder", b"big")]),
        "too many": zipped([*MEMBERS, *((f"archive/data/{i}", b"") for i in range(1, 10_000))]),
        "a wrong checksum": patched(good, directory + 16, b"\x01\x02\x03\x04"),
        "a size beyond the end": patched(patched(good, second + 20, b"\xf0\xff\xff\x7f" * 2), 0, b"PK"),
        "the size that means 64 bits": patched(good, second + 20, b"\xff" * 8),
        "one inside another": patched(good, second + 42, struct.pack("<I", 0)),
        "a header beyond the end": patched(good, second + 42, b"\xf0\xff\xff\x7f"),
        "another name in its own header": good.replace(b"archive/data/0", b"archive/data/1", 1),
        "a comment": good[:-2] + b"\x05\x00hello",
        "bytes after the end": good + b"\0",
        "bytes before the start": b"\0" + good,
        "a shorter directory": patched(good, len(good) - 10, struct.pack("<I", 10)),
        "more members than there are": patched(good, len(good) - 14, b"\x03\x00\x03\x00"),
        "fewer members than there are": patched(good, len(good) - 14, b"\x01\x00\x01\x00"),
        "a directory beyond 4 GiB": patched(good, len(good) - 6, b"\xff" * 4),
        "another disk": patched(good, len(good) - 18, b"\x01\x00"),
        "something hidden between": hidden(good, directory),
        "a 64-bit directory that differs": with_zip64(good, 3),
    }


def hidden(good: bytes, directory: int) -> bytes:
    """A hundred bytes that no member owns, before the directory."""
    return good[:directory] + bytes(100) + good[directory:-6] + struct.pack("<I", directory + 100) + good[-2:]


def with_zip64(good: bytes, count: int) -> bytes:
    start, size, at = struct.unpack("<I", good[-6:-2])[0], struct.unpack("<I", good[-10:-6])[0], len(good) - 22
    record = b"PK\x06\x06" + struct.pack("<QHHIIQQQQ", 44, 45, 45, 0, 0, count, count, size, start)
    return good[:at] + record + b"PK\x06\x07" + struct.pack("<IQI", 0, at, 1) + good[at:]


with warnings.catch_warnings(action="ignore"):  # zipfile's, of a duplicate name
    ARCHIVES = archives()


@pytest.mark.parametrize("name", ARCHIVES)
def test_archives_that_torch_does_not_write(name: str, canary: Path, tmp_path: Path) -> None:  # noqa: F811
    refused(ARCHIVES[name], tmp_path)


def test_archives_above_are_wrong_for_one_reason_alone(tmp_path: Path) -> None:
    assert read_bytes(zipped(MEMBERS), tmp_path)["a"].shape == (4, 6)
    assert read_bytes(with_zip64(zipped(MEMBERS), 2), tmp_path)["a"].shape == (4, 6)
    assert read_bytes(zipped([*MEMBERS, ("archive/byteorder", b"little"), ("archive/version", b"3\n")]), tmp_path)["a"].shape == (4, 6)
