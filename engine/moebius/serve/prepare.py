"""From what a request asks for to a run that can begin. All that is wrong with it shows here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from moebius.errors import EmptyMaskError, UsageError
from moebius.inpaint.inpainter import Inpainter
from moebius.inpaint.run import Run
from moebius.inpaint.settings import Settings
from moebius.pictures import mask as masks
from moebius.pictures import photo as photos
from moebius.pictures.extend import nothing
from moebius.pictures.mask import Mask
from moebius.pictures.photo import Photo
from moebius.pictures.save import check_fits
from moebius.serve.fields import Asked
from moebius.serve.limits import Limits


def prepared(model: Inpainter, asked: Asked, limits: Limits) -> Run:
    """Decodes image and mask, and finds the windows; no device is asked for anything."""
    photo = photos.load(asked.image, limits.pixels)
    settings = dict(asked.settings)
    if asked.canvas is not None and "extend" not in settings:
        settings["extend"] = sides(asked.canvas, photo)
    chosen = Settings(**settings)
    if chosen.steps > limits.steps:
        raise UsageError(f"steps is {chosen.steps}; this server takes at most {limits.steps}.")
    check_fits(photo, Path(f"picture.{asked.format}"))
    mask = chosen_mask(asked, photo, chosen, limits)
    run = model.steps(photo, mask, max_pixels=limits.pixels, **settings)
    count = len(run.modelled) + len(run.finer)
    if count > limits.windows:
        raise UsageError(
            f"The mask takes {count} windows; this server takes at most {limits.windows} a picture. "
            "Grow the mask so that its parts become one, or ask for fewer with max_windows."
        )
    return run


def sides(canvas: tuple[int, int, int, int], photo: Photo) -> tuple[int, int, int, int]:
    """How much a canvas (x, y, width, height, from the photo's corner) adds at the left, the top, the right and the bottom."""
    x, y, width, height = canvas
    wide, tall = photo.size
    return max(0, -x), max(0, -y), max(0, x + width - wide), max(0, y + height - tall)


def chosen_mask(asked: Asked, photo: Photo, settings: Settings, limits: Limits) -> Mask:
    """The mask's picture, the boxes, both as one mask, or the photo's transparency."""
    rest: dict[str, Any] = {"force": asked.force, "max_pixels": limits.pixels}
    notes: tuple[str, ...] = ()
    source: Any = asked.mask
    if asked.mask is not None and asked.boxes:
        loaded = masks.load(asked.mask, photo, allow_empty=True, **rest)
        source, notes = loaded.fill | masks.boxes(asked.boxes, *photo.size), loaded.notes
    elif asked.boxes:
        source = masks.boxes(asked.boxes, *photo.size)
    elif asked.mask is None:
        if any(settings.extend):
            return nothing(photo)
        if photo.alpha is None:
            raise UsageError("There is no mask, and the image has no transparency to take one from; send a mask, boxes, or extend.")
        source = masks.ALPHA
    empty = asked.allow_empty or any(settings.extend)
    mask = masks.load(source, photo, invert=settings.invert, grow=settings.grow, allow_empty=empty, **rest)
    if asked.only is None:
        return Mask(mask.fill, (*notes, *mask.notes), mask.from_alpha)
    fill = mask.fill & box_of(asked.only, photo)
    if not fill.any() and not empty:
        raise EmptyMaskError("The mask marks nothing within the crop: there is nothing to fill in.")
    return Mask(fill, (*notes, *mask.notes), mask.from_alpha)


def box_of(only: tuple[int, int, int, int], photo: Photo) -> np.ndarray:
    return masks.boxes([only], *photo.size)
