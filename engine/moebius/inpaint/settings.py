"""What decides a result besides the picture, the mask and the model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, get_args

import numpy as np

from moebius.errors import UsageError, did_you_mean
from moebius.model.noise import Rng
from moebius.model.scheduler import DDIM
from moebius.pictures.blend import Blend
from moebius.pictures.windows import MOST, Crop

LARGEST_RADIUS = 10_000  # pixels, of grow and feather
LARGEST_COUNT = 1000  # pictures of one run
LARGEST_SEED = 2**64 - 1  # of the last picture; PyTorch's generator takes no larger one
LARGEST_FACTOR = 1000  # of guidance and noise_offset, either sign: far beyond any use, and far within float32


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
    blend: Blend | None = None  # None: as the model's file says (nano: match), else paste, as published; with crop="upstream" paste
    refine: float = 0  # with which strength native windows draw over what a scaled one made; 0: there are none
    detail: float | None = None  # how much grain match adds, from 0 to 1; None: as in `loaded`
    grow: float = 0
    feather: float | None = None  # None: the published blur of 3, in the model's pixels; with match none
    invert: bool = False

    def __post_init__(self) -> None:
        self._check_numbers()
        for name in ("grow", "feather"):
            value = getattr(self, name)
            if value is not None and not (_is_number(value) and 0 <= value <= LARGEST_RADIUS):
                raise UsageError(f"{name} is {_short(value)}; it must be a number of pixels from 0 to {LARGEST_RADIUS}.")
        if not isinstance(self.invert, bool):
            raise UsageError(f"invert is {_short(self.invert)}; it must be True or False.")
        for name, choices in (("rng", get_args(Rng)), ("blend", get_args(Blend)), ("crop", get_args(Crop))):
            value = getattr(self, name)
            if not (isinstance(value, str) and value in choices) and not (name == "blend" and value is None):
                raise UsageError(f"{name} is {_short(value)}; choose one of {', '.join(choices)}.{did_you_mean(value, choices)}")

    def _check_numbers(self) -> None:
        if not _is_integer(self.steps) or self.steps < 1:
            raise UsageError(f"steps is {_short(self.steps)}; it must be a whole number from 1 up.")
        if not _is_integer(self.max_windows) or self.max_windows < 1:
            raise UsageError(f"max_windows is {_short(self.max_windows)}; it must be a whole number from 1 up.")
        if self.detail is not None and not (_is_number(self.detail) and 0 <= self.detail <= 1):
            raise UsageError(f"detail is {_short(self.detail)}; it must be a number from 0 to 1.")
        if not (_is_number(self.refine) and 0 <= self.refine <= 1):
            raise UsageError(f"refine is {_short(self.refine)}; it must be a number from 0, for none, to 1.")
        if not _is_integer(self.num_images) or not 1 <= self.num_images <= LARGEST_COUNT:
            raise UsageError(f"num_images is {_short(self.num_images)}; it must be a whole number from 1 to {LARGEST_COUNT}.")
        for name in ("guidance", "noise_offset"):
            value = getattr(self, name)
            if not _is_number(value) or not -LARGEST_FACTOR <= value <= LARGEST_FACTOR:  # nor NaN
                raise UsageError(f"{name} is {_short(value)}; it must be a number from -{LARGEST_FACTOR} to {LARGEST_FACTOR}.")
        if not _is_number(self.strength) or not 0 < self.strength <= 1:
            raise UsageError(f"strength is {_short(self.strength)}; it must be above 0 and at most 1, which starts from pure noise.")
        if not _is_integer(self.seed) or not 0 <= self.seed <= LARGEST_SEED - (self.num_images - 1):
            raise UsageError(f"seed is {_short(self.seed)}; it must be an integer from 0 up, and that of the last picture below 2⁶⁴.")
        DDIM().timesteps(self.steps, self.strength)  # too many steps, or none left by the strength
        if self.refine:
            DDIM().timesteps(self.steps, self.refine)


def _is_integer(value: Any) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)


def _short(value: Any) -> str:
    """A value in a message: it may come from a file, and be of any length."""
    try:
        text = repr(value)
    except ValueError:  # Python writes no whole number of more than 4300 digits
        return f"a {type(value).__name__} that is too long to print"
    return text if len(text) <= 60 else text[:57] + "…"
