"""Indexed colour: the palette of a picture of mode P, and which of its entries is nearest to a colour."""

from __future__ import annotations

import numpy as np
from PIL import Image

ENTRIES = 256


def stored_as(image: Image.Image) -> str:
    """The mode of the picture's palette, RGB or RGBA."""
    return "RGBA" if image.palette is not None and image.palette.mode == "RGBA" else "RGB"


Packed = Image.Image | tuple[Image.Image, list[int]]


def packed(image: Image.Image) -> Packed:
    """The picture for pickling: Pillow leaves the alpha of a palette behind."""
    is_rgba = image.mode == "P" and stored_as(image) == "RGBA"
    return (image, image.getpalette("RGBA") or []) if is_rgba else image


def unpacked(stored: Packed) -> Image.Image:
    if isinstance(stored, tuple):
        image, entries = stored
        image.putpalette(entries, "RGBA")
        return image
    return stored


def of(image: Image.Image) -> np.ndarray:
    """(n, 4) uint8: RGB and alpha of every entry."""
    palette = np.array(image.getpalette("RGBA"), np.uint8).reshape(-1, 4)[:ENTRIES]
    key = image.info.get("transparency")
    if isinstance(key, int) and key < len(palette):
        palette[key, 3] = 0
    elif isinstance(key, bytes):
        alpha = np.frombuffer(key[: len(palette)], np.uint8)
        palette[: len(alpha), 3] = alpha
    return palette


def keyed(image: Image.Image) -> Image.Image | None:
    """The picture with at most one entry that is transparent, as GIF has it; None where an entry is half transparent."""
    entries = of(image)
    alpha = entries[:, 3]
    if ((alpha > 0) & (alpha < 255)).any():
        return None
    clear = np.flatnonzero(alpha == 0)
    same = np.arange(ENTRIES, dtype=np.uint8)
    same[clear[1:]] = clear[0] if clear.size else 0
    one = Image.fromarray(same[np.asarray(image)])
    one.putpalette(entries[:, :3].tobytes(), "RGB")
    one.info = {key: value for key, value in image.info.items() if key != "transparency"}
    if clear.size:
        one.info["transparency"] = int(clear[0])
    return one


def padded(palette: np.ndarray) -> np.ndarray:
    """(256, 4): an index beyond the palette is opaque black."""
    full = np.zeros((ENTRIES, 4), np.uint8)
    full[: len(palette)] = palette
    full[len(palette) :, 3] = 255
    return full


def extended(palette: np.ndarray, values: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """The palette with the opaque ones of these colours (n, 3) and alphas (n,) that it lacks behind it, or the best few of them where
    there is not room for all; the same array where it gains nothing."""
    colours = np.unique(_packed(values, alpha))
    new = colours[~np.isin(colours, np.ascontiguousarray(palette).view(np.uint32)[:, 0])].view(np.uint8).reshape(-1, 4)
    new, room = new[new[:, 3] == 255], ENTRIES - len(palette)
    if not (room and len(new)):
        return palette
    if room < len(new):
        opaque = values[alpha == 255][None]
        few = Image.fromarray(opaque).quantize(room, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
        best = np.array(few.getpalette(), np.uint8).reshape(-1, 3)[:room]
        new = np.column_stack([best, np.full(len(best), 255, np.uint8)])
    return np.concatenate([palette, new])


def nearest(palette: np.ndarray, values: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """For colours (n, 3) and alphas (n,) the indices (n,) of the entries that are nearest in RGB among those of their alpha."""
    unique, inverse = np.unique(_packed(values, alpha), return_inverse=True)
    entries, colours = palette.astype(np.int32), unique.view(np.uint8).reshape(-1, 4).astype(np.int32)
    indices = np.empty(len(colours), np.uint8)
    for start in range(0, len(colours), 4096):
        chunk = colours[start : start + 4096, None]
        distance = ((chunk[..., :3] - entries[:, :3]) ** 2).sum(axis=2) + (chunk[..., 3] != entries[:, 3]) * 4 * 255**2
        indices[start : start + 4096] = distance.argmin(axis=1)
    return indices[inverse]


def _packed(values: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """RGB and alpha as one number a pixel."""
    packed: np.ndarray = np.column_stack([values, alpha]).view(np.uint32)[:, 0]
    return packed
