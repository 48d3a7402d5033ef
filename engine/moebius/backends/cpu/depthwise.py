"""Depthwise 3×3 convolutions, by bands of rows and slices of channels that stay in the second-level cache."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from moebius.backends.cpu import sizes
from moebius.backends.cpu.convolutions import copy_window
from moebius.backends.cpu.silu import silu_of_minus
from moebius.backends.cpu.workers import Workers
from moebius.backends.reference import Array


def convolve(workers: Workers, x: Array, taps: Array, work: Callable[[int, int, int, slice, Array], None]) -> None:
    """work(b, y, y', channels, h) on parts h of Σ taps[dy,dx]·x[y+dy-1,x+dx-1], x being 0 outside of itself; taps are (3, 3, C)."""
    batch, height, width, channels = x.shape
    parts = slices(channels)
    rows = max(1, sizes.BAND // (width * parts[0].stop))

    def job(b: int, y0: int, y1: int, part: slice) -> None:
        n = part.stop - part.start
        patch, h = workers.lend("patch", y1 - y0 + 2, width + 2, n), workers.lend("sums", y1 - y0, width, n)
        copy_window(patch, x[b, :, :, part], y0 - 1, -1)
        sums(patch, tiled(taps[:, :, part], width), h)
        work(b, y0, y1, part, h)
        workers.back("patch", patch)
        workers.back("sums", h)

    jobs = [(b, y, min(y + rows, height), part) for b in range(batch) for y in range(0, height, rows) for part in parts]
    workers.spread(job, jobs, x.size)


def gated(workers: Workers, x: Array, w: Array, minus: Array, taps: Array, bias: Array, out: Array) -> None:
    """out ← a·SiLU(g) where [a, g] = depthwise 3×3 of SiLU(x·wᵀ - minus), + bias, the taps and the bias of g having the other sign.

    x is (B, H, W, C), w (2·hidden, C), taps (3, 3, 2·hidden), out (B, H, W, hidden). All hidden channels at once would be the largest
    tensor of the network. A job has a slice of them, and takes the rows of an image one part after the other, small images together: enough
    of them for a good product, few enough for the cache. The two rows that the next part needs too are kept.
    """
    (batch, height, width, c), hidden = x.shape, out.shape[-1]
    parts = slices(hidden)
    rows = max(1, min(height, sizes.TALL // width))
    images = max(1, min(batch, sizes.TALL // (2 * height * width)))  # a half, for two cores share a guided step

    def job(b0: int, b1: int, part: slice) -> None:
        n, sides = part.stop - part.start, (part, slice(part.start + hidden, part.stop + hidden))
        weights = np.concatenate([w[side] for side in sides]).T
        filters = tiled(np.concatenate([taps[:, :, side] for side in sides], axis=2), width)
        before, after = (np.concatenate([each[side] for side in sides]) for each in (minus, bias))
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
            for b in range(b0, b1):
                frame = patch[b - b0, : y1 - y0 + 2]
                if ahead > done:
                    activate(new.reshape(b1 - b0, -1, width, 2 * n)[b - b0], before, frame[done - y0 + 1 : ahead - y0 + 1, 1:-1])
                if y1 == height:
                    frame[-1] = 0
                gate(workers, frame, filters, after, out[b, y0:y1, :, part])
                frame[:2] = frame[-2:]
            done = ahead
        workers.back("patch", patch)
        workers.back("columns", wide)

    workers.spread(job, [(b, min(b + images, batch), part) for b in range(0, batch, images) for part in parts], 2 * out.size)


def activate(x: Array, minus: Array, out: Array) -> None:
    """out ← SiLU(x - minus), by pieces of rows; what is in x afterwards is nothing."""
    step = max(1, sizes.PIECE // x[0].size)
    for y in range(0, len(x), step):
        part = x[y : y + step]
        np.subtract(minus, part, out=part)
        silu_of_minus(part, out[y : y + step])


def gate(workers: Workers, patch: Array, taps: Array, bias: Array, out: Array) -> None:
    """out (H, W, n) ← a·SiLU(g) where [a, g] are the halves of the channels of sums(patch, taps) + bias, g with the other sign."""
    (height, width, n), step = out.shape, max(1, sizes.BAND // (2 * out[0].size))
    h = workers.lend("sums", min(step, height), width, 2 * n)
    for y in range(0, height, step):
        part = h[: min(step, height - y)]
        sums(patch[y : y + len(part) + 2], taps, part)
        part += bias
        g = part[..., n:]
        silu_of_minus(g, g)
        np.multiply(part[..., :n], g, out=out[y : y + len(part)])
    workers.back("sums", h)


def slices(channels: int) -> list[slice]:
    """As equal as eights allow, and none wider than the first."""
    count = -(-channels // sizes.SLICE)
    step = min(channels, 8 * -(-channels // (8 * count)))
    return [slice(i, min(i + step, channels)) for i in range(0, channels, step)]


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
    """out (H, W, C) ← Σ taps[dy,dx]·patch[y+dy,x+dx] with the patch (H+2, W+2, C) and `tiled` taps.

    einsum multiplies and adds in one pass over each tap: half the time of a multiply and an add in place.
    """
    line, s = taps.shape[2], patch.strides
    shape = len(out), out[0].size // line, line
    window = np.ndarray((3, 3, *shape), patch.dtype, patch, 0, (s[0], s[1], s[0], line * s[2], s[2]))
    np.einsum("ijyxc,ijc->yxc", window, taps, out=out.reshape(shape))
