"""Options that several commands share."""

from __future__ import annotations

import argparse
from pathlib import Path

from moebius.pictures.source import MAX_PIXELS
from moebius.weights.published import NAMES

CONFIGS = ("tiny", "nano", "full")  # the models that `check.lockstep` knows


class Narrow(argparse.HelpFormatter):
    """Help that fits a screen of 100 columns."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=26, width=100)


def add_settings(p: argparse.ArgumentParser) -> None:
    """Their defaults are None: what the user leaves out comes from --like, then from `Settings`."""
    p.add_argument("--steps", metavar="N", type=int, help="sampling steps (20)")
    p.add_argument("--guidance", metavar="G", type=float, help="how strongly to follow the condition (2.5); 1 costs half")
    p.add_argument("--strength", metavar="S", type=float, help="how much of the schedule to run (0.99); 1 starts from pure noise")
    p.add_argument("--noise-offset", metavar="O", type=float, help="one shift a channel added to the noise (0.0357)")
    p.add_argument("--seed", metavar="N", type=int, help="of the noise (0)")
    p.add_argument("--rng", choices=["numpy", "torch"], help="whose noise (numpy); torch draws what PyTorch's CPU generator draws")
    p.add_argument("-n", "--num-images", metavar="N", type=int, help="results with seeds SEED, SEED+1, … (1)")
    p.add_argument(
        "--crop",
        metavar="HOW",
        choices=["auto", "full", "upstream"],
        help="where to work: auto (windows), full (all), upstream (as published)",
    )
    p.add_argument("--max-windows", metavar="N", type=int, help="for one picture (128); with fewer, larger and scaled ones")
    p.add_argument("--refine", metavar="S", type=float, help="how strongly native windows draw over a scaled one's fill, 0 to 1 (0: not)")
    p.add_argument(
        "--blend",
        metavar="HOW",
        choices=["paste", "match", "compensate", "raw"],
        help="put back by paste, match, compensate or raw (nano: match, else paste)",
    )
    p.add_argument("--detail", metavar="D", type=float, help="grain of the surroundings that match adds, 0 to 1 (nano: 0.35, else 0)")
    p.add_argument("--grow", metavar="PX", type=float, help="grow the mask (0)")
    p.add_argument("--feather", metavar="PX", type=float, help="blur of the seam (match: 0, else the published 3 of the model's pixels)")
    p.add_argument("--invert", action="store_true", default=None, help="fill in the black part of the mask")
    p.add_argument("--extend", metavar="L,T,R,B", type=sides, help="fill so many pixels of new canvas: left, top, right, bottom")
    p.add_argument("--max-pixels", metavar="N", type=count, default=MAX_PIXELS, help=f"refuse larger pictures ({MAX_PIXELS:,})")


def add_consent(p: argparse.ArgumentParser) -> None:
    """What is refused otherwise."""
    p.add_argument("--yes", action="store_true", help="take a mask that looks like a photograph")
    p.add_argument("--allow-empty", action="store_true", help="where the mask marks nothing, the picture as it is")


def add_model(p: argparse.ArgumentParser) -> None:
    """Which weights."""
    p.add_argument("--model", metavar="NAME", help=f"{NAMES}, nano, a folder or a file (nano)")
    p.add_argument("--vae", metavar="FILE", type=Path, help="the VAE's weights, where they are not beside the model's")
    p.add_argument("--revision", metavar="REV", help="of a published model")
    p.add_argument(
        "--synthetic", metavar="SIZE", choices=["tiny", "full"], help="tiny or full weights made from a seed: the filling is noise"
    )


def add_device(p: argparse.ArgumentParser) -> None:
    """What computes a picture."""
    p.add_argument("--device", metavar="NAME", default="auto", help="auto (best GPU, else cpu), cpu, or an adapter's name or index")
    p.add_argument("--require-gpu", action="store_true", help="fail rather than compute on a CPU")
    p.add_argument("--precision", metavar="P", choices=["auto", "f32", "f16"], help="f32, f16 (GPUs: half the weights) or auto (f32)")
    p.add_argument("--threads", metavar="N", type=int, help="of the CPU device (as many as there are cores for it)")
    p.add_argument("--matrix-units", action="store_true", help="take a GPU's, through Dawn (pip install 'moebius-webgpu[dawn]')")
    p.add_argument("--low-memory", action="store_true", help="one network on the device at a time: half the memory, and slower")


def add_adapter(p: argparse.ArgumentParser) -> None:
    """Which GPU a command looks at."""
    p.add_argument("--adapter", help="an index, or words of the summary (`moebius adapters`); dawn:NAME goes through Dawn")
    p.add_argument("--precision", choices=["f32", "f16"], default="f32", help="what it computes in (f32)")
    p.add_argument("--matrix-units", action="store_true", help="with those, through Dawn")
    p.add_argument("--limits", choices=["adapter", "webgpu"], default="adapter", help="webgpu: keep to WebGPU's default limits")


def add_output(p: argparse.ArgumentParser) -> None:
    """How a picture is written, and what is printed."""
    p.add_argument("--no-metadata", action="store_true", help="do not write the settings into the picture")
    p.add_argument("--quality", metavar="Q", type=quality, help="of a JPEG or WebP: 1 to 100, or keep")
    p.add_argument("--quiet", action="store_true", help="errors only")
    p.add_argument("--json", action="store_true", help="one line a picture: settings, timings, device, output")


def box(text: str) -> tuple[int, ...]:
    """X,Y,W,H"""
    try:
        x, y, w, h = (int(v) for v in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not X,Y,W,H: four whole numbers with commas between") from None
    return x, y, w, h


def sides(text: str) -> tuple[int, ...]:
    """L,T,R,B"""
    try:
        left, top, right, bottom = (int(v) for v in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not L,T,R,B: four whole numbers with commas between") from None
    return left, top, right, bottom


def quality(text: str) -> int | str:
    """A number from 1 to 100, or "keep"."""
    return text if text == "keep" else whole(text, 1, 100, ", or keep")


def count(text: str) -> int:
    return whole(text, 1, 10**12)


def port(text: str) -> int:
    return whole(text, 0, 65535)


def whole(text: str, first: int, last: int, more: str = "") -> int:
    """A whole number within bounds, as argparse's `type`."""
    try:
        value = int(text)
    except ValueError:
        value = first - 1
    if not first <= value <= last:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from {first} to {last}{more}")
    return value
