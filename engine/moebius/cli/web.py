"""`moebius export-web`: the command of the static page."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from moebius.cli import inpaint as cli_run
from moebius.errors import MoebiusError

LOOPBACK = "127.0.0.1"


def add_parser(commands: Any) -> None:
    p = commands.add_parser(
        "export-web",
        help="write a static page that runs the model in a browser",
        formatter_class=cli_run.Narrow,
        usage="%(prog)s DIR [options]",
    )
    p.add_argument("folder", metavar="DIR", type=Path, help="a folder to make, or an empty one")
    p.add_argument("--model", metavar="NAME", help="pretrained, places2, celebahq, ffhq, nano, a folder or a file (nano)")
    p.add_argument("--vae", metavar="FILE", type=Path, help="the VAE's weights, where they are not beside the model's")
    p.add_argument("--revision", metavar="REV", help="of a published model")
    p.add_argument("--synthetic", choices=["tiny", "full"], help="weights made from a seed instead: the filling is noise")
    p.add_argument("--tile", choices=["gpu", "cpu"], default="gpu", help="cpu: for browsers without a graphics card (gpu)")
    p.add_argument("--force", action="store_true", help="replace the exported page that is in DIR")
    p.add_argument("--serve", action="store_true", help="then serve it to this machine's browsers until Ctrl-C")
    p.add_argument("--port", metavar="N", type=int, default=8000, help="of --serve (8000); 0 takes a free one")
    p.add_argument("--quiet", action="store_true", help="errors only")
    # The run that the page is checked against is NumPy's, wherever the page will run.
    p.set_defaults(command=export_web, device="cpu", require_gpu=False, precision="f32")


def export_web(args: argparse.Namespace) -> int:
    from moebius.web.export import check_target, export

    say: Callable[..., None] = (lambda *_: None) if args.quiet else partial(print, file=sys.stderr, flush=True)
    check_target(args.folder, args.force)
    model = cli_run.load_model(args, say)
    say("Recording the plans, and running the sample picture in float64 to check the page against")
    size = export(model, args.folder, tile=args.tile, force=args.force, progress=None if args.quiet else cli_run.Transfer())
    say(f"Wrote {args.folder} ({size / 1e6:.1f} MB)")
    if args.serve:
        serve(args.folder, args.port, say)
    else:
        say(f"Serve it with any static server, such as: python -m http.server -d {args.folder}")
    return 0


class Handler(SimpleHTTPRequestHandler):
    extensions_map = SimpleHTTPRequestHandler.extensions_map | {".js": "text/javascript"}  # some registries know another type

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing for every file."""


def serve(folder: Path, port: int, say: Callable[..., None]) -> None:
    """To this machine alone, until Ctrl-C."""
    try:
        server = ThreadingHTTPServer((LOOPBACK, port), partial(Handler, directory=str(folder)))
    except (OSError, OverflowError) as error:
        raise MoebiusError(f"Port {port} cannot be served on ({error}); choose another with --port, or --port 0 for a free one.") from error
    with server:
        say(f"Serving it at http://localhost:{server.server_port} until Ctrl-C")
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            say("")
