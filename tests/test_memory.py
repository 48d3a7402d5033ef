"""How much memory a picture takes, counted from its plans, and that what lies over one another there is never wanted at the same time."""

from __future__ import annotations

from dataclasses import replace
from itertools import product, zip_longest

import numpy as np
import pytest
from goldens import noise

from moebius.backends.webgpu import WebGPU, gemm, places
from moebius.backends.webgpu.choice import always
from moebius.backends.webgpu.dispatch import Dispatch
from moebius.backends.webgpu.menu import CPU, WINOGRAD, Gemm
from moebius.backends.webgpu.ops import dense, norms
from moebius.backends.webgpu.plan import Plan
from moebius.backends.webgpu.tensor import Binding, Buffer, Tensor, read
from moebius.model import vae
from moebius.model.contract import Precision
from moebius.model.params import Checkpoint, Params, ShapeOnly
from moebius.model.synthetic import synthetic
from moebius.model.vae import VAE, VAEConfig

SMALL = VAEConfig((8, 16, 16, 16), layers_per_block=1, norm_num_groups=4)
# Megabytes that the plans of the full coder lie in: of the decoder and the encoder.
LENT = {"f32": (470, 348), "f16": (470, 369)}


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


@pytest.mark.parametrize(("precision", "row"), [*product(("f32", "f16"), (CPU, WINOGRAD[-1]))])
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
    monkeypatch.setattr(dense, "WHOLE", 4 * 32 * 64 * 16 - 1)
    monkeypatch.setattr(gemm, "NORMED", 5 * 4 * 64 * 8)
    ops.forget(coder, coder.root.root)
    for a, b in zip(want, coded(), strict=True):
        np.testing.assert_array_equal(a, b)
    made = ops.plan(coder.decoder, [(1, 4, 8, 4)])
    labels = {b.buffer.label for d in made.dispatches for b in d.bindings}
    assert sum("upsamplers.0.conv, part" in label for label in labels) == 2
    assert sum("conv_shortcut, part" in label for label in labels) == 2
    applied = [d for d in made.dispatches if d.shader == "group_apply" and "up_blocks.3" in d.path]
    assert len(applied) == 2 if row.packing == "winograd" else len(applied) > 12
    assert holds(made) >= 8


def test_a_part_that_a_filter_would_reach_across_is_made_whole(llvmpipe: WebGPU, monkeypatch: pytest.MonkeyPatch) -> None:
    ops, made = for_a_gpu(llvmpipe), []
    p = Params(Checkpoint({"weight": noise("w", (16, 16, 3, 3)), "bias": noise("b", (16,))}))

    class Net:
        def forward(self, x: Tensor) -> Tensor:
            return ops.conv3x3(ops.upsample_conv3x3(x, p), p)

    for limit in (dense.WHOLE, 0):
        monkeypatch.setattr(dense, "WHOLE", limit)
        made.append(ops.run(Net().forward, [noise("x", (1, 16, 8, 8))], tap=None))
    np.testing.assert_array_equal(*made)


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
