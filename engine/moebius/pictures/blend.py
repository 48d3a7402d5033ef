"""How what a model made of a window is put back: pasted through the blurred mask, joined to the picture's colours, or raw."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
from PIL import Image

from moebius.errors import UsageError
from moebius.pictures import published
from moebius.pictures.cut import Cut
from moebius.pictures.mask import dilated, feathered, support
from moebius.pictures.pixels import LANCZOS, bounds, piece, rescaled
from moebius.pictures.seam import matched
from moebius.pictures.windows import Window

Blend = Literal["paste", "match", "compensate", "raw"]

MARGIN = 8  # pixels of the picture around what a scaled window fills that joining looks at, at least: all of `seam`, and the box that
# `compensate` compares in


def put_back(into: np.ndarray, result: np.ndarray, cut: Cut, blend: Blend = "paste") -> None:
    """Puts the model's `result` (h, w, 3) into the picture's pixels, of the same or the other integer type.

    What a scaled window made is enlarged first: all of this is at the picture's own resolution.
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
    rows, columns, w = seam_weights(window)
    if w.any():
        filling, delta = (_native if window.native else _enlarged)(into, result, cut, blend, rows, columns)
        _mix(into[rows, columns], filling, w, delta)


def _native(into: np.ndarray, result: np.ndarray, cut: Cut, blend: Blend, rows: slice, columns: slice) -> tuple[np.ndarray, np.ndarray]:
    """What a native window's result puts at these rows and columns of the picture, and what is added to it, a number a channel."""
    m = cut.m[0, 0] > 0
    if blend == "match":
        result = matched(result, cut.rgb, m)
    delta = _brightness_difference(cut.rgb, result, cut.own, m) if blend == "compensate" else np.zeros(3)
    return result[cut.window.relative(rows, columns)], delta


def _enlarged(into: np.ndarray, result: np.ndarray, cut: Cut, blend: Blend, rows: slice, columns: slice) -> tuple[np.ndarray, np.ndarray]:
    """The same of a scaled window: first enlarged, then joined, so that the hole's border fits at the picture's own resolution."""
    window = cut.window
    across, along = (
        slice(max(s.start, n.start - MARGIN), min(s.stop, n.stop + MARGIN)) for s, n in zip(window.inside(), (rows, columns), strict=True)
    )
    here = across, along
    result, picture, delta = _in_the_picture(window, result, *here), into[here], np.zeros(3)
    if blend != "paste":
        hole = window.islands.fill[here]
        if blend == "match":
            result = matched(result, picture, hole)
        else:
            delta = _brightness_difference(picture, result, window.own(*here), hole)
    inner = tuple(slice(n.start - s.start, n.stop - s.start) for s, n in zip(here, (rows, columns), strict=True))
    return result[inner], delta


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
        # The film hangs where resizing left no trace of what was in the hole, if anywhere.
        clear = m if cut.window.native else dilated(m, LANCZOS * max(1, 1 / cut.window.scale) + 1)
        return Image.fromarray(np.where(m[..., None], matched(result, picture, m if clear.all() else clear), picture))
    return (published.paste if blend == "paste" else published.compensate)(result, cut.prepared)


def _brightness_difference(picture: np.ndarray, result: np.ndarray, own: np.ndarray, hole: np.ndarray) -> np.ndarray:
    """1.1 times `published.compensate`'s delta: per channel, the mean of the picture minus that of the result around the mask."""
    around = published.neighbourhood(own) & ~hole
    if not around.any():
        return np.zeros(3)
    delta: np.ndarray = published.COMPENSATION * (picture[around].mean(axis=0) - result[around].mean(axis=0))
    return delta


def _in_the_picture(window: Window, result: np.ndarray, rows: slice, columns: slice) -> np.ndarray:
    """The result's pixels for these of the picture, at the picture's resolution."""
    inside = window.relative(rows, columns)
    return result[inside] if window.native else piece(result, (window.width, window.height), *inside)


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
