"""The ops contract on the GPU."""

from moebius.backends.webgpu.backend import WebGPU
from moebius.backends.webgpu.device import adapters

__all__ = ["WebGPU", "adapters"]
