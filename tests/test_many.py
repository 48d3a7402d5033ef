"""Many pictures in one process: what overlaps, what is tried again, manifests, URLs, and the frames of a film."""

from __future__ import annotations

import errno
import gc
import json
import os
import sys
import threading
import weakref
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path, PurePosixPath
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from batch_cases import files, mask, picture, small_model
from PIL import Image

import moebius
from moebius import files as written
from moebius.errors import MoebiusError, UsageError
from moebius.inpaint.inpainter import Inpainter
from moebius.inpaint.result import Result
from moebius.inpaint.settings import Settings
from moebius.many import batch as many
from moebius.many import cluster as machines_of
from moebius.many import frames, here, manifest, worker
from moebius.many.cluster import Cluster, Feed, Slot
from moebius.many.jobs import Job, Outcome
from moebius.many.places import Url, place
from moebius.many.recipe import Recipe
from moebius.many.worker import Options, Room, Stopped, Worker
from moebius.pictures import photo as photos
from moebius.pictures.metadata import read_metadata
from moebius.pictures.windows import windows

STEPS = {"steps": 2, "strength": 1.0}
WAIT = 30.0  # seconds after which what does not overlap fails


@pytest.fixture(scope="module")
def model() -> Inpainter:
    return small_model()


def jobs(folder: Path, count: int) -> list[Job]:
    one = mask(folder / "m.png")
    return [Job(picture(folder / f"in/{k}.png"), one, folder / f"out/{k}.png", f"{k}.png", index=k) for k in range(count)]


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


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
def rows(path: Path, *lines: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines), encoding="utf-8")
    return path


def test_csv_and_json_lines_say_the_same(tmp_path: Path) -> None:
    masks, out = tmp_path / "masks", tmp_path / "out"
    masks.mkdir()
    csv = rows(
        tmp_path / "in/list.csv",
        "image,mask,box,output,seed,invert,noise-offset",
        "a.jpg,a.png,,,,,",
        'b.jpg,,"1,2,3,4;5,6,7,8",x/y.png,7,true,0.5',
        "c.webp,alpha,,,,,",
    )
    lines = rows(
        tmp_path / "in/list.jsonl",
        {"image": "a.jpg", "mask": "a.png"},
        "",
        {"image": "b.jpg", "box": [[1, 2, 3, 4], [5, 6, 7, 8]], "output": "x/y.png", "settings": {"seed": 7, "invert": True}}
        | {"noise_offset": 0.5},
        {"image": "c.webp", "mask": "alpha", "box": None},
    )
    listed = list(manifest.jobs(csv, masks, out, {}))
    assert listed == list(manifest.jobs(lines, masks, out, {}))
    assert [(j.image, j.mask, j.out) for j in listed] == [
        (tmp_path / "in/a.jpg", masks / "a.png", out / "a.jpg"),
        (tmp_path / "in/b.jpg", ((1, 2, 3, 4), (5, 6, 7, 8)), out / "x/y.png"),
        (tmp_path / "in/c.webp", "alpha", out / "c.webp"),
    ]
    assert [j.settings for j in listed] == [{}, {"seed": 7, "invert": True, "noise_offset": 0.5}, {}]


def test_one_mask_for_all_rows_and_absolute_places(tmp_path: Path) -> None:
    one = mask(tmp_path / "m.png")
    lines = [{"image": "memory://a/b.png", "output": "memory://c/d.png"}, {"image": str(tmp_path / "e.heic")}]
    first, second = manifest.jobs(rows(tmp_path / "l.jsonl", *lines), one, tmp_path / "out", {})
    assert (first.image, first.mask, first.out) == (place("memory://a/b.png"), one, place("memory://c/d.png"))
    assert (second.image, second.out) == (tmp_path / "e.heic", tmp_path / "out/e.png")


@pytest.mark.parametrize(
    "line",
    [
        *(
            "{",
            "[]",
            "3",
            '{"mask": "a.png"}',
            '{"image": 3, "mask": "a"}',
            '{"image": "a.png"}',
            '{"image": "a.png", "mask": "b", "x": 1}',
        ),
        *('{"image": "a.png", "box": [1, 2, 3]}', '{"image": "a.png", "box": "1,2,3,x"}', '{"image": "a.png", "box": [true, 0, 1, 1]}'),
        *('{"image": "a.png", "mask": "b", "box": [1, 2, 3, 4]}', '{"image": "a.png", "mask": "b", "steps": 0}', "[" * 100_000),
        *('{"image": "a.png", "mask": "b", "settings": {"stepps": 3}}', '{"image": "a.png", "mask": "b", "output": "c.txt"}'),
        *(
            '{"image": "a.png", "mask": "b", "settings": 3}',
            '{"image": "a.png", "mask": "b", "seed": "x"}',
            '{"image": "a\\u0000", "mask": "b"}',
        ),
    ],
    ids=lambda line: line[:40],
)
def test_a_row_that_is_wrong_is_named_before_anything_begins(tmp_path: Path, line: str) -> None:
    (tmp_path / "masks").mkdir()
    listed = rows(tmp_path / "list.jsonl", {"image": "a.png", "mask": "b"}, line)
    with pytest.raises(UsageError, match="line 2"):
        many.listed(listed, tmp_path / "masks", tmp_path / "out", Options())


def test_two_rows_for_one_output_and_a_header_alone_are_no_batch(tmp_path: Path) -> None:
    one = mask(tmp_path / "m.png")
    for lines in (["image", "a/x.png", "b/x.png"], ["image"], ["image,seed", "a.png,1,2"]):
        with pytest.raises(UsageError):
            many.listed(rows(tmp_path / "list.csv", *lines), one, tmp_path / "out", Options())


@pytest.mark.parametrize(
    "lines",
    [
        [{"image": "a.png", "output": "x.png", "num_images": 2}, {"image": "b.png", "output": "x-1.png"}],
        [{"image": "a.png", "output": "x.png"}, {"image": "b.png", "output": "../out/x.png"}],
        [{"image": "a.png", "output": "../b.png"}, {"image": "b.png"}],
        [{"image": "a.png", "output": "../out/../a.png"}],
        [{"image": "a.png"}, {"image": "b.png", "output": "../m.png"}],
    ],
)
def test_no_row_writes_what_another_reads_or_writes(tmp_path: Path, lines: list[Any]) -> None:
    one = mask(tmp_path / "m.png")
    (tmp_path / "out").mkdir()
    with pytest.raises(UsageError, match="output"):
        many.listed(rows(tmp_path / "list.jsonl", *lines), one, tmp_path / "out", Options())
    assert many.listed(rows(tmp_path / "list.jsonl", *lines[:1]), one, tmp_path / "other/out", Options()).count == 1


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
def marked(x: int, y: int = 24, side: int = 10) -> np.ndarray:
    fill = np.zeros((96, 96), bool)
    fill[y : y + side, x : x + side] = True
    return fill


@pytest.mark.parametrize("rng", ["numpy", "torch"])
def test_noise_lies_fixed_in_the_picture(rng: Any) -> None:
    a, b = (windows(marked(x), 32)[0] for x in (30, 46))  # 16 pixels are two latents here
    assert (b.x - a.x, b.y - a.y) == (16, 0)
    one, two = (frames.draws(Settings(num_images=2, rng=rng), [w], 4, 4) for w in (a, b))
    for name in ("image", "masked", "start"):
        assert one[name].shape == (2, 4, 4, 4)
        assert np.array_equal(one[name][..., 2:], two[name][..., :2])
        assert not np.array_equal(one[name][0], one[name][1])
    assert np.array_equal(one["offset"], two["offset"])
    assert not np.array_equal(one["image"], one["start"])
    values = frames.tile(0, "start", rng, 4, 64, -1, 3)
    assert abs(values.mean()) < 0.05
    assert abs(values.std() - 1) < 0.05


def test_a_frame_starts_from_the_last_one_where_little_has_moved() -> None:
    rng = np.random.default_rng(0)
    now, before = (rng.integers(100, 104, (96, 96, 3), dtype=np.uint8) for _ in range(2))
    start = frames.start(now, marked(32), before, marked(30))
    assert np.array_equal(start[marked(32)], before[marked(32)])
    assert np.array_equal(start[~marked(32)], now[~marked(32)])
    assert frames.start(now, marked(38), before, marked(30)) is None  # the mask moved far
    assert frames.start(now, marked(32), before + np.uint8(100), marked(30)) is None  # another scene
    assert frames.start(now, marked(32), before[:90], marked(30)[:90]) is None


def test_a_still_film_flickers_less_than_its_frames_each_by_itself(tmp_path: Path, model: Inpainter) -> None:
    film(tmp_path, 6)
    hole, apart = np.s_[17:27, 19:27], {}
    for name, more in (("film", {"frames": True}), ("alone", {})):
        moebius.batch(tmp_path / "in", tmp_path / "masks", tmp_path / name, model=model, steps=4, **more)
        made = [pixels(tmp_path / name / f"{k}.png")[hole].astype(float) for k in range(6)]
        apart[name] = np.mean([np.abs(a - b).mean() for a, b in pairwise(made)])
    assert apart["film"] < apart["alone"] / 2


def test_a_film_whose_large_hole_is_drawn_over_is_as_still(tmp_path: Path, model: Inpainter) -> None:
    film(tmp_path, 4, (8, 8, 80, 80), 96)
    hole, apart = np.s_[16:72, 20:72], {}
    assert len(model.steps(tmp_path / "in/0.png", tmp_path / "masks/0.png", refine=0.5).finer) > 1
    for refine in (0.0, 0.5):
        moebius.batch(tmp_path / "in", tmp_path / "masks", tmp_path / str(refine), model=model, steps=4, frames=True, refine=refine)
        made = [pixels(tmp_path / str(refine) / f"{k}.png")[hole].astype(float) for k in range(4)]
        apart[refine] = np.mean([np.abs(a - b).mean() for a, b in pairwise(made)])
    assert apart[0.5] < 1.4 * apart[0.0], apart  # of random weights; of nano's it is 1.01 times


def film(folder: Path, count: int = 4, box: tuple[int, int, int, int] = (16, 16, 28, 28), side: int = 48) -> Path:
    still = np.asarray(Image.open(picture(folder / "still.png", (side, side)))).astype(int)
    for k in range(count):
        noise = np.random.default_rng(k).integers(-3, 4, still.shape)
        (folder / "in").mkdir(exist_ok=True)
        Image.fromarray((still + noise).clip(0, 255).astype(np.uint8)).save(folder / f"in/{k}.png")
        mask(folder / f"masks/{k}.png", (box[0] + k // 2, box[1], box[2] + k // 2, box[3]), (side, side))
    return folder


def test_a_film_that_is_broken_off_goes_on_as_if_it_had_not_been(tmp_path: Path, model: Inpainter) -> None:
    film(tmp_path)
    more: dict[str, Any] = {"model": model, "frames": True, "steps": 4}
    args = tmp_path / "in", tmp_path / "masks", tmp_path / "out"
    assert moebius.batch(*args, **more).counts["done"] == 4
    whole = {name: pixels(tmp_path / "out" / name) for name in files(tmp_path / "out")}
    strengths = [read_metadata(tmp_path / "out" / name)["strength"] for name in sorted(whole)]
    assert strengths == [Settings().strength, *[frames.STRENGTH] * 3]
    for name in ("2.png", "3.png"):
        (tmp_path / "out" / name).unlink()
    assert moebius.batch(*args, **more, resume=True).counts == {"done": 2, "skipped": 2, "failed": 0}
    assert all(np.array_equal(pixels(tmp_path / "out" / name), whole[name]) for name in whole)
    assert moebius.batch(*args, model=model, steps=4, resume=True).counts["done"] == 4  # without --frames it is another picture


def test_the_frames_of_a_film_wait_for_one_another_and_films_do_not() -> None:
    listed = [Job(Path(f"{film}/{k}.png"), None, Path(f"out/{film}/{k}.png"), f"{film}{k}") for film in "ab" for k in range(2)]
    feed = Feed(listed, films=True)
    first, second = feed.next(), feed.next()
    assert (first.name, second.name, feed.next()) == ("a0", "b0", None)
    feed.ended(second)
    assert (feed.next().name, feed.next()) == ("b1", None)
    feed.ended(first)
    assert feed.next().name == "a1"
    assert [job.name for job in iter(Feed(iter(listed), films=False).next, None)] == ["a0", "a1", "b0", "b1"]
    chained = list(many.chained(lambda: iter(listed), True))
    assert [job.after and job.after.name for job in chained] == [None, "a0", None, "b0"]


def test_tries_and_threads_are_what_the_pages_say() -> None:
    assert (worker.RETRIES, worker.THREADS) == (2, 4)


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
