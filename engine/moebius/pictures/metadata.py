"""What a picture's file holds besides pixels: EXIF, profile, texts, and the record of the settings it was made with."""

from __future__ import annotations

import json
import os
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, JpegImagePlugin, PngImagePlugin
from PIL.ExifTags import IFD, Base

from moebius.errors import UsageError
from moebius.pictures.formats import opened
from moebius.pictures.source import FileSource, file_of

METADATA_KEY = "moebius"
USER_COMMENT = b"ASCII\0\0\0"


@dataclass(frozen=True)
class Extras:
    """What a file holds besides pixels. The thumbnail in an EXIF block is left out: it shows what was there before."""

    exif: bytes = b""  # with "Exif\0\0" in front and no orientation; b"" for none
    icc: bytes | None = None
    xmp: bytes | None = None
    dpi: tuple[float, float] | None = None
    text: tuple[tuple[str, str], ...] = ()  # PNG's
    chunks: tuple[tuple[bytes, bytes], ...] = ()  # PNG's: which colours the numbers mean, where no ICC profile says it
    jpeg: tuple[dict[int, list[int]], int] | None = None  # quantization tables and subsampling


def extras_of(file: Image.Image, upright: Image.Image, exif: bytes) -> Extras:
    """`upright` is the picture of `file` turned as its EXIF block says, `exif` the block itself, from `exif_of`."""
    info = upright.info
    xmp, dpi = info.get("xmp"), info.get("dpi")
    tables = getattr(file, "quantization", None)
    jpeg = None
    if tables and isinstance(file, JpegImagePlugin.JpegImageFile):
        jpeg = ({key: list(table) for key, table in tables.items()}, JpegImagePlugin.get_sampling(file))
    png = isinstance(file, PngImagePlugin.PngImageFile)
    return Extras(
        exif=exif,
        icc=info.get("icc_profile") or None,
        xmp=xmp if isinstance(xmp, bytes) else None,
        dpi=(float(dpi[0]), float(dpi[1])) if dpi and all(0 < float(d) < 1e6 for d in dpi) else None,
        text=_png_text(file) if isinstance(file, PngImagePlugin.PngImageFile) else (),
        chunks=_colour_chunks(info) if png and "icc_profile" not in info else (),
        jpeg=jpeg,
    )


def _png_text(file: PngImagePlugin.PngImageFile) -> tuple[tuple[str, str], ...]:
    kept_elsewhere = (METADATA_KEY, "XML:com.adobe.xmp", "Raw profile type exif")
    return tuple((str(key), str(value)) for key, value in file.text.items() if key not in kept_elsewhere)


def _colour_chunks(info: Mapping[str | tuple[int, int], Any]) -> tuple[tuple[bytes, bytes], ...]:
    """PNG's gAMA, cHRM and sRGB, as they were."""
    chunks = []
    if "gamma" in info:
        chunks.append((b"gAMA", struct.pack(">I", round(info["gamma"] * 100000))))
    if "chromaticity" in info:
        chunks.append((b"cHRM", struct.pack(">8I", *(round(value * 100000) for value in info["chromaticity"]))))
    if "srgb" in info:
        chunks.append((b"sRGB", bytes([info["srgb"]])))
    return tuple(chunks)


# EXIF


# A TIFF's EXIF block is the file's own directory; these of its entries are not about how pixels are stored.
ABOUT_THE_PICTURE = {
    *(Base.ImageDescription, Base.Make, Base.Model, Base.Software, Base.DateTime, Base.Artist, Base.HostComputer, Base.Copyright),
    *(Base.Rating, Base.XPTitle, Base.XPComment, Base.XPAuthor, Base.XPKeywords, Base.XPSubject),
}


def exif_of(image: Image.Image) -> bytes:
    """The EXIF block anew: without orientation and thumbnail, and without entries that cannot be written again."""
    source, kept = image.getexif(), Image.Exif()
    for tag in source:
        about = image.format != "TIFF" or tag in ABOUT_THE_PICTURE
        if about and tag not in (Base.Orientation, IFD.Exif, IFD.GPSInfo) and _can_be_written(tag, source[tag]):
            kept[tag] = source[tag]
    for directory in (IFD.Exif, IFD.GPSInfo):
        entries = source.get_ifd(directory)
        good = {
            tag: value
            for tag, value in entries.items()
            if tag != IFD.Interop and _can_be_written(tag, value) and not (tag in PLACES and _own_record(value))
        }
        if good:
            kept[directory] = good
    return kept.tobytes() if len(kept) else b""


def _can_be_written(tag: int, value: Any) -> bool:
    trial = Image.Exif()
    trial[tag] = value
    try:
        trial.tobytes()
    except Exception:  # as in `formats.reading`: what is wrong with an entry shows when it is packed
        return False
    return True


# The record of the settings: JSON, in PNG a text of its own, elsewhere an entry of the EXIF block

PLACES = (Base.UserComment, Base.ImageHistory)  # the first that holds nothing of the photo's own


def _comment(value: Any) -> bytes:
    """The text of an EXIF entry, without the eight bytes that name its encoding, and without blanks around it."""
    data = value.encode("ascii", "replace") if isinstance(value, str) else value
    return data.removeprefix(USER_COMMENT).strip(b"\0 ") if isinstance(data, bytes) else repr(value).encode()


def _own_record(value: Any) -> bool:
    return _comment(value).startswith(f'{{"{METADATA_KEY}":'.encode())


def as_json(metadata: Mapping[str, Any]) -> str:
    return json.dumps(_without_paths(metadata))


def _without_paths(value: Any) -> Any:
    """Where a file lay on somebody's disk is nobody else's business: of absolute paths only the last name is kept."""
    if isinstance(value, Mapping):
        return {str(key): _without_paths(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_paths(item) for item in value]
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, os.PathLike) or (isinstance(value, str) and re.match(r"/|~|\\\\|[A-Za-z]:[\\/]|file:", value)):
        return re.split(r"[\\/]", os.fspath(value).rstrip("\\/"))[-1]
    return value


def png_info(extras: Extras, record: str | None) -> PngImagePlugin.PngInfo:
    """All that a PNG holds in chunks of its own."""
    info = PngImagePlugin.PngInfo()
    for chunk, data in extras.chunks:
        info.add(chunk, data)
    for key, text in extras.text:
        info.add_text(key, text)
    if extras.xmp:
        info.add_itxt("XML:com.adobe.xmp", extras.xmp.decode("utf-8", "replace"))
    if record is not None:
        info.add_text(METADATA_KEY, record)
    return info


def with_record(exif: bytes, record: str) -> bytes | None:
    """The EXIF block with the record in the first of `PLACES` that is free; None where the photo has words of its own in all."""
    block = Image.Exif()
    if exif:
        block.load(exif)
    entries = block.get_ifd(IFD.Exif)
    free = [tag for tag in PLACES if not _comment(entries.get(tag, b""))]
    if not free:
        return None
    text = f'{{"{METADATA_KEY}": {record}}}'
    block[IFD.Exif] = {**entries, free[0]: USER_COMMENT + text.encode("ascii") if free[0] == Base.UserComment else text}
    return block.tobytes()


def read_metadata(source: FileSource) -> dict[str, Any] | None:
    """What `save` was given as metadata; None when the file has none."""
    file, name = file_of(source, "The picture")
    with opened(file, name) as image:
        text = image.info.get(METADATA_KEY)
        entries = image.getexif().get_ifd(IFD.Exif)
    records = [entries[tag] for tag in PLACES if tag in entries and _own_record(entries[tag])]
    try:
        if isinstance(text, str):
            record = json.loads(text)
        elif records:
            record = json.loads(_comment(records[0]))[METADATA_KEY]
        else:
            return None
    except (ValueError, RecursionError):
        record = None
    if not isinstance(record, dict):
        raise UsageError(f"{name} has a {METADATA_KEY} entry that is not what this program writes.")
    return record
