"""The ops contract on the GPU."""

from moebius.backends.webgpu.device import adapters
from moebius.backends.webgpu.ops import WebGPU

__all__ = ["WebGPU", "adapters"]
