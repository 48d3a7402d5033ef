"""Recorded plans as two files: plan.json says what to run, weights.bin holds every byte that it reads.

plan.json::

    {"format": 1, "binary": {"file", "size", "sha256", "piece": bytes, "pieces": [SHA-256 of so many bytes, …]},
     "modules": [WGSL text, …],
     "pipelines": [{"module", "entry", "access": ["read" | "read_write" | "uniform", …]}, …],
     "buffers": [{"size", "at"?}, …]      `at`: where its content lies in weights.bin; without it, it begins as zeros
     "uniforms": {"at", "size", "pitch"}, one buffer of parameters, `pitch` bytes a dispatch
     "plans": {name: {"inputs": [TENSOR], "outputs": [TENSOR], "prologue": [DISPATCH], "steps": [DISPATCH], "taps": [TAP], …}},
     "arrays": {name: {"at", "type": "float32" | "uint8", "shape"}},
     …}                                   what `export` says about the model, the page's settings, its check, and "constants"

    TENSOR    {"buffer", "shape": [B, H, W, C]}, float32, channels padded to a multiple of four
    DISPATCH  {"pipeline", "grid": [x, y, z], "uniform": offset, "bind": [buffer, offset, size, …]}, in the order of the bindings
    TAP       {"path", "dispatch", "buffer", "size", "at": [offset, …]}: right after that dispatch, samples of the module's output

A sampling plan also has "state" (the buffer of the step's number), "sinusoid" (TENSOR), "coefficients" (a buffer), "guidance"
(where in the uniforms), "carry": [from, to, bytes] after a step, and "rows", the most steps a run may have.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from moebius.backends.webgpu import WebGPU, wgsl
from moebius.backends.webgpu.caps import DEFAULT_LIMITS, Caps
from moebius.backends.webgpu.ops.assembling import COEFFICIENTS
from moebius.backends.webgpu.plan import PARAMS_PITCH, Dispatch, Plan, place
from moebius.backends.webgpu.tensor import Buffer, Deferred, Tensor

FORMAT = 1
PLAN, WEIGHTS = "plan.json", "weights.bin"
ALIGN = DEFAULT_LIMITS["min-storage-buffer-offset-alignment"]
SEGMENT = DEFAULT_LIMITS["max-storage-buffer-binding-size"]  # weights lie together in buffers of at most this size
PIECE = 1 << 22  # bytes of weights.bin that a browser checks at a time: few enough to hold, many enough to be quick
BLOCKS, BLOCK = 16, 128  # samples of a module's output: blocks of neighbouring values


def samples(size: int) -> tuple[list[int], int]:
    """Where in that many values samples are taken, and how many values each: few enough to copy a big model's tensors of all modules."""
    if size <= BLOCKS * BLOCK:
        return [0], size
    return [i * (size - BLOCK) // (BLOCKS - 1) // 4 * 4 for i in range(BLOCKS)], BLOCK


class ForBrowsers(WebGPU):
    """Records, and never runs: for a browser on a GPU or on a software driver, whatever the adapter here.

    Taps become places in the plan.
    """

    def __init__(self, adapter: str | int | None = None, *, software: bool = False) -> None:
        super().__init__(adapter, Caps.browser(software), limits="webgpu")
        self.taps: list[tuple[str, Tensor]] = []

    def tap(self, path: str, x: Tensor, layout: str = "image") -> None:
        if not isinstance(x, Deferred):  # which the plan never has in memory
            self.taps.append((path, x))

    def recorded(self, forward: Callable[..., Any], shapes: Sequence[tuple[int, ...]], *args: Any) -> tuple[Plan, list[tuple[str, Tensor]]]:
        """The plan of forward for channels-last inputs, and what its modules put out."""
        self.taps = []
        return self.record(forward, shapes, *args), self.taps


class Digests:
    """SHA-256 of all that comes, and of every PIECE bytes of it."""

    def __init__(self) -> None:
        self.whole, self._piece, self._filled = hashlib.sha256(), hashlib.sha256(), 0
        self._done: list[str] = []

    def update(self, data: bytes | bytearray) -> None:
        self.whole.update(data)
        view = memoryview(data)
        while view:
            part = view[: PIECE - self._filled]
            self._piece.update(part)
            self._filled, view = self._filled + len(part), view[len(part) :]
            if self._filled == PIECE:
                self._done.append(self._piece.hexdigest())
                self._piece, self._filled = hashlib.sha256(), 0

    def about(self) -> dict[str, Any]:
        pieces = [*self._done, self._piece.hexdigest()] if self._filled else self._done
        return {"sha256": self.whole.hexdigest(), "piece": PIECE, "pieces": pieces}


class Bundle:
    """Collects plans and arrays, then writes both files."""

    def __init__(self) -> None:
        self.plans: dict[str, Any] = {}
        self.modules: dict[str, int] = {}
        self.pipelines: dict[tuple[int, str, tuple[str, ...]], int] = {}
        self.buffers: list[dict[str, int]] = []
        self.arrays: dict[str, np.ndarray] = {}
        self._weights: dict[int, tuple[Buffer, int, int]] = {}  # by id: buffer, segment, offset in it
        self._segments: list[int] = []  # sizes, in the order of `_weights`
        self._segment_ids: list[int] = []
        self._arena: list[int] = []  # buffers that plans share, the largest first
        self._own: dict[int, int] = {}
        self._alive: list[Any] = []  # ids are only good while their objects live
        self._uniforms = bytearray()

    # collecting --------------------------------------------------------------------------------------------------
    def add(self, name: str, plan: Plan, taps: Sequence[tuple[str, Tensor]] = ()) -> None:
        """One plan after another runs, so their intermediate tensors lie over one another."""
        rec = plan.recording
        kept = {id(t.buffer) for t in (*plan.inputs, *plan.outputs)} | {id(b) for pair in rec.carry for b in pair[:2]}
        kept |= {id(b.buffer) for d in rec.prologue for b in d.outputs}  # read at every step
        arena, placed = place(rec.steps, kept, plan.device)
        self._alive.append((plan, list(taps), arena))
        for rank, shared in enumerate(sorted(arena, key=lambda b: -b.nbytes)):
            if rank == len(self._arena):
                self._arena.append(self._buffer(0))
            buffer = self._arena[rank]
            self.buffers[buffer]["size"] = max(self.buffers[buffer]["size"], shared.nbytes)
            self._own[id(shared)] = buffer
        self._own |= {key: self._own[id(shared)] for key, (_, shared) in placed.items()}

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
                "guidance": entry["steps"][rec.steps.index(last)]["uniform"] + 4 * fields.index("guidance"),
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
            at = [4 * start for start in starts]
            places.append({"path": path, "dispatch": writer[id(t.buffer)], "buffer": self._place(t.buffer)[0], "size": 4 * count, "at": at})
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
        uniform = len(self._uniforms)
        self._uniforms += wgsl.pack_params(d.shader, d.params).ljust(PARAMS_PITCH, b"\0")
        return {"pipeline": pipeline, "grid": list(d.grid), "uniform": uniform, "bind": bind}

    def _place(self, buffer: Buffer) -> tuple[int, int]:
        """(buffer of the bundle, offset in it)."""
        if buffer.kind == "weight" and buffer.label != COEFFICIENTS:
            return self._weight(buffer)
        if id(buffer) not in self._own:
            self._own[id(buffer)] = self._buffer(buffer.nbytes)
        return self._own[id(buffer)], 0

    def _weight(self, buffer: Buffer) -> tuple[int, int]:
        if id(buffer) not in self._weights:
            size = -(-buffer.nbytes // ALIGN) * ALIGN
            if not self._segments or self._segments[-1] + size > SEGMENT:
                self._segments.append(0)
                self._segment_ids.append(self._buffer(0))
            segment = len(self._segments) - 1
            self._weights[id(buffer)] = buffer, segment, self._segments[segment]
            self._segments[segment] += size
            self.buffers[self._segment_ids[segment]]["size"] = self._segments[segment]
        _, segment, offset = self._weights[id(buffer)]
        return self._segment_ids[segment], offset

    def _buffer(self, size: int) -> int:
        self.buffers.append({"size": size})
        return len(self.buffers) - 1

    # writing -----------------------------------------------------------------------------------------------------
    def write(self, folder: Path, about: dict[str, Any], progress: Callable[[str, int, int | None], None] | None = None) -> int:
        """plan.json and weights.bin; how many bytes they have."""
        digests, at, total = Digests(), 0, self._size()
        with (folder / WEIGHTS).open("wb") as file:

            def put(data: bytes | bytearray) -> int:
                nonlocal at
                begin = at
                for part in (data, bytes(-len(data) % ALIGN)):
                    file.write(part)
                    digests.update(part)
                    at += len(part)
                if progress is not None:
                    progress("Writing weights.bin", at, total)
                return begin

            uniforms = {"at": put(self._uniforms), "size": len(self._uniforms), "pitch": PARAMS_PITCH}
            arrays = {}
            for name, array in self.arrays.items():
                little = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
                arrays[name] = {"at": put(little.tobytes()), "type": array.dtype.name, "shape": list(array.shape)}
            for buffer, segment, _ in self._weights.values():  # the first of a segment at its beginning
                assert buffer.fill is not None
                data = np.ascontiguousarray(buffer.fill()).reshape(-1).view(np.uint8)
                begin = put(data.tobytes() + bytes(buffer.nbytes - data.nbytes))
                self.buffers[self._segment_ids[segment]].setdefault("at", begin)
        plan = {
            "format": FORMAT,
            **about,
            "binary": {"file": WEIGHTS, "size": at, **digests.about()},
            "modules": list(self.modules),
            "pipelines": [{"module": m, "entry": e, "access": list(a)} for m, e, a in self.pipelines],
            "buffers": self.buffers,
            "uniforms": uniforms,
            "plans": self.plans,
            "arrays": arrays,
        }
        text = json.dumps(plan, ensure_ascii=False, separators=(",", ":"))
        (folder / PLAN).write_text(text, encoding="utf-8")
        return at + len(text.encode())

    def _size(self) -> int:
        arrays = sum(-(-a.nbytes // ALIGN) * ALIGN for a in self.arrays.values())
        return len(self._uniforms) + arrays + sum(self._segments)
