"""A stand-in for a backend: a model runs on it op by op, and every call of an op goes through one method."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np

from moebius.check.specs import SPECS, listed
from moebius.errors import UsageError
from moebius.model.arrays import to_nchw
from moebius.model.contract import OpByOp, Precision, Step, StepState, Tap, Timesteps
from moebius.model.params import Checkpoint, Params


class StandIn:
    """The contract on `ops`. Subclasses see every call of an op in `called`, and may change what a tensor is on the way through."""

    largest_batch = 1

    def __init__(self, ops: OpByOp[Any]) -> None:
        self.ops = ops
        self._runs = Counter[str]()

    # to be overridden --------------------------------------------------------------------------------------------
    def called(self, op: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The outputs of one call."""
        return getattr(self.ops, op)(*args, **kwargs)

    def begins(self, name: str, number: int) -> None:
        """A forward pass of that name, or the "step" of a loop, begins: its number, from 1."""

    def tensor(self, array: np.ndarray) -> Any:
        """What ops get of an NCHW array."""
        return self.ops.tensor(array)

    def read(self, tensor: Any) -> np.ndarray:
        """Channels last."""
        return self.ops.read(tensor)

    def condition(self, ids: np.ndarray, p: Params) -> Any:
        return self.ops.condition(ids, p)

    # the contract ------------------------------------------------------------------------------------------------
    @property
    def name(self) -> str:
        return self.ops.name

    @property
    def precision(self) -> Precision:
        return self.ops.precision

    def in_f32(self) -> Any:
        """What stands in sees one device; what overflows there is an error."""
        if self.precision == "f32":
            return self
        raise UsageError(f"{self.name} is checked in {self.precision}; check it in f32 by itself.")

    def run(self, forward: Callable[..., Any], arrays: Sequence[np.ndarray], *args: Any, tap: Tap | None = None) -> np.ndarray:
        self._runs[forward.__name__] += 1
        self.begins(forward.__name__, self._runs[forward.__name__])
        return self._through(lambda *tensors: forward(*tensors, *args), arrays)[0]

    def run_each(self, forward: Callable[..., Any], calls: Iterable[Sequence[np.ndarray]]) -> Iterator[np.ndarray]:
        return (self.run(forward, arrays) for arrays in calls)

    def loop(self, step: Step[Any], arrays: Sequence[np.ndarray], timesteps: Timesteps) -> Iterator[StepState]:
        y, *fixed = arrays
        for i, t in enumerate(timesteps):
            self.begins("step", i + 1)
            y, x0 = self._through(partial(_at, step, slice(i, i + 1)), [y, *fixed])
            yield StepState(i, t, partial(_same, y), partial(_same, x0))

    def rehearse(self, step: Step[Any], shapes: Sequence[tuple[int, ...]]) -> None:
        """Nothing is recorded."""

    def forget(self, net: object, weights: Checkpoint) -> None:
        self.ops.forget(net, weights)

    def tap(self, path: str, x: Any, layout: str = "image") -> None:
        """Every op is seen anyway."""

    def __getattr__(self, op: str) -> Callable[..., Any]:
        if op not in SPECS:
            raise AttributeError(op)
        return lambda *args, **kwargs: self.called(op, args, kwargs)

    def _through(self, forward: Callable[..., Any], arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        with self.ops.eager():
            return [to_nchw(self.read(t)) for t in listed(forward(*map(self.tensor, arrays)))]


def _at(step: Step[Any], rows: slice, *tensors: Any) -> tuple[Any, Any]:
    return step(*tensors, rows)


def _same(array: np.ndarray) -> np.ndarray:
    return array
