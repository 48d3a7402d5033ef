"""The Inpainter that the options of a command name."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

from moebius.cli.like import compare_model
from moebius.cli.progress import Transfer
from moebius.errors import UsageError
from moebius.many.recipe import Recipe
from moebius.weights.published import NANO

if TYPE_CHECKING:
    from moebius.inpaint.inpainter import Inpainter

SYNTHETIC = "Weights: synthetic. They were made from a seed, not trained: every op runs, but the hole is filled with noise."


def load_model(
    args: argparse.Namespace, say: Callable[..., None], progress: Callable[[str, int, int | None], None] | None = None
) -> Inpainter:
    """By the options of `options.add_model` and `add_device`; says which device it is on, and compares with the model of --like."""
    if args.quiet:
        logging.getLogger("moebius").setLevel(logging.ERROR)
    wanted = recipe(args)
    if args.synthetic:
        say(SYNTHETIC)
    model = wanted.load(progress or (None if args.quiet else Transfer()))
    say(f"Device: {model.device}, in {model.precision}")
    if getattr(args, "like_record", None) is not None:
        compare_model(args, model, say)
    return model


def recipe(args: argparse.Namespace) -> Recipe:
    """What the options of `options.add_model` and `add_device` say."""
    loaded = " and ".join(f"--{name}" for name in ("model", "vae", "revision") if getattr(args, name) is not None)
    if args.synthetic and loaded:
        if getattr(args, "like_chosen", False):
            raise UsageError(f"{args.like} was made with synthetic weights, which are not loaded; leave out {loaded}.")
        raise UsageError(f"Synthetic weights are made, and not loaded; leave out --synthetic, or {loaded}.")
    on = {"device": args.device, "require_gpu": args.require_gpu, "precision": args.precision or "auto", "threads": args.threads}
    on |= {"matrix_units": True} if args.matrix_units else {}
    return Recipe(args.model or NANO, args.vae, args.revision, args.synthetic, on, args.low_memory)
