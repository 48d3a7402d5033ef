"""A picture as the GPU shows it: RGBA with all its halvings, so that it can be drawn small without shimmering."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from moebius.pictures.pixels import rescaled

if TYPE_CHECKING:
    from moebius.pictures.photo import Photo


@dataclass(frozen=True, eq=False)
class Picture:
    size: tuple[int, int]  # (width, height) of the picture itself
    levels: list[np.ndarray]  # (h, w, 4) uint8; the first is smaller than the picture where no texture could hold it

    @classmethod
    def of(cls, photo: Photo, largest_side: int) -> Picture:
        width, height = photo.size
        rgba = np.empty((height, width, 4), np.uint8)
        rgba[..., :3] = rescaled(photo.rgb, np.dtype(np.uint8))
        rgba[..., 3] = 255 if photo.alpha is None else rescaled(photo.alpha, np.dtype(np.uint8))
        step = reduction(photo.size, largest_side)
        levels = [rgba if step == 1 else resized(rgba, -(-width // step), -(-height // step))]
        while max(levels[-1].shape[:2]) > 1:
            tall, wide, _ = levels[-1].shape
            levels.append(resized(levels[-1], max(1, wide // 2), max(1, tall // 2)))
        return cls(photo.size, levels)


def reduction(size: tuple[int, int], largest_side: int) -> int:
    """One texel stands for so many pixels a side."""
    return -(-max(size) // largest_side)


def resized(rgba: np.ndarray, width: int, height: int) -> np.ndarray:
    """Means of boxes. As RGBX: of RGBA Pillow would first multiply all by alpha."""
    image = Image.frombuffer("RGBX", (rgba.shape[1], rgba.shape[0]), np.ascontiguousarray(rgba), "raw", "RGBX", 0, 1)
    return np.asarray(image.resize((width, height), Image.Resampling.BOX))
