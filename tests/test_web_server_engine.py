"""The page with a server's engine behind it, in a real browser: what it sends, how it follows a job, and what it tells of failures."""

from __future__ import annotations

import base64
import io
import json
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chromium import Browser, Page
from hand import Hand
from javascript import fetched
from PIL import Image

from moebius.web.export import write_site

MODEL = {
    "name": "nano",
    "device": "a test",
    "size": 128,
    "notes": [],
    "defaults": {"steps": 20, "guidance": 2.5, "seed": 0},
    "limits": {"steps": 50},
}
TYPES = {".html": "text/html", ".js": "text/javascript", ".css": "text/css"}
COLOUR = (10, 200, 30)  # what the answers are filled with
TOKEN = "secret"


class Handler(BaseHTTPRequestHandler):
    """The jobs of docs/serve.md, as far as a page asks for them; `script` of the server says how the events go."""

    protocol_version = "HTTP/1.0"

    def log_message(self, *_: Any) -> None:
        pass

    def answer(self, status: int, body: bytes, kind: str = "application/json") -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def told(self) -> bool:
        """Whether it may ask the API at all."""
        if self.headers["Authorization"] == f"Bearer {TOKEN}":
            return True
        self.answer(401, b'{"message": "no token"}')
        return False

    def do_GET(self) -> None:
        state = self.server.state  # type: ignore[attr-defined]
        path = self.path.split("?")[0]
        if path == "/engine.json":
            self.answer(200, b'{"engine": "server", "api": "api/v1", "token": true}')
        elif path.startswith("/api/"):
            if not self.told():
                return
            if path == "/api/v1/model":
                self.answer(200, json.dumps(MODEL).encode())
            elif path.endswith("/result"):
                self.answer(200, state["result"], "image/png")
            else:
                state["asked"].append(self.path)
                self.send_response(200)
                self.send_header("Content-Type", "text/event-stream")
                self.end_headers()
                for event in state["streams"].pop(0) if state["streams"] else []:
                    if event is None:
                        state["go"].wait(240)
                    else:
                        self.wfile.write(event)
                        self.wfile.flush()
        else:
            file = state["folder"] / (path.lstrip("/") or "index.html")
            self.answer(200, file.read_bytes(), TYPES.get(file.suffix, "text/plain")) if file.is_file() else self.answer(404, b"")

    def do_POST(self) -> None:
        state = self.server.state  # type: ignore[attr-defined]
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if not self.told():
            return
        if state["refuse"]:
            self.answer(429, json.dumps({"message": state["refuse"]}).encode())
            return
        boundary = self.headers["Content-Type"].split("boundary=")[1].encode()
        fields = {}
        for part in body.split(b"--" + boundary)[1:-1]:
            head, content = part.strip(b"\r\n").split(b"\r\n\r\n", 1) if b"\r\n\r\n" in part else (part, b"")
            fields[head.split(b'name="')[1].split(b'"')[0].decode()] = content
        state["jobs"].append(fields)
        with Image.open(io.BytesIO(fields["image"])) as image, Image.open(io.BytesIO(fields["mask"])) as mask:
            image.paste(COLOUR, (0, 0), mask.convert("L"))
            made = io.BytesIO()
            image.save(made, "PNG")
        state["result"] = made.getvalue()
        self.answer(202, b'{"id": "j1", "state": "waiting"}')

    def do_DELETE(self) -> None:
        self.server.state["deleted"].append(self.path)  # type: ignore[attr-defined]
        self.answer(200, b"{}")


def event(name: str, **data: Any) -> bytes:
    return f"event: {name}\ndata: {json.dumps(data)}\n\n".encode()


@contextmanager
def running(folder: Path) -> Iterator[dict[str, Any]]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state = {"folder": folder, "jobs": [], "streams": [], "asked": [], "deleted": [], "refuse": "", "go": threading.Event()}
    state["address"] = f"http://127.0.0.1:{server.server_port}/"
    server.state = state  # type: ignore[attr-defined]
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield state
    finally:
        state["go"].set()
        server.shutdown()
        server.server_close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("served")
    write_site(made)
    shutil.rmtree(made / "__pycache__", ignore_errors=True)
    return made


@pytest.fixture
def state(folder: Path) -> Iterator[dict[str, Any]]:
    with running(folder) as made:
        yield made


@pytest.fixture
def hand(chromium: Browser, state: dict[str, Any], tmp_path: Path) -> Iterator[Hand]:
    """On a picture of noise, 90 by 70 pixels, with a box marked."""
    page = Page(chromium, f"{state['address']}#token={TOKEN}")
    page.send("Page.bringToFront")
    page.wait("moebius.state !== 'loading'")
    assert page.run("moebius.state") == "ready", page.run("moebius.error")
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (70, 90, 3), np.uint8)).save(tmp_path / "noise.png")
    made = Hand(page)
    made.choose("#open", tmp_path / "noise.png")
    page.wait("moebius.editor.picture?.width === 90")
    page.run("moebius.editor.mark([{ kind: 'box', x: 20, y: 10, width: 30, height: 25, erase: false }])")
    yield made
    page.run("moebius.editor.history.keptSaved()")
    page.close()


def picture(page: Page) -> np.ndarray:
    return fetched(page, "return (await import('./bitmaps.js')).pictureOf(moebius.editor.picture).data;").reshape(70, 90, 3)


def patch(colour: tuple[int, int, int]) -> dict[str, Any]:
    made = io.BytesIO()
    Image.new("RGB", (4, 4), colour).save(made, "PNG")
    image = f"data:image/png;base64,{base64.b64encode(made.getvalue()).decode()}"
    return {"x": 15, "y": 5, "width": 50, "height": 40, "image": image}


def test_a_job_is_sent_followed_and_shown(hand: Hand, state: dict[str, Any]) -> None:
    page, before = hand.page, picture(hand.page)
    script = "return [location.hash, sessionStorage.getItem('moebius-token'), await navigator.serviceWorker.getRegistration() ?? null];"
    assert page.run(script) == ["", TOKEN, None]
    steps = event("step", step=3, steps=20, patches=[patch((0, 0, 255))])
    state["streams"] = [
        [event("place", place=2, waiting=2)[:9]],  # breaks off in the middle
        [b": still here\n\n", event("place", place=0, waiting=0), steps[:30], steps[30:], None, event("done", seed=7, seconds=1.0)],
    ]
    page.run("document.getElementById('seed').value = '18446744073709551615'; document.getElementById('run').click()")
    page.wait("moebius.editor.preview.length > 0")
    shown = hand.shown((30, 20))
    assert shown[2] > 240
    assert shown[0] < 15
    assert page.run("document.getElementById('status').textContent") == "Step 3 of 20"
    state["go"].set()
    page.wait("moebius.result || moebius.error")
    assert page.run("moebius.error ?? null") is None
    expected = before.copy()
    expected[10:35, 20:50] = COLOUR
    assert np.array_equal(picture(page), expected)
    (job,) = state["jobs"]
    assert job["seed"] == b"18446744073709551615"
    assert (job["steps"], job["guidance"]) == (b"20", b"2.5")
    with Image.open(io.BytesIO(job["image"])) as image, Image.open(io.BytesIO(job["mask"])) as mask:
        assert np.array_equal(np.asarray(image.convert("RGB")), before)
        assert np.asarray(mask.convert("L")).sum() == 255 * 30 * 25
    assert len(state["asked"]) == 2
    assert "preview=patches" in state["asked"][0]


def test_stop_deletes_the_job(hand: Hand, state: dict[str, Any]) -> None:
    state["streams"] = [[event("place", place=0, waiting=0), event("step", step=1, steps=20), None]]
    hand.page.run("document.getElementById('run').click()")
    hand.page.wait("document.getElementById('status').textContent.startsWith('Step 1')")
    hand.key("Escape")
    hand.page.wait("document.getElementById('status').textContent === 'Stopped'")
    for _ in range(100):
        if state["deleted"]:
            break
        hand.page.run("return await new Promise((done) => setTimeout(done, 20))")
    assert state["deleted"] == ["/api/v1/jobs/j1"]
    assert hand.page.run("moebius.editor.marks.length") == 1


def test_what_the_server_refuses_is_said(hand: Hand, state: dict[str, Any]) -> None:
    page, said = hand.page, "document.getElementById('message-text').textContent"
    state["refuse"] = "The queue is full; try again in 9 s."
    page.run("document.getElementById('run').click()")
    page.wait(f"{said} === 'The queue is full; try again in 9 s.'")
    state["refuse"] = ""
    state["streams"] = [[event("error", error="DeviceError", message="The device is gone.")]]
    page.run("document.getElementById('run').click()")
    page.wait(f"{said} === 'The device is gone.'")
    assert page.run("moebius.editor.marks.length") == 1


def test_a_wrong_token_is_said(chromium: Browser, state: dict[str, Any]) -> None:
    page = Page(chromium, f"{state['address']}#token=wrong")
    page.wait("moebius.state !== 'loading'")
    assert "wants its token" in page.run("document.getElementById('message-text').textContent")
    page.close()
