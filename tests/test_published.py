"""Pixel handling on pictures small enough to know the answer."""

import numpy as np
import pytest
from PIL import Image, ImageFilter

from moebius.errors import UsageError
from moebius.model.synthetic import rng
from moebius.pictures.published import (
    compensate,
    latent_mask,
    masked_image,
    neighbourhood,
    normalized,
    paste,
    prepare,
    target_size,
    to_uint8,
)


def photo(width: int, height: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def box_mask(width: int, height: int, box: tuple[int, int, int, int], value: int = 255) -> Image.Image:
    mask = Image.new("L", (width, height))
    mask.paste(value, box)
    return mask


@pytest.mark.parametrize(
    ("given", "size", "expected"),
    [
        ((200, 200), 128, (128, 128)),
        ((128, 128), 128, (128, 128)),
        ((300, 200), 128, (192, 128)),
        ((200, 300), 128, (128, 192)),
        ((301, 199), 128, (192, 128)),
        ((199, 301), 512, (512, 768)),
        ((383, 200), 200, (320, 192)),  # the short side too is floored
        ((1, 1), 64, (64, 64)),
        ((3000, 1), 64, (192000, 64)),
    ],
)
def test_target_size(given: tuple[int, int], size: int, expected: tuple[int, int]) -> None:
    assert target_size(*given, size) == expected


@pytest.mark.parametrize("size", [128, 512])
def test_a_square_stays_a_square(size: int) -> None:
    """In floats 49·(512/49) is 511.99…, which would be floored to 448."""
    assert {target_size(n, n, size) for n in range(1, 2000)} == {(size, size)}


def test_prepare_keeps_pixels_that_need_no_resizing() -> None:
    image, mask = photo(128, 64), box_mask(128, 64, (8, 16, 24, 48))
    p = prepare(image, mask, 64)
    assert p.x.shape == (1, 3, 64, 128)
    assert p.m.shape == (1, 1, 64, 128)
    assert p.x.dtype == p.m.dtype == np.float32
    np.testing.assert_array_equal(p.x[0].transpose(1, 2, 0), (np.asarray(image) / 255 * 2 - 1).astype(np.float32))
    np.testing.assert_array_equal(p.m[0, 0], np.asarray(mask) / 255)
    assert p.image.tobytes() == image.tobytes()
    assert p.mask.tobytes() == mask.tobytes()


def test_prepare_spans_minus_one_to_one() -> None:
    image = Image.new("RGB", (64, 64))
    image.paste((255, 255, 255), (0, 0, 32, 64))
    x = prepare(image, box_mask(64, 64, (0, 0, 8, 8)), 64).x
    assert set(np.unique(x)) == {-1, 1}


@pytest.mark.parametrize(("value", "filled"), [(127, False), (128, True), (255, True)])
def test_the_mask_is_white_from_the_middle_of_the_range(value: int, filled: bool) -> None:
    mask = box_mask(64, 64, (0, 0, 8, 64))  # something is always marked
    mask.paste(value, (32, 0, 64, 64))
    p = prepare(photo(64, 64), mask, 64)
    m = p.m[0, 0]
    assert set(np.unique(np.asarray(p.mask))) == {0, 255}  # thresholded before it is resized, so that it blends fully
    assert m[:, :8].all()
    assert not m[:, 8:32].any()
    assert m[:, 32:].all() == filled
    assert m[:, 32:].any() == filled


def test_the_mask_is_binary_after_resizing_and_its_picture_is_not() -> None:
    p = prepare(photo(150, 101), box_mask(150, 101, (40, 30, 90, 77)), 64)
    assert set(np.unique(p.m)) == {0, 1}
    assert len(np.unique(np.asarray(p.mask))) > 2
    np.testing.assert_array_equal(p.m[0, 0] == 1, np.asarray(p.mask) >= 128)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P", "1"])
def test_other_picture_modes(mode: str) -> None:
    p = prepare(photo(64, 64).convert(mode), box_mask(64, 64, (0, 0, 9, 9)).convert(mode), 64)
    assert p.x.shape == (1, 3, 64, 64)
    assert p.m.sum() == 81


def test_the_hole_is_mid_grey() -> None:
    p = prepare(photo(64, 64), box_mask(64, 64, (5, 7, 20, 30)), 64)
    masked = masked_image(p.x, p.m)
    assert not masked[:, :, 7:30, 5:20].any()
    outside = np.broadcast_to(p.m == 0, p.x.shape)
    np.testing.assert_array_equal(masked[outside], p.x[outside])


def test_latent_mask_takes_the_top_left_of_each_cell() -> None:
    m = np.zeros((1, 1, 32, 64), np.float32)
    m[0, 0, 8, 16] = 1  # the top left of cell (1, 2)
    m[0, 0, 15, 31] = 1  # the bottom right of cell (1, 3)
    small = latent_mask(m)
    assert small.shape == (1, 1, 4, 8)
    assert np.argwhere(small[0, 0]).tolist() == [[1, 2]]


def test_to_uint8_truncates_and_clips() -> None:
    levels = np.array([-2.0, -1.0, 0.0, 1.0, 3.0, 0.9999, 2 * 1.9 / 255 - 1, 2 * 254.9 / 255 - 1], np.float32)
    out = to_uint8(np.broadcast_to(levels, (1, 3, 1, 8)))
    assert out.shape == (1, 8, 3)
    assert out[0, :, 0].tolist() == [0, 0, 127, 255, 255, 254, 1, 254]


def test_to_uint8_puts_channels_last() -> None:
    x = np.stack([np.full((2, 4), v) for v in (-1.0, 0.0, 1.0)])[None]
    assert to_uint8(x)[1, 3].tolist() == [0, 127, 255]


@pytest.mark.parametrize("blend", [paste, compensate])
def test_outside_the_blurred_mask_the_bytes_are_the_images_own(blend) -> None:
    p = prepare(photo(150, 101), box_mask(150, 101, (40, 30, 90, 77)), 64)
    out = np.asarray(photo(*p.image.size, seed=1))
    hard = Image.fromarray((np.asarray(p.mask) > 128).astype(np.uint8) * 255)
    w = np.asarray((p.mask if blend is paste else hard).filter(ImageFilter.GaussianBlur(3)))
    result, image = np.asarray(blend(out, p)), np.asarray(p.image)
    assert 0 < (w == 0).mean() < 1
    np.testing.assert_array_equal(result[w == 0], image[w == 0])
    assert (result[w == 255] != image[w == 255]).mean() > 0.9
    if blend is paste:
        np.testing.assert_array_equal(result[w == 255], out[w == 255])


def test_paste_blends_by_the_blurred_mask_and_truncates() -> None:
    p = prepare(Image.new("RGB", (64, 64), (10, 100, 201)), box_mask(64, 64, (0, 0, 32, 64)), 64)
    result = np.asarray(paste(np.full((64, 64, 3), (90, 50, 7), np.uint8), p))[32]
    weights = np.asarray(p.mask.filter(ImageFilter.GaussianBlur(3)))[32]
    for x in (26, 31, 32, 37):
        assert 0 < weights[x] < 255
        exact = [(o * int(weights[x]) + i * (255 - int(weights[x]))) / 255 for o, i in ((90, 10), (50, 100), (7, 201))]
        assert result[x].tolist() == [int(v) for v in exact]


def test_compensate_moves_the_filling_by_the_difference_around_it() -> None:
    """A result that is darker than the image by (20, 10, -30) everywhere gets 1.1 times that back inside."""
    p = prepare(Image.new("RGB", (64, 64), (120, 130, 140)), box_mask(64, 64, (20, 20, 44, 44)), 64)
    result = np.asarray(compensate(np.full((64, 64, 3), (100, 120, 170), np.uint8), p))
    np.testing.assert_allclose(result[32, 32], [100 + 22, 120 + 11, 170 - 33], atol=1)
    assert result[0, 0].tolist() == [120, 130, 140]


def test_compensate_looks_only_at_the_neighbourhood() -> None:
    p = prepare(Image.new("RGB", (64, 64), (100, 100, 100)), box_mask(64, 64, (20, 20, 44, 44)), 64)
    out = np.full((64, 64, 3), 100, np.uint8)
    out[:10] = 255  # outside the grown box
    out[28:36, 28:36] = 0  # inside the mask
    result = np.asarray(compensate(out, p))
    assert result[24, 24].tolist() == [100, 100, 100]


def test_compensate_clips_instead_of_wrapping() -> None:
    p = prepare(Image.new("RGB", (64, 64), (255, 0, 255)), box_mask(64, 64, (20, 20, 44, 44)), 64)
    out = np.full((64, 64, 3), (200, 50, 255), np.uint8)
    out[20:44, 20:44] = (250, 10, 255)
    assert np.asarray(compensate(out, p))[32, 32].tolist() == [255, 0, 255]


def test_compensate_of_a_mask_without_neighbours_is_the_result() -> None:
    p = prepare(photo(64, 64), box_mask(64, 64, (0, 0, 64, 64)), 64)
    out = np.asarray(photo(64, 64, seed=1))
    np.testing.assert_array_equal(np.asarray(compensate(out, p)), out)


@pytest.mark.parametrize(
    ("mask_rows", "box_rows"),
    [((20, 30), (14, 35)), ((20, 31), (15, 36)), ((0, 4), (0, 9)), ((60, 64), (54, 64))],
    # 20…29: centre 24, half 10; 20…30: centre 25, half 10; the others are cut at the border
)
def test_the_neighbourhood_is_the_grown_box_without_the_mask(mask_rows: tuple[int, int], box_rows: tuple[int, int]) -> None:
    mask = np.zeros((64, 40), bool)
    mask[slice(*mask_rows), 12:20] = True
    around = neighbourhood(mask)
    assert not (around & mask).any()
    rows, columns = np.flatnonzero((around | mask).any(axis=1)), np.flatnonzero((around | mask).any(axis=0))
    assert (rows[0], rows[-1] + 1) == box_rows
    assert (columns[0], columns[-1] + 1) == (6, 25)  # 12…19: centre 15, half 9
    assert (around | mask).sum() == len(rows) * len(columns)


@pytest.mark.parametrize(
    ("image", "mask", "size", "says"),
    [
        (photo(64, 64), box_mask(64, 65, (0, 0, 9, 9)), 64, "64×65.*64×64"),
        (photo(64, 64), Image.new("L", (64, 64)), 64, "marks nothing"),
        (photo(64, 64), box_mask(64, 64, (0, 0, 9, 9), 127), 64, "marks nothing"),
        (photo(640, 640), box_mask(640, 640, (99, 99, 100, 100)), 64, "marks nothing at 64×64"),  # lost in the resize
        (photo(64, 64), box_mask(64, 64, (0, 0, 9, 9)), 63, "size is 63"),
        (Image.new("RGB", (0, 5)), Image.new("L", (0, 5)), 64, "image is empty"),
        (np.zeros((64, 64, 3), np.uint8), box_mask(64, 64, (0, 0, 9, 9)), 64, "ndarray"),
        (photo(64, 64), "mask.png", 64, "mask is a str"),
    ],
)
def test_mistakes_are_named(image: Image.Image, mask: Image.Image, size: int, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        prepare(image, mask, size)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_normalized_is_the_published_float64_rounded_for_every_number(dtype: type[np.unsignedinteger]) -> None:
    white = np.iinfo(dtype).max
    numbers = np.arange(white + 1, dtype=dtype).reshape(1, -1, 1).repeat(3, axis=2)
    want = (numbers / white * 2 - 1).astype(np.float32).transpose(2, 0, 1)[None]
    np.testing.assert_array_equal(normalized(numbers).view(np.uint32), want.view(np.uint32))


def test_to_uint8_is_the_same_strip_by_strip() -> None:
    x = rng(0, "to_uint8").standard_normal((1, 3, 150, 7), dtype=np.float32)
    want = (np.clip((x[0] + 1) / 2, 0, 1) * 255).astype(np.uint8).transpose(1, 2, 0)
    np.testing.assert_array_equal(to_uint8(x), want)
    np.testing.assert_array_equal(to_uint8(np.asfortranarray(x)), want)
