"""What ops record into: their dispatches, the buffers of their tensors, and their packed parameters."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from moebius.backends.webgpu import pack, wgsl
from moebius.backends.webgpu.caps import Caps
from moebius.backends.webgpu.deferred import is_parted
from moebius.backends.webgpu.device import Device
from moebius.backends.webgpu.dispatch import Dispatch
from moebius.backends.webgpu.pack import up4
from moebius.backends.webgpu.plan import Plan, Recording, check
from moebius.backends.webgpu.tensor import NUMPY, Binding, Buffer, BufferKind, DType, Tensor, itemsize
from moebius.errors import LimitError, MoebiusError
from moebius.model.contract import Precision
from moebius.model.params import Finite, Params

BINDING_LIMIT = "max-storage-buffer-binding-size"


def ceil(a: int, b: int) -> int:
    return -(-a // b)


class Recorder:
    """Dispatches go into the recording that is open: a plan's, or, eagerly, one that runs when a result is read (`flush`).

    `caps` decide what is recorded and what is refused; they are the device's own, or those of the machine a plan is meant for.
    """

    folds = True  # whether a layer's weights may be made part of the next one's, for this kind of plan alone

    def __init__(self, device: Device, caps: Caps) -> None:
        self.device, self.caps = device, caps
        self.eager = False
        self._recording: Recording | None = None

    @contextmanager
    def open(self, eager: bool) -> Iterator[Recording]:
        """Within, ops record into the recording that this gives."""
        if self._recording is not None:
            raise MoebiusError(
                "This WebGPU is recording already: a model cannot be called within another, or within `with webgpu.eager():`."
            )
        self._recording, self.eager = Recording(self.device), eager
        try:
            yield self._recording
        finally:
            self._recording, self.eager = None, False

    @property
    def recording(self) -> Recording:
        if self._recording is None:
            raise MoebiusError("Ops of WebGPU are recorded: call the model itself, or use `with webgpu.eager():`.")
        return self._recording

    def flush(self) -> None:
        """Runs what was recorded so far, when eager."""
        recording = self.recording
        if recording.prologue or recording.steps:
            self._run(recording)
            recording.prologue.clear()
            recording.steps.clear()

    def _run(self, recording: Recording) -> None:
        plan = Plan(recording, [], [], share=False)
        plan.start()
        plan.replay()

    # buffers -----------------------------------------------------------------------------------------------------
    def buffer(self, nbytes: int, label: str, kind: BufferKind, fill: Callable[[], np.ndarray] | None = None) -> Buffer:
        return Buffer(self.device, nbytes, label, kind, fill)

    def new(self, shape: Sequence[int], label: str, kind: BufferKind = "intermediate", dtype: DType = "f32") -> Tensor:
        """A tensor of its own."""
        b, h, w, c = shape
        return Tensor(self.buffer(itemsize(dtype) * b * h * w * up4(c), label, kind), (b, h, w, c), dtype)

    def handed_on(self, shape: Sequence[int], label: str) -> Tensor:
        """What one kernel hands to the next within a block, in the precision that is recorded.

        Halves end at 65504, and what is beyond is an infinity that has to reach the end of the network, where a run is tested. So these are
        what a norm gives, and what goes from one kernel of an op into a product of the next, where an infinity stays one or becomes a NaN.
        All else is float32, or quads (`dense.INNER`): what is added up over layers (the residual stream) or positions (statistics), time
        tables, latents, and what a softmax is made of: to its exponential -∞ is a sound number, whose result is nothing. docs/kernels.md
        has the list.
        """
        return self.new(shape, label, dtype=self.caps.precision)

    def constant(
        self, p: Params, name: str, shape: Sequence[int], fill: Callable[[Params], np.ndarray], *key: Any, dtype: Precision = "f32"
    ) -> Binding:
        """A packed parameter, made once for a checkpoint. `shape` is the packed one; `fill` makes it of the parameters when it is uploaded,
        and a NaN or an infinity in one of those, or in what they become, is refused then."""
        packed: dict[tuple[Any, ...], Buffer] = p.root.derived.setdefault(self, {})
        at = (p.path, name, *key)
        if at not in packed:
            nbytes = itemsize(dtype) * int(np.prod(shape))
            packed[at] = self.buffer(nbytes, f"{p.path}.{name}", "weight", lambda: pack.packed(fill, p, name, NUMPY[dtype]))
        return Binding(name, "read", packed[at], tuple(shape), dtype=dtype)

    def weight(self, p: Params, name: str, shape: Sequence[int], fill: Callable[[Params], np.ndarray], *key: Any) -> Binding:
        """A constant that products are made with, in the precision that is recorded."""
        return self.constant(p, name, shape, fill, *key, dtype=self.caps.precision)

    def layer(
        self, p: Params, name: str, shape: tuple[int, int], fill: Callable[..., tuple[np.ndarray, ...]], norm: Params | None, *args: Any
    ) -> tuple[Binding, Binding]:
        """Weight, of this packed shape, and bias of a layer, of `fill(p, *args, norm)`: with the layer norm in them that it is behind.

        The norm's mean is multiplied by what a column of weights adds up to, which is nothing, and stays so when they become halves."""
        key = () if norm is None else (norm.path,)

        def make(which: int) -> Callable[[Params], np.ndarray]:
            return lambda p: fill(p, *args, None if norm is None else Finite(norm.root, norm.path))[which]

        def weight(p: Params) -> np.ndarray:
            w = make(0)(p)
            return w if norm is None or self.caps.precision == "f32" else pack.balanced(w)

        return self.weight(p, name, shape, weight, *key), self.constant(p, f"{name} bias", shape[1:], make(1), *key)

    def vector(self, p: Params, name: str) -> Binding:
        n = p[name].shape[0]
        return self.constant(p, name, (up4(n),), lambda p: pack.vector(p[name]))

    # dispatches --------------------------------------------------------------------------------------------------
    def dispatch(
        self,
        op: str,
        path: str,
        shader: str,
        grid: int | tuple[int, int, int],
        bound: Mapping[str, Tensor | Binding | None],
        params: dict[str, int | float],
        constants: Mapping[str, int | bool | str] | None = None,
        *,
        entry: str = "main",
        iterations: int = 0,
        flops: int = 0,
        prologue: bool = False,
        chosen: str = "",
    ) -> None:
        """One call of a kernel. `grid` is a number of threads, for kernels whose grid is flat, or of workgroups along x, y and z."""
        given = dict(constants or {})
        frozen: wgsl.Constants = tuple(sorted(given.items()))
        kernel = wgsl.kernel(shader, entry, frozen)
        if isinstance(grid, int):
            grid = self.flat(grid, kernel.threads)
        slots = wgsl.interface(shader, frozen, entry).slots
        bindings = [self._bind(slot, bound[slot.name]) for slot in slots if slot.access != "uniform"]
        for name, how in wgsl.FORMATS.items():
            if held := " ".join(b.name for b in bindings if b.dtype == how.dtype):
                given[name] = held
        frozen = tuple(sorted(given.items()))
        workgroup = kernel.workgroup, kernel.workgroup_bytes
        d = Dispatch(op, path, shader, entry, frozen, grid, bindings, params, *workgroup, iterations, int(flops), chosen)
        check(d, self.caps)
        (self.recording.prologue if prologue else self.recording.steps).append(d)

    def _bind(self, slot: wgsl.Slot, what: Tensor | Binding | None) -> Binding:
        assert what is not None, f"{slot.name} is used and not given."
        if isinstance(what, Tensor):
            return Binding(slot.name, slot.access, what.buffer, what.shape, 0, what.nbytes, what.dtype)
        return Binding(slot.name, slot.access, what.buffer, what.shape, what.offset, what.nbytes or what.buffer.nbytes, what.dtype)

    def flat(self, items: int, per_group: int) -> tuple[int, int, int]:
        """The grid of a kernel whose workgroups are numbered by `flat_index`, folded to stay below the groups a dimension may have."""
        groups, most = ceil(items, per_group), self.caps.limits["max-compute-workgroups-per-dimension"]
        x = min(groups, most)
        return x, ceil(groups, x), 1

    # tensors above the binding limit -----------------------------------------------------------------------------
    def fits(self, *tensors: Tensor) -> bool:
        """Whether each can be bound whole."""
        return all(t.nbytes <= self.caps.limits[BINDING_LIMIT] and not is_parted(t) for t in tensors)

    @property
    def alignment(self) -> int:
        """What the numbers before a window are a multiple of: for tensors of all types the same, as a kernel has one origin for them."""
        return self.caps.storage_alignment // itemsize(self.caps.precision)

    def window(self, name: str, access: str, t: Tensor, begin: int, end: int) -> tuple[Binding, int]:
        """The numbers [begin, end) of a tensor as a binding, and how many numbers lie before it."""
        if is_parted(t):
            each = t.parts[0].rows * t.pitch
            before = begin // each * each
            assert end <= before + each, f"{t} is bound across its parts."
            binding, origin = self.window(name, access, t.parts[begin // each], begin - before, end - before)
            return binding, origin + before
        size, origin = itemsize(t.dtype), begin // self.alignment * self.alignment
        return Binding(name, access, t.buffer, t.shape, size * origin, min(t.nbytes, size * end) - size * origin, t.dtype), origin

    def pieces(self, begin: int, end: int, step: int, count: int, *tensors: Tensor) -> Iterator[tuple[int, int]]:
        """[begin, end), of the `count` units that the tensors have, in pieces of at most `step` units that lie within a part of each."""
        each = self.of_a_part(count, *tensors)
        while begin < end:
            to = min(begin + step, begin // each * each + each, end)
            yield begin, to
            begin = to

    def of_a_part(self, count: int, *tensors: Tensor) -> int:
        """How many of the `count` units that the tensors have lie within a part of each."""
        return count // max((len(t.parts) for t in tensors if is_parted(t)), default=1)

    def bands(self, what: str, rows: int, *floats_per_row: float, overhead: int = 0, multiple: int = 1) -> int:
        """How many of `rows` fit the binding limit, given what every tensor needs a row (and `overhead` once), in floats."""
        limit = self.caps.limits[BINDING_LIMIT]
        room = limit // 4 - self.alignment - overhead
        fit = int(room // max(floats_per_row)) // multiple * multiple
        if fit < 1:
            raise LimitError(
                f"{what}: {multiple} row{'s' * (multiple > 1)} of {4 * max(floats_per_row):,.0f} bytes and the alignment do not fit "
                f"the {limit:,} a binding may have on {self.caps.name}. Use a smaller image, or another adapter."
            )
        return min(rows, fit)
