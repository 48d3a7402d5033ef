"""Reading what is to be shown: a photo, and a mask to begin with. It takes a while of a large one, so it is an errand, imports and all."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from moebius.view.picture import Picture

if TYPE_CHECKING:
    from moebius.pictures.photo import Photo

PASTED = "pasted.png"  # the name of what came from the clipboard


@dataclass(frozen=True, eq=False)
class Opened:
    photo: Photo
    picture: Picture
    marked: np.ndarray | None  # (H, W) bool
    path: Path
    notes: tuple[str, ...]


def read(source: Path | bytes, mask: Path | None, largest_side: int) -> Opened:
    from moebius.pictures import mask as masks
    from moebius.pictures import photo as photos

    path = source if isinstance(source, Path) else Path(PASTED)
    photo = photos.load(source)
    if not isinstance(source, Path):
        photo = replace(photo, name=PASTED)
    marked = None if mask is None else masks.load(mask, photo, force=True, allow_empty=True)  # it is seen at once
    notes = (*photo.notes, *(marked.notes if marked else ()))
    return Opened(photo, Picture.of(photo, largest_side), None if marked is None else marked.fill, path, notes)
