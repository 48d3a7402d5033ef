"""A job's progress as server-sent events, for as long as somebody reads them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from moebius.serve.jobs import Job, Preview
from moebius.serve.queue import Queue


class Events(Response):
    """An answer. The state is looked at whenever it has changed, so a slow reader gets fewer events, and no heap of them."""

    def __init__(self, job: Job, queue: Queue, preview: Preview, beat: float) -> None:
        super().__init__(media_type="text/event-stream", headers={"X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self.job, self.queue, self.preview, self.beat = job, queue, preview, beat

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        loop, news = asyncio.get_running_loop(), asyncio.Event()
        self.job.listen(self, lambda: void(loop.call_soon_threadsafe(news.set)), self.preview)
        reader = asyncio.ensure_future(gone(receive))
        writer = asyncio.ensure_future(self.write(send, news))
        try:
            await asyncio.wait((reader, writer), return_when=asyncio.FIRST_COMPLETED)
            self.job.broken = not self.job.over
        finally:
            self.job.leave(self)
            for task in (reader, writer):
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task

    async def write(self, send: Send, news: asyncio.Event) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        async for chunk in self.chunks(news):
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    async def chunks(self, news: asyncio.Event) -> AsyncIterator[bytes]:
        place: tuple[int, int] | None = None
        step, shown = 0, None
        while True:
            news.clear()
            job = self.job
            if job.over:
                yield self.last()
                return
            now = self.queue.place(job), self.queue.waiting
            if now != place and (now[0] or place is None or place[0]):  # how many wait is nothing to one that runs
                place = now
                yield event("place", {"place": now[0], "waiting": now[1]})
            preview = job.previews.get(self.preview)
            if job.step != step:
                new = {} if preview is None or preview is shown else {"patches" if self.preview == "patches" else "preview": preview}
                step, shown = job.step, preview
                yield event("step", {"step": step, "steps": job.steps, **new})
            try:
                await asyncio.wait_for(news.wait(), self.beat)
            except TimeoutError:
                yield b":\n\n"

    def last(self) -> bytes:
        job = self.job
        if job.result is not None:
            facts = {"seed": int(job.result.headers["X-Seed"]), "seconds": round(job.result.seconds, 3)}
            return event("done", {**facts, "result": f"/api/v1/jobs/{job.id}/result"})
        if job.state == "cancelled" or job.failure is None:
            return event("cancelled", {})
        return event("error", {"status": job.failure.status, **job.failure.as_json()})


def event(name: str, data: dict[str, Any]) -> bytes:
    return f"event: {name}\ndata: {json.dumps(data)}\n\n".encode()


async def gone(receive: Receive) -> None:
    """Until the client has gone away."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def ended(job: Job, receive: Receive) -> bool:
    """Waits for a job; whether its client is still there."""
    loop, news = asyncio.get_running_loop(), asyncio.Event()
    job.listen(news, lambda: void(loop.call_soon_threadsafe(news.set)))
    reader = asyncio.ensure_future(gone(receive))
    try:
        while not job.over and not reader.done():
            waiter = asyncio.ensure_future(news.wait())
            await asyncio.wait((reader, waiter), return_when=asyncio.FIRST_COMPLETED)
            waiter.cancel()
            news.clear()
        return not reader.done()
    finally:
        job.leave(news)
        reader.cancel()


def void(_: Any) -> None:
    """A callback returns nothing."""
