"""What of a mask belongs together: parts that lie near each other become islands, and islands share a window where it has room."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from moebius.pictures.patience import still_wanted

CELL = 8


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


def islands(fill: np.ndarray, gap: int) -> tuple[np.ndarray, np.ndarray]:
    """Labels of 8×8 cells, (⌈H/8⌉, ⌈W/8⌉) int32 from 1 up and 0 for empty ones, and each label's box (x0, y0, x1, y1).

    What two or fewer empty cells part has one label, and so has more where it takes more to keep labels `gap` pixels apart.
    """
    padded = _in_cells(fill)
    high, across = padded.shape[0] // CELL, padded.shape[1] // CELL
    occupied = marked_cells(padded)
    labels = _labelled(occupied, max(1, -(-(gap - CELL) // (2 * CELL))))

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


def boxed(occupied: np.ndarray) -> list[list[int]]:
    """The boxes (x0, y0, x1, y1) of what two or fewer empty cells part, in cells."""
    y, x = np.nonzero(occupied)
    label = _labelled(occupied, 1)[y, x] - 1
    boxes = np.zeros((int(label.max(initial=-1)) + 1, 4), np.int64)
    boxes[:, :2] = max(occupied.shape)
    for column, extreme, values in ((0, np.minimum, x), (1, np.minimum, y), (2, np.maximum, x + 1), (3, np.maximum, y + 1)):
        extreme.at(boxes[:, column], label, values)
    found: list[list[int]] = boxes.tolist()
    return found


def marked_cells(fill: np.ndarray) -> np.ndarray:
    """Which cells, (⌈H/8⌉, ⌈W/8⌉), have a marked pixel."""
    eights = np.not_equal(_in_cells(fill).view(np.uint64), 0)  # eight pixels of a row in one number
    marked: np.ndarray = np.logical_or.reduce(eights.reshape(-1, CELL, eights.shape[1]), axis=1)
    return marked


def whole_cells(fill: np.ndarray) -> np.ndarray:
    """Which are marked all over; beyond the border nothing is."""
    eights = np.equal(_in_cells(fill).view(np.uint64), 0x0101010101010101)
    whole: np.ndarray = np.logical_and.reduce(eights.reshape(-1, CELL, eights.shape[1]), axis=1)
    return whole


def _in_cells(fill: np.ndarray) -> np.ndarray:
    """With unmarked pixels beyond its far borders, up to whole cells."""
    tall, wide = fill.shape
    if tall % CELL == wide % CELL == 0 and fill.flags.c_contiguous:
        return fill
    padded = np.zeros((-(-tall // CELL) * CELL, -(-wide // CELL) * CELL), bool)
    padded[:tall, :wide] = fill
    return padded


def _labelled(occupied: np.ndarray, around: int) -> np.ndarray:
    """Labels of these cells, from 1 up and 0 for others: one for those that 2·around or fewer cells part."""
    labels = _components(_spread_down(_spread_down(occupied, around).T, around).T)
    labels[~occupied] = 0
    return labels


def _spread_down(marked: np.ndarray, n: int) -> np.ndarray:
    """What has a marked cell at most n rows away in its column, from running counts."""
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


def grouped(boxes: np.ndarray, longest: int) -> list[tuple[list[int], list[int]]]:
    """Groups of islands and their boxes: each joins the group whose box stays smallest with it, if no side exceeds `longest`."""
    members: list[list[int]] = []
    held = np.empty((len(boxes), 4), np.int64)
    for i, box in enumerate(boxes):
        still_wanted()
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
