"""Several runs sampled as one batch: each takes its own steps, and ends as it would alone."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence

import numpy as np

from moebius.errors import LimitError, NonFiniteError, OutOfMemoryError
from moebius.inpaint.coding import are_finite
from moebius.inpaint.result import Step
from moebius.inpaint.run import Run

Pairs = list[tuple[Run, Step]]


def alike(one: Run, *others: Run) -> bool:
    """Whether these can be sampled at once: the same model, steps and guidance, and no windows that start from what others made."""

    def key(run: Run) -> tuple[object, ...]:
        return id(run.model), run.settings.steps, tuple(run.timesteps), run.settings.guidance

    return all(key(one) == key(other) and not other.finer for other in others) and not (others and one.finer)


def reraised(run: Run, error: NonFiniteError) -> None:
    raise error


def sampled(
    runs: Sequence[Run], wanted: Callable[[Run], bool] = lambda run: True, failed: Callable[[Run, NonFiniteError], None] = reraised
) -> Generator[Pairs, None, None]:
    """A step of each of the runs, which have begun and are alike, at a time. Ends when none of them is `wanted` any more.

    Where the device has no room for all at once they go one after the other, from the beginning. So do those that overflowed f16, in f32;
    what is not finite in f32 is told to `failed`, and the others go on.
    """
    left, overflowed = list(runs), dict[Run, NonFiniteError]()
    batch = [run for run in runs if run.overflow is None]  # else it is in f32, since its windows were encoded
    if sum(bool(run.items) for run in batch) > 1:
        try:
            yield from _at_once(batch, wanted)
            left = [run for run in runs if run not in batch]
        except (LimitError, OutOfMemoryError):
            batch[0].model.forget_denoisers()
        except NonFiniteError as error:
            overflowed = {run: error for run in batch if not are_finite(run.items)}
            sound = [run for run in batch if overflowed and run not in overflowed]
            left = [run for run in runs if run not in sound]
    for run in left:
        if not wanted(run):
            continue
        try:
            if run in overflowed:
                run.fall_back(overflowed.pop(run))
            for step in run.denoise():
                yield [(run, step)]
                if not wanted(run):
                    break
        except NonFiniteError as error:
            failed(run, error)


def _at_once(runs: Sequence[Run], wanted: Callable[[Run], bool]) -> Iterator[Pairs]:
    items = [item for run in runs for item in run.items]
    last = np.cumsum([len(run.items) for run in runs])
    steps = len(runs[0].timesteps)
    for state in runs[0].loop(items, runs[0].timesteps):
        pairs = []
        for run, end in zip(runs, last, strict=True):
            if run.items and wanted(run):
                rows = slice(int(end) - len(run.items), int(end))
                pairs.append((run, run.step_of(state, state.index, steps, run.items, rows)))
        if not pairs:
            return
        yield pairs
