"""The report's pictures: heat maps of errors, final images and their amplified differences."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from moebius.check.compare.fingerprint import Json, decoded_map
from moebius.check.compare.report import Column, Report

SIDE = 160  # pixels of a heat map's longer side
WORST_CASES = 6
# From dark to light, so that it reads in grey too: positions and RGB.
STOPS = np.array([0, 0.25, 0.5, 0.75, 1])
COLOURS = np.array([(8, 8, 32), (84, 18, 110), (187, 55, 84), (249, 142, 9), (252, 255, 190)])


@dataclass(frozen=True)
class Picture:
    caption: str
    png: bytes


@dataclass(frozen=True)
class Strip:
    """Pictures to be seen side by side."""

    title: str
    text: str
    pictures: list[Picture]


def heat_maps(report: Report) -> list[Strip]:
    """Of the worst tensors, one map a column, on one scale."""
    adapters = [c for c in report.columns if not c.is_oracle]
    strips = []
    for op, case in report.worst_cases(WORST_CASES):
        measured = [(c, row) for c in adapters for row in c.ops if (row["op"], row["case"], row["status"]) == (op, case, "done")]
        strips.append(heat_strip(f"{op} ({case})", measured))
    return strips


def heat_strip(title: str, measured: Sequence[tuple[Column, Json]]) -> Strip:
    maps = [(c, row, decoded_map(row["map"])) for c, row in measured if "map" in row]
    top = max(float(values.max()) for _, _, values in maps)
    text = f"The largest error at each position in ULPs of the oracle; black is 0, white is {top:.3g}."
    captions = [f"{c.label}: not finite" if row["max_ulp"] is None else f"{c.label}: {row['max_ulp']:.3g} ULP" for c, row, _ in maps]
    return Strip(title, text, [Picture(caption, heat(values, top)) for caption, (_, _, values) in zip(captions, maps, strict=True)])


def heat(values: np.ndarray, top: float) -> bytes:
    level = values / (top or 1.0)
    rgb = np.stack([np.interp(level, STOPS, COLOURS[:, channel]) for channel in range(3)], axis=-1).astype(np.uint8)
    times = max(1, SIDE // max(rgb.shape[:2]))
    return png(rgb.repeat(times, axis=0).repeat(times, axis=1))


def last_latents(report: Report) -> list[Strip]:
    """A picture's bytes round small differences away; its latents show them."""
    strips = []
    for view in report.runs:
        outputs = [(c, output) for c in view.adapters for output in view.of(c).get("outputs", []) if "map" in output]
        if outputs:
            strips.append(heat_strip(f"{view.name}: {outputs[0][1]['name']} at the end", outputs))
    return strips


def final_images(report: Report) -> list[Strip]:
    """What every column painted, and how it differs from the oracle's picture (or the first one's, where there is no oracle)."""
    strips = []
    for view in report.runs:
        painted = [(c, opened(view.of(c)["picture"])) for c in view.columns if "picture" in view.of(c)]
        if not painted:
            continue
        reference, wanted = next(((c, image) for c, image in painted if c.is_oracle), painted[0])
        same = [(c, image) for c, image in painted if image.shape == wanted.shape]
        differences = {c.number: np.abs(image.astype(np.int16) - wanted) for c, image in same}
        largest = max((int(d.max()) for d in differences.values()), default=0)
        gain = 255 // largest if largest else 1
        strips.append(Strip(f"{view.name}: the final images", "", [Picture(c.label, png(image)) for c, image in painted]))
        text = f"|image − that of {reference.label}|, times {gain}: " + (
            f"white is {largest} of 255 levels." if largest else "there is no difference in any pixel."
        )
        amplified = [
            Picture(f"{c.label}: {difference(differences[c.number])}", png((differences[c.number] * gain).astype(np.uint8)))
            for c, _ in same
            if c is not reference
        ]
        strips.append(Strip(f"{view.name}: their differences, amplified", text, amplified))
    return strips


def difference(levels: np.ndarray) -> str:
    pixels = int(np.count_nonzero(levels.max(axis=-1)))
    return f"{pixels} pixels differ, by at most {int(levels.max())} of 255" if pixels else "the same in every pixel"


def opened(text: str) -> np.ndarray:
    with Image.open(io.BytesIO(base64.b64decode(text)), formats=["PNG"]) as image:
        return np.asarray(image.convert("RGB"))


def png(rgb: np.ndarray) -> bytes:
    kept = io.BytesIO()
    Image.fromarray(rgb).save(kept, "PNG", optimize=True)
    return kept.getvalue()


def strips(report: Report) -> list[Strip]:
    return [*heat_maps(report), *last_latents(report), *final_images(report)]
