"""Every distinct call a model makes of an op, as a case of `cases`: what a whole model asks of the kernels, in its own sizes."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import cases
import numpy as np
from cases import Case, Size

from moebius.backends.reference import Reference
from moebius.check.specs import SPECS
from moebius.check.standin import StandIn
from moebius.model import unet, vae
from moebius.model.contract import Condition, Timesteps
from moebius.model.denoise import Denoiser
from moebius.model.params import Params, ShapeOnly
from moebius.model.scheduler import DDIM
from moebius.model.unet import UNet, UNetConfig, condition_ids
from moebius.model.vae import VAE, VAEConfig


@dataclass(frozen=True)
class Call:
    """A builder of `cases` by name, and its arguments."""

    op: str
    size: Size
    arguments: tuple[tuple[str, Any], ...]

    def case(self) -> Case:
        if self.op == "time_case":
            return cases.time_case(Timesteps(range(self.size[2])), **dict(self.arguments))
        case: Case = getattr(cases, self.op)(self.size, **dict(self.arguments))
        return case

    def __str__(self) -> str:
        """`dwconv 2×64×64 k=320 n=320 residual`: an argument that is True by name alone, one that is False not at all."""
        words = [name if value is True else f"{name}={value}".replace(" ", "") for name, value in self.arguments if value is not False]
        return " ".join([self.op.removesuffix("_case"), "×".join(map(str, self.size)), *words])


class Collector(StandIn):
    """Ops that compute nothing: tensors are their shapes alone, and every call is counted."""

    def __init__(self) -> None:
        super().__init__(Reference(np.float64))
        self.calls: Counter[Call] = Counter()
        self._embedding: dict[str, Any] = {}

    def condition(self, ids: np.ndarray, p: Params) -> Condition:
        return Condition(ids, lambda: ids)

    def called(self, op: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        call = SPECS[op].sizes(*args, **kwargs)
        if op == "time_embedding":
            self._embedding = call.arguments
        elif op == "time_shift":
            self._count("time_case", call.size, {**self._embedding, "n": call.arguments["n"]})
        else:
            self._count(op, call.size, call.arguments)
        outputs = tuple(map(of_shape, call.outputs))
        return outputs if len(outputs) > 1 else outputs[0]

    def _count(self, op: str, size: Size, arguments: dict[str, Any]) -> None:
        self.calls[Call(op, size, tuple(arguments.items()))] += 1


def of_shape(shape: tuple[int, ...]) -> np.ndarray:
    """An array that takes no memory."""
    return np.broadcast_to(np.float32(0), shape)


def model_calls(unet_config: UNetConfig, vae_config: VAEConfig, steps: int = 20) -> dict[Call, dict[str, int]]:
    """Every distinct call, and how often it is made: by a guided step of one picture, the encoder, the decoder, at the start of a run."""
    counts: dict[Call, dict[str, int]] = {}
    s, latent = unet_config.sample_size, vae_config.latent_channels

    def add(plan: str, ops: Collector) -> None:
        for call, count in ops.calls.items():
            counts.setdefault(call, {})["start" if call.op == "time_case" else plan] = count

    ops = Collector()
    schedule = DDIM()
    timesteps = schedule.timesteps(steps)
    net = UNet(unet_config, ShapeOnly(unet.shapes(unet_config)), ops)
    denoiser = Denoiser(net, condition_ids(unet_config), timesteps.tolist(), schedule.coefficients(timesteps, steps), 2.5)
    denoiser.step(*(of_shape((1, s, s, n)) for n in (latent, 1, latent)), slice(None))
    add("step", ops)
    for plan, shape in (
        ("encode", (1, s * vae_config.factor, s * vae_config.factor, vae_config.in_channels)),
        ("decode", (1, s, s, latent)),
    ):
        ops = Collector()
        coder = VAE(vae_config, ShapeOnly(vae.shapes(vae_config)), ops)
        (coder.encoder if plan == "encode" else coder.decoder)(of_shape(shape))
        add(plan, ops)
    return counts
