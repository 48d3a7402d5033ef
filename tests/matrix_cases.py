"""Rows of the menu on matrix units that compile quickly, and devices that have such units."""

from __future__ import annotations

from dataclasses import replace

from test_menu import H200, call

from moebius.backends.webgpu import wgsl
from moebius.backends.webgpu.calls import GemmCall, Phases, Taps
from moebius.backends.webgpu.caps import Matrix
from moebius.backends.webgpu.menu import UNITS, Gemm
from moebius.backends.webgpu.tensor import Tensor
from moebius.backends.webgpu.units import Units

ALL = frozenset(row.units.shape for row in UNITS if row.units)
DAWN = Matrix("dawn", ALL)
OTHERS = (call(8192, 320, 320), call(512, 1280, 1280), call(16384, 512, 512, Taps(1, 1)), call(256, 1280, 1280, Phases()))


# Of one fragment a subgroup: drivers take long over more, and over more values a lane.
HALF = Gemm("units", 16, 2, 1, 2, operands="f16", units=Units(32, 16, 8, 16, lanes=16))  # no two sides alike
SPLIT = Gemm("units", 8, 2, 2, 2, operands="f32", units=Units(16, 8, 8, 8, lanes=8))
SHARED = Gemm("units", 8, 2, 1, 2, operands="f16", units=Units(16, 8, 8, 8, share=2, lanes=4))


def text(row: Gemm, wanted: GemmCall, matrix: Matrix) -> str:
    """What is compiled for a device with such units."""
    row = row.on(replace(H200, matrix=matrix))
    constants = {**wanted.constants(), **row.options(wanted), **row.constants()}
    halves = {"a": wanted.operands.a.dtype, "w": wanted.operands.w.binding.dtype}
    constants[wgsl.HALVES] = " ".join(name for name, dtype in halves.items() if dtype == "f16")
    return wgsl.specialise(row.shader, tuple(sorted(constants.items())), row.entry)


def stored(wanted: GemmCall) -> GemmCall:
    """The call on halves in memory."""
    operands = wanted.operands
    a, w = operands.a, operands.w
    half = replace(operands, a=Tensor(a.buffer, a.shape, "f16"), w=replace(w, binding=replace(w.binding, dtype="f16")))
    return replace(wanted, operands=half)
