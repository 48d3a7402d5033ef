"""A dense 3×3 convolution as products of transformed tiles (Winograd): 4 × 4 outputs from 36 products instead of 144.

A tile d of 6 × 6 inputs gives Aᵀ·[(G·g·Gᵀ) ⊙ (Bᵀ·d·B)]·A. Over channels, ⊙ is a product of matrices for every one of the 36 places of a
tile; the transforms are products as well, with the Kronecker squares of Bᵀ and Aᵀ.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.lib.stride_tricks import as_strided

from moebius.backends.cpu import sizes
from moebius.backends.cpu.convolutions import copy_window
from moebius.backends.cpu.workers import Workers
from moebius.backends.reference import Array

M, N = 4, 6  # a tile's outputs and inputs on a side
# Where the polynomials behind the transforms are compared, besides ∞. The usual 0, ±1, ±2 lose 2.3e-6 (relative L2, 128 channels), these
# lose 1.0e-6, and their matrices, too, are exact in float32. Tiles of 2 × 2 outputs lose 3.4e-7, nine products 2.1e-7.
POINTS = (0.0, 0.625, -0.625, 1.5, -1.5)


class Transform(NamedTuple):
    """The Kronecker squares of Aᵀ (M, N), G (N, 3) and Bᵀ (N, N), in float64."""

    output: Array
    weights: Array
    input: Array


@cache
def transform() -> Transform:
    """Toom's and Cook's: the product of two polynomials, M and 3 long, from its values at the points and its leading coefficient."""
    out, weights, into = np.zeros((M, N)), np.zeros((N, 3)), np.zeros((N, N))
    for i, p in enumerate(POINTS):
        others = [q for q in POINTS if q != p]
        out[:, i] = p ** np.arange(M)
        weights[i] = p ** np.arange(3) / np.prod([p - q for q in others])
        into[i, : N - 1] = np.poly(others)[::-1]
    out[M - 1, N - 1] = weights[N - 1, 2] = 1
    into[N - 1] = np.poly(POINTS)[::-1]
    return Transform(*(np.kron(matrix, matrix) for matrix in (out, weights, into)))


def transformed(workers: Workers, weight: Array) -> Array:
    """(Cout, Cin, 3, 3) → (36, Cout, Cin), computed in float64; until the next call.

    They are four times the weights: kept for all layers of the VAE they would be its largest part, and making them is an eighth of a
    layer's time at 64², a thirty-second at 128².
    """
    cout, cin, square = *weight.shape[:2], transform().weights
    out = workers.scratch("filters", N * N, cout, cin)

    def some(i: int, j: int) -> None:
        out[:, i:j] = (square @ weight[i:j].reshape(-1, 9).T.astype(np.float64)).reshape(N * N, -1, cin)

    workers.rows(some, cout, 9 * cin)
    return out


def convolve(workers: Workers, x: Array, weight: Array, bias: Array, residual: Array | None) -> Array:
    """x (B, H, W, Cin) with zeros around it, weight (Cout, Cin, 3, 3) → (B, H, W, Cout), + bias + residual.

    A job is some rows of tiles. Their transforms and products lie in the third-level cache; they are made and used piece by piece in the
    second.
    """
    (batch, height, width, cin), cout = x.shape, len(weight)
    u = transformed(workers, weight)
    into, back = transform().input.astype(x.dtype), transform().output.astype(x.dtype)
    down, across = -(-height // M), -(-width // M)
    out = workers.new(batch, height, width, cout)
    piece = max(1, min(across, sizes.TILES // (N * N * max(cin, cout))))
    band = max(1, min(sizes.PLACES, max(sizes.PLACES // 4, batch * down * across // sizes.BLOCKS)) // across)

    def job(b: int, first: int, last: int) -> None:
        tiles = (last - first) * across
        pieces = [(row, c, min(c + piece, across)) for row in range(first, last) for c in range(0, across, piece)]
        v, p = workers.lend("tiles", N * N, tiles, cin), workers.lend("products", N * N, tiles, cout)
        d, o = workers.lend("windows", N * N * piece * cin), workers.lend("outputs", M * M * piece * cout)
        for row, c0, c1 in pieces:
            at = (row - first) * across
            window = d[: N * N * (c1 - c0) * cin].reshape(N, N, c1 - c0, cin)
            _gather(workers, window, x[b], M * row - 1, M * c0 - 1)
            np.matmul(into, window.reshape(N * N, -1), out=v.reshape(N * N, -1)[:, (at + c0) * cin : (at + c1) * cin])
        np.matmul(v, u.transpose(0, 2, 1), out=p)
        for row, c0, c1 in pieces:
            at, place = (row - first) * across, (b, slice(M * row, M * row + M), slice(M * c0, M * c1))
            part = o[: M * M * (c1 - c0) * cout].reshape(M * M, -1)
            np.matmul(back, p.reshape(N * N, -1)[:, (at + c0) * cout : (at + c1) * cout], out=part)
            _store(out[place], part.reshape(M, M, c1 - c0, cout), bias, None if residual is None else residual[place])
        for name, buffer in (("tiles", v), ("products", p), ("windows", d), ("outputs", o)):
            workers.back(name, buffer)

    workers.spread(job, [(b, i, min(i + band, down)) for b in range(batch) for i in range(0, down, band)])
    return out


def _gather(workers: Workers, window: Array, x: Array, y0: int, x0: int) -> None:
    """window (N, N, tiles, C) ← the tiles of x, (H, W, C), in a row from (y0, x0) on; zeros outside of x."""
    columns = M * window.shape[2] + N - M
    if inside := y0 >= 0 and x0 >= 0 and y0 + N <= x.shape[0] and x0 + columns <= x.shape[1]:
        patch = x[y0:, x0:]
    else:
        patch = workers.lend("patch", N, columns, x.shape[2])
        copy_window(patch, x, y0, x0)
    s = patch.strides
    window[...] = as_strided(patch, window.shape, (s[0], s[1], M * s[1], s[2]), writeable=False)
    if not inside:
        workers.back("patch", patch)


def _store(out: Array, o: Array, bias: Array, residual: Array | None) -> None:
    """out (rows, columns, C) ← o (M, M, tiles, C) + bias + residual; what of the last tiles lies outside is left out."""
    for i, j in np.ndindex(out.shape[0], min(M, out.shape[1])):
        part = out[i, j::M]
        np.add(o[i, j, : len(part)], bias, out=part)
    if residual is not None:
        out += residual
