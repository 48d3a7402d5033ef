"""The picture on the window, and what pointer and keys do to it: paint, erase, boxes, moving it, the way back.

Positions are framebuffer pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

import numpy as np

from moebius.view import brush
from moebius.view.camera import NOTCH, Camera
from moebius.view.canvas import MaskCanvas
from moebius.view.geometry import Point
from moebius.view.history import History, Sheet

if TYPE_CHECKING:
    from moebius.pictures.photo import Photo
    from moebius.view.picture import Picture

Drag = Literal["paint", "erase", "box", "unbox", "pan"]
CLOSER = 1.25  # what a key multiplies the scale by


class Easel:
    def __init__(self) -> None:
        self.camera, self.brush = Camera(), brush.Brush()
        self.history: History | None = None
        self.erasing = False  # what the left button does
        self.panning = False  # the pointer moves the picture
        self.pointer: Point | None = None
        self.drag: Drag | None = None
        self.grabbed: Point = (0.0, 0.0)  # where a box began, in the picture

    @property
    def sheet(self) -> Sheet | None:
        return None if self.history is None else self.history.sheet

    def put(self, photo: Photo, picture: Picture, marked: np.ndarray | None) -> None:
        """Another picture, as a whole and with the brush that fits it."""
        self.history, self.drag, self.erasing = History(photo, picture, marked), None, False
        self.brush.fit(photo.size)
        self.camera.picture = photo.size
        self.camera.fit()

    def clear(self) -> None:
        self.history, self.drag = None, None

    # painting ----------------------------------------------------------------------------------------------------
    def press(self, button: str, shift: bool) -> None:
        if self.history is None or self.pointer is None or self.drag is not None:
            return
        if button == "middle" or self.panning:
            self.drag = "pan"
            return
        if button not in ("left", "right"):
            return
        paints = button == "left" and not self.erasing
        here = self.grabbed = self.camera.to_picture(self.pointer)
        canvas = self._canvas()
        if shift:
            self.drag = "box" if paints else "unbox"
            return
        self.drag = "paint" if paints else "erase"
        canvas.begin()
        canvas.stroke(here, here, self.brush.radius, paints)

    def move(self, to: Point | None) -> None:
        before, self.pointer = self.pointer, to
        sheet = self.sheet
        if before is None or to is None or sheet is None:
            return
        if self.drag == "pan" or (self.panning and self.drag is None):
            self.camera.pan(to[0] - before[0], to[1] - before[1])
        elif self.drag in ("paint", "erase"):
            sheet.canvas.stroke(self.camera.to_picture(before), self.camera.to_picture(to), self.brush.radius, self.drag == "paint")

    def release(self, button: str) -> None:
        """Ends what this button began."""
        erases, paints = self.drag in ("erase", "unbox"), self.drag in ("paint", "box")
        if self.drag == "pan" or (erases and (button == "right" or self.erasing)) or (paints and button == "left"):
            self.end_drag(commit=True)

    def end_drag(self, commit: bool) -> None:
        """A stroke stays as it is; a box is filled only with `commit`, which is when its button comes up."""
        drag, self.drag = self.drag, None
        sheet = self.sheet
        if sheet is None:
            return
        if drag in ("paint", "erase"):
            sheet.canvas.end()
        elif drag in ("box", "unbox") and commit and self.pointer is not None:
            sheet.canvas.begin()
            sheet.canvas.box(self.grabbed, self.camera.to_picture(self.pointer), drag == "box")
            sheet.canvas.end()

    def _canvas(self) -> MaskCanvas:
        """The mask that is painted from here on: where a fill is in view, a new one on that fill."""
        assert self.history is not None
        self.history.build_on()
        self.history.edited()
        return self.history.sheet.canvas

    # the whole mask ----------------------------------------------------------------------------------------------
    def edit(self, change: Callable[[MaskCanvas], object]) -> None:
        if self.history is not None:
            self.end_drag(commit=True)
            change(self._canvas())

    def undo(self) -> None:
        if self.history is not None:
            self.end_drag(commit=True)
            self.history.undo()

    def redo(self) -> None:
        if self.history is not None:
            self.end_drag(commit=True)
            self.history.redo()

    def browse(self, by: int) -> None:
        if self.history is not None:
            self.end_drag(commit=True)
            self.history.browse(by)

    # looking -----------------------------------------------------------------------------------------------------
    def resize_brush(self, factor: float) -> None:
        self.brush.resize(factor, self.camera.picture)

    def wheel(self, notches: float, control: bool) -> None:
        if self.history is None:
            return
        if control and self.pointer is not None:
            self.camera.zoom(NOTCH**notches, self.pointer)
        elif not control:
            self.resize_brush(brush.NOTCH**notches)

    def zoom(self, factor: float) -> None:
        if self.history is not None:
            self.camera.zoom(factor, self.pointer or self.camera.middle)

    def zoom_to_pixels(self) -> None:
        self.zoom(1 / self.camera.scale)
