"""PyTorch, eager or compiled, on the CPU or on CUDA: float32 throughout, no TF32."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from peers.nets import Nets
from peers.torch_moebius import TorchUNet, TorchVAE, load
from torch import Tensor

from moebius.weights.checkpoint import Weights


def modules(weights: Weights, device: str = "cpu") -> tuple[TorchUNet, TorchVAE]:
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    net, coder = TorchUNet(weights.unet_config), TorchVAE(weights.vae_config)
    load(net, weights.unet)
    load(coder, weights.vae)
    return net.to(device), coder.to(device)


def nets(weights: Weights, device: str, compiled: bool) -> Nets:
    net, coder = modules(weights, device)
    model, encode, decode = net.diff_model, coder.encode, coder.decode
    if compiled:
        model, encode, decode = torch.compile(model), torch.compile(encode), torch.compile(decode)

    @torch.inference_mode()
    def unet(x: Tensor, t: int, ids: np.ndarray) -> Tensor:
        embedded = net.embedding_layer(torch.from_numpy(ids).to(device))
        return model(x, torch.full((x.shape[0],), float(t), device=device), embedded)

    return Nets(
        unet,
        torch.inference_mode()(encode),
        torch.inference_mode()(decode),
        lambda array: torch.from_numpy(array).to(device),
        lambda tensor: tensor.cpu().numpy(),
        lambda tensors, axis: torch.cat(list(tensors), dim=axis),
    )


def peak_bytes() -> int:
    """The most that tensors took on the CUDA device since the process began."""
    return int(torch.cuda.max_memory_allocated())


class UNetToExport(torch.nn.Module):
    """With the timesteps and the ids as tensors, as a graph needs them."""

    def __init__(self, net: TorchUNet) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor, t: Tensor, ids: Tensor) -> Tensor:
        return self.net.diff_model(x, t, self.net.embedding_layer(ids))


class Method(torch.nn.Module):
    """One method of a module, as a module."""

    def __init__(self, owner: torch.nn.Module, name: str) -> None:
        super().__init__()
        self.owner, self.name = owner, name

    def forward(self, x: Tensor) -> Any:
        return getattr(self.owner, self.name)(x)
