"""A value that is not finite is found on the GPU wherever it lies, and the op that made it is named."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from cases import (
    OPS,
    attention,
    dwconv,
    feed_forward,
    guided_ddim,
    layer_norm,
    self_lambda,
)

from moebius.backends.webgpu import WebGPU
from moebius.errors import NonFiniteError
from moebius.model.params import Checkpoint, Params
from moebius.model.scheduler import DDIM
from moebius.model.synthetic import synthetic


@pytest.mark.usefixtures("untested_weights")
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf], ids=str)
@pytest.mark.parametrize(
    ("leaf", "says"),
    [
        (None, ""),
        ("norm.bias", r"layer_norm \(layer.norm, layer_norm.wgsl, output out \(1, 5, 3, 6\)\)"),
        ("conv.bn1.bias", r"dwconv \(layer.conv, depthwise.wgsl,"),  # a ReLU could swallow it
        ("conv.conv_pw.weight", r"dwconv \(layer.conv, gemm.wgsl,"),
        ("ff.inverted_conv.conv.bias", r"feed_forward \(layer.ff.inverted_conv.conv, gemm.wgsl,"),  # a SiLU
        ("ff.point_conv.conv.weight", r"feed_forward \(layer.ff.point_conv.conv, gemm.wgsl,"),
        ("lambda.pos_conv.bias", r"self_lambda \(layer.lambda.content, lambda_content.wgsl,"),
        ("attention.to_out.0.bias", r"linear \(layer.attention.to_out.0, gemm.wgsl,"),
    ],
)
def test_the_op_that_makes_a_value_not_finite_is_named(gpu: WebGPU, leaf: str | None, says: str, value: float) -> None:
    size = (1, 5, 3)
    parts = {"norm": layer_norm(size, 6), "conv": dwconv(size, 6, 6), "ff": feed_forward(size)}
    parts |= {"lambda": self_lambda(size), "attention": attention(size, 6)}
    shapes = {f"layer.{at}.{name}": shape for at, case in parts.items() for name, shape in case.shapes.items()}
    x = np.moveaxis(parts["norm"].inputs[0], 1, -1)
    w = synthetic(shapes, 0)
    if leaf:
        w[f"layer.{leaf}"].flat[1] = value
    p = Params(Checkpoint(w), "layer")

    def forward(x: Any) -> Any:
        h = gpu.layer_norm(x, p.at("norm"))
        h = gpu.feed_forward(gpu.dwconv(h, p.at("conv")), p.at("ff"), residual=h)
        return gpu.attention(gpu.self_lambda(h, p.at("lambda"), 2, residual=h), p.at("attention"), residual=h)

    plan = gpu.record(forward, [x.shape])
    plan.upload([x])
    plan.start()
    plan.replay(2)
    if leaf is None or (leaf == "conv.bn1.bias" and value == -np.inf):  # of which a ReLU makes a sound 0
        plan.find_non_finite(2)
        return
    with pytest.raises(NonFiniteError, match=rf"appeared in {says}.* at step 2 on .*"):
        plan.find_non_finite(2)


@pytest.mark.usefixtures("untested_weights")
@pytest.mark.parametrize("name", ["self_lambda", "attention"])
def test_a_softmax_swallows_no_nan(gpu: WebGPU, name: str) -> None:
    case = OPS[name]((1, 5, 7))
    case.weights["to_k.weight"] = np.full(case.shapes["to_k.weight"], np.nan, np.float32)
    with gpu.eager():
        out = gpu.read(case.call(gpu, case.params, *(gpu.tensor(a) for a in case.inputs)))
    assert np.isnan(out).all()


def test_a_single_value_not_finite_is_found_wherever_it_lies(gpu: WebGPU) -> None:
    shape = (1, 41, 43, 8)  # the output has more words than the hunt has threads
    plan = gpu.record(gpu.concat, [shape, shape])
    for part, y, x, c in ((0, 0, 0, 0), (1, 20, 3, 2), (1, 40, 42, 7)):
        given = np.zeros((2, *shape), np.float32)
        given[part, 0, y, x, c] = np.inf
        plan.upload(given)
        plan.start()
        plan.replay()
        with pytest.raises(NonFiniteError, match="concat"):
            plan.find_non_finite()


def test_a_flag_says_which_step_is_not_finite(gpu: WebGPU) -> None:
    eps, y = (np.moveaxis(a, 1, -1).copy() for a in guided_ddim((1, 5, 3)).inputs)
    rows = DDIM().coefficients(np.array([900, 450, 0]), 20)
    plan = gpu.record(lambda y, e: gpu.guided_ddim(e, y, rows, 2.5), [y.shape, eps.shape])
    for value, flag in ((np.nan, 1), (-np.inf, 1), (1.0, 0)):
        eps[0, 4, 2, 3] = value
        plan.upload([y, eps])
        plan.start()
        plan.replay(1)
        assert plan.recording.flags.read(12, np.uint32).tolist() == [0, flag, 0]
