"""Measures the kernels of the menu on the device at hand, a dense layer's shape after the other.

Every candidate computes the same layer on the same numbers. The default's result is what the others are held to, and a row that makes
something else, or no number at all, is dropped for good and named: the tests hold all rows to the oracle, so it is the driver that is
wrong. All rows of a shape are made first, and then timed in turns: a time is the median of some rounds, in each of which every row has a
batch that is long enough for the clock.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np

from moebius.backends.webgpu import choice, quads
from moebius.backends.webgpu.calls import GemmCall, Weight
from moebius.backends.webgpu.caps import Caps
from moebius.backends.webgpu.choice import FEW
from moebius.backends.webgpu.deferred import GroupNormed, Norm
from moebius.backends.webgpu.device import Device, guard
from moebius.backends.webgpu.gemm import Dense
from moebius.backends.webgpu.menu import Gemm
from moebius.backends.webgpu.ops import norms
from moebius.backends.webgpu.plan import Plan
from moebius.backends.webgpu.recorder import Recorder
from moebius.backends.webgpu.tensor import Buffer, DType, Tensor, itemsize, numbers, stored
from moebius.backends.webgpu.timing import timed
from moebius.backends.webgpu.tuned import Pick, Table, shape_of
from moebius.errors import DeviceLostError, LimitError, MoebiusError, OutOfMemoryError

ROUNDS = 5
LONG_MS = 20.0  # of a batch that is a submission of its own, because drivers end one that takes seconds
BATCH_MS = 2.0  # at least: what a clock tells apart, even one whose steps are 65 µs
MOST_REPEATS, SETTLING = 1000, 4
TOGETHER = 8  # rows whose pipelines are made at a time: between two such times it may be enough
WARM_MS = 60.0, 150.0  # of work before anything is timed: at least, and at most
WARM_BATCH_MS, STEADY = 10.0, 0.03
STEP_MS = 0.0655  # of the coarsest clock: what it shows nothing of may have taken all but one
MUST_MS = 1.0  # by the wall's clock: one that shows nothing of them stands still
BETTER = 1.03  # the default's time in a row's own, from which on it takes the default's place: less is noise
NOISE = 65_521  # random numbers that are repeated: a prime, so that rows and columns do not repeat
VARIANCE = "variance"
SAMPLE = 2**20  # bytes of the result that are compared, at its beginning, in its middle and at its end
EPS = float(np.finfo(np.float32).eps)
ROUNDED: dict[DType, float] = {"f32": 0.0, "f16": 2.0**-9, "quad": 4 * quads.ERROR}  # what storing two results may put between them

Candidates = Callable[[Caps, GemmCall], Sequence[Gemm]]  # the default first
Encode = Callable[[Any], None]  # into a compute pass
Clock = Callable[[Sequence[tuple[Plan, int]]], list[float]]  # milliseconds of so many runs of each plan, one plan after the other


@dataclass
class Measured:
    """Of one shape: milliseconds by row, the default's first unless it is wrong; and what is wrong with rows that have none. `whole`: no
    row was left out."""

    shape: str
    ms: dict[str, float] = field(default_factory=dict)
    wrong: dict[str, str] = field(default_factory=dict)
    whole: bool = True

    @property
    def pick(self) -> Pick | None:
        """None where the default itself cannot be measured."""
        default = next(iter(self.ms.values()), None)
        if default is None:
            return None
        best = min(self.ms, key=lambda row: self.ms[row])
        gain = default / self.ms[best]
        return Pick(best, gain, len(self.ms)) if gain >= BETTER else Pick(next(iter(self.ms)), 1.0, len(self.ms))


def shapes(calls: Iterable[GemmCall]) -> dict[str, GemmCall]:
    """One call for every shape that is worth a measurement, those on which most time goes first. What runs once a run is none. Of calls of
    as many positions it is one of two images, where there is one: a guided step has those, behind a few of one image, which have half of
    the workgroups and may be fastest on another row."""
    work: dict[str, int] = {}
    nearest: dict[str, GemmCall] = {}
    for call in calls:
        if not call.prologue and call.rows > FEW:
            shape = shape_of(call)
            nearest[shape] = min(nearest.get(shape, call), call, key=lambda c: abs(c.rows - choice.of_two(c)))
            work[shape] = work.get(shape, 0) + call.rows * call.phases * call.mode.side**2 * call.operands.n * call.operands.k
    return {shape: nearest[shape] for shape in sorted(nearest, key=lambda s: -work[s])}


class Tuner:
    """On a device that nobody else uses meanwhile: the caller has the turn."""

    def __init__(self, device: Device, caps: Caps, candidates: Candidates = choice.candidates, clock: Clock | None = None) -> None:
        self.device, self.candidates = device, candidates
        self.by = "timestamp" if device.timestamps and not caps.is_software else "wall"  # a software driver's timestamps are noise
        self.clock = clock or self._clock
        self._short = False  # batches are, and may be one submission
        self._recorder = Recorder(device, caps)
        self._scratch: dict[str, Buffer] = {}
        self._taken: list[tuple[Buffer, Callable[[], np.ndarray]]] = []  # weights that had no memory yet, and what fills them

    def run(
        self,
        calls: Iterable[GemmCall],
        table: Table,
        seconds: float = math.inf,
        now: Callable[[], float] = time.perf_counter,
        report: Callable[[int, int, Measured], None] = lambda *_: None,
    ) -> list[Measured]:
        """Measures what is not in the table yet, for so many seconds; the table grows as it is done. `report` gets how far that is."""
        begin, spent = now(), table.seconds
        todo = {shape: call for shape, call in shapes(calls).items() if shape not in table.picks}
        out: list[Measured] = []
        try:
            for shape, call in todo.items():
                if now() - begin >= seconds:
                    break
                try:
                    found = self.measure(call, table.wrong, lambda: now() - begin >= seconds, partly=False)
                finally:
                    self._give_back()
                table.wrong |= found.wrong
                if found.whole and found.pick is not None:
                    table.picks[shape] = found.pick
                    out.append(found)
                report(len(out), len(todo), found)
        finally:
            table.seconds = spent + now() - begin
            self._scratch.clear()
            self.device.trim()
        return out

    def measure(
        self, call: GemmCall, wrong: Iterable[str] = (), enough: Callable[[], bool] = lambda: False, partly: bool = True
    ) -> Measured:
        """Every row that the call may get but those that were wrong before, until it is `enough`: one at least. Those of a call that is not
        measured whole have no times where that is not wanted `partly`."""
        out, layer, want = Measured(shape_of(call)), self._stand_in(call), None
        rows = [row for row in self.candidates(self._recorder.caps, call) if row.key not in wrong]
        right: dict[str, Plan] = {}
        for row, plan in self._compiled(layer, rows):
            if (right or out.wrong) and enough():
                out.whole = False
                break
            try:
                if isinstance(plan, MoebiusError):
                    raise plan
                got = self._result(plan)
                if all(np.isnan(part).all() for part in got):  # the default's too: the others are held to the next one then
                    out.wrong[row.key] = f"{out.shape}: it makes no number"
                    continue
                if want is None:
                    want = got
                elif said := differs(got, want, call, self._recorder.caps.precision == "f16"):
                    out.wrong[row.key] = f"{out.shape}: {said}"
                    continue
                right[row.key] = plan
            except MoebiusError as error:
                if want is None:
                    raise
                if isinstance(error, LimitError | OutOfMemoryError):  # a row that the call, or what it needs beside it, is too large for
                    continue
                if isinstance(error, DeviceLostError):
                    raise
                out.wrong[row.key] = f"{out.shape}: {error}"
        if right and (out.whole or partly):
            out.ms = dict(zip(right, self._times(list(right.values()), enough), strict=True))
        return out

    def _compiled(self, layer: GemmCall, rows: Sequence[Gemm]) -> Iterator[tuple[Gemm, Plan | MoebiusError]]:
        """The layer on each row, or why it cannot be; some rows' pipelines are made at a time."""
        for first in range(0, len(rows), TOGETHER):
            plans: list[tuple[Gemm, Plan | MoebiusError]] = []
            for row in rows[first : first + TOGETHER]:
                try:
                    plans.append((row, self._plan(layer, row)))
                except MoebiusError as error:
                    plans.append((row, error))
            made = [d for _, plan in plans if isinstance(plan, Plan) for d in plan.dispatches]
            with self.device.compiling((d.shader, d.entry, d.constants) for d in made):
                pass
            yield from plans

    # one layer ---------------------------------------------------------------------------------------------------
    def _stand_in(self, call: GemmCall) -> GemmCall:
        """The call on numbers of its own, with the weights it has. Operands of all calls share their memory."""
        operands, epilogue = call.operands, call.epilogue
        a = self._operand(call)
        w = operands.w
        if w.binding.buffer.kind != "weight":  # a matrix within a tensor
            w = Weight(replace(w.binding, buffer=self._noise("w", w.binding.buffer.nbytes)), w.packed, w.pitch4, w.offset4)
        joined = operands.joined and self._tensor("joined", operands.joined)
        new = replace(operands, a=a, w=w, out=self._tensor("out", operands.out), joined=joined, norm=self._norm(operands.norm))
        spread = epilogue.spread and replace(epilogue.spread, variance=self._tensor(VARIANCE, epilogue.spread.variance))
        shift = epilogue.shift and self._tensor("shift", epilogue.shift)
        residuals = tuple(self._tensor(f"residual {i}", t) for i, t in enumerate(epilogue.residuals))
        behind = replace(epilogue, spread=spread, shift=shift, residuals=residuals, norm=self._norm(epilogue.norm))
        return replace(call, operands=new, epilogue=behind)

    def _operand(self, call: GemmCall) -> Tensor:
        """A, as it is there: a norm that is made for the layer, in the bands that it is in then, is a part of what the layer takes."""
        a = call.operands.a
        if not isinstance(a, GroupNormed) or a.is_made:
            return self._tensor("a", a)
        norm = replace(a.norm, table=self._tensor("norm of a", a.norm.table))
        return norms.put_off(self._recorder, self._tensor("a", a.x), call.path, norm)

    def _norm(self, norm: Norm | None) -> Norm | None:
        return norm and replace(norm, table=self._tensor("norm", norm.table))

    def _tensor(self, name: str, like: Tensor) -> Tensor:
        return Tensor(self._noise(f"{name} {like.dtype}", like.nbytes, like.dtype), like.shape, like.dtype)

    def _noise(self, name: str, nbytes: int, dtype: DType = "f32") -> Buffer:
        """Random numbers, in one buffer a name that grows; none below zero where a root is taken of them."""
        if name not in self._scratch or self._scratch[name].nbytes < nbytes:
            noise = np.resize(np.random.default_rng(0).standard_normal(NOISE, dtype=np.float32), 4 * NOISE)  # whole vec4
            block = stored(np.abs(noise) if name.startswith(VARIANCE) else noise, dtype)
            count = nbytes // block.itemsize
            self._scratch[name] = Buffer(self.device, nbytes, f"tuner {name}", "pinned", lambda: np.resize(block, count))
        return self._scratch[name]

    def _plan(self, layer: GemmCall, row: Gemm) -> Plan:
        """The layer on a row, in all its bands: those of one row are not those of another."""
        dense = Dense(self._recorder, lambda caps, call: row)
        with self._recorder.open(eager=False) as recording:
            dense.record(layer, row)
            weights = [b.buffer for d in recording.steps for b in d.bindings if b.buffer.kind == "weight"]
            self._taken += [(buffer, buffer.fill) for buffer in weights if buffer.fill is not None]
            return Plan(recording, [], [layer.operands.out])

    def _give_back(self) -> None:
        """Weights go to where they will run: packed for a row that was only tried, they would lie about for as long as the model."""
        for buffer, fill in self._taken:
            buffer.give_back(fill)
        self._taken.clear()

    def _result(self, plan: Plan) -> list[np.ndarray]:
        """Parts of what the plan writes, which begin as NaN: what is not written shows."""
        plan.prepare()
        (out,), device = plan.outputs, self.device
        places, handle, doing = sampled(out.nbytes), out.buffer.handle, f"measuring {next(d.kernel for d in plan.dispatches if d.kernel)}"
        with guard(device.name, doing):
            for offset, nbytes in places:
                nothing = np.full(nbytes // itemsize(out.dtype), np.nan, np.float32)
                device.device.queue.write_buffer(handle, offset, stored(nothing, out.dtype))
        plan.replay()
        with guard(device.name, doing):
            parts = [np.frombuffer(device.device.queue.read_buffer(handle, offset, nbytes), np.uint8) for offset, nbytes in places]
        return [numbers(part, out.dtype) for part in parts]

    def _times(self, plans: Sequence[Plan], enough: Callable[[], bool] = lambda: False) -> list[float]:
        """Milliseconds of the layer on each, of one round where it is `enough` then. A GPU's clock falls while the host compiles, and takes
        a tenth of a second of work to come back: so first the GPU is kept busy, and then all have a batch in each round, one behind the
        other. What counts is how a row compares with the first one within a round, for that the clock, whatever it is, does not change."""
        self._short = False
        self._warm(plans[0])
        repeats = [1] * len(plans)
        for _ in range(SETTLING):
            taken = self.clock(list(zip(plans, repeats, strict=True)))
            enlarged = [longer(n, ms, BATCH_MS) for n, ms in zip(repeats, taken, strict=True)]
            if enough() or all(ms >= BATCH_MS or n == MOST_REPEATS for n, ms in zip(repeats, taken, strict=True)):
                break
            repeats = [max(n, more) for n, more in zip(repeats, enlarged, strict=True)]
        taken_each = [self.clock(list(zip(plans, repeats, strict=True)))]
        while len(taken_each) < ROUNDS and not enough():
            taken_each.append(self.clock(list(zip(plans, repeats, strict=True))))
        shown = np.array(taken_each)
        rounds = np.where(shown > 0, shown, STEP_MS) / repeats
        return [float(ms) for ms in np.median(rounds[:, 0]) * np.median(rounds / rounds[:, :1], axis=0)]

    def _warm(self, plan: Plan) -> None:
        """Until two batches in a row take as long as each other, and the clock had some time to rise before them; or it had enough."""
        if self._recorder.caps.is_software:
            return
        repeats, before, busy = 1, 0.0, 0.0
        while busy < WARM_MS[1]:
            (taken,) = self.clock([(plan, repeats)])
            busy += max(taken, WARM_MS[1] / MOST_REPEATS)
            if busy >= WARM_MS[0] and abs(taken / repeats - before) <= STEADY * before:
                return
            before, repeats = taken / repeats, max(repeats, longer(repeats, taken, WARM_BATCH_MS))

    def _clock(self, batches: Sequence[tuple[Plan, int]]) -> list[float]:
        """By timestamps for as long as they run; 0 for a batch that they show nothing of."""
        passes = [partial(encode, plan, repeats) for plan, repeats in batches]
        together = len(passes) if self._short else 1
        ms = np.concatenate([timed(self.device, passes[i : i + together], self.by) for i in range(0, len(passes), together)])
        missed = np.flatnonzero(ms <= 0)
        if self.by == "timestamp" and len(missed):
            again = self._again([passes[i] for i in missed])
            if again is None:
                self.by = "wall"
                return self._clock(batches)
            ms[missed] = again
        self._short = ms[0] < LONG_MS
        return [max(0.0, float(each)) for each in ms]

    def _again(self, passes: Sequence[Encode]) -> np.ndarray | None:
        """Once more what read as no time; None where one of them does again that takes long by the wall's clock, longer than a pass of
        nothing: there are drivers whose timestamps are all zero. A short pass may be over within a step of a clock that runs, and a reading
        that a driver lost is no reason to do without the others."""
        nothing, *walls = timed(self.device, [lambda run: None, *passes], "wall")
        again = np.array([timed(self.device, [each], "timestamp")[0] for each in passes])
        return None if ((np.array(walls) - nothing >= MUST_MS) & (again <= 0)).any() else again


def encode(plan: Plan, repeats: int, run: Any) -> None:
    for _ in range(repeats):
        plan.encode(run, range(len(plan.dispatches)))


def longer(repeats: int, taken: float, wanted: float) -> int:
    """How many repeats take so many milliseconds, where `repeats` of them took `taken`."""
    return min(MOST_REPEATS, math.ceil(repeats * wanted / (taken if taken > 0 else STEP_MS)))


def sampled(nbytes: int) -> list[tuple[int, int]]:
    """(offset, bytes) in what is written: all of a small result, else three parts of it."""
    if nbytes <= 3 * SAMPLE:
        return [(0, nbytes)]
    middle = (nbytes - SAMPLE) // 16 * 8
    return [(at, SAMPLE) for at in (0, middle, (nbytes - SAMPLE) // 8 * 8)]


def differs(got: Sequence[np.ndarray], want: Sequence[np.ndarray], call: GemmCall, halves: bool = False) -> str:
    """How a result is another one than the default's: nothing where both may be roundings of the same sums, or, with `halves`, of the
    numbers in them: a row may round operands to f16 that another takes as they are."""
    g, w = (np.concatenate(parts).astype(np.float64) for parts in (got, want))
    empty = np.isnan(w)
    if not np.array_equal(np.isnan(g), empty):
        return f"{np.count_nonzero(np.isnan(g) != empty)} of {w.size} values are not there, or not numbers"
    error = float(np.linalg.norm((g - w)[~empty]) / (np.linalg.norm(w[~empty]) or 1.0))
    limit = 8 * EPS * math.sqrt(call.operands.k * call.mode.side**2 + 4)  # twice what a sum of so many products may be off
    limit += ROUNDED[call.types[2]]  # and what is stored is rounded once more
    limit += 2**-10 if halves else 0.0
    return "" if error <= limit else f"differs by {error:.1e} of the norm, {limit:.1e} at most is rounding"
