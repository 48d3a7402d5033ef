"""The contract with WGSL kernels: each op records its dispatches; weights are packed and folded on first use.

Formulas are in `moebius.ops`, layouts in the shaders, packing in `pack`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from moebius.errors import LimitError, MoebiusError, NonFiniteError
from moebius.ops import POSITION_WINDOW, Step, StepState, Tap, Timesteps
from moebius.reference import Reference, time_sinusoid, to_nchw
from moebius.webgpu import pack
from moebius.webgpu.gpu import Buffer, Gpu
from moebius.webgpu.kernel import Constants, interface
from moebius.webgpu.pack import WINDOW_PITCH, up4
from moebius.webgpu.plan import Binding, Dispatch, Plan, Recording, Tensor, check, read, write
from moebius.weights import Checkpoint, Params

PLANS_PER_MODEL = 4
SIZE = 64  # invocations of a flat workgroup
GROUP_NORM_CHUNK = 4096  # elements a workgroup of group_stats reduces, at least
GROUP_NORM_CHUNKS = 256  # chunks of a group, at most
LAMBDA_CHUNKS = 64


def ceil(a: int, b: int) -> int:
    return -(-a // b)


@dataclass
class Condition:
    """The condition tokens, on the host: what depends on them alone is made once, in float64, and becomes constants."""

    ids: np.ndarray
    root: Params
    _value: np.ndarray | None = None

    def value(self) -> np.ndarray:
        if self._value is None:
            self._value = Reference(np.float64).condition(self.ids, self.root)
        return self._value

    @property
    def key(self) -> bytes:
        return self.ids.astype(np.int64).tobytes()


@dataclass(frozen=True)
class Tile:
    """How gemm.wgsl divides its output. Threads own TM rows × 4·TN4 columns."""

    entry: str
    tm: int
    tn4: int
    wgx: int
    wgy: int

    def constants(self) -> dict[str, int]:
        out = {"TM": self.tm, "TN4": self.tn4, "WGX": self.wgx, "WGY": self.wgy, "ACC": self.tm * self.tn4}
        if self.entry == "tiled":
            threads = self.wgx * self.wgy
            out |= {"LOAD_A": self.wgy * self.tm * 4 // threads, "LOAD_W": 16 * self.wgx * self.tn4 // threads}
        return out

    @property
    def workgroup_bytes(self) -> int:
        return 16 * (self.wgy * self.tm * 5 + 16 * self.wgx * self.tn4) if self.entry == "tiled" else 0


SINGLE_ROWS = Tile("direct", 1, 1, 16, 4)  # a handful of rows: time tables
CPU_TILE = Tile("direct", 4, 1, 8, 8)  # SwiftShader takes half a minute to compile 8×2, and runs it no faster
GPU_TILE = Tile("tiled", 8, 2, 8, 16)  # 128×64
GPU_TILE_SMALL = Tile("tiled", 4, 2, 8, 16)  # 64×64: the 16² level has 512 rows, which must make enough workgroups


class WebGPU:
    """`WebGPU()` is the best adapter; `WebGPU("llvmpipe")` the best whose summary holds those words; `WebGPU("dawn:SwiftShader")`
    goes through Dawn. `limits="webgpu"` keeps to WebGPU's default limits on any adapter."""

    def __init__(self, adapter: str | int | None = None, *, limits: str = "adapter", tile: Tile | None = None) -> None:
        self.gpu = Gpu(adapter, limits=limits)
        self._tile = tile
        self._packed: WeakKeyDictionary[Checkpoint, dict[tuple[Any, ...], Buffer]] = WeakKeyDictionary()
        self._plans: WeakKeyDictionary[Any, dict[Any, Plan]] = WeakKeyDictionary()
        self._none = Buffer(self.gpu, 256, "unused", "pinned")
        self._recording: Recording | None = None
        self._eager = False
        self._tap: Tap | None = None

    def __repr__(self) -> str:
        return f"WebGPU({self.gpu.name})"

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
        rec, latents = plan.recording, plan.inputs[0]
        assert rec.sinusoid is not None
        assert rec.flags is not None
        table = time_sinusoid(timesteps, rec.sinusoid.shape[3])
        plan.upload(nhwc)
        plan.start(table)
        for i, t in enumerate(timesteps):
            plan.replay(i)
            yield StepState(i, t, lambda: to_nchw(read(latents)), lambda: to_nchw(read(plan.outputs[1])))
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
        packed = self._packed.setdefault(p.root, {})
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

    def _bands(self, what: str, rows: int, *floats_per_row: float, overhead: int = 0) -> int:
        """How many of `rows` fit the binding limit, given what every tensor needs a row (and `overhead` floats once)."""
        room = self.gpu.limits["max-storage-buffer-binding-size"] // 4 - 64 - overhead
        fit = int(room // max(floats_per_row))
        if fit < 1:
            raise LimitError(
                f"{what}: one row of {4 * max(floats_per_row):,.0f} bytes is above the {4 * room:,} a binding may have on {self.gpu.name}. "
                "Use a smaller image, or another adapter."
            )
        return min(rows, fit)

    def _fits(self, *tensors: Tensor) -> bool:
        return all(t.nbytes <= self.gpu.limits["max-storage-buffer-binding-size"] for t in tensors)

    def _tile_for(self, m: int, n: int) -> Tile:
        if m <= 4:
            return SINGLE_ROWS
        if self._tile is not None:
            return self._tile
        if self.gpu.is_cpu:
            return CPU_TILE
        return GPU_TILE if m * n >= 2**21 else GPU_TILE_SMALL

    def _gemm(
        self,
        op: str,
        p_path: str,
        a: Tensor,
        w: Binding,
        out: Tensor,
        *,
        k: int,
        n: int,
        bias: Binding | None = None,
        mode: str = "ROWS",
        act: str | None = None,
        shift: Tensor | None = None,
        residuals: Sequence[Tensor] = (),
        stride: int = 1,
        pad: int = 0,
        rows: int | None = None,
        k4: int | None = None,
        ldb4: int | None = None,
        w_offset: int = 0,
        split: int = 1,
        outer: int | None = None,
        inner: int = 0,
        a_offset: int = 0,
        out_row: int = 0,
        prologue: bool = False,
    ) -> None:
        """Everything dense; see gemm.wgsl. `k`, `n` are the true sizes, for counting; `rows` are those of the iteration grid."""
        kernel_size = {"ROWS": 1, "TAPS": 3, "PHASE": 2}[mode]
        images, height, width, _ = a.shape
        out_height, out_width = (height, width) if mode == "PHASE" else out.shape[1:3]
        rows = (images * height * width if mode == "PHASE" else out.rows) if rows is None else rows
        tile = self._tile_for(rows, n)
        n4, k4 = up4(n) // 4, up4(k) // 4 if k4 is None else k4
        constants: dict[str, int | bool | str] = {
            "MODE": {"ROWS": 0, "TAPS": 1, "PHASE": 2}[mode],
            "KERNEL": kernel_size,
            "ACT": {None: 0, "silu": 1}[act],
            "BIAS": bias is not None,
            "SHIFT": shift is not None,
            "RESIDUALS": len(residuals),
            **tile.constants(),
        }
        phases = 4 if mode == "PHASE" else 1
        common: dict[str, int | float] = {
            "n4": n4,
            "k4": k4,
            "ldb4": n4 if ldb4 is None else ldb4,
            "w_offset": w_offset,
            "split": split,
            "outer": a.pitch // 4 if outer is None else outer,
            "inner": inner,
            "a_offset": a_offset,
            "height": height,
            "width": width,
            "out_height": out_height,
            "out_width": out_width,
            "stride": stride,
            "pad": pad,
        }
        first, second = (*residuals, None, None)[:2]

        def emit(row0: int, row1: int, a_span: tuple[int, int] | None, out_span: tuple[int, int] | None) -> None:
            bound: dict[str, Tensor | Binding | None] = {
                "a": a,
                "w": w,
                "bias": bias,
                "shift": shift,
                "first": first,
                "second": second,
                "out": out,
            }
            bound["state"] = Binding("state", "read", self.recording.state, (1,)) if shift is not None else None
            a_origin = out_origin = 0
            if a_span is not None and out_span is not None:
                bound["a"], a_origin = self._window("a", "read", a, *a_span)
                bound["out"], out_origin = self._window("out", "read_write", out, *out_span)
                for name, residual in (("first", first), ("second", second)):
                    if residual is not None:
                        bound[name], _ = self._window(name, "read", residual, *out_span)
            grid = (ceil(n4, tile.wgx * tile.tn4), ceil(row1 - row0, tile.wgy * tile.tm), phases)
            # Rows that land further down are a negative origin: u32 arithmetic wraps.
            origins = {"a_origin": a_origin // 4, "out_origin": (out_origin // 4 - out_row * n4) % 2**32}
            params: dict[str, int | float] = {"row0": row0, "rows": row1, **common, **origins}
            flops = 2 * (row1 - row0) * n * k * kernel_size**2 * phases
            loops = kernel_size**2 * (1 + (k4 if tile.entry == "direct" else ceil(k4, 4)))
            self._dispatch(
                op,
                p_path,
                "gemm",
                grid,
                bound,
                params,
                constants,
                entry=tile.entry,
                workgroup=(tile.wgx, tile.wgy),
                workgroup_bytes=tile.workgroup_bytes,
                iterations=loops,
                flops=flops,
                prologue=prologue,
            )

        if self._fits(a, out):
            emit(0, rows, None, None)
        elif mode == "ROWS":
            step = self._bands(p_path, rows, a.pitch, out.pitch)
            for r in range(0, rows, step):
                end = min(r + step, rows)
                emit(r, end, (r * a.pitch, end * a.pitch), (r * out.pitch, end * out.pitch))
        else:
            scale = 2 if mode == "PHASE" else 1  # output rows per row of the iteration grid
            in_line, out_line = width * a.pitch, out.shape[2] * out.pitch
            step = self._bands(p_path, out_height, stride * in_line, scale * out_line, overhead=3 * in_line)
            for image in range(images):
                for y in range(0, out_height, step):
                    y1 = min(y + step, out_height)
                    top, bottom = max(y * stride - 1, 0), min((y1 - 1) * stride + 3, height)
                    a_span = ((image * height + top) * in_line, (image * height + bottom) * in_line)
                    out_span = ((image * out.shape[1] + scale * y) * out_line, (image * out.shape[1] + scale * y1) * out_line)
                    emit((image * out_height + y) * out_width, (image * out_height + y1) * out_width, a_span, out_span)

    # time and condition ------------------------------------------------------------------------------------------
    def time_embedding(self, t: Timesteps, p: Params) -> Tensor:
        width = p["time_embedding.linear_1.weight"].shape[1]
        table = self._new((1, 1, len(t), width), "sinusoid", "pinned")
        self.recording.sinusoid = table
        if self._eager:
            write(table, time_sinusoid(t, width)[None, None])
        h = self._table(table, p.at("time_embedding.linear_1"), "time_embedding", "silu")
        return self._table(h, p.at("time_embedding.linear_2"), "time_embedding", "silu")

    def time_shift(self, temb: Tensor, p: Params) -> Tensor:
        return self._table(temb, p, "time_shift", None)

    def _table(self, x: Tensor, p: Params, op: str, act: str | None) -> Tensor:
        n, k = p["weight"].shape
        out = self._new((1, 1, x.shape[2], n), f"{p.path} table")
        w = self._constant(p, "weight", (up4(k), up4(n)), lambda: pack.gemm(p["weight"]))
        self._gemm(op, p.path, x, w, out, k=k, n=n, bias=self._vector(p, "bias"), act=act, prologue=True)
        return out

    def condition(self, ids: np.ndarray, p: Params) -> Condition:
        return Condition(ids, p)

    # convolutions ------------------------------------------------------------------------------------------------
    def linear(self, x: Tensor, p: Params, residual: Tensor | None = None) -> Tensor:
        n, k = p["weight"].shape[:2]
        out = self._new((*x.shape[:3], n), p.path)
        w = self._constant(p, "weight", (up4(k), up4(n)), lambda: pack.gemm(pack.matrix(p)))
        bias = self._vector(p, "bias") if p.get("bias") is not None else None
        self._gemm("linear", p.path, x, w, out, k=k, n=n, bias=bias, residuals=[residual] if residual else [])
        return out

    def conv3x3(self, x: Tensor, p: Params, stride: int = 1, pad: int = 1, residual: Tensor | None = None) -> Tensor:
        n, k = p["weight"].shape[:2]
        b, h, w, _ = x.shape
        out = self._new((b, ceil(h, stride), ceil(w, stride), n), p.path)
        weight = self._constant(p, "weight", (9, up4(k), up4(n)), lambda: pack.taps(p["weight"]))
        bias, residuals = self._vector(p, "bias"), [residual] if residual else []
        self._gemm("conv3x3", p.path, x, weight, out, k=k, n=n, bias=bias, mode="TAPS", stride=stride, pad=pad, residuals=residuals)
        return out

    def upsample_conv3x3(self, x: Tensor, p: Params) -> Tensor:
        n, k = p["weight"].shape[:2]
        b, h, w, _ = x.shape
        out = self._new((b, 2 * h, 2 * w, n), p.path)
        weight = self._constant(p, "phases", (4, 4, up4(k), up4(n)), lambda: pack.phases(p["weight"]))
        self._gemm("upsample_conv3x3", p.path, x, weight, out, k=k, n=n, bias=self._vector(p, "bias"), mode="PHASE")
        return out

    def dwconv(self, x: Tensor, p: Params, shift: Tensor | None = None, residual: Tensor | None = None) -> Tensor:
        n, k = p["conv_pw.weight"].shape[:2]
        w = self._constant(p, "depthwise", (9, up4(k)), lambda: pack.depthwise(p)[0])
        bias = self._constant(p, "depthwise bias", (up4(k),), lambda: pack.depthwise(p)[1])
        h = self._new(x.shape, f"{p.path}.conv_dw")
        self._depthwise("dwconv", p.path, x, w, bias, h, gated=False)
        out = self._new((*x.shape[:3], n), p.path)
        w = self._constant(p, "pointwise", (up4(k), up4(n)), lambda: pack.pointwise(p)[0])
        bias = self._constant(p, "pointwise bias", (up4(n),), lambda: pack.pointwise(p)[1])
        residuals = [t for t in (x if n == x.shape[3] else None, residual) if t is not None]
        self._gemm("dwconv", p.path, h, w, out, k=k, n=n, bias=bias, shift=shift, residuals=residuals)
        return out

    def _depthwise(self, op: str, path: str, x: Tensor, w: Binding, bias: Binding, out: Tensor, gated: bool) -> None:
        b, height, width, c = out.shape
        run = 4
        self._dispatch(
            op,
            path,
            "depthwise",
            self._flat(b * height * ceil(width, run) * (up4(c) // 4)),
            {"x": x, "w": w, "bias": bias, "out": out},
            {"images": b, "height": height, "width": width, "c4": up4(c) // 4},
            {"RELU": not gated, "GATED": gated},
            iterations=6,
            flops=18 * x.rows * x.shape[3],
        )

    def feed_forward(self, x: Tensor, p: Params, residual: Tensor) -> Tensor:
        inverted, depth, point = (p.at(f"{name}_conv.conv") for name in ("inverted", "depth", "point"))
        c, hid = point["weight"].shape[:2]
        hid4 = up4(hid)
        # Both halves are padded by themselves, so that value and gate of a channel are one distance apart.
        h = self._new((*x.shape[:3], 2 * hid4), inverted.path)
        w = self._constant(inverted, "weight", (up4(c), 2 * hid4), lambda: pack.gemm(pack.halves(pack.matrix(inverted))))
        bias = self._constant(inverted, "bias", (2 * hid4,), lambda: pack.f32(pack.halves(inverted["bias"])))
        self._gemm("feed_forward", inverted.path, x, w, h, k=c, n=2 * hid4, bias=bias, act="silu")
        g = self._new((*x.shape[:3], hid), depth.path)
        w = self._constant(depth, "weight", (9, 2 * hid4), lambda: pack.f32(pack.halves(depth["weight"].reshape(-1, 9)).T))
        bias = self._constant(depth, "bias", (2 * hid4,), lambda: pack.f32(pack.halves(depth["bias"])))
        self._depthwise("feed_forward", depth.path, h, w, bias, g, gated=True)
        out = self._new((*x.shape[:3], c), p.path)
        w = self._constant(point, "weight", (hid4, up4(c)), lambda: pack.gemm(pack.matrix(point)))
        self._gemm("feed_forward", point.path, g, w, out, k=hid, n=c, residuals=[residual])
        return out

    # norms -------------------------------------------------------------------------------------------------------
    def group_norm(self, x: Tensor, p: Params, groups: int, eps: float, silu: bool = False) -> Tensor:
        b, h, w, c = x.shape
        positions, per_group = h * w, c // groups
        chunks = max(1, min(GROUP_NORM_CHUNKS, positions * per_group // GROUP_NORM_CHUNK, positions))
        chunk = ceil(positions, chunks)
        chunks = ceil(positions, chunk)
        parts = Tensor(Buffer(self.gpu, 8 * b * chunks * groups, f"{p.path} parts", "intermediate"), (1, 1, 1, 2 * b * chunks * groups))
        stats = self._new((1, 1, 2 * b, c), f"{p.path} stats")
        sizes: dict[str, int | float] = {"positions": positions, "pitch": x.pitch, "channels": per_group, "groups": groups, "chunk": chunk}

        def partial(image0: int, images: int, chunk0: int, count: int, source: Tensor | Binding, origin: int) -> None:
            self._dispatch(
                "group_norm",
                p.path,
                "group_stats",
                (groups, count, images),
                {"x": source, "out": Binding("out", "read_write", parts.buffer, parts.shape)},
                {**sizes, "chunks": chunks, "image0": image0, "chunk0": chunk0, "origin": origin},
                workgroup_bytes=16 * SIZE,
                iterations=ceil(chunk * per_group, SIZE) + 8,
                flops=4 * images * min(count * chunk, positions) * c,
            )

        if self._fits(x):
            partial(0, b, 0, chunks, x, 0)
        else:
            step = self._bands(p.path, chunks, chunk * x.pitch)
            for image in range(b):
                for c0 in range(0, chunks, step):
                    begin, end = image * positions + c0 * chunk, image * positions + min((c0 + step) * chunk, positions)
                    window, origin = self._window("x", "read", x, begin * x.pitch, end * x.pitch)
                    partial(image, 1, c0, min(step, chunks - c0), window, origin)
        self._dispatch(
            "group_norm",
            p.path,
            "group_finish",
            self._flat(b * x.pitch),
            {"parts": Binding("parts", "read", parts.buffer, parts.shape), "weight": self._vector(p, "weight"), "out": stats},
            {"images": b, **sizes, "chunks": chunks, "eps": eps},
            iterations=2 * chunks,
        )
        out = self._new(x.shape, p.path)
        step = x.rows if self._fits(x) else self._bands(p.path, x.rows, x.pitch) // 64 * 64  # a multiple that keeps windows aligned
        for r in range(0, x.rows, step):
            end = min(r + step, x.rows)
            source, origin = self._window("x", "read", x, r * x.pitch, end * x.pitch)
            target, _ = self._window("out", "read_write", out, r * x.pitch, end * x.pitch)
            assert origin == r * x.pitch
            self._dispatch(
                "group_norm",
                p.path,
                "group_apply",
                self._flat((end - r) * x.pitch // 4),
                {"x": source, "stats": stats, "bias": self._vector(p, "bias"), "out": target},
                {"first": r * x.pitch // 4, "count": (end - r) * x.pitch // 4, "c4": x.pitch // 4, "image": positions * x.pitch // 4},
                {"SILU": silu},
                flops=(8 if silu else 3) * (end - r) * c,
            )
        return out

    def layer_norm(self, x: Tensor, p: Params, eps: float = 1e-5) -> Tensor:
        out = self._new(x.shape, p.path)
        self._dispatch(
            "layer_norm",
            p.path,
            "layer_norm",
            self._flat(x.rows, SIZE // 16),
            {"x": x, "weight": self._vector(p, "weight"), "bias": self._vector(p, "bias"), "out": out},
            {"rows": x.rows, "channels": x.shape[3], "c4": x.pitch // 4, "eps": eps},
            workgroup_bytes=4 * SIZE,
            iterations=3 * ceil(x.pitch // 4, 16) + 8,
            flops=8 * x.rows * x.shape[3],
        )
        return out

    # attention ---------------------------------------------------------------------------------------------------
    def self_lambda(self, x: Tensor, p: Params, heads: int, residual: Tensor) -> Tensor:
        b, h, w, c = x.shape
        n, k = h * w, c // heads
        k4 = up4(k)
        width = (heads + 2) * k4  # q of every head, key, value
        qkv = self._new((b, h, w, width), f"{p.path} qkv")
        weight = self._constant(p, "qkv", (up4(c), width), lambda: pack.lambda_qkv(p, heads)[0])
        bias = self._constant(p, "qkv bias", (width,), lambda: pack.lambda_qkv(p, heads)[1])
        self._gemm("self_lambda", f"{p.path}.qkv", x, weight, qkv, k=c, n=width, bias=bias)

        chunks = min(LAMBDA_CHUNKS, ceil(n, 16))
        chunk = ceil(n, chunks)
        chunks = ceil(n, chunk)
        sums = self._new((b, chunks, k4, k4), f"{p.path} sums")
        stats = self._new((b, chunks, 2, k4), f"{p.path} stats")
        self._dispatch(
            "self_lambda",
            f"{p.path}.content",
            "lambda_content",
            self._flat(b * chunks * (k4 // 4) ** 2),
            {"qkv": qkv, "sums": sums, "stats": stats},
            {
                "images": b,
                "positions": n,
                "pitch": width // 4,
                "key": heads * k4 // 4,
                "k4": k4 // 4,
                "v4": k4 // 4,
                "chunk": chunk,
                "chunks": chunks,
            },
            iterations=2 * chunk,
            flops=2 * b * n * k * k,
        )
        content = self._new((b, 1, k4, k4), f"{p.path} lambda")
        pos_bias = self._constant(p, "pos_conv bias", (k4,), lambda: pack.vector(p["pos_conv.bias"]))
        self._dispatch(
            "self_lambda",
            f"{p.path}.combine",
            "lambda_combine",
            self._flat(b * k4 * k4 // 4),
            {"sums": sums, "stats": stats, "bias": pos_bias, "out": content},
            {"images": b, "k": k4, "v4": k4 // 4, "chunks": chunks},
            iterations=2 * chunks,
            flops=2 * b * chunks * k * k,
        )
        window = POSITION_WINDOW * WINDOW_PITCH
        logits = self._new((b, n, heads, window), f"{p.path} logits")
        filters = self._constant(p, "pos_conv", (k4, window), lambda: pack.position_filters(p))
        self._gemm("self_lambda", f"{p.path}.logits", qkv, filters, logits, k=k, n=window, split=heads, outer=width // 4, inner=k4 // 4)
        out = self._new(x.shape, p.path)
        self._dispatch(
            "self_lambda",
            f"{p.path}.apply",
            "lambda_apply",
            self._flat(b * n * k4 // 4),
            {"qkv": qkv, "lambda": content, "logits": logits, "residual": residual, "out": out},
            {"images": b, "height": h, "width": w, "qkv_pitch": width // 4, "k4": k4 // 4, "v4": k4 // 4, "v_dim": k, "pitch": out.pitch},
            {"HEADS": heads},
            iterations=POSITION_WINDOW * 5 + k4 // 4 + heads * 4,
            flops=2 * b * n * c * (window + k),
        )
        return out

    def cross_lambda(self, x: Tensor, cond: Condition, p: Params, heads: int, residual: Tensor) -> Tensor:
        b, h, w, c = x.shape
        n, k, tokens = h * w, c // heads, cond.ids.shape[1]
        k4 = up4(k)
        q = self._new((b, h, w, heads * k4), f"{p.path} q")
        weight = self._constant(p, "q", (up4(c), heads * k4), lambda: pack.lambda_query(p, heads)[0])
        bias = self._constant(p, "q bias", (heads * k4,), lambda: pack.lambda_query(p, heads)[1])
        self._gemm("cross_lambda", f"{p.path}.q", x, weight, q, k=c, n=heads * k4, bias=bias)

        def constants(which: int) -> np.ndarray:
            return pack.vector(Reference(np.float64).condition_keys_values(cond.value(), p)[which])

        table = self._constant(p, "rel_pos_emb", (n, tokens, k4), lambda: pack.position_table(p))
        out = self._new(x.shape, p.path)
        self._dispatch(
            "cross_lambda",
            f"{p.path}.apply",
            "cross_lambda",
            self._flat(b * n * heads),
            {
                "q": q,
                "table": table,
                "keys": self._constant(p, "keys", (b, tokens, k4), lambda: constants(0), cond.key),
                "values": self._constant(p, "values", (b, tokens, k4), lambda: constants(1), cond.key),
                "residual": residual,
                "out": out,
            },
            {"images": b, "positions": n, "q_pitch": q.pitch // 4, "k4": k4 // 4, "v4": k4 // 4, "v_dim": k, "pitch": out.pitch},
            {"HEADS": heads, "TOKENS": tokens},
            iterations=6 * (k4 // 4) + 4,
            flops=4 * b * n * tokens * c,
        )
        return out

    def attention(self, x: Tensor, p: Params, residual: Tensor) -> Tensor:
        b, h, w, c = x.shape
        n, c4 = h * w, up4(c)
        qkv = self._new((b, h, w, 3 * c4), f"{p.path} qkv")
        weight = self._constant(p, "qkv", (c4, 3 * c4), lambda: pack.attention_qkv(p)[0])
        bias = self._constant(p, "qkv bias", (3 * c4,), lambda: pack.attention_qkv(p)[1])
        self._gemm("attention", f"{p.path}.qkv", x, weight, qkv, k=c, n=3 * c4, bias=bias)
        mixed = self._new(x.shape, f"{p.path} mixed")
        band = self._bands(p.path, n, up4(n))  # queries whose scores fit one binding
        for image in range(b):
            keys = self._new((1, 1, c, n), f"{p.path} keys")
            rows = Tensor(qkv.buffer, (1, 1, b * n, 3 * c4))  # the same memory as one matrix
            self._dispatch(
                "attention",
                f"{p.path}.keys",
                "transpose",
                self._flat(c * keys.pitch),
                {"x": rows, "out": keys},
                {"rows": n, "columns": c, "pitch": 3 * c4, "offset": image * n * 3 * c4 + c4, "out_pitch": keys.pitch},
            )
            for q0 in range(0, n, band):
                count = min(band, n - q0)
                scores = self._new((1, 1, count, n), f"{p.path} scores")
                keys_bound = Binding("w", "read", keys.buffer, keys.shape)
                begin = image * n + q0
                at_query = begin * (3 * c4 // 4)
                self._gemm("attention", f"{p.path}.scores", rows, keys_bound, scores, k=c, n=n, rows=count, a_offset=at_query)
                weights = self._new((1, 1, count, n), f"{p.path} weights")
                self._dispatch(
                    "attention",
                    f"{p.path}.softmax",
                    "softmax",
                    self._flat(count, 1),
                    {"x": scores, "out": weights},
                    {"rows": count, "n": n, "n4": scores.pitch // 4},
                    workgroup_bytes=4 * SIZE,
                    iterations=3 * ceil(scores.pitch // 4, SIZE) + 16,
                    flops=6 * count * n,
                )
                values = Binding("w", "read", qkv.buffer, qkv.shape)
                at = image * n * (3 * c4 // 4) + 2 * c4 // 4
                self._gemm(
                    "attention",
                    f"{p.path}.values",
                    weights,
                    values,
                    mixed,
                    k=n,
                    n=c,
                    rows=count,
                    ldb4=3 * c4 // 4,
                    w_offset=at,
                    out_row=begin,
                )
        return self.linear(mixed, p.at("to_out.0"), residual=residual)

    # assembling --------------------------------------------------------------------------------------------------
    def concat(self, a: Tensor, b: Tensor) -> Tensor:
        out = self._new((*a.shape[:3], a.shape[3] + b.shape[3]), "concat")
        unit = 4 if a.shape[3] % 4 == 0 and b.shape[3] % 4 == 0 else 1
        sizes = {"a": a.shape[3], "b": b.shape[3], "a_pitch": a.pitch, "b_pitch": b.pitch, "pitch": out.pitch}
        self._dispatch(
            "concat",
            "concat",
            "concat",
            self._flat(out.rows * out.pitch // unit),
            {"a": a, "b": b, "out": out},
            {"rows": out.rows, **{k: v // unit for k, v in sizes.items()}},
            {"UNIT": "vec4<f32>" if unit == 4 else "f32"},
        )
        return out

    def unet_input(self, y: Tensor, mask: Tensor, masked: Tensor, copies: int) -> Tensor:
        b, h, w, _ = y.shape
        parts = {"y": y, "mask": mask, "masked": masked}
        out = self._new((copies * b, h, w, sum(t.shape[3] for t in parts.values())), "unet input")
        channels: dict[str, int | float] = {k: t.shape[3] for k, t in parts.items()}
        pitches: dict[str, int | float] = {f"{k}_pitch": t.pitch for k, t in parts.items()}
        self._dispatch(
            "unet_input",
            "unet_input",
            "unet_input",
            self._flat(out.rows * out.pitch),
            {**parts, "out": out},
            {"rows": y.rows, "copies": copies, **channels, **pitches, "pitch": out.pitch},
        )
        return out

    def guided_ddim(self, eps: Tensor, y: Tensor, coefficients: np.ndarray, guidance: float) -> tuple[Tensor, Tensor]:
        rec, steps = self.recording, len(coefficients)
        table = Buffer(self.gpu, 16 * steps, "coefficients", "weight", lambda: pack.f32(coefficients))
        rec.flags = Buffer(self.gpu, 4 * steps, "finite flags", "pinned", lambda: np.zeros(steps, np.uint32))
        following, x0 = self._new(y.shape, "next latents"), self._new(y.shape, "estimate")
        count = y.nbytes // 16
        self._dispatch(
            "guided_ddim",
            "guided_ddim",
            "guided_ddim",
            self._flat(count),
            {
                "eps": eps,
                "y": y,
                "coefficients": Binding("coefficients", "read", table, (steps, 4)),
                "state": Binding("state", "read", rec.state, (1,)),
                "next": following,
                "x0": x0,
                "flags": Binding("flags", "read_write", rec.flags, (steps,)),
            },
            {"count": count, "guidance": guidance},
            {"GUIDED": eps.shape[0] != y.shape[0]},
            flops=9 * y.rows * y.shape[3],
        )
        return following, x0


def _key(arg: Any) -> Any:
    """What of an argument decides a plan: of timesteps their number, of arrays their bytes."""
    if isinstance(arg, Timesteps):
        return len(arg)
    if isinstance(arg, np.ndarray):
        return arg.shape, arg.dtype.str, arg.tobytes()
    if isinstance(arg, slice):
        return arg.start, arg.stop, arg.step
    return arg
