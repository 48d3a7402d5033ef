"""What a run hands out: a step while it goes on, a result at its end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from PIL import Image

from moebius.inpaint.record import of_image
from moebius.model.contract import StepState
from moebius.pictures.photo import Photo
from moebius.pictures.save import save
from moebius.pictures.windows import Window


@dataclass
class Result:
    """`images` and `raws` have one entry a seed; `image` and `raw` are the first."""

    images: list[Image.Image]
    latents: np.ndarray  # (seeds·windows, 4, h, w), scaled as the UNet sees them
    timings: dict[str, float]  # seconds: prepare, encode, denoise, decode, blend
    metadata: dict[str, Any]  # what was done, for the file
    notes: tuple[str, ...]  # what the user should know
    photo: Photo
    windows: list[Window]
    _raw_of: Callable[[int], Image.Image] = field(repr=False)
    _array_of: Callable[[int], np.ndarray] = field(repr=False)

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

    def save(self, path: Any, *, index: int = 0, metadata: bool = True, quality: Any = None) -> tuple[str, ...]:
        """Writes one image with what belongs to the photo (profile, EXIF) and what was done; returns notes."""
        record = of_image(self.metadata, index) if metadata else None
        return save(self.images[index], path, like=self.photo, metadata=record, quality=quality)


@dataclass(frozen=True)
class Step:
    """After one sampling step. Ask for the preview, the patches, or for `state.latents()`, before the next one."""

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
