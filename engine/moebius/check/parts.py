"""The parts of a picture with the settings that a user gets who gives none: a guided step, the encoder, the decoder.

Each part is what `WebGPU.record` and `WebGPU.layers` take: a function, the shapes of the tensors that it gets, channels last, and the rest
of its arguments.
"""

from __future__ import annotations

from typing import Any

from moebius.inpaint.settings import Settings
from moebius.model.contract import T
from moebius.model.denoise import Denoiser
from moebius.model.scheduler import DDIM
from moebius.model.unet import UNet, condition_ids
from moebius.model.vae import VAE

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
