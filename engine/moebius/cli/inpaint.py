"""`moebius inpaint` and `moebius info`: one picture, and what made it."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moebius import sample
from moebius.cli import options, target
from moebius.cli.endings import inputs
from moebius.cli.like import take_same_model, take_same_precision
from moebius.cli.load import load_model
from moebius.cli.output import say, say_nothing
from moebius.cli.progress import Bar
from moebius.errors import MoebiusError, UsageError, shown

if TYPE_CHECKING:
    from moebius.inpaint.inpainter import Inpainter
    from moebius.inpaint.result import Result
    from moebius.pictures.mask import Mask, MaskSource
    from moebius.pictures.photo import Photo


def add_parsers(commands: Any) -> None:
    p = commands.add_parser(
        "inpaint", help="fill in the white part of a mask", formatter_class=options.Narrow, usage="%(prog)s IMAGE [MASK] -o FILE [options]"
    )
    p.add_argument("image", metavar="IMAGE", type=Path, nargs="?", help="a file, or - for standard input")
    p.add_argument("mask", metavar="MASK", type=Path, nargs="?", help="white = fill in (default: boxes, or the image's transparency)")
    p.add_argument("-o", "--output", metavar="FILE", type=Path, required=True, help="- for standard output, in --format")
    p.add_argument("--format", metavar="F", help="of -o -: png, jpg, webp, avif, tif, bmp, gif (png)")
    p.add_argument("--sample", action="store_true", help="the picture and mask that come with moebius, in place of IMAGE and MASK")
    p.add_argument("--box", metavar="X,Y,W,H", type=options.box, action="append", default=[], help="fill this rectangle too; repeatable")
    options.add_settings(p)
    options.add_consent(p)
    p.add_argument("--like", metavar="FILE", type=Path, help="the settings that made FILE; options given here win")
    p.add_argument("--overwrite", action="store_true", help="let the output take the image's place")
    options.add_model(p)
    options.add_device(p)
    options.add_output(p)
    p.set_defaults(command=inpaint)


def add_info_parser(commands: Any) -> None:
    p = commands.add_parser("info", help="print what made a picture")
    p.add_argument("file", metavar="FILE", type=Path, help="a picture, or - for standard input")
    p.add_argument("--json", action="store_true")
    p.set_defaults(command=info, prints=True)


def inpaint(args: argparse.Namespace) -> int:
    from moebius.pictures import photo as photos
    from moebius.pictures.extend import extended_size

    tell = say_nothing if args.quiet else say
    if args.sample:
        if args.image is not None:
            raise UsageError(f"--sample brings a picture of its own; leave out {args.image}, or --sample.")
        args.image, args.mask = sample.photo(), None if args.box else sample.mask()
    elif args.image is None:
        raise UsageError("There is no image; give one, or --sample for the one that comes with moebius.")
    settings = chosen_settings(args)
    outputs = chosen_outputs(args, settings.get("num_images", 1))
    photo = photos.load(given(args.image, args.mask), args.max_pixels)
    size = extended_size(photo, settings.get("extend", (0, 0, 0, 0)), args.max_pixels)
    target.check_holds(photo, size, outputs, settings.get("crop") == "upstream")
    mask = chosen_mask(args, photo, settings, tell)
    model = load_model(args, tell)
    result = run_with_progress(model, photo, mask, settings, args)
    how: dict[str, Any] = {"metadata": not args.no_metadata, "quality": args.quality}
    if args.output == target.STREAM:
        target.write_stream(result.to_bytes(outputs[0].suffix, **how))
    else:
        for i, path in enumerate(outputs):
            for note in result.save(path, index=i, **how):
                tell(note)
    report(args, tell, result, [args.output] if args.output == target.STREAM else outputs, inputs(args))
    return 0


def chosen_outputs(args: argparse.Namespace, count: int) -> list[Path]:
    """The files to write, each of them checked; of -o - a name that stands for it."""
    if args.output == target.STREAM:
        target.check_stream(count, args.json)
        return [Path(f"picture{target.stream_format(args.format)}")]
    if args.format is not None:
        raise UsageError(f"--format goes with -o -; {args.output} says its format by its ending.")
    outputs = numbered(args.output, count)
    for path in outputs:
        target.check_output(path)
    if not args.overwrite:
        refuse_to_replace(outputs, [p for p in (args.image, args.mask, args.like) if p is not None])
    return outputs


def given(path: Path, other: Path | None = None) -> Path | bytes:
    """What is to be read for a path that was typed: of - what comes in by standard input."""
    if path != target.STREAM:
        return path
    if other == path:
        raise UsageError("Standard input holds one picture; - can be the image or the mask, and not both.")
    return target.stdin_picture()


def chosen_mask(args: argparse.Namespace, photo: Photo, settings: dict[str, Any], tell: Callable[..., None]) -> Mask:
    """The mask's file, the boxes, both as one mask, or the photo's transparency. Wrong ones raise here, before the model is loaded."""
    from moebius.pictures import extend
    from moebius.pictures import mask as masks

    source: MaskSource | None = None if args.mask is None else given(args.mask, args.image)
    if args.box:
        boxes = masks.boxes(args.box, *photo.size)
        if source is not None:
            loaded = masks.load(source, photo, force=args.yes, allow_empty=True, max_pixels=args.max_pixels)
            for note in loaded.notes:
                tell(note)
            boxes |= loaded.fill
        source = boxes
    sides = settings.get("extend", (0, 0, 0, 0))
    if source is None and photo.alpha is None and not any(sides):
        raise UsageError("There is no mask, and the image has no transparency to take one from; give a mask, --box or --extend.")
    rest: dict[str, Any] = {"force": args.yes, "max_pixels": args.max_pixels}
    return extend.chosen_mask(source, photo, sides, args.allow_empty, rest | mask_settings(settings))


def mask_settings(settings: dict[str, Any]) -> dict[str, Any]:
    """Those that change the mask."""
    return {name: settings[name] for name in ("invert", "grow") if name in settings}


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
        take_same_precision(args, record)
    settings |= {k: getattr(args, k) for k in names if getattr(args, k) is not None}
    Settings(**settings)
    return settings


def refuse_to_replace(outputs: Sequence[Path], inputs: Sequence[Path]) -> None:
    for output in outputs:
        for path in inputs:
            if output.exists() and path.exists() and output.samefile(path):
                raise UsageError(f"{output} is one of the inputs itself; give another output, or --overwrite.")


def numbered(path: Path, count: int) -> list[Path]:
    """name-1.png, name-2.png, … where there are several."""
    return [path] if count == 1 else [path.with_name(f"{path.stem}-{i + 1}{path.suffix}") for i in range(count)]


def run_with_progress(model: Inpainter, photo: Photo, mask: Mask, settings: dict[str, Any], args: argparse.Namespace) -> Result:
    """Says first what the user should know; then with a bar on a terminal, and a line every few seconds elsewhere."""
    run = model.steps(photo, mask, **settings)
    tell = say_nothing if args.quiet else say
    begun = run.notes
    for note in begun:
        tell(note)
    if len(run.modelled) + len(run.finer) > 1 and not args.quiet:
        n, over = len(run.modelled), f", and {len(run.finer)} draw over that" if run.finer else ""
        cover = "window covers" if n == 1 else f"windows of {model.size}×{model.size} pixels cover"
        say(f"{n} {cover} the mask{over}; --max-windows bounds how many.")
    bar = None if args.quiet or args.json else Bar()
    try:
        for step in run:
            if bar is not None:
                step.state.estimate()  # waits for the GPU: without it the bar would count steps that are only queued
                bar.show(step.index + 1, step.total)
    finally:
        if bar is not None:
            bar.clear()
    for note in run.notes[len(begun) :]:
        tell(note)
    return run.result


def report(args: argparse.Namespace, tell: Callable[..., None], result: Result, outputs: Sequence[Path], typed: dict[str, Any]) -> None:
    """What was made of what, and how long it took."""
    if args.json:
        about = {"windows": len(result.windows), "notes": list(result.notes), "output": [str(p) for p in outputs]}
        print(json.dumps({**typed, **result.metadata, **about}))
    else:
        seconds = ", ".join(f"{stage} {t:.2f} s" for stage, t in result.timings.items())
        tell(f"Wrote {', '.join(map(str, outputs))} ({seconds})")


def info(args: argparse.Namespace) -> int:
    from moebius.pictures.metadata import read_metadata

    record = read_metadata(given(args.file))
    if record is None:
        raise MoebiusError(f"{args.file} does not say how it was made; only pictures written by moebius without --no-metadata do.")
    if args.json:
        print(json.dumps(record))
    else:
        for key, value in record.items():
            print(f"{shown(key):14} {json.dumps(value) if isinstance(value, dict | list) else shown(value)}")
    return 0
