"""Writes `sample.filled()`: the packaged sample as the float64 oracle fills it. To be run after nano was trained anew."""

from __future__ import annotations

from moebius import Inpainter, sample
from moebius.backends.reference import Reference
from moebius.model.unet import UNet
from moebius.model.vae import VAE
from moebius.weights import bundle
from moebius.weights.nano import packaged_nano


def main() -> None:
    weights, ops = bundle.read_bundle(packaged_nano()), Reference()
    nano = Inpainter(
        UNet(weights.unet_config, weights.unet, ops), VAE(weights.vae_config, weights.vae, ops), model="nano", blend=weights.blend
    )
    nano(sample.photo(), sample.mask()).image.save(sample.filled())


if __name__ == "__main__":
    main()
