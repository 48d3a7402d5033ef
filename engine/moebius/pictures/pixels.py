"""What several stages do with arrays of pixels: grey, depth, the box around what is marked, resizing."""

from __future__ import annotations

import numpy as np
from PIL import Image


def luma(values: np.ndarray) -> np.ndarray:
    """ITU-R 601 in the integers that Pillow's convert("L") uses; a grey stays the grey it is."""
    r, g, b = (values[..., i].astype(np.uint32) for i in range(3))
    return ((r * 19595 + g * 38470 + b * 7471 + 0x8000) >> 16).astype(values.dtype)


def rescaled(array: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Between uint8, uint16 and floats from 0 to 1, to the nearest; an array of that type is returned as it is."""
    if array.dtype == dtype:
        return array
    if array.dtype.kind == "f":
        return np.rint(array.astype(np.float64) * np.iinfo(dtype).max).astype(dtype)
    if dtype.itemsize == 2:
        return array.astype(dtype) * dtype.type(257)
    return ((array.astype(np.uint32) + 128) // 257).astype(dtype)


def turned(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Stored pixels (H, W, …) upright, as EXIF's orientation, from 1 to 8, says."""
    if orientation in (5, 6, 7, 8):  # the first row is a column of the upright picture
        pixels = pixels.swapaxes(0, 1)
    down = -1 if orientation in (3, 4, 7, 8) else 1
    right = -1 if orientation in (2, 3, 6, 7) else 1
    return pixels[::down, ::right]


def bounds(marked: np.ndarray) -> tuple[slice, slice]:
    """The rows and columns of the smallest box around what is marked; empty slices for nothing."""
    rows = np.flatnonzero(marked.any(axis=1))
    if not rows.size:
        return slice(0, 0), slice(0, 0)
    columns = np.flatnonzero(marked[rows[0] : rows[-1] + 1].any(axis=0))
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)


def resized(rgb: np.ndarray, size: tuple[int, int], box: tuple[float, float, float, float] | None = None) -> np.ndarray:
    """LANCZOS to (width, height), from the whole or from `box` of it, along the rows and then along the columns: left to itself, Pillow
    takes the order that is cheaper, from its version 13 on, and the bytes depend on it. It has no 16-bit colour: that goes plane by
    plane, in floats."""
    left, top, right, bottom = box or (0, 0, rgb.shape[1], rgb.shape[0])

    def both(image: Image.Image) -> np.ndarray:
        wide = image.resize((size[0], image.height), Image.Resampling.LANCZOS, (left, 0, right, image.height))
        return np.asarray(wide.resize(size, Image.Resampling.LANCZOS, (0, top, size[0], bottom)))

    if rgb.dtype == np.uint8:
        return both(Image.fromarray(rgb))
    planes = [both(Image.fromarray(rgb[..., i].astype(np.float32))) for i in range(3)]
    return np.rint(np.clip(np.stack(planes, axis=-1), 0, 65535)).astype(rgb.dtype)
