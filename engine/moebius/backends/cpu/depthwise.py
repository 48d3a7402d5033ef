"""Depthwise 3×3 convolutions, by bands of rows and slices of channels that stay in the second-level cache."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from moebius.backends.cpu import sizes
from moebius.backends.cpu.silu import silu_of_minus
from moebius.backends.cpu.workers import Workers
from moebius.backends.reference import Array


def convolve(workers: Workers, x: Array, taps: Array, work: Callable[[slice, slice, slice, Array], None]) -> None:
    """work(images, rows, channels, h) on parts h of Σ taps[dy,dx]·x[y+dy-1,x+dx-1], x being 0 outside of itself; taps are (3, 3, C).

    A part is a band of rows, or all rows of some images where these are small.
    """
    batch, height, width, channels = x.shape
    parts = slices(channels)
    rows = max(1, min(height, sizes.BAND // (width * parts[0].stop)))
    images = max(1, sizes.BAND // (height * width * parts[0].stop))

    def job(some: slice, y0: int, y1: int, part: slice) -> None:
        xs = x[some, :, :, part]
        patch = workers.lend("patch", len(xs), y1 - y0 + 2, width + 2, xs.shape[-1])
        h = workers.lend("sums", len(xs), y1 - y0, width, xs.shape[-1])
        top, bottom = max(y0 - 1, 0), min(y1 + 1, height)
        patch[:, top - y0 + 1 : bottom - y0 + 1, 1:-1] = xs[:, top:bottom]
        patch[:, :, 0] = patch[:, :, -1] = 0
        if top == y0:
            patch[:, 0] = 0
        if bottom == y1:
            patch[:, -1] = 0
        sums(patch, tiled(taps[:, :, part], width), h)
        work(some, slice(y0, y1), part, h)
        workers.back("patch", patch)
        workers.back("sums", h)

    bands = [(y, min(y + rows, height)) for y in range(0, height, rows)]
    jobs = [(slice(b, min(b + images, batch)), *band, part) for b in range(0, batch, images) for band in bands for part in parts]
    workers.spread(job, jobs, x.size)


def gated(workers: Workers, x: Array, w: Callable[[slice], Array], minus: Array, taps: Array, bias: Array, out: Array) -> None:
    """out ← a·SiLU(g) where [a, g] = depthwise 3×3 of SiLU(x·wᵀ - minus), + bias, the taps and the bias of g having the other sign.

    x is (B, H, W, C), out (B, H, W, hidden). All hidden channels at once would be the largest tensor of the network. A job has a slice of
    them, and takes the rows of an image one part after the other, small images together: enough of them for a good product, few enough for
    the cache. The two rows that the next part needs too are kept. w(slice) is (2·n, C); in minus (2·hidden), taps (3, 3, 2·hidden) and bias
    the channels are `in_slices`.
    """
    (batch, height, width, c), hidden = x.shape, out.shape[-1]
    parts = slices(hidden)
    rows = max(1, min(height, sizes.TALL // width))
    images = max(1, min(batch, sizes.TALL // (2 * height * width)))  # a half, for two cores share a guided step

    def job(b0: int, b1: int, part: slice) -> None:
        n, both = part.stop - part.start, slice(2 * part.start, 2 * part.stop)
        weights, filters, before, after = w(part).T, tiled(taps[:, :, both], width), minus[both], bias[both]
        patch = workers.lend("patch", b1 - b0, rows + 2, width + 2, 2 * n)
        patch[:, 0] = patch[:, :, 0] = patch[:, :, -1] = 0
        wide = workers.lend("columns", (b1 - b0) * (rows + 1) * width, 2 * n)
        done = 0
        for y0 in range(0, height, rows):
            y1 = min(y0 + rows, height)
            ahead = min(y1 + 1, height)
            if ahead > done:
                new = wide[: (b1 - b0) * (ahead - done) * width]
                np.matmul(x[b0:b1, done:ahead].reshape(-1, c), weights, out=new)
                activate(new.reshape(b1 - b0, -1, width, 2 * n), before, patch[:, done - y0 + 1 : ahead - y0 + 1, 1:-1])
            frames = patch[:, : y1 - y0 + 2]
            if y1 == height:
                frames[:, -1] = 0
            gate(workers, frames, filters, after, out[b0:b1, y0:y1, :, part])
            if y1 < height:
                frames[:, :2] = frames[:, -2:]
            done = ahead
        workers.back("patch", patch)
        workers.back("columns", wide)

    workers.spread(job, [(b, min(b + images, batch), part) for b in range(0, batch, images) for part in parts], 2 * out.size)


def activate(x: Array, minus: Array, out: Array) -> None:
    """out ← SiLU(x - minus), both (B, H, W, C), by pieces of rows or of images; what is in x afterwards is nothing."""
    images, step = max(1, sizes.PIECE // x[0].size), max(1, sizes.PIECE // x[0, 0].size)
    for b in range(0, len(x), images):
        for y in range(0, x.shape[1], step):
            place = slice(b, b + images), slice(y, y + step)
            part = x[place]
            np.subtract(minus, part, out=part)
            silu_of_minus(part, out[place])


def gate(workers: Workers, patch: Array, taps: Array, bias: Array, out: Array) -> None:
    """out (B, H, W, n) ← a·SiLU(g) where [a, g] are the halves of the channels of sums(patch, taps) + bias, g with the other sign."""
    batch, height, width, n = out.shape
    images, step = max(1, sizes.BAND // (2 * out[0].size)), max(1, min(height, sizes.BAND // (2 * width * n)))
    h = workers.lend("sums", min(images, batch), step, width, 2 * n)
    for b in range(0, batch, images):
        for y in range(0, height, step):
            into = out[b : b + images, y : y + step]
            part = h[: len(into), : into.shape[1]]
            sums(patch[b : b + images, y : y + step + 2], taps, part)
            part += bias
            g = part[..., n:]
            silu_of_minus(g, g)
            np.multiply(part[..., :n], g, out=into)
    workers.back("sums", h)


def slices(channels: int) -> list[slice]:
    """As equal as eights allow, and none wider than the first."""
    count = -(-channels // sizes.SLICE)
    step = min(channels, 8 * -(-channels // (8 * count)))
    return [slice(i, min(i + step, channels)) for i in range(0, channels, step)]


def in_slices(array: Array) -> Array:
    """The channels of a and g, on the first axis, as `gated` takes them: those of a's first slice, of g's first, of a's second, …"""
    a, g = np.split(array, 2)
    return np.concatenate([side[part] for part in slices(len(a)) for side in (a, g)])


def tiled(taps: Array, width: int) -> Array:
    """(3, 3, C) → (3, 3, n·C): for n neighbours at once, n dividing the width. einsum's inner loop is over a line of them: of 128 channels
    alone it takes twice the time."""
    n = max(1, min(width, sizes.LINE // taps.shape[2]))
    while width % n:
        n -= 1
    out = np.empty((3, 3, n, taps.shape[2]), taps.dtype)  # np.tile takes ten times as long
    out[...] = taps[:, :, None]
    return out.reshape(3, 3, -1)


def sums(patch: Array, taps: Array, out: Array) -> None:
    """out (B, H, W, C) ← Σ taps[dy,dx]·patch[y+dy,x+dx] with the patch (B, H+2, W+2, C), in one piece, and `tiled` taps.

    einsum multiplies and adds in one pass over each tap: half the time of a multiply and an add in place.
    """
    line, s = taps.shape[2], patch.strides
    shape = *out.shape[:2], out[0, 0].size // line, line
    window = np.ndarray((3, 3, *shape), patch.dtype, patch, 0, (s[1], s[2], s[0], s[1], line * s[3], s[3]))
    np.einsum("ijbyxc,ijc->byxc", window, taps, out=out.reshape(shape))
