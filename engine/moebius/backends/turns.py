"""Whose turn it is on a device that many threads share."""

from __future__ import annotations

import threading
from collections import deque
from types import TracebackType


class Turns:
    """A lock that goes to whoever asked first. The thread that holds it may enter it again.

    Python's own locks promise no order: under load, a thread could be passed over for ever.
    """

    def __init__(self) -> None:
        self._guard = threading.Lock()  # held for a few instructions only
        self._waiting: deque[tuple[int, threading.Lock]] = deque()
        self._holder: int | None = None
        self._depth = 0

    def __enter__(self) -> None:
        me = threading.get_ident()
        with self._guard:
            if self._holder in (None, me):
                self._holder, self._depth = me, self._depth + 1
                return
            mine = threading.Lock()
            mine.acquire()
            self._waiting.append((me, mine))
        try:
            mine.acquire()  # released by the one that hands over
        except BaseException:  # Ctrl-C while waiting
            with self._guard:
                if (me, mine) in self._waiting:
                    self._waiting.remove((me, mine))
                    raise
            self.__exit__(None, None, None)  # it had just been handed over
            raise

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with self._guard:
            self._depth -= 1
            if self._depth:
                return
            if not self._waiting:
                self._holder = None
                return
            self._holder, following = self._waiting.popleft()
            self._depth = 1
            following.release()
