"""Matrix units: what the kernels of gemm_matrix.wgsl compute, in emulation on software drivers.

What runs in emulation is the text that runs on units, but for the primitives of a dialect. SwiftShader compiles it in a third of the time
that llvmpipe takes, which therefore runs a part of it. test_rows.py has every row of the menu.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from cases import OPS, ORACLE, Case, conv3x3, in_bands, linear, upsample_conv3x3
from goldens import noise, relative
from harness import Guarded
from matrix_cases import ALL, HALF, SHARED, SPLIT
from test_fused import FUSED

from moebius.backends.webgpu import WebGPU, prove, reach, wgsl
from moebius.backends.webgpu.calls import Epilogue, GemmCall, Operands, Phases, Rows, Taps, Weight
from moebius.backends.webgpu.caps import Matrix
from moebius.backends.webgpu.dispatch import Dispatch
from moebius.backends.webgpu.gemm import Dense
from moebius.backends.webgpu.menu import UNITS, Gemm
from moebius.backends.webgpu.plan import Plan
from moebius.backends.webgpu.recorder import Recorder
from moebius.backends.webgpu.tensor import NUMPY, Binding, Buffer, DType, Tensor, itemsize, read
from moebius.backends.webgpu.units import Units
from moebius.model.params import Checkpoint, Params
from moebius.model.synthetic import synthetic

Mode = Rows | Taps | Phases


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


@pytest.mark.parametrize(
    ("overlaid", "room", "passed"), [(False, 16384, (2, 2)), (False, 6000, (1, 2)), (False, 0, (1, 1)), (True, 4608, (2, 2))]
)
def test_a_subgroup_of_several_fragments_stores_each_in_its_place(
    swiftshader: WebGPU, overlaid: bool, room: int, passed: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """All at a time, or a row, or one where there is no room for more; beside the tile or over it."""
    monkeypatch.setattr(Units, "overlaid", overlaid)
    row = Gemm("units", 16, 4, 1, 2, units=Units(16, 8, 8, 8, lanes=16, room=room))
    assert tuple(row.constants()[name] for name in ("HIGH", "ABREAST")) == passed
    checked(linear((1, 1, 35), 40, 17), swiftshader, row)


def test_a_tile_has_room_for_what_is_passed_over_it() -> None:
    for dialect, per in (("dawn", 8), ("dawn", 2), ("dawn", 1), ("naga", 1), ("emulated", 1)):
        for row in UNITS:
            assert row.units
            given = replace(row, units=replace(row.units, dialect=dialect, per=per)).constants()
            assert given.get("OVERLAID", False) == given.get("OVERLAP", 0) == (per == 8 or dialect == "emulated")


def test_what_is_passed_over_a_tile_may_be_more_than_that(swiftshader: WebGPU) -> None:
    row = Gemm("units", 8, 2, 2, 2, operands="f16", units=Units(8, 8, 8, 8, lanes=4))
    numbers = wgsl.numbers(row.shader, tuple(sorted(row.constants().items())))
    assert row.workgroup_bytes == 4 * numbers["PASSED"] > 4 * numbers["STAGED"]
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


# halves in memory ----------------------------------------------------------------------------------------------------
def halved(
    gpu: WebGPU, row: Gemm, a: np.ndarray, w: np.ndarray, mode: Mode, dtype: DType, tail: int = 0, beside: np.ndarray | None = None
) -> tuple[np.ndarray, Dispatch]:
    """What a row makes of an image and of filters, both of this type in memory, and how. W has `tail` rows of NaN at its end."""
    recorder = Recorder(gpu.gpu, replace(gpu.caps, matrix=Matrix("emulated", ALL, row.units.lanes if row.units else 0)))
    (images, height, width, k), n, scale = a.shape, w.shape[-1], 2 if isinstance(mode, Phases) else 1

    def filled(array: np.ndarray) -> Buffer:
        return recorder.buffer(array.size * itemsize(dtype), "numbers", "pinned", lambda: array.astype(NUMPY[dtype]))

    left, right = Tensor(filled(a), (images, height, width, k - tail), dtype), filled(w)
    out = recorder.new((images, scale * height, scale * width, n), "product", "pinned")
    weight = Weight(Binding("w", "read", right, w.shape, dtype=dtype), packed=not tail)
    residuals = () if beside is None else (Tensor(recorder.buffer(out.nbytes, "beside", "pinned", lambda: beside), out.shape),)
    with recorder.open(eager=False) as recording:
        Dense(recorder, lambda caps, call: row)(
            GemmCall("op", "path", Operands(left, weight, out, k - tail, n), mode, Epilogue(residuals=residuals))
        )
        plan = Plan(recording, [], [out])
    plan.start()
    plan.replay()
    return read(out), plan.dispatches[0]


@pytest.mark.parametrize("row", [HALF, SHARED], ids=["f16", "shared"])
@pytest.mark.parametrize("mode", [Rows(), Taps(1, 1), Phases()], ids=lambda mode: mode.name)
def test_halves_in_memory_are_the_numbers_that_they_stand_for(swiftshader: WebGPU, row: Gemm, mode: Mode) -> None:
    """Of sums that are exact. K ends within a tile, and columns do; of W there may be fewer rows than are loaded, and no zeros behind."""
    random = np.random.default_rng(0)
    a, w = (
        np.float32(random.integers(-8, 9, size) / 8) for size in ((2, 3, 6, 40), (mode.side**2 * (4 if mode.side == 2 else 1) * 40, 24))
    )
    want, _ = halved(swiftshader, row, a, w, mode, "f32")
    got, dispatch = halved(swiftshader, row, a, w, mode, "f16")
    assert [dict(dispatch.constants)[name] for name in ("RAW_A", "RAW_W")] == [True, True]
    assert np.array_equal(got, want)
    if isinstance(mode, Rows):
        a[..., 39], w[39] = 0.0, np.nan
        want = a[..., :39] @ w[:39]
        assert np.array_equal(halved(swiftshader, row, a, w, mode, "f16", tail=1)[0], want)
        given = dispatch.constants, dispatch.params, dispatch.grid
        for name, is_whole in (("eps", True), ("inner", False), ("ldb4", False), ("n4", False)):
            found = reach.reach("gemm_matrix", given[0], {**given[1], name: dispatch.params[name] + 1}, given[2])
            assert found is not None
            assert found.whole == is_whole, name


@pytest.mark.parametrize("mode", [Taps(1, 1), Phases()], ids=lambda mode: mode.name)
def test_what_is_added_lies_where_the_sum_does(swiftshader: WebGPU, mode: Mode) -> None:
    """Of every phase, which no op asks for so far, and in rows beyond a tile."""
    random = np.random.default_rng(0)
    a, w = (np.float32(random.integers(-8, 9, size) / 8) for size in ((1, 5, 7, 8), (16 * 8 if mode.side == 2 else 9 * 8, 16)))
    want, _ = halved(swiftshader, HALF, a, w, mode, "f16")
    beside = np.arange(want.size, dtype=np.float32).reshape(want.shape)
    assert np.array_equal(halved(swiftshader, HALF, a, w, mode, "f16", beside=beside)[0], want + beside)


def test_an_infinity_in_memory_makes_no_number(llvmpipe: WebGPU) -> None:
    """Nor does it reach the rows beside its own, whose depth ends within a tile."""
    a, w = np.ones((20, 40), np.float32), np.ones((40, 16), np.float32)
    w[:, 3] = 0.0
    a[3, 5], a[7, 30], a[9, 0], a[11, 2] = np.inf, -np.inf, np.nan, 65504.0
    got = products(llvmpipe, HALF, a, w, "f16")
    assert np.flatnonzero(np.isnan(got).all(axis=1)).tolist() == [3, 7, 9]
    assert np.array_equal(np.delete(got, [3, 7, 9], axis=0), np.delete(a, [3, 7, 9], axis=0) @ w)


@pytest.mark.parametrize("row", [HALF, SHARED], ids=["alone", "shared"])
def test_what_no_norm_has_bounded_may_be_a_million(llvmpipe: WebGPU, row: Gemm) -> None:
    """In front of a convolution, and where it is quads; what is beyond makes no number. What is small loses nothing that counts."""
    assert row.units
    units, p = Matrix("emulated", frozenset([row.units.shape]), row.units.lanes), synthetic({f"{n}.bias": (16,) for n in "abcd"}, 0)
    sides = {"a": (3, 3), "b": (3, 3), "c": (1, 1), "d": (3, 3)}
    p |= {f"{n}.weight": np.float32(np.float16(noise(n, (16, 16, *side)))) for n, side in sides.items()}
    p["d.weight"] /= 4
    at = Params(Checkpoint(p)).at
    for size, number in ((1e-3, None), (1.0, None), (3e4, None), (1.0, 1.048e6), (1.0, 1.05e6), (1.0, -3e38)):
        x = noise("x", (1, 16, 6, 5)) * np.float32(size)
        if number is not None:
            x[0, 3, 2, 1] = number
        ops = Guarded(llvmpipe, row, kind="discrete", precision="f16", matrix=units)
        with ops.eager():
            t = ops.tensor(x)
            quads = ops.conv3x3(t, at("d"), inner=True)
            made = [ops.conv3x3(t, at("a")), ops.upsample_conv3x3(t, at("b")), ops.linear(quads, at("c"))]
            got, kept = [ops.read(y) for y in made], np.float64(ops.read(quads))
        wide = ORACLE.tensor(x)
        want = [ORACLE.conv3x3(wide, at("a")), ORACLE.upsample_conv3x3(wide, at("b")), ORACLE.linear(kept, at("c"))]
        for g, w in zip(got, want, strict=True):
            assert np.isfinite(g).all() == (number is None or abs(number) < 1.0485e6)
            sound = np.isfinite(g) & np.isfinite(w)
            assert sound.any()
            assert relative(g[sound], w[sound]) <= 2.0**-10


# splitting -----------------------------------------------------------------------------------------------------------
def products(gpu: WebGPU, row: Gemm, a: np.ndarray, w: np.ndarray, dtype: DType = "f32") -> np.ndarray:
    """a · w as a row of the menu makes it."""
    assert row.units
    return prove.product(gpu.gpu, Matrix("emulated", ALL, row.units.lanes), row, a, w, dtype)


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
