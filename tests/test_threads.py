"""One Inpainter for many threads: every result is the bytes of the same call alone."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from batch_cases import small_model
from harness import always

from moebius.backends.cpu import CPU, sizes
from moebius.backends.turns import Turns
from moebius.backends.webgpu import WebGPU, native
from moebius.backends.webgpu.menu import CPU as CPU_ROW
from moebius.errors import UsageError
from moebius.inpaint.inpainter import Inpainter

# From strength 1 on the picture itself is not encoded: encoding and decoding take the time here, and the steps are what is shared.
SETTINGS = ({"steps": 3, "strength": 1}, {"steps": 2, "strength": 1, "seed": 5, "guidance": 1.0}, {"steps": 4, "strength": 0.6})
THREADS = 8


def photo(which: int) -> np.ndarray:
    """Red, or blue, with a little of its own structure."""
    rgb = np.zeros((96, 128, 3), np.uint8)
    rgb[..., 0 if which == 0 else 2] = 200
    rgb += np.random.default_rng(which).integers(0, 40, rgb.shape, np.uint8)
    return rgb


BOX = [(40, 30, 20, 20)]


@pytest.fixture(scope="module", params=["cpu", "llvmpipe", "swiftshader"])
def inpaint(request: pytest.FixtureRequest) -> Iterator[Inpainter]:
    """On the CPU every array takes the memory of one that is gone. llvmpipe as if it were a GPU, which is given a step ahead, with a kernel
    that it compiles quickly."""
    ops = CPU() if request.param == "cpu" else request.getfixturevalue(request.param)
    if request.param == "llvmpipe":
        ops = WebGPU(ops.gpu, replace(ops.caps, kind="discrete"), always(CPU_ROW))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sizes, "LARGE", 1)
        yield build(ops)


def build(ops: CPU | WebGPU) -> Inpainter:
    """A small one, so that its threads meet often: a step is a turn, however long it takes."""
    return small_model(ops)


def work(inpaint: Inpainter, job: int) -> list[bytes]:
    result = inpaint(photo(job % 2), BOX, **SETTINGS[job % 3])
    return [image.tobytes() for image in result.images]


@pytest.fixture(scope="module")
def alone(inpaint: Inpainter) -> list[list[bytes]]:
    return [work(inpaint, job) for job in range(6)]


def together(jobs: list[Callable[[], Any]]) -> list[Any]:
    """All at once, a thread each; their results. What one raises is raised here."""
    out: list[Any] = [None] * len(jobs)
    start = threading.Barrier(len(jobs))

    def run(i: int) -> None:
        start.wait()
        try:
            out[i] = jobs[i]()
        except BaseException as error:
            out[i] = error

    threads = [threading.Thread(target=run, args=(i,), daemon=True) for i in range(len(jobs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(600)
        assert not thread.is_alive(), "a thread waits for ever"
    for value in out:
        if isinstance(value, BaseException):
            raise value
    return out


def test_eight_threads_two_photos_three_settings(inpaint: Inpainter, alone: list[list[bytes]]) -> None:
    got = together([lambda job=job: work(inpaint, job % 6) for job in range(THREADS)])
    for job, images in enumerate(got):
        assert images == alone[job % 6], f"job {job} has another picture than alone"


def test_two_runs_step_by_step_in_one_thread(inpaint: Inpainter, alone: list[list[bytes]]) -> None:
    runs = [inpaint.steps(photo(job % 2), BOX, **SETTINGS[job % 3]) for job in (0, 3, 1)]
    iterators = [iter(run) for run in runs]
    while iterators:  # in turn, step by step
        iterators = [it for it in iterators if next(it, None) is not None]
    for run, job in zip(runs, (0, 3, 1), strict=True):
        assert [i.tobytes() for i in run.result.images] == alone[job]


def test_what_a_step_shows_stays_its_own(inpaint: Inpainter) -> None:
    """Latents and previews are of the run that is asked, also when another has taken a step since."""

    def latents(between: Callable[[], Any]) -> list[np.ndarray]:
        kept = []
        for step in inpaint.steps(photo(0), BOX, **SETTINGS[0]):
            between()
            kept += [step.state.latents(), step.state.estimate(), np.asarray(step.preview)]
        return kept

    other: Iterator[Any] = iter(inpaint.steps(photo(1), BOX, steps=12, strength=1))
    undisturbed, disturbed = latents(lambda: None), latents(lambda: next(other))
    assert all(np.array_equal(a, b) for a, b in zip(undisturbed, disturbed, strict=True))


def test_runs_left_half_way_and_cancelled(inpaint: Inpainter, alone: list[list[bytes]]) -> None:
    left = iter(inpaint.steps(photo(1), BOX, steps=6, strength=1))
    next(left)
    next(left)  # and not iterated further, but alive

    def cancelled() -> None:
        for step in inpaint.steps(photo(0), BOX, steps=6, strength=1):
            if step.index == 2:
                return  # the iterator is collected

    got = together([*[lambda job=job: work(inpaint, job) for job in range(2)], cancelled])
    assert got[:2] == alone[:2]
    del left
    gc.collect()
    assert work(inpaint, 0) == alone[0]


def buffers(gpu: WebGPU) -> int:
    gc.collect()
    gpu.gpu.trim()
    return native.object_counts(gpu.gpu.module)["Buffer"]


@pytest.fixture
def before(llvmpipe: WebGPU) -> int:
    """The buffers that are there without a model; a WebGPU has one of its own from its first run on."""
    with build(llvmpipe) as inpaint:
        inpaint(photo(0), BOX, **SETTINGS[1])
    del inpaint
    return buffers(llvmpipe)


def test_closing_gives_the_memory_back(llvmpipe: WebGPU, before: int) -> None:
    with build(llvmpipe) as inpaint:
        inpaint(photo(0), BOX, **SETTINGS[0])
        assert buffers(llvmpipe) > before
    assert buffers(llvmpipe) <= before
    with pytest.raises(UsageError, match="closed"):
        inpaint(photo(0), BOX)


def test_a_run_under_way_outlives_the_closing_and_gives_the_memory_back(llvmpipe: WebGPU, before: int) -> None:
    inpaint = build(llvmpipe)
    run, later = (inpaint.steps(photo(i), BOX, **SETTINGS[0]) for i in (0, 1))
    steps = iter(run)
    next(steps)
    inpaint.close()
    assert [step.index for step in steps] == [1, 2]
    assert run.result.image.size == (128, 96)
    with pytest.raises(UsageError, match="closed"):
        iter(later)
    assert buffers(llvmpipe) <= before


def test_turns_are_taken_in_the_order_they_were_asked_for() -> None:
    turns, order = Turns(), []

    def take(i: int) -> None:
        with turns, turns:  # the thread that has it may enter again
            order.append(i)

    threads = []
    with turns:
        for i in range(20):
            threads.append(threading.Thread(target=take, args=(i,)))
            threads[-1].start()
            while len(turns._waiting) <= i:
                time.sleep(0.001)
    for thread in threads:
        thread.join(120)
    assert order == list(range(20))


def test_a_run_collected_while_its_thread_looks_for_a_sampler_waits_for_nobody() -> None:
    """Collecting an abandoned run of a closed model gives memory back, wherever the collector happens to run."""
    inpaint = build(CPU())
    steps = iter(inpaint.steps(photo(0), BOX, **SETTINGS[1]))
    next(steps)
    inpaint.close()

    def collect() -> None:
        nonlocal steps
        with inpaint._lock:
            del steps

    thread = threading.Thread(target=collect, daemon=True)
    thread.start()
    thread.join(240)
    assert not thread.is_alive()


def test_op_by_op_use_of_the_cpu_device_is_a_turn_too() -> None:
    inpaint = build(CPU())
    with inpaint.unet.ops.eager():
        thread = threading.Thread(target=work, args=(inpaint, 1), daemon=True)
        thread.start()
        thread.join(0.5)
        assert thread.is_alive()
    thread.join(120)
    assert not thread.is_alive()
