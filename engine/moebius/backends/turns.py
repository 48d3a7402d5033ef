"""Whose turn it is on a device that many threads share."""

from __future__ import annotations

import os
import threading
import weakref
from collections import deque
from types import TracebackType

from moebius.errors import DeviceLostError


class Turns:
    """A lock that goes to whoever asked first. The thread that holds it may enter it again.

    Python's own locks promise no order: under load, a thread could be passed over for ever. In a child of os.fork the turns start anew,
    for the threads that waited are not there; or, with a `stays`, they say so and cannot be taken.
    """

    def __init__(self, stays: str | None = None) -> None:
        self._stays, self._forked = stays, False
        _ALL.add(self)
        # Held for a few instructions, none of which makes a container: that may collect garbage, and what is collected may want a turn.
        self._guard = threading.Lock()
        self._waiting: deque[tuple[int, threading.Lock]] = deque()
        self._holder: int | None = None
        self._depth = 0

    def __enter__(self) -> None:
        if self._forked and self._stays is not None:
            raise DeviceLostError(self._stays)
        me = threading.get_ident()
        before = self._depth if self._holder == me else 0  # nobody else changes either while this thread holds the turn
        mine = threading.Lock()
        mine.acquire()
        place = me, mine
        try:
            with self._guard:
                if self._holder is None or self._holder == me:
                    self._holder, self._depth = me, before + 1
                    return
                self._waiting.append(place)
            mine.acquire()  # released by the one that hands over
        except BaseException:  # Ctrl-C: at any point above, so what has been reached is read off the state
            with self._guard:
                if place in self._waiting:
                    self._waiting.remove(place)
                entered = self._holder == me and self._depth > before
            if entered:
                self._leave()
            raise

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._leave()

    def _leave(self) -> None:
        with self._guard:
            if self._holder != threading.get_ident():
                raise RuntimeError("A turn is left by a thread that does not hold it.")
            self._depth -= 1
            if self._depth:
                return
            if not self._waiting:
                self._holder = None
                return
            self._holder, following = self._waiting.popleft()
            self._depth = 1
            following.release()

    def _in_child(self) -> None:
        self._guard, self._forked = threading.Lock(), True
        self._waiting.clear()
        if self._holder != threading.get_ident():
            self._holder, self._depth = None, 0


_ALL: weakref.WeakSet[Turns] = weakref.WeakSet()


def _in_child() -> None:
    for turns in list(_ALL):
        turns._in_child()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)
