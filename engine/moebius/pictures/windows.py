"""Where to work: square windows of the picture, which are cut to the side a model was trained at.

`auto` gives every island of the mask a window of its own, or one with its neighbours, at the picture's own resolution where
that fits, and a long thin one several that overlap; `full` is the whole picture in one square; `upstream` is the whole picture
resized as published.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np

from moebius.errors import UsageError
from moebius.pictures import published
from moebius.pictures.islands import CELL, Islands, grouped, islands
from moebius.pictures.mask import support
from moebius.pictures.patience import still_wanted
from moebius.pictures.photo import MAX_PIXELS
from moebius.pictures.pixels import bounds
from moebius.pictures.tiling import Square, covered, share, tiled

Crop = Literal["auto", "full", "upstream"]

CONTEXT, SHARED_CONTEXT = 16, 8  # what part of a native window's side stays free around its island; around each of several islands
MOST = 128  # windows for one picture
SCALED = 4, 3  # a scaled window's side by its island's longer one


@dataclass(frozen=True, eq=False)
class Window:
    x: int  # the corner in the picture; negative, and beyond the far border, where the window is padded
    y: int
    width: int  # in pixels of the picture
    height: int
    size: int  # the model's side, as `windows` was called with
    target: tuple[int, int]  # (width, height) that the model works at
    islands: Islands
    index: int
    feather: float | None = None  # the radius of the blur, in pixels of the picture; None: the published 3, of the model's pixels
    upstream: bool = False
    before: tuple[Square, ...] | None = None  # of several that fill one island: those put back before this one
    over: float | None = None  # the scale of the window whose fill this one draws over

    @property
    def native(self) -> bool:
        """Not scaled."""
        return (self.width, self.height) == self.target

    @property
    def scale(self) -> float:
        """Pixels of the picture a pixel of the model."""
        return ((self.width / self.target[0]) * (self.height / self.target[1])) ** 0.5

    @property
    def radius(self) -> float:
        return published.BLUR_RADIUS * self.scale if self.feather is None else self.feather

    def inside(self) -> tuple[slice, slice]:
        """The rows and columns of the picture that the window covers."""
        tall, wide = self.islands.fill.shape
        return slice(max(0, self.y), min(tall, self.y + self.height)), slice(max(0, self.x), min(wide, self.x + self.width))

    def own(self, rows: slice, columns: slice) -> np.ndarray:
        """Which of these pixels of the picture this window fills."""
        return self.islands.of(self.index, rows, columns)

    def share(self, rows: slice, columns: slice) -> np.ndarray:
        """How much of what this window makes shows at these pixels of the picture, where it shows; see `tiling.share`."""
        return share((self.x, self.y, self.width), self.before or (), self.islands.fill.shape, rows, columns)

    def relative(self, rows: slice, columns: slice) -> tuple[slice, slice]:
        """These rows and columns of the picture, counted from the window's corner."""
        return slice(rows.start - self.y, rows.stop - self.y), slice(columns.start - self.x, columns.stop - self.x)


def windows(fill: np.ndarray, size: int, crop: Crop = "auto", feather: float | None = None, most: int = MOST) -> list[Window]:
    """The windows that fill in `fill` (H, W), to be put back in this order; none for an empty mask. `size` is the model's side.

    auto:
    - Islands are marked cells of 8×8 pixels, joined when two or fewer empty cells lie between them (more when the feathering
      reaches farther, so that no two islands' seams meet).
    - Islands share a window when that is native and leaves size/8 of context on every side of both.
    - An island's window is native, `size` pixels square, when that leaves size/16 of context on every side, and the feathering.
      Else its side is 4/3 of the island's longer side, or the picture's if that is less, and it is scaled; but where the island
      is thin, several smaller windows cover it, native ones if `most` are enough for all, and thick parts have one each (`tiling.tiled`).
    - More islands than `most` share larger windows, scaled, until there are no more than that.
    - It is centred on what it fills, then shifted into the picture. Where the picture is smaller, it is padded by reflection.
    - Scaled windows come first, the largest of them first, then native ones from top to bottom: sharp pixels end on top.
    full: the square of the picture's longer side, the picture in its middle, scaled to `size` (up, too).
    upstream: `published.prepare`.
    """
    if crop not in get_args(Crop):
        raise UsageError(f"crop is {crop!r}; choose one of {', '.join(get_args(Crop))}.")
    if feather is not None and not (np.isfinite(feather) and feather >= 0):
        raise UsageError(f"feather is {feather}; it must be a number of pixels from 0 up.")
    if fill.ndim != 2 or fill.dtype != bool or 0 in fill.shape:
        raise UsageError(f"The mask is {fill.shape} {fill.dtype}; give (height, width) of bools.")
    if not fill.any():
        return []
    if crop == "auto":
        return _around_islands(fill, size, feather, most)
    tall, wide = fill.shape
    whole = Islands(fill, np.zeros((-(-tall // CELL), -(-wide // CELL)), np.int32))
    if crop == "full":
        side = max(tall, wide)
        return [Window(-((side - wide) // 2), -((side - tall) // 2), side, side, size, (size, size), whole, 0, feather)]
    target = published.target_size(wide, tall, size)
    if target[0] * target[1] > MAX_PIXELS:
        raise UsageError(f"The published resizing makes {target[0]}×{target[1]} of this image, too much to work on; use crop='auto'.")
    return [Window(0, 0, wide, tall, size, target, whole, 0, feather, True)]


def _around_islands(fill: np.ndarray, size: int, feather: float | None, most: int) -> list[Window]:
    """The windows of `auto`."""
    tall, wide = fill.shape
    reach = support(published.BLUR_RADIUS if feather is None else feather)
    labels, boxes = islands(fill, 2 * reach)
    every = Islands(fill, labels)
    longest = size - 2 * max(size // SHARED_CONTEXT, reach)
    groups = grouped(boxes, longest)
    while len(groups) > most:
        longest = 2 * max(longest, size)
        groups = grouped(boxes, longest)
    left_over = most - len(groups)
    squares: list[tuple[Square, int, bool]] = []  # of a group, and whether it has several
    for group, (members, (left, top, right, bottom)) in enumerate(groups):
        still_wanted()
        longest = max(right - left, bottom - top)
        side, several = size, []
        if longest + 2 * max(size // CONTEXT, reach) > size:
            side = min(max(-(-longest * SCALED[0] // SCALED[1]), longest + 2 * reach, size), max(tall, wide, size))
            if len(members) == 1:
                own = every.of(members[0] + 1, slice(top, bottom), slice(left, right))
                several = tiled(own, (left, top), fill.shape, size, side, reach, 1 + left_over)
                left_over -= max(0, len(several) - 1)
        alone = _placed(left, right, side, wide), _placed(top, bottom, side, tall), side
        squares += [(square, group, bool(several)) for square in several or [alone]]
    squares.sort(key=lambda s: (-s[0][2], s[0][1], s[0][0], s[1]))
    group_of = np.full(len(boxes) + 1, -1, np.int32)  # by label; 0 are empty cells
    for group, (members, _) in enumerate(groups):
        group_of[1 + np.array(members)] = group
    split = Islands(fill, group_of[labels])
    found = []
    for n, ((x, y, side), group, one_of_several) in enumerate(squares):
        before = _meeting((x, y, side), [s for s, g, _ in squares[:n] if g == group]) if one_of_several else None
        found.append(Window(x, y, side, side, size, (size, size), split, group, feather, before=before))
    return found


def finer(found: Sequence[Window], most: int) -> list[Window]:
    """For each of these windows that is scaled and fills its island alone: windows at the picture's own resolution, or the smallest scale
    at which `most` are enough for all, that draw over what it made."""
    drawn: list[Window] = []
    for window in found:
        still_wanted()
        rows, columns = window.inside()
        own = window.own(rows, columns)
        down, along = bounds(own)
        corner = columns.start + along.start, rows.start + down.start
        if window.before is None and not window.upstream:
            squares = covered(own[down, along], corner, window.islands.fill.shape, window.size, window.width, most - len(drawn))
            for n, (x, y, side) in enumerate(squares):
                before = _meeting((x, y, side), squares[:n])
                drawn.append(replace(window, x=x, y=y, width=side, height=side, before=before, over=window.scale))
    return drawn


def _meeting(square: Square, others: Sequence[Square]) -> tuple[Square, ...]:
    """Those of the others that overlap it."""
    x, y, side = square
    return tuple(s for s in others if -s[2] < s[0] - x < side and -s[2] < s[1] - y < side)


def _placed(first: int, last: int, side: int, length: int) -> int:
    """Where a window of `side` begins on an axis of `length`: around first … last, inside if it fits, else around everything."""
    if side >= length:
        return -((side - length) // 2)
    return min(max(0, (first + last - side) // 2), length - side)
