"""What is to be done with one picture, and what has become of it. Both travel between machines."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from moebius.errors import MoebiusError, UsageError
from moebius.many.places import Place

How = Literal["done", "skipped", "copied", "failed"]
MaskOf = Place | tuple[tuple[int, ...], ...] | Literal["alpha"] | None  # a picture, boxes, the photo's own transparency


@dataclass(frozen=True)
class Job:
    """One picture."""

    image: Place
    mask: MaskOf
    out: Place
    name: str  # how a message calls it
    problem: str = ""  # why there is no mask
    settings: Mapping[str, Any] = field(default_factory=dict)  # its own, beside the batch's
    index: int = 0  # from 0
    after: Job | None = None  # of a film: the frame before it

    @property
    def inputs(self) -> dict[str, Any]:
        """As they stand in a line of data."""
        mask = self.mask
        named: dict[str, Any] = {} if mask is None else {"box": mask} if isinstance(mask, tuple) else {"mask": str(mask)}
        return {"image": str(self.image), **named}


def outputs(job: Job, count: int) -> list[Place]:
    """The files of a job: name-1.png, name-2.png, … where there are several pictures."""
    return [job.out] if count == 1 else [job.out.with_name(f"{job.out.stem}-{i + 1}{job.out.suffix}") for i in range(count)]


@dataclass(frozen=True)
class Outcome:
    """What has become of a picture."""

    job: Job
    how: How
    output: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()  # what the user should know about it, but of the model
    metadata: Mapping[str, Any] = field(default_factory=dict)  # what was done, with the seconds of each stage
    windows: int = 0
    device: str = ""  # that it was made on
    worker: str = ""  # the machine, and which of its workers
    seconds: float = 0.0  # for which it had the device
    tries: int = 1
    error: Exception | None = None

    @property
    def bad_luck(self) -> bool:
        """Whether another try may end otherwise: what is wrong with the picture itself stays wrong."""
        return self.error is not None and not isinstance(self.error, UsageError | MemoryError)

    def portable(self) -> Outcome:
        """The same; with an error that can be sent to another process, whatever it was."""
        try:
            pickle.loads(pickle.dumps(self.error))
        except Exception:
            return replace(self, error=MoebiusError(f"{type(self.error).__name__}: {self.error}"))
        return self
