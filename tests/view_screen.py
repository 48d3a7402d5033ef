"""What the tests of the window open, and what they measure on the screen."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from view_harness import Session

from moebius.view.pencil import TINT
from moebius.view.scene import OPACITY

STEPS = 12  # of which 11 are taken: the strength is 0.99
MANY_STEPS = 400  # a run that is not over before it is cancelled
PHOTO_SIZE = (150, 120)
MODEL = ("--synthetic", "tiny", "--device", "llvmpipe")


def gradient(width: int, height: int) -> np.ndarray:
    """Bright everywhere, so that it stands out from the window, and different everywhere."""
    y, x = np.mgrid[0:height, 0:width]
    return np.stack([90 + 120 * x / width, 110 + 100 * y / height, 200 - 80 * x / width], axis=-1).astype(np.uint8)


def in_picture(view: Session, shot: np.ndarray) -> np.ndarray:
    """What of the screen is the picture, a pixel a pixel of it: the colour in the middle of each."""
    camera = view.ask("camera")
    width, height = camera["picture"]
    x = (camera["origin"][0] + camera["scale"] * (np.arange(width) + 0.5)).astype(int)
    y = (camera["origin"][1] + camera["scale"] * (np.arange(height) + 0.5)).astype(int)
    return shot[np.ix_(y, x)].astype(int)


def differs(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.abs(a.astype(int) - b.astype(int)).max(axis=2) > 8


def tinted(shot: np.ndarray, photo: np.ndarray) -> np.ndarray:
    """At least half as much as the overlay tints: the middle of its soft edge."""
    full = 255 * np.array(TINT) - photo
    return ((shot - photo) * full).sum(axis=2) / (full * full).sum(axis=2) > 0.5 * OPACITY


def near_path(points: list[tuple[float, float]], radius: float) -> np.ndarray:
    """Pixel centres within radius of a polygonal line, by the definition."""
    y, x = np.mgrid[0 : PHOTO_SIZE[1], 0 : PHOTO_SIZE[0]] + 0.5
    out = np.zeros(x.shape, bool)
    for (ax, ay), (bx, by) in pairwise(points):
        t = np.clip(((x - ax) * (bx - ax) + (y - ay) * (by - ay)) / ((bx - ax) ** 2 + (by - ay) ** 2), 0, 1)
        out |= np.hypot(x - ax - t * (bx - ax), y - ay - t * (by - ay)) <= radius
    return out


def agreement(a: np.ndarray, b: np.ndarray) -> float:
    return float((a & b).sum() / (a | b).sum())


def near(mask: np.ndarray, pixels: int) -> np.ndarray:
    padded = np.pad(mask, pixels)
    tall, wide = mask.shape
    return np.any([padded[y : y + tall, x : x + wide] for y in range(2 * pixels + 1) for x in range(2 * pixels + 1)], axis=0)
