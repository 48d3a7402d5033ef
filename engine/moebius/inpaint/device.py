"""Which backend computes: the best GPU, a named adapter, or the CPU device."""

from __future__ import annotations

from typing import Any

from moebius.errors import AdapterError, UsageError


def open_device(device: str = "auto", *, require_gpu: bool = False, precision: str = "f32") -> Any:
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
    from moebius.backends.webgpu import WebGPU, adapters

    if device != "auto":
        ops = WebGPU(device)
        if require_gpu and ops.caps.is_software:
            raise AdapterError(f"A GPU is required, and {ops.name} is a software driver. `moebius adapters` lists what there is.")
        return ops
    found = _adapters_or_none(adapters)
    if any(a.info["adapter_type"] != "CPU" for a in found):
        return WebGPU()
    if require_gpu:
        there = "; ".join(a.summary for a in found) or "none"
        raise AdapterError(
            f"A GPU is required, and there is no hardware adapter (found: {there}). Install its Vulkan driver, or drop --require-gpu."
        )
    return _cpu()


def describe(ops: Any) -> str:
    """One line for people: what computes."""
    return (
        ops.gpu.name if hasattr(ops, "gpu") else f"CPU (NumPy {ops.dtype}, {ops.threads} threads)" if hasattr(ops, "threads") else repr(ops)
    )


def _cpu() -> Any:
    from moebius.backends.cpu import CPU

    return CPU()


def _adapters_or_none(adapters: Any) -> list[Any]:
    """Where wgpu cannot even load (no loader library), the CPU device still works."""
    try:
        return list(adapters())
    except AdapterError:
        return []
