"""Pictures in every mode and format: what comes out is what went in, but for what was changed."""

import io
import json
import os
import struct
import sys
import types
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from PIL import GifImagePlugin, Image, ImageCms, ImageFile, PngImagePlugin, TiffImagePlugin, features

from moebius.errors import MoebiusError, UsageError
from moebius.pictures import mask as masks
from moebius.pictures.blend import put_back, seam_weights
from moebius.pictures.cut import cut_out
from moebius.pictures.formats import ENDINGS
from moebius.pictures.metadata import read_metadata
from moebius.pictures.photo import Photo, load
from moebius.pictures.pixels import bounds, luma, put, taken
from moebius.pictures.save import save
from moebius.pictures.windows import windows

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


# In and out of modes


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


# Files


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif", ".webp"])
def test_orientation_is_honoured_once(tmp_path: Path, orientation: int, suffix: str) -> None:
    upright = np.asarray(smooth(24, 16))
    turned = {
        1: lambda a: a,
        2: np.fliplr,
        3: lambda a: np.rot90(a, 2),
        4: np.flipud,
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: np.rot90(a, 1),
        7: lambda a: np.rot90(a, 2).transpose(1, 0, 2),
        8: lambda a: np.rot90(a, -1),
    }[orientation](upright)
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = orientation, "Maker"
    options = {"lossless": True} if suffix == ".webp" else {"quality": 100, "subsampling": 0} if suffix == ".jpg" else {}
    Image.fromarray(np.ascontiguousarray(turned)).save(tmp_path / f"in{suffix}", exif=exif, **options)
    photo = load(tmp_path / f"in{suffix}")
    assert photo.size == (24, 16)
    assert np.abs(photo.rgb.astype(int) - upright).max() <= (8 if suffix == ".jpg" else 0)
    save(photo.with_rgb(photo.rgb), tmp_path / f"out{suffix}", like=photo)
    with Image.open(tmp_path / f"out{suffix}") as image:
        assert image.getexif().get(0x0112, 1) == 1
        assert image.getexif()[0x010F] == "Maker"
    assert load(tmp_path / f"out{suffix}").size == (24, 16)


LOSSLESS = {
    ".png": ["1", "L", "L key", "LA", "P", "P few", "P key", "P alpha", "RGB", "RGB key", "RGBA", "I;16"],
    ".tif": ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "I;16B", "I", "F", "F wide"],
    ".webp": ["RGB", "RGBA"],
    ".bmp": ["1", "L", "P", "RGB"],
    ".gif": ["L", "P"],
}


@pytest.mark.parametrize(("suffix", "mode"), [(suffix, mode) for suffix, modes in LOSSLESS.items() for mode in modes])
def test_files_keep_every_byte_outside_the_change(tmp_path: Path, suffix: str, mode: str) -> None:
    """A file of the mode is read, filled, written and read again."""
    path, out = tmp_path / f"in{suffix}", tmp_path / f"out{suffix.upper()}"
    options = {"lossless": True, "exact": True} if suffix == ".webp" else {}
    in_mode(mode, 45, 33).save(path, **options)
    photo, where = load(path), some(33, 45)
    assert photo.format == ENDINGS[suffix]
    filled = photo.with_rgb(changed_photo(photo, where))
    assert save(filled, out, like=photo) == ()
    again = load(out)
    assert again.native.mode == filled.mode == photo.mode
    np.testing.assert_array_equal(raw(again.native), raw(filled))
    np.testing.assert_array_equal(again.rgb, load(filled).rgb)
    np.testing.assert_array_equal(again.rgb[~where], photo.rgb[~where])
    if photo.alpha is not None:
        np.testing.assert_array_equal(again.alpha, photo.alpha)


AVIF = pytest.mark.skipif(not features.check("avif"), reason="this Pillow has no AVIF")


@AVIF
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P key", "1"])
def test_avif_is_read_and_written_with_what_comes_with_it(tmp_path: Path, mode: str) -> None:
    image = in_mode(mode, 40, 30)
    photo = load(tagged(tmp_path, ".avif"))
    assert (photo.format, photo.extras.icc) == ("AVIF", SRGB)
    assert save(image, tmp_path / "out.avif", like=photo, metadata={"seed": 3}, quality=100) == ()
    assert read_metadata(tmp_path / "out.avif") == {"seed": 3}
    again, before = load(tmp_path / "out.avif"), load(image)
    assert again.mode == ("RGBA" if before.alpha is not None else "RGB")
    assert again.extras.icc == SRGB
    assert b"Maker" in again.extras.exif
    seen = np.ones((30, 40), bool) if before.alpha is None else before.alpha > 200
    assert np.abs(again.rgb[seen].astype(int) - before.rgb[seen]).mean() < 6
    if before.alpha is not None:
        assert np.abs(again.alpha.astype(int) - before.alpha).max() <= 2


@AVIF
def test_an_avif_is_read_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    smooth(40, 30).save(tmp_path / "in.avif", exif=exif)
    assert (load(tmp_path / "in.avif").size, load(tmp_path / "in.avif").orientation) == ((30, 40), 6)


def test_heic_is_read_by_a_package_that_may_be_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = b"\0\0\0\x18ftypheic" + b"\0" * 20
    (tmp_path / "a.heic").write_bytes(data)
    monkeypatch.setitem(sys.modules, "pillow_heif", None)  # as where it is not installed
    for source in (data, tmp_path / "a.heic"):
        with pytest.raises(UsageError, match="pillow-heif"):
            load(source)

    class Heif(ImageFile.ImageFile):
        format = "HEIF"

        def _open(self) -> None:
            self._mode, self._size, self.tile = "RGB", (4, 3), []

        def load(self) -> None:
            self.im = smooth(4, 3).im

    def register() -> None:
        Image.register_open("HEIF", Heif, lambda prefix: prefix[4:12] == b"ftypheic")

    monkeypatch.setitem(sys.modules, "pillow_heif", types.SimpleNamespace(register_heif_opener=register))
    monkeypatch.setattr(Image, "OPEN", dict(Image.OPEN))
    monkeypatch.setattr(Image, "ID", list(Image.ID))
    for source in (data, tmp_path / "a.heic"):
        photo = load(source)
        assert (photo.size, photo.format) == ((4, 3), "HEIF")
        np.testing.assert_array_equal(photo.rgb, np.asarray(smooth(4, 3)))


def tagged(tmp_path: Path, suffix: str, mode: str = "RGB") -> Path:
    """A file with everything that is to be kept, and a thumbnail that is not."""
    exif = Image.Exif()
    exif[0x010F], exif[0x9C9C] = "Maker", "title".encode("utf-16-le")
    exif[0x8769] = {0x829A: 0.125, 0x9003: "2020:01:02 03:04:05"}
    exif[0x8825] = {1: "N", 2: (52.0, 30.0, 15.5)}
    path = tmp_path / f"tagged{suffix}"
    in_mode(mode, 32, 24).save(path, exif=exif.tobytes(), icc_profile=SRGB, **({} if suffix in (".webp", ".avif") else {"dpi": (300, 300)}))
    return path


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tif"])
@pytest.mark.parametrize("source", [".jpg", ".png", ".webp", ".tif"])
@pytest.mark.parametrize("metadata", [None, {"seed": 7, "note": "filled"}])
def test_what_comes_with_a_picture_is_kept(tmp_path: Path, source: str, suffix: str, metadata: dict | None) -> None:
    photo = load(tagged(tmp_path, source))
    out = tmp_path / f"out{suffix}"
    assert save(photo.with_rgb(photo.rgb), out, like=photo, metadata=metadata) == ()
    with Image.open(out) as image:
        image.load()
        assert image.info["icc_profile"] == SRGB
        exif = image.getexif()
        assert exif[0x010F] == "Maker"
        assert exif.get_ifd(0x8769)[0x829A] == 0.125
        assert exif.get_ifd(0x8769)[0x9003] == "2020:01:02 03:04:05"
        assert exif.get_ifd(0x8825)[2] == (52.0, 30.0, 15.5)
        if ".webp" not in (source, suffix):
            assert tuple(round(float(d)) for d in image.info["dpi"]) == (300, 300)
    assert read_metadata(out) == metadata
    again = load(out)
    assert again.extras.exif.replace(b"filled", b"") != b""
    assert read_metadata(tagged(tmp_path, source)) is None


def test_the_thumbnail_of_what_was_there_is_not_kept(tmp_path: Path) -> None:
    small = io.BytesIO()
    smooth(16, 12).save(small, "JPEG")
    thumbnail = small.getvalue()
    # A directory with the maker, and a second one that holds the thumbnail: JPEGInterchangeFormat and its length.
    first = struct.pack("<H", 1) + struct.pack("<HHI4s", 0x010F, 2, 4, b"Abc\0") + struct.pack("<I", 8 + 2 + 12 + 4)
    at = 8 + len(first) + 2 + 2 * 12 + 4
    second = struct.pack("<H", 2) + struct.pack("<HHII", 0x0201, 4, 1, at) + struct.pack("<HHII", 0x0202, 4, 1, len(thumbnail))
    block = b"Exif\0\0II*\0" + struct.pack("<I", 8) + first + second + struct.pack("<I", 0) + thumbnail
    smooth(64, 48).save(tmp_path / "in.jpg", exif=block)
    assert thumbnail in (tmp_path / "in.jpg").read_bytes()
    photo = load(tmp_path / "in.jpg")
    for suffix in (".jpg", ".png", ".webp", ".tif"):
        save(photo.with_rgb(photo.rgb), tmp_path / f"out{suffix}", like=photo)
        data = (tmp_path / f"out{suffix}").read_bytes()
        assert thumbnail not in data
        assert b"Abc" in data


def test_a_broken_exif_block_costs_only_itself(tmp_path: Path) -> None:
    g = np.random.default_rng(0)
    tagged(tmp_path, ".jpg")
    good = load(tmp_path / "tagged.jpg").extras.exif
    for trial in range(150):
        block = bytearray(good)
        for _ in range(int(g.integers(1, 12))):
            block[int(g.integers(6, len(block)))] = int(g.integers(256))
        smooth(16, 12).save(tmp_path / "in.jpg", exif=bytes(block[: int(g.integers(10, len(block) + 1))] if trial % 2 else block))
        photo = load(tmp_path / "in.jpg")
        assert photo.rgb.size == 16 * 12 * 3
        save(photo.with_rgb(photo.rgb), tmp_path / "out.jpg", like=photo, metadata={})
        assert read_metadata(tmp_path / "out.jpg") == {}


def test_texts_colours_and_xmp_of_a_png_are_kept(tmp_path: Path) -> None:
    info = PngImagePlugin.PngInfo()
    info.add(b"gAMA", struct.pack(">I", 45455))
    info.add(b"cHRM", struct.pack(">8I", *range(30000, 30008)))
    info.add_text("Comment", "mine")
    info.add_text("Comment 2", "ÿ and 漢字")
    info.add_text("moebius", '{"old": 1}')
    info.add_itxt("XML:com.adobe.xmp", "<x:xmpmeta/>")
    smooth(8, 8).save(tmp_path / "in.png", pnginfo=info)
    photo = load(tmp_path / "in.png")
    save(photo.with_rgb(photo.rgb), tmp_path / "out.png", like=photo, metadata={"new": 2})
    with Image.open(tmp_path / "out.png") as image:
        image.load()
        assert image.info["Comment"] == "mine"
        assert image.info["Comment 2"] == "ÿ and 漢字"
        assert image.info["gamma"] == pytest.approx(0.45455)
        assert image.info["chromaticity"][0] == pytest.approx(0.3)
        assert image.info["xmp"] == b"<x:xmpmeta/>"
    assert read_metadata(tmp_path / "out.png") == {"new": 2}
    save(photo.with_rgb(photo.rgb), tmp_path / "out.jpg", like=photo)
    with Image.open(tmp_path / "out.jpg") as image:
        assert image.info["xmp"] == b"<x:xmpmeta/>"


def test_without_a_photo_to_be_like_nothing_is_kept(tmp_path: Path) -> None:
    photo = load(tagged(tmp_path, ".jpg"))
    for suffix in (".jpg", ".webp", ".tif"):
        save(photo.with_rgb(photo.rgb), tmp_path / f"out{suffix}")
        assert b"Maker" not in (tmp_path / f"out{suffix}").read_bytes()
        assert b"2020:01:02" not in (tmp_path / f"out{suffix}").read_bytes()


def test_no_path_of_this_machine_is_written(tmp_path: Path) -> None:
    record = {
        "image": str(tmp_path / "photo.jpg"),
        "mask": tmp_path / "mask.png",
        "weights": ["~/models/x.bin", "C:\\models\\y.bin", "\\\\server\\share\\z.bin", "file:///models/w.bin"],
        "deep": {"a": [{"b": "/secret/c"}]},
        "seed": np.int64(7),
        "guidance": np.float32(2.5),
        "prompt": "a/b stays",
    }
    for suffix in (".png", ".jpg", ".webp", ".tif"):
        save(smooth(8, 8), tmp_path / f"out{suffix}", metadata=record)
        assert read_metadata(tmp_path / f"out{suffix}") == {
            "image": "photo.jpg",
            "mask": "mask.png",
            "weights": ["x.bin", "y.bin", "z.bin", "w.bin"],
            "deep": {"a": [{"b": "c"}]},
            "seed": 7,
            "guidance": 2.5,
            "prompt": "a/b stays",
        }
        assert str(tmp_path).encode() not in (tmp_path / f"out{suffix}").read_bytes()


def test_metadata_of_others_is_not_taken_for_ours(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x8769] = {0x9286: b'ASCII\0\0\0{"camera": 1}'}
    smooth(8, 8).save(tmp_path / "a.jpg", exif=exif)
    assert read_metadata(tmp_path / "a.jpg") is None
    for text in ("{", "[1]", "7", '"text"', "[" * 100000, "nul"):
        info = PngImagePlugin.PngInfo()
        info.add_text("moebius", text)
        smooth(8, 8).save(tmp_path / "b.png", pnginfo=info)
        with pytest.raises(UsageError, match="not what this program writes"):
            read_metadata(tmp_path / "b.png")


WORDS = b"ASCII\0\0\0the harbour, from the north"


def commented(path: Path, **comments: bytes) -> Photo:
    exif = Image.Exif()
    exif[0x8769] = {{"comment": 0x9286, "history": 0x9213}[name]: text for name, text in comments.items()}
    smooth(8, 8).save(path, exif=exif.tobytes(), **({"lossless": True} if path.suffix == ".webp" else {}))
    return load(path)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tif"])
def test_a_comment_of_the_photos_own_is_kept(tmp_path: Path, suffix: str) -> None:
    """Through two fills: the record of the first is replaced, and the comment is not."""
    path = tmp_path / f"in{suffix}"
    photo = commented(path, comment=WORDS)
    for settings in ({"seed": 1}, {"seed": 2}, None):
        path = tmp_path / f"out{suffix}"
        assert save(photo.with_rgb(photo.rgb), path, like=photo, metadata=settings) == ()
        with Image.open(path) as image:
            assert image.getexif().get_ifd(0x8769)[0x9286] == WORDS
        assert read_metadata(path) == settings
        photo = load(path)


def test_a_blank_comment_is_no_comment_and_an_old_record_is_not_kept(tmp_path: Path) -> None:
    photo = commented(tmp_path / "in.jpg", comment=b"ASCII\0\0\0" + b" " * 40)
    save(photo.with_rgb(photo.rgb), tmp_path / "a.jpg", like=photo, metadata={"seed": 1})
    assert b"seed" in load_ifd(tmp_path / "a.jpg")[0x9286]
    again = load(tmp_path / "a.jpg")
    for suffix in (".jpg", ".png"):
        save(again.with_rgb(again.rgb), tmp_path / f"b{suffix}", like=again)
        assert b"seed" not in (tmp_path / f"b{suffix}").read_bytes()


def load_ifd(path: Path) -> dict:
    with Image.open(path) as image:
        return image.getexif().get_ifd(0x8769)


def test_where_there_is_no_place_for_the_settings_they_are_left_out_and_said(tmp_path: Path) -> None:
    photo = commented(tmp_path / "in.jpg", comment=WORDS, history=b"developed in 1998")
    (note,) = save(photo.with_rgb(photo.rgb), tmp_path / "out.jpg", like=photo, metadata={"seed": 1})
    assert "settings are left out" in note
    assert read_metadata(tmp_path / "out.jpg") is None
    entries = load_ifd(tmp_path / "out.jpg")
    assert entries[0x9286] == WORDS
    assert "1998" in str(entries[0x9213])


def test_metadata_too_large_for_a_jpeg_is_left_out_and_said(tmp_path: Path) -> None:
    photo = load(tagged(tmp_path, ".jpg"))
    (note,) = save(photo.with_rgb(photo.rgb), tmp_path / "out.jpg", like=photo, metadata={"long": "x" * 70000})
    assert "settings are left out" in note
    assert b"Maker" in (tmp_path / "out.jpg").read_bytes()
    assert read_metadata(tmp_path / "out.jpg") is None


@pytest.mark.parametrize("suffix", [".bmp", ".gif"])
def test_formats_without_metadata_say_so(tmp_path: Path, suffix: str) -> None:
    (note,) = save(smooth(8, 8).convert("L"), tmp_path / f"out{suffix}", metadata={"a": 1})
    assert "left out" in note


def test_a_jpeg_is_good_and_small_on_request(tmp_path: Path) -> None:
    grain = np.random.default_rng(0).integers(0, 60, (200, 300, 3))
    Image.fromarray((np.asarray(smooth(300, 200)) * 0.7 + grain).astype(np.uint8)).save(tmp_path / "in.jpg", quality=60)
    photo = load(tmp_path / "in.jpg")
    image = photo.with_rgb(photo.rgb)
    save(image, tmp_path / "best.jpg", like=photo)
    save(image, tmp_path / "keep.jpg", like=photo, quality="keep")
    with Image.open(tmp_path / "in.jpg") as given, Image.open(tmp_path / "keep.jpg") as kept, Image.open(tmp_path / "best.jpg") as best:
        assert kept.quantization == given.quantization
        assert kept.layer == given.layer
        assert [c[1:3] for c in best.layer] == [(1, 1)] * 3
    sizes = {name: (tmp_path / f"{name}.jpg").stat().st_size for name in ("in", "keep", "best")}
    assert sizes["keep"] < 1.1 * sizes["in"] < sizes["best"]
    save(smooth(8, 8), tmp_path / "keep.jpg", like=load(smooth(8, 8)), quality="keep")  # nothing to keep: 95
    save(smooth(8, 8), tmp_path / "q.webp", quality=50)


@pytest.mark.parametrize(
    ("mode", "suffix", "becomes"),
    [
        ("1", ".jpg", "L"),
        ("P", ".jpg", "RGB"),
        ("YCbCr", ".jpg", "RGB"),
        ("L", ".webp", "RGB"),
        ("LA", ".webp", "RGBA"),
        ("P key", ".webp", "RGBA"),
        ("P alpha", ".tif", "RGBA"),
        ("P RGBA", ".tif", "RGBA"),
        ("RGB key", ".webp", "RGBA"),
        ("L key", ".tif", "RGBA"),
        ("I;16B", ".png", "I;16"),
        ("I;16L", ".png", "I;16"),
        ("I;16L", ".tif", "I;16"),
    ],
)
def test_modes_a_format_lacks_become_ones_it_has(tmp_path: Path, mode: str, suffix: str, becomes: str) -> None:
    photo = load(in_mode(mode, 20, 10))
    save(photo.with_rgb(photo.rgb), tmp_path / f"out{suffix}", like=photo)
    again = load(tmp_path / f"out{suffix}")
    assert again.mode == becomes
    if suffix != ".jpg":
        np.testing.assert_array_equal(again.rgb, photo.rgb)
        if photo.alpha is not None:
            np.testing.assert_array_equal(again.alpha, photo.alpha)


@pytest.mark.parametrize("first", [".webp", ".tif", ".png", ".gif"])
@pytest.mark.parametrize("mode", ["P key", "L key", "RGB key"])
def test_a_picture_with_a_key_can_be_saved_again(tmp_path: Path, mode: str, first: str) -> None:
    """Saving changes nothing of the picture that is saved."""
    image = load(in_mode(mode, 20, 10)).with_rgb(255 - load(in_mode(mode, 20, 10)).rgb)
    before, photo = raw(image).copy(), load(image)
    for name in [name for name in (f"a{first}", "b.gif", "c.webp", "d.png") if mode != "RGB key" or not name.endswith(".gif")]:
        save(image, tmp_path / name)
        again = load(tmp_path / name)
        np.testing.assert_array_equal(again.alpha, photo.alpha)
        np.testing.assert_array_equal(again.rgb[photo.alpha > 0], photo.rgb[photo.alpha > 0])
        np.testing.assert_array_equal(raw(image), before)


def test_a_gif_has_one_transparent_entry_for_several(tmp_path: Path) -> None:
    image = in_mode("P few", 20, 10)
    image.info["transparency"] = bytes([255, 0, 255, 0])
    photo = load(image)
    assert save(photo.with_rgb(photo.rgb), tmp_path / "out.gif") == ()
    again = load(tmp_path / "out.gif")
    np.testing.assert_array_equal(again.alpha, photo.alpha)
    np.testing.assert_array_equal(again.rgb[photo.alpha > 0], photo.rgb[photo.alpha > 0])


@pytest.mark.parametrize(
    ("mode", "name", "says"),
    [
        ("RGB", "out", "no ending that says what to write; use .png, .jpg"),
        ("RGB", "out.psd", "no ending that says what to write"),
        ("RGBA", "out.jpg", "cannot hold mode RGBA; use .png or .webp or .tif"),
        ("LA", "out.jpg", "cannot hold mode LA; use .png"),
        ("P key", "out.jpg", "cannot keep the picture's transparency"),
        ("P RGBA", "out.jpg", "cannot keep the picture's transparency"),
        ("RGB key", "out.jpg", "cannot keep the picture's transparency"),
        ("L key", "out.bmp", "cannot keep the picture's transparency"),
        ("P alpha", "out.gif", "half transparent"),
        ("P RGBA", "out.gif", "half transparent"),
        ("I;16", "out.jpg", "cannot hold mode I;16; use .png or .tif"),
        ("CMYK", "out.png", "cannot hold mode CMYK; use .jpg or .tif"),
        ("F", "out.png", "cannot hold mode F; use .tif"),
        ("RGB", "out.gif", "cannot hold mode RGB"),
        ("HSV", "out.png", "use another mode"),
    ],
)
def test_what_a_format_cannot_hold_is_refused(tmp_path: Path, mode: str, name: str, says: str) -> None:
    photo = load(in_mode(mode, 8, 8))
    with pytest.raises(UsageError, match=says):
        save(photo.with_rgb(photo.rgb), tmp_path / name, like=photo)
    assert list(tmp_path.iterdir()) == []


# Writing, whole or not at all


def test_a_file_is_replaced_whole_or_left_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "out.png"
    path.write_bytes(b"before")

    def fails(self: Image.Image, file: io.BufferedWriter, **_: object) -> None:
        file.write(b"half")
        raise error

    monkeypatch.setattr(Image.Image, "save", fails)
    for error in (OSError(28, "No space left on device"), ValueError("too large"), struct.error("too large"), KeyboardInterrupt()):
        with pytest.raises(KeyboardInterrupt if isinstance(error, KeyboardInterrupt) else MoebiusError):
            save(smooth(8, 8), path)
        assert path.read_bytes() == b"before"
        assert os.listdir(tmp_path) == ["out.png"]


def test_a_link_is_replaced_and_what_it_points_to_is_not_touched(tmp_path: Path) -> None:
    target, link = tmp_path / "target.png", tmp_path / "link.png"
    target.write_bytes(b"precious")
    link.symlink_to(target)
    save(smooth(8, 8), link)
    assert target.read_bytes() == b"precious"
    assert not link.is_symlink()
    assert load(link).size == (8, 8)


def test_a_file_gets_the_rights_new_files_have(tmp_path: Path) -> None:
    (tmp_path / "other").touch()
    save(smooth(8, 8), tmp_path / "out.png")
    assert (tmp_path / "out.png").stat().st_mode == (tmp_path / "other").stat().st_mode


def test_long_names_and_folders_that_are_not_there(tmp_path: Path) -> None:
    save(smooth(8, 8), tmp_path / ("x" * 251 + ".png"))
    (tmp_path / "folder.png").mkdir()
    for path in (tmp_path / "nowhere" / "out.png", tmp_path / "folder.png"):
        with pytest.raises(MoebiusError, match="cannot be written"):
            save(smooth(8, 8), path)
    assert len(os.listdir(tmp_path)) == 2


# What cannot be read


def png(width: int, height: int, depth: int, colour: int, data: bytes) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("nowhere.png", "nowhere.png cannot be read as a picture: No such file"),
        (".", "cannot be read as a picture: Is a directory"),
        (b"", "is not a PNG, JPEG"),
        (b"%PDF-1.4", "is not a PNG"),
        (b"\0\0\0\x18ftypheic", "pip install pillow-heif"),
        (b"\0\0\0\x18ftypmp42", "is not a PNG"),
        (png(20000, 20000, 8, 2, b""), "has more than 178,956,970 pixels"),
        (png(12000, 10000, 8, 2, b""), "12000×10000 = 120,000,000 pixels; the limit is 100,000,000"),
        (png(0, 5, 8, 2, b""), "The image"),
        (Image.new("RGB", (0, 5)), "The image is empty: 0×5"),
        (np.zeros((5, 0, 3), np.uint8), "The image is empty: 0×5"),
        (np.zeros((5, 5, 2), np.uint8), r"shape \(5, 5, 2\)"),
        (np.zeros(5, np.uint8), r"shape \(5,\)"),
        (np.zeros((5, 5), np.int32), "an array of int32"),
        (np.full((5, 5), 1.5), "not all from 0 to 1"),
        (np.full((5, 5), np.nan), "not all from 0 to 1"),
        (np.zeros((5, 5, 3), bool), "an array of bool"),
        (None, "is a NoneType; give a path"),
    ],
)
def test_what_cannot_be_read_is_one_clear_error(source: object, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        load(source)


def test_the_limit_can_be_set() -> None:
    for given in (smooth(20, 20), np.zeros((20, 20), np.uint8), png(20, 20, 8, 0, bytes(21 * 20))):
        assert load(given, max_pixels=400).size == (20, 20)
        with pytest.raises(UsageError, match="400 pixels; the limit is 399"):
            load(given, max_pixels=399)


@pytest.mark.filterwarnings("error")
def test_pillows_warning_about_size_is_not_the_users() -> None:
    with pytest.raises(UsageError, match=r"broken|cannot be read"):
        load(png(9999, 9999, 8, 0, b"\0" * 9999))  # 100 megapixels of which one row is there


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tif", ".gif", ".bmp"])
def test_broken_files_are_errors_or_pictures(tmp_path: Path, suffix: str) -> None:
    """Cut anywhere, or with bytes flipped: a photo or one UsageError, and nothing else."""
    image = smooth(40, 30)
    image = image.quantize(16) if suffix == ".gif" else image
    image.save(tmp_path / f"in{suffix}", **({"compression": "tiff_lzw"} if suffix == ".tif" else {}))
    data = (tmp_path / f"in{suffix}").read_bytes()
    g, errors = np.random.default_rng(0), []
    for trial in range(120):
        broken = bytearray(data)
        if trial < 40:
            broken = broken[: len(data) * trial // 40]
        else:
            for _ in range(int(g.integers(1, 6))):
                broken[int(g.integers(min(len(data), 200 if trial % 2 else len(data))))] = int(g.integers(256))
        try:
            photo = load(bytes(broken), max_pixels=10_000_000)
            assert photo.rgb.dtype in (np.uint8, np.uint16)
            photo.with_rgb(photo.rgb)
        except UsageError as error:
            errors.append(str(error))
    assert len(errors) > 20
    assert not any("\n" in error for error in errors)


def test_a_pil_picture_whose_file_is_cut_is_an_error(tmp_path: Path) -> None:
    smooth(200, 200).save(tmp_path / "in.png")
    data = (tmp_path / "in.png").read_bytes()
    with Image.open(io.BytesIO(data[: len(data) // 2])) as image, pytest.raises(UsageError, match="The image"):
        load(image)


@pytest.mark.parametrize("suffix", [".gif", ".png", ".webp", ".tif"])
def test_of_an_animation_the_first_frame_is_taken_and_said(tmp_path: Path, suffix: str) -> None:
    first, second = Image.new("RGB", (9, 9), (200, 0, 0)), Image.new("RGB", (9, 9), (0, 0, 200))
    options = {"lossless": True} if suffix == ".webp" else {}
    first.save(tmp_path / f"in{suffix}", save_all=True, append_images=[second], **options)
    photo = load(tmp_path / f"in{suffix}")
    assert photo.rgb[0, 0].tolist() == [200, 0, 0]
    assert "frame" in photo.notes[0]
    with Image.open(tmp_path / f"in{suffix}") as image:
        image.seek(1)
        assert load(image).rgb[0, 0].tolist() == [200, 0, 0]


@pytest.mark.parametrize("kind", [GifImagePlugin.GifImageFile, TiffImagePlugin.TiffImageFile])
def test_frames_are_not_counted(monkeypatch: pytest.MonkeyPatch, kind: type[Image.Image]) -> None:
    """A file of some megabytes can have so many that it takes hours."""
    file = io.BytesIO()
    first, *others = (Image.new("L", (9, 9), grey) for grey in (0, 100, 200))
    first.save(file, kind.format, save_all=True, append_images=others)
    monkeypatch.setattr(kind, "n_frames", property(lambda _: pytest.fail("they were counted")))
    assert len(load(file.getvalue()).notes) == 1


def test_sixteen_bits_of_colour_are_said_to_be_read_as_eight() -> None:
    data = png(2, 2, 16, 2, (b"\0" + bytes(range(12))) * 2)
    photo = load(data)
    assert photo.rgb.dtype == np.uint8
    assert "16 bits a channel" in photo.notes[0]
    assert load(png(2, 2, 16, 0, (b"\0" + bytes(range(4))) * 2)).notes == ()


@pytest.mark.parametrize(
    ("rgb", "changed", "says"),
    [
        (np.zeros((8, 9, 3), np.uint8), None, r"\(8, 9, 3\) uint8"),
        (np.zeros((8, 8, 3), np.uint16), None, "uint16; this photo takes"),
        (np.zeros((8, 8, 3), np.uint8), np.zeros((9, 8), bool), r"marked in \(9, 8\)"),
    ],
)
def test_pixels_of_another_photo_are_refused(rgb: np.ndarray, changed: np.ndarray | None, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        load(smooth(8, 8)).with_rgb(rgb, changed)


# All together


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


def test_json_is_what_is_in_the_png(tmp_path: Path) -> None:
    """Other programs can read it."""
    save(smooth(8, 8), tmp_path / "out.png", metadata={"seed": 1, "name": "漢字"})
    with Image.open(tmp_path / "out.png") as image:
        assert json.loads(image.info["moebius"]) == {"seed": 1, "name": "漢字"}


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
