"""From the app's state to quads and labels: what is where in the window. Lengths are logical pixels times the window's scale."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

import numpy as np

from moebius.view import labels
from moebius.view.app import App
from moebius.view.draw import Four, Quad, Scene
from moebius.view.geometry import NOWHERE, Rect
from moebius.view.job import Place

Colour = tuple[float, float, float]
WHITE: Colour = (0.96, 0.965, 0.975)
GREY: Colour = (0.66, 0.68, 0.72)
DARK: Colour = (0.115, 0.12, 0.14)
TINT: Colour = (1.0, 0.27, 0.42)
OPACITY = 0.55
ACCENT: Colour = (0.44, 0.66, 1.0)
WARNING: Colour = (0.62, 0.16, 0.19)

KEYS = (
    ("left button", "paint what should go"),
    ("right button", "erase"),
    ("Shift + button", "a box instead of a stroke"),
    ("wheel, [ and ]", "size of the brush"),
    ("Ctrl + wheel", "zoom"),
    ("0, 1", "fit the picture; show it pixel by pixel"),
    ("middle button, Space", "move the picture"),
    ("Ctrl-Z, Ctrl-Y", "undo, redo"),
    ("C, I", "clear the mask, invert it"),
    ("Enter", "fill the hole"),
    ("R", "again, with the next seed"),
    ("Esc", "cancel the run"),
    ("Left, Right", "browse the results"),
    ("B (hold)", "compare with the photo"),
    ("S", "save beside the photo"),
    ("H or ?", "these keys"),
)


class Painter:
    def __init__(self) -> None:
        self._atlas = labels.Atlas()
        self._patches: tuple[object, np.ndarray | None] = None, None
        self._scene = Scene((1, 1))
        self._ui = 1.0

    def build(self, app: App) -> Scene:
        self._scene, self._ui = Scene(app.camera.window, app.camera.picture), app.ui
        if app.picture is not None:
            self._picture(app)
            self._brush(app)
        else:
            self._hint("Drop a picture on this window", app.camera.window[1] / 2, 20)
        if app.running is not None:
            self._progress(app)
        else:
            self._status(app)
        if app.help:
            self._help()
        if app.message:
            self._message(app)
        self._scene.labels = self._atlas.finish()
        return self._scene

    # the picture -------------------------------------------------------------------------------------------------
    def _picture(self, app: App) -> None:
        scene, camera = self._scene, app.camera
        (x, y), (w, h) = camera.origin, (n * camera.scale for n in camera.picture)
        soft = self._px(14)
        self._panel((x - soft, y - soft + self._px(3), w + 2 * soft, h + 2 * soft), (0, 0, 0), 0.5, radius=soft / 2, soft=soft)
        rect, source = self._visible(app)
        scene.photo, scene.mask = app.picture, app.canvas
        if app.shown:
            scene.result = app.results[app.shown - 1].picture
        compare = app.comparing and (app.shown > 0 or app.running is not None)
        scene.quads.append(Quad("result" if app.shown and not compare else "photo", rect, source))
        if compare:
            self._tag("Photo", app)
            return
        if app.running is not None:
            scene.hole = app.running.hole
            scene.patches = self._patch_atlas(app)
            for (px, py, pw, ph), cell in zip(app.patches, cells(app.patches), strict=True):
                wx, wy = camera.to_window((px, py))
                scene.quads.append(Quad("patch", (wx, wy, pw * camera.scale, ph * camera.scale), (px, py, pw, ph), shape=cell))
        if not app.shown:
            # While there is nothing to see in the hole, it stays tinted; then only what was painted since is.
            shape = (1.0 if app.patches else 0.0, self._px(1.6), 0.0, 0.0)
            extent = NOWHERE if app.canvas is None else app.canvas.extent
            rect, source = self._visible(app, extent, beyond=self._px(3) / camera.scale + 1)
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
        if app.pointer is None or app.help:
            return
        x, y = app.pointer
        if app.drag in ("box", "unbox") and app.canvas is not None:
            rect = app.canvas.box_of(app.grabbed, app.camera.to_picture(app.pointer))
            (x0, y0), (x1, y1) = app.camera.to_window((rect.x0, rect.y0)), app.camera.to_window((rect.x1, rect.y1))
            place = (x0, y0, x1 - x0, y1 - y0)
            self._panel(place, TINT if app.drag == "box" else WHITE, 0.3)
            self._panel(place, WHITE, 0.95, line=self._px(1.5))
        elif app.drag != "pan" and not app.space and not app.comparing:
            r = max(app.brush.radius * app.camera.scale, self._px(2))
            one = self._px(1)
            self._panel((x - r - one, y - r - one, 2 * (r + one), 2 * (r + one)), (0, 0, 0), 0.55, radius=r + one, line=one)
            self._panel((x - r, y - r, 2 * r, 2 * r), WHITE, 0.95, radius=r, line=self._px(1.5))

    # what it says ------------------------------------------------------------------------------------------------
    def _progress(self, app: App) -> None:
        assert app.running is not None
        progress = app.running.progress
        x, y, w, h = self._pill(560, 58)
        part = progress.done / progress.total if progress.total else 0.0
        pad, top = self._px(18), y + self._px(10)
        counted = f"{progress.phase}  {progress.done} / {progress.total}" if progress.total else f"{progress.phase} ..."
        self._text(counted, x + pad, top, 14)
        right = "Esc cancels"
        if progress.ms_per_step is not None:
            seconds = progress.ms_per_step * (progress.total - progress.done) / 1000
            right = f"{progress.ms_per_step:.0f} ms/step   {seconds:.0f} s left   {right}"
        self._text(right, x + w - pad, top, 14, GREY, "right")
        thick = self._px(8)
        track = (x + pad, y + h - self._px(22), w - 2 * pad, thick)
        self._panel(track, WHITE, 0.14, radius=thick / 2)
        if part:
            self._panel((track[0], track[1], max(thick, track[2] * part), thick), ACCENT, 1, radius=thick / 2)

    def _status(self, app: App) -> None:
        if app.photo is None or app.canvas is None:
            return
        if app.shown:
            text = f"Result {app.shown} of {len(app.results)}, seed {app.results[app.shown - 1].seed}"
            keys = [("R", "another"), ("B", "compare"), ("S", "save"), ("H", "keys")]
        elif app.canvas.fill.any():
            text, keys = "", [("Enter", "fill the hole"), ("Right button", "erase"), ("H", "keys")]
        else:
            text, keys = "Paint over what should go", [("Enter", "fill it"), ("H", "keys")]
        if app.results and not app.shown:
            keys.insert(1, ("Right", "results"))
        words = [(text, WHITE)] * bool(text) + [word for key, what in keys for word in ((key, ACCENT), (what, GREY))]
        gaps = [self._px(22 if colour is not GREY else 7) for _, colour in words]
        size = self._size(14)
        x, y, _, h = self._pill((sum(labels.width(word, size) for word, _ in words) + sum(gaps[1:])) / self._ui + 40, 38)
        x += self._px(20) - gaps[0]
        for (word, colour), gap in zip(words, gaps, strict=True):
            self._text(word, x + gap, y + (h - labels.line_height(size)) / 2, 14, colour)
            x += gap + labels.width(word, size)

    def _message(self, app: App) -> None:
        window, size = self._scene.window, self._size(15)
        lines = labels.wrapped(app.message, size, round(min(window[0] - self._px(96), self._px(620))))
        step = labels.line_height(size) + self._px(3)
        w = max(labels.width(line, size) for line in lines) + self._px(40)
        rect = ((window[0] - w) / 2, self._px(20), w, step * len(lines) + self._px(22))
        self._card(rect, WARNING if app.is_error else DARK)
        for i, line in enumerate(lines):
            self._text(line, window[0] / 2, rect[1] + self._px(12) + i * step, 15, WHITE, "centre")

    def _tag(self, text: str, app: App) -> None:
        (x, y, _, _), _ = self._visible(app)
        self._card((x + self._px(12), y + self._px(12), labels.width(text, self._size(14)) + self._px(24), self._px(30)), DARK)
        self._text(text, x + self._px(24), y + self._px(18), 14)

    def _hint(self, text: str, y: float, size: int) -> None:
        self._text(text, self._scene.window[0] / 2, y - self._px(size), size, GREY, "centre")

    def _help(self) -> None:
        window, step, size = self._scene.window, self._px(25), self._size(14)
        first = max(labels.width(key, size) for key, _ in KEYS)
        w = first + max(labels.width(what, size) for _, what in KEYS) + self._px(80)
        h = step * len(KEYS) + self._px(34)
        x, y = (window[0] - w) / 2, (window[1] - h) / 2
        self._card((x, y, w, h), DARK, 0.95)
        for i, (key, what) in enumerate(KEYS):
            at = y + self._px(18) + i * step
            self._text(key, x + self._px(28) + first, at, 14, ACCENT, "right")
            self._text(what, x + self._px(48) + first, at, 14)

    # pieces ------------------------------------------------------------------------------------------------------
    def _px(self, logical: float) -> float:
        return logical * self._ui

    def _size(self, logical: int) -> int:
        return max(8, round(logical * self._ui))

    def _pill(self, width: float, height: float) -> Four:
        """A card at the foot of the window."""
        window, gap = self._scene.window, self._px(18)
        w, h = min(self._px(width), window[0] - gap), self._px(height)
        rect = (round((window[0] - w) / 2), round(window[1] - h - gap), w, h)
        self._card(rect, DARK)
        return rect

    def _card(self, rect: Four, colour: Colour, alpha: float = 0.88) -> None:
        soft, (x, y, w, h) = self._px(10), rect
        self._panel((x - soft, y - soft + self._px(2), w + 2 * soft, h + 2 * soft), (0, 0, 0), 0.35, radius=self._px(14), soft=soft)
        self._panel(rect, colour, alpha, radius=self._px(12))
        self._panel(rect, WHITE, 0.1, radius=self._px(12), line=self._px(1))

    def _panel(self, rect: Four, colour: Colour, alpha: float, radius: float = 0.0, line: float = 0.0, soft: float = 0.0) -> None:
        self._scene.quads.append(Quad("panel", rect, colour=(*colour, alpha), shape=(radius, line, soft, 0.0)))

    def _text(
        self, text: str, x: float, y: float, size: int, colour: Colour = WHITE, side: Literal["left", "centre", "right"] = "left"
    ) -> None:
        source = self._atlas.place(text, self._size(size))
        x -= {"left": 0.0, "centre": source[2] / 2, "right": source[2]}[side]
        self._scene.quads.append(Quad("text", (round(x), round(y), source[2], source[3]), source, (*colour, 1.0)))


def cells(patches: Mapping[Place, np.ndarray]) -> list[tuple[int, int, int, int]]:
    """x, y, width, height of each in the atlas. About a square of them: in one row, hundreds would be wider than any texture."""
    across = math.isqrt(max(0, len(patches) - 1)) + 1
    return [(i % across * w, i // across * h, w, h) for i, (h, w, _) in enumerate(rgb.shape for rgb in patches.values())]
