"""What is to be filled in, as a (H, W) array of bools of the picture's size: from a file, a picture, an array, boxes, or its own alpha."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image, ImageFilter

from moebius.errors import EmptyMaskError, UsageError
from moebius.pictures import photo as photos
from moebius.pictures.islands import CELL, marked_cells, whole_cells
from moebius.pictures.look import look
from moebius.pictures.patience import still_wanted
from moebius.pictures.photo import Photo, PhotoSource
from moebius.pictures.pixels import bounds, luma, turned

Box = Sequence[int]  # x, y, width, height
ALPHA = "alpha"
WHITE = 128  # of 255: filled in from here on
SHIFTS = 12  # pixels: so far `dilated` is quicker shift by shift
PIECE = 512  # pixels a side: what is larger is dilated piece by piece
SLACK = 10  # pixels: two pixels are at most so much nearer to each other, or farther, than the middles of their cells: 7·√2


@dataclass(frozen=True, eq=False)
class Mask:
    fill: np.ndarray  # (H, W) bool
    notes: tuple[str, ...] = ()
    from_alpha: bool = False  # the photo's own transparency


MaskSource = PhotoSource | Sequence[Box] | Mask


def load(
    source: MaskSource,
    photo: Photo,
    *,
    invert: bool = False,
    grow: float = 0,
    force: bool = False,
    allow_empty: bool = False,
    max_pixels: int = photos.MAX_PIXELS,
) -> Mask:
    """White, from the middle of the range on (127.5 of 255), is filled in; on transparency whatever is painted is, of any colour.

    `source` is whatever a photo can be loaded from, a list of boxes (x, y, width, height), "alpha": where `photo` itself is
    transparent, or what this returned before, which is taken as it is. A mask of another size is resized as published, by LANCZOS
    and then [≥ ½], when it has the photo's aspect ratio; one with that of the photo's stored pixels is first turned upright as they were.
    First inverted, then grown.

    What looks like a photograph is refused unless `force`, what marks nothing (EmptyMaskError) unless `allow_empty`.
    """
    width, height = photo.size
    if isinstance(source, Mask):
        if source.fill.shape != (height, width):
            raise UsageError(f"The mask was loaded for an image of {_size(source.fill.shape)}; this one is {width}×{height}.")
        return source
    notes: list[str] = []
    why_empty = ""
    if isinstance(source, str) and source == ALPHA:
        fill = _transparent(photo)
        why_empty = "; no pixel of the image is more than half transparent"
    elif isinstance(source, list | tuple):
        fill = boxes(source, width, height)
    else:
        mask = _picture(source, notes, max_pixels)
        notes += _swapped(mask, photo, force)
        fill, why_empty = _marked(mask, notes)
        fill = _fitted(fill, mask, photo, notes)
    if invert:
        fill, why_empty = ~fill, "; inverted, it marks the rest, and there is none"
    if grow:
        fill = dilated(fill, grow)
    if not fill.any():
        if not allow_empty:
            raise EmptyMaskError(f"The mask marks nothing: there is nothing to fill in{why_empty}.")
        notes.append("The mask marks nothing: there is nothing to fill in.")
    return Mask(fill, tuple(notes), isinstance(source, str) and source == ALPHA)


def boxes(wanted: Sequence[Box], width: int, height: int) -> np.ndarray:
    """The boxes' union; what of them lies outside the picture is cut off."""
    fill = np.zeros((height, width), bool)
    for box in wanted:
        still_wanted()
        whole = isinstance(box, Sequence) and len(box) == 4 and all(isinstance(n, int | np.integer) for n in box)
        if not whole:
            raise UsageError(f"{box!r} is not a box; give four whole numbers: x, y, width, height.")
        x, y, w, h = box
        if w <= 0 or h <= 0 or x + w <= 0 or y + h <= 0 or x >= width or y >= height:
            raise UsageError(f"The box {x},{y},{w},{h} (x, y, width, height) covers nothing of the image, which is {width}×{height}.")
        fill[max(0, y) : y + h, max(0, x) : x + w] = True
    return fill


def dilated(fill: np.ndarray, radius: float) -> np.ndarray:
    """All pixels within `radius` of a marked one: dx² + dy² ≤ radius², exactly."""
    if not (np.isfinite(radius) and radius >= 0):
        raise UsageError(f"grow is {radius}; it must be a number of pixels from 0 up.")
    rows, columns = bounds(fill)
    height, width = fill.shape
    reach = min(int(radius), height + width)
    rows = slice(max(0, rows.start - reach), min(height, rows.stop + reach))
    columns = slice(max(0, columns.start - reach), min(width, columns.stop + reach))
    result, part = fill.copy(), fill[rows, columns]
    if part.any() and reach:
        result[rows, columns] = (_within if part.size <= PIECE**2 else _within_by_cells)(part, radius, reach)
    return result


def _within_by_cells(part: np.ndarray, radius: float, reach: int) -> np.ndarray:
    """`dilated`: by cells of 8×8 pixels as far as they tell, and to the pixel where they do not, along the rim."""
    some, sure = marked_cells(part), whole_cells(part)
    unsure = dilated(some, (radius + SLACK) / CELL)
    if radius >= SLACK:
        sure |= dilated(some, (radius - SLACK) / CELL)
    unsure &= ~sure
    out = sure.repeat(CELL, axis=0).repeat(CELL, axis=1)[: part.shape[0], : part.shape[1]]
    step = max(PIECE, 4 * reach) // CELL
    for row, column in itertools.product(range(0, unsure.shape[0], step), range(0, unsure.shape[1], step)):
        here = bounds(unsure[row : row + step, column : column + step])
        if here[0].stop:
            rows, columns = (
                slice(CELL * (first + s.start), min(n, CELL * (first + s.stop)))
                for first, s, n in zip((row, column), here, part.shape, strict=True)
            )
            top, left = max(0, rows.start - reach), max(0, columns.start - reach)
            near = _within(part[top : rows.stop + reach, left : columns.stop + reach], radius, reach)
            out[rows, columns] = near[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]
    return out


def _within(part: np.ndarray, radius: float, reach: int) -> np.ndarray:
    """`dilated`, where the array has room for it; `reach` is ⌊radius⌋.

    A small radius, shift by shift: along the rows as far as the disc goes there, then up and down. A large one: down the columns, g = the
    distance to the nearest marked pixel of the same column. Along the rows: a pixel is reached from x' when |x - x'| ≤ √(radius² - g(x')²),
    so from the left when the running maximum of x' + √… is at least x; likewise from the right. Two passes a direction whatever the radius.
    """
    tall, wide = part.shape
    if reach <= SHIFTS:
        out, wider, n = np.zeros_like(part), part.copy(), 0
        for dy in range(reach, -1, -1):
            while n < min(wide, _whole_root(radius * radius - dy * dy)):
                n += 1
                wider[:, n:] |= part[:, :-n]
                wider[:, :-n] |= part[:, n:]
            out[dy:] |= wider[: max(0, tall - dy)]
            out[: max(0, tall - dy)] |= wider[dy:]
        return out
    kind = np.int16 if 2 * wide + tall + reach < 2**15 - 2 else np.int32
    far = kind(tall + reach + 1)
    y = np.arange(tall, dtype=kind)[:, None]
    above = np.maximum.accumulate(np.where(part, y, -far), axis=0)
    below = np.minimum.accumulate(np.where(part, y, far)[::-1], axis=0)[::-1]
    g = np.minimum(np.minimum(y - above, below - y), reach + 1)
    halves = [min(wide, _whole_root(radius * radius - d * d)) for d in range(reach + 1)]
    half = np.array([*halves, -wide - 1], kind)[g]
    x = np.arange(wide, dtype=kind)
    reached: np.ndarray = np.maximum.accumulate(x + half, axis=1) >= x
    reached |= np.minimum.accumulate((x - half)[:, ::-1], axis=1)[:, ::-1] <= x
    return reached


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


def _picture(source: object, notes: list[str], max_pixels: int) -> Photo:
    """The mask as a picture; arrays also of the types that only masks have."""
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
    notes[:0] = [note.replace("The image", "The mask") for note in mask.notes]
    return replace(mask, name=mask.name.replace("The image", "The mask"))


def _swapped(mask: Photo, photo: Photo, force: bool) -> list[str]:
    """Raises where the mask looks like a photograph; with `force` that is a note."""
    seen = look(mask.rgb, None if mask.alpha is None else mask.alpha > _half(mask.alpha))
    if not seen.photograph:
        return []
    what = f"{mask.name} looks like a photograph, with {100 * seen.middle:.0f} % middle greys and {seen.colours} colours"
    guess = (
        f"{photo.name} looks like the mask: are they swapped?" if look(photo.rgb).mask else "A mask is white where to fill in, else black."
    )
    if force:
        return [f"{what}. {guess}"]
    raise UsageError(f"{what}. {guess} If it is meant, say force=True (--yes).")


def _marked(mask: Photo, notes: list[str]) -> tuple[np.ndarray, str]:
    """(H, W) of bools: what is painted where there is transparency, else what is white; and why it may be nothing."""
    half = _half(mask.rgb)
    if mask.rgb.dtype == np.uint8 and mask.rgb.strides[2]:
        grey = np.asarray(Image.fromarray(mask.rgb).convert("L"))
    else:
        grey = luma(mask.rgb) if mask.rgb.strides[2] else mask.rgb[..., 0]
    white = grey > half
    painted = None if mask.alpha is None else mask.alpha > _half(mask.alpha)
    if painted is None or painted.all():
        top = int(grey.max()) * 255 // np.iinfo(grey.dtype).max
        return white, "" if white.any() else f"; its brightest pixel is {top} of 255, and what is filled in begins at {WHITE}"
    if (painted & ~white).any():
        notes.append("The mask is paint on transparency: what is painted is filled in, whatever its colour.")
    return painted, "" if painted.any() else "; it is transparent everywhere"


def _fitted(fill: np.ndarray, mask: Photo, photo: Photo, notes: list[str]) -> np.ndarray:
    """The marks in the photo's size, turned and resized where they can be."""
    size, own = photo.size, fill.shape[1::-1]
    if not _same_aspect(own, size):
        if mask.orientation != 1 or not _same_aspect(own, photo.stored_size):
            stored = photo.stored_size
            turned_by = f" ({_size(stored[::-1])} as stored)" if stored != size else ""
            raise UsageError(
                f"{mask.name} is {own[0]}×{own[1]}, {photo.name} {size[0]}×{size[1]}{turned_by}: they have different aspect ratios. "
                "Give a mask that was made for this image."
            )
        fill = turned(fill, photo.orientation)
        notes.append(f"The mask has the size of the image as it is stored: it was turned with it, to {_size(fill.shape)}.")
    elif photo.orientation != 1 and mask.format and mask.orientation == 1 and _same_aspect(own, photo.stored_size):
        notes.append("The image is turned as its EXIF block says, and the mask, which has none, is not: it is taken as upright.")
    if fill.shape != size[::-1]:
        notes.append(f"The mask is {_size(fill.shape)}, the image {size[0]}×{size[1]}: the mask was resized to the image.")
        fill = _resized(fill, *size)
    return fill


def _same_aspect(one: tuple[int, ...], other: tuple[int, ...]) -> bool:
    """One is the other scaled by some factor, either way, with each side rounded by less than a pixel."""
    (w, h), (wide, tall) = one, other
    return abs(w * tall - h * wide) < max(w + h, wide + tall)


def _size(shape: tuple[int, ...]) -> str:
    return f"{shape[1]}×{shape[0]}"


def _half(pixels: np.ndarray) -> int:
    """The most that is not yet white, or opaque."""
    return int(np.iinfo(pixels.dtype).max // 2)


def _transparent(photo: Photo) -> np.ndarray:
    if photo.alpha is None:
        raise UsageError("The image has no alpha channel to take the mask from; give a mask.")
    return photo.alpha <= _half(photo.alpha)


def _resized(fill: np.ndarray, width: int, height: int) -> np.ndarray:
    mask = Image.fromarray(fill.astype(np.uint8) * 255)
    return np.asarray(mask.resize((width, height), Image.Resampling.LANCZOS)) >= 128
