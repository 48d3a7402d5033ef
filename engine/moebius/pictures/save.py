"""Writes a filled picture: in the format its name asks for, with what came with the photo, whole or not at all."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from moebius.errors import MoebiusError, UsageError
from moebius.files import replacing
from moebius.pictures import palette
from moebius.pictures.formats import ENDINGS, format_of
from moebius.pictures.metadata import Extras, as_json, png_info, with_record
from moebius.pictures.modes import MODES
from moebius.pictures.photo import Photo

Quality = int | Literal["keep"] | None

JPEG_MARKER = 65533  # bytes that fit into one
XMP_LIMIT = 65000


def save(
    image: Image.Image,
    path: str | os.PathLike[str],
    *,
    like: Photo | None = None,
    metadata: Mapping[str, Any] | None = None,
    quality: Quality = None,
) -> tuple[str, ...]:
    """Writes the file that the ending of `path` asks for, whole or not at all, and returns notes on what it could not keep.

    `like` gives ICC profile, EXIF, XMP (but to TIFF), resolution and PNG texts; `metadata` becomes JSON under one PNG text key,
    or the EXIF UserComment; where the photo has one of its own, the ImageHistory. A JPEG is written at `quality` 95, an AVIF at 90, both
    without colour subsampling; "keep" takes the tables of `like`, if that was a JPEG, for a file of about its size. A WebP is lossless
    unless a number is given.
    """
    path = Path(path)
    image, options, notes = _prepared(image, path, like, metadata, quality)
    _write(image, path, options)
    return notes


def encoded(
    image: Image.Image, name: Path, *, like: Photo | None = None, metadata: Mapping[str, Any] | None = None, quality: Quality = None
) -> tuple[bytes, tuple[str, ...]]:
    """The bytes of the file that `save` would write under this name, and the notes."""
    image, options, notes = _prepared(image, name, like, metadata, quality)
    file = io.BytesIO()
    try:
        image.save(file, **options)
    except Exception as error:  # as in `_write`
        raise MoebiusError(f"The picture cannot be written as {options['format']}: {error}.") from error
    return file.getvalue(), notes


def _prepared(
    image: Image.Image, path: Path, like: Photo | None, metadata: Mapping[str, Any] | None, quality: Quality
) -> tuple[Image.Image, dict[str, Any], tuple[str, ...]]:
    """The picture in a mode that its file can hold, the options of Pillow's save(), and notes."""
    if quality is not None and quality != "keep" and not (isinstance(quality, int) and 1 <= quality <= 100):
        raise UsageError(f"quality is {quality!r}; it must be a whole number from 1 to 100, or 'keep'.")
    kind = format_of(path)
    image = _fitting(image, path)
    extras = like.extras if like else Extras()
    options, notes = _metadata_options(kind, extras, None if metadata is None else as_json(metadata))
    if kind == "TIFF" and "exif" not in options and image.mode != "I;16B":  # Pillow's compressing writer can do neither
        options["compression"] = "tiff_adobe_deflate"
    return image, {"format": kind, **options, **_encoder_options(kind, extras, quality)}, tuple(notes)


def check_fits(photo: Photo, path: Path) -> None:
    """Refuses now what `save` would refuse later: an ending that cannot hold the photo's mode."""
    if isinstance(photo.native, Image.Image):
        small = photo.native.crop((0, 0, 1, 1))
        small.info = photo.native.info
        _fitting(small, path)


def _fitting(image: Image.Image, path: Path) -> Image.Image:
    """The picture in a mode that the file can hold and that shows the same."""
    kind, ending = format_of(path), path.suffix.lower()
    mode = MODES.get(image.mode)
    if mode is not None and mode.keyed and image.has_transparency_data and kind not in ("PNG", "GIF"):
        if _written_mode(kind, "RGBA") != "RGBA":
            raise UsageError(f"{path}: a {ending} file cannot keep the picture's transparency; use .png, .webp or .tif.")
        return image.copy().convert("RGBA")  # of a copy: Pillow puts the key into the palette of what it converts
    written = _written_mode(kind, image.mode)
    if written is None:
        fitting = [e for e, other in ENDINGS.items() if _written_mode(other, image.mode)]
        raise UsageError(f"{path}: a {ending} file cannot hold mode {image.mode}; use {' or '.join(fitting) or 'another mode'}.")
    if kind == "GIF" and image.mode == "P" and image.has_transparency_data:
        one = palette.keyed(image)
        if one is None:
            raise UsageError(f"{path}: a .gif file cannot keep colours that are half transparent; use .png, .webp or .tif.")
        return one
    if written == image.mode:
        return image
    if image.mode.startswith("I;16"):  # convert() would go by way of 8 bits
        return Image.fromarray(np.asarray(image).astype(np.uint16))
    return image.convert(written)


def _written_mode(kind: str, mode: str) -> str | None:
    """The mode in which a file of this format holds a picture of `mode`."""
    return MODES[mode].written_as(kind) if mode in MODES else None


def _metadata_options(kind: str, extras: Extras, record: str | None) -> tuple[dict[str, Any], list[str]]:
    """Options of Pillow's save() for what is written beside the pixels, and notes on what is not."""
    options: dict[str, Any] = {}
    if extras.icc and kind not in ("BMP", "GIF"):
        options["icc_profile"] = extras.icc
    if extras.dpi and kind not in ("WEBP", "AVIF", "GIF"):
        options["dpi"] = extras.dpi
    if kind in ("BMP", "GIF"):
        lost = record is not None or extras.exif or extras.icc
        return options, [f"{kind} files hold no metadata: EXIF, ICC profile and settings are left out."] if lost else []
    notes = []
    if kind == "PNG":
        options["pnginfo"] = png_info(extras, record)
    exif = extras.exif
    if kind != "PNG" and record is not None:
        with_settings = with_record(exif, record)
        if with_settings is None:
            notes.append("The photo's EXIF block has words of its own wherever the settings could go: the settings are left out.")
        exif = exif if with_settings is None else with_settings
    if kind == "JPEG" and len(exif) > JPEG_MARKER:
        exif = extras.exif if len(extras.exif) <= JPEG_MARKER else b""
        notes.append("There is no room in a JPEG for all the metadata; " + ("the settings are" if exif else "EXIF is") + " left out.")
    if exif:
        options["exif"] = exif
    if extras.xmp and kind in ("JPEG", "WEBP", "AVIF") and len(extras.xmp) < XMP_LIMIT:
        options["xmp"] = extras.xmp
    return options, notes


def _encoder_options(kind: str, extras: Extras, quality: Quality) -> dict[str, Any]:
    """Options of Pillow's save() for how the pixels are coded."""
    if kind == "JPEG" and quality == "keep" and extras.jpeg:
        return {"qtables": extras.jpeg[0], "subsampling": extras.jpeg[1]}
    if kind == "JPEG":
        return {"quality": quality if isinstance(quality, int) else 95, "subsampling": 0}
    if kind == "WEBP":
        return {"quality": quality} if isinstance(quality, int) else {"lossless": True, "exact": True}
    if kind == "AVIF":
        return {"quality": quality if isinstance(quality, int) else 90, "subsampling": "4:4:4"}
    if kind == "GIF":
        return {"optimize": False}  # keeps palette and indices as they are
    return {}


def _write(image: Image.Image, path: Path, options: Mapping[str, Any]) -> None:
    try:
        with replacing(path) as file:
            image.save(file, **options)
    except OSError as error:
        raise MoebiusError(f"{path} cannot be written: {error.strerror or error}.") from error
    except Exception as error:  # what an encoder does not like about a picture
        raise MoebiusError(f"{path} cannot be written: {error}.") from error
