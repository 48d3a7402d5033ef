"""The server without HTTP: jobs come in, are watched, and go; what is kept of them, and how it all ends."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from typing import Any

import moebius
from moebius.inpaint.inpainter import Inpainter
from moebius.inpaint.record import resolved
from moebius.inpaint.run import Run
from moebius.inpaint.settings import Settings
from moebius.pictures.patience import asking
from moebius.serve.answers import CANCELLED, STOPPING, RefusedError, time_is_over
from moebius.serve.batching import Batching
from moebius.serve.fields import asked
from moebius.serve.jobs import Job
from moebius.serve.limits import Limits
from moebius.serve.prepare import prepared
from moebius.serve.queue import Queue
from moebius.serve.worker import Worker

FETCHING = 5.0  # seconds that a result waits for its client while the server stops


class Service:
    def __init__(self, model: Inpainter, limits: Limits | None = None, batch: Batching | None = None) -> None:
        self.model, self.limits = model, limits or Limits()
        self.queue = Queue(self.limits)
        self.worker = Worker(model, self.queue, self.limits, self._ended, batch)
        self.reader = ThreadPoolExecutor(1, "moebius-read")  # one: pictures are decoded in the order they came
        self._jobs: dict[str, Job] = {}  # those that can be asked for, the oldest first
        self._under_way: set[Job] = set()
        self._lock = threading.Lock()

    # a job's life ---------------------------------------------------------------------------------------------------

    def enter(self, job: Job) -> None:
        """Gives it a place in the queue, as soon as its body is there."""
        self.queue.enter(job)
        with self._lock:
            self._under_way.add(job)

    def prepare(self, job: Job, body: bytes, content_type: str) -> None:
        """Finds out what is asked for. In the reader's thread; what is wrong raises, and gives up the place."""
        begun = time.monotonic()

        def check() -> None:
            if (why := job.stopping) is not None:
                raise RefusedError.of(why)
            most = min(self.limits.preparing, self.limits.seconds)
            if time.monotonic() - begun > most:
                raise RefusedError.of(time_is_over(most, "Reading the picture and its mask takes", "send a smaller one, or a simpler mask"))

        try:
            check()
            with asking(check):
                wanted = asked(body, content_type)
                run = prepared(self.model, wanted, self.limits)
            job.prepared = time.monotonic() - begun
            job.run, job.format = run, wanted.format
            job.steps = self.steps(len(run.modelled), run.settings.strength, run) + self.steps(len(run.finer), run.settings.refine, run)
            width, height = run.photo.size
            windows = len(run.modelled) + len(run.finer)
            job.about = {"windows": windows, "width": width, "height": height, "seed": run.settings.seed, "notes": list(run.notes)}
            self.queue.ready(job, width * height)
        except BaseException:
            self.queue.leave(job)
            job.fail(CANCELLED)
            self._ended(job)
            raise

    def steps(self, windows: int, strength: float, run: Run) -> int:
        """Of the sampling loop for so many windows, if the device takes as many at once as it is said to; each step tells anew."""
        batches = -(-windows // max(1, min(windows, self.model.unet.ops.largest_batch)))
        return batches * len(self.model.scheduler.timesteps(run.settings.steps, strength)) if windows else 0

    def publish(self, job: Job) -> None:
        """From now on it can be asked for by its id."""
        with self._lock:
            self._jobs[job.id] = job
        self.forget_old()

    def find(self, name: str) -> Job:
        with self._lock:
            job = self._jobs.get(name)
        if job is None:
            raise RefusedError(404, "NoSuchJob", "There is no such job; it may have ended long ago.")
        job.seen = time.monotonic()
        return job

    def stop(self, job: Job) -> None:
        """A waiting job ends now, one that runs before its next step."""
        job.stop(CANCELLED)
        if self.queue.leave(job) and job.ready:
            job.fail(CANCELLED)
            self._ended(job)

    def _ended(self, job: Job) -> None:
        with self._lock:
            self._under_way.discard(job)

    # from time to time ----------------------------------------------------------------------------------------------

    def sweep(self) -> None:
        """Jobs whose clients have gone away end; what nobody came for is forgotten."""
        now = time.monotonic()
        with self._lock:
            jobs = list(self._jobs.values())
        for job in jobs:
            patience = self.limits.broken if job.broken else self.limits.unwatched
            if not job.over and not job.watched and now - job.seen > patience:
                self.stop(job)
        self.forget_old()

    def forget(self, job: Job) -> None:
        with self._lock:
            self._jobs.pop(job.id, None)

    def forget_old(self) -> None:
        now = time.monotonic()
        with self._lock:
            ended = [job for job in self._jobs.values() if job.over]
            room, count = self.limits.kept, self.limits.kept_jobs
            for job in reversed(ended):  # the newest stay, and the very last one whatever its size
                room -= len(job.result.data) if job.result else 0
                count -= 1
                old = job.ended is not None and now - job.ended > self.limits.kept_seconds
                full = (room < 0 or count < 0) and job is not ended[-1]
                if (full or old) and not job.watched:
                    del self._jobs[job.id]

    # the end --------------------------------------------------------------------------------------------------------

    def drain(self) -> None:
        """What runs is finished; what waits is answered that the server stops; nothing new is taken."""
        for job in self.queue.close():
            job.stop(STOPPING)
            if job.ready:
                job.fail(STOPPING)
                self._ended(job)

    def drained(self, since: float) -> bool:
        """Whether all that was taken has been answered."""
        with self._lock:
            unfetched = [job for job in self._jobs.values() if job.result is not None and not job.fetched]
            busy = bool(self._under_way)
        newest = max([since, *(job.ended or since for job in unfetched)])
        return not busy and (not unfetched or time.monotonic() - newest > FETCHING)

    def abort(self) -> None:
        """What runs ends before its next step, too."""
        self.drain()
        with self._lock:
            jobs = list(self._under_way)
        for job in jobs:
            job.stop(STOPPING)

    def close(self, patience: float = 10.0) -> None:
        self.abort()
        if self.worker.is_alive():
            self.worker.join(patience)
        self.reader.shutdown(wait=False, cancel_futures=True)

    # what there is to know ------------------------------------------------------------------------------------------

    def model_facts(self) -> dict[str, Any]:
        model, batch = self.model, self.worker.batch
        defaults = asdict(resolved(Settings(), model))
        limits = {name: getattr(self.limits, name) for name in ("bytes", "pixels", "steps", "windows", "seconds", "waiting")}
        return {
            "name": model.model,
            "device": model.device,
            "precision": model.precision,
            "size": model.size,
            "version": moebius.__version__,
            "notes": list(model.notes),
            "defaults": {name: value for name, value in defaults.items() if name != "num_images"},
            "limits": limits,
            "queue": {"waiting": self.queue.waiting, "running": len(self.queue.running)},
            "batch": {"size": batch.size, "why": batch.why},
        }

    def job_facts(self, job: Job) -> dict[str, Any]:
        error = None if job.failure is None or job.state == "cancelled" else {"status": job.failure.status, **job.failure.as_json()}
        facts = {"id": job.id, "state": job.state, "place": self.queue.place(job), "waiting": self.queue.waiting}
        return {**facts, "step": job.step, "steps": job.steps, **job.about, "error": error}

    def health(self) -> tuple[int, str]:
        if not self.queue.open:
            return 503, "stopping"
        if self.worker.lost is not None:
            return 503, "the device is lost"
        return (200, "ok") if self.worker.is_alive() else (503, "the worker has ended")
