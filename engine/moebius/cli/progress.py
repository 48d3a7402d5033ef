"""How far a command is, on standard error: a bar on a terminal, elsewhere a line every few seconds."""

from __future__ import annotations

import os
import sys
import time
from importlib import import_module
from typing import Any

from moebius.cli.output import say
from moebius.errors import shown

EVERY = 5.0  # seconds between two lines where there is no terminal


class Bar:
    """Steps of a run: `show(done, total)` after each."""

    def __init__(self, doing: str = "") -> None:
        self.doing = doing
        self._bar: Any = None
        self._start: float | None = None
        self._said = time.perf_counter()

    def show(self, done: int, total: int) -> None:
        if sys.stderr.isatty():
            if self._bar is None:
                self._bar = bar(self.doing, total, " step", done)  # the first step also warms up; it would spoil the estimate
            self._bar.total = total
            self._bar.update(done - self._bar.n)
            if done >= total:
                self._bar.refresh()
            return
        now = time.perf_counter()
        if self._start is None:
            self._start, self._first = now, done
        if now - self._said >= EVERY:
            self._said = now
            each = (now - self._start) / (done - self._first) if done > self._first else None
            left = "" if each is None else f", {1000 * each:.0f} ms a step, {each * (total - done):.0f} s left"
            say(f"{self.doing}{': ' if self.doing else ''}step {done} of {total}{left}")

    def clear(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


class Transfer:
    """How far a download or a conversion is."""

    def __init__(self) -> None:
        self.doing, self._said, self._whole = "", 0.0, False
        self._bar: Any = None

    def __call__(self, doing: str, done: int, total: int | None) -> None:
        new, whole = doing != self.doing, total is not None and done >= total
        self.doing = doing
        if sys.stderr.isatty():
            if new or self._bar is None:
                self.close()
                self._bar = bar(doing, total, "B", 0)
            self._bar.update(done - self._bar.n)
            if whole:
                self._bar.refresh()
                self.close(leave=True)
            return
        now = time.perf_counter()
        if new or whole > self._whole or now - self._said >= EVERY:
            self._said, self._whole = now, whole
            say(f"{doing}: {done / 1e6:.0f} of {total / 1e6:.0f} MB" if total else f"{doing}: {done / 1e6:.0f} MB")

    def close(self, leave: bool = False) -> None:
        if self._bar is not None:
            self._bar.leave = leave
            self._bar.close()
            self._bar = None


def bar(doing: str, total: int | None, unit: str, initial: int, **more: Any) -> Any:
    """tqdm's, with `more` of its options, on the terminal itself: what it moves the cursor with is no text from a file."""
    tqdm: Any = import_module("tqdm").tqdm
    quiet = type("Bar", (tqdm,), {"monitor_interval": 0})  # it would start a thread
    file = getattr(sys.stderr, "stream", sys.stderr)
    options: dict[str, Any] = {"unit_scale": True, "unit_divisor": 1000} if unit == "B" else {}
    try:
        wide = os.get_terminal_size(file.fileno()).columns > 0
    except (OSError, ValueError):
        wide = False
    options |= {"dynamic_ncols": True} if wide else {"ncols": 80}  # a terminal that says it has no columns would get no bar
    return quiet(desc=shown(doing) or None, total=total, unit=unit, initial=initial, file=file, leave=False, **options, **more)
