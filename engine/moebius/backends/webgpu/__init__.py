"""The ops contract on the GPU."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from moebius.backends.webgpu.backend import WebGPU
    from moebius.backends.webgpu.device import adapters

__all__ = ["WebGPU", "adapters"]

_HOMES = {
    "WebGPU": "backend",
    "adapters": "device",
}  # imported when asked for: the window draws without the networks' kernels


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
