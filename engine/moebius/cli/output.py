"""What the commands write to standard output and standard error, whatever the streams can take."""

from __future__ import annotations

import codecs
import io
import os
import sys

from moebius.errors import MoebiusError

# What a code page lacks is written with these, or else as an escape (\u65e5), by which two file names can still be told apart.
PLAIN = {"×": "x", "…": "...", "→": "->", "·": "-", "–": "-", "−": "-", "✓": "+", "✗": "x", "≤": "<=", "≥": ">="}


def write_plainly() -> None:
    """Printing never fails from here on: a stream keeps its encoding, and writes otherwise what that lacks.

    A program without a console (pythonw) has no streams; its words go nowhere.
    """
    codecs.register_error("moebius.plain", plain)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 (as long as the process)
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="moebius.plain")


def plain(error: UnicodeError) -> tuple[str, int]:
    """The handler of `codecs` that `write_plainly` gives the streams."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lacking = error.object[error.start : error.end]
    return "".join(PLAIN.get(c) or c.encode("ascii", "backslashreplace").decode() for c in lacking), error.end


def say(*words: object) -> None:
    """A line for the user. What a program may want to read goes to standard output instead, by `print`."""
    print(*words, file=sys.stderr, flush=True)


def say_nothing(*words: object) -> None:
    """In place of `say` with --quiet."""


def say_error(error: MoebiusError | str) -> None:
    say(f"moebius: {error}")
