"""The reader of `torch.save` files: right on what PyTorch writes, and on all else an error, no code run and no memory taken.

The files in data/ were written by PyTorch 2.13 with `python tests/test_weights_torch_save.py`, so that no test needs PyTorch.
"""

from __future__ import annotations

import io
import random
import struct
import tracemalloc
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch_files import MEMORY, canary, patched, read_bytes, refused, torch_file, zipped  # noqa: F401 (a fixture)

from moebius.errors import WeightError
from moebius.weights.formats import torch_save

DATA = Path(__file__).parent / "data"
X = np.arange(24, dtype=np.float32).reshape(2, 3, 4) / 8 - 1  # exact in every floating type

EXPECTED: dict[str, dict[str, np.ndarray]] = {
    "module": {
        "weight": X.reshape(24)[:6],
        "bias": X.reshape(24)[6:12],
        "running_mean": X.reshape(24)[12:18],
        "running_var": X.reshape(24)[18:],
        "num_batches_tracked": np.array(7),
    },
    "types": {
        "f64": X.astype(np.float64) / 3,
        "f32": X / 3,
        "f16": X.astype(np.float16),
        "bf16": X,
        "i64": np.array([[-1, 1 << 62]]),
        "i32": np.array([-7, 8], np.int32),
        "i16": np.array([-7, 8], np.int16),
        "i8": np.array([-7, 8], np.int8),
        "u8": np.array([7, 200], np.uint8),
        "bool": np.array([True, False, True]),
        "scalar": np.array(0.5, np.float32),
        "empty": np.zeros((0, 3), np.float32),
        "special": np.array([np.nan, np.inf, -np.inf, -0.0], np.float32),
    },
    "views": {
        "whole": X,
        "row": X[1],
        "last": X[1, 2, 3:],
        "transposed": X.transpose(2, 0, 1),
        "every_other": X[:, ::2, ::3],
        "bf16_transposed": X[0].T,
        "tied": X,
        "parameter": X[0],
        "channels_last": X.reshape(1, 2, 3, 4),
        "one": X[:1, :, :1],
    },
    "nested": {"a.weight": X, "a.bias": X[0, 0]},
}
IGNORED = {"nested": {"optimizer", "lr_scheduler", "global_step", "epoch", "name", "ema", "history"}}


def saved(torch: Any, name: str) -> Any:
    """What PyTorch is given to save."""
    x = torch.from_numpy(X.copy())
    if name == "module":
        norm = torch.nn.BatchNorm1d(6)
        state = {k: torch.from_numpy(np.array(v)) for k, v in EXPECTED["module"].items()}
        norm.load_state_dict(state)
        return norm.state_dict()  # an OrderedDict with _metadata
    if name == "types":
        types = {"bf16": torch.bfloat16}
        return {k: torch.from_numpy(np.array(v)).to(types.get(k) or torch.from_numpy(np.array(v)).dtype) for k, v in EXPECTED[name].items()}
    if name == "views":
        return {
            "whole": x,
            "row": x[1],
            "last": x[1, 2, 3:],
            "transposed": x.permute(2, 0, 1),
            "every_other": x[:, ::2, ::3],
            "bf16_transposed": x[0].bfloat16().t(),
            "tied": x,
            "parameter": torch.nn.Parameter(x[0].clone()),
            "channels_last": x.reshape(1, 2, 3, 4).contiguous(memory_format=torch.channels_last),
            "one": x[:1, :, :1],
        }
    weights = torch.nn.Linear(4, 3)
    optimizer = torch.optim.AdamW(weights.parameters(), betas=(0.9, 0.999))
    weights(x).sum().backward()
    optimizer.step()
    return {
        "optimizer": optimizer.state_dict(),
        "lr_scheduler": torch.optim.lr_scheduler.StepLR(optimizer, 10).state_dict(),
        "global_step": 1 << 40,
        "epoch": 3.5,
        "name": "mœbius",
        "history": [0.5, None, True, (1, -2)],
        "ema": {"a.weight": x},
        "state_dict": {"a.weight": x, "a.bias": x[0, 0]},
    }


def same(a: np.ndarray, b: np.ndarray) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and np.array_equal(a, b, equal_nan=a.dtype.kind == "f")


# What PyTorch writes -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", EXPECTED)
def test_committed_file(name: str) -> None:
    tensors = torch_save.read(DATA / f"{name}.bin")
    tensors.verify()
    assert tensors.keys() == EXPECTED[name].keys()
    wrong = [key for key, want in EXPECTED[name].items() if not same(tensors[key], want)]
    assert not wrong
    assert all(tensors.info[key].shape == want.shape for key, want in EXPECTED[name].items())
    assert set(tensors.ignored) == IGNORED.get(name, set())


@pytest.mark.parametrize("name", EXPECTED)
@pytest.mark.parametrize("checksums", [True, False])
def test_file_of_the_torch_that_is_here(name: str, checksums: bool, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(checksums)
    try:
        torch.save(saved(torch, name), tmp_path / "some name.v2.bin")
    finally:
        torch.serialization.set_crc32_options(before)
    tensors = torch_save.read(tmp_path / "some name.v2.bin")
    tensors.verify()
    assert {key: same(tensors[key], want) for key, want in EXPECTED[name].items()} == dict.fromkeys(EXPECTED[name], True)


def test_float32_is_not_copied_again() -> None:
    tensors = torch_save.read(DATA / "views.bin")
    for name in ("whole", "row", "transposed", "every_other"):
        assert not tensors[name].flags.owndata
        assert not tensors[name].flags.writeable
    assert np.array_equal(tensors["whole"], tensors["tied"])


@pytest.mark.parametrize("protocol", [1, 3, 4, 5])
def test_other_pickle_protocols_say_how_to_convert(protocol: int, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    torch.save({"a": torch.zeros(3)}, tmp_path / "a.bin", pickle_protocol=protocol)
    with pytest.raises(WeightError, match=r"torch\.save"):
        torch_save.read(tmp_path / "a.bin")


NO_WEIGHTS = {
    "complex": "{'a': torch.zeros(2, dtype=torch.complex64)}",
    "conjugate": "{'a': torch.zeros(2, dtype=torch.complex64).conj()}",
    "float8": "{'a': torch.zeros(2, dtype=torch.float8_e4m3fn)}",
    "sparse": "{'a': torch.zeros(2).to_sparse()}",
    "module": "torch.nn.Linear(2, 2)",
    "tensor": "torch.zeros(2)",
    "list": "[torch.zeros(2)]",
}


@pytest.mark.parametrize("value", NO_WEIGHTS.values(), ids=NO_WEIGHTS)
def test_what_no_weights_are_is_named(value: str, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    torch.save(eval(value, {"torch": torch}), tmp_path / "a.bin")
    with pytest.raises(WeightError) as caught:
        torch_save.read(tmp_path / "a.bin")
    assert "a.bin cannot be used: it" in str(caught.value)


def test_our_own_writer_of_test_files(tmp_path: Path) -> None:
    arrays = {"x": X, "n": np.array(3), "s": X[0, 0, :1].reshape(())}
    for kind in ("F32", "BF16", "F64", "F16"):
        tensors = read_bytes(torch_file(arrays, kind, "state_dict"), tmp_path)
        assert tensors.ignored == ("global_step",)
        assert all(np.array_equal(tensors[k], v) for k, v in arrays.items())


# Other files ---------------------------------------------------------------------------------------------------------

OTHER_FILES = {
    "nothing": (b"", "is empty"),
    "a web page": (b"\n<!DOCTYPE html><html>", "web page"),
    "a pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
    "safetensors": (struct.pack("<Q", 2) + b"{}", ".safetensors"),
    "a tar": (bytes(257) + b"ustar\x0000" + bytes(300), "weights_only=True"),
    "a bare pickle": (b"\x80\x04N.", "weights_only=True"),
    "text": (b"hello, world", "68 65 6c 6c"),
    "zeros": (bytes(4096), "no file that torch.save"),
}


@pytest.mark.parametrize("name", OTHER_FILES)
def test_other_files_are_recognised(name: str, tmp_path: Path) -> None:
    data, says = OTHER_FILES[name]
    assert says in refused(data, tmp_path)


def test_the_old_format_says_how_to_convert() -> None:
    with pytest.raises(WeightError, match=r"before version 1\.6.*torch\.save\(torch\.load"):
        torch_save.read(DATA / "legacy.bin")


def test_a_folder_and_a_missing_file(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "missing.bin"):
        with pytest.raises(WeightError, match="cannot be read"):
            torch_save.read(path)


# Damage --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", EXPECTED)
def test_cut_short_at_every_64th_byte(name: str, tmp_path: Path) -> None:
    data = (DATA / f"{name}.bin").read_bytes()
    for length in range(0, len(data), 64):
        refused(data[:length], tmp_path)
    refused(data[:-1], tmp_path)


def outcome(data: bytes, folder: Path) -> dict[str, np.ndarray] | None:
    """What a file gives, every array of it looked at, or None for our error. Any other error is raised."""
    try:
        tensors = read_bytes(data, folder)
        tensors.verify()
        return {name: np.array(array) for name, array in tensors.items()}
    except WeightError:
        return None


def test_a_flipped_bit_is_seen_or_harmless(tmp_path: Path) -> None:
    data, choice = (DATA / "types.bin").read_bytes(), random.Random(0)
    seen = 0
    for at in range(len(data)):
        flipped = outcome(patched(data, at, bytes([data[at] ^ 1 << choice.randrange(8)])), tmp_path)
        seen += flipped is None
        assert flipped is None or all(same(flipped[k], want) for k, want in EXPECTED["types"].items()), at
    assert seen > len(data) / 3  # most of the rest is padding


def mutated(data: bytes, choice: random.Random) -> bytes:
    """A few edits of the kind that make parsers fall over. Half of the time they go into the pickle, under a checksum that fits."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = [(info.filename, archive.read(info)) for info in archive.infolist()]
    inside = choice.random() < 0.5
    out = bytearray(members[0][1] if inside else data)
    for _ in range(choice.randint(1, 4)):
        at, n = choice.randrange(len(out)), choice.choice([1, 1, 1, 2, 4, 8, 40])
        match choice.randrange(6):
            case 0:
                out[at : at + n] = choice.randbytes(n)
            case 1:
                out[at : at + n] = b""
            case 2:
                out[at:at] = choice.randbytes(n)
            case 3:
                start = choice.randrange(len(out))
                out[at:at] = out[start : start + 4 * n]
            case 4:
                out[at : at + n] = choice.choice([b"\xff", b"\x00", b"\x7f", b"\x80"]) * n
            case 5:
                out[at : at + 1] = choice.choice([b"(", b"t", b"R", b"b", b"Q", b"u", b".", b"h\x00", b"\x85", b"c", b"\x8a\x08"])
        if not out:
            return b""
    return zipped([(members[0][0], bytes(out)), *members[1:]]) if inside else bytes(out)


def fuzz(rounds: int, folder: Path) -> None:
    sources = [(DATA / f"{name}.bin").read_bytes() for name in EXPECTED]
    tracemalloc.start()
    read = 0
    try:
        for seed in range(rounds):
            choice = random.Random(seed)
            data = mutated(choice.choice(sources), choice)
            try:
                read += outcome(data, folder) is not None
            except Exception as error:
                raise AssertionError(f"seed {seed}: {error!r}") from error
        assert tracemalloc.get_traced_memory()[1] < MEMORY
    finally:
        tracemalloc.stop()
    assert 0 < read < rounds / 2


def test_mutations(canary: Path, tmp_path: Path) -> None:  # noqa: F811
    fuzz(500, tmp_path)


@pytest.mark.slow
def test_many_mutations(canary: Path, tmp_path: Path) -> None:  # noqa: F811
    fuzz(10_000, tmp_path)


def test_damage_in_a_storage_is_found_by_its_checksum(tmp_path: Path) -> None:
    data = bytearray((DATA / "module.bin").read_bytes())
    tensors = torch_save.read(DATA / "module.bin")
    data[tensors.info["weight"].offset] ^= 1
    assert zlib.crc32(data) != zlib.crc32((DATA / "module.bin").read_bytes())
    with pytest.raises(WeightError, match=r"checksum of its member data/0 is wrong"):
        read_bytes(bytes(data), tmp_path).verify()


if __name__ == "__main__":
    import torch

    for name in EXPECTED:
        torch.manual_seed(0)
        torch.save(saved(torch, name), DATA / f"{name}.bin")
    torch.save({"a": torch.zeros(3)}, DATA / "legacy.bin", _use_new_zipfile_serialization=False)
