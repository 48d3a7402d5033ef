"""WebGPU with its guards up: what an op reads, leaves unwritten or writes beside its tensors shows.

Fresh buffers read as zero and stray writes vanish, so on a bare backend an indexing bug looks like a small number. Here every
buffer is poisoned before an op and ends in a guard band, and every binding that reaches the end of its tensor is stretched over
that band: a stray write lands there, a stray read finds a NaN.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import pytest

from moebius.backends.webgpu import WebGPU, native
from moebius.backends.webgpu.caps import Caps, Kind, Matrix
from moebius.backends.webgpu.choice import FEW, SINGLE_ROWS, Choose, choose
from moebius.backends.webgpu.device import Device
from moebius.backends.webgpu.dispatch import Dispatch
from moebius.backends.webgpu.menu import CPU, Gemm
from moebius.backends.webgpu.plan import Plan, Recording
from moebius.backends.webgpu.recorder import Recorder
from moebius.backends.webgpu.tensor import Buffer, BufferKind, DType, Tensor, numbers
from moebius.model.contract import Precision

GUARD = 4096  # bytes
POISON = 0x7FDE  # the upper half of a quiet NaN no arithmetic makes; the lower tells buffers apart, for NaNs travel through sums


def always(row: Gemm) -> Choose:
    """One row wherever it can be, and there are more than a handful of rows."""
    return lambda caps, call: SINGLE_ROWS if call.rows <= FEW else row if row.supports(call) else CPU


class GuardedDevice(Device):
    """The device and the pipelines of another Device, and buffers that are poisoned and end in a guard band."""

    def __init__(self, device: Device) -> None:
        self.__dict__.update(device.__dict__)
        self.poisons: WeakKeyDictionary[Any, int] = WeakKeyDictionary()
        self._made = 0

    def create_buffer(self, nbytes: int, label: str) -> Any:
        handle = super().create_buffer(nbytes + GUARD, label)
        self._made += 1
        self.poisons[handle] = POISON << 16 | self._made % 65536
        self.device.queue.write_buffer(handle, 0, np.full((nbytes + GUARD) // 4, self.poisons[handle], np.uint32))
        return handle


class GuardedRecorder(Recorder):
    """Runs what was recorded with every buffer watched."""

    device: GuardedDevice

    def __init__(self, device: Device, caps: Caps) -> None:
        super().__init__(device, caps)
        self.fold: int | None = None
        self.dispatches: list[Dispatch] = []
        self._made: list[Tensor] = []

    def new(self, shape: Sequence[int], label: str, kind: BufferKind = "intermediate", dtype: DType = "f32") -> Tensor:
        self._made.append(super().new(shape, label, kind, dtype))
        return self._made[-1]

    def flat(self, items: int, per_group: int) -> tuple[int, int, int]:
        caps = self.caps
        if self.fold:
            self.caps = replace(caps, limits={**caps.limits, "max-compute-workgroups-per-dimension": self.fold})
        try:
            return super().flat(items, per_group)
        finally:
            self.caps = caps

    def _run(self, recording: Recording) -> None:
        plan = Plan(recording, [], [], share=False)
        self.dispatches = plan.dispatches
        buffers = {id(b.buffer): b.buffer for d in self.dispatches for b in d.bindings}
        written = {id(b.buffer) for d in self.dispatches for b in d.outputs}
        moving = (recording.state, recording.flags)
        fixed = [b for key, b in buffers.items() if (b.kind != "intermediate" or key not in written) and b not in moving]
        for buffer in fixed:
            buffer.allocate()
        before = [self._words(b) for b in fixed]
        for b in (b for d in self.dispatches for b in d.bindings):
            if b.offset + b.nbytes == b.buffer.nbytes:
                b.nbytes += GUARD
        plan.start()
        plan.replay()
        for buffer, words in zip(fixed, before, strict=True):
            assert np.array_equal(self._words(buffer), words), f"{buffer.label} is an input and was changed."
        for buffer in buffers.values():
            strayed = self._words(buffer)[buffer.nbytes // 4 :] != self.device.poisons[buffer.handle]
            assert not strayed.any(), f"{buffer.label} was written {first(strayed)} words past its end."
        for tensor in self._made:
            if id(tensor.buffer) in written:
                self._inspect(tensor)
        self._made.clear()

    def _inspect(self, tensor: Tensor) -> None:
        words = self._words(tensor.buffer)[: tensor.nbytes // 4]
        poisoned = words >> 16 == POISON
        if tensor.dtype == "quad":  # where one word of two may be so by chance
            poisoned = np.repeat(poisoned[::2] & poisoned[1::2], 2)
        assert not poisoned.any(), f"{tensor} has poison in word {first(poisoned)}: not written, or made of what lies behind a tensor."
        padding = numbers(words, tensor.dtype).reshape(tensor.rows, tensor.pitch)[:, tensor.shape[3] :]
        assert not padding.any(), f"{tensor} has {padding[padding != 0][0]} in its padding, row {first(padding.any(axis=1))}."

    def _words(self, buffer: Buffer) -> np.ndarray:
        return buffer.read(buffer.nbytes + GUARD, np.uint32)


class Guarded(WebGPU):
    """`webgpu` as kernel tests use it, eagerly: `with guarded.eager(): t = guarded.tensor(nchw); guarded.read(guarded.op(t, …))`.

    `row` is for every dense layer of more than a handful of rows, `limits` replaces limits of the adapter by smaller ones, `fold`
    is the width at which flat grids fold (and theirs alone: a GEMM's grid is none), `kind` that of the adapter which is
    recorded for, `matrix` its units.
    `dispatches` are those of the last op read.
    """

    recorder: GuardedRecorder

    def __init__(
        self,
        webgpu: WebGPU,
        row: Gemm | None = None,
        fold: int | None = None,
        kind: Kind | None = None,
        recorder: type[GuardedRecorder] = GuardedRecorder,
        precision: Precision | None = None,
        matrix: Matrix | None = None,
        **limits: int,
    ) -> None:
        smaller = {name.replace("_", "-"): value for name, value in limits.items()}
        caps = replace(
            webgpu.caps, kind=kind or webgpu.caps.kind, limits={**webgpu.caps.limits, **smaller}, matrix=matrix or webgpu.caps.matrix
        )
        super().__init__(GuardedDevice(webgpu.gpu), caps, always(row) if row else choose, recorder=recorder, precision=precision)
        self.recorder.fold = fold

    @property
    def dispatches(self) -> list[Dispatch]:
        return self.recorder.dispatches

    @property
    def halves(self) -> bool:
        """Whether any of them reads or writes some."""
        return any(b.dtype == "f16" for d in self.dispatches for b in d.bindings)


def in_mode(gpu: WebGPU, checked: bool, monkeypatch: pytest.MonkeyPatch) -> WebGPU:
    """The same adapter with bounds checks or without them, whichever the tests run in."""
    own = gpu.gpu
    if own.implementation == "dawn":  # whose devices have or have not them as a whole
        monkeypatch.setenv(native.CHECKED, str(int(checked)))
        return WebGPU("dawn:SwiftShader")
    return WebGPU(Device(own.implementation, own.module, own.device, own.info, replace(gpu.caps, checked=checked)))


def first(wrong: np.ndarray) -> int:
    return int(np.argmax(wrong.reshape(-1)))
