"""Files as torch.save writes them, made by hand and without PyTorch; and what a reader of hostile ones may not do."""

from __future__ import annotations

import io
import struct
import sys
import tracemalloc
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from moebius.errors import WeightError
from moebius.weights.formats import torch_save
from moebius.weights.formats.pickle import STORAGES
from moebius.weights.formats.tensors import FileTensors

MEMORY = 200 << 20  # bytes that a refusal may take

STORAGE_NAMES = {name: kind.removeprefix("torch.") for kind, name in STORAGES.items()}
DTYPES = {"F64": np.float64, "F32": np.float32, "F16": np.float16, "I64": np.int64}


def text(s: str) -> bytes:
    return b"X" + struct.pack("<I", len(s.encode())) + s.encode()


def integer(n: int) -> bytes:
    return b"J" + struct.pack("<i", n) if abs(n) < 1 << 31 else b"\x8a\x08" + struct.pack("<q", n)


def name_of(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


def persistent(key: str, numel: int, kind: str = "FloatStorage") -> bytes:
    return b"(" + text("storage") + name_of("torch", kind) + text(key) + text("cpu") + integer(numel) + b"tQ"


def tensor(storage: bytes, shape: tuple[int, ...], strides: tuple[int, ...] | None = None, offset: int = 0) -> bytes:
    strides = tuple(int(np.prod(shape[i + 1 :], dtype=object)) for i in range(len(shape))) if strides is None else strides
    sizes = b"(" + b"".join(map(integer, shape)) + b"t(" + b"".join(map(integer, strides)) + b"t"
    ordered = name_of("collections", "OrderedDict") + b")R"
    return name_of("torch._utils", "_rebuild_tensor_v2") + b"(" + storage + integer(offset) + sizes + b"\x89" + ordered + b"tR"


def pickled(value: bytes, key: bytes = text("a")) -> bytes:
    """{key: value}"""
    return b"\x80\x02}" + key + value + b"s."


def zipped(members: list[tuple[str, bytes]], **changes: Any) -> bytes:
    """A plain zip; `changes` are set on every member's ZipInfo."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, data in members:
            info = zipfile.ZipInfo(name)
            for attribute, value in changes.items():
                setattr(info, attribute, value)
            archive.writestr(info, data)
    return out.getvalue()


def torch_file(arrays: dict[str, np.ndarray], kind: str = "F32", wrap: str | None = None) -> bytes:
    """A file as torch.save writes it, without PyTorch. bfloat16 is cut off, not rounded."""
    members, body = [], b"}("
    for i, (name, array) in enumerate(arrays.items()):
        stored = "I64" if array.dtype.kind == "i" else kind
        wide = np.asarray(array, np.float32) if stored == "BF16" else np.asarray(array, DTYPES[stored])
        data = (wide.view(np.uint32) >> 16).astype(np.uint16) if stored == "BF16" else wide
        members.append((f"archive/data/{i}", data.tobytes()))
        body += text(name) + tensor(persistent(str(i), array.size, STORAGE_NAMES[stored]), array.shape)
    body += b"u"
    if wrap:
        body = b"}" + text(wrap) + body + b"s" + text("global_step") + integer(5) + b"s"
    return zipped([("archive/data.pkl", b"\x80\x02" + body + b"."), ("archive/byteorder", b"little"), *members])


def with_pickle(pickle_bytes: bytes, storage: bytes = bytes(96)) -> bytes:
    return zipped([("archive/data.pkl", pickle_bytes), ("archive/data/0", storage)])


GOOD = pickled(tensor(persistent("0", 24), (4, 6)))
MEMBERS = [("archive/data.pkl", GOOD), ("archive/data/0", bytes(96))]


def patched(data: bytes, at: int, new: bytes) -> bytes:
    return data[:at] + new + data[at + len(new) :]


def read_bytes(data: bytes, folder: Path) -> FileTensors:
    path = folder / "model.bin"
    path.write_bytes(data)
    return torch_save.read(path)


@pytest.fixture
def canary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A file that any of the programs below would write; and a module that writes it when it is imported."""
    path = tmp_path / "canary"
    (tmp_path / "canary_module.py").write_text(f"open({str(path)!r}, 'w')\ndef call(*a): open({str(path)!r}, 'w')\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield path
    assert not path.exists(), "code of a checkpoint was run"
    assert "canary_module" not in sys.modules, "a module that a checkpoint names was imported"


def refused(data: bytes, folder: Path) -> str:
    """The error that a file gives. It takes no memory to speak of, and it is ours."""
    tracemalloc.start()
    try:
        with pytest.raises(WeightError) as caught:
            read_bytes(data, folder)
        assert tracemalloc.get_traced_memory()[1] < MEMORY
    finally:
        tracemalloc.stop()
    message = str(caught.value)
    assert str(folder / "model.bin") in message
    assert message.endswith(".")
    assert len(message) < 700
    return message
