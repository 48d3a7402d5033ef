"""Times of a model's kernels: every distinct call of an op by itself, in batches long enough for the clock, in rounds.

A batch dispatches one kernel over and over in one compute pass. A round takes the best of a few batches (what else the machine does
only ever adds), and goes over many rows before it comes to the same one again. A row's time is the median of its rounds and its spread
is how far they lie apart. Before and after every round the machine's own pace is taken. Rows that spread, or were measured while the
machine was slow, are measured again, later, and say so when they still are.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from common import ROOT
from roof import Pace, Roof
from traffic import traffic

from moebius.backends.webgpu import WebGPU, choice, menu
from moebius.backends.webgpu.calls import GemmCall
from moebius.backends.webgpu.caps import Caps
from moebius.backends.webgpu.plan import Plan
from moebius.backends.webgpu.timing import timed
from moebius.model.arrays import time_sinusoid

sys.path.insert(0, str(ROOT / "tests"))
from model_cases import Call

NOISY = 0.1  # of the median, or of the best pace
ROUNDS, BATCHES, ATTEMPTS = 5, 3, 3
SETTLING, MOST_REPEATS = 5, 2000


@dataclass(frozen=True)
class Effort:
    batch_ms: float  # of one kernel in a batch, about
    row_seconds: float  # for all batches of a row; slow kernels get fewer
    together: int  # bytes of the rows that are measured in turn

    @classmethod
    def of(cls, software: bool, row_seconds: float) -> Effort:
        return cls(10.0, row_seconds, 2**28) if software else cls(3.0, row_seconds, 2**31)


@dataclass
class Row:
    """`times` are milliseconds (round, kernel); `paces` those of a kernel that never changes, beside every round."""

    call: Call
    counts: Mapping[str, int]
    kernels: list[dict[str, Any]]
    times: np.ndarray = field(repr=False)
    paces: np.ndarray = field(repr=False)
    pace: Pace  # of the whole run

    @property
    def total(self) -> np.ndarray:
        return self.times.sum(axis=1)

    @property
    def noisy(self) -> bool:
        return self.unsteady > NOISY

    @property
    def slowed(self) -> float:
        """How much slower than at its best the machine was, in the middle round."""
        return max(0.0, float(np.median(self.paces)) / self.pace.best - 1)

    @property
    def unsteady(self) -> float:
        return max(spread(self.total), self.slowed)

    def describe(self, roof: Roof) -> dict[str, Any]:
        kernels = [
            {**kernel, **rates(self.times[:, i], [kernel], roof), "bound": roof.floor_ms(kernel["flops"], kernel["bytes"])[1]}
            for i, kernel in enumerate(self.kernels)
        ]
        return {
            "row": str(self.call),
            "op": self.call.op,
            "counts": dict(self.counts),
            **rates(self.total, self.kernels, roof),
            "slowed": self.slowed,
            "noisy": self.noisy,
            "rounds": len(self.times),
            "kernels": kernels,
        }


def rates(ms: np.ndarray, kernels: list[dict[str, Any]], roof: Roof) -> dict[str, Any]:
    """Median and spread, and what the kernels, one after the other, come to in that time."""
    median = float(np.median(ms))
    flops, nbytes = (sum(k[name] for k in kernels) for name in ("flops", "bytes"))
    floor = sum(roof.floor_ms(k["flops"], k["bytes"])[0] for k in kernels)
    return {
        "ms": median,
        "spread": spread(ms),
        "flops": flops,
        "bytes": nbytes,
        "gflops": flops / median / 1e6,
        "gbs": nbytes / median / 1e6,
        "percent_of_roof": 100 * floor / median,
    }


def spread(ms: np.ndarray) -> float:
    """From the tenth to the ninetieth percentile, in medians."""
    low, high = np.percentile(ms, [10, 90])
    return float((high - low) / np.median(ms))


@dataclass(frozen=True)
class OnRow(Call):
    """A call with a row of the menu wherever it is a candidate, and the default elsewhere."""

    row: menu.Gemm | None = None

    def __str__(self) -> str:
        return f"{super().__str__()} on {self.row.key if self.row else 'the default'}"

    def on(self, gpu: WebGPU) -> WebGPU:
        def choose(caps: Caps, call: GemmCall) -> menu.Gemm:
            rows = choice.candidates(caps, call)
            return self.row if self.row in rows[1:] else rows[0]

        return WebGPU(gpu.gpu, gpu.caps, choose)


def on_every_row(gpu: WebGPU, calls: Mapping[Call, Mapping[str, int]]) -> dict[Call, Mapping[str, int]]:
    """Every call that has dense layers, on each row of the menu that one of them could have; the default first."""
    out: dict[Call, Mapping[str, int]] = {}
    for call, counts in calls.items():
        rows: dict[menu.Gemm, None] = {}  # in order

        def choose(caps: Caps, of: GemmCall, rows: dict[menu.Gemm, None] = rows) -> menu.Gemm:
            default, *others = choice.candidates(caps, of)
            rows |= dict.fromkeys(others)
            return default

        case = call.case()
        case.record(WebGPU(gpu.gpu, gpu.caps, choose), case.params)
        if rows:
            out |= {OnRow(call.op, call.size, call.arguments, row): counts if row is None else {} for row in (None, *rows)}
    return out


class Prepared:
    """A call's plan with its inputs in place, and how often each of its dispatches makes a batch."""

    def __init__(self, gpu: WebGPU, call: Call, effort: Effort, clock: str) -> None:
        self.call, self.gpu, self.clock = call, gpu.gpu, clock
        case = call.case()
        self.plan: Plan = case.record(call.on(gpu) if isinstance(call, OnRow) else gpu, case.params)
        self.plan.upload([np.moveaxis(a, 1, -1) for a in case.inputs if a.dtype.kind == "f"])
        table = self.plan.recording.sinusoid
        self.plan.start(None if table is None else time_sinusoid(range(table.shape[2]), table.shape[3]))
        self.repeats = [1] * len(self.plan.dispatches)
        self.batch()  # compiles, uploads, warms up
        seconds = self.settle(effort.batch_ms)
        self.batches = int(np.clip(effort.row_seconds / ROUNDS / seconds, 1, BATCHES))
        self.rounds = int(np.clip(effort.row_seconds / self.batches / seconds, 2, ROUNDS))

    @property
    def nbytes(self) -> int:
        size = self.plan.summary()
        return size["peak_bytes"] + size["weight_bytes"] + size["early_bytes"]

    def settle(self, batch_ms: float) -> float:
        """Makes batches long enough; returns the seconds of one. A lone dispatch takes its submit's time too, or waits for others."""
        fastest = self.batch()
        for _ in range(SETTLING):
            self.repeats = [int(np.clip(np.ceil(batch_ms / max(ms, 1e-6)), 1, MOST_REPEATS)) for ms in fastest]
            taken = self.batch()
            fastest = np.minimum(fastest, taken)
            if all(n == MOST_REPEATS or n * ms > batch_ms / 2 for n, ms in zip(self.repeats, fastest, strict=True)):
                break
        return float(taken @ self.repeats) / 1e3

    def batch(self) -> np.ndarray:
        """Milliseconds of each dispatch, on average, in the plan's order: what a kernel reads was made just before."""
        passes = [partial(self.plan.encode, indices=[i] * n) for i, n in enumerate(self.repeats)]
        return timed(self.gpu, passes, self.clock) / self.repeats

    def round(self) -> np.ndarray:
        return np.min([self.batch() for _ in range(self.batches)], axis=0)

    def kernels(self) -> list[dict[str, Any]]:
        return [
            {
                "shader": d.shader,
                "part": d.path.split(".", 1)[-1] if "." in d.path else "",
                "grid": list(d.grid),
                "constants": dict(d.constants),
                "kernel": d.kernel,
                "flops": d.flops,
                "bytes": traffic(d),
                "repeats": n,
            }
            for d, n in zip(self.plan.dispatches, self.repeats, strict=True)
        ]


def measure(
    gpu: WebGPU, calls: Mapping[Call, Mapping[str, int]], effort: Effort, clock: str, say: Callable[[str], None] = lambda _: None
) -> list[Row]:
    """A row a call, in the order given."""
    rows: dict[Call, Row] = {}
    wanted = list(calls)
    pace = Pace(gpu.gpu, clock, effort.batch_ms)
    for attempt in range(ATTEMPTS):
        done = 0
        for group in groups(gpu, wanted, effort, clock):
            for row in rounds(group, calls, pace):
                if row.call not in rows or row.unsteady < rows[row.call].unsteady:
                    rows[row.call] = row
            done += len(group)
            say(f"{done} of {len(wanted)} rows" + (f", which were noisy (attempt {attempt + 1} of {ATTEMPTS})" if attempt else ""))
            group.clear()
            gpu.gpu.trim()
        wanted = [call for call in calls if rows[call].noisy]
    return [rows[call] for call in calls]


def groups(gpu: WebGPU, calls: list[Call], effort: Effort, clock: str) -> Iterator[list[Prepared]]:
    """As many as are small enough to be there at once."""
    group: list[Prepared] = []
    for call in calls:
        group.append(Prepared(gpu, call, effort, clock))
        if sum(p.nbytes for p in group) >= effort.together:
            yield group
            group = []
    if group:
        yield group


def rounds(group: list[Prepared], calls: Mapping[Call, Mapping[str, int]], pace: Pace) -> list[Row]:
    times: list[list[np.ndarray]] = [[] for _ in group]
    paces: list[list[float]] = [[] for _ in group]
    before = pace.now()
    for number in range(max(p.rounds for p in group)):
        for prepared, taken, beside in zip(group, times, paces, strict=True):
            if number < prepared.rounds:
                taken.append(prepared.round())
                after = pace.now()
                beside.append((before + after) / 2)
                before = after
    return [
        Row(p.call, calls[p.call], p.kernels(), np.array(taken), np.array(beside), pace)
        for p, taken, beside in zip(group, times, paces, strict=True)
    ]
