"""Whose turn it is: a bounded queue in the order in which requests had arrived whole."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

from moebius.serve.answers import CANCELLED, STOPPING, RefusedError
from moebius.serve.jobs import Job
from moebius.serve.limits import Limits

FIRST_GUESS = 5.0  # seconds a picture, before there was one


class Queue:
    """A job enters as soon as its body is there, and keeps its place while it is decoded: a small picture does not overtake a large one."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.open = True
        self.running: list[Job] = []
        self._waiting: list[Job] = []
        self._news = threading.Condition()
        self._seconds: deque[float] = deque([FIRST_GUESS], maxlen=8)

    # for requests ---------------------------------------------------------------------------------------------------

    def check_room(self) -> None:
        """Refuses where one more would not find a place."""
        with self._news:
            self._check_room()

    def _check_room(self) -> None:
        if not self.open:
            raise RefusedError.of(STOPPING)
        if len(self._waiting) >= self.limits.waiting:
            raise self.full(f"{len(self._waiting)} requests wait already")

    def enter(self, job: Job) -> None:
        with self._news:
            self._check_room()
            self._waiting.append(job)

    def ready(self, job: Job, pixels: int) -> None:
        """Its run is there. Refuses where the pictures of all that wait would take too much memory."""
        with self._news:
            if job not in self._waiting:  # it was stopped while its pictures were decoded
                raise RefusedError.of(job.stopping or CANCELLED)
            held = sum(other.pixels for other in self._waiting if other is not job)
            if held and held + pixels > self.limits.waiting_pixels:
                raise self.full("the pictures that wait take all the memory there is for them")
            job.pixels, job.ready = pixels, True
            self._news.notify_all()
        job.changed()

    def full(self, why: str) -> RefusedError:
        """429, and after how many seconds there should be room: when the next one has run."""
        seconds = max(1, round(sum(self._seconds) / len(self._seconds)))
        return RefusedError(429, "QueueFull", f"The queue is full: {why}. Ask again in {seconds} seconds.", seconds)

    def leave(self, job: Job) -> bool:
        """Takes a waiting job out; whether it was there."""
        with self._news:
            there = job in self._waiting
            if there:
                self._waiting.remove(job)
                self._news.notify_all()
            waiting = list(self._waiting)
        for other in waiting if there else ():
            other.changed()
        return there

    def place(self, job: Job) -> int:
        """1 for the next one, 0 for one that does not wait."""
        with self._news:
            return self._waiting.index(job) + 1 if job in self._waiting else 0

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    def close(self) -> list[Job]:
        """Nobody enters any more; returns those who were waiting."""
        with self._news:
            self.open = False
            left, self._waiting = self._waiting, []
            self._news.notify_all()
        return left

    # for the worker -------------------------------------------------------------------------------------------------

    def take(self, together: Callable[[Job, list[Job]], bool]) -> list[Job] | None:
        """The job whose turn it is, and those right behind it that `together` lets go with it. Waits for it; None when it is all over."""
        with self._news:
            while not (self._waiting and self._waiting[0].ready):
                if not self.open:
                    return None
                self._news.wait()
            taken = [self._waiting.pop(0)]
            while self._waiting and self._waiting[0].ready and together(self._waiting[0], taken):
                taken.append(self._waiting.pop(0))
            self.running = taken
            waiting = list(self._waiting)
        for job in waiting:
            job.changed()
        return taken

    def took(self, seconds: float, pictures: int) -> None:
        """For the next guess of how long one takes; the last ones no longer run."""
        with self._news:
            self.running = []
            self._seconds.append(seconds / pictures)
