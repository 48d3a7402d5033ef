"""Specs of the lambda layers and of the attention."""

from __future__ import annotations

from typing import Any

import numpy as np

from moebius.check.bounds import SOFTMAX, sums
from moebius.check.specs.case import RESIDUAL, OpCase, OpSpec, Shape, Size, Sizes, batch_norm, image, titled
from moebius.model.contract import POSITION_WINDOW, Condition
from moebius.model.params import Params, Shapes

EMBEDDINGS = 20  # rows of the cases' embedding table
TOKENS = 10


def positions(x: np.ndarray) -> int:
    return x.shape[1] * x.shape[2]


def lambda_shapes(c: int, k: int, source: Shape) -> Shapes:
    shapes: Shapes = {"to_q.weight": (c, c, 1, 1), "to_k.weight": (k, *source), "to_v.weight": (k, *source)}
    return shapes | batch_norm("norm_q", c) | batch_norm("norm_v", k)


# self_lambda ---------------------------------------------------------------------------------------------------------
def self_lambda_bound(x: np.ndarray, p: Params, heads: int, residual: np.ndarray) -> float:
    c = x.shape[-1]
    k = c // heads
    return sums(c, positions(x), k, k, POSITION_WINDOW**2) + SOFTMAX


def self_lambda(size: Size, heads: int, k: int) -> OpCase:
    c, r = heads * k, POSITION_WINDOW
    return OpCase(
        "self_lambda",
        titled(size, f"{c} channels in {heads} heads"),
        lambda o, p, x, r: o.self_lambda(x, p, heads, r),
        lambda_shapes(c, k, (c, 1, 1)) | {"pos_conv.weight": (k, 1, 1, r, r), "pos_conv.bias": (k,)},
        (image("x", size, c), image("r", size, c, RESIDUAL)),
    )


def self_lambda_sizes(x: Any, p: Params, heads: int, residual: Any) -> Sizes:
    return Sizes(x.shape[:3], {"heads": heads, "k": x.shape[3] // heads}, (x.shape,))


# cross_lambda --------------------------------------------------------------------------------------------------------
def cross_lambda_bound(x: np.ndarray, cond: Condition, p: Params, heads: int, residual: np.ndarray) -> float:
    c = x.shape[-1]
    return sums(c, c // heads, cond.ids.shape[1])


def cross_lambda(
    size: Size, heads: int, k: int, tokens: int = TOKENS, cond: int = 7, copies: int = 1, hidden: int = 9, ids: np.ndarray | None = None
) -> OpCase:
    """`tokens` of width `cond`, from embeddings of width `hidden`; `ids` are the rows of the embedding table, (copies·B, tokens)."""
    b, h, w = size
    c = heads * k
    if ids is None:
        ids = (np.arange(copies * b * tokens).reshape(-1, tokens) * 7 + 3) % EMBEDDINGS
    root: Shapes = {"embedding_layer.weight": (EMBEDDINGS, hidden)}
    root |= {"diff_model.encoder_hid_proj.weight": (cond, hidden), "diff_model.encoder_hid_proj.bias": (cond,)}
    return OpCase(
        "cross_lambda",
        titled(size, f"{c} channels in {heads} heads, {tokens} tokens of {cond}" + (f", {copies} times" if copies > 1 else "")),
        lambda o, p, x, r, ids: o.cross_lambda(x, o.condition(ids, Params(p.root)), p, heads, r),
        lambda_shapes(c, k, (cond,)) | {"rel_pos_emb": (h * w, tokens, k, 1)},
        (image("x", size, c), image("r", size, c, RESIDUAL)),
        root,
        (ids,),
    )


def cross_lambda_sizes(x: Any, cond: Condition, p: Params, heads: int, residual: Any) -> Sizes:
    arguments = {"heads": heads, "k": x.shape[3] // heads, "tokens": cond.ids.shape[1], "cond": p["to_k.weight"].shape[1]}
    images = cond.ids.shape[0]
    return Sizes(x.shape[:3], arguments | {"copies": images // x.shape[0]}, ((images, *x.shape[1:]),))


# attention -----------------------------------------------------------------------------------------------------------
def attention_bound(x: np.ndarray, p: Params, residual: np.ndarray) -> float:
    c = x.shape[-1]
    return sums(c, c, positions(x), c) + SOFTMAX


def attention(size: Size, c: int) -> OpCase:
    names = ("to_q", "to_k", "to_v", "to_out.0")
    shapes: Shapes = {f"{name}.{leaf}": (c, c)[: 1 + (leaf == "weight")] for name in names for leaf in ("weight", "bias")}
    inputs = image("x", size, c), image("r", size, c, RESIDUAL / 4)  # the mean of many values is small
    return OpCase("attention", titled(size, f"{c} channels"), lambda o, p, x, r: o.attention(x, p, r), shapes, inputs)


def attention_sizes(x: Any, p: Params, residual: Any) -> Sizes:
    return Sizes(x.shape[:3], {"c": x.shape[3]}, (x.shape,))


SPECS = (
    OpSpec("self_lambda", self_lambda_bound, self_lambda, self_lambda_sizes),
    OpSpec("cross_lambda", cross_lambda_bound, cross_lambda, cross_lambda_sizes),
    OpSpec("attention", attention_bound, attention, attention_sizes),
)
