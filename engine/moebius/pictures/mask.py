"""What is to be filled in, as a (H, W) array of bools of the picture's size: from a file, a picture, an array, boxes, or its own alpha."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFilter

from moebius.errors import UsageError
from moebius.pictures import photo as photos
from moebius.pictures.photo import Photo, PhotoSource
from moebius.pictures.pixels import bounds, luma

Box = Sequence[int]  # x, y, width, height
MaskSource = PhotoSource | Sequence[Box]
ALPHA = "alpha"


@dataclass(frozen=True, eq=False)
class Mask:
    fill: np.ndarray  # (H, W) bool
    notes: tuple[str, ...] = ()


def load(source: MaskSource, photo: Photo, *, invert: bool = False, grow: float = 0, max_pixels: int = photos.MAX_PIXELS) -> Mask:
    """White, from the middle of the range on (127.5 of 255), is filled in; what is transparent in a mask is not.

    `source` is whatever a photo can be loaded from, a list of boxes (x, y, width, height), or "alpha": where `photo` itself is
    transparent. A mask of another size is resized as published, by LANCZOS and then [≥ ½]. First inverted, then grown.
    """
    width, height = photo.size
    notes: list[str] = []
    if isinstance(source, str) and source == ALPHA:
        fill = _transparent(photo)
    elif isinstance(source, list | tuple):
        fill = boxes(source, width, height)
    else:
        fill, notes = _white(source, max_pixels)
        if fill.shape != (height, width):
            notes.append(f"The mask is {fill.shape[1]}×{fill.shape[0]}, the image {width}×{height}: the mask was resized to the image.")
            fill = _resized(fill, width, height)
    if invert:
        fill = ~fill
    if grow:
        fill = dilated(fill, grow)
    if not fill.any():
        notes.append("The mask marks nothing: there is nothing to fill in.")
    elif fill.all():
        notes.append("The mask marks the whole image: nothing of it is left to go by.")
    return Mask(fill, tuple(notes))


def boxes(wanted: Sequence[Box], width: int, height: int) -> np.ndarray:
    """The boxes' union; what of them lies outside the picture is cut off."""
    fill = np.zeros((height, width), bool)
    for box in wanted:
        whole = isinstance(box, Sequence) and len(box) == 4 and all(isinstance(n, int | np.integer) for n in box)
        if not whole:
            raise UsageError(f"{box!r} is not a box; give four whole numbers: x, y, width, height.")
        x, y, w, h = box
        if w <= 0 or h <= 0 or x + w <= 0 or y + h <= 0 or x >= width or y >= height:
            raise UsageError(f"The box {x},{y},{w},{h} (x, y, width, height) covers nothing of the image, which is {width}×{height}.")
        fill[max(0, y) : y + h, max(0, x) : x + w] = True
    return fill


def dilated(fill: np.ndarray, radius: float) -> np.ndarray:
    """All pixels within `radius` of a marked one: dx² + dy² ≤ radius², exactly.

    Down the columns: g = the distance to the nearest marked pixel of the same column. Along the rows: a pixel is reached from
    x' when |x - x'| ≤ √(radius² - g(x')²), so from the left when the running maximum of x' + √… is at least x; likewise from
    the right. Two passes a direction whatever the radius.
    """
    if not (np.isfinite(radius) and radius >= 0):
        raise UsageError(f"grow is {radius}; it must be a number of pixels from 0 up.")
    rows, columns = bounds(fill)
    height, width = fill.shape
    reach = min(int(radius), height + width)
    rows = slice(max(0, rows.start - reach), min(height, rows.stop + reach))
    columns = slice(max(0, columns.start - reach), min(width, columns.stop + reach))
    part = fill[rows, columns]
    if not part.any() or reach == 0:
        return fill.copy()
    tall, wide = part.shape
    kind = np.int16 if 2 * wide + tall + reach < 2**15 - 2 else np.int32
    far = kind(tall + reach + 1)
    y = np.arange(tall, dtype=kind)[:, None]
    above = np.maximum.accumulate(np.where(part, y, -far), axis=0)
    below = np.minimum.accumulate(np.where(part, y, far)[::-1], axis=0)[::-1]
    g = np.minimum(np.minimum(y - above, below - y), reach + 1)
    halves = [min(wide, _whole_root(radius * radius - d * d)) for d in range(reach + 1)]
    half = np.array([*halves, -wide - 1], kind)[g]
    x = np.arange(wide, dtype=kind)
    reached = np.maximum.accumulate(x + half, axis=1) >= x
    reached |= np.minimum.accumulate((x - half)[:, ::-1], axis=1)[:, ::-1] <= x
    result = fill.copy()
    result[rows, columns] = reached
    return result


def _whole_root(square: float) -> int:
    """The largest n with n² ≤ square."""
    n = int(square**0.5)
    while n * n > square:
        n -= 1
    while (n + 1) ** 2 <= square:
        n += 1
    return n


def feathered(fill: np.ndarray, radius: float) -> np.ndarray:
    """(H, W) uint8: the mask through Pillow's GaussianBlur, as published; 255 deep inside, 0 beyond `support(radius)` pixels."""
    mask = Image.fromarray(fill.astype(np.uint8) * 255)
    return np.asarray(mask.filter(ImageFilter.GaussianBlur(radius)) if radius else mask)


def support(radius: float) -> int:
    """How many pixels GaussianBlur reaches: three box blurs of radius ⌊(√(4·radius²+1)-1)/2⌋ and a fraction."""
    return 3 * (int(((4 * radius * radius + 1) ** 0.5 - 1) / 2) + 1) if radius else 0


def _white(source: object, max_pixels: int) -> tuple[np.ndarray, list[str]]:
    notes = []
    if isinstance(source, np.ndarray) and source.dtype.kind in "iu" and source.size:
        top = source.max()
        if source.min() < 0 or (source.dtype.itemsize > 2 and top > 255):
            raise UsageError(f"The mask is an array of {source.dtype} from {source.min()} to {top}; give bools, or 0 to 255.")
        if top == 1:
            notes.append("The mask is an array of 0 and 1: 1 is filled in.")
            source = source.astype(bool)
        elif source.dtype != np.uint8 and top <= 255:  # 0 to 255, whatever the type: of 16 bits it would all be black
            source = source.astype(np.uint8)
    try:
        mask = photos.load(source, max_pixels)  # type: ignore[arg-type] # it says what it does not take
    except UsageError as error:
        raise UsageError(str(error).replace("The image", "The mask")) from error
    half = np.iinfo(mask.rgb.dtype).max // 2
    if mask.rgb.dtype == np.uint8 and mask.rgb.strides[2]:
        grey = np.asarray(Image.fromarray(mask.rgb).convert("L"))
    else:
        grey = luma(mask.rgb) if mask.rgb.strides[2] else mask.rgb[..., 0]
    fill = grey > half
    if mask.alpha is not None:
        fill &= mask.alpha > half
    return fill, [*(note.replace("The image", "The mask") for note in mask.notes), *notes]


def _transparent(photo: Photo) -> np.ndarray:
    if photo.alpha is None:
        raise UsageError("The image has no alpha channel to take the mask from; give a mask.")
    return photo.alpha <= np.iinfo(photo.alpha.dtype).max // 2


def _resized(fill: np.ndarray, width: int, height: int) -> np.ndarray:
    mask = Image.fromarray(fill.astype(np.uint8) * 255)
    return np.asarray(mask.resize((width, height), Image.Resampling.LANCZOS)) >= 128
