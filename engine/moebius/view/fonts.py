"""Fonts for every script: the one inside Pillow for plain English, and for all else the system's own, looked for when a letter needs it."""

from __future__ import annotations

import shutil
import subprocess
import unicodedata
from collections.abc import Iterator
from functools import lru_cache
from itertools import groupby

from PIL import ImageFont

# By file name, wherever the system keeps its fonts; the first that has the letters is taken. Where fontconfig is, it is asked before.
NAMES = (
    "segoeui.ttf",
    "Arial Unicode.ttf",
    "DejaVuSans.ttf",
    "NotoSans-Regular.ttf",
    "msyh.ttc",
    "YuGothM.ttc",
    "malgun.ttf",
    "Nirmala.ttf",
    "LeelawUI.ttf",
    "seguisym.ttf",
    "PingFang.ttc",
    "Hiragino Sans GB.ttc",
    "AppleSDGothicNeo.ttc",
    "NotoSansCJK-Regular.ttc",
    "wqy-microhei.ttc",
)
MISSING = "\U0010ffff"  # no letter, in any font: what it is drawn as, a missing one is drawn as
PATIENCE = 3.0  # seconds for fontconfig
Font = ImageFont.FreeTypeFont


@lru_cache(maxsize=32)
def packaged(size: int) -> Font:
    loaded = ImageFont.load_default(size)
    assert isinstance(loaded, Font)
    return loaded


def direction(font: Font) -> str | None:
    """Of a line as a whole, where the font lays letters out both ways: NAME.png begins with its name in any script."""
    return "ltr" if font.layout_engine == ImageFont.Layout.RAQM else None


@lru_cache(maxsize=64)
def opened(name: str, index: int, size: int) -> Font | None:
    try:
        return ImageFont.truetype(name, size, index)
    except OSError:
        return None


@lru_cache(maxsize=4096)
def has(name: str | None, index: int, letter: str) -> bool:
    """Whether a font, the packaged one if it has no name, draws this letter as something else than what it lacks."""
    font = packaged(16) if name is None else opened(name, index, 16)
    if font is None:
        return False
    drawn, lacking = font.getmask(letter), font.getmask(MISSING)
    return letter.isspace() or (drawn.size, bytes(drawn)) != (lacking.size, bytes(lacking))


@lru_cache(maxsize=1024)
def system_font(letters: str) -> tuple[str, int] | None:
    """File and index of a font that has all of these letters."""
    return next((font for font in _candidates(letters) if all(has(*font, letter) for letter in letters)), None)


def _candidates(letters: str) -> Iterator[tuple[str, int]]:
    yield from _found
    if asked := _fontconfig(letters):
        _found.append(asked)
        yield asked
    for name in NAMES:
        if (name, 0) not in _found and opened(name, 0, 16) is not None:
            _found.append((name, 0))
            yield name, 0


_found: list[tuple[str, int]] = []


def _fontconfig(letters: str) -> tuple[str, int] | None:
    program = shutil.which("fc-match")
    if program is None:
        return None
    wanted = f"sans:charset={' '.join(f'{ord(c):x}' for c in letters)}"
    try:
        done = subprocess.run([program, "-f", "%{file}\n%{index}", wanted], capture_output=True, text=True, timeout=PATIENCE)
        name, _, index = done.stdout.partition("\n")
        return (name, int(index) & 0xFFFF) if name else None
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return None


def runs(text: str, size: int) -> list[tuple[str, Font]]:
    """The text in pieces of one font. A word with a letter that the packaged font lacks is whole in another font, if one has all of it."""
    pieces: list[tuple[str, Font]] = []
    for spaces, group in groupby(text, str.isspace):
        word = "".join(group)
        if spaces or all(has(None, 0, c) for c in word):
            pieces.append((word, packaged(size)))
        elif (font := _in(word, size)) is not None:
            pieces.append((word, font))
        else:
            pieces += _letter_by_letter(word, size)
    joined: list[tuple[str, Font]] = []
    for word, font in pieces:
        if joined and joined[-1][1] is font:
            joined[-1] = joined[-1][0] + word, font
        else:
            joined.append((word, font))
    return joined


def _in(word: str, size: int) -> Font | None:
    found = system_font("".join(sorted(set(word))))
    return None if found is None else opened(*found, size)


def _letter_by_letter(word: str, size: int) -> list[tuple[str, Font]]:
    """With the letter below its accents where no font has it, and a box where there is not even that."""
    pieces = []
    for letter in word:
        if has(None, 0, letter) or (other := _in(letter, size)) is None:
            base = unicodedata.normalize("NFKD", letter)[0]
            pieces.append((letter if not has(None, 0, base) else base, packaged(size)))
        else:
            pieces.append((letter, other))
    return pieces
