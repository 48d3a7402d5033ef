"""From a .wgsl file to a pipeline: constants say how (compiled in), `Params` says how big (a uniform).

A shader file is complete WGSL with default constants. `specialise` does three things to its text and no more:
`// include FILE` lines are replaced by the file, `const NAME … = value;` and `alias NAME = type;` get the given values, and
loops marked `// unroll` are written out (naga never unrolls, and arrays indexed at run time spill).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

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


@cache
def source(shader: str) -> str:
    """The text of shaders/<shader>.wgsl."""
    return (files("moebius.shaders") / f"{shader}.wgsl").read_text(encoding="utf-8")


@cache
def interface(shader: str) -> Interface:
    text = source(shader)
    slots = tuple(
        Slot(int(index), name, (access or "uniform").removeprefix("storage, "))
        for index, access, name in re.findall(r"@binding\((\d+)\) var<(?:(storage, read_write|storage, read)|uniform)> (\w+)", text)
    )
    struct = re.search(r"struct Params \{(.*?)\}", text, re.S)
    fields = re.findall(r"^\s*(\w+): (u32|f32),", struct[1], re.M) if struct else []
    return Interface(slots, tuple(fields))


@cache
def specialise(shader: str, constants: Constants = ()) -> str:
    """The WGSL that is compiled."""
    text = re.sub(r"^// include (\w+)\.wgsl$", lambda m: source(m[1]), source(shader), flags=re.M)
    for name, value in constants:
        literal = str(value).lower() if isinstance(value, bool) else f"{value}u" if isinstance(value, int) else value
        text, found = re.subn(rf"^((?:const {name}: \w+|alias {name}) =) [^;]+;", rf"\g<1> {literal};", text, flags=re.M)
        if found != 1:
            raise MoebiusError(f"{shader}.wgsl has {found} declarations of {name}, not one.")
    known = {name: value for name, value in re.findall(r"^const (\w+): u32 = (\d+)u;", text, re.M)}
    return _unroll(text, known, shader)


UNROLL = re.compile(r"^( *)for \(var (\w+) = 0u; \2 < (\w+); \2\+\+\) \{ // unroll\n", re.M)


def _unroll(text: str, constants: dict[str, str], shader: str) -> str:
    while loop := UNROLL.search(text):
        indent, variable, bound = loop.groups()
        end = text.find(f"\n{indent}}}\n", loop.end() - 1)
        if end < 0:
            raise MoebiusError(f"{shader}.wgsl: the loop over {variable} marked `// unroll` has no closing brace at its own indent.")
        count = int(constants.get(bound, bound.removesuffix("u")))
        body = text[loop.end() : end + 1]
        # A block each, so that `let`s may repeat.
        index = re.compile(rf"\b{variable}\b")
        copies = "".join(f"{indent}{{\n" + index.sub(f"{i}u", body) + f"{indent}}}\n" for i in range(count))
        text = text[: loop.start()] + copies + text[end + len(indent) + 3 :]
    return text
