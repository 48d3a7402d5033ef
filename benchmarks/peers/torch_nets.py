"""PyTorch, eager, compiled or as CUDA graphs, on the CPU or on CUDA: float32 throughout unless TF32 or f16 (autocast) is asked for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from peers.nets import Nets
from peers.torch_moebius import TorchUNet, TorchVAE, load
from torch import Tensor

from moebius.weights.checkpoint import Weights


def modules(weights: Weights, device: str = "cpu", tf32: bool = False) -> tuple[TorchUNet, TorchVAE]:
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = tf32
    net, coder = TorchUNet(weights.unet_config), TorchVAE(weights.vae_config)
    load(net, weights.unet)
    load(coder, weights.vae)
    return net.to(device), coder.to(device)


HOW: dict[str, Callable[[Any], Any]] = {"eager": lambda call: call, "compiled": torch.compile, "graph": lambda call: Graphs(call)}


def nets(weights: Weights, device: str, how: str, precision: str = "f32") -> Nets:
    net, coder = modules(weights, device, tf32=precision != "f32")
    calls = net.diff_model, coder.encode, coder.decode
    if precision == "f16":
        calls = tuple(half(call, device) for call in calls)  # type: ignore[assignment]
    model, encode, decode = map(HOW[how], calls)

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
        torch.cuda.synchronize if device == "cuda" else lambda: None,
    )


def half(call: Callable[..., Tensor], device: str) -> Callable[..., Tensor]:
    """With the products in f16, as autocast has them."""

    def run(*tensors: Tensor) -> Tensor:
        with torch.autocast(device, dtype=torch.float16):
            return call(*tensors).float()

    return run


class Graphs:
    """A function of tensors on CUDA, captured once for the shapes of its inputs and replayed: the host's part is one call."""

    def __init__(self, call: Callable[..., Tensor]) -> None:
        self.call = call
        self.captured: dict[tuple[torch.Size, ...], tuple[Any, list[Tensor], Tensor]] = {}

    def __call__(self, *tensors: Tensor) -> Tensor:
        key = tuple(t.shape for t in tensors)
        if key not in self.captured:
            self.captured[key] = self._capture(tensors)
        graph, inputs, output = self.captured[key]
        for own, given in zip(inputs, tensors, strict=True):
            own.copy_(given)
        graph.replay()
        return output.clone()

    def _capture(self, tensors: tuple[Tensor, ...]) -> tuple[Any, list[Tensor], Tensor]:
        inputs, aside = [t.clone() for t in tensors], torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):  # libraries choose their kernels and take their memory now
            for _ in range(3):
                self.call(*inputs)
        torch.cuda.current_stream().wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            output = self.call(*inputs)
        return graph, inputs, output


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
