"""Where a picture is to go: everything that would stop it from being written is found before the work, and not after it."""

from __future__ import annotations

import stat
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moebius.cli.endings import WRONG_NAMES
from moebius.errors import MoebiusError, UsageError
from moebius.files import try_beside

if TYPE_CHECKING:
    from moebius.pictures.photo import Photo

STREAM = Path("-")  # standard input, or standard output
LARGEST_SIDE = {"JPEG": 65500, "WEBP": 16383, "GIF": 65535}  # what these files can say


def check_output(path: Path) -> None:
    """The ending, the folder, the name, and that a file can be written there."""
    from moebius.pictures.formats import format_of

    mode = None
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        pass
    except (OSError, ValueError) as error:  # the name is too long, or has a NUL; a folder on the way cannot be entered
        kind = MoebiusError if isinstance(error, OSError) and error.errno not in WRONG_NAMES else UsageError
        why = getattr(error, "strerror", None) or error
        raise kind(f"{path} cannot be written: {why}. Choose another name or place.") from error
    if mode is not None and not stat.S_ISREG(mode):
        what = "a folder" if stat.S_ISDIR(mode) else "no file but a device or a pipe"
        raise UsageError(f"{path} is {what}; name a file to write the picture into.")
    format_of(path)
    if not path.parent.is_dir():
        raise UsageError(f"{path} cannot be written: there is no folder {path.parent}; make it first.")
    try:
        try_beside(path)
    except OSError as error:
        raise MoebiusError(f"{path} cannot be written: {error.strerror}. Choose another place.") from error


def check_stream(count: int, json: bool) -> None:
    """That standard output can take a picture."""
    if count > 1:
        raise UsageError(f"-o - writes one picture to standard output, and {count} are asked for; name a file.")
    if json:
        raise UsageError("-o - and --json both write to standard output; name a file, or leave out --json.")
    if sys.stdout.isatty():
        raise UsageError("Standard output is a terminal, which shows no picture; lead it into a file or a program, or name a file.")


def check_holds(photo: Photo, size: tuple[int, int], paths: Sequence[Path], upstream: bool) -> None:
    """That the format can hold the photo's mode, and a picture of this size. With `upstream` the result is RGB, of the model's own size."""
    from PIL import Image

    from moebius.pictures.formats import format_of
    from moebius.pictures.photo import Photo
    from moebius.pictures.save import check_fits

    check_fits(Photo(photo.rgb[:1, :1], None, Image.new("RGB", (1, 1)), "RGB") if upstream else photo, paths[0])
    largest = LARGEST_SIDE.get(format_of(paths[0]))
    if largest and not upstream and max(size) > largest:
        width, height = size
        raise UsageError(
            f"{paths[0]}: a {paths[0].suffix} file has at most {largest} pixels a side, and the image is {width}×{height}; use .png."
        )


def stdin_picture(limit: int = 1 << 30) -> bytes:
    """The picture that is led into standard input."""
    if sys.stdin is None or sys.stdin.isatty():
        raise UsageError("- reads the picture from standard input, which is a terminal; lead a file into it, or name it.")
    data: Any = sys.stdin.buffer.read(limit + 1)
    if not data:
        raise UsageError("- reads the picture from standard input, and there is nothing in it.")
    if len(data) > limit:
        raise UsageError(f"Standard input holds more than {limit >> 30} GiB; give a smaller picture.")
    return bytes(data)


def stream_format(name: str | None) -> str:
    """Of -o -: PNG where --format names no other."""
    from moebius.pictures.formats import ENDINGS

    ending = f".{(name or 'png').lower().lstrip('.')}"
    if ending not in ENDINGS:
        raise UsageError(f"--format is {name!r}; choose one of {', '.join(e[1:] for e in ENDINGS)}.")
    return ending


def write_stream(data: bytes) -> None:
    """A picture to standard output."""
    try:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
    except OSError as error:  # also a reader that went away: the picture has not arrived
        raise MoebiusError(f"The picture cannot be written to standard output: {error.strerror}.") from error
