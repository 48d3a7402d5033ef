"""The kinds of browsers that an export has an edition for, and what the page's check holds each to."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from moebius.backends.webgpu import choice
from moebius.backends.webgpu.calls import GemmCall
from moebius.backends.webgpu.caps import Caps, Matrix, Unit
from moebius.backends.webgpu.choice import Choose
from moebius.backends.webgpu.menu import UNITS, Gemm
from moebius.model.contract import Precision

PLAIN, WIDE = "plain", "wide"
SHAPES = tuple(dict.fromkeys(row.units.shape for row in UNITS if row.units is not None))  # of matrix units, an edition each
# What a browser grants that shows matrix units, and how many lanes its subgroups must have then.
FEATURES, LANES = frozenset({"chromium-experimental-subgroup-matrix", "shader-f16", "subgroups"}), 32
# How far the sample may be from what the native run in float64 made: the most of any value, the mean of all, in grey levels, and the PSNR.
BOUNDS: dict[Precision, dict[str, float]] = {"f32": {"levels": 1}, "f16": {"mean": 1, "psnr": 45}}
# Outputs and products for each from which f32 by splitting was measured to be ahead: 61 to 67 TFLOP/s, where plain f32 makes 40 (H200).
LARGE, DEEP = 2**23, 320


@dataclass(frozen=True)
class Target:
    """One kind: what its device can do, who picks the kernels there, and what a browser must have."""

    name: str
    caps: Caps
    stored: Precision  # of the weights
    choose: Choose = choice.choose

    def about(self) -> dict[str, Any]:
        """What plan.json says of its edition."""
        out: dict[str, Any] = {"precision": self.caps.precision, "bound": BOUNDS[self.stored], "features": sorted(self.caps.features)}
        for unit in self.caps.matrix.shapes if self.caps.matrix else ():
            out |= {"units": {name: getattr(unit, name) for name in Unit.__annotations__}, "lanes": LANES}
        return out


def targets(precision: Precision, software: bool) -> list[Target]:
    """The quickest first; every browser can do the last, whose numbers are all f32 but for what is stored: a picture that is too much for
    f16 is made with it."""
    found = [] if software else [_with_units(shape, precision) for shape in SHAPES]
    found.append(Target(PLAIN, Caps.browser(software, precision), precision))
    if precision == "f16":
        found.append(Target(WIDE, Caps.browser(software), precision))
    return found


def _with_units(unit: Unit, precision: Precision) -> Target:
    caps = replace(Caps.browser(precision=precision), features=FEATURES, matrix=Matrix("dawn", frozenset({unit}), LANES))
    return Target(_name(unit), caps, precision, choice.choose if precision == "f16" else split_where_large)


def split_where_large(caps: Caps, call: GemmCall) -> Gemm:
    """Matrix units for the layers that are large enough, by splitting; the largest tile."""
    outputs, depth = call.phases * call.rows * call.operands.n, 4 * call.k4 * call.mode.side**2
    rows = [row for row in UNITS if row.fits(caps) and row.supports(call)] if outputs >= LARGE and depth >= DEEP else []
    return max(rows, key=Gemm.outputs, default=None) or choice.choose(caps, call)


def _name(unit: Unit) -> str:
    return f"units-{unit.m}x{unit.n}x{unit.k}"


NAMES = (*map(_name, SHAPES), PLAIN, WIDE)
