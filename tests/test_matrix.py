"""Matrix units: what the kernels of gemm_matrix.wgsl compute, in emulation on software drivers.

What runs in emulation is the text that runs on units, but for the primitives of a dialect. SwiftShader compiles it in a third of the time
that llvmpipe takes, which therefore runs a part of it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from cases import OPS, Case, conv3x3, in_bands, linear, upsample_conv3x3
from matrix_cases import ALL, HALF, SHARED, SPLIT
from test_fused import FUSED

from moebius.backends.webgpu import WebGPU, prove
from moebius.backends.webgpu.caps import Matrix
from moebius.backends.webgpu.menu import UNITS, Gemm
from moebius.backends.webgpu.units import Units


def halves(case: Case) -> Case:
    """With operands that halves hold, and sums of filters too: then f16 loses nothing, and a limit of f32 holds."""
    p = case.params
    weights = {name: np.round(p[name] * 64) / 64 if p[name].ndim > 1 else p[name] for name in case.shapes}
    return replace(case, inputs=[np.float32(np.round(a * 32) / 32) for a in case.inputs], weights=weights)


def checked(case: Case, gpu: WebGPU, row: Gemm, **options: Any) -> None:
    """Within the limit of float32, which f16 must keep where it loses nothing."""
    exact = case if row.operands == "f32" else halves(case)
    dispatches = exact.check(gpu, row, precision=row.operands, **options).dispatches
    assert [(d.shader, d.entry) for d in dispatches] == [("gemm_matrix", "units")]


def edges(row: Gemm) -> list[Case]:
    """Of a row or column beyond a tile, of one less, and of fewer than a subgroup has."""
    m, n = row.rows, 4 * row.columns4
    return [linear((1, 1, rows), depth, columns) for rows, columns, depth in ((m + 1, n + 1, 37), (m - 1, n - 1, 17), (5, 1, 3))]


def check_modes(gpu: WebGPU, row: Gemm) -> None:
    n = 4 * row.columns4
    # Channels that end within a tile of the depth, and with it.
    others = [conv3x3((2, 5, 7), 17, n + 3), conv3x3((1, 7, 4), 4 * row.depth4, 9, stride=2), upsample_conv3x3((1, 6, 9), 18, n)]
    for case in edges(row) + others:
        checked(case, gpu, row)


of_a_row = pytest.mark.parametrize("row", [HALF, SPLIT], ids=["f16", "split"])
of_every_row = pytest.mark.parametrize("row", [HALF, SPLIT, SHARED], ids=["f16", "split", "shared"])


# what they compute ---------------------------------------------------------------------------------------------------
@of_every_row
def test_units_run_every_mode_beyond_their_edges(swiftshader: WebGPU, row: Gemm) -> None:
    check_modes(swiftshader, row)


@of_every_row
def test_units_run_on_llvmpipe(llvmpipe: WebGPU, row: Gemm) -> None:
    checked(edges(row)[0], llvmpipe, row)


@pytest.mark.slow
@pytest.mark.parametrize("row", UNITS, ids=lambda row: row.key.replace(" ", "-"))
def test_every_row_on_units_runs_every_mode_beyond_its_edges(request: pytest.FixtureRequest, row: Gemm) -> None:
    """SwiftShader takes many minutes and gigabytes to compile a convolution whose threads stage eight vec4 each."""
    check_modes(request.getfixturevalue("swiftshader" if int(row.constants()["LOAD_A"]) <= 4 else "llvmpipe"), row)


def test_a_subgroup_of_several_fragments_stores_each_in_its_place(swiftshader: WebGPU) -> None:
    row = Gemm("units", 16, 4, 1, 2, units=Units(16, 8, 8, 8, lanes=16))
    checked(linear((1, 1, 35), 40, 17), swiftshader, row)


@pytest.mark.parametrize("name", ["attention", "self_lambda of a layer norm", "linear of two", "linear of a group norm with SiLU"])
def test_heads_in_rows_tails_and_what_is_made_as_it_is_loaded(swiftshader: WebGPU, name: str) -> None:
    kind = "discrete" if name in FUSED else None
    case = FUSED[name][0]((2, 5, 7)) if name in FUSED else OPS[name]((2, 5, 7))
    assert "gemm_matrix" in [d.shader for d in case.check(swiftshader, SPLIT, kind=kind).dispatches]


def test_units_run_in_bands(swiftshader: WebGPU) -> None:
    small_bindings: dict[str, int] = {"max_storage_buffer_binding_size": 4096}
    for case in (linear((2, 31, 7)), conv3x3((2, 31, 7)), upsample_conv3x3((2, 13, 5))):
        in_bands(case, swiftshader, "gemm_matrix", SPLIT, **small_bindings)


# splitting -----------------------------------------------------------------------------------------------------------
def products(gpu: WebGPU, row: Gemm, a: np.ndarray, w: np.ndarray) -> np.ndarray:
    """a · w as a row of the menu makes it."""
    assert row.units
    return prove.product(gpu.gpu, Matrix("emulated", ALL, row.units.lanes), row, a, w)


def parts(v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """hi and lo, as the header of gemm_matrix.wgsl says."""
    hi = (v.view(np.uint32) & 0xFFFFE000).view(np.float32)
    hi = np.where(np.abs(v) < 2.0**-14, np.float32(0), hi)
    lo = np.float64(np.float16(np.clip((v - hi) * np.float32(2048), -65504, 65504)))
    return np.float64(np.float16(hi)), lo


@pytest.mark.parametrize("scale", [1.0, 2.0**-14, 1e-7, 30000.0])
def test_splitting_is_within_its_bound_for_numbers_of_any_size(swiftshader: WebGPU, scale: float) -> None:
    random = np.random.default_rng(1)
    a = np.float32(random.standard_normal((20, 50)) * 10.0 ** random.uniform(-2, 0.3, (20, 50)) * min(scale, 6000))
    w = np.float32(random.standard_normal((50, 16)))
    got, terms = products(swiftshader, SPLIT, a, w), np.abs(np.float64(a)) @ np.abs(np.float64(w))
    (ah, al), (wh, wl) = parts(a), parts(w)
    made = ah @ wh + (ah @ wl + al @ wh) / 2048
    rounding = 8 * 2.0**-24 * np.sqrt(50)
    step = np.abs(w).sum(axis=0) * 2.0**-35  # of lo, where halves have fewer digits
    assert (np.abs(got - made) <= rounding * terms + step).all()  # the units' own sums, in f32, and lo rounded either way
    # From 2⁻¹⁴ on a number is off by 2⁻²⁰ of itself, and lo·lo is 2⁻²⁰ of a product; below, by 2⁻¹⁰ or by 2⁻³⁵.
    off = np.where(np.abs(a) < 2.0**-14, np.abs(a) * 2.0**-10 + 2.0**-35, np.abs(a) * 2.0**-20)
    bound = off @ np.abs(w) + 2.0**-19 * terms + np.abs(a).sum(axis=1, keepdims=True) * 2.0**-35 + rounding * terms
    assert (np.abs(got - np.float64(a) @ np.float64(w)) <= bound).all()
    assert scale != 1.0 or np.linalg.norm(got - np.float64(a) @ np.float64(w)) <= 1e-6 * np.linalg.norm(np.float64(a) @ np.float64(w))


@of_a_row
def test_what_no_half_holds_makes_no_wrong_number(llvmpipe: WebGPU, row: Gemm) -> None:
    """On llvmpipe: SwiftShader makes a NaN of every infinity that becomes a half."""
    a, w = np.ones((20, 33), np.float32), np.ones((33, 16), np.float32)
    a[3, 5], a[7, 30], a[9, 0], a[11, 2], a[12, 2], a[14, 1] = 65520.0, -1e6, np.nan, 65504.0, -65519.0, 2.0**17
    if row is SPLIT:
        a[3, 5] = 65536.0  # what is below, splitting holds
    got = products(llvmpipe, row, a, w)
    bad = ~np.isfinite(got).all(axis=1)
    assert np.flatnonzero(bad).tolist() == [3, 7, 9, 14]
    assert np.isnan(got[bad]).all()  # a softmax makes a sound 0 of -∞
    loss = 0.02 if row is SPLIT else 16.0
    assert np.abs(got[~bad] - np.float64(a[~bad]) @ w).max() <= loss
