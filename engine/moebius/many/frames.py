"""Frames of a film, so that a still background does not flicker: the noise lies fixed in the picture, and a frame starts from the last one.

A frame's start is its own picture with the last result in the hole: of what was filled there the fill, of what was not the background
itself. A part of that stays in the result. It is read from the file that was written, so a film that is broken off goes on as if it had
not been.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from moebius.inpaint.settings import Settings
from moebius.model import noise
from moebius.model.noise import Rng
from moebius.pictures.mask import dilated
from moebius.pictures.pixels import bounds
from moebius.pictures.windows import Window

STRENGTH = 0.5  # of a frame that starts from the last one: how much of the schedule is run; at 0.99 little of the start is left
KEEP = 0.75  # so much of the last picture's hole stays: joined to a noisy rim, and with grain, equal fills would flicker as well
OVERLAP = 0.5  # of both masks' pixels: so much must be in both
AROUND, BLOCK, CHANGED = 16, 4, 0.02  # around the holes, means of so many pixels a side, which may differ by so much of the range
TILE = 64  # latents a side of what is drawn at once
NAMES = ("image", "masked", "start", "offset")


def draws(settings: Settings, windows: Sequence[Window], channels: int, side: int) -> dict[str, np.ndarray]:
    """The draws of a run over these windows, as `Run.prepare` takes them. A latent's are those of its place in the picture, wherever the
    window begins; the offset is one for the whole film."""
    seeds = range(settings.seed, settings.seed + settings.num_images)
    drawn: dict[str, np.ndarray] = {}
    for name in NAMES[:3]:
        parts = [field(seed, name, settings.rng, w, channels, side) for seed in seeds for w in windows]
        drawn[name] = np.stack(parts) if parts else np.empty((0, channels, side, side), np.float32)
    offsets = [tile(seed, "offset", settings.rng, channels, 1, 0, 0) for seed in seeds for _ in windows]
    drawn["offset"] = np.stack(offsets) if offsets else np.empty((0, channels, 1, 1), np.float32)
    return drawn


def field(seed: int, name: str, rng: Rng, window: Window, channels: int, side: int) -> np.ndarray:
    """(channels, side, side): what the endless plane of this seed and name holds under a window."""
    y, x = (round(start * side / length) for start, length in ((window.y, window.height), (window.x, window.width)))
    rows, columns = range(y // TILE, (y + side - 1) // TILE + 1), range(x // TILE, (x + side - 1) // TILE + 1)
    plane = np.concatenate(
        [np.concatenate([tile(seed, name, rng, channels, TILE, row, column) for column in columns], axis=2) for row in rows], axis=1
    )
    top, left = y - rows[0] * TILE, x - columns[0] * TILE
    return plane[:, top : top + side, left : left + side]


@lru_cache(maxsize=256)
def tile(seed: int, name: str, rng: Rng, channels: int, side: int, row: int, column: int) -> np.ndarray:
    """(channels, side, side) standard normals, which depend on all of these."""
    digest = hashlib.blake2b(f"{seed} {name} {row} {column}".encode(), digest_size=8).digest()
    return noise.source(int.from_bytes(digest, "little"), rng).draw((channels, side, side))


def start(rgb: np.ndarray, fill: np.ndarray, before: np.ndarray, filled: np.ndarray) -> np.ndarray | None:
    """A frame (H, W, 3) with the last result in its hole; `filled` is what was filled there. None where the mask moved far, or where the
    pictures differ around the holes: then the frame begins by itself."""
    if before.shape != rgb.shape or before.dtype != rgb.dtype or filled.shape != fill.shape:
        return None
    either = fill | filled
    if not either.any() or (fill & filled).sum() < OVERLAP * either.sum():
        return None
    rows, columns = bounds(dilated(either, AROUND))
    now, then = (means(picture[rows, columns], either[rows, columns]) for picture in (rgb, before))
    if not now.size or np.abs(now - then).mean() > CHANGED * np.iinfo(rgb.dtype).max:
        return None
    return np.where(fill[..., None], before, rgb)


def means(picture: np.ndarray, holes: np.ndarray) -> np.ndarray:
    """(n, 3): of the blocks that no hole touches. A camera's noise is hardly in them, and what moves is."""
    tall, wide = (length // BLOCK for length in holes.shape)
    blocks = picture[: tall * BLOCK, : wide * BLOCK].reshape(tall, BLOCK, wide, BLOCK, 3).mean(axis=(1, 3))
    touched = holes[: tall * BLOCK, : wide * BLOCK].reshape(tall, BLOCK, wide, BLOCK).any(axis=(1, 3))
    found: np.ndarray = blocks[~touched]
    return found


def of_frame(settings: Settings) -> float:
    """The strength of a frame that starts from the last one."""
    return min(settings.strength, STRENGTH)
