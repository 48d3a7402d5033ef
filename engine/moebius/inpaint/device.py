"""Which backend computes: the best GPU, a named adapter, or the CPU device. A GPU is checked once (`verdicts`), and its kernels are tried
once (`tuning`)."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from moebius.backends import hardware
from moebius.errors import AdapterError, UsageError
from moebius.model.contract import Ops

if TYPE_CHECKING:
    from moebius.backends.webgpu import WebGPU


def open_device(device: str = "auto", *, require_gpu: bool = False, precision: str = "f32", threads: int | None = None) -> Ops:
    """The ops of a device.

    "auto" takes the best hardware GPU (discrete before integrated), else the CPU device; a software driver only when it is
    named, because NumPy is many times faster. "cpu" is the CPU device; anything else names an adapter (`moebius adapters`).
    `threads` are the CPU device's: as many as there are cores for this process, unless given.

    A GPU that computes wrong is not used. Chosen by "auto" it gives way to the CPU device, and a warning says so. Named, it is an error:
    who names an adapter wants that one, and neither another device in its place nor a wrong picture.
    """
    if precision != "f32":
        raise UsageError(f"precision is {precision!r}; only 'f32' is there so far.")
    if device == "cpu":
        if require_gpu:
            raise UsageError("A GPU is required, and the device asked for is cpu; drop one of the two.")
        return _cpu(threads)
    if device == "auto":
        return _best(require_gpu, threads)
    from moebius.backends.webgpu import WebGPU

    ops = WebGPU(device)
    if require_gpu and ops.caps.is_software:
        raise AdapterError(f"A GPU is required, and {ops.name} is a software driver. `moebius adapters` lists what there is.")
    if wrong := _fault(ops):
        raise AdapterError(f"{wrong} Update its driver, or take another device (cpu always works); `moebius doctor` says more.")
    return _tuned(ops)


def preferred(listed: Sequence[Any]) -> Any | None:
    """The one of these adapters that "auto" takes: the best hardware GPU. None where there is none, and the CPU device computes."""
    from moebius.backends.webgpu.device import rank

    return min((a for a in listed if a.info["adapter_type"] != "CPU"), key=rank, default=None)


def _best(require_gpu: bool, threads: int | None) -> Ops:
    if not require_gpu and not hardware.possible():
        return _cpu(threads)
    from moebius.backends.webgpu import WebGPU, adapters

    try:
        listed = list(adapters())
    except AdapterError:  # wgpu cannot even load (no loader library); the CPU device still works
        listed = []
    if preferred(listed) is not None:
        ops = WebGPU()
        wrong = _fault(ops)
        if not wrong:
            return _tuned(ops)
        if require_gpu:
            raise AdapterError(f"A GPU is required. {wrong} Update its driver, or drop --require-gpu; `moebius doctor` says more.")
        # Without a handler of the user's, the line goes to standard error as it is.
        logging.getLogger("moebius").warning("%s The CPU device is used instead; `moebius doctor` says more.", wrong)
        return _cpu(threads)
    if require_gpu:
        summaries = "; ".join(a.summary for a in listed) or "none"
        raise AdapterError(
            f"A GPU is required, and there is no hardware adapter (found: {summaries}). Install its Vulkan driver, or drop --require-gpu."
        )
    return _cpu(threads)


def _fault(ops: WebGPU) -> str:
    """A sentence, or nothing where the adapter computes right."""
    from moebius.inpaint import verdicts

    wrong = verdicts.fault(ops)
    return f"{ops.name} does not compute right: {wrong.rstrip('.')}." if wrong else ""


def _tuned(ops: WebGPU) -> WebGPU:
    from moebius.inpaint import tuning

    tuning.prepare(ops)
    return ops


def _cpu(threads: int | None) -> Ops:
    from moebius.backends.cpu import CPU

    return CPU(threads=threads)
