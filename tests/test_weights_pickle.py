"""The pickle interpreter: hostile programs, bombs and claims are refused, with no code run and no memory taken."""

from __future__ import annotations

import os
import pickle
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from torch_files import canary, integer, name_of, persistent, pickled, read_bytes, refused, tensor, text, with_pickle  # noqa: F401 (a fixture)

from moebius.weights.formats.pickle import interpret
from moebius.weights.formats.refused import RefusedError


class Calls:
    """Pickles as a call of something."""

    def __init__(self, function: Any, *args: Any) -> None:
        self.call = function, args

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return self.call


def programs(canary: Path) -> dict[str, tuple[bytes, str]]:  # noqa: F811
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


def test_programs_do_not_run(canary: Path, tmp_path: Path) -> None:  # noqa: F811
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
from moebius.weights.formats import torch_save

def peak():  # getrusage would give that of the parent, if it is larger
    return next(int(line.split()[1]) >> 10 for line in open("/proc/self/status") if line.startswith("VmHWM"))

before = peak()
for path in sys.argv[1:]:
    try:
        torch_save.read(path)
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


# Pickles of protocol 2, without the first two bytes, and what the error says.
BROKEN = {
    "takes a value from below a mark": (b"N(\x85.", "takes what it has not put there"),
    "takes up to a mark that is not there": (b"Nt.", "takes what it has not put there"),
    "one mark too many": (b"(" * 65, "nests more than 64 deep"),
    "leaves a value behind": (b"NN.", "goes on after its end"),
    "leaves a mark behind": (b"(N.", "goes on after its end"),
    "bytes after the end": (b"N.N", "goes on after its end"),
    "an integer of nine bytes": (b"\x8a\x09" + bytes(9) + b".", "an integer of 9 bytes"),
    "sets an item of a list": (b"]NNs.", "adds to something that is no list or dictionary"),
    "a key without a value": (b"}(Nu.", "a key without a value"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_the_machine_refuses(name: str) -> None:
    program, says = BROKEN[name]
    with pytest.raises(RefusedError, match=says):
        interpret(b"\x80\x02" + program)


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
