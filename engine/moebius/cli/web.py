"""`moebius export-web`: the command of the static page."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from moebius.cli import options
from moebius.cli.load import load_model
from moebius.cli.output import say, say_nothing
from moebius.cli.progress import Transfer


def add_parser(commands: Any) -> None:
    p = commands.add_parser(
        "export-web",
        help="write a static page that runs the model in a browser",
        formatter_class=options.Narrow,
        usage="%(prog)s DIR [options]",
    )
    p.add_argument("folder", metavar="DIR", type=Path, help="a folder to make, an empty one, or one with such a page, which is replaced")
    options.add_model(p)
    p.add_argument(
        "--precision", dest="recorded", choices=["auto", "f32", "f16"], help="of the page: auto (f32), f32, or f16: half the download"
    )
    p.add_argument("--tile", choices=["gpu", "cpu"], help="cpu: for browsers without a graphics card (gpu)")
    p.add_argument("--serve", action="store_true", help="serve it to this machine's browsers until Ctrl-C; alone: the page that is there")
    p.add_argument("--port", metavar="N", type=options.port, default=8000, help="of --serve (8000); 0 takes a free one")
    p.add_argument("--quiet", action="store_true", help="errors only")
    # The run that the page is checked against is NumPy's, wherever the page will run.
    p.set_defaults(command=export_web, device="cpu", require_gpu=False, precision="f32", threads=None, matrix_units=False, low_memory=False)


def export_web(args: argparse.Namespace) -> int:
    from moebius.web import serve
    from moebius.web.export import check_target, is_page

    tell = say_nothing if args.quiet else say
    check_target(args.folder)
    if not args.serve:
        export_page(args, tell)
        tell(f"Serve it with any static server, such as: python -m http.server -d {args.folder}")
        return 0
    with serve.opened(args.folder, args.port) as server:
        if is_page(args.folder) and not any((args.model, args.vae, args.revision, args.synthetic, args.tile, args.recorded)):
            tell(f"{args.folder} holds a page already; name a model to write it anew")
        else:
            export_page(args, tell)
        serve.serve(server, tell)
    return 0


def export_page(args: argparse.Namespace, tell: Callable[..., None]) -> None:
    from moebius.inpaint.device import chosen_precision
    from moebius.web.export import export

    model = load_model(args, tell)
    tell("Recording the plans, and running the sample picture in float64 to check the page against")
    precision, progress = chosen_precision(args.recorded or "auto"), None if args.quiet else Transfer()
    size = export(model, args.folder, tile=args.tile or "gpu", precision=precision, progress=progress)
    tell(f"Wrote {args.folder} ({size / 1e6:.1f} MB, in {precision})")
