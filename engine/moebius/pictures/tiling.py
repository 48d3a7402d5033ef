"""Covers a hole with several windows that overlap, and says how much of each shows where.

A long thin hole gets small ones, each with enough around it; where it has thick parts as well, each of these has one of its own."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from moebius.pictures.islands import CELL, boxed, islands, whole_cells
from moebius.pictures.mask import SLACK, dilated
from moebius.pictures.patience import still_wanted

Square = tuple[int, int, int]  # x, y, side

SCALES = (1, 1.5, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)
REACHED = 10  # a tenth of a window's side: what lies within that of known pixels is thin
ROUNDED = 2  # times as far from what lies deeper is thick: all of a box that has such a place, corners and all
STEP = 5, 8  # from one window to the next, of their side
EDGE = 16  # what part of its side, at a window's border, shows nowhere
RAMP = 8  # what part of it fades in after that
WORTH = 2, 3  # of the one window's side: larger windows than this are not worth having several


def tiled(own: np.ndarray, corner: tuple[int, int], shape: tuple[int, int], size: int, one: int, reach: int, most: int) -> list[Square]:
    """The squares that cover `own` (h, w), which lies at `corner` (x, y) of a picture of this `shape`; none where one window is better.

    At the picture's own resolution, or the smallest scale at which the hole is thin but for parts that a smaller window each can hold, its
    blur of `reach` pixels fits, and `most` squares are enough. `one` is the side of the single window.
    """
    known = np.pad(~whole_cells(own), 1, constant_values=True)

    def around(boxes: list[list[int]]) -> list[Square] | None:
        """A square each; None where one is not worth having."""
        found = [_around(box, corner, shape, size, reach) for box in boxes]
        return found if all(_worth(square[2], one) for square in found) else None

    for scale in SCALES:
        side = int(size * scale)
        if not _worth(side, one):
            break
        still_wanted()
        radius = side / REACHED
        if reach > side // RAMP or around(_surely_core(known, radius)) is None:
            continue
        core, rest, squares = _core(own, radius), own, around([])
        if core.any():
            if around(islands(core, 0)[1].tolist()) is None:  # before what lies near it is looked for, which takes longer
                continue
            thick = own & dilated(core, ROUNDED * radius)
            rest, squares = own & ~thick, around(islands(thick, 0)[1].tolist())
        if squares is not None and len(squares) <= most:
            step = int(size * STEP[0] // STEP[1] // 8 * 8 * scale)
            cover = _cover(rest, corner, shape, side, step, reach, most - len(squares), squares)
            if cover is not None:
                return squares + cover
    return []


def covered(own: np.ndarray, corner: tuple[int, int], shape: tuple[int, int], size: int, one: int, most: int) -> list[Square]:
    """The same for a hole of any thickness, to draw over what the single window made of it; they lie fixed in the picture, so that from
    one frame of a film to the next a hole that moves has the same ones."""
    for scale in SCALES:
        side = int(size * scale)
        if not _worth(side, one):
            break
        still_wanted()
        squares = _cover(own, corner, shape, side, int(size * STEP[0] // STEP[1] // 8 * 8 * scale), 0, most, fixed=True)
        if squares is not None:
            return squares
    return []


def _worth(side: int, one: int) -> bool:
    return side * WORTH[1] < one * WORTH[0]


def _core(own: np.ndarray, radius: float) -> np.ndarray:
    """What of a hole is farther than `radius` from all that is known."""
    core: np.ndarray = own & ~dilated(~np.pad(own, 1), radius)[1:-1, 1:-1]
    return core


def _surely_core(known: np.ndarray, radius: float) -> list[list[int]]:
    """Boxes in the core, each of which lies in one island of it; `known` are the hole's cells in which something is, and a ring of them."""
    far = ~dilated(known, (radius + SLACK) / CELL)[1:-1, 1:-1]
    return [[CELL * side for side in box] for box in boxed(far)]


def _around(box: Sequence[int], corner: tuple[int, int], shape: tuple[int, int], size: int, reach: int) -> Square:
    """The square around a box (x0, y0, x1, y1) of the hole, all of which it holds."""
    longest, side = max(box[2] - box[0], box[3] - box[1]), size
    while side - 2 * _rim(side, reach) < longest:
        side += 1
    x, y = (_inside(at + (low + high - side) // 2, side, n) for at, low, high, n in zip(corner, box[:2], box[2:], shape[::-1], strict=True))
    return x, y, side


def _rim(side: int, reach: int) -> int:
    """So far inside a square what it makes shows, whole."""
    return max(side // RAMP, side // EDGE + reach + 1)


def _cover(
    own: np.ndarray,
    corner: tuple[int, int],
    shape: tuple[int, int],
    side: int,
    step: int,
    reach: int,
    most: int,
    there: Sequence[Square] = (),
    fixed: bool = False,
) -> list[Square] | None:
    """A window around every marked cell of a lattice, which is centred on the hole or `fixed` in the picture, but for those whose pixels
    others hold as well, or one as sharp that is `there` already; from top to bottom. None where these are more than `most`."""
    tall, wide = own.shape
    before_x, before_y = (corner[0] % step, corner[1] % step) if fixed else (-wide % step // 2, -tall % step // 2)
    rows, columns = -(-(tall + before_y) // step), -(-(wide + before_x) // step)
    found: dict[Square, int] = {}
    for row in range(rows):
        still_wanted()
        for column in range(columns):
            y, x = row * step - before_y, column * step - before_x
            marks = int(np.count_nonzero(own[max(0, y) : y + step, max(0, x) : x + step]))
            if marks:
                first = (corner[0] + x - (side - step) // 2, corner[1] + y - (side - step) // 2)
                left, top = (_inside(at, side, n) for at, n in zip(first, shape[::-1], strict=True))
                found[left, top, side] = found.get((left, top, side), 0) + marks
    rim = _rim(side, reach)
    holds = np.zeros(own.shape, np.uint8)
    places = {square: _held(square, rim, corner, shape) for square in found}
    for place in [*places.values(), *(_held(square, _rim(square[2], reach), corner, shape) for square in there if square[2] <= side)]:
        holds[place] += 1
    kept: list[Square] = []
    for square in sorted(found, key=lambda s: (found[s], s[1], s[0])):
        still_wanted()
        place = places[square]
        if (own[place] & (holds[place] < 2)).any():
            kept.append(square)
            if len(kept) > most:
                return None
        else:
            holds[place] -= 1
    return sorted(kept, key=lambda s: (s[1], s[0]))


def _inside(first: int, side: int, length: int) -> int:
    """Shifted into an axis of `length`; around all of it where it is shorter."""
    return -((side - length) // 2) if side >= length else min(max(0, first), length - side)


def _held(square: Square, rim: int, corner: tuple[int, int], shape: tuple[int, int]) -> tuple[slice, slice]:
    """Rows and columns, from `corner` on, of what lies so far inside a square, or at the picture's border."""
    spans = []
    for first, start, length in ((square[1], corner[1], shape[0]), (square[0], corner[0], shape[1])):
        low = first if first <= 0 else first + rim
        high = first + square[2] if first + square[2] >= length else first + square[2] - rim
        spans.append(slice(max(0, low - start), max(0, high - start)))
    return spans[0], spans[1]


def share(square: Square, before: Sequence[Square], shape: tuple[int, int], rows: slice, columns: slice) -> np.ndarray:
    """How much a window's result counts at these pixels of the picture against those put there before it, 0 to 255 (uint8).

    255·t / (t + the sum of theirs), t rising from each border of a square that is not the picture's: so, put one upon the other, they are
    averaged, weighted by t.
    """
    mine = _rising(square, shape, rows, columns)
    total = mine.copy()
    for other in before:
        total += _rising(other, shape, rows, columns)
    part: np.ndarray = (2 * 255 * mine + total) // np.maximum(2 * total, 1)  # rounded
    return part.astype(np.uint8)


def _rising(square: Square, shape: tuple[int, int], rows: slice, columns: slice) -> np.ndarray:
    """t, in pixels: (h, w) int64."""
    left, top, side = square
    most = side // RAMP
    lines = []
    for first, length, span in ((top, shape[0], rows), (left, shape[1], columns)):
        at = np.arange(span.start, span.stop)
        low = at - first - side // EDGE if first > 0 else np.full(len(at), most)
        high = first + side - 1 - at - side // EDGE if first + side < length else np.full(len(at), most)
        within = (at >= first) & (at < first + side)
        lines.append(np.where(within, np.clip(np.minimum(low, high), 0, most), 0))
    t: np.ndarray = np.minimum(lines[0][:, None], lines[1])
    return t
