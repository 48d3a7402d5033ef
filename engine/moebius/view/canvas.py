"""The mask that is painted, with undo. Lengths are pixels of the picture, points (x, y)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from moebius.pictures.pixels import bounds
from moebius.view.brush import stroke_rows
from moebius.view.geometry import NOWHERE, Point, Rect

UNDO_BYTES = 256 << 20  # what the packed edits may take; the oldest go first


@dataclass(frozen=True)
class Edit:
    """The pixels that an edit inverted, one bit each. Inverting them again undoes it, and once more redoes it."""

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
        self._settled: Edit | None = None  # the last edit that nobody would miss
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

    def any(self) -> bool:
        """Whether anything is marked."""
        return bool(self.fill[self.extent.slices].any())

    @property
    def is_new(self) -> bool:
        """Whether something is marked that was not when the canvas was last `settle`d, and so would be lost with it."""
        return (self._done[-1] if self._done else None) is not self._settled and self.any()

    def settle(self) -> None:
        """What is marked came from elsewhere, or has been filled in."""
        self._settled = self._done[-1] if self._done else None

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
        rows = stroke_rows(a, b, radius, width, height)
        if rows is None:
            return
        top, lefts, rights = rows
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

    @property
    def can_undo(self) -> bool:
        return bool(self._done)

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
