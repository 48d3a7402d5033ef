"""The frames of a film: noise that lies fixed in the picture, a start from the frame before, their order, and going on after a break."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from batch_cases import files, mask, picture, pixels, small_model
from PIL import Image

import moebius
from moebius.inpaint.inpainter import Inpainter
from moebius.inpaint.settings import Settings
from moebius.many import batch as many
from moebius.many import cluster as machines_of
from moebius.many import frames
from moebius.many.cluster import Feed
from moebius.many.jobs import Job
from moebius.pictures.metadata import read_metadata
from moebius.pictures.windows import windows


@pytest.fixture(scope="module")
def model() -> Inpainter:
    return small_model()


def marked(x: int) -> np.ndarray:
    fill = np.zeros((96, 96), bool)
    fill[24:34, x : x + 10] = True
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
    film(tmp_path, 3, (8, 8, 80, 80), 96)
    hole, apart = np.s_[16:72, 20:72], {}
    assert len(model.steps(tmp_path / "in/0.png", tmp_path / "masks/0.png", refine=0.5).finer) > 1
    for refine in (0.0, 0.5):
        moebius.batch(tmp_path / "in", tmp_path / "masks", tmp_path / str(refine), model=model, steps=4, frames=True, refine=refine)
        made = [pixels(tmp_path / str(refine) / f"{k}.png")[hole].astype(float) for k in range(3)]
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


def test_of_long_films_little_is_taken_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    """And every frame comes, in its film's order, whichever of those under way ends first."""
    monkeypatch.setattr(machines_of, "HELD", 10)
    taken, made, under_way = 0, [], []
    order = np.random.default_rng(0)

    def listed() -> Iterator[Job]:
        nonlocal taken
        for film in "abc":
            for k in range(40):
                taken += 1
                yield Job(Path(f"{film}/{k}.png"), None, Path(f"out/{film}/{k}.png"), f"{film}{k:02}")

    feed = Feed(listed(), films=True)
    while True:
        while len(under_way) < 4 and (job := feed.next()) is not None:
            assert all(job.out.parent != other.out.parent for other in under_way)
            under_way.append(job)
        if not under_way:
            break
        assert taken <= len(made) + len(under_way) + 10
        made.append(under_way.pop(order.integers(len(under_way))))
        feed.ended(made[-1])
    names = [job.name for job in made]
    assert sorted(names) == [f"{film}{k:02}" for film in "abc" for k in range(40)]
    assert all([n for n in names if n[0] == film] == sorted(n for n in names if n[0] == film) for film in "abc")
    assert names != sorted(names)  # two films overlap
