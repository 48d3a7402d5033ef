"""What decides a result besides the picture, the mask and the model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, get_args

import numpy as np

from moebius.errors import UsageError
from moebius.model.noise import Rng
from moebius.pictures.blend import Blend
from moebius.pictures.windows import MOST, Crop

LARGEST_RADIUS = 10_000  # pixels, of grow and feather


@dataclass(frozen=True)
class Settings:
    """The settings of one run, checked. `moebius info` prints them, `--like` runs them again."""

    steps: int = 20
    guidance: float = 2.5  # 1 skips the unconditional half of the work
    strength: float = 0.99
    noise_offset: float = 0.0357
    seed: int = 0
    rng: Rng = "numpy"
    num_images: int = 1  # seeds seed, seed + 1, …
    crop: Crop = "auto"
    max_windows: int = MOST  # for one picture
    blend: Blend | None = None  # None: match for nano, paste (as published) for all others and with crop="upstream"
    detail: float | None = None  # how much grain match adds, from 0 to 1; None: for nano as in `loaded`, for all others none
    grow: float = 0
    feather: float | None = None  # None: the published blur of 3, in the model's pixels; with match none
    invert: bool = False

    def __post_init__(self) -> None:
        for name in ("steps", "num_images", "max_windows"):
            value = getattr(self, name)
            if not _is_integer(value) or value < 1:
                raise UsageError(f"{name} is {value!r}; it must be a whole number from 1 up.")
        for name in ("guidance", "strength", "noise_offset"):
            value = getattr(self, name)
            if not _is_number(value) or not np.isfinite(value):
                raise UsageError(f"{name} is {value!r}; it must be a finite number.")
        if not _is_integer(self.seed) or self.seed < 0:
            raise UsageError(f"seed is {self.seed!r}; it must be an integer from 0 up.")
        for name in ("grow", "feather"):
            value = getattr(self, name)
            if value is not None and not (_is_number(value) and 0 <= value <= LARGEST_RADIUS):
                raise UsageError(f"{name} is {value!r}; it must be a number of pixels from 0 to {LARGEST_RADIUS}.")
        if self.detail is not None and not (_is_number(self.detail) and 0 <= self.detail <= 1):
            raise UsageError(f"detail is {self.detail!r}; it must be a number from 0 to 1.")
        if not isinstance(self.invert, bool):
            raise UsageError(f"invert is {self.invert!r}; it must be True or False.")
        for name, choices in (("rng", get_args(Rng)), ("blend", get_args(Blend)), ("crop", get_args(Crop))):
            if getattr(self, name) not in choices and (name, getattr(self, name)) != ("blend", None):
                raise UsageError(f"{name} is {getattr(self, name)!r}; choose one of {', '.join(choices)}.")


def _is_integer(value: Any) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | np.number) and not isinstance(value, bool)
