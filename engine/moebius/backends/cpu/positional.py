"""The positional part of the self lambda, through its logits."""

from __future__ import annotations

from collections import deque

import numpy as np
from numpy.lib.stride_tricks import as_strided

from moebius.backends.cpu import sizes
from moebius.backends.cpu.workers import Workers
from moebius.backends.reference import Array
from moebius.model.contract import POSITION_WINDOW

TILE = 4  # columns of the image that share one window in the positional lambda


def add_positional(workers: Workers, y: Array, q: Array, val: Array, filters: Array, heads: int, residual: Array) -> None:
    """y[n,h,v] += Σ_d (Q·w)[n,h,d]·V[n+d,v] + residual.

    TILE neighbours in a row look at the same 15 × (TILE+14) patch of V, each through its own 15 × 15 of it. So their logits are
    laid out on the patch, zero outside their window, and the sum is one product (TILE·heads, patch)·(patch, v). A layer of
    (2, 64, 64, 320) takes 23, 19 and 24 ms on two cores with tiles of 2, 4 and 8. Products that OpenBLAS threads itself, inside
    our threads, took up to 7 s for the same layer on cores that were not free: hence the blocks of v below ALONE.
    """
    r, (batch, height, width, _) = POSITION_WINDOW, q.shape
    k, half = filters.shape[0], r // 2
    tiles, patch = -(-width // TILE), TILE + r - 1
    wide = tiles * TILE
    vp = np.zeros((batch, height + 2 * half, wide + 2 * half, k), y.dtype)
    vp[:, half : half + height, half : half + width] = val
    columns = max(1, sizes.ALONE // (TILE * heads * r * patch))
    spare: deque[tuple[Array, Array, Array]] = deque()  # (laid-out logits, patches, sums) of a row; the zeros outside stay zero

    def row(b: int, y0: int, i: int, logits: Array) -> None:
        try:
            laid, patches, sums = spare.pop()
        except IndexError:
            laid = np.zeros((tiles, TILE, heads, r, patch), y.dtype)
            patches, sums = np.empty((tiles, r, patch, k), y.dtype), np.empty((tiles, TILE * heads, k), y.dtype)
        s = laid.strides
        windows = as_strided(laid, (tiles, TILE, heads, r, r), (s[0], s[1] + s[4], *s[2:]))  # tile's x-th window starts at x
        for j in range(tiles):
            part = logits[i, j * TILE : (j + 1) * TILE]
            windows[j, : len(part)] = part
            patches[j] = vp[b, y0 + i : y0 + i + r, j * TILE : j * TILE + patch]
        for v in range(0, k, columns):
            np.matmul(
                laid.reshape(tiles, TILE * heads, -1),
                patches.reshape(tiles, -1, k)[..., v : v + columns],
                out=sums[..., v : v + columns],
            )
        y[b, y0 + i] += sums.reshape(wide, heads * k)[:width]
        y[b, y0 + i] += residual[b, y0 + i]
        spare.append((laid, patches, sums))

    step = max(1, sizes.COLUMNS // (width * heads * r * r))
    for b in range(batch):
        for y0 in range(0, height, step):
            logits = (q[b, y0 : y0 + step].reshape(-1, k) @ filters).reshape(-1, width, heads, r, r)
            workers.spread(row, [(b, y0, i, logits) for i in range(len(logits))])
