"""Runs of the Inpainter on a thread of their own.

Why a thread, and not steps between frames: a step of the full model takes from tens of milliseconds to seconds, encoding and
decoding are no steps at all, and no frame could be drawn in between. NumPy and wgpu let go of the GIL while they compute, so
the window's thread goes on. The Inpainter has a device of its own: what is recorded on it, and its loss, are not the window's.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

import numpy as np

from moebius.errors import DeviceLostError, MoebiusError, OutOfMemoryError
from moebius.view.picture import Picture

if TYPE_CHECKING:
    from moebius.inpaint.inpainter import Inpainter
    from moebius.inpaint.result import Result
    from moebius.pictures.photo import Photo

Place = tuple[int, int, int, int]  # x, y, width, height in the picture


@dataclass(frozen=True)
class Request:
    number: int
    photo: Photo
    fill: np.ndarray  # (H, W) bool, which nobody writes to any more
    settings: dict[str, Any]


@dataclass(frozen=True)
class Loaded:
    device: str
    warnings: tuple[str, ...] = ()  # as where a GPU was refused, and the CPU computes


@dataclass(frozen=True)
class Progress:
    """`phase` says what is going on now; `done` of `total` steps are taken."""

    number: int
    phase: str
    done: int = 0
    total: int = 0
    ms_per_step: float | None = None
    patches: dict[Place, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True)
class Finished:
    number: int
    result: Result
    photo: Photo  # the result as what is painted on next
    picture: Picture


@dataclass(frozen=True)
class Failed:
    number: int
    text: str


Event = Loaded | Progress | Finished | Failed
Load = Callable[[Callable[[], None]], "Inpainter"]
LOADING = 0  # the number of no run
LOST = "The GPU was lost during the run. Enter opens it again and starts over; if it is lost again, mark less of the picture."
NICE = 5  # on the CPU device, and on a software driver, a step takes every core: the window comes first


class Worker:
    """`load(check)` returns the Inpainter. It is called on the thread, at the start and again after a device was lost, and calls
    `check` while it downloads, which raises once the window is closed. `notify` wakes the window: there are new `events`.
    """

    def __init__(self, load: Load, notify: Callable[[], None], largest_side: int) -> None:
        self.events: SimpleQueue[Event] = SimpleQueue()
        self._load, self._notify, self._largest_side = load, notify, largest_side
        self._requests: SimpleQueue[Request | None] = SimpleQueue()
        self._number = self._wanted = LOADING
        self._closed = False
        self._model: Inpainter | None = None
        self._thread = threading.Thread(target=self._work, name="moebius-view-run", daemon=True)

    def begin(self) -> None:
        self._thread.start()

    def start(self, photo: Photo, fill: np.ndarray, settings: dict[str, Any]) -> int:
        """The number of the new run, which its events carry. A run before it ends after its step and sends no more events."""
        self._number += 1
        self._wanted = self._number
        self._requests.put(Request(self._number, photo, fill, settings))
        return self._number

    def cancel(self) -> None:
        self._wanted = LOADING

    def close(self, patience: float, hurried: Callable[[], bool] = lambda: False) -> bool:
        """Whether the thread has ended. Its step still uses the device, so it is waited for: so many seconds, or until it is `hurried`."""
        self._closed = True
        self.cancel()
        self._requests.put(None)
        end = time.monotonic() + patience
        while self._thread.is_alive() and time.monotonic() < end and not hurried():
            self._thread.join(0.05)
        if self._thread.is_alive():
            return False
        self._model = None
        return True

    # the thread --------------------------------------------------------------------------------------------------
    def _work(self) -> None:
        if sys.platform == "linux":  # where a thread has a niceness of its own, and hands it on to those that compute for it
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), os.getpriority(os.PRIO_PROCESS, 0) + NICE)
        self._try(LOADING, self._ready)
        while not self._closed:
            request = self._requests.get()
            if request is not None and request.number == self._wanted:
                self._try(request.number, partial(self._run, request))

    def _try(self, number: int, work: Callable[[], Any]) -> None:
        try:
            work()
        except DeviceLostError as error:
            self._model = None  # its buffers are gone; the next run loads it again, on a new device
            self._send(Failed(number, str(error) if isinstance(error, OutOfMemoryError) else LOST))
        except MoebiusError as error:
            self._send(Failed(number, str(error)))
        except MemoryError:
            self._send(Failed(number, "There is not enough memory for this picture. Mark less of it, or close other programs."))
        except Exception as error:  # a mistake of ours: the trace is for the terminal, the window goes on
            traceback.print_exc()
            self._send(Failed(number, f"This is a bug: {type(error).__name__}: {error}. The terminal has the details."))

    def _ready(self) -> Inpainter:
        if self._model is None:
            with heard() as warnings:
                self._model = self._load(self._check_open)
            self._send(Loaded(f"{self._model.device}, in {self._model.precision}", tuple(warnings)))
        return self._model

    def _check_open(self) -> None:
        """Raises when the window is closed: a download of minutes must not outlive it."""
        if self._closed:
            raise MoebiusError("The window was closed.")

    def _run(self, request: Request) -> None:
        number = request.number
        if self._model is None:
            self._send(Progress(number, "Loading the model"))
        model = self._ready()
        self._send(Progress(number, "Encoding"))
        run = model.steps(request.photo, request.fill, **request.settings)
        patches: dict[Place, np.ndarray] = {}
        began: float | None = None
        for step in run:
            if self._wanted != number:
                return
            # The estimate is fetched, which waits for the GPU: without it the bar would count steps that are only queued.
            patches |= {(w.x, w.y, w.width, w.height): rgb for w, rgb in step.patches}
            now = time.perf_counter()
            # The first step also warms up, which would spoil the mean; and where f16 overflows, the steps begin again.
            done, began = step.index + 1, now if step.index == 0 else began or now
            each = 1000 * (now - began) / (done - 1) if done > 1 else None
            phase = "Denoising" if done < step.total else "Decoding"
            self._send(Progress(number, phase, done, step.total, each, dict(patches)))
        if self._wanted == number:
            photo = built_on(request.photo, run.result)
            self._send(Finished(number, run.result, photo, Picture.of(photo, self._largest_side)))

    def _send(self, event: Event) -> None:
        self.events.put(event)
        if not self._closed:
            self._notify()


def built_on(photo: Photo, result: Result) -> Photo:
    """The result as a photo, with all that came with the one it was made of."""
    from moebius.pictures import photo as photos

    kept = {name: getattr(photo, name) for name in ("extras", "format", "notes", "name")}
    return replace(photos.load(result.image), **kept)


@contextmanager
def heard() -> Iterator[list[str]]:
    """What is warned of on this thread meanwhile, as sentences. The terminal has it, too."""
    said: list[str] = []
    thread = threading.get_ident()
    log = logging.getLogger("moebius")
    alone = not log.hasHandlers()  # then Python itself writes warnings to standard error

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.thread == thread:
                said.append(record.getMessage())
            if alone and logging.lastResort is not None:
                logging.lastResort.handle(record)

    listener = Listener(logging.WARNING)
    log.addHandler(listener)
    try:
        yield said
    finally:
        log.removeHandler(listener)
