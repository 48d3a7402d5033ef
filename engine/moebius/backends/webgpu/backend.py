"""`WebGPU`: the ops contract on one device, recorded into plans and replayed."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from moebius.backends.webgpu import pack, prove
from moebius.backends.webgpu.calls import GemmCall
from moebius.backends.webgpu.caps import Caps
from moebius.backends.webgpu.choice import Choose, choose
from moebius.backends.webgpu.device import Device
from moebius.backends.webgpu.gemm import Dense
from moebius.backends.webgpu.ops import assembling, dense, lambdas, norms
from moebius.backends.webgpu.ops.attention import attention
from moebius.backends.webgpu.plan import Plan
from moebius.backends.webgpu.readback import Readback
from moebius.backends.webgpu.recorder import Recorder
from moebius.backends.webgpu.tenant import Tenant
from moebius.backends.webgpu.tensor import Tensor, planes, read, write
from moebius.errors import AdapterError, NonFiniteError, OutOfMemoryError
from moebius.model.arrays import time_sinusoid, to_nchw
from moebius.model.contract import Condition, Precision, Step, StepState, Tap, Timesteps
from moebius.model.params import Checkpoint, Finite, Params

PLANS_PER_MODEL = 4
AHEAD = 2  # runs that are queued behind the one whose result is waited for


class WebGPU:
    """`WebGPU()` is the best adapter; `WebGPU("llvmpipe")` the best whose summary holds those words; `WebGPU("dawn:SwiftShader")`
    goes through Dawn. `limits="webgpu"` keeps to WebGPU's default limits on any adapter; `matrix_units=True` takes an adapter through Dawn
    with its matrix units, and is refused where it has none that compute right.

    It takes a `Device` that is open already, too; `caps` are what it records for, the device's own unless given, with
    another `precision` if one is named, and `choose` picks the kernel of a dense layer.
    """

    largest_batch = 8

    def __init__(
        self,
        device: Device | str | int | None = None,
        caps: Caps | None = None,
        choose: Choose = choose,
        *,
        limits: str = "adapter",
        precision: Precision | None = None,
        matrix_units: bool = False,
        recorder: type[Recorder] = Recorder,
    ) -> None:
        self.gpu = device if isinstance(device, Device) else Device.open(device, limits=limits, matrix_units=matrix_units)
        if matrix_units and self.gpu.caps.matrix is None:
            self.gpu.caps = replace(self.gpu.caps, matrix=prove.units(self.gpu, self.gpu.listed))
            if self.gpu.caps.matrix is None:
                raise AdapterError(f"None of the matrix units of {self.gpu.name} computes right. Leave them out, or update its driver.")
        given = caps or self.gpu.caps
        self.caps = given if precision is None else replace(given, precision=precision)
        self.recorder = recorder(self.gpu, self.caps)
        self._dense = Dense(self.recorder, choose)
        self._plans: WeakKeyDictionary[Any, dict[Any, Plan]] = WeakKeyDictionary()
        self._tap: Tap | None = None
        # Called with the dense layers of a plan that was recorded; where it finds better kernels for them, the plan is recorded again.
        self.tuner: Callable[[WebGPU, list[GemmCall]], bool] | None = None

    @property
    def choose(self) -> Choose:
        """Who picks the kernel of a dense layer, in plans that are yet to be recorded."""
        return self._dense.choose

    @choose.setter
    def choose(self, choose: Choose) -> None:
        self._dense.choose = choose

    @property
    def name(self) -> str:
        """The adapter, its driver's interface and the implementation, for people."""
        return self.gpu.name

    @property
    def precision(self) -> Precision:
        return self.caps.precision

    def in_f32(self) -> WebGPU:
        """Without matrix units too: f32 by splitting ends where halves do."""
        if self.precision == "f32" and self.caps.matrix is None:
            return self
        return WebGPU(self.gpu, replace(self.caps, matrix=None), self.choose, precision="f32")

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name})"

    # running -----------------------------------------------------------------------------------------------------
    def run(self, forward: Callable[..., Tensor], arrays: Sequence[np.ndarray], *args: Any, tap: Tap | None = None) -> np.ndarray:
        with self.gpu.turns:
            if tap is None:
                return self._begun(forward, arrays, args)()
            with self.eager(tap):
                return to_nchw(self.read(forward(*(self.tensor(a) for a in arrays), *args)))

    def run_each(self, forward: Callable[..., Tensor], calls: Iterable[Sequence[np.ndarray]]) -> Iterator[np.ndarray]:
        """AHEAD of them are queued behind the one that is waited for, as long as there is memory for their results."""
        under_way = deque[Callable[[], np.ndarray]]()
        for arrays in calls:
            begun: Callable[[], np.ndarray] | None = None
            if under_way:
                with suppress(OutOfMemoryError):
                    begun = self._begun(forward, arrays, (), idle=False)
            while begun is None and under_way:
                yield under_way.popleft()()
            under_way.append(begun or self._begun(forward, arrays, ()))
            if len(under_way) > AHEAD:
                yield under_way.popleft()()
        while under_way:
            yield under_way.popleft()()

    def _begun(
        self, forward: Callable[..., Tensor], arrays: Sequence[np.ndarray], args: tuple[Any, ...], idle: bool = True
    ) -> Callable[[], np.ndarray]:
        """A run that is queued, on an `idle` device or behind others, and what waits for its result."""
        nhwc = [np.moveaxis(np.asarray(a, np.float32), 1, -1) for a in arrays]

        def queue(plan: Plan, into: Readback | None = None) -> None:
            plan.upload(nhwc)
            times = [a for a in args if isinstance(a, Timesteps)]
            plan.start(time_sinusoid(times[0], plan.recording.sinusoid.shape[3]) if times and plan.recording.sinusoid else None)
            plan.replay(into=into, idle=idle)

        with self.gpu.turns:
            plan = self.plan(forward, [a.shape for a in nhwc], *args)
            made = plan.outputs[0]
            coming = Readback(self.gpu, [(made.buffer, made.nbytes)])
            queue(plan, coming)

        def result() -> np.ndarray:
            with self.gpu.turns:
                out = planes(coming.read()[0], made.shape, made.dtype)
                if not np.isfinite(out).all():
                    queue(plan)  # another one may be in its buffers by now
                    plan.find_non_finite()
                    raise NonFiniteError(f"The output of {forward.__name__} is not finite on {self.name}, and was when it was run again.")
                return out

        return result

    def loop(self, step: Step, arrays: Sequence[np.ndarray], timesteps: Timesteps) -> Iterator[StepState]:
        """One step is one turn on the device. Between two of them another run may use the same plan: see `Tenant`. On a GPU a step is
        handed out when the next one is queued: it has work while what is made of a step is looked at."""
        nhwc = [np.moveaxis(np.asarray(a, np.float32), 1, -1) for a in arrays]
        plan = self.plan(step, [a.shape for a in nhwc], slice(None))
        tenant = Tenant(plan, nhwc, timesteps)
        queued, ahead = deque[StepState](), 0 if self.caps.is_software else 1
        for i, t in enumerate(timesteps):
            with self.gpu.turns:
                after = tenant.step(plan, i)
            queued.append(StepState(i, t, after.latents, after.estimate))
            if len(queued) > ahead:
                yield queued.popleft()
        yield from queued
        with self.gpu.turns:
            bad = np.flatnonzero(after.flags())
            if bad.size:  # go there once more, now with a test behind every op
                Tenant(plan, nhwc, timesteps).enter(plan)
                for i in range(bad[0]):
                    plan.replay(i)
                plan.find_non_finite(int(bad[0]))
                raise NonFiniteError(
                    f"The latents after step {bad[0]} are not finite on {self.name}, and were when the step was run again."
                )

    def rehearse(self, step: Step, shapes: Sequence[tuple[int, ...]]) -> None:
        self.plan(step, [(s[0], *s[2:], s[1]) for s in shapes], slice(None))

    def forget(self, net: object, weights: Checkpoint) -> None:
        with self.gpu.turns:
            self._plans.pop(net, None)
            weights.derived.pop(self.recorder, None)
            self.gpu.trim()

    def plan(self, forward: Callable[..., Any], shapes: Sequence[tuple[int, ...]], *args: Any) -> Plan:
        """The recorded plan of forward for channels-last inputs of these shapes; recorded once, kept with its model."""
        owner, key = forward.__self__, (forward.__name__, tuple(map(tuple, shapes)), tuple(map(_key, args)))  # type: ignore[attr-defined]
        with self.gpu.turns:
            plans = self._plans.setdefault(owner, {})
            if key not in plans:
                calls, plan = self.layers(forward, shapes, *args)
                if self.tuner is not None and self.tuner(self, calls):
                    plan = self.record(forward, shapes, *args)
                while len(plans) >= PLANS_PER_MODEL:
                    plans.pop(next(iter(plans)))
                plans[key] = plan
            return plans[key]

    def record(self, forward: Callable[..., Any], shapes: Sequence[tuple[int, ...]], *args: Any) -> Plan:
        """Records forward without keeping the plan."""
        with self.gpu.turns, self.recorder.open(eager=False) as recording:
            inputs = [self.recorder.new(tuple(s), f"input {i}", "pinned") for i, s in enumerate(shapes)]
            out = forward(*inputs, *args)
            outputs = out if isinstance(out, tuple) else (out,)
            if recording.flags is not None:  # a sampling step: what it makes is what the next one starts from
                recording.carry.append((outputs[0].buffer, inputs[0].buffer, inputs[0].nbytes))
            return Plan(recording, inputs, outputs)

    def layers(self, forward: Callable[..., Any], shapes: Sequence[tuple[int, ...]], *args: Any) -> tuple[list[GemmCall], Plan]:
        """Records forward, and gives its dense layers beside the plan."""
        with self.gpu.turns:
            self._dense.calls = []
            try:
                plan = self.record(forward, shapes, *args)
                return self._dense.calls, plan
            finally:
                self._dense.calls = None

    @contextmanager
    def eager(self, tap: Tap | None = None) -> Iterator[None]:
        """Within, ops run when their result is read: for taps and for validation op by op. Other threads wait until it ends."""
        with self.gpu.turns, self.recorder.open(eager=True):
            self._tap = tap
            try:
                yield
            finally:
                self._tap = None

    def tensor(self, array: np.ndarray) -> Tensor:
        """NCHW → a tensor of its own."""
        nhwc = np.moveaxis(np.asarray(array, np.float32), 1, -1)
        t = self.recorder.new(nhwc.shape, "input", "pinned")
        write(t, nhwc)
        return t

    def read(self, t: Tensor) -> np.ndarray:
        """(B, H, W, C); runs what was recorded so far when eager."""
        _ = t.buffer  # records the making of one that was put off
        if self.recorder.eager:
            self.recorder.flush()
        return read(t)

    def tap(self, path: str, x: Tensor, layout: str = "image") -> None:
        if self._tap is not None:
            a = self.read(x)
            self._tap(path, to_nchw(a) if layout == "image" else a.reshape(a.shape[0], -1, a.shape[-1]))

    # ops ---------------------------------------------------------------------------------------------------------
    def time_embedding(self, t: Timesteps, p: Params) -> Tensor:
        width = p["time_embedding.linear_1.weight"].shape[1]
        table = self.recorder.new((1, 1, len(t), width), "sinusoid", "pinned")
        self.recorder.recording.sinusoid = table
        if self.recorder.eager:
            write(table, time_sinusoid(t, width)[None, None])
        h = dense.time_table(self._dense, table, p.at("time_embedding.linear_1"), "time_embedding", "silu")
        return dense.time_table(self._dense, h, p.at("time_embedding.linear_2"), "time_embedding", "silu")

    def time_shift(self, temb: Tensor, p: Params) -> Tensor:
        return dense.time_table(self._dense, temb, p, "time_shift", None)

    def condition(self, ids: np.ndarray, p: Params) -> Condition:
        return Condition(ids, lambda: pack.condition_tokens(ids, Finite(p.root, p.path)))

    def linear(self, x: Tensor, p: Params, residual: Tensor | None = None) -> Tensor:
        return dense.linear(self._dense, x, p, residual)

    def conv3x3(self, x: Tensor, p: Params, stride: int = 1, pad: int = 1, residual: Tensor | None = None, inner: bool = False) -> Tensor:
        return dense.conv3x3(self._dense, x, p, stride, pad, residual, inner)

    def upsample_conv3x3(self, x: Tensor, p: Params, inner: bool = False) -> Tensor:
        return dense.upsample_conv3x3(self._dense, x, p, inner)

    def dwconv(self, x: Tensor, p: Params, shift: Tensor | None = None, residual: Tensor | None = None) -> Tensor:
        return dense.dwconv(self._dense, x, p, shift, residual)

    def feed_forward(self, x: Tensor, p: Params, residual: Tensor) -> Tensor:
        return dense.feed_forward(self._dense, x, p, residual)

    def group_norm(self, x: Tensor, p: Params, groups: int, eps: float, silu: bool = False) -> Tensor:
        return norms.group_norm(self.recorder, x, p, groups, eps, silu)

    def layer_norm(self, x: Tensor, p: Params, eps: float = 1e-5) -> Tensor:
        return norms.layer_norm(self.recorder, x, p, eps)

    def self_lambda(self, x: Tensor, p: Params, heads: int, residual: Tensor) -> Tensor:
        return lambdas.self_lambda(self._dense, x, p, heads, residual)

    def cross_lambda(self, x: Tensor, cond: Condition, p: Params, heads: int, residual: Tensor) -> Tensor:
        return lambdas.cross_lambda(self._dense, x, cond, p, heads, residual)

    def attention(self, x: Tensor, p: Params, residual: Tensor) -> Tensor:
        return attention(self._dense, x, p, residual)

    def concat(self, a: Tensor, b: Tensor) -> Tensor:
        return assembling.concat(self.recorder, a, b)

    def repeat(self, x: Tensor, copies: int) -> Tensor:
        return assembling.repeat(self.recorder, x, copies)

    def unet_input(self, y: Tensor, mask: Tensor, masked: Tensor) -> Tensor:
        return assembling.unet_input(self.recorder, y, mask, masked)

    def guided_ddim(self, eps: Tensor, y: Tensor, coefficients: np.ndarray, guidance: float) -> tuple[Tensor, Tensor]:
        return assembling.guided_ddim(self.recorder, eps, y, coefficients, guidance)


def _key(arg: Any) -> Any:
    """What of an argument decides a plan: of timesteps their number, of arrays their bytes."""
    if isinstance(arg, Timesteps):
        return len(arg)
    if isinstance(arg, np.ndarray):
        return arg.shape, arg.dtype.str, arg.tobytes()
    if isinstance(arg, slice):
        return arg.start, arg.stop, arg.step
    return arg
