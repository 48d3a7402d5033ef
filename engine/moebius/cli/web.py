"""`moebius export-web`: the command of the static page."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from moebius.cli import options
from moebius.cli.load import load_model
from moebius.cli.output import say, say_nothing
from moebius.cli.progress import Transfer
from moebius.errors import MoebiusError

LOOPBACK = "127.0.0.1"


def add_parser(commands: Any) -> None:
    p = commands.add_parser(
        "export-web",
        help="write a static page that runs the model in a browser",
        formatter_class=options.Narrow,
        usage="%(prog)s DIR [options]",
    )
    p.add_argument("folder", metavar="DIR", type=Path, help="a folder to make, or an empty one")
    options.add_model(p)
    p.add_argument("--tile", choices=["gpu", "cpu"], default="gpu", help="cpu: for browsers without a graphics card (gpu)")
    p.add_argument("--force", action="store_true", help="replace the exported page that is in DIR")
    p.add_argument("--serve", action="store_true", help="then serve it to this machine's browsers until Ctrl-C")
    p.add_argument("--port", metavar="N", type=int, default=8000, help="of --serve (8000); 0 takes a free one")
    p.add_argument("--quiet", action="store_true", help="errors only")
    # The run that the page is checked against is NumPy's, wherever the page will run.
    p.set_defaults(command=export_web, device="cpu", require_gpu=False, precision="f32", threads=None)


def export_web(args: argparse.Namespace) -> int:
    from moebius.web.export import check_target, export

    tell = say_nothing if args.quiet else say
    check_target(args.folder, args.force)
    model = load_model(args, tell)
    tell("Recording the plans, and running the sample picture in float64 to check the page against")
    size = export(model, args.folder, tile=args.tile, force=args.force, progress=None if args.quiet else Transfer())
    tell(f"Wrote {args.folder} ({size / 1e6:.1f} MB)")
    if args.serve:
        serve(args.folder, args.port, tell)
    else:
        tell(f"Serve it with any static server, such as: python -m http.server -d {args.folder}")
    return 0


class Handler(SimpleHTTPRequestHandler):
    extensions_map = SimpleHTTPRequestHandler.extensions_map | {".js": "text/javascript"}  # some registries know another type

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing for every file."""


def serve(folder: Path, port: int, tell: Callable[..., None]) -> None:
    """To this machine alone, until Ctrl-C."""
    try:
        server = ThreadingHTTPServer((LOOPBACK, port), partial(Handler, directory=str(folder)))
    except (OSError, OverflowError) as error:
        raise MoebiusError(f"Port {port} cannot be served on ({error}); choose another with --port, or --port 0 for a free one.") from error
    with server:
        tell(f"Serving it at http://localhost:{server.server_port} until Ctrl-C")
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            tell("")
