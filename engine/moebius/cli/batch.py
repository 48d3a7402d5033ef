"""`moebius batch`: a folder of pictures."""

from __future__ import annotations

import argparse
import json
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moebius.cli import options
from moebius.cli.endings import failure, told
from moebius.cli.inpaint import chosen_settings, mask_settings, numbered, report
from moebius.cli.load import load_model
from moebius.cli.output import say, say_nothing
from moebius.cli.progress import Pictures
from moebius.errors import EmptyMaskError, MoebiusError, UsageError

if TYPE_CHECKING:
    from moebius.cli.pairs import Pair
    from moebius.inpaint.inpainter import Inpainter
    from moebius.inpaint.result import Result

LISTED = 12  # names in a line


def add_parser(commands: Any) -> None:
    p = commands.add_parser(
        "batch", help="the same for folders", formatter_class=options.Narrow, usage="%(prog)s IMAGES MASKS OUT [options]"
    )
    p.add_argument("images", metavar="IMAGES", type=Path, help="a folder")
    p.add_argument("masks", metavar="MASKS", type=Path, help="a folder of masks, a.* or a_mask.* for a.jpg (may be IMAGES); or one for all")
    p.add_argument("out", metavar="OUT", type=Path, help="a folder, made when missing; the images' names and formats")
    p.add_argument("--recursive", action="store_true", help="subfolders too; OUT gets the same ones")
    p.add_argument("--resume", action="store_true", help="skip images whose result is there, of the same settings and model")
    options.add_settings(p)
    options.add_consent(p)
    p.add_argument("--like", metavar="FILE", type=Path, help="the settings that made FILE; options given here win")
    options.add_model(p)
    options.add_device(p)
    options.add_output(p)
    p.set_defaults(command=batch)


def batch(args: argparse.Namespace) -> int:
    from moebius.cli.pairs import find

    tell = say_nothing if args.quiet else say
    found = find(args.images, args.masks, args.out, args.recursive)
    settings = chosen_settings(args)
    make_folder(args.out)
    for why, names in found.ignored.items():
        if names:
            more = f", … and {len(names) - LISTED} more" if len(names) > LISTED else ""
            tell(f"Ignored, {why}: {', '.join(names[:LISTED])}{more}")
    model = load_model(args, tell)
    for note in model.notes:
        tell(note)
    bar = Pictures(len(found.pairs), silent=args.quiet or args.json)
    work = Work(args, model, settings, bar)
    try:
        for pair in found.pairs:
            bar.begin(pair.image.relative_to(args.images).as_posix())
            bar.end(work.one(pair))
    finally:
        bar.close()
    counts = {what: bar.ended.count(what) for what in ("done", "skipped", "failed")}
    tell(f"{', '.join(f'{n} {what}' for what, n in counts.items())} in {time.perf_counter() - bar.start:.1f} s")
    if args.json:
        ignored = [name for names in found.ignored.values() for name in names]
        print(json.dumps({"summary": {**counts, "ignored": ignored, "seconds": round(time.perf_counter() - bar.start, 3)}}))
    return 1 if counts["failed"] else 0


class Work:
    """What a batch does with a picture."""

    def __init__(self, args: argparse.Namespace, model: Inpainter, settings: dict[str, Any], bar: Pictures) -> None:
        self.args, self.model, self.settings, self.bar = args, model, settings, bar
        self.tell: Callable[..., None] = say_nothing if args.quiet else bar.say

    def one(self, pair: Pair) -> str:
        """done, skipped or failed. What is wrong with one picture does not end the batch."""
        given = {"image": str(pair.image), **({"mask": str(pair.mask)} if pair.mask else {})}
        try:
            return self.filled(pair, given)
        except (MoebiusError, MemoryError) as error:
            if isinstance(error, MemoryError):
                self.model.forget_denoisers()  # what the next picture needs is taken again
            sentence, code = told(error)
            self.bar.say_error(f"{self.bar.doing}: {sentence}")
            if self.args.json:
                print(json.dumps({**given, **failure(sentence, type(error).__name__, code)}))
            return "failed"

    def filled(self, pair: Pair, given: Mapping[str, str]) -> str:
        from moebius.pictures import mask as masks
        from moebius.pictures import photo as photos

        args, settings = self.args, self.settings
        outputs = numbered(pair.out, settings.get("num_images", 1))
        if args.resume and self.is_there(outputs):
            if args.json:
                print(json.dumps({**given, "skipped": True, "output": [str(p) for p in outputs]}))
            return "skipped"
        if pair.mask is None:
            raise UsageError(pair.problem)
        photo = photos.load(pair.image, args.max_pixels)
        make_folder(pair.out.parent)
        load = partial(masks.load, pair.mask, photo, force=args.yes, max_pixels=args.max_pixels, **mask_settings(settings))
        try:
            mask = load(allow_empty=any(settings.get("extend", ())))
        except EmptyMaskError:
            if not args.allow_empty:
                raise
            if pair.out.suffix == pair.image.suffix:
                return self.copied(pair.image, outputs, given)
            mask = load(allow_empty=True)
        result = self.run(photo, mask)
        for i, path in enumerate(outputs):
            for note in result.save(path, index=i, metadata=not args.no_metadata, quality=args.quality):
                self.tell(f"{self.bar.doing}: {note}")
        report(args, partial(self.tell, self.bar.place), result, outputs, dict(given))
        return "done"

    def copied(self, image: Path, outputs: Sequence[Path], given: Mapping[str, str]) -> str:
        """The picture byte by byte, where there is nothing to fill in."""
        from moebius.files import open_regular, replacing

        for path in outputs:
            try:
                with open_regular(image) as source, replacing(path) as target:
                    shutil.copyfileobj(source, target)
            except OSError as error:
                raise MoebiusError(f"{path} cannot be written: {error.strerror or error}.") from error
        self.tell(f"{self.bar.place} Copied to {', '.join(map(str, outputs))}: the mask marks nothing")
        if self.args.json:
            print(json.dumps({**given, "copied": True, "output": [str(p) for p in outputs]}))
        return "done"

    def run(self, photo: Any, mask: Any) -> Result:
        run = self.model.steps(photo, mask, **self.settings)
        for note in run.notes[len(self.model.notes) :]:  # those of the model were told before
            self.tell(f"{self.bar.doing}: {note}")
        for step in run:
            if not self.bar.silent:
                step.state.estimate()  # waits for the GPU: without it steps would count that are only queued
                self.bar.step(step.index + 1, step.total)
        return run.result

    def is_there(self, outputs: Sequence[Path]) -> bool:
        """Whether all of these were made with the same settings and model; says of one that is there and was not why it is made again."""
        from moebius.inpaint.record import differing, of_image, record, resolved
        from moebius.inpaint.settings import Settings
        from moebius.pictures.metadata import read_metadata

        if not all(path.exists() for path in outputs):
            return False
        wanted = record(self.model, resolved(Settings(**self.settings), self.model))
        for i, path in enumerate(outputs):
            try:
                made = read_metadata(path)
            except MoebiusError as error:
                self.tell(f"{error} It is made again.")
                return False
            if made is None:
                self.tell(f"{path} does not say how it was made; it is made again.")
                return False
            if others := differing(made, of_image(wanted, i)):
                self.tell(f"{path} was made with another {', '.join(others)}; it is made again.")
                return False
        return True


def make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise MoebiusError(f"{folder} cannot be made: {error.strerror}.") from error
