"""The noise of a run: what the seeds draw, in which order."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial

import numpy as np

from moebius.errors import UsageError
from moebius.inpaint.settings import Settings
from moebius.model import noise
from moebius.pictures.windows import Window

Draw = Callable[[Settings, Sequence[Window]], Mapping[str, np.ndarray]]  # a run's draws for some of its windows
Drawn = Callable[[], Mapping[str, np.ndarray]]
Origin = tuple[int, int, int]  # whose draws a window has, and how many latent rows and columns they are shifted


def shared(windows: Sequence[Window], side: int) -> list[Origin]:
    """The draws of windows with `side` latents a side: their own, but that all windows of one island and size have those of its first,
    repeated beyond its borders: what two windows both see begins the same in both."""
    first: dict[tuple[int, int], int] = {}
    found = []
    for w, window in enumerate(windows):
        origin = w if window.before is None else first.setdefault((window.index, window.width), w)
        at = windows[origin]
        found.append((origin, round((window.y - at.y) * side / window.height), round((window.x - at.x) * side / window.width)))
    return found


def drawn_later(
    settings: Settings, own: Mapping[str, np.ndarray] | None, shape: tuple[int, int, int, int], windows: Sequence[Origin]
) -> Drawn:
    """`draws` when they are first asked for: while the device has work the host has time for them. The caller's own are looked at now."""
    drawn = cache(partial(draws, settings, own, shape, windows))
    if own is not None:
        drawn()
    return drawn


def draws(
    settings: Settings, own: Mapping[str, np.ndarray] | None, shape: tuple[int, int, int, int], windows: Sequence[Origin]
) -> dict[str, np.ndarray]:
    """The standard normal draws of a run for `shape` (N, 4, h, w), N = seeds × windows:

    image (N, 4, h, w)   the posterior sample of the image's latents
    masked (N, 4, h, w)  the same for the masked image
    start (N, 4, h, w)   the noise that sampling starts from
    offset (N, 4, 1, 1)  times noise_offset, added to start: one shift a channel

    Every seed has a stream of its own, and draws these four, in this order, for one window after the other: what a window
    gets depends on no other seed. `windows` is what `shared` makes of the picture's. An array in `own` takes the place of the
    draws of its name and leaves the others as they were.
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
    count = len(windows)
    for image in range(shape[0] // count if count else 0):
        source = noise.source(settings.seed + image, settings.rng)
        for w, (origin, down, right) in enumerate(windows):
            for name, s in shapes.items():
                one = source.draw((1, *s[1:]))[0]
                if origin != w:
                    one = np.roll(drawn[name][image * count + origin], (-down, -right), axis=(1, 2))
                drawn[name][image * count + w] = one
    return {name: np.asarray(own.get(name, drawn[name])) for name in shapes}
