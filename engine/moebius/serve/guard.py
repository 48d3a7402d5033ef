"""Who may ask: the Host that was named, no other site's pages, and whoever has the token. And what every answer carries."""

from __future__ import annotations

import hmac
import ipaddress
import json
import re
import secrets
import socket
from collections.abc import Sequence
from dataclasses import dataclass, field

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from moebius.errors import UsageError
from moebius.serve.answers import Failure, RefusedError
from moebius.serve.bodies import discard

API = "/api/"
OPEN = ("/api/v1/health",)  # under API, and for everybody
SHORTEST_TOKEN = 16
CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self' blob: data:; "
    "worker-src 'self'; manifest-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
ALWAYS = {
    "Content-Security-Policy": CSP,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
EXPOSED = "X-Seed, X-Moebius-Settings, X-Moebius-Notes, X-Moebius-Seconds, Retry-After, Location"


@dataclass(frozen=True)
class Rules:
    """What the server was started with."""

    host: str = "127.0.0.1"
    token: str | None = field(default=None, repr=False)
    hosts: Sequence[str] = ()  # further names that it is reached by
    origins: Sequence[str] = ()  # of other sites whose pages may ask

    @property
    def loopback(self) -> bool:
        return is_loopback(self.host)

    def names(self) -> set[str]:
        """Those that a Host may have besides addresses."""
        own = {self.host, socket.gethostname()} if not self.loopback else {self.host}
        return {name.lower() for name in ("localhost", *own, *self.hosts)}


def is_loopback(host: str) -> bool:
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def rules(host: str, token: str | None, hosts: Sequence[str] = (), origins: Sequence[str] = ()) -> Rules:
    """With a token made where one is needed. Wrong ones raise."""
    if token is not None and not re.fullmatch(rf"[A-Za-z0-9._~-]{{{SHORTEST_TOKEN},200}}", token):
        raise UsageError(f"The token must have {SHORTEST_TOKEN} to 200 letters, digits or any of . _ ~ - and nothing else.")
    for origin in origins:
        if not re.fullmatch(r"https?://[^/\s]+", origin):
            raise UsageError(f"{origin!r} is no origin; write http://HOST:PORT without a path.")
    if token is None and not is_loopback(host):
        token = secrets.token_urlsafe(24)
    return Rules(host, token, tuple(hosts), tuple(o.lower() for o in origins))


class Guard:
    """Between the server and the app. Whatever it refuses has not been looked at."""

    def __init__(self, app: ASGIApp, rules: Rules) -> None:
        self.app, self.rules = app, rules
        self.names = rules.names()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        headers = Headers(scope=scope)
        origin = headers.get("origin", "").lower()
        named = origin in self.rules.origins

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                answer = MutableHeaders(scope=message)
                for name, value in ALWAYS.items():
                    answer[name] = value
                if scope["path"].startswith(API):
                    answer["Cache-Control"] = "no-store"
                if self.rules.origins:
                    answer["Vary"] = "Origin"
                if named:
                    answer["Access-Control-Allow-Origin"] = origin
                    answer["Access-Control-Expose-Headers"] = EXPOSED
            await send(message)

        try:
            self.check(scope["method"], scope["path"], headers, named)
        except RefusedError as refused:
            if scope["method"] == "POST":
                await discard(headers, receive)
            return await plain(sending, refused.failure)
        if scope["method"] == "OPTIONS" and named:
            return await preflight(sending)
        await self.app(scope, receive, sending)

    def check(self, method: str, path: str, headers: Headers, named: bool) -> None:
        host = headers.get("host", "").lower()
        if not self.is_own(host):
            raise RefusedError(
                403, "WrongHost", f"This server is not {ascii(host)[:80]}; ask it by its own name, or start it with --allow-host NAME."
            )
        origin = headers.get("origin")
        if origin is not None and not named and origin.lower() not in (f"http://{host}", f"https://{host}"):
            raise RefusedError(
                403, "WrongOrigin", f"A page of {ascii(origin)[:80]} may not ask; start the server with --allow-origin to let it."
            )
        if not path.startswith(API):
            return
        if headers.get("sec-fetch-site") in ("cross-site", "same-site") and not named:
            raise RefusedError(403, "WrongOrigin", "A page of another site may not ask; start the server with --allow-origin to let it.")
        if self.rules.token is not None and path not in OPEN and not (method == "OPTIONS" and named):
            kind, _, token = headers.get("authorization", "").partition(" ")
            if kind.lower() != "bearer" or not hmac.compare_digest(token.strip().encode(), self.rules.token.encode()):
                raise RefusedError(401, "NoToken", "The token is missing or wrong; send Authorization: Bearer TOKEN.")

    def is_own(self, host: str) -> bool:
        """Whether a Host means this server. An address cannot be made to lead elsewhere, as a name of somebody's can (DNS rebinding)."""
        match = re.fullmatch(r"(\[[0-9a-f:.]+\]|[^:\[\]/\s]+)(:\d{1,5})?", host)
        if match is None:
            return False
        name = match[1].strip("[]")
        if name in self.names:
            return True
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            return False
        return address.is_loopback or not self.rules.loopback


async def plain(send: Send, failure: Failure) -> None:
    """An answer without the app."""
    body = json.dumps(failure.as_json()).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode()), (b"connection", b"close")]
    if failure.status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    await send({"type": "http.response.start", "status": failure.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def preflight(send: Send) -> None:
    headers = [
        (b"access-control-allow-methods", b"GET, POST, DELETE"),
        (b"access-control-allow-headers", b"authorization, content-type"),
        (b"access-control-max-age", b"600"),
    ]
    await send({"type": "http.response.start", "status": 204, "headers": headers})
    await send({"type": "http.response.body", "body": b""})
