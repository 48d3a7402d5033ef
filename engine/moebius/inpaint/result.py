"""What a run hands out: a step while it goes on, a result at its end."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from moebius.errors import UsageError
from moebius.inpaint.record import of_image
from moebius.model.contract import StepState
from moebius.pictures import palette
from moebius.pictures.formats import ENDINGS
from moebius.pictures.photo import Photo, load
from moebius.pictures.pixels import rescaled
from moebius.pictures.save import encoded, save
from moebius.pictures.windows import Window

SHOWN_SIDE = 2048


@dataclass(repr=False)
class Result:
    """`images` and `raws` have one entry a seed; `image` and `raw` are the first. A notebook shows the image; it can be pickled."""

    images: list[Image.Image]
    latents: np.ndarray  # (seeds·windows, 4, h, w), scaled as the UNet sees them
    timings: dict[str, float]  # seconds: prepare, encode, denoise, decode, blend
    metadata: dict[str, Any]  # what was done, for the file
    notes: tuple[str, ...]  # what the user should know
    photo: Photo
    windows: list[Window]
    _raw_of: Callable[[int], Image.Image]
    _array_of: Callable[[int], np.ndarray]

    def __repr__(self) -> str:
        (width, height), images, windows = self.image.size, len(self.images), len(self.windows)
        seconds, device = sum(self.timings.values()), self.metadata.get("device")
        return f"<Result {width}×{height} {self.image.mode}, images: {images}, windows: {windows}, {seconds:.1f} s on {device}>"

    def _repr_png_(self) -> bytes:
        """What a notebook shows, and keeps in its file: at most SHOWN_SIDE pixels a side."""
        image = self.image
        if image.mode not in ("1", "L", "LA", "P", "RGB", "RGBA"):
            image = Image.fromarray(np.ascontiguousarray(rescaled(load(image).rgb, np.dtype(np.uint8))))
        if max(image.size) > SHOWN_SIDE:
            image = image.convert("RGBA" if image.has_transparency_data else "RGB")
            image.thumbnail((SHOWN_SIDE, SHOWN_SIDE))
        return encoded(image, Path("shown.png"))[0]

    def __getstate__(self) -> dict[str, Any]:
        """Without the run that made it, and so without the model: what would be worked out on demand is there instead."""
        pictures = {name: [palette.packed(image) for image in images] for name, images in (("images", self.images), ("raws", self.raws))}
        return self.__dict__ | pictures | {"arrays": self.arrays, "_raw_of": None, "_array_of": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state | {name: [palette.unpacked(image) for image in state[name]] for name in ("images", "raws")})

    @property
    def image(self) -> Image.Image:
        return self.images[0]

    @cached_property
    def arrays(self) -> list[np.ndarray]:
        """The images in the shape and type of the array or picture that came in: 16 bits and floats in colour have no Pillow mode.

        With crop="upstream" they are those of `images`: 8 bits, at the size the published program works at.
        """
        return [self._array_of(i) for i in range(len(self.images))]

    @property
    def raw(self) -> Image.Image:
        """The decoder's picture, not blended: every window's whole square in the photo."""
        return self.raws[0]

    @cached_property
    def raws(self) -> list[Image.Image]:
        return [self._raw_of(i) for i in range(len(self.images))]

    def save(self, file: Any, *, format: str | None = None, index: int = 0, metadata: bool = True, quality: Any = None) -> tuple[str, ...]:
        """Writes one image with what belongs to the photo (profile, EXIF) and what was done; returns notes.

        `file` is a path, whose ending is the format, or an open binary file together with a `format`: "png", "jpg", "webp", ….
        """
        if isinstance(file, str | os.PathLike):
            if format is not None:
                raise UsageError("A path says its format by its ending; format= goes with an open file.")
            return save(self._image(index), os.fspath(file), **self._beside(index, metadata, quality))
        if not hasattr(file, "write"):
            raise UsageError(f"The file is a {type(file).__name__}; give a path, or a file that is open for writing in binary mode.")
        data, notes = encoded(self._image(index), _named(format), **self._beside(index, metadata, quality))
        try:
            file.write(data)
        except TypeError:
            raise UsageError("The file is open for text; open it in binary mode, with 'wb'.") from None
        return notes

    def to_bytes(self, format: str = "png", *, index: int = 0, metadata: bool = True, quality: Any = None) -> bytes:
        """The bytes of the file that `save` would write."""
        return encoded(self._image(index), _named(format), **self._beside(index, metadata, quality))[0]

    def _image(self, index: int) -> Image.Image:
        if not isinstance(index, int | np.integer) or not -len(self.images) <= index < len(self.images):
            raise UsageError(f"index is {index!r}; the result has {len(self.images)} images, from 0 on.")
        return self.images[index]

    def _beside(self, index: int, metadata: bool, quality: Any) -> dict[str, Any]:
        """What goes into the file beside the image."""
        record = of_image(self.metadata, index % len(self.images)) if metadata else None
        return {"like": self.photo, "metadata": record, "quality": quality}


def _named(format: str | None) -> Path:
    """A name with the ending of a format."""
    if not isinstance(format, str) or not format.strip("."):
        names = ", ".join(ending[1:] for ending in ENDINGS)
        raise UsageError(f"An open file has no ending that says what to write; give a format=, one of {names}.")
    return Path(f"picture.{format.strip('.').lower()}")


@dataclass(frozen=True)
class Step:
    """After one sampling step. Preview, patches and `state.latents()` are made when they are asked for, which waits for the step."""

    index: int
    total: int
    t: int
    state: StepState = field(repr=False)
    _preview: Callable[[], Image.Image] = field(repr=False)
    _patches: Callable[[], list[tuple[Window, np.ndarray]]] = field(repr=False)

    @property
    def preview(self) -> Image.Image:
        """The photo at most 256 pixels a side, with the current estimate in the holes."""
        return self._preview()

    @property
    def patches(self) -> list[tuple[Window, np.ndarray]]:
        """What the preview is made of: windows of the photo and the current estimate there, (h, w, 3) uint8, a pixel a latent."""
        return self._patches()
