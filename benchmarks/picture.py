"""The README's picture: one inpainting run on the oracle and on an adapter, side by side, and what they differ in.

    python benchmarks/picture.py [ADAPTER] [-o FILE]

The weights are synthetic (made from a seed), so the hole fills with noise; what the picture shows is that both noises are the same.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from moebius import Inpainter, unet, vae
from moebius.image import prepare
from moebius.reference import Reference
from moebius.unet import UNet, UNetConfig
from moebius.vae import VAE, VAEConfig
from moebius.webgpu import WebGPU
from moebius.weights import synthetic

ROOT = Path(__file__).resolve().parents[1]
SIDE, LABEL = 192, 18


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("adapter", nargs="?", help="default: the best one")
    parser.add_argument("-o", "--output", type=Path, default=ROOT / "benchmarks/results/pipeline.png")
    args = parser.parse_args()
    image, mask = (Image.open(ROOT / f"tests/goldens/pipeline_nano.{which}.png") for which in ("image", "mask"))
    config, coder = UNetConfig.tiny(), VAEConfig.tiny()
    weights, coder_weights = synthetic(unet.shapes(config), 0), synthetic(vae.shapes(coder), 0)
    gpu = WebGPU(args.adapter)
    oracle, ours = (
        Inpainter(UNet(config, weights, ops), VAE(coder, coder_weights, ops))(image, mask, crop="upstream").image
        for ops in (Reference(), gpu)
    )
    difference = np.abs(np.asarray(oracle, np.int16) - np.asarray(ours, np.int16))
    amplified = Image.fromarray(np.minimum(64 * difference, 255).astype(np.uint8))
    prepared = prepare(image, mask, 128)
    panels = {
        "input": prepared.image,
        "mask": prepared.mask,
        "NumPy float64": oracle,
        gpu.gpu.info["device"].split(" (")[0]: ours,
        "difference x 64": amplified,
    }
    strip = Image.new("RGB", (SIDE * len(panels), SIDE + LABEL), "white")
    draw = ImageDraw.Draw(strip)
    for i, (label, panel) in enumerate(panels.items()):
        strip.paste(panel.convert("RGB").resize((SIDE, SIDE), Image.Resampling.NEAREST), (i * SIDE, LABEL))
        draw.text((i * SIDE + 4, 3), label, fill="black")
    strip.save(args.output)
    share = np.mean(difference > 0)
    print(f"{args.output}: {share:.4%} of the bytes differ, by {difference.max()} at most ({gpu.gpu.name})")


if __name__ == "__main__":
    main()
