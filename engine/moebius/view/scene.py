"""From the app's state to quads and labels: the picture with its mask, the run and the brush. What is around it is in `bars`."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from moebius.view import bars, layout
from moebius.view.app import App
from moebius.view.draw import Quad, Scene
from moebius.view.geometry import Four, Rect
from moebius.view.history import Sheet
from moebius.view.job import Place
from moebius.view.pencil import BLACK, TINT, WHITE, Pencil

OPACITY = 0.55  # of the mask


class Painter:
    def __init__(self) -> None:
        self._pencil = Pencil()
        self._patches: tuple[object, np.ndarray | None] = None, None

    def build(self, app: App) -> Scene:
        self._pencil.begin(app.camera.window, app.camera.picture, app.ui)
        if app.easel.sheet is not None:
            self._picture(app, app.easel.sheet)
            self._brush(app)
        bars.draw(self._pencil, app)
        return self._pencil.finish()

    def _picture(self, app: App, sheet: Sheet) -> None:
        pencil, scene, camera = self._pencil, self._pencil.scene, app.camera
        (x, y), (w, h) = camera.origin, (n * camera.scale for n in camera.picture)
        soft = pencil.px(14)
        pencil.shadow((x, y, w, h), soft, pencil.px(3), 0.5, soft / 2)
        rect, source = self._visible(app)
        scene.mask, history = sheet.canvas, app.easel.history
        if sheet.shown:
            scene.result = sheet.fills[sheet.shown - 1].picture
        if app.comparing and app.can("compare") and history is not None:
            scene.photo = history.original
            scene.quads.append(Quad("photo", rect, source))
            self._tag("Photo", app)
            return
        scene.photo = sheet.picture
        scene.quads.append(Quad("result" if sheet.shown else "photo", rect, source))
        if sheet.shown:
            return
        if app.running is not None and app.running.sheet is sheet:
            scene.hole = app.running.hole
            scene.patches = self._patch_atlas(app)
            for (px, py, pw, ph), cell in zip(app.patches, cells(app.patches), strict=True):
                wx, wy = camera.to_window((px, py))
                scene.quads.append(Quad("patch", (wx, wy, pw * camera.scale, ph * camera.scale), (px, py, pw, ph), shape=cell))
        # While there is nothing to see in the hole, it stays tinted; then only what was painted since is.
        shape = (1.0 if app.patches else 0.0, pencil.px(1.6), 0.0, 0.0)
        rect, source = self._visible(app, sheet.canvas.extent, beyond=pencil.px(3) / camera.scale + 1)
        scene.quads.append(Quad("overlay", rect, source, (*TINT, OPACITY), shape))

    def _visible(self, app: App, part: Rect | None = None, beyond: float = 0.0) -> tuple[Four, Four]:
        """(x, y, width, height) in the window and in the picture of what can be seen of a part, and of `beyond` pixels around it.

        No more of it than is in the window: what f32 tells apart ends at 64:1.
        """
        (x, y), scale, (width, height) = app.camera.origin, app.camera.scale, app.camera.picture
        part = Rect(0, 0, width, height) if part is None else part
        low = max(0.0, -x / scale, part.x0 - beyond), max(0.0, -y / scale, part.y0 - beyond)
        high_x = min(float(width), (app.camera.window[0] - x) / scale, part.x1 + beyond)
        high_y = min(float(height), (app.camera.window[1] - y) / scale, part.y1 + beyond)
        w, h = max(1e-6, high_x - low[0]), max(1e-6, high_y - low[1])
        return (x + scale * low[0], y + scale * low[1], w * scale, h * scale), (*low, w, h)

    def _patch_atlas(self, app: App) -> np.ndarray | None:
        """All patches in their cells, in one array; another one when there are other patches."""
        if self._patches[0] is not app.patches:
            atlas = None
            if app.patches:
                placed = cells(app.patches)
                atlas = np.zeros((max(y + h for _, y, _, h in placed), max(x + w for x, _, w, _ in placed), 4), np.uint8)
                for (x, y, w, h), rgb in zip(placed, app.patches.values(), strict=True):
                    atlas[y : y + h, x : x + w, :3] = rgb
            self._patches = app.patches, atlas
        return self._patches[1]

    def _brush(self, app: App) -> None:
        """The ring of the brush at the pointer, or the box that is being drawn."""
        easel, pencil, camera = app.easel, self._pencil, app.camera
        hidden = app.help or app.question is not None or app.comparing or easel.drag == "pan" or easel.panning
        if easel.pointer is None or hidden or easel.sheet is None:
            return
        x, y = easel.pointer
        if easel.drag in ("box", "unbox"):
            rect = easel.sheet.canvas.box_of(easel.grabbed, camera.to_picture(easel.pointer))
            (x0, y0), (x1, y1) = camera.to_window((rect.x0, rect.y0)), camera.to_window((rect.x1, rect.y1))
            place = (x0, y0, x1 - x0, y1 - y0)
            pencil.panel(place, TINT if easel.drag == "box" else WHITE, 0.3)
            pencil.panel(place, WHITE, 0.95, line=pencil.px(1.5))
        elif easel.drag is not None or not layout.in_bars(easel.pointer, camera.window, app.ui):
            r = max(easel.brush.radius * camera.scale, pencil.px(2))
            one = pencil.px(1)
            pencil.panel((x - r - one, y - r - one, 2 * (r + one), 2 * (r + one)), BLACK, 0.55, radius=r + one, line=one)
            pencil.panel((x - r, y - r, 2 * r, 2 * r), WHITE, 0.95, radius=r, line=pencil.px(1.5))
            if easel.drag == "erase" or (easel.erasing and easel.drag is None):  # an eraser is crossed out
                half = 0.35 * min(r, pencil.px(18))
                pencil.panel((x - half, y - one, 2 * half, 2 * one), WHITE, 0.95)

    def _tag(self, text: str, app: App) -> None:
        pencil = self._pencil
        (x, y, _, _), _ = self._visible(app)
        y = max(y, pencil.px(layout.HEAD))
        pencil.card((x + pencil.px(12), y + pencil.px(12), pencil.width(text, 14) + pencil.px(24), pencil.px(30)))
        pencil.text(text, x + pencil.px(24), y + pencil.px(18), 14)


def cells(patches: Mapping[Place, np.ndarray]) -> list[tuple[int, int, int, int]]:
    """x, y, width, height of each in the atlas. About a square of them: in one row, hundreds would be wider than any texture."""
    across = math.isqrt(max(0, len(patches) - 1)) + 1
    return [(i % across * w, i // across * h, w, h) for i, (h, w, _) in enumerate(rgb.shape for rgb in patches.values())]
