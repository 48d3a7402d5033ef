"""How much memory a picture takes, counted from its plans, and that what lies over one another there is never wanted at the same time."""

from __future__ import annotations

import gc
from dataclasses import replace
from itertools import product, zip_longest

import numpy as np
import pytest
from goldens import noise
from harness import Guarded, always
from matrix_cases import DAWN

from moebius.backends.webgpu import WebGPU, gemm, places
from moebius.backends.webgpu.caps import Matrix
from moebius.backends.webgpu.deferred import Parted
from moebius.backends.webgpu.dispatch import Dispatch
from moebius.backends.webgpu.menu import CPU, DIFFERENCES_CPU, WINOGRAD, Gemm
from moebius.backends.webgpu.ops import dense, norms
from moebius.backends.webgpu.plan import Plan, check
from moebius.backends.webgpu.tensor import Binding, Buffer, read
from moebius.check import parts
from moebius.errors import LimitError
from moebius.model import vae
from moebius.model.contract import Precision
from moebius.model.params import Checkpoint, Params, ShapeOnly
from moebius.model.synthetic import synthetic
from moebius.model.unet import UNetConfig
from moebius.model.vae import VAE, VAEConfig

SMALL = VAEConfig((8, 16, 16, 16), layers_per_block=1, norm_num_groups=2)
# Megabytes that the plans of the full coder lie in: of the decoder and the encoder.
LENT = {"f32": (368, 309), "f16": (293, 236)}


def for_a_gpu(webgpu: WebGPU, row: Gemm | None = None, precision: Precision = "f32") -> WebGPU:
    caps = replace(webgpu.caps, kind="discrete", precision=precision)
    return WebGPU(webgpu.gpu, caps, always(row)) if row else WebGPU(webgpu.gpu, caps)


def plans(ops: WebGPU, config: VAEConfig, side: int) -> tuple[Plan, Plan]:
    """Of the decoder and the encoder, without weights."""
    coder, size = VAE(config, ShapeOnly(vae.shapes(config)), ops), config.factor * side
    return ops.record(coder.decoder, [(1, side, side, config.latent_channels)]), ops.record(coder.encoder, [(1, size, size, 3)])


def holds(plan: Plan) -> int:
    """Goes through a plan with nothing but its places: each tensor that is read is what was written there last, or lies over what was.
    Returns how many dispatches add to what is there."""
    there: dict[int, places.Place] = {}  # what can be read
    for d in plan.dispatches:
        placed = {b.name: plan._placed[id(b.buffer)] for b in d.bindings if id(b.buffer) in plan._placed}
        written = [placed[b.name] for b in d.outputs if b.name in placed]
        for name, at in placed.items():
            assert at.end <= at.shared.nbytes
            assert at.offset % 256 == 0
            if at not in written:
                assert id(at.buffer) in there, f"{at.buffer.label} is gone before {d.op} ({d.path})"
                assert all(at.shared is not to.shared for to in written), f"{d.op} ({d.path}) reads and writes the buffer of {name}"
        if d.over is not None:
            (out,) = written
            assert {id(d.over.buffer), id(out.buffer)} & there.keys(), f"{d.over.buffer.label} is gone before {d.path}"
        for to in written:
            over = [key for key, at in there.items() if at.shared is to.shared and at.offset < to.end and to.offset < at.end]
            for key in over:
                del there[key]
            there[id(to.buffer)] = to
    return sum(d.over is not None for d in plan.dispatches)


@pytest.mark.parametrize(("precision", "vendor"), [("f32", ""), ("f32", "NVIDIA"), ("f16", "")])
def test_the_full_coder_keeps_to_its_memory(llvmpipe: WebGPU, precision: Precision, vendor: str) -> None:
    """Counted, as for a GPU, whose convolutions are in tiles: nothing is computed."""
    ops = for_a_gpu(llvmpipe, precision=precision)
    ops = WebGPU(ops.gpu, replace(ops.caps, vendor=vendor, checked=False))
    made = plans(ops, VAEConfig.full(), 64)
    for plan, most in zip(made, LENT[precision], strict=True):
        assert sum(plan.lent) <= most * 10**6
        assert holds(plan) >= 8  # resnets, and the attention
        assert "from_points" in [d.entry for d in plan.dispatches]
    decoder, encoder = (plan.lent for plan in made)
    assert sum(map(max, zip_longest(decoder, encoder, fillvalue=0))) <= LENT[precision][0] * 10**6  # what they share is the decoder's


@pytest.mark.parametrize(("precision", "matrix", "most"), [("f32", None, 1.55e9), ("f16", None, 0.885e9), ("f16", DAWN, 0.9e9)])
def test_a_picture_of_the_full_model_keeps_to_its_memory(
    llvmpipe: WebGPU, precision: Precision, matrix: Matrix | None, most: float
) -> None:
    """Counted, as for the largest GPU, with the weights of both networks."""
    ops = for_a_gpu(llvmpipe, precision=precision)
    limits = {**ops.caps.limits, "max-compute-workgroup-storage-size": 49152}
    ops = WebGPU(ops.gpu, replace(ops.caps, vendor="NVIDIA", checked=False, matrix=matrix, limits=limits))
    config = UNetConfig.full()
    step, *coder = parts.recorded(ops, config, VAEConfig.full())
    assert len(step.recording.steps) <= 300
    assert holds(step) > 0
    assert ("units" in [d.entry for d in step.dispatches]) == (matrix is not None)
    assert parts.memory(step, *coder)["picture_bytes"] <= most


@pytest.mark.parametrize(("precision", "row"), [*product(("f32", "f16"), (CPU, WINOGRAD[-1], DIFFERENCES_CPU))])
def test_parts_and_bands_change_no_bit(llvmpipe: WebGPU, monkeypatch: pytest.MonkeyPatch, row: Gemm, precision: Precision) -> None:
    """A decoder whose last level is in parts, with norms in bands, sums over what is added to them; against one without these."""
    z, image = noise("z", (1, 4, 4, 8)), np.clip(noise("x", (1, 3, 32, 64)), -1, 1)
    monkeypatch.setattr(norms, "WHOLE", 0)  # as it is for the tensors that this is about
    monkeypatch.setattr(norms, "CHUNK", 64)

    def coded() -> tuple[np.ndarray, np.ndarray]:
        return coder.decode(z), coder.encode(image)

    ops = for_a_gpu(llvmpipe, row, precision)
    coder = VAE(SMALL, synthetic(vae.shapes(SMALL), 0), ops)
    with monkeypatch.context() as plain:
        plain.setattr(places, "over_residuals", lambda dispatches, kept: dispatches)
        want = coded()
    large = ops.plan(coder.decoder, [(1, 4, 8, 4)]).summary()["peak_bytes"]
    monkeypatch.setattr(dense, "WHOLE", 4 * 16 * 32 * 16 - 1)  # the last two levels
    monkeypatch.setattr(dense, "PART", dict.fromkeys(("f32", "f16"), 4 * 4 * 64 * 16))  # of lines of one tile, in the last
    monkeypatch.setattr(gemm, "NORMED", 5 * 4 * 64 * 8)
    ops.forget(coder, coder.root.root)
    for a, b in zip(want, coded(), strict=True):
        np.testing.assert_array_equal(a, b)
    made = ops.plan(coder.decoder, [(1, 4, 8, 4)])
    labels = {b.buffer.label for d in made.dispatches for b in d.bindings}
    counts = {name: sum(f"{name}, part" in label for label in labels) for name in ("upsamplers.0.conv", "conv1", "conv_shortcut", "conv2")}
    last, inner = (8, 2) if precision == "f32" else (4, 0)  # quads are half as many bytes
    want_parts = {"upsamplers.0.conv": 2 + last, "conv1": 2 * inner + 2 * last, "conv_shortcut": last, "conv2": 2 * 2 + 2 * last}
    assert counts == want_parts
    assert {d.path for d in made.dispatches if ("SCALED", False) in d.constants} == {"decoder.up_blocks.2.resnets.1.conv2"}
    assert holds(made) >= 8
    assert made.summary()["peak_bytes"] < large
    np.testing.assert_array_equal(coder.decode(np.concatenate([z, z]))[1:], want[0])  # of a batch, which are not in parts


def test_a_filter_that_reaches_across_parts_has_their_lines_copied(llvmpipe: WebGPU, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    p = Params(Checkpoint({"weight": noise("w", (16, 16, 3, 3)), "bias": noise("b", (16,))}))
    for limit, row in ((dense.WHOLE, CPU), (0, CPU), (0, WINOGRAD[-1]), (dense.WHOLE, WINOGRAD[-1])):
        monkeypatch.setattr(dense, "WHOLE", limit)
        monkeypatch.setattr(dense, "PART", dict.fromkeys(("f32", "f16"), 0))
        ops = Guarded(llvmpipe, row, kind="discrete")
        with ops.eager():
            made.append(ops.read(ops.conv3x3(ops.upsample_conv3x3(ops.tensor(noise("x", (1, 16, 8, 8))), p), p, stride=1 + (row is CPU))))
            copies = [d for d in ops.dispatches if d.shader == "group_apply"]
        assert bool(copies) == (limit == 0)
        for d in copies:
            with pytest.raises(LimitError):
                check(replace(d, params=d.params | {"count": d.params["count"] + 4096}), ops.caps)
    np.testing.assert_array_equal(*made[:2])
    np.testing.assert_array_equal(*made[2:])


def test_parts_leave_no_memory_behind(llvmpipe: WebGPU, monkeypatch: pytest.MonkeyPatch) -> None:
    """No buffers for what runs op by op, whose tensors lie nowhere; and no circle that keeps a plan's tensors."""
    monkeypatch.setattr(dense, "WHOLE", 0)
    place, arenas = places.place, []
    monkeypatch.setattr(places, "place", lambda *args: arenas.append(place(*args)) or arenas[-1])

    ops = for_a_gpu(llvmpipe, CPU)
    p = Params(Checkpoint({"weight": noise("w", (16, 16, 3, 3)), "bias": noise("b", (16,))}))
    with ops.eager():
        ops.read(ops.upsample_conv3x3(ops.tensor(noise("x", (1, 16, 8, 8))), p))
    assert len(arenas) > 0
    assert all(arena == [] for arena, _ in arenas)
    gc.collect()
    gc.disable()
    try:
        assert len(ops.record(lambda x: ops.conv3x3(ops.upsample_conv3x3(x, p), p), [(1, 8, 8, 16)]).lent) > 1
        assert [each for each in gc.get_objects() if isinstance(each, Parted)] == []
    finally:
        gc.enable()


def test_a_norm_of_parts_is_made_whole_where_it_is_wanted_so(llvmpipe: WebGPU, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of three parts at a time, or of one where three are more than a binding may have."""
    made, counts = [], []
    conv = Params(Checkpoint({"weight": noise("w", (16, 16, 3, 3)), "bias": noise("b", (16,))}))
    norm = Params(Checkpoint({"weight": noise("g", (16,)), "bias": noise("b", (16,))}))
    monkeypatch.setattr(norms, "WHOLE", 0)
    monkeypatch.setattr(dense, "PART", dict.fromkeys(("f32", "f16"), 0))
    for whole, limit, chunk in ((2**27, 2**27, 96), (0, 2**27, 96), (0, 2**14, 96), (2**27, 2**27, 2**20), (0, 2**27, 2**20)):
        monkeypatch.setattr(dense, "WHOLE", whole)
        monkeypatch.setattr(norms, "CHUNK", chunk)  # the last one is larger than a part
        ops = Guarded(llvmpipe, CPU, kind="discrete", max_storage_buffer_binding_size=limit)
        with ops.eager():
            x = ops.upsample_conv3x3(ops.tensor(noise("x", (1, 16, 16, 16))), conv)
            made.append(ops.read(ops.group_norm(x, norm, 4, 1e-5, silu=True)))
            counts.append([d.shader for d in ops.dispatches].count("group_apply"))
    assert counts == [1, 3, 8, 1, 1]
    for same in (made[:2], made[1:3], made[3:]):
        np.testing.assert_array_equal(*same)


def test_parts_are_as_many_as_a_size_allows(llvmpipe: WebGPU, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tile's lines and a norm's chunks stay whole; software drivers keep to one."""
    rec = for_a_gpu(llvmpipe).recorder
    assert [dense._parts(rec, (1, 512, 512, c), "f32") for c in (16, 64, 68, 128, 256, 512)] == [1, 1, 4, 8, 16, 16]
    assert [dense._parts(rec, (1, h, 512, 256), "f32") for h in (520, 528, 544, 576, 514)] == [2, 4, 8, 16, 1]
    assert [dense._parts(rec, shape, "f32") for shape in ((2, 512, 512, 256), (1, 512, 513, 100), (1, 520, 519, 256))] == [1, 1, 1]
    assert dense._parts(llvmpipe.recorder, (1, 512, 512, 256), "f32") == 1
    rec = for_a_gpu(llvmpipe, precision="f16").recorder
    assert [[dense._parts(rec, (1, 512, 512, c), dtype) for c in (64, 128, 256)] for dtype in ("f32", "quad")] == [[1, 4, 8], [1, 1, 4]]


def test_what_is_made_of_parts_is_in_parts_where_it_is_large_and_takes_their_memory(llvmpipe: WebGPU) -> None:
    rec = for_a_gpu(llvmpipe).recorder

    def behind(channels: int) -> list[int]:
        """Parts of outputs of as many channels, half as many, a quarter."""
        size = (1, 512, 512, channels)
        with rec.open(eager=False):
            x = dense.made(rec, size, "x", 4, lambda out: out)
            return [dense._parts_behind(rec, (*size[:3], channels // by), "f32", x, None) for by in (1, 2, 4)]

    assert behind(512) == [4, 4, 1]  # of 537 MB
    assert behind(128) == [4, 1, 1]  # of 134 MB: half is what stays in one piece


# What runs sooner ------------------------------------------------------------------------------------------------------
def test_what_makes_less_of_the_last_of_something_runs_sooner(llvmpipe: WebGPU) -> None:
    large, other = (Buffer(llvmpipe.gpu, 2048, "buffer", "intermediate") for _ in range(2))
    x, y, z = (Buffer(llvmpipe.gpu, 1024, "buffer", "intermediate") for _ in range(3))
    made, read, unlike = dispatch(out=large), dispatch(a=large, out=x), dispatch(a=x, out=z)
    less = dispatch(a=large, out=y)
    cases: dict[str, tuple[list[Dispatch], list[int]]] = {
        "behind the one before": ([made, read, unlike, less], [0, 1, 3, 2]),
        "wanted later": ([made, read, unlike, less, dispatch(a=large, out=other)], [0, 1, 2, 3, 4]),
        "as large": ([made, read, unlike, dispatch(a=large, out=other)], [0, 1, 2, 3]),
        "when what it adds is there": ([made, read, unlike, dispatch(a=x, out=other), dispatch(a=large, first=z, out=y)], [0, 1, 2, 4, 3]),
        "behind what makes that": ([made, unlike, dispatch(a=z, out=other), less], [0, 3, 1, 2]),
        "what is there already": ([made, read, dispatch(a=z, out=y), unlike, less], [0, 1, 2, 3, 4]),
    }
    for name, (given, want) in cases.items():
        assert [next(i for i, d in enumerate(given) if d is got) for got in places.sooner(given, set())] == want, name
    given = cases["behind the one before"][0]
    assert places.sooner(given, {id(large)}) == given


# What may lie over what ------------------------------------------------------------------------------------------------
def dispatch(**bound: Buffer | tuple[Buffer, int, int]) -> Dispatch:
    """Of gemm.wgsl; a buffer, or a window of it. What is called `out` is written."""
    bindings = []
    for name, what in bound.items():
        buffer, offset, nbytes = what if isinstance(what, tuple) else (what, 0, what.nbytes)
        bindings.append(Binding(name, "read_write" if name == "out" else "read", buffer, (nbytes // 4,), offset, nbytes))
    return Dispatch("op", "path", "gemm", "direct", (("FIRST", "first" in bound),), (1, 1, 1), bindings, {}, (1, 1), 0, 0, 0)


def test_a_sum_lies_over_what_nobody_wants_any_more(llvmpipe: WebGPU) -> None:
    a, x, y, z, larger = (Buffer(llvmpipe.gpu, 2048 if i == 4 else 1024, "buffer", "intermediate") for i in range(5))
    whole = dispatch(a=a, first=x, out=y)
    upper, lower = (dispatch(a=a, first=(x, at, 512), out=(y, at, 512)) for at in (0, 512))
    in_turn = [whole, dispatch(a=a, first=y, out=z)]
    cases: dict[str, tuple[list[Dispatch], list[bool]]] = {
        "its last use": ([dispatch(a=a, out=x), whole, dispatch(a=y, out=z)], [False, True, False]),
        "one after the other": (in_turn, [True, True]),
        "wanted later": ([whole, dispatch(a=x, out=z)], [False, False]),
        "also multiplied": ([dispatch(a=x, first=x, out=y)], [False]),
        "of another size": ([dispatch(a=a, first=(larger, 0, 1024), out=y)], [False]),
        "in bands": ([upper, lower, dispatch(a=y, out=z)], [True, True, False]),
        "read between the bands": ([upper, dispatch(a=y, out=z), lower], [False, False, False]),
        "another window": ([dispatch(a=a, first=(x, 0, 512), out=(y, 512, 512))], [False]),
        "written before": ([dispatch(a=a, out=y), whole], [False, False]),
    }
    for name, (given, want) in cases.items():
        made = places.over_residuals(given, set())
        assert [d.over is not None for d in made] == want, name
        for d in made:
            assert (d.over is not None) == dict(d.constants).get("OVER", False), name
            assert d.over is None or "first" not in [b.name for b in d.bindings], name
            assert d.nbytes == sum(b.nbytes for b in d.bindings) + (d.over.nbytes if d.over else 0), name
    for kept in (x, y):
        assert places.over_residuals([whole], {id(kept)})[0].over is None
    _, placed = places.place(places.over_residuals(in_turn, set()), set(), llvmpipe.gpu)
    assert placed[id(x)].shared is placed[id(y)].shared is placed[id(z)].shared is not placed[id(a)].shared


def test_small_tensors_lie_side_by_side(llvmpipe: WebGPU, monkeypatch: pytest.MonkeyPatch) -> None:
    """But where one dispatch reads one and writes the other."""
    large, one, other, odd = (Buffer(llvmpipe.gpu, n, "buffer", "intermediate") for n in (2048, 512, 300, 1500))
    first = dispatch(out=large)
    arena, placed = places.place([first, dispatch(out=one), dispatch(out=other), dispatch(a=one, w=other)], set(), llvmpipe.gpu)
    assert [b.nbytes for b in arena] == [2048]
    assert sorted((placed[id(b)].offset, placed[id(b)].end) for b in (one, other)) == [(0, 512), (512, 812)]
    _, placed = places.place([first, dispatch(out=other), dispatch(out=odd), dispatch(a=odd, w=other)], set(), llvmpipe.gpu)
    assert (placed[id(odd)].offset, placed[id(other)].offset) == (0, 1536)
    arena, placed = places.place([first, dispatch(out=one), dispatch(a=one, out=other)], set(), llvmpipe.gpu)
    assert [b.nbytes for b in arena] == [2048, 300]
    beside = [first, dispatch(out=one), dispatch(a=large, w=one)]
    arena, placed = places.place(beside, set(), llvmpipe.gpu)
    assert [b.nbytes for b in arena] == [2048 + 512]
    assert placed[id(one)].offset == 2048
    for limit in ("SMALL", "LARGEST"):
        with monkeypatch.context() as patch:
            patch.setattr(places, limit, 511)
            assert [b.nbytes for b in places.place(beside, set(), llvmpipe.gpu)[0]] == [2048, 512]


# What is wanted at the beginning alone -----------------------------------------------------------------------------------
def test_weights_of_the_tables_are_given_back(llvmpipe: WebGPU) -> None:
    """Once: a plan that meets other timesteps keeps them; and a run with the same ones is spared making the tables."""
    p = Params(Checkpoint(synthetic({"weight": (8, 6), "bias": (8,)}, 0)))
    made: list[np.ndarray] = []
    ops = for_a_gpu(llvmpipe)
    with ops.recorder.open(eager=False) as recording:
        x = recording.sinusoid = ops.recorder.new((1, 1, 3, 6), "sinusoid", "pinned")
        table = dense.time_table(ops._dense, x, p, "time_shift", None)
        plan = Plan(recording, [], [table])
    (early,) = (b for b in plan._early if b.label == ".weight")
    assert plan.summary()["early_bytes"] == sum(b.nbytes for b in plan._early) == 4 * (8 * 8 + 8)
    assert plan.summary()["weight_bytes"] == 0
    for there, times in ((False, noise("t", (3, 6))), (False, noise("t", (3, 6))), (True, noise("u", (3, 6))), (True, noise("t", (3, 6)))):
        plan.start(times)
        made.append(read(table)[0, 0])
        np.testing.assert_allclose(made[-1], times @ p["weight"].T + p["bias"], atol=1e-5)
        assert (early.fill is None) == there
    plan.vacate()
    plan.start(noise("u", (3, 6)))
    np.testing.assert_array_equal(read(table)[0, 0], made[2])
    with ops.recorder.open(eager=False) as recording:  # not those that a step wants, too
        dense.time_table(ops._dense, x, p, "time_shift", None)
        out = dense.linear(ops._dense, x, p)
        assert Plan(recording, [x], [out]).summary()["early_bytes"] == 0
