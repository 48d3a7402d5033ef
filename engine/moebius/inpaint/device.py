"""Which backend computes: the best GPU, a named adapter, or the CPU device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from moebius.errors import AdapterError, UsageError
from moebius.model.contract import Ops


def open_device(device: str = "auto", *, require_gpu: bool = False, precision: str = "f32") -> Ops:
    """The ops of a device.

    "auto" takes the best hardware GPU (discrete before integrated), else the CPU device; a software driver only when it is
    named, because NumPy is many times faster. "cpu" is the CPU device; anything else names an adapter (`moebius adapters`).
    """
    if precision != "f32":
        raise UsageError(f"precision is {precision!r}; only 'f32' is there so far.")
    if device == "cpu":
        if require_gpu:
            raise UsageError("A GPU is required, and the device asked for is cpu; drop one of the two.")
        return _cpu()
    if device == "auto":
        return _best(require_gpu)
    from moebius.backends.webgpu import WebGPU

    ops = WebGPU(device)
    if require_gpu and ops.caps.is_software:
        raise AdapterError(f"A GPU is required, and {ops.name} is a software driver. `moebius adapters` lists what there is.")
    return ops


def preferred(listed: Sequence[Any]) -> Any | None:
    """The one of these adapters that "auto" takes: the best hardware GPU. None where there is none, and the CPU device computes."""
    from moebius.backends.webgpu.device import rank

    return min((a for a in listed if a.info["adapter_type"] != "CPU"), key=rank, default=None)


def _best(require_gpu: bool) -> Ops:
    from moebius.backends.webgpu import WebGPU, adapters

    try:
        listed = list(adapters())
    except AdapterError:  # wgpu cannot even load (no loader library); the CPU device still works
        listed = []
    if preferred(listed) is not None:
        return WebGPU()
    if require_gpu:
        summaries = "; ".join(a.summary for a in listed) or "none"
        raise AdapterError(
            f"A GPU is required, and there is no hardware adapter (found: {summaries}). Install its Vulkan driver, or drop --require-gpu."
        )
    return _cpu()


def _cpu() -> Ops:
    from moebius.backends.cpu import CPU

    return CPU()
