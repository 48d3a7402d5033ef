"""Convolutions in NumPy: a depthwise one as passes of einsum over bands of rows, a dense one as products of gathered columns."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.lib.stride_tricks import as_strided

from moebius.backends.cpu import sizes
from moebius.backends.cpu.workers import Workers
from moebius.backends.reference import Array


def convolve_depthwise(workers: Workers, x: Array, taps: Array, work: Callable[[int, int, int, Array], None]) -> None:
    """work(b, y, y', h) on bands of rows of h = Σ taps[dy,dx]·x[y+dy-1,x+dx-1], the zeros around x left out of the sum.

    einsum multiplies and adds in one pass over each tap: 21 ms for (2, 64, 64, 1600) on one core, against 27 ms for a
    multiply and an add in place at the best blocking, and 36 ms when the channels are blocked as well.
    """
    batch, height, width, channels = x.shape
    step = max(1, sizes.BLOCK // (width * channels))

    def band(b: int, y0: int, y1: int, tap0: int, tap1: int) -> None:
        h = np.empty((y1 - y0, width, channels), x.dtype)
        for x0, x1, left, right in spans(width):
            first = x[b, y0 + tap0 - 1 :, x0 + left - 1 :]
            s = first.strides
            shape = (tap1 - tap0, right - left, y1 - y0, x1 - x0, channels)
            window = as_strided(first, shape, (s[0], s[1], *s), writeable=False)
            np.einsum("ijyxc,ijc->yxc", window, taps[tap0:tap1, left:right], out=h[:, x0:x1])
        work(b, y0, y1, h)

    jobs = [
        (b, y, min(y + step, y1), tap0, tap1) for b in range(batch) for y0, y1, tap0, tap1 in spans(height) for y in range(y0, y1, step)
    ]
    workers.spread(band, jobs)


def spans(n: int) -> list[tuple[int, int, int, int]]:
    """(from, to, first tap, last tap + 1): the positions 0 … n by which of the taps -1, 0, 1 fall inside."""
    if n == 1:
        return [(0, 1, 1, 2)]
    return [(0, 1, 1, 3), *([(1, n - 1, 0, 3)] if n > 2 else []), (n - 1, n, 0, 2)]


def convolve_dense(
    workers: Workers,
    x: Array,
    taps: Array,
    stride: int,
    start: tuple[int, int],
    size: tuple[int, int],
    store: Callable[[int, int, int, Array], None],
) -> None:
    """store(b, y, y', o) on bands of rows of o = Σ x[stride·y+dy+start, stride·x+dx+start']·taps[dy,dx], x being 0 outside of itself.

    taps are (kh, kw, Cin, Cout); `size` is the output's, a `start` is 0 or below. A band's columns are gathered and multiplied by one
    thread, and stay in its cache in between.
    """
    (kh, kw, cin, cout), (height, width) = taps.shape, size
    step = min(height, max(1, sizes.COLUMNS // (width * kh * kw * cin)))
    matrix, across = taps.reshape(-1, cout), stride * (width - 1) + kw

    def band(b: int, y0: int, y1: int) -> None:
        rows = y1 - y0
        patch = workers.lend("patch", stride * (rows - 1) + kh, across, cin)
        copy_window(patch, x[b], stride * y0 + start[0], start[1])
        columns, s = workers.lend("columns", rows, width, kh, kw * cin), patch.strides
        columns[...] = as_strided(patch, columns.shape, (stride * s[0], stride * s[1], s[0], s[2]), writeable=False)
        o = workers.lend("sums", rows * width, cout)
        np.matmul(columns.reshape(rows * width, -1), matrix, out=o)
        store(b, y0, y1, o.reshape(rows, width, cout))
        for name, buffer in (("patch", patch), ("columns", columns), ("sums", o)):
            workers.back(name, buffer)

    workers.spread(band, [(b, y, min(y + step, height)) for b in range(x.shape[0]) for y in range(0, height, step)])


def copy_window(into: Array, x: Array, y0: int, x0: int) -> None:
    """into ← the window of x, (H, W, C), whose first element is (y0, x0), zeros where it reaches outside of x."""
    (rows, columns), (height, width) = into.shape[:2], x.shape[:2]
    top, left = min(max(-y0, 0), rows), min(max(-x0, 0), columns)
    bottom, right = max(top, min(rows, height - y0)), max(left, min(columns, width - x0))
    into[top:bottom, left:right] = x[y0 + top : y0 + bottom, x0 + left : x0 + right]
    into[:top] = into[bottom:] = into[top:bottom, :left] = into[top:bottom, right:] = 0


def phase_taps(weight: Array, dtype: np.dtype) -> Array:
    """(Cout, Cin, 3, 3) → (2, 2, 2, 2, Cin, Cout): [i, j] is the 2×2 filter of output pixels (2y+i, 2x+j).

    Of the three rows under an even output row the last two are one row of x, under an odd one the first two: their taps are summed.
    """
    taps = weight.transpose(2, 3, 1, 0).astype(np.float64, order="C")
    meet = ((slice(0, 1), slice(1, 3)), (slice(0, 2), slice(2, 3)))  # [phase][tap of two] → taps of three
    out = np.empty((2, 2, 2, 2, *taps.shape[2:]), dtype)
    for i, j, a, b in np.ndindex(2, 2, 2, 2):
        out[i, j, a, b] = taps[meet[i][a], meet[j][b]].sum(axis=(0, 1))
    return out
