"""The reader and writer of .safetensors: with the published library both ways, and against files that nobody should write."""

from __future__ import annotations

import errno
import json
import os
import random
import struct
import tracemalloc
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from moebius.errors import WeightError
from moebius.weights.formats import safetensors
from moebius.weights.formats.tensors import RESIDENT, is_finite

ARRAYS = {
    "f64": np.linspace(0, 1, 7),
    "f32": np.arange(24, dtype=np.float32).reshape(2, 3, 4),
    "f16": np.array([[1, -2, 65504]], np.float16),
    "i64": np.array(-(1 << 62)),
    "i32": np.array([1, -2], np.int32),
    "i16": np.array([1, -2], np.int16),
    "i8": np.array([1, -2, 3], np.int8),
    "u64": np.array([1 << 63], np.uint64),
    "u32": np.array([1 << 31], np.uint32),
    "u16": np.array([1, 2], np.uint16),
    "u8": np.array([1, 200], np.uint8),
    "bool": np.array([True, False, True]),
    "empty": np.zeros((0, 5), np.float32),
    "ünïcode": np.ones(3, np.float32),
}


def same(a: np.ndarray, b: np.ndarray) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and np.array_equal(a, b)


def test_what_we_write_the_library_reads(tmp_path: Path) -> None:
    safetensors.write(tmp_path / "a.safetensors", ARRAYS, {"config": '{"heads": 8}'})
    theirs = load_file(tmp_path / "a.safetensors")
    assert theirs.keys() == ARRAYS.keys()
    assert all(same(theirs[k], ARRAYS[k]) for k in ARRAYS)
    with safe_open(tmp_path / "a.safetensors", "np") as file:
        assert file.metadata() == {"config": '{"heads": 8}'}


def test_what_the_library_writes_we_read(tmp_path: Path) -> None:
    save_file(ARRAYS, tmp_path / "a.safetensors", {"a": "b"})
    ours = safetensors.read(tmp_path / "a.safetensors")
    assert ours.keys() == ARRAYS.keys()
    assert all(same(ours[k], ARRAYS[k]) for k in ARRAYS)
    assert ours.metadata == {"a": "b"}


def test_bfloat16_is_decoded(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from safetensors.torch import save_file as save_torch_file

    x = torch.tensor([[1.5, -0.0, 3e38], [float("nan"), float("inf"), 1e-40]]).bfloat16()
    save_torch_file({"x": x}, tmp_path / "a.safetensors")
    ours = safetensors.read(tmp_path / "a.safetensors")
    assert ours.info["x"].dtype == "BF16"
    assert np.array_equal(ours["x"].view(np.uint32), x.float().numpy().view(np.uint32))


def test_tensors_are_aligned_read_only_views(tmp_path: Path) -> None:
    safetensors.write(tmp_path / "a.safetensors", ARRAYS)
    ours = safetensors.read(tmp_path / "a.safetensors")
    for array in ours.values():
        assert array.flags.aligned
        assert not array.size or not (array.flags.owndata or array.flags.writeable)


def test_an_odd_offset_is_read_too(tmp_path: Path) -> None:
    header = {"a": entry("U8", [1], 0, 1), "x": entry("F32", [2], 1, 9)}
    path = written(tmp_path, header, b"\x07" + np.array([1.5, -2], np.float32).tobytes())
    assert np.array_equal(safetensors.read(path)["x"], [1.5, -2])


def test_arrays_are_asked_for_one_at_a_time(tmp_path: Path) -> None:
    class Many(Mapping[str, np.ndarray]):
        def __getitem__(self, name: str) -> np.ndarray:
            return np.full((1 << 18,), float(name), np.float32)

        def __iter__(self) -> Iterator[str]:
            return map(str, range(100))

        def __len__(self) -> int:
            return 100

    like = {name: (np.dtype(np.float32), (1 << 18,)) for name in Many()}
    tracemalloc.start()
    try:
        safetensors.write(tmp_path / "a.safetensors", Many(), like=like)
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()
    ours = safetensors.read(tmp_path / "a.safetensors")
    assert [float(array[-1]) for array in map(ours.__getitem__, like)] == list(range(100))


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="there is no /proc to ask for the memory")
def test_a_pass_over_a_file_does_not_hold_all_of_it(tmp_path: Path) -> None:
    def mapped() -> int:
        return next(int(line.split()[1]) << 10 for line in open("/proc/self/status") if line.startswith("RssFile"))

    piece = 8 << 20
    arrays = {str(i): np.full(piece // 4, i, np.float32) for i in range(4 * RESIDENT // piece)}
    safetensors.write(tmp_path / "a.safetensors", arrays)
    ours, before, most = safetensors.read(tmp_path / "a.safetensors", mapped=True), mapped(), 0
    first = ours["0"]
    for name in arrays:
        assert float(ours[name].sum(dtype=np.float64)) == int(name) * piece / 4
        most = max(most, mapped() - before)
    assert most <= RESIDENT + 2 * piece
    assert not first.any()  # a view stays good when its pages were given back
    assert float(ours["9"].max()) == 9


@pytest.mark.parametrize("fail_at", ["write", "fsync", "replace"])
def test_a_failed_write_leaves_what_was_there(fail_at: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.safetensors"
    safetensors.write(path, {"x": np.ones(3, np.float32)})

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    class Breaks(dict[str, np.ndarray]):
        def __getitem__(self, name: str) -> np.ndarray:
            full()
            raise AssertionError

    if fail_at == "fsync":
        monkeypatch.setattr(os, "fsync", full)
    if fail_at == "replace":
        monkeypatch.setattr(os, "replace", full)
    new = {"x": np.zeros(3, np.float32)}
    like = {"x": (np.dtype(np.float32), (3,))}
    with pytest.raises(OSError, match="No space"):
        safetensors.write(path, Breaks(new) if fail_at == "write" else new, like=like)
    monkeypatch.undo()
    assert [p.name for p in tmp_path.iterdir()] == ["a.safetensors"]
    assert np.array_equal(safetensors.read(path)["x"], np.ones(3))


def test_the_old_file_can_be_read_while_a_new_one_takes_its_place(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    safetensors.write(path, {"x": np.ones(3, np.float32)})
    old = safetensors.read(path)
    safetensors.write(path, {"x": np.zeros(3, np.float32)})
    assert np.array_equal(old["x"], np.ones(3))
    assert np.array_equal(safetensors.read(path)["x"], np.zeros(3))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_is_finite_sees_every_value(bad: float) -> None:
    for dtype in (np.float16, np.float32, np.float64):
        x = np.full((5, 7), 100, dtype)
        assert is_finite(x)
        x[3, 2] = bad
        assert not is_finite(x)
        assert not is_finite(x.T)
    assert is_finite(np.full(100, 3e38, np.float32))  # its squares overflow
    assert is_finite(np.zeros((0, 3), np.float32))
    assert is_finite(np.array([1, 2]))


# Hostile files -------------------------------------------------------------------------------------------------------


def entry(dtype: Any, shape: Any, begin: Any, end: Any) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def file_bytes(header: Any, data: bytes = bytes(16)) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def written(folder: Path, header: Any, data: bytes = bytes(16)) -> Path:
    path = folder / "model.safetensors"
    path.write_bytes(file_bytes(header, data))
    return path


F4 = entry("F32", [4], 0, 16)
HOSTILE = {
    "seven bytes": b"\x01" * 7,
    "a header longer than the file": struct.pack("<Q", 100) + b"{}",
    "a header of 2⁶³ bytes": struct.pack("<Q", 1 << 63) + b"{}",
    "a header beyond the limit": file_bytes(b'{"a":' + b" " * (5 << 20) + b"{}}", b""),
    "no JSON": file_bytes(b"{'a': 1}"),
    "no UTF-8": file_bytes(b'{"\xff": 1}'),
    "a list": file_bytes([]),
    "a null": file_bytes(None),
    "a million brackets": file_bytes(b"[" * 1_000_000),
    "half a million empty lists": file_bytes(b"[" + b"[]," * 500_000 + b"[]]"),
    "an endless number": file_bytes(b'{"a":{"dtype":"F32","shape":[' + b"9" * 100_000 + b'],"data_offsets":[0,16]}}'),
    "one name twice": file_bytes(b'{"a":%s,"a":%s}' % ((json.dumps(F4).encode(),) * 2)),
    "metadata that is a list": file_bytes({"__metadata__": [], "a": F4}),
    "metadata that is a number": file_bytes({"__metadata__": {"a": 1}, "a": F4}),
    "an entry that is a list": file_bytes({"a": [1]}),
    "an entry with more": file_bytes({"a": {**F4, "strides": [1]}}),
    "an entry with less": file_bytes({"a": {"dtype": "F32", "shape": [4]}}),
    "an unknown type": file_bytes({"a": entry("F4", [32], 0, 16)}),
    "a type that is a list": file_bytes({"a": entry(["F32"], [4], 0, 16)}),
    "a float as a size": file_bytes({"a": entry("F32", [4.0], 0, 16)}),
    "true as a size": file_bytes({"a": entry("U8", [16, True], 0, 16)}),
    "a negative size": file_bytes({"a": entry("F32", [-4], 0, 16)}),
    "two negative sizes": file_bytes({"a": entry("F32", [-2, -2], 0, 16)}),
    "sizes that wrap round": file_bytes({"a": entry("F32", [1 << 40, 1 << 40, 4], 0, 16)}),
    "nine dimensions": file_bytes({"a": entry("F32", [1] * 8 + [4], 0, 16)}),
    "a shape that is a number": file_bytes({"a": entry("F32", 4, 0, 16)}),
    "fewer bytes than the shape": file_bytes({"a": entry("F32", [5], 0, 16)}),
    "more bytes than the shape": file_bytes({"a": entry("F32", [3], 0, 16)}),
    "10¹² elements": file_bytes({"a": entry("F32", [10**12], 0, 4 * 10**12)}),
    "offsets the wrong way": file_bytes({"a": entry("F32", [4], 16, 0)}),
    "negative offsets": file_bytes({"a": entry("F32", [4], -16, 0)}),
    "three offsets": file_bytes({"a": {**F4, "data_offsets": [0, 16, 16]}}),
    "an overlap": file_bytes({"a": F4, "b": entry("F32", [2], 8, 16)}),
    "the same bytes twice": file_bytes({"a": F4, "b": F4}),
    "a hole": file_bytes({"a": entry("F32", [1], 0, 4), "b": entry("F32", [2], 8, 16)}),
    "a hole before": file_bytes({"a": entry("F32", [2], 8, 16)}),
    "bytes after": file_bytes({"a": F4}, bytes(17)),
    "bytes missing": file_bytes({"a": F4}, bytes(15)),
    "bytes of nobody": file_bytes({}),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_are_refused(name: str, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(HOSTILE[name])
    tracemalloc.start()
    try:
        with pytest.raises(WeightError, match=r"model\.safetensors is not a sound") as caught:
            safetensors.read(path)
        assert tracemalloc.get_traced_memory()[1] < 200 << 20
    finally:
        tracemalloc.stop()
    assert len(str(caught.value)) < 600


def test_odd_names_are_only_names(tmp_path: Path) -> None:
    path = written(tmp_path, {"../../x": F4})
    assert list(safetensors.read(path)) == ["../../x"]


def test_empty_missing_and_folder(tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").touch()
    with pytest.raises(WeightError, match="is empty"):
        safetensors.read(tmp_path / "a.safetensors")
    for path in (tmp_path, tmp_path / "b.safetensors"):
        with pytest.raises(WeightError, match="cannot be read"):
            safetensors.read(path)


def test_cut_short_and_mutated(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    safetensors.write(path, ARRAYS, {"a": "b"})
    whole = path.read_bytes()
    for length in range(0, len(whole), 64):
        path.write_bytes(whole[:length])
        with pytest.raises(WeightError):
            safetensors.read(path)
    for seed in range(500):
        choice, data = random.Random(seed), bytearray(whole)
        for _ in range(choice.randint(1, 4)):
            at, n = choice.randrange(len(data)), choice.choice([1, 1, 2, 8])
            data[at : at + n] = choice.choice([choice.randbytes(n), b"", b"9" * n, data[at : at + n] * 2])
        path.write_bytes(data)
        try:
            for array in safetensors.read(path).values():
                np.array(array)
        except WeightError:
            pass
