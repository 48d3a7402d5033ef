"""Pictures of every mode and kind of array, files with all that can come with a photo, and what a test changes in them."""

import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms

from moebius.pictures.photo import Photo

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def smooth(width: int, height: int, seed: int = 0) -> Image.Image:
    """RGB with many colours, no two photos alike."""
    small = np.random.default_rng(seed).integers(0, 256, (5, 5, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def in_mode(mode: str, width: int, height: int, seed: int = 0) -> Image.Image:
    """A picture that uses what its mode can do; `mode` may name a kind of P, L or RGB, too."""
    image, g = smooth(width, height, seed), np.random.default_rng(seed)
    alpha = Image.fromarray(g.choice(np.array([0, 1, 128, 254, 255], np.uint8), (height, width)))
    if mode in ("LA", "RGBA"):
        image = image.convert(mode)
        image.putalpha(alpha)
        return image
    if mode.startswith("I;16"):
        numbers = g.integers(0, 65536, (height, width)).astype(">u2" if mode == "I;16B" else "<u2")
        return Image.frombytes(mode, (width, height), numbers.tobytes())
    if mode == "I":
        return Image.fromarray(g.integers(-70000, 70000, (height, width)).astype(np.int32))
    if mode.startswith("F"):
        low, high = {"F": (0, 1), "F 255": (0, 255), "F wide": (-3, 9e5)}[mode]
        return Image.fromarray(g.uniform(low, high, (height, width)).astype(np.float32))
    if mode.startswith("P"):
        colours = {"P": 256, "P few": 7, "P key": 9, "P alpha": 12, "P RGBA": 8}[mode]
        image = image.quantize(colours)
        if mode == "P key":
            image.info["transparency"] = 3
        elif mode == "P alpha":
            image.info["transparency"] = bytes([0, 255, 100, 100])
        elif mode == "P RGBA":
            table = np.array(image.getpalette("RGBA"), np.uint8).reshape(-1, 4)
            table[::2, 3] = 90
            image.putpalette(table.tobytes(), "RGBA")
        return image
    if mode in ("L key", "RGB key"):
        image = image.convert(mode.split()[0])
        image.info["transparency"] = image.getpixel((0, 0))
        return image
    if mode == "CMYK":
        return Image.fromarray(g.integers(0, 256, (height, width, 4), dtype=np.uint8), "CMYK")
    return image.convert(mode)


PALETTES = ["P", "P few", "P key", "P alpha", "P RGBA"]
NATIVE = ["1", "L", "L key", "LA", *PALETTES, "RGB", "RGB key", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV", "LAB"]
DEEP = ["I;16", "I;16B", "I;16L", "I", "F", "F 255", "F wide"]
ARRAYS: dict[str, Callable[[np.random.Generator, int, int], np.ndarray]] = {
    "bool": lambda g, w, h: g.random((h, w)) < 0.5,
    "uint8": lambda g, w, h: g.integers(0, 256, (h, w), dtype=np.uint8),
    "uint8 1": lambda g, w, h: g.integers(0, 256, (h, w, 1), dtype=np.uint8),
    "uint8 3": lambda g, w, h: g.integers(0, 256, (h, w, 3), dtype=np.uint8),
    "uint8 4": lambda g, w, h: g.integers(0, 256, (h, w, 4), dtype=np.uint8),
    "uint8 strided": lambda g, w, h: g.integers(0, 256, (2 * h, 2 * w, 3), dtype=np.uint8)[::2, ::-2],
    "uint16": lambda g, w, h: g.integers(0, 65536, (h, w), dtype=np.uint16),
    "uint16 3": lambda g, w, h: g.integers(0, 65536, (h, w, 3), dtype=np.uint16),
    "uint16 4": lambda g, w, h: g.integers(0, 65536, (h, w, 4), dtype=np.uint16),
    "uint16 big-endian": lambda g, w, h: g.integers(0, 65536, (h, w)).astype(">u2"),
    "float32": lambda g, w, h: g.random((h, w), dtype=np.float32),
    "float32 3": lambda g, w, h: g.random((h, w, 3), dtype=np.float32),
    "float64 4": lambda g, w, h: g.random((h, w, 4)),
    "float16 1": lambda g, w, h: g.random((h, w, 1)).astype(np.float16),
}


def given_as(kind: str, width: int, height: int, seed: int = 0) -> Image.Image | np.ndarray:
    if kind in ARRAYS:
        return ARRAYS[kind](np.random.default_rng(seed), width, height)
    return in_mode(kind, width, height, seed)


def changed_photo(photo: Photo, where: np.ndarray) -> np.ndarray:
    rgb = photo.rgb.copy()
    rgb[where] = np.iinfo(rgb.dtype).max - rgb[where]
    return rgb


def some(height: int, width: int, seed: int = 0) -> np.ndarray:
    where = np.random.default_rng(seed).random((height, width)) < 0.3
    where[: height // 2] = False
    where[-1, -1] = True
    return where


def raw(image: Image.Image | np.ndarray) -> np.ndarray:
    """One row of bytes a pixel."""
    array = np.asarray(image)
    return np.ascontiguousarray(array).view(np.uint8).reshape(array.shape[0], array.shape[1], -1)


def tagged(tmp_path: Path, suffix: str, mode: str = "RGB") -> Path:
    """A file with everything that is to be kept, and a thumbnail that is not."""
    exif = Image.Exif()
    exif[0x010F], exif[0x9C9C] = "Maker", "title".encode("utf-16-le")
    exif[0x8769] = {0x829A: 0.125, 0x9003: "2020:01:02 03:04:05"}
    exif[0x8825] = {1: "N", 2: (52.0, 30.0, 15.5)}
    path = tmp_path / f"tagged{suffix}"
    in_mode(mode, 32, 24).save(path, exif=exif.tobytes(), icc_profile=SRGB, **({} if suffix in (".webp", ".avif") else {"dpi": (300, 300)}))
    return path


def png(width: int, height: int, depth: int, colour: int, data: bytes) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")
