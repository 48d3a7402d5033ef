"""Who runs without bounds checks, and who keeps them: by kernel, by implementation, by the environment."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from cases import OPS, self_lambda, upsample_conv3x3
from harness import in_mode

from moebius.backends.webgpu import WebGPU, native, reach
from moebius.backends.webgpu.device import Device
from moebius.backends.webgpu.menu import Gemm
from moebius.backends.webgpu.units import Units


def compiled(gpu: Device, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The labels of the modules that are made without checks from here on."""
    made: list[str] = []
    whole = native._unchecked_module
    monkeypatch.setattr(native, "_unchecked_module", lambda device, label, code: (made.append(label), whole(device, label, code))[1])
    monkeypatch.setattr(gpu, "_pipelines", {})
    return made


def test_kernels_with_a_row_are_compiled_without_checks_and_others_with_them(llvmpipe: WebGPU, monkeypatch: pytest.MonkeyPatch) -> None:
    made = compiled(llvmpipe.gpu, monkeypatch)
    monkeypatch.setattr(llvmpipe.gpu, "caps", replace(llvmpipe.caps, checked=False))
    llvmpipe.gpu.pipeline("softmax", "main", ())
    assert made == ["softmax"]
    monkeypatch.delitem(reach.REACH, "layer_norm")
    llvmpipe.gpu.pipeline("layer_norm", "main", ())
    monkeypatch.setattr(llvmpipe.gpu, "caps", replace(llvmpipe.caps, checked=True))
    llvmpipe.gpu.pipeline("transpose", "main", ())
    assert made == ["softmax"]


def test_without_the_private_call_kernels_are_compiled_with_checks(llvmpipe: WebGPU, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(*_: Any) -> Any:
        raise AttributeError("wgpuDeviceCreateShaderModuleTrusted")

    monkeypatch.setattr(native, "_unchecked_module", gone)
    monkeypatch.setattr(llvmpipe.gpu, "caps", replace(llvmpipe.caps, checked=False))
    monkeypatch.setattr(llvmpipe.gpu, "_pipelines", {})
    OPS["layer_norm"]((1, 5, 3)).check(llvmpipe)


@pytest.mark.parametrize(("given", "unchecked"), [(None, True), ("", True), ("0", True), ("1", False)])
def test_the_environment_keeps_checks(given: str | None, unchecked: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(native.CHECKED, raising=False)
    if given is not None:
        monkeypatch.setenv(native.CHECKED, given)
    assert native.may_be_unchecked() == unchecked


@pytest.fixture(scope="module", params=[False, True], ids=["unchecked", "checked"])
def either(request: pytest.FixtureRequest, llvmpipe: WebGPU) -> WebGPU:
    """llvmpipe in both modes, whichever the tests run in."""
    with pytest.MonkeyPatch.context() as patch:
        return in_mode(llvmpipe, request.param, patch)


@pytest.mark.parametrize("name", ["linear", "conv3x3 stride 2", "dwconv with all", "group_norm with SiLU", "cross_lambda", "softmax"])
def test_kernels_keep_to_their_guards_in_both_modes(either: WebGPU, name: str) -> None:
    for size in [(1, 1, 1), (2, 5, 7)]:
        OPS["attention" if name == "softmax" else name](size).check(either)


def test_bands_and_tiles_keep_to_their_guards_in_both_modes(either: WebGPU) -> None:
    on_units = Gemm("units", 8, 2, 2, 2, units=Units(16, 8, 8, 8, lanes=8))
    in_groups = Gemm("blocked", 8, 1, 8, 4, groups=2)
    for row in (Gemm("tiled", 2, 1, 8, 8), Gemm("staged", 2, 1, 8, 8), in_groups, Gemm("thin", 4, 2, 8, 4), on_units):
        upsample_conv3x3((2, 13, 5)).check(either, row, max_storage_buffer_binding_size=4096)
    self_lambda((1, 6, 9)).check(either, fold=2)


def test_dawn_drops_its_checks_by_the_device(dawn: WebGPU, monkeypatch: pytest.MonkeyPatch) -> None:
    extras = pytest.importorskip("wgpudawn.backends.dawn.extras")
    for keep, expected in (("0", True), ("1", False)):
        monkeypatch.setenv(native.CHECKED, keep)
        device = Device.open("dawn:SwiftShader")
        toggles = extras.get_toggles(device.device)
        assert [name in toggles for name in native.UNCHECKED_TOGGLES] == [expected] * 3
        assert not set(native.ROUNDING_TOGGLES) & set(toggles)
        assert set(native.ROUNDING_TOGGLES) <= extras.all_toggles().keys()
