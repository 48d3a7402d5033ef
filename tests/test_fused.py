"""What a GPU's plans leave out: norms, joinings and statistics that the kernels behind them make as they load, against the same ops of the
oracle one after the other. Recorded as for a GPU, and run on every driver."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from math import prod
from typing import Any

import numpy as np
import pytest
from cases import ORACLE, Case, concat, conv3x3, cross_lambda, dwconv, feed_forward, group_norm, layer_norm, linear, self_lambda, some
from goldens import noise, relative
from harness import Guarded, always

from moebius.backends.reference import Reference
from moebius.backends.webgpu import WebGPU, wgsl
from moebius.backends.webgpu.caps import DEFAULT_LIMITS, Caps
from moebius.backends.webgpu.menu import CPU, WINOGRAD
from moebius.backends.webgpu.ops import dense, lambdas, norms
from moebius.check.lockstep import LockStep, Row
from moebius.check.specs.case import Size
from moebius.model import unet
from moebius.model.denoise import Denoiser
from moebius.model.params import ShapeOnly
from moebius.model.scheduler import DDIM
from moebius.model.synthetic import synthetic
from moebius.model.unet import UNet, UNetConfig, condition_ids

SIZES: tuple[Size, ...] = ((2, 5, 7), (1, 6, 9), (1, 1, 1))


def chained(before: Case, after: Case) -> Case:
    """`after`, its first input what `before` makes."""
    taken = len(before.inputs)
    shapes = {f"{at}.{leaf}": shape for at, case in (("before", before), ("after", after)) for leaf, shape in case.shapes.items()}

    def call(o: Any, p: Any, *inputs: Any) -> Any:
        return after.call(o, p.at("after"), before.call(o, p.at("before"), *inputs[:taken]), *inputs[taken:])

    inputs = [*before.inputs, *after.inputs[1:]]
    return Case(f"{after.name} of {before.name}", before.terms + after.terms, shapes, inputs, call, root=before.root | after.root)


def joined(size: Size, after: Case, a: int) -> Case:
    """`after` of two tensors, the first of `a` channels."""
    return chained(concat(size, a, after.inputs[0].shape[1] - a), after)


def in_transformer(made: Case, size: Size) -> Case:
    """A layer norm and a feed-forward behind a lambda layer."""
    c = made.inputs[0].shape[1]
    return chained(made, chained(layer_norm(size, c), feed_forward(size, c, 15)))


# A case, and the shaders of its plan.
FUSED: dict[str, tuple[Callable[[Size], Case], list[str]]] = {
    "feed_forward of a layer norm": (
        lambda s: chained(layer_norm(s, 6), feed_forward(s)),
        ["layer_norm", "gemm", "depthwise", "gemm"],
    ),
    "self_lambda of a layer norm": (
        lambda s: chained(layer_norm(s, 10), self_lambda(s, 2, 5)),
        ["layer_norm", "gemm", "lambda_content", "lambda_window"],
    ),
    "cross_lambda of a layer norm": (
        lambda s: chained(layer_norm(s, 6), cross_lambda(s)),
        ["layer_norm", "gemm", "cross_lambda_rows"],
    ),
    "dwconv of a group norm": (
        lambda s: chained(group_norm(s, 3, 3, silu=True), dwconv(s, 9, 10)),
        ["group_scale", "depthwise", "gemm"],
    ),
    "dwconv with its skip of a group norm": (
        lambda s: chained(group_norm(s, 3, 3, silu=True), dwconv(s, 9, 9, residual=False)),
        ["group_scale", "depthwise", "gemm"],
    ),
    "dwconv with its skip of a group norm without SiLU": (
        lambda s: chained(group_norm(s, 3, 3), dwconv(s, 9, 9, shift=False)),
        ["group_scale", "depthwise", "gemm"],
    ),
    "dwconv with all of a group norm": (
        lambda s: chained(group_norm(s, 3, 3, silu=True), dwconv(s, 9, 9)),
        ["group_scale", "depthwise", "group_apply", "gemm"],
    ),
    "linear of a group norm": (lambda s: chained(group_norm(s, 3, 3), linear(s, 9)), ["group_scale", "gemm"]),
    "linear of a group norm with SiLU": (lambda s: chained(group_norm(s, 3, 3, silu=True), linear(s, 9)), ["group_scale", "gemm"]),
    "linear of a feed_forward": (
        lambda s: chained(feed_forward(s, 8, 15), linear(s, 8)),
        ["gemm", "depthwise", "gemm"],
    ),
    "linear of two": (lambda s: joined(s, linear(s, 12), 8), ["gemm"]),
    "dwconv of two": (lambda s: joined(s, dwconv(s, 12, 10), 4), ["depthwise", "gemm"]),
    "dwconv of a group norm of two": (
        lambda s: joined(s, chained(group_norm(s, 3, 4, silu=True), dwconv(s, 12, 10)), 8),
        ["group_scale", "depthwise", "gemm"],
    ),
    "dwconv with its skip of a group norm of two": (
        lambda s: joined(s, chained(group_norm(s, 3, 4, silu=True), dwconv(s, 12, 12, residual=False)), 8),
        ["group_scale", "depthwise", "concat", "gemm"],
    ),
    "self_lambda": (lambda s: self_lambda(s, 2, 5), ["gemm", "lambda_content", "lambda_window"]),
    "feed_forward of a layer norm of self_lambda": (
        lambda s: in_transformer(self_lambda(s, 2, 18), s),  # the lanes of two positions are more than a driver runs in one go
        ["gemm", "lambda_content", "lambda_window", "gemm", "depthwise", "gemm"],
    ),
    "feed_forward of a layer norm of self_lambda with whole vec4": (
        lambda s: in_transformer(self_lambda(s, 2, 8), s),
        ["gemm", "lambda_content", "lambda_window", "gemm", "depthwise", "gemm"],
    ),
    "feed_forward of a layer norm of cross_lambda with whole vec4": (
        lambda s: in_transformer(cross_lambda(s, 8, 8), s),
        ["gemm", "cross_lambda_rows", "gemm", "depthwise", "gemm"],
    ),
    "feed_forward of a layer norm of cross_lambda": (
        lambda s: in_transformer(cross_lambda(s, 16, 3), s),  # a row is more threads than a driver runs in one go
        ["gemm", "cross_lambda_rows", "gemm", "depthwise", "gemm"],
    ),
}


@pytest.mark.parametrize("name", FUSED)
def test_what_is_fused_agrees_with_the_ops_one_by_one(gpu: WebGPU, name: str) -> None:
    make, shaders = FUSED[name]
    for size in SIZES[: 1 if "SwiftShader" in gpu.name else None]:
        made = make(size).check(gpu, CPU, kind="discrete").dispatches
        assert [d.shader for d in made] == shaders
        assert max(len(d.bindings) for d in made) <= 8


def test_a_group_norm_of_two_loads_what_each_has_side_by_side(gpu: WebGPU, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second begins between groups and within one, whose channels are unlike. Two that are no whole vec4 are copied first."""
    monkeypatch.setattr(norms, "SCALE_THREADS", 16)
    ways = [(3, 4, 8, 4), (2, 10, 8, 2), (4, 3, 4, 1), (2, 10, 6, 0)], [(1, 8, 4, 4), (2, 6, 4, 2), (2, 12, 8, 4), (2, 6, 5, 0)]
    for groups, width, a, floats in some(gpu, *ways):
        for size in some(gpu, [(2, 5, 7)], [(1, 1, 1), (1, 9, 13)]):
            case = joined(size, group_norm(size, groups, width), a)
            for i, x in enumerate(case.inputs):
                channels = np.arange(x.shape[1], dtype=np.float32).reshape(1, -1, 1, 1)
                x[...] = (x + 5 * i) * (1 + channels % 3) - channels
            (made,) = [d for d in case.check(gpu, CPU, kind="discrete").dispatches if d.shader == "group_scale"]
            constants = dict(made.constants)
            assert (constants["JOINED"], constants.get("WIDTH", 1)) == (floats > 0, floats or 2)


DEPTHWISE: dict[str, Callable[[Size], Case]] = {
    "dwconv": lambda s: dwconv(s, 5, 5),
    "feed_forward": lambda s: feed_forward(s, 5, 6),
    "dwconv of a group norm of two": FUSED["dwconv of a group norm of two"][0],
}


@pytest.mark.parametrize("name", DEPTHWISE)
def test_depthwise_lines_change_no_bit(gpu: WebGPU, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread makes one to four lines: of images of one line, of fewer than it makes, of whole and of broken bands."""
    for size in some(gpu, [(2, 5, 6)], [(2, 1, 5), (1, 2, 1), (2, 8, 3)]):
        case, results = DEPTHWISE[name](size), []
        for rows in some(gpu, [1, 2], [3, 4]):
            monkeypatch.setattr(dense, "BLOCK", dense.BLOCK._replace(rows=rows))
            guarded = Guarded(gpu, CPU, kind="discrete")
            results.append(case.run(guarded))
            assert [dict(d.constants)["ROWS"] for d in guarded.dispatches if d.shader == "depthwise"] == [rows]
        case.compare(results[0], case.run(ORACLE))
        for result in results[1:]:
            np.testing.assert_array_equal(result, results[0])


# Threads, lanes and runs of a workgroup at most; what of those is left for 10 vec4 of channels and 5 runs, and the grid of 3·5 bands.
BLOCKS = {
    (256, 8, 4): ((2, 4, 32), (5, 2, 1)),
    (64, 16, 2): ((2, 2, 16), (5, 3, 1)),
    (8, 2, 1): ((2, 1, 4), (5, 5, 4)),
    (8, 1, 1): ((1, 1, 8), (10, 5, 2)),
    (20, 5, 2): ((5, 2, 2), (2, 3, 8)),
}


def test_depthwise_blocks_change_no_bit(gpu: WebGPU, monkeypatch: pytest.MonkeyPatch) -> None:
    """Workgroups that begin and end anywhere: beyond the last run, in the middle of an image, in the next one, beyond the last."""
    case, results = dwconv((3, 5, 17), 40, 3), []
    for (threads, lanes, across), (block, grid) in BLOCKS.items():
        monkeypatch.setattr(dense, "BLOCK", dense.Block(1, threads, lanes, across))
        guarded = Guarded(gpu, CPU, kind="discrete")
        results.append(case.run(guarded))
        d = guarded.dispatches[0]
        assert (tuple(dict(d.constants)[name] for name in ("LANES", "ACROSS", "DOWN")), d.grid) == (block, grid)
    case.compare(results[0], case.run(ORACLE))
    for result in results[1:]:
        np.testing.assert_array_equal(result, results[0])


def test_depthwise_has_a_workgroup_of_every_device(llvmpipe: WebGPU) -> None:
    for kind, threads, rows in (("discrete", 256, 1), ("integrated", 256, 1), ("software", 64, 2)):
        for images in (1, 2, 5):  # an image of a batch is made as it is alone
            d = dwconv((images, 8, 9), 5, 5).check(llvmpipe, kind=kind).dispatches[0]
            assert (prod(d.workgroup), dict(d.constants)["ROWS"]) == (threads, rows)
            assert threads <= DEFAULT_LIMITS["max-compute-invocations-per-workgroup"]


@pytest.mark.parametrize("silu", [True, False])
def test_winograd_norms_what_it_loads(gpu: WebGPU, silu: bool) -> None:
    """Also in bands; beyond the border there are zeros, and not the norm of zeros."""
    for size, bands, limit in (((2, 5, 7), 2, 1 << 20), ((2, 24, 5), 4, 13824)):
        case = chained(group_norm(size, 3, 3, silu=silu), conv3x3(size, 9, 7))
        made = case.check(gpu, WINOGRAD[-1], kind="discrete", max_storage_buffer_binding_size=limit).dispatches
        assert "group_apply" not in [d.shader for d in made]
        of_points = [d for d in made if d.entry == "to_points"]
        assert len(of_points) == bands
        assert all("norm" in [b.name for b in d.bindings] for d in of_points)


def test_a_residual_is_what_it_was_before_the_norm(llvmpipe: WebGPU) -> None:
    """The same tensor behind a norm and beside it, and both read by the host."""
    case = layer_norm((1, 4, 3), 6)
    ff = feed_forward((1, 4, 3), 6, 15)
    shapes = {f"{at}.{leaf}": shape for at, part in (("n", case), ("f", ff)) for leaf, shape in part.shapes.items()}

    def call(o: Any, p: Any, x: Any) -> Any:
        h = o.layer_norm(x, p.at("n"))
        return o.feed_forward(h, p.at("f"), x), h

    Case("both", case.terms + ff.terms, shapes, case.inputs, call).check(llvmpipe, CPU, kind="discrete")


def test_fused_sums_stay_close_where_the_mean_is_large(llvmpipe: WebGPU) -> None:
    """The mean is taken out of the weights, not of the values: what rounding leaves of it is what a rounded mean would."""
    cases = [("feed_forward of a layer norm", 0, 100), ("dwconv of a group norm", 0, 100)]
    kinds = "cross_lambda", "cross_lambda with whole vec4", "self_lambda", "self_lambda with whole vec4"
    for name, which, far in (*cases, *((f"feed_forward of a layer norm of {kind}", 1, 10_000) for kind in kinds)):
        case = FUSED[name][0]((1, 5, 3))
        case.inputs[which][...] += np.float32(far)  # of a lambda layer what is added to it
        case.condition = far
        case.check(llvmpipe, CPU, kind="discrete")


# Every way to divide a window's work: runs longer than a line, as long, and shorter; lines of the window that are none of the image's.
WAYS = [lambdas.Window(*way) for way in ((4, 1, 1, 4, False, 2), (4, 2, 3, 1, True), (8, 4, 2, 2, False), (2, 1, 5, 2, True, 3))]


@pytest.mark.parametrize("way", WAYS, ids=lambda way: "-".join(str(int(n)) for n in way))
def test_windows_of_every_shape(gpu: WebGPU, way: lambdas.Window, monkeypatch: pytest.MonkeyPatch) -> None:
    if way.each > 2 and "SwiftShader" in gpu.name:
        pytest.skip("It takes ten seconds to compile it.")
    monkeypatch.setattr(lambdas, "WINDOWS", (way,))
    monkeypatch.setattr(lambdas, "SMALL_WINDOWS", (way,))
    sizes = [(5, 5), (2, 17), (17, 18)][: 2 if way.each > 2 else None]
    for height, width in sizes[:1] if "SwiftShader" in gpu.name else sizes:
        k = 12 if way.split == 3 else 5 if height > 2 else 8
        made = self_lambda((1 if height > 2 else 2, height, width), 2, k).check(gpu, CPU, kind="discrete").dispatches
        assert made[-1].shader == "lambda_window"
        found = dict(made[-1].constants)
        assert (found["LINES"], found["SPLIT"]) == (way.lines, way.split)


@pytest.mark.parametrize("size", [(1, 1, 5), (2, 2, 9)], ids=["one line", "two lines"])
def test_a_window_reads_no_line_that_nobody_made(llvmpipe: WebGPU, size: Size, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three lines at a time of an image that has fewer, in memory of a workgroup that begins as NaN: some devices do not clear it."""
    specialise = wgsl.specialise

    def unclean(shader: str, constants: wgsl.Constants = (), entry: str | None = None) -> str:
        text = specialise(shader, constants, entry)
        if shader != "lambda_window":
            return text
        arrays = re.findall(r"^var<workgroup> (\w+): array<vec4<f32>, (.+)>;", text, re.M)
        assert len(arrays) >= 2
        dirty = "".join(
            f"  for (var z = local; z < {count}; z += SIZE) {{ {name}[z] = vec4<f32>(bitcast<f32>(params.width | 0x7fc00000u)); }}\n"
            for name, count in arrays
        )
        head, brace, body = text.partition("local: u32) {\n")
        assert brace
        return head + brace + dirty + "  workgroupBarrier();\n" + body

    monkeypatch.setattr(wgsl, "specialise", unclean)
    monkeypatch.setattr(llvmpipe.gpu, "_pipelines", {})
    monkeypatch.setattr(lambdas, "WINDOWS", (lambdas.Window(2, 1, 3, 2, True),))
    monkeypatch.setattr(lambdas, "ROOMY", 0)
    made = self_lambda(size, 24, 2).check(llvmpipe, CPU, kind="discrete").dispatches
    assert dict(made[-1].constants)["LINES"] == 3


def test_windows_of_many_heads(gpu: WebGPU, monkeypatch: pytest.MonkeyPatch) -> None:
    """A head for every lane, and λ made by the first form that there is room for, half of a row each."""
    forms = lambdas.Content(8, 1, 1, 1, 10_000), lambdas.Content(4096, 1, 2, 1), lambdas.Content(64, 1, 3, 1), lambdas.Content(64, 1, 2, 1)
    monkeypatch.setattr(lambdas, "CONTENT", forms)
    made = self_lambda((1, 2, 17), 8, 14).check(gpu, CPU, kind="discrete").dispatches
    assert [d.shader for d in made[-2:]] == ["lambda_content", "lambda_window"]
    assert (made[-2].grid, dict(made[-2].constants)) == ((2, 4, 1), forms[-1].constants())


def test_a_window_has_as_many_positions_as_a_workgroup_has_room_for(llvmpipe: WebGPU) -> None:
    caps = replace(llvmpipe.caps, limits=DEFAULT_LIMITS)

    def runs(caps: Caps, *sides: int) -> list[tuple[int, int]]:
        made = [lambdas.windows(caps, 8, k4, (side, side)) for k4, side in zip((10, 20, 40), sides, strict=False)]
        return [(int(constants["RUN"]), int(constants["LINES"])) for constants in made if constants is not None]

    assert runs(caps, 64, 32, 16) == [(16, 1), (8, 1), (2, 1)]  # the last for the number of workgroups
    roomy = replace(caps, limits={**DEFAULT_LIMITS, "max-compute-workgroup-storage-size": 48 << 10})
    assert runs(roomy, 64, 32, 16) == [(8, 3), (8, 3), (2, 3)]
    large = {**roomy.limits, "max-compute-workgroup-size-x": 1024, "max-compute-invocations-per-workgroup": 1024}
    assert runs(replace(roomy, limits=large), 64, 32, 16) == [(8, 3), (8, 3), (2, 3)]
    assert runs(replace(roomy, limits=large), 64, 64, 64) == [(8, 3), (8, 3), (2, 3)], "what eight positions of forty lanes want nobody has"
    assert runs(roomy, 8, 1, 4) == [(2, 3), (2, 3), (2, 3)]
    assert lambdas.windows(caps, 8, 257, (64, 64)) is None  # more lanes than a workgroup has threads
    narrow = replace(caps, limits={**DEFAULT_LIMITS, "max-compute-workgroup-size-x": 128})
    assert runs(narrow, 64, 32, 16) == [(8, 1), (4, 1), (2, 1)]
    made = self_lambda((1, 2, 2), 2, 80).check(llvmpipe, CPU, kind="discrete", max_compute_workgroup_storage_size=5120).dispatches
    assert made[-1].shader == "lambda_apply"


# The most lanes, rows and logits of a thread; heads, k, tokens and copies; and heads of a thread and lanes of a row that come of it.
CROSSES = {
    "every head a thread's": ((2, 2, 30), (3, 5, 10, 1), (3, 2)),
    "a head a thread": ((2, 2, 1), (3, 5, 10, 2), (1, 2)),
    "two heads a thread, lanes that take two vec4 or one": ((2, 3, 6), (16, 9, 3, 2), (2, 2)),
    "lanes that take two vec4": ((3, 2, 20), (2, 16, 10, 1), (2, 2)),
    "one token": ((5, 2, 2), (2, 20, 1, 3), (2, 5)),
    "one lane of one head": ((1, 4, 99), (1, 11, 12, 1), (1, 1)),
    "sixteen heads a thread": ((4, 3, 32), (16, 4, 2, 1), (16, 1)),
}


@pytest.mark.parametrize("name", CROSSES)
def test_cross_lambdas_of_every_shape(gpu: WebGPU, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """And the variance of their rows, which the norm behind takes. Rows do not fill a workgroup."""
    form, (heads, k, tokens, copies), divided = CROSSES[name]
    monkeypatch.setattr(lambdas, "CROSS_FORM", lambdas.Cross(*form))
    for images, height in some(gpu, [(1, 5)], [(2, 7)]):
        size = copies * images, height, 1
        made = in_transformer(cross_lambda((images, height, 1), heads, k, tokens, copies=copies), size).check(gpu, CPU, kind="discrete")
        d = next(d for d in made.dispatches if d.shader == "cross_lambda_rows")
        found = dict(d.constants)
        assert (found["EACH"], found["LANES"], found["ROWS"]) == (*divided, form[1])


def test_a_cross_lambda_is_divided_as_a_workgroup_has_room(llvmpipe: WebGPU, monkeypatch: pytest.MonkeyPatch) -> None:
    """Heads that divide them all, then fewer rows, then fewer lanes that share k evenly."""
    caps = replace(llvmpipe.caps, limits=DEFAULT_LIMITS)

    def divided(caps: Caps, *sizes: int) -> tuple[int, int, int] | None:
        found = lambdas.cross_rows(caps, *sizes)
        return found and (found["EACH"], found["LANES"], found["ROWS"])

    levels = (8, 10, 10), (8, 20, 10), (8, 40, 10)
    assert [divided(caps, *sizes) for sizes in levels] == [(2, 10, 1), (2, 20, 1), (2, 20, 1)]
    assert [divided(caps, 9, 12, 6), divided(caps, 8, 10, 77), divided(caps, 300, 10, 10)] == [(3, 12, 1), (1, 5, 1), None]
    monkeypatch.setattr(lambdas, "CROSS_FORM", lambdas.Cross(20, 3, 40))
    assert [divided(caps, *sizes) for sizes in levels] == [(4, 10, 3), (4, 20, 2), (4, 20, 2)]
    roomy = replace(caps, limits={**DEFAULT_LIMITS, "max-compute-workgroup-storage-size": 48 << 10})
    assert [divided(roomy, *sizes) for sizes in levels] == [(4, 10, 3), (4, 20, 3), (4, 20, 3)]
    cut = cross_lambda((1, 2, 2), 2, 3).check(llvmpipe, CPU, kind="discrete", max_compute_workgroup_storage_size=64)
    assert cut.dispatches[-1].shader == "cross_lambda"


def test_a_full_step_keeps_its_budget(llvmpipe: WebGPU) -> None:
    """As a GPU records it, whatever limits it has."""
    config = UNetConfig.full()
    device = WebGPU(llvmpipe.gpu, replace(llvmpipe.caps, kind="discrete", checked=False, limits=DEFAULT_LIMITS))
    net = UNet(config, ShapeOnly(unet.shapes(config)), device)
    times = DDIM().timesteps(20)
    step = Denoiser(net, condition_ids(config), times.tolist(), DDIM().coefficients(times, 20), 2.5).step
    summary = device.record(step, [(1, 64, 64, c) for c in (4, 1, 4)], slice(None)).summary()
    assert summary["dispatches"] <= 290
    assert summary["bytes"] <= 5.9e9
    assert summary["flops"] <= 460e9


def test_a_whole_network_is_fused_and_the_same(gpu: WebGPU) -> None:
    config = UNetConfig(8, 9, 4, (24, 40), 1, 4, 20, 28, 20, 2, 2.3)
    weights = synthetic(unet.shapes(config), 0)
    ids = condition_ids(config)
    x = noise("fused", (2, 9, 8, 8))
    want = UNet(config, weights, Reference())(x, 77, ids)
    caps = replace(gpu.caps, kind="discrete")
    fused = UNet(config, weights, WebGPU(gpu.gpu, caps, always(CPU)))
    out = fused(x, 77, ids)
    assert relative(out, want) <= 2e-5
    np.testing.assert_array_equal(out, fused(x, 77, ids))
    taps: list[str] = []
    tapped = fused(x, 77, ids, tap=lambda path, array: taps.append(path))  # every module is read, one op after the other
    assert relative(tapped, want) <= 2e-5
    assert any(path.endswith("nonlinearity") for path in taps)
    for i in range(2):
        np.testing.assert_array_equal(out[i : i + 1], fused(x[i : i + 1], 77, ids[i : i + 1]))


def test_validation_holds_what_is_fused_to_the_ops_own_bounds(llvmpipe: WebGPU) -> None:
    config, rows = UNetConfig(8, 9, 4, (24, 40), 1, 4, 20, 28, 20, 2, 2.3), list[Row]()
    device = WebGPU(llvmpipe.gpu, replace(llvmpipe.caps, kind="discrete"), always(CPU))
    net = UNet(config, synthetic(unet.shapes(config), 0), LockStep(device, rows.append))
    net(noise("fused", (2, 9, 8, 8)), 77, condition_ids(config))
    assert {"layer_norm", "group_norm", "concat", "self_lambda", "cross_lambda", "feed_forward", "dwconv", "linear"} <= {r.op for r in rows}
    assert all(row.ok for row in rows), max(rows, key=lambda row: row.relative_l2 / (row.limit or 1))
