"""Jobs of the server, and clients that are slow or go away."""

from __future__ import annotations

import base64
import io
import json
import socket
import threading
import time
from typing import Any

import numpy as np
import pytest
from PIL import Image
from serve_cases import FILES, PHOTO, Client, form, head, held, pixels, serving, until

from moebius.inpaint.inpainter import Inpainter
from moebius.serve.jobs import Job

pytest_plugins = ("serve_fixtures",)


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


# clients that go away, and slow ones ---------------------------------------------------------------------------------
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
