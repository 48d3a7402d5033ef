"""A server of one exported page, for the browsers of this machine."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from moebius.errors import MoebiusError

LOOPBACK = "127.0.0.1"
MOST_AT_ONCE = 16  # connections that have a thread; a browser opens six
HEADERS = {
    "Cache-Control": "no-cache",  # a page that was written anew is seen when it is next loaded
    "Content-Security-Policy": "frame-ancestors 'none'",  # what a <meta> cannot say; the rest is in index.html
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class Handler(SimpleHTTPRequestHandler):
    """Regular files that lie in the folder itself, and nothing that a link leads to elsewhere."""

    timeout = 30.0  # seconds that a browser may be silent
    extensions_map = SimpleHTTPRequestHandler.extensions_map | {".js": "text/javascript"}  # some registries know another type

    def translate_path(self, path: str) -> str:
        """The file that an address means, links followed; nothing where that is no file, or not in the folder."""
        folder = os.path.realpath(self.directory)
        try:
            found = os.path.realpath(super().translate_path(path))
            found = os.path.realpath(os.path.join(folder, "index.html")) if found == folder else found
        except ValueError:  # a NUL in it
            return ""
        return found if os.path.dirname(found) == folder and os.path.isfile(found) else ""

    def end_headers(self) -> None:
        for name, value in HEADERS.items():
            self.send_header(name, value)
        super().end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing for every file."""


class Server(ThreadingHTTPServer):
    """A thread for a connection, for at most MOST_AT_ONCE; the others wait until one has ended."""

    def __init__(self, folder: Path, port: int) -> None:
        super().__init__((LOOPBACK, port), partial(Handler, directory=str(folder)))
        self.places = threading.BoundedSemaphore(MOST_AT_ONCE)

    def process_request(self, request: Any, client_address: Any) -> None:
        self.places.acquire()
        try:
            super().process_request(request, client_address)
        except BaseException:  # there was no thread to be had
            self.places.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self.places.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), (ConnectionError, TimeoutError)):  # a browser that went away, or fell silent
            super().handle_error(request, client_address)


def opened(folder: Path, port: int) -> Server:
    """For this machine alone, and not yet answering: a port that is taken is found out before the page is made."""
    try:
        return Server(folder, port)
    except (OSError, OverflowError) as error:
        why = getattr(error, "strerror", None) or error
        raise MoebiusError(f"Port {port} cannot be served on ({why}); choose another with --port, or --port 0 for a free one.") from error


def serve(server: Server, tell: Callable[..., None]) -> None:
    """Until Ctrl-C."""
    tell(f"Serving it at http://localhost:{server.server_port} until Ctrl-C")
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        tell("")
