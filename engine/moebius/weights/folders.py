"""Where the cache is, what its files are called, and whether there is room.

The cache is $MOEBIUS_CACHE, else $HF_HOME/moebius, else moebius in the user's folder for caches:

    moebius-cache.txt                       the mark: files of these names in this folder are this program's own
    weights/NET-HASH.safetensors            the copies (copies.py); with .damaged behind it, one that was set aside
    checked/NET-HASH.safetensors.json       the identity that a copy had when its content was last compared with its digest
    refs/HASH.json                          what is known of a source by its signature (refs.py)
    verdicts/HASH.json                      whether an adapter computes right (inpaint/verdicts.py)
    tuned/HASH.json                         which kernels are fastest on it (inpaint/tuning.py)
    contests/HASH.json                      whether its matrix units are faster than the rest of it (inpaint/contest.py)
    parts/download-HASH.part, HASH.lock     downloads under way
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import sys
from pathlib import Path
from typing import Any

from moebius.errors import UsageError, WeightError
from moebius.files import open_regular, replacing

MARK = "moebius-cache.txt"
MARK_TEXT = "moebius keeps converted weights here. `moebius cache` lists them and `moebius cache --clear` removes them, and nothing else.\n"
COPY = r"(?:unet|vae)-[0-9a-f]{64}\.safetensors"
UNDER_WAY = r"\.\w+\.part"  # behind a dot and the name of what is being written (`files.replacing`)

# What this program makes in each folder. Nothing else is ever listed or removed.
OWN = {
    "weights": re.compile(rf"{COPY}(\.damaged)?|\.{COPY}{UNDER_WAY}"),
    "checked": re.compile(rf"{COPY}\.json|\.{COPY}\.json{UNDER_WAY}"),
    "refs": re.compile(rf"[0-9a-f]{{64}}\.json|\.[0-9a-f]{{64}}\.json{UNDER_WAY}"),
    "verdicts": re.compile(rf"[0-9a-f]{{64}}\.json|\.[0-9a-f]{{64}}\.json{UNDER_WAY}"),
    "tuned": re.compile(rf"[0-9a-f]{{64}}\.json|\.[0-9a-f]{{64}}\.json{UNDER_WAY}"),
    "contests": re.compile(rf"[0-9a-f]{{64}}\.json|\.[0-9a-f]{{64}}\.json{UNDER_WAY}"),
    "parts": re.compile(r"download-[0-9a-f]{64}\.part"),
}

MAKE_ROOM = "Free some space (see `moebius cache`) or set MOEBIUS_CACHE to a folder on another disk, and run the same command again."
MAX_NOTE = 1 << 16  # bytes of a small JSON file here
DISK_FULL = (errno.ENOSPC, errno.EDQUOT)


def cache_folder() -> Path:
    """Where copies and downloads lie. HF_HOME counts, because who sets it says where large model files are to go."""
    try:
        if folder := os.environ.get("MOEBIUS_CACHE"):
            return Path(folder).expanduser().absolute()
        if folder := os.environ.get("HF_HOME"):
            return Path(folder).expanduser().absolute() / "moebius"
        if sys.platform == "win32":
            return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData/Local") / "moebius/cache"
        if sys.platform == "darwin":
            return Path.home() / "Library/Caches/moebius"
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "moebius"
    except (RuntimeError, OSError) as error:  # no such user, a user without a home, a working directory that was removed
        raise UsageError(f"There is no telling where the cache is ({error}). Set MOEBIUS_CACHE to a folder, by its whole path.") from error


def subfolder(name: str) -> Path:
    """One of those in OWN."""
    return cache_folder() / name


def make(folder: Path) -> None:
    """Makes a folder of the cache, and marks the cache. OSError is left to the caller, who knows what it is for."""
    folder.mkdir(parents=True, exist_ok=True)
    mark = folder.parent / MARK
    if not mark.exists():
        mark.write_text(MARK_TEXT, encoding="utf-8")


def read_note(path: Path) -> Any:
    """The JSON that `write_note` wrote; None where there is none that can be read."""
    try:
        with open_regular(path) as file:
            return json.loads(file.read(MAX_NOTE))
    except (OSError, ValueError, RecursionError):
        return None


def write_note(path: Path, note: Any) -> None:
    """Whole or not at all. OSError is left to the caller, as with `make`."""
    make(path.parent)
    with replacing(path) as file:
        file.write(json.dumps(note).encode())


def need_room(target: Path, size: int, label: str) -> None:
    """Refuses to begin what would fill the disk: a full one is better reported before the transfer than at its end."""
    try:
        folder = target.parent
        while not folder.exists() and folder != folder.parent:
            folder = folder.parent
        free = shutil.disk_usage(folder).free
    except OSError as error:
        raise cannot_write(error, label, target) from error
    if free < size:
        raise NoRoomError(
            f"The disk of {target.parent} is full: {label} takes {size / 1e6:.1f} MB and {free / 1e6:.1f} MB are free. {MAKE_ROOM}"
        )


class NoRoomError(WeightError):
    """The disk has no room for a download or a copy."""


def cannot_write(error: OSError, label: str, target: Path) -> WeightError:
    if error.errno in DISK_FULL:
        return NoRoomError(f"The disk of {target.parent} is full: there is no room for the converted {label}. {MAKE_ROOM}")
    return WeightError(f"{target} cannot be written: {error.strerror or error}. Set MOEBIUS_CACHE to a folder that can.")
