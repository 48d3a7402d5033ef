"""Matrix units: the kernels of gemm_matrix.wgsl in emulation on software drivers, the Dawn dialect under Tint, and who gets them.

What runs in emulation is the text that runs on units, but for the primitives of a dialect.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from cases import Case, conv3x3, linear, upsample_conv3x3
from harness import Guarded

from moebius.backends.webgpu import WebGPU
from moebius.backends.webgpu.caps import Matrix
from moebius.backends.webgpu.menu import UNITS, Gemm
from moebius.backends.webgpu.units import Units

ALL = frozenset(row.units.shape for row in UNITS if row.units)
EMULATED = Matrix("emulated", ALL)
SHAPES = ((16, 16, 16), (16, 8, 16), (8, 8, 8))


def small(shape: tuple[int, int, int], split: bool, across: int = 1, down: int = 2) -> Gemm:
    """A row of few fragments: drivers take long over the large ones."""
    m, n, k = shape
    return Gemm("units", m, n // 4, across, down, operands="f32" if split else "f16", units=Units(2 * k, m, n, k, lanes=16))


SMALL = [small(SHAPES[0], split=False), small(SHAPES[1], split=True, across=2), small(SHAPES[2], split=False, across=2)]
every_small = pytest.mark.parametrize("row", SMALL, ids=lambda row: row.key.replace(" ", "-"))


def halves(case: Case) -> Case:
    """With operands that halves hold, and sums of filters too: then f16 loses nothing, and a limit of f32 holds."""
    p = case.params
    weights = {name: np.round(p[name] * 64) / 64 if p[name].ndim > 1 else p[name] for name in case.shapes}
    return replace(case, inputs=[np.float32(np.round(a * 32) / 32) for a in case.inputs], weights=weights)


def checked(case: Case, gpu: WebGPU, row: Gemm, **options: Any) -> Guarded:
    """Within the limit of float32, which f16 must keep where it loses nothing."""
    return (case if row.operands == "f32" else halves(case)).check(gpu, row, precision=row.operands, **options)


# what they compute ---------------------------------------------------------------------------------------------------
@every_small
def test_units_run_every_mode_beyond_their_edges(llvmpipe: WebGPU, row: Gemm) -> None:
    check_modes(llvmpipe, row)


@pytest.mark.slow
@pytest.mark.parametrize("row", UNITS, ids=lambda row: row.key.replace(" ", "-"))
def test_every_row_on_units_runs_every_mode_beyond_its_edges(llvmpipe: WebGPU, row: Gemm) -> None:
    check_modes(llvmpipe, row)


def check_modes(gpu: WebGPU, row: Gemm) -> None:
    m, n = row.rows, 4 * row.columns4
    cases = [linear((1, 1, rows), depth, columns) for rows, columns, depth in ((m + 1, n + 1, 37), (m - 1, n - 1, 17), (5, 1, 3))]
    cases += [conv3x3((2, 5, 7), 17, n + 3), conv3x3((1, 7, 4), 6, 9, stride=2), upsample_conv3x3((1, 6, 9), 18, n)]
    for case in cases:
        dispatches = checked(case, gpu, row).dispatches
        assert [(d.shader, d.entry) for d in dispatches] == [("gemm_matrix", "units")]


def test_units_run_on_swiftshader(swiftshader: WebGPU) -> None:
    checked(linear((1, 1, 33), 37, 17), swiftshader, SMALL[0])
