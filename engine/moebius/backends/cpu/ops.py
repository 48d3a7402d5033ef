"""The contract in NumPy again, for speed: blocks that stay in cache, on every core, BLAS for a block's products on the core that has it.

Same tensors as `Reference`, (B, H, W, C). What is changed is the order of the arithmetic: batch norms are one scale and one shift, the
positional lambda goes through its logits, wide 3×3 convolutions through tiles (`winograd`), an enlarged one through differences. With a
tap every op is the reference's, so that every module is still seen.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np

from moebius.backends.cpu import depthwise, sizes, winograd
from moebius.backends.cpu.blas import TurnsOnOneThread
from moebius.backends.cpu.convolutions import convolve_dense, convolve_enlarged, convolve_narrow
from moebius.backends.cpu.cores import cores
from moebius.backends.cpu.positional import apply_lambda
from moebius.backends.cpu.silu import silu_of_minus
from moebius.backends.cpu.workers import Workers
from moebius.backends.reference import Array, Reference, softmax
from moebius.errors import UsageError
from moebius.model.arrays import enlarging
from moebius.model.contract import BATCH_NORM_EPS, Condition
from moebius.model.params import Params

V = TypeVar("V")


@dataclass
class Latest(Generic[V]):
    """What was made last, by whichever thread."""

    value: V | None = None


def as_stored(w: Array) -> Array:
    return w


class CPU(Reference):
    """`CPU()` computes in float32 on the cores this process may run on."""

    largest_batch = 4

    def __init__(self, dtype: type[np.floating] = np.float32, threads: int | None = None) -> None:
        super().__init__(dtype)
        if threads is not None and threads < 1:
            raise UsageError(f"threads is {threads}; give 1 or more, or leave it out for one on every core.")
        self._workers = Workers(threads or cores(), self.dtype)
        self._turns = TurnsOnOneThread(self._workers.let_go)

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

    def _kept(self, p: Params, what: str, make: Callable[[], V]) -> V:
        """make(), kept as long as the checkpoint of p lives."""
        kept: dict[tuple[str, str], V] = p.root.derived.get(self) or p.root.derived.setdefault(self, {})
        key = p.path, what
        if key not in kept:
            kept[key] = make()
        return kept[key]

    def _once(self, p: Params, name: str, make: Callable[[Array], Array]) -> Array:
        """make(parameter), kept; in one other way than as it is stored at most."""
        what = name if make is as_stored else f"{name} rearranged"
        return self._kept(p, what, lambda: np.ascontiguousarray(make(p.finite(name)), self.dtype))

    def _scale_shift(self, p: Params) -> tuple[Array, Array]:
        """BN(x) = x·scale + shift, folded in float64."""

        def fold() -> tuple[Array, Array]:
            weight, mean, var, bias = (p.finite(k).astype(np.float64) for k in ("weight", "running_mean", "running_var", "bias"))
            scale = weight / np.sqrt(var + BATCH_NORM_EPS)
            return scale.astype(self.dtype), (bias - mean * scale).astype(self.dtype)

        return self._kept(p, "folded", fold)

    def _product(self, x: Array, p: Params, scale: Array | None = None, shift: Array | None = None, *others: Array | None) -> Array:
        """(x·Wᵀ)·scale + shift + others, as (positions, Cout); `others` have that many elements."""
        w = self._p(p, "weight")
        more = [other.reshape(-1, w.shape[0]) for other in others if other is not None]

        def finish(part: Array, rows: slice, columns: slice) -> None:
            if scale is not None:
                part *= scale[columns]
            if shift is not None:
                part += shift[columns]
            for other in more:
                part += other[rows, columns]

        return self._workers.product(x.reshape(-1, x.shape[-1]), w.reshape(w.shape[0], -1).T, finish)

    # convolutions ------------------------------------------------------------------------------------------------
    def linear(self, x: Array, p: Params, residual: Array | None = None) -> Array:
        if self._tap is not None:
            return super().linear(x, p, residual)
        y = self._product(x, p, None, None if p.get("bias") is None else self._p(p, "bias"), residual)
        return y.reshape(*x.shape[:-1], -1)

    def conv3x3(self, x: Array, p: Params, stride: int = 1, pad: int = 1, residual: Array | None = None, inner: bool = False) -> Array:
        if self._tap is not None:
            return super().conv3x3(x, p, stride, pad, residual)
        if stride == pad == 1 and min(p["weight"].shape[:2]) >= sizes.CHANNELS:
            return winograd.convolve(self._workers, x, p.finite("weight"), self._p(p, "bias"), residual)
        taps = self._once(p, "weight", lambda w: w.transpose(2, 3, 1, 0))  # BLAS takes no matrix with gaps of nine
        bias, (_, height, width, _) = self._p(p, "bias"), x.shape
        if stride == pad == 1 and 9 * taps.shape[3] <= taps.shape[2]:
            return convolve_narrow(self._workers, x, taps, bias, residual)
        size = -(-height // stride), -(-width // stride)
        out = self._workers.new(x.shape[0], *size, taps.shape[-1])

        def store(b: int, y0: int, y1: int, o: Array) -> None:
            np.add(o, bias, out=out[b, y0:y1])
            if residual is not None:
                out[b, y0:y1] += residual[b, y0:y1]

        convolve_dense(self._workers, x, taps, stride, (-pad, -pad), size, store)
        return out

    def upsample_conv3x3(self, x: Array, p: Params, inner: bool = False) -> Array:
        if self._tap is not None:
            return super().upsample_conv3x3(x, p)
        return convolve_enlarged(self._workers, x, self._once(p, "weight", enlarging), self._p(p, "bias"))

    def dwconv(self, x: Array, p: Params, shift: Array | None = None, residual: Array | None = None) -> Array:
        if self._tap is not None:
            return super().dwconv(x, p, shift, residual)
        taps, shift1, scale2, shift2 = self._kept(p, "dwconv", lambda: self._folded(p))
        hidden = self._workers.new(*x.shape)

        def band(images: slice, rows: slice, channels: slice, h: Array) -> None:
            h += shift1[channels]
            np.maximum(h, 0, out=hidden[images, rows, :, channels])

        depthwise.convolve(self._workers, x, taps, band)
        if shift is not None:
            shift2 = shift2 + shift
        skip = x if x.shape[-1] == scale2.size else None
        return self._product(hidden, p.at("conv_pw"), scale2, shift2.ravel(), skip, residual).reshape(*x.shape[:-1], -1)

    def _folded(self, p: Params) -> tuple[Array, Array, Array, Array]:
        """The filters of a DWConv (3, 3, Cin), its first norm's scale in them, what is added to that, and its second norm."""
        scale, shift = self._scale_shift(p.at("bn1"))
        taps = p.finite("conv_dw.weight")[:, 0].transpose(1, 2, 0) * scale
        return np.ascontiguousarray(taps, self.dtype), shift, *self._scale_shift(p.at("bn2"))

    def feed_forward(self, x: Array, p: Params, residual: Array) -> Array:
        if self._tap is not None:
            return super().feed_forward(x, p, residual)
        b, height, width, c = x.shape
        w1, w2 = (self._p(p, f"{name}_conv.conv.weight") for name in ("inverted", "point"))
        w1, w2 = w1.reshape(w1.shape[0], c), w2.reshape(c, -1)
        hidden = w2.shape[1]
        minus, taps, bias, small = self._kept(p, "feed_forward", lambda: self._signed(p, w1))

        def weights(part: slice) -> Array:
            if small is not None:
                return small[2 * part.start : 2 * part.stop]
            return np.concatenate([w1[part], w1[part.start + hidden : part.stop + hidden]])

        some, out = max(1, sizes.ROWS // (height * width)), self._workers.new(*x.shape)  # images at a time
        for i in range(0, b, some):
            xs = x[i : i + some]
            narrow = self._workers.scratch("narrow", *xs.shape[:3], hidden)
            depthwise.gated(self._workers, xs, weights, minus, taps, bias, narrow)

            def add(part: Array, rows: slice, columns: slice, i: int = i) -> None:
                part += residual[i : i + some].reshape(-1, c)[rows, columns]

            self._workers.product(narrow.reshape(-1, hidden), w2.T, add, out[i : i + some].reshape(-1, c))
        return out

    def _signed(self, p: Params, w: Array) -> tuple[Array, Array, Array, Array | None]:
        """A feed-forward's first bias, filters and second bias, and its first weights where they are few, with channels `in_slices`. What
        SiLU follows is made as its negative."""
        sign = np.repeat(np.array([1, -1], self.dtype), len(w) // 2)  # of a and g
        taps = p.finite("depth_conv.conv.weight")[:, 0] * sign[:, None, None]
        minus, bias = -self._p(p, "inverted_conv.conv.bias"), self._p(p, "depth_conv.conv.bias") * sign
        minus, taps, bias = (depthwise.in_slices(each) for each in (minus, taps, bias))
        small = depthwise.in_slices(w) if w.size <= sizes.TWICE else None
        return minus, np.ascontiguousarray(taps.transpose(1, 2, 0), self.dtype), bias, small

    # norms -------------------------------------------------------------------------------------------------------
    def group_norm(self, x: Array, p: Params, groups: int, eps: float, silu: bool = False) -> Array:
        if self._tap is not None:
            return super().group_norm(x, p, groups, eps, silu)
        b, height, width, c = x.shape
        n = height * width
        xt, out = x.reshape(b, n, c), self._workers.new(b, n, c)
        step = max(1, sizes.BLOCK // c)
        run = min(step, sizes.RUN)
        step -= step % run
        some = b if x.size < sizes.BLOCK else 1  # images at a time: together they take fewer calls
        jobs = [(slice(i, i + some), j, min(j + step, n)) for i in range(0, b, some) for j in range(0, n, step)]
        means, squares = np.empty((2, b, -(-n // run), c), np.float64)  # of runs, and about their means; float64 only from here on

        def count(images: slice, j: int, k: int) -> None:
            whole = k - (k - j) % run
            for r0, r1, length in ((j, whole, run), (whole, k, k - whole)):  # all whole runs at once, and what is left
                if r0 < r1:
                    part = xt[images, r0:r1]
                    part = part.reshape(len(part), -1, length, c)
                    mean = np.add.reduce(part, axis=2, keepdims=True) / self.dtype.type(length)
                    centred, at = part - mean, slice(r0 // run, -(-r1 // run))
                    means[images, at], squares[images, at] = mean[:, :, 0], np.einsum("brnc,brnc->brc", centred, centred)

        self._workers.spread(count, jobs, x.size)
        scale, shift = (v.astype(self.dtype) for v in self._norm(p, means, squares, run, n, groups, eps))
        if silu:
            scale, shift = -scale, -shift

        def apply(images: slice, j: int, k: int) -> None:
            part = out[images, j:k]
            np.multiply(xt[images, j:k], scale[images, None], out=part)
            part += shift[images, None]
            if silu:
                for image in part:
                    silu_of_minus(image, image)

        self._workers.spread(apply, jobs, x.size)
        return out.reshape(x.shape)

    def _norm(self, p: Params, means: Array, squares: Array, run: int, n: int, groups: int, eps: float) -> tuple[Array, Array]:
        """norm(x) = x·scale + shift, (b, c) each, from the means of runs of that many positions and the sums of squares about them."""
        b, runs, c = means.shape
        counts: Array | int = n if runs == 1 else np.minimum(run, n - run * np.arange(runs))[:, None, None]
        means, squares = means.reshape(b, runs, groups, -1), squares.reshape(b, runs, groups, -1)
        total = n * c // groups
        mean = np.add.reduce(means * counts, axis=(1, 3), keepdims=True) / total
        var = np.add.reduce(squares + counts * np.square(means - mean), axis=(1, 3), keepdims=True) / total
        scale = p.finite("weight").reshape(groups, -1) * (1 / np.sqrt(var[:, 0] + eps))
        shift = p.finite("bias").reshape(groups, -1) - scale * mean[:, 0]
        return scale.reshape(b, c), shift.reshape(b, c)

    def layer_norm(self, x: Array, p: Params, eps: float = 1e-5) -> Array:
        if self._tap is not None:
            return super().layer_norm(x, p, eps)
        c = x.shape[-1]
        xt, out = x.reshape(-1, c), np.empty((x.size // c, c), self.dtype)
        weight, bias, count, least = self._p(p, "weight"), self._p(p, "bias"), self.dtype.type(c), self.dtype.type(eps)

        def block(i: int, j: int) -> None:
            part = out[i:j]
            mean = np.add.reduce(xt[i:j], axis=1, keepdims=True)
            mean /= count
            np.subtract(xt[i:j], mean, out=part)
            var = np.einsum("nc,nc->n", part, part)
            var /= count
            var += least
            part /= np.sqrt(var, out=var)[:, None]
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

        def keys_values() -> Array:
            to_k, to_v = (self._p(p, f"{name}.weight").reshape(k, c) for name in ("to_k", "to_v"))
            return np.concatenate([to_k, to_v * scale[:, None]])

        # One product: k columns alone are too few.
        w = self._kept(p, "to_k and to_v", keys_values) if 2 * k * c <= sizes.TWICE else keys_values()
        both = self._workers.product(x.reshape(-1, c), w.T)
        weights = softmax(both[:, :k].reshape(b, n, k), axis=1)  # over positions
        val = (both[:, k:] + shift).reshape(b, n, k)
        content = weights.transpose(0, 2, 1) @ val + self._p(p, "pos_conv.bias")[:, None]  # λc + b (B, k, v)
        filters = np.ascontiguousarray(self._p(p, "pos_conv.weight").reshape(k, -1))
        return apply_lambda(self._workers, q.reshape(b, height, width, c), content, val.reshape(b, height, width, k), filters, residual)

    def _queries(self, x: Array, p: Params) -> Array:
        """BN(to_q·x), (positions, C)."""
        return self._product(x, p.at("to_q"), *self._scale_shift(p.at("norm_q")))

    def cross_lambda(self, x: Array, cond: Condition, p: Params, heads: int, residual: Array) -> Array:
        """y = Σ_m (Σ_k Q[n,h,k]·(K[m,k] + E[n,m,k]))·V[m,v]: m logits a head and position, instead of k·v entries of λ."""
        if self._tap is not None:
            return super().cross_lambda(x, cond, p, heads, residual)
        b, height, width, c = x.shape
        n, k = height * width, c // heads
        q = self._queries(x, p).reshape(b, n, heads, k)
        keys, val = self._keys_values(cond, p)  # (B, m, k), (B, m, v)
        table = self._p(p, "rel_pos_emb")[..., 0]  # (n, m, k)
        rest, y = residual.reshape(b, n, c), np.empty((len(keys), n, c), self.dtype)
        step = max(1, sizes.FEW // (keys.shape[1] * c))

        def block(i: int, j0: int, j1: int) -> None:
            logits = np.matmul(q[i % b, j0:j1], (table[j0:j1] + keys[i]).transpose(0, 2, 1))  # (positions, heads, m)
            np.matmul(logits.reshape(-1, logits.shape[-1]), val[i], out=y[i, j0:j1].reshape(-1, val.shape[-1]))
            y[i, j0:j1] += rest[i % b, j0:j1]

        self._workers.spread(block, ((i, j, min(j + step, n)) for i in range(len(y)) for j in range(0, n, step)), y.size)
        return y.reshape(-1, height, width, c)

    def condition(self, ids: Array, p: Params) -> Condition:
        """The last one is kept, and with it what every layer makes of it: a run asks for the same one at every step."""
        if self._tap is not None:
            return super().condition(ids, p)
        latest: Latest[Condition] = self._kept(p, "condition", Latest)
        last = latest.value
        if last is None or not np.array_equal(last.ids, ids):
            last = latest.value = super().condition(ids.copy(), p)
        return last

    def _keys_values(self, cond: Condition, p: Params) -> tuple[Array, Array]:
        latest: Latest[tuple[Condition, Array, Array]] = self._kept(p, "keys and values", Latest)
        last = latest.value
        if last is None or last[0] is not cond:
            last = latest.value = cond, *self.condition_keys_values(cond.tokens, p)
        return last[1:]

    def attention(self, x: Array, p: Params, residual: Array) -> Array:
        """Every row's softmax while its block is in the cache; the logits of all rows at once would be 64 MB for 64²."""
        if self._tap is not None:
            return super().attention(x, p, residual)
        b, height, width, c = x.shape
        n, y = height * width, np.empty(x.shape, self.dtype).reshape(b, -1, c)
        q, k, v = (self._product(x, p.at(name), None, self._p(p, f"{name}.bias")).reshape(b, n, c) for name in ("to_q", "to_k", "to_v"))
        step = max(1, sizes.COLUMNS // n)

        def block(i: int, j0: int, j1: int) -> None:
            logits = self._workers.lend("logits", j1 - j0, n)
            np.matmul(q[i, j0:j1], k[i].T, out=logits)
            logits *= self.dtype.type(c**-0.5)
            logits -= logits.max(axis=1, keepdims=True)
            np.exp(logits, out=logits)
            np.matmul(logits, v[i], out=y[i, j0:j1])
            y[i, j0:j1] /= logits.sum(axis=1, keepdims=True)
            self._workers.back("logits", logits)

        self._workers.spread(block, [(i, j, min(j + step, n)) for i in range(b) for j in range(0, n, step)])
        return self._product(y, p.at("to_out.0"), None, self._p(p, "to_out.0.bias"), residual).reshape(x.shape)
