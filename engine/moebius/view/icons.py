"""The toolbar's icons, drawn from lines: a table of shapes on a field of 24 × 24."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw

from moebius.view.geometry import Point

FIELD, LINE = 24, 1.9  # units; how thick a line is
FINER = 6  # drawn so many times larger first
ARC = [(12 + 7 * math.cos(math.radians(a)), 13.5 + 7 * math.sin(math.radians(a))) for a in range(-155, 126, 8)]


def star(x: float, y: float, radius: float) -> list[Point]:
    """A spark of four rays."""
    turns = [(math.pi * i / 4, radius if i % 2 == 0 else 0.32 * radius) for i in range(8)]
    return [(x + r * math.sin(a), y - r * math.cos(a)) for a, r in turns]


# Lines, and filled shapes.
ICONS: dict[str, tuple[list[list[Point]], list[list[Point]]]] = {
    "open": ([[(3, 19.5), (3, 5), (9, 5), (11.2, 7.8), (21, 7.8), (21, 19.5), (3, 19.5)]], []),
    "brush": (
        [[(20.5, 3.5), (11.5, 12.5)]],
        [[(9.2, 11.8), (12.4, 15), (11.4, 18.2), (8.4, 20.4), (3.2, 20.6), (4.8, 18.4), (5.2, 15.4), (6.6, 12.8)]],
    ),
    "erase": (
        [
            [(9.5, 19.8), (3.6, 13.9), (13.4, 4.1), (20.2, 10.9), (11.3, 19.8), (9.5, 19.8)],
            [(8.6, 8.9), (15.4, 15.7)],
            [(8, 20.2), (20.5, 20.2)],
        ],
        [],
    ),
    "undo": ([ARC, [(4.2, 4.6), (5.2, 10.6), (11.2, 9.8)]], []),
    "fill": ([], [star(10, 13, 9), star(19, 5.2, 4.2)]),
    "stop": ([], [[(6, 6), (18, 6), (18, 18), (6, 18)]]),
    "compare": (
        [[(3.5, 5), (20.5, 5), (20.5, 19), (3.5, 19), (3.5, 5)], [(12, 2.5), (12, 21.5)]],
        [[(3.5, 5), (12, 5), (12, 19), (3.5, 19)]],
    ),
    "save": ([[(12, 3.5), (12, 15)], [(6.8, 10), (12, 15.2), (17.2, 10)], [(4, 16), (4, 20.3), (20, 20.3), (20, 16)]], []),
}


@lru_cache(maxsize=64)
def drawn(name: str, side: int) -> np.ndarray:
    """(side, side) uint8 coverage."""
    unit = FINER * side / FIELD
    image = Image.new("L", (FINER * side, FINER * side))
    draw = ImageDraw.Draw(image)
    lines, shapes = ICONS[name]
    for shape in shapes:
        draw.polygon([(x * unit, y * unit) for x, y in shape], fill=255)
    r = 0.5 * LINE * unit
    for line in lines:
        points = [(x * unit, y * unit) for x, y in line]
        draw.line(points, fill=255, width=max(1, round(2 * r)))
        for x, y in points:  # round ends and corners
            draw.ellipse((x - r, y - r, x + r, y + r), fill=255)
    return np.asarray(image.resize((side, side), Image.Resampling.BOX))
