"""From a .wgsl file to a pipeline: constants say how (compiled in), `Params` says how big (a uniform).

What a file declares is read from it and typed nowhere else: `interface` has its bindings and parameters, `numbers` its constants,
`kernel` the workgroup of an entry point.

A shader file is complete WGSL with default constants. `specialise` does five things to its text and no more:
`// include FILE` lines are replaced by the file (`// include FILE, or NAME` by the one that the constant NAME says),
`const NAME … = value;` and `alias NAME = type;` get the given values,
branches marked `// compiled` are decided, with entry points that are not asked for and bindings that nothing reads then left out and the
others numbered anew, bindings of 16 bits a number are read and written through half.wgsl or quad.wgsl, and loops marked `// unroll` are
written out (naga never unrolls, and arrays indexed at run time spill).
"""

from __future__ import annotations

import ast
import hashlib
import operator
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from math import prod

import numpy as np

from moebius.errors import MoebiusError

Constants = tuple[tuple[str, int | bool | str], ...]


@dataclass(frozen=True)
class Slot:
    """One `@binding` of a shader."""

    index: int
    name: str
    access: str  # "read", "read_write" or "uniform"


@dataclass(frozen=True)
class Interface:
    slots: tuple[Slot, ...]
    params: tuple[tuple[str, str], ...]  # (field, "u32" | "f32") of struct Params, in order


@dataclass(frozen=True)
class Kernel:
    """An entry point of a shader with given constants."""

    workgroup: tuple[int, int]
    workgroup_bytes: int  # of the `var<workgroup>` arrays that it uses

    @property
    def threads(self) -> int:
        return prod(self.workgroup)


@cache
def source(shader: str) -> str:
    """The text of shaders/<shader>.wgsl."""
    return (files("moebius.shaders") / f"{shader}.wgsl").read_text(encoding="utf-8")


BINDING = re.compile(r"@binding\((\d+)\) var<(?:(storage, read_write|storage, read)|uniform)> (\w+)")


@cache
def interface(shader: str, constants: Constants | None = None, entry: str | None = None) -> Interface:
    """What a file declares, or, given constants, what of it is left in what is compiled."""
    text = whole(shader) if constants is None else _with_constants(shader, constants, entry)
    slots = tuple(Slot(int(index), name, (access or "uniform").removeprefix("storage, ")) for index, access, name in BINDING.findall(text))
    struct = re.search(r"struct Params \{(.*?)\}", text, re.S)
    fields = re.findall(r"^\s*(\w+): (u32|f32),", struct[1], re.M) if struct else []
    return Interface(slots, tuple(fields))


@cache
def shaders_digest() -> str:
    """Of all .wgsl files: measurements and verdicts are of these kernels, and of no others."""
    hashed = hashlib.sha256()
    for file in sorted(files("moebius.shaders").iterdir(), key=lambda f: f.name):
        if file.name.endswith(".wgsl"):
            hashed.update(file.name.encode() + b"\0" + file.read_bytes())
    return hashed.hexdigest()


def pack_params(shader: str, values: Mapping[str, int | float]) -> bytes:
    """`struct Params` of a shader, as its uniform holds it."""
    return b"".join(np.asarray(values[name], "<f4" if kind == "f32" else "<u4").tobytes() for name, kind in interface(shader).params)


@cache
def specialise(shader: str, constants: Constants = (), entry: str | None = None) -> str:
    """The WGSL that is compiled; for one entry point, without the others: they are longest, and all of a module is parsed and checked."""
    text = _with_constants(shader, constants, entry)
    return _unroll(text, _numbers(text), shader)


INCLUDE = re.compile(r"^// include (\w+)\.wgsl(?:, or (\w+))?$", re.M)


def whole(shader: str, constants: Constants = ()) -> str:
    """With the files that it includes, and those that they include."""
    given = dict(constants)
    return INCLUDE.sub(lambda m: whole(str(given.get(m[2], m[1]))), source(shader))


def _with_constants(shader: str, constants: Constants, entry: str | None = None) -> str:
    return _chosen(whole(shader, constants), shader, frozenset(name for _, name in INCLUDE.findall(source(shader))), constants, entry)


@cache
def _chosen(text: str, shader: str, files_named: frozenset[str], constants: Constants, entry: str | None) -> str:
    for name, value in constants:
        if name in files_named or name in FORMATS:
            continue
        literal = str(value).lower() if isinstance(value, bool) else f"{value}u" if isinstance(value, int) else value
        text, found = re.subn(rf"^((?:const {name}: \w+|alias {name}) =) [^;]+;", rf"\g<1> {literal};", text, flags=re.M)
        if found != 1:
            raise MoebiusError(f"{shader}.wgsl has {found} declarations of {name}, not one.")
    text = _decided(text, shader)
    for name, how in FORMATS.items():
        if bindings := dict(constants).get(name):
            text = _in_format(text, str(bindings).split(), shader, how)
    if entry is not None:
        text = ENTRY.sub(lambda m: m[0] if m[1] == entry else "", text)
    return _needed(text)


@dataclass(frozen=True)
class Format:
    """Of numbers in memory that are no float32: what tensors call it, and the functions of a file that read and write four of them as a
    vec2<u32>."""

    dtype: str
    file: str
    reads: str
    writes: str


HALVES, QUADS = "HALVES", "QUADS"
# Constants of every kernel: the names of the bindings that hold such numbers.
FORMATS = {HALVES: Format("f16", "half", "unpacked", "packed"), QUADS: Format("quad", "quad", "of_quad", "as_quad")}


def _in_format(text: str, names: Iterable[str], shader: str, how: Format) -> str:
    """A vec2<u32> in place of every vec4<f32> of these bindings; of one of halves that `raw(…)` reads, two of them as they are."""
    aliases = dict(ALIAS.findall(text))
    for name in names:
        is_raw = f"raw({name}[" in text
        kind = next(iter(re.findall(rf"> {name}: array<(.+)>;", text)), "")
        if aliases.get(kind, kind) != "vec4<f32>":
            raise MoebiusError(f"{shader}.wgsl has no array of vec4<f32> that is called {name}: it must be float32.")
        if is_raw and how is not FORMATS[HALVES]:
            raise MoebiusError(f"{shader}.wgsl takes elements of {name} as halves: they must be.")
        text = text.replace(f"> {name}: array<{kind}>;", f"> {name}: array<vec{4 if is_raw else 2}<u32>>;")
        if is_raw:
            text = text.replace(f"raw({name}[", f"({name}[")
            continue
        parts, begin = [], 0
        for element in re.finditer(rf"//[^\n]*|(?<![\w.]){name}\[", text):
            if element[0].startswith("//"):
                continue
            if element.start() < begin:
                raise MoebiusError(
                    f"{shader}.wgsl: an element of {name} is in what indexes or becomes another one: it can be float32 alone."
                )
            end, depth = element.end(), 1
            while depth:
                depth += {"[": 1, "]": -1}.get(text[end], 0)
                end += 1
            if written := re.compile(r" = ([^;]+);").match(text, end):
                parts += [text[begin:end], f" = {how.writes}({written[1]});"]
                begin = written.end()
            else:
                parts += [text[begin : element.start()], f"{how.reads}({text[element.start() : end]})"]
                begin = end
        text = "".join([*parts, text[begin:]])
    return text + source(how.file)


BRANCH = re.compile(r"^( *)if \((!?)(\w+)\) \{ // compiled\n", re.M)


def _decided(text: str, shader: str) -> str:
    """Branches on a `const NAME: bool` that are marked: what is in them, or behind their `else`, stays in a block of its own."""
    given = {name: value == "true" for name, value in re.findall(r"^const (\w+): bool = (true|false);", text, re.M)}
    at = 0
    while branch := BRANCH.search(text, at):
        indent, no, name = branch.groups()
        at = branch.start()  # what is in it may have branches, and what is before it has none
        end = text.find(f"\n{indent}}}\n", branch.end() - 1)
        if end < 0 or name not in given:
            raise MoebiusError(f"{shader}.wgsl: the branch on {name} marked `// compiled` has no end at its own indent, or no constant.")
        body, _, other = text[branch.end() : end + 1].partition(f"\n{indent}}} else {{\n")
        chosen = (body.rstrip("\n") + "\n" if given[name] != bool(no) else other).strip("\n")
        block = f"{indent}{{\n{chosen}\n{indent}}}\n" if chosen else ""
        text = text[: branch.start()] + block + text[end + len(indent) + 3 :]
    return text


FUNCTION = re.compile(r"^(@(?:compute|vertex|fragment)[^\n]*\n)?fn (\w+)\(.*?^\}\n", re.M | re.S)


def _needed(text: str) -> str:
    """Without functions that no entry calls and bindings that none reads or writes: a shader stage may have eight storage buffers."""
    bare = re.sub(r"//.*|\.[a-z]\w*", "", text)  # a component w is no binding w
    entries = [name for mark, name in FUNCTION.findall(bare) if mark]
    if not entries:
        return text
    words = set(entries).union(_words_below(bare, *entries))
    lines, number = [], 0
    for line in FUNCTION.sub(lambda f: f[0] if f[2] in words else "", text).splitlines(keepends=True):
        if slot := BINDING.search(line):
            if slot[3] not in words:
                continue
            line = line.replace(f"@binding({slot[1]})", f"@binding({number})")
            number += 1
        lines.append(line)
    return "".join(lines)


# what it declares ----------------------------------------------------------------------------------------------------
@cache
def numbers(shader: str, constants: Constants = ()) -> dict[str, int]:
    """Every `const NAME: u32` of a shader by its name."""
    return _numbers(_with_constants(shader, constants))


def _numbers(text: str) -> dict[str, int]:
    values: dict[str, int] = {}
    for name, expression in re.findall(r"^const (\w+): u32 = ([^;]+);", text, re.M):
        values[name] = evaluate(expression, values)
    return values


OPERATORS: dict[type[ast.operator], Callable[[int, int], int]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.floordiv,
    ast.Mod: operator.mod,
}


def evaluate(expression: str, names: Mapping[str, int]) -> int:
    """A constant expression over u32: numbers, names, + - * / %, max and brackets."""

    def value(node: ast.expr) -> int:
        match node:
            case ast.Constant(value=int(number)):
                return number
            case ast.Name(id=name) if name in names:
                return names[name]
            case ast.BinOp(left=left, op=op, right=right) if type(op) in OPERATORS:
                return OPERATORS[type(op)](value(left), value(right))
            case ast.Call(func=ast.Name(id="max"), args=[a, b], keywords=[]):
                return max(value(a), value(b))
        raise MoebiusError(f"{expression!r} is no constant expression over {', '.join(names) or 'no constants'}.")

    try:
        tree = ast.parse(re.sub(r"\b(\d+)u\b", r"\1", expression.strip()), mode="eval")
    except SyntaxError:
        raise MoebiusError(f"{expression!r} is no constant expression.") from None
    return value(tree.body)


SHARED = re.compile(r"^var<workgroup> (\w+): array<([\w<>]+), ([^>]+)>;", re.M)
# From one element of an array to the next.
STRIDES = {"f16": 2, "vec2<f16>": 4, "f32": 4, "u32": 4, "i32": 4, "vec2<f32>": 8, "vec3<f32>": 16, "vec4<f32>": 16, "vec4<u32>": 16}
ALIAS = re.compile(r"^alias (\w+) = ([^;]+);", re.M)


@cache
def kernel(shader: str, entry: str, constants: Constants = ()) -> Kernel:
    """The workgroup of an entry point: its size, and the memory that it or a function below it uses."""
    text = re.sub(r"//.*", "", _with_constants(shader, constants))
    names = _numbers(text)
    head = re.search(rf"@workgroup_size\(([^)]+)\)\s*fn {entry}\(", text)
    if head is None:
        raise MoebiusError(f"{shader}.wgsl has no entry point {entry} with a workgroup size.")
    sides = [evaluate(side, names) for side in head[1].split(",")]
    used, types = _words_below(text, entry), dict(ALIAS.findall(text))
    nbytes = sum(STRIDES[types.get(kind, kind)] * evaluate(count, names) for name, kind, count in SHARED.findall(text) if name in used)
    return Kernel((sides[0], prod(sides[1:])), nbytes)


def _words_below(text: str, *entries: str) -> set[str]:
    """Every word in the bodies of these functions and of those that they call."""
    bodies = dict(re.findall(r"^fn (\w+)\((.*?)^\}", text, re.M | re.S))
    words, ahead = set[str](), list(entries)
    while ahead:
        below = set(re.findall(r"\w+", bodies[ahead.pop()])) - words
        words |= below
        ahead += below & bodies.keys()
    return words


ENTRY = re.compile(r"^@compute @workgroup_size\([^)]*\)\s*fn (\w+)\(.*?^\}\n", re.M | re.S)

# loops ---------------------------------------------------------------------------------------------------------------
UNROLL = re.compile(r"^( *)for \(var (\w+) = 0u; \2 < (\w+); \2\+\+\) \{ // unroll\n", re.M)


def _unroll(text: str, constants: Mapping[str, int], shader: str) -> str:
    at = 0
    while loop := UNROLL.search(text, at):
        indent, variable, bound = loop.groups()
        at = loop.start()
        end = text.find(f"\n{indent}}}\n", loop.end() - 1)
        if end < 0:
            raise MoebiusError(f"{shader}.wgsl: the loop over {variable} marked `// unroll` has no closing brace at its own indent.")
        count = constants[bound] if bound in constants else int(bound.removesuffix("u"))
        body = text[loop.end() : end + 1]
        # A block each, so that `let`s may repeat.
        index = re.compile(rf"\b{variable}\b")
        copies = "".join(f"{indent}{{\n" + index.sub(f"{i}u", body) + f"{indent}}}\n" for i in range(count))
        text = text[: loop.start()] + copies + text[end + len(indent) + 3 :]
    return text
