"""Text as Pillow draws it, with the font that is inside Pillow: no font is looked for on the system, and it is sharp at any size."""

from __future__ import annotations

import unicodedata
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont

ATLAS_WIDTH = 2048
ASCII = str.maketrans({"×": "x", "–": "-", "—": "-", "‘": "'", "’": "'", "“": '"', "”": '"', "…": "...", "·": "-", "≥": ">=", "≤": "<="})


def plain(text: str) -> str:
    """What the font has: ASCII. Accents are dropped, and what is left of other scripts is a question mark."""
    spread = unicodedata.normalize("NFKD", text.translate(ASCII))
    return "".join(c if " " <= c <= "~" else "?" for c in spread if not unicodedata.combining(c))


@lru_cache(maxsize=32)
def font(size: int) -> ImageFont.FreeTypeFont:
    loaded = ImageFont.load_default(size)
    assert isinstance(loaded, ImageFont.FreeTypeFont)
    return loaded


def width(text: str, size: int) -> int:
    return int(np.ceil(font(size).getlength(plain(text))))


def line_height(size: int) -> int:
    ascent, descent = font(size).getmetrics()
    return ascent + descent


@lru_cache(maxsize=512)
def drawn(text: str, size: int) -> np.ndarray:
    """(height, width) uint8 coverage of one line."""
    image = Image.new("L", (max(1, min(ATLAS_WIDTH, width(text, size) + 2)), line_height(size)))
    ImageDraw.Draw(image).text((1, 0), plain(text), fill=255, font=font(size))
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
    """The labels of a frame in one picture, below one another. It is the same object as long as the labels are the same."""

    def __init__(self) -> None:
        self._wanted: list[tuple[str, int]] = []
        self._height = 0
        self._kept: tuple[list[tuple[str, int]], np.ndarray] = [], np.zeros((64, ATLAS_WIDTH), np.uint8)

    def place(self, text: str, size: int) -> tuple[int, int, int, int]:
        """Where it will be: x, y, width, height."""
        tall, wide = drawn(text, size).shape
        self._wanted.append((text, size))
        y, self._height = self._height, self._height + tall
        return 0, y, wide, tall

    def finish(self) -> np.ndarray:
        """The picture, at least as high as it ever was, so that its texture stays."""
        wanted, height = self._wanted, self._height
        self._wanted, self._height = [], 0
        if wanted != self._kept[0]:
            before = self._kept[1].shape[0]
            atlas = np.zeros((before if height <= before else 2 * height, ATLAS_WIDTH), np.uint8)
            y = 0
            for text, size in wanted:
                tall, wide = drawn(text, size).shape
                atlas[y : y + tall, :wide] = drawn(text, size)
                y += tall
            self._kept = wanted, atlas
        return self._kept[1]
