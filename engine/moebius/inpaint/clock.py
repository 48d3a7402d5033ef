"""Where the seconds of a run went."""

from __future__ import annotations

import time


class Clock:
    """book(stage) puts down the seconds since the call before under that stage; those before resume() are nobody's."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def book(self, stage: str) -> None:
        now = time.perf_counter()
        self.seconds[stage] = self.seconds.get(stage, 0.0) + now - self._last
        self._last = now

    def resume(self) -> None:
        self._last = time.perf_counter()
