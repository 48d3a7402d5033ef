"""The fine grain of the picture around a hole, laid over the fill: what neither the film nor a model brings.

Grain is what a picture differs from its mean over a few pixels by. Blocks of it from known places near by are laid over the hole, half
over each other, with weights whose squares add up to one: so it has the strength, the colours and the spectrum of what is around, and
where the surroundings are plain there is none. Of a few places drawn from the seed those are looked at whose colours are the fill's, for
grain belongs to a thing, and one with little in it is taken: an edge is no grain. What the fill has itself is taken off its strength.
"""

from __future__ import annotations

from dataclasses import dataclass

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
    whole = filled.astype(np.int64)
    fine = residual(whole, ~hole)
    sources, energy, colours = _sources(fine, whole, hole)
    out = np.zeros((filled.shape[0] + 2 * BLOCK, filled.shape[1] + 2 * BLOCK, 3))
    if not len(sources):
        return out[BLOCK:-BLOCK, BLOCK:-BLOCK]
    there = np.pad((residual(whole, own) ** 2).sum(axis=2), BLOCK)  # what the fill has itself
    marked, squares = np.pad(own, BLOCK), np.zeros(out.shape[:2])
    inside = np.pad(np.where(own[..., None], whole, 0), ((BLOCK, BLOCK), (BLOCK, BLOCK), (0, 0)))
    half = BLOCK // 2
    ramp = np.minimum(np.arange(1, BLOCK + 1), np.arange(BLOCK, 0, -1))
    weight = (ramp[:, None] * ramp).astype(np.float64)
    for row in range(1, filled.shape[0] // half + 3):
        for column in range(1, filled.shape[1] // half + 3):
            at = np.s_[row * half : row * half + BLOCK, column * half : column * half + BLOCK]
            count = int(np.count_nonzero(marked[at]))
            if not count:
                continue
            drawn = [mixed(seed, row, column, k) % len(sources) for k in range(DRAWN)]
            unlike = ((colours[drawn] - inside[at].sum(axis=(0, 1)) * BLOCK**2 // count) ** 2).sum(axis=1)
            alike = sorted(range(DRAWN), key=lambda k: (int(unlike[k]), k))[:ALIKE]
            chosen = drawn[sorted(alike, key=lambda k: (int(energy[drawn[k]]), k))[PICK]]
            has, wants = int(there[at][marked[at]].sum()) / count, int(energy[chosen]) / BLOCK**2
            if wants > has:
                y, x = sources[chosen]
                out[at] += (weight * np.sqrt(1 - has / wants))[..., None] * fine[y : y + BLOCK, x : x + BLOCK]
            squares[at] += weight * weight
    out = (out / np.sqrt(np.maximum(squares, 1))[..., None])[BLOCK:-BLOCK, BLOCK:-BLOCK]
    return np.where(own[..., None], out * inward(hole)[..., None], 0.0)


def inward(hole: np.ndarray) -> np.ndarray:
    """(h, w), rising from 0 outside of a hole to 1 at GRAIN_FADE pixels from its rim."""
    depth = sum(((~dilated(~hole, k)).astype(np.float64) for k in range(1, GRAIN_FADE + 1)), np.zeros(hole.shape))
    return np.asarray(depth / GRAIN_FADE)


def residual(picture: np.ndarray, known: np.ndarray, reach: int = MEAN) -> np.ndarray:
    """The picture (h, w, 3) less its mean over the known pixels within `reach` pixels, rounded down; zero where nothing is known."""
    count = _boxes(known.astype(np.int64)[..., None], reach)
    total = _boxes(np.where(known[..., None], picture, 0), reach)
    fine: np.ndarray = np.where(known[..., None], picture - total // np.maximum(count, 1), 0)
    return fine


def _boxes(values: np.ndarray, reach: int) -> np.ndarray:
    """Sums over the squares of 2·reach+1 pixels around each."""
    for axis in (0, 1):
        pad = [(reach + 1, reach) if a == axis else (0, 0) for a in range(3)]
        sums = np.cumsum(np.pad(values, pad), axis=axis)
        n = values.shape[axis]
        values = np.take(sums, np.arange(2 * reach + 1, 2 * reach + 1 + n), axis=axis) - np.take(sums, np.arange(n), axis=axis)
    return values


def _sources(fine: np.ndarray, whole: np.ndarray, unknown: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The corners (n, 2) of blocks that are all known, every quarter block; in each the sum of the squares, and of the colours (n, 3)."""
    step = BLOCK // 4

    def blocks(values: np.ndarray) -> np.ndarray:
        sums = np.pad(values.astype(np.int64), ((1, 0), (1, 0))).cumsum(axis=0).cumsum(axis=1)
        parts: np.ndarray = sums[BLOCK:, BLOCK:] - sums[:-BLOCK, BLOCK:] - sums[BLOCK:, :-BLOCK] + sums[:-BLOCK, :-BLOCK]
        return parts[::step, ::step]

    if min(unknown.shape) < BLOCK:
        return np.empty((0, 2), np.int64), np.empty(0, np.int64), np.empty((0, 3), np.int64)
    y, x = np.nonzero(blocks(unknown) == 0)
    colours = np.stack([blocks(whole[..., c])[y, x] for c in range(3)], axis=1)
    return np.stack([y, x], axis=1) * step, blocks((fine * fine).sum(axis=2))[y, x], colours


def mixed(*numbers: int) -> int:
    """A number from 0 to 2³²-1 that these decide, in no way that shows."""
    state = 0x9E3779B9
    for number in numbers:
        state = ((state ^ (number & 0xFFFFFFFF)) * 0x85EBCA6B) & 0xFFFFFFFF
        state = ((state ^ (state >> 13)) * 0xC2B2AE35) & 0xFFFFFFFF
        state ^= state >> 16
    return state
