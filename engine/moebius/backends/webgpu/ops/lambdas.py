"""The lambda layers: attention as a linear map that is made of keys and values and applied to queries."""

from __future__ import annotations

import numpy as np

from moebius.backends.webgpu import pack
from moebius.backends.webgpu.calls import Epilogue, GemmCall, Operands, Rows, Weight
from moebius.backends.webgpu.gemm import Dense
from moebius.backends.webgpu.pack import WINDOW_PITCH, up4
from moebius.backends.webgpu.recorder import Recorder, ceil
from moebius.backends.webgpu.tensor import Tensor
from moebius.model.contract import POSITION_WINDOW, Condition
from moebius.model.params import Params

CHUNKS = 64  # chunks of positions of the content's softmax, at most
SELF, CROSS = "self_lambda", "cross_lambda"


def self_lambda(dense: Dense, x: Tensor, p: Params, heads: int, residual: Tensor) -> Tensor:
    rec = dense.recorder
    b, h, w, c = x.shape
    k = c // heads
    k4 = up4(k)
    width = (heads + 2) * k4  # q of every head, key, value
    qkv = rec.new((b, h, w, width), f"{p.path} qkv")
    weight = rec.constant(p, "qkv", (up4(c), width), lambda p: pack.lambda_qkv(p, heads)[0])
    bias = rec.constant(p, "qkv bias", (width,), lambda p: pack.lambda_qkv(p, heads)[1])
    dense(GemmCall(SELF, f"{p.path}.qkv", Operands(x, Weight(weight), qkv, c, width), epilogue=Epilogue(bias)))
    content = _content(rec, qkv, p, heads, k)
    window = POSITION_WINDOW * WINDOW_PITCH
    logits = rec.new((b, h * w, heads, window), f"{p.path} logits")
    filters = Weight(rec.constant(p, "pos_conv", (k4, window), lambda p: pack.position_filters(p)))
    every_head = Rows(split=heads, outer=width // 4, inner=k4 // 4)
    dense(GemmCall(SELF, f"{p.path}.logits", Operands(qkv, filters, logits, k, window), every_head))
    out = rec.new(x.shape, p.path)
    rec.dispatch(
        SELF,
        f"{p.path}.apply",
        "lambda_apply",
        b * h * w * k4 // 4,
        {"qkv": qkv, "lambda": content, "logits": logits, "residual": residual, "out": out},
        {"images": b, "height": h, "width": w, "qkv_pitch": width // 4, "k4": k4 // 4, "v4": k4 // 4, "v_dim": k, "pitch": out.pitch},
        {"HEADS": heads},
        iterations=POSITION_WINDOW * (WINDOW_PITCH // 4 + 1) + k4 // 4 + heads * 4,
        flops=2 * b * h * w * c * (window + k),
    )
    return out


def _content(rec: Recorder, qkv: Tensor, p: Params, heads: int, k: int) -> Tensor:
    """λ = λc + bias of every image, (4·K4, 4·V4): the part that is the same at all positions."""
    b, h, w, width = qkv.shape
    n, k4 = h * w, up4(k)
    chunks = min(CHUNKS, ceil(n, 16))
    chunk = ceil(n, chunks)
    chunks = ceil(n, chunk)
    sums = rec.new((b, chunks, k4, k4), f"{p.path} sums")
    stats = rec.new((b, chunks, 2, k4), f"{p.path} stats")
    sizes: dict[str, int | float] = {"key": heads * k4 // 4, "k4": k4 // 4, "v4": k4 // 4, "chunk": chunk, "chunks": chunks}
    rec.dispatch(
        SELF,
        f"{p.path}.content",
        "lambda_content",
        b * chunks * (k4 // 4) ** 2,
        {"qkv": qkv, "sums": sums, "stats": stats},
        {"images": b, "positions": n, "pitch": width // 4, **sizes},
        iterations=2 * chunk,
        flops=2 * b * n * k * k,
    )
    content = rec.new((b, 1, k4, k4), f"{p.path} lambda")
    bias = rec.constant(p, "pos_conv bias", (k4,), lambda p: pack.vector(p["pos_conv.bias"]))
    rec.dispatch(
        SELF,
        f"{p.path}.combine",
        "lambda_combine",
        b * k4 * k4 // 4,
        {"sums": sums, "stats": stats, "bias": bias, "out": content},
        {"images": b, "k": k4, "v4": k4 // 4, "chunks": chunks},
        iterations=2 * chunks,
        flops=2 * b * chunks * k * k,
    )
    return content


def cross_lambda(dense: Dense, x: Tensor, cond: Condition, p: Params, heads: int, residual: Tensor) -> Tensor:
    rec = dense.recorder
    b, h, w, c = x.shape
    n, k, tokens = h * w, c // heads, cond.ids.shape[1]
    k4 = up4(k)
    q = rec.new((b, h, w, heads * k4), f"{p.path} q")
    weight = rec.constant(p, "q", (up4(c), heads * k4), lambda p: pack.lambda_query(p, heads)[0])
    bias = rec.constant(p, "q bias", (heads * k4,), lambda p: pack.lambda_query(p, heads)[1])
    dense(GemmCall(CROSS, f"{p.path}.q", Operands(x, Weight(weight), q, c, heads * k4), epilogue=Epilogue(bias)))

    def constants(p: Params, which: int) -> np.ndarray:
        return pack.vector(pack.condition_keys_values(cond.tokens, p)[which])

    table = rec.constant(p, "rel_pos_emb", (n, tokens, k4), lambda p: pack.position_table(p))
    out = rec.new(x.shape, p.path)
    rec.dispatch(
        CROSS,
        f"{p.path}.apply",
        "cross_lambda",
        b * n * heads,
        {
            "q": q,
            "table": table,
            "keys": rec.constant(p, "keys", (b, tokens, k4), lambda p: constants(p, 0), cond.key),
            "values": rec.constant(p, "values", (b, tokens, k4), lambda p: constants(p, 1), cond.key),
            "residual": residual,
            "out": out,
        },
        {"images": b, "positions": n, "q_pitch": q.pitch // 4, "k4": k4 // 4, "v4": k4 // 4, "v_dim": k, "pitch": out.pitch},
        {"HEADS": heads, "TOKENS": tokens},
        iterations=6 * (k4 // 4) + 4,
        flops=4 * b * n * tokens * c,
    )
    return out
