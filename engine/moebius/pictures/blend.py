"""How what a model made of a window is put back: pasted through the blurred mask, joined to the picture's colours, or raw."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
from PIL import Image

from moebius.errors import UsageError
from moebius.pictures import published
from moebius.pictures.cut import Cut
from moebius.pictures.mask import dilated, feathered, support
from moebius.pictures.pixels import bounds, rescaled, resized
from moebius.pictures.seam import matched
from moebius.pictures.windows import Window

Blend = Literal["paste", "match", "compensate", "raw"]

LANCZOS = 3  # how many pixels it reaches, of the larger ones


def put_back(into: np.ndarray, result: np.ndarray, cut: Cut, blend: Blend = "paste") -> None:
    """Puts the model's `result` (h, w, 3) into the picture's pixels, of the same or the other integer type.

    ⌊(result·w + into·(255-w)) / 255⌋ with w from `seam_weights`, in exact arithmetic: where w is 0, or where `result` is what
    was cut from a native window, nothing changes. `match` first joins the result's colours to the picture's, `seam.matched`;
    `compensate` adds 1.1 times how much brighter the picture is than the result around the mask. `raw` replaces the whole window.
    """
    if blend not in get_args(Blend):
        raise UsageError(f"blend is {blend!r}; choose one of {', '.join(get_args(Blend))}.")
    if result.shape != cut.rgb.shape:
        raise UsageError(f"The result is {result.shape}; this window takes {cut.rgb.shape}.")
    window, shape = cut.window, cut.window.islands.fill.shape
    if into.shape[:2] != shape or into.dtype != cut.rgb.dtype:
        raise UsageError(f"The picture is {into.shape} {into.dtype}; this window was cut from {shape} {cut.rgb.dtype}.")
    result = rescaled(result, into.dtype)
    if blend == "raw":
        rows, columns = window.inside()
        into[rows, columns] = _in_the_picture(window, result, rows, columns)
        return
    if blend == "match":
        result = _matched(window, result, cut.rgb, cut.m[0, 0] > 0)
    rows, columns, w = seam_weights(window)
    if not w.any():
        return
    delta = published.COMPENSATION * _brightness_difference(result, cut) if blend == "compensate" else np.zeros(3)
    _mix(into[rows, columns], _in_the_picture(window, result, rows, columns), w, delta)


def seam_weights(window: Window) -> tuple[slice, slice, np.ndarray]:
    """Rows, columns, and how much of the filling shows there, 0 to 255 (uint8); nothing of it shows elsewhere."""
    rows, columns = window.inside()
    own = window.own(rows, columns)
    tight, reach = bounds(own), support(window.radius)
    # A smaller piece gives the same bytes: a mask ends `reach` pixels before its border, or at the picture's.
    near = tuple(slice(max(0, s.start - reach), min(n, s.stop + reach)) for s, n in zip(tight, own.shape, strict=True))
    rows, columns = (slice(s.start + n.start, s.start + n.stop) for s, n in zip((rows, columns), near, strict=True))
    return rows, columns, feathered(own[near], window.radius)


def published_picture(result: np.ndarray, cut: Cut, blend: Blend = "paste") -> Image.Image:
    """What the published program returns, at the size it works at, or the same matched. For cuts of `upstream` windows only."""
    if cut.prepared is None:
        raise UsageError('Only crop="upstream" has a published picture.')
    if blend == "raw":
        return Image.fromarray(result)
    if blend == "match":
        picture, m = np.asarray(cut.prepared.image), cut.m[0, 0] > 0
        return Image.fromarray(np.where(m[..., None], _matched(cut.window, result, picture, m), picture))
    return (published.paste if blend == "paste" else published.compensate)(result, cut.prepared)


def _matched(window: Window, result: np.ndarray, picture: np.ndarray, hole: np.ndarray) -> np.ndarray:
    """`seam.matched`; in a scaled window the film hangs where resizing left no trace of what was in the hole, if anywhere."""
    clear = hole if window.native else dilated(hole, LANCZOS * max(1, 1 / window.scale) + 1)
    return matched(result, picture, hole if clear.all() else clear)


def _brightness_difference(result: np.ndarray, cut: Cut) -> np.ndarray:
    """Per channel, the mean of the picture minus that of the result around the mask: `published.compensate`'s delta."""
    around = published.neighbourhood(cut.own) & (cut.m[0, 0] == 0)
    if not around.any():
        return np.zeros(3)
    delta: np.ndarray = cut.rgb[around].mean(axis=0) - result[around].mean(axis=0)
    return delta


def _in_the_picture(window: Window, result: np.ndarray, rows: slice, columns: slice) -> np.ndarray:
    """The result's pixels for these of the picture, at the picture's resolution."""
    y, x = window.relative(rows, columns)
    if window.native:
        return result[y, x]
    (width, height), size = window.target, (columns.stop - columns.start, rows.stop - rows.start)
    high, wide = height / window.height, width / window.width
    return resized(result, size, (x.start * wide, y.start * high, min(x.stop * wide, width), min(y.stop * high, height)))


def _mix(picture: np.ndarray, filling: np.ndarray, w: np.ndarray, delta: np.ndarray) -> None:
    """⌊((filling + delta)·w + picture·(255-w)) / 255⌋, clipped, into `picture`."""
    if not delta.any():
        np.copyto(picture, filling, where=w[..., None] == 255)
        w = np.where(w == 255, np.uint8(0), w)
    step = max(1, 2**20 // w.shape[1])  # rows at a time: the floats of a whole photo would take gigabytes
    for top in range(0, len(w), step):
        strip = slice(top, top + step)
        seam = np.nonzero(w[strip])
        shown = w[strip][seam][:, None].astype(np.float64)
        exact = ((filling[strip][seam] + delta) * shown + picture[strip][seam] * (255 - shown)) / 255
        picture[strip][seam] = np.floor(np.clip(exact, 0, np.iinfo(picture.dtype).max))
