"""The PyTorch peer of the benchmarks is itself held to the goldens: a peer that computes something else is no peer. Its graphs, too."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from goldens import CONFIGS, IDS, load, noise, relative, sample, weights

torch = pytest.importorskip("torch", reason="the PyTorch peer needs torch (the `bench` extra)")
sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

# Measured: UNet 2.5e-6, moments 1.2e-6, image 1.5e-6. The same arithmetic in another order: float64 is as far from the goldens.
TOLERANCE = 1e-5


def same(array: np.ndarray, want: np.ndarray, name: str) -> float:
    """Goldens hold a tensor whole, or a sample of it where it is large."""
    return relative(array if array.shape == want.shape else sample(array, name, want.size), want)


@torch.inference_mode()
def test_nano_unet_agrees_with_the_published_output() -> None:
    from peers import torch_moebius as peer

    name = "unet_nano_seed0_t500"
    net = peer.TorchUNet(CONFIGS["unet_nano"])
    peer.load(net, weights("unet_nano"))
    got = net(torch.from_numpy(noise(f"{name}.latent", (2, 9, 16, 16))), 500, torch.from_numpy(IDS)).numpy()
    error = same(got, load(name)["output"], "output")
    assert error <= TOLERANCE, f"{error:.1e}"


@torch.inference_mode()
def test_nano_vae_agrees_with_the_published_outputs() -> None:
    from peers import torch_moebius as peer

    golden = load("vae_nano_128")
    net = peer.TorchVAE(CONFIGS["vae_nano"])
    peer.load(net, weights("vae_nano"))
    x = np.clip(noise("vae_nano_128.image", (1, 3, 128, 128)), -1, 1)
    moments = net.encode(torch.from_numpy(x)).numpy()
    image = net.decode(torch.from_numpy(noise("vae_nano_128.latent", (1, 4, 16, 16)))).numpy()
    errors = {"moments": same(moments, golden["moments"], "moments"), "image": same(image, golden["image"], "image")}
    assert max(errors.values()) <= TOLERANCE, errors


def test_weights_that_do_not_fit_are_refused() -> None:
    from peers import torch_moebius as peer

    some = dict(list(weights("vae_nano").items())[:-1])
    with pytest.raises(RuntimeError, match="Missing key"):
        peer.load(peer.TorchVAE(CONFIGS["vae_nano"]), some)


def test_a_graph_is_captured_once_for_the_shapes_of_its_inputs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without CUDA: what is captured runs at once, and again at every replay."""
    from peers.torch_nets import Graphs

    class Stream:
        def wait_stream(self, other: Any) -> None:
            """There is one."""

    class Graph:
        def replay(self) -> None:
            call(*graphs.captured[shape][1], into=graphs.captured[shape][2])

    calls: list[int] = []

    def call(a: Any, b: Any, into: Any = None) -> Any:
        calls.append(len(a))
        return torch.add(a, b, out=into)

    @contextmanager
    def within(_: Any) -> Iterator[None]:
        yield

    for name, fake in {"Stream": Stream, "current_stream": Stream, "CUDAGraph": Graph, "stream": within, "graph": within}.items():
        monkeypatch.setattr(torch.cuda, name, fake)
    graphs = Graphs(call)
    for size in (3, 3, 5):
        a = torch.arange(float(size))
        shape = (a.shape, a.shape)
        first = graphs(a, a)
        second = graphs(a, 2 * a)
        assert torch.equal(first, 2 * a)
        assert torch.equal(second, 3 * a)
    assert calls.count(3) == 3 + 1 + 4
    assert len(graphs.captured) == 2
