"""Dense convolutions in NumPy, by bands of rows: as products of columns, planes, differences."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from moebius.backends.cpu import sizes
from moebius.backends.cpu.workers import Workers
from moebius.backends.reference import Array


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
        columns[...] = np.ndarray(columns.shape, patch.dtype, patch, 0, (stride * s[0], stride * s[1], s[0], s[2]))
        o = workers.lend("sums", rows * width, cout)
        np.matmul(columns.reshape(rows * width, -1), matrix, out=o)
        store(b, y0, y1, o.reshape(rows, width, cout))
        for name, buffer in (("patch", patch), ("columns", columns), ("sums", o)):
            workers.back(name, buffer)

    bands = [(b, y, min(y + step, height)) for b in range(x.shape[0]) for y in range(0, height, step)]
    workers.spread(band, bands, len(x) * height * width * len(matrix))


def copy_window(into: Array, x: Array, y0: int, x0: int) -> None:
    """into ← the window of x, (H, W, C), whose first element is (y0, x0), zeros where it reaches outside of x."""
    (rows, columns), (height, width) = into.shape[:2], x.shape[:2]
    top, left = min(max(-y0, 0), rows), min(max(-x0, 0), columns)
    bottom, right = max(top, min(rows, height - y0)), max(left, min(columns, width - x0))
    into[top:bottom, left:right] = x[y0 + top : y0 + bottom, x0 + left : x0 + right]
    into[:top] = into[bottom:] = into[top:bottom, :left] = into[top:bottom, right:] = 0


def convolve_narrow(workers: Workers, x: Array, taps: Array, bias: Array, residual: Array | None) -> Array:
    """Stride 1, zeros around x, taps (3, 3, Cin, Cout) with few outputs: every tap's product at every place of x, then their sums.

    From 128 to 3 channels at 512² the gathered columns would be nine times x, for a product that is three columns wide.
    """
    (batch, height, width, cin), cout = x.shape, taps.shape[-1]
    matrix = np.ascontiguousarray(taps.transpose(0, 1, 3, 2).reshape(-1, cin))
    out = np.empty((batch, height, width, cout), x.dtype)
    step = min(height, max(1, sizes.COLUMNS // (width * cin)))

    def band(b: int, y0: int, y1: int) -> None:
        top, bottom = max(y0 - 1, 0), min(y1 + 1, height)
        z = matrix @ x[b, top:bottom].reshape(-1, cin).T
        z = z.reshape(3, 3, cout, bottom - top, width)
        o = np.zeros((cout, y1 - y0, width), x.dtype)
        for dy, dx in np.ndindex(3, 3):
            first, last = max(y0 + dy - 1, 0), min(y1 + dy - 1, height)  # rows of x that this tap sees
            into = o[:, first - dy + 1 - y0 : last - dy + 1 - y0, max(1 - dx, 0) : width - max(dx - 1, 0)]
            into += z[dy, dx, :, first - top : last - top, max(dx - 1, 0) : width - max(1 - dx, 0)]
        np.add(o.transpose(1, 2, 0), bias, out=out[b, y0:y1])
        if residual is not None:
            out[b, y0:y1] += residual[b, y0:y1]

    workers.spread(band, [(b, y, min(y + step, height)) for b in range(batch) for y in range(0, height, step)])
    return out


def convolve_enlarged(workers: Workers, x: Array, taps: Array, bias: Array) -> Array:
    """3×3 over x enlarged twice by nearest neighbour, (B, H, W, Cin) → (B, 2H, 2W, Cout), from nine products at every place of x.

    On one axis, with taps a, b, c: under output 2y lie x[y-1], x[y], x[y], so it is a·(x[y-1]-x[y]) + (a+b+c)·x[y]; under 2y+1 lie x[y],
    x[y], x[y+1], so it is (a+b+c)·x[y] - c·(x[y]-x[y+1]). Four filters of 2×2 taps would be sixteen products.
    """
    (batch, height, width, cin), cout = x.shape, taps.shape[-1]
    out = workers.new(batch, height, 2, width, 2, cout)
    step = min(height, max(1, sizes.COLUMNS // (9 * width * cin)))

    def band(b: int, y0: int, y1: int) -> None:
        rows = y1 - y0
        patch, v = workers.lend("patch", rows + 2, width + 2, cin), workers.lend("columns", 9, rows, width, cin)
        p = workers.lend("sums", 9, rows * width, cout)
        copy_window(patch, x[b], y0 - 1, -1)
        down = patch[:-1] - patch[1:]  # x[y-1] - x[y], for y to y+1
        for i, line in enumerate((down[:-1], patch[1:-1], down[1:])):
            v[3 * i + 1] = line[:, 1:-1]
            np.subtract(line[:, :-2], line[:, 1:-1], out=v[3 * i])
            np.subtract(line[:, 1:-1], line[:, 2:], out=v[3 * i + 2])
        np.matmul(v.reshape(9, -1, cin), taps, out=p)
        q = p.reshape(3, 3, rows, width, cout)
        for i in range(2):
            line = q[0] + q[1] if i == 0 else q[1] - q[2]
            line[1] += bias
            np.add(line[0], line[1], out=out[b, y0:y1, i, :, 0])
            np.subtract(line[1], line[2], out=out[b, y0:y1, i, :, 1])
        for name, buffer in (("patch", patch), ("columns", v), ("sums", p)):
            workers.back(name, buffer)

    workers.spread(band, [(b, y, min(y + step, height)) for b in range(batch) for y in range(0, height, step)], 9 * x.size)
    return out.reshape(batch, 2 * height, 2 * width, cout)
