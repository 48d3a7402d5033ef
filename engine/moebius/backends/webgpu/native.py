"""The one module that knows wgpu's implementations and touches their private parts."""

from __future__ import annotations

import importlib
import os
from types import ModuleType
from typing import Any

from moebius.errors import AdapterError

IMPLEMENTATIONS = {"wgpu": "wgpu", "dawn": "wgpudawn"}  # wgpu-native (naga) and Dawn (Tint), the same Python API
FORKED = "does not work in the child; start that one with multiprocessing's 'spawn', or compute there on the CPU device."
_LOADED_BY: dict[str, int] = {}  # the process


def load(implementation: str) -> ModuleType:
    """The module of an implementation, imported late: importing starts its instance and reads the driver's environment."""
    if _LOADED_BY.setdefault(implementation, os.getpid()) != os.getpid():
        raise AdapterError(f"WebGPU ({implementation}) was in use before this process was forked, and {FORKED}")
    os.environ.setdefault("XDG_RUNTIME_DIR", "/tmp")  # unset, Mesa prints a line for every adapter
    try:
        return importlib.import_module(IMPLEMENTATIONS[implementation])
    except KeyError:
        raise AdapterError(f"There is no implementation {implementation!r}; choose from {', '.join(IMPLEMENTATIONS)}.") from None
    except ImportError as error:
        raise AdapterError(
            f"{IMPLEMENTATIONS[implementation]} cannot be imported ({error}); pip install {IMPLEMENTATIONS[implementation]}."
        ) from None


def timestamp_period(module: ModuleType, queue: Any) -> float:
    """Nanoseconds per tick of the queue's timestamps. Dawn already hands out nanoseconds."""
    if module.__name__ != "wgpu":
        return 1.0
    api = importlib.import_module("wgpu.backends.wgpu_native._api")
    return float(api.libf.wgpuQueueGetTimestampPeriod(queue._internal))


def drain(device: Any) -> None:
    """Lets the implementation free what was dropped: buffers go at the next submit and poll."""
    queue = device.queue
    queue.submit([])
    poll = getattr(device, "_poll_wait", None)
    if poll is not None:
        poll()


def object_counts(module: ModuleType) -> dict[str, int]:
    """Living GPU objects by kind, as the Python wrapper counts them."""
    return {k: int(v["count"]) for k, v in module.diagnostics.object_counts.get_dict().items() if "count" in v}
