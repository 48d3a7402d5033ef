"""The container that torch.save writes: a zip of uncompressed members in one folder. No other zip is read.

Every size and offset is compared with the bytes that are there, and no two members may share a byte.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable
from typing import NamedTuple

from moebius.errors import WeightError
from moebius.weights.formats.refused import SAVE_AGAIN, RefusedError, damaged
from moebius.weights.formats.tensors import OpenFile

MAX_MEMBERS = 10_000
MAX_GAP = 24  # bytes between members: at most the sizes that follow the data


class Member(NamedTuple):
    """Where a member's data lies in the file, and its checksum."""

    offset: int
    size: int
    crc: int


class Entry(NamedTuple):
    """What the table of contents says of a member. `name` is without the folder, `raw` the bytes of the whole name."""

    folder: str
    name: str
    raw: bytes
    flags: int
    crc: int
    size: int
    header: int


def read_members(file: OpenFile) -> dict[str, Member]:
    """The members by their names without the common folder. Only what torch.save writes is taken for a zip."""
    count, start, end = directory(file)
    at = start
    members: dict[str, Member] = {}
    spans, folders = [], set()
    for _ in range(count):
        entry, at = read_entry(file, at, end)
        if entry.name in members:
            damaged(f"it has two members {entry.name}")
        offset = data_offset(file, entry)
        folders.add(entry.folder)
        members[entry.name] = Member(offset, entry.size, entry.crc)
        spans.append((entry.header, offset + entry.size, entry.name))
    if at != end:
        damaged("its table of contents is broken")
    if len(folders) != 1:
        damaged("its members do not lie in one folder")
    check_gaps(spans, start)
    return members


def read_entry(file: OpenFile, at: int, end: int) -> tuple[Entry, int]:
    """The entry at byte `at` of a table of contents that ends at `end`, and the byte after it."""
    if end - at < 46 or file[at : at + 4] != b"PK\x01\x02":
        damaged("its table of contents is broken")
    (flags, method, _, _, crc, packed, size, name_length, extra_length, comment_length, disk, _, _, header) = struct.unpack(
        "<HHHHIIIHHHHHII", file[at + 8 : at + 46]
    )
    raw = file[at + 46 : at + 46 + name_length]
    after = at + 46 + name_length + extra_length + comment_length
    if after > end:
        damaged("its table of contents is broken")
    folder, name = split_name(raw)
    if flags & ~0x808:  # bit 3: sizes follow the data, bit 11: names are UTF-8
        raise RefusedError(f"its member {name} is encrypted or patched (flags {flags:#x}). {SAVE_AGAIN}")
    if method or packed != size:
        raise RefusedError(f"its member {name} is compressed, which torch.save never does. {SAVE_AGAIN}")
    if disk or 0xFFFFFFFF in (size, header):
        raise RefusedError(f"its member {name} is in another file or beyond 4 GiB. {SAVE_AGAIN}")
    return Entry(folder, name, raw, flags, crc, size, header), after


def check_gaps(spans: Iterable[tuple[int, int, str]], start: int) -> None:
    """Refuses members that overlap or hide bytes between them. A span is (first byte, byte after the last, name)."""
    before, previous = 0, "the start"
    for begin, after, name in sorted(spans):
        if not 0 <= begin - before <= MAX_GAP:
            damaged(f"its members {previous} and {name} overlap or leave a hole")
        before, previous = after, name
    if not 0 <= start - before <= MAX_GAP:
        damaged(f"its member {previous} and its table of contents overlap or leave a hole")


def directory(file: OpenFile) -> tuple[int, int, int]:
    """(count, first byte, byte after the last) of the zip's table of contents, from the record at the end of the file."""
    record = file[max(0, file.size - 22) :]
    if len(record) < 22 or record[:4] != b"PK\x05\x06":
        damaged("it has no zip directory at its end")
    disk, first_disk, here, count, size, start, comment = struct.unpack("<HHHHIIH", record[4:])
    if 0xFFFFFFFF in (size, start) or count == 0xFFFF:
        raise RefusedError(f"it is larger than 4 GiB, and these weights take less than one. {SAVE_AGAIN}")
    end = file.size - 22
    if end >= 20 and file[end - 20 : end - 16] == b"PK\x06\x07":  # torch.save always writes the 64-bit record too
        locator, end = struct.unpack("<IQI", file[end - 16 : end]), end - 20 - 56
        large = file[max(0, end) : end + 56]
        if locator != (0, end, 1) or large[:12] != b"PK\x06\x06" + struct.pack("<Q", 44):
            damaged("its 64-bit zip directory is broken")
        if struct.unpack("<IIQQQQ", large[16:]) != (disk, first_disk, here, count, size, start):
            damaged("its two zip directories differ")
    if disk or first_disk or here != count or comment or start + size != end:
        damaged("its zip directory does not fit the file")
    if count > MAX_MEMBERS:
        raise RefusedError(f"it has {count} members; more than {MAX_MEMBERS} are not read. {SAVE_AGAIN}")
    return count, start, end


def split_name(raw: bytes) -> tuple[str, str]:
    """'archive/data/0' → ('archive', 'data/0'). Names are only ever looked up, never used as paths; odd ones are refused all the same."""
    try:
        name = raw.decode("utf-8")
    except UnicodeDecodeError:
        damaged(f"it has a member with the name {raw[:40]!r}")
    folder, slash, rest = name.partition("/")
    parts = name.split("/")
    if not slash or len(parts) > 3 or not name.isprintable() or "\\" in name or any(p in ("", ".", "..") for p in parts):
        damaged(f"it has a member with the name {name[:80]!r}")
    return folder, rest


def data_offset(file: OpenFile, entry: Entry) -> int:
    """Where a member's data begins. What its own header says must agree with the table of contents."""
    local = file[entry.header : entry.header + 30]
    if len(local) < 30 or local[:4] != b"PK\x03\x04":
        damaged(f"its member {entry.name} is not where the table of contents says")
    flags, method, _, _, crc, packed, size, name_length, extra_length = struct.unpack("<HHHHIIIHH", local[6:])
    later = entry.flags & 8 and (crc, packed, size) == (0, 0, 0)
    if flags != entry.flags or method or not (later or (crc, packed, size) == (entry.crc, entry.size, entry.size)):
        damaged(f"its member {entry.name} and the table of contents disagree")
    if file[entry.header + 30 : entry.header + 30 + name_length] != entry.raw:
        damaged(f"its member {entry.name} has another name in the table of contents")
    offset = entry.header + 30 + name_length + extra_length
    if offset + entry.size > file.size:
        damaged(f"its member {entry.name} claims {entry.size} bytes and the file ends before")
    return int(offset)


def verify(file: OpenFile, members: dict[str, Member]) -> None:
    """Reads members through and compares checksums. Zero is what PyTorch writes when it is told to leave them out."""
    for name, m in members.items():
        crc = 0
        for at in range(m.offset, m.offset + m.size, 4 << 20):
            piece = file[at : min(at + (4 << 20), m.offset + m.size)]
            crc = zlib.crc32(piece, crc)
        if m.crc and crc != m.crc:
            raise WeightError(f"{file.path} is damaged: the checksum of its member {name} is wrong. Copy or download it again.")
