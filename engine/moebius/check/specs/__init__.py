"""One spec an op of the contract: its bound, its cases, the sizes of a call. `SPECS` is what validate, compare, the tests of the kernels
and their benchmark take them from; an op that is added to the contract is added here once."""

from __future__ import annotations

from typing import Any

import numpy as np

from moebius.check import halves
from moebius.check.bounds import sampling_cancellation
from moebius.check.specs import assembling, attention, convolutions, norms, tables
from moebius.check.specs.case import OpSpec
from moebius.model.contract import Precision

SPECS: dict[str, OpSpec] = {spec.name: spec for module in (tables, convolutions, norms, attention, assembling) for spec in module.SPECS}


def bound(op: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> float:
    """What float32 may lose in an op, as a relative L2 error, from the sizes of its sums, its exponentials and the offset of its input."""
    return SPECS[op].bound(*args, **kwargs)


def limits(op: str, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any, precision: Precision = "f32") -> list[float]:
    """What float32 may lose in every output of an op: its bound, and for guided_ddim, where few values may cancel, how much larger the
    terms of its sums are than what is left of them; by half, for their roundings go both ways. In f16, what halves lose as well.
    `out` is the oracle's."""
    if precision == "f16":
        more = halves.lost(op, args, kwargs, listed(out))
        return [limit + m.relative_l2 for limit, m in zip(limits(op, args, kwargs, out), more, strict=True)]
    limit = bound(op, args, kwargs)
    if op != "guided_ddim":
        return [limit] * len(listed(out))
    terms = sampling_cancellation(*args, **kwargs)
    return [limit * max(1.0, float(np.linalg.norm(t) / np.linalg.norm(o)) / 2) for t, o in zip(terms, out, strict=True)]


def listed(out: Any) -> list[Any]:
    """An op's outputs, also where there is only one."""
    return list(out) if isinstance(out, tuple) else [out]
