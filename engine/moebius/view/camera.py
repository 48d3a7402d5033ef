"""Where the picture lies in the window: fitted, zoomed or moved."""

from __future__ import annotations

from dataclasses import dataclass

from moebius.view.geometry import Point

NOTCH = 1.12  # what a notch of the wheel multiplies the scale by
LARGEST_ZOOM = 64.0
SMALLEST_ZOOM = 0.25  # of the fitted picture


@dataclass
class Camera:
    """Framebuffer pixel = origin + scale · picture pixel. `fitted` follows the window until someone zooms or pans."""

    picture: tuple[int, int] = (1, 1)
    window: tuple[int, int] = (1, 1)
    margin: float = 0.0  # framebuffer pixels left free around a fitted picture
    foot: float = 0.0  # and below it, where the window says how things are
    head: float = 0.0  # and, beyond the margin, above it
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
        """Of what the bars leave free."""
        return self.window[0] / 2, (self.window[1] + self.margin + self.head - self.foot) / 2

    def fit(self) -> None:
        self.fitted, self.scale = True, self._fitting()
        (wide, tall), (width, height) = self._room(), self.picture
        self.x, self.y = self.margin + (wide - self.scale * width) / 2, self.margin + self.head + (tall - self.scale * height) / 2

    def _room(self) -> Point:
        return max(1.0, self.window[0] - 2 * self.margin), max(1.0, self.window[1] - self.margin - self.head - self.foot)

    def _fitting(self) -> float:
        return min(room / p for room, p in zip(self._room(), self.picture, strict=True))

    def resize(self, window: tuple[int, int], margin: float, foot: float, head: float = 0.0) -> None:
        """A fitted picture stays fitted; else what was in the middle stays there."""
        dx, dy = ((new - old) / 2 for new, old in zip(window, self.window, strict=True))
        self.window, self.margin, self.foot, self.head = window, margin, foot, head
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
