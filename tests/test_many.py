"""Many pictures in one process: what overlaps, what is tried again, `moebius.batch`, and URLs."""

from __future__ import annotations

import errno
import gc
import os
import sys
import threading
import weakref
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pytest
from batch_cases import files, mask, picture, pixels, small_model
from PIL import Image

import moebius
from moebius import files as written
from moebius.errors import MoebiusError, UsageError
from moebius.inpaint.inpainter import Inpainter
from moebius.inpaint.result import Result
from moebius.many import here, worker
from moebius.many.jobs import Job, Outcome
from moebius.many.places import Url, place
from moebius.many.recipe import Recipe
from moebius.many.worker import Options, Room, Stopped, Worker
from moebius.pictures import photo as photos

STEPS = {"steps": 2, "strength": 1.0}
WAIT = 240.0  # seconds after which what does not overlap fails


@pytest.fixture(scope="module")
def model() -> Inpainter:
    return small_model()


def jobs(folder: Path, count: int) -> list[Job]:
    one = mask(folder / "m.png")
    return [Job(picture(folder / f"in/{k}.png"), one, folder / f"out/{k}.png", f"{k}.png", index=k) for k in range(count)]


# What overlaps ---------------------------------------------------------------------------------------------------------
def test_the_next_picture_is_read_and_the_last_one_written_while_one_has_the_device(
    tmp_path: Path, model: Inpainter, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, wrote, begun = ([threading.Event() for _ in range(3)] for _ in range(3))
    order: list[Path] = []
    load, save = photos.load, Result.save

    def loading(source: Any, *args: Any) -> Any:
        if Path(source).parent.name == "in":
            order.append(source)
            photo = load(source, *args)
            read[len(order) - 1].set()
            return photo
        return load(source, *args)

    def saving(self: Result, *args: Any, **options: Any) -> Any:
        saved = sum(event.is_set() for event in wrote)
        if saved == 0:
            assert begun[1].wait(WAIT), "the second picture does not begin before the first is written"
        wrote[saved].set()
        return save(self, *args, **options)

    def on_step(job: Job, done: int, total: int) -> None:
        if done == 1:
            turn = sum(event.is_set() for event in begun)
            begun[turn].set()
            if turn == 0:
                assert read[1].wait(WAIT), "the second picture is not read while the first has the device"

    monkeypatch.setattr(photos, "load", loading)
    monkeypatch.setattr(Result, "save", saving)
    ended = list(here.outcomes(jobs(tmp_path, 3), Worker(model, Options(STEPS), on_step)))
    assert [outcome.how for outcome in ended] == ["done"] * 3, [outcome.error for outcome in ended]


def test_results_are_those_of_single_calls_in_the_order_of_the_list(tmp_path: Path, model: Inpainter) -> None:
    listed = jobs(tmp_path, 5)
    listed[2] = replace(listed[2], settings={"seed": 3})
    ended = list(here.outcomes(listed, Worker(model, Options(STEPS))))
    assert [outcome.job for outcome in ended] == listed
    for k, job in enumerate(listed):
        alone = model(job.image, job.mask, **STEPS, seed=3 if k == 2 else 0)
        assert np.array_equal(pixels(job.out), np.asarray(alone.image))


def test_of_a_long_list_little_is_taken_ahead(tmp_path: Path, model: Inpainter) -> None:
    taken = 0

    def endless() -> Iterator[Job]:
        nonlocal taken
        (job,) = jobs(tmp_path, 1)
        while True:
            taken += 1
            yield replace(job, image=tmp_path / "nothing.png", index=taken)

    found = here.outcomes(endless(), Worker(model, Options(STEPS)))
    for n in range(1, 40):
        assert next(found).how == "failed"
        assert taken <= n + here.AHEAD
    found.close()
    assert not [t for t in threading.enumerate() if t.name.startswith("moebius-batch")]


def test_only_so_many_pixels_are_in_memory_and_a_larger_picture_goes_alone() -> None:
    room, ended = Room(100), threading.Event()

    def large() -> None:
        with room.for_pixels(1000):
            ended.set()

    with room.for_pixels(60), room.for_pixels(40):
        waiting = threading.Thread(target=large, daemon=True)
        waiting.start()
        assert not ended.wait(0.05)
    assert ended.wait(WAIT)
    waiting.join()
    assert room.taken == 0


def test_a_worker_that_is_stopped_begins_nothing(tmp_path: Path, model: Inpainter) -> None:
    stopped = Worker(model, Options(STEPS))
    stopped.stop()
    with pytest.raises(Stopped):
        stopped.one(jobs(tmp_path, 1)[0])
    assert not (tmp_path / "out").exists()


# Bad luck --------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("retries", [0, 1, 2])
def test_a_disk_that_is_full_for_a_while(tmp_path: Path, model: Inpainter, monkeypatch: pytest.MonkeyPatch, retries: int) -> None:
    full = iter([OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))] * 2)
    sync = os.fsync

    def syncing(handle: int) -> None:
        if error := next(full, None):
            raise error
        sync(handle)

    monkeypatch.setattr(written.os, "fsync", syncing)
    listed = jobs(tmp_path, 1)
    (outcome,) = here.outcomes(listed, Worker(model, Options(STEPS, retries=retries)))
    assert (outcome.how, outcome.tries) == ("done" if retries == 2 else "failed", retries + 1)
    assert files(tmp_path / "out") == (["0.png"] if retries == 2 else [])


def test_what_is_wrong_with_the_picture_itself_is_tried_once_and_any_error_is_the_pictures_own(
    tmp_path: Path, model: Inpainter, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = jobs(tmp_path, 3)
    Path(str(listed[0].image)).write_bytes(b"no picture")
    load = photos.load

    def loading(source: Any, *args: Any) -> Any:
        if source == listed[1].image:
            raise ZeroDivisionError("nobody has thought of this")
        return load(source, *args)

    monkeypatch.setattr(photos, "load", loading)
    ended = list(here.outcomes(listed, Worker(model, Options(STEPS, retries=2))))
    assert [(o.how, o.tries, type(o.error)) for o in ended] == [
        ("failed", 1, UsageError),
        ("failed", 3, ZeroDivisionError),
        ("done", 1, type(None)),
    ]


def test_who_keeps_a_failure_keeps_no_picture(tmp_path: Path, model: Inpainter, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[weakref.ref[Any]] = []
    load = photos.load

    def loading(*args: Any) -> Any:
        photo = load(*args)
        loaded.append(weakref.ref(photo))
        return photo

    monkeypatch.setattr(photos, "load", loading)
    (job,) = jobs(tmp_path, 1)
    mask(tmp_path / "m.png", size=(20, 20))
    outcome = Worker(model, Options(STEPS)).one(job)
    assert isinstance(outcome.error, UsageError)
    gc.collect()
    assert {photo() for photo in loaded} == {None}


def test_what_is_in_memory_of_a_picture_is_counted(tmp_path: Path, model: Inpainter) -> None:
    (job,) = jobs(tmp_path, 1)
    side = model.size**2
    assert worker.pixels_of(model.steps(job.image, job.mask, **STEPS)) == 40 * 30 + side
    more = {**STEPS, "num_images": 3, "extend": (8, 0, 0, 0)}
    run = model.steps(job.image, job.mask, **more)
    assert worker.pixels_of(run) == 3 * (run.photo.size[0] * run.photo.size[1] + side * len(run.modelled))
    assert run.photo.size != (40, 30)


def test_an_error_that_cannot_be_sent_becomes_one_that_can() -> None:
    class LocalError(Exception):
        pass

    job = Job(Path("a.png"), None, Path("b.png"), "a.png")
    assert type(Outcome(job, "failed", error=LocalError("x")).portable().error) is MoebiusError
    own = Outcome(job, "failed", error=UsageError("x"))
    assert own.portable() is own


# Manifests -------------------------------------------------------------------------------------------------------------
# moebius.batch -----------------------------------------------------------------------------------------------------------
def test_in_python_it_means_the_same(tmp_path: Path, model: Inpainter) -> None:
    picture(tmp_path / "in/a.png")
    picture(tmp_path / "in/sub/b.png")
    (tmp_path / "in/c.png").write_bytes(b"no picture")
    one, seen = mask(tmp_path / "m.png"), []
    summary = moebius.batch(tmp_path / "in", one, tmp_path / "out", model=model, recursive=True, on_outcome=seen.append, **STEPS)
    assert summary.counts == {"done": 2, "skipped": 0, "failed": 1}
    assert [o.job.name for o in seen] == ["a.png", "c.png", "sub/b.png"]
    assert [o.job.name for o in summary.failures] == ["c.png"]
    again = moebius.batch(tmp_path / "in", one, tmp_path / "out", model=model, recursive=True, resume=True, **STEPS)
    assert again.counts == {"done": 0, "skipped": 2, "failed": 1}
    with small_model() as closed:
        pass
    with pytest.raises(UsageError, match="closed"):
        moebius.batch(tmp_path / "in", one, tmp_path / "out", model=closed, **STEPS)
    for wrong in ({"stepps": 3}, {"retries": -1}, {"workers": 2}, {"ray": True, "workers": 0}, {"ray": True}, {"steps": 0}):
        with pytest.raises(UsageError):
            moebius.batch(tmp_path / "in", one, tmp_path / "out", **{"model": model, **wrong})


def test_where_the_caller_raises_nothing_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = small_model()
    monkeypatch.setattr(Recipe, "load", lambda self: own)
    listed = jobs(tmp_path, 12)

    def stop(outcome: Outcome) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError) as kept:  # with its frames
        moebius.batch(tmp_path / "in", tmp_path / "m.png", tmp_path / "out", on_outcome=stop, **STEPS)
    assert kept.value is not None
    assert not [t for t in threading.enumerate() if t.name.startswith("moebius-batch")]
    assert own.closed
    assert len(files(tmp_path / "out")) < len(listed)


# URLs ------------------------------------------------------------------------------------------------------------------
def test_pictures_of_a_file_system_of_fsspec(tmp_path: Path, model: Inpainter) -> None:
    memory = pytest.importorskip("fsspec").filesystem("memory")
    for name in ("a.png", "sub/b.jpg"):
        memory.pipe_file(f"/in/{name}", picture(tmp_path / name).read_bytes())
        memory.pipe_file(f"/masks/{PurePosixPath(name).with_suffix('.png')}", mask(tmp_path / "m.png").read_bytes())
    memory.pipe_file("/in/notes.txt", b"")
    summary = moebius.batch("memory://in", "memory://masks", "memory://out/of", model=model, recursive=True, resume=True, **STEPS)
    assert summary.counts == {"done": 2, "skipped": 0, "failed": 0}, summary.failures
    assert sorted(memory.find("/out")) == ["/out/of/a.png", "/out/of/sub/b.jpg"]
    alone = model(tmp_path / "a.png", tmp_path / "m.png", **STEPS)
    assert np.array_equal(np.asarray(Image.open(memory.open("/out/of/a.png"))), np.asarray(alone.image))
    again = moebius.batch("memory://in", "memory://masks", tmp_path / "out", model=model, recursive=False, allow_empty=True, **STEPS)
    assert (again.counts["done"], files(tmp_path / "out")) == (1, ["a.png"])
    memory.rm("/", recursive=True)


@pytest.mark.parametrize("url", ["https://example.org/in", "nosuch://in", "memory://nothing/here", "memory://nothing.csv", "nothing.csv"])
def test_urls_that_lead_nowhere(url: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        moebius.batch(url, mask(tmp_path / "m.png"), tmp_path / "out")


def test_without_fsspec_there_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fsspec", None)
    with pytest.raises(UsageError, match="fsspec"):
        moebius.batch("s3://bucket/in", mask(tmp_path / "m.png"), tmp_path / "out")


def test_paths_and_urls() -> None:
    assert place("s3://bucket/a b/c.png") == Url("s3", PurePosixPath("bucket/a b/c.png"))
    assert str(place("S3://bucket/x").parent / "y.png") == "s3://bucket/y.png"
    assert str(place("memory://")) == "memory://"
    assert str(place("memory://icon@2x.png")) == "memory://icon@2x.png"
    assert "secret" not in str(place("sftp://me:secret@host/a"))
    assert all(isinstance(place(p), Path) for p in ("a.png", "C:\\a.png", "C:/a.png", "/a//b", Path("s3")))


def test_a_result_that_cannot_be_renamed_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from moebius.many import places

    memory = pytest.importorskip("fsspec").filesystem("memory")
    monkeypatch.setattr(type(memory), "mv", lambda *_, **__: (_ for _ in ()).throw(OSError("no")))
    with pytest.raises(MoebiusError):
        places.write(place("memory://o/a.png"), b"x")
    assert not memory.find("/o")


# Frames ----------------------------------------------------------------------------------------------------------------
def test_tries_and_threads_are_what_the_pages_say() -> None:
    assert (worker.RETRIES, worker.THREADS) == (2, 4)
