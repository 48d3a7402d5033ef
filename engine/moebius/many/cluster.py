"""A batch on the machines of a Ray cluster: one model an actor, one actor a GPU.

The driver hands out names, a few for each actor at a time, and gets back what has become of them; pictures are read and written by the
actors. Where an actor dies, another takes its place, on whichever machine there is room, and what it was on is done again: each picture
alone, so that one that kills its worker takes no other with it.
"""

from __future__ import annotations

import os
import signal
import socket
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from importlib import import_module
from pathlib import Path
from typing import Any, Self

import moebius
from moebius.errors import DeviceLostError, MoebiusError, OutOfMemoryError, UsageError
from moebius.inpaint.device import preferred
from moebius.many.jobs import Job, Outcome
from moebius.many.recipe import Recipe
from moebius.many.worker import THREADS, Options, Worker

AHEAD = THREADS + 2  # jobs that an actor has at a time
REACHED = 10.0  # seconds in which a cluster's address answers
PATIENCE = 30.0  # seconds after which one is told why nothing happens
STARTS = 3  # of an actor that never comes up, one after the other
GRACE = 10.0  # seconds for what is being written when the batch is broken off
DEADLY = getattr(signal, "SIGKILL", signal.SIGTERM)
STORE = 80_000_000  # bytes of Ray's object store where it is started here: names and outcomes are small


@dataclass(frozen=True)
class About:
    """What a worker says of itself."""

    device: str
    precision: str
    notes: tuple[str, ...]
    model: str
    identity: dict[str, Any]
    digests: dict[str, str]
    version: str
    name: str  # its machine and process
    pid: int


class Actor:
    """A Worker in a process of its own. It is made in no time; `load` takes as long as the model does."""

    def __init__(self, recipe: Recipe, options: Options) -> None:
        self.recipe, self.options = recipe, options
        self.worker: Worker | None = None

    def load(self) -> About | Exception:
        name = f"{socket.gethostname()}:{os.getpid()}"
        try:
            model = self.recipe.on(**self._own()).load()
        except Exception as error:
            return error if isinstance(error, MoebiusError) else MoebiusError(f"{type(error).__name__}: {error}")
        self.worker = Worker(model, self.options, name=name)
        of_model = model.model, model.identity, dict(model.digests)
        return About(model.device, model.precision, model.notes, *of_model, moebius.__version__, name, os.getpid())

    def _own(self) -> dict[str, Any]:
        """Of several GPUs alike the one that Ray has given to this actor. Ray hides the others from CUDA, and not from Vulkan."""
        given = import_module("ray").get_runtime_context().get_accelerator_ids().get("GPU") or []
        if self.recipe.device.get("device", "auto") != "auto" or not given or not str(given[0]).isdecimal():
            return {}
        from moebius.backends.webgpu import adapters
        from moebius.backends.webgpu.device import rank

        found = adapters()
        best = preferred(found)
        alike = [i for i, a in enumerate(found) if best is not None and rank(a) == rank(best)]
        return {"device": str(alike[int(given[0]) % len(alike)])} if len(alike) > 1 else {}

    def one(self, job: Job, tried: int) -> Outcome:
        if self.worker is None:
            raise RuntimeError("the model is not loaded")
        outcome = self.worker.one(job, tried=tried)
        if isinstance(outcome.error, DeviceLostError) and not isinstance(outcome.error, OutOfMemoryError):
            os.kill(os.getpid(), DEADLY)  # a device that is lost stays lost in this process
        return outcome.portable()

    def stop(self) -> None:
        if self.worker is not None:
            self.worker.stop()


@dataclass(eq=False)
class Slot:
    """A place for an actor, whichever is in it."""

    actor: Any = None
    loading: Any = None  # the reference of its `load`; None when it is ready
    about: About | None = None
    jobs: dict[Any, tuple[Job, int]] = field(default_factory=dict)  # by reference: and how often others have tried
    alone: bool = False  # what it has was on an actor that died
    starts: int = 0


class Feed:
    """Jobs in order; of a film one frame at a time."""

    def __init__(self, jobs: Iterable[Job], films: bool) -> None:
        self._jobs, self._films = iter(jobs), films
        self._waiting: dict[Any, deque[Job]] = {}
        self._ready: deque[Job] = deque()
        if films:
            for job in self._jobs:
                self._waiting.setdefault(job.out.parent, deque()).append(job)
            self._ready += [film.popleft() for film in self._waiting.values()]

    def next(self) -> Job | None:
        if self._films:
            return self._ready.popleft() if self._ready else None
        return next(self._jobs, None)

    def ended(self, job: Job) -> None:
        film = self._waiting.get(job.out.parent)
        if film:
            self._ready.append(film.popleft())


class Cluster:
    """Actors for one batch: `with Cluster(recipe, options, address, workers) as c: for outcome in c.outcomes(jobs): …`"""

    def __init__(
        self,
        recipe: Recipe,
        options: Options,
        address: str = "",
        workers: int | None = None,
        tell: Callable[[str], None] = lambda _: None,  # of workers that are lost
    ) -> None:
        if workers is not None and workers < 1:
            raise UsageError(f"workers is {workers}; it must be a whole number from 1 up.")
        self.recipe, self.options, self.address, self.workers = elsewhere(recipe), options, address, workers
        self._tell = tell
        self.slots: list[Slot] = []
        self._first: About | None = None  # who was ready first: all others must have the same model
        self._again: deque[tuple[Job, int]] = deque()
        self._own = False  # whether Ray was started here
        self._each: dict[str, Any] = {}  # what an actor asks of Ray

    # beginning and end ---------------------------------------------------------------------------------------------------
    def __enter__(self) -> Self:
        address = self.address or os.environ.get("RAY_ADDRESS", "")
        self.ray = imported(address)
        self._own = connect(self.ray, address)
        try:
            self._each, count = self._needs()
            self._make = self.ray.remote(Actor).options(max_concurrency=AHEAD + 1, scheduling_strategy="SPREAD", **self._each)
            self.slots = [self._started(Slot()) for _ in range(self.workers or count)]
        except BaseException:
            self.__exit__()
            raise
        return self

    def first(self) -> About:
        """Of the worker that is ready first. Where Ray has no room for one, it waits, and says so."""
        began: float | None = time.monotonic()
        while self._first is None:
            self.look(1.0)
            if self._first is None and began is not None and time.monotonic() - began > PATIENCE:
                needs = " and ".join(f"{count} {name[4:-1].upper()}" for name, count in self._each.items())
                self._tell(f"No worker is ready yet: each loads the model, or waits until a machine of the cluster has {needs} free.")
                began = None
        return self._first

    def __exit__(self, *_: object) -> None:
        """What is under way is told to end, and has a little time for what it is writing."""
        refs = [ref for slot in self.slots for ref in slot.jobs]
        with suppress(Exception):
            for slot in self.slots if refs else []:
                slot.actor.stop.remote()
            if refs:
                self.ray.wait(refs, num_returns=len(refs), timeout=GRACE)
        for slot in self.slots:
            with suppress(Exception):
                self.ray.kill(slot.actor)
        self.slots = []
        if self._own:
            self.ray.shutdown()

    def _needs(self) -> tuple[dict[str, Any], int]:
        """What one actor asks of Ray, and for how many of them there is room. A GPU each, or as many CPUs as the CPU device has threads."""
        on, has = self.recipe.device, self.ray.cluster_resources()
        if on.get("device", "auto") != "cpu" and has.get("GPU", 0) >= 1:
            return {"num_gpus": 1, "num_cpus": 1}, int(has["GPU"])
        if on.get("require_gpu"):
            raise UsageError("A GPU is required, and this Ray cluster has none; start its machines with --num-gpus, or leave that out.")
        threads = on.get("threads") or 1
        self.recipe = self.recipe.on(threads=threads)
        count = int(has.get("CPU", 0)) // threads
        if not count:
            raise UsageError(f"No machine of this Ray cluster has {threads} CPUs to give; ask for fewer threads.")
        return {"num_cpus": threads}, count

    def _started(self, slot: Slot) -> Slot:
        slot.actor = self._make.remote(self.recipe, self.options)
        slot.loading, slot.about, slot.alone = slot.actor.load.remote(), None, False
        slot.starts += 1
        return slot

    # work ------------------------------------------------------------------------------------------------------------
    def outcomes(self, jobs: Iterable[Job]) -> Generator[Outcome, None, None]:
        """In the order in which they end. Of the jobs only as many are taken from the list as the actors have at a time."""
        feed = Feed(jobs, self.options.frames)
        while True:
            for slot in self.slots:
                self._give(slot, feed)
            if not self._again and not any(slot.jobs for slot in self.slots):
                job = feed.next()
                if job is None:
                    return
                self._again.append((job, 0))  # no actor is ready yet
            for outcome in self.look(1.0):
                feed.ended(outcome.job)
                yield outcome

    def _give(self, slot: Slot, feed: Feed) -> None:
        while slot.loading is None and not slot.alone and len(slot.jobs) < AHEAD:
            if self._again:
                if slot.jobs:
                    return  # until it has nothing else
                job, tried = self._again.popleft()
                slot.alone = tried > 0
            else:
                found = feed.next()
                if found is None:
                    return
                job, tried = found, 0
            slot.jobs[slot.actor.one.remote(job, tried)] = job, tried

    def look(self, seconds: float) -> list[Outcome]:
        """What has ended by then; an actor that is ready, or that has died, is seen to."""
        whose = {ref: slot for slot in self.slots for ref in ([slot.loading] if slot.loading is not None else slot.jobs)}
        some, _ = self.ray.wait(list(whose), num_returns=1, timeout=seconds)
        done = self.ray.wait(list(whose), num_returns=len(whose), timeout=0)[0] if some else []
        found: list[Outcome] = []
        for ref in done:
            slot = whose[ref]
            if ref is slot.loading:
                self._ready(slot)
            elif ref in slot.jobs:  # and not of an actor that died a moment ago
                found += self._taken(slot, ref)
        return found

    def _taken(self, slot: Slot, ref: Any) -> list[Outcome]:
        try:
            outcome: Outcome = self.ray.get(ref)
        except self.ray.exceptions.RayError as error:
            return self._died(slot, error)
        del slot.jobs[ref]
        slot.alone, slot.starts = False, 0
        return [outcome]

    def _ready(self, slot: Slot) -> None:
        try:
            about = self.ray.get(slot.loading)
        except self.ray.exceptions.RayError as error:
            self._died(slot, error)
            return
        if isinstance(about, UsageError):
            raise about
        if isinstance(about, Exception):
            self._give_up(slot, about)
            return
        if about.version != moebius.__version__:
            raise UsageError(f"{about.name} has moebius {about.version}, and this machine {moebius.__version__}; install the same.")
        self._first = self._first or about
        if (about.identity["weights"], about.model) != (self._first.identity["weights"], self._first.model):
            raise UsageError(f"{about.name} has loaded another model than {self._first.name}; give all machines the same files.")
        slot.loading, slot.about = None, about

    def _died(self, slot: Slot, error: Exception) -> list[Outcome]:
        """Another actor in its place; what it had is done again, or has failed now, but for what it ended before."""
        name = slot.about.name if slot.about else "a worker"
        found = self._ended_before(slot)
        for job, tried in slot.jobs.values():
            if tried < self.options.retries:
                self._again.append((job, tried + 1))
            else:
                why = MoebiusError(f"the worker died {tried + 1} times over this picture, at last {name}: {first_line(error)}")
                found.append(Outcome(job, "failed", error=why, worker=name, tries=tried + 1))
        slot.jobs = {}
        with suppress(Exception):
            self.ray.kill(slot.actor)
        if slot.starts >= STARTS and slot.about is None:
            self._give_up(slot, MoebiusError(f"{STARTS} workers died before they were ready: {first_line(error)}"))
        else:
            self._started(slot)
        return found

    def _ended_before(self, slot: Slot) -> list[Outcome]:
        """Of an actor that has died: what it had handed back, and nobody had looked at yet."""
        found = []
        for ref in self.ray.wait(list(slot.jobs), num_returns=len(slot.jobs), timeout=0)[0] if slot.jobs else []:
            with suppress(self.ray.exceptions.RayError):
                found.append(self.ray.get(ref))
                del slot.jobs[ref]
        return found

    def _give_up(self, slot: Slot, error: Exception) -> None:
        """A place where no worker comes up is one less; the last one is the batch's failure."""
        self.slots.remove(slot)
        if not self.slots:
            raise error
        self._tell(f"A worker less, {len(self.slots)} are left: {error}")


# Ray itself ------------------------------------------------------------------------------------------------------------
def imported(address: str) -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it would tell its makers
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # and would warn of what is not its business
    if not address:
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")  # one that is started here listens at 127.0.0.1 alone
    try:
        return import_module("ray")
    except ImportError as error:
        raise UsageError(
            f"Several machines are Ray's business, which cannot be imported ({error}): pip install 'moebius-webgpu[ray]'."
        ) from error


def connect(ray: Any, address: str) -> bool:
    """True where this has connected, or started Ray on this machine alone; a program that is connected stays so."""
    if ray.is_initialized():
        return False
    host, _, port = address.rpartition(":")
    if port.isdecimal() and "/" not in host:  # Ray itself tries for many minutes
        try:
            socket.create_connection((host.strip("[]"), int(port)), REACHED).close()
        except (OSError, OverflowError) as error:
            raise MoebiusError(f"There is no Ray cluster at {address}: {first_line(error)}") from error
    local = {"address": "local", "include_dashboard": False, "object_store_memory": STORE}  # and never one that happens to run here
    more: dict[str, Any] = {"address": address} if address else local
    before = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(log_to_driver=False, logging_level="ERROR", **more)
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        where = f"There is no Ray cluster at {address}" if address else "Ray cannot be started"
        raise MoebiusError(f"{where}: {first_line(error)}") from error
    finally:
        with suppress(ValueError, TypeError):  # only the main thread may
            signal.signal(signal.SIGTERM, before)
    return True


def elsewhere(recipe: Recipe) -> Recipe:
    """A model's files as they are called from any folder."""

    def called(value: Any) -> Any:
        return Path(value).absolute() if isinstance(value, str | Path) and Path(value).exists() else value

    return replace(recipe, model=called(recipe.model), vae=called(recipe.vae))


def first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0][:300].rstrip(".") if lines else type(error).__name__) + "."
