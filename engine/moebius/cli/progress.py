"""How far a command is, on standard error."""

from __future__ import annotations

import sys
import time


class Bar:
    """[#####-----] 5/19  120 ms/step  1.7 s left — on a terminal only."""

    def __init__(self) -> None:
        self.start: float | None = None

    def show(self, done: int, total: int) -> None:
        now = time.perf_counter()
        if self.start is None:  # the first step also encodes and warms up; it would spoil the estimate
            self.start, self.first = now, done
        text = ""
        if done > self.first:
            each = (now - self.start) / (done - self.first)
            text = f"  {1000 * each:.0f} ms/step  {each * (total - done):.1f} s left"
        filled = 24 * done // max(total, 1)
        print(f"\r[{'#' * filled}{'-' * (24 - filled)}] {done}/{total}{text}\x1b[K", end="", file=sys.stderr, flush=True)

    def clear(self) -> None:
        print("\r\x1b[K", end="", file=sys.stderr, flush=True)


class Transfer:
    """Says how far a download or a conversion is: a line that overwrites itself on a terminal, a line every ten percent elsewhere."""

    def __init__(self) -> None:
        self.doing, self.percent = "", -1  # of the last line

    def __call__(self, doing: str, done: int, total: int | None) -> None:
        percent = 100 * done // total if total else 0
        terminal = sys.stderr.isatty()
        if doing == self.doing and (percent == self.percent if terminal else percent // 10 == self.percent // 10):
            return
        self.doing, self.percent = doing, percent
        size = f"{done / 1e6:.0f} of {total / 1e6:.0f} MB" if total else f"{done / 1e6:.0f} MB"
        end = "\n" if not terminal or (total and done >= total) else ""
        print(f"{chr(13) if terminal else ''}{doing}: {size}{chr(27) + '[K' if terminal else ''}", end=end, file=sys.stderr, flush=True)
