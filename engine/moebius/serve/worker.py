"""The one thread that computes: jobs in the order of the queue, several as one batch where that was measured to be worth it."""

from __future__ import annotations

import base64
import io
import json
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

from PIL import Image

from moebius.errors import DeviceLostError, OutOfMemoryError
from moebius.inpaint.inpainter import Inpainter
from moebius.inpaint.record import of_image
from moebius.inpaint.result import Result, Step
from moebius.inpaint.run import Run
from moebius.inpaint.together import alike, sampled
from moebius.pictures.formats import ENDINGS
from moebius.pictures.metadata import as_json
from moebius.pictures.save import encoded
from moebius.serve.answers import failure, time_is_over
from moebius.serve.batching import Batching, measured
from moebius.serve.jobs import Job, Picture, Preview
from moebius.serve.limits import Limits
from moebius.serve.queue import Queue

UNWRITTEN = 2  # pictures that are being encoded while the next one is computed
JPEG_QUALITY = 80  # of a preview
LONGEST_NOTES = 4000  # characters, in a header


class Worker(threading.Thread):
    """A thread of its own for the device, and one for what is written of a result meanwhile."""

    def __init__(self, model: Inpainter, queue: Queue, limits: Limits, ended: Callable[[Job], None], batch: Batching | None = None) -> None:
        super().__init__(name="moebius-serve", daemon=True)
        self.model, self.queue, self.limits, self.ended = model, queue, limits, ended
        self.batch = batch or Batching(1, "it is being measured")
        self.lost: str | None = None  # the device, for good
        self._measure = batch is None
        self._writer = ThreadPoolExecutor(1, "moebius-write")
        self._unwritten = threading.BoundedSemaphore(UNWRITTEN)

    def run(self) -> None:
        if self._measure:
            try:
                self.batch = measured(self.model, lambda: self.queue.open)
            except Exception as error:  # nobody's request depends on it
                self.batch = Batching(1, f"it could not be measured: {failure(error).message}")
        while (jobs := self.queue.take(self._together)) is not None:
            begun = time.monotonic()
            try:
                self._work(jobs)
            except BaseException as error:  # whatever it is, everybody gets an answer, and the next one their turn
                for job in jobs:
                    self._fail(job, error)
            self.queue.took(time.monotonic() - begun, len(jobs))
            jobs = []
        self._writer.shutdown()

    def _together(self, job: Job, taken: Sequence[Job]) -> bool:
        runs = [other.run for other in taken if other.run is not None]
        windows = sum(len(run.modelled) for run in runs)
        return job.run is not None and windows + len(job.run.modelled) <= self.batch.size and alike(job.run, *runs)

    def _work(self, jobs: Sequence[Job]) -> None:
        runs = [job.run for job in jobs if job.run is not None]  # a job that has ended has none
        try:
            self._compute(jobs)
        finally:
            for run in runs:
                run.leave()

    def _compute(self, jobs: Sequence[Job]) -> None:
        job_of: dict[Run, Job] = {}
        for job in jobs:
            job.begin()
            run = job.run
            try:
                if run is not None and self._goes_on(job):
                    run.begin()
                    job_of[run] = job
            except Exception as error:
                self._fail(job, error)
        shown = 0.0
        with closing(sampled(list(job_of), lambda run: not job_of[run].over, lambda run, error: self._fail(job_of[run], error))) as steps:
            for pairs in steps:
                show = time.monotonic() - shown >= self.limits.preview
                for run, step in pairs:
                    step.state.estimate()  # waits for the device: without it steps would count that are only queued
                    if self._goes_on(job_of[run]):
                        job_of[run].hear(step.index + 1, step.total, previews(step, job_of[run].wanted) if show else {})
                shown = time.monotonic() if show else shown
        for run, job in job_of.items():
            try:
                while self._goes_on(job) and not run.finish():  # it overflowed f16, and has begun again
                    for step in run.denoise():
                        step.state.estimate()
                        if not self._goes_on(job):
                            break
                        job.hear(step.index + 1, step.total, {})
                if not job.over:
                    job.about["notes"] = list(run.notes)
                    self._unwritten.acquire()
                    self._writer.submit(self._write, job, run)
            except Exception as error:
                self._fail(job, error)

    def _goes_on(self, job: Job) -> bool:
        """Ends a job that is to end, or whose time is over."""
        if job.over:
            return False
        if job.begun is not None and job.prepared + time.monotonic() - job.begun > self.limits.seconds:
            job.stop(time_is_over(self.limits.seconds, "The picture takes", "ask for fewer steps or windows"))
        if (why := job.stopping) is not None:
            job.fail(why)
            self.ended(job)
            return False
        return True

    def _fail(self, job: Job, error: BaseException) -> None:
        if isinstance(error, DeviceLostError) and not isinstance(error, OutOfMemoryError):
            self.lost = str(error)
        if isinstance(error, OutOfMemoryError | MemoryError):
            self.model.forget_denoisers()  # what the next picture needs is taken again
        job.fail(failure(error))
        self.ended(job)

    def _write(self, job: Job, run: Run) -> None:
        try:
            if self._goes_on(job):
                job.finish(picture(job, run.result))  # put together here, beside the next one's computing
                self.ended(job)
        except BaseException as error:
            self._fail(job, error)
        finally:
            self._unwritten.release()


def picture(job: Job, result: Result) -> Picture:
    """The file and its headers. Of equal requests the bytes are equal: how long it took stands beside them."""
    record = told(result.metadata)
    data, notes = encoded(result.image, Path(f"picture.{job.format}"), like=result.photo, metadata=record)
    seconds = time.monotonic() - job.begun if job.begun is not None else 0.0
    said = json.dumps([*result.notes, *notes])
    headers = {
        "X-Seed": str(record["seed"]),
        "X-Moebius-Settings": as_json(record),
        "X-Moebius-Notes": said if len(said) <= LONGEST_NOTES else "[]",
        "X-Moebius-Seconds": f"{seconds:.3f}",
    }
    return Picture(data, Image.MIME[ENDINGS[f".{job.format}"]], headers, seconds)


def told(metadata: dict[str, Any]) -> dict[str, Any]:
    """The record of a picture, without the time it took and without the folders of this machine."""
    source = {net: of | {"path": Path(of["path"]).name} if "path" in of else of for net, of in metadata["source"].items()}
    return of_image({key: value for key, value in metadata.items() if key != "timings"} | {"source": source}, 0)


def previews(step: Step, wanted: set[Preview]) -> dict[Preview, Any]:
    """What the picture would be if the run stopped now, as its listeners want it."""
    found: dict[Preview, Any] = {}
    if "picture" in wanted:
        found["picture"] = data_url(step.preview, "JPEG")
    if "patches" in wanted:
        found["patches"] = [
            {"x": w.x, "y": w.y, "width": w.width, "height": w.height, "image": data_url(Image.fromarray(pixels), "PNG")}
            for w, pixels in step.patches
        ]
    return found


def data_url(image: Image.Image, kind: str) -> str:
    file = io.BytesIO()
    image.save(file, kind, quality=JPEG_QUALITY)
    return f"data:{Image.MIME[kind]};base64,{base64.b64encode(file.getvalue()).decode()}"
