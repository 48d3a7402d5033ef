"""What every op stands on: running a model as a plan, recording dispatches, buffers for tensors and packed parameters."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from moebius.backends.webgpu import pack
from moebius.backends.webgpu.device import Buffer, Gpu
from moebius.backends.webgpu.pack import up4
from moebius.backends.webgpu.plan import Binding, Dispatch, Plan, Recording, Tensor, check, read, write
from moebius.backends.webgpu.wgsl import Constants, interface
from moebius.errors import LimitError, MoebiusError, NonFiniteError, UsageError
from moebius.model.arrays import time_sinusoid, to_nchw
from moebius.model.contract import Step, StepState, Tap, Timesteps
from moebius.model.params import Params

PLANS_PER_MODEL = 4
SIZE = 64  # invocations of a flat workgroup


def ceil(a: int, b: int) -> int:
    return -(-a // b)


class Recorder:
    """The half of `WebGPU` that is not ops."""

    largest_batch = 8

    def __init__(self, adapter: str | int | None = None, *, limits: str = "adapter") -> None:
        self.gpu = Gpu(adapter, limits=limits)
        self._plans: WeakKeyDictionary[Any, dict[Any, Plan]] = WeakKeyDictionary()
        self._none = Buffer(self.gpu, 256, "unused", "pinned")
        self._recording: Recording | None = None
        self._eager = False
        self._tap: Tap | None = None

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name})"

    @property
    def name(self) -> str:
        return self.gpu.name

    # edges -------------------------------------------------------------------------------------------------------
    def run(self, forward: Callable[..., Tensor], arrays: Sequence[np.ndarray], *args: Any, tap: Tap | None = None) -> np.ndarray:
        nhwc = [np.moveaxis(np.asarray(a, np.float32), 1, -1) for a in arrays]
        if tap is not None:
            with self.eager(tap):
                return to_nchw(self.read(forward(*(self.tensor(a) for a in arrays), *args)))
        plan = self.plan(forward, [a.shape for a in nhwc], *args)
        plan.upload(nhwc)
        times = [a for a in args if isinstance(a, Timesteps)]
        plan.start(time_sinusoid(times[0], plan.recording.sinusoid.shape[3]) if times and plan.recording.sinusoid else None)
        plan.replay()
        out = to_nchw(read(plan.outputs[0]))
        if not np.isfinite(out).all():
            plan.find_non_finite()
            raise NonFiniteError(f"The output of {forward.__name__} is not finite on {self.gpu.name}, and was when it was run again.")
        return out

    def loop(self, step: Step, arrays: Sequence[np.ndarray], timesteps: Timesteps) -> Iterator[StepState]:
        nhwc = [np.moveaxis(np.asarray(a, np.float32), 1, -1) for a in arrays]
        plan = self.plan(step, [a.shape for a in nhwc], slice(None))
        # A state that someone keeps holds these two, and not the memory of the plan.
        rec, latents, estimate = plan.recording, plan.inputs[0], plan.outputs[1]
        assert rec.sinusoid is not None
        assert rec.flags is not None
        table = time_sinusoid(timesteps, rec.sinusoid.shape[3])
        plan.upload(nhwc)
        plan.start(table)
        run = plan.runs
        for i, t in enumerate(timesteps):
            if plan.runs != run:
                raise UsageError("Another run of the same sampler began before this one ended; one at a time, or one Inpainter each.")
            plan.replay(i)
            yield StepState(i, t, lambda: to_nchw(read(latents)), lambda: to_nchw(read(estimate)))
        bad = np.flatnonzero(self.gpu.read(rec.flags, 4 * len(timesteps), np.uint32))
        if bad.size:  # go there once more, now with a test behind every op
            plan.upload(nhwc)
            plan.start(table)
            for i in range(bad[0]):
                plan.replay(i)
            plan.find_non_finite(int(bad[0]))
            raise NonFiniteError(
                f"The latents after step {bad[0]} are not finite on {self.gpu.name}, and were when the step was run again."
            )

    def rehearse(self, step: Step, shapes: Sequence[tuple[int, ...]]) -> None:
        self.plan(step, [(s[0], *s[2:], s[1]) for s in shapes], slice(None))

    def plan(self, forward: Callable[..., Any], shapes: Sequence[tuple[int, ...]], *args: Any) -> Plan:
        """The recorded plan of forward for channels-last inputs of these shapes; recorded once, kept with its model."""
        owner, key = forward.__self__, (forward.__name__, tuple(map(tuple, shapes)), tuple(map(_key, args)))  # type: ignore[attr-defined]
        plans = self._plans.setdefault(owner, {})
        if key not in plans:
            plan = self.record(forward, shapes, *args)
            while len(plans) >= PLANS_PER_MODEL:
                plans.pop(next(iter(plans)))
            plans[key] = plan
        return plans[key]

    def record(self, forward: Callable[..., Any], shapes: Sequence[tuple[int, ...]], *args: Any) -> Plan:
        """Records forward without keeping the plan."""
        with self._recorder(Recording(self.gpu), eager=False) as recording:
            inputs = [self._new(tuple(s), f"input {i}", "pinned") for i, s in enumerate(shapes)]
            out = forward(*inputs, *args)
            outputs = out if isinstance(out, tuple) else (out,)
            if recording.flags is not None:  # a sampling step: what it makes is what the next one starts from
                recording.carry.append((outputs[0].buffer, inputs[0].buffer, inputs[0].nbytes))
            return Plan(recording, inputs, outputs)

    @contextmanager
    def eager(self, tap: Tap | None = None) -> Iterator[None]:
        """Within, ops run when their result is read: for taps and for validation op by op."""
        with self._recorder(Recording(self.gpu), eager=True):
            self._tap = tap
            try:
                yield
            finally:
                self._tap = None

    @contextmanager
    def _recorder(self, recording: Recording, eager: bool) -> Iterator[Recording]:
        if self._recording is not None:
            raise MoebiusError("This WebGPU is already recording. Use one WebGPU object per thread.")
        self._recording, self._eager = recording, eager
        try:
            yield recording
        finally:
            self._recording, self._eager = None, False

    @property
    def recording(self) -> Recording:
        if self._recording is None:
            raise MoebiusError("Ops of WebGPU are recorded: call the model itself, or use `with webgpu.eager():`.")
        return self._recording

    def tensor(self, array: np.ndarray) -> Tensor:
        """NCHW → a tensor of its own."""
        nhwc = np.moveaxis(np.asarray(array, np.float32), 1, -1)
        t = self._new(nhwc.shape, "input", "pinned")
        write(t, nhwc)
        return t

    def read(self, t: Tensor) -> np.ndarray:
        """(B, H, W, C); runs what was recorded so far when eager."""
        if self._eager:
            self._flush()
        return read(t)

    def _flush(self) -> None:
        rec = self.recording
        if rec.prologue or rec.steps:
            plan = Plan(rec, [], [], share=False)
            plan.start()
            plan.replay()
            rec.prologue.clear()
            rec.steps.clear()

    def tap(self, path: str, x: Tensor, layout: str = "image") -> None:
        if self._tap is not None:
            a = self.read(x)
            self._tap(path, to_nchw(a) if layout == "image" else a.reshape(a.shape[0], -1, a.shape[-1]))

    # recording ---------------------------------------------------------------------------------------------------
    def _new(self, shape: Sequence[int], label: str, kind: str = "intermediate") -> Tensor:
        b, h, w, c = shape
        return Tensor(Buffer(self.gpu, 4 * b * h * w * up4(c), label, kind), (b, h, w, c))

    def _constant(self, p: Params, name: str, shape: Sequence[int], fill: Callable[[], np.ndarray], *key: Any) -> Binding:
        """A packed parameter, made once for a checkpoint. `shape` is the packed one; `fill` runs when it is uploaded."""
        packed: dict[tuple[Any, ...], Buffer] = p.root.made.setdefault(self, {})
        at = (p.path, name, *key)
        if at not in packed:
            packed[at] = Buffer(self.gpu, 4 * int(np.prod(shape)), f"{p.path}.{name}", "weight", fill)
        return Binding(name, "read", packed[at], tuple(shape))

    def _vector(self, p: Params, name: str) -> Binding:
        n = p[name].shape[0]
        return self._constant(p, name, (up4(n),), lambda: pack.vector(p[name]))

    def _dispatch(
        self,
        op: str,
        path: str,
        shader: str,
        grid: tuple[int, int, int],
        bound: dict[str, Tensor | Binding | None],
        params: dict[str, int | float],
        constants: dict[str, int | bool | str] | None = None,
        *,
        entry: str = "main",
        workgroup: tuple[int, int] = (SIZE, 1),
        workgroup_bytes: int = 0,
        iterations: int = 0,
        flops: int = 0,
        prologue: bool = False,
    ) -> None:
        bindings = []
        for slot in interface(shader).slots:
            if slot.access == "uniform":
                continue
            given = bound[slot.name]
            if isinstance(given, Tensor):
                b = Binding(slot.name, slot.access, given.buffer, given.shape, 0, given.nbytes)
            elif given is None:
                b = Binding(slot.name, slot.access, self._none, (), 0, self._none.nbytes)
            else:
                b = Binding(slot.name, slot.access, given.buffer, given.shape, given.offset, given.nbytes or given.buffer.nbytes)
            bindings.append(b)
        frozen: Constants = tuple(sorted((constants or {}).items()))
        d = Dispatch(op, path, shader, entry, frozen, grid, bindings, params, workgroup, workgroup_bytes, iterations, int(flops))
        check(d, self.gpu)
        (self.recording.prologue if prologue else self.recording.steps).append(d)

    def _flat(self, threads: int, size: int = SIZE) -> tuple[int, int, int]:
        """A 1-D grid folded to stay below the groups a dimension may have."""
        groups, most = ceil(threads, size), self.gpu.limits["max-compute-workgroups-per-dimension"]
        x = min(groups, most)
        return x, ceil(groups, x), 1

    def _window(self, name: str, access: str, t: Tensor, begin: int, end: int) -> tuple[Binding, int]:
        """The floats [begin, end) of a tensor as a binding, and how many floats lie before it."""
        align = max(256, self.gpu.limits["min-storage-buffer-offset-alignment"])
        offset = 4 * begin // align * align
        return Binding(name, access, t.buffer, t.shape, offset, min(t.nbytes, 4 * end) - offset), offset // 4

    def _bands(self, what: str, rows: int, *floats_per_row: float, overhead: int = 0, multiple: int = 1) -> int:
        """How many of `rows` fit the binding limit, given what every tensor needs a row (and `overhead` floats once)."""
        room = self.gpu.limits["max-storage-buffer-binding-size"] // 4 - 64 - overhead
        fit = int(room // max(floats_per_row)) // multiple * multiple
        if fit < 1:
            limit = self.gpu.limits["max-storage-buffer-binding-size"]
            raise LimitError(
                f"{what}: {multiple} row{'s' * (multiple > 1)} of {4 * max(floats_per_row):,.0f} bytes and the alignment do not fit "
                f"the {limit:,} a binding may have on {self.gpu.name}. Use a smaller image, or another adapter."
            )
        return min(rows, fit)

    def _fits(self, *tensors: Tensor) -> bool:
        return all(t.nbytes <= self.gpu.limits["max-storage-buffer-binding-size"] for t in tensors)


def _key(arg: Any) -> Any:
    """What of an argument decides a plan: of timesteps their number, of arrays their bytes."""
    if isinstance(arg, Timesteps):
        return len(arg)
    if isinstance(arg, np.ndarray):
        return arg.shape, arg.dtype.str, arg.tobytes()
    if isinstance(arg, slice):
        return arg.start, arg.stop, arg.step
    return arg
