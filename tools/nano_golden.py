"""Writes tests/goldens/nano_sample.png: the packaged sample as the float64 oracle fills it, without grain.

To be run after nano was trained anew.
"""

from __future__ import annotations

from pathlib import Path

from moebius import Inpainter, sample
from moebius.backends.reference import Reference
from moebius.model.unet import UNet
from moebius.model.vae import VAE
from moebius.weights import bundle
from moebius.weights.nano import packaged_nano

GOLDEN = Path(__file__).resolve().parents[1] / "tests/goldens/nano_sample.png"


def main() -> None:
    weights, ops = bundle.read_bundle(packaged_nano()), Reference()
    nano = Inpainter(UNet(weights.unet_config, weights.unet, ops), VAE(weights.vae_config, weights.vae, ops), model="nano")
    nano(sample.photo(), sample.mask(), detail=0).image.save(GOLDEN)


if __name__ == "__main__":
    main()
