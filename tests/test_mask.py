"""Masks from everything a mask can come from, grown and feathered."""

import io

import numpy as np
import pytest
from PIL import Image, ImageFilter

from moebius.errors import EmptyMaskError, UsageError
from moebius.pictures import mask as masks
from moebius.pictures.mask import Mask, _same_aspect, boxes, dilated, feathered, load, support
from moebius.pictures.photo import Photo
from moebius.pictures.photo import load as load_photo


def photo(width: int, height: int) -> Photo:
    return load_photo(np.zeros((height, width, 3), np.uint8))


def blob(height: int, width: int, box: tuple[int, int, int, int]) -> np.ndarray:
    """x0, y0, x1, y1"""
    fill = np.zeros((height, width), bool)
    fill[box[1] : box[3], box[0] : box[2]] = True
    return fill


FILL = blob(30, 40, (5, 7, 20, 18))
WHITE = np.uint8(255) * FILL


def as_png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


SOURCES = {
    "bools": FILL,
    "bools, one channel": FILL[..., None],
    "uint8": WHITE,
    "uint16": WHITE.astype(np.uint16) * 257,
    "uint16 of 0 and 255": WHITE.astype(np.uint16),
    "int64": WHITE.astype(np.int64),
    "floats": FILL.astype(np.float64),
    "RGB array": np.stack([WHITE] * 3, axis=-1),
    "PIL 1": Image.fromarray(FILL),
    "PIL L": Image.fromarray(WHITE),
    "PIL RGB": Image.fromarray(WHITE).convert("RGB"),
    "PIL P": Image.fromarray(WHITE).convert("RGB").quantize(4),
    "PIL I;16": Image.fromarray(WHITE.astype(np.uint16) * 257),
    "PIL F": Image.fromarray(FILL.astype(np.float32)),
    "PIL CMYK": Image.fromarray(WHITE).convert("CMYK"),
    "white strokes on transparency": Image.merge("LA", [Image.new("L", (40, 30), 255), Image.fromarray(WHITE)]),
    "white on opaque black": Image.fromarray(WHITE).convert("RGBA"),
    "white on black that is nearly opaque": Image.merge("LA", [Image.fromarray(WHITE), Image.new("L", (40, 30), 254)]),
    "bytes": as_png(Image.fromarray(WHITE)),
    "boxes": [(5, 7, 10, 11), (10, 7, 10, 11)],
}


@pytest.mark.parametrize("name", SOURCES)
def test_every_source_marks_the_same(name: str) -> None:
    mask = load(SOURCES[name], photo(40, 30))
    np.testing.assert_array_equal(mask.fill, FILL)
    assert mask.fill.dtype == bool
    assert mask.notes == ()


def test_a_path_and_its_orientation(tmp_path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.ascontiguousarray(np.rot90(WHITE))).save(tmp_path / "mask.png", exif=exif)
    np.testing.assert_array_equal(load(tmp_path / "mask.png", photo(40, 30)).fill, FILL)
    np.testing.assert_array_equal(load(str(tmp_path / "mask.png"), photo(40, 30)).fill, FILL)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_white_begins_in_the_middle(dtype: type) -> None:
    levels = np.arange(256).astype(np.uint8)[None] if dtype == np.uint8 else np.array([[0, 32767, 32768, 65535]], np.uint16)
    fill = load(levels, photo(levels.shape[1], 1)).fill[0]
    np.testing.assert_array_equal(fill, levels[0] > np.iinfo(dtype).max / 2)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_colours_count_by_their_brightness(dtype: type) -> None:
    colours = np.array([[(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 0, 255), (0, 255, 255), (130, 130, 130)]])
    scale = np.iinfo(dtype).max // 255
    assert load((colours * scale).astype(dtype), photo(6, 1)).fill[0].tolist() == [False, True, False, False, True, True]


def test_zeros_and_ones_mean_what_they_say() -> None:
    mask = load(FILL.astype(np.uint8), photo(40, 30))
    np.testing.assert_array_equal(mask.fill, FILL)
    assert "0 and 1" in mask.notes[0]


@pytest.mark.parametrize("size", [(20, 15), (160, 120), (41, 30), (399, 301)])
def test_another_size_is_resized_as_published_and_said(size: tuple[int, int]) -> None:
    mask = load(WHITE, photo(*size))
    expected = np.asarray(Image.fromarray(WHITE).resize(size, Image.Resampling.LANCZOS)) >= 127.5
    np.testing.assert_array_equal(mask.fill, expected)
    (note,) = mask.notes
    assert "40×30" in note
    assert f"{size[0]}×{size[1]}" in note


def test_invert_comes_before_grow() -> None:
    np.testing.assert_array_equal(load(WHITE, photo(40, 30), invert=True).fill, ~FILL)
    np.testing.assert_array_equal(load(WHITE, photo(40, 30), invert=True, grow=2).fill, dilated(~FILL, 2))


@pytest.mark.parametrize("source", [np.zeros((30, 40), np.uint8), np.full((30, 40), 100, np.uint8), np.zeros((30, 40, 4), np.uint8), []])
def test_a_mask_that_marks_nothing_is_an_error_or_said(source: object) -> None:
    with pytest.raises(EmptyMaskError):
        load(source, photo(40, 30))
    mask = load(source, photo(40, 30), allow_empty=True)
    assert not mask.fill.any()
    assert len(mask.notes) == 1
    assert load(source, photo(40, 30), invert=True).fill.all()


def test_how_bright_a_mask_is_that_marks_nothing() -> None:
    with pytest.raises(EmptyMaskError, match="100 of 255"):
        load(np.full((30, 40), 100, np.uint8), photo(40, 30))
    with pytest.raises(EmptyMaskError, match=r"\b128\b"):
        load(np.full((30, 40), 25700, np.uint16), photo(40, 30))
    with pytest.raises(EmptyMaskError) as caught:  # which is all white: not why
        load(WHITE | np.uint8(255), photo(40, 30), invert=True)
    assert "255" not in str(caught.value)
    with pytest.raises(EmptyMaskError, match="transparent"):
        load("alpha", load_photo(np.full((30, 40, 4), 255, np.uint8)))


@pytest.mark.parametrize("colours", [[(255, 0, 0)], [(0, 0, 0)], [(255, 255, 255), (0, 0, 0), (9, 90, 200)]])
def test_paint_on_transparency_counts_whatever_its_colour(colours: list[tuple[int, int, int]]) -> None:
    paint = np.zeros((30, 40, 4), np.uint8)
    paint[FILL, :3] = [colours[i % len(colours)] for i in range(FILL.sum())]
    paint[FILL, 3] = 255
    paint[2, 2], paint[3, 3] = (255, 255, 255, 127), (0, 0, 0, 128)
    expected = FILL.copy()
    expected[3, 3] = True
    for source in (paint, Image.fromarray(paint), as_png(Image.fromarray(paint))):
        mask = load(source, photo(40, 30))
        np.testing.assert_array_equal(mask.fill, expected)
        assert len(mask.notes) == 1
    keyed = Image.new("P", (40, 30), 0)
    keyed.putpalette([0, 0, 0, 200, 0, 0])
    keyed.paste(1, (5, 7, 20, 18))
    keyed.info["transparency"] = 0
    np.testing.assert_array_equal(load(keyed, photo(40, 30)).fill, FILL)


# The stored size of a photo, other sizes -------------------------------------------------------------------------------
def stored(array: np.ndarray, orientation: int) -> np.ndarray:
    """The pixels that a camera stores, with this orientation, for an upright picture."""
    turn = {
        1: lambda a: a,
        2: np.fliplr,
        3: lambda a: np.rot90(a, 2),
        4: np.flipud,
        5: lambda a: a.swapaxes(0, 1),
        6: lambda a: np.rot90(a, 1),
        7: lambda a: np.rot90(a, 2).swapaxes(0, 1),
        8: lambda a: np.rot90(a, -1),
    }[orientation]
    return np.ascontiguousarray(turn(array))


def with_orientation(array: np.ndarray, orientation: int, kind: str) -> bytes:
    exif, file = Image.Exif(), io.BytesIO()
    exif[0x0112] = orientation
    Image.fromarray(array).save(file, kind, exif=exif)
    return file.getvalue()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_mask_of_the_stored_size_is_turned_with_its_photo(orientation: int, kind: str) -> None:
    upright = np.zeros((30, 40, 3), np.uint8)
    given = load_photo(with_orientation(stored(upright, orientation), orientation, kind))
    assert (given.size, given.orientation) == ((40, 30), orientation)
    assert given.stored_size == ((30, 40) if orientation > 4 else (40, 30))
    as_stored = stored(WHITE, orientation)
    for source in (WHITE, Image.fromarray(WHITE), with_orientation(as_stored, orientation, kind if kind != "JPEG" else "PNG")):
        np.testing.assert_array_equal(load(source, given).fill, FILL)
        assert load(source, given).notes == ()
    if orientation > 4:
        for source in (as_stored, Image.fromarray(as_stored), as_png(Image.fromarray(as_stored))):
            mask = load(source, given)
            np.testing.assert_array_equal(mask.fill, FILL)
            assert len(mask.notes) == 1
        twice = np.asarray(Image.fromarray(as_stored).resize((60, 80), Image.Resampling.NEAREST))
        mask = load(twice, given)
        np.testing.assert_array_equal(mask.fill, FILL)
        assert len(mask.notes) == 2
    elif orientation > 1:  # nothing tells whether a file of that size was turned: it is said how it is taken
        mask = load(as_png(Image.fromarray(WHITE)), given)
        np.testing.assert_array_equal(mask.fill, FILL)
        assert len(mask.notes) == 1


@pytest.mark.parametrize("size", [(40, 40), (30, 40), (300, 20), (41, 29), (40, 32), (80, 64), (512, 512)])
def test_another_aspect_ratio_is_refused_with_both_sizes(size: tuple[int, int]) -> None:
    with pytest.raises(UsageError) as caught:
        load(WHITE, photo(*size), force=True)
    assert "40×30" in str(caught.value)
    assert f"{size[0]}×{size[1]}" in str(caught.value)


def test_every_rounding_of_the_same_aspect_ratio_is_the_same() -> None:
    g = np.random.default_rng(0)
    for _ in range(1000):
        width, height = (int(n) for n in g.integers(40, 400, 2))
        scale = float(g.uniform(0.2, 3))
        up, down = g.choice([np.floor, np.ceil, np.rint], 2)
        size = int(up(width * scale)), int(down(height * scale))
        assert _same_aspect(size, (width, height)), (size, width, height)
        assert _same_aspect((width, height), size), (size, width, height)


def test_a_turned_photo_and_a_mask_of_neither_size() -> None:
    given = load_photo(with_orientation(np.zeros((40, 30, 3), np.uint8), 6, "PNG"))
    with pytest.raises(UsageError, match="40×40") as caught:
        load(np.ones((40, 40), bool), given)
    assert all(size in str(caught.value) for size in ("40×30", "30×40"))


def test_a_loaded_mask_is_taken_as_it_is() -> None:
    mask = load(WHITE, photo(40, 30), invert=True, grow=3)
    assert load(mask, photo(40, 30), invert=True, grow=3) is mask
    assert not load(Mask(np.zeros((30, 40), bool)), photo(40, 30)).fill.any()
    with pytest.raises(UsageError, match=r"40×30.*20×15"):
        load(mask, photo(20, 15))


# What looks like a photograph ------------------------------------------------------------------------------------------
@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_the_images_own_alpha(mode: str) -> None:
    image = Image.new("RGBA", (40, 30), (10, 20, 30, 255))
    image.paste((0, 0, 0, 0), (5, 7, 20, 18))
    image.paste((0, 0, 0, 255), (0, 0, 2, 2))
    image = image.convert(mode)
    if mode == "P":
        image = Image.new("P", (40, 30), 1)
        image.putpalette([0, 0, 0, 90, 80, 70])
        image.paste(0, (5, 7, 20, 18))
        image.info["transparency"] = 0
    np.testing.assert_array_equal(load("alpha", load_photo(image)).fill, FILL)
    assert load("alpha", load_photo(image), invert=True).fill.sum() == 40 * 30 - FILL.sum()


def test_boxes_are_cut_at_the_border() -> None:
    np.testing.assert_array_equal(boxes([(-5, -5, 10, 10), (38, 28, 100, 100)], 40, 30)[[0, 4, 5, 29], [0, 4, 5, 39]], [1, 1, 0, 1])
    np.testing.assert_array_equal(boxes([(0, 0, 40, 30)], 40, 30), True)
    assert np.argwhere(boxes([(0, 0, 1, 1), (39, 29, 1, 1)], 40, 30)).tolist() == [[0, 0], [29, 39]]
    assert np.argwhere(boxes([(-4, -2, 5, 3)], 40, 30)).tolist() == [[0, 0]]
    np.testing.assert_array_equal(boxes(((np.int64(5), 7, 15, 11),), 40, 30), FILL)


def brute(fill: np.ndarray, radius: float) -> np.ndarray:
    y, x = np.indices(fill.shape)
    marked = np.argwhere(fill)
    result = np.zeros_like(fill)
    for my, mx in marked:
        result |= (y - my) ** 2 + (x - mx) ** 2 <= radius * radius
    return result


def test_grown_is_every_pixel_within_the_radius() -> None:
    g = np.random.default_rng(0)
    for radius in [0, 0.5, 1, 1.4142, 2**0.5, 2, 3.3, 5, 8, 13, 200]:
        for _ in range(6):
            shape = tuple(g.integers(1, 40, 2))
            fill = g.random(shape) < g.choice([0.002, 0.02, 0.3])
            np.testing.assert_array_equal(dilated(fill, radius), brute(fill, radius), err_msg=f"{shape} {radius}")


def test_a_large_mask_is_grown_piece_by_piece_to_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    g, y, x = np.random.default_rng(4), *np.mgrid[:137, :190]
    specks, most = (g.random(x.shape) < density for density in (0.001, 0.7))
    disc = np.hypot(y - 60, x - 80) < 50
    fills = specks, most, disc, ~disc, x == 189
    radii = (0.5, 1, 3.3, 9.9, 10, 12, 13.7, 31, 90)
    whole = [[dilated(fill, radius) for radius in radii] for fill in fills]
    monkeypatch.setattr(masks, "PIECE", 32)
    for fill, expected in zip(fills, whole, strict=True):
        for radius, want in zip(radii, expected, strict=True):
            np.testing.assert_array_equal(dilated(fill, radius), want, err_msg=str(radius))


def test_grown_handles_lines_and_corners() -> None:
    for shape in [(1, 1), (1, 50), (50, 1)]:
        fill = np.zeros(shape, bool)
        fill[0, 0] = True
        np.testing.assert_array_equal(dilated(fill, 4), brute(fill, 4))
    fill = np.zeros((20, 20), bool)
    fill[[0, 0, 19, 19], [0, 19, 0, 19]] = True
    np.testing.assert_array_equal(dilated(fill, 5), brute(fill, 5))


def test_grown_in_wide_pictures_uses_wide_numbers() -> None:
    fill = np.zeros((2, 20000), bool)
    fill[0, [0, 19999]] = True
    assert dilated(fill, 3).sum() == 4 + 3 + 4 + 3  # √8 = 2.8 in the other row
    assert dilated(fill, 1e9).all()


def test_grown_leaves_its_input_alone() -> None:
    fill = FILL.copy()
    dilated(fill, 0)[0, 0] = True
    dilated(fill, 3)
    np.testing.assert_array_equal(fill, FILL)
    assert not dilated(np.zeros((5, 5), bool), 3).any()


def test_feathered_is_the_published_blur() -> None:
    blurred = Image.fromarray(WHITE).convert("RGB").filter(ImageFilter.GaussianBlur(3))
    np.testing.assert_array_equal(feathered(FILL, 3), np.asarray(blurred)[..., 0])
    np.testing.assert_array_equal(feathered(FILL, 0), WHITE)


def test_feathering_ends_within_its_support() -> None:
    fill = blob(401, 401, (150, 150, 251, 251))
    for radius in [0, 0.1, 0.5, 1, 1.5, 2, 2.9, 3, 4, 7.7, 12, 25, 40]:
        shown = np.flatnonzero(feathered(fill, radius)[200])
        assert 150 - shown[0] <= support(radius), radius
        assert shown[-1] - 250 <= support(radius), radius
    assert [support(radius) for radius in (0, 0.5, 1, 2, 3, 5, 40)] == [0, 3, 3, 6, 9, 15, 120]


@pytest.mark.parametrize(
    ("source", "options", "says"),
    [
        ("alpha", {}, "no alpha channel"),
        ([(1, 2, 3)], {}, "is not a box"),
        ([5, 7, 15, 11], {}, "5 is not a box"),
        ([(1, 2, 3, 4.0)], {}, "is not a box"),
        ([(1, 2, 0, 4)], {}, r"covers nothing of the image, which is 40×30"),
        ([(40, 2, 5, 4)], {}, "covers nothing"),
        ([(-5, 2, 5, 4)], {}, "covers nothing"),
        (WHITE, {"grow": -1}, "grow is -1"),
        (WHITE, {"grow": float("nan")}, "grow is nan"),
        (WHITE.astype(np.int32) * 2, {}, "int32 from 0 to 510"),
        (-FILL.astype(np.int8), {}, "int8 from -1 to 0"),
        (FILL.astype(np.float32) * 255, {}, "The mask is an array of floats"),
        (np.zeros((30, 40, 2), np.uint8), {}, r"The mask is an array of shape \(30, 40, 2\)"),
        (np.zeros((0, 4), np.uint8), {}, "The mask is empty"),
        (np.zeros((0, 4), bool), {}, "The mask is empty"),
        (b"no picture", {}, "The mask is not a PNG"),
        (7, {}, "The mask is a int"),
        ("nowhere.png", {}, "nowhere.png cannot be read"),
    ],
)
def test_mistakes_are_named(source: object, options: dict, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        load(source, photo(40, 30), **options)
