"""The smallest networks that are an Inpainter's, with weights made from a seed."""

import numpy as np

from moebius.inpaint.inpainter import Inpainter
from moebius.model.synthetic import synthetic
from moebius.model.unet import UNet, UNetConfig
from moebius.model.unet import shapes as unet_shapes
from moebius.model.vae import VAE, VAEConfig
from moebius.model.vae import shapes as vae_shapes

SMALL_UNET = UNetConfig(4, block_out_channels=(8, 16), heads=2, cross_attention_dim=8, encoder_hid_dim=8, norm_num_groups=4)
SMALL_VAE = VAEConfig((8, 8, 8, 8), norm_num_groups=4)  # windows of 32 pixels
PHOTO = np.random.default_rng(0).integers(0, 256, (40, 90, 3), np.uint8)
BOXES = [(3, 3, 9, 9), (70, 20, 9, 9)]  # two windows


def made_of(unet: UNetConfig, vae: VAEConfig, ops) -> Inpainter:
    return Inpainter(UNet(unet, synthetic(unet_shapes(unet), 0), ops), VAE(vae, synthetic(vae_shapes(vae), 0), ops))
