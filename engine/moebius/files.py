"""A file is written whole or not at all: beside its place first, then renamed into it."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


@contextmanager
def replacing(path: Path, *, durable: bool = False) -> Iterator[BinaryIO]:
    """A new file for writing that takes the place of `path` when the block ends, and leaves nothing when it fails.

    A link at `path` is replaced, never followed. `durable` waits until the bytes are on the disk before the rename, and the
    rename after it: for files that take long to make again.
    """
    name = path.name.encode("utf-8", "surrogateescape")[-100:].decode("utf-8", "ignore")  # file systems count bytes
    beside = path.with_name(f".{name}.{secrets.token_hex(8)}.part")
    try:
        with open(beside, "xb") as file:
            yield file
            if durable:
                file.flush()
                os.fsync(file.fileno())
        os.replace(beside, path)
        if durable and hasattr(os, "O_DIRECTORY"):  # the rename itself is on the disk only when its folder is
            folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
    finally:
        beside.unlink(missing_ok=True)
