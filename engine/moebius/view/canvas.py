"""The mask under the brush, with undo; and where the picture lies in the window. Lengths are pixels of the picture, points (x, y)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from moebius.pictures.pixels import bounds

Point = tuple[float, float]
UNDO_BYTES = 256 << 20  # what the packed edits may take; the oldest go first
SMALLEST_RADIUS = 0.75  # just covers the pixel it is on
LARGEST_ZOOM = 64.0
SMALLEST_ZOOM = 0.25  # of the fitted picture


@dataclass(frozen=True)
class Rect:
    """Columns x0 ≤ x < x1 and rows y0 ≤ y < y1."""

    x0: int
    y0: int
    x1: int
    y1: int

    def __bool__(self) -> bool:
        return self.x0 < self.x1 and self.y0 < self.y1

    def __or__(self, other: Rect) -> Rect:
        if not (self and other):
            return self or other
        return Rect(min(self.x0, other.x0), min(self.y0, other.y0), max(self.x1, other.x1), max(self.y1, other.y1))

    @property
    def slices(self) -> tuple[slice, slice]:
        return slice(self.y0, self.y1), slice(self.x0, self.x1)

    @property
    def shape(self) -> tuple[int, int]:
        return self.y1 - self.y0, self.x1 - self.x0


NOWHERE = Rect(0, 0, 0, 0)


@dataclass(frozen=True)
class Edit:
    """What an edit turned round, one bit a pixel. Turning it round again undoes it, and once more redoes it."""

    rect: Rect
    bits: np.ndarray

    def apply(self, fill: np.ndarray) -> None:
        tall, wide = self.rect.shape
        fill[self.rect.slices] ^= np.unpackbits(self.bits, count=tall * wide).reshape(tall, wide).view(bool)


class MaskCanvas:
    """`fill` (H, W) bool. Everything between `begin` and `end` is one edit to undo."""

    def __init__(self, width: int, height: int, fill: np.ndarray | None = None) -> None:
        self.fill = np.zeros((height, width), bool)
        self.dirty = self.whole  # what has changed since `take_dirty`
        self.extent = NOWHERE  # there is nothing beyond it; it may be larger than what there is
        self._done: list[Edit] = []
        self._undone: list[Edit] = []
        self._before: np.ndarray | None = None
        self._touched = NOWHERE
        if fill is not None and fill.any():
            rows, columns = bounds(fill)
            self.begin()
            self._change(Rect(columns.start, rows.start, columns.stop, rows.stop))
            self.fill[:] = fill
            self.end()

    @property
    def whole(self) -> Rect:
        return Rect(0, 0, self.fill.shape[1], self.fill.shape[0])

    def take_dirty(self) -> Rect:
        dirty, self.dirty = self.dirty, NOWHERE
        return dirty

    # edits -------------------------------------------------------------------------------------------------------
    def begin(self) -> None:
        self._before, self._touched = self.fill.copy(), NOWHERE

    def end(self) -> None:
        if self._before is None:
            return
        before, self._before = self._before, None
        changed = before[self._touched.slices] ^ self.fill[self._touched.slices]
        if changed.any():
            self._done.append(Edit(self._touched, np.packbits(changed)))
            self._undone.clear()
            while len(self._done) > 1 and sum(e.bits.nbytes for e in self._done) > UNDO_BYTES:
                self._done.pop(0)

    def stroke(self, a: Point, b: Point, radius: float, value: bool) -> None:
        """All pixels whose centre is within `radius` of the segment from a to b: no gap, however far the pointer jumped."""
        height, width = self.fill.shape
        top = 0
        for top, lefts, rights in capsule(a, b, max(radius, SMALLEST_RADIUS), width, height):
            for y, (left, right) in enumerate(zip(lefts, rights, strict=True), top):
                self.fill[y, left:right] = value
            self._change(Rect(int(min(lefts)), top, int(max(rights)), top + len(lefts)))

    def box(self, a: Point, b: Point, value: bool) -> None:
        rect = self.box_of(a, b)
        self.fill[rect.slices] = value
        self._change(rect)

    def box_of(self, a: Point, b: Point) -> Rect:
        """The pixels that a box between two points touches, within the picture."""
        height, width = self.fill.shape
        (x0, x1), (y0, y1) = sorted((a[0], b[0])), sorted((a[1], b[1]))
        left, right = np.clip([np.floor(x0), np.ceil(x1)], 0, width).astype(int)
        top, bottom = np.clip([np.floor(y0), np.ceil(y1)], 0, height).astype(int)
        return Rect(int(left), int(top), int(right), int(bottom))

    def clear(self) -> None:
        self.begin()
        self.fill[:] = False
        self._change(self.whole)
        self.end()
        self.extent = NOWHERE

    def invert(self) -> None:
        self.begin()
        np.logical_not(self.fill, out=self.fill)
        self._change(self.whole)
        self.end()

    def undo(self) -> bool:
        return self._move(self._done, self._undone)

    def redo(self) -> bool:
        return self._move(self._undone, self._done)

    def _move(self, here: list[Edit], there: list[Edit]) -> bool:
        if not here:
            return False
        edit = here.pop()
        edit.apply(self.fill)
        self.dirty |= edit.rect
        self.extent |= edit.rect
        there.append(edit)
        return True

    def _change(self, rect: Rect) -> None:
        self.dirty |= rect
        self.extent |= rect
        self._touched |= rect


def capsule(a: Point, b: Point, radius: float, width: int, height: int) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """(first row, left ends, right ends), nothing where it misses a picture of that size.

    A capsule is convex, so it has one interval a row: from the leftmost to the rightmost of its two discs and of the rectangle
    between them. That is two numbers a row, where testing every pixel of the bounding box would be millions for a fast diagonal.
    """
    (ax, ay), (bx, by) = a, b
    top = max(0, int(np.ceil(min(ay, by) - radius - 0.5)))
    bottom = min(height, int(np.floor(max(ay, by) + radius - 0.5)) + 1)
    if top >= bottom:
        return
    y = np.arange(top, bottom) + 0.5
    low, high = np.full(len(y), np.inf), np.full(len(y), -np.inf)
    for cx, cy in (a, b):
        half = np.sqrt(np.maximum(radius * radius - (y - cy) ** 2, 0))
        here = np.abs(y - cy) <= radius
        low, high = np.where(here, np.minimum(low, cx - half), low), np.where(here, np.maximum(high, cx + half), high)
    length = float(np.hypot(bx - ax, by - ay))
    if length > 0:
        nx, ny = -(by - ay) / length * radius, (bx - ax) / length * radius
        corners = [(ax + nx, ay + ny), (bx + nx, by + ny), (bx - nx, by - ny), (ax - nx, ay - ny)]
        for (px, py), (qx, qy) in zip(corners, corners[1:] + corners[:1], strict=True):
            if py != qy:
                x = px + (y - py) / (qy - py) * (qx - px)
                here = (y >= min(py, qy)) & (y <= max(py, qy))
                low, high = np.where(here, np.minimum(low, x), low), np.where(here, np.maximum(high, x), high)
    # A pixel is in when its centre is.
    left = np.clip(np.ceil(low - 0.5), 0, width).astype(int)
    right = np.clip(np.floor(high - 0.5) + 1, 0, width).astype(int)
    if (left < right).any():
        right = np.maximum(left, right)
        yield top, left, right


@dataclass
class Camera:
    """Framebuffer pixel = origin + scale · picture pixel. `fitted` follows the window until someone zooms or pans."""

    picture: tuple[int, int] = (1, 1)
    window: tuple[int, int] = (1, 1)
    margin: float = 0.0  # framebuffer pixels left free around a fitted picture
    foot: float = 0.0  # and below it, where the window says how things are
    scale: float = 1.0
    x: float = 0.0
    y: float = 0.0
    fitted: bool = True

    @property
    def origin(self) -> tuple[int, int]:
        """Whole pixels: at 1:1 the picture is shown as it is, not a blend of neighbours."""
        return round(self.x), round(self.y)

    @property
    def middle(self) -> Point:
        return self.window[0] / 2, self.window[1] / 2

    def fit(self) -> None:
        self.fitted, self.scale = True, self._fitting()
        (wide, tall), (width, height) = self._room(), self.picture
        self.x, self.y = self.margin + (wide - self.scale * width) / 2, self.margin + (tall - self.scale * height) / 2

    def _room(self) -> Point:
        return max(1.0, self.window[0] - 2 * self.margin), max(1.0, self.window[1] - self.margin - self.foot)

    def _fitting(self) -> float:
        return min(room / p for room, p in zip(self._room(), self.picture, strict=True))

    def resize(self, window: tuple[int, int], margin: float, foot: float) -> None:
        """A fitted picture stays fitted; else what was in the middle stays there."""
        dx, dy = ((new - old) / 2 for new, old in zip(window, self.window, strict=True))
        self.window, self.margin, self.foot = window, margin, foot
        if self.fitted:
            self.fit()
        else:
            self.pan(dx, dy)

    def zoom(self, factor: float, at: Point) -> None:
        """Around a point of the window, which stays where it is."""
        fitting = self._fitting()
        scale = min(max(self.scale * factor, fitting * SMALLEST_ZOOM), max(LARGEST_ZOOM, fitting))
        px, py = self.to_picture(at)
        self.scale, self.fitted = scale, False
        self.x, self.y = at[0] - scale * px, at[1] - scale * py
        self.pan(0, 0)

    def pan(self, dx: float, dy: float) -> None:
        """At least a corner of the picture stays in the window."""
        self.fitted = False
        keep = 4 * max(1.0, self.margin)
        self.x = min(max(self.x + dx, keep - self.scale * self.picture[0]), self.window[0] - keep)
        self.y = min(max(self.y + dy, keep - self.scale * self.picture[1]), self.window[1] - keep)

    def to_picture(self, at: Point) -> Point:
        return (at[0] - self.origin[0]) / self.scale, (at[1] - self.origin[1]) / self.scale

    def to_window(self, at: Point) -> Point:
        return self.origin[0] + self.scale * at[0], self.origin[1] + self.scale * at[1]
