"""`moebius.batch(images, masks, out)`: many pictures, here or on the machines of a Ray cluster. The command of that name does the same."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing, nullcontext
from dataclasses import dataclass, field, fields, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from moebius.errors import UsageError, did_you_mean
from moebius.inpaint.inpainter import Inpainter
from moebius.inpaint.settings import Settings
from moebius.many import cluster, here, manifest, pairs
from moebius.many.jobs import Job, Outcome, outputs
from moebius.many.places import Place, Url, place
from moebius.many.recipe import Recipe
from moebius.many.worker import RETRIES, Options, Worker
from moebius.pictures.photo import MAX_PIXELS
from moebius.weights.published import NANO


@dataclass(frozen=True)
class Listed:
    """What is to be done."""

    count: int
    jobs: Callable[[], Iterator[Job]]  # from the first on, each time it is called
    ignored: Mapping[str, list[str]] = field(default_factory=dict)  # why: which


def listed(images: Place, masks: Place, out: Place, options: Options, recursive: bool = False) -> Listed:
    """Of a folder, or of a manifest, which is read through once to see that nothing in it is wrong."""
    if not manifest.is_manifest(images) or images.is_dir():
        found = pairs.find(images, masks, out, recursive)
        return Listed(len(found.jobs), partial(chained, lambda: iter(found.jobs), options.frames), found.ignored)
    jobs = partial(manifest.jobs, images, masks, out, options.settings)
    count = 0
    written, read = set[int](), set[int]()
    for job in jobs():
        count += 1
        read.update(number(p) for p in (job.image, job.mask) if isinstance(p, Path | Url))
        for path in outputs(job, options.of(job).get("num_images", 1)):
            if number(path) in written:
                raise UsageError(f"{images}: two of its pictures go to {path}; give one of them another output.")
            written.add(number(path))
    if not count:
        raise UsageError(f"{images} names no picture.")
    if written & read:
        every = (path for job in jobs() for path in outputs(job, options.of(job).get("num_images", 1)))
        lost = next(path for path in every if number(path) in read)
        raise UsageError(f"{images}: the output {lost} is a picture or mask that the list reads; give it another name or folder.")
    return Listed(count, partial(chained, jobs, options.frames))


def number(of: Place) -> int:
    """The same for every name of a place. Of a million places numbers are kept, and not names."""
    return hash(of if isinstance(of, Url) else os.path.normcase(os.path.join(real(of.parent), of.name)))


@lru_cache(maxsize=1024)
def real(folder: Path) -> str:
    return os.path.realpath(folder)


def chained(jobs: Callable[[], Iterator[Job]], frames: bool) -> Iterator[Job]:
    """With `frames` each knows the one before it in its folder."""
    before: Job | None = None
    for job in jobs():
        if frames and before is not None and before.out.parent == job.out.parent:
            yield replace(job, after=before)
        else:
            yield job
        before = job


def absolute(of: Place) -> Place:
    """As it is called from any folder: a worker is started in another one."""
    return of.absolute() if isinstance(of, Path) else of


# what has become of them ----------------------------------------------------------------------------------------------
@dataclass
class Share:
    """What one device has done."""

    pictures: int = 0
    busy: float = 0.0  # seconds


@dataclass
class Summary:
    """The end of a batch."""

    count: int
    done: int = 0  # with those that were copied
    skipped: int = 0
    failed: int = 0
    seconds: float = 0.0  # from the first picture's begin
    devices: dict[str, Share] = field(default_factory=dict)
    failures: list[Outcome] = field(default_factory=list)
    _start: float = field(default_factory=time.perf_counter, repr=False)

    def add(self, outcome: Outcome) -> None:
        self.seconds = time.perf_counter() - self._start
        if outcome.how == "failed":
            self.failed += 1
            self.failures.append(outcome)
        elif outcome.how == "skipped":
            self.skipped += 1
        else:
            self.done += 1
        if outcome.how == "done":
            share = self.devices.setdefault(f"{outcome.device}{f', {outcome.worker}' if outcome.worker else ''}", Share())
            share.pictures += 1
            share.busy += outcome.seconds

    @property
    def ended(self) -> int:
        return self.done + self.skipped + self.failed

    @property
    def counts(self) -> dict[str, int]:
        return {"done": self.done, "skipped": self.skipped, "failed": self.failed}

    @property
    def throughput(self) -> dict[str, dict[str, float]]:
        """Of each device: pictures, pictures a second of the whole batch, and for which part of it the device worked."""
        whole = self.seconds or 1.0
        return {
            name: {"pictures": s.pictures, "per_second": round(s.pictures / whole, 3), "busy": round(s.busy / whole, 3)}
            for name, s in self.devices.items()
        }


def batch(
    images: Any,
    masks: Any,
    out: Any,
    *,
    model: Any = NANO,
    vae: Any = None,
    revision: str | None = None,
    device: str = "auto",
    require_gpu: bool = False,
    precision: str = "auto",
    threads: int | None = None,
    matrix_units: bool = False,
    low_memory: bool = False,
    recursive: bool = False,
    ray: bool | str = False,
    workers: int | None = None,
    on_outcome: Callable[[Outcome], None] | None = None,
    resume: bool = False,
    force: bool = False,
    allow_empty: bool = False,
    max_pixels: int = MAX_PIXELS,
    metadata: bool = True,
    quality: Any = None,
    retries: int = RETRIES,
    frames: bool = False,
    **settings: Any,
) -> Summary:
    """Fills in every picture of a folder, or of a manifest (.csv, .jsonl), and writes the results into `out`; see docs/batch.md.

    The arguments are the options of `moebius batch`; `model` may be an Inpainter that is loaded. With `ray` the work is done by actors on
    the cluster of that address, with True on one that is started here. `on_outcome` is called as each picture ends. What is wrong with a
    picture is in `failures` of the summary, and ends nothing.
    """
    check_settings(settings)
    options = Options(settings, resume, force, allow_empty, max_pixels, metadata, quality, checked(retries, "retries", 0), frames)
    Settings(**settings)
    if isinstance(model, Inpainter):
        model.check_open()
    work = listed(absolute(place(images)), absolute(place(masks)), absolute(place(out)), options, recursive)
    on = {"device": device, "require_gpu": require_gpu, "precision": precision, "threads": threads, "matrix_units": matrix_units}
    recipe = Recipe(model, vae, revision, device=on, low_memory=low_memory)
    if ray is False and workers is not None:
        raise UsageError("workers are those of ray=; give both, or neither.")
    if ray is False:
        with nullcontext(model) if isinstance(model, Inpainter) else recipe.load() as loaded:
            return summed(work, here.outcomes(work.jobs(), Worker(loaded, options)), on_outcome)
    if isinstance(model, Inpainter):
        raise UsageError("An Inpainter stays in its process; with ray= give the model's name, or its folder or file.")
    address = "" if ray is True else str(ray)
    with cluster.Cluster(recipe, options, address, workers) as machines:
        machines.first()
        return summed(work, machines.outcomes(work.jobs()), on_outcome)


def summed(work: Listed, outcomes: Generator[Outcome, None, None], on_outcome: Callable[[Outcome], None] | None) -> Summary:
    summary = Summary(work.count)
    with closing(outcomes):  # also where `on_outcome` raises: then nothing goes on behind its back
        for outcome in outcomes:
            summary.add(outcome)
            if on_outcome is not None:
                on_outcome(outcome)
    return summary


def check_settings(settings: Mapping[str, Any]) -> None:
    names = [f.name for f in fields(Settings)]
    unknown = sorted(settings.keys() - set(names))
    if unknown:
        raise UsageError(f"There is no setting {unknown[0]}.{did_you_mean(unknown[0], names)}")


def checked(value: Any, name: str, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise UsageError(f"{name} is {value!r}; it must be a whole number from {least} up.")
    return value
