"""The ops contract on the GPU."""

from moebius.webgpu.gpu import adapters
from moebius.webgpu.ops import WebGPU

__all__ = ["WebGPU", "adapters"]
