"""wgpu's header, read quickly. cffi reads it at every start with a parser in Python, which takes longer than all else of importing wgpu."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from threading import get_ident
from types import MethodType
from typing import Any

WORD = re.compile(r"\w+")
KINDS = ("typedef", "struct", "union", "enum")
UNUSED = re.compile(r"^typedef [^;{}]*\(\*WGPUProc\w+\)\([^;{}]*\);\n", re.M)  # pointers to functions, which are called by their names
ENUM = re.compile(r"^typedef enum (\w+)\s*\{([^{}]*)\}\s*\1;\n", re.M)
MEMBER = re.compile(r"\s*(\w+)\s*=\s*(0x[0-9A-Fa-f]{1,8}|[0-9]{1,9})\s*")  # that has 32 bits
STRUCT = re.compile(r"^typedef struct (\w+)\s*\{([^{}]*)\}\s*\1;\n", re.M)
FUNCTION = re.compile(r"^([\w *]+?)\b(wgpu[A-Z]\w*)\(([^(){};]*)\);\n", re.M)
VALUE = re.compile(r"\s*(struct )?(\w+)( const\b)? ?(\*?) ?(\w*)\s*")  # a field, an argument or what is returned


@contextmanager
def read_quickly() -> Iterator[None]:
    """While wgpu is imported. Half of the header is for what nothing uses, and for enumerations, which are numbers. Of structures and
    functions the parser is given the names alone; their fields and arguments are of a few forms, and looked up. And the name of a type
    cffi reads by parsing it behind the names of all types, which takes tens of milliseconds a name, and a device needs eighty; here it
    is read behind those that it consists of. Where cffi or the header is another than the one known here, all stays as it is."""
    try:
        parser, library = importlib.import_module("cffi.cparser").Parser, importlib.import_module("cffi").FFI
        parse_type, cdef = parser.parse_type, library.cdef
    except (ImportError, AttributeError):
        yield
        return

    thread = get_ident()

    def typed(self: Any, name: str) -> Any:
        with suppress(Exception):  # a name that needs others, or is wrong, or another cffi
            every = self._declarations
            few = {key: every[key] for word in WORD.findall(name) for kind in KINDS if (key := f"{kind} {word}") in every}
            try:
                self._declarations = few
                found = parse_type(self, name)
                every.update(few)
                return found
            finally:
                self._declarations = every
        return parse_type(self, name)

    def declared(self: Any, *sources: Any, **options: Any) -> Any:
        if thread == get_ident() and len(sources) == 1 and not options:  # and not another library's, on another thread
            with suppress(Exception):  # a header that needs what is left out, or another cffi
                if "WGPU" in sources[0] and not self._parser._declarations:
                    other = library()
                    text, fields, functions = taken_apart(sources[0])
                    cdef(other, text)
                    fill(other._parser, fields, functions)
                    self._cdefsources.append(sources[0])
                    self._parser = other._parser
                    return
        cdef(self, *sources, **options)

    parser.parse_type, library.cdef = typed, declared
    try:
        yield  # what is imported meanwhile names types, too
        with suppress(ImportError, AttributeError):
            own = importlib.import_module("wgpu.backends.wgpu_native").ffi._parser
            own.parse_type = MethodType(typed, own)
    finally:
        parser.parse_type, library.cdef = parse_type, cdef


Values = list[tuple[str, ...]]  # as VALUE finds them: "struct " or nothing, the name of the type, " const", "*", a name


def taken_apart(source: str) -> tuple[str, dict[str, Values], dict[str, Values]]:
    """What is left for the parser; the fields of structures that are empty there; of functions what they return, and their arguments."""
    fields: dict[str, Values] = {}
    functions: dict[str, Values] = {}

    def emptied(struct: re.Match[str]) -> str:
        found = [VALUE.fullmatch(text) for text in struct[2].split(";") if text.strip()]
        values = [value.groups("") for value in found if value is not None and value[5]]
        if len(values) < len(found):
            return struct[0]
        fields[struct[1]] = values
        return f"typedef struct {struct[1]} {struct[1]};\n"

    def dropped(function: re.Match[str]) -> str:
        found = [VALUE.fullmatch(text) for text in (function[1], *function[3].split(","))]
        if None in found or (found[0] and found[0][5]):  # the second word would be how it is called
            return function[0]
        functions[function[2]] = [value.groups("") for value in found if value is not None]
        return ""

    text = ENUM.sub(as_numbers, UNUSED.sub("", source))
    return FUNCTION.sub(dropped, STRUCT.sub(emptied, text)), fields, functions


def as_numbers(enum: re.Match[str]) -> str:
    """An enumeration as what it is to who calls the library: names of numbers of 32 bits. As it was, where a member has no plain number."""
    members = [MEMBER.fullmatch(text) for text in enum[2].split(",") if text.strip()]
    numbers = "".join(f"#define {member[1]} {member[2]}\n" for member in members if member is not None)
    return enum[0] if None in members else f"{numbers}typedef uint32_t {enum[1]};\n"


def fill(parser: Any, fields: dict[str, Values], functions: dict[str, Values]) -> None:
    """What was taken out of the text, as cffi's own parser would have made it."""
    model, common = importlib.import_module("cffi.model"), importlib.import_module("cffi.commontypes").resolve_common_type
    declared = parser._declarations

    def read(struct: str, name: str, const: str, star: str, _: str) -> tuple[Any, int]:
        key = f"struct {name}" if struct else f"typedef {name}"
        type_, how = (model.void_type, 0) if name == "void" else declared[key] if key in declared or struct else common(parser, name)
        how |= model.Q_CONST if const else 0
        return (parser._get_type_pointer(type_, how), 0) if star else (type_, how)

    for name, values in fields.items():
        struct, _ = declared[f"struct {name}"]
        if struct.fldnames is not None or struct.completed:
            raise ValueError(name)
        struct.fldtypes, struct.fldquals = zip(*(read(*value) for value in values), strict=True)
        struct.fldnames, struct.fldbitsize, struct.packed = tuple(value[4] for value in values), (-1,) * len(values), 0
    for name, (returned, *arguments) in functions.items():
        given = tuple(parser._as_func_arg(*read(*value)) for value in arguments if value[1] != "void" or value[3])
        parser._declare(f"function {name}", model.RawFunctionType(given, read(*returned)[0], False).as_function_pointer())
