"""A batch on a real Ray: a cluster of two nodes at 127.0.0.1, workers that are killed, and what is left of it all."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from batch_cases import files, mask, picture
from PIL import Image

import moebius
from moebius.errors import UsageError
from moebius.many import batch as many
from moebius.many import cluster as machines_of
from moebius.many.cluster import Cluster
from moebius.many.jobs import Job, Outcome
from moebius.many.places import place
from moebius.many.recipe import Recipe
from moebius.many.worker import Options
from moebius.pictures.metadata import read_metadata

os.environ |= {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # it listens at 127.0.0.1 alone
    "RAY_worker_niceness": "0",  # Ray's own is 15: beside two busy processes its workers would stand still for minutes
}
ray = pytest.importorskip("ray", reason="the extra ray is not installed")

SETTINGS = {"steps": 2, "strength": 1.0}
NODE = {"num_cpus": 1, "object_store_memory": machines_of.STORE, "node_ip_address": "127.0.0.1"}
CPU = Recipe("nano", device={"device": "cpu"})
STARTED: list[Cluster] = []


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """Of two machines with a core each, or what passes for such."""
    from ray.cluster_utils import Cluster as Machines

    started = Machines(initialize_head=True, head_node_args={**NODE, "include_dashboard": False})
    try:
        started.add_node(**NODE)
        ray.init(address=started.address, log_to_driver=False, logging_level="ERROR")
        yield started.address
    finally:
        ray.shutdown()
        started.shutdown()


@pytest.fixture(scope="module")
def machines(address: str) -> Iterator[Cluster]:
    """A worker on each, with nano on the CPU device."""
    with Cluster(CPU, Options(SETTINGS, resume=True, retries=1)) as started:
        STARTED.append(started)
        yield started


@pytest.fixture
def idle(address: str) -> str:
    """The same with no worker on it."""
    for started in STARTED:
        started.__exit__()
    return address


def some(folder: Path, count: int, size: tuple[int, int] = (64, 48)) -> tuple[Path, Path]:
    for k in range(count):
        picture(folder / f"in/{k:03}.png", size)
    return folder / "in", mask(folder / "m.png", (20, 15, 40, 30), size)


def listed(folder: Path, count: int, out: str = "") -> list[Job]:
    options = Options(SETTINGS)
    return list(many.listed(*some(folder, count), place(out or folder / "out"), options).jobs())


def same(a: Path, b: Path) -> bool:
    """The pixels, and the record but for the seconds and the threads of the device."""
    records = [{k: v for k, v in read_metadata(p).items() if k not in ("timings", "device")} for p in (a, b)]
    return records[0] == records[1] and np.array_equal(np.asarray(Image.open(a)), np.asarray(Image.open(b)))


def kill(worker: str) -> None:
    """The process that an outcome names."""
    os.kill(int(worker.rsplit(":", 1)[1]), signal.SIGKILL)


def test_all_is_there_and_the_same_though_a_worker_is_killed(tmp_path: Path, machines: Cluster) -> None:
    jobs = listed(tmp_path, 10, f"file://{tmp_path}/out")
    Path(str(jobs[5].image)).write_bytes(b"no picture")
    ended: list[Outcome] = []
    for outcome in machines.outcomes(jobs):
        ended.append(outcome)
        if len(ended) == 2:
            kill(outcome.worker)
    assert sorted(o.job.name for o in ended) == [job.name for job in jobs]
    assert [(o.job.name, type(o.error)) for o in ended if o.error] == [("005.png", UsageError)]
    assert len({o.worker for o in ended}) >= 2
    plain = moebius.batch(tmp_path / "in", tmp_path / "m.png", tmp_path / "plain", device="cpu", **SETTINGS)
    assert plain.counts == {"done": 9, "skipped": 0, "failed": 1}
    assert files(tmp_path / "out") == files(tmp_path / "plain")
    assert all(same(tmp_path / "out" / name, tmp_path / "plain" / name) for name in files(tmp_path / "plain"))
    again = {outcome.job.name: outcome.how for outcome in machines.outcomes(jobs)}  # on machines that have not made all of them
    assert again == {job.name: "failed" if job.name == "005.png" else "skipped" for job in jobs}


class Deadly:
    """Ends the process that unpickles it."""

    def __reduce__(self) -> tuple[Any, tuple[int]]:
        return os._exit, (1,)


def test_a_picture_that_kills_its_workers_fails_alone(tmp_path: Path, machines: Cluster) -> None:
    jobs = listed(tmp_path, 6)
    deadly = Job(jobs[2].image, jobs[2].mask, jobs[2].out, "deadly", settings={"seed": Deadly()})
    ended = {o.job.name: o for o in machines.outcomes([*jobs[:2], deadly, *jobs[3:]])}
    assert {name: o.how for name, o in ended.items()} == {"deadly": "failed"} | {j.name: "done" for j in (*jobs[:2], *jobs[3:])}
    assert ended["deadly"].tries == 2
    assert max(o.tries for name, o in ended.items() if name != "deadly") <= 2  # those beside it are tried once more


def test_of_a_long_list_little_is_taken_ahead(tmp_path: Path, machines: Cluster) -> None:
    taken = 0

    def endless() -> Iterator[Job]:
        nonlocal taken
        while True:
            taken += 1
            yield Job(tmp_path / "nothing.png", tmp_path / "nothing.png", tmp_path / "out.png", str(taken))

    found = machines.outcomes(endless())
    for n in range(1, 30):
        assert next(found).how == "failed"
        assert taken <= n + 2 * (machines_of.AHEAD + 1)
    found.close()


# Slow ------------------------------------------------------------------------------------------------------------------
@pytest.mark.slow
def test_ctrl_c_ends_a_command_cleanly(tmp_path: Path, idle: str) -> None:
    images, one = some(tmp_path, 40, (160, 120))
    code = "import sys; from moebius.__main__ import main; sys.exit(main())"
    argv = ["batch", str(images), str(one), str(tmp_path / "out"), "--ray", idle, "--device", "cpu", "--json", "--workers", "1"]
    env = {**os.environ, "PYTHONUNBUFFERED": "1"}
    started = subprocess.Popen([sys.executable, "-c", code, *argv], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env, text=True)
    try:
        assert started.stdout is not None
        first = json.loads(started.stdout.readline())
        assert first["output"]
        started.send_signal(signal.SIGINT)
        _, err = started.communicate(timeout=120)
    finally:
        started.kill()
    assert started.returncode == 130
    assert "Traceback" not in err
    assert 0 < len(files(tmp_path / "out")) < 40
    assert not [name for name in files(tmp_path / "out") if name.endswith(".part")]


def resident(pid: int) -> float:
    """MB"""
    status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    return int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1]) / 1024


@pytest.mark.slow
def test_five_hundred_pictures_with_workers_killed(tmp_path: Path, idle: str) -> None:
    images, one = some(tmp_path, 500)
    (images / "077.png").write_bytes(b"no picture")
    memory: dict[int, list[float]] = {}
    count = 0

    def look(outcome: Outcome) -> None:
        nonlocal count
        count += 1
        pid = int(outcome.worker.rsplit(":", 1)[1])
        if outcome.how == "done" and Path(f"/proc/{pid}").exists():
            memory.setdefault(pid, []).append(resident(pid))
        if count in (60, 130):
            kill(outcome.worker)

    options = {"device": "cpu", **SETTINGS}
    summary = moebius.batch(images, one, tmp_path / "out", ray=idle, on_outcome=look, **options)
    assert summary.counts == {"done": 499, "skipped": 0, "failed": 1}
    plain = moebius.batch(images, one, tmp_path / "plain", **options)
    assert plain.counts == summary.counts
    assert all(same(tmp_path / "out" / name, tmp_path / "plain" / name) for name in files(tmp_path / "plain"))
    longest = max(memory.values(), key=len)
    assert len(longest) > 120
    assert max(longest[-20:]) < 1.1 * max(longest[20:60]) + 10


@pytest.mark.slow
def test_a_full_disk_is_bad_luck_of_the_pictures_that_found_it_full(tmp_path: Path, idle: str) -> None:
    images, one = some(tmp_path, 12, (160, 120))
    out = tmp_path / "out"
    out.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(out)], capture_output=True).returncode:
        pytest.skip("nothing can be mounted here")
    try:
        summary = moebius.batch(images, one, out, ray=idle, device="cpu", **SETTINGS)
        assert summary.failed > 0
        assert summary.done > 0
        assert summary.done + summary.failed == 12
        assert all("space" in str(o.error) and o.tries == 3 for o in summary.failures)
        assert len(files(out)) == summary.done
        subprocess.run(["mount", "-o", "remount,size=2m", str(out)], check=True)
        assert moebius.batch(images, one, out, ray=idle, device="cpu", resume=True, **SETTINGS).counts == {
            "done": summary.failed,
            "skipped": summary.done,
            "failed": 0,
        }
    finally:
        subprocess.run(["umount", str(out)], check=True)


@pytest.mark.slow
def test_films_are_the_same_on_a_cluster(tmp_path: Path, idle: str) -> None:
    for name in ("a", "b", "c"):
        some(tmp_path / name, 4)
        shutil.move(tmp_path / name / "in", tmp_path / "in" / name) if (tmp_path / "in").exists() else shutil.copytree(
            tmp_path / name / "in", tmp_path / "in" / name
        )
    options: dict[str, Any] = {"device": "cpu", "recursive": True, "frames": True, "steps": 4}
    one = tmp_path / "a/m.png"
    for out, more in (("out", {"ray": idle}), ("plain", {})):
        assert moebius.batch(tmp_path / "in", one, tmp_path / out, **options, **more).counts["done"] == 12
    assert all(same(tmp_path / "out" / name, tmp_path / "plain" / name) for name in files(tmp_path / "plain"))


@pytest.mark.slow
def test_without_an_address_it_is_started_here(tmp_path: Path) -> None:
    images, one = some(tmp_path, 2)
    argv = ["batch", images, one, tmp_path / "out", "--ray", "--device", "cpu", "--steps", "2", "--workers", "1"]
    done = subprocess.run([sys.executable, "-m", "moebius", *map(str, argv)], capture_output=True, text=True, timeout=600)
    assert (done.returncode, len(files(tmp_path / "out"))) == (0, 2), done.stderr
    assert "2 done" in done.stderr
    assert "Traceback" not in done.stderr
