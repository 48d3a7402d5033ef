"""How what a model made of a window is put back: pasted through the blurred mask, joined to the picture's colours, or raw."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
from PIL import Image

from moebius.errors import UsageError
from moebius.pictures import published
from moebius.pictures.cut import Cut
from moebius.pictures.grain import BEYOND, Detail, grain, inward, mixed, residual
from moebius.pictures.mask import dilated, feathered, support
from moebius.pictures.pixels import LANCZOS, bounds, piece, put, rescaled, taken
from moebius.pictures.seam import film, matched, thickness
from moebius.pictures.windows import Window

Blend = Literal["paste", "match", "compensate", "raw"]
Seam = tuple[slice, slice, np.ndarray]  # rows, columns, and of these how much of a filling shows

NO_DETAIL = Detail()
MARGIN = 8  # pixels of the picture around what a scaled window fills that joining looks at, at least: all of `seam`, and the box that
# `compensate` compares in
COARSE = 2  # pixels of a scaled window: what is finer it could not draw


def put_back(
    into: np.ndarray,
    result: np.ndarray,
    cut: Cut,
    blend: Blend = "paste",
    picture: np.ndarray | None = None,
    detail: Detail = NO_DETAIL,
    seam: Seam | None = None,
) -> None:
    """Puts the model's `result` (h, w, 3) into the picture's pixels, of the same or the other integer type.

    What a scaled window made is enlarged first: all of this is at the picture's own resolution.
    ⌊(result·w + into·(255-w)) / 255⌋ with w from `seam_weights`, in exact arithmetic: where w is 0, or where `result` is what
    was cut from a native window, nothing changes. `match` first joins the result's colours to the picture's, `seam.matched`;
    `compensate` adds 1.1 times how much brighter the picture is than the result around the mask. `raw` replaces the whole window.
    `detail` is the grain that `match` adds.
    `picture` is what the windows were cut from, where `into` has other windows' fillings already. Of several windows of one island each
    shows as `Window.share` says. `seam` is its `seam_weights`, where they are there.
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
    rows, columns, w = seam_weights(window) if seam is None else seam
    if not w.any():
        return
    picture = into if picture is None else picture
    filling, delta = (_native if window.native else _enlarged)(picture, result, cut, blend, rows, columns)
    if blend == "match" and detail.part:
        filling = _with_grain(picture, window, filling, rows, columns, detail)
    _put(into, picture, window, filling, w, delta, rows, columns)


def _with_grain(picture: np.ndarray, window: Window, filling: np.ndarray, rows: slice, columns: slice, detail: Detail) -> np.ndarray:
    """The filling of these rows and columns, and so much of the grain around it where the hole is thick."""
    fill = window.islands.fill
    (top, bottom), (left, right) = (
        (max(0, s.start - BEYOND), min(n, s.stop + BEYOND)) for s, n in zip((rows, columns), fill.shape, strict=True)
    )
    inner = slice(rows.start - top, rows.stop - top), slice(columns.start - left, columns.stop - left)
    hole, own = fill[top:bottom, left:right], np.zeros((bottom - top, right - left), bool)
    own[inner] = window.own(rows, columns)
    filled = picture[top:bottom, left:right].copy()
    filled[own] = filling[own[inner]]
    thick = thickness(hole, window.width / window.target[0])
    exact = grain(filled, own, hole, mixed(detail.seed, window.x, window.y))
    exact *= (detail.part * thick)[..., None]
    exact += filled
    np.rint(np.clip(exact, 0, np.iinfo(picture.dtype).max, out=exact), out=exact)
    return exact[inner].astype(picture.dtype)


def put_finer(into: np.ndarray, result: np.ndarray, cut: Cut, base: np.ndarray) -> None:
    """Lays what a finer window made over a scaled one's fill, in `base`, the picture with that: in `into`, which began as `base`.

    base + (d - mean of d), d = result - what was cut, the mean over COARSE of the scaled window's pixels either way: all that the scaled
    window could tell stays as it is, colours and structure. Towards the rim it fades to nothing, for there the fill is joined already.
    """
    window = cut.window
    (rows, columns), over = window.inside(), window.over or 1.0
    own = window.own(rows, columns)
    drawn, given = (_in_the_picture(window, rescaled(p, into.dtype), rows, columns).astype(np.int64) for p in (result, cut.rgb))
    fine = residual(drawn - given, np.ones_like(own), max(1, round(COARSE * over)))
    hole = window.islands.fill[rows, columns]
    exact = base[rows, columns] + fine * inward(hole)[..., None]
    filled = np.rint(np.clip(exact, 0, np.iinfo(into.dtype).max)).astype(into.dtype)
    _mix(into[rows, columns], filled, np.where(own, window.share(rows, columns), np.uint8(0)), np.zeros(3))


def kept(into: np.ndarray, start: np.ndarray, fill: np.ndarray, part: float) -> None:
    """part·start + (1 - part)·into, where it is filled in."""
    into[fill] = np.rint(part * start[fill].astype(np.float64) + (1 - part) * into[fill].astype(np.float64))


def is_thin(window: Window) -> bool:
    """Whether `match` has the film alone in all that the window fills, whatever a model would make of it."""
    rows, columns = window.inside()
    return not thickness(window.islands.fill[rows, columns], window.width / window.target[0])[window.own(rows, columns)].any()


def put_film(into: np.ndarray, window: Window, picture: np.ndarray, seam: Seam | None = None) -> None:
    """`put_back` with `match` for what `is_thin`: no model needed."""
    rows, columns, w = seam_weights(window) if seam is None else seam
    if w.any():
        here, inner = _around(window, rows, columns)
        filling = film(picture[here], window.islands.fill[here])[inner]
        _put(into, picture, window, filling, w, np.zeros(3), rows, columns)


def _put(
    into: np.ndarray,
    picture: np.ndarray,
    window: Window,
    filling: np.ndarray,
    w: np.ndarray,
    delta: np.ndarray,
    rows: slice,
    columns: slice,
) -> None:
    """The filling of these rows and columns, blended with the picture, and shared with other windows of its island."""
    if window.before is None:
        _mix(into[rows, columns], filling, w, delta)
        return
    filled = picture[rows, columns].copy()
    _mix(filled, filling, w, delta)
    _mix(into[rows, columns], filled, np.where(w > 0, window.share(rows, columns), np.uint8(0)), np.zeros(3))


def _native(picture: np.ndarray, result: np.ndarray, cut: Cut, blend: Blend, rows: slice, columns: slice) -> tuple[np.ndarray, np.ndarray]:
    """What a native window's result puts at these rows and columns of the picture, and what is added to it, a number a channel."""
    m = cut.m[0, 0] > 0
    if blend == "match":
        result = matched(result, cut.rgb, m, 1.0)
    delta = _brightness_difference(cut.rgb, result, cut.own, m) if blend == "compensate" else np.zeros(3)
    return result[cut.window.relative(rows, columns)], delta


def _enlarged(
    picture: np.ndarray, result: np.ndarray, cut: Cut, blend: Blend, rows: slice, columns: slice
) -> tuple[np.ndarray, np.ndarray]:
    """The same of a scaled window: first enlarged, then joined, so that the hole's border fits at the picture's own resolution."""
    window = cut.window
    here, inner = _around(window, rows, columns)
    result, picture, delta = _in_the_picture(window, result, *here), picture[here], np.zeros(3)
    if blend != "paste":
        hole = window.islands.fill[here]
        if blend == "match":
            result = matched(result, picture, hole, window.width / window.target[0])
        else:
            delta = _brightness_difference(picture, result, window.own(*here), hole)
    return result[inner], delta


def _around(window: Window, rows: slice, columns: slice) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """These rows and columns and MARGIN more, as far as the window goes; and where in those they lie."""
    (top, bottom), (left, right) = (
        (max(s.start, n.start - MARGIN), min(s.stop, n.stop + MARGIN)) for s, n in zip(window.inside(), (rows, columns), strict=True)
    )
    inner = slice(rows.start - top, rows.stop - top), slice(columns.start - left, columns.stop - left)
    return (slice(top, bottom), slice(left, right)), inner


def seam_weights(window: Window) -> Seam:
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
        put(picture, filling, w == 255)
        w = np.where(w == 255, np.uint8(0), w)
    step = max(1, 2**20 // w.shape[1])  # rows at a time: the floats of a whole photo would take gigabytes
    for top in range(0, len(w), step):
        strip = slice(top, top + step)
        seam = w[strip] != 0
        shown = w[strip][seam][:, None].astype(np.float64)
        exact = ((taken(filling[strip], seam) + delta) * shown + taken(picture[strip], seam) * (255 - shown)) / 255
        put(picture[strip], np.floor(np.clip(exact, 0, np.iinfo(picture.dtype).max)).astype(picture.dtype), seam)
