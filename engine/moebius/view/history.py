"""One way back and forth through strokes and fills, over all that was made of a picture since it was opened.

A `Sheet` is a picture that is painted on: the photo, or a fill that was built on. Fills of a sheet are results to choose from; whoever
paints on one of them goes on with a new sheet. `undo` takes back the stroke, or the fill in view, or goes back to the sheet before.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from moebius.view.canvas import MaskCanvas

if TYPE_CHECKING:
    from moebius.inpaint.result import Result
    from moebius.pictures.photo import Photo
    from moebius.view.picture import Picture

KEPT_BYTES = 1 << 30  # what kept results may take; the oldest go first
COPIES = 4  # what a result takes, in RGBA pictures of its size


@dataclass(frozen=True, eq=False)
class Fill:
    """A result: it can be browsed, saved, and built on as the photo that it is."""

    result: Result
    photo: Photo
    picture: Picture
    hole: np.ndarray
    seed: int
    ms_per_step: float | None = None


@dataclass(eq=False)
class Sheet:
    photo: Photo
    picture: Picture
    canvas: MaskCanvas
    origin: Fill | None = None  # the fill that this sheet is; None: the photo as it was opened
    fills: list[Fill] = field(default_factory=list)
    shown: int = 0  # 0 is the sheet itself, n its nth fill
    undone: int = 0  # the fill that redo shows again

    @property
    def fill(self) -> Fill | None:
        """The fill in view: what is saved."""
        return self.fills[self.shown - 1] if self.shown else self.origin


class History:
    def __init__(self, photo: Photo, picture: Picture, marked: np.ndarray | None = None) -> None:
        self._sheets = [Sheet(photo, picture, MaskCanvas(*photo.size, marked))]
        self._sheets[0].canvas.settle()
        self._at = 0
        self.original = picture

    @property
    def sheet(self) -> Sheet:
        return self._sheets[self._at]

    @property
    def can_undo(self) -> bool:
        return bool(self.sheet.shown or self.sheet.canvas.can_undo or self._at)

    @property
    def built_on(self) -> int:
        """How many fills lie below the sheet."""
        return self._at

    def keep(self, fill: Fill, sheet: Sheet) -> bool:
        """A run on a sheet has ended. What was painted meanwhile is outside its hole, and is gone on with. False where another sheet is in
        view, which stays."""
        sheet.fills.append(fill)
        ahead = sheet.canvas.fill & ~fill.hole
        some = bool(ahead.any())
        if not some:
            sheet.canvas.settle()
        if sheet is self.sheet:
            self._forget_what_follows()
            sheet.shown = len(sheet.fills)
            if some:
                self.build_on(ahead)
        while self._bytes() > KEPT_BYTES and self._drop_oldest():
            pass
        return self.sheet is sheet or self.sheet.origin is fill

    def build_on(self, marked: np.ndarray | None = None) -> None:
        """Painting goes on from the fill in view, if there is one."""
        sheet = self.sheet
        if sheet.shown:
            fill = sheet.fills[sheet.shown - 1]
            del self._sheets[self._at + 1 :]
            self._sheets.append(Sheet(fill.photo, fill.picture, MaskCanvas(*fill.photo.size, marked), fill))
            self._at += 1

    def edited(self) -> None:
        """Something was painted on the sheet: there is nothing to redo."""
        self._forget_what_follows()

    def undo(self) -> bool:
        sheet = self.sheet
        if not sheet.shown:
            if sheet.canvas.undo():
                return True
            if not self._at:
                return False
            self._at -= 1  # its fill is in view, and looks as this sheet did
            sheet = self.sheet
        sheet.undone, sheet.shown = sheet.shown, 0
        return True

    def redo(self) -> bool:
        sheet = self.sheet
        if not sheet.shown:
            if sheet.canvas.redo():
                return True
            sheet.shown, sheet.undone = sheet.undone, 0
            return bool(sheet.shown)
        if self._at + 1 < len(self._sheets) and self._sheets[self._at + 1].origin is sheet.fills[sheet.shown - 1]:
            self._at += 1
            return self.sheet.canvas.redo()
        return False

    def browse(self, by: int) -> None:
        sheet = self.sheet
        sheet.shown = min(max(sheet.shown + by, 0), len(sheet.fills))

    def _forget_what_follows(self) -> None:
        del self._sheets[self._at + 1 :]
        self.sheet.undone = 0

    def _bytes(self) -> int:
        return sum(COPIES * fill.picture.levels[0].nbytes for sheet in self._sheets for fill in sheet.fills)

    def _drop_oldest(self) -> bool:
        """The first sheet with its fills; of the last one, the first fill. False where nothing can go."""
        if self._at:
            del self._sheets[0]
            self._at -= 1
            return True
        if len(self.sheet.fills) > 1:
            del self.sheet.fills[0]
            self.sheet.shown = max(0, self.sheet.shown - 1)
            return True
        return False
