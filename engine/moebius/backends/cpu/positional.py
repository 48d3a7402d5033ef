"""The self lambda applied: its content, and its positional part through its logits."""

from __future__ import annotations

from collections import deque

import numpy as np
from numpy.lib.stride_tricks import as_strided

from moebius.backends.cpu import sizes
from moebius.backends.cpu.workers import Workers
from moebius.backends.reference import Array
from moebius.model.contract import POSITION_WINDOW

TILE = 4  # columns of the image that share one window in the positional lambda


def apply_lambda(workers: Workers, q: Array, content: Array, val: Array, filters: Array, residual: Array) -> Array:
    """y[n,h,v] = Σ_k Q[n,h,k]·content[k,v] + Σ_d (Q·filters)[n,h,d]·V[n+d,v] + residual.

    q is (B, H, W, heads·k), content (B, k, v), val (B, H, W, v), filters (k, 225). TILE neighbours in a row look at the same
    15 × (TILE+14) patch of V, each through its own 15 × 15 of it. So their logits are laid out on the patch, zero outside their window,
    and the sum is one product (TILE·heads, patch)·(patch, v). A layer of (2, 64, 64, 320) takes 23, 19 and 24 ms on two cores with tiles
    of 2, 4 and 8.
    """
    r, (batch, height, width, c) = POSITION_WINDOW, q.shape
    (k, v), half = content.shape[1:], r // 2
    heads = c // k
    if k * v * (height + 2 * half) < heads * (k + v) * height:
        return through_lambda(workers, q, content, val, filters, residual)
    tiles, patch = -(-width // TILE), TILE + r - 1
    wide = tiles * TILE
    y, vp = np.empty((batch, height, width, heads * v), q.dtype), np.zeros((batch, height + 2 * half, wide + 2 * half, v), q.dtype)
    vp[:, half : half + height, half : half + width] = val
    s = vp.strides
    seen = np.ndarray((batch, height, tiles, r, patch, v), q.dtype, vp, 0, (s[0], s[1], TILE * s[2], *s[1:]))  # by a row's tiles
    some = max(1, sizes.LAID // (tiles * TILE * heads * r * patch))  # rows whose logits are laid out together, of small images too
    group, step = min(height, some), max(1, sizes.PRODUCT // (width * heads))
    images = max(1, min(batch, some // height, step // height))
    spare: deque[tuple[Array, Array, Array, Array]] = deque()  # of a group; the zeros of `laid` outside its windows stay zero

    def group_scratch() -> tuple[Array, Array, Array, Array]:
        """Logits laid out on the patches, their windows (a tile's x-th starts at x), the patches, the sums."""
        lines = images * group
        laid = np.zeros((lines, tiles, TILE, heads, r, patch), y.dtype)
        s = laid.strides
        windows = np.ndarray((lines, tiles, TILE, heads, r, r), y.dtype, laid, 0, (s[0], s[1], s[2] + s[5], *s[3:]))
        return laid, windows, np.empty((lines, tiles, r, patch, v), y.dtype), np.empty((lines, tiles, TILE * heads, v), y.dtype)

    def positional(which: slice, i: int, j: int, logits: Array) -> None:
        try:
            scratch = spare.pop()
        except IndexError:
            scratch = group_scratch()
        into, patched = y[which, i:j], seen[which, i:j]
        lines = len(into) * (j - i)
        laid, windows, patches, sums = (array[:lines] for array in scratch)
        windows[...] = logits.reshape(windows.shape)
        patches.reshape(patched.shape)[...] = patched
        np.matmul(laid.reshape(lines, tiles, TILE * heads, -1), patches.reshape(lines, tiles, -1, v), out=sums)
        into += sums.reshape(-1, j - i, wide, heads * v)[:, :, :width]
        into += residual[which, i:j]
        spare.append(scratch)

    def rows(which: slice, y0: int, y1: int) -> None:
        some = q[which, y0:y1]
        some = some.reshape(len(some), -1, k)
        np.matmul(some, content[which], out=y[which, y0:y1].reshape(len(some), -1, v))
        logits = np.matmul(some, filters).reshape(len(some), y1 - y0, width, -1)
        if wide > width:
            logits = np.pad(logits, ((0, 0), (0, 0), (0, wide - width), (0, 0)))
        for i in range(y0, y1, group):
            positional(which, i, min(i + group, y1), logits[:, i - y0 : i - y0 + group])

    places = [(slice(b, b + images), i, min(i + step, height)) for b in range(0, batch, images) for i in range(0, height, step)]
    workers.spread(rows, places)
    return y


def through_lambda(workers: Workers, q: Array, content: Array, val: Array, filters: Array, residual: Array) -> Array:
    """The same where keys and values are so few that λ, with the rows above and below the image, takes fewer products than the logits.

    λ[n,k,v] = content[k,v] + Σ_dy Z[dy,k,v,n+dy] with Z[dy,k,v,n] = Σ_dx W[k,dy,dx]·V[n+dx,v], and all of it with the positions last.
    """
    r, (batch, height, width, c) = POSITION_WINDOW, q.shape
    (k, v), n, half = content.shape[1:], height * width, r // 2
    heads, tall = c // k, height + 2 * half
    rows = filters.reshape(k, r, r).transpose(1, 0, 2).reshape(r * k, r)
    padded = np.zeros((batch, v, tall, width + 2 * half), q.dtype)
    padded[:, :, half : half + height, half : half + width] = val.transpose(0, 3, 1, 2)
    queries = np.ascontiguousarray(q.reshape(batch, n, c).transpose(0, 2, 1)).reshape(batch, heads, k, n)
    y, s = np.empty((batch, heads, v, n), q.dtype), padded.strides

    def job(b: int, first: int, last: int) -> None:
        shape = r, last - first, tall, width
        columns = np.ascontiguousarray(as_strided(padded[b, first:last], shape, (s[3], *s[1:]), writeable=False))
        z = np.matmul(rows, columns.reshape(r, -1)).reshape(r, k, last - first, tall * width)
        terms = content[b, :, first:last, None] + z[0, :, :, :n]  # λ (k, v, n)
        for dy in range(1, r):
            terms += z[dy, :, :, dy * width : dy * width + n]
        np.einsum("hkn,kvn->hvn", queries[b], terms, out=y[b, :, first:last])

    some = max(1, sizes.COLUMNS // (r * k * tall * width))
    workers.spread(job, [(b, i, min(i + some, v)) for b in range(batch) for i in range(0, v, some)])
    return y.reshape(batch, c, n).transpose(0, 2, 1).reshape(q.shape) + residual
