"""Picture files: which are read and written, and every way in which reading fails as one sentence."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from importlib import import_module
from pathlib import Path
from typing import BinaryIO

from PIL import Image, UnidentifiedImageError, features

from moebius.errors import MoebiusError, UsageError
from moebius.files import open_regular

FORMATS = ["PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF"]  # Pillow's names
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
if features.check("avif"):  # a Pillow from 11.3 on, built with it
    FORMATS.append("AVIF")
    ENDINGS[".avif"] = "AVIF"

HEIC_ENDINGS = (".heic", ".heif")  # read with pillow-heif, never written
HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
AVIF_BRANDS = (b"avif", b"avis")


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
        _opened(stream, name) as image,
    ):
        yield image


def _opened(file: BinaryIO, name: str) -> Image.Image:
    try:
        return Image.open(file, formats=FORMATS)
    except UnidentifiedImageError:
        brand = _brand(file)
        if brand in AVIF_BRANDS:
            raise UsageError(f"{name} is an AVIF picture, which this Pillow does not read; install Pillow 11.3 or newer.") from None
        if brand not in HEIC_BRANDS:
            raise
    try:
        import_module("pillow_heif").register_heif_opener()
    except ImportError:
        raise UsageError(f"{name} is a HEIC picture; pip install pillow-heif to have it read, or convert it first.") from None
    return Image.open(file, formats=["HEIF"])


def _brand(file: BinaryIO) -> bytes:
    """What kind of ISO base media file this is, in four letters; nothing for other files."""
    file.seek(0)
    head = file.read(12)
    file.seek(0)
    return head[8:12] if head[4:8] == b"ftyp" else b""


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
            raise UsageError(f"{name} is not a PNG, JPEG, WebP, AVIF, TIFF, BMP or GIF picture; convert it first.") from None
        except OSError as error:
            raise UsageError(f"{name} cannot be read as a picture: {error.strerror or error}.") from error
        except Exception as error:  # a decoder fed with broken bytes raises whatever they lead it to
            raise UsageError(f"{name} is broken and cannot be read as a picture: {error or type(error).__name__}.") from error
