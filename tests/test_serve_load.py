"""The server with many clients at once, in batches, and against its limits."""

from __future__ import annotations

import gc
import hashlib
import json
import os
import threading
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from serve_cases import FILES, HOLE, IMAGE, PHOTO, Client, held, made, pixels, png, serving, until

from moebius.backends.webgpu import WebGPU
from moebius.inpaint.inpainter import Inpainter
from moebius.inpaint.run import Run
from moebius.serve import batching
from moebius.serve.batching import Batching
from moebius.serve.jobs import Job

pytest_plugins = ("serve_fixtures",)

TOGETHER = Batching(4, "as if measured")


# many at once --------------------------------------------------------------------------------------------------------
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


def test_two_hundred_requests_from_sixteen_threads(client: Client) -> None:
    """Each gets the bytes of the same request alone; nothing is left over, and no memory grows, be it Python's or the process's."""
    asked = [{"seed": i % 5, "steps": 1 + i % 2, "strength": 1, "guidance": 1} for i in range(10)]
    alone = [digest(client.post(**FILES, **fields)) for fields in asked]

    def burst(count: int) -> Held:
        with ThreadPoolExecutor(16) as pool:
            got = list(pool.map(lambda i: digest(client.post(**FILES, **asked[i % 10])), range(count)))
        assert got == [alone[i % 10] for i in range(count)]
        until(lambda: not client.service._under_way and not client.server.server_state.connections)
        del got
        return Held.now()

    first = burst(140)
    tracemalloc.start()
    try:
        second, third = burst(30), burst(30)
    finally:
        tracemalloc.stop()
    assert third.objects - second.objects < 30 * 20
    assert third.traced - second.traced < 30 * PHOTO.nbytes / 2, "more than half of each picture"
    assert third.resident - first.resident < 4 << 20
    assert third.threads <= first.threads
    assert not client.service._jobs


# batches -------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("device", "most"), [("cpu", 1), ("llvmpipe", 0)])  # NumPy's sums of larger arrays have another last bit
def test_a_batch_has_the_pictures_of_each_alone(
    device: str, most: int, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three that wait together with the same steps and guidance go at once, a fourth with others does not."""
    sizes: list[int] = []
    loop = Run.loop
    monkeypatch.setattr(Run, "loop", lambda run, items, times: sizes.append(len(items)) or loop(run, items, times))
    model = request.getfixturevalue("model") if device == "cpu" else made(request.getfixturevalue(device))
    asked = [{"seed": 1, "steps": 4}, {"seed": 2, "steps": 4, "grow": 2}, {"seed": 3, "steps": 4}, {"seed": 4, "steps": 3}]
    with serving(model, TOGETHER) as client, ThreadPoolExecutor(5) as pool:
        alone = [pixels(client.post(**FILES, **fields)[2]).astype(int) for fields in asked]
        sizes.clear()
        with held(monkeypatch) as go:
            first = pool.submit(client.post, **FILES, steps=2)
            until(lambda: client.service.queue.running)
            later = []
            for fields in asked:
                later.append(pool.submit(client.post, **FILES, **fields))
                until(lambda: client.service.queue.waiting == len(later))
            go.set()
            for answer, want in zip(later, alone, strict=True):
                assert np.abs(pixels(answer.result()[2]) - want).max() <= most
            assert first.result()[0] == 200
    assert sizes == [1, 3, 1]


def test_in_a_batch_each_has_its_previews_and_its_end(model: Inpainter, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of three that are sampled together the second is cancelled between two steps; the others go on, and see themselves."""
    asked = [{**FILES, "steps": 4, "seed": seed} for seed in range(3)]
    deleted, hear = threading.Event(), Job.hear

    def hearing(job: Job, step: int, *of: Any) -> None:
        hear(job, step, *of)
        assert step != 2 or deleted.wait(240)  # the first one's; of the second the worker has yet to ask whether it goes on

    with serving(model, TOGETHER, preview=0.0) as client, ThreadPoolExecutor(3) as pool:
        alone = [pixels(client.post(**fields)[2]).astype(int) for fields in asked]
        monkeypatch.setattr(Job, "hear", hearing)
        try:
            with held(monkeypatch) as go:
                client.post("/api/v1/jobs", **FILES, steps=1, strength=1)
                until(lambda: client.service.queue.running)
                jobs = [json.loads(client.post("/api/v1/jobs", **fields)[2])["id"] for fields in asked]
                heard = [pool.submit(client.events, job, "picture") for job in jobs]
                until(lambda: all(client.service._jobs[job].watched for job in jobs))
                go.set()
                until(lambda: client.service._jobs[jobs[0]].step == 2)
                assert [client.service._jobs[job].state for job in jobs] == ["running"] * 3, "at once"
                assert client.json("DELETE", f"/api/v1/jobs/{jobs[1]}")[0] == 200
        finally:
            deleted.set()
        first, second, third = (events.result() for events in heard)
        assert second[-1] == ("cancelled", {})
        assert client.service._jobs[jobs[1]].step == 1
        assert (first[-1][0], third[-1][0]) == ("done", "done")
        for job, want in ((jobs[0], alone[0]), (jobs[2], alone[2])):
            assert np.abs(pixels(client.ask("GET", f"/api/v1/jobs/{job}/result")[2]) - want).max() <= 1
        shown = [[data["preview"] for name, data in events if "preview" in data][-1] for events in (first, third)]
        assert shown[0] != shown[1]


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


# limits --------------------------------------------------------------------------------------------------------------
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
