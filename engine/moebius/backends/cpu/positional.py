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
    tiles, patch = -(-width // TILE), TILE + r - 1
    wide = tiles * TILE
    y, vp = np.empty((batch, height, width, heads * v), q.dtype), np.zeros((batch, height + 2 * half, wide + 2 * half, v), q.dtype)
    vp[:, half : half + height, half : half + width] = val
    s = vp.strides
    seen = as_strided(vp, (batch, height, tiles, r, patch, v), (s[0], s[1], TILE * s[2], *s[1:]), writeable=False)  # by a row's tiles
    spare: deque[tuple[Array, Array, Array, Array]] = deque()  # of a row; the zeros of `laid` outside its windows stay zero

    def row_scratch() -> tuple[Array, Array, Array, Array]:
        """Logits laid out on the patches, their windows, the patches, the sums."""
        laid = np.zeros((tiles, TILE, heads, r, patch), y.dtype)
        s = laid.strides
        windows = as_strided(laid, (tiles, TILE, heads, r, r), (s[0], s[1] + s[4], *s[2:]))  # tile's x-th window starts at x
        return laid, windows, np.empty((tiles, r, patch, v), y.dtype), np.empty((tiles, TILE * heads, v), y.dtype)

    def row(b: int, i: int, logits: Array) -> None:
        try:
            laid, windows, patches, sums = spare.pop()
        except IndexError:
            laid, windows, patches, sums = row_scratch()
        windows[...] = logits.reshape(windows.shape)
        patches[...] = seen[b, i]
        np.matmul(laid.reshape(tiles, TILE * heads, -1), patches.reshape(tiles, -1, v), out=sums)
        y[b, i] += sums.reshape(wide, heads * v)[:width]
        y[b, i] += residual[b, i]
        spare.append((laid, windows, patches, sums))

    def rows(b: int, y0: int, y1: int) -> None:
        some = q[b, y0:y1].reshape(-1, k)
        np.matmul(some, content[b], out=y[b, y0:y1].reshape(-1, v))
        logits = (some @ filters).reshape(y1 - y0, width, -1)
        if wide > width:
            logits = np.pad(logits, ((0, 0), (0, wide - width), (0, 0)))
        for i in range(y0, y1):
            row(b, i, logits[i - y0])

    step = max(1, sizes.PRODUCT // (width * heads))
    workers.spread(rows, [(b, i, min(i + step, height)) for b in range(batch) for i in range(0, height, step)])
    return y
