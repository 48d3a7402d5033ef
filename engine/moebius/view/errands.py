"""What would keep the window waiting, on threads beside it: files, one after the other in the order they were asked for; and dialogs.

`work` runs there, `done` or `failed` on the window's thread, when it comes round to `handle`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from queue import SimpleQueue
from typing import TypeVar

T = TypeVar("T")
Failed = Callable[[Exception], None]


class Errands:
    """`notify` wakes the window: something is done. Not `begun`, files wait for `begin`: the first frame comes first."""

    def __init__(self, notify: Callable[[], None], begun: bool = True) -> None:
        self._notify, self._begun = notify, begun
        self._over: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._files: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._closed = False
        self.pending = 0  # not handled yet; the window's thread counts

    def file(self, work: Callable[[], T], done: Callable[[T], None], failed: Failed) -> None:
        """After those before it. `close` waits for it."""
        self.pending += 1
        self._files.put(partial(self._try, work, done, failed))
        if self._begun:
            self.begin()

    def begin(self) -> None:
        self._begun = True
        if self._thread is None and not self._files.empty():
            self._thread = threading.Thread(target=self._work, name="moebius-view-files")
            self._thread.start()

    def beside(self, work: Callable[[], T], done: Callable[[T], None], failed: Failed) -> None:
        """At once. `close` does not wait for it."""
        self.pending += 1
        threading.Thread(target=self._try, args=(work, done, failed), name="moebius-view-beside", daemon=True).start()

    def handle(self) -> bool:
        """Whether anything was done."""
        some = False
        while not self._over.empty():
            then = self._over.get()
            self.pending -= 1
            then()
            some = True
        return some

    def close(self) -> None:
        """Returns when the files are written."""
        self._closed = True
        if self._thread is not None:
            self._files.put(None)
            self._thread.join()

    def _work(self) -> None:
        while (work := self._files.get()) is not None:
            work()

    def _try(self, work: Callable[[], T], done: Callable[[T], None], failed: Failed) -> None:
        try:
            then = partial(done, work())
        except Exception as error:  # told by the window, whatever it is
            then = partial(failed, error)
        self._over.put(then)
        if not self._closed:
            self._notify()
