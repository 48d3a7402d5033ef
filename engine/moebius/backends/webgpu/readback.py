"""What is on its way from the GPU to the host: copied on the GPU's own timeline, waited for when it is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from moebius.backends.webgpu import native
from moebius.backends.webgpu.device import Device, guard
from moebius.backends.webgpu.tensor import Buffer
from moebius.errors import MoebiusError


class Readback:
    """The first bytes of some buffers as they are at one point of the queue. What is queued behind neither changes them nor is waited for.

    The memory that they are copied to comes from the device's own store, and goes back there when they are read or forgotten.
    """

    def __init__(self, device: Device, sources: Sequence[tuple[Buffer, int]]) -> None:
        self._memory: Any = None
        self._device, self._sources = device, list(sources)
        self._sizes, self._label = [nbytes for _, nbytes in sources], ", ".join(buffer.label for buffer, _ in sources)
        self._memory = device.take_memory(sum(self._sizes))
        self._submitted: Any = None
        self._parts: list[np.ndarray] | None = None

    def submit(self, encoder: Any) -> None:
        """Submits what was encoded, and the copies behind it."""
        at = 0
        for buffer, nbytes in self._sources:
            encoder.copy_buffer_to_buffer(buffer.handle, 0, self._memory, at, nbytes)
            at += nbytes
        self._submitted = native.submit(self._device.module, self._device.device.queue, [encoder.finish()])
        self._sources = []  # whoever keeps the numbers keeps no buffer

    def read(self) -> list[np.ndarray]:
        """Of every buffer its bytes. The caller has the turn."""
        if self._parts is None:
            with guard(self._device.name, f"reading {self._label}"):
                native.wait(self._device.module, self._device.device, self._submitted)
                memory, self._memory = self._memory, None  # nobody else's, should what follows fail: it may be mapped then
                if memory is None:
                    raise MoebiusError(f"{self._label} could not be read before, and is gone.")
                data = np.frombuffer(native.read(self._device.device, memory, self._submitted), np.uint8)
                self._parts = np.split(data, np.cumsum(self._sizes)[:-1])
                self._device.return_memory(len(data), memory)
        return self._parts

    def __del__(self) -> None:
        if self._memory is not None:
            self._device.return_memory(sum(self._sizes), self._memory)
