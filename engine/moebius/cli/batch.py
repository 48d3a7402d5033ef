"""`moebius batch`: a folder of pictures."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

from moebius.cli import options
from moebius.cli.inpaint import chosen_settings, numbered, report, run_with_progress
from moebius.cli.load import load_model
from moebius.cli.output import say, say_error, say_nothing
from moebius.errors import MoebiusError, UsageError

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp", ".gif")


def add_parser(commands: Any) -> None:
    p = commands.add_parser(
        "batch", help="the same for folders", formatter_class=options.Narrow, usage="%(prog)s IMAGES MASKS OUT [options]"
    )
    p.add_argument("images", metavar="IMAGES", type=Path, help="a folder")
    p.add_argument("masks", metavar="MASKS", type=Path, help="a folder of masks with the images' stems, or one mask for all")
    p.add_argument("out", metavar="OUT", type=Path, help="a folder, made when missing; the images' names and formats")
    p.add_argument("--resume", action="store_true", help="skip images whose result is there")
    options.add_settings(p)
    options.add_model(p)
    options.add_device(p)
    options.add_output(p)
    p.set_defaults(command=batch)


def batch(args: argparse.Namespace) -> int:
    tell = say_nothing if args.quiet else say
    images, mask_of = inputs(args)
    settings = chosen_settings(args)
    try:
        args.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise MoebiusError(f"{args.out} cannot be made: {error.strerror}.") from error
    model = load_model(args, tell)
    done = skipped = failed = 0
    start = time.perf_counter()
    for image in images:
        outputs = numbered(args.out / image.name, settings.get("num_images", 1))
        if args.resume and all(p.exists() for p in outputs):
            skipped += 1
            continue
        try:
            if image.stem not in mask_of:
                raise UsageError(f"there is no mask of that stem in {args.masks}.")
            result = run_with_progress(model, image, mask_of[image.stem], settings, args)
            for i, path in enumerate(outputs):
                result.save(path, index=i, metadata=not args.no_metadata, quality=args.quality)
            for note in result.notes:
                tell(f"{image.name}: {note}")
            report(args, tell, result, outputs)
            done += 1
        except MoebiusError as error:
            failed += 1
            say_error(f"{image.name}: {error}")
    tell(f"{done} done, {skipped} skipped, {failed} failed in {time.perf_counter() - start:.1f} s")
    return 1 if failed else 0


def inputs(args: argparse.Namespace) -> tuple[list[Path], dict[str, Path]]:
    """The pictures in order, and the masks by the stem of the picture."""
    if not args.images.is_dir():
        raise UsageError(f"{args.images} is not a folder; `moebius inpaint` takes single pictures.")
    if not args.masks.exists():
        raise UsageError(f"{args.masks} is neither a folder of masks nor a mask.")
    images = [p for p in pictures_in(args.images) if not p.name.startswith(".")]
    if not images:
        raise UsageError(f"{args.images} holds no picture ({', '.join(PICTURES)}).")
    if args.out.exists() and any(args.out.samefile(p) for p in (args.images, args.masks)):
        raise UsageError(f"{args.out} is one of the inputs itself; give another folder for the results.")
    twice = sorted({p.stem for p in images if sum(q.stem == p.stem for q in images) > 1})
    if twice:
        raise UsageError(f"{args.images} holds several pictures named {', '.join(twice[:3])}; masks go by that name. Rename or move them.")
    if args.masks.is_dir():
        return images, {p.stem: p for p in pictures_in(args.masks)}
    return images, {p.stem: args.masks for p in images}


def pictures_in(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.suffix.lower() in PICTURES)
