"""Moebius image inpainting on WebGPU: hand-written WGSL, every tensor checked against NumPy."""

__version__ = "0.1.0"
