"""Continues what is known around a hole smoothly through the hole: how a soap film would hang in it.

The film v solves Laplace's equation in the hole, Δv = 0: every pixel is the mean of its four neighbours, at the picture's border of those
there are. `matched` hangs one in the picture and one in what a model made of it, and puts what the model adds to its own film onto the
picture's: so the fill has no seam (Pérez, Gangnet and Blake, "Poisson image editing", 2003). It adds as much of it as the model's detail
is worth around the hole, and none where the hole is thin: measured on photographs, there the film alone is nearer to what was there.
"""

from __future__ import annotations

import numpy as np

from moebius.pictures.mask import dilated
from moebius.pictures.pixels import bounds

CYCLES, SWEEPS, BAND = 3, 2, 32
RIM, AROUND, OFF, SPREAD = 2, 4, 16, 3  # pixels, pixels, grey levels of 255, a factor: see `remains`
NEAR, NOTHING = 8, 0.2  # pixels, grey levels: see `fidelity`
PLACE = 8  # pixels: the side of a place, see `fidelity_by_place`
LARGE, STRIP = 2**20, 64  # pixels, rows at a time
THIN, ROUND, FADE = 4, 6, 4  # pixels of the model, and how many steps of one: see `thickness`
EASE = (0.5, 1, 1.5, 2)  # pixels from the rim, by each of which a quarter of the detail is there: see `eased`


def matched(result: np.ndarray, picture: np.ndarray, hole: np.ndarray, scale: float = 1.0) -> np.ndarray:
    """The picture's pixels (h, w, 3), and in the hole (h, w): film of the picture + fidelity·thickness·eased·(result - film of the result).

    Both pictures are of one integer type. With all factors one this is the result plus the film between the two. `scale` is how many
    pixels here are one of the model; the detail of one that was enlarged is worth more at some places of the rim than at others, and its
    fidelity is one by place.
    """
    if hole.all():
        return result  # there is no rim to match
    white = np.iinfo(result.dtype).max
    unknown = hole | remains(picture, result, hole, OFF * white / 255)
    if unknown.all():
        unknown = hole
    hanging = _Level(unknown)
    worth = fidelity_by_place(result, picture, hole, unknown, hanging) if scale > 1 else fidelity(result, picture, hole, unknown)
    shown = worth * (thickness(hole, scale) * eased(hole))
    out = picture.copy()
    at_once = 3 if hole.size <= LARGE else 1  # colours: the floats of a whole photo would take gigabytes
    for c in range(0, 3, at_once):
        colours = np.s_[..., c : c + at_once]
        films = hanging.film(np.concatenate([picture[colours], result[colours]], axis=2))
        for top in range(0, len(hole), STRIP):
            rows = slice(top, top + STRIP)
            filled = films[rows, :, :at_once] + shown[rows, :, None] * (result[rows][colours] - films[rows, :, at_once:])
            whole = np.rint(np.clip(filled, 0, white, out=filled), out=filled)
            np.copyto(out[rows][colours], whole, where=hole[rows, :, None], casting="unsafe")
    return out


def film(picture: np.ndarray, hole: np.ndarray) -> np.ndarray:
    """The picture (h, w, 3) with its film in the hole (h, w): `matched` where the hole is thin."""
    if hole.all():
        return picture
    return np.rint(harmonic(picture.astype(np.float64), hole)).astype(picture.dtype)


def thickness(hole: np.ndarray, scale: float = 1.0) -> np.ndarray:
    """(h, w), from 0 in the hole's thin parts to 1 in the thick ones.

    Thick is what lies within ROUND pixels of the model of a place that is more than THIN from all that is known: all of a box or disc that
    has one. From there on it fades in FADE steps of a pixel.
    """
    core = hole & ~dilated(~hole, THIN * scale)
    thick = dilated(core, ROUND * scale).astype(np.float64)
    if core.any() and not thick[hole].all():
        for k in range(1, FADE):
            thick += dilated(core, (ROUND + k) * scale)
        thick /= FADE
    return thick


def eased(hole: np.ndarray) -> np.ndarray:
    """(h, w), a quarter at the hole's rim and one from two pixels on: where a model's detail begins at once, its border is seen."""
    return np.asarray(np.mean([~dilated(~hole, radius) for radius in EASE], axis=0))


def fidelity(result: np.ndarray, picture: np.ndarray, hole: np.ndarray, unknown: np.ndarray) -> float:
    """How much of the result's detail is the picture's where both are known, from 0 to 1: Σ∇p·∇r / Σ∇r², the factor that fits best.

    Over neighbouring pixels near the hole. In plain surroundings a decoder's ripple is nobody's detail, and would stand out in the hole.
    Each pair counts as if both had a slope of NOTHING more, so that where neither has detail the factor is one, and a rounding moves it
    little.
    """
    sums = _slopes(result, picture, dilated(hole, NEAR) & ~unknown, max(hole.shape))
    return float(_worths(sums, np.iinfo(result.dtype).max)[0, 0])


def fidelity_by_place(result: np.ndarray, picture: np.ndarray, hole: np.ndarray, unknown: np.ndarray, hanging: _Level) -> np.ndarray:
    """(h, w): the same for each part of the rim by itself, and in the hole the film of that, which `hanging` has.

    A part is a square of PLACE pixels with those around it. Where an edge enters the hole and the surroundings are plain elsewhere, one
    factor for all would let the decoder's ripple in there, or keep the edge out.
    """
    sums = np.pad(_slopes(result, picture, dilated(hole, NEAR) & ~unknown, PLACE), [(0, 0), (1, 1), (1, 1)])
    rows = sums[:, :-2] + sums[:, 1:-1] + sums[:, 2:]
    around = rows[:, :, :-2] + rows[:, :, 1:-1] + rows[:, :, 2:]
    worth = _worths(around, np.iinfo(result.dtype).max).repeat(PLACE, axis=0).repeat(PLACE, axis=1)[: hole.shape[0], : hole.shape[1]]
    return hanging.film(worth[..., None])[..., 0]


def _slopes(result: np.ndarray, picture: np.ndarray, near: np.ndarray, side: int) -> np.ndarray:
    """Σ∇p·∇r, Σ∇r² and of how many numbers, each for squares of this side; of the pairs of neighbours that are `near`. A pair is of the
    square of its right or lower one."""
    tall, wide = (-(-n // side) for n in near.shape)
    sums = np.zeros((3, tall * wide))  # whole numbers: exact
    for down, right in ((1, 0), (0, 1)):
        here, there = np.s_[down:, right:], np.s_[: len(near) - down, : near.shape[1] - right]
        y, x = np.nonzero(near[here] & near[there])
        p, r = (a[here][y, x].astype(np.int64) - a[there][y, x] for a in (picture, result))
        place = (y + down) // side * wide + (x + right) // side
        for total, values in zip(sums, ((p * r).sum(axis=1), (r * r).sum(axis=1), np.full(len(y), 3)), strict=True):
            total += np.bincount(place, values, tall * wide)
    return sums.reshape(3, tall, wide)


def _worths(sums: np.ndarray, white: int) -> np.ndarray:
    """The factor that fits best, of each place in these sums of slopes."""
    product, square, count = sums
    nothing = count * (NOTHING * white / 255) ** 2
    worth: np.ndarray = np.clip((product + nothing) / np.where(count > 0, square + nothing, 1), 0, 1)
    worth[count == 0] = 1
    return worth


def remains(picture: np.ndarray, result: np.ndarray, hole: np.ndarray, off: float) -> np.ndarray:
    """Pixels at the rim that show what was to be filled in, not what is around it: masks are often a pixel too tight, and edges soft.

    They are at most RIM pixels from the hole; and among the known differences picture - result within AROUND pixels of them, with the
    median m and the median distance from it s, theirs is off by more than `off` + SPREAD·s. The film would carry their colour through the
    whole hole.
    """
    rim = np.argwhere(dilated(hole, RIM) & ~hole)
    steps = np.argwhere(np.hypot(*np.mgrid[-AROUND : AROUND + 1, -AROUND : AROUND + 1]) <= AROUND) - AROUND
    marked = np.zeros_like(hole)
    for first in range(0, len(rim), 2**14):  # a dotted mask is nearly all rim
        y, x = rim[first : first + 2**14].T
        down, right = y + steps[:, :1], x + steps[:, 1:]
        at = np.clip(down, 0, hole.shape[0] - 1), np.clip(right, 0, hole.shape[1] - 1)
        known = (down == at[0]) & (right == at[1]) & ~hole[at]
        around = np.where(known[..., None], picture[at].astype(np.float64) - result[at], np.nan)  # (places, pixels, c)
        middle, here = _median(around), picture[y, x].astype(np.float64) - result[y, x]
        marked[y, x] = (np.abs(here - middle) > off + SPREAD * _median(np.abs(around - middle))).any(axis=1)
    return marked


def _median(x: np.ndarray) -> np.ndarray:
    """Along the first axis, of what is not NaN; something must be."""
    count = (~np.isnan(x)).sum(axis=0)[None]
    ordered = np.sort(x, axis=0)  # NaN last
    low, high = (np.take_along_axis(ordered, k, axis=0)[0] for k in ((count - 1) // 2, count // 2))
    middle: np.ndarray = (low + high) / 2
    return middle


def harmonic(known: np.ndarray, hole: np.ndarray) -> np.ndarray:
    """`known` (h, w, c) with the film in the hole (h, w). Some pixel must be known.

    Full multigrid: begun with the film of the picture at half the side, then CYCLES times relaxed, corrected by a half-sided solution of
    what is still wrong, and relaxed again, which leaves about a hundredth of what the known pixels differ by. Deeper in the hole than BAND
    pixels the film is smooth, and that at half the side, interpolated, is taken as it is: the work grows with the hole's rim, not its
    area. Elementwise float64 alone: the same bytes everywhere.
    """
    return _Level(hole).film(known)


class _Level:
    """A hole, and that of the picture at half the side."""

    def __init__(self, hole: np.ndarray, grid: _Grid | None = None) -> None:
        self.hole = hole
        self.deep = hole & ~dilated(~hole, BAND)
        whole = not self.deep.any()
        self.grid = grid if grid is not None and whole else _Grid(hole & ~self.deep)
        self.known = gathered((~hole).astype(np.uint8))  # how many of the pixels in one of half the side
        inner = self.known == 0
        self.half = _Level(inner, self.grid.coarse if whole else None) if hole.any() and inner.any() else None

    def film(self, known: np.ndarray) -> np.ndarray:
        """`known` (h, w, c) with the film in the hole."""
        v = np.ascontiguousarray(np.where(self.hole[..., None], 0.0, known))
        if self.hole.any():
            self.fill(v)
        return v

    def fill(self, v: np.ndarray) -> None:
        """Puts the film into v (h, w, c), which is zero in the hole."""
        grid = self.grid
        half = gathered(v) / np.maximum(self.known, 1)[..., None]
        if self.half is not None:
            self.half.fill(half)
        v[grid.y, grid.x] = half[grid.y // 2, grid.x // 2]
        down, along = bounds(self.deep)
        for top in range(down.start, down.stop, STRIP):
            rows = slice(top, min(top + STRIP, down.stop))
            np.copyto(v[rows, along], between(half, rows, along), where=self.deep[rows, along, None])
        film = v.reshape(-1, v.shape[2])[np.concatenate([grid.here, grid.ring])]
        for _ in range(CYCLES):
            grid.cycle(film, np.zeros((len(grid.here), v.shape[2])))
        v[grid.y, grid.x] = film[: len(grid.here)]


def gathered(array: np.ndarray) -> np.ndarray:
    """(h, w, …) → (⌈h/2⌉, ⌈w/2⌉, …): sums over every 2×2 pixels; beyond the border lie zeros."""
    even = (
        np.pad(array, [(0, n % 2) for n in array.shape[:2]] + [(0, 0)] * (array.ndim - 2)) if any(n % 2 for n in array.shape[:2]) else array
    )
    total: np.ndarray = even[::2, ::2] + even[::2, 1::2] + even[1::2, ::2] + even[1::2, 1::2]
    return total


def between(half: np.ndarray, rows: slice, columns: slice) -> np.ndarray:
    """These rows and columns of the picture that has half the side here, (9·nearest + 3·below + 3·beside + across) / 16 of the four around:
    bilinear."""
    y = np.arange(rows.start, rows.stop)
    near, below = half[y // 2], half[np.clip(y // 2 + 2 * (y % 2) - 1, 0, len(half) - 1)]
    both, beside = 9 * near + 3 * below, 3 * near
    first, last = columns.start // 2, (columns.stop + 1) // 2
    mix = np.empty((len(y), last - first, 2, half.shape[2]))
    for odd in (0, 1):
        x = np.clip(np.arange(first, last) + 2 * odd - 1, 0, half.shape[1] - 1)
        mix[:, :, odd] = (both[:, first:last] + beside[:, x] + below[:, x]) / 16
    start = columns.start - 2 * first
    return mix.reshape(len(y), -1, half.shape[2])[:, start : start + columns.stop - columns.start]


def _four(y: np.ndarray, x: np.ndarray, shape: tuple[int, ...]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Rows and columns of the four pixels of half the side around each of these."""
    row, column = y // 2, x // 2
    below, beside = (np.clip(c + 2 * (p % 2) - 1, 0, n - 1) for c, p, n in zip((row, column), (y, x), shape, strict=False))
    return [(row, column), (below, column), (row, beside), (below, beside)]


class _Grid:
    """The unknown pixels of a picture by number, their neighbours, and the pixels of half the side that are all unknown.

    Values are (unknown pixels + those around them, c).
    """

    def __init__(self, unknown: np.ndarray) -> None:
        self.y, self.x = y, x = np.nonzero(unknown)
        tall, wide = unknown.shape
        # Beyond the border a pixel is its own neighbour: it does not pull.
        rows = np.maximum(y - 1, 0), np.minimum(y + 1, tall - 1), y, y
        columns = x, x, np.maximum(x - 1, 0), np.minimum(x + 1, wide - 1)
        self.here, around = y * wide + x, np.stack(rows) * wide + np.stack(columns)
        ring = np.zeros(unknown.size, bool)
        ring[around] = True
        self.ring = np.flatnonzero(ring & ~unknown.reshape(-1))
        numbers = np.empty(tall * wide, np.int32)
        numbers[self.here], numbers[self.ring] = np.arange(len(y)), len(y) + np.arange(len(self.ring))
        self.around = numbers[around]
        self.outside = (around == self.here).sum(axis=0)[:, None].astype(np.float64)
        turns = [np.flatnonzero((x + y) % 2 == colour) for colour in (0, 1)]  # of a chessboard
        self.turns = [(turn, self.around[:, turn], self.outside[turn], 4 - self.outside[turn]) for turn in turns]
        inner = gathered((~unknown).astype(np.uint8)) == 0
        self.coarse = _Grid(inner) if inner.any() else None
        if self.coarse is not None:
            numbers = np.pad(numbers.reshape(tall, wide), [(0, tall % 2), (0, wide % 2)], constant_values=-1)  # beyond the border lies zero
            self.parts = [numbers[2 * self.coarse.y + i, 2 * self.coarse.x + j] for i in (0, 1) for j in (0, 1)]
            other = np.full(inner.shape, -1, np.int32)  # the last of the coarse ones stays zero
            other[self.coarse.y, self.coarse.x] = np.arange(len(self.coarse.y))
            self.four = [other[place] for place in _four(self.y, self.x, inner.shape)]

    def cycle(self, v: np.ndarray, force: np.ndarray) -> None:
        """Nearer to 4·v - (sum of the neighbours) = force at every unknown pixel."""
        self._relax(v, force)
        if self.coarse is not None:
            up, down, left, right = (v.take(n, axis=0) for n in self.around)
            wrong = np.zeros((len(force) + 1, v.shape[1]))
            wrong[:-1] = force - (4 * v[: len(force)] - up - down - left - right)
            a, b, c, d = (wrong.take(n, axis=0) for n in self.parts)
            missing = np.zeros((len(self.coarse.here) + len(self.coarse.ring) + 1, v.shape[1]))
            self.coarse.cycle(missing, a + b + c + d)
            nearest, below, beside, across = (missing.take(n, axis=0) for n in self.four)
            v[: len(force)] += (9 * nearest + 3 * below + 3 * beside + across) / 16
        self._relax(v, force)

    def _relax(self, v: np.ndarray, force: np.ndarray) -> None:
        for _ in range(SWEEPS):
            for turn, around, outside, pull in self.turns:
                up, down, left, right = (v.take(n, axis=0) for n in around)
                v[turn] = (up + down + left + right - outside * v.take(turn, axis=0) + force.take(turn, axis=0)) / pull
