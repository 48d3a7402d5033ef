"""The contract in NumPy again, for speed: BLAS does the products, ufuncs work on blocks that stay in cache, on every core.

Same tensors as `Reference`, (B, H, W, C). What is changed is only the order of the arithmetic: batch norms are one scale and one
shift, the positional lambda goes through its logits, an enlarged convolution is four 2×2 ones. With a tap every op is the
reference's, so that every module is still seen.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from moebius.backends.cpu import sizes
from moebius.backends.cpu.convolutions import convolve_dense, convolve_depthwise, padded, phase_taps
from moebius.backends.cpu.positional import add_positional
from moebius.backends.cpu.workers import Workers, cores
from moebius.backends.reference import Array, Reference, softmax
from moebius.model.contract import BATCH_NORM_EPS, Condition
from moebius.model.params import Params


def as_stored(w: Array) -> Array:
    return w


class CPU(Reference):
    """`CPU()` computes in float32 on the cores this process may run on."""

    largest_batch = 4

    def __init__(self, dtype: type[np.floating] = np.float32, threads: int | None = None) -> None:
        super().__init__(dtype)
        self._workers = Workers(threads or cores(), self.dtype)

    @property
    def threads(self) -> int:
        return self._workers.threads

    @property
    def name(self) -> str:
        return f"CPU (NumPy {self.dtype}, {self.threads} threads)"

    # pieces ------------------------------------------------------------------------------------------------------
    def _p(self, p: Params, name: str) -> Array:
        array = p.finite(name)
        return array if array.dtype == self.dtype else self._once(p, name, as_stored)

    def _once(self, p: Params, name: str, make: Callable[[Array], Array]) -> Array:
        """make(parameter), kept as long as its checkpoint lives."""
        kept: dict[str, Array] = p.root.derived.setdefault(self, {})
        key = f"{p.path}.{name}" + ("" if make is as_stored else " rearranged")  # in one other way at most
        if key not in kept:
            kept[key] = np.ascontiguousarray(make(p.finite(name)), self.dtype)
        return kept[key]

    def _scale_shift(self, p: Params) -> tuple[Array, Array]:
        """BN(x) = x·scale + shift, folded in float64. A microsecond a hundred channels, so not worth keeping."""
        mean, var, weight, bias = (p.finite(k).astype(np.float64) for k in ("running_mean", "running_var", "weight", "bias"))
        scale = weight / np.sqrt(var + BATCH_NORM_EPS)
        shift = bias - mean * scale
        return scale.astype(self.dtype), shift.astype(self.dtype)

    def _product(self, x: Array, p: Params) -> Array:
        """x·Wᵀ, as (positions, Cout)."""
        w = self._p(p, "weight")
        y: Array = np.matmul(x.reshape(-1, x.shape[-1]), w.reshape(w.shape[0], -1).T)
        return y

    def _finish(self, y: Array, scale: Array | None, shift: Array | None, *others: Array | None) -> None:
        """y ← y·scale + shift + others, in place: (positions, Cout) with `others` of that size."""
        more = [other.reshape(y.shape) for other in others if other is not None]
        if scale is None and shift is None and not more:
            return

        def block(i: int, j: int) -> None:
            part = y[i:j]
            if scale is not None:
                part *= scale
            if shift is not None:
                part += shift
            for other in more:
                part += other[i:j]

        self._workers.rows(block, *y.shape)

    # convolutions ------------------------------------------------------------------------------------------------
    def linear(self, x: Array, p: Params, residual: Array | None = None) -> Array:
        if self._tap is not None:
            return super().linear(x, p, residual)
        y = self._product(x, p)
        self._finish(y, None, None if p.get("bias") is None else self._p(p, "bias"), residual)
        return y.reshape(*x.shape[:-1], -1)

    def conv3x3(self, x: Array, p: Params, stride: int = 1, pad: int = 1, residual: Array | None = None) -> Array:
        if self._tap is not None:
            return super().conv3x3(x, p, stride, pad, residual)
        taps = self._once(p, "weight", lambda w: w.transpose(2, 3, 1, 0))  # BLAS takes no matrix with gaps of nine
        bias, (_, height, width, _) = self._p(p, "bias"), x.shape
        hout, wout = -(-height // stride), -(-width // stride)
        out = np.empty((x.shape[0], hout, wout, taps.shape[-1]), self.dtype)

        def store(b: int, y0: int, y1: int, o: Array) -> None:
            def row(y: int) -> None:
                np.add(o[y - y0], bias, out=out[b, y])
                if residual is not None:
                    out[b, y] += residual[b, y]

            self._workers.spread(row, ((y,) for y in range(y0, y1)))

        convolve_dense(self._workers, padded(x, pad, 2), taps, stride, store, hout, wout)
        return out

    def upsample_conv3x3(self, x: Array, p: Params) -> Array:
        """Four 2×2 convolutions of x itself: out[2y+i, 2x+j] sees x at rows y-1+i, y+i and columns x-1+j, x+j."""
        if self._tap is not None:
            return super().upsample_conv3x3(x, p)
        phases = self._once(p, "weight", lambda w: phase_taps(w, self.dtype))  # (2, 2, 2, 2, Cin, Cout)
        bias, (b, height, width, _) = self._p(p, "bias"), x.shape
        out = np.empty((b, height, 2, width, 2, phases.shape[-1]), self.dtype)
        xp = padded(x, 1, 1)
        for i in range(2):
            for j in range(2):

                def store(b: int, y0: int, y1: int, o: Array, i: int = i, j: int = j) -> None:
                    self._workers.spread(lambda y: np.add(o[y - y0], bias, out=out[b, y, i, :, j]), ((y,) for y in range(y0, y1)))

                convolve_dense(self._workers, xp[:, i:, j:], phases[i, j], 1, store, height, width)
        return out.reshape(b, 2 * height, 2 * width, -1)

    def dwconv(self, x: Array, p: Params, shift: Array | None = None, residual: Array | None = None) -> Array:
        if self._tap is not None:
            return super().dwconv(x, p, shift, residual)
        scale1, shift1 = self._scale_shift(p.at("bn1"))
        scale2, shift2 = self._scale_shift(p.at("bn2"))
        taps = self._p(p, "conv_dw.weight")[:, 0].transpose(1, 2, 0) * scale1  # (3, 3, Cin)
        hidden = np.empty(x.shape, self.dtype)

        def band(b: int, y0: int, y1: int, h: Array) -> None:
            h += shift1
            np.maximum(h, 0, out=hidden[b, y0:y1])

        convolve_depthwise(self._workers, x, np.ascontiguousarray(taps), band)
        y = self._product(hidden, p.at("conv_pw"))
        if shift is not None:
            shift2 = shift2 + shift
        self._finish(y, scale2, shift2, x if x.shape[-1] == y.shape[-1] else None, residual)
        return y.reshape(*x.shape[:-1], -1)

    def feed_forward(self, x: Array, p: Params, residual: Array) -> Array:
        if self._tap is not None:
            return super().feed_forward(x, p, residual)
        b, height, width, c = x.shape
        w1, w2 = (self._p(p, f"{name}_conv.conv.weight") for name in ("inverted", "point"))
        w1, w2 = w1.reshape(w1.shape[0], c), w2.reshape(c, -1)
        bias1, bias2 = (self._p(p, f"{name}_conv.conv.bias") for name in ("inverted", "depth"))
        taps = np.ascontiguousarray(self._p(p, "depth_conv.conv.weight")[:, 0].transpose(1, 2, 0))
        n, hidden, out = height * width, w2.shape[1], np.empty(x.shape, self.dtype)
        some = max(1, sizes.ROWS // n)  # images at a time
        for i in range(0, b, some):
            xs = x[i : i + some]
            wide = self._workers.scratch("wide", xs.shape[0] * n, 2 * hidden)
            narrow = self._workers.scratch("narrow", xs.shape[0] * n, hidden)
            np.matmul(xs.reshape(-1, c), w1.T, out=wide)

            def activate(j: int, k: int, wide: Array = wide) -> None:
                part = wide[j:k]
                part += bias1
                silu_(part)

            def gate(j: int, y0: int, y1: int, h: Array, narrow: Array = narrow) -> None:
                h += bias2
                part = narrow.reshape(-1, height, width, hidden)[j, y0:y1]
                part[...] = h[..., hidden:]
                silu_(part)
                part *= h[..., :hidden]

            self._workers.rows(activate, *wide.shape)
            convolve_depthwise(self._workers, wide.reshape(-1, height, width, 2 * hidden), taps, gate)
            np.matmul(narrow, w2.T, out=out[i : i + some].reshape(-1, c))
        self._finish(out.reshape(-1, c), None, None, residual)
        return out

    # norms -------------------------------------------------------------------------------------------------------
    def group_norm(self, x: Array, p: Params, groups: int, eps: float, silu: bool = False) -> Array:
        if self._tap is not None:
            return super().group_norm(x, p, groups, eps, silu)
        b, height, width, c = x.shape
        n = height * width
        xt, out = x.reshape(b, n, c), np.empty((b, n, c), self.dtype)
        weight, bias = self._p(p, "weight"), self._p(p, "bias")
        step = max(1, sizes.BLOCK // c)
        jobs = [(i, j, min(j + step, n)) for i in range(b) for j in range(0, n, step)]
        sums = np.zeros((b, -(-n // step), c), np.float64)  # of blocks; float64 only from here on

        def total(i: int, j: int, k: int) -> None:
            sums[i, j // step] = np.add.reduce(xt[i, j:k], axis=0)

        def spread(i: int, j: int, k: int) -> None:
            centred = xt[i, j:k] - mean[i]
            centred *= centred
            sums[i, j // step] = np.add.reduce(centred, axis=0)

        def apply(i: int, j: int, k: int) -> None:
            part = out[i, j:k]
            np.subtract(xt[i, j:k], mean[i], out=part)
            part *= scale[i]
            part += bias
            if silu:
                silu_(part)

        def over_group() -> Array:
            """The block sums → the mean over each channel's group, (b, 1, c)."""
            means = sums.sum(axis=1).reshape(b, groups, -1).mean(axis=2) / n
            return np.repeat(means, c // groups, axis=1)[:, None]

        self._workers.spread(total, jobs)
        mean = over_group().astype(self.dtype)
        self._workers.spread(spread, jobs)
        scale = (weight / np.sqrt(over_group() + eps)).astype(self.dtype)
        self._workers.spread(apply, jobs)
        return out.reshape(x.shape)

    def layer_norm(self, x: Array, p: Params, eps: float = 1e-5) -> Array:
        if self._tap is not None:
            return super().layer_norm(x, p, eps)
        c = x.shape[-1]
        xt, out = x.reshape(-1, c), np.empty((x.size // c, c), self.dtype)
        weight, bias = self._p(p, "weight"), self._p(p, "bias")

        def block(i: int, j: int) -> None:
            part = out[i:j]
            np.subtract(xt[i:j], xt[i:j].mean(axis=1, keepdims=True), out=part)
            var = np.einsum("nc,nc->n", part, part) / self.dtype.type(c)
            part /= np.sqrt(var + self.dtype.type(eps))[:, None]
            part *= weight
            part += bias

        self._workers.rows(block, *xt.shape)
        return out.reshape(x.shape)

    # attention ---------------------------------------------------------------------------------------------------
    def self_lambda(self, x: Array, p: Params, heads: int, residual: Array) -> Array:
        """y = Q·(λc + b) + Σ_d (Q·w)[n,h,d]·V[n+d,v]: 225 logits a head and position, instead of k·v filtered planes."""
        if self._tap is not None:
            return super().self_lambda(x, p, heads, residual)
        b, height, width, c = x.shape
        n, k = height * width, c // heads
        q = self._queries(x, p)
        scale, shift = self._scale_shift(p.at("norm_v"))
        to_k, to_v = (self._p(p, f"{name}.weight").reshape(k, c) for name in ("to_k", "to_v"))
        both = x.reshape(-1, c) @ np.concatenate([to_k, to_v * scale[:, None]]).T  # one product: k columns alone are too few
        weights = softmax(both[:, :k].reshape(b, n, k), axis=1)  # over positions
        val = (both[:, k:] + shift).reshape(b, n, k)
        content = weights.transpose(0, 2, 1) @ val + self._p(p, "pos_conv.bias")[:, None]  # λc + b (B, k, v)
        y: Array = np.matmul(q.reshape(b, n * heads, k), content).reshape(b, height, width, c)
        filters = np.ascontiguousarray(self._p(p, "pos_conv.weight").reshape(k, -1))
        add_positional(self._workers, y, q.reshape(b, height, width, c), val.reshape(b, height, width, k), filters, heads, residual)
        return y

    def _queries(self, x: Array, p: Params) -> Array:
        """BN(to_q·x), (positions, C)."""
        q = self._product(x, p.at("to_q"))
        self._finish(q, *self._scale_shift(p.at("norm_q")))
        return q

    def cross_lambda(self, x: Array, cond: Condition, p: Params, heads: int, residual: Array) -> Array:
        """y = Σ_m (Σ_k Q[n,h,k]·(K[m,k] + E[n,m,k]))·V[m,v]: m logits a head and position, instead of k·v entries of λ."""
        if self._tap is not None:
            return super().cross_lambda(x, cond, p, heads, residual)
        b, height, width, c = x.shape
        n, k = height * width, c // heads
        q = self._queries(x, p).reshape(b, n, heads, k)
        keys, val = self.condition_keys_values(cond.tokens, p)  # (B, m, k), (B, m, v)
        table = self._p(p, "rel_pos_emb")[..., 0]  # (n, m, k)
        rest, y = residual.reshape(b, n, c), np.empty((b, n, c), self.dtype)
        step = max(1, sizes.ALONE // (keys.shape[1] * c))

        def block(i: int, j0: int, j1: int) -> None:
            logits = np.matmul(q[i, j0:j1], (table[j0:j1] + keys[i]).transpose(0, 2, 1))  # (positions, heads, m)
            np.matmul(logits.reshape(-1, logits.shape[-1]), val[i], out=y[i, j0:j1].reshape(-1, val.shape[-1]))
            y[i, j0:j1] += rest[i, j0:j1]

        self._workers.spread(block, ((i, j, min(j + step, n)) for i in range(b) for j in range(0, n, step)))
        return y.reshape(x.shape)


def silu_(x: Array) -> None:
    """x ← x·σ(x) in place, as h + h·tanh h with h = x/2: no overflow, no sizes. The error is an ulp of x, not of the result."""
    h = x * x.dtype.type(0.5)
    np.tanh(h, out=x)
    x += 1
    x *= h
