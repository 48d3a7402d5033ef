"""The socket, uvicorn on it, and how it ends: what runs is finished, and everybody gets an answer."""

from __future__ import annotations

import asyncio
import errno
import json
import logging
import signal
import socket
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from moebius.errors import MoebiusError, UsageError
from moebius.serve.answers import Failure
from moebius.serve.app import built
from moebius.serve.guard import ALWAYS, Rules
from moebius.serve.limits import Limits
from moebius.serve.service import Service

GRACE = 20  # seconds for answers that are still on their way when all else is done
HEAD_BYTES = 1 << 16  # of a request's line and headers
BACKLOG = 128
KEEP_ALIVE = 15  # seconds for the next request of a connection
LINGER = 5.0  # seconds in which a closed connection may take what was still to be sent
UNREADABLE = Failure(400, "BadRequest", f"The request cannot be read as HTTP, or its head has more than {HEAD_BYTES:,} bytes.")


class Connection(H11Protocol):
    """uvicorn's, with time limits: for the head of a request, for a client that does not read, for one that does not leave."""

    limits = Limits()
    waiting: asyncio.TimerHandle | None = None  # for the head
    stuck: asyncio.TimerHandle | None = None  # for room to write

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self.watch()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self.watch()

    def watch(self) -> None:
        """A head takes so long at most, counted from the connection or from its first byte."""
        done = self.cycle is not None and (not self.cycle.response_complete or self.timeout_keep_alive_task is not None)
        if done and self.waiting is not None:
            self.waiting.cancel()
            self.waiting = None
        elif not done and self.waiting is None:
            self.waiting = self.loop.call_later(self.limits.head, self.transport.abort)

    def pause_writing(self) -> None:
        super().pause_writing()
        if self.stuck is None:
            self.stuck = self.loop.call_later(self.limits.silence, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self.stuck is not None:
            self.stuck.cancel()
            self.stuck = None

    def timeout_keep_alive_handler(self) -> None:
        super().timeout_keep_alive_handler()
        self.loop.call_later(LINGER, self.transport.abort)

    def send_400_response(self, msg: str) -> None:
        """Of what is no HTTP, which the app never sees: an answer as all others, where none is under way."""
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            body = json.dumps(UNREADABLE.as_json()).encode()
            own = {**ALWAYS, "Content-Type": "application/json", "Content-Length": str(len(body)), "Connection": "close"}
            for event in (h11.Response(status_code=UNREADABLE.status, headers=list(own.items())), h11.Data(data=body), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event) or b"")
        self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        for timer in (self.waiting, self.stuck):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)


class Server(uvicorn.Server):
    """A first signal drains, a second one ends what runs, too."""

    def __init__(self, config: uvicorn.Config, service: Service, started: Callable[[], None]) -> None:
        super().__init__(config)
        self.service, self.when_started = service, started
        self.signals = 0
        self._draining: float | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self.signals += 1

    def stop(self) -> None:
        """The same from another thread."""
        self.handle_exit(signal.SIGTERM, None)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.when_started()

    async def on_tick(self, counter: int) -> bool:
        if await super().on_tick(counter):
            return True
        if self.signals and self._draining is None:
            self._draining = time.monotonic()
            self.service.drain()
        if self.signals > 1:
            self.service.abort()
        return self._draining is not None and (self.signals > 1 or self.service.drained(self._draining))


def opened(host: str, port: int) -> socket.socket:
    """Bound, and not yet answering: a port that is taken is found out before the model is loaded."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        server = socket.socket(family, socket.SOCK_STREAM)
        try:
            if hasattr(signal, "SIGHUP"):  # elsewhere it would let two servers have one port
                server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            server.bind(address)
        except BaseException:
            server.close()
            raise
        return server
    except (OSError, OverflowError, UnicodeError) as error:
        why = getattr(error, "strerror", None) or error
        if isinstance(error, socket.gaierror | UnicodeError) or getattr(error, "errno", None) == errno.EADDRNOTAVAIL:
            raise UsageError(f"{host} cannot be listened at ({why}); give one of this machine's addresses with --host.") from error
        raise MoebiusError(
            f"Port {port} of {host} cannot be served on ({why}); choose another with --port, or --port 0 for a free one."
        ) from error


def address(rules: Rules, listener: socket.socket, token: bool = True) -> str:
    """Where a browser finds it."""
    port = listener.getsockname()[1]
    host = {"0.0.0.0": socket.gethostname(), "::": socket.gethostname()}.get(rules.host, rules.host)
    return f"http://{f'[{host}]' if ':' in host else host}:{port}/{f'#token={rules.token}' if rules.token and token else ''}"


def server(service: Service, rules: Rules, started: Callable[[], None] = lambda: None) -> Server:
    """Not yet running: `run(sockets=[listener])` does that, until a signal."""
    for name in ("uvicorn", "python_multipart"):  # what matters is told by `answers`
        logging.getLogger(name).setLevel(logging.CRITICAL)
    protocol = type("Connection", (Connection,), {"limits": service.limits})
    config = uvicorn.Config(
        built(service, rules),
        http=protocol,
        ws="none",
        loop="asyncio",
        lifespan="on",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        limit_concurrency=service.limits.connections,
        backlog=BACKLOG,
        timeout_keep_alive=KEEP_ALIVE,
        timeout_graceful_shutdown=GRACE,
        h11_max_incomplete_event_size=HEAD_BYTES,
    )
    return Server(config, service, started)
