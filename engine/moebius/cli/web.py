"""`moebius export-web`: the command of the static page."""

from __future__ import annotations

import argparse
import threading
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
THREADS = 16


def add_parser(commands: Any) -> None:
    p = commands.add_parser(
        "export-web",
        help="write a static page that runs the model in a browser",
        formatter_class=options.Narrow,
        usage="%(prog)s DIR [options]",
    )
    p.add_argument("folder", metavar="DIR", type=Path, help="a folder to make, an empty one, or one with such a page, which is replaced")
    options.add_model(p)
    p.add_argument("--tile", choices=["gpu", "cpu"], help="cpu: for browsers without a graphics card (gpu)")
    p.add_argument("--serve", action="store_true", help="serve it to this machine's browsers until Ctrl-C; alone: the page that is there")
    p.add_argument("--port", metavar="N", type=options.port, default=8000, help="of --serve (8000); 0 takes a free one")
    p.add_argument("--quiet", action="store_true", help="errors only")
    # The run that the page is checked against is NumPy's, wherever the page will run.
    p.set_defaults(command=export_web, device="cpu", require_gpu=False, precision="f32")


def export_web(args: argparse.Namespace) -> int:
    from moebius.web.export import check_target, is_page

    tell = say_nothing if args.quiet else say
    check_target(args.folder)
    if not args.serve:
        export_page(args, tell)
        tell(f"Serve it with any static server, such as: python -m http.server -d {args.folder}")
        return 0
    with server(args.folder, args.port) as serving:  # a port that is taken is found out before the work
        if is_page(args.folder) and not any((args.model, args.vae, args.revision, args.synthetic, args.tile)):
            tell(f"{args.folder} holds a page already; name a model to write it anew")
        else:
            export_page(args, tell)
        serve(serving, tell)
    return 0


def export_page(args: argparse.Namespace, tell: Callable[..., None]) -> None:
    from moebius.web.export import export

    model = load_model(args, tell)
    tell("Recording the plans, and running the sample picture in float64 to check the page against")
    size = export(model, args.folder, tile=args.tile or "gpu", progress=None if args.quiet else Transfer())
    tell(f"Wrote {args.folder} ({size / 1e6:.1f} MB)")


class Handler(SimpleHTTPRequestHandler):
    extensions_map = SimpleHTTPRequestHandler.extensions_map | {".js": "text/javascript"}  # some registries know another type
    timeout = 30  # seconds that a browser may be silent

    def translate_path(self, path: str) -> str:
        """A link that leads out of the folder leads nowhere."""
        found, folder = Path(super().translate_path(path)), Path(self.directory).resolve()
        inside = found.resolve().is_relative_to(folder)
        return str(found) + ("/" if path.endswith("/") else "") if inside else str(folder / "there is no such file")

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing for every file."""


class Server(ThreadingHTTPServer):
    """With at most THREADS at work; the next request waits until one of them has ended."""

    def __init__(self, address: tuple[str, int], folder: Path) -> None:
        self._free = threading.BoundedSemaphore(THREADS)
        super().__init__(address, partial(Handler, directory=str(folder)))

    def process_request(self, request: Any, client_address: Any) -> None:
        self._free.acquire()
        try:
            super().process_request(request, client_address)
        except BaseException:
            self._free.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()


def server(folder: Path, port: int) -> Server:
    """For this machine alone, and not yet answering."""
    try:
        return Server((LOOPBACK, port), folder)
    except (OSError, OverflowError) as error:
        raise MoebiusError(f"Port {port} cannot be served on ({error}); choose another with --port, or --port 0 for a free one.") from error


def serve(serving: Server, tell: Callable[..., None]) -> None:
    """Until Ctrl-C."""
    tell(f"Serving it at http://localhost:{serving.server_port} until Ctrl-C")
    try:
        serving.serve_forever()
    except KeyboardInterrupt:
        tell("")
