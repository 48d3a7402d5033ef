"""Lock-step validation: the model runs once, every op on two implementations from the same inputs, and is compared.

The GPU's own tensors are the inputs of both, so an error is that op's own and never one that came down the network.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from moebius.backends.reference import Reference
from moebius.backends.webgpu import WebGPU
from moebius.backends.webgpu.tensor import Tensor
from moebius.check import halves, parts
from moebius.check.bounds import WORST, is_rounding
from moebius.check.specs import bound, listed
from moebius.check.standin import StandIn
from moebius.errors import UsageError
from moebius.model import unet, vae
from moebius.model.contract import Condition
from moebius.model.params import Params
from moebius.model.synthetic import rng, synthetic
from moebius.model.unet import UNet, UNetConfig
from moebius.model.vae import VAE, VAEConfig
from moebius.weights.bundle import read_bundle
from moebius.weights.nano import packaged_nano


@dataclass(frozen=True)
class Row:
    """One output of one call of one op: how far it is from the oracle's, and `limit`, what its precision explains, of a single value
    `worst` limits of the root mean square."""

    op: str
    path: str
    shape: tuple[int, ...]
    max_abs: float
    relative_l2: float
    limit: float
    rms: float
    worst: float = WORST

    @property
    def ok(self) -> bool:
        return is_rounding(self.relative_l2, self.max_abs, self.rms, self.limit, self.worst)


class LockStep(StandIn):
    """The ops of `gpu`, each of them checked against the oracle before the model goes on."""

    def __init__(self, gpu: WebGPU, report: Callable[[Row], None]) -> None:
        super().__init__(gpu)
        self.gpu, self.report, self.oracle = gpu, report, Reference(np.float64)

    def condition(self, ids: np.ndarray, p: Params) -> Condition:
        return self.oracle.condition(ids, p)

    def called(self, op: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        out = super().called(op, args, kwargs)
        args64, kwargs64 = tuple(map(self._host, args)), {k: self._host(v) for k, v in kwargs.items()}
        expected = getattr(self.oracle, op)(*args64, **kwargs64)
        limit, more = bound(op, args64, kwargs64), [halves.Lost(0.0)] * len(listed(expected))
        if self.gpu.caps.precision == "f16":
            more = halves.lost(op, args64, kwargs64, listed(expected))
        path = next((a.path for a in args if isinstance(a, Params)), op)
        for got, want, half in zip(listed(out), listed(expected), more, strict=True):
            if isinstance(got, Tensor) and got.dtype == "quad":
                half = halves.in_quads(half, want)
            difference = np.abs(self._host(got) - want.reshape(got.shape))
            norm = float(np.linalg.norm(want)) or 1.0
            error = float(np.linalg.norm(difference)) / norm
            rms = norm / np.sqrt(difference.size)
            self.report(Row(op, path, got.shape, float(difference.max()), error, limit + half.relative_l2, rms, half.worst))
        return out

    def _host(self, value: Any) -> Any:
        """A tensor in float64; anything else as it is."""
        return self.ops.read(value).astype(np.float64) if isinstance(value, Tensor) else value


LARGEST_IMAGE = 4096  # a side


def networks(config: str) -> tuple[UNetConfig, Mapping[str, np.ndarray], VAEConfig, Mapping[str, np.ndarray]]:
    """Configurations and weights of the UNet and the VAE: nano's own, and synthetic ones of seed 0 for the others."""
    if config == "nano":
        weights = read_bundle(packaged_nano())
        return weights.unet_config, weights.unet, weights.vae_config, weights.vae
    unet_config, vae_config = configs(config)
    return unet_config, synthetic(unet.shapes(unet_config), 0), vae_config, synthetic(vae.shapes(vae_config), 0)


def configs(config: str) -> tuple[UNetConfig, VAEConfig]:
    if config == "nano":
        weights = read_bundle(packaged_nano())
        return weights.unet_config, weights.vae_config
    return (UNetConfig.full(), VAEConfig.full()) if config == "full" else (UNetConfig.tiny(), VAEConfig.tiny())


def check_image_size(size: int | None) -> None:
    factor = VAEConfig.full().factor  # every VAE of the family has it
    if size is not None and not (0 < size <= LARGEST_IMAGE and size % factor == 0):
        raise UsageError(f"The image size is {size}; it must be a multiple of {factor} from {factor} to {LARGEST_IMAGE}.")


def validate(gpu: WebGPU, config: str, image_size: int | None, report: Callable[[Row], None]) -> None:
    """UNet, one guided sampling step, VAE both ways, of the config "tiny", "nano" or "full"."""
    check_image_size(image_size)
    unet_config, unet_weights, vae_config, vae_weights = networks(config)
    ops = LockStep(gpu, report)
    denoiser = parts.guided(UNet(unet_config, unet_weights, ops))
    s = unet_config.sample_size
    shape = 1, unet_config.out_channels, s, s
    noise = {name: rng(0, f"validate.{name}").standard_normal(shape, dtype=np.float32) for name in ("y", "masked")}
    mask = (rng(0, "validate.mask").random((1, 1, s, s)) < 0.3).astype(np.float32)
    next(denoiser.steps(noise["y"], mask, noise["masked"]))  # from the second step on the ops are the same
    del denoiser
    coder = VAE(vae_config, vae_weights, ops)
    size = image_size or s * vae_config.factor
    coder.encode(np.clip(rng(0, "validate.image").standard_normal((1, 3, size, size), dtype=np.float32), -1, 1))
    latent = size // vae_config.factor
    coder.decode(rng(0, "validate.latent").standard_normal((1, vae_config.latent_channels, latent, latent), dtype=np.float32))


def as_dict(row: Row) -> dict[str, Any]:
    return asdict(row) | {"shape": list(row.shape), "ok": row.ok}
