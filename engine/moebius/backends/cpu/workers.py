"""What the CPU device computes with: threads, products in blocks, and memory that lives on from call to call."""

from __future__ import annotations

import math
import os
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterable
from queue import SimpleQueue
from typing import Any

import numpy as np

from moebius.backends.cpu import sizes
from moebius.backends.cpu.blas import stay_on_one

Finish = Callable[[np.ndarray, slice, slice], None]


class Round:
    """Jobs that some threads take from one queue: a slow core takes fewer. A thread that comes when none is left is not waited for."""

    def __init__(self, work: Callable[..., None], jobs: deque[tuple[Any, ...]]) -> None:
        self._work, self._jobs = work, jobs
        self._guard, self._idle = threading.Lock(), threading.Lock()
        self._helpers, self._over = 0, False
        self._error: BaseException | None = None

    def help(self) -> None:
        """A helper's part."""
        with self._guard:
            if self._over:
                return
            self._helpers += 1
            if self._helpers == 1:
                self._idle.acquire()
        try:
            self._drain()
        except BaseException as error:
            self._jobs.clear()
            self._error = error
        finally:
            with self._guard:
                self._helpers -= 1
                if not self._helpers:
                    self._idle.release()

    def lead(self) -> None:
        """The part of the thread that asked; returns when every job is done, raises what one raised."""
        try:
            self._drain()
        finally:
            self._jobs.clear()
            with self._guard:
                self._over = True
            try:
                self._idle.acquire()
            except BaseException:  # Ctrl-C; what the helpers still do is written where the next round may write
                self._idle.acquire()
                raise
            finally:
                del self._work  # and its arrays: helpers that are late may have many rounds before them
        if self._error is not None:
            try:
                raise self._error
            finally:
                self._error = None  # which knows this frame: in a circle, its arrays would stay until garbage is collected

    def _drain(self) -> None:
        while True:
            try:
                job = self._jobs.popleft()
            except IndexError:
                return
            self._work(*job)


def _serve(rounds: SimpleQueue[Round | None]) -> None:
    """A helping thread. None ends it."""
    stay_on_one()
    while (now := rounds.get()) is not None:
        now.help()
        del now  # and what its work holds


def _end(rounds: SimpleQueue[Round | None], threads: int) -> None:
    for _ in range(threads):
        rounds.put(None)


class Spare(list[np.ndarray]):
    """Memory that nobody uses."""


class Returned:
    """The memory of an array; when the last view of it is gone, it is among the spare one, as long as that is kept."""

    def __init__(self, memory: np.ndarray, spare: Spare) -> None:
        self._memory, self._spare = memory, weakref.ref(spare)
        self.__array_interface__ = memory.__array_interface__

    def __del__(self) -> None:
        if (spare := self._spare()) is not None:
            spare.append(self._memory)


class Workers:
    """The threads of a device, and its scratch memory, in arrays of one dtype. One thread at a time may ask."""

    def __init__(self, threads: int, dtype: np.dtype) -> None:
        self.threads, self.dtype = threads, dtype
        self._process = 0  # whose helpers these are: after a fork, there are none
        self._rounds: SimpleQueue[Round | None] = SimpleQueue()
        self._scratch: dict[str, np.ndarray] = {}
        self._lent: dict[str, list[np.ndarray]] = {}
        self._spare = Spare()

    def spread(self, work: Callable[..., None], jobs: Iterable[tuple[Any, ...]], elements: int = sizes.ALONE) -> None:
        """work(*job) for every job, on all cores: ufuncs, einsum and products let go of the GIL. `elements` are those gone over, where
        they may be so few that other threads are not worth waking."""
        todo = deque(jobs)
        if len(todo) < 2 or self.threads == 1 or elements < sizes.ALONE:
            for job in todo:
                work(*job)
            return
        if self._process != os.getpid():
            self._start()
        now = Round(work, todo)
        for _ in range(min(self.threads, len(todo)) - 1):
            self._rounds.put(now)
        now.lead()

    def _start(self) -> None:
        self._process, self._rounds = os.getpid(), SimpleQueue()
        for i in range(self.threads - 1):
            threading.Thread(target=_serve, args=(self._rounds,), name=f"moebius-cpu-{i}", daemon=True).start()
        weakref.finalize(self, _end, self._rounds, self.threads - 1).atexit = False

    def rows(self, work: Callable[[int, int], None], rows: int, width: int) -> None:
        """work(i, j) on blocks of the rows 0 … rows of a matrix `width` wide."""
        step = max(1, sizes.BLOCK // width)
        self.spread(work, ((i, min(i + step, rows)) for i in range(0, rows, step)))

    def product(self, x: np.ndarray, matrix: np.ndarray, finish: Finish | None = None, out: np.ndarray | None = None) -> np.ndarray:
        """x·matrix in blocks of rows and columns, each on one thread; then finish(piece, rows, columns) on what fits the cache.

        What is a block depends on the shapes alone, so that any number of threads gives the same bits.
        """
        (m, k), n = x.shape, matrix.shape[1]
        y = self.new(m, n) if out is None else out
        tall, wide = block_of_product(m, k, n)
        rows = max(1, sizes.PIECE // max(1, wide))

        def block(i: int, j: int) -> None:
            part = y[i : i + tall, j : j + wide]
            np.matmul(x[i : i + tall], matrix[:, j : j + wide], out=part)
            if finish is not None:
                for r in range(0, len(part), rows):
                    some = part[r : r + rows]
                    finish(some, slice(i + r, i + r + len(some)), slice(j, j + part.shape[1]))

        self.spread(block, [(i, j) for i in range(0, m, tall) for j in range(0, n, wide)])
        return y

    def new(self, *shape: int) -> np.ndarray:
        """np.empty; a large one in the memory of one as large that is gone, for an allocator takes fresh pages for every large array, and
        the system fills them with zeros first: a third of a norm's time at 512². Memory of another size is let go of before any is taken.
        """
        size, spare = math.prod(shape), self._spare
        if size < sizes.LARGE:
            return np.empty(shape, self.dtype)
        for i, memory in enumerate(spare):
            if memory.size == size:
                del spare[i]
                break
        else:
            spare.clear()
            memory = np.empty(size, self.dtype)
        return np.asarray(Returned(memory, spare)).reshape(shape)

    def let_go(self) -> None:
        """Gives back what `new` has kept; what is still an array goes with it."""
        self._spare = Spare()

    def scratch(self, name: str, *shape: int) -> np.ndarray:
        """A buffer that lives on from call to call, until less than a quarter of it is wanted: 52 MB of fresh pages cost more than the pass
        that fills them."""
        size, kept = math.prod(shape), self._scratch.get(name)
        if kept is None or not size <= kept.size <= 4 * size:
            self._scratch.pop(name, None)  # before there are two
            del kept
            self._scratch[name] = np.empty(size, self.dtype)
        return self._scratch[name][:size].reshape(shape)

    def lend(self, name: str, *shape: int) -> np.ndarray:
        """The same for a job: a buffer of its own until it is given `back`, a thread at the most at a time."""
        size, spare = math.prod(shape), self._lent.setdefault(name, [])
        try:
            buffer = spare.pop()
        except IndexError:
            buffer = np.empty(0, self.dtype)
        if not size <= buffer.size <= max(2 * size, sizes.COLUMNS):  # of a layer with more channels, which are a quarter of the pixels
            del buffer
            buffer = np.empty(size, self.dtype)
        return buffer[:size].reshape(shape)

    def back(self, name: str, buffer: np.ndarray) -> None:
        base = buffer.base
        assert base is not None
        self._lent[name].append(base)


def block_of_product(m: int, k: int, n: int) -> tuple[int, int]:
    """Rows and columns of a block of a product (m, k)·(k, n): BLAS packs both sides anew for every block, so few are better; and enough
    for all cores, but none so small that handing it over costs more than it takes."""
    tall, wide = min(m, sizes.PRODUCT), min(n, sizes.PRODUCT)
    if m * k * n < sizes.SMALL:
        return max(1, m), max(1, n)
    while -(-m // tall) * -(-n // wide) < sizes.BLOCKS and tall * wide * k >= 2 * sizes.SMALL and max(tall, wide) > 1:
        if tall >= wide:
            tall = -(-tall // 2)
        else:
            wide = -(-wide // 2)
    return tall, wide
