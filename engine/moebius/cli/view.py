"""`moebius view`: the command of the window. What the window needs is imported when it opens."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moebius.cli import options
from moebius.cli.endings import DONE, STOPPED
from moebius.cli.load import load_model, recipe
from moebius.cli.output import say, say_error, say_nothing
from moebius.cli.progress import Transfer
from moebius.errors import AdapterError

if TYPE_CHECKING:
    from moebius.inpaint.inpainter import Inpainter

SETTINGS = ("steps", "guidance", "seed", "grow", "feather")


def add_parser(commands: Any) -> None:
    p = commands.add_parser(
        "view",
        help="a window: paint what should go, press Enter, watch it fill",
        formatter_class=options.Narrow,
        usage="%(prog)s [PHOTO] [MASK]",
    )
    p.add_argument("photo", metavar="PHOTO", type=Path, nargs="?", help="the picture to open (default: the packaged sample)")
    p.add_argument("mask", metavar="MASK", type=Path, nargs="?", help="white = fill in, to begin with")
    p.add_argument("--steps", metavar="N", type=int, help="sampling steps (20)")
    p.add_argument("--guidance", metavar="G", type=float, help="how strongly to follow the condition (2.5); 1 costs half")
    p.add_argument("--seed", metavar="N", type=int, help="of the first run (0); R takes the next one")
    p.add_argument("--grow", metavar="PX", type=float, help="grow what was painted (0)")
    p.add_argument("--feather", metavar="PX", type=float, help="blur of the seam (nano: 0, else the published 3 of the model's pixels)")
    options.add_model(p)
    options.add_device(p)
    p.add_argument("--quiet", action="store_true", help="errors only")
    p.set_defaults(command=view)


def view(args: argparse.Namespace) -> int:
    from moebius import sample
    from moebius.view.early import Search, nothing_collected, packaged_glfw

    settings = {name: getattr(args, name) for name in SETTINGS if getattr(args, name) is not None}
    if settings:
        check_settings(settings)
    recipe(args)  # its options fit together
    check_device(args.device)

    with nothing_collected(), Search() as search:
        try:
            with packaged_glfw():
                from moebius.view.window import Interrupted, Window
        except ImportError as error:
            raise AdapterError(f"The window needs the package glfw, which cannot be imported ({error}); pip install glfw.") from error
        window = Window(partial(load, args), settings, search.adapters)
    if args.photo is None:
        window.app.open(sample.photo(), sample.mask(), folder=Path.cwd(), sample=True)
    else:
        window.app.open(args.photo, args.mask)
    try:
        ended = window.run()
    except Interrupted as interrupted:
        if not interrupted.ended:
            leave("stopped", STOPPED)
        raise
    if not ended:
        leave("", DONE)
    return DONE


def leave(why: str, code: int) -> None:
    """Ends the process, whatever its threads do: a step of a large model on the CPU may take minutes, and nothing waits for it any more."""
    if why:
        say_error(why)
    sys.stdout.flush()
    os._exit(code)


def load(args: argparse.Namespace, go_on: Callable[[], None]) -> Inpainter:
    """`go_on` is called now and then; what it raises ends the loading."""
    transfer = None if args.quiet else Transfer()

    def progress(doing: str, done: int, total: int | None) -> None:
        go_on()
        if transfer is not None:
            transfer(doing, done, total)

    return load_model(args, say_nothing if args.quiet else say, progress)


def check_settings(settings: dict[str, Any]) -> None:
    """Raises before a window opens."""
    from moebius.inpaint.settings import Settings

    Settings(**settings)


def check_device(name: str) -> None:
    """Raises at once where no adapter has this name; the device itself is opened with the model, while the window is open."""
    if name not in ("auto", "cpu"):
        from moebius.backends.webgpu.device import choose

        implementation, _, adapter = name.rpartition(":")
        choose(adapter, implementation or "wgpu")
