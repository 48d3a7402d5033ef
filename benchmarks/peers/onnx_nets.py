"""ONNX Runtime on graphs exported from the PyTorch peer: the CPU provider, and the WebGPU one, which runs through Dawn.

Tensors between the calls are NumPy's: with the WebGPU provider, latents come to the host at every step.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from peers.nets import Nets
from peers.torch_nets import Method, UNetToExport, modules

from moebius.errors import AdapterError, MoebiusError
from moebius.weights.checkpoint import Weights

CPU, WEBGPU = "CPUExecutionProvider", "WebGpuExecutionProvider"
FILES = ("unet", "encode", "decode")


def export(weights: Weights, folder: Path) -> None:
    """The three graphs, once: a guided UNet call of one picture, the encoder, the decoder."""
    if (folder / f"{FILES[-1]}.onnx").exists():
        return
    net, coder = modules(weights)
    cfg, s = weights.unet_config, weights.unet_config.sample_size
    size = s * weights.vae_config.factor
    graphs: list[tuple[str, torch.nn.Module, dict[str, torch.Tensor]]] = [
        (
            "unet",
            UNetToExport(net),
            {
                "x": torch.zeros(2, cfg.in_channels, s, s),
                "t": torch.zeros(2),
                "ids": torch.zeros(2, cfg.num_embeddings // 2, dtype=torch.long),
            },
        ),
        ("encode", Method(coder, "encode"), {"x": torch.zeros(1, weights.vae_config.in_channels, size, size)}),
        ("decode", Method(coder, "decode"), {"x": torch.zeros(1, weights.vae_config.latent_channels, s, s)}),
    ]
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # that torchvision is not installed
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        for name, module, inputs in graphs:
            torch.onnx.export(
                module.eval(), tuple(inputs.values()), folder / f"{name}.onnx", input_names=list(inputs), dynamo=True, verbose=False
            )


def nets(folder: Path, provider: str, threads: int) -> Nets:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    onnxruntime.set_default_logger_severity(3)
    if provider not in onnxruntime.get_available_providers():
        raise MoebiusError(f"this onnxruntime has no {provider}; pip install onnxruntime-webgpu")
    sessions = {}
    with contextlib.redirect_stdout(io.StringIO()):  # it prints why it goes on without a provider
        for name in FILES:
            sessions[name] = onnxruntime.InferenceSession(str(folder / f"{name}.onnx"), options, providers=[provider])
    for session in sessions.values():
        session.disable_fallback()
        if session.get_providers()[0] != provider:
            raise AdapterError(f"{provider} finds no adapter that it can use")

    def call(name: str, **inputs: np.ndarray) -> Any:
        return sessions[name].run(None, inputs)[0]

    def unet(x: np.ndarray, t: int, ids: np.ndarray) -> Any:
        return call("unet", x=x, t=np.full(x.shape[0], t, np.float32), ids=ids.astype(np.int64))

    return Nets(
        unet,
        lambda x: call("encode", x=x),
        lambda x: call("decode", x=x),
        lambda array: array,
        lambda array: array,
        lambda arrays, axis: np.concatenate(arrays, axis, dtype=np.float32),
    )
