"""Several runs sampled as one batch: each takes its own steps, and ends as it would alone."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence

import numpy as np

from moebius.errors import LimitError, OutOfMemoryError
from moebius.inpaint.result import Step
from moebius.inpaint.run import Run

Pairs = list[tuple[Run, Step]]


def alike(one: Run, *others: Run) -> bool:
    """Whether these can be sampled at once: the same model, steps and guidance, and no windows that start from what others made."""

    def key(run: Run) -> tuple[object, ...]:
        return id(run.model), run.settings.steps, tuple(run.timesteps), run.settings.guidance

    return all(key(one) == key(other) and not other.finer for other in others) and not (others and one.finer)


def sampled(runs: Sequence[Run], wanted: Callable[[Run], bool] = lambda run: True) -> Generator[Pairs, None, None]:
    """A step of each of the runs, which have begun and are alike, at a time. Ends when none of them is `wanted` any more.

    Where the device has no room for all at once they go one after the other, from the beginning.
    """
    if sum(bool(run.items) for run in runs) > 1:
        try:
            yield from _at_once(runs, wanted)
            return
        except (LimitError, OutOfMemoryError):
            runs[0].model.forget_denoisers()
    for run in runs:
        if not wanted(run):
            continue
        for step in run.denoise():
            yield [(run, step)]
            if not wanted(run):
                break


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
