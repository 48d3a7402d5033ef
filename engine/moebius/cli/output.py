"""What the commands write to standard output and standard error, whatever the streams can take and wherever the words come from."""

from __future__ import annotations

import codecs
import io
import os
import sys
from contextlib import suppress
from typing import Any

from moebius.errors import CONTROL_BUT_LINES, MoebiusError, shown

# What a code page lacks is written with these, or else as an escape (\u65e5), by which two file names can still be told apart.
PLAIN = {"×": "x", "…": "...", "→": "->", "·": "-", "–": "-", "−": "-", "✓": "+", "✗": "x", "≤": "<=", "≥": ">="}


def write_plainly() -> None:
    """Printing never fails from here on, and never commands a terminal: a stream keeps its encoding, writes otherwise what that lacks,
    and shows control characters, which may come from a file's name or from what is in it, as escapes.

    A program without a console (pythonw) has no streams; its words go nowhere. The same where they were closed (2>&-).
    """
    codecs.register_error("moebius.plain", plain)
    keep_numbers()
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, nowhere())
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="moebius.plain")
            setattr(sys, name, Shown(stream))


def nowhere() -> Any:
    return open(os.devnull, "w", encoding="utf-8")  # as long as the process


def keep_numbers() -> None:
    """Where 0, 1 or 2 are closed, nothing else may get that number: what a driver prints would go into a picture."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            with suppress(OSError):
                os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the lowest number that is free, which is this one


class Shown:
    """A text stream on which control characters are escapes. The rest is the stream's own, and `stream` the stream itself."""

    def __init__(self, stream: Any) -> None:
        self.stream = stream

    def write(self, text: str) -> int:
        self.stream.write(shown(text, CONTROL_BUT_LINES))
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


def plain(error: UnicodeError) -> tuple[str, int]:
    """The handler of `codecs` that `write_plainly` gives the streams."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lacking = error.object[error.start : error.end]
    return "".join(PLAIN.get(c) or c.encode("ascii", "backslashreplace").decode() for c in lacking), error.end


def say(*words: object) -> None:
    """A line for the user. What a program may want to read goes to standard output instead, by `print`.

    Where standard error takes nothing (a full disk, a reader that went away), the words are lost, and not the work.
    """
    try:
        print(*map(shown, words), file=sys.stderr, flush=True)
    except (OSError, ValueError):
        sys.stderr = nowhere()


def say_nothing(*words: object) -> None:
    """In place of `say` with --quiet."""


def say_error(error: MoebiusError | str) -> None:
    say(f"moebius: {error}")
