"""A run op by op with the oracle going along: what every op loses by itself, and what has gathered on the way to it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from moebius.backends.reference import Reference
from moebius.check.compare.fingerprint import Json, errors
from moebius.check.specs import limits, listed
from moebius.check.standin import StandIn
from moebius.model.contract import Condition, OpByOp
from moebius.model.params import Params


@dataclass
class Pair:
    """One tensor on the backend, and the oracle's of its own run."""

    got: Any
    want: Any


class PairedCondition(Condition):
    """The oracle's condition, and with it the backend's."""

    def __init__(self, got: Condition, want: Condition) -> None:
        super().__init__(want.ids, lambda: want.tokens)
        self.got = got


class Traced(StandIn):
    """The contract on `ops`. Every op is also done by the oracle: on the backend's own inputs, and in a run of its own.

    `report` gets a TRACED of every output, for all calls of `run` and for the first step of a loop; `say` is called after every op.
    """

    def __init__(self, ops: OpByOp[Any], report: Callable[[Json], None], say: Callable[[], None]) -> None:
        super().__init__(ops)
        self.report, self.say, self.oracle = report, say, Reference(np.float64)
        self.stage, self._tracing = "", True

    def begins(self, name: str, number: int) -> None:
        self.stage, self._tracing = f"{name} {number}", name != "step" or number == 1

    def tensor(self, array: np.ndarray) -> Pair:
        return Pair(super().tensor(array), self.oracle.tensor(array) if self._tracing else None)

    def read(self, tensor: Pair) -> np.ndarray:
        return super().read(tensor.got)

    def condition(self, ids: np.ndarray, p: Params) -> Condition:
        return PairedCondition(self.ops.condition(ids, p), self.oracle.condition(ids, p))

    def called(self, op: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        def of_backend(value: Any) -> Any:
            return value.got if isinstance(value, Pair | PairedCondition) else value

        got = listed(super().called(op, tuple(map(of_backend, args)), {k: of_backend(v) for k, v in kwargs.items()}))
        pairs = self._followed(op, args, kwargs, got) if self._tracing else [Pair(g, None) for g in got]
        self.say()
        return tuple(pairs) if len(pairs) > 1 else pairs[0]

    def _followed(self, op: str, args: tuple[Any, ...], kwargs: dict[str, Any], got: list[Any]) -> list[Pair]:
        """The outputs with the oracle's; reports them."""
        own_inputs = {id(a): self.read(a).astype(np.float64) for a in (*args, *kwargs.values()) if isinstance(a, Pair)}

        def of_run(value: Any) -> Any:
            return value.want if isinstance(value, Pair) else value

        own_args = tuple(own_inputs.get(id(a), a) for a in args)
        own_kwargs = {k: own_inputs.get(id(v), v) for k, v in kwargs.items()}
        own = getattr(self.oracle, op)(*own_args, **own_kwargs)
        want = getattr(self.oracle, op)(*map(of_run, args), **{k: of_run(v) for k, v in kwargs.items()})
        path = next((a.path for a in args if isinstance(a, Params)), op)
        pairs = [Pair(g, w) for g, w in zip(got, listed(want), strict=True)]
        for pair, expected, limit in zip(pairs, listed(own), limits(op, own_args, own_kwargs, own, self.precision), strict=True):
            self.report(self._row(op, path, pair, expected, limit))
        return pairs

    def _row(self, op: str, path: str, pair: Pair, own: np.ndarray, limit: float) -> Json:
        got = self.read(pair)
        of_run, of_own = errors(got, pair.want, limit), errors(got, own, limit)
        return {
            "stage": self.stage,
            "op": op,
            "path": path,
            **{k: of_run[k] for k in ("shape", "checksum", "relative_l2")},
            "own": of_own["relative_l2"],
            "own_max_abs": of_own["max_abs"],
            "rms": of_own["rms"],
            "limit": limit,
        }
