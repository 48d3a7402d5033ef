"""A user's picture: read from a file, a picture of Pillow's or an array, and given back with the pixels that were filled in.

`Photo.rgb` is what the rest of the engine works on, oriented, in RGB, 8 or 16 bits a channel. The pixels as they were stored
are kept beside it: `with_rgb` writes into a copy of those, so that a pixel nobody changed keeps its bytes in any mode.
"""

from __future__ import annotations

import io
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps
from PIL.ExifTags import Base

from moebius.errors import UsageError
from moebius.pictures import modes, palette
from moebius.pictures.formats import opened, reading
from moebius.pictures.metadata import Extras, exif_of, extras_of
from moebius.pictures.modes import MODES, READ_AS, Colours, Mode
from moebius.pictures.pixels import bounds, put, rescaled, taken
from moebius.pictures.source import MAX_PIXELS as MAX_PIXELS
from moebius.pictures.source import FileSource, file_of

PhotoSource = FileSource | Image.Image | np.ndarray


@dataclass(frozen=True, eq=False)
class Photo:
    rgb: np.ndarray  # (H, W, 3) uint8 or uint16, read-only; may be a view that repeats a grey plane
    alpha: np.ndarray | None  # (H, W), of rgb's type
    native: Image.Image | np.ndarray  # the pixels as they came, oriented
    mode: str  # native's, a row of `MODES`
    format: str | None = None
    extras: Extras = field(default_factory=Extras)
    notes: tuple[str, ...] = ()
    colours: Colours = field(default_factory=Colours)
    name: str = "The image"  # of the file, where there is one
    orientation: int = 1  # EXIF's, of the stored pixels; all pixels here are upright

    @property
    def stored_size(self) -> tuple[int, int]:
        """(width, height) of the stored pixels, before they were turned upright."""
        width, height = self.size
        return (height, width) if self.orientation >= 5 else (width, height)

    def __getstate__(self) -> dict[str, Any]:
        native = palette.packed(self.native) if isinstance(self.native, Image.Image) else self.native
        return self.__dict__ | {"native": native}

    def __setstate__(self, state: dict[str, Any]) -> None:
        native = state["native"]
        self.__dict__.update(state | {"native": native if isinstance(native, np.ndarray) else palette.unpacked(native)})
        self.rgb.flags.writeable = False

    @property
    def size(self) -> tuple[int, int]:
        """(width, height)"""
        return self.rgb.shape[1], self.rgb.shape[0]

    def with_rgb(self, rgb: np.ndarray, changed: np.ndarray | None = None, *, opaque: bool = False) -> Image.Image:
        """The picture in its own mode with the pixels of `rgb` that differ from `self.rgb`, within `changed` (H, W) if given.

        All other pixels keep their bytes. Alpha stays as it is; with `opaque`, changed pixels lose their transparency.
        An array that no mode of Pillow's holds (16 bits or floats in colour) comes back in 8 bits; see `array_with_rgb`.
        """
        pixels, extended = self._filled(rgb, changed, opaque)
        if isinstance(self.native, np.ndarray):
            return _as_image(pixels, MODES[self.mode])
        return stored(pixels, self.native, extended)

    def array_with_rgb(self, rgb: np.ndarray, changed: np.ndarray | None = None, *, opaque: bool = False) -> np.ndarray:
        """`with_rgb` as an array: of the shape and type of the array the photo was made of, else of the picture's mode."""
        if not isinstance(self.native, np.ndarray):
            return np.asarray(self.with_rgb(rgb, changed, opaque=opaque))
        return self._filled(rgb, changed, opaque)[0].reshape(self.native.shape)

    def _filled(self, rgb: np.ndarray, changed: np.ndarray | None, opaque: bool) -> tuple[np.ndarray, np.ndarray | None]:
        """Native pixels, (H, W) or (H, W, channels), and the palette if it grew."""
        if rgb.shape != self.rgb.shape or rgb.dtype != self.rgb.dtype:
            raise UsageError(f"The pixels are {rgb.shape} {rgb.dtype}; this photo takes {self.rgb.shape} {self.rgb.dtype}.")
        if changed is not None and changed.shape != self.rgb.shape[:2]:
            raise UsageError(f"The changed pixels are marked in {changed.shape}; this photo takes {self.rgb.shape[:2]}.")
        box = (slice(None), slice(None)) if changed is None else bounds(changed)
        mode, colours, pixels = MODES[self.mode], self.colours, _squeezed(np.array(self.native))
        part, alpha = pixels[box], None if self.alpha is None else self.alpha[box]
        where = self._to_write(rgb[box], box, None if changed is None else changed[box], opaque)
        if not where.any():
            return pixels, None
        if mode.is_rgb(colours):
            put(part[..., :3], rgb[box], where)
        else:
            values = taken(rgb[box], where)
            alphas = np.full(len(values), 255, np.uint8) if opaque or alpha is None else alpha[where]
            if colours.palette is not None:
                colours = replace(colours, palette=palette.extended(colours.palette, values, alphas))
            native = mode.from_rgb(values, alphas, colours)
            if native.ndim == 1:
                part[where] = native
            else:
                part[where, : native.shape[1]] = native
        if opaque and mode.transparency == "channel":
            part[where, -1] = 1 if pixels.dtype.kind == "f" else np.iinfo(pixels.dtype).max
        return pixels, None if colours.palette is self.colours.palette else colours.palette

    def _to_write(self, new: np.ndarray, box: tuple[slice, slice], changed: np.ndarray | None, opaque: bool) -> np.ndarray:
        """Which pixels of the box take a new value: those of another colour, and with `opaque` the transparent ones."""
        old, alpha = self.rgb[box], None if self.alpha is None else self.alpha[box]
        where: np.ndarray = new[..., 0] != old[..., 0]  # any(axis=2) takes ten times as long
        where |= new[..., 1] != old[..., 1]
        where |= new[..., 2] != old[..., 2]
        if changed is not None:
            where &= changed
        if alpha is not None and opaque:
            where |= (alpha != np.iinfo(alpha.dtype).max) & (where if changed is None else changed)
        elif alpha is not None and MODES[self.mode].keyed:
            where &= alpha != 0  # transparency is an index here, or a colour: another one would show
        return where


def stored(pixels: np.ndarray, like: Image.Image, entries: np.ndarray | None = None) -> Image.Image:
    """Native pixels as a picture of the mode of `like`, with its palette, or with these entries (n, 4) of a larger one."""
    bits = like.mode == "1"  # packed to eight a byte, which frombytes would want
    image = Image.fromarray(pixels) if bits else Image.frombytes(like.mode, pixels.shape[1::-1], np.ascontiguousarray(pixels))
    if like.mode == "P":
        kind = palette.stored_as(like)
        image.putpalette(like.getpalette(kind) or [] if entries is None else entries[:, : len(kind)].ravel().tolist(), kind)
    image.info = dict(like.info)
    return image


def _squeezed(pixels: np.ndarray) -> np.ndarray:
    """(H, W, 1) → (H, W)"""
    return pixels[..., 0] if pixels.ndim == 3 and pixels.shape[2] == 1 else pixels


def _as_image(pixels: np.ndarray, mode: Mode) -> Image.Image:
    """An array's pixels in the mode of Pillow's that is theirs or the nearest."""
    pixels = rescaled(pixels, np.dtype(MODES[mode.pillow].dtype)) if mode.pillow else pixels.astype(mode.dtype, copy=False)
    return Image.fromarray(np.ascontiguousarray(pixels))


def load(source: PhotoSource, max_pixels: int = MAX_PIXELS) -> Photo:
    """A path, bytes, an open file, a data URL, a PIL image, or an array: uint8, uint16 or floats from 0 to 1, (H, W) or (H, W, 1|3|4).

    Nothing is decoded before the size is checked. Pillow has a limit of its own, PIL.Image.MAX_IMAGE_PIXELS: above twice
    that, it refuses whatever `max_pixels` says.
    """
    if isinstance(source, np.ndarray):
        return _from_array(source, max_pixels)
    if isinstance(source, Image.Image):
        return _from_image(source, "The image", max_pixels)
    return _from_file(*file_of(source), max_pixels)


def check_size(width: int, height: int, name: str, max_pixels: int) -> None:
    if width * height == 0:
        raise UsageError(f"{name} is empty: {width}×{height} pixels.")
    if width * height > max_pixels:
        raise UsageError(
            f"{name} has {width}×{height} = {width * height:,} pixels; the limit is {max_pixels:,}. "
            "Raise it with max_pixels (--max-pixels), or make the picture smaller."
        )


def _from_array(array: np.ndarray, max_pixels: int) -> Photo:
    shape = array.shape
    if len(shape) not in (2, 3) or (len(shape) == 3 and shape[2] not in (1, 3, 4)):
        raise UsageError(f"The image is an array of shape {shape}; give (height, width), or that with 1, 3 or 4 channels.")
    check_size(shape[1], shape[0], "The image", max_pixels)
    mode = modes.of_array(array.dtype, 1 if len(shape) == 2 else shape[2])
    if mode is None:
        raise UsageError(f"The image is an array of {array.dtype}; give uint8, uint16 or floats from 0 to 1.")
    if array.dtype.kind == "f" and not (np.isfinite(array).all() and array.min() >= 0 and array.max() <= 1):
        raise UsageError("The image is an array of floats that are not all from 0 to 1; divide it by its white, or give uint8.")
    native = np.array(array)  # the caller may go on writing into theirs
    return Photo(*planes(native, mode, Colours()), native, mode.name)


def planes(native: Image.Image | np.ndarray, mode: Mode, colours: Colours) -> tuple[np.ndarray, np.ndarray | None]:
    """RGB and alpha."""
    pixels = _squeezed(np.asarray(native))
    rgb = mode.to_rgb(pixels, colours).view()
    rgb.flags.writeable = False
    return rgb, mode.alpha(pixels, colours)


def _from_file(file: Path | io.BytesIO, name: str, max_pixels: int) -> Photo:
    with opened(file, name) as image:
        return _from_image(image, name, max_pixels)


def _from_image(source: Image.Image, name: str, max_pixels: int) -> Photo:
    check_size(*source.size, name, max_pixels)
    with reading(name):
        orientation = _orientation(source) if source.format == "TIFF" else 0  # of those, Pillow forgets it when it decodes
        notes = _decoded(source, name)
        orientation = orientation or _orientation(source)  # of a PNG, asking for it decodes
        try:
            exif = exif_of(source)
        except Exception:  # as with pixels; but a photo does not need its EXIF block
            exif = b""
            notes.append(f"{name} has an EXIF block that cannot be read; it is left out.")
        try:
            upright = ImageOps.exif_transpose(source)
        except Exception:
            upright = source.copy()
        extras = extras_of(source, upright, exif)
        if upright.mode in READ_AS:
            upright = upright.convert(READ_AS[upright.mode])
        upright.info = {key: value for key, value in upright.info.items() if key in ("transparency", "icc_profile", "dpi", "gamma")}
        if exif:
            upright.info["exif"] = exif
        mode = MODES[upright.mode]
        colours = mode.colours(upright, extras.icc)
        file_format = "JPEG" if source.format == "MPO" else source.format
        rgb, alpha = planes(upright, mode, colours)
        return Photo(rgb, alpha, upright, mode.name, file_format, extras, tuple(notes), colours, name, orientation)


def _orientation(image: Image.Image) -> int:
    """EXIF's, from 1 to 8; 1 where it says nothing."""
    try:
        value = image.getexif().get(Base.Orientation)
    except Exception:  # as with the whole EXIF block
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _decoded(image: Image.Image, name: str) -> list[str]:
    """Reads the pixels of the first frame, and returns notes on what of the file is not used as it is."""
    notes = []
    animated = getattr(image, "is_animated", False)  # not n_frames: to count a million of them takes hours
    if animated and image.format != "MPO":  # a camera's MPO is a JPEG with previews behind it
        notes.append(f"{name} has more than one frame; the first one is used.")
        image.seek(0)
    tiles = getattr(image, "tile", None)
    stored = str(tiles[0].args) if tiles else ""
    if ";16" in stored and not image.mode.startswith(("I", "F")):
        notes.append(f"{name} has 16 bits a channel; Pillow reads colour with 8, and so the result has 8.")
    image.load()
    if image.mode in READ_AS:
        notes.append(f"{name} has mode {image.mode}; it is worked on, and comes back, as {READ_AS[image.mode]}.")
    elif image.mode not in MODES:
        raise UsageError(f"{name} has mode {image.mode}, which is not supported; convert it to RGB first.")
    return notes
