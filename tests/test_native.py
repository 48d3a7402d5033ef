"""The private parts of wgpu: its header is read quickly, and means the same."""

from __future__ import annotations

import importlib
from contextlib import nullcontext
from dataclasses import replace
from threading import Lock, Thread, get_ident
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from cases import OPS

from moebius.backends.webgpu import WebGPU, header, native, wgsl
from moebius.backends.webgpu.caps import Kind
from moebius.backends.webgpu.device import Device
from moebius.backends.webgpu.menu import CPU
from moebius.backends.webgpu.readback import Readback
from moebius.backends.webgpu.tensor import Buffer
from moebius.errors import MoebiusError

KINDS: tuple[Kind, ...] = ("software", "discrete")
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
    wide = "typedef enum A { X = 0x100000000 } A;\n"
    assert header.ENUM.sub(header.as_numbers, wide) == wide
    odd = header.ENUM.sub(header.as_numbers, "typedef enum A { X, Y = 3 } A;\ntypedef enum B { Z = 0x1, } B;\n")
    assert odd == "typedef enum A { X, Y = 3 } A;\n#define Z 0x1\ntypedef uint32_t B;\n"


STRANGE = {
    "an enumeration that is a field of what is left out": "typedef enum A { X = 1 } A;\ntypedef void (*WGPUProcX)(A a);\n"
    "typedef struct B { A a; WGPUProcX f; } B;\n",
    "a type that nothing declares": "typedef struct A { WGPUB b; } A;\nvoid wgpuX(A const * a);\n",
    "another way of calling": "typedef struct WGPUA { int a; } WGPUA;\nint WINAPI wgpuX(WGPUA a);\nint __stdcall wgpuY(void);\n",
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
    functions = [
        [repr(one._parser._declarations[key][0]) for key in plain._parser._declarations if "function" in key] for one in (ffi, plain)
    ]
    assert functions[0] == functions[1]
    for name in ("A", "B", "WGPUA"):
        if f"typedef {name}" in plain._parser._declarations:
            of = [[(n, f.type.cname, f.offset) for n, f in getattr(one.typeof(name), "fields", ())] for one in (ffi, plain)]
            assert of[0] == of[1]


def test_another_librarys_calls_mean_the_same_meanwhile() -> None:
    """In every form that `cdef` has, on this thread and another, and on top of what was declared before."""
    made = []

    def declare() -> None:
        ffi = importlib.import_module("cffi").FFI()
        ffi.cdef("typedef struct { char a; int b; } WGPUA;", False, True)
        ffi.cdef(csource="typedef struct { char a; int b; } WGPUB;", packed=True)
        ffi.cdef("typedef enum WGPUC { X = 1 } WGPUC;\n")
        made.append((ffi.sizeof("WGPUA"), ffi.sizeof("WGPUB"), ffi.typeof("WGPUC").elements))

    def fresh() -> None:
        ffi = importlib.import_module("cffi").FFI()
        ffi.cdef("typedef enum WGPUC { X = 1 } WGPUC;\n")
        made.append(ffi.typeof("WGPUC").kind)

    with header.read_quickly():
        declare()
        fresh()
        for work in (declare, fresh):
            (thread := Thread(target=work)).start()
            thread.join()
    assert made == [(5, 5, {1: "X"}), "primitive", (5, 5, {1: "X"}), "enum"]


def test_another_cffi_reads_it_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """One whose parser keeps what it reads elsewhere."""
    made: list[Any] = []

    class Parser:
        def parse_type(self, name: str) -> str:
            return f"type {name}"

    class FFI:
        def __init__(self) -> None:
            self._parser, self.lock = Parser(), Lock()

        def cdef(self, source: str, override: bool = False) -> None:
            made.append(source)

    found = {"cffi.cparser": SimpleNamespace(Parser=Parser), "cffi": SimpleNamespace(FFI=FFI)}
    monkeypatch.setattr(header, "importlib", SimpleNamespace(import_module=lambda name: found.get(name, SimpleNamespace())))
    with header.read_quickly():
        ffi = FFI()
        ffi.cdef("typedef enum WGPUA { X = 1 } WGPUA;\n")
        assert ffi._parser.parse_type("WGPUA") == "type WGPUA"
    assert made == ["typedef enum WGPUA { X = 1 } WGPUA;\n"]
    assert Parser.parse_type.__name__ == "parse_type"


# another version of wgpu ---------------------------------------------------------------------------------------------
class Without:
    """A module or library in which one name is not there."""

    def __init__(self, whole: Any, name: str) -> None:
        self._whole, self._name = whole, name

    def __getattr__(self, name: str) -> Any:
        if name == self._name:
            raise AttributeError(name)
        return getattr(self._whole, name)


LOST = {  # a private name, and what is not there without it
    "libf": {"unchecked", "number", "period"},
    "lib": {"unchecked", "number", "calls"},
    "ffi": {"unchecked", "number", "calls"},
    "new_struct_p": {"unchecked"},
    "new_array": {"number"},
    "to_c_string_view": {"unchecked"},
    "GPUShaderModule": {"unchecked"},
    "libf.wgpuDeviceCreateShaderModuleTrusted": {"unchecked"},
    "libf.wgpuQueueSubmitForIndex": {"number"},
    "libf.wgpuDevicePoll": {"number"},
    "libf.wgpuBufferMapAsync": {"number"},
    "new_struct": {"number"},
    "libf.wgpuQueueGetTimestampPeriod": {"period"},
    "lib.wgpuComputePassEncoderSetBindGroup": {"calls"},
    "": {"unchecked", "number", "period", "calls"},  # the module itself
}


def test_what_is_waited_for_is_one_submission(monkeypatch: pytest.MonkeyPatch) -> None:
    api, asked = importlib.import_module(native.PRIVATE), list[Any]()
    polls = SimpleNamespace(wgpuDevicePoll=lambda device, wait, index: asked.append((device, wait, index[0])))
    monkeypatch.setattr(native, "importlib", SimpleNamespace(import_module=lambda name: SimpleNamespace(libf=polls, ffi=api.ffi)))
    for submitted in (7, None):
        native.wait(api, SimpleNamespace(_internal="device"), submitted)
    assert asked == [("device", True, 7)]


@pytest.mark.parametrize("name", LOST)
def test_what_another_wgpu_has_not_is_done_without(llvmpipe: WebGPU, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels keep their checks, a result is waited for with all that is queued, times are the wall's; and all else goes on."""
    gpu, api = llvmpipe.gpu, importlib.import_module(native.PRIVATE)
    part, _, last = name.rpartition(".")
    changed = Without(api, last) if not part else Without(SimpleNamespace(**vars(api) | {part: Without(getattr(api, part), last)}), "")

    def imported(module: str) -> Any:
        if not name:
            raise ImportError(module)
        return changed

    monkeypatch.setattr(native, "importlib", SimpleNamespace(import_module=imported))
    opened = Device(gpu.implementation, gpu.module, gpu.device, gpu.info, replace(gpu.caps, checked=False))
    found = {"period"} if opened.timestamps == gpu.timestamps else set()
    source = Buffer(opened, 16, "source", "pinned", lambda: np.arange(4, dtype=np.float32))
    source.allocate()
    coming = Readback(opened, [(source, 16)])
    coming.submit(opened.device.create_command_encoder())
    found |= {"number"} if coming._submitted is not None else set()
    reads, read = list[Any](), native._read_now
    monkeypatch.setattr(native, "_read_now", lambda *args: reads.append(args) or read(*args))
    assert coming.read()[0].view(np.float32).tolist() == [0, 1, 2, 3]
    assert bool(reads) == ("number" in found)
    whole = native._unchecked_module
    made: list[Any] = []
    monkeypatch.setattr(native, "_unchecked_module", lambda *args: made.append(whole(*args)) or made[-1])
    opened.pipeline("softmax", "main", ())
    found |= {"unchecked"} if made else set()
    encoder = opened.device.create_command_encoder()
    run = encoder.begin_compute_pass()
    found |= {"calls"} if native.calls(opened.module, run)[2] != run.dispatch_workgroups else set()
    run.end()
    OPS["attention"]((1, 3, 1)).check(WebGPU(opened), CPU)
    assert found == {"unchecked", "number", "period", "calls"} - LOST[name]


@pytest.mark.parametrize("implementation", ["llvmpipe", "dawn"])
def test_a_gpus_pipelines_are_made_together_and_what_fails_fails_where_it_is_wanted(
    implementation: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu, wrong = request.getfixturevalue(implementation).gpu, "softmax"
    keys = [(shader, "main", ()) for shader in ("concat", "transpose", wrong, "layer_norm", "concat")]
    specialise, makers, asked = wgsl.specialise, set[int](), list[str]()

    def specialised(shader: str, constants: wgsl.Constants = (), entry: str | None = None) -> str:
        makers.add(get_ident())
        asked.append(shader)
        return "fn" if shader == wrong else specialise(shader, constants, entry)

    monkeypatch.setattr(wgsl, "specialise", specialised)
    software, discrete = (Device(gpu.implementation, gpu.module, gpu.device, gpu.info, replace(gpu.caps, kind=k)) for k in KINDS)
    for device, there in ((software, set()), (discrete, {"concat", "transpose", "layer_norm"})):
        with device.compiling(keys):
            pass
        assert {shader for shader, _, _ in device._pipelines} == there
    with discrete.compiling([keys[0], keys[1], keys[3]]):  # which are there
        pass
    assert sorted(asked) == ["concat", "layer_norm", wrong, "transpose"]
    assert (get_ident() in makers) == (implementation == "dawn")  # which has threads of its own
    made = dict(discrete._pipelines)
    with pytest.raises(MoebiusError, match=r"failed while compiling softmax\.wgsl"):
        discrete.pipeline(*keys[2])
    assert {key: discrete.pipeline(*key) for key in made} == made
    with pytest.raises(MoebiusError, match="of the block"), discrete.compiling([("group_apply", "main", ()), ("group_finish", "main", ())]):
        raise MoebiusError("of the block")
    case = OPS["attention"]((1, 5, 7))
    monkeypatch.undo()
    case.check(WebGPU(Device(gpu.implementation, gpu.module, gpu.device, gpu.info, discrete.caps)), CPU)
