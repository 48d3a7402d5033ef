"""What several stages do with arrays of pixels: grey, depth, the box around what is marked, resizing."""

from __future__ import annotations

import numpy as np
from PIL import Image

LANCZOS = 3  # how many pixels it reaches, of the larger ones
ONE = 2**22  # Pillow's, in the weights of its resizing


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


def resized(rgb: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """LANCZOS to (width, height), along the rows and then along the columns: left to itself, Pillow takes the order that is cheaper, from
    its version 13 on, and the bytes depend on it. It has no 16-bit colour: that goes plane by plane, in floats."""

    def both(image: Image.Image) -> np.ndarray:
        wide = image.resize((size[0], image.height), Image.Resampling.LANCZOS)
        return np.asarray(wide.resize(size, Image.Resampling.LANCZOS))

    if rgb.dtype == np.uint8:
        return both(Image.fromarray(rgb))
    planes = [both(Image.fromarray(rgb[..., i].astype(np.float32))) for i in range(3)]
    return np.rint(np.clip(np.stack(planes, axis=-1), 0, 65535)).astype(rgb.dtype)


def taken(pixels: np.ndarray, where: np.ndarray) -> np.ndarray:
    """pixels[where] of (h, w, c): (n, c)."""
    whole = _whole(pixels)
    return pixels[where] if whole is None else whole[where].view(pixels.dtype).reshape(-1, pixels.shape[2])


def put(into: np.ndarray, values: np.ndarray, where: np.ndarray) -> None:
    """into[where] = values of (h, w, c), and values (n, c), as `taken` gives them, or (h, w, c)."""
    one, other = _whole(into), _whole(values)
    if one is None or other is None or into.dtype != values.dtype:
        into[where] = values if values.ndim == 2 else values[where]
    elif values.ndim == 2:
        one[where] = other
    else:
        np.copyto(one, other, where=where)


def _whole(pixels: np.ndarray) -> np.ndarray | None:
    """(…, c) → (…), a pixel's numbers as one thing: so NumPy is twenty times as quick with some of them. None where they do not lie side
    by side."""
    if pixels.strides[-1] != pixels.itemsize:
        return None
    whole: np.ndarray = pixels.view(np.dtype((np.void, pixels.itemsize * pixels.shape[-1])))[..., 0]
    return whole


def piece(rgb: np.ndarray, size: tuple[int, int], rows: slice, columns: slice) -> np.ndarray:
    """These rows and columns of `resized(rgb, size)`, at the cost of these alone, and to the byte: Pillow can cut a piece out, too, but
    rounds where it begins to 32 bits."""
    top, down = _lanczos(rgb.shape[0], size[1], rows)
    left, along = _lanczos(rgb.shape[1], size[0], columns)
    used = slice(int(top.min()), min(rgb.shape[0], int(top.max()) + len(down)))
    values = rgb[used] if rgb.dtype == np.uint8 else rgb[used].astype(np.float64)
    across = _summed(np.ascontiguousarray(values.transpose(1, 0, 2)), left, along)
    out = _summed(np.ascontiguousarray(across.transpose(1, 0, 2)), top - used.start, down)
    return out if rgb.dtype == np.uint8 else np.rint(np.clip(out, 0, np.iinfo(rgb.dtype).max)).astype(rgb.dtype)


def _lanczos(n: int, length: int, part: slice) -> tuple[np.ndarray, np.ndarray]:
    """Of an axis of n that becomes one of `length`, for each pixel of `part`: the first pixel that counts, and (taps, pixels) what each
    counts from there on. Pillow's arithmetic."""
    scale = n / length
    stretch = max(1.0, scale)
    centre = (np.arange(part.start, part.stop) + 0.5) * scale
    first = np.maximum(0, np.trunc(centre - LANCZOS * stretch + 0.5)).astype(np.int64)
    last = np.minimum(n, np.trunc(centre + LANCZOS * stretch + 0.5)).astype(np.int64)
    taps = []
    for k in range(int((last - first).max())):
        v = (first + k - centre + 0.5) / stretch
        taps.append(np.where((np.abs(v) < LANCZOS) & (first + k < last), np.sinc(v) * np.sinc(v / LANCZOS), 0.0))
    return first, np.stack(taps) / sum(taps)


def _summed(values: np.ndarray, first: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """(n, m, 3) → (pixels, m, 3). Bytes in whole numbers of 2^-22, rounded, as Pillow sums them."""
    whole = values.dtype == np.uint8
    if whole:
        weights = (np.sign(weights) * np.floor(np.abs(weights) * ONE + 0.5)).astype(np.int32)
    out = np.empty((len(first), *values.shape[1:]), values.dtype)
    step = max(1, 2**20 // max(1, values[0].size))  # so many pixels at a time: the sums of a whole photo would take gigabytes
    for begin in range(0, len(first), step):
        here = slice(begin, begin + step)
        total = np.full((len(first[here]), *values.shape[1:]), ONE // 2 if whole else 0, np.int32 if whole else np.float64)
        for k, weight in enumerate(weights):
            total += weight[here, None, None] * values[np.minimum(first[here] + k, len(values) - 1)]
        out[here] = np.clip(total >> 22, 0, 255) if whole else total
    return out
