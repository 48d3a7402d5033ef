"""Where things are in the window, in framebuffer pixels: the two bars, their buttons, what can be clicked. No display is needed to ask.

`ui` is the framebuffer pixels a logical one; the constants are logical pixels.
"""

from __future__ import annotations

from collections.abc import Sequence

from moebius.view import labels
from moebius.view.geometry import Four, Point
from moebius.view.toolbar import BUTTONS

HEAD, BAR = 46, 58  # the toolbar above, the bar of words below
MARGIN, FOOT = 16, BAR + 14  # around the fitted picture (above, beyond the toolbar), and below it
SIDE = 38  # of a button
ZOOM = 58  # for the zoom, right of them
DROP = 54  # what the field to drop a picture on takes, while the sample is shown


def contains(rect: Four, at: Point) -> bool:
    return rect[0] <= at[0] < rect[0] + rect[2] and rect[1] <= at[1] < rect[1] + rect[3]


def buttons(window: tuple[int, int], ui: float) -> dict[str, Four]:
    """The toolbar's buttons, in the middle of the head as far as the zoom leaves room; closer together where the window is narrow."""
    room = window[0] - ZOOM * ui
    step = min((SIDE + 4) * ui, room / (len(BUTTONS) + 0.2))
    side, total = min(SIDE * ui, step), step * len(BUTTONS)
    x, y = min((window[0] - total) / 2, room - total), (HEAD * ui - side) / 2
    return {b.name: (round(x + i * step + (step - side) / 2), round(y), round(side), round(side)) for i, b in enumerate(BUTTONS)}


def button_at(at: Point, window: tuple[int, int], ui: float) -> str | None:
    return next((name for name, rect in buttons(window, ui).items() if contains(rect, at)), None)


def in_bars(at: Point, window: tuple[int, int], ui: float) -> bool:
    return at[1] < HEAD * ui or at[1] >= window[1] - BAR * ui


def drop_field(window: tuple[int, int], ui: float, beside: bool) -> Four:
    """The field to drop a picture on: below the sample (`beside`), else in the middle of the empty window."""
    width = min(window[0] - 2 * MARGIN * ui, (460 if beside else 420) * ui)
    height = (38 if beside else 180) * ui
    middle = (HEAD * ui + window[1] - BAR * ui) / 2
    y = window[1] - (BAR + 8) * ui - height if beside else middle - min(height, window[1] - (HEAD + BAR + 24) * ui) / 2
    return round((window[0] - width) / 2), round(y), round(width), round(min(height, 2 * (middle - y)) if not beside else height)


def question(text: str, answers: Sequence[str], window: tuple[int, int], ui: float) -> tuple[Four, list[str], list[Four]]:
    """The card of a question, the lines of its text, and its buttons: in a row, or below one another where that is too wide."""
    size, pad, gap = max(8, round(14 * ui)), 20 * ui, 10 * ui
    room = window[0] - 2 * MARGIN * ui - 2 * pad
    widths = [labels.width(a, size) + 28 * ui for a in answers]
    tall, row = 34 * ui, sum(widths) + gap * (len(answers) - 1)
    lines = labels.wrapped(text, size, round(min(room, 460 * ui)))
    step = labels.line_height(size) + 3 * ui
    inner = max([row if row <= room else max(widths), *(labels.width(line, size) for line in lines)])
    rows = 1 if row <= room else len(answers)
    height = 2 * pad + step * len(lines) + gap + rows * tall + (rows - 1) * gap
    card = ((window[0] - inner) / 2 - pad, (window[1] - height) / 2, inner + 2 * pad, height)
    x, y = card[0] + pad + (inner - (row if rows == 1 else inner)) / 2, card[1] + pad + step * len(lines) + gap
    places: list[Four] = []
    for width in widths:
        places.append((x, y, width if rows == 1 else inner, tall))
        x, y = (x + width + gap, y) if rows == 1 else (x, y + tall + gap)
    return card, lines, places


def help_size(rows: Sequence[tuple[str, str]], window: tuple[int, int], ui: float) -> tuple[int, int]:
    """(size of the letters, columns) of the help, logical and as large as the window has room for."""
    for size in range(14, 8, -1):
        for columns in (1, 2):
            width, height = help_room(rows, size, columns, ui)
            if width <= window[0] - 8 * ui and height <= window[1] - 8 * ui:
                return size, columns
    return 8, 1


def help_room(rows: Sequence[tuple[str, str]], size: int, columns: int, ui: float) -> Point:
    """Width and height of the card of the help."""
    first, second = help_columns(rows, size, ui)
    lines = -(-len(rows) // columns)
    return columns * (first + second + 44 * ui) + 16 * ui, lines * help_step(size, ui) + 1.7 * size * ui


def help_columns(rows: Sequence[tuple[str, str]], size: int, ui: float) -> tuple[int, int]:
    """Widths of the keys and of what they do."""
    pixels = max(8, round(size * ui))
    return max(labels.width(key, pixels) for key, _ in rows), max(labels.width(what, pixels) for _, what in rows)


def help_step(size: int, ui: float) -> float:
    """From line to line."""
    return (25 if size == 14 else 1.4 * size) * ui
