"""The private parts of wgpu: its header is read quickly, and means the same."""

from __future__ import annotations

import pytest

from moebius.backends.webgpu import native

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
