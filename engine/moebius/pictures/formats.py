"""Picture files: which are read and written, and every way in which reading fails as one sentence."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from moebius.errors import MoebiusError, UsageError
from moebius.files import open_regular

FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF")  # Pillow's names
ENDINGS = {
    ".png": "PNG",
    ".jpg": "JPEG",
    ".webp": "WEBP",
    ".tif": "TIFF",
    ".bmp": "BMP",
    ".gif": "GIF",
    ".jpeg": "JPEG",
    ".tiff": "TIFF",
}


def format_of(path: Path) -> str:
    """The format that a file of this name is written in."""
    if path.suffix.lower() not in ENDINGS:
        raise UsageError(f"{path} has no ending that says what to write; use {', '.join(ENDINGS)}.")
    return ENDINGS[path.suffix.lower()]


@contextmanager
def opened(file: Path | io.BytesIO, name: str) -> Iterator[Image.Image]:
    """The picture in a file, its pixels not yet read."""
    with (
        reading(name),
        open_regular(file) if isinstance(file, Path) else nullcontext(file) as stream,
        Image.open(stream, formats=FORMATS) as image,
    ):
        yield image


@contextmanager
def reading(name: str) -> Iterator[None]:
    """Whatever Pillow raises while the file `name` is read becomes a UsageError of one sentence."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # on size and on torn EXIF blocks; what matters is an error or a note here
        try:
            yield
        except MoebiusError:
            raise
        except Image.DecompressionBombError:
            raise UsageError(f"{name} has more than {2 * (Image.MAX_IMAGE_PIXELS or 0):,} pixels, which Pillow does not read.") from None
        except UnidentifiedImageError:
            raise UsageError(f"{name} is not a PNG, JPEG, WebP, TIFF, BMP or GIF picture; convert it to one of those first.") from None
        except OSError as error:
            raise UsageError(f"{name} cannot be read as a picture: {error.strerror or error}.") from error
        except Exception as error:  # a decoder fed with broken bytes raises whatever they lead it to
            raise UsageError(f"{name} is broken and cannot be read as a picture: {error or type(error).__name__}.") from error
