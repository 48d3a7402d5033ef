"""`moebius download` and `moebius cache`: published weights, fetched ahead, and what they left on the disk."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from moebius.cli.output import say
from moebius.cli.progress import Transfer
from moebius.errors import UsageError, did_you_mean, shown
from moebius.weights.published import FOLDERS, NAMES

if TYPE_CHECKING:
    from moebius.weights.cache import CacheEntry


def add_parsers(commands: Any) -> None:
    p = commands.add_parser("download", help="fetch and convert a published model ahead")
    p.add_argument("name", metavar="NAME", help=NAMES)
    p.add_argument("--revision", metavar="REV")
    p.add_argument("--precision", choices=["f32", "f16"], default="f32", help="of the copies kept (f32); f16: half the size")
    p.add_argument("--dry-run", action="store_true", help="only say what would be fetched")
    p.set_defaults(command=download)

    p = commands.add_parser("cache", help="list the converted weights, or remove them")
    which = p.add_mutually_exclusive_group()
    which.add_argument("--clear", metavar="TEXT", nargs="?", const="", help="list and remove what has TEXT in its source (no TEXT: all)")
    which.add_argument("--check", action="store_true", help="read every copy through; what is damaged is set aside")
    p.set_defaults(command=cache)


def download(args: argparse.Namespace) -> int:
    from moebius.weights import store

    if args.name not in FOLDERS:
        raise UsageError(f"{args.name!r} is no published model. There are {NAMES}.{did_you_mean(args.name, FOLDERS)}")
    notes: list[str] = []
    which: dict[str, Any] = {"revision": args.revision, "precision": args.precision}
    items = store.download(args.name, **which, dry_run=args.dry_run, progress=Transfer(), notes=notes)
    for note in notes:
        say(note)
    for item in items:
        size = "of unknown size" if item.size is None else f"{item.size / 1e6:.1f} MB"
        print(f"{item.state:8} {size:>16}  {item.file}  {item.commit or ''}")
    return 0


def cache(args: argparse.Namespace) -> int:
    from moebius.weights.cache import cache_entries, check_all, remove
    from moebius.weights.folders import cache_folder

    if args.check:
        return check(check_all())
    args.prints = args.clear is None
    entries = cache_entries(args.clear or "")
    for entry in entries:
        print(shown(f"{entry.size / 1e6:9.1f} MB  {entry.path.name}  {', '.join(entry.sources)}"), flush=True)
    if args.clear is not None:
        remove(entries)
    total = f"{len(entries)} files, {sum(e.size for e in entries) / 1e6:.1f} MB"
    print(f"{'Removed ' if args.clear is not None else ''}{total} in {cache_folder()}")
    return 0


def check(found: Iterable[tuple[CacheEntry, str]]) -> int:
    damaged = 0
    for entry, note in found:
        print(shown(f"{'damaged' if note else 'sound':8} {entry.path.name}  {note}".rstrip()), flush=True)
        damaged += bool(note)
    return 1 if damaged else 0
