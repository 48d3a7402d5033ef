"""The CPU device's threads: BLAS keeps to the one that asks, jobs are shared out, and a child of fork has what it needs."""

from __future__ import annotations

import gc
import os
import signal
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable

import numpy as np
import pytest

from moebius.backends.cpu import CPU, sizes
from moebius.backends.cpu.blas import ONE_THREAD, Library, OneThread, TurnsOnOneThread, libraries
from moebius.backends.cpu.workers import Round, Spare, Workers, block_of_product
from moebius.backends.turns import Turns
from moebius.backends.webgpu import WebGPU
from moebius.errors import AdapterError, DeviceLostError
from moebius.model.params import Checkpoint, Params


class Counted:
    """A BLAS without products."""

    def __init__(self, of_process: bool, count: int) -> None:
        self.of_process, self.default = of_process, count
        self.counts: dict[int, int] = {}

    def _key(self) -> int:
        return 0 if self.of_process else threading.get_ident()

    def get(self) -> int:
        return self.counts.get(self._key(), self.default)

    def set(self, count: int) -> None:
        self.counts[self._key()] = count


def pretend(monkeypatch: pytest.MonkeyPatch, of_process: bool, count: int = 4) -> Counted:
    library = Counted(of_process, count)
    monkeypatch.setattr("moebius.backends.cpu.blas.libraries", lambda: (library,))
    return library


def in_thread(work: Callable[[], None]) -> None:
    thread = threading.Thread(target=work)
    thread.start()
    thread.join(240)
    assert not thread.is_alive()


@pytest.mark.parametrize("of_process", [True, False])
def test_the_limit_is_there_while_anyone_holds_it_and_no_longer(of_process: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    library, limit = pretend(monkeypatch, of_process), OneThread()
    with limit, limit:
        assert library.get() == 1

        def other() -> None:
            with limit:
                assert library.get() == 1
            assert library.get() == (1 if of_process else 4)

        in_thread(other)
        assert library.get() == 1
    assert library.get() == 4


def test_two_that_overlap_give_back_what_was_there_before_both(monkeypatch: pytest.MonkeyPatch) -> None:
    library, limit = pretend(monkeypatch, True), OneThread()
    inside, leave = threading.Event(), threading.Event()

    def first() -> None:
        with limit:
            inside.set()
            assert leave.wait(240)

    thread = threading.Thread(target=first)
    thread.start()
    assert inside.wait(240)
    with limit:  # entered second, left last
        leave.set()
        thread.join(240)
        assert library.get() == 1
    assert library.get() == 4


def test_a_number_that_someone_sets_meanwhile_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    library, limit = pretend(monkeypatch, True), OneThread()
    with limit:
        library.set(3)
    assert library.get() == 3


def test_numpys_own_blas_is_limited_during_a_turn_and_only_then() -> None:
    """Also where threadpoolctl lets another thread alone set it, and in a thread that is not the first."""
    found = [lib for lib in libraries() if lib.of_process]
    if not found:
        pytest.skip("NumPy's BLAS is not one whose threads can be counted")
    (library,), before = found, found[0].get()
    try:
        library.set(2)
        seen: list[int] = []
        ops = CPU(threads=2)

        def run() -> None:
            seen.append(library.get())
            with ops.eager():
                seen.append(library.get())
            seen.append(library.get())
            ops.run(lambda x: seen.append(library.get()) or x, [np.zeros((1, 1, 2, 2), np.float32)])

        run()
        in_thread(run)
        assert seen == [2, 1, 2, 1] * 2
    finally:
        library.set(before)


def test_a_library_of_threads_and_one_of_the_process_are_told_apart() -> None:
    class Found:
        dynlib, threading_layer = object(), "openmp"

        def __init__(self, internal_api: str) -> None:
            self.internal_api = internal_api

        get_num_threads = set_num_threads = lambda self, *_: 1

    assert [Library(Found(api)).of_process for api in ("openblas", "mkl", "blis")] == [False, False, True]  # type: ignore[arg-type]


def test_jobs_are_done_once_each_by_whoever_is_free_and_errors_come_back() -> None:
    workers, done, names = Workers(3, np.dtype(np.float32)), [], set()
    start = threading.Barrier(3)

    def job(i: int) -> None:
        if i < 3:
            start.wait(240)  # so three threads are there
        names.add(threading.current_thread().name)
        done.append(i)

    workers.spread(job, ((i,) for i in range(50)))
    assert sorted(done) == list(range(50))
    assert len(names) == 3

    def fails(i: int) -> None:
        time.sleep(0.001)
        if i == 7:
            raise ValueError(i)

    with pytest.raises(ValueError, match="7"):
        workers.spread(fails, ((i,) for i in range(50)))
    workers.spread(done.append, ((i,) for i in range(50)))
    assert len(done) == 100


@pytest.mark.parametrize("fails", [False, True])
def test_a_round_that_is_over_holds_no_arrays(fails: bool) -> None:
    """A helper that is late still has it in its queue; and an error that is caught leaves no circle."""
    array, jobs = Spare(), deque([(1,), (0,)])
    gone = weakref.ref(array)

    def work(divisor: int, array: Spare = array) -> None:
        array.append(np.array(1 // divisor if fails else 1))

    now = Round(work, jobs)
    del work, array
    gc.disable()
    try:
        now.help()
        if fails:
            with pytest.raises(ZeroDivisionError):
                now.lead()
        else:
            now.lead()
        assert gone() is None
    finally:
        gc.enable()


def test_a_turn_whose_memory_is_not_given_back_ends_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C may come at any time."""
    library = pretend(monkeypatch, True)

    def interrupted() -> None:
        raise KeyboardInterrupt

    turns = TurnsOnOneThread(interrupted)
    with pytest.raises(KeyboardInterrupt), turns:
        assert library.get() == 1
    assert library.get() == 4
    in_thread(lambda: Turns.__enter__(turns))


def test_one_job_and_one_thread_stay_where_they_are() -> None:
    names: set[str] = set()

    def note(*_: int) -> None:
        names.add(threading.current_thread().name)

    Workers(4, np.dtype(np.float32)).spread(note, [(1,)])
    Workers(1, np.dtype(np.float32)).spread(note, [(1,), (2,)])
    assert names == {threading.current_thread().name}


def test_the_threads_end_with_their_device() -> None:
    workers = Workers(3, np.dtype(np.float32))
    before = set(threading.enumerate())
    workers.spread(lambda _: None, [(1,), (2,), (3,)])
    mine = set(threading.enumerate()) - before
    assert len(mine) == 2
    del workers
    gc.collect()
    for thread in mine:
        thread.join(240)
        assert not thread.is_alive()


def test_scratch_memory_is_kept_while_most_of_it_is_wanted() -> None:
    workers = Workers(1, np.dtype(np.float32))
    place = workers.scratch("a", 10, 10).ctypes.data
    assert workers.scratch("a", 5, 5).ctypes.data == place
    assert workers.scratch("a", 24).base.size == 24  # type: ignore[union-attr]
    assert workers.scratch("b", 3).shape == (3,)


def test_a_large_buffer_is_not_lent_for_a_small_part_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sizes, "COLUMNS", 20)
    workers = Workers(1, np.dtype(np.float32))
    for size, behind in ((100, 100), (50, 100), (49, 49), (12, 49), (60, 60)):
        monkeypatch.setattr(sizes, "COLUMNS", 50 if size == 12 else 20)
        buffer = workers.lend("a", size)
        assert (buffer.size, buffer.base.size) == (size, behind)  # type: ignore[union-attr]
        workers.back("a", buffer)


def test_large_memory_is_used_again_when_its_array_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sizes, "LARGE", 12)
    workers = Workers(1, np.dtype(np.float32))
    first = workers.new(3, 4)
    place, view = first.ctypes.data, first[1:]
    del first
    second = workers.new(2, 6)
    assert second.ctypes.data != place  # a view is left of the first
    del view
    third = workers.new(12)
    assert third.shape == (12,)
    assert third.ctypes.data == place
    del third
    workers.new(3, 5)  # of another size: what was kept is let go of
    assert [memory.size for memory in workers._spare] == [15]
    fourth = workers.new(3, 4)
    workers.let_go()
    del fourth, second
    assert not workers._spare


@pytest.mark.parametrize("shape", [(1, 3, 5), (8192, 320, 1600), (512, 1280, 6400), (2048, 640, 640), (65536, 27, 128), (512, 32, 32)])
def test_blocks_of_a_product_are_enough_or_small(shape: tuple[int, int, int]) -> None:
    m, k, n = shape
    tall, wide = block_of_product(m, k, n)
    count, work = -(-m // tall) * -(-n // wide), tall * k * wide
    assert count >= sizes.BLOCKS or work < 2 * sizes.SMALL
    assert count == 1 or work >= sizes.SMALL // 4


def in_child(work: Callable[[], None]) -> int:
    """The exit code of a child of fork that does this, or the signal that ended it."""
    pid = os.fork()
    if not pid:
        signal.alarm(240)  # a child that hangs ends
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
needs_fork_warned = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")


@needs_fork
@needs_fork_warned
def test_after_a_fork_the_cpu_device_works_in_the_child(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sizes, "SMALL", 1)
    ops, x = CPU(threads=3), np.random.default_rng(0).standard_normal((1, 16, 16, 8)).astype(np.float32)
    p = Params(Checkpoint({"layer.weight": np.eye(8, dtype=np.float32)}), "layer")
    want = ops.linear(x, p)
    held, leave = threading.Event(), threading.Event()

    def hold() -> None:
        with ops.eager():
            held.set()
            assert leave.wait(240)

    thread = threading.Thread(target=hold)
    thread.start()
    assert held.wait(240)

    def child() -> None:
        with ops.eager():
            np.testing.assert_array_equal(ops.linear(x, p), want)
        assert not ONE_THREAD._holders

    try:
        assert in_child(child) == 0
    finally:
        leave.set()
        thread.join(240)
    np.testing.assert_array_equal(ops.linear(x, p), want)


@needs_fork
@needs_fork_warned
def test_after_a_fork_whoever_has_the_turn_keeps_it() -> None:
    turns = Turns()

    def child() -> None:
        turns._leave()
        with turns:
            pass

    turns.__enter__()
    assert in_child(child) == 0
    turns.__exit__(None, None, None)


@needs_fork
@needs_fork_warned
def test_after_a_fork_a_webgpu_object_says_that_it_cannot(llvmpipe: WebGPU) -> None:
    def child() -> None:
        with pytest.raises(DeviceLostError, match="forked"):
            llvmpipe.run(lambda x: x, [np.zeros((1, 4, 2, 2), np.float32)])
        with pytest.raises(AdapterError, match="forked"):
            WebGPU("llvmpipe")

    assert in_child(child) == 0
    with llvmpipe.eager():  # and in the parent all is as it was
        assert np.array_equal(llvmpipe.read(llvmpipe.tensor(np.ones((1, 4, 2, 2)))), np.ones((1, 2, 2, 4)))
