"""The contract in NumPy, by definition: no folding, no reordering, no fusion. `Reference()` is the oracle.

Tensors are arrays (B, H, W, C) of one dtype. With a tap every module of the published code is seen, also those that
only pass their input on, so that the first one that differs can be found.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, Self

import numpy as np

from moebius.backends.turns import Turns
from moebius.errors import UsageError
from moebius.model.arrays import time_sinusoid, to_nchw
from moebius.model.contract import BATCH_NORM_EPS, POSITION_WINDOW, Condition, Precision, Step, StepState, Tap, Timesteps
from moebius.model.params import Checkpoint, Params

Array = np.ndarray

# Modules of the published code that hand on what the module before them made, by the ending of that module's path.
PASSED_ON = {
    ".bn1.act": (".bn1", ".aa", ".se"),
    ".bn2.drop": (".bn2.act", ".bn2"),
    ".nonlinearity": (".dropout",),
    ".inverted_conv.act": (".inverted_conv",),
    ".depth_conv.conv": (".depth_conv",),
    ".point_conv.conv": (".point_conv",),
    ".to_out.0": (".to_out.1",),
    ".time_embedding.linear_2": (".time_embedding",),
    ".samplers.0": (".samplers.0.conv",),
}


def silu(x: Array) -> Array:
    # The argument of exp is clamped so that float32 does not overflow: beyond it the result is 0 (to the last bit) anyway.
    return x / (1 + np.exp(-np.maximum(x, -80)))


def softmax(x: Array, axis: int) -> Array:
    e = np.exp(x - x.max(axis=axis, keepdims=True))
    return e / e.sum(axis=axis, keepdims=True)


def pad_rows_columns(x: Array, before: int, after: int) -> Array:
    return np.pad(x, ((0, 0), (before, after), (before, after), (0, 0)))


class Reference:
    """`Reference(np.float64)` is the oracle every other backend is measured against."""

    largest_batch = 1
    precision: Precision = "f32"  # and more, for what it makes is never rounded to f16

    def __init__(self, dtype: type[np.floating] = np.float64) -> None:
        self.dtype = np.dtype(dtype)
        if self.dtype.kind != "f":
            raise UsageError(f"Reference computes in a floating-point dtype, not {self.dtype}.")
        self._tap: Tap | None = None
        self._turns = Turns()  # a pass of a network, or a step of a loop, at a time: the tap and CPU's scratch memory are one caller's

    @property
    def name(self) -> str:
        return f"{type(self).__name__}({self.dtype})"

    def __repr__(self) -> str:
        return self.name

    def in_f32(self) -> Self:
        return self

    # edges -------------------------------------------------------------------------------------------------------
    def run(self, forward: Callable[..., Array], arrays: Sequence[Array], *args: Any, tap: Tap | None = None) -> Array:
        with self._turns:
            self._tap = tap
            try:
                return to_nchw(forward(*(self.tensor(a) for a in arrays), *args))
            finally:
                self._tap = None

    def run_each(self, forward: Callable[..., Array], calls: Iterable[Sequence[Array]]) -> Iterator[Array]:
        return (self.run(forward, arrays) for arrays in calls)

    def loop(self, step: Step[Array], arrays: Sequence[Array], timesteps: Timesteps) -> Iterator[StepState]:
        y, *fixed = (self.tensor(a) for a in arrays)
        for i, t in enumerate(timesteps):
            with self._turns:
                y, x0 = step(y, *fixed, slice(i, i + 1))
            yield StepState(i, t, partial(to_nchw, y), partial(to_nchw, x0))

    def rehearse(self, step: Step[Array], shapes: Sequence[tuple[int, ...]]) -> None:
        """NumPy has no limits but memory."""

    def forget(self, net: object, weights: Checkpoint) -> None:
        with self._turns:
            weights.derived.pop(self, None)

    def tensor(self, array: Array) -> Array:
        """NCHW in any dtype → this backend's tensor."""
        return np.ascontiguousarray(np.moveaxis(np.asarray(array, self.dtype), 1, -1))

    def read(self, tensor: Array) -> Array:
        return np.asarray(tensor)

    def eager(self) -> AbstractContextManager[None]:
        """NumPy's ops are always done when they return. Other threads wait until it ends, as on any backend."""
        return self._turns

    def tap(self, path: str, x: Array, layout: str = "image") -> None:
        if self._tap is None:
            return
        if layout == "image":
            x = to_nchw(x)
        elif layout == "tokens":
            x = x.reshape(x.shape[0], -1, x.shape[-1])
        self._tap(path, x)
        for ending, others in PASSED_ON.items():
            if path.endswith(ending):
                for other in others:
                    self._tap(path[: -len(ending)] + other, x)

    def _p(self, p: Params, name: str) -> Array:
        return np.asarray(p.finite(name), self.dtype)

    # pieces ------------------------------------------------------------------------------------------------------
    def _matrix(self, x: Array, p: Params) -> Array:
        """x·Wᵀ (+ b) on the last axis; a 1×1 convolution's weight is a matrix with two axes too many."""
        w = self._p(p, "weight")
        y = x @ w.reshape(w.shape[0], -1).T
        return y if p.get("bias") is None else y + self._p(p, "bias")

    def _batch_norm(self, x: Array, p: Params) -> Array:
        mean, var = self._p(p, "running_mean"), self._p(p, "running_var")
        return (x - mean) / np.sqrt(var + self.dtype.type(BATCH_NORM_EPS)) * self._p(p, "weight") + self._p(p, "bias")

    def _depthwise(self, x: Array, p: Params) -> Array:
        """3×3, one filter a channel, zero-padded by one."""
        w, (_, height, width, _) = self._p(p, "weight"), x.shape
        xp = pad_rows_columns(x, 1, 1)
        y = np.zeros_like(x)
        for dy in range(3):
            for dx in range(3):
                y += xp[:, dy : dy + height, dx : dx + width] * w[:, 0, dy, dx]
        return y if p.get("bias") is None else y + self._p(p, "bias")

    # time and condition ------------------------------------------------------------------------------------------
    def time_embedding(self, t: Timesteps, p: Params) -> Array:
        sinusoid = time_sinusoid(t, p["time_embedding.linear_1.weight"].shape[1]).astype(self.dtype)
        self.tap(f"{p.path}.time_proj", sinusoid, "raw")
        h = self._matrix(sinusoid, p.at("time_embedding.linear_1"))
        self.tap(f"{p.path}.time_embedding.linear_1", h, "raw")
        h = silu(h)
        self.tap(f"{p.path}.time_embedding.act", h, "raw")
        h = self._matrix(h, p.at("time_embedding.linear_2"))
        self.tap(f"{p.path}.time_embedding.linear_2", h, "raw")
        return silu(h)

    def time_shift(self, temb: Array, p: Params) -> Array:
        y = self._matrix(temb, p)
        self.tap(p.path, y, "raw")
        return y

    def condition(self, ids: Array, p: Params) -> Condition:
        e = self._p(p, "embedding_layer.weight")[ids]  # (B, m, encoder_hid_dim)
        self.tap("embedding_layer", e, "raw")
        e = self._matrix(e, p.at("diff_model.encoder_hid_proj"))
        self.tap("diff_model.encoder_hid_proj", e, "raw")
        return Condition(ids, lambda: e)

    # convolutions ------------------------------------------------------------------------------------------------
    def linear(self, x: Array, p: Params, residual: Array | None = None) -> Array:
        y = self._matrix(x, p)
        self.tap(p.path, y)
        return y if residual is None else y + residual

    def conv3x3(self, x: Array, p: Params, stride: int = 1, pad: int = 1, residual: Array | None = None, inner: bool = False) -> Array:
        w, (_, height, width, _) = self._p(p, "weight"), x.shape
        hout, wout = -(-height // stride), -(-width // stride)
        xp = pad_rows_columns(x, pad, 2)  # more than is ever read at the bottom and right
        y = np.zeros((*x.shape[:1], hout, wout, w.shape[0]), self.dtype)
        for dy in range(3):
            for dx in range(3):
                window = xp[:, dy : dy + stride * hout : stride, dx : dx + stride * wout : stride]
                y += window @ w[:, :, dy, dx].T
        y += self._p(p, "bias")
        self.tap(p.path, y)
        return y if residual is None else y + residual

    def upsample_conv3x3(self, x: Array, p: Params, inner: bool = False) -> Array:
        return self.conv3x3(x.repeat(2, axis=1).repeat(2, axis=2), p)

    def dwconv(self, x: Array, p: Params, shift: Array | None = None, residual: Array | None = None) -> Array:
        h = self._depthwise(x, p.at("conv_dw"))
        self.tap(f"{p.path}.conv_dw", h)
        h = self._batch_norm(h, p.at("bn1"))
        self.tap(f"{p.path}.bn1.drop", h)
        h = np.maximum(h, 0)
        self.tap(f"{p.path}.bn1.act", h)
        h = self._matrix(h, p.at("conv_pw"))
        self.tap(f"{p.path}.conv_pw", h)
        h = self._batch_norm(h, p.at("bn2"))
        self.tap(f"{p.path}.bn2.drop", h)
        if h.shape[-1] == x.shape[-1]:
            self.tap(f"{p.path}.drop_path", h)
            h = h + x
        self.tap(p.path, h)
        if shift is not None:
            h = h + shift
        return h if residual is None else h + residual

    def feed_forward(self, x: Array, p: Params, residual: Array) -> Array:
        h = silu(self.linear(x, p.at("inverted_conv.conv")))  # (B, H, W, 2·hid)
        self.tap(f"{p.path}.inverted_conv.act", h)
        h = self._depthwise(h, p.at("depth_conv.conv"))
        self.tap(f"{p.path}.depth_conv.conv", h)
        a, g = np.split(h, 2, axis=-1)
        g = silu(g)
        self.tap(f"{p.path}.glu_act", g)
        h = self.linear(a * g, p.at("point_conv.conv"))  # (B, H, W, C)
        self.tap(p.path, h, "tokens")
        return h + residual

    # norms -------------------------------------------------------------------------------------------------------
    def group_norm(self, x: Array, p: Params, groups: int, eps: float, silu: bool = False) -> Array:
        b, h, w, c = x.shape
        xg = x.reshape(b, h * w, groups, c // groups)
        centred = xg - xg.mean(axis=(1, 3), keepdims=True)
        var = np.mean(centred * centred, axis=(1, 3), keepdims=True)
        y = (centred / np.sqrt(var + self.dtype.type(eps))).reshape(x.shape)
        y = y * self._p(p, "weight") + self._p(p, "bias")
        self.tap(p.path, y) if not p.path.endswith("group_norm") else self.tap(p.path, to_nchw(y).reshape(b, c, h * w), "raw")
        return _silu(y) if silu else y

    def layer_norm(self, x: Array, p: Params, eps: float = 1e-5) -> Array:
        centred = x - x.mean(axis=-1, keepdims=True)
        var = np.mean(centred * centred, axis=-1, keepdims=True)
        y = centred / np.sqrt(var + self.dtype.type(eps)) * self._p(p, "weight") + self._p(p, "bias")
        self.tap(p.path, y, "tokens")
        return y

    # attention ---------------------------------------------------------------------------------------------------
    def self_lambda(self, x: Array, p: Params, heads: int, residual: Array) -> Array:
        b, height, width, c = x.shape
        n, k = height * width, c // heads
        q, key, val = (self._matrix(x, p.at(name)) for name in ("to_q", "to_k", "to_v"))
        for name, value in (("to_q", q), ("to_k", key), ("to_v", val)):
            self.tap(f"{p.path}.{name}", value)
        q, val = self._batch_norm(q, p.at("norm_q")), self._batch_norm(val, p.at("norm_v"))
        self.tap(f"{p.path}.norm_q", q)
        self.tap(f"{p.path}.norm_v", val)
        q = q.reshape(b, n, heads, k)
        weights = softmax(key.reshape(b, n, k), axis=1)  # over positions
        content = weights.transpose(0, 2, 1) @ val.reshape(b, n, -1)  # λc (B, k, v)
        y = q @ content[:, None]  # (B, n, heads, v)
        positional = self._position_lambda(val, p.at("pos_conv"))  # λp (B, n, k, v)
        if self._tap is not None:
            self.tap(f"{p.path}.pos_conv", positional.transpose(0, 2, 3, 1).reshape(b, k, -1, height, width), "raw")
        y = (y + q @ positional).reshape(b, height, width, -1)
        self.tap(p.path, y, "tokens")
        return y + residual

    def _position_lambda(self, val: Array, p: Params) -> Array:
        """Every value plane through k filters 15×15, zero-padded: (B, H, W, v) → (B, H·W, k, v)."""
        r, (b, height, width, v) = POSITION_WINDOW, val.shape
        w = self._p(p, "weight").reshape(-1, r * r)  # (k, 225)
        vp = pad_rows_columns(val, r // 2, r // 2)
        windows = np.lib.stride_tricks.sliding_window_view(vp, (r, r), axis=(1, 2))  # (B, H, W, v, 15, 15)
        out = np.empty((b, height * width, w.shape[0], v), self.dtype)
        for i in range(b):
            for y in range(height):  # a row at a time: all windows at once would be 225 times the tensor
                row = windows[i, y].reshape(width, v, r * r)
                out[i, y * width : (y + 1) * width] = w @ row.transpose(0, 2, 1)
        return out + self._p(p, "bias")[:, None]

    def cross_lambda(self, x: Array, cond: Condition, p: Params, heads: int, residual: Array) -> Array:
        b, height, width, c = x.shape
        n, k = height * width, c // heads
        q = self._matrix(x, p.at("to_q"))
        self.tap(f"{p.path}.to_q", q)
        q = self._batch_norm(q, p.at("norm_q"))
        self.tap(f"{p.path}.norm_q", q)
        q = q.reshape(b, n, heads, k)
        weights, val = self.condition_keys_values(cond.tokens, p)  # (B, m, k), (B, m, v)
        content = weights.transpose(0, 2, 1) @ val  # λc (B, k, v)
        table = self._p(p, "rel_pos_emb")[..., 0].transpose(0, 2, 1)  # (n, k, m)
        y = np.empty((len(val), n, heads, val.shape[-1]), self.dtype)
        for i in range(len(val)):
            y[i] = q[i % b] @ content[i] + q[i % b] @ (table @ val[i])  # λp[n] = Σ_m E[n,m]·V[m]
        y = y.reshape(-1, height, width, c)
        self.tap(p.path, y, "tokens")
        return y + self.repeat(residual, len(y) // b)

    def condition_keys_values(self, tokens: Array, p: Params) -> tuple[Array, Array]:
        """K = softmax over the tokens of to_k·tokens, V = BN(to_v·tokens): (B, m, k), (B, m, v)."""
        key, val = self._matrix(tokens, p.at("to_k")), self._matrix(tokens, p.at("to_v"))
        self.tap(f"{p.path}.to_k", key, "raw")
        self.tap(f"{p.path}.to_v", val, "raw")
        val = self._batch_norm(val, p.at("norm_v"))
        self.tap(f"{p.path}.norm_v", val.transpose(0, 2, 1), "raw")
        return softmax(key, axis=1), val

    def attention(self, x: Array, p: Params, residual: Array) -> Array:
        b, height, width, c = x.shape
        tokens = x.reshape(b, height * width, c)
        q, k, v = (self._matrix(tokens, p.at(name)) for name in ("to_q", "to_k", "to_v"))
        for name, value in (("to_q", q), ("to_k", k), ("to_v", v)):
            self.tap(f"{p.path}.{name}", value, "raw")
        y = np.stack([softmax(q[i] @ k[i].T / self.dtype.type(np.sqrt(c)), axis=-1) @ v[i] for i in range(b)])
        y = self._matrix(y, p.at("to_out.0"))
        self.tap(f"{p.path}.to_out.0", y, "raw")
        return y.reshape(x.shape) + residual

    # assembling --------------------------------------------------------------------------------------------------
    def concat(self, a: Array, b: Array) -> Array:
        return np.concatenate([a, b], axis=-1)

    def repeat(self, x: Array, copies: int) -> Array:
        return np.tile(x, (copies, 1, 1, 1))

    def unet_input(self, y: Array, mask: Array, masked: Array) -> Array:
        return np.concatenate([y, mask, masked], axis=-1)

    def guided_ddim(self, eps: Array, y: Array, coefficients: Array, guidance: float) -> tuple[Array, Array]:
        if eps.shape[0] != y.shape[0]:
            u, c = np.split(eps, 2)
            eps = u + self.dtype.type(guidance) * (c - u)
        at, bt, ap, bp = (self.dtype.type(v) for v in coefficients[0])
        x0 = (y - bt * eps) / at
        return ap * x0 + bp * eps, x0


_silu = silu  # `silu` is an argument of group_norm
