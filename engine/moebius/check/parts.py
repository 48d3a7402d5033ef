"""The parts of a picture with the settings that a user gets who gives none: a guided step, the encoder, the decoder.

Each part is what `WebGPU.record` and `WebGPU.layers` take: a function, the shapes of the tensors that it gets, channels last, and the rest
of its arguments.
"""

from __future__ import annotations

from itertools import zip_longest
from typing import Any

from moebius.backends.webgpu import WebGPU
from moebius.backends.webgpu.plan import Plan
from moebius.inpaint.settings import Settings
from moebius.model import unet, vae
from moebius.model.contract import T
from moebius.model.denoise import Denoiser
from moebius.model.params import ShapeOnly
from moebius.model.scheduler import DDIM
from moebius.model.unet import UNet, UNetConfig, condition_ids
from moebius.model.vae import VAE, VAEConfig

Part = tuple[Any, ...]


def guided(net: UNet[T]) -> Denoiser[T]:
    """The sampling loop of one picture, from its first step on."""
    settings, scheduler = Settings(), DDIM()
    timesteps = scheduler.timesteps(settings.steps, settings.strength)
    rows = scheduler.coefficients(timesteps, settings.steps)
    return Denoiser(net, condition_ids(net.config), timesteps.tolist(), rows, settings.guidance)


def step(net: UNet[Any]) -> Part:
    """With the tables of all timesteps."""
    side, channels = net.config.sample_size, net.config.out_channels
    return guided(net).step, [(1, side, side, n) for n in (channels, 1, channels)], slice(None)  # latents, mask, masked latents


def encoder(coder: VAE[Any], side: int) -> Part:
    """For latents of `side` rows and columns."""
    size = side * coder.config.factor
    return coder.encoder, [(1, size, size, coder.config.in_channels)]


def decoder(coder: VAE[Any], side: int) -> Part:
    return coder.decoder, [(1, side, side, coder.config.latent_channels)]


def recorded(gpu: WebGPU, config: UNetConfig, vae_config: VAEConfig) -> tuple[Plan, Plan, Plan]:
    """The plans of a step, of the encoder and of the decoder, of shapes alone: for what they cost."""
    net = UNet(config, ShapeOnly(unet.shapes(config)), gpu)
    coder, side = VAE(vae_config, ShapeOnly(vae.shapes(vae_config)), gpu), config.sample_size
    return gpu.record(*step(net)), gpu.record(*encoder(coder, side)), gpu.record(*decoder(coder, side))


def memory(step: Plan, encoder: Plan, decoder: Plan) -> dict[str, int]:
    """The bytes of both networks' weights; and with what a picture's plans have of their own, and the memory that they share. The last of
    them also where one network is there at a time, and makes the tables of its timesteps in every picture."""

    def taken(*plans: Plan) -> int:
        own = sum(plan.summary()["weight_bytes"] + plan.summary()["peak_bytes"] - sum(plan.lent) for plan in plans)
        return own + sum(max(sizes) for sizes in zip_longest(*(plan.lent for plan in plans), fillvalue=0))

    return {
        "model_bytes": sum(plan.summary()["weight_bytes"] for plan in (step, encoder, decoder)),
        "picture_bytes": taken(step, encoder, decoder),
        "low_memory_bytes": max(taken(step) + step.summary()["early_bytes"], taken(encoder, decoder)),
    }
