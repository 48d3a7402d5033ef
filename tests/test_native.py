"""The private parts of wgpu: its header is read quickly, and means the same."""

from __future__ import annotations

import importlib
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from moebius.backends.webgpu import WebGPU, native
from moebius.backends.webgpu.device import Device
from moebius.backends.webgpu.readback import Readback
from moebius.backends.webgpu.tensor import Buffer

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
    header = native.load("wgpu").backends.wgpu_native._ffi.get_wgpu_header()
    names = {name.rpartition(" ")[2] for name in parser._declarations}
    assert {"wgpuDeviceCreateShaderModule", "wgpuGetProcAddress", "WGPUProc"} <= names
    dropped = [text.partition("(*")[2].partition(")")[0] for text in native.UNUSED.findall(header)]
    assert len(dropped) > 100
    assert not names & set(dropped)
    left = native.UNUSED.sub("", header)
    assert not any(name in left for name in dropped)


def test_enumerations_are_their_numbers() -> None:
    backend = native.load("wgpu").backends.wgpu_native
    found = native.ENUM.findall(backend._ffi.get_wgpu_header())
    assert len(found) > 40
    for name, body in found:
        for member in filter(str.strip, body.split(",")):
            key, _, value = (word.strip() for word in member.partition("="))
            if value.isalnum():
                assert getattr(backend.lib, key) == int(value, 0), key
        assert backend.ffi.sizeof(name) == 4
    odd = native.ENUM.sub(native._as_numbers, "typedef enum A { X, Y = 3 } A;\ntypedef enum B { Z = 0x1, } B;\n")
    assert odd == "typedef enum A { X, Y = 3 } A;\n#define Z 0x1\ntypedef uint32_t B;\n"


def test_a_header_that_needs_what_is_left_out_is_read_as_it_is() -> None:
    ffi = importlib.import_module("cffi").FFI()
    with native._header_read_quickly():
        ffi.cdef("typedef enum A { X = 1 } A;\ntypedef void (*WGPUProcX)(A a);\ntypedef struct B { A a; WGPUProcX f; } B;\n")
    assert ffi.typeof("A").elements == {1: "X"}
    assert [name for name, _ in ffi.typeof("B").fields] == ["a", "f"]


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
    "lib": {"unchecked"},
    "ffi": {"unchecked", "number"},
    "new_struct_p": {"unchecked"},
    "new_array": {"number"},
    "to_c_string_view": {"unchecked"},
    "GPUShaderModule": {"unchecked"},
    "libf.wgpuDeviceCreateShaderModuleTrusted": {"unchecked"},
    "libf.wgpuQueueSubmitForIndex": {"number"},
    "libf.wgpuDevicePoll": {"number"},
    "libf.wgpuQueueGetTimestampPeriod": {"period"},
    "": {"unchecked", "number", "period"},  # the module itself
}


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
    assert coming.read()[0].view(np.float32).tolist() == [0, 1, 2, 3]
    whole = native._unchecked_module
    made: list[Any] = []
    monkeypatch.setattr(native, "_unchecked_module", lambda *args: made.append(whole(*args)) or made[0])
    opened.pipeline("softmax", "main", ())
    found |= {"unchecked"} if made else set()
    assert found == {"unchecked", "number", "period"} - LOST[name]
