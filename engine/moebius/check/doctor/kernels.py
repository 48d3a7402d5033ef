"""Every op at a few shapes on one device: against float64, twice, and with a value that is not finite."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from math import prod

import numpy as np

from moebius.backends.reference import Reference
from moebius.backends.webgpu import WebGPU
from moebius.backends.webgpu.plan import Plan
from moebius.check.bounds import is_rounding
from moebius.check.compare.cases import ODD, Case, fixed_set
from moebius.check.compare.measure import OnGPU
from moebius.check.doctor.findings import Finding
from moebius.errors import NonFiniteError

MOST = 200_000  # parameters of a case: what takes longer to make than to check is left to `moebius compare`
LARGE = ("conv3x3", "1×64×64, 4 → 512 channels, stride 1, pad 1")  # GPUs take a tile of their own from some size on
NOT_FINITE = (np.nan, np.inf, -np.inf)
TO_DO = "Update the graphics driver and run this again; until then use --device cpu. `moebius compare` says how far off every op is"

Arrays = Sequence[np.ndarray]


def cases(software: bool) -> list[Case]:
    """Of the fixed set, the edge shapes that are small; on hardware also one for the large tile."""
    small = [c for c in fixed_set() if c.kind == "edge" and sum(map(prod, c.of.shapes.values())) <= MOST]
    return small + [c for c in fixed_set() if (c.op, c.name) == LARGE and not software]


def flags_it(plan: Plan) -> bool:
    """Whether the last run is known for one that was not finite: by the flag of its step, and by the hunt for the op."""
    flags = plan.recording.flags
    try:
        plan.find_non_finite()
    except NonFiniteError:
        return flags is None or bool(flags.read(4, np.uint32)[0])
    return False


def on_numpy(case: Case, ops: Reference) -> Callable[[Arrays], list[np.ndarray]]:
    def run(inputs: Arrays) -> list[np.ndarray]:
        tensors = [x.in_numpy(a.astype(ops.dtype)) for x, a in zip(case.of.inputs, inputs, strict=True)]
        return [np.array(o) for o in case.call(ops, *tensors)]

    return run


@dataclass
class Tally:
    """What the cases showed: where something is wrong, and how near the rest came to its limit."""

    count: int = 0
    ops: set[str] = field(default_factory=set)
    used: float = 0.0
    nearest: str = ""
    wrong: list[str] = field(default_factory=list)
    unsteady: list[str] = field(default_factory=list)
    hidden: list[str] = field(default_factory=list)


def findings(ops: WebGPU | Reference) -> Iterator[Finding]:
    """Three: right, the same twice, not finite."""
    software = not isinstance(ops, WebGPU) or ops.caps.is_software
    tally = Tally()
    with np.errstate(all="ignore"):
        for case in cases(software):
            examine(case, ops, tally)
            case.forget()
    yield _right(tally)
    yield _steady(tally)
    yield _not_finite(tally)


def examine(case: Case, ops: WebGPU | Reference, tally: Tally) -> None:
    run = OnGPU(case, ops) if isinstance(ops, WebGPU) else on_numpy(case, ops)
    first, second = run(case.inputs), run(case.inputs)
    tally.count += 1
    tally.ops.add(case.op)
    what = f"{case.op} ({case.name})"
    for got, again, (want, limit) in zip(first, second, case.expected(ops.precision), strict=True):
        got, norm = got.reshape(want.shape), float(np.linalg.norm(want)) or 1.0
        difference = np.abs(got - want)
        error = float(np.linalg.norm(difference)) / norm
        if not is_rounding(error, float(difference.max()), norm / np.sqrt(want.size), limit):
            tally.wrong.append(f"{what} by {error:.1e} of its norm, where rounding explains {limit:.1e}")
        elif limit and error / limit > tally.used:
            tally.used, tally.nearest = error / limit, case.op
        if got.tobytes() != again.reshape(want.shape).tobytes():
            tally.unsteady.append(what)
    if case.of.inputs and case.of.inputs[0].shape == (ODD[0], case.of.inputs[0].shape[1], *ODD[1:]):
        tally.hidden += hidden(case, run, what)


def hidden(case: Case, run: Callable[[Arrays], list[np.ndarray]], what: str) -> list[str]:
    """The values that go in and, other than in the oracle, do not show in the result."""
    found, oracle = [], on_numpy(case, Reference(np.float64))
    for value in NOT_FINITE:
        inputs = [a.copy() for a in case.inputs]
        inputs[0].flat[inputs[0].size // 2] = value
        if all(np.isfinite(o).all() for o in oracle(inputs)):
            continue
        if all(np.isfinite(o).all() for o in run(inputs)) or (isinstance(run, OnGPU) and not flags_it(run.plan)):
            found.append(f"{what} hides {value}")
    return found


def some(names: list[str]) -> str:
    return "; ".join(names[:3]) + (f"; and {len(names) - 3} more" if len(names) > 3 else "")


def _right(t: Tally) -> Finding:
    numbers = {"cases": t.count, "ops": len(t.ops), "wrong": t.wrong, "nearest": t.nearest, "used": round(t.used, 4)}
    if t.wrong:
        return Finding("kernels", "wrong", f"{len(t.wrong)} of {t.count} cases are wrong: {some(t.wrong)}.", f"{TO_DO}.", numbers)
    text = f"{t.count} cases of all {numbers['ops']} ops agree with float64; nearest to its limit is {t.nearest}, at {t.used:.0%} of it."
    return Finding("kernels", "ok", text, numbers=numbers)


def _steady(t: Tally) -> Finding:
    if t.unsteady:
        text = f"The same input gave two results: {some(t.unsteady)}."
        return Finding("repeatable", "wrong", text, f"{TO_DO}.", {"unsteady": t.unsteady})
    return Finding("repeatable", "ok", "Every case gave the same bits twice.")


def _not_finite(t: Tally) -> Finding:
    if t.hidden:
        text = f"A value that is not finite gets lost: {some(t.hidden)}."
        return Finding("not finite", "wrong", text, f"{TO_DO}.", {"hidden": t.hidden})
    return Finding("not finite", "ok", "NaN and infinities come out of every op that is given one, and are flagged.")
