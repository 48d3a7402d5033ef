"""`moebius compare`: measure this machine into a fingerprint, or merge fingerprints into a report."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from moebius.cli.output import say
from moebius.errors import UsageError

TIMEOUT = 300.0


def add_parser(commands: Any) -> None:
    p = commands.add_parser(
        "compare",
        help="the same fixed set on every adapter and implementation; merge what several machines measured",
        usage="%(prog)s [--adapter NAME]… [--full] [--precision P] [--timeout S] [-o FILE.json] [--report PLACE]\n"
        "       %(prog)s FILE.json… [-o PLACE]",
        description="Without files: runs every op at edge and model shapes and the small model from end to end on every adapter found, "
        "each in a process of its own, and writes a fingerprint. With files: merges fingerprints into one report. "
        "Exit code 1 when a difference is more than rounding, or an adapter crashed, hung or failed.",
        epilog="PLACE is a folder (report.html, report.md, pictures), a .html or a .md file; without one the report is printed.",
    )
    p.add_argument("files", metavar="FILE.json", type=Path, nargs="*", help="fingerprints to merge")
    p.add_argument("--adapter", metavar="NAME", action="append", default=[], help="only adapters whose name has these words; repeatable")
    p.add_argument("--list", action="store_true", help="list the names and measure nothing")
    p.add_argument("--full", action="store_true", help="also one guided step of the full-size UNet")
    p.add_argument("--precision", choices=["f32", "f16"], default="f32", help="what GPUs compute in (f32); NumPy's columns are f32")
    p.add_argument("--timeout", metavar="S", type=float, default=TIMEOUT, help=f"seconds without a sign of life ({TIMEOUT:g})")
    p.add_argument("-o", "--output", metavar="PLACE", type=Path, help="the fingerprint (fingerprint.json); with files: the report")
    p.add_argument("--report", metavar="PLACE", type=Path, help="write the report too")
    p.set_defaults(command=compare)


def compare(args: argparse.Namespace) -> int:
    from moebius.check.compare import files
    from moebius.check.compare.publish import check_place, publish
    from moebius.check.compare.report import Report

    args.prints = bool(args.files) or args.list
    place = args.report
    check_place(place)
    if args.files:
        if args.adapter or args.full or args.list:
            raise UsageError("--adapter, --full and --list are for measuring; leave them out, or the files.")
        if args.output and args.report:
            raise UsageError("-o and --report both say where the report goes; give one of them.")
        place = args.report or args.output
        check_place(place)
        fingerprints = {path: files.load(path) for path in args.files}
    else:
        path, fingerprint = measured(args)
        if fingerprint is None:
            return 0
        files.save(path, files.dumped(fingerprint))
        say(f"Wrote {path}")
        args.prints = True
        fingerprints = {path: fingerprint}
    report = Report.of({str(path): fingerprint for path, fingerprint in fingerprints.items()})
    for written in publish(report, place):
        say(f"Wrote {written}")
    return 0 if report.ok else 1


def measured(args: argparse.Namespace) -> tuple[Path, Any]:
    """Where the fingerprint goes, and the fingerprint; None with --list."""
    from moebius.check.compare import adapters, collect, files

    if not 0 < args.timeout < 1e6:
        raise UsageError(f"--timeout is {args.timeout:g}; give the seconds an adapter may be silent, above 0.")
    path = args.output or Path("fingerprint.json")
    if path.suffix != ".json" or path.is_dir():
        raise UsageError(f"{path}: the fingerprint is a .json file; --report says where the report goes.")
    if not args.list:
        files.check_folder(path.parent)  # before minutes of measuring, not after
    targets = adapters.chosen(adapters.targets(collect.ask, say), args.adapter)
    if args.list:
        for target in targets:
            print(target.name)
        return path, None
    return path, collect.fingerprint(targets, args.full, args.timeout, say, args.precision)
