"""The noise of a run: what the seeds draw, in which order."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from moebius.errors import UsageError
from moebius.inpaint.settings import Settings
from moebius.model import noise


def draws(
    settings: Settings, own: Mapping[str, np.ndarray] | None, shape: tuple[int, int, int, int], windows: int
) -> dict[str, np.ndarray]:
    """The standard normal draws of a run for `shape` (N, 4, h, w), N = seeds × windows:

    image (N, 4, h, w)   the posterior sample of the image's latents
    masked (N, 4, h, w)  the same for the masked image
    start (N, 4, h, w)   the noise that sampling starts from
    offset (N, 4, 1, 1)  times noise_offset, added to start: one shift a channel

    Every seed has a stream of its own, and draws these four, in this order, for one window after the other: what a window
    gets depends on no other seed. An array in `own` takes the place of the draws of its name and leaves the others as they were.
    """
    shapes = {"image": shape, "masked": shape, "start": shape, "offset": (*shape[:2], 1, 1)}
    own = {} if own is None else own
    if not isinstance(own, Mapping):
        raise UsageError(f"noise is a {type(own).__name__}; give a dict of arrays, with the names {', '.join(shapes)}.")
    for name, array in own.items():
        if name not in shapes:
            raise UsageError(f"noise has no draw named {name!r}; its names are {', '.join(shapes)}.")
        if np.asarray(array).dtype.kind not in "fiu":
            raise UsageError(f"noise[{name!r}] is an array of {np.asarray(array).dtype}; give floats.")
        if np.shape(array) != shapes[name]:
            raise UsageError(f"noise[{name!r}] is {np.shape(array)}; it must be {shapes[name]} (seeds × windows first).")
    drawn = {name: np.empty(s, np.float32) for name, s in shapes.items()}
    for image in range(shape[0] // windows if windows else 0):
        source = noise.source(settings.seed + image, settings.rng)
        for i in range(image * windows, (image + 1) * windows):
            for name, s in shapes.items():
                drawn[name][i] = source.draw((1, *s[1:]))[0]
    return {name: np.asarray(own.get(name, drawn[name])) for name in shapes}
