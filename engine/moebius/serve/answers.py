"""What is answered when something goes wrong: the one place where an exception becomes a status and a sentence."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

from moebius.errors import DeviceLostError, MoebiusError, UsageError


@dataclass(frozen=True)
class Failure:
    status: int
    kind: str  # a class of `moebius.errors`, or a word of the server's
    message: str
    retry: int | None = None  # seconds

    def as_json(self) -> dict[str, Any]:
        """`errors` is where IOPaint's clients look."""
        return {"error": self.kind, "message": self.message, "errors": self.message}


class RefusedError(Exception):
    """A request that is answered with a failure."""

    def __init__(self, status: int, kind: str, message: str, retry: int | None = None) -> None:
        super().__init__(message)
        self.failure = Failure(status, kind, message, retry)

    @classmethod
    def of(cls, failure: Failure) -> RefusedError:
        return cls(failure.status, failure.kind, failure.message, failure.retry)


class GoneError(Exception):
    """There is nobody left to answer."""


CANCELLED = Failure(410, "Cancelled", "The job was cancelled.")
STOPPING = Failure(503, "Stopping", "The server is stopping; ask again when it is back.", 10)


def time_is_over(seconds: float, what: str, instead: str) -> Failure:
    return Failure(504, "TimeIsOver", f"{what} more than {seconds:g} s; {instead}.")


def failure(error: BaseException) -> Failure:
    """4xx for what the sender can mend, 5xx for bad luck."""
    kind = type(error).__name__
    match error:
        case RefusedError():
            return error.failure
        case UsageError():
            return Failure(422, kind, str(error))
        case DeviceLostError():
            return Failure(503, kind, str(error), 10)
        case MoebiusError():
            return Failure(500, kind, str(error))
        case MemoryError():
            return Failure(503, kind, "There is not enough memory; use a smaller picture, or ask again later.", 10)
        case _:
            logging.getLogger("moebius").error("A request failed in a way it should not.", exc_info=error)
            return Failure(500, kind, f"Something went wrong that should not ({kind}); the log of the server says what.")
