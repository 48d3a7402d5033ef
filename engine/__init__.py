"""Moebius image inpainting on WebGPU: hand-written WGSL, every tensor checked against NumPy."""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["Inpainter", "__version__"]

if TYPE_CHECKING:
    from moebius.inpainter import Inpainter


def __getattr__(name: str) -> Any:
    """`from moebius import Inpainter` without paying for it in `import moebius.something`."""
    if name == "Inpainter":
        from moebius.inpainter import Inpainter

        return Inpainter
    raise AttributeError(f"module 'moebius' has no attribute {name!r}")
