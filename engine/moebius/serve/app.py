"""The requests, and what each of them answers."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast, get_args

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

import moebius
from moebius.errors import MoebiusError
from moebius.serve import schema
from moebius.serve.answers import CANCELLED, Failure, GoneError, RefusedError, failure
from moebius.serve.bodies import Room, discard, read
from moebius.serve.events import Events, ended
from moebius.serve.guard import Guard, Rules
from moebius.serve.jobs import Job, Picture, Preview
from moebius.serve.service import Service
from moebius.serve.site import ENGINE, reference, site

TITLE = "Moebius: fill in a picture"
PIECE = 1 << 17  # bytes of a picture at a time: a slow reader is told from a dead one by whether it takes the next piece
SWEEP = 0.5  # seconds
IMAGE = "image/png"


class Json(Response):
    """In ASCII: what came with a request may stand in an answer, and be no text that UTF-8 can say."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return json.dumps(content).encode()


class Sent(Response):
    """A picture in pieces, never copied."""

    def __init__(self, picture: Picture) -> None:
        super().__init__(b"", headers={**picture.headers, "Content-Length": str(len(picture.data))}, media_type=picture.type)
        self.picture = picture

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        data = memoryview(self.picture.data)
        for at in range(0, len(data), PIECE):
            await send({"type": "http.response.body", "body": data[at : at + PIECE], "more_body": True})
        await send({"type": "http.response.body", "body": b""})


def answered(what: Failure) -> Response:
    headers = {} if what.retry is None else {"Retry-After": str(what.retry)}
    return Json(what.as_json(), what.status, headers)


def built(service: Service, rules: Rules) -> ASGIApp:
    """The app: everything in `service`, for those whom `rules` let in."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        service.worker.start()
        sweeper = asyncio.ensure_future(swept(service))
        yield
        sweeper.cancel()
        await asyncio.to_thread(service.close)

    app = FastAPI(title=TITLE, version=moebius.__version__, docs_url=None, redoc_url=None, lifespan=lifespan)
    add_failures(app)
    add_pictures(app, service)
    add_jobs(app, service)
    add_facts(app, service)
    add_site(app, rules)
    return Guard(app, rules)  # around everything, also what answers a fault


async def swept(service: Service) -> None:
    while True:
        await asyncio.sleep(SWEEP)
        try:
            service.sweep()
        except Exception as error:
            logging.getLogger("moebius").error("The jobs could not be looked through.", exc_info=error)


def add_failures(app: FastAPI) -> None:
    async def refused(request: Request, error: Exception) -> Response:
        return answered(failure(error))

    async def of_http(request: Request, error: Exception) -> Response:
        status = error.status_code if isinstance(error, HTTPException) else 500
        words = {
            404: ("NotFound", "There is nothing at this address; /docs lists what there is."),
            405: ("WrongMethod", "This address takes other methods; /docs lists them."),
        }
        kind, message = words.get(status, ("Failed", "The request cannot be answered."))
        return answered(Failure(status, kind, message))

    async def gone(request: Request, error: Exception) -> Response:
        return answered(CANCELLED)  # which nobody reads

    for known in (RefusedError, MoebiusError, MemoryError):  # by name: after any other error the connection is closed
        app.add_exception_handler(known, refused)
    app.add_exception_handler(GoneError, gone)
    app.add_exception_handler(HTTPException, of_http)
    app.add_exception_handler(Exception, refused)


def add_pictures(app: FastAPI, service: Service) -> None:
    room = Room(service.limits.reading)

    async def taken(request: Request, kept: bool) -> Job:
        """The job of a request: its body read, its place in the queue, its pictures decoded."""
        job = Job(kept)
        with room.share() as share:
            try:
                service.queue.check_room()
                body = await read(request, service.limits, share)
                service.enter(job)
                kind = request.headers["content-type"]
                await asyncio.get_running_loop().run_in_executor(service.reader, service.prepare, job, body, kind)
            except RefusedError as error:
                if not share.whole and error.failure.status != 408:
                    await discard(request.headers, request.receive)
                raise
            except BaseException:
                service.stop(job)
                raise
        return job

    @app.post(
        "/api/v1/inpaint", responses=schema.answers(200, "the picture, its settings in headers", IMAGE), openapi_extra=schema.request()
    )
    async def inpaint(request: Request) -> Response:
        """Waits for its turn, and answers with the picture. A client that goes away cancels it."""
        job = await taken(request, kept=False)
        if not await ended(job, request.receive):
            service.stop(job)
            raise GoneError
        return Sent(job.result) if job.result is not None else answered(job.failure or CANCELLED)

    @app.post("/api/v1/jobs", status_code=202, responses=schema.answers(202, "the job"), openapi_extra=schema.request())
    async def make(request: Request) -> Response:
        """The same as a job: answers as soon as the pictures are read, with its id and its place in the queue."""
        job = await taken(request, kept=True)
        if await request.is_disconnected():  # nobody knows its id
            service.stop(job)
            raise GoneError
        service.publish(job)
        return Json(service.job_facts(job), 202, {"Location": f"/api/v1/jobs/{job.id}"})


def add_jobs(app: FastAPI, service: Service) -> None:
    @app.get("/api/v1/jobs/{job_id}", responses=schema.answers(200, "the job", "application/json", 401, 500))
    async def look(job_id: str) -> Response:
        """How far a job is."""
        return Json(service.job_facts(service.find(job_id)))

    @app.get("/api/v1/jobs/{job_id}/events", responses=schema.answers(200, "events", "text/event-stream", 401))
    async def events(job_id: str, preview: str = "picture") -> Response:
        """Server-sent events until the job ends: place, step (`preview`: picture, patches or none), done, error, cancelled."""
        if preview not in get_args(Preview):
            raise RefusedError(400, "BadField", f"preview is {preview[:40]!r}; choose one of {', '.join(get_args(Preview))}.")
        return Events(service.find(job_id), service.queue, cast(Preview, preview), service.limits.beat)

    @app.get("/api/v1/jobs/{job_id}/result", responses=schema.answers(200, "the picture", IMAGE, 401, 500, 503, 504))
    async def result(job_id: str) -> Response:
        """The picture of a job that is done."""
        job = service.find(job_id)
        if job.result is not None:
            job.fetched = True
            return Sent(job.result)
        if job.failure is not None:
            return answered(job.failure)
        raise RefusedError(409, "NotDone", "The job is not done yet; its events say when it is.")

    @app.delete("/api/v1/jobs/{job_id}", responses=schema.answers(200, "the job", "application/json", 401))
    async def cancel(job_id: str) -> Response:
        """Stops a job before its next step, and forgets a result that is there."""
        job = service.find(job_id)
        service.stop(job)
        if job.result is not None:
            service.forget(job)
        return Json(service.job_facts(job))


def add_facts(app: FastAPI, service: Service) -> None:
    @app.get("/api/v1/model", responses=schema.answers(200, "facts", "application/json", 401))
    async def model() -> Response:
        """The model, the device, the default settings, the limits, the queue."""
        return Json(service.model_facts())

    @app.get("/health", responses=schema.answers(200, "all is well", "application/json", 503))
    @app.get("/api/v1/health", include_in_schema=False)
    async def health() -> Response:
        """Whether pictures are taken."""
        status, word = service.health()
        return Json({"status": word}, status)


def add_site(app: FastAPI, rules: Rules) -> None:
    files = site(rules.token is not None)

    async def file(request: Request) -> Response:
        found = files.get(request.url.path)
        if request.url.path == "/docs":
            found = reference(app.openapi())
        if found is None:
            raise HTTPException(404)
        headers = {"Cache-Control": "no-store" if request.url.path == f"/{ENGINE}" else "no-cache", "ETag": found.tag}
        if request.headers.get("if-none-match") == found.tag:
            return Response(status_code=304, headers=headers)
        return Response(b"" if request.method == "HEAD" else found.data, headers=headers, media_type=found.type)

    for path in ("/docs", *files):
        app.add_api_route(path, file, methods=["GET", "HEAD"], include_in_schema=False)
