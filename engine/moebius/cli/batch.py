"""`moebius batch`: a folder of pictures, or a list of them."""

from __future__ import annotations

import argparse
import json
import os
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from moebius.cli import options
from moebius.cli.endings import DEBUG, failure, tidied, told
from moebius.cli.inpaint import chosen_settings
from moebius.cli.like import compare_model
from moebius.cli.load import SYNTHETIC, load_model, recipe
from moebius.cli.output import say, say_nothing
from moebius.cli.progress import Pictures
from moebius.errors import UsageError

if TYPE_CHECKING:
    from moebius.many.batch import Listed, Summary
    from moebius.many.jobs import Job, Outcome
    from moebius.many.places import Place
    from moebius.many.worker import Options

    Made = tuple[Any, Pictures, Iterator[Outcome]]


def place(text: str) -> Place:
    from moebius.many import places

    return places.place(text)


LISTED = 12  # names in a line


def add_parser(commands: Any) -> None:
    p = commands.add_parser(
        "batch", help="the same for folders", formatter_class=options.Narrow, usage="%(prog)s IMAGES MASKS OUT [options]"
    )
    p.add_argument("images", metavar="IMAGES", type=place, help="a folder, or a manifest: .csv or .jsonl (docs/batch.md); or its URL")
    p.add_argument(
        "masks", metavar="MASKS", type=place, help="a folder, in it a.* or a_mask.* for a.jpg (may be IMAGES); or one mask for all"
    )
    p.add_argument("out", metavar="OUT", type=place, help="a folder, made when missing; the images' names and formats")
    p.add_argument("--recursive", action="store_true", help="subfolders too; OUT gets the same ones")
    p.add_argument("--resume", action="store_true", help="skip images whose result is there, of the same settings and model")
    p.add_argument("--retries", metavar="N", type=retries, default=2, help="how often a picture is tried again after bad luck (2)")
    p.add_argument("--frames", action="store_true", help="the images of a folder are those of a film: each starts from the last one")
    p.add_argument("--ray", metavar="ADDRESS", nargs="?", const="", help="on the machines of this Ray cluster; without ADDRESS on this one")
    p.add_argument("--workers", metavar="N", type=workers, help="of --ray (one a GPU; of the CPU device one for each of its threads' CPUs)")
    options.add_settings(p)
    options.add_consent(p)
    p.add_argument("--like", metavar="FILE", type=Path, help="the settings that made FILE; options given here win")
    options.add_model(p)
    options.add_device(p)
    options.add_output(p)
    p.set_defaults(command=batch)


def retries(text: str) -> int:
    return options.whole(text, 0, 1000)


def workers(text: str) -> int:
    return options.whole(text, 1, 10_000)


def batch(args: argparse.Namespace) -> int:
    from moebius.many.batch import Summary, absolute, listed

    tell = say_nothing if args.quiet else say
    if args.workers is not None and args.ray is None:
        raise UsageError("--workers are those of --ray; give both, or neither.")
    recipe(args)  # its options fit together
    if args.ray is not None:
        args.images, args.masks, args.out = (absolute(p) for p in (args.images, args.masks, args.out))
    wanted = chosen_options(args)
    work = listed(args.images, args.masks, args.out, wanted, args.recursive)
    from moebius.many.places import make_folder

    make_folder(args.out)
    for why, names in work.ignored.items():
        if names:
            more = f", … and {len(names) - LISTED} more" if len(names) > LISTED else ""
            tell(f"Ignored, {why}: {', '.join(names[:LISTED])}{more}")
    with outcomes(args, wanted, work) as (model, bar, found):
        summary = Summary(work.count)
        for outcome in found:
            if outcome.how != "skipped":
                report(args, outcome, model, bar)
            elif args.json:
                line({**outcome.job.inputs, "skipped": True, "output": outcome.output})
            bar.end(outcome.how)
            summary.add(outcome)
    end(args, summary, work)
    return 1 if summary.failed else 0


def chosen_options(args: argparse.Namespace) -> Options:
    from moebius.many.worker import Options

    return Options(
        settings=chosen_settings(args),
        resume=args.resume,
        force=args.yes,
        allow_empty=args.allow_empty,
        max_pixels=args.max_pixels,
        metadata=not args.no_metadata,
        quality=args.quality,
        retries=args.retries,
        frames=args.frames,
    )


def outcomes(args: argparse.Namespace, wanted: Options, work: Listed) -> AbstractContextManager[Made]:
    """The model, or what the workers say of theirs; the bar; and what becomes of the pictures, of which the first is not begun yet."""
    made = on_this_machine if args.ray is None else on_a_cluster
    return made(args, wanted, work, say_nothing if args.quiet else say)


@contextmanager
def on_this_machine(args: argparse.Namespace, wanted: Options, work: Listed, tell: Callable[[str], None]) -> Iterator[Made]:
    from moebius.many import here
    from moebius.many.worker import Worker

    silent = args.quiet or args.json
    model = load_model(args, tell)
    for note in model.notes:
        tell(note)
    bar = Pictures(work.count, silent)

    def on_step(job: Job, done: int, total: int) -> None:
        bar.step(job.index, job.name, done, total)

    found = here.outcomes(work.jobs(), Worker(model, wanted, None if silent else on_step))
    try:
        yield model, bar, found
    finally:
        found.close()
        bar.close()


@contextmanager
def on_a_cluster(args: argparse.Namespace, wanted: Options, work: Listed, tell: Callable[[str], None]) -> Iterator[Made]:
    from moebius.many import cluster

    with cluster.Cluster(recipe(args), wanted, args.ray, args.workers, tell) as machines:
        first = machines.first()
        if args.synthetic:
            tell(SYNTHETIC)
        tell(f"Device: {first.device}, in {first.precision}; workers: {len(machines.slots)}")
        for note in first.notes:
            tell(note)
        if getattr(args, "like_record", None) is not None:
            compare_model(args, SimpleNamespace(identity=first.identity, digests=first.digests, model=first.model), tell)  # type: ignore[arg-type]
        bar = Pictures(work.count, args.quiet or args.json)
        try:
            yield first, bar, machines.outcomes(work.jobs())
        finally:
            bar.close()


def report(args: argparse.Namespace, outcome: Outcome, model: Any, bar: Pictures) -> None:
    """What was made of what, and how long it took; or why not."""
    tell = say_nothing if args.quiet else bar.say
    name = bar.named(outcome.job.index, outcome.job.name)
    for note in outcome.notes:
        tell(f"{name}: {note}")
    if outcome.error is not None:
        if os.environ.get(DEBUG, "0") not in ("", "0"):
            traceback.print_exception(outcome.error)
        sentence, code = told(outcome.error)
        sentence = tidied(sentence)
        bar.say_error(f"{name}: {sentence}")
        if args.json:
            line({**outcome.job.inputs, **failure(sentence, type(outcome.error).__name__, code)})
        return
    where = ", ".join(outcome.output)
    about: dict[str, Any] = {"output": outcome.output}
    if outcome.how == "copied":
        tell(f"{bar.place} Copied to {where}: the mask marks nothing")
        about |= {"copied": True}
    else:
        seconds = ", ".join(f"{stage} {t:.2f} s" for stage, t in outcome.metadata["timings"].items())
        tell(f"{bar.place} Wrote {where} ({seconds})")
        about |= {**outcome.metadata, "windows": outcome.windows, "notes": [*model.notes, *outcome.notes]}
    if args.json:
        line({**outcome.job.inputs, **about})


def line(of: Any) -> None:
    """A line of data, at once: whoever reads along has each picture when it has ended."""
    print(json.dumps(of), flush=True)


def end(args: argparse.Namespace, summary: Summary, work: Listed) -> None:
    """How many of each, and what every device has done."""
    tell = say_nothing if args.quiet else say
    tell(f"{', '.join(f'{n} {what}' for what, n in summary.counts.items())} in {summary.seconds:.1f} s")
    for device, did in summary.throughput.items():
        tell(f"{device}: {did['pictures']} pictures, {did['per_second']:.2f} a second, {100 * did['busy']:.0f} % of the time at work")
    if summary.failed and not args.quiet:
        names: Sequence[str] = [outcome.job.name for outcome in summary.failures]
        more = f", … and {len(names) - LISTED} more" if len(names) > LISTED else ""
        tell(f"Failed: {', '.join(names[:LISTED])}{more}")
    if args.json:
        ignored = [name for names in work.ignored.values() for name in names]
        rest = {"ignored": ignored, "seconds": round(summary.seconds, 3), "devices": summary.throughput}
        line({"summary": {**summary.counts, **rest}})
