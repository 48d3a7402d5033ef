"""What a frame is drawn with: panels, cards, text and icons, from logical pixels to the quads of a `Scene`."""

from __future__ import annotations

from typing import Literal

from moebius.view import labels
from moebius.view.draw import Quad, Scene
from moebius.view.geometry import Four

Colour = tuple[float, float, float]
WHITE: Colour = (0.96, 0.965, 0.975)
GREY: Colour = (0.66, 0.68, 0.72)
DIM: Colour = (0.36, 0.38, 0.42)
DARK: Colour = (0.115, 0.12, 0.14)
BLACK: Colour = (0.0, 0.0, 0.0)
TINT: Colour = (1.0, 0.27, 0.42)
ACCENT: Colour = (0.44, 0.66, 1.0)
WARNING: Colour = (0.62, 0.16, 0.19)

Side = Literal["left", "centre", "right"]
DASH = 7  # logical pixels, and as much between two


class Pencil:
    def __init__(self) -> None:
        self._atlas = labels.Atlas()
        self.scene = Scene((1, 1))
        self.ui = 1.0

    def begin(self, window: tuple[int, int], picture: tuple[int, int], ui: float) -> Scene:
        self.scene, self.ui = Scene(window, picture), ui
        return self.scene

    def finish(self) -> Scene:
        self.scene.labels = self._atlas.finish()
        return self.scene

    def px(self, logical: float) -> float:
        return logical * self.ui

    def size(self, logical: float) -> int:
        """Of letters."""
        return max(8, round(logical * self.ui))

    def width(self, text: str, size: float) -> int:
        return labels.width(text, self.size(size))

    def line(self, size: float) -> int:
        """How high a line of text is."""
        return labels.line_height(self.size(size))

    def panel(self, rect: Four, colour: Colour, alpha: float, radius: float = 0.0, line: float = 0.0, soft: float = 0.0) -> None:
        self.scene.quads.append(Quad("panel", rect, colour=(*colour, alpha), shape=(radius, line, soft, 0.0)))

    def shadow(self, rect: Four, soft: float, down: float, alpha: float, radius: float) -> None:
        x, y, w, h = rect
        self.panel((x - soft, y - soft + down, w + 2 * soft, h + 2 * soft), BLACK, alpha, radius=radius, soft=soft)

    def card(self, rect: Four, alpha: float = 0.94) -> None:
        self.shadow(rect, self.px(10), self.px(2), 0.35, self.px(14))
        self.panel(rect, DARK, alpha, radius=self.px(10))
        self.panel(rect, WHITE, 0.1, radius=self.px(10), line=self.px(1))

    def dashes(self, rect: Four, colour: Colour, alpha: float) -> None:
        """A rectangle of dashes."""
        x, y, w, h = rect
        thick = max(1.0, self.px(1.5))
        for length, place in ((w, lambda at, long: ((x + at, y, long, thick), (x + at, y + h - thick, long, thick))),
                              (h, lambda at, long: ((x, y + at, thick, long), (x + w - thick, y + at, thick, long)))):  # fmt: skip
            count = max(1, round(length / self.px(2 * DASH)))
            long = length / (2 * count - 1) if count > 1 else length
            for i in range(count):
                for dash in place(2 * i * long, long):
                    self.panel(dash, colour, alpha)

    def text(self, text: str, x: float, y: float, size: float, colour: Colour = WHITE, side: Side = "left") -> None:
        source = self._atlas.place(text, self.size(size))
        x -= {"left": 0.0, "centre": source[2] / 2, "right": source[2]}[side]
        self.scene.quads.append(Quad("text", (round(x), round(y), source[2], source[3]), source, (*colour, 1.0)))

    def icon(self, name: str, rect: Four, side: float, colour: Colour) -> None:
        """In the middle of a rectangle."""
        source = self._atlas.icon(name, max(8, round(side)))
        x, y = rect[0] + (rect[2] - source[2]) / 2, rect[1] + (rect[3] - source[3]) / 2
        self.scene.quads.append(Quad("text", (round(x), round(y), source[2], source[3]), source, (*colour, 1.0)))
