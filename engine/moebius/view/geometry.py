"""Points and rectangles of whole pixels."""

from __future__ import annotations

from dataclasses import dataclass

Point = tuple[float, float]
Four = tuple[float, float, float, float]  # x, y, width, height; or a colour


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
