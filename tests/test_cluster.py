"""Workers on a Ray cluster, where they die or do not come up; without Ray. With it: test_ray."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from moebius.errors import MoebiusError
from moebius.many import cluster as machines_of
from moebius.many.cluster import Cluster, Slot
from moebius.many.jobs import Job, Outcome
from moebius.many.recipe import Recipe
from moebius.many.worker import Options


def test_what_a_worker_ended_before_it_died_is_not_done_again() -> None:
    class RayError(Exception):
        pass

    def get(ref: str) -> Outcome:
        if ref == "dead":
            raise RayError("killed")
        return Outcome(two, "done")

    one, two = (Job(Path(f"{k}.png"), None, Path(f"out/{k}.png"), str(k)) for k in (1, 2))
    started = Cluster(Recipe(), Options(retries=0))
    started.ray = SimpleNamespace(
        wait=lambda refs, **_: (refs, []), get=get, kill=lambda _: None, exceptions=SimpleNamespace(RayError=RayError)
    )
    started._started = lambda slot: slot
    started.slots = [Slot(actor="actor", jobs={"dead": (one, 0), "ended": (two, 0)})]
    assert {o.job.name: o.how for o in started.look(0.0)} == {"1": "failed", "2": "done"}
    assert (started.slots[0].jobs, list(started._again)) == ({}, [])


def test_where_there_is_no_room_for_a_worker_it_says_so_once(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    started = Cluster(Recipe(), Options(), tell=told.append)
    started._each, looks = {"num_gpus": 1, "num_cpus": 2}, iter(range(5))

    def look(seconds: float) -> list[Outcome]:
        if next(looks) == 4:
            started._first = "about"
        return []

    monkeypatch.setattr(machines_of, "PATIENCE", -1.0)
    monkeypatch.setattr(started, "look", look)
    assert started.first() == "about"
    assert (len(told), "1 GPU and 2 CPU" in told[0]) == (1, True)


def test_a_place_where_no_worker_comes_up_is_one_less() -> None:
    told: list[str] = []
    started = Cluster(Recipe(), Options(), tell=told.append)
    started.slots = [Slot(), Slot()]
    started._give_up(started.slots[0], MoebiusError("no driver"))
    assert (len(started.slots), len(told)) == (1, 1)
    with pytest.raises(MoebiusError, match="no driver"):
        started._give_up(started.slots[0], MoebiusError("no driver"))


def test_an_address_where_no_cluster_answers_is_said_soon() -> None:
    with pytest.raises(MoebiusError, match="no Ray cluster"):
        machines_of.connect(SimpleNamespace(is_initialized=lambda: False), "127.0.0.1:1")
