"""A run as its caller holds it: when it starts, how long it is, and what it takes and refuses."""

from __future__ import annotations

import gc
import io
import time
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from inpainter_cases import BOXES, PHOTO
from tqdm.auto import tqdm

from moebius import errors
from moebius.inpaint import run as runs
from moebius.inpaint.inpainter import Inpainter
from moebius.inpaint.together import alike, sampled

pytest_plugins = ("inpainter_fixtures",)


@pytest.mark.parametrize(("boxes", "images"), [(BOXES, 1), (BOXES[:1], 3), (BOXES, 2)])
def test_a_progress_bar_counts_its_steps(small: Inpainter, boxes: list[tuple[int, int, int, int]], images: int) -> None:
    run = small.steps(PHOTO, boxes, steps=4, num_images=images)
    bar = tqdm(run, file=io.StringIO())
    assert bar.total == len(run)
    totals = {step.total for step in bar}
    assert bar.n == bar.total
    assert totals == {bar.total}
    assert len(run.result.images) == images


def test_its_length_follows_a_device_that_has_too_little_memory(small: Inpainter, monkeypatch: pytest.MonkeyPatch) -> None:
    run = small.steps(PHOTO, BOXES, steps=3, num_images=2)
    loop, length = run.loop, len(run)

    def refuses(items: Any, timesteps: Any) -> Any:
        if len(items) > 1:
            raise errors.OutOfMemoryError("x")
        return loop(items, timesteps)

    monkeypatch.setattr(run, "loop", refuses)
    steps = list(run)
    assert steps[-1].total == len(steps) == len(run) == 4 * length


def test_nothing_runs_before_the_first_step_is_asked_for(small: Inpainter, monkeypatch: pytest.MonkeyPatch) -> None:
    encoded: list[int] = []
    encode = small.vae.encode_each
    monkeypatch.setattr(small.vae, "encode_each", lambda images: encoded.append(1) or encode(images))
    run = small.steps(PHOTO, BOXES, steps=2)
    assert len(run) == 1
    first, second = iter(run), iter(run)  # as tqdm does: once when it is made, once when it begins
    assert not encoded
    next(second)
    assert encoded
    with pytest.raises(errors.UsageError, match="iterated once"):
        next(first)
    with pytest.raises(errors.UsageError, match="iterated once"):
        iter(run)
    assert list(second) == []
    assert run.result.images


def test_a_run_is_true_and_has_no_result_before_its_end(small: Inpainter) -> None:
    with pytest.raises(errors.UsageError, match="has not ended"):
        _ = small.steps(PHOTO, BOXES).result
    assert small.steps(PHOTO, BOXES)


def test_whoever_lets_go_of_a_run_and_its_result_has_their_memory_back_at_once(small: Inpainter) -> None:
    run = small.steps(PHOTO, BOXES, steps=2)
    list(run)
    result, alive = run.result, weakref.ref(run)
    assert run.result is result
    gc.disable()  # pictures are large, and few objects: it would come late
    try:
        del run
        assert alive() is None
        assert result.raw.size == (90, 40)
        assert result.arrays[0].shape == PHOTO.shape
        alive = weakref.ref(result.photo)
        del result
        assert alive() is None
    finally:
        gc.enable()


def test_threads_that_ask_for_a_result_have_the_same(small: Inpainter, monkeypatch: pytest.MonkeyPatch) -> None:
    run = small.steps(PHOTO, BOXES, steps=2)
    list(run)
    picture = run._picture

    def slow(*args: Any) -> Any:
        time.sleep(0.05)
        return picture(*args)

    monkeypatch.setattr(run, "_picture", slow)
    with ThreadPoolExecutor(3) as threads:
        first, *others = threads.map(lambda _: run.result, range(3))
    assert all(other is first for other in others)


def test_waiting_before_a_run_is_not_its_time(small: Inpainter) -> None:
    run = small.steps(PHOTO, BOXES, steps=2)
    time.sleep(0.5)
    list(run)
    assert run.result.timings["prepare"] < 0.4


def test_runs_sampled_as_one_batch(small: Inpainter, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each has its own steps and its own picture; one that nobody wants any more gets no steps; without room they go one by one."""

    def started() -> list[runs.Run]:
        made = [small.steps(PHOTO, BOXES[:n], steps=4, seed=n) for n in (1, 2, 1)]
        for run in made:
            run.begin()
        return made

    def steps(made: list[runs.Run], wanted: Callable[[runs.Run], bool] = lambda run: True) -> dict[runs.Run, list[np.ndarray]]:
        seen: dict[runs.Run, list[np.ndarray]] = {run: [] for run in made}
        for pairs in sampled(made, wanted):
            for run, step in pairs:
                assert step.total == len(run.timesteps)
                seen[run].append(np.array(step.state.estimate()))
        return seen

    alone = []
    for run in started():
        alone += steps([run]).values()
        run.finish()
    monkeypatch.setattr(runs.Run, "loop", counted := Counted(runs.Run.loop))
    together = started()
    for got, want in zip(steps(together).values(), alone, strict=True):
        assert [a.shape for a in got] == [a.shape for a in want]
        np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-3)
    assert counted.sizes == [4]
    for run in together:
        run.finish()
        assert run.result.images
    left = started()
    wanted = steps(left, lambda run: run is not left[1])
    assert [len(seen) for seen in wanted.values()] == [len(a) if i != 1 else 0 for i, a in enumerate(alone)]
    assert alike(*left)
    assert not alike(left[0], small.steps(PHOTO, BOXES, steps=5))
    assert not alike(left[0], small.steps(PHOTO, BOXES, steps=4, guidance=1.0))
    counted.most = 2
    one_by_one = steps(started())
    for got, want in zip(one_by_one.values(), alone, strict=True):
        np.testing.assert_array_equal(got, want)


class Counted:
    """Run.loop with an eye on how many items it gets, and no room for more than `most`."""

    def __init__(self, loop: Callable[..., Any]) -> None:
        self.loop, self.sizes, self.most = loop, [], 100

    def __get__(self, run: Any, kind: Any = None) -> Callable[..., Any]:
        return lambda items, timesteps: self(run, items, timesteps)

    def __call__(self, run: runs.Run, items: Any, timesteps: Any) -> Any:
        self.sizes.append(len(items))
        if len(items) > self.most:
            raise errors.OutOfMemoryError("x")
        return self.loop(run, items, timesteps)


def test_a_mask_of_thin_strokes_that_marks_most_asks_no_model_and_is_warned_of() -> None:
    mask = np.zeros((120, 120), bool)
    for y in range(2, 118, 7):
        mask[y : y + 5] = True
    run = Inpainter.from_pretrained("nano", device="cpu").steps(np.full((120, 120, 3), 90, np.uint8), mask, steps=2)
    assert mask.mean() > 0.6
    assert (run.modelled, len(run)) == ([], 0)
    assert run.warning is not None
    assert " 71 %" in run.warning
    assert list(run) == []
    assert np.asarray(run.result.image).std() < 1


LARGE = np.random.default_rng(1).integers(0, 256, (8, 9, 3), np.uint8).repeat(10, axis=0).repeat(10, axis=1)


def test_native_windows_draw_over_what_a_scaled_one_made(small: Inpainter) -> None:
    """They are counted, and change what is in the hole but at its rim; every seed draws its own."""
    box = [(20, 20, 46, 40)]
    plain = small(LARGE, box, steps=2, num_images=2)
    run = small.steps(LARGE, box, steps=2, num_images=2, refine=0.5)
    assert (len(run.modelled), run.windows[0].native) == (1, False)
    assert len(run.finer) > 3
    assert all(w.native and w.over == run.windows[0].scale for w in run.finer)
    bar = tqdm(run, file=io.StringIO())
    expected = bar.total
    assert expected > len(run.timesteps)
    assert {step.total for step in bar} == {expected}
    assert bar.n == expected
    inside = np.zeros(LARGE.shape[:2], bool)
    inside[21:59, 21:65] = True
    for i, image in enumerate(run.result.images):
        got, base = (np.asarray(x).astype(int) for x in (image, plain.images[i]))
        np.testing.assert_array_equal(got[~inside], base[~inside])
        assert (got != base)[inside].mean() > 0.5
    again = small(LARGE, box, steps=2, seed=1, refine=0.5)
    np.testing.assert_array_equal(np.asarray(again.image), np.asarray(run.result.images[1]))
    assert not np.array_equal(np.asarray(run.result.raws[0]), np.asarray(plain.raws[0]))
    assert len(run.result.latents) == 2


@pytest.mark.parametrize("most", [1, 3, 12])
def test_finer_windows_are_bounded_and_coarser_where_they_must_be(small: Inpainter, most: int) -> None:
    finer = small.steps(LARGE, [(5, 5, 80, 70)], refine=0.5, max_windows=most).finer
    assert len(finer) <= most
    assert (most == 12) == bool(finer)
    assert small.steps(LARGE, [(5, 5, 9, 9)], refine=0.5).finer == []
