"""An edition: the plans of a run as one kind of browser can run them, as data. All editions of an export read the same weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from moebius.backends.webgpu import WebGPU, choice, wgsl
from moebius.backends.webgpu.caps import DEFAULT_LIMITS, Caps
from moebius.backends.webgpu.choice import Choose
from moebius.backends.webgpu.dispatch import Dispatch
from moebius.backends.webgpu.ops.assembling import COEFFICIENTS
from moebius.backends.webgpu.places import place
from moebius.backends.webgpu.plan import Plan
from moebius.backends.webgpu.recorder import Recorder
from moebius.backends.webgpu.tensor import Binding, Buffer, Deferred, Tensor, itemsize
from moebius.model.contract import Precision
from moebius.model.params import Params

ALIGN = DEFAULT_LIMITS["min-storage-buffer-offset-alignment"]
SEGMENT = DEFAULT_LIMITS["max-storage-buffer-binding-size"]  # weights lie together in buffers of at most this size
BLOCKS, BLOCK = 16, 128  # samples of a module's output: blocks of neighbouring values


def samples(size: int) -> tuple[list[int], int]:
    """Where in that many values samples are taken, and how many values each: few enough to copy a big model's tensors of all modules."""
    if size <= BLOCKS * BLOCK:
        return [0], size
    return [i * (size - BLOCK) // (BLOCKS - 1) // 4 * 4 for i in range(BLOCKS)], BLOCK


class Packing(Recorder):
    """Packs the weights in `stored`, whatever precision is recorded: all editions read the same."""

    stored: Precision = "f32"
    folds = False

    def weight(self, p: Params, name: str, shape: Sequence[int], fill: Callable[[Params], np.ndarray], *key: Any) -> Binding:
        return self.constant(p, name, shape, fill, *key, dtype=self.stored)


class ForBrowsers(WebGPU):
    """Records, and never runs: for the browsers that caps describe, whatever the adapter here, which only lends its driver.

    Taps become places in the plan.
    """

    recorder: Packing

    def __init__(self, adapter: str | int | None = None, *, software: bool = False, stored: Precision = "f32") -> None:
        super().__init__(adapter, Caps.browser(software), limits="webgpu", recorder=Packing)
        self.recorder.stored = stored
        self.taps: list[tuple[str, Tensor]] = []

    def aim(self, caps: Caps, choose: Choose = choice.choose) -> None:
        """What is recorded from now on is for these, of the weights that are packed already."""
        self.caps = self.recorder.caps = caps
        self.choose = choose

    def tap(self, path: str, x: Tensor, layout: str = "image") -> None:
        if not isinstance(x, Deferred):  # which the plan does not have in memory, or not in one piece
            self.taps.append((path, x))

    def recorded(self, forward: Callable[..., Any], shapes: Sequence[tuple[int, ...]], *args: Any) -> tuple[Plan, list[tuple[str, Tensor]]]:
        """The plan of forward for channels-last inputs, and what its modules put out."""
        self.taps = []
        return self.record(forward, shapes, *args), self.taps


class Weights:
    """Where packed parameters lie: one behind the other in segments, a buffer of the GPU each."""

    def __init__(self) -> None:
        self.sizes: list[int] = []  # of the segments
        self.placed: dict[int, tuple[Buffer, int, int]] = {}  # by id: buffer, segment, offset in it; in this order in the file

    def place(self, buffer: Buffer) -> tuple[int, int]:
        """(number of its segment as a dispatch has it, offset in it)"""
        if id(buffer) not in self.placed:
            size = -(-buffer.nbytes // ALIGN) * ALIGN
            if not self.sizes or self.sizes[-1] + size > SEGMENT:
                self.sizes.append(0)
            self.placed[id(buffer)] = buffer, len(self.sizes) - 1, self.sizes[-1]
            self.sizes[-1] += size
        _, segment, offset = self.placed[id(buffer)]
        return -1 - segment, offset


class Edition:
    """Collects the plans for one kind of browser."""

    def __init__(self, weights: Weights) -> None:
        self.weights = weights
        self.plans: dict[str, Any] = {}
        self.modules: dict[str, int] = {}
        self.pipelines: dict[tuple[int, str, tuple[str, ...]], int] = {}
        self.buffers: list[int] = []  # sizes
        self._arena: list[int] = []  # buffers that plans share, the largest first
        self._own: dict[int, tuple[int, int]] = {}
        self._alive: list[Any] = []  # ids are only good while their objects live

    def data(self) -> dict[str, Any]:
        """What its file holds."""
        pipelines = [{"module": m, "entry": e, "access": list(a)} for m, e, a in self.pipelines]
        return {"modules": list(self.modules), "pipelines": pipelines, "buffers": self.buffers, "plans": self.plans}

    def add(self, name: str, plan: Plan, taps: Sequence[tuple[str, Tensor]] = ()) -> None:
        """One plan after another runs, so their intermediate tensors lie over one another."""
        rec = plan.recording
        kept = {id(t.buffer) for t in (*plan.inputs, *plan.outputs)} | {id(b) for pair in rec.carry for b in pair[:2]}
        kept |= {id(b.buffer) for d in rec.prologue for b in d.outputs}  # read at every step
        arena, placed = place(rec.steps, kept, plan.device)
        self._alive.append((plan, list(taps), arena))
        for rank, shared in enumerate(arena):
            if rank == len(self._arena):
                self._arena.append(self._buffer(0))
            buffer = self._arena[rank]
            self.buffers[buffer] = max(self.buffers[buffer], shared.nbytes)
            self._own[id(shared)] = buffer, 0
        self._own |= {key: (self._own[id(each.shared)][0], each.offset) for key, each in placed.items()}

        entry: dict[str, Any] = {
            "inputs": [self._tensor(t) for t in plan.inputs],
            "outputs": [self._tensor(t) for t in plan.outputs],
            "prologue": [self._dispatch(d) for d in rec.prologue],
            "steps": [self._dispatch(d) for d in rec.steps],
            "taps": self._taps(plan, taps),
        }
        if rec.sinusoid is not None:
            (last,) = (d for d in rec.steps if d.op == "guided_ddim")
            (table,) = (b.buffer for b in last.bindings if b.name == COEFFICIENTS)
            fields = [field for field, _ in wgsl.interface(last.shader).params]
            entry |= {
                "state": self._place(rec.state)[0],
                "sinusoid": self._tensor(rec.sinusoid),
                "coefficients": self._place(table)[0],
                "guidance": [rec.steps.index(last), fields.index("guidance")],
                "carry": [[self._place(a)[0], self._place(b)[0], n] for a, b, n in rec.carry],
                "rows": rec.sinusoid.shape[2],
            }
        self.plans[name] = entry

    def _tensor(self, t: Tensor) -> dict[str, Any]:
        return {"buffer": self._place(t.buffer)[0], "shape": list(t.shape)}

    def _taps(self, plan: Plan, taps: Sequence[tuple[str, Tensor]]) -> list[dict[str, Any]]:
        writer = {id(b.buffer): i for i, d in enumerate(plan.recording.steps) for b in d.outputs}
        places = []
        for path, t in taps:
            starts, count = samples(t.rows * t.pitch)
            size = itemsize(t.dtype)
            buffer, offset = self._place(t.buffer)
            tap = {"path": path, "dispatch": writer[id(t.buffer)], "buffer": buffer, "type": t.dtype}
            places.append(tap | {"size": size * count, "at": [offset + size * start for start in starts]})
        return places

    def _dispatch(self, d: Dispatch) -> dict[str, Any]:
        slots = wgsl.interface(d.shader, d.constants, d.entry).slots
        module = self.modules.setdefault(wgsl.specialise(d.shader, d.constants, d.entry), len(self.modules))
        pipeline = self.pipelines.setdefault((module, d.entry, tuple(s.access for s in slots)), len(self.pipelines))
        by_name = {b.name: b for b in d.bindings}
        bind: list[int] = []
        for slot in slots:
            if slot.access != "uniform":
                bound = by_name[slot.name]
                buffer, offset = self._place(bound.buffer)
                bind += [buffer, offset + bound.offset, bound.nbytes]
        words = np.frombuffer(wgsl.pack_params(d.shader, d.params), "<u4")
        return {"pipeline": pipeline, "grid": list(d.grid), "params": words.tolist(), "bind": bind}

    def _place(self, buffer: Buffer) -> tuple[int, int]:
        """(number of the buffer as a dispatch has it, offset in it)"""
        if buffer.kind == "weight" and buffer.label != COEFFICIENTS:
            return self.weights.place(buffer)
        if id(buffer) not in self._own:
            self._own[id(buffer)] = self._buffer(buffer.nbytes), 0
        return self._own[id(buffer)]

    def _buffer(self, size: int) -> int:
        self.buffers.append(size)
        return len(self.buffers) - 1
