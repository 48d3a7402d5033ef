"""The lambda layers: attention as a linear map that is made of keys and values and applied to queries."""

from __future__ import annotations

import numpy as np

from moebius.backends.webgpu import pack, wgsl
from moebius.backends.webgpu.calls import Epilogue, GemmCall, Operands, Rows, Weight
from moebius.backends.webgpu.caps import Caps
from moebius.backends.webgpu.gemm import Dense
from moebius.backends.webgpu.ops.norms import ROUNDS, behind
from moebius.backends.webgpu.pack import WINDOW_PITCH, up4
from moebius.backends.webgpu.recorder import Recorder, ceil
from moebius.backends.webgpu.tensor import Binding, Tensor
from moebius.model.contract import POSITION_WINDOW, Condition
from moebius.model.params import Params

RUNS = (16, 8, 4, 2, 1)  # positions of a workgroup of lambda_window
CONTENT_THREADS = 8  # of a software driver's workgroup of lambda_content: as many as llvmpipe has lanes
CHANNELS = (2, 1)  # of a thread of lambda_apply, in vec4: two take 16 loads of 32 products each, one takes 12 of 16
SHARES = (1, 2, 4)  # positions whose logits a thread of it makes
SELF, CROSS = "self_lambda", "cross_lambda"


def self_lambda(dense: Dense, x: Tensor, p: Params, heads: int, residual: Tensor) -> Tensor:
    rec = dense.recorder
    b, h, w, c = x.shape
    k = c // heads
    k4 = up4(k)
    width = (heads + 2) * k4  # q of every head, key, value
    qkv = rec.new((b, h, w, width), f"{p.path} qkv")
    x, norm, spread = behind(rec, x)
    weight, bias = rec.layer(p, "qkv", (up4(c), width), pack.lambda_qkv, norm, heads)
    dense(GemmCall(SELF, f"{p.path}.qkv", Operands(x, Weight(weight), qkv, c, width), epilogue=Epilogue(spread, bias)))
    content = _content(rec, qkv, p, heads, k)
    filters = rec.constant(p, "pos_conv", (k4, POSITION_WINDOW * WINDOW_PITCH), lambda p: pack.position_filters(p))
    if rec.caps.fuses and (constants := windows(rec.caps, heads, k4 // 4, w)):
        return _window(rec, qkv, content, filters, p, heads, k, constants, residual)
    return _apply(dense, qkv, content, filters, p, heads, k, residual)


def _content(rec: Recorder, qkv: Tensor, p: Params, heads: int, k: int) -> Tensor:
    """λ = λc + bias of every image, (4·K4, 4·V4): the part that is the same at all positions."""
    b, h, w, width = qkv.shape
    n, k4 = h * w, up4(k)
    size = CONTENT_THREADS if rec.caps.is_software else wgsl.numbers("lambda_content")["SIZE"]
    content = rec.new((b, 1, k4, k4), f"{p.path} lambda")
    rec.dispatch(
        SELF,
        f"{p.path}.content",
        "lambda_content",
        (k4 // 4, k4 // 4, b),
        {"qkv": qkv, "bias": rec.constant(p, "pos_conv bias", (k4,), lambda p: pack.vector(p["pos_conv.bias"])), "out": content},
        {"positions": n, "pitch": width // 4, "key": heads * k4 // 4, "k4": k4 // 4, "v4": k4 // 4},
        {"SIZE": size},
        iterations=2 * ceil(n, size) + 2 * ROUNDS,
        flops=2 * b * n * k * k,
    )
    return content


def _apply(dense: Dense, qkv: Tensor, content: Tensor, filters: Binding, p: Params, heads: int, k: int, residual: Tensor) -> Tensor:
    """The positional logits of all positions, then the sums; on a software driver both at once, where no logit is made twice."""
    rec = dense.recorder
    b, h, w, width = qkv.shape
    c, k4, window = residual.shape[3], up4(k), POSITION_WINDOW * WINDOW_PITCH
    v4 = k4 // 4
    tv4 = next(n for n in CHANNELS if v4 % n == 0)
    logits, own = None, rec.caps.is_software and v4 == tv4
    if not own:
        logits = rec.new((b, h * w, heads, window), f"{p.path} logits")
        every_head = Rows(split=heads, outer=width // 4, inner=k4 // 4)
        dense(GemmCall(SELF, f"{p.path}.logits", Operands(qkv, Weight(filters), logits, k, window), every_head))
    out = rec.new(residual.shape, p.path)
    rec.dispatch(
        SELF,
        f"{p.path}.apply",
        "lambda_apply",
        b * h * w * v4 // tv4,
        {"qkv": qkv, "lambda": content, "logits": logits, "filters": filters, "residual": residual, "out": out},
        {"images": b, "height": h, "width": w, "qkv_pitch": width // 4, "k4": k4 // 4, "v4": v4, "v_dim": k, "pitch": out.pitch},
        {"HEADS": heads, "TV4": tv4, "LOGITS": not own, "Q4": v4 if own else 1},
        iterations=POSITION_WINDOW * (WINDOW_PITCH // 4 + 1) + k4 // 4 + heads * 4 * tv4,
        flops=2 * b * h * w * c * ((2 if own else 1) * window + k),
    )
    return out


def windows(caps: Caps, heads: int, k4: int, width: int) -> dict[str, int] | None:
    """The constants of lambda_window: as many positions as its workgroup has room for; None where there is none for one."""
    for run in (r for r in RUNS if r < 2 * width):
        logits = 4 * heads * run
        share = next((s for s in SHARES if run % s == 0 and logits <= s * run * k4), max(s for s in SHARES if run % s == 0))
        constants = {"HEADS": heads, "LANES": k4, "RUN": run, "SHARE": share}
        kernel = wgsl.kernel("lambda_window", "main", tuple(sorted(constants.items())))
        names = "workgroup-storage-size", "invocations-per-workgroup", "workgroup-size-x"
        room, threads, wide = (caps.limits[f"max-compute-{name}"] for name in names)
        if kernel.workgroup_bytes <= room and kernel.threads <= min(threads, wide):
            return constants
    return None


def _window(
    rec: Recorder,
    qkv: Tensor,
    content: Tensor,
    filters: Binding,
    p: Params,
    heads: int,
    k: int,
    constants: dict[str, int],
    residual: Tensor,
) -> Tensor:
    """Logits and sums in one kernel, and the variance of every row."""
    b, h, w, width = qkv.shape
    c, k4, window = residual.shape[3], up4(k) // 4, POSITION_WINDOW * WINDOW_PITCH
    out = rec.new(residual.shape, p.path)
    out.variance = rec.new((1, 1, out.rows, 1), f"{p.path} variance")
    run, threads = constants["RUN"], constants["RUN"] * k4
    line = ceil((run + POSITION_WINDOW) * k4, threads) + ceil(4 * heads * run // constants["SHARE"], threads) * (1 + k4)
    rec.dispatch(
        SELF,
        f"{p.path}.window",
        "lambda_window",
        (ceil(w, run), h, b),
        {"qkv": qkv, "lambda": content, "filters": filters, "residual": residual, "out": out, "variance": out.variance},
        {"height": h, "width": w, "qkv_pitch": width // 4, "v_dim": k, "pitch": out.pitch},
        constants,
        iterations=POSITION_WINDOW * (1 + line) + 2 * k4 + 4 * heads,
        flops=2 * b * h * w * c * (2 * window + k),
    )
    return out


def cross_lambda(dense: Dense, x: Tensor, cond: Condition, p: Params, heads: int, residual: Tensor) -> Tensor:
    rec = dense.recorder
    b, h, w, c = x.shape
    n, k, tokens = h * w, c // heads, cond.ids.shape[1]
    k4 = up4(k)
    q = rec.inner((b, h, w, heads * k4), f"{p.path} q")
    x, norm, spread = behind(rec, x)
    weight, bias = rec.layer(p, "q", (up4(c), heads * k4), pack.lambda_query, norm, heads)
    dense(GemmCall(CROSS, f"{p.path}.q", Operands(x, Weight(weight), q, c, heads * k4), epilogue=Epilogue(spread, bias)))

    def constants(p: Params, which: int) -> np.ndarray:
        return pack.vector(pack.condition_keys_values(cond.tokens, p)[which])

    table = rec.weight(p, "rel_pos_emb", (n, tokens, k4), lambda p: pack.position_table(p))
    out = rec.new(x.shape, p.path)
    whole = rec.caps.fuses and wgsl.numbers("cross_lambda")["SIZE"] % heads == 0  # rows in a workgroup
    if whole:
        out.variance = rec.new((1, 1, out.rows, 1), f"{p.path} variance")
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
            "variance": out.variance,
        },
        {"images": b, "positions": n, "q_pitch": q.pitch // 4, "k4": k4 // 4, "v4": k4 // 4, "v_dim": k, "pitch": out.pitch},
        {"HEADS": heads, "TOKENS": tokens, "VARIANCE": whole},
        iterations=6 * (k4 // 4) + 4 + 2 * heads,
        flops=4 * b * n * tokens * c,
    )
    return out
