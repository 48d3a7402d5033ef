"""The body of a request, read into memory: so many bytes, within so much time, and of all bodies no more than there is room for."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import Receive

from moebius.serve.answers import GoneError, RefusedError
from moebius.serve.fields import FORM, JSON
from moebius.serve.limits import Limits

KINDLY = 3.0  # seconds for which the body of a refused request is still taken, so that its sender reads the answer


class Room:
    """The bytes that all bodies may take together."""

    def __init__(self, bytes: int) -> None:
        self.left = bytes

    @contextmanager
    def share(self) -> Iterator[Share]:
        share = Share(self)
        try:
            yield share
        finally:
            self.left += share.taken
            share.taken = 0


class Share:
    """What one body has of it."""

    def __init__(self, room: Room) -> None:
        self.room, self.taken = room, 0
        self.whole = False  # nothing of the body is left to be read

    def take(self, total: int) -> None:
        more = max(0, total - self.taken)
        if more > self.room.left:
            raise RefusedError(429, "QueueFull", "Too much is being sent at once; ask again in a few seconds.", 3)
        self.room.left -= more
        self.taken += more


async def read(request: Request, limits: Limits, share: Share) -> bytes:
    """Raises RefusedError for what is too large, too slow or of the wrong type, and GoneError where the sender went away."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind not in (FORM, JSON):
        raise RefusedError(415, "WrongType", f"The body is {kind[:60] or 'of no type'!r}; send {FORM} or {JSON}.")
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise RefusedError(415, "WrongType", "The body is compressed; send it as it is, for pictures are compressed already.")
    length = request.headers.get("content-length", "")
    if length.isdecimal():
        check_length(int(length[:20]), limits)
        share.take(int(length))
    return await whole(request, limits, share)


def check_length(length: int, limits: Limits) -> None:
    if length > limits.bytes:
        raise RefusedError(413, "TooLarge", f"The body has {length:,} bytes; this server takes at most {limits.bytes:,}.")


async def whole(request: Request, limits: Limits, share: Share) -> bytes:
    parts, total, until = [], 0, time.monotonic() + limits.body
    while True:
        patience = min(limits.silence, until - time.monotonic())
        try:
            message = await asyncio.wait_for(request.receive(), max(0.0, patience))
        except TimeoutError:
            raise RefusedError(408, "TooSlow", "The body does not come; send it faster, or a smaller picture.") from None
        if message["type"] == "http.disconnect":
            raise GoneError
        parts.append(message.get("body", b""))
        total += len(parts[-1])
        share.whole = not message.get("more_body", False)
        check_length(total, limits)
        share.take(total)
        if share.whole:
            return b"".join(parts)


async def discard(headers: Headers, receive: Receive) -> None:
    """What is left of a refused request's body: who is still sending would not read the answer. For a moment, and into nothing."""
    until = time.monotonic() + KINDLY
    if "expect" in headers:  # it has not been sent
        return
    try:
        while (left := until - time.monotonic()) > 0:
            message = await asyncio.wait_for(receive(), left)
            if message["type"] == "http.disconnect" or not message.get("more_body", False):
                return
    except TimeoutError:
        pass
