"""A recorded run: dispatches as data, placed in memory, checked against the limits, then replayed.

Recording makes no GPU object. A `Plan` is what was recorded plus where everything lies; its pipelines, bind groups and the
one uniform buffer are made on the first replay and never again.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from math import prod
from typing import Any
from weakref import ReferenceType

import numpy as np

from moebius.backends.webgpu import native, places, quads, reach, wgsl
from moebius.backends.webgpu.caps import DEFAULT_LIMITS, Caps
from moebius.backends.webgpu.device import Device, guard
from moebius.backends.webgpu.dispatch import Dispatch
from moebius.backends.webgpu.readback import Readback
from moebius.backends.webgpu.tensor import Binding, Buffer, DType, Tensor, itemsize, write
from moebius.backends.webgpu.timing import timed
from moebius.errors import LimitError, MoebiusError, NonFiniteError
from moebius.model.contract import MAX_STEPS

# Mesa 22's llvmpipe silently stops an invocation after 65 535 loop iterations in all.
MAX_ITERATIONS = 60_000
FINITE, FINITE_GROUPS = "finite", 256
# Bits of a word that are all set where a number in it, one of two where they have 16 bits, is not finite.
EXPONENTS: dict[DType, dict[str, int]] = {
    "f32": {"low": 0x7F800000, "high": 0x7F800000},
    "f16": {"low": 0x7C00, "high": 0x7C000000},
    "quad": {"low": quads.NONE, "high": quads.NONE << 14},
}
FIRST = 24  # dispatches of a step that an idle device gets at once: more work than encoding the next ones takes,
MORE = 4  # of which there are so many for each
PARAMS_PITCH = DEFAULT_LIMITS["min-uniform-buffer-offset-alignment"]  # bytes from the parameters of one dispatch to the next


@dataclass
class Recording:
    """What ops write into. `prologue` runs once per run (time tables), `steps` once per step."""

    device: Device
    state: Buffer = field(init=False)
    prologue: list[Dispatch] = field(default_factory=list)
    steps: list[Dispatch] = field(default_factory=list)
    sinusoid: Tensor | None = None  # the table of the timesteps, filled at the start of a run
    flags: Buffer | None = None  # one word a step, set when the step's result is not finite
    in_turn: tuple[int, int] = 0, 0  # bytes of half of the largest tensor in parts, were it float32, and as it is
    carry: list[tuple[Buffer, Buffer, int]] = field(default_factory=list)  # copied after a step: what the next one starts from

    def __post_init__(self) -> None:
        self.state = Buffer(self.device, 4, "step", "pinned")


class Plan:
    """A recording with everything in its place. `share` lets intermediate tensors lie over one another, and over those of other plans."""

    def __init__(self, recording: Recording, inputs: Sequence[Tensor], outputs: Sequence[Tensor], share: bool = True) -> None:
        self.device, self.recording = recording.device, recording
        self.inputs, self.outputs = list(inputs), list(outputs)
        kept = {id(t.buffer) for t in (*inputs, *outputs)} | {id(b) for pair in recording.carry for b in pair[:2]}
        # The prologue's results are read at every step.
        kept |= {id(b.buffer) for d in recording.steps for b in d.bindings} & {id(b.buffer) for d in recording.prologue for b in d.outputs}
        if share:
            recording.steps[:] = places.over_residuals(places.sooner(recording.steps, kept), kept)
        self._arena, self._placed = places.place(
            self.dispatches if share else [], kept, self.device, recording.in_turn if share else (0, 0)
        )
        self._commands: dict[int, tuple[Any, Any]] = {}
        self._params: Any = None
        # The step's number reaches its state by a copy on the GPU's timeline: a host write would reach all steps under way.
        self._numbers = Buffer(self.device, 4 * MAX_STEPS, "step numbers", "pinned", lambda: np.arange(MAX_STEPS, dtype=np.uint32))
        self._steps = min([MAX_STEPS, *(n for d in recording.steps if (n := steps_of(d)) is not None)])
        self.tenant: ReferenceType[Any] | None = None  # whose latents are in the buffers, where a loop runs on this plan
        self._tables: np.ndarray | None = None  # of which timesteps the prologue's results are
        stay = {id(b.buffer) for d in recording.steps for b in d.bindings}
        bound = {id(b.buffer): b.buffer for d in recording.prologue for b in d.bindings}
        # Weights that are there while the prologue runs.
        self._early = [b for key, b in bound.items() if share and b.kind == "weight" and key not in stay]

    @property
    def dispatches(self) -> list[Dispatch]:
        return self.recording.prologue + self.recording.steps

    # what it is --------------------------------------------------------------------------------------------------
    def describe(self) -> list[dict[str, Any]]:
        """Per dispatch of a step: op, shader, constants, grid, bindings with shapes, FLOPs and bytes."""
        return [d.describe() for d in self.recording.steps]

    @property
    def lent(self) -> list[int]:
        """Bytes of the memory that it lies in together with the device's other plans, as `Arena` lends it."""
        return [shared.nbytes for shared in self._arena]

    def summary(self) -> dict[str, int]:
        buffers = {id(b.buffer): b.buffer for d in self.dispatches for b in d.bindings}.values()
        own = sum(b.nbytes for b in buffers if b.kind == "pinned") + sum(
            b.nbytes for b in buffers if b.kind == "intermediate" and id(b) not in self._placed
        )
        return {
            "dispatches": len(self.recording.steps),
            "flops": sum(d.flops for d in self.recording.steps),
            "bytes": sum(d.nbytes for d in self.recording.steps),
            "peak_bytes": own + sum(b.nbytes for b in self._arena),
            "weight_bytes": sum(b.nbytes for b in buffers if b.kind == "weight") - sum(b.nbytes for b in self._early),
            "early_bytes": sum(b.nbytes for b in self._early),
        }

    # running -----------------------------------------------------------------------------------------------------
    def prepare(self) -> None:
        """Uploads weights and makes every pipeline and bind group. Called by the first run."""
        if self._params is not None:
            return
        with self.device.compiling((d.shader, d.entry, d.constants) for d in self.dispatches):
            self._allocate()
        device, data = self.device, bytearray(PARAMS_PITCH * max(1, len(self.dispatches)))
        for i, d in enumerate(self.dispatches):
            packed = wgsl.pack_params(d.shader, d.params)
            data[i * PARAMS_PITCH : i * PARAMS_PITCH + len(packed)] = packed
        usage = device.module.BufferUsage
        with guard(device.name, "preparing a plan"):
            self._params = device.device.create_buffer_with_data(label="params", data=data, usage=usage.UNIFORM)
        self._command_each(range(len(self.recording.prologue), len(self.dispatches)))

    def _command_each(self, indices: Iterable[int]) -> None:
        """Makes those commands of these dispatches that are not there. The prologue's are made when it runs, and want its weights then."""
        with guard(self.device.name, "preparing a plan"):
            for i in (i for i in indices if i not in self._commands):
                d = self.dispatches[i]
                for b in d.bindings:
                    b.buffer.allocate()
                self._commands[i] = self._command(d, self._params, i * PARAMS_PITCH)

    def _allocate(self) -> None:
        """Memory for all that the plan binds or copies."""
        if self._arena:
            sizes = [shared.nbytes for shared in self._arena]
            lent = self.device.arena.lend(self, sizes, self.device.create_buffer, self.device.trim)
            for shared, memory in zip(self._arena, lent, strict=True):
                shared.place(memory)
        for each in self._placed.values():
            each.buffer.place(each.shared.handle, each.offset)
        rec = self.recording
        for buffer in (self._numbers, rec.state, *(b.buffer for d in self.dispatches for b in d.bindings)):
            if buffer not in self._early:
                buffer.allocate()

    def vacate(self) -> None:
        """Leaves what is not wanted from one submission to the next, and the commands that are bound to it, until the next one."""
        self._params = None
        self._commands.clear()
        for buffer in (*self._arena, *(each.buffer for each in self._placed.values())):
            buffer.place(None)

    def _command(self, d: Dispatch, params: Any, offset: int) -> tuple[Any, Any]:
        pipeline, layout = self.device.pipeline(d.shader, d.entry, d.constants)
        by_name = {b.name: b for b in d.bindings}
        entries = []
        for slot in wgsl.interface(d.shader, d.constants, d.entry).slots:
            if slot.access == "uniform":
                resource = {"buffer": params, "offset": offset, "size": PARAMS_PITCH}
            else:
                b = by_name[slot.name]
                resource = {"buffer": b.buffer.handle, "offset": b.buffer.offset + b.offset, "size": b.nbytes}
            entries.append({"binding": slot.index, "resource": resource})
        return pipeline, self.device.device.create_bind_group(label=f"{d.op} {d.path}", layout=layout, entries=entries)

    def upload(self, arrays: Sequence[np.ndarray]) -> None:
        """Channels-last arrays into the inputs."""
        for tensor, array in zip(self.inputs, arrays, strict=True):
            write(tensor, array)

    def start(self, timesteps: np.ndarray | None = None) -> None:
        """Begins a run: the table of timesteps, (T, width) sinusoids, and all that is computed from it alone, unless that is there."""
        self.prepare()
        rec = self.recording
        if rec.flags is not None:
            rec.flags.write(np.zeros(rec.flags.nbytes // 4, np.uint32))
        if self._tables is not None and (timesteps is None or np.array_equal(timesteps, self._tables)):
            return
        if timesteps is not None and rec.sinusoid is not None:
            write(rec.sinusoid, timesteps[None, None])
        if rec.prologue:
            again, self._tables = self._tables is not None, None
            fills = [(buffer, buffer.fill) for buffer in self._early]
            self._submit(range(len(rec.prologue)))
            self._tables = None if timesteps is None else timesteps.copy()
            if not again:  # one run follows the other with the same timesteps, but on a plan that has met others
                for i in range(len(rec.prologue)):
                    del self._commands[i]
                for buffer, fill in fills:
                    if fill is not None:
                        buffer.give_back(fill)

    def replay(self, step: int = 0, into: Readback | None = None, idle: bool = False) -> None:
        """One step: one compute pass over recorded objects, and what `into` wants of its results. An `idle` device gets the first of them
        beforehand, and then more and more, and has work while the others are encoded."""
        first, end, step = len(self.recording.prologue), len(self.dispatches), self._row(step)
        begin, count = first, FIRST
        while idle and end - begin > count:
            self._submit(range(begin, begin + count), step, first=begin == first, last=False)
            begin, count = begin + count, MORE * count
        self._submit(range(begin, end), step, into, first=begin == first)

    def _row(self, step: int) -> int:
        """The step, where every table of the plan has a row for it: kernels take it without a look."""
        if not 0 <= step < self._steps:
            raise MoebiusError(f"This plan has tables for {self._steps} steps, 0 to {self._steps - 1}, and was to take step {step}.")
        return step

    def _submit(self, indices: range, step: int | None = None, into: Readback | None = None, first: bool = True, last: bool = True) -> None:
        self.prepare()
        self._command_each(indices)  # what is wrong with a weight shows before anything is encoded
        with guard(self.device.name, "running a plan"):
            encoder = self.device.device.create_command_encoder()
            if step is not None and first:
                encoder.copy_buffer_to_buffer(self._numbers.handle, 4 * step, self.recording.state.handle, 0, 4)
            run = encoder.begin_compute_pass()
            self.encode(run, indices)
            run.end()
            if step is not None and last:
                for source, target, nbytes in self.recording.carry:
                    encoder.copy_buffer_to_buffer(source.handle, 0, target.handle, 0, nbytes)
            if into is not None:
                into.submit(encoder)
            else:
                self.device.device.queue.submit([encoder.finish()])

    def encode(self, run: Any, indices: Sequence[int]) -> None:
        """Dispatches into a compute pass, by number."""
        self.prepare()
        if not self._commands.keys() >= set(indices):
            self._command_each(indices)
        current, dispatches, (set_pipeline, set_group, dispatch) = None, self.dispatches, native.calls(self.device.module, run)
        for i in indices:
            pipeline, group = self._commands[i]
            if pipeline is not current:
                set_pipeline(pipeline)
                current = pipeline
            set_group(group)
            dispatch(*dispatches[i].grid)

    # looking into it ---------------------------------------------------------------------------------------------
    def find_non_finite(self, step: int = 0) -> None:
        """Replays the prologue and a step with a test behind every dispatch; raises NonFiniteError at the first bad op."""
        self.prepare()
        self._command_each(range(len(self.dispatches)))
        outputs = [(i, b) for i, d in enumerate(self.dispatches) for b in d.outputs if b.buffer is not self.recording.flags]
        flags = Buffer(self.device, 4 * len(outputs), "non-finite flags", "pinned")
        flags.write(np.zeros(len(outputs), np.uint32))
        with guard(self.device.name, "looking for a non-finite value"):
            encoder = self.device.device.create_command_encoder()
            encoder.copy_buffer_to_buffer(self._numbers.handle, 4 * self._row(step), self.recording.state.handle, 0, 4)
            run = encoder.begin_compute_pass()
            for slot, (i, b) in enumerate(outputs):
                if slot == 0 or outputs[slot - 1][0] != i:
                    self.encode(run, [i])
                self._encode_test(run, b, flags, slot)
            run.end()
            self.device.device.queue.submit([encoder.finish()])
        for (i, b), flag in zip(outputs, flags.read(4 * len(outputs), np.uint32), strict=True):
            if flag:
                d = self.dispatches[i]
                raise NonFiniteError(
                    f"A value that is not finite appeared in {d.op} ({d.path}, {d.shader}.wgsl, output {b.name} {b.shape}) "
                    f"at step {step} on {self.device.name}. "
                    "Check the weights and the input for NaN; if they are sound, please report this with the output of `moebius validate`."
                )

    def _encode_test(self, run: Any, b: Binding, flags: Buffer, slot: int) -> None:
        """finite.wgsl on what lies in a binding now: flags[slot] becomes 1 where a value is not finite."""
        device = self.device
        pipeline, layout = device.pipeline(FINITE, "main", ())
        data = wgsl.pack_params(FINITE, {"count": b.nbytes // 4, "slot": slot, **EXPONENTS[b.dtype]})
        params = device.device.create_buffer_with_data(data=data, usage=device.module.BufferUsage.UNIFORM)
        resources = [
            {"buffer": b.buffer.handle, "offset": b.buffer.offset + b.offset, "size": b.nbytes},
            {"buffer": flags.handle},
            {"buffer": params},
        ]
        entries = [{"binding": n, "resource": r} for n, r in enumerate(resources)]
        run.set_pipeline(pipeline)
        run.set_bind_group(0, device.device.create_bind_group(layout=layout, entries=entries))
        run.dispatch_workgroups(FINITE_GROUPS)

    def profile(self, repeats: int = 3) -> list[dict[str, Any]]:
        """Milliseconds of every dispatch of a step, the median of `repeats`, by GPU timestamps, a pass each.

        Without timestamp queries the clock is the wall around each dispatch, and each row says which clock it was.
        """
        self.replay()
        indices = range(len(self.recording.prologue), len(self.dispatches))
        clock = "timestamp" if self.device.timestamps else "wall"
        passes = [partial(self.encode, indices=[i]) for i in indices]
        times = [timed(self.device, passes, clock) for _ in range(repeats)]
        return [
            self.dispatches[i].describe() | {"ms": float(ms), "clock": clock}
            for i, ms in zip(indices, np.median(times, axis=0), strict=True)
        ]


def check(d: Dispatch, caps: Caps) -> None:
    """Refuses what the adapter would refuse, or silently get wrong. A validation error at submit would end the process."""
    limits, what = caps.limits, f"{d.op} ({d.path}, {d.shader}.wgsl)"

    def within(name: str, value: int, limit: int, advice: str) -> None:
        if value > limit:
            raise LimitError(f"{what}: {name} is {value:,}, above {limit:,} on {caps.name}. {advice}")

    smaller = "Use a smaller image or batch, or another adapter."
    for b in d.bindings:
        within(f"the binding {b.name} {b.shape} in bytes", b.nbytes, limits["max-storage-buffer-binding-size"], smaller)
        within(f"the buffer of {b.name} {b.shape} in bytes", b.buffer.nbytes, limits["max-buffer-size"], smaller)
        if b.offset % limits["min-storage-buffer-offset-alignment"] or b.nbytes <= 0 or b.offset + b.nbytes > b.buffer.nbytes:
            raise LimitError(f"{what}: the binding {b.name} of {b.nbytes} bytes at {b.offset} is not within its buffer and its alignment.")
    within("the number of storage buffers", len(d.bindings), limits["max-storage-buffers-per-shader-stage"], "Use another adapter.")
    for axis, n in zip("xyz", d.grid, strict=True):
        within(f"the grid's {axis}", n, limits["max-compute-workgroups-per-dimension"], smaller)
    within("the workgroup's size", d.workgroup[0] * d.workgroup[1], limits["max-compute-invocations-per-workgroup"], "Use another adapter.")
    within("the workgroup's width", d.workgroup[0], limits["max-compute-workgroup-size-x"], "Use another adapter.")
    within("the workgroup's memory in bytes", d.workgroup_bytes, limits["max-compute-workgroup-storage-size"], "Use another adapter.")
    within("the loop iterations of one invocation", d.iterations, MAX_ITERATIONS, smaller)
    written = {id(b.buffer) for b in d.outputs}
    if len(written) < len(d.outputs) or any(id(b.buffer) in written for b in d.bindings if b.access == "read"):
        raise LimitError(f"{what}: a buffer is bound for reading and for writing in one dispatch, which WebGPU forbids.")
    check_reach(d, what)


def check_reach(d: Dispatch, what: str) -> None:
    """Refuses a dispatch whose indexes could leave what it binds, or wrap: its kernel may run without checks of its own."""
    found = reach.reach(d.shader, d.constants, d.params, d.grid)
    if found is None:
        return
    if not found.whole or prod(d.grid) * prod(d.workgroup) > 2**32:
        raise LimitError(f"{what}: its sizes {d.params} on a grid of {d.grid} are none that its kernel was written for.")
    for b in d.bindings:
        if b.name not in found.spans and b.name not in found.steps and b.shape:  # a place that is left empty has no shape
            raise LimitError(f"{what}: reach.py does not say how far it reaches in {b.name}; add that to the kernel's row.")
        begin, end = found.spans.get(b.name, (0, found.steps.get(b.name, 0)))
        size = itemsize(b.dtype)
        if begin < 0 or size * end > b.nbytes or b.buffer.nbytes > size * reach.LARGEST:
            raise LimitError(
                f"{what}: it may reach the words {begin:,} to {end:,} of {b.name} {b.shape}, which has {b.nbytes // size:,} there "
                f"and may have {reach.LARGEST:,} in all. Use a smaller image or batch."
            )


def steps_of(d: Dispatch) -> int | None:
    """For how many steps the tables of a dispatch have rows; None where it has none."""
    found = reach.reach(d.shader, d.constants, d.params, d.grid) if any(b.name == "state" for b in d.bindings) else None
    rows = [b.nbytes // (itemsize(b.dtype) * found.steps[b.name]) for b in d.bindings if b.name in found.steps] if found else []
    return min(rows, default=None)
