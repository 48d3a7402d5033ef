"""A contender in a process of its own: it can be stopped, whatever it hangs in, and what it leaves behind in a library is nobody else's."""

from __future__ import annotations

import importlib
import multiprocessing
import os
import signal
import time
from contextlib import suppress
from typing import Any

from contenders import LeftOutError, Setting
from part import Part, Task

from moebius.errors import AdapterError, MoebiusError

STARTING = "starting its process"
MANY = 5
GRACE = 5.0  # seconds that a process has to end by itself
KINDS = {kind.__name__: kind for kind in (AdapterError, LeftOutError, MoebiusError)}  # errors that keep their class on the way


class Apart:
    """What `Part` does, in another process. `seconds` are what a request may take; `costs`, many pictures, may take MANY times that."""

    def __init__(self, name: str, setting: Setting, task: Task, seconds: float, source: str = "contenders:contenders") -> None:
        self.name, self.seconds, self.now = name, seconds, STARTING
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=serve, args=(theirs, source, name, setting, task), daemon=False, name=name)
        self.process.start()
        theirs.close()

    def __getattr__(self, request: str) -> Any:
        if request not in ("prepare", "picture", "facts", "costs"):
            raise AttributeError(request)
        return lambda: self._ask(request)

    def _ask(self, request: str) -> Any:
        seconds = self.seconds * (MANY if request == "costs" else 1)
        end = time.monotonic() + seconds
        with suppress(OSError):  # it has ended: reading says so
            self.pipe.send(request)
        while self.pipe.poll(max(0.0, end - time.monotonic())):
            try:
                kind, *said = self.pipe.recv()
            except (EOFError, OSError):
                self.process.join(GRACE)
                raise LeftOutError(f"its process ended (exit code {self.process.exitcode}) while {self.now}") from None
            if kind == "doing":
                self.now = said[0]
            elif kind == "done":
                return said[0]
            else:
                raise KINDS.get(said[0], PeerError)(said[1])
        self.stop(grace=0.0)
        raise LeftOutError(f"stopped after {seconds:g} s, while {self.now}")

    def stop(self, grace: float = GRACE) -> None:
        """Ends the process, and those that it has started, unless it ends by itself: it does at the end of its requests."""
        self.pipe.close()
        self.process.join(grace)
        if not self.process.is_alive():
            return
        with suppress(ProcessLookupError, PermissionError):
            if hasattr(os, "killpg") and self.now != STARTING and self.process.pid:  # until then it has no group of its own
                os.killpg(self.process.pid, signal.SIGKILL)
        self.process.kill()
        self.process.join(GRACE)


class PeerError(Exception):
    """A peer's own error, of whatever class it was."""


def serve(pipe: Any, source: str, name: str, setting: Setting, task: Task) -> None:
    """In the other process: does what it is asked, until nobody asks."""
    if hasattr(os, "setsid"):
        os.setsid()  # with all that it starts
    pipe.send(("doing", "loading its libraries"))
    module, function = source.split(":")
    contender = next(c for c in getattr(importlib.import_module(module), function)() if c.name == name)
    part = Part(contender, setting, task, lambda what: pipe.send(("doing", what)))
    while True:
        try:
            request = pipe.recv()
        except (EOFError, OSError, KeyboardInterrupt):
            return
        try:
            pipe.send(("done", getattr(part, request)()))
        except Exception as error:  # a peer fails in whatever way it likes
            kind = next((k for k, known in KINDS.items() if isinstance(error, known)), type(error).__name__)
            text = str(error) if isinstance(error, MoebiusError) else f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
            pipe.send(("failed", kind, text))
