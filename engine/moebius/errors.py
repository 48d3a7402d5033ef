"""Every error a user can meet. Each message says what went wrong, where, and what to do next.

Bad input and bad luck are told apart by class: a `UsageError` is the caller's to mend (a server answers 4xx), every other `MoebiusError`
is the machine's, the weights' or the device's (5xx), and the same call may do on another day.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

# What moves the cursor, colours, rings, turns the direction of writing or begins a line: C0, DEL, C1, line separators, bidi controls.
CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069]")
CONTROL_BUT_LINES = re.compile(CONTROL.pattern.replace("\x00-\x1f", "\x00-\x08\x0b-\x1f"))


def shown(text: object, controls: re.Pattern[str] = CONTROL) -> str:
    """A text that may come from a file, with its control characters as escapes: it cannot command a terminal, or pretend to be a line."""
    return controls.sub(lambda match: match[0].encode("unicode_escape").decode(), str(text))


class MoebiusError(Exception):
    """Base of all errors raised on purpose. The command line prints the message and exits with `exit_code`."""

    exit_code = 1

    def __init__(self, *args: object) -> None:
        super().__init__(*(shown(a, CONTROL_BUT_LINES) if isinstance(a, str) else a for a in args))


class UsageError(MoebiusError, ValueError):
    """The caller's arguments are wrong: a shape, a dtype, a value, a file that is not what it should be."""

    exit_code = 2


class EmptyMaskError(UsageError):
    """The mask marks nothing, so there is nothing to fill in."""


class WeightError(MoebiusError):
    """The weights do not fit the model: missing, unexpected, of another shape or type, or not finite."""


class AdapterError(MoebiusError):
    """No adapter, or not the one asked for."""


class LimitError(MoebiusError):
    """A tensor, a grid or a loop is larger than the adapter allows. Both numbers are in the message."""


class DeviceLostError(MoebiusError):
    """The GPU device went away, or refused memory."""


class OutOfMemoryError(DeviceLostError):
    """The GPU device refused memory; what it had before is still there."""


class NonFiniteError(MoebiusError):
    """A NaN or infinity appeared; the message names the op, the step and the adapter."""


def did_you_mean(word: object, choices: Iterable[str]) -> str:
    """The end of a message on a wrong name: " Did you mean places2?", or nothing where none is near."""
    from difflib import get_close_matches  # two milliseconds that a run without a mistake does not need

    near = get_close_matches(str(word)[:100].lower(), list(choices), n=1, cutoff=0.6)
    return f" Did you mean {near[0]}?" if near else ""
