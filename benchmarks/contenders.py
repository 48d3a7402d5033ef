"""Who takes part in bench_model: our backends, and what a user would pick instead. Who cannot says why, and is left out by name."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from moebius import Inpainter
from moebius.backends.cpu import CPU
from moebius.backends.webgpu import WebGPU, adapters
from moebius.backends.webgpu.device import choose
from moebius.errors import MoebiusError
from moebius.inpaint import tuning
from moebius.model.contract import Precision
from moebius.model.unet import UNet
from moebius.model.vae import VAE
from moebius.weights import store

OURS = "moebius WebGPU"
NUMPY = "moebius CPU"  # every other one's outputs are compared with its
F32 = 2e-5  # relative L2 of an encoding, a UNet call, a decoding
SHORT = 1e-2  # of those whose products have eleven bits: tens of roundings of 2^-11, one after the other


class LeftOutError(MoebiusError):
    """Why a contender does not take part."""


@dataclass(frozen=True)
class Setting:
    """Weights are read from the file by everyone; `folder` keeps what a peer makes of them."""

    weights: Path
    folder: Path
    adapter: str | None
    cores: int
    small: bool
    only: tuple[str, ...]
    precision: Precision = "f32"  # ours on the GPU
    matrix_units: bool = False


@dataclass
class Contender:
    name: str
    make: Callable[[Setting], Inpainter]
    beforehand: Callable[[Setting], None] = lambda _: None  # not a part of loading
    tolerance: float = F32
    inpainter: Inpainter = field(init=False)
    figures: dict[str, Any] = field(default_factory=dict)


def ours(ops: Any, setting: Setting) -> Inpainter:
    if isinstance(ops, WebGPU):
        tuning.apply(ops)
    weights = store.load(setting.weights)
    return Inpainter(UNet(weights.unet_config, weights.unet, ops), VAE(weights.vae_config, weights.vae, ops))


def needs(module: str, package: str) -> None:
    if importlib.util.find_spec(module) is None:
        raise LeftOutError(f"{package} is not installed (pip install '.[bench]')")


def torch_peer(device: str, how: str, precision: str = "f32") -> Callable[[Setting], Inpainter]:
    """`how`: eager, compiled, or graph; `precision`: f32, TF32 or f16 (autocast)."""

    def make(setting: Setting) -> Inpainter:
        from peers.nets import inpainter
        from peers.torch_nets import nets

        weights = store.load(setting.weights)
        return inpainter(f"PyTorch on {device}", nets(weights, device, how, precision), weights.unet_config, weights.vae_config)

    return make


def torch_ready(name: str, device: str, how: str) -> Callable[[Setting], None]:
    def check(setting: Setting) -> None:
        needs("torch", "torch")
        import torch

        torch.set_num_threads(setting.cores)
        if device == "cuda" and not torch.cuda.is_available():
            raise LeftOutError("PyTorch finds no CUDA device")
        if how == "compiled" and setting.small and name not in setting.only:
            raise LeftOutError("compiling takes minutes, which --small has not; name it with --only")

    return check


def onnx_ready(setting: Setting) -> None:
    for module, package in (("torch", "torch"), ("onnx", "onnx"), ("onnxscript", "onnxscript"), ("onnxruntime", "onnxruntime-webgpu")):
        needs(module, package)
    from peers.onnx_nets import export

    export(store.load(setting.weights), setting.folder)


def onnx_peer(provider: str) -> Callable[[Setting], Inpainter]:
    def make(setting: Setting) -> Inpainter:
        from peers import onnx_nets
        from peers.nets import inpainter

        weights = store.load(setting.weights)
        made = onnx_nets.nets(setting.folder, onnx_nets.WEBGPU if provider == "webgpu" else onnx_nets.CPU, setting.cores)
        return inpainter(f"ONNX Runtime on {provider}", made, weights.unet_config, weights.vae_config)

    return make


def contenders(precision: Precision = "f32") -> list[Contender]:
    f32 = [("CPU", "eager"), ("CPU", "compiled"), ("CUDA", "eager"), ("CUDA", "compiled"), ("CUDA", "graph")]
    torches = [(f"PyTorch {device} {how}", device, how, "f32", F32) for device, how in f32]
    torches += [(f"PyTorch CUDA {short} {how}", "CUDA", how, short, SHORT) for short in ("TF32", "f16") for how in ("eager", "graph")]
    return [
        Contender(
            OURS,
            lambda s: ours(WebGPU(s.adapter, precision=s.precision, matrix_units=s.matrix_units), s),
            tolerance=F32 if precision == "f32" else SHORT,
        ),
        Contender(NUMPY, lambda s: ours(CPU(threads=s.cores), s)),
        *(
            Contender(name, torch_peer(device.lower(), how, precision), torch_ready(name, device.lower(), how), tolerance)
            for name, device, how, precision, tolerance in torches
        ),
        Contender("ONNX Runtime CPU", onnx_peer("cpu"), onnx_ready),
        # Its exponentials and divisions are the adapter's: SwiftShader's alone are 4e-5 off.
        Contender("ONNX Runtime WebGPU", onnx_peer("webgpu"), onnx_ready, tolerance=2e-4),
    ]


def dawn_adapter() -> str:
    """The adapter that Dawn, and so ONNX Runtime, takes here; asked of wgpudawn, for ONNX Runtime does not say."""
    try:
        found = [a for a in adapters("dawn") if a.info["backend_type"] != "Null"]
        return str(choose(None, "dawn", found).info["device"])
    except MoebiusError:
        return "not known (pip install wgpudawn to see it)"
