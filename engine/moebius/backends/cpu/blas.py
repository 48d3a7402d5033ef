"""BLAS on the thread that asks for a product, and on no other, while the CPU device computes.

BLAS's own threads spin at every product until the slowest of them has its part: where one waits for a core, all do, and a picture takes
tens of times as long. The device spreads blocks of rows over threads of its own (`workers`), and needs none of BLAS's.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from functools import cache
from itertools import product
from pathlib import Path
from types import TracebackType

import numpy as np
from threadpoolctl import LibController, ThreadpoolController

from moebius.backends.turns import Turns


class Library:
    """A BLAS and how many threads it uses: one number for the whole process, or one for each thread that asks."""

    def __init__(self, found: LibController) -> None:
        own = found.internal_api == "openblas" and getattr(found, "threading_layer", "") != "openmp"
        self.of_process = own or found.internal_api == "blis"
        self.get: Callable[[], int] = found.get_num_threads
        # threadpoolctl lets one thread alone set OpenBLAS's number, for as long as that thread lives; here, whoever computes does.
        self.set: Callable[[int], object] = (own and _setter(found)) or found.set_num_threads


def _setter(openblas: LibController) -> Callable[[int], object] | None:
    for prefix, suffix in product(("", "scipy_"), ("", "64_", "_64")):
        function: Callable[[int], object] | None = getattr(openblas.dynlib, f"{prefix}openblas_set_num_threads{suffix}", None)
        if function is not None:
            return function
    return None


@cache
def libraries() -> tuple[Library, ...]:
    """The BLAS that NumPy computes with: the one in its own folder, else (where it is the system's) every one that is loaded."""
    found = ThreadpoolController().select(user_api="blas").lib_controllers
    folder = Path(np.__file__).parent
    own = [lib for lib in found if str(lib.filepath).startswith((str(folder), f"{folder}.libs"))]
    return tuple(Library(lib) for lib in own or found)


class OneThread:
    """The limit, which any number of threads may hold at once, each as often as it likes: BLAS has one thread while anyone holds it, and as
    many as before when the last one has let go. Who sets it to another number in between keeps that. It takes some microseconds."""

    def __init__(self) -> None:
        self._lock = threading.RLock()  # what is collected in here may want a turn on a device, and so come here again
        self._holders: list[int] = []
        self._before: dict[tuple[Library, int], int] = {}

    def __enter__(self) -> None:
        with self._lock:
            me = threading.get_ident()
            self._holders.append(me)
            for lib in libraries():
                key = lib, 0 if lib.of_process else me
                if key not in self._before and (count := lib.get()) != 1:
                    self._before[key] = count
                    lib.set(1)

    def __exit__(self, *_: object) -> None:
        with self._lock:
            me = threading.get_ident()
            self._holders.remove(me)
            self._restore([key for key in self._before if (key[1] or not self._holders) and key[1] in (0, me) and me not in self._holders])

    def _restore(self, keys: list[tuple[Library, int]]) -> None:
        for key in keys:
            count = self._before.pop(key)
            if key[0].get() == 1:
                key[0].set(count)

    def in_child(self) -> None:
        """After a fork: the other threads are gone, and what they held with them."""
        me = threading.get_ident()
        self._lock = threading.RLock()
        self._holders = [holder for holder in self._holders if holder == me]
        if not self._holders:
            self._restore(list(self._before))


ONE_THREAD = OneThread()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=ONE_THREAD.in_child)


def stay_on_one() -> None:
    """For a thread of a device's own: it never asks for more."""
    for lib in libraries():
        if not lib.of_process:
            lib.set(1)


class TurnsOnOneThread(Turns):
    """Turns on a device. During one, BLAS has one thread; `after` is called at its end."""

    def __init__(self, after: Callable[[], None]) -> None:
        super().__init__()
        self._after = after

    def __enter__(self) -> None:
        super().__enter__()
        try:
            ONE_THREAD.__enter__()
        except BaseException:
            super().__exit__(None, None, None)
            raise

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            self._after()
        finally:
            try:
                ONE_THREAD.__exit__()
            finally:
                super().__exit__(kind, error, trace)
