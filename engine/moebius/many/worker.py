"""One picture's way: read, filled in, written. Several threads may be on it at a time, of which one has the device."""

from __future__ import annotations

import io
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from moebius.errors import EmptyMaskError, MoebiusError, UsageError
from moebius.inpaint.inpainter import Inpainter
from moebius.inpaint.record import differing, of_image, record, resolved
from moebius.inpaint.result import Result
from moebius.inpaint.run import Run
from moebius.inpaint.settings import Settings
from moebius.many import frames, places
from moebius.many.jobs import How, Job, Outcome, outputs
from moebius.many.places import Place
from moebius.pictures import mask as masks
from moebius.pictures import photo as photos
from moebius.pictures.mask import Mask
from moebius.pictures.metadata import read_metadata
from moebius.pictures.photo import MAX_PIXELS, Photo

THREADS = 4  # on pictures at a time: one has the device, the others read and write
ROOM = 64_000_000  # pixels, of pictures and windows, that these keep in memory together; one that is larger goes alone
RETRIES = 2


@dataclass(frozen=True)
class Options:
    """What counts for all pictures of a batch."""

    settings: Mapping[str, Any] = field(default_factory=dict)
    resume: bool = False  # take the results that are there, of the same settings and model
    force: bool = False  # take a mask that looks like a photograph
    allow_empty: bool = False  # where the mask marks nothing, the picture as it is
    max_pixels: int = MAX_PIXELS
    metadata: bool = True
    quality: Any = None
    retries: int = RETRIES
    frames: bool = False  # the pictures of a folder are those of a film, in order

    def of(self, job: Job) -> dict[str, Any]:
        return {**self.settings, **job.settings}


class Stopped(BaseException):
    """The batch is being ended."""


class Room:
    """Lets in pictures of at most so many pixels together."""

    def __init__(self, most: int) -> None:
        self.most, self.taken, self._changed = most, 0, threading.Condition()

    @contextmanager
    def for_pixels(self, count: int) -> Iterator[None]:
        with self._changed:
            self._changed.wait_for(lambda: not self.taken or self.taken + count <= self.most)
            self.taken += count
        try:
            yield
        finally:
            with self._changed:
                self.taken -= count
                self._changed.notify_all()


def pixels_of(run: Run) -> int:
    """How many are in memory: the photo, as far as it is extended, every picture made of it, and all windows."""
    (width, height), count = run.photo.size, run.settings.num_images
    windows = (len(run.modelled) + len(run.finer)) * count
    return width * height * count + windows * run.model.size**2


def light(error: Exception) -> Exception:
    """The same, without the pictures that were at hand where it was raised: who collects failures would collect those."""
    link: BaseException | None = error
    while link is not None:
        traceback.clear_frames(link.__traceback__)
        link = link.__cause__ or link.__context__
    return error


class Worker:
    """What a batch does with a picture, on one device."""

    def __init__(self, model: Inpainter, options: Options, on_step: Callable[[Job, int, int], None] | None = None, name: str = "") -> None:
        self.model, self.options, self.on_step, self.name = model, options, on_step, name
        self._turn, self._reading, self._room = threading.Lock(), threading.Lock(), Room(ROOM)
        self._stopped = False

    def stop(self) -> None:
        """Whatever is under way ends at its next step; what is being written is written."""
        self._stopped = True

    def one(self, job: Job, wait: Callable[[], object] | None = None, tried: int = 0) -> Outcome:
        """Whatever is wrong with the picture is its outcome, and ends nothing else. `wait` returns when the frame before it is there.
        Others have tried so often."""
        tries = tried
        while True:
            tries += 1
            outcome = replace(self._once(job, wait), tries=tries)
            if not outcome.bad_luck or tries > self.options.retries:
                return outcome

    def _once(self, job: Job, wait: Callable[[], object] | None) -> Outcome:
        try:
            return self._filled(job, wait)
        except Exception as error:
            if isinstance(error, MemoryError):
                self.model.forget_denoisers()  # what the next picture needs is taken again
            return self._outcome(job, "failed", error=light(error))

    def _outcome(self, job: Job, how: How, output: tuple[str, ...] = (), notes: tuple[str, ...] = (), **more: Any) -> Outcome:
        return Outcome(job, how, output, notes, **more, device=self.model.device, worker=self.name)

    def _filled(self, job: Job, wait: Callable[[], object] | None) -> Outcome:
        self._go_on()
        options, settings = self.options, self.options.of(job)
        targets = outputs(job, settings.get("num_images", 1))
        why = self._why_again(targets, settings) if options.resume else ""
        if why is None:
            return self._outcome(job, "skipped", tuple(map(str, targets)))
        notes = (why,) if why else ()
        if job.mask is None:
            raise UsageError(job.problem)
        if wait is not None:
            wait()
        image, given = places.source(job.image), self._given(job)
        places.make_folder(job.out.parent)
        with ExitStack() as held:
            with self._reading:  # one at a time is decoded and waits for room, so that no more than one is beyond it
                photo = photos.load(image, options.max_pixels)
                try:
                    mask = self._mask(given, photo, settings, allow_empty=any(settings.get("extend", ())))
                except EmptyMaskError:
                    if not options.allow_empty:
                        raise
                    if job.out.suffix == job.image.suffix:
                        return self._copied(job, targets, notes)
                    mask = self._mask(given, photo, settings, allow_empty=True)
                run, start = self._run(job, photo, mask, settings)
                held.enter_context(self._room.for_pixels(pixels_of(run)))
            result, seconds = self._computed(job, run, start)
            notes = (*notes, *run.notes[len(self.model.notes) :], *self._saved(result, targets))
        made: dict[str, Any] = {"metadata": result.metadata, "windows": len(result.windows), "seconds": seconds}
        return self._outcome(job, "done", tuple(map(str, targets)), notes, **made)

    def _go_on(self) -> None:
        if self._stopped:
            raise Stopped

    # reading -----------------------------------------------------------------------------------------------------
    def _given(self, job: Job) -> Any:
        """The mask, as `masks.load` takes it."""
        mask = job.mask
        return list(mask) if isinstance(mask, tuple) else mask if mask is None or isinstance(mask, str) else places.source(mask)

    def _mask(self, given: Any, photo: Photo, settings: Mapping[str, Any], allow_empty: bool = False) -> Mask:
        options = self.options
        more = {name: settings[name] for name in ("invert", "grow") if name in settings}
        return masks.load(given, photo, force=options.force, allow_empty=allow_empty, max_pixels=options.max_pixels, **more)

    def _run(self, job: Job, photo: Photo, mask: Mask, settings: dict[str, Any]) -> tuple[Run, np.ndarray | None]:
        """The run, and what it starts from besides the photo: of a frame the last one."""
        start = self._last_frame(job, photo, mask) if self.options.frames and job.after is not None else None
        if start is not None:
            settings["strength"] = frames.of_frame(Settings(**settings))
        return self.model.steps(photo, mask, **settings), start

    def _last_frame(self, job: Job, photo: Photo, mask: Mask) -> np.ndarray | None:
        """None where it cannot be had: it failed, or is of another kind. Then this one begins by itself, as the first does."""
        last = job.after
        if last is None or last.mask is None:
            return None
        written = outputs(last, self.options.of(last).get("num_images", 1))[0]
        try:
            before = photos.load(places.source(written), self.options.max_pixels)
            whose = photos.load(places.source(last.image), self.options.max_pixels) if last.mask == masks.ALPHA else before
            filled = self._mask(self._given(last), whose, self.options.of(last), allow_empty=True).fill
        except MoebiusError:
            return None
        return frames.start(photo.rgb, mask.fill, before.rgb, filled)

    # filling in --------------------------------------------------------------------------------------------------
    def _computed(self, job: Job, run: Run, start: np.ndarray | None) -> tuple[Result, float]:
        """The result, and for how many seconds the device was taken."""
        model = self.model
        fixed = partial(frames.draws, channels=model.vae.config.latent_channels, side=model.unet.config.sample_size)
        run.prepare(fixed if self.options.frames else None, start, frames.KEEP)
        with self._turn:
            self._go_on()
            began = time.perf_counter()
            for step in run:
                self._go_on()
                if self.on_step is not None:
                    step.state.estimate()  # waits for the GPU: without it steps would count that are only queued
                    self.on_step(job, step.index + 1, step.total)
            seconds = time.perf_counter() - began
        return run.result, seconds

    # writing -----------------------------------------------------------------------------------------------------
    def _saved(self, result: Result, targets: list[Place]) -> tuple[str, ...]:
        notes: list[str] = []
        for index, path in enumerate(targets):
            options: dict[str, Any] = {"index": index, "metadata": self.options.metadata, "quality": self.options.quality}
            if isinstance(path, Path):
                notes += result.save(path, **options)
            else:
                file = io.BytesIO()
                notes += result.save(file, format=path.suffix, **options)
                places.write(path, file.getvalue())
        return tuple(notes)

    def _copied(self, job: Job, targets: list[Place], notes: tuple[str, ...]) -> Outcome:
        """The picture byte by byte, where there is nothing to fill in."""
        for path in targets:
            places.copy(job.image, path)
        return self._outcome(job, "copied", tuple(map(str, targets)), notes)

    # what is there ---------------------------------------------------------------------------------------------------
    def _why_again(self, targets: list[Place], settings: dict[str, Any]) -> str | None:
        """None where all of these were made with the same settings and model; else why one that is there is made again, or nothing."""
        if not all(path.exists() for path in targets):
            return ""
        wanted = [self._record(settings)]
        if self.options.frames:  # one that started from the last frame
            wanted.append(self._record({**settings, "strength": frames.of_frame(Settings(**settings))}))
        for i, path in enumerate(targets):
            try:
                made = read_metadata(places.source(path))
            except MoebiusError as error:
                return f"{error} It is made again."
            if made is None:
                return f"{path} does not say how it was made; it is made again."
            others = [differing(made, of_image(one, i)) for one in wanted]
            if all(others):
                return f"{path} was made with another {', '.join(others[0])}; it is made again."
        return None

    def _record(self, settings: dict[str, Any]) -> dict[str, Any]:
        return record(self.model, resolved(Settings(**settings), self.model), frames.NAMES if self.options.frames else ())
