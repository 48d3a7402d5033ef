"""Small pictures, their masks, and a small model for them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from moebius.backends.cpu import CPU
from moebius.inpaint.inpainter import Inpainter
from moebius.model.contract import Ops
from moebius.model.synthetic import synthetic
from moebius.model.unet import UNet, UNetConfig
from moebius.model.unet import shapes as unet_shapes
from moebius.model.vae import VAE, VAEConfig
from moebius.model.vae import shapes as vae_shapes

SMALL_UNET = UNetConfig(4, block_out_channels=(8, 16), heads=2, cross_attention_dim=8, encoder_hid_dim=8, norm_num_groups=4)
SMALL_VAE = VAEConfig((8, 8, 8, 8), norm_num_groups=4)  # windows of 32 pixels


def small_model(ops: Ops[Any] | None = None) -> Inpainter:
    ops = ops or CPU()
    weights = synthetic(unet_shapes(SMALL_UNET), 0), synthetic(vae_shapes(SMALL_VAE), 0)
    return Inpainter(UNet(SMALL_UNET, weights[0], ops), VAE(SMALL_VAE, weights[1], ops), model="small")


def picture(path: Path, size: tuple[int, int] = (40, 30)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    small = np.random.default_rng(0).integers(0, 256, (5, 5, 3), dtype=np.uint8)
    Image.fromarray(small).resize(size, Image.Resampling.BICUBIC).save(path)
    return path


def mask(path: Path, box: tuple[int, int, int, int] | None = (5, 5, 15, 12), size: tuple[int, int] = (40, 30)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.new("L", size)
    if box:
        image.paste(255, box)
    image.save(path)
    return path


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


def files(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
