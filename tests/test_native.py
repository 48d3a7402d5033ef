"""The private parts of wgpu: its header is read quickly, and means the same."""

from __future__ import annotations

import importlib
from contextlib import nullcontext
from typing import Any

import pytest

from moebius.backends.webgpu import header, native

TYPES = ["WGPULimits *", "uint8_t []", "void(WGPUDevice const *, WGPUErrorType, WGPUStringView, void *, void *)", "struct WGPUBufferImpl *"]


@pytest.mark.parametrize("name", TYPES)
def test_a_type_is_the_one_that_is_read_behind_all_others(name: str) -> None:
    parser = native.load("wgpu").backends.wgpu_native.ffi._parser
    known = dict(parser._declarations)
    assert len(known) > 500
    assert parser.parse_type(name) == type(parser).parse_type(parser, name)
    assert parser._declarations.items() >= known.items()
    assert type(parser).parse_type is not parser.parse_type.__func__  # of others' libraries nothing is changed


def test_every_function_of_the_header_is_there_and_no_pointer_type_of_one() -> None:
    parser = native.load("wgpu").backends.wgpu_native.ffi._parser
    source = native.load("wgpu").backends.wgpu_native._ffi.get_wgpu_header()
    names = {name.rpartition(" ")[2] for name in parser._declarations}
    assert {"wgpuDeviceCreateShaderModule", "wgpuGetProcAddress", "WGPUProc"} <= names
    dropped = [text.partition("(*")[2].partition(")")[0] for text in header.UNUSED.findall(source)]
    assert len(dropped) > 100
    assert not names & set(dropped)
    left = header.UNUSED.sub("", source)
    assert not any(name in left for name in dropped)


def test_fields_and_functions_are_those_that_cffi_reads() -> None:
    """All of them, and which of them are constant."""
    backend = native.load("wgpu").backends.wgpu_native
    source = backend._ffi.get_wgpu_header()
    _, fields, functions = header.taken_apart(source)
    assert (len(fields) > 100, len(functions) > 200) == (True, True)
    plain = importlib.import_module("cffi").FFI()
    plain.cdef(header.ENUM.sub(header.as_numbers, header.UNUSED.sub("", source)))

    def made(ffi: Any, key: str) -> str:
        of = ffi._parser._declarations[key][0]
        if not key.startswith("struct "):
            return repr(of)
        return repr((of.fldnames, of.fldtypes, of.fldquals, of.fldbitsize, of.packed or 0))

    keys = [key for key in plain._parser._declarations if key.startswith(("function ", "struct "))]
    assert len(keys) >= len(fields) + len(functions)
    assert {key: made(backend.ffi, key) for key in keys} == {key: made(plain, key) for key in keys}


def test_enumerations_are_their_numbers() -> None:
    backend = native.load("wgpu").backends.wgpu_native
    found = header.ENUM.findall(backend._ffi.get_wgpu_header())
    assert len(found) > 40
    for name, body in found:
        for member in filter(str.strip, body.split(",")):
            key, _, value = (word.strip() for word in member.partition("="))
            if value.isalnum():
                assert getattr(backend.lib, key) == int(value, 0), key
        assert backend.ffi.sizeof(name) == 4
    odd = header.ENUM.sub(header.as_numbers, "typedef enum A { X, Y = 3 } A;\ntypedef enum B { Z = 0x1, } B;\n")
    assert odd == "typedef enum A { X, Y = 3 } A;\n#define Z 0x1\ntypedef uint32_t B;\n"


STRANGE = {
    "an enumeration that is a field of what is left out": "typedef enum A { X = 1 } A;\ntypedef void (*WGPUProcX)(A a);\n"
    "typedef struct B { A a; WGPUProcX f; } B;\n",
    "a type that nothing declares": "typedef struct A { WGPUB b; } A;\nvoid wgpuX(A const * a);\n",
    "forms that are left to the parser": "typedef struct WGPUA { int a[3]; unsigned int b; } WGPUA;\nint wgpuX(WGPUA * const * a);\n",
}


@pytest.mark.parametrize("source", STRANGE.values(), ids=STRANGE)
def test_a_header_of_another_kind_is_read_as_it_is(source: str) -> None:
    ffi, plain = importlib.import_module("cffi").FFI(), importlib.import_module("cffi").FFI()
    errors = []
    for one, how in ((ffi, header.read_quickly()), (plain, nullcontext())):
        with how:
            try:
                one.cdef(source)
            except Exception as error:
                errors.append(type(error))
    assert len(errors) in (0, 2)
    assert ffi._parser._declarations.keys() == plain._parser._declarations.keys()
    for name in ("A", "B", "WGPUA"):
        if f"typedef {name}" in plain._parser._declarations:
            of = [[(n, f.type.cname, f.offset) for n, f in getattr(one.typeof(name), "fields", ())] for one in (ffi, plain)]
            assert of[0] == of[1]
