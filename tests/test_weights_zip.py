"""The reader of `torch.save` files: right on what PyTorch writes, and on all else an error, no code run and no memory taken.

The files in data/ were written by PyTorch 2.13 with `python tests/test_weights_zip.py`, so that no test needs PyTorch.
"""

from __future__ import annotations

import io
import os
import pickle
import random
import struct
import subprocess
import sys
import tracemalloc
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from moebius.errors import WeightError
from moebius.weights.formats import zip as torch_zip
from moebius.weights.formats.mapped import MappedTensors

DATA = Path(__file__).parent / "data"
MEMORY = 200 << 20
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
    tensors = torch_zip.read(DATA / f"{name}.bin")
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
    tensors = torch_zip.read(tmp_path / "some name.v2.bin")
    tensors.verify()
    assert {key: same(tensors[key], want) for key, want in EXPECTED[name].items()} == dict.fromkeys(EXPECTED[name], True)


def test_float32_is_a_view_of_the_file() -> None:
    tensors = torch_zip.read(DATA / "views.bin")
    for name in ("whole", "row", "transposed", "every_other"):
        assert not tensors[name].flags.owndata
        assert not tensors[name].flags.writeable
    assert np.shares_memory(tensors["whole"], tensors["row"])
    assert np.shares_memory(tensors["whole"], tensors["tied"])


@pytest.mark.parametrize("protocol", [1, 3, 4, 5])
def test_other_pickle_protocols_say_how_to_convert(protocol: int, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    torch.save({"a": torch.zeros(3)}, tmp_path / "a.bin", pickle_protocol=protocol)
    with pytest.raises(WeightError, match=r"torch\.save"):
        torch_zip.read(tmp_path / "a.bin")


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
        torch_zip.read(tmp_path / "a.bin")
    assert "a.bin cannot be used: it" in str(caught.value)


# What others write ---------------------------------------------------------------------------------------------------

STORAGE_NAMES = {name: kind.removeprefix("torch.") for kind, name in torch_zip.STORAGES.items()}
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


def test_our_own_writer_of_test_files(tmp_path: Path) -> None:
    arrays = {"x": X, "n": np.array(3), "s": X[0, 0, :1].reshape(())}
    for kind in ("F32", "BF16", "F64", "F16"):
        tensors = read_bytes(torch_file(arrays, kind, "state_dict"), tmp_path)
        assert tensors.ignored == ("global_step",)
        assert all(np.array_equal(tensors[k], v) for k, v in arrays.items())


def read_bytes(data: bytes, folder: Path) -> MappedTensors:
    path = folder / "model.bin"
    path.write_bytes(data)
    return torch_zip.read(path)


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


class Calls:
    """Pickles as a call of something."""

    def __init__(self, function: Any, *args: Any) -> None:
        self.call = function, args

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return self.call


def programs(canary: Path) -> dict[str, tuple[bytes, str]]:
    """Pickles that do something, by what the error must name."""
    order = f"touch {canary}"
    code = f"open({str(canary)!r}, 'w')"
    dumped = {
        "os.system": (Calls(os.system, order), f"{os.name}.system"),
        "eval": (Calls(eval, code), "builtins.eval"),
        "exec": (Calls(exec, code), "builtins.exec"),
        "open": (Calls(open, str(canary), "w"), "io.open"),
        "subprocess": (Calls(subprocess.run, order, -1), "subprocess.run"),
        "getattr": (Calls(getattr, "", "join"), "builtins.getattr"),
    }
    out = {name: (pickled(pickle.dumps(what, 2, fix_imports=False)[2:-1]), named) for name, (what, named) in dumped.items()}

    def call(module: str, name: str, argument: bytes = text(str(canary))) -> bytes:
        return pickled(name_of(module, name) + b"(" + argument + b"tR")

    for module, name in (
        ("canary_module", "call"),
        ("os", "system"),
        ("torch", "load"),
        ("torch._utils", "_rebuild_tensor"),
        ("torch._utils", "_rebuild_tensor_v3"),
        ("torch._utils", "_rebuild_device_tensor_from_numpy"),
        ("torch._utils", "_rebuild_parameter_with_state"),
        ("torch.storage", "_load_from_bytes"),
        ("torch.jit", "load"),
        ("numpy.core.multiarray", "_reconstruct"),
        ("collections", "OrderedDict.update"),
        ("collections", "defaultdict"),
        ("collections.OrderedDict", "__class__"),
        ("", ""),
        ("moebius", "cli"),
    ):
        out[f"{module}.{name}"] = call(module, name), f"asks for {module}.{name}"
    target = name_of("canary_module", "call")[1:]
    out["INST"] = b"\x80\x02(" + text("x") + b"i" + target + b".", "opcode b'i'"
    out["OBJ"] = b"\x80\x02(" + name_of("canary_module", "call") + text("x") + b"o.", "canary_module.call"
    out["NEWOBJ"] = b"\x80\x02" + name_of("collections", "OrderedDict") + b")\x81.", "opcode b'\\x81'"
    out["NEWOBJ_EX"] = b"\x80\x02" + name_of("collections", "OrderedDict") + b")}\x92.", "opcode b'\\x92'"
    out["STACK_GLOBAL"] = b"\x80\x02" + text("canary_module") + text("call") + b"\x93.", "opcode b'\\x93'"
    out["EXT1"] = b"\x80\x02\x82\x01.", "opcode b'\\x82'"
    out["PERSID"] = b"\x80\x02P0\n.", "opcode b'P'"
    out["BUILD a list"] = b"\x80\x02]}b.", "no list or dictionary"
    out["BUILD a dict"] = b"\x80\x02}}" + text("__class__") + name_of("collections", "OrderedDict") + b"sb.", "no list or dictionary"
    out["BUILD with a tuple"] = b"\x80\x02" + name_of("collections", "OrderedDict") + b")R)b.", "attributes of a dictionary to a tuple"
    out["call a string"] = b"\x80\x02" + text("os.system") + b")R.", "calls a str, which is no function"
    out["call a call"] = b"\x80\x02" + name_of("collections", "OrderedDict") + b")R)R.", "calls a Ordered"
    out["call a storage type"] = b"\x80\x02" + name_of("torch", "FloatStorage") + b")R.", "calls torch.FloatStorage"
    out["arguments that are a list"] = b"\x80\x02" + name_of("torch", "Size") + b"]R.", "calls torch.Size in a way"
    out["Size of names"] = b"\x80\x02" + name_of("torch", "Size") + b"((" + name_of("torch", "Size") + b"ttR.", "calls torch.Size"
    return out


def test_programs_do_not_run(canary: Path, tmp_path: Path) -> None:
    for name, (data, named) in programs(canary).items():
        for whole in (data, data[:-1] + b"0" + data[-1:]):  # the second throws the result away first
            message = refused(with_pickle(whole), tmp_path)
            assert named in message or whole is not data, (name, message)
            assert not canary.exists(), name


def test_programs_would_run() -> None:
    """The canary sings where nobody looks: these pickles are live."""
    assert pickle.loads(pickle.dumps(Calls(eval, "6 * 7"), 2)) == 42


DEEP, PUT = 1_000_000, b"q\x00"
BOMBS = {
    "a million open tuples": b"\x80\x02" + b"(" * DEEP,
    "a million tuples, nested": b"\x80\x02" + b")" + b"\x85" * DEEP + b".",
    "nested tuples as a key": b"\x80\x02})" + b"\x85" * 500_000 + b"Ns.",
    "nested tuples as a shape": pickled(
        name_of("torch._utils", "_rebuild_tensor_v2") + b"(" + persistent("0", 24) + integer(0) + b")" + b"\x85" * 500_000 + b")\x89}tR"
    ),
    "nested tuples as hooks": pickled(
        name_of("torch._utils", "_rebuild_tensor_v2") + b"(" + persistent("0", 24) + integer(0) + b"))\x89)" + b"\x85" * 500_000 + b"tR"
    ),
    "a million lists": b"\x80\x02" + b"]" * DEEP,
    "a million dictionaries": b"\x80\x02" + b"}" * DEEP,
    "a million memos": b"\x80\x02]" + b"".join(b"r" + struct.pack("<I", i) for i in range(600_000)) + b"0.",
    "a list in itself": b"\x80\x02]" + PUT + b"h\x00a.",
    "a dictionary in itself": b"\x80\x02}" + PUT + text("state_dict") + b"h\x00s.",
    "doubled a hundred times": b"\x80\x02]" + (PUT + b"h\x00h\x00\x86") * 100 + b".",
    "a long name": b"\x80\x02c" + b"x" * 1_000_000 + b"\n\n.",
    "a string longer than the file": b"\x80\x02X\xff\xff\xff\xff.",
    "an integer of a kilobyte": b"\x80\x02\x8a\xff" + bytes(255) + b".",
    "an integer of a gigabyte": b"\x80\x02\x8b\xff\xff\xff\x3f.",
    "a pickle beyond the limit": b"\x80\x02" + b"N0" * (5 << 20) + b".",
    "state_dict in state_dict in …": b"\x80\x02" + (b"}" + text("state_dict")) * 20 + b"}" + b"s" * 20 + b".",
}


# Run by a Python of its own, which a broken reader may crash, and whose memory is that of the reader alone.
DEFUSE = """
import sys
from moebius.errors import WeightError
from moebius.weights.formats import zip as torch_zip

def peak():  # getrusage would give that of the parent, if it is larger
    return next(int(line.split()[1]) >> 10 for line in open("/proc/self/status") if line.startswith("VmHWM"))

before = peak()
for path in sys.argv[1:]:
    try:
        torch_zip.read(path)
    except WeightError:
        pass
    else:
        sys.exit(f"{path} was read")
    print(path, peak() - before, "MB")
    if peak() - before > 200:
        sys.exit(f"{path} took {peak() - before} MB")
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="there is no /proc to ask for the memory")
def test_bombs_do_not_go_off(tmp_path: Path) -> None:
    paths = []
    for i, data in enumerate(BOMBS.values()):
        paths.append(tmp_path / f"{i}.bin")
        paths[-1].write_bytes(with_pickle(data))
    done = subprocess.run([sys.executable, "-c", DEFUSE, *map(str, paths)], capture_output=True, text=True)
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr


BIG = 10**12
CLAIMS = {
    "a storage of 10¹² elements": tensor(persistent("0", BIG), (BIG,)),
    "a storage one too large": tensor(persistent("0", 25), (24,)),
    "a storage one too small": tensor(persistent("0", 23), (23,)),
    "a storage of another type": tensor(persistent("0", 24, "DoubleStorage"), (24,)),
    "a storage that is not there": tensor(persistent("1", 24), (24,)),
    "10¹² elements in a storage of 24": tensor(persistent("0", 24), (10**6, 10**6)),
    "10¹² times the same element": tensor(persistent("0", 24), (10**6, 10**6), (0, 0)),
    "one element too many": tensor(persistent("0", 24), (25,)),
    "one row too many": tensor(persistent("0", 24), (3, 8), (9, 1)),
    "an offset of one": tensor(persistent("0", 24), (24,), offset=1),
    "an offset of 2⁶⁰": tensor(persistent("0", 24), (1,), offset=1 << 60),
    "an offset that wraps round": tensor(persistent("0", 24), (4,), offset=(1 << 62) - 1),
    "a stride of 2⁶¹": tensor(persistent("0", 24), (2,), (1 << 61,)),
    "strides that wrap round to zero": tensor(persistent("0", 24), (5, 5, 5), (1 << 61, 1 << 61, 1)),
    "a negative offset": tensor(persistent("0", 24), (1,), offset=-1),
    "a negative stride": tensor(persistent("0", 24), (2,), (-1,), 5),
    "a negative size": tensor(persistent("0", 24), (-1,), (1,)),
    "two negative sizes": tensor(persistent("0", 24), (-4, -6), (6, 1)),
    "more strides than sizes": tensor(persistent("0", 24), (24,), (1, 1)),
    "nine dimensions": tensor(persistent("0", 24), (1,) * 8 + (24,)),
    "a size of 2⁶² in nothing": tensor(persistent("0", 24), ((1 << 62), 0), (1, 1)),
    "a negative storage": tensor(persistent("0", -24), (1,)),
    "a storage by a path": tensor(persistent("../../etc/passwd", 24), (24,)),
    "a storage by an exponent": tensor(persistent("1e3", 24), (24,)),
    "a storage by another zero": tensor(persistent("٠", 24), (24,)),
    "a storage by a long number": tensor(persistent("0" * 5000, 24), (24,)),
    "a persistent id of four": b"(" + text("storage") + name_of("torch", "FloatStorage") + text("0") + text("cpu") + b"tQ",
    "a persistent id of six": b"(" + text("storage") + name_of("torch", "FloatStorage") + text("0") + text("cpu") + integer(24) + b"NtQ",
    "a persistent id of a module": b"(" + text("module") + name_of("torch", "FloatStorage") + text("0") + text("cpu") + integer(24) + b"tQ",
    "a persistent id that is a string": text("storage") + b"Q",
    "a storage type that is a function": b"(" + text("storage") + name_of("torch", "Size") + text("0") + text("cpu") + integer(24) + b"tQ",
    "a storage of True elements": b"(" + text("storage") + name_of("torch", "FloatStorage") + text("0") + text("cpu") + b"\x88tQ",
    "a bare storage": persistent("0", 24),
    "a key that is a tuple": b")Ns" + text("b") + b"N",
    "no tensor": b"N",
}


@pytest.mark.parametrize("name", CLAIMS)
def test_claims_are_compared_with_the_file(name: str, tmp_path: Path) -> None:
    refused(with_pickle(pickled(CLAIMS[name])), tmp_path)


def test_a_dictionary_with_one_key_twice(tmp_path: Path) -> None:
    one = text("a") + tensor(persistent("0", 24), (24,))
    assert "'a' twice" in refused(with_pickle(b"\x80\x02}(" + one + one + b"u."), tmp_path)


def test_every_opcode_alone_and_every_pickle_cut_short(tmp_path: Path) -> None:
    for op in range(256):
        refused(with_pickle(bytes([0x80, 2, op])), tmp_path)
        refused(with_pickle(bytes([0x80, 2, op, op, op, op, op, op]) + b"."), tmp_path)
    whole = pickled(tensor(persistent("0", 24), (4, 6)))
    assert read_bytes(with_pickle(whole), tmp_path)["a"].shape == (4, 6)
    for length in range(len(whole)):
        refused(with_pickle(whole[:length]), tmp_path)


GOOD = pickled(tensor(persistent("0", 24), (4, 6)))
MEMBERS = [("archive/data.pkl", GOOD), ("archive/data/0", bytes(96))]


def patched(data: bytes, at: int, new: bytes) -> bytes:
    return data[:at] + new + data[at + len(new) :]


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
def test_archives_that_torch_does_not_write(name: str, canary: Path, tmp_path: Path) -> None:
    refused(ARCHIVES[name], tmp_path)


def test_archives_above_are_wrong_for_one_reason_alone(tmp_path: Path) -> None:
    assert read_bytes(zipped(MEMBERS), tmp_path)["a"].shape == (4, 6)
    assert read_bytes(with_zip64(zipped(MEMBERS), 2), tmp_path)["a"].shape == (4, 6)
    assert read_bytes(zipped([*MEMBERS, ("archive/byteorder", b"little"), ("archive/version", b"3\n")]), tmp_path)["a"].shape == (4, 6)


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
        torch_zip.read(DATA / "legacy.bin")


def test_a_folder_and_a_missing_file(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "missing.bin"):
        with pytest.raises(WeightError, match="cannot be read"):
            torch_zip.read(path)


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


def test_mutations(canary: Path, tmp_path: Path) -> None:
    fuzz(500, tmp_path)


@pytest.mark.slow
def test_many_mutations(canary: Path, tmp_path: Path) -> None:
    fuzz(10_000, tmp_path)


def test_damage_in_a_storage_is_found_by_its_checksum(tmp_path: Path) -> None:
    data = bytearray((DATA / "module.bin").read_bytes())
    tensors = torch_zip.read(DATA / "module.bin")
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
