"""The server, asked by real clients over loopback."""

from __future__ import annotations

import base64
import gc
import hashlib
import io
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chromium import Browser, Page
from hand import Hand
from javascript import fetched
from PIL import Image

from moebius import sample
from moebius.backends.cpu import CPU
from moebius.backends.webgpu import WebGPU
from moebius.cli.main import run as command
from moebius.errors import OutOfMemoryError, UsageError, WeightError
from moebius.inpaint.inpainter import Inpainter
from moebius.inpaint.run import Run
from moebius.model import unet, vae
from moebius.model.synthetic import synthetic
from moebius.model.unet import UNet, UNetConfig
from moebius.model.vae import VAE, VAEConfig
from moebius.pictures.metadata import read_metadata

pytest.importorskip("fastapi")
from moebius.serve import batching, listen, service
from moebius.serve.batching import Batching
from moebius.serve.guard import Rules, rules
from moebius.serve.jobs import Job
from moebius.serve.limits import Limits
from moebius.serve.worker import told

ALONE = Batching(1, "not here")
TOKEN = "a-token-of-some-length"
PHOTO = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
MASK = np.zeros((40, 60), bool)
MASK[10:30, 20:40] = True


UNET = UNetConfig(4, block_out_channels=(8,), heads=2, layers_per_block=1, cross_attention_dim=8, encoder_hid_dim=8, norm_num_groups=4)
VAE_CONFIG = VAEConfig((8, 8, 8, 8), layers_per_block=1, norm_num_groups=4)


def png(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(array).save(file, "PNG")
    return file.getvalue()


IMAGE, HOLE = png(PHOTO), png(MASK)
FILES = {"image": IMAGE, "mask": HOLE}


@pytest.fixture(scope="module")
def model() -> Inpainter:
    return made(CPU(threads=1))


def made(ops: CPU | WebGPU) -> Inpainter:
    """Windows of 32 pixels, and as few channels and layers as there can be."""
    return Inpainter(UNet(UNET, synthetic(unet.shapes(UNET), 0), ops), VAE(VAE_CONFIG, synthetic(vae.shapes(VAE_CONFIG), 0), ops))


class Client:
    """A server on a thread, and requests to it."""

    def __init__(self, server: listen.Server, port: int) -> None:
        self.server, self.port = server, port
        self.service = server.service

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, dict[str, str], bytes]:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=120)
        connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
        answer = connection.getresponse()
        data = answer.read()
        connection.close()
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}, data

    def post(
        self, path: str = "/api/v1/inpaint", headers: dict[str, str] | None = None, **fields: Any
    ) -> tuple[int, dict[str, str], bytes]:
        body, kind = form(fields)
        return self.ask("POST", path, body, Content_Type=kind, **(headers or {}))

    def json(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        status, _, data = self.ask(method, path, None if body is None else json.dumps(body), Content_Type="application/json")
        return status, json.loads(data)

    def raw(self, data: bytes) -> socket.socket:
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=120)
        connection.sendall(data)
        return connection

    def events(self, job: str, preview: str = "none") -> list[tuple[str, dict[str, Any]]]:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=120)
        connection.request("GET", f"/api/v1/jobs/{job}/events?preview={preview}")
        return parsed(connection.getresponse())


def parsed(answer: HTTPResponse) -> list[tuple[str, dict[str, Any]]]:
    found = []
    for block in answer.read().decode().split("\n\n"):
        lines = [line for line in block.splitlines() if not line.startswith(":")]
        if lines:
            found.append((lines[0].removeprefix("event: "), json.loads(lines[1].removeprefix("data: "))))
    return found


def form(fields: dict[str, Any]) -> tuple[bytes, str]:
    parts = []
    for name, value in fields.items():
        file = '; filename="x"\r\nContent-Type: application/octet-stream' if isinstance(value, bytes) else ""
        data = value if isinstance(value, bytes) else str(value).encode()
        parts.append(f'--=x\r\nContent-Disposition: form-data; name="{name}"{file}\r\n\r\n'.encode() + data + b"\r\n")
    return b"".join(parts) + b"--=x--\r\n", 'multipart/form-data; boundary="=x"'


@contextmanager
def serving(
    model: Inpainter, batch: Batching | None = ALONE, token: str | None = None, host: str = "127.0.0.1", **limits: Any
) -> Iterator[Client]:
    ready = threading.Event()
    with listen.opened("127.0.0.1", 0) as listener:
        chosen = rules(host, token, ["proxy.example"], ["http://friend.example"])
        server = listen.server(service.Service(model, Limits(**limits), batch), chosen, ready.set)
        thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
        thread.start()
        assert ready.wait(120)
        try:
            yield Client(server, listener.getsockname()[1])
        finally:
            server.stop()
            server.stop()
            thread.join(120)
            assert not thread.is_alive(), "the server does not end"


@pytest.fixture(scope="module")
def client(model: Inpainter) -> Iterator[Client]:
    with serving(model) as started:
        yield started


@contextmanager
def held(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """The device does not begin with a run before this is set."""
    go, begin = threading.Event(), Run.begin

    def waiting(run: Run) -> None:
        assert go.wait(240)
        begin(run)

    monkeypatch.setattr(Run, "begin", waiting)
    try:
        yield go
    finally:
        go.set()


def until(true: Callable[[], Any]) -> Any:
    """Its value, as soon as it is one."""
    end = time.monotonic() + 120
    while not (value := true()):
        assert time.monotonic() < end, "it does not come"
        time.sleep(0.005)
    return value


# one request, one picture --------------------------------------------------------------------------------------------
def test_a_form_is_answered_with_the_picture_of_the_same_call(client: Client, model: Inpainter) -> None:
    status, headers, body = client.post(**FILES, steps=3, seed=7)
    assert (status, headers["content-type"], headers["x-seed"]) == (200, "image/png", "7")
    want = model(IMAGE, HOLE, steps=3, seed=7)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(body))), np.asarray(want.image))
    record = {key: value for key, value in want.metadata.items() if key != "timings"}
    assert read_metadata(body) == json.loads(headers["x-moebius-settings"]) == json.loads(json.dumps(record))
    assert json.loads(headers["x-moebius-notes"]) == list(want.notes)


def test_json_with_the_names_of_iopaint(client: Client) -> None:
    """As its own page sends them; what is for other models has no effect."""
    theirs = {
        "sd_steps": 3,
        "sd_seed": 7,
        "sd_guidance_scale": 2.5,
        "sd_strength": 0.99,
        "prompt": "a dog",
        "ldm_steps": 20,
        "sd_mask_blur": 12,
    }
    want = client.post(**FILES, steps=3, seed=7)[2]
    for image in (base64.b64encode(IMAGE).decode(), "data:image/png;base64," + base64.b64encode(IMAGE).decode()):
        status, _, body = client.ask(
            "POST",
            "/api/v1/inpaint",
            json.dumps({"image": image, "mask": base64.b64encode(HOLE).decode(), **theirs, "use_croper": False, "cv2_flag": None}),
            Content_Type="application/json; charset=utf-8",
        )
        assert status == 200
        assert body == want
    assert client.post(**FILES, steps=3, seed=7, sd_steps=9)[2] == want  # ours wins
    seeds = {client.post(**FILES, steps=3, sd_seed=-1)[1]["x-seed"] for _ in range(2)}
    assert len(seeds) == 2


def test_boxes_transparency_formats_and_a_new_canvas(client: Client) -> None:
    boxed = client.post(image=IMAGE, boxes="[[20,10,20,20]]", steps=3, seed=7)
    assert pixels(boxed[2]).tobytes() == pixels(client.post(**FILES, steps=3, seed=7)[2]).tobytes()
    rgba = png(np.dstack([PHOTO, np.where(MASK, 0, 255).astype(np.uint8)]))
    assert client.post(image=rgba, steps=2)[0] == 200
    status, headers, body = client.post(**FILES, steps=2, format="jpg")
    assert (status, headers["content-type"], Image.open(io.BytesIO(body)).format) == (200, "image/jpeg", "JPEG")
    wide = pixels(client.post(image=IMAGE, extend="0,0,12,5", steps=2, feather=0)[2])
    assert wide.shape == (45, 72, 3)
    assert np.array_equal(wide[:40, :60], PHOTO)
    theirs = client.post(
        image=IMAGE, use_extender="true", extender_x=0, extender_y=0, extender_width=72, extender_height=45, steps=2, feather=0
    )
    assert pixels(theirs[2]).tobytes() == wide.tobytes()
    cropped = pixels(
        client.post(**FILES, use_croper=True, croper_x=20, croper_y=10, croper_width=8, croper_height=30, steps=2, feather=0)[2]
    )
    assert (cropped[:, 20:28] != PHOTO[:, 20:28]).any()
    assert np.array_equal(cropped[:, 30:], PHOTO[:, 30:])


def pixels(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)))


NOISE = png(np.random.default_rng(1).integers(0, 256, (40, 60, 3), np.uint8))


@pytest.mark.parametrize(
    ("status", "kind", "fields"),
    [
        (400, "BadField", {"mask": HOLE}),
        (400, "BadField", {**FILES, "stepps": 3}),
        (400, "BadField", {**FILES, "steps": "many"}),
        (400, "BadField", {**FILES, "steps": "9" * 5000}),
        (400, "BadField", {**FILES, "guidance": "1e"}),
        (400, "BadField", {**FILES, "invert": "perhaps"}),
        (400, "BadField", {**FILES, "extend": "1,2,3"}),
        (400, "BadField", {**FILES, "boxes": "[" * 100_000}),
        (400, "BadField", {**FILES, "format": "exe"}),
        (422, "UsageError", {"image": "/etc/passwd"}),
        (400, "BadField", {"image": "http://127.0.0.1/"}),
        (422, "UsageError", {"image": b"no picture", "mask": HOLE}),
        (422, "UsageError", {"image": IMAGE[:60], "mask": HOLE}),
        (422, "UsageError", {"image": IMAGE}),
        (422, "UsageError", {**FILES, "steps": 0}),
        (422, "UsageError", {**FILES, "steps": 201}),
        (422, "UsageError", {**FILES, "guidance": "nan"}),
        (422, "UsageError", {**FILES, "refine": 2}),
        (422, "UsageError", {**FILES, "extend": "-1,0,0,0"}),
        (422, "UsageError", {**FILES, "extend": "100000,100000,0,0"}),
        (422, "UsageError", {"image": IMAGE, "mask": NOISE}),
        (422, "UsageError", {"image": IMAGE, "boxes": "[[900,0,1,1]]"}),
        (422, "EmptyMaskError", {"image": IMAGE, "mask": png(~MASK & MASK)}),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, dict) else str(value),
)
def test_what_is_wrong_is_said(client: Client, status: int, kind: str, fields: dict[str, Any]) -> None:
    got, headers, body = client.post(**fields)
    answer = json.loads(body)
    assert (got, answer["error"]) == (status, kind), answer
    assert answer["message"] == answer["errors"]
    assert len(answer["message"]) < 400
    assert headers["x-content-type-options"] == "nosniff"


def test_hostile_and_truncated_bodies(client: Client, caplog: pytest.LogCaptureFixture) -> None:
    good, kind = form({**FILES, "steps": "2"})
    assert client.ask("POST", "/api/v1/inpaint", good[:-9], Content_Type=kind)[0] == 400
    assert client.ask("POST", "/api/v1/inpaint", good, Content_Type="multipart/form-data")[0] == 400
    assert client.ask("POST", "/api/v1/inpaint", good, Content_Type="multipart/form-data; boundary=y")[0] == 400
    assert client.ask("POST", "/api/v1/inpaint", b"x" * 9, Content_Type="text/plain")[0] == 415
    assert client.ask("POST", "/api/v1/inpaint", good, Content_Type=kind, Content_Encoding="gzip")[0] == 415
    many = form({f"a{i}": "x" for i in range(300)})
    assert client.ask("POST", "/api/v1/inpaint", many[0], Content_Type=many[1])[0] == 400
    for body in (
        b"{",
        b"[]",
        b'"\xff"',
        b"[" * 200_000,
        b'{"image": 3}',
        b'{"image": "\\ud800"}',
        b'{"image": {"a": 1}}',
        b'{"steps": NaN}',
    ):
        status, _, answer = client.ask("POST", "/api/v1/inpaint", body, Content_Type="application/json")
        assert status == 400, body[:40]
        json.loads(answer)
    strange = json.dumps({"image": base64.b64encode(IMAGE).decode(), "rng": "\ud800"})
    assert client.ask("POST", "/api/v1/inpaint", strange, Content_Type="application/json")[0] == 422
    with client.raw(b"POST /api/v1/inpaint HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n") as connection:
        answer = connection.recv(9000)
        assert b" 400 " in answer
        assert b"nosniff" in answer
    with client.raw(b"GET /health HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n") as connection:
        assert b" 200 " in connection.recv(100)
        connection.sendall(b"no chunk\r\n")  # when all has been answered
        while connection.recv(9000):
            pass
    assert client.post(**FILES, steps=2)[0] == 200
    assert not caplog.records  # nobody fills the log


# many at once --------------------------------------------------------------------------------------------------------
def test_two_hundred_requests_from_sixteen_threads(client: Client) -> None:
    """Each gets the bytes of the same request alone; nothing is left over, and no memory grows, be it Python's or the process's."""
    asked = [{"seed": i % 5, "steps": 1 + i % 2, "strength": 1, "guidance": 1} for i in range(10)]
    alone = [digest(client.post(**FILES, **fields)) for fields in asked]

    def burst(count: int) -> Held:
        with ThreadPoolExecutor(16) as pool:
            got = list(pool.map(lambda i: digest(client.post(**FILES, **asked[i % 10])), range(count)))
        assert got == [alone[i % 10] for i in range(count)]
        until(lambda: not client.service._under_way)
        del got
        return Held.now()

    first = burst(150)
    tracemalloc.start()
    try:
        second = burst(50)
    finally:
        tracemalloc.stop()
    assert second.objects - first.objects < 50 * 20
    assert second.traced < 50 * PHOTO.nbytes / 2, "more than half of each picture"
    assert second.resident - first.resident < 4 << 20
    assert second.threads <= first.threads
    assert not client.service._jobs


@dataclass(frozen=True)
class Held:
    """What the process holds when all that can go has gone."""

    objects: int
    traced: int  # bytes that Python and NumPy have asked for while this was traced
    resident: int  # bytes of the process; 0 where the system does not say
    threads: int

    @classmethod
    def now(cls) -> Held:
        gc.collect()
        statm = Path("/proc/self/statm")
        resident = int(statm.read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE") if statm.exists() else 0
        return cls(len(gc.get_objects()), tracemalloc.get_traced_memory()[0], resident, threading.active_count())


def digest(answer: tuple[int, dict[str, str], bytes]) -> str:
    assert answer[0] == 200, answer[2]
    return hashlib.sha256(answer[2]).hexdigest()


def test_a_batch_has_the_pictures_of_each_alone(model: Inpainter, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three that wait together with the same steps and guidance go at once, a fourth with others does not."""
    sizes: list[int] = []
    loop = Run.loop
    monkeypatch.setattr(Run, "loop", lambda run, items, times: sizes.append(len(items)) or loop(run, items, times))
    asked = [{"seed": 1, "steps": 4}, {"seed": 2, "steps": 4, "grow": 2}, {"seed": 3, "steps": 4}, {"seed": 4, "steps": 3}]
    alone = [pixels(client.post(**FILES, **fields)[2]).astype(int) for fields in asked]
    sizes.clear()
    with serving(model, Batching(4, "as if measured")) as other, held(monkeypatch) as go, ThreadPoolExecutor(5) as pool:
        first = pool.submit(other.post, **FILES, steps=2)
        until(lambda: other.service.queue.running)
        later = []
        for fields in asked:
            later.append(pool.submit(other.post, **FILES, **fields))
            until(lambda: other.service.queue.waiting == len(later))
        go.set()
        for answer, want in zip(later, alone, strict=True):  # NumPy's sums of larger arrays have another last bit
            assert np.abs(pixels(answer.result()[2]) - want).max() <= 1
        assert first.result()[0] == 200
        assert sizes == [1, 3, 1]


@pytest.mark.parametrize("which", [{"same": True, "fast": True}, {"same": False, "fast": True}, {"same": True, "fast": False}])
def test_a_batch_is_measured(model: Inpainter, monkeypatch: pytest.MonkeyPatch, which: dict[str, bool]) -> None:
    """It is done where a picture comes faster and the bits are the same, and nowhere else."""

    def sampled(model: Inpainter, seeds: list[int], guidance: float) -> tuple[np.ndarray, float]:
        rows = np.array([[s + (0 if which["same"] else len(seeds))] for s in seeds])
        return rows, 0.1 * len(seeds) ** (0.5 if which["fast"] else 1)

    monkeypatch.setattr(batching, "sampled", sampled)
    assert batching.measured(model).size == (4 if all(which.values()) else 1)


def test_the_measurement_compares_real_bits(llvmpipe: WebGPU) -> None:
    model = made(llvmpipe)
    (alone,), _ = batching.sampled(model, [1], 2.5)
    both, seconds = batching.sampled(model, [0, 1], 2.5)
    assert both.shape[:2] == (2, batching.STEPS)
    assert np.array_equal(both[1], alone), "it is a kernel's grid that grows, and nobody's sums"
    assert not np.array_equal(both[0], alone)
    assert seconds > 0


# jobs ----------------------------------------------------------------------------------------------------------------
def test_a_job_from_its_place_to_its_result(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    with held(monkeypatch) as go:
        jobs = [json.loads(client.post("/api/v1/jobs", **FILES, steps=4, seed=s)[2]) for s in range(3)]
        until(lambda: client.service.queue.running)
        assert [client.json("GET", f"/api/v1/jobs/{job['id']}")[1]["place"] for job in jobs] == [0, 1, 2]
        assert jobs[0] | {"state": "", "place": 0, "waiting": 0} == {
            **{"id": jobs[0]["id"], "state": "", "place": 0, "waiting": 0, "step": 0, "steps": 3, "windows": 1},
            **{"width": 60, "height": 40, "seed": 0, "notes": [], "error": None},
        }
        assert client.json("GET", f"/api/v1/jobs/{jobs[0]['id']}/result")[0] == 409
        threading.Timer(0.2, go.set).start()
        events = client.events(jobs[2]["id"], "picture")
    places = [data["place"] for name, data in events if name == "place"]
    assert places == [2, 1, 0]
    steps = [data for name, data in events if name == "step"]
    assert [data["steps"] for data in steps] == [3] * len(steps)
    assert steps[-1]["step"] == 3
    shown = next(data["preview"] for data in steps if "preview" in data)
    assert pixels(base64.b64decode(shown.partition(",")[2])).shape == (40, 60, 3)
    assert events[-1][0] == "done"
    assert events[-1][1]["seed"] == 2
    status, headers, body = client.ask("GET", events[-1][1]["result"])
    assert (status, headers["x-seed"]) == (200, "2")
    assert body == client.post(**FILES, steps=4, seed=2)[2]
    assert client.events(jobs[2]["id"]) == [events[-1]]
    assert client.json("GET", f"/api/v1/jobs/{jobs[2]['id']}")[1]["state"] == "done"


def test_patches_show_where_the_model_works(client: Client) -> None:
    job = json.loads(client.post("/api/v1/jobs", **FILES, steps=3)[2])["id"]
    patches = [data["patches"] for name, data in client.events(job, "patches") if "patches" in data]
    if patches:  # it may have ended before anybody listened
        (patch,) = patches[0]
        assert patch["x"] <= 20
        assert patch["x"] + patch["width"] >= 40
        assert patch["image"].startswith("data:image/png;base64,")


def test_a_job_is_cancelled_waiting_and_between_two_steps(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    with held(monkeypatch) as go:
        running, waiting = (json.loads(client.post("/api/v1/jobs", **FILES, steps=50, seed=s)[2])["id"] for s in range(2))
        until(lambda: client.service.queue.running)
        assert client.json("DELETE", f"/api/v1/jobs/{waiting}")[1]["state"] == "cancelled"
        assert client.json("DELETE", f"/api/v1/jobs/{running}")[0] == 200
        go.set()
        assert client.events(running)[-1] == ("cancelled", {})
    assert client.json("GET", f"/api/v1/jobs/{running}")[1]["step"] <= 1
    assert client.json("GET", f"/api/v1/jobs/{waiting}/result")[0] == 410
    assert client.json("GET", "/api/v1/jobs/nothing")[0] == 404


def test_a_full_queue_is_said_with_when_to_come_again(model: Inpainter, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(model, waiting=2) as client, held(monkeypatch) as go, ThreadPoolExecutor(3) as pool:
        answers = [pool.submit(client.post, **FILES, steps=1, strength=1)]
        until(lambda: client.service.queue.running)
        answers += [pool.submit(client.post, **FILES, steps=1, strength=1) for _ in range(2)]
        until(lambda: client.service.queue.waiting == 2)
        status, headers, body = client.post(**FILES)
        assert (status, json.loads(body)["error"]) == (429, "QueueFull")
        assert int(headers["retry-after"]) >= 1
        go.set()
        assert [answer.result()[0] for answer in answers] == [200, 200, 200]


# clients that go away, and slow ones ---------------------------------------------------------------------------------
def head(body: bytes, kind: str, length: int | None = None, path: str = "/api/v1/inpaint") -> bytes:
    length = len(body) if length is None else length
    return f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n\r\n".encode()


def test_a_client_that_goes_away_cancels_its_request(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    body, kind = form({**FILES, "steps": "190"})
    with held(monkeypatch) as go:
        connections = [client.raw(head(body, kind) + body) for _ in range(3)]  # one runs, two wait
        until(lambda: client.service.queue.running and client.service.queue.waiting == 2)
        for connection in connections:
            connection.close()
        until(lambda: client.service.queue.waiting == 0)
        go.set()
        until(lambda: not client.service._under_way)
    client.raw(head(body, kind) + body[: len(body) // 2]).close()  # in the middle of its body
    assert client.post(**FILES, steps=1, strength=1)[0] == 200


def test_a_client_that_goes_away_before_it_knows_its_job(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs, go, prepare = [], threading.Event(), client.service.prepare

    def waiting(job: Job, *of: Any) -> None:
        jobs.append(job)
        assert go.wait(240)
        prepare(job, *of)

    monkeypatch.setattr(client.service, "prepare", waiting)
    with held(monkeypatch):
        body, kind = form(FILES)
        head = f"POST /api/v1/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
        connection = client.raw(head.encode() + body)
        until(lambda: jobs)
        connection.close()
        until(lambda: not client.server.server_state.connections)
        go.set()
        until(lambda: jobs[0].stopping)
    until(lambda: jobs[0].state == "cancelled")
    assert client.ask("GET", f"/api/v1/jobs/{jobs[0].id}")[0] == 404


def test_a_job_that_nobody_asks_for_is_cancelled(model: Inpainter, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("moebius.serve.app.SWEEP", 0.02)
    with serving(model, unwatched=0.3, broken=0.1) as client, held(monkeypatch) as go:
        first = json.loads(client.post("/api/v1/jobs", **FILES, steps=190)[2])["id"]
        until(lambda: client.service.queue.running)
        job = json.loads(client.post("/api/v1/jobs", **FILES)[2])["id"]
        with client.raw(f"GET /api/v1/jobs/{job}/events HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()) as connection:
            heard = b""
            while b"event: place" not in heard:  # with the head, or after it
                heard += connection.recv(4000)
            time.sleep(0.5)
            assert not client.service._jobs[job].over, "somebody listens"
        until(lambda: client.service._jobs[job].state == "cancelled")
        go.set()
        until(lambda: client.service._jobs[first].state == "cancelled")


def test_slow_clients_are_sent_away_and_keep_nobody_waiting(model: Inpainter) -> None:
    body, kind = form(FILES)
    with serving(model, head=0.3, silence=0.3) as client:
        slow = [client.raw(b"POST /api/v1/inp"), client.raw(b"")]  # heads that do not end, or begin
        stuck = client.raw(head(body, kind) + body[:50])
        assert client.post(**FILES, steps=1, strength=1)[0] == 200
        assert b" 408 " in stuck.recv(1000)
        for connection in slow:
            assert gone(connection)
        for connection in (*slow, stuck):
            connection.close()


def gone(connection: socket.socket) -> bool:
    try:
        return connection.recv(1000) == b""
    except ConnectionError:
        return True


def test_who_does_not_read_the_answer_is_sent_away(model: Inpainter) -> None:
    Image.fromarray(np.tile(PHOTO, (40, 25, 1))).save(large := io.BytesIO(), "BMP")  # more than the buffers of both ends hold
    with serving(model, silence=0.3) as client:
        body, kind = form({"image": large.getvalue(), "boxes": "[[20,10,9,9]]", "steps": "1", "strength": "1", "format": "bmp"})
        connection = socket.socket()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(("127.0.0.1", client.port))
        connection.sendall(head(body, kind) + body)
        until(lambda: client.server.server_state.connections)
        until(lambda: not client.server.server_state.connections)
        connection.close()


# limits --------------------------------------------------------------------------------------------------------------
def test_limits_on_bytes_pixels_windows_and_time(model: Inpainter) -> None:
    with serving(model, bytes=20_000, pixels=3000, windows=2) as client:
        assert client.post(image=b"x" * 30_000, mask=HOLE)[0] == 413
        chunks = iter([b"x" * 15_000] * 3)
        assert client.ask("POST", "/api/v1/inpaint", chunks, Content_Type="multipart/form-data; boundary=x")[0] == 413
        assert client.post(**FILES, extend="0,0,40,0")[0] == 422
        spots = "[[0,0,3,3],[30,0,3,3],[57,0,3,3],[0,36,3,3],[57,36,3,3]]"
        status, _, body = client.post(image=IMAGE, boxes=spots)
        assert status == 422, body
    with serving(model, reading=10_000) as client:
        assert client.post(image=b"x" * 30_000, mask=HOLE)[0] == 429
        assert client.post(**FILES, steps=1, strength=1)[0] == 429 if len(IMAGE) > 10_000 else True


def test_time_is_over_for_a_run(model: Inpainter, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(model, seconds=2.0) as client, held(monkeypatch) as go, ThreadPoolExecutor(1) as pool:
        answer = pool.submit(client.post, **FILES)
        (job,) = until(lambda: client.service.queue.running)
        job.prepared = 2.0  # what preparing took counts as well
        go.set()
        assert answer.result()[0] == 504
        assert client.post(**FILES, steps=1, strength=1)[0] == 200


def test_time_is_over_for_a_mask_that_takes_too_long(model: Inpainter) -> None:
    """Rings within rings, each with a box as wide as the picture: minutes of looking for windows. The next picture has its turn."""
    side = 2400
    rings = np.maximum(*(abs(n - side // 2) for n in np.ogrid[:side, :side])) % 40 < 3
    with serving(model, preparing=0.2) as client:
        status, _, body = client.post(image=png(np.zeros((side, side), np.uint8)), mask=png(rings))
        assert (status, json.loads(body)["error"]) == (504, "TimeIsOver")
        assert client.post(**FILES, steps=1, strength=1)[0] == 200


@pytest.mark.parametrize(
    ("error", "status"),
    [(OutOfMemoryError("no room"), 503), (WeightError("wrong"), 500), (MemoryError(), 503), (ZeroDivisionError("x"), 500)],
)
def test_bad_luck_is_told_from_bad_input(client: Client, monkeypatch: pytest.MonkeyPatch, error: Exception, status: int) -> None:
    left: list[Run] = []

    def unlucky(run: Run) -> None:
        raise error

    for where in ("begin", "denoise", "finish"):
        with monkeypatch.context() as patch:
            patch.setattr(Run, where, unlucky)
            patch.setattr(Run, "leave", lambda run: left.append(run))
            got, _, body = client.post(**FILES, steps=1, strength=1)
            assert until(lambda: left.pop() if left else None), f"what it took is given back after {where}"
        assert (got, json.loads(body)["error"]) == (status, type(error).__name__)
        assert b"Traceback" not in body
    assert client.post(**FILES, steps=1, strength=1)[0] == 200
    assert client.ask("GET", "/health")[0] == 200


def test_results_are_forgotten(model: Inpainter) -> None:
    with serving(model, kept=20_000) as client:
        jobs = [json.loads(client.post("/api/v1/jobs", **FILES, steps=1, strength=1)[2])["id"] for _ in range(6)]
        for job in jobs:
            client.events(job)
        client.service.forget_old()
        kept = [client.json("GET", f"/api/v1/jobs/{job}")[0] for job in jobs]
        assert kept[-1] == 200
        assert kept[0] == 404
        assert client.json("DELETE", f"/api/v1/jobs/{jobs[-1]}")[0] == 200
        assert client.json("GET", f"/api/v1/jobs/{jobs[-1]}/result")[0] == 404


# who may ask ---------------------------------------------------------------------------------------------------------
def test_hosts_and_origins(client: Client) -> None:
    own = f"127.0.0.1:{client.port}"
    for host, status in (
        ("evil.example", 403),
        ("127.0.0.1.evil.example", 403),
        ("10.0.0.1", 403),
        ("localhost:1", 200),
        ("proxy.example", 200),
    ):
        assert client.ask("GET", "/health", Host=host)[0] == status, host
    for origin, status in (("http://evil.example", 403), ("null", 403), (f"http://{own}", 200), ("http://localhost:1", 403)):
        assert client.post(**FILES, steps=1, strength=1, headers={"Origin": origin})[0] == status, origin
    assert client.ask("GET", "/api/v1/model", Sec_Fetch_Site="cross-site")[0] == 403
    status, headers, _ = client.ask("GET", "/api/v1/model", Origin="http://friend.example", Sec_Fetch_Site="cross-site")
    assert (status, headers["access-control-allow-origin"], headers["vary"]) == (200, "http://friend.example", "Origin")
    assert client.ask("OPTIONS", "/api/v1/inpaint", Origin="http://friend.example")[0] == 204
    assert "access-control-allow-origin" not in client.ask("GET", "/api/v1/model")[1]


def test_the_token(model: Inpainter) -> None:
    with pytest.raises(UsageError):
        rules("127.0.0.1", "short")
    assert rules("127.0.0.1", None).token is None
    assert len(rules("0.0.0.0", None).token or "") >= 32
    with serving(model, token=TOKEN, host="0.0.0.0") as client, listen.opened("127.0.0.1", 0) as listener:
        assert listen.address(rules("127.0.0.1", TOKEN), listener) == f"http://127.0.0.1:{listener.getsockname()[1]}/#token={TOKEN}"
        for path in ("/api/v1/model", "/api/v1/jobs/x", "/api/v1/jobs/x/result"):
            assert client.ask("GET", path)[0] == 401
            assert client.ask("GET", path, Authorization="Bearer wrong")[0] == 401
            assert client.ask("GET", path, Authorization=f"Bearer {TOKEN}")[0] in (200, 404)
        assert client.post(**FILES)[0] == 401
        assert client.ask("GET", "/health")[0] == client.ask("GET", "/api/v1/health")[0] == client.ask("GET", "/")[0] == 200
        assert json.loads(client.ask("GET", "/engine.json")[2])["token"] is True
        assert client.ask("GET", "/health", Host="rebound.example")[0] == 403
        assert client.ask("GET", "/health", Host="192.168.3.4:8080")[0] == 200


def test_the_page_and_the_reference(client: Client) -> None:
    status, headers, _body = client.ask("GET", "/")
    assert (status, headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert "script-src 'self';" in headers["content-security-policy"]
    assert client.ask("GET", "/page.js")[1]["content-type"].startswith("text/javascript")
    assert client.ask("GET", "/page.js", If_None_Match=client.ask("GET", "/page.js")[1]["etag"])[0] == 304
    assert json.loads(client.ask("GET", "/engine.json")[2]) == {"engine": "server", "api": "api/v1", "token": False}
    for path in ("/../pyproject.toml", "/%2e%2e/serve/app.py", "/page.js/..", "//etc/passwd", "/nothing", "/__init__.py"):
        assert client.ask("GET", path)[0] == 404, path
    docs = client.ask("GET", "/docs")[2].decode()
    schema = json.loads(client.ask("GET", "/openapi.json")[2])
    assert {"/api/v1/inpaint", "/api/v1/jobs", "/api/v1/jobs/{job_id}/events", "/api/v1/model", "/health"} <= schema["paths"].keys()
    assert all(path in docs for path in schema["paths"])
    assert "<script" not in docs
    assert "http:" not in docs + "https:" not in docs
    assert client.ask("DELETE", "/api/v1/inpaint")[0] == 405


def test_the_page_fills_a_picture(model: Inpainter, chromium: Browser, tmp_path: Path) -> None:
    """The page and the server as they are, the token between them."""
    for name, data in FILES.items():
        (tmp_path / f"{name}.png").write_bytes(data)
    with serving(model, token=TOKEN) as client:
        page = Page(chromium, f"http://127.0.0.1:{client.port}/#token={TOKEN}")
        page.wait("moebius.state !== 'loading'")
        assert page.run("[moebius.state, moebius.error ?? null, location.hash]") == ["ready", None, ""]
        hand = Hand(page)
        hand.choose("#open", tmp_path / "image.png")
        page.wait("moebius.editor.picture?.width === 60")
        hand.choose("#open-mask", tmp_path / "mask.png")
        page.wait("moebius.editor.marks.length")
        page.run("document.getElementById('run').click()")
        page.wait("moebius.result || moebius.error")
        assert page.run("moebius.error ?? null") is None
        script = "return (await import('./bitmaps.js')).pictureOf(moebius.editor.picture).data;"
        filled = fetched(page, script).reshape(PHOTO.shape)
        assert (filled != PHOTO).any(axis=2)[MASK].mean() > 0.9
        answer = client.post(**FILES, headers={"Authorization": f"Bearer {TOKEN}"})[2]
        assert np.array_equal(filled, np.asarray(Image.open(io.BytesIO(answer))))
        assert page.log == []  # no policy was in the way
        page.run("moebius.editor.history.keptSaved()")
        page.close()


def test_the_model_is_told(client: Client, model: Inpainter) -> None:
    status, facts = client.json("GET", "/api/v1/model")
    assert status == 200
    assert (facts["name"], facts["device"], facts["size"]) == (model.model, model.device, model.size)
    assert facts["defaults"]["steps"] == 20
    assert facts["limits"]["waiting"] == 32
    assert facts["batch"]["size"] == 1


def test_no_folder_of_this_machine_is_told() -> None:
    source = {"unet": {"path": os.path.join("home", "name", "unet.safetensors")}, "vae": {"repo": "a/b", "file": "vae.safetensors"}}
    record = told({"seed": 3, "timings": {"write": 1.0}, "source": source})
    assert record == {"seed": 3, "num_images": 1, "source": {"unet": {"path": "unet.safetensors"}, "vae": source["vae"]}}


# its end -------------------------------------------------------------------------------------------------------------
def test_a_signal_finishes_what_runs_and_answers_the_rest(model: Inpainter, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(model) as client, ThreadPoolExecutor(4) as pool:
        with held(monkeypatch) as go:
            running = json.loads(client.post("/api/v1/jobs", **FILES, steps=2)[2])["id"]
            until(lambda: client.service.queue.running)
            listening = pool.submit(client.events, running)
            waiting = [pool.submit(client.post, **FILES) for _ in range(2)]
            until(lambda: client.service.queue.waiting == 2)
            client.server.stop()
            assert [answer.result()[0] for answer in waiting] == [503, 503]
            assert client.ask("GET", "/health")[0] == client.post(**FILES)[0] == 503
            go.set()
        assert listening.result()[-1][0] == "done"
        assert client.ask("GET", f"/api/v1/jobs/{running}/result")[0] == 200
        until(lambda: not client.server.started or client.server.should_exit or not client.service.worker.is_alive())


@pytest.mark.skipif(sys.platform == "win32", reason="has no SIGTERM")
def test_the_command(tmp_path: Path) -> None:
    """Serves nano to the example's client of ten lines; SIGTERM ends it well. It writes nothing."""
    script = Path(__file__).parents[1] / "examples/client.py"
    lines = script.read_text(encoding="utf-8").partition('"""\n\n')[2].splitlines()
    assert len([line for line in lines if line and not line.startswith(("import", "from"))]) <= 10
    folder = tmp_path / "server"
    folder.mkdir()
    arguments = ["serve", "--port", "0", "--device", "cpu", "--threads", "1"]
    env = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "MOEBIUS_CACHE": str(folder / "cache"), "TMPDIR": str(folder), "no_proxy": "*"}
    process = subprocess.Popen([sys.executable, "-m", "moebius", *arguments], cwd=folder, env=env, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        line = next(line for line in process.stderr if "http://" in line)
        url = line.partition("Serving at ")[2].partition("/ ")[0]
        ask = [sys.executable, str(script), str(sample.photo()), str(sample.mask()), str(tmp_path / "out.png"), url]
        assert "seed 0" in subprocess.run(ask, env=env, capture_output=True, text=True, check=True).stdout
        assert Image.open(tmp_path / "out.png").size == (320, 214)
        process.send_signal(signal.SIGTERM)
        assert process.wait(120) == 0
    finally:
        process.kill()
    assert not list(folder.rglob("*"))


def test_a_token_that_was_given_is_not_printed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    shown: list[str] = []

    class Started:
        def __init__(self, service: service.Service, rules: Rules, started: Callable[[], None]) -> None:
            self.started = started

        def run(self, sockets: list[socket.socket]) -> None:
            self.started()

    monkeypatch.setattr(listen, "server", Started)
    monkeypatch.setattr("webbrowser.open", shown.append)
    arguments = ["serve", "--port", "0", "--device", "cpu", "--open"]
    assert command([*arguments, "--token", TOKEN]) == 0
    assert TOKEN not in "".join(capsys.readouterr())
    assert shown[0].endswith(f"/#token={TOKEN}")
    assert command([*arguments, "--host", "0.0.0.0", "--quiet"]) == 0
    assert shown[1] in "".join(capsys.readouterr())


def test_the_command_refuses_before_a_model_is_loaded(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert command(["serve", "--port", str(taken.getsockname()[1]), "--model", "nothing"]) == 1
    assert command(["serve", "--token", "short"]) == 2
    assert command(["serve", "--allow-origin", "friend.example/path"]) == 2
    assert command(["serve", "--max-steps", "0"]) == 2
    monkeypatch.setattr("moebius.cli.serve.find_spec", lambda name: None)
    capsys.readouterr()
    assert command(["serve"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "moebius-webgpu[serve]" in line
