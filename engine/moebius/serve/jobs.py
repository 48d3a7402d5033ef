"""A job: what was asked for, how far it is, and what came of it. Any thread may look; whoever listens is told of every change."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal

from moebius.inpaint.run import Run
from moebius.serve.answers import CANCELLED, Failure

State = Literal["waiting", "running", "done", "failed", "cancelled"]
ENDED = ("done", "failed", "cancelled")
Preview = Literal["picture", "patches", "none"]


@dataclass(frozen=True)
class Picture:
    """A result, as it is answered."""

    data: bytes
    type: str
    headers: dict[str, str]
    seconds: float


class Job:
    """`kept` ones can be asked for by their id; of the others the request that made them is the only one that knows."""

    def __init__(self, kept: bool) -> None:
        self.id = secrets.token_urlsafe(16)
        self.kept = kept
        self.state: State = "waiting"
        self.ready = False  # its run is there; before, it keeps its place in the queue while its pictures are decoded
        self.run: Run | None = None
        self.format = "png"
        self.pixels = 0
        self.about: dict[str, Any] = {}  # what of the run a client wants to know, once it is ready
        self.step = self.steps = 0
        self.previews: dict[Preview, Any] = {}
        self.result: Picture | None = None
        self.failure: Failure | None = None
        self.prepared = 0.0  # seconds that decoding and finding the windows took
        self.begun: float | None = None
        self.ended: float | None = None
        self.fetched = False
        self.seen = time.monotonic()
        self.broken = False  # its events were listened to, and the line broke
        self._stop: Failure | None = None
        self._lock = threading.Lock()
        self._listeners: dict[object, tuple[Callable[[], None], Preview]] = {}

    # how far it is --------------------------------------------------------------------------------------------------

    @property
    def over(self) -> bool:
        return self.state in ENDED

    @property
    def stopping(self) -> Failure | None:
        """Why it is to end before its next step; None where it is to go on."""
        return self._stop

    def stop(self, why: Failure = CANCELLED) -> None:
        """It is to end: whoever holds it does that."""
        self._stop = self._stop or why

    def begin(self) -> None:
        self.begun, self.state = time.monotonic(), "running"
        self.changed()

    def hear(self, step: int, steps: int, previews: dict[Preview, Any]) -> None:
        self.step, self.steps = step, steps
        self.previews = {**self.previews, **previews}
        self.changed()

    def finish(self, picture: Picture) -> None:
        self.result = picture
        self._end("done")

    def fail(self, failure: Failure) -> None:
        self.failure = failure
        self._end("cancelled" if failure is CANCELLED else "failed")

    def _end(self, state: State) -> None:
        with self._lock:
            if self.over:
                return
            self.run, self.previews = None, {}  # the photo, and all that was made of it
            self.ended, self.state = time.monotonic(), state
        self.changed()

    # who listens ----------------------------------------------------------------------------------------------------

    def listen(self, key: object, hear: Callable[[], None], preview: Preview = "none") -> None:
        """`hear` is called after every change, from any thread."""
        with self._lock:
            self._listeners[key] = hear, preview

    def leave(self, key: object) -> None:
        with self._lock:
            self._listeners.pop(key, None)
        self.seen = time.monotonic()

    @property
    def watched(self) -> bool:
        return bool(self._listeners)

    @property
    def wanted(self) -> set[Preview]:
        """The previews that somebody looks at."""
        with self._lock:
            return {preview for _, preview in self._listeners.values()} - {"none"}

    def changed(self) -> None:
        with self._lock:
            listeners = list(self._listeners.values())
        for hear, _ in listeners:
            with suppress(RuntimeError):  # of a loop that has ended
                hear()
