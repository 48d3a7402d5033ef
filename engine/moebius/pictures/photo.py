"""A user's picture: read with all that comes with it, changed where it was filled in, written back.

`Photo.rgb` is what the rest of the engine works on, oriented, in RGB, 8 or 16 bits a channel. The pixels as they were stored
are kept beside it: `with_rgb` writes into a copy of those, so that a pixel nobody changed keeps its bytes in any mode.
"""

from __future__ import annotations

import io
import json
import os
import re
import struct
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image, ImageCms, ImageOps, JpegImagePlugin, PngImagePlugin, UnidentifiedImageError
from PIL.ExifTags import IFD, Base

from moebius.errors import MoebiusError, UsageError
from moebius.files import replacing
from moebius.pictures.published import rescaled

PhotoSource = str | os.PathLike[str] | bytes | Image.Image | np.ndarray

MAX_PIXELS = 100_000_000
FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF")
METADATA_KEY = "moebius"
USER_COMMENT = b"ASCII\0\0\0"
JPEG_MARKER = 65533

AS_RGB = ("RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV", "LAB")
MODES = ("1", "L", "LA", "P", "I;16", "I;16L", "I;16B", "I;16N", "I", "F", *AS_RGB)
INSTEAD = {"PA": "RGBA", "RGBa": "RGBA", "La": "LA"}

# By ending: Pillow's format, the modes it keeps, and what others are converted to without loss of anything seen.
WRITABLE: dict[str, tuple[str, tuple[str, ...], dict[str, str]]] = {
    ".png": ("PNG", ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"), {"I;16L": "I;16", "I;16B": "I;16", "I;16N": "I;16"}),
    ".jpg": ("JPEG", ("L", "RGB", "CMYK"), {"1": "L", "P": "RGB", "YCbCr": "RGB", "RGBX": "RGB"}),
    ".webp": ("WEBP", ("RGB", "RGBA"), {"1": "RGB", "L": "RGB", "P": "RGB", "LA": "RGBA"}),
    ".tif": ("TIFF", ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "I;16B", "I", "F", "YCbCr", "LAB"), {"I;16L": "I;16"}),
    ".bmp": ("BMP", ("1", "L", "P", "RGB"), {}),
    ".gif": ("GIF", ("L", "P"), {"1": "L"}),
}
WRITABLE |= {".jpeg": WRITABLE[".jpg"], ".tiff": WRITABLE[".tif"]}


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


@dataclass(frozen=True, eq=False)
class Photo:
    rgb: np.ndarray  # (H, W, 3) uint8 or uint16, read-only; may be a view that repeats a grey plane
    alpha: np.ndarray | None  # (H, W), of rgb's type
    native: Image.Image | np.ndarray  # the pixels as they were given, oriented
    mode: str  # native's, in Pillow's words; an array's may be one that Pillow lacks: RGB;16, RGBA;16, RGB;F, RGBA;F
    format: str | None = None
    extras: Extras = Extras()
    notes: tuple[str, ...] = ()
    levels: tuple[float, float] = (0.0, 1.0)  # what is black and what is white in mode I or F

    @property
    def size(self) -> tuple[int, int]:
        """(width, height)"""
        return self.rgb.shape[1], self.rgb.shape[0]

    def with_rgb(self, rgb: np.ndarray, changed: np.ndarray | None = None, *, opaque: bool = False) -> Image.Image:
        """The picture in its own mode with the pixels of `rgb` that differ from `self.rgb`, within `changed` (H, W) if given.

        All other pixels keep their bytes. Alpha stays as it is; with `opaque`, changed pixels lose their transparency.
        An array that no mode of Pillow's holds (16 bits or floats in colour) comes back in 8 bits; see `array_with_rgb`.
        """
        pixels, palette = self._filled(rgb, changed, opaque)
        if isinstance(self.native, np.ndarray):
            if self.mode.startswith("RGB"):
                pixels = rescaled(pixels, np.dtype(np.uint8))
            elif self.mode in ("F", "I;16"):
                pixels = pixels.astype(np.float32 if self.mode == "F" else np.uint16)
            return Image.fromarray(np.ascontiguousarray(pixels))
        if self.mode == "1":
            image = Image.fromarray(pixels)
        else:
            image = Image.frombytes(self.mode, self.size, np.ascontiguousarray(pixels).tobytes())
        if self.mode == "P":
            kind = _palette_kind(self.native)
            table = self.native.getpalette(kind) if palette is None else palette[:, : len(kind)].ravel().tolist()
            image.putpalette(table or [], kind)
        image.info = dict(self.native.info)
        return image

    def array_with_rgb(self, rgb: np.ndarray, changed: np.ndarray | None = None, *, opaque: bool = False) -> np.ndarray:
        """`with_rgb` as an array: of the shape and type of the array the photo was made of, else of the picture's mode."""
        if not isinstance(self.native, np.ndarray):
            return np.asarray(self.with_rgb(rgb, changed, opaque=opaque))
        return self._filled(rgb, changed, opaque)[0].reshape(self.native.shape)

    def _filled(self, rgb: np.ndarray, changed: np.ndarray | None, opaque: bool) -> tuple[np.ndarray, np.ndarray | None]:
        """Native pixels, (H, W) or (H, W, channels), and the palette if it grew."""
        if rgb.shape != self.rgb.shape or rgb.dtype != self.rgb.dtype:
            raise UsageError(f"The pixels are {rgb.shape} {rgb.dtype}; this photo takes {self.rgb.shape} {self.rgb.dtype}.")
        rows, columns = slice(None), slice(None)
        if changed is not None:
            if changed.shape != self.rgb.shape[:2]:
                raise UsageError(f"The changed pixels are marked in {changed.shape}; this photo takes {self.rgb.shape[:2]}.")
            rows, columns = bounds(changed)
        native = np.array(self.native)
        native = native[..., 0] if native.ndim == 3 and native.shape[2] == 1 else native
        part, old, new = native[rows, columns], self.rgb[rows, columns], rgb[rows, columns]
        where = new[..., 0] != old[..., 0]  # any(axis=2) takes ten times as long
        where |= new[..., 1] != old[..., 1]
        where |= new[..., 2] != old[..., 2]
        if changed is not None:
            where &= changed[rows, columns]
        alpha = None if self.alpha is None else self.alpha[rows, columns]
        if alpha is not None and opaque:
            where |= (alpha != np.iinfo(alpha.dtype).max) & (where if changed is None else changed[rows, columns])
        elif alpha is not None and self.mode in ("P", "L", "RGB"):
            where &= alpha != 0  # transparency is an index here, or a colour: another one would show
        if not where.any():
            return native, None
        values = new[where]
        if self.mode == "P":
            assert isinstance(self.native, Image.Image)
            wanted = np.full(len(values), 255, np.uint8) if opaque or alpha is None else alpha[where]
            part[where], palette = _indexed(values, wanted, _palette(self.native))
            return native, palette
        if self.mode == "1":
            part[where] = luma(values) >= 128
        elif self.mode == "L":
            part[where] = self._not_the_key(luma(values))
        elif self.mode.startswith("I;16"):
            part[where] = luma(values)
        elif self.mode in ("I", "F"):
            low, high = self.levels
            numbers = low + luma(values) / 65535 * (high - low)
            part[where] = np.rint(numbers) if self.mode == "I" else numbers
        elif self.mode == "LA":
            part[where, 0] = luma(values)
        elif self.mode == "RGB":
            part[where] = self._not_the_key(values)
        elif self.mode in ("RGBA", "RGB;16", "RGBA;16"):
            part[where, :3] = values
        elif self.mode in ("RGB;F", "RGBA;F"):
            part[where, :3] = values / 65535
        else:
            part[where] = _from_rgb(values, self.mode, self.extras.icc)
        if opaque and self.mode in ("LA", "RGBA", "RGBA;16", "RGBA;F"):
            part[where, -1] = 1 if self.mode == "RGBA;F" else np.iinfo(native.dtype).max
        return native, None

    def _not_the_key(self, values: np.ndarray) -> np.ndarray:
        """A filled pixel must not happen upon the one colour that stands for transparent."""
        key = self.native.info.get("transparency") if isinstance(self.native, Image.Image) else None
        if self.alpha is None or key is None:
            return values
        same = values == np.asarray(key) if values.ndim == 1 else (values == np.asarray(key)).all(axis=1)
        values = values.copy()
        last = values if values.ndim == 1 else values[:, -1]
        last[same] = np.where(last[same] > 0, last[same] - 1, 1)
        return values


def load(source: PhotoSource, max_pixels: int = MAX_PIXELS) -> Photo:
    """A file, the bytes of one, a PIL image, or an array: uint8, uint16 or floats from 0 to 1, (H, W) or (H, W, 1|3|4).

    Nothing is decoded before the size is checked. Pillow has a limit of its own, PIL.Image.MAX_IMAGE_PIXELS: above twice
    that, it refuses whatever `max_pixels` says.
    """
    if isinstance(source, np.ndarray):
        return _from_array(source, max_pixels)
    if isinstance(source, Image.Image):
        return _from_image(source, "The image", max_pixels)
    if isinstance(source, bytes | bytearray | memoryview):
        return _from_file(io.BytesIO(source), "The image", max_pixels)
    if isinstance(source, str | os.PathLike):
        return _from_file(Path(source), str(source), max_pixels)
    raise UsageError(f"The image is a {type(source).__name__}; give a path, bytes, a PIL image or an array.")


def _from_file(file: Path | io.BytesIO, name: str, max_pixels: int) -> Photo:
    with _reading(name), Image.open(file, formats=FORMATS) as image:
        return _from_image(image, name, max_pixels)


@contextmanager
def _reading(name: str) -> Iterator[None]:
    """Whatever Pillow has to say about the file `name`, in one sentence."""
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


def _checked_size(width: int, height: int, name: str, max_pixels: int) -> None:
    if width * height == 0:
        raise UsageError(f"{name} is empty: {width}×{height} pixels.")
    if width * height > max_pixels:
        raise UsageError(f"{name} has {width}×{height} = {width * height:,} pixels; the limit is {max_pixels:,}. Raise it with max_pixels.")


def _from_array(array: np.ndarray, max_pixels: int) -> Photo:
    shape = array.shape
    if len(shape) not in (2, 3) or (len(shape) == 3 and shape[2] not in (1, 3, 4)):
        raise UsageError(f"The image is an array of shape {shape}; give (height, width), or that with 1, 3 or 4 channels.")
    _checked_size(shape[1], shape[0], "The image", max_pixels)
    colours = 1 if len(shape) == 2 else shape[2]
    if array.dtype == bool and colours == 1:
        pixels, mode = np.where(array, np.uint8(255), np.uint8(0)), "1"
    elif array.dtype == np.uint8:
        pixels, mode = array, {1: "L", 3: "RGB", 4: "RGBA"}[colours]
    elif array.dtype.kind == "u" and array.dtype.itemsize == 2:
        pixels, mode = array.astype(np.uint16, copy=False), {1: "I;16", 3: "RGB;16", 4: "RGBA;16"}[colours]
    elif array.dtype.kind == "f":
        if not (np.isfinite(array).all() and array.min() >= 0 and array.max() <= 1):
            raise UsageError("The image is an array of floats that are not all from 0 to 1; divide it by its white, or give uint8.")
        pixels, mode = rescaled(array, np.dtype(np.uint16)), {1: "F", 3: "RGB;F", 4: "RGBA;F"}[colours]
    else:
        raise UsageError(f"The image is an array of {array.dtype}; give uint8, uint16 or floats from 0 to 1.")
    pixels = np.array(pixels)  # the caller may go on writing into his
    pixels = pixels.reshape(*shape[:2], colours)
    alpha = pixels[..., 3] if colours == 4 else None
    rgb = np.broadcast_to(pixels, (*shape[:2], 3)) if colours == 1 else pixels[..., :3]
    return Photo(_frozen(rgb), alpha, np.array(array), mode)


def _from_image(given: Image.Image, name: str, max_pixels: int) -> Photo:
    _checked_size(*given.size, name, max_pixels)
    with _reading(name):
        return _read_image(given, name)


def _read_image(given: Image.Image, name: str) -> Photo:
    notes = []
    frames = int(getattr(given, "n_frames", 1))
    if frames > 1 and given.format != "MPO":  # a camera's MPO is a JPEG with previews behind it
        notes.append(f"{name} has {frames} frames; the first one is used.")
        given.seek(0)
    tiles = getattr(given, "tile", None)
    stored = str(tiles[0].args) if tiles else ""
    if ";16" in stored and not given.mode.startswith(("I", "F")):
        notes.append(f"{name} has 16 bits a channel; Pillow reads colour with 8, and so the result has 8.")
    given.load()
    if given.mode in INSTEAD:
        notes.append(f"{name} has mode {given.mode}; it is worked on, and comes back, as {INSTEAD[given.mode]}.")
    elif given.mode not in MODES:
        raise UsageError(f"{name} has mode {given.mode}, which is not supported; convert it to RGB first.")
    try:
        exif = _exif(given)
    except Exception:  # as with pixels; but a photo does not need its EXIF block
        exif = b""
        notes.append(f"{name} has an EXIF block that cannot be read; it is left out.")
    try:
        image = ImageOps.exif_transpose(given)
    except Exception:
        image = given.copy()
    extras = _extras(given, image, exif)
    if image.mode in INSTEAD:
        image = image.convert(INSTEAD[image.mode])
    image.info = {key: value for key, value in image.info.items() if key in ("transparency", "icc_profile", "dpi", "gamma")}
    if exif:
        image.info["exif"] = exif
    rgb, alpha, levels = _planes(image, extras.icc)
    image_format = "JPEG" if given.format == "MPO" else given.format
    return Photo(_frozen(rgb), alpha, image, image.mode, image_format, extras, tuple(notes), levels)


def _planes(image: Image.Image, icc: bytes | None) -> tuple[np.ndarray, np.ndarray | None, tuple[float, float]]:
    """RGB, alpha, levels."""
    mode, array = image.mode, np.asarray(image)
    levels, alpha = (0.0, 1.0), None
    if mode == "P":
        table = _palette(image)
        padded = np.zeros((256, 4), np.uint8)  # an index beyond the palette is black
        padded[: len(table)] = table
        padded[len(table) :, 3] = 255
        if (table[:, 3] < 255).any():
            alpha = padded[:, 3][array]
        return padded[:, :3][array], alpha, levels
    if mode == "1":
        grey = np.where(array, np.uint8(255), np.uint8(0))
    elif mode in ("L", "LA"):
        grey = array if mode == "L" else array[..., 0]
    elif mode.startswith("I;16"):
        grey = array.astype(np.uint16)
    elif mode in ("I", "F"):
        levels = _levels(array)
        unit = np.nan_to_num((array.astype(np.float64) - levels[0]) / (levels[1] - levels[0]), nan=0.0, posinf=1.0, neginf=0.0)
        grey = np.rint(np.clip(unit, 0, 1) * 65535).astype(np.uint16)
    elif mode in ("RGB", "RGBA"):
        rgb = array[..., :3]
        key = image.info.get("transparency")
        if mode == "RGBA":
            alpha = array[..., 3]
        elif isinstance(key, tuple):
            alpha = _keyed((rgb == np.asarray(key)).all(axis=2))
        return rgb, alpha, levels
    else:
        return _to_rgb(image, icc), None, levels
    if mode == "LA":
        alpha = array[..., 1]
    elif mode == "L" and isinstance(image.info.get("transparency"), int):
        alpha = _keyed(grey == image.info["transparency"])
    return np.broadcast_to(grey[..., None], (*grey.shape, 3)), alpha, levels


def _keyed(transparent: np.ndarray) -> np.ndarray:
    return np.where(transparent, np.uint8(0), np.uint8(255))


def _levels(array: np.ndarray) -> tuple[float, float]:
    """What is black and what is white: 0 and the least of 1, 255 (both for floats only) and 65535 that holds all, else the extremes."""
    finite = array[np.isfinite(array)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
    for white in (1.0, 255.0, 65535.0) if array.dtype.kind == "f" else (65535.0,):
        if low >= 0 and high <= white:
            return 0.0, white
    return low, max(high, low + 1)


def _to_rgb(image: Image.Image, icc: bytes | None) -> np.ndarray:
    if image.mode == "CMYK" and icc:
        try:
            return np.asarray(_through_profile(image, icc, True))
        except (ImageCms.PyCMSError, OSError):
            pass  # a broken profile, or one for another kind of colours
    return np.asarray(image.convert("RGB"))


def _from_rgb(values: np.ndarray, mode: str, icc: bytes | None) -> np.ndarray:
    """(n, 3) RGB → (n, channels) of `mode`, the way `_to_rgb` came."""
    strip = Image.fromarray(values[None])
    if mode == "CMYK" and icc:
        try:
            return np.asarray(_through_profile(strip, icc, False))[0]
        except (ImageCms.PyCMSError, OSError):
            pass
    if mode == "CMYK":  # Pillow would leave out black ink, which the rest of the picture has
        light = values.max(axis=1, keepdims=True).astype(np.float64)
        ink = 255 - np.rint(255 * (values / np.maximum(light, 1)))
        return np.concatenate([np.where(light > 0, ink, 0), 255 - light], axis=1).astype(np.uint8)
    return np.asarray(strip.convert(mode))[0]


def _through_profile(image: Image.Image, icc: bytes, to_srgb: bool) -> Image.Image:
    profile, srgb = ImageCms.ImageCmsProfile(io.BytesIO(icc)), ImageCms.createProfile("sRGB")
    (here, there), mode = ((profile, srgb), "RGB") if to_srgb else ((srgb, profile), "CMYK")
    intent, flags = ImageCms.Intent.RELATIVE_COLORIMETRIC, ImageCms.Flags.BLACKPOINTCOMPENSATION
    done = ImageCms.profileToProfile(image, here, there, intent, mode, flags=flags)
    assert done is not None  # it is for in-place transforms only
    return done


def luma(values: np.ndarray) -> np.ndarray:
    """ITU-R 601 in the integers that Pillow's convert("L") uses; a grey stays the grey it is."""
    r, g, b = (values[..., i].astype(np.uint32) for i in range(3))
    return ((r * 19595 + g * 38470 + b * 7471 + 0x8000) >> 16).astype(values.dtype)


def _palette_kind(image: Image.Image) -> str:
    return "RGBA" if image.palette is not None and image.palette.mode == "RGBA" else "RGB"


def _palette(image: Image.Image) -> np.ndarray:
    """(n, 4): RGB and alpha of every entry."""
    table = np.array(image.getpalette("RGBA"), np.uint8).reshape(-1, 4)[:256]
    key = image.info.get("transparency")
    if isinstance(key, int) and key < len(table):
        table[key, 3] = 0
    elif isinstance(key, bytes):
        alpha = np.frombuffer(key[: len(table)], np.uint8)
        table[: len(alpha), 3] = alpha
    return table


def _indexed(values: np.ndarray, alpha: np.ndarray, table: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """Indices of colours (n, 3) and alphas (n,), and the palette if it grew.

    Opaque colours that the palette lacks are appended, or the best few of them where there is not room for all. The rest
    take the nearest entry in RGB that has their alpha.
    """
    wanted = np.column_stack([values, alpha])
    unique, inverse = np.unique(wanted.view(np.uint32)[:, 0], return_inverse=True)
    new = unique[~np.isin(unique, np.ascontiguousarray(table).view(np.uint32)[:, 0])].view(np.uint8).reshape(-1, 4)
    new, room = new[new[:, 3] == 255], 256 - len(table)
    if 0 < room < len(new):
        opaque = values[alpha == 255][None]
        few = Image.fromarray(opaque).quantize(room, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
        colours = np.array(few.getpalette(), np.uint8).reshape(-1, 3)[:room]
        new = np.column_stack([colours, np.full(len(colours), 255, np.uint8)])
    grown = np.concatenate([table, new]) if room and len(new) else table
    targets, colours = grown.astype(np.int32), unique.view(np.uint8).reshape(-1, 4).astype(np.int32)
    nearest = np.empty(len(colours), np.uint8)
    for start in range(0, len(colours), 4096):
        chunk = colours[start : start + 4096, None]
        distance = ((chunk[..., :3] - targets[:, :3]) ** 2).sum(axis=2) + (chunk[..., 3] != targets[:, 3]) * 4 * 255**2
        nearest[start : start + 4096] = distance.argmin(axis=1)
    return nearest[inverse], None if grown is table else grown


def bounds(marked: np.ndarray) -> tuple[slice, slice]:
    """The rows and columns of the smallest box around what is marked; empty slices for nothing."""
    rows = np.flatnonzero(marked.any(axis=1))
    if not rows.size:
        return slice(0, 0), slice(0, 0)
    columns = np.flatnonzero(marked[rows[0] : rows[-1] + 1].any(axis=0))
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)


def _frozen(array: np.ndarray) -> np.ndarray:
    array = array.view()
    array.flags.writeable = False
    return array


# What is written beside the pixels


def _extras(given: Image.Image, image: Image.Image, exif: bytes) -> Extras:
    info = image.info
    xmp = info.get("xmp")
    text, chunks = [], []
    if isinstance(given, PngImagePlugin.PngImageFile):
        known = (METADATA_KEY, "XML:com.adobe.xmp", "Raw profile type exif")
        text = [(str(key), str(value)) for key, value in given.text.items() if key not in known]
        if "icc_profile" not in info:
            if "gamma" in info:
                chunks.append((b"gAMA", struct.pack(">I", round(info["gamma"] * 100000))))
            if "chromaticity" in info:
                chunks.append((b"cHRM", struct.pack(">8I", *(round(value * 100000) for value in info["chromaticity"]))))
            if "srgb" in info:
                chunks.append((b"sRGB", bytes([info["srgb"]])))
    tables = getattr(given, "quantization", None)
    jpeg = None
    if tables and isinstance(given, JpegImagePlugin.JpegImageFile):
        jpeg = ({key: list(table) for key, table in tables.items()}, JpegImagePlugin.get_sampling(given))
    dpi = info.get("dpi")
    return Extras(
        exif=exif,
        icc=info.get("icc_profile") or None,
        xmp=xmp if isinstance(xmp, bytes) else None,
        dpi=(float(dpi[0]), float(dpi[1])) if dpi and all(0 < float(d) < 1e6 for d in dpi) else None,
        text=tuple(text),
        chunks=tuple(chunks),
        jpeg=jpeg,
    )


# A TIFF's EXIF block is the file's own directory; these of its entries are not about how pixels are stored.
ABOUT_THE_PICTURE = {
    *(Base.ImageDescription, Base.Make, Base.Model, Base.Software, Base.DateTime, Base.Artist, Base.HostComputer, Base.Copyright),
    *(Base.Rating, Base.XPTitle, Base.XPComment, Base.XPAuthor, Base.XPKeywords, Base.XPSubject),
}


def _exif(image: Image.Image) -> bytes:
    """The EXIF block anew: without orientation and thumbnail, and without entries that cannot be written again."""
    source, kept = image.getexif(), Image.Exif()
    for tag in source:
        about = image.format != "TIFF" or tag in ABOUT_THE_PICTURE
        if about and tag not in (Base.Orientation, IFD.Exif, IFD.GPSInfo) and _writes(tag, source[tag]):
            kept[tag] = source[tag]
    for directory in (IFD.Exif, IFD.GPSInfo):
        entries = source.get_ifd(directory)
        good = {tag: value for tag, value in entries.items() if tag != IFD.Interop and _writes(tag, value)}
        if good:
            kept[directory] = good
    return kept.tobytes() if len(kept) else b""


def _writes(tag: int, value: Any) -> bool:
    trial = Image.Exif()
    trial[tag] = value
    try:
        trial.tobytes()
    except Exception:  # as in `_reading`: what is wrong with an entry shows when it is packed
        return False
    return True


def save(
    image: Image.Image,
    path: str | os.PathLike[str],
    *,
    like: Photo | None = None,
    metadata: Mapping[str, Any] | None = None,
    quality: int | Literal["keep"] | None = None,
) -> tuple[str, ...]:
    """Writes the file that the ending of `path` asks for, whole or not at all, and returns notes on what it could not keep.

    `like` gives ICC profile, EXIF, XMP (but to TIFF), resolution and PNG texts; `metadata` becomes JSON under one PNG text key,
    or the EXIF UserComment. A JPEG is written at `quality` 95 without colour subsampling; "keep" takes the tables of `like`, if
    that was a JPEG, for a file of about its size. A WebP is lossless unless a number is given.
    """
    path = Path(path)
    if path.suffix.lower() not in WRITABLE:
        raise UsageError(f"{path} has no ending that says what to write; use {', '.join(WRITABLE)}.")
    kind, modes, converted = WRITABLE[path.suffix.lower()]
    image = _fit(image, path, modes, converted)
    extras = like.extras if like else Extras()
    notes: list[str] = []
    options: dict[str, Any] = {"format": kind}
    if extras.icc and kind not in ("BMP", "GIF"):
        options["icc_profile"] = extras.icc
    if extras.dpi and kind not in ("WEBP", "GIF"):
        options["dpi"] = extras.dpi
    record = None if metadata is None else json.dumps(_without_paths(metadata))
    if kind == "PNG":
        options["pnginfo"] = _png_info(extras, record)
    if kind in ("BMP", "GIF"):
        if record is not None or extras.exif or extras.icc:
            notes.append(f"{kind} files hold no metadata: EXIF, ICC profile and settings are left out.")
    else:
        exif = extras.exif if kind == "PNG" or record is None else _with_comment(extras.exif, record)
        if kind == "JPEG" and len(exif) > JPEG_MARKER:
            exif = extras.exif if len(extras.exif) <= JPEG_MARKER else b""
            notes.append("There is no room in a JPEG for all the metadata; " + ("the settings are" if exif else "EXIF is") + " left out.")
        if exif:
            options["exif"] = exif
        if extras.xmp and kind in ("JPEG", "WEBP") and len(extras.xmp) < 65000:
            options["xmp"] = extras.xmp
    if kind == "JPEG":
        if quality == "keep" and extras.jpeg:
            options |= {"qtables": extras.jpeg[0], "subsampling": extras.jpeg[1]}
        else:
            options |= {"quality": quality if isinstance(quality, int) else 95, "subsampling": 0}
    elif kind == "WEBP":
        options |= {"quality": quality} if isinstance(quality, int) else {"lossless": True, "exact": True}
    elif kind == "TIFF" and "exif" not in options and image.mode != "I;16B":  # Pillow's compressing writer can do neither
        options["compression"] = "tiff_adobe_deflate"
    elif kind == "GIF":
        options["optimize"] = False  # keeps palette and indices as they are
    _write(image, path, options)
    return tuple(notes)


def check_fits(photo: Photo, path: Path) -> None:
    """Refuses now what `save` would refuse later: an ending that cannot hold the photo's mode."""
    if isinstance(photo.native, Image.Image):
        _, modes, converted = WRITABLE[path.suffix.lower()]
        small = photo.native.crop((0, 0, 1, 1))
        small.info = photo.native.info
        _fit(small, path, modes, converted)


def _fit(image: Image.Image, path: Path, modes: tuple[str, ...], converted: Mapping[str, str]) -> Image.Image:
    ending = path.suffix.lower()
    keyed = image.mode in ("1", "L", "RGB", "P") and image.has_transparency_data  # by a colour, or in the palette
    if keyed and ending not in (".png", ".gif"):
        if "RGBA" not in modes:
            raise UsageError(f"{path}: a {ending} file cannot keep the picture's transparency; use .png, .webp or .tif.")
        return image.convert("RGBA")
    if image.mode in converted:
        if image.mode.startswith("I;16"):  # convert() would go by way of 8 bits
            return Image.fromarray(np.asarray(image).astype(np.uint16))
        return image.convert(converted[image.mode])
    if image.mode not in modes:
        fitting = [e for e, (_, kept, also) in WRITABLE.items() if image.mode in kept or image.mode in also]
        raise UsageError(f"{path}: a {ending} file cannot hold mode {image.mode}; use {' or '.join(fitting) or 'another mode'}.")
    return image


def _png_info(extras: Extras, record: str | None) -> PngImagePlugin.PngInfo:
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


def _with_comment(exif: bytes, record: str) -> bytes:
    block = Image.Exif()
    if exif:
        block.load(exif)
    comment = USER_COMMENT + f'{{"{METADATA_KEY}": {record}}}'.encode("ascii")
    block[IFD.Exif] = {**block.get_ifd(IFD.Exif), Base.UserComment: comment}
    return block.tobytes()


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


def _write(image: Image.Image, path: Path, options: Mapping[str, Any]) -> None:
    try:
        with replacing(path) as file:
            image.save(file, **options)
    except OSError as error:
        raise MoebiusError(f"{path} cannot be written: {error.strerror or error}.") from error
    except Exception as error:  # what an encoder does not like about a picture
        raise MoebiusError(f"{path} cannot be written: {error}.") from error


def read_metadata(path: str | os.PathLike[str]) -> dict[str, Any] | None:
    """What `save` was given as metadata; None when the file has none."""
    with _reading(str(path)), Image.open(path, formats=FORMATS) as image:
        text = image.info.get(METADATA_KEY)
        comment = image.getexif().get_ifd(IFD.Exif).get(Base.UserComment)
    start = USER_COMMENT + f'{{"{METADATA_KEY}":'.encode()
    try:
        if isinstance(text, str):
            record = json.loads(text)
        elif isinstance(comment, bytes) and comment.startswith(start):
            record = json.loads(comment.removeprefix(USER_COMMENT))[METADATA_KEY]
        else:
            return None
    except (ValueError, RecursionError):
        record = None
    if not isinstance(record, dict):
        raise UsageError(f"{path} has a {METADATA_KEY} entry that is not what this program writes.")
    return record
