"""Outpainting: a larger canvas around the photo, whose new part is to be filled in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from PIL import Image

from moebius.errors import UsageError
from moebius.pictures import mask as masks
from moebius.pictures import photo as photos
from moebius.pictures.cut import reflected
from moebius.pictures.mask import Mask, MaskSource, dilated
from moebius.pictures.modes import MODES
from moebius.pictures.photo import Photo

Sides = tuple[int, int, int, int]  # pixels: left, top, right, bottom


def chosen_mask(source: MaskSource | None, photo: Photo, sides: Sides, allow_empty: bool, options: Mapping[str, Any]) -> Mask:
    """The mask of the photo as it came: what was given; without one nothing where the canvas grows, else what is transparent."""
    if source is None and any(sides):
        return nothing(photo)
    if source is None and photo.alpha is None:
        raise UsageError("There is no mask, and the image has no transparency to take one from; give a mask or a box.")
    return masks.load(masks.ALPHA if source is None else source, photo, allow_empty=allow_empty or any(sides), **options)


def nothing(photo: Photo) -> Mask:
    """The mask that marks nothing."""
    return Mask(np.zeros(photo.rgb.shape[:2], bool))


def extended_size(photo: Photo, sides: Sides, max_pixels: int) -> tuple[int, int]:
    """(width, height) with the new canvas. Raises where that is too large."""
    left, top, right, bottom = sides
    width, height = photo.size[0] + left + right, photo.size[1] + top + bottom
    photos.check_size(width, height, photo.name if not any(sides) else f"{photo.name}, extended,", max_pixels)
    return width, height


def extended(photo: Photo, mask: Mask, sides: Sides, grow: float, max_pixels: int) -> tuple[Photo, Mask]:
    """Photo and mask on the larger canvas. What is new is marked, with `grow` pixels of the photo beside it; until it is filled the photo's
    reflection stands there. All pixels of the photo keep their bytes."""
    left, top, _, _ = sides
    width, height = extended_size(photo, sides, max_pixels)
    wide, tall = photo.size
    inside = slice(top, top + tall), slice(left, left + wide)
    new = np.ones((height, width), bool)
    new[inside] = False
    fill = dilated(new, grow)
    fill[inside] |= mask.fill
    photo = _without_key(photo)
    mode = MODES[photo.mode]
    pixels = np.array(photo.native)[np.ix_(reflected(-top, height, tall), reflected(-left, width, wide))]
    if mode.transparency == "channel":
        pixels[new, -1] = 1 if pixels.dtype.kind == "f" else np.iinfo(pixels.dtype).max
    native = pixels if isinstance(photo.native, np.ndarray) else photos.stored(pixels, photo.native)
    rgb, alpha = photos.planes(native, mode, photo.colours)
    return replace(photo, native=native, rgb=rgb, alpha=alpha), replace(mask, fill=fill)


def _without_key(photo: Photo) -> Photo:
    """With a channel of its own for transparency, where a colour or a palette says it: there the new pixels could not be told from it."""
    if photo.alpha is None or not MODES[photo.mode].keyed or not isinstance(photo.native, Image.Image):
        return photo
    native = photo.native.copy().convert("RGBA")
    mode = MODES["RGBA"]
    colours = mode.colours(native, photo.colours.icc)
    note = f"{photo.name} has a transparent colour; it comes back with a channel of transparency, as RGBA."
    rgb, alpha = photos.planes(native, mode, colours)
    return replace(photo, native=native, mode="RGBA", colours=colours, rgb=rgb, alpha=alpha, notes=(*photo.notes, note))
