"""Pictures and arrays in every mode: what comes out is what went in, but for what was changed."""

import io
from typing import Literal

import numpy as np
import pytest
from photo_cases import ARRAYS, DEEP, NATIVE, SRGB, changed_photo, given_as, in_mode, raw, smooth, some
from PIL import Image

from moebius.pictures import mask as masks
from moebius.pictures.blend import put_back, seam_weights
from moebius.pictures.cut import cut_out
from moebius.pictures.photo import load
from moebius.pictures.pixels import bounds, luma, put, taken
from moebius.pictures.windows import windows


@pytest.mark.parametrize("mode", NATIVE + DEEP)
def test_pictures_keep_mode_size_and_every_byte_that_was_not_changed(mode: str) -> None:
    given = in_mode(mode, 37, 23)
    before = raw(given).copy()
    photo = load(given)
    assert photo.size == (37, 23)
    assert photo.rgb.shape == (23, 37, 3)
    assert photo.rgb.dtype == (np.uint16 if mode in DEEP else np.uint8)
    assert not photo.rgb.flags.writeable
    assert photo.notes == ()

    same = photo.with_rgb(photo.rgb.copy())
    assert (same.mode, same.size) == (given.mode, given.size)
    np.testing.assert_array_equal(raw(same), before)
    assert same.getpalette() == given.getpalette()
    assert same.info.get("transparency") == given.info.get("transparency")

    where = some(23, 37)
    image = photo.with_rgb(changed_photo(photo, where))
    assert (image.mode, image.size) == (given.mode, given.size)
    np.testing.assert_array_equal(raw(image)[~where], before[~where])
    assert (raw(image) != before).any()
    np.testing.assert_array_equal(raw(given), before)  # it is not written into


@pytest.mark.parametrize("kind", ARRAYS)
def test_arrays_come_back_as_they_were(kind: str) -> None:
    given = given_as(kind, 37, 23)
    before = given.copy()
    photo, where = load(given), some(23, 37)
    same = photo.array_with_rgb(photo.rgb.copy())
    assert (same.shape, same.dtype) == (given.shape, given.dtype)
    np.testing.assert_array_equal(same, given)
    array = photo.array_with_rgb(changed_photo(photo, where))
    assert (array.shape, array.dtype) == (given.shape, given.dtype)
    np.testing.assert_array_equal(array[~where], given[~where])
    assert (array != given).any()
    image = photo.with_rgb(changed_photo(photo, where))
    assert image.size == (37, 23)
    given[...] = 0
    np.testing.assert_array_equal(photo.native, before)  # the photo has its own


def test_what_a_change_becomes_in_each_mode() -> None:
    """As near to the wanted colour as the mode can come."""
    wanted = (200, 100, 50)
    for mode in NATIVE + DEEP:
        photo = load(in_mode(mode, 8, 8))
        top = np.iinfo(photo.rgb.dtype).max
        rgb = photo.rgb.copy()
        rgb[4:] = np.array(wanted) * (top // 255)
        again = load(photo.with_rgb(rgb, opaque=True))
        got = again.rgb[4:].astype(float) / (top / 255)
        if mode == "1":
            assert set(np.unique(got)) <= {0, 255}
        elif mode[0] in "LIF" and mode != "LAB":
            if mode in ("I", "F wide"):  # its black and white may have moved
                low, high = photo.colours.levels
                got = (np.asarray(again.native)[4:] - low) / (high - low) * 255
            np.testing.assert_allclose(got, luma(np.array([wanted], np.uint8))[0], atol=1)
        elif mode != "P":  # its 256 entries are all taken
            np.testing.assert_allclose(got, np.broadcast_to(wanted, got.shape), atol={"LAB": 6, "HSV": 4, "YCbCr": 3}.get(mode, 2))
        if again.alpha is not None:
            assert (again.alpha[4:] == 255).all()


@pytest.mark.parametrize("mode", ["LA", "RGBA", "P alpha", "P key", "P RGBA", "RGB key", "L key"])
def test_alpha_is_kept(mode: str) -> None:
    photo = load(in_mode(mode, 30, 20))
    assert photo.alpha is not None
    for seed in range(3):
        again = load(photo.with_rgb(changed_photo(photo, some(20, 30, seed))))
        np.testing.assert_array_equal(again.alpha, photo.alpha)


@pytest.mark.parametrize("kind", ["LA", "RGBA", "P alpha", "P key", "P RGBA", "RGB key", "L key", "uint8 4", "uint16 4", "float64 4"])
def test_opaque_fills_what_was_transparent(kind: str) -> None:
    photo, where = load(given_as(kind, 30, 20)), some(20, 30)
    assert photo.alpha is not None
    again = load(photo.array_with_rgb(photo.rgb, where, opaque=True) if kind in ARRAYS else photo.with_rgb(photo.rgb, where, opaque=True))
    assert (again.alpha[where] == np.iinfo(again.alpha.dtype).max).all()
    np.testing.assert_array_equal(again.alpha[~where], photo.alpha[~where])
    np.testing.assert_array_equal(raw(again.native)[~where], raw(photo.native)[~where])


def test_a_filled_pixel_does_not_take_the_colour_that_means_transparent() -> None:
    for mode, key in (("RGB", (10, 20, 30)), ("RGB", (10, 20, 0)), ("L", 77), ("L", 0)):
        image = Image.new(mode, (4, 4), 200 if mode == "L" else (200, 200, 200))
        image.info["transparency"] = key
        photo = load(image)
        rgb = photo.rgb.copy()
        rgb[:] = key
        filled = photo.with_rgb(rgb)
        assert (load(filled).alpha is None) or (load(filled).alpha == 255).all()
        assert np.abs(np.asarray(filled).astype(int) - key).max() <= 1


def test_only_what_is_marked_as_changed_changes() -> None:
    photo, where = load(smooth(20, 10)), some(10, 20)
    image = photo.with_rgb(255 - photo.rgb, where)
    np.testing.assert_array_equal(np.asarray(image)[~where], photo.rgb[~where])
    np.testing.assert_array_equal(np.asarray(image)[where], 255 - photo.rgb[where])
    np.testing.assert_array_equal(np.asarray(photo.with_rgb(255 - photo.rgb, np.zeros_like(where))), photo.rgb)


def test_a_palette_grows_while_there_is_room() -> None:
    photo = load(in_mode("P few", 40, 40))
    rgb = photo.rgb.copy()
    rgb[:20, :10] = np.arange(200, dtype=np.uint8).reshape(20, 10, 1)
    image = photo.with_rgb(rgb)
    np.testing.assert_array_equal(load(image).rgb, rgb)
    assert image.getpalette()[: 7 * 3] == photo.native.getpalette()[: 7 * 3]
    file = io.BytesIO()
    image.save(file, "PNG")
    np.testing.assert_array_equal(load(file.getvalue()).rgb, rgb)


def test_a_palette_takes_the_best_colours_there_is_room_for() -> None:
    photo, colours = load(in_mode("P few", 64, 64)), np.asarray(smooth(64, 32, 5))
    rgb = photo.rgb.copy()
    rgb[:32] = colours
    image = photo.with_rgb(rgb)
    assert len(image.getpalette()) == 256 * 3
    assert np.abs(load(image).rgb[:32].astype(int) - colours).mean() < 6
    np.testing.assert_array_equal(np.asarray(image)[32:], np.asarray(photo.native)[32:])


def test_a_full_palette_gives_the_nearest_entry() -> None:
    photo = load(in_mode("P", 40, 40))
    rgb = photo.rgb.copy()
    rgb[0] = np.random.default_rng(0).integers(0, 256, (40, 3))
    table = np.array(photo.native.getpalette()).reshape(-1, 3)
    indices = np.asarray(photo.with_rgb(rgb))[0]
    distances = ((table[None] - rgb[0][:, None].astype(int)) ** 2).sum(axis=2)
    np.testing.assert_array_equal(distances[np.arange(40), indices], distances.min(axis=1))


def test_an_index_beyond_the_palette_is_black_and_stays() -> None:
    image = Image.frombytes("P", (3, 1), bytes([0, 1, 200]))
    image.putpalette([9, 9, 9, 8, 8, 8])
    photo = load(image)
    assert photo.rgb[0].tolist() == [[9, 9, 9], [8, 8, 8], [0, 0, 0]]
    rgb = photo.rgb.copy()
    rgb[0, 0] = 70
    again = photo.with_rgb(rgb)
    assert np.asarray(again)[0, 1:].tolist() == [1, 200]


def test_cmyk_through_its_profile_and_without() -> None:
    """A pixel filled with what it was is as good as unchanged, black ink and all."""
    for icc in (None, b"broken", SRGB):
        given = in_mode("CMYK", 16, 16)
        if icc:
            given.info["icc_profile"] = icc
        photo = load(given)
        rgb = photo.rgb.copy()
        rgb[:8] = photo.rgb[8:]
        again = load(photo.with_rgb(rgb))
        assert again.native.mode == "CMYK"
        np.testing.assert_allclose(again.rgb.astype(int), rgb, atol=2)
        assert (np.asarray(again.native)[:8, :, 3] > 0).any()


@pytest.mark.parametrize("mode", ["YCbCr", "HSV", "L", "RGBA"])
def test_a_profile_changes_nothing_in_other_modes(mode: str) -> None:
    plain, tagged = in_mode(mode, 16, 16), in_mode(mode, 16, 16)
    tagged.info["icc_profile"] = SRGB
    where = some(16, 16)
    first, second = (photo.with_rgb(changed_photo(photo, where)) for photo in (load(plain), load(tagged)))
    np.testing.assert_array_equal(raw(first), raw(second))
    assert second.info["icc_profile"] == SRGB


def test_black_and_white_are_black_and_white() -> None:
    for given in (np.array([[False, True]]), Image.fromarray(np.array([[False, True]])), np.array([[0.0, 1.0]], np.float32)):
        photo = load(given)
        assert photo.rgb[0].tolist() == [[0] * 3, [np.iinfo(photo.rgb.dtype).max] * 3]


def test_floats_that_are_not_numbers_do_no_harm() -> None:
    numbers = np.full((4, 4), 0.5, np.float32)
    numbers[0] = [np.nan, np.inf, -np.inf, 1]
    photo = load(Image.fromarray(numbers))
    assert photo.rgb[0, :, 0].tolist() == [0, 65535, 0, 65535]
    rgb = photo.rgb.copy()
    rgb[3] = 0
    np.testing.assert_array_equal(np.asarray(photo.with_rgb(rgb))[:3], numbers[:3])
    assert load(Image.fromarray(np.full((2, 2), np.nan, np.float32))).rgb.max() == 0
    assert load(Image.fromarray(np.full((2, 2), -5, np.int32))).rgb.max() == 0


@pytest.mark.parametrize(("mode", "instead"), [("PA", "RGBA"), ("RGBa", "RGBA"), ("La", "LA")])
def test_modes_that_few_can_save_come_back_as_their_neighbours(mode: str, instead: str) -> None:
    photo = load(in_mode("RGBA", 9, 9).convert("LA" if mode == "La" else "RGBA").convert(mode))
    assert photo.with_rgb(photo.rgb).mode == instead
    assert mode in photo.notes[0]


def test_luma_is_pillows() -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (50, 60, 3), dtype=np.uint8)
    np.testing.assert_array_equal(luma(rgb), np.asarray(Image.fromarray(rgb).convert("L")))
    grey = np.arange(65536, dtype=np.uint16)[:, None].repeat(3, axis=1)
    np.testing.assert_array_equal(luma(grey), grey[:, 0])


def test_bounds() -> None:
    marked = np.zeros((9, 8), bool)
    assert bounds(marked) == (slice(0, 0), slice(0, 0))
    marked[2, 3] = marked[5, 1] = True
    assert bounds(marked) == (slice(2, 6), slice(1, 4))


@pytest.mark.parametrize("kind", [*NATIVE, *DEEP, *ARRAYS])
def test_a_fill_changes_nothing_outside_the_feathered_mask(kind: str) -> None:
    """Random sizes, masks and settings through photo, mask and window, with a model that inverts what it is shown."""
    g = np.random.default_rng(sum(map(ord, kind)))
    for trial in range(6):
        width, height = (int(np.exp(g.uniform(0, 5.7))) for _ in range(2))
        given = given_as(kind, width, height, trial)
        before = raw(given).copy()
        photo = load(given)
        x, y = int(g.integers(width)), int(g.integers(height))
        boxes = [(x, y, int(g.integers(1, width + 1)), int(g.integers(1, height + 1)))]
        mask = masks.load(boxes, photo, grow=float(g.choice([0, 2.5])), invert=bool(g.random() < 0.2), allow_empty=True)
        into, shown = photo.rgb.copy(), np.zeros((height, width), bool)
        mode, blend = str(g.choice(["auto", "full"])), str(g.choice(["paste", "compensate", "match"]))
        for window in windows(mask.fill, 64, mode, g.choice([None, 0.0, 5.0])):
            seen = cut_out(window, photo.rgb)
            put_back(into, (255 - seen.x[0].transpose(1, 2, 0) * 127.5 - 127.5).astype(np.uint8), seen, blend)
            rows, columns, w = seam_weights(window)
            shown[rows, columns] |= w > 0
        image = photo.with_rgb(into, shown)
        assert image.size == (width, height)
        if isinstance(given, Image.Image):
            assert image.mode == given.mode
            np.testing.assert_array_equal(raw(image)[~shown], before[~shown])
        else:
            array = photo.array_with_rgb(into, shown)
            assert (array.shape, array.dtype) == (given.shape, given.dtype)
            np.testing.assert_array_equal(array[~shown], given[~shown])


@pytest.mark.parametrize("channels", [3, 4])
@pytest.mark.parametrize("order", ["C", "F"])
def test_whole_pixels_are_taken_and_put_as_by_an_index(channels: int, order: Literal["C", "F"]) -> None:
    """Of parts of pictures, with and without a channel beside the colours, in any order of their bytes."""
    random = np.random.default_rng(0)
    into, values = (random.integers(0, 256, (9, 8, channels), dtype=np.uint8).copy(order)[1:, 2:, :3] for _ in range(2))
    where = random.random(into.shape[:2]) < 0.5
    np.testing.assert_array_equal(taken(values, where), values[where])
    want = into.copy()
    want[where] = values[where]
    for given in (values, taken(values, where)):
        made = into.copy(order)
        put(made, given, where)
        np.testing.assert_array_equal(made, want)
        put(made[:0], values[:0], where[:0])
