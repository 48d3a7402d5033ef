"""Every distinct call a model makes of an op, as a case of `cases`: what a whole model asks of the kernels, in its own sizes."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import cases
import numpy as np
from cases import Case, Size

from moebius.model import unet, vae
from moebius.model.contract import Condition, Timesteps
from moebius.model.denoise import Denoiser
from moebius.model.params import Params, ShapeOnly
from moebius.model.scheduler import DDIM
from moebius.model.unet import UNet, UNetConfig, condition_ids
from moebius.model.vae import VAE, VAEConfig

Shape = tuple[int, int, int, int]  # (B, H, W, C), all that a tensor is here


@dataclass(frozen=True)
class Call:
    """A builder of `cases` by name, and what it is given."""

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
        given = [name if value is True else f"{name}={value}".replace(" ", "") for name, value in self.arguments if value is not False]
        return " ".join([self.op.removesuffix("_case"), "×".join(map(str, self.size)), *given])


class Collector:
    """The contract of ops, remembering what is asked of it."""

    largest_batch = 1

    def __init__(self) -> None:
        self.calls: Counter[Call] = Counter()

    def _note(self, op: str, size: tuple[int, ...], **arguments: Any) -> None:
        b, h, w = size[:3]
        self.calls[Call(op, (b, h, w), tuple(arguments.items()))] += 1

    def tap(self, path: str, x: Shape, layout: str = "image") -> None:
        """Nobody listens."""

    def time_embedding(self, t: Timesteps, p: Params) -> Shape:
        hidden, width = p["time_embedding.linear_1.weight"].shape
        self._time = {"width": width, "hidden": hidden}
        return 1, 1, len(t), hidden

    def time_shift(self, temb: Shape, p: Params) -> Shape:
        n = p["weight"].shape[0]
        self._note("time_case", temb, **self._time, n=n)
        return *temb[:3], n

    def condition(self, ids: np.ndarray, p: Params) -> Condition:
        return Condition(ids, lambda: ids)

    def linear(self, x: Shape, p: Params, residual: Shape | None = None) -> Shape:
        n, k = p["weight"].shape[:2]
        self._note("linear", x, k=k, n=n, bias=p.get("bias") is not None, residual=residual is not None)
        return *x[:3], n

    def conv3x3(self, x: Shape, p: Params, stride: int = 1, pad: int = 1, residual: Shape | None = None) -> Shape:
        n, k = p["weight"].shape[:2]
        self._note("conv3x3", x, k=k, n=n, stride=stride, pad=pad, residual=residual is not None)
        return x[0], -(-x[1] // stride), -(-x[2] // stride), n

    def upsample_conv3x3(self, x: Shape, p: Params) -> Shape:
        n, k = p["weight"].shape[:2]
        self._note("upsample_conv3x3", x, k=k, n=n)
        return x[0], 2 * x[1], 2 * x[2], n

    def dwconv(self, x: Shape, p: Params, shift: Shape | None = None, residual: Shape | None = None) -> Shape:
        n, k = p["conv_pw.weight"].shape[:2]
        self._note("dwconv", x, k=k, n=n, shift=shift is not None, residual=residual is not None)
        return *x[:3], n

    def feed_forward(self, x: Shape, p: Params, residual: Shape) -> Shape:
        c, hid = p["point_conv.conv.weight"].shape[:2]
        self._note("feed_forward", x, c=c, hid=hid)
        return x

    def group_norm(self, x: Shape, p: Params, groups: int, eps: float, silu: bool = False) -> Shape:
        self._note("group_norm", x, groups=groups, width=x[3] // groups, eps=eps, silu=silu)
        return x

    def layer_norm(self, x: Shape, p: Params, eps: float = 1e-5) -> Shape:
        self._note("layer_norm", x, c=x[3])
        return x

    def self_lambda(self, x: Shape, p: Params, heads: int, residual: Shape) -> Shape:
        self._note("self_lambda", x, heads=heads, k=x[3] // heads)
        return x

    def cross_lambda(self, x: Shape, cond: Condition, p: Params, heads: int, residual: Shape) -> Shape:
        self._note("cross_lambda", x, heads=heads, k=x[3] // heads, tokens=cond.ids.shape[1], cond=p["to_k.weight"].shape[1])
        return x

    def attention(self, x: Shape, p: Params, residual: Shape) -> Shape:
        self._note("attention", x, c=x[3])
        return x

    def concat(self, a: Shape, b: Shape) -> Shape:
        self._note("concat", a, a=a[3], c=b[3])
        return *a[:3], a[3] + b[3]

    def unet_input(self, y: Shape, mask: Shape, masked: Shape, copies: int) -> Shape:
        channels = y[3], mask[3], masked[3]
        self._note("unet_input", y, copies=copies, channels=channels)
        return copies * y[0], y[1], y[2], sum(channels)

    def guided_ddim(self, eps: Shape, y: Shape, coefficients: np.ndarray, guidance: float) -> tuple[Shape, Shape]:
        self._note("guided_ddim", y, c=y[3], guided=eps[0] != y[0], guidance=guidance)
        return y, y


def model_calls(unet_config: UNetConfig, vae_config: VAEConfig, steps: int = 20) -> dict[Call, dict[str, int]]:
    """Every distinct call, and how often it is made: by a guided step of one picture, the encoder, the decoder, at the start of a run."""
    made: dict[Call, dict[str, int]] = {}
    s, latent = unet_config.sample_size, vae_config.latent_channels

    def run(plan: str, ops: Collector) -> None:
        for call, count in ops.calls.items():
            made.setdefault(call, {})["start" if call.op == "time_case" else plan] = count

    ops: Any = Collector()
    schedule = DDIM()
    timesteps = schedule.timesteps(steps)
    net = UNet(unet_config, ShapeOnly(unet.shapes(unet_config)), ops)
    denoiser = Denoiser(net, condition_ids(unet_config), timesteps.tolist(), schedule.coefficients(timesteps, steps), 2.5)
    denoiser.step((1, s, s, latent), (1, s, s, 1), (1, s, s, latent), slice(None))
    run("step", ops)
    for plan, shape in (
        ("encode", (1, s * vae_config.factor, s * vae_config.factor, vae_config.in_channels)),
        ("decode", (1, s, s, latent)),
    ):
        ops = Collector()
        coder = VAE(vae_config, ShapeOnly(vae.shapes(vae_config)), ops)
        (coder.encoder if plan == "encode" else coder.decoder)(shape)
        run(plan, ops)
    return made
