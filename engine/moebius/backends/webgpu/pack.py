"""Checkpoint parameters → the kernels' layouts. Runs once at load, in float64, and rounds once.

Every row is padded with zeros to a multiple of four channels; batch norms that follow a layer without bias are folded into it.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from moebius.errors import WeightError
from moebius.model import checks
from moebius.model.arrays import enlarging
from moebius.model.contract import BATCH_NORM_EPS, POSITION_WINDOW
from moebius.model.params import Finite, Params

Array = np.ndarray


def up4(n: int) -> int:
    return -(-n // 4) * 4


WINDOW_PITCH = up4(POSITION_WINDOW)  # a row of the positional window


def packed(fill: Callable[[Params], Array], p: Params, name: str, dtype: type[np.floating] = np.float32) -> Array:
    """What `fill` makes of the parameters, which are tested for NaN and infinities as they are taken. What it makes is tested too: finite
    parameters can fold into an infinity, and a negative variance into a NaN. So are halves for what is beyond their range."""
    with np.errstate(over="ignore", invalid="ignore"):
        array = fill(Finite(p.root, p.path))
        out = array.astype(dtype, copy=False)
        beyond = np.isinf(out) & np.isfinite(array)
    checks.check_parameter(array, f"{p.path}.{name}, as it is packed for the GPU,")
    if beyond.any():
        raise WeightError(
            f"{p.path}.{name} reaches {np.abs(array[beyond]).max():,.0f}, and half precision {np.finfo(dtype).max:,.0f}: "
            "it cannot be stored so. Choose precision f32 for these weights."
        )
    return out


def balanced(w: Array) -> Array:
    """(K, N) of halves that add up, over K, to what w does but for one rounding: each weight takes up what those above it have lost. It is
    off by twice a rounding at most, and the sum not by the √K of them that it could be."""
    out, lost = np.zeros(w.shape, np.float32), np.zeros(w.shape[1:])
    for k, row in enumerate(w):
        if row.any():  # else it is padding
            wanted = row + lost
            rounded = wanted.astype(np.float16)
            out[k] = np.where(np.isfinite(rounded), rounded, wanted)  # beyond their range: refused when it is packed
            lost = wanted - out[k]
    return out


def pad4(x: Array, axis: int = -1) -> Array:
    """Zeros up to a multiple of four along one axis."""
    short = up4(x.shape[axis]) - x.shape[axis]
    if not short:
        return x
    widths = [(0, 0)] * x.ndim
    widths[axis] = (0, short)
    return np.pad(x, widths)


def f32(x: Array) -> Array:
    return np.ascontiguousarray(x, np.float32)


def vector(x: Array) -> Array:
    return f32(pad4(x))


def batch_norm(p: Params) -> tuple[Array, Array]:
    """BN(x) = x·scale + offset."""
    mean, var, weight, bias = (np.asarray(p[k], np.float64) for k in ("running_mean", "running_var", "weight", "bias"))
    scale = weight / np.sqrt(var + BATCH_NORM_EPS)
    return scale, bias - mean * scale


def matrix(p: Params) -> Array:
    """(out, in) of a Linear or a 1×1 convolution."""
    w = p["weight"]
    return w.reshape(w.shape[0], -1)


def behind(norm: Params | None, w: Array, b: Array) -> tuple[Array, Array]:
    """Weight (N, K) and bias of a layer behind a layer norm, as those of a layer of the norm's input x, whose sums are then divided by the
    deviation of their row: W·((x - mean)/σ·γ + β) + b = (Wγ - its mean over K)·x/σ + (W·β + b)."""
    if norm is None:
        return w, b
    gamma, beta = (np.asarray(norm[leaf], np.float64) for leaf in ("weight", "bias"))
    scaled = w * gamma
    return scaled - scaled.mean(axis=1, keepdims=True), b + w @ beta


def behind_sum(w: Array, before: Array) -> Array:
    """[V, V·W] of a layer V (N, C) behind x + W·g, W (C, K), as one of x and g side by side."""
    return np.concatenate([w, w.astype(np.float64) @ before], axis=1)


def gemm(w: Array) -> Array:
    """(N, K) → (4·K4, 4·N4)."""
    return f32(pad4(pad4(w.T, 0), 1))


def pointwise(p: Params) -> tuple[Array, Array]:
    """DWConv's 1×1 with its batch norm: weight (4·K4, 4·N4), bias."""
    scale, offset = batch_norm(p.at("bn2"))
    return gemm(matrix(p.at("conv_pw")) * scale[:, None]), vector(offset)


def depthwise(p: Params) -> tuple[Array, Array]:
    """DWConv's 3×3 with its batch norm: weight (9, 4·C4), bias."""
    scale, offset = batch_norm(p.at("bn1"))
    return vector((p["conv_dw.weight"].reshape(-1, 9) * scale[:, None]).T), vector(offset)


def taps(w: Array) -> Array:
    """(N, K, 3, 3) → (9, 4·K4, 4·N4)."""
    return f32(pad4(pad4(w.transpose(2, 3, 1, 0).reshape(9, w.shape[1], w.shape[0]), 1), 2))


def phases(w: Array) -> Array:
    """A 3×3 behind nearest×2 as four 2×2 filters: (N, K, 3, 3) → (4, 4, 4·K4, 4·N4), phase 2·py + px, tap 2·ty + tx.

    Output row 2y + p sees input rows y + p - 1 and y + p: for p = 0 the upper tap alone falls on the upper row, for p = 1
    the lower tap alone on the lower one, and the two others share a row.
    """
    n, k = w.shape[:2]
    filters = np.ascontiguousarray(w.transpose(2, 3, 1, 0))  # (3, 3, K, N)
    shared = (((0,), (1, 2)), ((0, 1), (2,)))  # the taps of the 3×3 that fall on tap t of phase p
    out = np.zeros((4, 4, up4(k), up4(n)), np.float32)
    for py, px, ty, tx in np.ndindex(2, 2, 2, 2):
        planes = [filters[y, x] for y in shared[py][ty] for x in shared[px][tx]]
        out[2 * py + px, 2 * ty + tx, :k, :n] = planes[0] if len(planes) == 1 else np.sum(planes, axis=0, dtype=np.float64)
    return out


def differences(w: Array) -> Array:
    """For differences.wgsl: (N, K, 3, 3) → (9, 4·K4, 4·N4)."""
    return f32(pad4(pad4(enlarging(w), 1), 2))


def heads_rows(w: Array, heads: int) -> Array:
    """(heads·k, …) → (heads·4·K4, …): every head padded by itself, so that a head is a run of vec4."""
    return pad4(w.reshape(heads, -1, *w.shape[1:]), 1).reshape(-1, *w.shape[1:])


def query(p: Params, heads: int) -> tuple[Array, Array]:
    """to_q with norm_q: weight (heads·4·K4, C), bias."""
    scale, offset = batch_norm(p.at("norm_q"))
    return heads_rows(matrix(p.at("to_q")) * scale[:, None], heads), heads_rows(offset, heads)


def lambda_query(p: Params, heads: int, norm: Params | None = None) -> tuple[Array, Array]:
    w, b = behind(norm, *query(p, heads))
    return gemm(w), vector(b)


def lambda_qkv(p: Params, heads: int, norm: Params | None = None) -> tuple[Array, Array]:
    """to_q, to_k, to_v in one matrix; columns [heads·4·K4 | 4·K4 | 4·V4]."""
    scale, offset = batch_norm(p.at("norm_v"))
    wq, bq = query(p, heads)
    wk, wv = pad4(matrix(p.at("to_k")), 0), pad4(matrix(p.at("to_v")) * scale[:, None], 0)
    w, b = behind(norm, np.concatenate([wq, wk, wv]), np.concatenate([bq, np.zeros(len(wk)), pad4(offset)]))
    return gemm(w), vector(b)


def inverted(p: Params, norm: Params | None = None) -> tuple[Array, Array]:
    """The feed-forward's first layer, each half of its columns padded by itself."""
    w, b = behind(norm, matrix(p), p["bias"])
    return gemm(halves(w)), f32(halves(b))


def position_filters(p: Params) -> Array:
    """pos_conv as the matrix of the logits: (4·K4, 15·16), every row padded by itself."""
    w = p["pos_conv.weight"].reshape(-1, POSITION_WINDOW, POSITION_WINDOW)
    return f32(pad4(pad4(w).reshape(w.shape[0], -1), 0))


def position_table(p: Params) -> Array:
    """rel_pos_emb (n, m, k, 1) → (n, m, 4·K4)."""
    return vector(p["rel_pos_emb"][..., 0])


def condition_tokens(ids: Array, root: Params) -> Array:
    """encoder_hid_proj(embedding_layer[ids]) in float64: (B, m, D)."""
    table, p = np.asarray(root["embedding_layer.weight"], np.float64), root.at("diff_model.encoder_hid_proj")
    tokens: Array = table[ids] @ np.asarray(p["weight"], np.float64).T + p["bias"]
    return tokens


def condition_keys_values(tokens: Array, p: Params) -> tuple[Array, Array]:
    """The cross lambda's K = softmax of to_k·tokens over the tokens, (B, m, k), and V = BN(to_v·tokens), (B, m, v), in float64."""
    key, value = (tokens @ matrix(p.at(name)).astype(np.float64).T for name in ("to_k", "to_v"))
    e = np.exp(key - key.max(axis=1, keepdims=True))
    scale, offset = batch_norm(p.at("norm_v"))
    return e / e.sum(axis=1, keepdims=True), value * scale + offset


def halves(x: Array) -> Array:
    """[a, g] on the first axis, each half padded by itself."""
    a, g = np.split(x, 2)
    return np.concatenate([pad4(a, 0), pad4(g, 0)])


def attention_qkv(p: Params) -> tuple[Array, Array]:
    """to_q, to_k, to_v in one matrix, 1/√C folded into the queries; columns [4·C4 | 4·C4 | 4·C4]."""
    scale = matrix(p.at("to_q")).shape[0] ** -0.5
    w = [matrix(p.at(n)) * (scale if n == "to_q" else 1.0) for n in ("to_q", "to_k", "to_v")]
    b = [p.at(n)["bias"] * (scale if n == "to_q" else 1.0) for n in ("to_q", "to_k", "to_v")]
    return gemm(np.concatenate([pad4(x, 0) for x in w])), vector(np.concatenate([pad4(x) for x in b]))
