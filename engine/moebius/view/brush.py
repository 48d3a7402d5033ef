"""The window's brush: its size, what the wheel and the keys do to it, and which pixels a stroke of it covers.

The mask that it paints is in `canvas`, the ring that shows it at the pointer in `scene`. Lengths are pixels of the picture.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from moebius.view.geometry import Point

FIRST_RADIUS = 0.045  # of the picture's shorter side
SMALLEST_RADIUS, LARGEST_RADIUS = 1.0, 0.5  # pixels; of the picture's longer side
THINNEST_STROKE = 0.75  # the radius that just covers the pixel it is on
NOTCH, KEY = 1.12, 1.25  # what a notch of the wheel and a key multiply the radius by


@dataclass
class Brush:
    """A round brush."""

    radius: float = 20.0

    def fit(self, picture: tuple[int, int]) -> None:
        """The size to begin with on a picture of that width and height."""
        self.radius = max(SMALLEST_RADIUS, FIRST_RADIUS * min(picture))

    def resize(self, factor: float, picture: tuple[int, int]) -> None:
        largest = LARGEST_RADIUS * max(picture)
        self.radius = min(max(self.radius * factor, SMALLEST_RADIUS), max(largest, SMALLEST_RADIUS))


def stroke_rows(a: Point, b: Point, radius: float, width: int, height: int) -> tuple[int, np.ndarray, np.ndarray] | None:
    """(first row, left ends, right ends) of the pixels whose centre is within `radius` of the segment from a to b.

    None where it misses a picture of that size. The stroke is convex, so it has one interval a row: from the leftmost to the
    rightmost of its two discs and of the rectangle between them. That is two numbers a row, where testing every pixel of the bounding
    box would be millions for a fast diagonal.
    """
    radius = max(radius, THINNEST_STROKE)
    (ax, ay), (bx, by) = a, b
    top = max(0, int(np.ceil(min(ay, by) - radius - 0.5)))
    bottom = min(height, int(np.floor(max(ay, by) + radius - 0.5)) + 1)
    if top >= bottom:
        return None
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
    return (top, left, np.maximum(left, right)) if (left < right).any() else None
