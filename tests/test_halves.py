"""Half precision on the GPU: numbers stored as halves, on every driver; what of it is lost, and what must not be."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from cases import OPS, ORACLE, Case, conv3x3, distance, dwconv, feed_forward, linear, repeat, upsample_conv3x3
from goldens import noise, relative
from harness import Guarded, always
from PIL import Image
from test_fused import FUSED, SIZES, chained
from test_kernels_dense import LINES, SMALL, entries_of

from moebius import Inpainter, sample
from moebius.backends.cpu import CPU as CPU32
from moebius.backends.webgpu import WebGPU, menu, probe, wgsl
from moebius.backends.webgpu.caps import DEFAULT_LIMITS, Kind
from moebius.backends.webgpu.device import guard
from moebius.backends.webgpu.menu import CPU, Gemm
from moebius.backends.webgpu.ops import norms
from moebius.backends.webgpu.plan import Plan
from moebius.backends.webgpu.tensor import DType, itemsize, read, write
from moebius.backends.webgpu.tuned import Table, shape_of
from moebius.backends.webgpu.tuner import Tuner
from moebius.check import halves, parts
from moebius.check.bounds import U_HALF
from moebius.check.lockstep import LockStep, Row
from moebius.errors import MoebiusError, NonFiniteError, WeightError
from moebius.model import unet, vae
from moebius.model.denoise import Denoiser
from moebius.model.params import ShapeOnly
from moebius.model.scheduler import DDIM
from moebius.model.synthetic import synthetic
from moebius.model.unet import UNet, UNetConfig, condition_ids
from moebius.model.vae import VAE, VAEConfig
from moebius.weights.bundle import read_bundle
from moebius.weights.nano import packaged_nano

drivers = pytest.mark.parametrize("driver", ["llvmpipe", "swiftshader"])


@pytest.fixture
def gpu16(request: pytest.FixtureRequest, driver: str) -> WebGPU:
    opened: WebGPU = request.getfixturevalue(driver)
    return WebGPU(opened.gpu, precision="f16")


def check(case: Case, gpu: WebGPU, row: Gemm | None = None, **options: Any) -> Guarded:
    """Within the limit of halves, and beyond that of float32 where a kernel reads or writes any."""
    guarded = Guarded(gpu, row, precision="f16", **options)
    p = case.params
    got, want = case.run(guarded, p), case.run(ORACLE, p)
    first = [halves.moved(case.inputs[0], "x")] if case.inputs else []
    again = replace(case, inputs=[*first, *case.inputs[1:]]).run(ORACLE, halves.moved_params(p))
    stored = U_HALF if case.name.endswith("norm") else 0.0
    beyond = False
    for g, w, a in zip(got, want, again, strict=True):
        assert np.isfinite(g).all()
        (error, worst), (more, _) = distance(g.reshape(w.shape), w), distance(a, w)
        limit = case.limit + (max(more, stored) if guarded.halves else 0.0)
        print(f"used of the limit in f16: {case.name}: {error / (limit or 1):.3f} {worst / (5 * limit or 1):.3f}")
        assert error <= limit, f"{case}: {error:.2e} of the norm, limit {limit:.2e}"
        assert worst <= 5 * limit, f"{case}: off by {worst:.2e} of the root mean square, limit {5 * limit:.2e}"
        beyond |= error > case.limit
    assert beyond == guarded.halves, case
    return guarded


# the numbers ---------------------------------------------------------------------------------------------------------
def through(gpu: WebGPU, values: np.ndarray, dtypes: tuple[DType, DType]) -> np.ndarray:
    """The bytes of a row of values that a kernel reads as numbers of one type, multiplies by 1, and writes as numbers of another."""
    shape = (1, 1, 1, values.nbytes // itemsize(dtypes[0]))
    with gpu.eager():
        x, out = (gpu.recorder.new(shape, "x", "pinned", dtype) for dtype in dtypes)
        x.buffer.write(values)
        table = gpu.recorder.new((1, 1, 2, shape[3]), "table", "pinned")
        write(table, np.stack([np.ones(shape[3], np.float32), np.zeros(shape[3], np.float32)])[None, None])
        count = {"first": 0, "count": shape[3] // 4, "c4": shape[3] // 4, "image": shape[3] // 4}
        count |= {"begin": 0, "end": shape[3] // 4}
        constants, bound = {"SCALED": True, "SILU": False, "ABOVE": False, "BELOW": False}, {"x": x, "table": table, "out": out}
        gpu.recorder.dispatch("group_norm", "x", "group_apply", shape[3] // 4, bound, count, constants)
        gpu.recorder.flush()
        return out.buffer.read(out.nbytes, np.uint8)


@drivers
def test_numbers_are_rounded_to_the_nearest_half_by_their_bits(gpu16: WebGPU) -> None:
    """Ties to even, numbers below the smallest normal one, infinities of what is beyond the largest, NaN of NaN."""
    edges = np.concatenate([np.arange(base - 300, base + 300) for base in (0x33000000, 0x33800000, 0x38800000, 0x477FF000, 0x7F800000)])
    random = np.random.default_rng(0).integers(0x30000000, 0x48000000, 20_000)
    bits = np.concatenate([edges, random, [0x3F801000, 0x3F803000, 0x7F7FFFFF, 0x7FC00000]]).astype(np.uint32)
    values = np.concatenate([bits, bits | np.uint32(0x80000000)]).view(np.float32)
    got = through(gpu16, values, ("f32", "f16")).view(np.float16)
    with np.errstate(over="ignore"):
        want = values.astype(np.float16)
    numbers = ~np.isnan(want)
    np.testing.assert_array_equal(np.isnan(got), ~numbers)
    np.testing.assert_array_equal(got[numbers], want[numbers])


@drivers
def test_every_half_is_read_as_what_it_is(gpu16: WebGPU) -> None:
    values = np.arange(2**16, dtype=np.uint16).view(np.float16)
    np.testing.assert_array_equal(through(gpu16, values, ("f16", "f32")).view(np.float32), values.astype(np.float32))


def test_a_tensor_of_halves_goes_to_the_device_and_back(llvmpipe: WebGPU) -> None:
    given = noise("halves", (2, 3, 5, 7)) * np.float32(1e4)
    given[0, 0, 0, 0] = 1e6
    t = llvmpipe.recorder.new(given.shape, "t", "pinned", "f16")
    write(t, given)
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(read(t), given.astype(np.float16))
    assert (t.nbytes, read(t).dtype) == (2 * 2 * 3 * 5 * 8, np.float32)


# ops -----------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", OPS)
def test_every_op_is_within_the_bound_of_halves_and_not_of_float32(llvmpipe: WebGPU, name: str) -> None:
    for size in [(2, 5, 7), (1, 6, 9)]:
        check(OPS[name](size), llvmpipe)


def test_ops_are_within_the_bound_of_halves_on_another_driver(swiftshader: WebGPU) -> None:
    """Of those that share their kernels, one."""
    for name in ("conv3x3", "dwconv with all", "feed_forward", "group_norm", "layer_norm", "cross_lambda"):
        check(OPS[name]((2, 5, 7)), swiftshader)
    check(OPS["self_lambda"]((1, 3, 2)), swiftshader)
    check(OPS["attention"]((1, 3, 2)), swiftshader)


@pytest.mark.parametrize("name", FUSED)
def test_what_is_fused_is_within_the_bound_of_halves(llvmpipe: WebGPU, name: str) -> None:
    make, shaders = FUSED[name]
    assert [d.shader for d in check(make(SIZES[0]), llvmpipe, CPU, kind="discrete").dispatches] == shaders


def test_every_row_of_the_menu_takes_halves(llvmpipe: WebGPU) -> None:
    """In one mode after the other, and small ones of every entry in another."""
    made_for: list[Callable[[int, int], Case]] = [
        lambda m, n: linear((1, 1, m + 1), 17, n + 1),
        lambda m, n: conv3x3((1, 5, 7), 9, n),
        lambda m, n: upsample_conv3x3((1, 6, 9), 8, n),
    ]
    special = {"winograd": 1, "differences": 2}
    for i, row in enumerate((*menu.GEMMS, SMALL[0], *SMALL[4:7], LINES[0])):
        case = made_for[special.get(row.packing, i % 3)](row.rows, min(4 * row.columns4, 15))
        assert [d.entry for d in check(case, llvmpipe, row).dispatches] == entries_of(row, case)


@drivers
def test_the_points_of_halves_are_float32(request: pytest.FixtureRequest, driver: str) -> None:
    """They are sums of inputs, and of weights: as halves they would lose more than those did."""
    for case, row in (
        (conv3x3((1, 9, 6), 9, 13), menu.WINOGRAD_CPU_LOW),
        (chained(OPS["group_norm"]((1, 9, 6)), conv3x3((1, 9, 6), 9, 5)), menu.WINOGRAD_CPU_LOW),
        (upsample_conv3x3((1, 3, 5), 8, 5), menu.DIFFERENCES_CPU),
    ):
        made = [d for d in check(case, request.getfixturevalue(driver), row).dispatches if d.entry not in ("main", "finish")]
        types = [{b.name: b.dtype for b in d.bindings if b.name in ("a", "w", "out")} for d in made]
        filters = row.packing == "winograd"
        assert [d.entry for d in made] == [*filters * ["to_filters"], "to_points", "direct", "from_points"]
        assert types[0]["out"] == "f32"
        assert types[-2] == {"a": "f32", "w": "f32" if filters else "f16", "out": "f32"}
        assert not filters or types[0]["w"] == "f16"


def test_what_is_repeated_may_be_halves(llvmpipe: WebGPU) -> None:
    check(chained(OPS["group_norm"]((2, 3, 5)), repeat((2, 3, 5), 9, 2)), llvmpipe, CPU)


def test_softmaxes_of_peaked_logits_move_no_further_than_the_bound(llvmpipe: WebGPU) -> None:
    for name in ("attention", "self_lambda"):
        case = OPS[name]((1, 5, 7))
        case.inputs[0] *= 6
        check(case, llvmpipe)


def test_a_large_mean_is_no_part_of_the_rounding(llvmpipe: WebGPU) -> None:
    """Weights behind a layer norm add up to nothing, as halves too: their roundings would be multiplied by the mean."""
    case = FUSED["feed_forward of a layer norm"][0]((1, 5, 3))
    case.inputs[0][...] += np.float32(30)
    check(replace(case, condition=30.0), llvmpipe, CPU, kind="discrete")


def test_tensors_of_halves_run_in_bands(llvmpipe: WebGPU, monkeypatch: pytest.MonkeyPatch) -> None:
    """A, output and residual lie in windows of one origin, be they of floats or of halves."""
    monkeypatch.setattr(norms, "CHUNK", 32)
    monkeypatch.setattr(norms, "WHOLE", 0)
    behind, large = (chained(OPS["group_norm"]((2, h, 7)), conv3x3((2, h, 7), 9, 9)) for h in (31, 61))
    norm, tiles = OPS["group_norm with SiLU"]((2, 31, 7)), menu.WINOGRAD[-1]
    for case, limit, row in ((norm, 8192, CPU), (behind, 8192, CPU), (large, 24576, tiles), (linear((2, 31, 7)), 4096, CPU)):
        whole, banded = check(case, llvmpipe, row), check(case, llvmpipe, row, max_storage_buffer_binding_size=limit)
        assert len(whole.dispatches) < len(banded.dispatches)
        for w, b in zip(case.run(whole), case.run(banded), strict=True):
            np.testing.assert_array_equal(w, b)


# what does not fit ---------------------------------------------------------------------------------------------------
@drivers
@pytest.mark.parametrize(
    ("name", "leaf", "says"),
    [
        ("feed_forward", "inverted_conv.conv.bias", "feed_forward (layer.inverted_conv.conv, gemm.wgsl"),
        ("feed_forward", "depth_conv.conv.bias", "feed_forward (layer.depth_conv.conv, depthwise.wgsl"),
        ("dwconv", "bn1.bias", "dwconv (layer, depthwise.wgsl"),
        ("layer_norm", "bias", "layer_norm (layer, layer_norm.wgsl"),
        ("cross_lambda", "norm_q.bias", "cross_lambda (layer.q, gemm.wgsl"),
    ],
)
def test_an_activation_beyond_halves_is_found_at_its_op(gpu16: WebGPU, name: str, leaf: str, says: str) -> None:
    """And is in the output: none of them is swallowed on the way."""
    case = OPS[name]((1, 5, 3))
    case.weights[leaf] = np.full(case.shapes[leaf], 1e5, np.float32)
    plan = case.record(gpu16, case.params)
    plan.upload([np.moveaxis(a, 1, -1) for a in case.inputs if a.dtype.kind == "f"])
    plan.start()
    plan.replay()
    assert not np.isfinite(read(plan.outputs[0])).all()
    with pytest.raises(NonFiniteError, match=re.escape(says)):
        plan.find_non_finite()


def test_a_half_that_is_not_finite_is_found_wherever_it_lies(llvmpipe: WebGPU) -> None:
    """In the lower and in the upper half of every word; the largest half is found to be sound."""
    gpu, case = WebGPU(llvmpipe.gpu, precision="f16"), OPS["layer_norm"]((1, 1, 1))
    for lane, value in ((None, 65504.0), (0, 1e5), (1, -1e5), (2, 1e5), (3, -1e5), (12, 1e5)):
        bias = np.full(case.shapes["bias"], 65504.0 if lane is None else 0.0, np.float32)
        if lane is not None:
            bias[lane] = value
        case.weights = {"bias": bias, "weight": np.zeros_like(bias)}
        plan = case.record(gpu, case.params)
        plan.upload([np.moveaxis(a, 1, -1) for a in case.inputs])
        plan.start()
        if lane is None:
            plan.find_non_finite()
            continue
        with pytest.raises(NonFiniteError, match="layer_norm"):
            plan.find_non_finite()


def test_a_weight_beyond_halves_is_named(llvmpipe: WebGPU) -> None:
    gpu = WebGPU(llvmpipe.gpu, precision="f16")
    case = dwconv((1, 5, 3))
    case.weights["conv_pw.weight"] = np.full(case.shapes["conv_pw.weight"], 1e6, np.float32)
    with pytest.raises(WeightError, match=r"layer\.pointwise reaches [\d,]+.* 65,504.*f32"):
        case.run(gpu)
    case.run(llvmpipe)


def test_what_is_no_vec4_cannot_hold_halves() -> None:
    for shader, name in (("transpose", "out"), ("group_scale", "x"), ("group_stats", "x"), ("gemm", "b")):
        with pytest.raises(MoebiusError, match=rf"{shader}\.wgsl .*{name}: it must be float32"):
            wgsl.specialise(shader, ((wgsl.HALVES, name),))
    with pytest.raises(MoebiusError, match=r"gemm_matrix\.wgsl takes elements of a as halves: they must be"):
        wgsl.specialise("gemm_matrix", (("DIALECT", "matrix_emulated"), ("NextA", "vec4<u32>"), (wgsl.QUADS, "a"), ("RAW_A", True)))
    assert "packed(" not in wgsl.specialise("gemm")
    assert not re.search(r"//.*packed\(", wgsl.specialise("gemm", ((wgsl.HALVES, "a w first out"),))), "what is in a comment is no element"


# networks ------------------------------------------------------------------------------------------------------------
CONFIG = UNetConfig(8, 9, 4, (24, 40), 1, 4, 20, 28, 20, 2, 2.3)
CODER = VAEConfig((6, 10), layers_per_block=1, norm_num_groups=2)


def test_networks_agree_with_float32_to_halves(llvmpipe: WebGPU) -> None:
    wide, gpu16 = CPU32(), WebGPU(llvmpipe.gpu, precision="f16")
    weights, ids, x = synthetic(unet.shapes(CONFIG), 0), condition_ids(CONFIG), noise("halves", (2, 9, 8, 8))
    one, other = (UNet(CONFIG, weights, ops)(x, 77, ids) for ops in (gpu16, wide))
    assert 1e-5 < relative(one, other) < 3e-3
    weights, image = synthetic(vae.shapes(CODER), 0), np.clip(noise("halves", (1, 3, 8, 8)), -1, 1)
    one, other = (VAE(CODER, weights, ops).encode(image) for ops in (gpu16, wide))
    assert 1e-5 < relative(one, other) < 3e-3
    latents = noise("halves", (1, CODER.latent_channels, 4, 4))
    one, other = (VAE(CODER, weights, ops).decode(latents) for ops in (gpu16, wide))
    assert 1e-5 < relative(one, other) < 3e-3


def test_latents_stay_close_to_those_of_float32_over_all_steps(llvmpipe: WebGPU) -> None:
    times, weights = DDIM().timesteps(20), synthetic(unet.shapes(CONFIG), 0)
    y, masked = (noise(f"halves {name}", (1, 4, 8, 8)) for name in ("y", "masked"))
    mask = (noise("halves mask", (1, 1, 8, 8)) > 0).astype(np.float32)
    latents = []
    for ops in (CPU32(), WebGPU(llvmpipe.gpu, precision="f16")):
        run = Denoiser(UNet(CONFIG, weights, ops), condition_ids(CONFIG), times.tolist(), DDIM().coefficients(times, 20), 2.5)
        latents.append([state.latents() for state in run.steps(y, mask, masked)][-1])
    assert 1e-6 < relative(latents[1], latents[0]) < 2e-2


@pytest.mark.parametrize("kind", ["software", "discrete"])
def test_validation_holds_every_op_to_the_bound_of_its_precision(llvmpipe: WebGPU, kind: Kind) -> None:
    rows = list[Row]()
    gpu = WebGPU(llvmpipe.gpu, replace(llvmpipe.caps, kind=kind), always(CPU), precision="f16")
    net = UNet(CONFIG, synthetic(unet.shapes(CONFIG), 0), LockStep(gpu, rows.append))
    net(noise("fused", (2, 9, 8, 8)), 77, condition_ids(CONFIG))
    assert all(row.ok for row in rows), max(rows, key=lambda row: row.relative_l2 / (row.limit or 1))
    assert max(row.relative_l2 for row in rows) > 1e-4


def test_the_quick_check_passes_in_f16(llvmpipe: WebGPU) -> None:
    assert probe.fault(WebGPU(llvmpipe.gpu, precision="f16")) == ""


@pytest.mark.parametrize("kind", ["software", "discrete"])
def test_nano_fills_a_picture_as_it_does_in_float32(llvmpipe: WebGPU, kind: Kind) -> None:
    """The CPU device's, which is within a grey level of any other in float32."""
    weights = read_bundle(packaged_nano())
    photo = np.asarray(Image.open(sample.photo()).convert("RGB").resize((128, 128)))
    mask = np.zeros((128, 128), np.uint8)
    mask[40:88, 36:92] = 255
    pictures = []
    gpu = WebGPU(llvmpipe.gpu, replace(llvmpipe.caps, kind=kind), always(CPU), precision="f16")
    for ops in (CPU32(), gpu):
        nets = UNet(weights.unet_config, weights.unet, ops), VAE(weights.vae_config, weights.vae, ops)
        run = Inpainter(*nets, model="nano", blend=weights.blend)(photo, mask, steps=2, strength=1.0, guidance=1.0)
        pictures.append(np.asarray(run.image, np.float64)[mask > 0])
    difference = pictures[1] - pictures[0]
    assert 0 < np.abs(difference).mean() <= 1
    assert 10 * np.log10(255**2 / np.mean(difference**2)) >= 45


@pytest.fixture(scope="module")
def published(llvmpipe: WebGPU) -> list[Plan]:
    """A guided step, the encoder and the decoder of the published model, as a GPU has them."""
    config, coder = UNetConfig.full(), VAEConfig.full()
    gpu = WebGPU(llvmpipe.gpu, replace(llvmpipe.caps, kind="discrete", vendor="NVIDIA", limits=DEFAULT_LIMITS, precision="f16"))
    net, both = UNet(config, ShapeOnly(unet.shapes(config)), gpu), VAE(coder, ShapeOnly(vae.shapes(coder)), gpu)
    return [gpu.record(*part) for part in (parts.step(net), parts.encoder(both, 64), parts.decoder(both, 64))]


def test_the_published_model_takes_half_the_memory(published: list[Plan]) -> None:
    """Of its weights; a step of all else a quarter less, or a sixth. 452 MB of the UNet's are as they are in the file. What the coder moves
    and holds is the float32 of its residual stream and of its points, for the most part."""
    for plan, wide in zip(published, (943e6, 137e6, 215e6), strict=True):
        assert plan.summary()["weight_bytes"] <= 0.51 * wide
    assert published[0].summary()["peak_bytes"] <= 0.85 * 160e6
    for plan, most in zip(published, (0.85 * 5.95e9, 15.5e9, 34e9), strict=True):
        assert plan.summary()["bytes"] <= most


def test_what_gpus_run_compiles_with_halves(llvmpipe: WebGPU, published: list[Plan]) -> None:
    every = {(d.shader, d.constants, d.entry) for plan in published for d in plan.dispatches}
    found = {one for one in every if wgsl.FORMATS.keys() & dict(one[1])}  # the others are compiled wherever f32 is
    assert {"gemm", "depthwise", "cross_lambda_rows", "group_stats", "winograd"} <= {shader for shader, _, _ in found}
    for shader, constants, entry in found:
        with guard(llvmpipe.name, f"compiling {shader}.wgsl with {dict(constants)}"):
            llvmpipe.gpu.device.create_shader_module(label=shader, code=wgsl.specialise(shader, constants, entry))


# tuning --------------------------------------------------------------------------------------------------------------
def test_shapes_of_halves_are_measured_by_themselves(llvmpipe: WebGPU) -> None:
    """What was measured for floats is not taken for halves, nor the other way round."""
    case, found = feed_forward((1, 8, 8), 8, 16), {}
    for precision in ("f32", "f16"):
        gpu = WebGPU(llvmpipe.gpu, precision=precision)
        floats = [np.moveaxis(a, 1, -1).shape for a in case.inputs]
        calls, _ = gpu.layers(lambda x, r, p=case.params, o=gpu: case.call(o, p, x, r), floats)
        table = Table()
        rows = Tuner(gpu.gpu, gpu.caps, clock=lambda batches: [float(repeats) for _, repeats in batches]).run(calls, table)
        assert len(rows) == len(table.picks) == 2
        assert not table.wrong
        found[precision] = [shape_of(call) for call in calls]
    assert found["f32"] == ["rows 64x32x8", "rows 64x8x16"]
    assert found["f16"] == ["rows 64x32x8 f32-f16-f16", "rows 64x8x16 f16-f16-f32"]
