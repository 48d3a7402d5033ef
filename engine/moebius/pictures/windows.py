"""Where to work: square windows of the picture, cut to the side a model was trained at, and put back.

`auto` gives every island of the mask a window of its own, or one with its neighbours, at the picture's own resolution where
that fits; `full` is the whole picture in one square; `upstream` is the whole picture resized as published.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from PIL import Image

from moebius.errors import UsageError
from moebius.pictures import published
from moebius.pictures.mask import feathered, grown, support
from moebius.pictures.photo import MAX_PIXELS, bounds
from moebius.pictures.seam import matched

Crop = Literal["auto", "full", "upstream"]
Blend = Literal["paste", "match", "compensate", "raw"]

CELL = 8
LANCZOS = 3  # how many pixels it reaches, of the larger ones
CONTEXT, SHARED_CONTEXT = 16, 8  # what part of a native window's side stays free around its island; around each of several islands
SCALED = 4, 3  # a scaled window's side by its island's longer one


@dataclass(frozen=True, eq=False)
class Islands:
    """The mask in cells of 8×8 pixels: which window fills the marked pixels of a cell."""

    fill: np.ndarray  # (H, W) bool
    window: np.ndarray  # (⌈H/8⌉, ⌈W/8⌉) int32

    def of(self, index: int, rows: slice, columns: slice) -> np.ndarray:
        """What window `index` fills of these pixels."""
        cells = self.window[rows.start // CELL : -(-rows.stop // CELL), columns.start // CELL : -(-columns.stop // CELL)] == index
        pixels = cells.repeat(CELL, axis=0).repeat(CELL, axis=1)
        y, x = rows.start % CELL, columns.start % CELL
        return pixels[y : y + rows.stop - rows.start, x : x + columns.stop - columns.start] & self.fill[rows, columns]


@dataclass(frozen=True, eq=False)
class Cut:
    """A window as a model sees it. Height and width are the model's."""

    x: np.ndarray  # (1, 3, h, w) float32 in [-1, 1]
    m: np.ndarray  # (1, 1, h, w) float32, 1 where the image is filled in
    rgb: np.ndarray  # (h, w, 3), of the photo's type
    own: np.ndarray  # (h, w) bool: what this window fills; m marks what other windows fill, too
    prepared: published.Prepared | None = None  # of `upstream`: its published picture and mask


@dataclass(frozen=True, eq=False)
class Window:
    x: int  # the corner in the picture; negative, and beyond the far border, where the window is padded
    y: int
    width: int  # in pixels of the picture
    height: int
    size: int  # as asked for
    target: tuple[int, int]  # (width, height) that the model works at
    islands: Islands
    index: int
    feather: float | None = None  # the radius of the blur, in pixels of the picture; None: the published 3, of the model's pixels
    upstream: bool = False

    @property
    def native(self) -> bool:
        """Not scaled."""
        return (self.width, self.height) == self.target

    @property
    def scale(self) -> float:
        """Pixels of the picture a pixel of the model."""
        return ((self.width / self.target[0]) * (self.height / self.target[1])) ** 0.5

    @property
    def radius(self) -> float:
        return published.BLUR_RADIUS * self.scale if self.feather is None else self.feather

    def inside(self) -> tuple[slice, slice]:
        """The rows and columns of the picture that the window covers."""
        tall, wide = self.islands.fill.shape
        return slice(max(0, self.y), min(tall, self.y + self.height)), slice(max(0, self.x), min(wide, self.x + self.width))

    def cut(self, rgb: np.ndarray) -> Cut:
        """Of a photo's pixels (H, W, 3). What lies outside the picture is its reflection, mask and all.

        A scaled window is resized by LANCZOS, and a pixel of it is marked when the mask marks any part of it.
        """
        if rgb.shape != (*self.islands.fill.shape, 3):
            raise UsageError(f"The picture is {rgb.shape}; the windows were made for a mask of {self.islands.fill.shape}.")
        if self.upstream:
            return self._published_cut(rgb)
        inside = self.inside()
        own = self.islands.of(self.index, *inside)
        square, mask = rgb[inside], self.islands.fill[inside]
        tall, wide = mask.shape
        if self.native:
            y, x = reflected(min(0, self.y), self.height, tall), reflected(min(0, self.x), self.width, wide)
            filled = np.zeros((self.height, self.width), bool)
            filled[self._here(inside)] = own
            square, mask, own = square[np.ix_(y, x)], mask[np.ix_(y, x)], filled
        elif self.width > wide:
            square, mask, own = _scaled(square.transpose(1, 0, 2), mask.T, own.T, self.x, self.width, self.size)
            square, mask, own = np.ascontiguousarray(square.transpose(1, 0, 2)), mask.T, own.T
        else:
            square, mask, own = _scaled(square, mask, own, min(0, self.y), self.height, self.size)
        return Cut(published.normalized(square), mask[None, None].astype(np.float32), square, own)

    def _published_cut(self, rgb: np.ndarray) -> Cut:
        picture = Image.fromarray(published.rescaled(rgb, np.dtype(np.uint8)))
        mask = Image.fromarray(self.islands.fill.astype(np.uint8) * 255)
        p = published.prepare(picture, mask, self.size)
        return Cut(p.x, p.m, published.rescaled(np.asarray(p.image), rgb.dtype), np.asarray(p.mask) > 128, p)

    def weights(self) -> tuple[slice, slice, np.ndarray]:
        """Rows, columns, and how much of the filling shows there, 0 to 255 (uint8); nothing of it shows elsewhere."""
        rows, columns = self.inside()
        own = self.islands.of(self.index, rows, columns)
        tight, reach = bounds(own), support(self.radius)
        # A smaller piece gives the same bytes: a mask ends `reach` pixels before its border, or at the picture's.
        near = tuple(slice(max(0, s.start - reach), min(n, s.stop + reach)) for s, n in zip(tight, own.shape, strict=True))
        rows, columns = (slice(s.start + n.start, s.start + n.stop) for s, n in zip((rows, columns), near, strict=True))
        return rows, columns, feathered(own[near], self.radius)

    def paste(self, into: np.ndarray, result: np.ndarray, cut: Cut, blend: Blend = "paste") -> None:
        """Puts the model's `result` (h, w, 3) into the picture's pixels, of the same or the other integer type.

        ⌊(result·w + into·(255-w)) / 255⌋ with w from `weights`, in exact arithmetic: where w is 0, or where `result` is what
        was cut from a native window, nothing changes. `match` first joins the result's colours to the picture's, `seam.matched`;
        `compensate` 1.1 times how much brighter the picture is than the result around the mask. `raw` replaces the whole window.
        """
        if blend not in get_args(Blend):
            raise UsageError(f"blend is {blend!r}; choose one of {', '.join(get_args(Blend))}.")
        if result.shape != cut.rgb.shape:
            raise UsageError(f"The result is {result.shape}; this window takes {cut.rgb.shape}.")
        if into.shape[:2] != self.islands.fill.shape or into.dtype != cut.rgb.dtype:
            raise UsageError(
                f"The picture is {into.shape} {into.dtype}; this window was cut from {self.islands.fill.shape} {cut.rgb.dtype}."
            )
        result = published.rescaled(result, into.dtype)
        if blend == "raw":
            rows, columns = self.inside()
            into[rows, columns] = self._back(result, rows, columns)
            return
        if blend == "match":
            result = self._matched(result, cut.rgb, cut.m[0, 0] > 0)
        rows, columns, w = self.weights()
        if not w.any():
            return
        delta = published.COMPENSATION * self._brighter(result, cut) if blend == "compensate" else np.zeros(3)
        out, part = self._back(result, rows, columns), into[rows, columns]
        if not delta.any():
            np.copyto(part, out, where=w[..., None] == 255)
            w = np.where(w == 255, np.uint8(0), w)
        step = max(1, 2**20 // w.shape[1])  # rows at a time: the floats of a whole photo would take gigabytes
        for top in range(0, len(w), step):
            strip = slice(top, top + step)
            seam = np.nonzero(w[strip])
            shown = w[strip][seam][:, None].astype(np.float64)
            exact = ((out[strip][seam] + delta) * shown + part[strip][seam] * (255 - shown)) / 255
            part[strip][seam] = np.floor(np.clip(exact, 0, np.iinfo(into.dtype).max))

    def published_picture(self, result: np.ndarray, cut: Cut, blend: Blend = "paste") -> Image.Image:
        """What the published program returns, at the size it works at, or the same matched. Of `upstream` windows only."""
        if cut.prepared is None:
            raise UsageError('Only crop="upstream" has a published picture.')
        if blend == "raw":
            return Image.fromarray(result)
        if blend == "match":
            picture, m = np.asarray(cut.prepared.image), cut.m[0, 0] > 0
            return Image.fromarray(np.where(m[..., None], self._matched(result, picture, m), picture))
        return (published.paste if blend == "paste" else published.compensate)(result, cut.prepared)

    def _matched(self, result: np.ndarray, picture: np.ndarray, hole: np.ndarray) -> np.ndarray:
        """`seam.matched`; in a scaled window the film hangs where resizing left no trace of what was in the hole, if anywhere."""
        clear = hole if self.native else grown(hole, LANCZOS * max(1, 1 / self.scale) + 1)
        return matched(result, picture, hole if clear.all() else clear)

    def _brighter(self, result: np.ndarray, cut: Cut) -> np.ndarray:
        """Per channel, the mean of the picture minus that of the result around the mask: `image.compensate`'s delta."""
        around = published.neighbourhood(cut.own) & (cut.m[0, 0] == 0)
        if not around.any():
            return np.zeros(3)
        delta: np.ndarray = cut.rgb[around].mean(axis=0) - result[around].mean(axis=0)
        return delta

    def _back(self, result: np.ndarray, rows: slice, columns: slice) -> np.ndarray:
        """The result's pixels for these of the picture."""
        here = self._here((rows, columns))
        if self.native:
            return result[here]
        high, wide = self.target[1] / self.height, self.target[0] / self.width
        box = (here[1].start * wide, here[0].start * high, here[1].stop * wide, here[0].stop * high)
        size = columns.stop - columns.start, rows.stop - rows.start
        return resized(result, size, (box[0], box[1], min(box[2], self.target[0]), min(box[3], self.target[1])))

    def _here(self, picture: tuple[slice, slice]) -> tuple[slice, slice]:
        rows, columns = picture
        return slice(rows.start - self.y, rows.stop - self.y), slice(columns.start - self.x, columns.stop - self.x)


def windows(fill: np.ndarray, size: int, crop: Crop = "auto", feather: float | None = None) -> list[Window]:
    """The windows that fill in `fill` (H, W), to be pasted in this order; none for an empty mask. `size` is the model's side.

    auto:
    - Islands are marked cells of 8×8 pixels, joined when two or fewer empty cells lie between them (more when the feathering
      reaches farther, so that no two islands' seams meet).
    - Islands share a window when that is native and leaves size/8 of context on every side of both.
    - An island's window is native, `size` pixels square, when that leaves size/16 of context on every side, and the feathering.
      Else its side is 4/3 of the island's longer side, or the picture's if that is less, and it is scaled.
    - It is centred on what it fills, then shifted into the picture. Where the picture is smaller, it is padded by reflection.
    - Scaled windows come first, the largest of them first, then native ones from top to bottom: sharp pixels end on top.
    full: the square of the picture's longer side, the picture in its middle, scaled to `size` (up, too).
    upstream: `image.prepare`.
    """
    if crop not in get_args(Crop):
        raise UsageError(f"crop is {crop!r}; choose one of {', '.join(get_args(Crop))}.")
    if feather is not None and not (np.isfinite(feather) and feather >= 0):
        raise UsageError(f"feather is {feather}; it must be a number of pixels from 0 up.")
    if fill.ndim != 2 or fill.dtype != bool or 0 in fill.shape:
        raise UsageError(f"The mask is {fill.shape} {fill.dtype}; give (height, width) of bools.")
    if not fill.any():
        return []
    tall, wide = fill.shape
    whole = Islands(fill, np.zeros((-(-tall // CELL), -(-wide // CELL)), np.int32))
    if crop == "upstream":
        target = published.target_size(wide, tall, size)
        if target[0] * target[1] > MAX_PIXELS:
            raise UsageError(f"The published resizing makes {target[0]}×{target[1]} of this image, too much to work on; use crop='auto'.")
        return [Window(0, 0, wide, tall, size, target, whole, 0, feather, True)]
    if crop == "full":
        side = max(tall, wide)
        return [Window(-((side - wide) // 2), -((side - tall) // 2), side, side, size, (size, size), whole, 0, feather)]

    reach = support(published.BLUR_RADIUS if feather is None else feather)
    labels, found = islands(fill, 2 * reach)
    groups = shared(found, size - 2 * max(size // SHARED_CONTEXT, reach))
    squares = []
    for label, box in groups:
        longest = max(box[2] - box[0], box[3] - box[1])
        side = size
        if longest + 2 * max(size // CONTEXT, reach) > size:
            side = min(max(-(-longest * SCALED[0] // SCALED[1]), longest + 2 * reach, size), max(tall, wide, size))
        squares.append((side, _placed(box[1], box[3], side, tall), _placed(box[0], box[2], side, wide), label))
    order = sorted(range(len(squares)), key=lambda i: (-squares[i][0], *squares[i][1:3], i))
    where = np.full(len(found) + 1, -1, np.int32)
    for index, i in enumerate(order):
        where[1 + np.array(squares[i][3])] = index
    split = Islands(fill, where[labels])
    return [Window(x, y, side, side, size, (size, size), split, n, feather) for n, (side, y, x, _) in enumerate(squares[i] for i in order)]


def _placed(first: int, last: int, side: int, length: int) -> int:
    """Where a window of `side` begins on an axis of `length`: around first … last, inside if it fits, else around everything."""
    if side >= length:
        return -((side - length) // 2)
    return min(max(0, (first + last - side) // 2), length - side)


def islands(fill: np.ndarray, gap: int) -> tuple[np.ndarray, np.ndarray]:
    """Labels of 8×8 cells, (⌈H/8⌉, ⌈W/8⌉) int32 from 1 up and 0 for empty ones, and each label's box (x0, y0, x1, y1).

    What two or fewer empty cells part has one label, and so has more where it takes more to keep labels `gap` pixels apart.
    """
    tall, wide = fill.shape
    high, across = -(-tall // CELL), -(-wide // CELL)
    padded = np.zeros((high * CELL, across * CELL), bool)
    padded[:tall, :wide] = fill
    eights = np.not_equal(padded.view(np.uint64), 0)  # eight pixels of a row in one number
    occupied = np.logical_or.reduce(eights.reshape(high, CELL, across), axis=1)

    around = max(1, -(-(gap - CELL) // (2 * CELL)))  # grown by n cells, two meet when 2n or fewer cells lie between
    labels = _components(_grown(_grown(occupied, around).T, around).T)
    labels[~occupied] = 0

    y, x = np.nonzero(occupied)
    cells = padded.reshape(high, CELL, across, CELL)[y, :, x]  # (n, 8, 8)
    down, along = (np.logical_or.reduce(cells, axis=axis) for axis in (2, 1))
    label = labels[y, x]
    boxes = np.empty((int(label.max()), 4), np.int64)
    boxes[:, :2], boxes[:, 2:] = np.iinfo(np.int64).max, 0
    np.minimum.at(boxes[:, 0], label - 1, x * CELL + along.argmax(axis=1))
    np.minimum.at(boxes[:, 1], label - 1, y * CELL + down.argmax(axis=1))
    np.maximum.at(boxes[:, 2], label - 1, (x + 1) * CELL - along[:, ::-1].argmax(axis=1))
    np.maximum.at(boxes[:, 3], label - 1, (y + 1) * CELL - down[:, ::-1].argmax(axis=1))
    return labels, boxes


def _grown(marked: np.ndarray, n: int) -> np.ndarray:
    """Down the rows: what has a marked cell at most n away, from running counts."""
    counts = np.cumsum(np.pad(marked, ((n + 1, n), (0, 0))), axis=0, dtype=np.int32)
    wider: np.ndarray = counts[2 * n + 1 :] != counts[: -2 * n - 1]
    return wider


def _components(marked: np.ndarray) -> np.ndarray:
    """Labels from 1 up of the connected parts, corners included, in the order of their first cells: union-find on runs of rows."""
    edges = np.diff(np.pad(marked, ((0, 0), (1, 1))).astype(np.int8), axis=1)
    row, start = (a.tolist() for a in np.nonzero(edges == 1))
    stop = np.nonzero(edges == -1)[1].tolist()
    parent = list(range(len(row)))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    above = 0
    for i in range(len(row)):
        while above < i and (row[above] < row[i] - 1 or (row[above] == row[i] - 1 and stop[above] < start[i])):
            above += 1
        other = above
        while other < i and row[other] == row[i] - 1 and start[other] <= stop[i]:
            a, b = root(i), root(other)
            parent[max(a, b)] = min(a, b)
            other += 1
    roots = np.array([root(i) for i in range(len(row))], np.int64)
    _, numbers = np.unique(roots, return_inverse=True)
    labels = np.zeros(marked.shape, np.int32)
    labels[marked] = np.repeat(numbers + 1, np.array(stop, np.int64) - np.array(start, np.int64))
    return labels


def shared(boxes: np.ndarray, longest: int) -> list[tuple[list[int], list[int]]]:
    """Groups of islands and their boxes: each joins the group whose box stays smallest with it, if no side exceeds `longest`."""
    members: list[list[int]] = []
    held = np.empty((len(boxes), 4), np.int64)
    for i, box in enumerate(boxes):
        groups = held[: len(members)]
        low, high = np.minimum(groups[:, :2], box[:2]), np.maximum(groups[:, 2:], box[2:])
        sides = high - low
        fits = (sides <= longest).all(axis=1)
        if fits.any():
            best = int(np.where(fits, sides.prod(axis=1), np.iinfo(np.int64).max).argmin())
            held[best] = [*low[best], *high[best]]
            members[best].append(i)
        else:
            held[len(members)] = box
            members.append([i])
    return [(ids, box.tolist()) for ids, box in zip(members, held, strict=False)]


def reflected(start: int, length: int, n: int) -> np.ndarray:
    """Indices start … start+length-1 of an axis of n, mirrored about its first and last pixel as often as it takes."""
    if n == 1:
        return np.zeros(length, np.int64)
    i = np.arange(start, start + length) % (2 * n - 2)
    return np.minimum(i, 2 * n - 2 - i)


def _scaled(
    rgb: np.ndarray, mask: np.ndarray, own: np.ndarray, start: int, side: int, size: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A square of `side` → `size`, of which these pixels fill every column, and the rows from -start on; the rest is reflection.

    The columns go first, so that what is reflected is small. A picture thinner than a pixel of the result is its mean.
    """
    n = len(rgb)
    rgb = resized(rgb, (size, n))
    mask, own = _any_of(mask.T, size).T, _any_of(own.T, size).T
    if n * size < side:
        rgb = np.rint(rgb.mean(axis=0, keepdims=True)).astype(rgb.dtype).repeat(size, axis=0)
        mask = mask.any(axis=0, keepdims=True).repeat(size, axis=0)
    else:
        rows = reflected(start, side, n)
        rgb, mask = resized(rgb[rows], (size, size)), _any_of(mask[rows], size)
    return rgb, mask, _any_of(own, size, start, side)


def resized(rgb: np.ndarray, size: tuple[int, int], box: tuple[float, float, float, float] | None = None) -> np.ndarray:
    """LANCZOS to (width, height), from the whole or from `box` of it, along the rows and then along the columns: left to itself, Pillow
    takes the order that is cheaper, from its version 13 on, and the bytes depend on it. It has no 16-bit colour: that goes plane by
    plane, in floats."""
    left, top, right, bottom = box or (0, 0, rgb.shape[1], rgb.shape[0])

    def both(image: Image.Image) -> np.ndarray:
        wide = image.resize((size[0], image.height), Image.Resampling.LANCZOS, (left, 0, right, image.height))
        return np.asarray(wide.resize(size, Image.Resampling.LANCZOS, (0, top, size[0], bottom)))

    if rgb.dtype == np.uint8:
        return both(Image.fromarray(rgb))
    planes = [both(Image.fromarray(rgb[..., i].astype(np.float32))) for i in range(3)]
    return np.rint(np.clip(np.stack(planes, axis=-1), 0, 65535)).astype(rgb.dtype)


def _any_of(mask: np.ndarray, length: int, start: int = 0, side: int | None = None) -> np.ndarray:
    """The rows resized to `length`: a row is what any of the rows under it marks. `start`, `side`: as in `_scaled`, empty outside."""
    side = side or len(mask)
    edges = [(i * side // length + start, -(-(i + 1) * side // length) + start) for i in range(length)]
    return np.stack([mask[max(0, first) : max(0, last)].any(axis=0) for first, last in edges])
