"""What `torch.save` writes, read without PyTorch and without running a pickle.

The file is a zip of uncompressed members: `data.pkl`, a pickle of the dictionary that was saved, and `data/0`, `data/1`, …, the
bytes of its storages. A pickle is a program for a stack machine that may call anything. `interpret` is such a machine with no
calls in it: it knows the opcodes and the few names that a plain state dict is made of, a name stands for itself, and all else is an error
that says what was found.

Nothing in the file is believed: every size and offset is compared with the bytes that are there before memory is taken for it.
"""

from __future__ import annotations

import math
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from moebius.errors import WeightError
from moebius.weights.formats.mapped import ITEMSIZE, MAX_NDIM, MappedFile, MappedTensors, Tensor

MAX_MEMBERS = 10_000
MAX_PICKLE = 8 << 20  # bytes; the full model's has 0.2 MB
MAX_OPCODES = 1_000_000  # each makes at most one small object; the full model's pickle has some 40 000
MAX_MARKS = 64
MAX_NESTING = 4  # {"model": {"state_dict": {…}}}
MAX_INT = 1 << 62

HOW_TO_CONVERT = (
    "Convert it where PyTorch is installed: "
    "python -c \"import torch; torch.save(torch.load('in.bin', map_location='cpu', weights_only=True), 'out.bin')\"."
)
SAVE_AGAIN = "Save the weights alone, with torch.save(model.state_dict(), 'out.bin') or as .safetensors."

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

# Where training scripts put the weights among other things, in the order of preference.
WEIGHT_KEYS = ("state_dict", "model_state_dict", "model", "module", "unet", "vae", "params")


def read(path: str | Path) -> MappedTensors:
    """Maps a file. Everything but the tensors' bytes is read and checked here."""
    path = Path(path)
    file = MappedFile(path)
    try:
        check_format(file)
        members = zip_members(file)
        pickled = find_pickle(file, members)
        storages = {name: m for name, m in members.items() if name.startswith("data/")}
        found, ignored = state_dict(interpret(file[pickled.offset : pickled.offset + pickled.size]))
        info = {name: place(name, ref, storages) for name, ref in found.items()}
    except RefusedError as refused:
        raise WeightError(f"{path} cannot be used: {refused}") from None
    return MappedTensors(file, info, ignored=ignored, verify=lambda: verify(file, storages))


class RefusedError(Exception):
    """What is wrong and what to do; `read` adds the path."""


# The zip -------------------------------------------------------------------------------------------------------------


class Member(NamedTuple):
    offset: int
    size: int
    crc: int


def check_format(file: MappedFile) -> None:
    start = file[:512]
    if start.startswith(b"PK\x03\x04"):
        return
    if start.startswith(b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."):
        raise RefusedError(f"it has the format PyTorch wrote before version 1.6, which is not read. {HOW_TO_CONVERT}")
    if start[257:262] == b"ustar":
        raise RefusedError(f"it is a tar, the format of the oldest PyTorch, which is not read. {HOW_TO_CONVERT}")
    if start[:1] == b"\x80":
        raise RefusedError(f"it is a bare pickle, which is not read. {HOW_TO_CONVERT}")
    if start.startswith(b"version https://git-lfs"):
        raise RefusedError("it is a Git LFS pointer; the weights themselves are elsewhere. Fetch them with `git lfs pull`.")
    if start.lstrip()[:1] == b"<":
        raise RefusedError("it is a web page. Download the file itself.")
    if start[8:9] == b"{":
        raise RefusedError("it looks like a .safetensors file. Give it that ending.")
    raise RefusedError(f"it is no file that torch.save has written (it starts with {start[:8].hex(' ')}). Copy or download it again.")


def zip_members(file: MappedFile) -> dict[str, Member]:
    """The zip's members without their common folder. Only what torch.save writes is taken for a zip."""
    count, start, end = directory(file)
    at = start
    members: dict[str, Member] = {}
    spans, folders = [], set()
    for _ in range(count):
        if end - at < 46 or file[at : at + 4] != b"PK\x01\x02":
            damaged("its table of contents is broken")
        (flags, method, _, _, crc, packed, size, name_length, extra_length, comment_length, disk, _, _, header) = struct.unpack(
            "<HHHHIIIHHHHHII", file[at + 8 : at + 46]
        )
        raw = file[at + 46 : at + 46 + name_length]
        at += 46 + name_length + extra_length + comment_length
        if at > end:
            damaged("its table of contents is broken")
        folder, name = split_name(raw)
        if flags & ~0x808:  # bit 3: sizes follow the data, bit 11: names are UTF-8
            raise RefusedError(f"its member {name} is encrypted or patched (flags {flags:#x}). {SAVE_AGAIN}")
        if method or packed != size:
            raise RefusedError(f"its member {name} is compressed, which torch.save never does. {SAVE_AGAIN}")
        if disk or 0xFFFFFFFF in (size, header):
            raise RefusedError(f"its member {name} is in another file or beyond 4 GiB. {SAVE_AGAIN}")
        if name in members:
            damaged(f"it has two members {name}")
        offset = data_offset(file, name, raw, header, flags, crc, size)
        folders.add(folder)
        members[name] = Member(offset, size, crc)
        spans.append((header, offset + size, name))
    if at != end:
        damaged("its table of contents is broken")
    if len(folders) != 1:
        damaged("its members do not lie in one folder")
    before, previous = 0, "the start"
    for begin, after, name in sorted(spans):
        if not 0 <= begin - before <= 24:  # at most the sizes that follow the data
            damaged(f"its members {previous} and {name} overlap or leave a hole")
        before, previous = after, name
    if not 0 <= start - before <= 24:
        damaged(f"its member {previous} and its table of contents overlap or leave a hole")
    return members


def damaged(what: str) -> NoReturn:
    raise RefusedError(f"{what}. The file is damaged, cut short or no work of torch.save: copy or download it again.")


def directory(file: MappedFile) -> tuple[int, int, int]:
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


def data_offset(file: MappedFile, name: str, raw: bytes, header: int, flags: int, crc: int, size: int) -> int:
    """Where a member's data begins. What its own header says must agree with the table of contents."""
    local = file[header : header + 30]
    if len(local) < 30 or local[:4] != b"PK\x03\x04":
        damaged(f"its member {name} is not where the table of contents says")
    own_flags, method, _, _, own_crc, own_packed, own_size, name_length, extra_length = struct.unpack("<HHHHIIIHH", local[6:])
    later = flags & 8 and (own_crc, own_packed, own_size) == (0, 0, 0)
    if own_flags != flags or method or not (later or (own_crc, own_packed, own_size) == (crc, size, size)):
        damaged(f"its member {name} and the table of contents disagree")
    if file[header + 30 : header + 30 + name_length] != raw:
        damaged(f"its member {name} has another name in the table of contents")
    offset = header + 30 + name_length + extra_length
    if offset + size > file.size:
        damaged(f"its member {name} claims {size} bytes and the file ends before")
    return int(offset)


def find_pickle(file: MappedFile, members: dict[str, Member]) -> Member:
    if "constants.pkl" in members:
        raise RefusedError(f"it is a TorchScript program, not a state dict. {SAVE_AGAIN}")
    if "data.pkl" not in members:
        damaged("it has no data.pkl")
    order = members.get("byteorder")
    if order and (found := file[order.offset : order.offset + min(order.size, 16)]) != b"little":
        raise RefusedError(f"its byte order is {found!r}; only little-endian files are read. {HOW_TO_CONVERT}")
    pickled = members["data.pkl"]
    if pickled.size > MAX_PICKLE:
        raise RefusedError(f"its data.pkl has {pickled.size} bytes; more than {MAX_PICKLE} are not read. {SAVE_AGAIN}")
    verify(file, {"data.pkl": pickled})
    return pickled


def verify(file: MappedFile, members: dict[str, Member]) -> None:
    """Reads members through and compares checksums. Zero is what PyTorch writes when it is told to leave them out."""
    for name, m in members.items():
        crc = 0
        for at in range(m.offset, m.offset + m.size, 4 << 20):
            piece = file[at : min(at + (4 << 20), m.offset + m.size)]
            file.use(len(piece))
            crc = zlib.crc32(piece, crc)
        if m.crc and crc != m.crc:
            raise WeightError(f"{file.path} is damaged: the checksum of its member {name} is wrong. Copy or download it again.")


# The pickle ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Name:
    """A global of the pickle. It stands for nothing but its name."""

    name: str


@dataclass(frozen=True, slots=True)
class Storage:
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


def interpret(data: bytes) -> Any:
    """The object that a pickle of protocol 2 describes, made of dict, list, tuple, str, numbers, None, `Name`, `Storage` and `Ref` alone.

    Dictionary keys are strings and small integers only: the hash of anything deeper could be made to recurse, or to collide.
    """
    stack: list[Any] = []
    marks: list[int] = []
    memo: dict[int, Any] = {}
    at = 0

    def take(n: int) -> bytes:
        nonlocal at
        if n > len(data) - at:
            damaged("its pickle ends in the middle")
        at += n
        return data[at - n : at]

    def number(n: int) -> int:
        return int.from_bytes(take(n), "little")

    def pop() -> Any:
        if len(stack) <= (marks[-1] if marks else 0):
            damaged("its pickle takes what it has not put there")
        return stack.pop()

    def pop_mark() -> list[Any]:
        if not marks:
            damaged("its pickle takes what it has not put there")
        start = marks.pop()
        items = stack[start:]
        del stack[start:]
        return items

    def top(kind: type) -> Any:
        if len(stack) <= (marks[-1] if marks else 0) or not isinstance(stack[-1], kind):
            damaged("its pickle adds to something that is no list or dictionary")
        return stack[-1]

    def line() -> str:
        nonlocal at
        end = data.find(b"\n", at, at + 200)
        if end < 0:
            damaged("its pickle has an endless name")
        at, text = end + 1, data[at:end]
        return text.decode("ascii", "backslashreplace")

    def fill(items: list[Any]) -> None:
        target = top(dict)
        if len(items) % 2:
            damaged("its pickle has a key without a value")
        for key, value in zip(items[::2], items[1::2], strict=True):
            if type(key) is not str and not (type(key) is int and abs(key) < 1 << 31):
                raise RefusedError(f"its pickle has a dictionary key that is a {type(key).__name__}. {SAVE_AGAIN}")
            if key in target:
                damaged(f"its pickle has the key {str(key)[:80]!r} twice in one dictionary")
            target[key] = value

    for _ in range(MAX_OPCODES):
        op = take(1)
        match op:
            case b"\x80":  # PROTO
                if (protocol := number(1)) != 2:
                    raise RefusedError(f"its pickle has protocol {protocol}; only 2, torch.save's default, is read. {HOW_TO_CONVERT}")
            case b"q":  # BINPUT
                memo[number(1)] = stack[-1] if stack else damaged("its pickle remembers nothing")
            case b"r":  # LONG_BINPUT
                memo[number(4)] = stack[-1] if stack else damaged("its pickle remembers nothing")
            case b"h" | b"j":  # BINGET, LONG_BINGET
                key = number(1 if op == b"h" else 4)
                stack.append(memo[key] if key in memo else damaged("its pickle recalls what it never remembered"))
            case b"X":  # BINUNICODE
                try:
                    stack.append(take(number(4)).decode("utf-8"))
                except UnicodeDecodeError:
                    damaged("its pickle has a string that is not UTF-8")
            case b"K":  # BININT1
                stack.append(number(1))
            case b"M":  # BININT2
                stack.append(number(2))
            case b"J":  # BININT
                stack.append(int.from_bytes(take(4), "little", signed=True))
            case b"\x8a":  # LONG1
                if (size := number(1)) > 8:
                    raise RefusedError(f"its pickle has an integer of {size} bytes. {SAVE_AGAIN}")
                stack.append(int.from_bytes(take(size), "little", signed=True))
            case b"G":  # BINFLOAT
                stack.append(struct.unpack(">d", take(8))[0])
            case b"N":
                stack.append(None)
            case b"\x88":
                stack.append(True)
            case b"\x89":
                stack.append(False)
            case b"(":
                if len(marks) == MAX_MARKS:
                    raise RefusedError(f"its pickle nests more than {MAX_MARKS} deep. {SAVE_AGAIN}")
                marks.append(len(stack))
            case b")":
                stack.append(())
            case b"t":
                stack.append(tuple(pop_mark()))
            case b"\x85" | b"\x86" | b"\x87":  # TUPLE1, 2, 3
                items = [pop() for _ in range(op[0] - 0x84)]
                stack.append(tuple(items[::-1]))
            case b"]":
                stack.append([])
            case b"a":  # APPEND
                item = pop()
                top(list).append(item)
            case b"e":  # APPENDS
                items = pop_mark()
                top(list).extend(items)
            case b"}":
                stack.append({})
            case b"s":  # SETITEM
                value, key = pop(), pop()
                fill([key, value])
            case b"u":  # SETITEMS
                items = pop_mark()
                fill(items)
            case b"c":  # GLOBAL
                name = f"{line()}.{line()}"
                if name not in KNOWN:
                    raise RefusedError(
                        f"its pickle asks for {name}, which a plain state dict has no use for; nothing was run. {SAVE_AGAIN}"
                    )
                stack.append(Name(name))
            case b"Q":  # BINPERSID
                stack.append(storage(pop()))
            case b"R":  # REDUCE
                arguments, function = pop(), pop()
                stack.append(reduce(function, arguments))
            case b"b":  # BUILD
                state = pop()
                top(Ordered)
                if not isinstance(state, dict):
                    raise RefusedError(f"its pickle sets the attributes of a dictionary to a {type(state).__name__}. {SAVE_AGAIN}")
            case b".":
                result = pop()
                if stack or marks or at != len(data):
                    damaged("its pickle goes on after its end")
                return result
            case _:
                raise RefusedError(
                    f"its pickle has the opcode {op!r}, which a plain state dict has no use for; nothing was run. {SAVE_AGAIN}"
                )
    raise RefusedError(f"its pickle has more than {MAX_OPCODES} opcodes. {SAVE_AGAIN}")


def storage(given: Any) -> Storage:
    """A persistent id, exactly as torch.save writes it."""
    if isinstance(given, tuple) and len(given) == 5:
        what, kind, key, location, numel = given
        named = what == "storage" and isinstance(kind, Name) and kind.name in STORAGES and isinstance(location, str)
        if named and isinstance(key, str) and key.isascii() and key.isdecimal() and len(key) < 10 and is_count(numel):
            return Storage(STORAGES[kind.name], key, numel)
    raise RefusedError(f"its pickle has a persistent id that is not ('storage', type, key, location, size). {SAVE_AGAIN}")


def reduce(function: Any, given: Any) -> Any:
    """The four calls that occur in a state dict, with the arguments that occur there. None of them calls anything."""
    if not isinstance(function, Name):
        raise RefusedError(f"its pickle calls a {type(function).__name__}, which is no function. {SAVE_AGAIN}")
    if isinstance(given, tuple):
        match function.name, given:
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


# Both ----------------------------------------------------------------------------------------------------------------


def state_dict(saved: Any, within: str = "", nesting: int = 0) -> tuple[dict[str, Ref], tuple[str, ...]]:
    """The tensors by name, and the names of what lies beside them. A state dict inside of another dictionary is found."""
    if not isinstance(saved, dict):
        raise RefusedError(f"it holds a {type(saved).__name__}{within}, not a state dict. {SAVE_AGAIN}")
    found = {key: value for key, value in saved.items() if isinstance(key, str) and isinstance(value, Ref)}
    if found:
        return found, tuple(str(key) for key in saved if key not in found)
    for key in WEIGHT_KEYS:
        if isinstance(saved.get(key), dict) and nesting < MAX_NESTING:
            found, ignored = state_dict(saved[key], f"{within} in {key!r}", nesting + 1)
            return found, (*(str(other) for other in saved if other != key), *ignored)
    keys = ", ".join(repr(str(key)[:40]) for key in list(saved)[:5])
    raise RefusedError(f"it holds no tensors{within}{f', only {keys}' if keys else ''}. {SAVE_AGAIN}")


def place(name: str, ref: Ref, storages: dict[str, Member]) -> Tensor:
    """A tensor's place in the file, after its claims were compared with the bytes that are there. All in integers without limit."""
    member, item = storages.get(f"data/{ref.storage.key}"), ITEMSIZE[ref.storage.dtype]
    if member is None:
        damaged(f"the storage of {name[:200]!r} is missing")
    if ref.storage.numel * item != member.size:
        damaged(f"the storage of {name[:200]!r} claims {ref.storage.numel} elements of {item} bytes and has {member.size} bytes")
    size = math.prod(ref.shape)
    if size:
        last = ref.offset + sum((n - 1) * stride for n, stride in zip(ref.shape, ref.strides, strict=True))
        if last >= ref.storage.numel or size > ref.storage.numel:
            damaged(f"{name[:200]!r} {ref.shape} reaches beyond its storage of {ref.storage.numel} elements")
    steps = [math.prod(ref.shape[i + 1 :]) for i in range(len(ref.shape))]
    in_order = all(n == 1 or stride == step for n, stride, step in zip(ref.shape, ref.strides, steps, strict=True))
    return Tensor(ref.storage.dtype, ref.shape, member.offset + ref.offset * item, None if in_order or not size else ref.strides)
