"""Four numbers under one exponent: how a GPU in half precision keeps what convolutions hand to norms, which no half may hold."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import product
from typing import Any

import numpy as np
import pytest
from cases import ORACLE, distance
from goldens import noise, relative
from harness import Guarded, always
from matrix_cases import HALF, SHARED
from test_halves import CODER as SHARING
from test_halves import through
from test_kernels_dense import LARGE, LINES, SMALL

from moebius.backends.cpu import CPU as CPU32
from moebius.backends.webgpu import WebGPU, menu, quads
from moebius.backends.webgpu.caps import Kind, Matrix
from moebius.backends.webgpu.menu import CPU, Gemm
from moebius.backends.webgpu.ops import norms
from moebius.backends.webgpu.tensor import DType, Tensor, numbers, read, stored, write
from moebius.backends.webgpu.tuned import Table, shape_of
from moebius.backends.webgpu.tuner import Tuner, differs
from moebius.check.bounds import U_HALF
from moebius.check.lockstep import LockStep, Row
from moebius.errors import MoebiusError, NonFiniteError
from moebius.model import vae
from moebius.model.contract import Precision
from moebius.model.params import Checkpoint, Params
from moebius.model.synthetic import synthetic
from moebius.model.vae import VAE, VAEConfig

ON_UNITS = (HALF, SHARED)
every_row = pytest.mark.parametrize("row", [*SMALL, *LINES, *LARGE, menu.WINOGRAD[-1], menu.DIFFERENCES_CPU, *ON_UNITS], ids=str)


def params(k: int, n: int, groups: int = 1, scale: float = 1.0) -> Params:
    """Of a convolution, of the norm behind it, and of a linear layer there, whose weights are halves as they are."""
    linear = np.float32(np.float16(noise("linear", (7, n, 1, 1))))
    weights = {"conv.weight": noise("w", (n, k, 3, 3)) * scale, "conv.bias": noise("b", (n,)) * scale}
    weights |= {
        "norm.weight": 1 + noise("g", (n,)) / 4,
        "norm.bias": noise("o", (n,)),
        "linear.weight": linear,
        "linear.bias": linear[:, 0, 0, 0],
    }
    return Params(Checkpoint({name: np.float32(array) for name, array in weights.items()}))


def units_of(row: Gemm | None) -> Matrix | None:
    """Of a device that runs it."""
    return None if row is None or row.units is None else Matrix("emulated", frozenset([row.units.shape]), row.units.lanes)


def guarded(gpu: WebGPU, row: Gemm | None = CPU, kind: Kind = "discrete", precision: Precision = "f16", **options: Any) -> Guarded:
    return Guarded(gpu, row, kind=kind, precision=precision, matrix=units_of(row), **options)


def of(ops: WebGPU, call: Callable[[], Tensor]) -> tuple[np.ndarray, DType]:
    with ops.eager():
        made = call()
        return ops.read(made), made.dtype


# the numbers ---------------------------------------------------------------------------------------------------------
def some_numbers() -> np.ndarray:
    """Of every size, alike and not; ties, and what is rounded up to a power of two; none that is smaller than a normal one."""
    g = np.random.default_rng(0)
    alike = g.standard_normal((4000, 4)) * 2.0 ** g.integers(-100, 120, (4000, 1))
    others = g.standard_normal((4000, 4)) * 2.0 ** g.integers(-20, 20, (4000, 4))
    whole = g.integers(-8192, 8193, (2000, 4)) + g.choice([0, 0.25, 0.5, 0.75], (2000, 4))
    few = [[0, 0, 0, 0], [1, 0, 0, 0], [-1, 1, -0.0, 2], [8191.4, 8191.5, 8191.75, 8191.999], [8192, 4096, 1, 0.5]]
    few += [[-8191.75, 1, 2, 3], [3e38, -3e38, 1, 0], [2.0**-114, 2.0**-120, 2.0**-126, 0], [2.0**-126, 0, 0, -(2.0**-126)]]
    return np.float32(np.concatenate([alike, others, whole, few]))


def test_no_number_is_off_by_more_than_two_to_the_thirteenth_of_the_largest() -> None:
    x = some_numbers()
    got = quads.unpacked(quads.packed(x))
    largest = np.maximum(np.abs(x).max(-1, keepdims=True), 2.0**-114)  # from there on down they are as far apart as there
    errors = np.abs(np.float64(got) - x) / largest
    assert 0.9 * quads.ERROR < errors.max() <= quads.ERROR
    np.testing.assert_array_equal(quads.unpacked(quads.packed(got)), got), "what is one stays as it is"


def test_what_is_no_number_is_none_and_the_others_are() -> None:
    for lane, value in product(range(4), (np.nan, np.inf, -np.inf)):
        x = np.float32([[1.5, -2, 1000, 0.25]])
        x[0, lane] = value
        got = quads.unpacked(quads.packed(x))
        assert np.isnan(got[0, lane])
        others = np.arange(4) != lane
        assert np.abs(got - x)[0, others].max() <= quads.ERROR * np.abs(x[0, others]).max()
    with np.errstate(all="raise"):
        assert np.isnan(quads.unpacked(quads.packed(np.float32([[np.inf, np.nan, -np.inf, np.inf]])))).all()
        assert np.isfinite(quads.unpacked(quads.packed(np.float32([[3e38, np.inf, 0, 1]])))[0, [0, 2, 3]]).all()


@pytest.mark.parametrize("driver", ["llvmpipe", "swiftshader", "dawn"])
def test_kernels_write_and_read_them_as_numpy_does(request: pytest.FixtureRequest, driver: str) -> None:
    gpu = WebGPU(request.getfixturevalue(driver).gpu, precision="f16")
    x = np.concatenate([some_numbers(), np.float32([[np.inf, 1, 2, 3], [1, np.nan, 2, -3], [1, 2, -np.inf, 3], [1, 2, 3, np.nan]])])
    words = quads.packed(x.reshape(-1))
    np.testing.assert_array_equal(through(gpu, x.reshape(-1), ("f32", "quad")).view(np.uint32), words)
    np.testing.assert_array_equal(through(gpu, words, ("quad", "f32")).view(np.float32), quads.unpacked(words))


def test_a_tensor_of_quads_goes_to_the_device_and_back(llvmpipe: WebGPU) -> None:
    given = noise("quads", (2, 3, 5, 7)) * np.float32(1e9)
    t = llvmpipe.recorder.new(given.shape, "t", "pinned", "quad")
    write(t, given)
    padded = np.pad(given, [*3 * [(0, 0)], (0, 1)])
    np.testing.assert_array_equal(read(t), numbers(stored(padded, "quad"), "quad")[..., :7])
    assert (t.nbytes, relative(read(t), given) < quads.ERROR) == (2 * 2 * 3 * 5 * 8, True)


# who writes them -----------------------------------------------------------------------------------------------------
@every_row
def test_every_row_stores_its_sums_as_quads(llvmpipe: WebGPU, row: Gemm) -> None:
    """To the bit what NumPy makes of the float32 that it stores otherwise; whole, and in bands of lines."""
    p, x = params(16, 10), noise("x", (1, 16, 45, 8))
    calls: list[Callable[[WebGPU, bool], Tensor]] = [
        lambda o, inner: o.conv3x3(o.tensor(x), p.at("conv"), inner=inner),
        lambda o, inner: o.conv3x3(o.tensor(x), p.at("conv"), stride=2, pad=0, inner=inner),
        lambda o, inner: o.upsample_conv3x3(o.tensor(x), p.at("conv"), inner=inner),
    ]
    counts = []
    for limit in (1 << 27, 30_000 if row.packing == "winograd" else 12288):
        ops = guarded(llvmpipe, row, max_storage_buffer_binding_size=limit)
        counts.append(0)
        for call in calls:
            (want, full), (got, dtype) = (of(ops, partial(call, ops, inner)) for inner in (False, True))
            assert (full, dtype) == ("f32", "quad")
            padded = np.pad(want, [*3 * [(0, 0)], (0, 2)])
            np.testing.assert_array_equal(got, quads.unpacked(quads.packed(padded))[..., :10])
            counts[-1] += len(ops.dispatches)
    assert counts[0] < counts[1]


def test_convolutions_give_them_on_gpus_in_half_precision_alone(llvmpipe: WebGPU) -> None:
    p, x = params(5, 6), noise("x", (1, 5, 6, 4))
    found = {}
    for kind, precision in product(("discrete", "software"), ("f32", "f16")):
        ops = guarded(llvmpipe, kind=kind, precision=precision)
        found[kind, precision] = [of(ops, lambda o=ops, i=i: o.conv3x3(o.tensor(x), p.at("conv"), inner=i))[1] for i in (False, True)]
    assert found.pop(("discrete", "f16")) == ["f32", "quad"]
    assert set(map(tuple, found.values())) == {("f32", "f32")}


# who reads them ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("driver", ["llvmpipe", "swiftshader", "dawn"])
@pytest.mark.parametrize("width", [4, 8])
def test_norms_take_them(request: pytest.FixtureRequest, driver: str, width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """In one pass and in chunks, whole and in bands: of what was stored, as of float32."""
    groups, gpu = 3, request.getfixturevalue(driver)
    n = groups * width
    p, x = params(5, n), noise("x", (2, 5, 9, 7))
    for whole, limit in ((norms.WHOLE, 1 << 27), (0, 1 << 27), (0, 8192)):
        monkeypatch.setattr(norms, "WHOLE", whole)
        monkeypatch.setattr(norms, "CHUNK", 32)
        ops = guarded(gpu, max_storage_buffer_binding_size=limit)
        with ops.eager():
            h = ops.conv3x3(ops.tensor(x), p.at("conv"), inner=True)
            kept = np.float64(ops.read(h))
            normed = ops.read(ops.group_norm(h, p.at("norm"), groups, 1e-6, silu=True))
            assert {d.shader for d in ops.dispatches} == (
                {"group_scale", "group_apply"} if whole else {"group_stats", "group_finish", "group_apply"}
            )
        assert h.dtype == "quad"
        want = ORACLE.group_norm(kept, p.at("norm"), groups, 1e-6, silu=True)
        assert distance(normed, want)[0] <= U_HALF


@every_row
def test_a_linear_layer_takes_them(llvmpipe: WebGPU, row: Gemm) -> None:
    """On matrix units as halves of what was stored."""
    p, x = params(5, 12), noise("x", (1, 5, 9, 7))
    ops = guarded(llvmpipe, row)
    with ops.eager():
        h = ops.conv3x3(ops.tensor(x), p.at("conv"), inner=True)
        kept = np.float64(ops.read(h))
        got = ops.read(ops.linear(h, p.at("linear")))
    (d,) = ops.dispatches
    assert {b.name: b.dtype for b in d.bindings if b.name in ("a", "w", "out")} == {"a": "quad", "w": "f16", "out": "f32"}
    assert (d.shader == "gemm_matrix") == (row.units is not None)
    assert relative(got, ORACLE.linear(kept, p.at("linear"))) <= (U_HALF if row.units else 1e-6)


def test_norms_of_groups_that_share_one_are_refused(llvmpipe: WebGPU) -> None:
    """Which the contract does not promise them: a loud one would take the bits of its neighbours. The coder asks for none of that."""
    p, ops = params(5, 6), guarded(llvmpipe)
    with ops.eager():
        h = ops.conv3x3(ops.tensor(noise("x", (1, 5, 9, 7))), p.at("conv"), inner=True)
        with pytest.raises(MoebiusError, match=r"group_scale\.wgsl .* x: it must be float32"):
            ops.group_norm(h, p.at("norm"), 3, 1e-6)
    coded(synthetic(vae.shapes(SHARING), 0), for_gpu(llvmpipe), SHARING)


@pytest.mark.parametrize("row", [CPU, SMALL[5], menu.WINOGRAD[-1], menu.DIFFERENCES_CPU, *ON_UNITS], ids=str)
def test_a_convolution_takes_a_norm_of_them(llvmpipe: WebGPU, row: Gemm) -> None:
    """Which is applied as it loads them, or made before it."""
    p, x = params(5, 12), noise("x", (1, 5, 9, 7))
    q = Params(Checkpoint({"weight": np.float32(np.float16(noise("v", (6, 12, 3, 3)))), "bias": noise("c", (6,))}))
    ops = guarded(llvmpipe, row)
    with ops.eager():
        h = ops.conv3x3(ops.tensor(x), p.at("conv"), inner=True)
        normed = ops.group_norm(h, p.at("norm"), 3, 1e-6, silu=True)
        got = ops.read(ops.upsample_conv3x3(normed, q) if row.packing == "differences" else ops.conv3x3(normed, q))
        kept = np.float64(ops.read(h))
    want = ORACLE.group_norm(kept, p.at("norm"), 3, 1e-6, silu=True)
    want = ORACLE.upsample_conv3x3(want, q) if row.packing == "differences" else ORACLE.conv3x3(want, q)
    assert relative(got, want) <= U_HALF


# what they are for ---------------------------------------------------------------------------------------------------
def for_gpu(gpu: WebGPU, row: Gemm = CPU) -> WebGPU:
    return WebGPU(gpu.gpu, replace(gpu.caps, kind="discrete", precision="f16", matrix=units_of(row)), always(row))


CODER = VAEConfig((8, 16), layers_per_block=1, norm_num_groups=2)


def coded(weights: dict[str, np.ndarray], ops: Any, config: VAEConfig = CODER) -> list[np.ndarray]:
    coder = VAE(config, weights, ops)
    return [coder.encode(np.clip(noise("x", (1, 3, 8, 8)), -1, 1)), coder.decode(noise("z", (1, config.latent_channels, 4, 4)))]


@pytest.mark.parametrize("row", [CPU, HALF], ids=["plain", "on units"])
def test_what_no_half_holds_passes_between_a_convolution_and_its_norm(llvmpipe: WebGPU, row: Gemm) -> None:
    """As it does in float32: the norm takes its size away. Nor does it end in front of a shortcut, on matrix units as elsewhere."""
    loud, rows = synthetic(vae.shapes(CODER), 0), list[Row]()
    for name, array in loud.items():
        array *= 1.3e5 if ".conv1." in name else 5e4 if "samplers" in name else 1e-4 if name.endswith("conv_shortcut.weight") else 1
    for got, want in zip(coded(loud, LockStep(for_gpu(llvmpipe, row), rows.append)), coded(loud, CPU32()), strict=True):
        assert relative(got, want) < 3e-3
    assert all(row.ok for row in rows)
    for name in ("conv1", "samplers.0.conv"):
        assert max(row.rms for row in rows if row.path.endswith(name)) > 65504


def test_the_coder_is_within_the_bound_of_its_precision_op_by_op(llvmpipe: WebGPU) -> None:
    """With weights that are halves as they are, and norms' outputs, quads are all that convolutions are off by."""
    weights = {name: np.float32(np.float16(array)) for name, array in synthetic(vae.shapes(CODER), 0).items()}
    rows = list[Row]()
    coded(weights, LockStep(for_gpu(llvmpipe), rows.append))
    assert all(row.ok for row in rows), max(rows, key=lambda row: row.relative_l2 / (row.limit or 1))
    convolutions = [row.relative_l2 for row in rows if row.path.endswith("conv1")]
    assert len(convolutions) >= 8
    assert 1e-5 < min(convolutions) <= max(convolutions) <= 2 * quads.ERROR


@pytest.mark.parametrize("lane", range(4))
def test_an_overflow_is_found_where_it_lies(llvmpipe: WebGPU, lane: int, untested_weights: None) -> None:
    weights = synthetic(vae.shapes(CODER), 0)
    weights["decoder.mid_block.resnets.0.conv1.bias"][lane + 4] = np.inf
    with pytest.raises(NonFiniteError, match=r"conv3x3 \(decoder\.mid_block\.resnets\.0\.conv1, gemm"):
        coded(weights, for_gpu(llvmpipe))


def test_they_are_measured_by_themselves(llvmpipe: WebGPU) -> None:
    p, gpu, table = params(8, 8), for_gpu(llvmpipe), Table()

    def layers(x: Tensor) -> Tensor:
        return gpu.linear(gpu.conv3x3(x, p.at("conv"), inner=True), p.at("linear"))

    calls, _ = gpu.layers(layers, [(1, 8, 8, 8)])
    Tuner(gpu.gpu, gpu.caps, clock=lambda batches: [float(repeats) for _, repeats in batches]).run(calls, table)
    assert [shape_of(call) for call in calls] == ["taps/1 64x8x8 f32-f16-quad", "rows 64x7x8 quad-f16-f32"]
    assert (len(table.picks), table.wrong) == (2, {})


def test_a_wrong_row_is_told_from_their_rounding(llvmpipe: WebGPU) -> None:
    """Two results may be a step of their quads apart wherever they are, and not three."""
    p, gpu = params(8, 8), for_gpu(llvmpipe)
    (call,), _ = gpu.layers(lambda x: gpu.conv3x3(x, p.at("conv"), inner=True), [(1, 8, 8, 8)])
    words = quads.packed(np.float32(np.random.default_rng(0).choice([-1, 1], (64, 8)) * 1.001))  # where a step is largest to them
    want, got, wrong = (quads.unpacked(words + np.uint32(steps * (1 + (1 << 14)))) for steps in (0, 1, 3))
    assert differs([got], [want], call) == ""
    assert "differs by" in differs([wrong], [want], call)
