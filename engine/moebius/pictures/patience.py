"""Whether what takes long is still wanted: who does it asks now and then, and who waits for it may say no.

A picture of tens of millions of pixels may have a mask whose windows take minutes to find. A thread cannot be ended from outside.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_check: ContextVar[Callable[[], None] | None] = ContextVar("moebius_patience", default=None)


@contextmanager
def asking(check: Callable[[], None]) -> Iterator[None]:
    """In this thread, `check` is called now and then meanwhile; what it raises ends the work."""
    token = _check.set(check)
    try:
        yield
    finally:
        _check.reset(token)


def still_wanted() -> None:
    """For loops: before every piece of at most some seconds."""
    check = _check.get()
    if check is not None:
        check()
