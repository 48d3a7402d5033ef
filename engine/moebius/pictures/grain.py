"""The fine grain of the picture around a hole, laid over the fill: what neither the film nor a model brings.

Grain is what a picture differs from its mean over a few pixels by. Blocks of it from known places near by are laid over the hole, half
over each other, with weights whose squares add up to one: so it has the strength, the colours and the spectrum of what is around, and
where the surroundings are plain there is none. Of a few places drawn from the seed those are looked at whose colours are the fill's, for
grain belongs to a thing, and one with little in it is taken: an edge is no grain. What the fill has itself is taken off its strength.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from moebius.pictures.mask import dilated

BLOCK, MEAN, DRAWN, ALIKE, PICK = 16, 4, 24, 6, 1  # pixels, pixels, places, of these, the how manieth from the least
GRAIN_FADE = 4  # pixels from the rim, where the film has the picture's own grain
BEYOND = 64  # pixels around what is filled in from which grain is taken


@dataclass(frozen=True)
class Detail:
    """How much of the surroundings' grain a fill gets, and what it is drawn from."""

    part: float = 0.0  # from 0 to 1
    seed: int = 0


def grain(filled: np.ndarray, own: np.ndarray, hole: np.ndarray, seed: int) -> np.ndarray:
    """(h, w, 3) float64, to be added where the picture `filled` (h, w, 3) is filled in, `own`. Nothing is known in `hole`, a part of which
    that is."""
    fine = residual(filled, ~hole)
    sources, energy, colours = _sources(fine, filled, hole)
    if not len(sources):
        return np.zeros(filled.shape)
    # A cell is half a block's side. Block (row, column) has the cells from there to one below and right of it.
    half = BLOCK // 2
    tall, wide = (-(-n // half) for n in hole.shape)
    cells = partial(_cells, tall=tall, wide=wide)
    count = cells(own.astype(np.int64))
    has = cells(_energy(residual(filled, own)) * own)  # what the fill has itself
    colour = np.stack([cells(np.where(own, filled[..., c], 0)) for c in range(3)], axis=2)
    chosen, strength = np.full(count.shape, -1, np.int64), np.zeros(count.shape)
    for row in np.flatnonzero(count.any(axis=1)).tolist():
        columns = np.flatnonzero(count[row])
        n = count[row, columns]
        best = _drawn(row, columns, seed, colour[row, columns] * BLOCK**2 // n[:, None], energy, colours)
        there, wants = has[row, columns] / n, energy[best] / BLOCK**2
        more = wants > there
        chosen[row, columns] = best
        strength[row, columns[more]] = np.sqrt(1 - there[more] / wants[more])
    laid_over = _laid(fine, hole.shape, chosen, strength, sources)
    laid_over *= inward(hole)[..., None]
    laid_over[~own] = 0
    return laid_over


def _laid(fine: np.ndarray, shape: tuple[int, ...], chosen: np.ndarray, strength: np.ndarray, sources: np.ndarray) -> np.ndarray:
    """(h, w, 3): the chosen blocks of `fine` over each other, so strongly, their weights' squares adding up to one."""
    half = BLOCK // 2
    tall, wide = (n - 1 for n in chosen.shape)
    ramp = np.minimum(np.arange(1, BLOCK + 1), np.arange(BLOCK, 0, -1))
    weight = (ramp[:, None] * ramp).astype(np.float64)
    quarters = np.lib.stride_tricks.sliding_window_view(fine, (half, half), axis=(0, 1))  # (y, x, 3, half, half)
    out = np.empty((tall * half, wide * half, 3))
    for row in range(tall):
        total, squares = np.zeros((wide, 3, half, half)), np.zeros((wide, 1, half, half))
        for down, right in itertools.product((0, 1), repeat=2):  # the four blocks of a cell, in the order they were drawn
            block, part = chosen[row + down, right : right + wide], strength[row + down, right : right + wide]
            y, x = half * (1 - down), half * (1 - right)  # in the block
            w, laid, shown = weight[y : y + half, x : x + half], block >= 0, np.flatnonzero(part)
            squares[laid] += w * w
            if shown.size:
                here = slice(shown[0], shown[-1] + 1) if shown[-1] - shown[0] + 1 == shown.size else shown
                at = sources[block[here]]
                total[here] += w * part[here][:, None, None, None] * quarters[at[:, 0] + y, at[:, 1] + x]
        total /= np.sqrt(np.maximum(squares, 1))
        out[row * half : (row + 1) * half] = total.transpose(2, 0, 3, 1).reshape(half, wide * half, 3)
    return out[: shape[0], : shape[1]]


def _cells(values: np.ndarray, tall: int, wide: int) -> np.ndarray:
    """(h, w) → (tall + 1, wide + 1): the sums over blocks, of which the first begin a cell before the array."""
    half = BLOCK // 2
    padded = np.zeros((tall * half, wide * half), np.int64)
    padded[: values.shape[0], : values.shape[1]] = values
    sums = np.pad(padded.reshape(tall, half, wide, half).sum(axis=(1, 3)), 1)
    blocks: np.ndarray = sums[1:, 1:] + sums[:-1, 1:] + sums[1:, :-1] + sums[:-1, :-1]
    return blocks


def _drawn(row: int, columns: np.ndarray, seed: int, wanted: np.ndarray, energy: np.ndarray, colours: np.ndarray) -> np.ndarray:
    """A source for each of these blocks of a row, whose colours are to be `wanted` (n, 3)."""
    drawn = mixed(seed, row + 1, (columns + 1)[:, None], np.arange(DRAWN)) % len(energy)
    unlike = ((colours[drawn] - wanted[:, None]) ** 2).sum(axis=2)
    alike = np.sort(np.argsort(unlike, axis=1, kind="stable")[:, :ALIKE], axis=1)
    drawn = np.take_along_axis(drawn, alike, axis=1)
    best = np.argsort(energy[drawn], axis=1, kind="stable")[:, PICK]
    found: np.ndarray = drawn[np.arange(len(drawn)), best]
    return found


def inward(hole: np.ndarray) -> np.ndarray:
    """(h, w), rising from 0 outside of a hole to 1 at GRAIN_FADE pixels from its rim."""
    depth = sum(((~dilated(~hole, k)).astype(np.float64) for k in range(1, GRAIN_FADE + 1)), np.zeros(hole.shape))
    return np.asarray(depth / GRAIN_FADE)


def residual(picture: np.ndarray, known: np.ndarray, reach: int = MEAN) -> np.ndarray:
    """The picture (h, w, 3) less its mean over the known pixels within `reach` pixels, rounded down; zero where nothing is known."""
    white = 2**16
    kind = np.int32 if white * (2 * reach + 1) ** 2 < 2**31 else np.int64  # what holds a sum over a square of them
    count = np.maximum(_boxes(known.astype(kind), reach), 1)
    fine = np.empty(picture.shape, np.int32)
    for c in range(picture.shape[2]):  # one after the other: the numbers of a whole photo take gigabytes
        colour = np.where(known, picture[..., c], 0).astype(kind)
        fine[..., c] = np.where(known, colour - _boxes(colour, reach) // count, 0)
    return fine


def _energy(fine: np.ndarray) -> np.ndarray:
    """(h, w) int64: the sum of its squares."""
    total = np.zeros(fine.shape[:2], np.int64)
    for c in range(fine.shape[2]):
        total += np.multiply(fine[..., c], fine[..., c], dtype=np.int64)
    return total


def _boxes(values: np.ndarray, reach: int) -> np.ndarray:
    """Sums over the squares of 2·reach+1 pixels around each: of one, two, four … pixels, of which a square's side is made."""
    for axis in (0, 1):
        sums = np.pad(values, [(reach, reach) if a == axis else (0, 0) for a in (0, 1)])
        values, n, first, total = sums, values.shape[axis], 0, np.zeros_like(values)
        for bit in range((2 * reach + 1).bit_length()):
            length = 2**bit
            if bit:
                sums = _part(sums, 0, -(length // 2), axis) + _part(sums, length // 2, None, axis)
            if (2 * reach + 1) & length:
                total += _part(sums, first, first + n, axis)
                first += length
        values = total
    return values


def _part(values: np.ndarray, first: int, last: int | None, axis: int) -> np.ndarray:
    return values[first:last] if axis == 0 else values[:, first:last]


def _sources(fine: np.ndarray, whole: np.ndarray, unknown: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The corners (n, 2) of blocks that are all known, every quarter block; in each the sum of the squares, and of the colours (n, 3)."""
    step = BLOCK // 4

    def blocks(values: np.ndarray) -> np.ndarray:
        for axis in (0, 1):
            n = values.shape[axis] // step * step
            every = np.s_[::step] if axis == 0 else np.s_[:, ::step]
            sums = np.add.reduce([_part(values, i, n, axis)[every].astype(np.int64) for i in range(step)])
            pairs = _part(sums, 0, -1, axis) + _part(sums, 1, None, axis)
            values = _part(pairs, 0, -2, axis) + _part(pairs, 2, None, axis)
        return values

    if min(unknown.shape) < BLOCK:
        return np.empty((0, 2), np.int64), np.empty(0, np.int64), np.empty((0, 3), np.int64)
    y, x = np.nonzero(blocks(unknown) == 0)
    colours = np.stack([blocks(whole[..., c])[y, x] for c in range(3)], axis=1)
    return np.stack([y, x], axis=1) * step, blocks(_energy(fine))[y, x], colours


def mixed(*numbers: Any) -> Any:
    """A number from 0 to 2³²-1 that these decide, in no way that shows; of arrays of numbers an array of int64."""
    state: Any = 0x9E3779B9
    for number in numbers:
        state = _product((state ^ number) & 0xFFFFFFFF, 0x85EBCA6B)
        state = _product(state ^ (state >> 13), 0xC2B2AE35)
        state = state ^ (state >> 16)
    return state


def _product(a: Any, b: int) -> Any:
    """The lowest 32 bits, in halves: int64 does not hold the product."""
    return ((a & 0xFFFF) * b + (((a >> 16) * b & 0xFFFF) << 16)) & 0xFFFFFFFF
