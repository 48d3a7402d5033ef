"""Every error a user can meet. Each message says what went wrong, where, and what to do next.

Bad input and bad luck are told apart by class: a `UsageError` is the caller's to mend (a server answers 4xx), every other `MoebiusError`
is the machine's, the weights' or the device's (5xx), and the same call may do on another day.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class MoebiusError(Exception):
    """Base of all errors raised on purpose. The command line prints the message and exits with `exit_code`."""

    exit_code = 1


class UsageError(MoebiusError, ValueError):
    """The caller's arguments are wrong: a shape, a dtype, a value, a file that is not what it should be."""

    exit_code = 2


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
    near = get_close_matches(str(word)[:100].lower(), list(choices), n=1, cutoff=0.6)
    return f" Did you mean {near[0]}?" if near else ""
