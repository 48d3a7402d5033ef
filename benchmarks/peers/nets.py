"""A peer's networks in the place of ours: the same run round them, so that what is compared is the same picture."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from moebius.inpaint.inpainter import Inpainter
from moebius.model import unet, vae
from moebius.model.contract import Precision, Step, StepState, Tap, Timesteps
from moebius.model.params import ShapeOnly
from moebius.model.unet import UNet, UNetConfig
from moebius.model.vae import VAE, VAEConfig


@dataclass(frozen=True)
class Nets:
    """Tensors are the peer's own, NCHW, on its device; `to_host` gives NumPy's."""

    unet: Callable[[Any, int, np.ndarray], Any]  # (B, in, h, w), the timestep, (B, m) ids
    encode: Callable[[Any], Any]
    decode: Callable[[Any], Any]
    to_device: Callable[[np.ndarray], Any]
    to_host: Callable[[Any], np.ndarray]
    join: Callable[[Sequence[Any], int], Any]  # along an axis
    wait: Callable[[], None] = lambda: None  # until the device has done what it was told


class PeerOps:
    """The edges of the contract and the two ops of a sampling step. Between two steps nothing leaves the device of the peer's tensors."""

    largest_batch = 1
    precision: Precision = "f32"  # of what is given and comes back; a peer's own is in its name

    def __init__(self, nets: Nets, name: str) -> None:
        self.nets, self.name = nets, name

    def in_f32(self) -> Self:
        return self

    def run(self, forward: Callable[..., Any], arrays: Sequence[np.ndarray], *args: Any, tap: Tap | None = None) -> np.ndarray:
        return self.nets.to_host(forward(*(self._tensor(a) for a in arrays), *args))

    def run_each(self, forward: Callable[..., Any], calls: Iterable[Sequence[np.ndarray]]) -> Iterator[np.ndarray]:
        return (self.run(forward, arrays) for arrays in calls)

    def loop(self, step: Step[Any], arrays: Sequence[np.ndarray], timesteps: Timesteps) -> Iterator[StepState]:
        y, *fixed = (self._tensor(a) for a in arrays)
        to_host = self.nets.to_host
        for i, t in enumerate(timesteps):
            y, x0 = step(y, *fixed, slice(i, i + 1))
            yield StepState(i, t, lambda y=y: to_host(y), lambda x0=x0: to_host(x0))  # type: ignore[misc]
        self.nets.wait()  # the steps are timed until here

    def rehearse(self, step: Step[Any], shapes: Sequence[tuple[int, ...]]) -> None:
        """There is no limit to meet."""

    def tap(self, path: str, x: Any, layout: str = "image") -> None:
        """A peer's modules are not seen."""

    def unet_input(self, y: Any, mask: Any, masked: Any) -> Any:
        return self.nets.join([y, mask, masked], 1)

    def guided_ddim(self, eps: Any, y: Any, coefficients: np.ndarray, guidance: float) -> tuple[Any, Any]:
        root_t, noise_t, root_p, noise_p = map(float, coefficients[0])
        b = y.shape[0]
        if eps.shape[0] != b:
            eps = eps[:b] + guidance * (eps[b:] - eps[:b])
        x0 = (y - noise_t * eps) / root_t
        return root_p * x0 + noise_p * eps, x0

    def _tensor(self, array: np.ndarray) -> Any:
        return self.nets.to_device(np.ascontiguousarray(array, np.float32))


class PeerUNet(UNet):
    ops: Any

    def forward(self, x: Any, t: Timesteps, ids: np.ndarray, copies: int = 1) -> Any:
        nets = self.ops.nets
        return nets.unet(x if copies == 1 else nets.join([x] * copies, 0), t[0], ids)


class PeerVAE(VAE):
    ops: Any

    def encoder(self, x: Any) -> Any:
        return self.ops.nets.encode(x)

    def decoder(self, z: Any) -> Any:
        return self.ops.nets.decode(z)


def inpainter(name: str, nets: Nets, unet_config: UNetConfig, vae_config: VAEConfig) -> Inpainter:
    ops: Any = PeerOps(nets, name)
    return Inpainter(
        PeerUNet(unet_config, ShapeOnly(unet.shapes(unet_config)), ops), PeerVAE(vae_config, ShapeOnly(vae.shapes(vae_config)), ops)
    )
