"""Fills at a photo's own size: held-out photographs whole, with the masks people bring. `bench_nano.py --whole` measures with these.

Masks are of five kinds, several of each on every photograph: wires and scratches across the picture, text over it, small objects, one
large object; and "patterns" are small objects on made stripes, checks and edges, which a model can continue and a smooth film cannot.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import nano_data as data
import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from moebius import Inpainter
from moebius.pictures.seam import harmonic

# Beside nano_data's: another that training never saw.
PHOTOS = (*data.HELD_OUT_PHOTOS, ("skimage", "data/motorcycle_left.png", "Daniel Scharstein, Middlebury: CC0"))
PATTERNS = ("stripes", "checks", "edge")
PATTERN_SIZE = 384
DRAWN = 3  # masks of a kind on every photograph: one says little, for it may lie on an edge or on plain ground
LEAST = 20  # pixels of structure in a hole
COHERENT, STRONG = 0.5, 4.0  # of a structure: how much of the slope runs one way, and grey levels a pixel


@dataclass(frozen=True)
class Whole:
    kind: str
    name: str
    picture: np.ndarray  # (H, W, 3) uint8
    hole: np.ndarray  # (H, W) bool


def wires(rng: np.random.Generator, wide: int, tall: int) -> Image.Image:
    """Two, three pixels thick, from side to side, sagging."""
    mask, x = Image.new("L", (wide, tall)), np.arange(-10, wide + 10)
    for _ in range(2):
        left, right = rng.uniform(0.1, 0.9, 2) * tall
        sag = rng.uniform(0, 0.15) * tall
        y = left + (right - left) * x / wide + sag * 4 * (x / wide) * (1 - x / wide)
        ImageDraw.Draw(mask).line([*zip(x.tolist(), y.tolist(), strict=True)], fill=255, width=3)
    return mask


def scratches(rng: np.random.Generator, wide: int, tall: int) -> Image.Image:
    """Eight, two pixels thick, as long as half the picture."""
    mask = Image.new("L", (wide, tall))
    for _ in range(8):
        at, angle = rng.uniform(0, 1, 2) * (wide, tall), rng.uniform(0, 2 * np.pi)
        points = [at]
        for _ in range(12):
            angle += rng.normal(0, 0.15)
            points.append(points[-1] + 0.04 * wide * np.array([np.cos(angle), np.sin(angle)]))
        ImageDraw.Draw(mask).line([tuple(p.tolist()) for p in points], fill=255, width=2)
    return mask


def text(rng: np.random.Generator, wide: int, tall: int) -> Image.Image:
    """Three lines of a watermark, letters a twelfth of the picture high."""
    mask = Image.new("L", (wide, tall))
    font = ImageFont.load_default(size=tall // 12)
    for i, words in enumerate(("sample picture 2024", "all rights reserved", "not for resale")):
        ImageDraw.Draw(mask).text((rng.uniform(0.02, 0.2) * wide, (0.15 + 0.3 * i) * tall), words, fill=255, font=font)
    return mask


def blobs(rng: np.random.Generator, wide: int, tall: int, count: int, low: float, high: float) -> Image.Image:
    mask = Image.new("L", (wide, tall))
    for _ in range(count):
        a, b = rng.uniform(low, high, 2) * tall / 2
        x, y = rng.uniform(a, wide - a), rng.uniform(b, tall - b)
        ImageDraw.Draw(mask).ellipse((x - a, y - b, x + a, y + b), fill=255)
    return mask


def small(rng: np.random.Generator, wide: int, tall: int) -> Image.Image:
    return blobs(rng, wide, tall, 4, 0.08, 0.16)


def large(rng: np.random.Generator, wide: int, tall: int) -> Image.Image:
    return blobs(rng, wide, tall, 1, 0.4, 0.55)


MASKS: dict[str, Callable[[np.random.Generator, int, int], Image.Image]] = {
    "wires": wires,
    "text": text,
    "scratches": scratches,
    "small objects": small,
    "a large object": large,
}
PATTERNED = "patterns"


def cases(seed: int = data.HELD_OUT_SEED) -> Iterator[Whole]:
    for k, (kind, mask) in enumerate(MASKS.items()):
        for i, (package, name, _) in enumerate(PHOTOS):
            picture = np.asarray(data.photo(package, name))
            rng = np.random.default_rng([seed, 500 + k, i])
            for n in range(DRAWN):
                drawn = mask(rng, picture.shape[1], picture.shape[0])
                yield Whole(kind, f"{name.split('/')[-1].split('.')[0]} {n + 1}", picture, np.asarray(drawn) > 127)
    for k, kind in enumerate(PATTERNS):
        for i in range(DRAWN):
            rng = np.random.default_rng([seed, 600 + k, i])
            picture = data.picture(rng, kind, PATTERN_SIZE)
            while picture.std(axis=(0, 1)).max() < 20:
                picture = data.picture(rng, kind, PATTERN_SIZE)
            drawn = np.asarray(blobs(rng, PATTERN_SIZE, PATTERN_SIZE, 3, 0.1, 0.2)) > 127
            yield Whole(PATTERNED, f"{kind} {i + 1}", picture, drawn)


def filled_by_others(given: np.ndarray, hole: np.ndarray) -> dict[str, np.ndarray]:
    """By the film alone, and by OpenCV's."""
    mask, unknown = hole.astype(np.uint8), (~hole).astype(np.uint8) * 255
    fsr = given.copy()
    cv2.xphoto.inpaint(given, unknown, fsr, cv2.xphoto.INPAINT_FSR_FAST)
    return {
        "film": np.rint(harmonic(given.astype(np.float64), hole)).astype(np.uint8),
        "Telea": cv2.inpaint(given, mask, 3, cv2.INPAINT_TELEA),
        "Navier-Stokes": cv2.inpaint(given, mask, 3, cv2.INPAINT_NS),
        "FSR": fsr,
    }


def structure(picture: np.ndarray) -> np.ndarray:
    """(H, W) bool: where the true picture's slope is strong and runs one way, a few pixels around: an edge, a stripe, a line."""
    grey = ndimage.gaussian_filter(picture.mean(axis=2), 1.5)
    gy, gx = np.gradient(grey)
    a, b, c = (ndimage.gaussian_filter(p, 3) for p in (gx * gx, gx * gy, gy * gy))
    spread = np.sqrt((a - c) ** 2 + 4 * b * b)
    return (spread > COHERENT * (a + c)) & (a + c > STRONG**2)


def step(picture: np.ndarray, hole: np.ndarray) -> float:
    """The mean difference of neighbours of which one is in the hole and one is not, in grey levels."""
    p = picture.astype(np.float64)
    total, count = 0.0, 0
    for here, there in ((np.s_[1:], np.s_[:-1]), (np.s_[:, 1:], np.s_[:, :-1])):
        across = hole[here] != hole[there]
        total += float(np.abs(p[here] - p[there])[across].sum())
        count += 3 * int(across.sum())
    return total / max(count, 1)


def detail(picture: np.ndarray, hole: np.ndarray) -> float:
    """The standard deviation in the hole of what a blur of two pixels takes away, in grey levels."""
    p = picture.astype(np.float64)
    fine = p - ndimage.gaussian_filter(p, (2, 2, 0))
    return float(fine[hole].std())


def psnr(got: np.ndarray, want: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / max(np.mean((got.astype(np.float64) - want) ** 2), 1e-2)))


def measure(inpaint: Inpainter, seed: int, folder: Path | None = None, **settings: Any) -> dict[str, dict[str, float]]:
    """A row a kind of mask: PSNR in the hole by method; and of nano how far it is ahead of the film where a structure crosses the hole,
    the step at the hole's border and the detail in the hole against the picture's own there, and its windows. Into `folder` go the
    pictures: as given, and nano's."""
    rows: dict[str, list[dict[str, float]]] = {}
    for case in cases(seed):
        hole, truth = case.hole, case.picture
        given = np.where(hole[..., None], np.uint8(127), truth)
        result = inpaint(given, hole, strength=1.0, **settings)
        filled = {"nano": np.asarray(result.image)} | filled_by_others(given, hole)
        if not np.array_equal(filled["nano"][~hole], given[~hole]):
            raise SystemExit(f"{case.kind}, {case.name}: pixels outside of the mask changed.")
        if folder:
            Image.fromarray(np.concatenate([given, filled["nano"]])).save(folder / f"{case.kind}, {case.name}.png")
        row = {method: psnr(picture[hole], truth[hole]) for method, picture in filled.items()}
        crossed = structure(truth) & hole
        if crossed.sum() >= LEAST:
            row["ahead of the film on structure"] = psnr(filled["nano"][crossed], truth[crossed]) - psnr(
                filled["film"][crossed], truth[crossed]
            )
        row["step"] = step(filled["nano"], hole) / step(truth, hole)
        row["detail"] = detail(filled["nano"], hole) / detail(truth, hole)
        row["windows"] = len(result.latents)
        rows.setdefault(case.kind, []).append(row)
        print(f"{case.kind}, {case.name}:", ", ".join(f"{name} {value:.2f}" for name, value in row.items()), flush=True)
    names = {kind: dict.fromkeys(name for row in of_kind for name in row) for kind, of_kind in rows.items()}
    return {
        kind: {name: float(np.mean([row[name] for row in of_kind if name in row])) for name in names[kind]} | {"pictures": len(of_kind)}
        for kind, of_kind in rows.items()
    }
