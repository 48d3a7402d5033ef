"""Moebius image inpainting on WebGPU: hand-written WGSL, every tensor checked against NumPy."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from moebius import errors, sample
    from moebius.backends.cpu import CPU
    from moebius.backends.reference import Reference
    from moebius.backends.webgpu import WebGPU, adapters
    from moebius.inpaint.inpainter import Inpainter
    from moebius.many.batch import batch
    from moebius.model import unet, vae
    from moebius.model.synthetic import synthetic
    from moebius.model.unet import UNet, UNetConfig
    from moebius.model.vae import VAE, VAEConfig

__version__ = "0.1.0"
__all__ = [
    "CPU",
    "VAE",
    "Inpainter",
    "Reference",
    "UNet",
    "UNetConfig",
    "VAEConfig",
    "WebGPU",
    "__version__",
    "adapters",
    "batch",
    "errors",
    "sample",
    "synthetic",
    "unet",
    "vae",
]

# Where each public name lives. It is imported when it is first asked for: `import moebius` starts no driver and loads no network.
_HOMES = {
    "CPU": "moebius.backends.cpu",
    "Inpainter": "moebius.inpaint.inpainter",
    "Reference": "moebius.backends.reference",
    "UNet": "moebius.model.unet",
    "UNetConfig": "moebius.model.unet",
    "VAE": "moebius.model.vae",
    "VAEConfig": "moebius.model.vae",
    "WebGPU": "moebius.backends.webgpu",
    "adapters": "moebius.backends.webgpu",
    "batch": "moebius.many.batch",
    "errors": "moebius",
    "sample": "moebius",
    "synthetic": "moebius.model.synthetic",
    "unet": "moebius.model",
    "vae": "moebius.model",
}


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'moebius' has no attribute {name!r}")
    if name in ("errors", "sample", "unet", "vae"):  # modules themselves
        return import_module(f"{home}.{name}")
    return getattr(import_module(home), name)


def __dir__() -> list[str]:
    return sorted(__all__)
