"""What a model sees of the picture: the square of a window, at the model's size, and which of its pixels are to be filled in."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from moebius.errors import UsageError
from moebius.pictures import published
from moebius.pictures.pixels import rescaled, resized
from moebius.pictures.windows import Window


@dataclass(frozen=True, eq=False)
class Cut:
    """A window as a model sees it. Height and width are the model's."""

    window: Window
    x: np.ndarray  # (1, 3, h, w) float32 in [-1, 1]
    m: np.ndarray  # (1, 1, h, w) float32, 1 where the image is filled in
    rgb: np.ndarray  # (h, w, 3), of the photo's type
    own: np.ndarray  # (h, w) bool: what this window fills; m marks what other windows fill, too
    prepared: published.Prepared | None = None  # of `upstream`: its published picture and mask


def cut_out(window: Window, rgb: np.ndarray) -> Cut:
    """Of a photo's pixels (H, W, 3). What lies outside the picture is its reflection, mask and all.

    A scaled window is resized by LANCZOS, and a pixel of it is marked when the mask marks any part of it.
    """
    fill = window.islands.fill
    if rgb.shape != (*fill.shape, 3):
        raise UsageError(f"The picture is {rgb.shape}; the windows were made for a mask of {fill.shape}.")
    if window.upstream:
        return _published_cut(window, rgb)
    rows, columns = window.inside()
    own = window.own(rows, columns)
    square, mask = rgb[rows, columns], fill[rows, columns]
    tall, wide = mask.shape
    if window.native:
        y, x = reflected(min(0, window.y), window.height, tall), reflected(min(0, window.x), window.width, wide)
        padded = np.zeros((window.height, window.width), bool)
        padded[window.relative(rows, columns)] = own
        square, mask, own = _at(square, y, x), _at(mask, y, x), padded
    elif window.width > wide:
        square, mask, own = _scaled(square.transpose(1, 0, 2), mask.T, own.T, window.x, window.width, window.size)
        square, mask, own = np.ascontiguousarray(square.transpose(1, 0, 2)), mask.T, own.T
    else:
        square, mask, own = _scaled(square, mask, own, min(0, window.y), window.height, window.size)
    return Cut(window, published.normalized(square), mask[None, None].astype(np.float32), square, own)


def _published_cut(window: Window, rgb: np.ndarray) -> Cut:
    picture = Image.fromarray(rescaled(rgb, np.dtype(np.uint8)))
    mask = Image.fromarray(window.islands.fill.astype(np.uint8) * 255)
    p = published.prepare(picture, mask, window.size)
    return Cut(window, p.x, p.m, rescaled(np.asarray(p.image), rgb.dtype), np.asarray(p.mask) > 128, p)


def _at(pixels: np.ndarray, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """pixels[y][:, x], in memory of its own; y and x begin by running through all rows and columns where they are no longer than these."""
    if (len(y), len(x)) == pixels.shape[:2]:
        return pixels.copy()
    return pixels.take(y, axis=0).take(x, axis=1)


def reflected(start: int, length: int, n: int) -> np.ndarray:
    """Indices start … start+length-1 of an axis of n, mirrored about its first and last pixel as often as it takes."""
    if n == 1:
        return np.zeros(length, np.int64)
    i = np.arange(start, start + length) % (2 * n - 2)
    return np.minimum(i, 2 * n - 2 - i)


def _scaled(
    rgb: np.ndarray, mask: np.ndarray, own: np.ndarray, start: int, side: int, size: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A square of `side` → `size`, of which these pixels fill every column, and the rows from -start on; the rest is reflection.

    The columns go first, so that what is reflected is small. A picture thinner than a pixel of the result is its mean.
    """
    n = len(rgb)
    rgb = resized(rgb, (size, n))
    mask, own = _any_of(mask.T, size).T, _any_of(own.T, size).T
    if n * size < side:
        rgb = np.rint(rgb.mean(axis=0, keepdims=True)).astype(rgb.dtype).repeat(size, axis=0)
        mask = mask.any(axis=0, keepdims=True).repeat(size, axis=0)
    else:
        rows = reflected(start, side, n)
        rgb, mask = resized(rgb[rows], (size, size)), _any_of(mask[rows], size)
    return rgb, mask, _any_of(own, size, start, side)


def _any_of(mask: np.ndarray, length: int, start: int = 0, side: int | None = None) -> np.ndarray:
    """The rows resized to `length`: a row is what any of the rows under it marks. `start`, `side`: as in `_scaled`, empty outside."""
    side = side or len(mask)
    edges = [(i * side // length + start, -(-(i + 1) * side // length) + start) for i in range(length)]
    return np.stack([mask[max(0, first) : max(0, last)].any(axis=0) for first, last in edges])
