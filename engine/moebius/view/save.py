"""Saving a result beside the photo, under a name that nobody has."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from moebius.errors import MoebiusError

if TYPE_CHECKING:
    from moebius.inpaint.result import Result
    from moebius.pictures.photo import Photo


def save(result: Result, photo: Photo, path: Path, folder: Path | None) -> Path:
    """NAME-filled.EXT beside the photo (-filled-2, -filled-3, …), as PNG where the photo's own ending cannot be written."""
    from moebius.pictures.formats import ENDINGS
    from moebius.pictures.save import check_fits

    ending = path.suffix.lower() if path.suffix.lower() in ENDINGS else ".png"
    try:
        check_fits(photo, path.with_suffix(ending))
    except MoebiusError:
        ending = ".png"
    target = reserve((folder or path.parent) / f"{path.stem}-filled{ending}")
    try:
        result.save(target)
    except BaseException:
        target.unlink(missing_ok=True)
        raise
    return target


def reserve(path: Path) -> Path:
    """The first of PATH, PATH-2, PATH-3, … that no file has; an empty file takes it at once, for `save` to replace."""
    for n in range(1, 10_000):
        numbered = path if n == 1 else path.with_stem(f"{path.stem}-{n}")
        try:
            os.close(os.open(numbered, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
            return numbered
        except FileExistsError:
            continue
        except OSError as error:
            raise MoebiusError(f"{numbered} cannot be written: {error.strerror}.") from error
    raise MoebiusError(f"{path.parent} already holds 9999 results of this picture; move some away.")
