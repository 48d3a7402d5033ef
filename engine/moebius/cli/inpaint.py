"""The commands that make pictures and fetch weights: inpaint, batch, info, download, cache."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from moebius import sample
from moebius.errors import MoebiusError, UsageError

BOX_HELP = "fill this rectangle too; repeatable"
PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp", ".gif")


def add_parsers(commands: Any) -> None:
    p = commands.add_parser(
        "inpaint", help="fill in the white part of a mask", formatter_class=Narrow, usage="%(prog)s IMAGE [MASK] -o FILE [options]"
    )
    p.add_argument("image", metavar="IMAGE", type=Path, nargs="?")
    p.add_argument("mask", metavar="MASK", type=Path, nargs="?", help="white = fill in (default: boxes, or the image's transparency)")
    p.add_argument("-o", "--output", metavar="FILE", type=Path, required=True)
    p.add_argument("--sample", action="store_true", help="the picture and mask that come with moebius, in place of IMAGE and MASK")
    p.add_argument("--box", metavar="X,Y,W,H", type=box, action="append", default=[], help=BOX_HELP)
    settings_options(p)
    p.add_argument("--like", metavar="FILE", type=Path, help="the settings that made FILE; options given here win")
    p.add_argument("--overwrite", action="store_true", help="let the output take the image's place")
    model_options(p)
    p.set_defaults(command=inpaint)

    p = commands.add_parser("batch", help="the same for folders", formatter_class=Narrow, usage="%(prog)s IMAGES MASKS OUT [options]")
    p.add_argument("images", metavar="IMAGES", type=Path, help="a folder")
    p.add_argument("masks", metavar="MASKS", type=Path, help="a folder of masks with the images' stems, or one mask for all")
    p.add_argument("out", metavar="OUT", type=Path, help="a folder, made when missing; the images' names and formats")
    p.add_argument("--resume", action="store_true", help="skip images whose result is there")
    settings_options(p)
    model_options(p)
    p.set_defaults(command=batch)

    p = commands.add_parser("info", help="print what made a picture")
    p.add_argument("file", metavar="FILE", type=Path)
    p.add_argument("--json", action="store_true")
    p.set_defaults(command=info)

    p = commands.add_parser("download", help="fetch and convert a published model ahead")
    p.add_argument("name", metavar="NAME", help="pretrained, places2, celebahq or ffhq")
    p.add_argument("--revision", metavar="REV")
    p.add_argument("--dry-run", action="store_true", help="only say what would be fetched")
    p.set_defaults(command=download)

    p = commands.add_parser("cache", help="list the converted weights, or remove them")
    p.add_argument("--clear", metavar="TEXT", nargs="?", const="", help="remove what has TEXT in its source (without TEXT: all)")
    p.set_defaults(command=cache)


class Narrow(argparse.HelpFormatter):
    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=26, width=100)


def settings_options(p: argparse.ArgumentParser) -> None:
    """Defaults are None: what is not given comes from --like, then from `Settings`."""
    p.add_argument("--steps", metavar="N", type=int, help="sampling steps (20)")
    p.add_argument("--guidance", metavar="G", type=float, help="how strongly to follow the condition (2.5); 1 costs half")
    p.add_argument("--strength", metavar="S", type=float, help="how much of the schedule to run (0.99); 1 starts from pure noise")
    p.add_argument("--noise-offset", metavar="O", type=float, help="one shift a channel added to the noise (0.0357)")
    p.add_argument("--seed", metavar="N", type=int, help="of the noise (0)")
    p.add_argument("--rng", choices=["numpy", "torch"], help="whose noise (numpy); torch draws what PyTorch's CPU generator draws")
    p.add_argument("-n", "--num-images", metavar="N", type=int, help="results with seeds SEED, SEED+1, … (1)")
    p.add_argument("--crop", choices=["auto", "full", "upstream"], help="where to work (auto): windows, all, or as published")
    p.add_argument("--blend", choices=["paste", "match", "compensate", "raw"], help="how to put it back (nano: match, else paste)")
    p.add_argument("--grow", metavar="PX", type=float, help="grow the mask (0)")
    p.add_argument("--feather", metavar="PX", type=float, help="blur of the seam (match: 0, else the published 3 of the model's pixels)")
    p.add_argument("--invert", action="store_true", default=None, help="fill in the black part of the mask")


def weights_options(p: argparse.ArgumentParser) -> None:
    """What `load_model` reads, but for --quiet."""
    p.add_argument("--model", metavar="NAME", help="pretrained, places2, celebahq, ffhq, nano, a folder or a file (nano)")
    p.add_argument("--vae", metavar="FILE", type=Path, help="the VAE's weights, where they are not beside the model's")
    p.add_argument("--revision", metavar="REV", help="of a published model")
    p.add_argument("--synthetic", choices=["tiny", "full"], help="weights made from a seed instead: the filling is noise")
    p.add_argument("--device", metavar="NAME", default="auto", help="auto (best GPU, else cpu), cpu, or an adapter's name or index")
    p.add_argument("--require-gpu", action="store_true", help="fail rather than compute on a CPU")
    p.add_argument("--precision", choices=["f32"], default="f32")


def model_options(p: argparse.ArgumentParser) -> None:
    weights_options(p)
    p.add_argument("--no-metadata", action="store_true", help="do not write the settings into the picture")
    p.add_argument("--quality", metavar="Q", type=quality, help="of a JPEG or WebP: 1 to 100, or keep")
    p.add_argument("--quiet", action="store_true", help="errors only")
    p.add_argument("--json", action="store_true", help="one line a picture: settings, timings, device, output")


def box(text: str) -> tuple[int, ...]:
    values = tuple(int(v) for v in text.split(","))
    if len(values) != 4:
        raise ValueError
    return values


def quality(text: str) -> int | str:
    if text == "keep":
        return text
    value = int(text)
    if not 1 <= value <= 100:
        raise ValueError
    return value


# inpaint -------------------------------------------------------------------------------------------------------------


def inpaint(args: argparse.Namespace) -> int:
    from moebius.pictures import mask as masks
    from moebius.pictures import photo as photos
    from moebius.pictures.save import check_fits

    say = (lambda *_: None) if args.quiet else _say
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
    mask: Any = args.box or args.mask
    if args.box and args.mask is not None:  # boxes join a mask
        loaded = masks.load(args.mask, photo)
        for note in loaded.notes:
            say(note)
        mask = masks.boxes(args.box, *photo.size) | loaded.fill
    elif args.box:
        masks.boxes(args.box, *photo.size)  # what is wrong with them is said before anything is loaded
    elif mask is None and photo.alpha is None:
        raise UsageError("There is no mask, and the image has no transparency to take one from; give a mask or --box.")
    model = load_model(args, say)
    result = run_with_progress(model, photo, mask, settings, args)
    for note in result.notes:
        say(note)
    for i, path in enumerate(outputs):
        for note in result.save(path, index=i, metadata=not args.no_metadata, quality=args.quality):
            say(note)
    report(args, say, result, outputs)
    return 0


def report(args: argparse.Namespace, say: Callable[..., None], result: Any, outputs: Sequence[Path]) -> None:
    if args.json:
        print(
            json.dumps(
                {**result.metadata, "windows": len(result.windows), "notes": list(result.notes), "output": [str(p) for p in outputs]}
            )
        )
    else:
        seconds = ", ".join(f"{stage} {t:.2f} s" for stage, t in result.timings.items())
        say(f"Wrote {', '.join(map(str, outputs))} ({seconds})")


def chosen_settings(args: argparse.Namespace) -> dict[str, Any]:
    from moebius.inpaint.inpainter import Settings
    from moebius.pictures.metadata import read_metadata

    names = [f.name for f in fields(Settings)]
    settings: dict[str, Any] = {}
    if getattr(args, "like", None) is not None:
        record = read_metadata(args.like)
        if record is None:
            raise UsageError(f"{args.like} does not say how it was made; only pictures written by moebius do.")
        settings = {k: v for k, v in record.items() if k in names}
        say_same_model(args, record)
    settings |= {k: getattr(args, k) for k in names if getattr(args, k) is not None}
    Settings(**settings)  # what is wrong is said before anything is loaded
    return settings


def say_same_model(args: argparse.Namespace, record: dict[str, Any]) -> None:
    """--like takes the model along, where it has a name that can be loaded again and none was given."""
    model = str(record.get("model", ""))
    if args.model is None and args.synthetic is None:
        if model in ("synthetic tiny", "synthetic full"):
            args.synthetic = model.split()[1]
        elif model in ("pretrained", "places2", "celebahq", "ffhq", "nano"):
            args.model, args.revision = model, args.revision or record.get("revision")
        else:
            raise UsageError(f"{args.like} was made with {model or 'an unnamed model'}; say where that is with --model.")


def refuse_to_replace(outputs: Sequence[Path], inputs: Sequence[Path]) -> None:
    for output in outputs:
        for path in inputs:
            if output.exists() and path.exists() and output.samefile(path):
                raise UsageError(f"{output} is one of the inputs itself; give another output, or --overwrite.")


def check_output(path: Path) -> None:
    from moebius.pictures.formats import format_of

    format_of(path)
    if not path.parent.is_dir():
        raise MoebiusError(f"{path} cannot be written: there is no folder {path.parent}.")


def load_model(args: argparse.Namespace, say: Callable[..., None], progress: Callable[[str, int, int | None], None] | None = None) -> Any:
    from moebius.inpaint.device import open_device
    from moebius.inpaint.inpainter import Inpainter
    from moebius.model import unet, vae
    from moebius.model.synthetic import synthetic

    if args.synthetic:
        ops = open_device(args.device, require_gpu=args.require_gpu, precision=args.precision)
        small = args.synthetic == "tiny"
        net_config = unet.UNetConfig.tiny() if small else unet.UNetConfig.full()
        vae_config = vae.VAEConfig.tiny() if small else vae.VAEConfig.full()
        net = unet.UNet(net_config, synthetic(unet.shapes(net_config), 0), ops)
        model = Inpainter(net, vae.VAE(vae_config, synthetic(vae.shapes(vae_config), 0), ops), model=f"synthetic {args.synthetic}")
        say("Weights: synthetic. They were made from a seed, not trained: every op runs, but the hole is filled with noise.")
    else:
        model = Inpainter.from_pretrained(
            args.model or "nano",
            device=args.device,
            require_gpu=args.require_gpu,
            precision=args.precision,
            vae=args.vae,
            revision=args.revision,
            progress=progress or (None if args.quiet else Transfer()),
        )
    say(f"Device: {model.device}")
    return model


def run_with_progress(model: Any, photo: Any, mask: Any, settings: dict[str, Any], args: argparse.Namespace) -> Any:
    run = model.steps(photo, mask, **settings)
    bar = None if args.quiet or args.json or not sys.stderr.isatty() else Bar()
    try:
        for step in run:
            if bar is not None:
                step.state.estimate()  # waits for the GPU: a bar of what was merely asked of it would lie
                bar.show(step.index + 1, step.total)
    finally:
        if bar is not None:
            bar.clear()
    return run.result


def numbered(path: Path, count: int) -> list[Path]:
    return [path] if count == 1 else [path.with_name(f"{path.stem}-{i + 1}{path.suffix}") for i in range(count)]


def _say(*words: object) -> None:
    print(*words, file=sys.stderr, flush=True)


class Bar:
    """[#####-----] 5/19  120 ms/step  1.7 s left — on a terminal only."""

    def __init__(self) -> None:
        self.start: float | None = None

    def show(self, done: int, total: int) -> None:
        now = time.perf_counter()
        if self.start is None:  # the first step also encodes and warms up; it would spoil the estimate
            self.start, self.first = now, done
        text = ""
        if done > self.first:
            each = (now - self.start) / (done - self.first)
            text = f"  {1000 * each:.0f} ms/step  {each * (total - done):.1f} s left"
        filled = 24 * done // max(total, 1)
        print(f"\r[{'#' * filled}{'-' * (24 - filled)}] {done}/{total}{text}\x1b[K", end="", file=sys.stderr, flush=True)

    def clear(self) -> None:
        print("\r\x1b[K", end="", file=sys.stderr, flush=True)


class Transfer:
    """Says how far a download or a conversion is: a line that overwrites itself on a terminal, a line every ten percent elsewhere."""

    def __init__(self) -> None:
        self.doing, self.said = "", -1

    def __call__(self, doing: str, done: int, total: int | None) -> None:
        percent = 100 * done // total if total else 0
        terminal = sys.stderr.isatty()
        if doing == self.doing and (percent == self.said if terminal else percent // 10 == self.said // 10):
            return
        self.doing, self.said = doing, percent
        size = f"{done / 1e6:.0f} of {total / 1e6:.0f} MB" if total else f"{done / 1e6:.0f} MB"
        end = "\n" if not terminal or (total and done >= total) else ""
        print(f"{chr(13) if terminal else ''}{doing}: {size}{chr(27) + '[K' if terminal else ''}", end=end, file=sys.stderr, flush=True)


# batch ---------------------------------------------------------------------------------------------------------------


def batch(args: argparse.Namespace) -> int:
    say = (lambda *_: None) if args.quiet else _say
    if not args.images.is_dir():
        raise UsageError(f"{args.images} is not a folder; `moebius inpaint` takes single pictures.")
    if not args.masks.exists():
        raise UsageError(f"{args.masks} is neither a folder of masks nor a mask.")
    images = sorted(p for p in args.images.iterdir() if p.suffix.lower() in PICTURES and not p.name.startswith("."))
    if not images:
        raise UsageError(f"{args.images} holds no picture ({', '.join(PICTURES)}).")
    by_stem = {p.stem: p for p in sorted(args.masks.iterdir()) if p.suffix.lower() in PICTURES} if args.masks.is_dir() else None
    if args.out.exists() and any(args.out.samefile(p) for p in (args.images, args.masks)):
        raise UsageError(f"{args.out} is one of the inputs itself; give another folder for the results.")
    twice = sorted({p.stem for p in images if sum(q.stem == p.stem for q in images) > 1})
    if twice:
        raise UsageError(f"{args.images} holds several pictures named {', '.join(twice[:3])}; masks go by that name. Rename or move them.")
    settings = chosen_settings(args)
    try:
        args.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise MoebiusError(f"{args.out} cannot be made: {error.strerror}.") from error
    model = load_model(args, say)
    done = skipped = failed = 0
    start = time.perf_counter()
    for image in images:
        outputs = numbered(args.out / image.name, settings.get("num_images", 1))
        if args.resume and all(p.exists() for p in outputs):
            skipped += 1
            continue
        try:
            mask = args.masks if by_stem is None else by_stem.get(image.stem)
            if mask is None:
                raise UsageError(f"there is no mask of that stem in {args.masks}.")
            result = run_with_progress(model, image, mask, settings, args)
            for i, path in enumerate(outputs):
                result.save(path, index=i, metadata=not args.no_metadata, quality=args.quality)
            for note in result.notes:
                say(f"{image.name}: {note}")
            report(args, say, result, outputs)
            done += 1
        except MoebiusError as error:
            failed += 1
            _say(f"moebius: {image.name}: {error}")
    say(f"{done} done, {skipped} skipped, {failed} failed in {time.perf_counter() - start:.1f} s")
    return 1 if failed else 0


# info, download, cache -----------------------------------------------------------------------------------------------


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


def download(args: argparse.Namespace) -> int:
    from moebius.weights import store

    for item in store.download(args.name, revision=args.revision, dry_run=args.dry_run, progress=Transfer()):
        size = "of unknown size" if item.size is None else f"{item.size / 1e6:.1f} MB"
        print(f"{item.state:8} {size:>16}  {item.file}  {item.commit or ''}")
    return 0


def cache(args: argparse.Namespace) -> int:
    from moebius.weights import store

    entries = store.cache_entries() if args.clear is None else store.clear_cache(args.clear)
    for entry in entries:
        print(f"{entry.size / 1e6:9.1f} MB  {entry.path.name}  {', '.join(entry.sources)}")
    total = f"{len(entries)} files, {sum(e.size for e in entries) / 1e6:.1f} MB"
    print(f"{'Removed ' if args.clear is not None else ''}{total} in {store.cache_folder()}")
    return 0
