"""What shortens the way to the first frame, which is mostly the import of modules: they come while a thread looks for adapters."""

from __future__ import annotations

import ctypes
import gc
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Self

NAMED = "PYGLFW_LIBRARY"


class Search:
    """For adapters, on a thread: it imports wgpu, and then waits for drivers. Whatever happens meanwhile, it has ended at the end."""

    def __init__(self) -> None:
        self._found: list[Any] = []
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._look, name="moebius-view-adapters", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.join()

    def _look(self) -> None:
        try:
            from moebius.backends.webgpu import native  # wgpu alone, not what numbers need: it comes meanwhile

            self._found = native.adapters("wgpu")
        except BaseException as error:  # raised where it is asked for
            self._error = error

    def adapters(self) -> list[Any]:
        self._thread.join()
        if self._error is not None:
            raise self._error
        return self._found


@contextmanager
def packaged_glfw() -> Iterator[None]:
    """glfw's package brings its library, and yet starts a Python a library that it finds, to compare their versions. Here it is told."""
    path = None if NAMED in os.environ else _packaged()
    if path is None:
        yield
        return
    os.environ[NAMED] = path
    try:
        yield
    finally:
        del os.environ[NAMED]


def _packaged() -> str | None:
    with suppress(ImportError, ValueError, OSError):
        spec = find_spec("glfw")
        for folder in (spec and spec.submodule_search_locations) or ():
            if sys.platform == "darwin":
                found = sorted(Path(folder).glob("libglfw*.dylib"))
            else:
                wayland = (os.environ.get("PYGLFW_LIBRARY_VARIANT") or os.environ.get("XDG_SESSION_TYPE", "")).lower() == "wayland"
                found = [Path(folder) / ("wayland" if wayland else "x11") / "libglfw.so"]
            if found and found[0].is_file():
                ctypes.CDLL(str(found[0]))  # OSError: something it needs is not here, and another one may do
                return str(found[0])
    return None


@contextmanager
def nothing_collected() -> Iterator[None]:
    """What modules are made of stays: to look through it again and again for what may go takes a fifth of the time of importing them."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if was:
            gc.enable()
