"""Files of the user's: read only where they are regular ones, written whole or not at all."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import secrets
import shutil
import stat
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

if sys.platform != "win32":
    import fcntl

# reading -------------------------------------------------------------------------------------------------------------

# Not to wait for whoever writes into a pipe, and not to make a terminal this program's own.
READING = os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0)
SPECIAL = {stat.S_ISFIFO: "a pipe", stat.S_ISCHR: "a device", stat.S_ISBLK: "a device", stat.S_ISSOCK: "a socket"}


def open_regular(path: str | os.PathLike[str]) -> BinaryIO:
    """A regular file, open for reading. OSError for everything else: reading a pipe or a device may never end."""
    return os.fdopen(regular_descriptor(path), "rb")


def regular_descriptor(path: str | os.PathLike[str]) -> int:
    """The same as a descriptor, which the caller closes."""
    refuse_special(path, os.stat(path).st_mode)  # a device is not opened at all: there are some that act on it
    handle = os.open(path, READING)
    try:
        refuse_special(path, os.fstat(handle).st_mode)  # it may be another one by now
    except BaseException:
        os.close(handle)
        raise
    return handle


def refuse_special(path: str | os.PathLike[str], mode: int) -> None:
    """OSError where `mode` is that of a folder, a pipe, a device or a socket."""
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), os.fspath(path))
    for is_special, kind in SPECIAL.items():
        if is_special(mode):
            raise OSError(errno.EINVAL, f"it is {kind}, not a regular file", os.fspath(path))


# writing -------------------------------------------------------------------------------------------------------------

NODE = "" if sys.platform == "win32" else os.uname().nodename
HOST = hashlib.sha256(NODE.encode()).hexdigest()[:6]  # in the names of parts, for folders that machines share
PART = re.compile(r"\..{0,100}\.([0-9a-f]{6})[0-9a-f]{12}\.part", re.S)  # a file that is being written, or was when its writer was killed
REPLACED = "old"  # in a folder that is a part: what its writer is replacing, and all that is left of it where it was killed right then
STALE = 24 * 3600.0  # seconds after which a part of another machine's is taken for left behind: its locks may not be seen here


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A new file for writing that takes the place of `path` when the block ends, and leaves nothing when it fails.

    It lies beside `path` until its bytes are on the disk, and is renamed then. Who could read the file before can still do so, and nobody
    else. A link at `path` is replaced, never followed. What a killed writer left in the folder is removed.
    """
    before = lstat(path)
    sweep(path.parent)
    beside, handle = new_part(path, before)
    try:
        with os.fdopen(handle, "wb") as file:
            if before is not None:
                keep_rights(file.fileno(), before)
            yield file
            file.flush()
            os.fsync(file.fileno())
            if sys.platform != "win32":  # which renames no open file; elsewhere it is locked until it has its name
                os.replace(beside, path)
        if sys.platform == "win32":
            os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)
    sync_folder(path.parent)


@contextmanager
def folder_beside(path: Path) -> Iterator[Path]:
    """A new folder beside `path`, for what is to take its place; gone when the block ends. Of killed writers the same holds as above."""
    sweep(path.parent)
    beside, handle = new_folder(path)
    try:
        yield beside
    finally:
        shutil.rmtree(beside, ignore_errors=True)
        if handle is not None:
            os.close(handle)


def try_beside(path: Path) -> None:
    """OSError where `replacing` could not write `path`: the name is too long with what a part adds, the folder takes no file."""
    beside, handle = new_part(path, None)
    os.close(handle)
    beside.unlink(missing_ok=True)


def lstat(path: Path) -> os.stat_result | None:
    """What is at `path`: None for nothing, and for a link. OSError where a file must not take its place."""
    try:
        found = os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    refuse_special(path, found.st_mode)
    return None if stat.S_ISLNK(found.st_mode) else found


def new_part(path: Path, before: os.stat_result | None) -> tuple[Path, int]:
    """An empty file beside `path` that this process holds the lock of, and its descriptor."""
    while True:
        beside = part_name(path)
        rights = 0o666 if before is None else 0o600  # until `keep_rights` has looked
        handle = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), rights)
        if lock(handle, wait=True) is not True or os.fstat(handle).st_nlink:
            return beside, handle
        os.close(handle)  # another process has swept it away before it was locked


def new_folder(path: Path) -> tuple[Path, int | None]:
    """An empty folder beside `path`, locked where a folder can be."""
    while True:
        beside = part_name(path)
        beside.mkdir(0o700)
        if sys.platform == "win32":
            return beside, None
        with suppress(FileNotFoundError):
            handle = os.open(beside, READING)
            if lock(handle, wait=True) is not True or beside.is_dir():
                return beside, handle
            os.close(handle)  # as in `new_part`


def part_name(path: Path) -> Path:
    """A new name beside `path` that PART knows."""
    name = path.name.encode("utf-8", "surrogateescape")[-100:].decode("utf-8", "ignore")  # file systems count bytes
    return path.with_name(f".{name}.{HOST}{secrets.token_hex(6)}.part")


def keep_rights(handle: int, before: os.stat_result) -> None:
    """Gives a file the owner, the group and the rights of the one that it will replace, as far as this user may."""
    if sys.platform == "win32":
        return
    rights = before.st_mode & 0o777
    with suppress(OSError):
        os.fchown(handle, before.st_uid, -1)
    with suppress(OSError):
        os.fchown(handle, -1, before.st_gid)
    if os.fstat(handle).st_gid != before.st_gid:  # to a group that was not meant: what everybody may do
        rights = rights & 0o707 | (rights & 0o007) << 3
    with suppress(OSError):
        os.fchmod(handle, rights)


def sweep(folder: Path) -> None:
    """Removes parts that a killed writer left in a folder: this user's, and only those that no living process holds the lock of."""
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if match := PART.fullmatch(entry.name):
                with suppress(OSError):
                    remove_left(entry.path, match[1])


def remove_left(part: str, host: str) -> None:
    """Removes a part if nobody is writing it. OSError where that cannot be known."""
    if sys.platform == "win32":
        os.unlink(part)  # refused while it is open
        return
    handle = os.open(part, READING | os.O_NOFOLLOW)
    try:
        found = os.fstat(handle)
        folder = stat.S_ISDIR(found.st_mode) and not os.path.lexists(os.path.join(part, REPLACED))
        own = (folder or stat.S_ISREG(found.st_mode)) and found.st_uid == os.geteuid()
        if own and (host == HOST or time.time() - found.st_mtime > STALE) and lock(handle, wait=False):
            shutil.rmtree(part) if folder else os.unlink(part)
    finally:
        os.close(handle)


def lock(handle: int, wait: bool) -> bool | None:
    """Locks a file until it is closed, or its process ends. False where another has the lock, None where there are no locks."""
    if sys.platform == "win32":
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def sync_folder(folder: Path) -> None:
    """A rename is on the disk when its folder is. Not every folder may be opened, nor every file system asked: the file is there."""
    if hasattr(os, "O_DIRECTORY"):
        with suppress(OSError):
            handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)
