"""Text and icons as Pillow draws them, sharp at any size. Fonts are chosen in `fonts`."""

from __future__ import annotations

import unicodedata
from collections.abc import Hashable
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw

from moebius.view import fonts, icons

ATLAS_WIDTH = 2048
# What the packaged font lacks and has a like of.
LIKE = str.maketrans({"×": "x", "–": "-", "—": "-", "‘": "'", "’": "'", "“": '"', "”": '"', "≥": ">=", "≤": "<="})


def plain(text: str) -> str:
    """What is drawn of a text: letters with their accents, every white space a space."""
    return "".join(" " if c.isspace() else c for c in unicodedata.normalize("NFC", text.translate(LIKE)))


@lru_cache(maxsize=2048)
def width(text: str, size: int) -> int:
    return int(np.ceil(sum(font.getlength(piece) for piece, font in fonts.runs(plain(text), size))))


def line_height(size: int) -> int:
    ascent, descent = fonts.packaged(size).getmetrics()
    return ascent + descent


@lru_cache(maxsize=512)
def drawn(text: str, size: int) -> np.ndarray:
    """(height, width) uint8 coverage of one line."""
    image = Image.new("L", (max(1, min(ATLAS_WIDTH, width(text, size) + 2)), line_height(size)))
    draw, x = ImageDraw.Draw(image), 1.0
    for piece, font in fonts.runs(plain(text), size):
        draw.text((x, fonts.packaged(size).getmetrics()[0]), piece, fill=255, font=font, anchor="ls", direction=fonts.direction(font))
        x += font.getlength(piece)
    return np.asarray(image)


def wrapped(text: str, size: int, room: int) -> list[str]:
    """Lines of whole words; a word that is too long is cut."""
    lines: list[str] = []
    line = ""
    for word in plain(text).split():
        while width(word, size) > room and len(word) > 1:
            cut = next((n for n in range(len(word) - 1, 1, -1) if width(word[:n], size) <= room), 1)
            if line:
                lines.append(line)
                line = ""
            lines.append(word[:cut])
            word = word[cut:]
        longer = f"{line} {word}".strip()
        if line and width(longer, size) > room:
            lines.append(line)
            longer = word
        line = longer
    return [*lines, line] if line else lines


class Atlas:
    """The labels and icons of a frame in one picture, below one another. It is the same object as long as they are the same."""

    def __init__(self) -> None:
        self._wanted: list[tuple[Hashable, np.ndarray]] = []
        self._height = 0
        self._kept: tuple[list[Hashable], np.ndarray] = [], np.zeros((64, ATLAS_WIDTH), np.uint8)

    def place(self, text: str, size: int) -> tuple[int, int, int, int]:
        """Where it will be: x, y, width, height."""
        return self._place((text, size), drawn(text, size))

    def icon(self, name: str, side: int) -> tuple[int, int, int, int]:
        return self._place((icons, name, side), icons.drawn(name, side))

    def _place(self, key: Hashable, cover: np.ndarray) -> tuple[int, int, int, int]:
        tall, wide = cover.shape
        self._wanted.append((key, cover))
        y, self._height = self._height, self._height + tall
        return 0, y, wide, tall

    def finish(self) -> np.ndarray:
        """The picture, at least as high as it ever was, so that its texture stays."""
        keys, covers, height = [key for key, _ in self._wanted], [cover for _, cover in self._wanted], self._height
        self._wanted, self._height = [], 0
        if keys != self._kept[0]:
            before = self._kept[1].shape[0]
            atlas = np.zeros((before if height <= before else 2 * height, ATLAS_WIDTH), np.uint8)
            y = 0
            for cover in covers:
                tall, wide = cover.shape
                atlas[y : y + tall, :wide] = cover
                y += tall
            self._kept = keys, atlas
        return self._kept[1]
