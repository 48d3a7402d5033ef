"""How far a command is, on standard error: a bar on a terminal, elsewhere a line every few seconds."""

from __future__ import annotations

import os
import sys
import threading
import time
from importlib import import_module
from typing import Any

from moebius.cli.output import say, say_error
from moebius.errors import shown

EVERY = 5.0  # seconds between two lines where there is no terminal


class Bar:
    """Steps of a run: `show(done, total)` after each."""

    def __init__(self, doing: str = "") -> None:
        self.doing = doing
        self._bar: Any = None
        self._start: float | None = None
        self._first = 0
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
        if self._start is None or done <= self._first:  # a run that overflows f16 begins again
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


class Pictures:
    """How far a batch is: tqdm's bar on a terminal, with the time left; elsewhere a line a picture, and every few seconds in between.

    Any thread may call it."""

    def __init__(self, count: int, silent: bool) -> None:
        self.count, self.silent = count, silent
        self._began = self._said = time.perf_counter()
        self._ended = self._worked = 0  # pictures; those skipped, and those that failed, are no measure of the others
        self._lock = threading.RLock()
        self._bar: Any = None
        if not silent and sys.stderr.isatty():
            look = "{desc} {percentage:3.0f}%|{bar}| [{elapsed}<{remaining}]"
            self._bar = bar("", count, "", 0, smoothing=0, bar_format=look)

    @property
    def place(self) -> str:
        """[3/120], and the time that all the others will take."""
        left = self.left(1.0)
        return f"[{self._ended + 1}/{self.count}{f', {left}' if left else ''}]"

    def named(self, index: int, name: str) -> str:
        """3/120 a.jpg"""
        return f"{index + 1}/{self.count} {shown(name)}"

    def step(self, index: int, name: str, done: int, total: int) -> None:
        """Of the picture that has the device."""
        with self._lock:
            doing, part = self.named(index, name), done / total
            if self._bar is not None:
                self._bar.set_description_str(doing, refresh=False)
                self._bar.n = self._worked + part
                self._bar.refresh()
            elif time.perf_counter() - self._said >= EVERY:
                left = self.left(part)
                say(f"{doing}: step {done} of {total}{f', {left}' if left else ''}")
                self._said = time.perf_counter()

    def end(self, how: str) -> None:
        with self._lock:
            self._ended += 1
            self._worked += how == "done"
            if self._bar is not None:
                self._bar.total = self.count - self._ended + self._worked
                self._bar.n = self._worked
                self._bar.refresh()

    def left(self, part: float) -> str:
        """The time left, when so much of one more picture is done; nothing at the end."""
        seconds = (time.perf_counter() - self._began) / (self._worked + part) * (self.count - self._ended - part)
        minutes, rest = divmod(round(seconds), 60)
        return f"{minutes // 60}:{minutes % 60:02}:{rest:02} left" if self._ended + part < self.count else ""

    def say(self, *words: object) -> None:
        """A line above the bar."""
        with self._lock:
            self._said = time.perf_counter()
            if self._bar is not None:
                self._bar.clear()
            say(*words)
            if self._bar is not None:
                self._bar.refresh()

    def say_error(self, sentence: str) -> None:
        with self._lock:
            if self._bar is not None:
                self._bar.clear()
            say_error(sentence)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()


def bar(doing: str, total: int | None, unit: str, initial: int, **more: Any) -> Any:
    """tqdm's, with `more` of its options, on the terminal itself: what it moves the cursor with is no text from a file."""
    tqdm: Any = import_module("tqdm").tqdm
    quiet = type("Bar", (tqdm,), {"monitor_interval": 0})  # it would start a thread
    file = getattr(sys.stderr, "stream", sys.stderr)
    options = more | ({"unit_scale": True, "unit_divisor": 1000} if unit == "B" else {})
    try:
        wide = os.get_terminal_size(file.fileno()).columns > 0
    except (OSError, ValueError):
        wide = False
    options |= {"dynamic_ncols": True} if wide else {"ncols": 80}  # a terminal that says it has no columns would get no bar
    return quiet(desc=shown(doing) or None, total=total, unit=unit, initial=initial, file=file, leave=False, **options)
