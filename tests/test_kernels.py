"""Every op of the contract on the GPU against the float64 oracle: shapes, values, widths, guards, replays.

Limits come from the arithmetic: a sum of K products is 4·eps·√K of its scale away at most. MEASURED says how much of them is used;
a limit is never raised to hide a difference.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from cases import (
    OPS,
    ORACLE,
    Case,
    attention,
    concat,
    cross_lambda,
    dwconv,
    feed_forward,
    group_norm,
    guided_ddim,
    layer_norm,
    normal,
    repeat,
    self_lambda,
    some,
    time_case,
    unet_input,
)
from harness import Guarded, GuardedRecorder

from moebius.backends.webgpu import WebGPU
from moebius.backends.webgpu.ops import norms
from moebius.backends.webgpu.tensor import read
from moebius.model.arrays import time_sinusoid
from moebius.model.contract import Timesteps
from moebius.model.scheduler import DDIM

# MEASURED: how much of the limits is used, of that on the norm and of that on a single value, the worst of all that is below.
#
#                            llvmpipe   SwiftShader  Dawn
# linear                     0.07 0.12  0.07 0.08    0.07 0.08
# conv3x3 stride 1 pad 1     0.03 0.04  0.03 0.03    0.03 0.03
# conv3x3 stride 2 pad 1     0.03 0.03  0.03 0.02    0.03 0.02
# conv3x3 stride 2 pad 0     0.03 0.03  0.03 0.03    0.03 0.03
# upsample_conv3x3           0.04 0.04  0.02 0.04    0.02 0.04
# dwconv                     0.06 0.07  0.06 0.07    0.06 0.07
# feed_forward               0.13 0.12  0.08 0.11    0.08 0.11
# group_norm                 0.14 0.30  0.13 0.30    0.13 0.30
# layer_norm                 0.13 0.14  0.10 0.14    0.10 0.14
# self_lambda                0.02 0.02  0.01 0.02    0.01 0.02
# cross_lambda               0.05 0.08  0.05 0.08    0.05 0.08
# attention                  0.04 0.03  0.04 0.03    0.04 0.03
# concat                     exact      exact        exact
# repeat                     exact      exact        exact
# unet_input                 exact      exact        exact
# guided_ddim                0.46 0.20  0.45 0.20    0.45 0.20
# time_embedding, time_shift 0.10 0.04  0.09 0.04    0.09 0.04


op_names = pytest.mark.parametrize("name", OPS)


# shapes and values ---------------------------------------------------------------------------------------------------
@op_names
def test_every_op_agrees_with_the_oracle(gpu: WebGPU, name: str) -> None:
    more = [(1, 1, 3), (2, 3, 1), (1, 1, 7), (1, 5, 3), (2, 8, 4), (1, 11, 13), (1, 17, 5), (2, 4, 19), (1, 16, 16)]
    for size in some(gpu, [(1, 1, 1), (2, 5, 7), (1, 6, 9)], more):
        OPS[name](size).check(gpu)


VALUES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "far from zero": lambda x: x + np.float32(1e4),
    "near an eps": lambda x: x * np.float32(3e-3),  # where a norm's eps counts as much as the variance
    "tiny": lambda x: x * np.float32(1e-12),
    "zeros": np.zeros_like,
    "one-hot": lambda x: np.where(np.arange(x.size).reshape(x.shape) == x.size * 2 // 3, np.float32(1), np.float32(0)),
}


@op_names
@pytest.mark.parametrize("values", VALUES)
def test_every_op_takes_any_values(gpu: WebGPU, name: str, values: str) -> None:
    for size in some(gpu, [(2, 5, 3)], [(1, 6, 9)]):
        case = OPS[name](size)
        change = VALUES[values] if (name, values) != ("attention", "far from zero") else lambda x: x + np.float32(30)
        case.inputs[0] = change(case.inputs[0])
        if "norm" in name and values == "far from zero":
            case.condition = 1e4  # the mean, rounded, in units of the deviation; E[x²] - E[x]² would be off by the square of that
        case.condition *= largest_logit(case)
        case.check(gpu)


def largest_logit(case: Case) -> float:
    """What a softmax makes of a rounding of its argument: e^(x + δ) is off by δ, and δ is a rounding of the largest logit."""
    x, p = ORACLE.tensor(case.inputs[0]), case.params
    if case.name == "self_lambda":
        return max(1.0, float(np.abs(ORACLE._matrix(x, p.at("to_k"))).max()))
    if case.name == "attention":
        q, k = (np.abs(ORACLE._matrix(x, p.at(name))).max() for name in ("to_q", "to_k"))
        return max(1.0, float(q * k * math.sqrt(x.shape[-1])))
    return 1.0


@op_names
def test_a_batch_is_its_images_and_a_second_run_the_first_bit_for_bit(gpu: WebGPU, name: str) -> None:
    for size in some(gpu, [(2, 5, 7)], [(2, 1, 2), (2, 9, 4)]):
        case, guarded = OPS[name](size), Guarded(gpu)
        p = case.params
        both = case.run(guarded, p)
        for first, again in zip(both, case.run(guarded, p), strict=True):
            np.testing.assert_array_equal(first, again)
        for i in range(2):
            alone = replace(case, inputs=[image(a, i) for a in case.inputs]).run(guarded, p)
            for got, want in zip(alone, both, strict=True):
                np.testing.assert_array_equal(got, image(want, i))


def image(a: np.ndarray, i: int) -> np.ndarray:
    """Image i of two; its unconditional and its conditional row of four; what both share."""
    return a[i::2] if len(a) > 1 else a


def test_batch_norm_keeps_its_eps(gpu: WebGPU) -> None:
    """With variances near 1e-5 a BN without its eps is off by a factor."""
    for name in ("dwconv", "self_lambda", "cross_lambda"):
        case = OPS[name]((1, 5, 3))
        for leaf, shape in case.shapes.items():
            if leaf.endswith("running_var"):
                case.weights[leaf] = np.float32(1e-5) * (1 + np.abs(normal(leaf, *shape)))
        case.check(gpu)


# the guards ----------------------------------------------------------------------------------------------------------
BENT: dict[str, Callable[[dict, dict], None]] = {
    "past its end": lambda bound, sizes: sizes.update(rows=sizes["rows"] + 1),
    "poison in word": lambda bound, sizes: sizes.update(rows=sizes["rows"] - 1),
    "in its padding": lambda bound, sizes: sizes.update(b=7, b_pitch=7),
    "is an input and was changed": lambda bound, sizes: bound.update(a=bound["b"], out=bound["a"]),
}


@pytest.mark.parametrize("says", BENT)
def test_the_guards_notice(gpu: WebGPU, says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("moebius.backends.webgpu.plan.check_reach", lambda *_: None)  # which would refuse some of them before they run

    class Bent(GuardedRecorder):
        def dispatch(self, op: str, path: str, shader: str, grid: Any, bound: dict, params: dict, *rest: Any, **options: Any) -> None:
            BENT[says](bound, params)
            super().dispatch(op, path, shader, grid, bound, params, *rest, **options)

    with pytest.raises(AssertionError, match=says):
        concat((1, 5, 7)).run(Guarded(gpu, recorder=Bent))


# depthwise -----------------------------------------------------------------------------------------------------------
def test_depthwise_widths(gpu: WebGPU) -> None:
    """A thread makes four neighbours of a row: every remainder, one to three rows, no neighbours at all."""
    for width in some(gpu, [1, 4, 6], [2, 3, 5, 7, 8, 9]):
        for height in some(gpu, [2], [1, 3]):
            dwconv((2, height, width), k=5, n=5).check(gpu)
            feed_forward((2, height, width), c=5, hid=6).check(gpu)


# norms ---------------------------------------------------------------------------------------------------------------
def test_group_norm_widths(gpu: WebGPU) -> None:
    for groups, width in some(gpu, [(5, 1), (3, 10)], [(1, 1), (7, 1), (4, 3), (2, 3), (1, 13), (2, 20), (1, 65), (8, 4)]):
        for size in [(2, 3, 5), (1, 9, 8)]:
            group_norm(size, groups, width).check(gpu)
            group_norm(size, groups, width, eps=1e-1, silu=True).check(gpu)


def test_group_norm_loads_several_channels_at_once(gpu: WebGPU, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many as divide a group's. No two are alike, so that each counts: here a thread of a GPU has several rounds of loads."""
    monkeypatch.setattr(norms, "SCALE_THREADS", 16)
    for groups, width, floats in some(gpu, [(3, 4, 4), (2, 10, 2), (2, 3, 1)], [(1, 8, 4), (3, 2, 2), (2, 6, 2), (1, 72, 4), (1, 38, 2)]):
        for size in some(gpu, [(2, 31, 9)], [(1, 1, 1), (2, 1, 3), (1, 4, 5)]):  # there are fewer positions than threads, too
            case = group_norm(size, groups, width)
            channels = np.arange(groups * width, dtype=np.float32).reshape(1, -1, 1, 1)
            case.inputs[0] = (case.inputs[0] + 3 * np.cos(3 * channels)) * (1 + channels % 5)
            made = case.check(gpu, kind="discrete").dispatches[0]
            assert [dict(made.constants).get(name, 1) for name in ("WIDTH", "AHEAD")] == [floats, norms.SCALE_AHEAD // floats]
            values, positions = width // floats, size[1] * size[2]
            rounds = -(-positions // (norms.SCALE_AHEAD // floats * (16 // min(values, 16))))
            assert made.iterations == -(-values // 16) * (1 + rounds) + norms.ROUNDS + -(-width // 16)
            assert "WIDTH" not in dict(case.check(gpu, kind="software").dispatches[0].constants)
            case.inputs[0] = VALUES["far from zero"](case.inputs[0])
            case.condition = 1e4
            case.check(gpu, kind="discrete")
    monkeypatch.undo()
    for width in some(gpu, [10], [4, 20]):  # with all threads that there are, and more positions than they load at once
        group_norm((1, 61, 67), 2, width).check(gpu, kind="discrete")


def test_group_norm_merges_its_chunks(gpu: WebGPU, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(norms, "WHOLE", 8989)
    whole = group_norm((1, 29, 31), 2, 10).check(gpu)  # 899 positions of 10 channels are two chunks, 450 and 449
    assert [d.grid for d in whole.dispatches if d.shader == "group_stats"] == [(2, 2, 1)]
    far = group_norm((1, 29, 31), 2, 10)  # of which a thread has many
    far.inputs[0] = VALUES["far from zero"](far.inputs[0])
    far.condition = 1e4
    far.check(gpu)
    monkeypatch.setattr(norms, "WHOLE", 8990)
    assert [d.shader for d in group_norm((1, 29, 31), 2, 10).check(gpu).dispatches] == ["group_scale", "group_apply"]
    monkeypatch.setattr(norms, "WHOLE", 0)
    fours = group_norm((1, 29, 31), 2, 8)  # four channels at a time, of which no two are alike
    fours.inputs[0] = (fours.inputs[0] + 3) * (1 + np.arange(16, dtype=np.float32).reshape(1, -1, 1, 1) % 4)
    made = fours.check(gpu, kind="discrete").dispatches
    assert [dict(d.constants)["FOURS"] for d in made if d.shader == "group_stats"] == [True]
    monkeypatch.setattr(norms, "CHUNK", 32)
    for values in some(gpu, ["far from zero"], ["near an eps"]):
        case = group_norm((2, 5, 7), 3, 3)  # 35 positions in chunks of 12, 12 and 11
        case.inputs[0] = VALUES[values](case.inputs[0])
        case.condition = 1e4 if values == "far from zero" else 1.0
        assert [d.grid for d in case.check(gpu).dispatches if d.shader == "group_stats"] == [(3, 3, 2)]
    drift = group_norm((1, 5, 7), 3, 3)  # chunks whose means lie far apart
    drift.inputs[0] += np.linspace(-100, 100, 35, dtype=np.float32).reshape(5, 7)
    drift.check(gpu)
    monkeypatch.setattr(norms, "CHUNK", 1)
    group_norm((1, 5, 3), 2, 3).check(gpu)  # a chunk for every position


def test_layer_norm_widths(gpu: WebGPU) -> None:
    for c in some(gpu, [1, 5, 65], [2, 3, 4, 8, 63, 64, 67, 130]):
        for rows in (1, 3, 4, 5):
            layer_norm((1, 1, rows), c).check(gpu, kind="discrete")  # sixteen lanes share a row
            layer_norm((1, 1, 4 * rows - 3), c).check(gpu, kind="software")  # a thread has one for itself


# lambda and attention ------------------------------------------------------------------------------------------------
def test_lambda_heads(gpu: WebGPU) -> None:
    for heads, k in some(gpu, [(8, 3), (1, 5)], [(1, 1), (2, 4), (3, 8), (2, 13), (16, 2), (8, 10)]):
        for name in (self_lambda, cross_lambda):
            name((2, 4, 5), heads, k).check(gpu)


def test_self_lambda_windows(gpu: WebGPU) -> None:
    """The window is 15×15: larger than the image, as large, smaller, and in one direction each."""
    for height, width in some(gpu, [(5, 3), (2, 17)], [(3, 5), (15, 15), (8, 7), (17, 18), (16, 2), (1, 31), (23, 1)]):
        self_lambda((1, height, width), 2, 3).check(gpu)
        self_lambda((1, height, width), 2, 9).check(gpu)  # three vec4 a head: on a software driver the logits are in memory


def test_self_lambda_takes_one_maximum_of_all_positions(gpu: WebGPU) -> None:
    for size in some(gpu, [(1, 5, 7)], [(2, 8, 9), (1, 29, 37)]):  # fewer than a workgroup has threads, more, and many more
        case = self_lambda(size, 1, 4)
        case.weights["to_k.weight"] = 20 * normal("to_k", 4, 4, 1, 1)  # logits to ±100: most of what is summed underflows
        case.condition = largest_logit(case)
        case.check(gpu)
        case.inputs[0].reshape(size[0], 4, -1)[:, :, 15::16] *= 10  # to ±1000 here and there: e^x overflows
        case.condition = largest_logit(case)
        case.check(gpu)


def test_cross_lambda_tokens(gpu: WebGPU) -> None:
    for tokens in some(gpu, [1, 7], [2, 13]):
        cross_lambda((2, 3, 2), 2, 3, tokens).check(gpu)


def test_every_condition_has_its_own_keys_and_values(gpu: WebGPU) -> None:
    case, guarded = cross_lambda((2, 3, 2)), Guarded(gpu)
    p = case.params
    for _ in range(3):
        case.compare(case.run(guarded, p), case.run(ORACLE, p))
        case.inputs[2] = (case.inputs[2] + 1) % 20


def test_attention_widths(gpu: WebGPU) -> None:
    for c in some(gpu, [5, 16], [1, 2, 4, 7, 33]):
        attention((2, 3, 5), c).check(gpu)
    attention((1, 17, 19), 4).check(gpu)  # 323 scores a row: more than a workgroup's 64 threads of four


def test_attention_with_peaked_scores(gpu: WebGPU) -> None:
    case = attention((1, 5, 7), 8)
    case.inputs[0] *= 6  # logits to some ±100
    case.condition = largest_logit(case)
    case.check(gpu)


# assembling ----------------------------------------------------------------------------------------------------------
def test_concat_widths(gpu: WebGPU) -> None:
    for a, b in [(4, 8), (8, 4), (5, 3), (4, 5), (5, 4), (1, 1), (2, 13)]:
        for size in [(1, 1, 1), (2, 3, 5)]:
            concat(size, a, b).check(gpu)


def test_unet_input_channels(gpu: WebGPU) -> None:
    for channels in [(4, 1, 4), (3, 2, 5), (1, 1, 1), (8, 4, 4)]:
        unet_input((2, 3, 5), channels).check(gpu)


def test_copies(gpu: WebGPU) -> None:
    """Of tensors, and of what a lambda layer reads where there are more conditions than images."""
    for c, copies in [(4, 2), (1, 3), (13, 1)]:
        repeat((2, 3, 5), c, copies).check(gpu)
    for heads, k in some(gpu, [(2, 3)], [(8, 4), (4, 8), (16, 3)]):
        for kind in ("software", "discrete"):
            cross_lambda((2, 3, 5), heads, k, copies=2).check(gpu, kind=kind)


def test_guidance(gpu: WebGPU) -> None:
    for guidance in (0.0, 1.0, 7.5, -2.0):
        guided_ddim((1, 3, 5), 3, guidance=guidance).check(gpu)


# time ----------------------------------------------------------------------------------------------------------------
def test_time_tables(gpu: WebGPU) -> None:
    schedule = Timesteps((999, 951, 500, 37, 1, 0))
    for timesteps in (schedule, Timesteps((0,)), Timesteps((963,)), Timesteps((950, 400, 50, 3))):
        time_case(timesteps).check(gpu)
    for width, hidden, n in some(gpu, [(8, 33, 65)], [(2, 4, 1), (10, 5, 12)]):
        time_case(schedule, width, hidden, n).check(gpu)


def test_a_replay_takes_its_own_row_of_the_time_table(gpu: WebGPU) -> None:
    schedule = Timesteps((999, 951, 500, 37, 1, 0))
    time, conv = time_case(schedule), dwconv((2, 5, 3), 5, 7, residual=False)
    x = conv.inputs[0]
    p = replace(conv, shapes=conv.shapes | time.shapes | {"norm.weight": (7,), "norm.bias": (7,)}).params

    def forward(o: Any, x: Any, t: Timesteps) -> Any:
        h = o.dwconv(x, p, shift=o.time_shift(o.time_embedding(t, p), p.at("time_emb_proj")))
        return o.group_norm(h, p.at("norm"), 1, 1e-5)  # the memory it takes must not be that of the tables

    plan = gpu.record(lambda x, t: forward(gpu, x, t), [(2, 5, 3, 5)], Timesteps((5,) * 6))
    plan.upload([np.moveaxis(x, 1, -1)])
    for order in ([3, 0, 5, 1, 2, 4], [4]):
        times = Timesteps(schedule if len(order) > 1 else schedule[::-1])  # the same plan for another schedule of that length
        plan.start(time_sinusoid(times, plan.recording.sinusoid.shape[3]))
        for step in order:
            plan.replay(step)
            conv.compare([read(plan.outputs[0])], [forward(ORACLE, ORACLE.tensor(x), Timesteps((times[step],)))])


def test_a_replay_takes_its_own_row_of_the_coefficients_and_the_latents_before_it(gpu: WebGPU) -> None:
    rows = DDIM().coefficients(DDIM().timesteps(100), 100)
    for guided in (True, False):
        case = guided_ddim((1, 5, 3), guided=guided)
        eps, y = (np.moveaxis(a, 1, -1) for a in case.inputs)
        plan = gpu.record(lambda y, e: gpu.guided_ddim(e, y, rows, 2.5), [y.shape, eps.shape])
        plan.upload([y, eps])
        plan.start()
        want = (y.astype(np.float64),)
        for i, step in enumerate((1, 2, 0, 0, 98, 64)):
            plan.replay(step)
            case.condition = i + 1  # every step adds its own rounding
            want = ORACLE.guided_ddim(eps.astype(np.float64), want[0], rows[step : step + 1], 2.5)
            case.compare([read(t) for t in plan.outputs], list(want))
            np.testing.assert_array_equal(read(plan.inputs[0]), read(plan.outputs[0]))


def test_a_plan_shares_its_memory_and_computes_the_same(gpu: WebGPU) -> None:
    norm, conv, ff = group_norm((2, 5, 3), 2, 3), dwconv((2, 5, 3), 6, 6), feed_forward((2, 5, 3))
    shapes = {f"{at}.{leaf}": shape for at, case in (("n", norm), ("c", conv), ("f", ff)) for leaf, shape in case.shapes.items()}
    p = replace(norm, shapes=shapes).params

    def forward(x: Any) -> Any:
        for _ in range(3):
            h = gpu.dwconv(gpu.group_norm(x, p.at("n"), 2, 1e-5), p.at("c"), residual=x)
            x = gpu.feed_forward(h, p.at("f"), residual=x)
        return x

    x = norm.inputs[0]
    with gpu.eager():
        want = gpu.read(forward(gpu.tensor(x)))
    plan = gpu.record(forward, [np.moveaxis(x, 1, -1).shape])
    own = sum(d.outputs[0].buffer.nbytes for d in plan.dispatches)
    for _ in range(2):
        plan.upload([np.moveaxis(x, 1, -1)])
        plan.start()
        plan.replay()
        np.testing.assert_array_equal(read(plan.outputs[0]), want)
    assert plan.summary()["peak_bytes"] < own / 2
