"""What the CPU device computes with: threads, and memory that lives on from call to call."""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from moebius.backends.cpu import sizes


class Workers:
    """The threads of a device, and its scratch memory, in arrays of one dtype."""

    def __init__(self, threads: int, dtype: np.dtype) -> None:
        self.threads, self.dtype = threads, dtype
        self._pool = ThreadPoolExecutor(max(1, threads - 1), "moebius-cpu")
        self._scratch: dict[str, np.ndarray] = {}

    def spread(self, work: Callable[..., None], jobs: Iterable[tuple[Any, ...]]) -> None:
        """work(*job) for every job, on all cores: ufuncs, einsum and small products let go of the GIL."""
        todo = deque(jobs)

        def drain() -> None:
            while True:
                try:
                    job = todo.popleft()
                except IndexError:
                    return
                work(*job)

        others = [self._pool.submit(drain) for _ in range(min(self.threads, len(todo)) - 1)]
        try:
            drain()
        finally:
            todo.clear()
            for other in others:
                other.result()

    def rows(self, work: Callable[[int, int], None], rows: int, width: int) -> None:
        """work(i, j) on blocks of the rows 0 … rows of a matrix `width` wide."""
        step = max(1, sizes.BLOCK // width)
        self.spread(work, ((i, min(i + step, rows)) for i in range(0, rows, step)))

    def scratch(self, name: str, *shape: int) -> np.ndarray:
        """A buffer that lives on from call to call: 52 MB of fresh pages cost more than the pass that fills them."""
        size = math.prod(shape)
        if name not in self._scratch or self._scratch[name].size < size:
            self._scratch[name] = np.empty(size, self.dtype)
        return self._scratch[name][:size].reshape(shape)


def cores() -> int:
    """The cores this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # macOS, Windows
        return os.cpu_count() or 1
