"""How the windows along a long thin hole should begin: with the same noise or each with its own, all at once or one after the other.

    python benchmarks/bench_tiles.py [--model FILE] [--device NAME]

Bands of 18 pixels across the held-out photographs (whole_photos.py), thin for native windows and too thick for the film alone. PSNR in the
hole, and how far two windows that overlap are from each other there, in grey levels: what averaging them has to hide. Of "one after the
other" every window sees what those before it made as known, from both ends inwards; the picture then depends on their order.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from unittest.mock import patch

import numpy as np
from bench_nano import data, whole_photos

from moebius import Inpainter
from moebius.inpaint import run as runs
from moebius.inpaint.draws import Origin
from moebius.pictures.windows import Window

THICK = 18  # pixels
STEPS = 20


def bands(wide: int, tall: int) -> np.ndarray:
    """Two, one down and one up, from side to side: (tall, wide) bool."""
    y, x = np.mgrid[:tall, :wide]
    lines = (0.25 * tall + 0.15 * x, 0.8 * tall - 0.1 * x)
    return np.logical_or.reduce([np.abs(y - line) < THICK / 2 for line in lines])


def each_its_own(windows: Sequence[Window], side: int) -> list[Origin]:
    return [(w, 0, 0) for w in range(len(windows))]


def together(inpaint: Inpainter, given: np.ndarray, hole: np.ndarray) -> tuple[np.ndarray, float]:
    """The fill, and the mean distance of two windows' results in what both of them fill."""
    run = inpaint.steps(given, hole, steps=STEPS, strength=1.0, detail=0)
    for _ in run:
        pass
    return np.asarray(run.result.image), apart([(item.window, item.decoded) for item in run.items], hole)


def apart(made: Sequence[tuple[Window, np.ndarray]], hole: np.ndarray) -> float:
    found = []
    for n, (a, one) in enumerate(made):
        for b, other in made[:n]:
            x0, y0 = max(a.x, b.x, 0), max(a.y, b.y, 0)
            x1, y1 = (min(p + a.width, q + b.width, n) for p, q, n in ((a.x, b.x, hole.shape[1]), (a.y, b.y, hole.shape[0])))
            if x0 < x1 and y0 < y1 and a.native and b.native:
                first, second = (p[y0 - w.y : y1 - w.y, x0 - w.x : x1 - w.x].astype(float) for p, w in ((one, a), (other, b)))
                found.append(np.abs(first - second)[hole[y0:y1, x0:x1]].ravel())
    return float(np.concatenate(found).mean()) if found else 0.0


def in_turn(inpaint: Inpainter, given: np.ndarray, hole: np.ndarray) -> np.ndarray:
    """From both ends inwards, each with what is filled by then as known."""
    every = inpaint.steps(given, hole, steps=STEPS, strength=1.0, detail=0).windows
    order = sorted(every, key=lambda w: (-abs(w.x + w.width / 2 - hole.shape[1] / 2), w.y))
    picture, left = given.copy(), hole.copy()
    for window in order:
        rows, _ = window.inside()
        mine = np.zeros_like(hole)
        edge = window.width // 8
        inner = slice(max(0, window.x + edge * (window.x > 0)), window.x + window.width - edge)
        mine[rows, inner] = left[rows, inner]
        if mine.any():
            alone = [with_hole(window, left.copy())]
            with patch.object(runs.windows, "windows", lambda *_, alone=alone: alone):
                made = inpaint(picture, left, steps=STEPS, strength=1.0, detail=0).image
            picture = np.where(mine[..., None], np.asarray(made), picture)
            left &= ~mine
    return picture


def with_hole(window: Window, hole: np.ndarray) -> Window:
    return replace(window, islands=replace(window.islands, fill=hole), feather=0, before=None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="nano")
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    inpaint = Inpainter.from_pretrained(args.model, device=args.device)
    rows: dict[str, list[tuple[float, float]]] = {}
    for package, name, _ in whole_photos.PHOTOS:
        picture = np.asarray(data.photo(package, name))
        hole = bands(picture.shape[1], picture.shape[0])
        given = np.where(hole[..., None], np.uint8(127), picture)
        filled = {"the same noise, at once": together(inpaint, given, hole)}
        with patch.object(runs, "shared", each_its_own):
            filled["its own noise, at once"] = together(inpaint, given, hole)
        filled["one after the other"] = in_turn(inpaint, given, hole), 0.0
        filled["film"] = whole_photos.filled_by_others(given, hole)["film"], 0.0
        for how, (image, distance) in filled.items():
            rows.setdefault(how, []).append((whole_photos.psnr(image[hole], picture[hole]), distance))
    for how, values in rows.items():
        decibels, distance = np.mean(values, axis=0)
        print(f"{how}: {decibels:.2f} dB, windows {distance:.2f} grey levels apart")


if __name__ == "__main__":
    main()
