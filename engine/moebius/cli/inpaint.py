"""`moebius inpaint` and `moebius info`: one picture, and what made it."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moebius import sample
from moebius.cli import options
from moebius.cli.load import load_model
from moebius.cli.output import say, say_nothing
from moebius.cli.progress import Bar
from moebius.errors import MoebiusError, UsageError
from moebius.weights.published import FOLDERS, NANO

if TYPE_CHECKING:
    from moebius.inpaint.inpainter import Inpainter
    from moebius.inpaint.result import Result


def add_parsers(commands: Any) -> None:
    p = commands.add_parser(
        "inpaint", help="fill in the white part of a mask", formatter_class=options.Narrow, usage="%(prog)s IMAGE [MASK] -o FILE [options]"
    )
    p.add_argument("image", metavar="IMAGE", type=Path, nargs="?")
    p.add_argument("mask", metavar="MASK", type=Path, nargs="?", help="white = fill in (default: boxes, or the image's transparency)")
    p.add_argument("-o", "--output", metavar="FILE", type=Path, required=True)
    p.add_argument("--sample", action="store_true", help="the picture and mask that come with moebius, in place of IMAGE and MASK")
    p.add_argument("--box", metavar="X,Y,W,H", type=options.box, action="append", default=[], help="fill this rectangle too; repeatable")
    options.add_settings(p)
    p.add_argument("--like", metavar="FILE", type=Path, help="the settings that made FILE; options given here win")
    p.add_argument("--overwrite", action="store_true", help="let the output take the image's place")
    options.add_model(p)
    options.add_device(p)
    options.add_output(p)
    p.set_defaults(command=inpaint)


def add_info_parser(commands: Any) -> None:
    p = commands.add_parser("info", help="print what made a picture")
    p.add_argument("file", metavar="FILE", type=Path)
    p.add_argument("--json", action="store_true")
    p.set_defaults(command=info)


def inpaint(args: argparse.Namespace) -> int:
    from moebius.pictures import photo as photos
    from moebius.pictures.save import check_fits

    tell = say_nothing if args.quiet else say
    if args.sample:
        if args.image is not None:
            raise UsageError(f"--sample brings a picture of its own; leave out {args.image}, or --sample.")
        args.image, args.mask = sample.photo(), None if args.box else sample.mask()
    elif args.image is None:
        raise UsageError("There is no image; give one, or --sample for the one that comes with moebius.")
    check_output(args.output)
    settings = chosen_settings(args)
    outputs = numbered(args.output, settings.get("num_images", 1))
    if not args.overwrite:
        refuse_to_replace(outputs, [p for p in (args.image, args.mask, args.like) if p is not None])
    photo = photos.load(args.image)
    if settings.get("crop") != "upstream":
        check_fits(photo, args.output)
    mask = chosen_mask(args, photo, tell)
    model = load_model(args, tell)
    result = run_with_progress(model, photo, mask, settings, args)
    for note in result.notes:
        tell(note)
    for i, path in enumerate(outputs):
        for note in result.save(path, index=i, metadata=not args.no_metadata, quality=args.quality):
            tell(note)
    report(args, tell, result, outputs)
    return 0


def chosen_mask(args: argparse.Namespace, photo: Any, tell: Callable[..., None]) -> Any:
    """The mask's file, the boxes, both as one mask, or None for the photo's transparency. Wrong boxes raise here, before the model
    is loaded."""
    from moebius.pictures import mask as masks

    if args.box and args.mask is not None:
        loaded = masks.load(args.mask, photo)
        for note in loaded.notes:
            tell(note)
        return masks.boxes(args.box, *photo.size) | loaded.fill
    if args.box:
        masks.boxes(args.box, *photo.size)
        return args.box
    if args.mask is None and photo.alpha is None:
        raise UsageError("There is no mask, and the image has no transparency to take one from; give a mask or --box.")
    return args.mask


def chosen_settings(args: argparse.Namespace) -> dict[str, Any]:
    """Those of --like, then those of the options. Wrong ones raise here, before the model is loaded."""
    from moebius.inpaint.settings import Settings
    from moebius.pictures.metadata import read_metadata

    names = [f.name for f in fields(Settings)]
    settings: dict[str, Any] = {}
    if getattr(args, "like", None) is not None:
        record = read_metadata(args.like)
        if record is None:
            raise UsageError(f"{args.like} does not say how it was made; only pictures written by moebius do.")
        settings = {k: v for k, v in record.items() if k in names}
        take_same_model(args, record)
    settings |= {k: getattr(args, k) for k in names if getattr(args, k) is not None}
    Settings(**settings)
    return settings


def take_same_model(args: argparse.Namespace, record: dict[str, Any]) -> None:
    """--like takes the model along, where it has a name that can be loaded again and the options name none."""
    model = str(record.get("model", ""))
    if args.model is None and args.synthetic is None:
        if model in ("synthetic tiny", "synthetic full"):
            args.synthetic = model.split()[1]
        elif model in (*FOLDERS, NANO):
            args.model, args.revision = model, args.revision or record.get("revision")
        else:
            raise UsageError(f"{args.like} was made with {model or 'an unnamed model'}; say where that is with --model.")


def check_output(path: Path) -> None:
    from moebius.pictures.formats import format_of

    format_of(path)
    if not path.parent.is_dir():
        raise MoebiusError(f"{path} cannot be written: there is no folder {path.parent}.")


def refuse_to_replace(outputs: Sequence[Path], inputs: Sequence[Path]) -> None:
    for output in outputs:
        for path in inputs:
            if output.exists() and path.exists() and output.samefile(path):
                raise UsageError(f"{output} is one of the inputs itself; give another output, or --overwrite.")


def numbered(path: Path, count: int) -> list[Path]:
    """name-1.png, name-2.png, … where there are several."""
    return [path] if count == 1 else [path.with_name(f"{path.stem}-{i + 1}{path.suffix}") for i in range(count)]


def run_with_progress(model: Inpainter, photo: Any, mask: Any, settings: dict[str, Any], args: argparse.Namespace) -> Result:
    """With a bar on a terminal."""
    run = model.steps(photo, mask, **settings)
    if len(run.modelled) > 1 and not args.quiet:
        say(f"{len(run.modelled)} windows of {model.size}×{model.size} pixels cover the mask; --max-windows bounds how many.")
    bar = None if args.quiet or args.json or not sys.stderr.isatty() else Bar()
    try:
        for step in run:
            if bar is not None:
                step.state.estimate()  # waits for the GPU: without it the bar would count steps that are only queued
                bar.show(step.index + 1, step.total)
    finally:
        if bar is not None:
            bar.clear()
    return run.result


def report(args: argparse.Namespace, tell: Callable[..., None], result: Result, outputs: Sequence[Path]) -> None:
    """What was written, and how long it took."""
    if args.json:
        about = {"windows": len(result.windows), "notes": list(result.notes), "output": [str(p) for p in outputs]}
        print(json.dumps({**result.metadata, **about}))
    else:
        seconds = ", ".join(f"{stage} {t:.2f} s" for stage, t in result.timings.items())
        tell(f"Wrote {', '.join(map(str, outputs))} ({seconds})")


def info(args: argparse.Namespace) -> int:
    from moebius.pictures.metadata import read_metadata

    record = read_metadata(args.file)
    if record is None:
        raise MoebiusError(f"{args.file} does not say how it was made; only pictures written by moebius without --no-metadata do.")
    if args.json:
        print(json.dumps(record))
    else:
        for key, value in record.items():
            print(f"{key:14} {json.dumps(value) if isinstance(value, dict | list) else value}")
    return 0
