"""The pickles that torch.save writes, interpreted without running anything.

A pickle is a program for a stack machine that may call anything. Here is such a machine with no calls in it: OPCODES holds the opcodes
that a plain state dict is written with, each a small function on the `Machine`, and KNOWN the few names that occur in one, which stand
for themselves. All else is an error that says what was there. To read another opcode, add its function and its row in OPCODES.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from moebius.weights.formats.refused import HOW_TO_CONVERT, SAVE_AGAIN, RefusedError, damaged
from moebius.weights.formats.tensors import MAX_NDIM

MAX_OPCODES = 1_000_000  # each makes at most one small object; the full model's pickle has some 40 000
MAX_MARKS = 64
MAX_INT = 1 << 62
MAX_NAME = 200

STORAGES = {
    "torch.DoubleStorage": "F64",
    "torch.FloatStorage": "F32",
    "torch.HalfStorage": "F16",
    "torch.BFloat16Storage": "BF16",
    "torch.LongStorage": "I64",
    "torch.IntStorage": "I32",
    "torch.ShortStorage": "I16",
    "torch.CharStorage": "I8",
    "torch.ByteStorage": "U8",
    "torch.BoolStorage": "BOOL",
}
KNOWN = {
    *STORAGES,
    "collections.OrderedDict",
    "torch.Size",
    "torch._utils._rebuild_tensor_v2",
    "torch._utils._rebuild_parameter",
}


# What a pickle is interpreted into, beside dict, list, tuple, str, numbers and None. Error messages name these classes.


@dataclass(frozen=True, slots=True)
class Name:
    """A global of the pickle. It stands for nothing but its name."""

    name: str


@dataclass(frozen=True, slots=True)
class Storage:
    """The flat array that tensors lie in: the member data/KEY of the zip."""

    dtype: str
    key: str
    numel: int


@dataclass(frozen=True, slots=True)
class Ref:
    """A tensor as the pickle describes it; nothing in it is checked against the file yet."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class Ordered(dict[Any, Any]):
    """collections.OrderedDict: the one object whose attributes a state dict sets (its _metadata, which is not needed)."""


# The machine ---------------------------------------------------------------------------------------------------------


class Machine:
    """What a pickle runs on: its bytes and the place in them, the stack, the marks in the stack, and the memo."""

    __slots__ = ("at", "data", "marks", "memo", "stack")

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}

    def take(self, n: int) -> bytes:
        """The next n bytes of the pickle."""
        if n > len(self.data) - self.at:
            damaged("its pickle ends in the middle")
        self.at += n
        return self.data[self.at - n : self.at]

    def number(self, n: int, *, signed: bool = False) -> int:
        """The next n bytes, as an integer."""
        return int.from_bytes(self.take(n), "little", signed=signed)

    def line(self) -> str:
        """The text up to the end of the line."""
        end = self.data.find(b"\n", self.at, self.at + MAX_NAME)
        if end < 0:
            damaged("its pickle has an endless name")
        self.at, text = end + 1, self.data[self.at : end]
        return text.decode("ascii", "backslashreplace")

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def nothing_to_take(self) -> bool:
        """Whether the innermost mark, or the bottom, is on top of the stack."""
        return len(self.stack) <= (self.marks[-1] if self.marks else 0)

    def pop(self) -> Any:
        if self.nothing_to_take():
            damaged("its pickle takes what it has not put there")
        return self.stack.pop()

    def pop_to_mark(self) -> list[Any]:
        if not self.marks:
            damaged("its pickle takes what it has not put there")
        start = self.marks.pop()
        items = self.stack[start:]
        del self.stack[start:]
        return items

    def top(self, kind: type) -> Any:
        """The value on top of the stack, which stays there."""
        if self.nothing_to_take() or not isinstance(self.stack[-1], kind):
            damaged("its pickle adds to something that is no list or dictionary")
        return self.stack[-1]

    def result(self) -> Any:
        value = self.pop()
        if self.stack or self.marks or self.at != len(self.data):
            damaged("its pickle goes on after its end")
        return value


def interpret(data: bytes) -> Any:
    """The object that a pickle of protocol 2 describes, made of dict, list, tuple, str, numbers, None, `Name`, `Storage` and `Ref` alone.

    Dictionary keys are strings and small integers only: the hash of anything deeper could be made to recurse, or to collide.
    """
    machine = Machine(data)
    for _ in range(MAX_OPCODES):
        opcode = machine.take(1)
        if opcode == STOP:
            return machine.result()
        if opcode not in OPCODES:
            raise RefusedError(
                f"its pickle has the opcode {opcode!r}, which a plain state dict has no use for; nothing was run. {SAVE_AGAIN}"
            )
        OPCODES[opcode](machine)
    raise RefusedError(f"its pickle has more than {MAX_OPCODES} opcodes. {SAVE_AGAIN}")


# The opcodes ---------------------------------------------------------------------------------------------------------


def protocol(m: Machine) -> None:
    if (version := m.number(1)) != 2:
        raise RefusedError(f"its pickle has protocol {version}; only 2, torch.save's default, is read. {HOW_TO_CONVERT}")


def put(m: Machine, size: int) -> None:
    """Keeps the value on top of the stack in the memo, under a number of `size` bytes."""
    value = m.stack[-1] if m.stack else damaged("its pickle remembers nothing")
    m.memo[m.number(size)] = value


def get(m: Machine, size: int) -> None:
    key = m.number(size)
    m.push(m.memo[key] if key in m.memo else damaged("its pickle recalls what it never remembered"))


def string(m: Machine) -> None:
    try:
        m.push(m.take(m.number(4)).decode("utf-8"))
    except UnicodeDecodeError:
        damaged("its pickle has a string that is not UTF-8")


def long_integer(m: Machine) -> None:
    if (size := m.number(1)) > 8:
        raise RefusedError(f"its pickle has an integer of {size} bytes. {SAVE_AGAIN}")
    m.push(m.number(size, signed=True))


def real(m: Machine) -> None:
    m.push(struct.unpack(">d", m.take(8))[0])


def mark(m: Machine) -> None:
    if len(m.marks) == MAX_MARKS:
        raise RefusedError(f"its pickle nests more than {MAX_MARKS} deep. {SAVE_AGAIN}")
    m.marks.append(len(m.stack))


def tuple_of(m: Machine, n: int) -> None:
    items = [m.pop() for _ in range(n)]
    m.push(tuple(items[::-1]))


def append(m: Machine) -> None:
    item = m.pop()
    m.top(list).append(item)


def appends(m: Machine) -> None:
    items = m.pop_to_mark()
    m.top(list).extend(items)


def set_item(m: Machine) -> None:
    value, key = m.pop(), m.pop()
    fill(m.top(dict), [key, value])


def set_items(m: Machine) -> None:
    items = m.pop_to_mark()
    fill(m.top(dict), items)


def fill(target: dict[Any, Any], items: list[Any]) -> None:
    """Sets the items, a key and its value in turns."""
    if len(items) % 2:
        damaged("its pickle has a key without a value")
    for key, value in zip(items[::2], items[1::2], strict=True):
        if type(key) is not str and not (type(key) is int and abs(key) < 1 << 31):
            raise RefusedError(f"its pickle has a dictionary key that is a {type(key).__name__}. {SAVE_AGAIN}")
        if key in target:
            damaged(f"its pickle has the key {str(key)[:80]!r} twice in one dictionary")
        target[key] = value


def global_name(m: Machine) -> None:
    name = f"{m.line()}.{m.line()}"
    if name not in KNOWN:
        raise RefusedError(f"its pickle asks for {name}, which a plain state dict has no use for; nothing was run. {SAVE_AGAIN}")
    m.push(Name(name))


def persistent_id(m: Machine) -> None:
    m.push(storage(m.pop()))


def reduce(m: Machine) -> None:
    arguments, function = m.pop(), m.pop()
    m.push(result_of(function, arguments))


def build(m: Machine) -> None:
    """Drops the attributes that an OrderedDict is given."""
    state = m.pop()
    m.top(Ordered)
    if not isinstance(state, dict):
        raise RefusedError(f"its pickle sets the attributes of a dictionary to a {type(state).__name__}. {SAVE_AGAIN}")


STOP = b"."
OPCODES: dict[bytes, Callable[[Machine], None]] = {
    b"\x80": protocol,  # PROTO
    b"q": lambda m: put(m, 1),  # BINPUT
    b"r": lambda m: put(m, 4),  # LONG_BINPUT
    b"h": lambda m: get(m, 1),  # BINGET
    b"j": lambda m: get(m, 4),  # LONG_BINGET
    b"X": string,  # BINUNICODE
    b"K": lambda m: m.push(m.number(1)),  # BININT1
    b"M": lambda m: m.push(m.number(2)),  # BININT2
    b"J": lambda m: m.push(m.number(4, signed=True)),  # BININT
    b"\x8a": long_integer,  # LONG1
    b"G": real,  # BINFLOAT
    b"N": lambda m: m.push(None),  # NONE
    b"\x88": lambda m: m.push(True),  # NEWTRUE
    b"\x89": lambda m: m.push(False),  # NEWFALSE
    b"(": mark,  # MARK
    b")": lambda m: m.push(()),  # EMPTY_TUPLE
    b"t": lambda m: m.push(tuple(m.pop_to_mark())),  # TUPLE
    b"\x85": lambda m: tuple_of(m, 1),  # TUPLE1
    b"\x86": lambda m: tuple_of(m, 2),  # TUPLE2
    b"\x87": lambda m: tuple_of(m, 3),  # TUPLE3
    b"]": lambda m: m.push([]),  # EMPTY_LIST
    b"a": append,  # APPEND
    b"e": appends,  # APPENDS
    b"}": lambda m: m.push({}),  # EMPTY_DICT
    b"s": set_item,  # SETITEM
    b"u": set_items,  # SETITEMS
    b"c": global_name,  # GLOBAL
    b"Q": persistent_id,  # BINPERSID
    b"R": reduce,  # REDUCE
    b"b": build,  # BUILD
}


# Storages and calls --------------------------------------------------------------------------------------------------


def storage(identity: Any) -> Storage:
    """The storage of a persistent id, which must be exactly as torch.save writes it."""
    if isinstance(identity, tuple) and len(identity) == 5:
        what, kind, key, location, numel = identity
        named = what == "storage" and isinstance(kind, Name) and kind.name in STORAGES and isinstance(location, str)
        if named and isinstance(key, str) and key.isascii() and key.isdecimal() and len(key) < 10 and is_count(numel):
            return Storage(STORAGES[kind.name], key, numel)
    raise RefusedError(f"its pickle has a persistent id that is not ('storage', type, key, location, size). {SAVE_AGAIN}")


def result_of(function: Any, arguments: Any) -> Any:
    """The result of one of the four calls that occur in a state dict, with the arguments that occur there. Nothing is called."""
    if not isinstance(function, Name):
        raise RefusedError(f"its pickle calls a {type(function).__name__}, which is no function. {SAVE_AGAIN}")
    if isinstance(arguments, tuple):
        match function.name, arguments:
            case "collections.OrderedDict", ():
                return Ordered()
            case "torch.Size", (tuple() | list() as sizes,) if all(is_count(n) for n in sizes):
                return tuple(sizes)
            case "torch._utils._rebuild_parameter", (Ref() as ref, bool(), Ordered()):
                return ref
            case "torch._utils._rebuild_tensor_v2", (Storage() as s, int() as offset, tuple() as shape, tuple() as strides, bool(), *rest):
                hooks, *metadata = rest or [None]
                counts = is_count(offset) and all(is_count(n) for n in (*shape, *strides))
                if hooks == {} and metadata in ([], [None], [{}]) and counts and len(shape) == len(strides) <= MAX_NDIM:
                    return Ref(s, offset, shape, strides)
    raise RefusedError(f"its pickle calls {function.name} in a way that a plain state dict does not. {SAVE_AGAIN}")


def is_count(n: Any) -> bool:
    return type(n) is int and 0 <= n < MAX_INT
