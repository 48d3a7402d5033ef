"""Pixels, with the published arithmetic: image and mask in, arrays for the networks, bytes out.

Pictures are Pillow's, arrays are NCHW. Means, blends and truncations happen in the precision they were published in,
because one rounding more or less moves a byte.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFilter

from moebius.errors import UsageError

MULTIPLE = 64
BLUR_RADIUS = 3
COMPENSATION = 1.1
BOX_GROWTH = 10
STRIP = 64  # rows at a time: so many floats stay in the processor's cache


@dataclass(frozen=True)
class Prepared:
    """What the networks see (x, m) and the resized pictures it was made of, which `paste` and `compensate` blend with."""

    x: np.ndarray  # (1, 3, H, W) float32 in [-1, 1]
    m: np.ndarray  # (1, 1, H, W) float32, 1 where the image is filled in
    image: Image.Image  # RGB, (W, H)
    mask: Image.Image  # L, (W, H): thresholded before it was resized, so its edges are grey


def target_size(width: int, height: int, size: int) -> tuple[int, int]:
    """(W, H): the short side becomes `size`, the long one follows, both are floored to a multiple of 64."""
    if size < MULTIPLE:
        raise UsageError(f"size is {size}; the short side must be at least {MULTIPLE} pixels.")
    # In integers: the published w·(size/w) is below `size` in floats for some w (49, 98, 103, …), and such squares lose 64 pixels.
    short = min(width, height)
    return width * size // short // MULTIPLE * MULTIPLE, height * size // short // MULTIPLE * MULTIPLE


def prepare(image: Image.Image, mask: Image.Image, size: int) -> Prepared:
    """x = 2·image/255 - 1 and m = [mask/255 ≥ 0.5], both resized by LANCZOS; white (≥ 127.5) is what gets filled in."""
    for what, picture in (("image", image), ("mask", mask)):
        if not isinstance(picture, Image.Image):
            raise UsageError(f"The {what} is a {type(picture).__name__}; give a PIL image.")
        if 0 in picture.size:
            raise UsageError(f"The {what} is empty: {picture.width}×{picture.height} pixels.")
    if image.size != mask.size:
        raise UsageError(f"The mask is {mask.width}×{mask.height} but the image is {image.width}×{image.height}; they must be of one size.")
    target = target_size(*image.size, size)
    image = image.convert("RGB").resize(target, Image.Resampling.LANCZOS)
    mask = mask.convert("L").point([0] * 128 + [255] * 128).resize(target, Image.Resampling.LANCZOS)
    m = (np.asarray(mask) / 255.0 >= 0.5).astype(np.float32)[None, None]
    if not m.any():
        raise UsageError(f"The mask marks nothing at {target[0]}×{target[1]}; paint white (128 or more) what is to be filled in.")
    return Prepared(normalized(np.asarray(image)), m, image, mask)


def normalized(rgb: np.ndarray) -> np.ndarray:
    """(H, W, 3) integers → (1, 3, H, W) float32: 2·rgb/white - 1."""
    white = np.iinfo(rgb.dtype).max
    x = np.empty((1, 3, *rgb.shape[:2]), np.float32)
    for plane, numbers in zip(x[0], np.moveaxis(rgb, -1, 0), strict=True):
        # (2·rgb - white)/white in float32 is that of float64, rounded, for every number there is: its numerator is exact.
        plane[...] = numbers
        plane *= 2
        plane -= white
        plane /= white
    return x


def masked_image(x: np.ndarray, m: np.ndarray) -> np.ndarray:
    """x·(1-m): the hole is 0, mid-grey."""
    masked: np.ndarray = x * (1 - m)
    return masked


def latent_mask(m: np.ndarray, factor: int = 8) -> np.ndarray:
    """(B, 1, H, W) → (B, 1, H/8, W/8): the top-left pixel of each 8×8 cell."""
    return np.ascontiguousarray(m[:, :, ::factor, ::factor])


def to_uint8(x: np.ndarray) -> np.ndarray:
    """(1, 3, H, W), about [-1, 1] → (H, W, 3): ⌊255·clip((x+1)/2, 0, 1)⌋ in float32."""
    planes = np.asarray(x[0], np.float32)
    out = np.empty((*planes.shape[1:], len(planes)), np.uint8)
    for top in range(0, len(out), STRIP):
        unit = planes[:, top : top + STRIP] + 1
        unit /= 2
        np.clip(unit, 0, 1, out=unit)
        unit *= 255
        for c, bytes_of_it in enumerate(unit.astype(np.uint8)):
            out[top : top + STRIP, :, c] = bytes_of_it
    return out


def to_integers(x: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """(1, 3, H, W), about [-1, 1] → (H, W, 3) of an integer type, truncated in the same way; finer than 8 bits in the precision of x."""
    if dtype == np.uint8:
        return to_uint8(x)
    white = np.iinfo(dtype).max
    return np.ascontiguousarray((np.clip((x[0] + 1.0) / 2, 0, 1) * white).astype(dtype).transpose(1, 2, 0))


def paste(out: np.ndarray, prepared: Prepared) -> Image.Image:
    """⌊255·(out·w + image·(1-w))⌋ with w the blurred mask: where w is 0 the image keeps its bytes."""
    image, w = np.asarray(prepared.image) / 255.0, _blurred(prepared.mask)
    return Image.fromarray(np.uint8((out / 255.0 * w + (1 - w) * image) * 255))


def compensate(out: np.ndarray, prepared: Prepared) -> Image.Image:
    """`paste` of out + 1.1·delta, clipped: delta is how much brighter the image is than `out` around the mask, per channel."""
    mask, image = np.asarray(prepared.mask) > 128, np.asarray(prepared.image)
    around, delta = neighbourhood(mask), np.zeros(3)
    if around.any():  # a mask that fills its box leaves nothing to compare
        delta = image[around].mean(axis=0) - out[around].mean(axis=0)
    w = _blurred(Image.fromarray(mask.astype(np.uint8) * 255))
    blend = (out / 255.0 + COMPENSATION * delta / 255.0) * w + (1 - w) * (image / 255.0)
    return Image.fromarray(np.uint8(np.clip(blend, 0, 1) * 255))


def neighbourhood(mask: np.ndarray) -> np.ndarray:
    """The mask's bounding box, grown, minus the mask. On each axis: centre c = (min+max)//2, half = (size+10)//2, c-half … c+half."""
    box = np.zeros_like(mask)
    if mask.any():
        rows, columns = (_widened(np.flatnonzero(mask.any(axis=axis))) for axis in (1, 0))
        box[rows, columns] = True
    box[mask] = False
    return box


def _widened(indices: np.ndarray) -> slice:
    """The range of these indices, BOX_GROWTH wider, about its centre, cut off at 0."""
    first, last = int(indices[0]), int(indices[-1])
    centre, half = (first + last) // 2, (last - first + 1 + BOX_GROWTH) // 2
    return slice(max(0, centre - half), centre + half + 1)


def _blurred(mask: Image.Image) -> np.ndarray:
    """(H, W, 3) in [0, 1]."""
    w: np.ndarray = np.asarray(mask.convert("RGB").filter(ImageFilter.GaussianBlur(BLUR_RADIUS))) / 255.0
    return w
