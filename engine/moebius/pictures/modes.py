"""The modes a picture can have, a row each in `MODES`: how its pixels become RGB, how RGB becomes its pixels, what files hold it.

A mode has Pillow's name; RGB;16, RGBA;16, RGB;F and RGBA;F, which Pillow lacks, are arrays of uint16 and floats. A mode is supported by
adding its row. Native pixels are arrays (H, W), or (H, W, channels) where there are several.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image, ImageCms

from moebius.pictures import palette
from moebius.pictures.pixels import luma, rescaled

# Pillow's modes that few programs can save, and the modes they are read as.
READ_AS = {"PA": "RGBA", "RGBa": "RGBA", "La": "LA"}


@dataclass(frozen=True, eq=False)
class Colours:
    """What the numbers of one picture stand for, beyond what its mode says."""

    key: int | tuple[int, ...] | None = None  # the value of L, or the colour of RGB, that is transparent
    palette: np.ndarray | None = None  # of P: (n, 4) uint8, RGB and alpha
    levels: tuple[float, float] = (0.0, 1.0)  # of I and F: what is black and what is white
    icc: bytes | None = None


@dataclass(frozen=True)
class Mode:
    name: str
    dtype: str  # of native pixels
    channels: int  # of native pixels, alpha included
    to_rgb: Callable[[np.ndarray, Colours], np.ndarray]  # native pixels → (H, W, 3) uint8 or uint16; may be a view of them
    from_rgb: Callable[[np.ndarray, np.ndarray, Colours], np.ndarray]  # (n, 3) and alphas (n,) → (n,) or (n, channels but alpha)
    # The last channel; one colour, the key; in the palette; or a key that is carried along unread, the picture taken for opaque.
    transparency: Literal["channel", "key", "palette", "unread"] | None = None
    files: str = ""  # the formats, in Pillow's words, that hold it; "JPEG:L" where it shows the same as a picture of mode L
    array: bool = False  # arrays of this type and as many channels are of this mode; floats of any size are
    pillow: str = ""  # for arrays: the nearest mode of Pillow's, if it has not this one
    measured: bool = False  # which numbers are black and white is found out from the picture

    @property
    def keyed(self) -> bool:
        """A pixel's transparency is said by its colour, so that it cannot have another colour and stay transparent."""
        return self.transparency not in (None, "channel")

    def written_as(self, file_format: str) -> str | None:
        """The mode in which a file of this format holds a picture of this one; None where it cannot."""
        for entry in self.files.split():
            name, _, mode = entry.partition(":")
            if name == file_format:
                return mode or self.name
        return None

    def is_rgb(self, colours: Colours) -> bool:
        """Its colours are RGB as it is, number for number."""
        return self.from_rgb is _rgb_to_colour and colours.key is None

    def alpha(self, pixels: np.ndarray, colours: Colours) -> np.ndarray | None:
        """(H, W) of native pixels, in the type of their RGB; None where the picture has no transparency."""
        if self.transparency == "channel":
            return _integers(pixels[..., -1])
        if self.transparency == "palette" and colours.palette is not None and (colours.palette[:, 3] < 255).any():
            return palette.padded(colours.palette)[:, 3][pixels]
        if self.transparency == "key" and colours.key is not None:
            transparent = pixels == colours.key if self.channels == 1 else (pixels == np.asarray(colours.key)).all(axis=2)
            return np.where(transparent, np.uint8(0), np.uint8(255))
        return None

    def colours(self, image: Image.Image, icc: bytes | None) -> Colours:
        """Those of a picture of this mode."""
        key = image.info.get("transparency")
        return Colours(
            key=key if self.transparency == "key" and isinstance(key, int if self.channels == 1 else tuple) else None,
            palette=palette.of(image) if self.transparency == "palette" else None,
            levels=_levels(np.asarray(image)) if self.measured else (0.0, 1.0),
            icc=icc,
        )


def of_array(dtype: np.dtype, channels: int) -> Mode | None:
    """The mode of arrays of this type; None for one that no picture has."""
    for mode in MODES.values():
        own = np.dtype(mode.dtype)
        same_type = dtype.kind == own.kind and (dtype.kind == "f" or dtype.itemsize == own.itemsize)
        if mode.array and same_type and mode.channels == channels:
            return mode
    return None


# To RGB


def _integers(numbers: np.ndarray) -> np.ndarray:
    """In this machine's order of bytes; floats from 0 to 1 as uint16."""
    if numbers.dtype.kind == "f":
        return rescaled(numbers, np.dtype(np.uint16))
    return numbers.astype(numbers.dtype.newbyteorder("="), copy=False)


def _repeated(grey: np.ndarray) -> np.ndarray:
    """(H, W) → (H, W, 3), a view."""
    return np.broadcast_to(grey[..., None], (*grey.shape, 3))


def _bits_to_rgb(pixels: np.ndarray, colours: Colours) -> np.ndarray:
    return _repeated(np.where(pixels, np.uint8(255), np.uint8(0)))


def _grey_to_rgb(pixels: np.ndarray, colours: Colours) -> np.ndarray:
    return _repeated(_integers(pixels if pixels.ndim == 2 else pixels[..., 0]))


def _levels_to_rgb(pixels: np.ndarray, colours: Colours) -> np.ndarray:
    """65535·(pixel - black) / (white - black), clipped; what is no number is black."""
    black, white = colours.levels
    unit = np.nan_to_num((pixels.astype(np.float64) - black) / (white - black), nan=0.0, posinf=1.0, neginf=0.0)
    return _repeated(np.rint(np.clip(unit, 0, 1) * 65535).astype(np.uint16))


def _colour_to_rgb(pixels: np.ndarray, colours: Colours) -> np.ndarray:
    return _integers(pixels[..., :3])


def _indices_to_rgb(pixels: np.ndarray, colours: Colours) -> np.ndarray:
    return palette.padded(_palette(colours))[:, :3][pixels]


def _converted_to_rgb(mode: str) -> Callable[[np.ndarray, Colours], np.ndarray]:
    """By Pillow; CMYK through the picture's profile, if it has one."""

    def to_rgb(pixels: np.ndarray, colours: Colours) -> np.ndarray:
        image = Image.frombuffer(mode, pixels.shape[1::-1], np.ascontiguousarray(pixels), "raw", mode, 0, 1)
        if mode == "CMYK" and (through := _through_profile(image, colours.icc, to_srgb=True)) is not None:
            return through
        return np.asarray(image.convert("RGB"))

    return to_rgb


def _levels(array: np.ndarray) -> tuple[float, float]:
    """What is black and what is white: 0 and the least of 1, 255 (both for floats only) and 65535 that holds all, else the extremes."""
    finite = array[np.isfinite(array)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
    for white in (1.0, 255.0, 65535.0) if array.dtype.kind == "f" else (65535.0,):
        if low >= 0 and high <= white:
            return 0.0, white
    return low, max(high, low + 1)


# From RGB


def _rgb_to_bits(values: np.ndarray, alpha: np.ndarray, colours: Colours) -> np.ndarray:
    return luma(values) >= 128


def _rgb_to_grey(values: np.ndarray, alpha: np.ndarray, colours: Colours) -> np.ndarray:
    return _off_the_key(luma(values), colours.key)


def _rgb_to_first_channel(values: np.ndarray, alpha: np.ndarray, colours: Colours) -> np.ndarray:
    return luma(values)[:, None]


def _rgb_to_levels(values: np.ndarray, alpha: np.ndarray, colours: Colours) -> np.ndarray:
    black, white = colours.levels
    numbers: np.ndarray = black + luma(values) / 65535 * (white - black)
    return numbers


def _rgb_to_whole_levels(values: np.ndarray, alpha: np.ndarray, colours: Colours) -> np.ndarray:
    return np.rint(_rgb_to_levels(values, alpha, colours))


def _rgb_to_colour(values: np.ndarray, alpha: np.ndarray, colours: Colours) -> np.ndarray:
    return _off_the_key(values, colours.key)


def _rgb_to_floats(values: np.ndarray, alpha: np.ndarray, colours: Colours) -> np.ndarray:
    return values / 65535


def _rgb_to_indices(values: np.ndarray, alpha: np.ndarray, colours: Colours) -> np.ndarray:
    return palette.nearest(_palette(colours), values, alpha)


def _rgb_converted(mode: str) -> Callable[[np.ndarray, np.ndarray, Colours], np.ndarray]:
    return lambda values, alpha, colours: np.asarray(Image.fromarray(values[None]).convert(mode))[0]


def _rgb_to_cmyk(values: np.ndarray, alpha: np.ndarray, colours: Colours) -> np.ndarray:
    through = _through_profile(Image.fromarray(values[None]), colours.icc, to_srgb=False)
    if through is not None:
        return through[0]
    # Pillow would leave out black ink, which the rest of the picture has.
    light = values.max(axis=1, keepdims=True).astype(np.float64)
    ink = 255 - np.rint(255 * (values / np.maximum(light, 1)))
    return np.concatenate([np.where(light > 0, ink, 0), 255 - light], axis=1).astype(np.uint8)


def _off_the_key(values: np.ndarray, key: int | tuple[int, ...] | None) -> np.ndarray:
    """A filled pixel must not take the one colour that stands for transparent: it is a level away from it, in its last channel."""
    if key is None:
        return values
    same = values == np.asarray(key) if values.ndim == 1 else (values == np.asarray(key)).all(axis=1)
    values = values.copy()
    last = values if values.ndim == 1 else values[:, -1]
    last[same] = np.where(last[same] > 0, last[same] - 1, 1)
    return values


def _palette(colours: Colours) -> np.ndarray:
    assert colours.palette is not None  # as every picture of mode P has one
    return colours.palette


def _through_profile(image: Image.Image, icc: bytes | None, *, to_srgb: bool) -> np.ndarray | None:
    """CMYK to RGB through the profile of the former, or back; None without a profile, or where it is broken or for other colours."""
    if not icc:
        return None
    try:
        profile, srgb = ImageCms.ImageCmsProfile(io.BytesIO(icc)), ImageCms.createProfile("sRGB")
        (here, there), mode = ((profile, srgb), "RGB") if to_srgb else ((srgb, profile), "CMYK")
        intent, flags = ImageCms.Intent.RELATIVE_COLORIMETRIC, ImageCms.Flags.BLACKPOINTCOMPENSATION
        return np.asarray(ImageCms.profileToProfile(image, here, there, intent, mode, flags=flags))
    except (ImageCms.PyCMSError, OSError):
        return None


# The table


_GREY, _COLOUR, _FLOATS = (_grey_to_rgb, _rgb_to_grey), (_colour_to_rgb, _rgb_to_colour), (_colour_to_rgb, _rgb_to_floats)

MODES: dict[str, Mode] = {
    mode.name: mode
    for mode in (
        Mode("1", "bool", 1, _bits_to_rgb, _rgb_to_bits, "unread", "PNG TIFF BMP JPEG:L WEBP:RGB AVIF:RGB GIF:L", array=True),
        Mode("L", "u1", 1, *_GREY, "key", "PNG JPEG TIFF BMP GIF WEBP:RGB AVIF:RGB", array=True),
        Mode("LA", "u1", 2, _grey_to_rgb, _rgb_to_first_channel, "channel", "PNG TIFF WEBP:RGBA AVIF:RGBA"),
        Mode("P", "u1", 1, _indices_to_rgb, _rgb_to_indices, "palette", "PNG TIFF BMP GIF JPEG:RGB WEBP:RGB AVIF:RGB"),
        Mode("RGB", "u1", 3, *_COLOUR, "key", "PNG JPEG WEBP TIFF BMP AVIF", array=True),
        Mode("RGBA", "u1", 4, *_COLOUR, "channel", "PNG WEBP TIFF AVIF", array=True),
        Mode("RGBX", "u1", 4, _converted_to_rgb("RGBX"), _rgb_converted("RGBX"), None, "JPEG:RGB"),
        Mode("CMYK", "u1", 4, _converted_to_rgb("CMYK"), _rgb_to_cmyk, None, "JPEG TIFF"),
        Mode("YCbCr", "u1", 3, _converted_to_rgb("YCbCr"), _rgb_converted("YCbCr"), None, "TIFF JPEG:RGB"),
        Mode("HSV", "u1", 3, _converted_to_rgb("HSV"), _rgb_converted("HSV")),
        Mode("LAB", "u1", 3, _converted_to_rgb("LAB"), _rgb_converted("LAB"), None, "TIFF"),
        Mode("I;16", "=u2", 1, *_GREY, None, "PNG TIFF", array=True),
        Mode("I;16L", "<u2", 1, *_GREY, None, "PNG:I;16 TIFF:I;16"),
        Mode("I;16B", ">u2", 1, *_GREY, None, "TIFF PNG:I;16"),
        Mode("I;16N", "=u2", 1, *_GREY, None, "PNG:I;16"),
        Mode("I", "=i4", 1, _levels_to_rgb, _rgb_to_whole_levels, None, "TIFF", measured=True),
        Mode("F", "=f4", 1, _levels_to_rgb, _rgb_to_levels, None, "TIFF", measured=True, array=True),
        Mode("RGB;16", "=u2", 3, *_COLOUR, array=True, pillow="RGB"),
        Mode("RGBA;16", "=u2", 4, *_COLOUR, "channel", array=True, pillow="RGBA"),
        Mode("RGB;F", "=f4", 3, *_FLOATS, array=True, pillow="RGB"),
        Mode("RGBA;F", "=f4", 4, *_FLOATS, "channel", array=True, pillow="RGBA"),
    )
}
