"""The Inpainter that the options of a command name."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

from moebius.cli.like import compare_model
from moebius.cli.progress import Transfer
from moebius.weights.published import NANO

if TYPE_CHECKING:
    from moebius.inpaint.inpainter import Inpainter


def load_model(
    args: argparse.Namespace, say: Callable[..., None], progress: Callable[[str, int, int | None], None] | None = None
) -> Inpainter:
    """By the options of `options.add_model` and `add_device`; says which device it is on, and compares with the model of --like."""
    if args.quiet:
        logging.getLogger("moebius").setLevel(logging.ERROR)
    if args.synthetic:
        model = synthetic_model(args)
        say("Weights: synthetic. They were made from a seed, not trained: every op runs, but the hole is filled with noise.")
    else:
        from moebius.inpaint.inpainter import Inpainter

        model = Inpainter.from_pretrained(
            args.model or NANO,
            device=args.device,
            require_gpu=args.require_gpu,
            precision=args.precision,
            threads=args.threads,
            vae=args.vae,
            revision=args.revision,
            progress=progress or (None if args.quiet else Transfer()),
        )
    say(f"Device: {model.device}")
    if getattr(args, "like_record", None) is not None:
        compare_model(args, model, say)
    return model


def synthetic_model(args: argparse.Namespace) -> Inpainter:
    """Weights from a seed, in the shapes of the tiny or the full model."""
    from moebius.inpaint.device import open_device
    from moebius.inpaint.inpainter import Inpainter
    from moebius.model.synthetic import synthetic
    from moebius.model.unet import UNet, UNetConfig
    from moebius.model.unet import shapes as unet_shapes
    from moebius.model.vae import VAE, VAEConfig
    from moebius.model.vae import shapes as vae_shapes

    ops = open_device(args.device, require_gpu=args.require_gpu, precision=args.precision, threads=args.threads)
    small = args.synthetic == "tiny"
    unet_config = UNetConfig.tiny() if small else UNetConfig.full()
    vae_config = VAEConfig.tiny() if small else VAEConfig.full()
    unet = UNet(unet_config, synthetic(unet_shapes(unet_config), 0), ops)
    vae = VAE(vae_config, synthetic(vae_shapes(vae_config), 0), ops)
    source = {"synthetic": args.synthetic, "seed": "0"}
    return Inpainter(unet, vae, model=f"synthetic {args.synthetic}", sources={"unet": source, "vae": source})
