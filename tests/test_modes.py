"""The table of modes: every row says the truth about its mode, and goes to RGB and back."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from moebius.errors import UsageError
from moebius.pictures.formats import ENDINGS
from moebius.pictures.modes import MODES, READ_AS, Mode
from moebius.pictures.photo import Photo, load
from moebius.pictures.pixels import luma
from moebius.pictures.save import save

HEIGHT, WIDTH = 6, 9
WANTED = (200, 100, 50)  # of 255
# How far from it, of 255, the pixel may be that a row made of it and read again.
COARSE = {"YCbCr": 3, "HSV": 4, "LAB": 6}


def pixels_of(mode: Mode) -> np.ndarray:
    """Random native pixels."""
    g, shape, dtype = np.random.default_rng(7), (HEIGHT, WIDTH, mode.channels)[: 2 + (mode.channels > 1)], np.dtype(mode.dtype)
    if dtype.kind == "b":
        return g.random(shape) < 0.5
    if dtype.kind == "f":
        return g.random(shape).astype(dtype)
    return g.integers(0, 200 if dtype.itemsize == 1 else 60000, shape).astype(dtype)


def picture_of(mode: Mode, *, transparent: bool = False) -> Image.Image | np.ndarray:
    """A picture of this mode, with a key or a palette with alpha if `transparent`."""
    pixels = pixels_of(mode)
    if mode.pillow:
        return pixels
    image = Image.fromarray(pixels) if mode.name == "1" else Image.frombytes(mode.name, (WIDTH, HEIGHT), pixels.tobytes())
    if mode.transparency == "palette":
        image.putpalette(np.random.default_rng(8).integers(0, 256, (200, 3)).astype(np.uint8).tobytes())
    if transparent and mode.keyed:
        image.info["transparency"] = {"palette": bytes([0, 90]), "unread": 0}.get(str(mode.transparency), image.getpixel((3, 2)))
    return image


def native(photo: Photo, rgb: np.ndarray) -> Image.Image | np.ndarray:
    return photo.array_with_rgb(rgb) if isinstance(photo.native, np.ndarray) else photo.with_rgb(rgb)


def as_bytes(picture: Image.Image | np.ndarray) -> np.ndarray:
    """(H, W, bytes)"""
    return np.ascontiguousarray(np.asarray(picture)).view(np.uint8).reshape(HEIGHT, WIDTH, -1)


@pytest.mark.parametrize("transparent", [False, True])
@pytest.mark.parametrize("name", MODES)
def test_every_row_goes_to_rgb_and_back(name: str, transparent: bool) -> None:
    """Nothing changed is every byte; one pixel changed is every other pixel's bytes, and that colour as near as the mode has it."""
    mode = MODES[name]
    given = picture_of(mode, transparent=transparent)
    photo = load(given)
    assert photo.mode == name
    assert np.array_equal(as_bytes(native(photo, photo.rgb)), as_bytes(given))

    white = np.iinfo(photo.rgb.dtype).max
    y, x = HEIGHT - 1, WIDTH - 1
    rgb = photo.rgb.copy()
    rgb[y, x] = np.array(WANTED) * (white // 255)
    changed = native(photo, rgb)
    others = np.ones((HEIGHT, WIDTH), bool)
    others[y, x] = False
    assert np.array_equal(as_bytes(changed)[others], as_bytes(given)[others])

    pixels = np.asarray(changed)
    got = mode.to_rgb(pixels, mode.colours(changed, None) if isinstance(changed, Image.Image) else photo.colours)[y, x] / (white // 255)
    if name == "1":
        assert set(got) == {0.0}  # the colour is darker than the middle
    elif (photo.rgb[..., :1] == photo.rgb).all():
        np.testing.assert_allclose(got, luma(np.array([WANTED], np.uint8))[0], atol=1)
    else:
        np.testing.assert_allclose(got, WANTED, atol=COARSE.get(name, 1))


@pytest.mark.parametrize("name", MODES)
def test_every_row_says_what_its_pixels_are(name: str) -> None:
    mode = MODES[name]
    given = picture_of(mode, transparent=True)
    pixels = np.asarray(given)
    assert (pixels.dtype, pixels.ndim) == (np.dtype(mode.dtype), 2 + (mode.channels > 1))
    photo = load(given)
    assert (photo.alpha is not None) == (mode.transparency in ("channel", "key", "palette"))
    assert photo.rgb.shape == (HEIGHT, WIDTH, 3)
    assert photo.rgb.dtype == (np.uint8 if pixels.dtype.itemsize == 1 else np.uint16)
    assert mode.pillow == "" or MODES[mode.pillow].pillow == ""
    assert photo.with_rgb(photo.rgb).mode == (mode.pillow or name)
    if mode.array:
        assert load(pixels).mode == name


def test_modes_are_read_as_rows() -> None:
    assert all(name not in MODES and other in MODES for name, other in READ_AS.items())


@pytest.mark.parametrize("ending", sorted(ENDINGS))
@pytest.mark.parametrize("name", [name for name, mode in MODES.items() if not mode.pillow])
def test_every_row_says_what_files_hold_it(tmp_path: Path, name: str, ending: str) -> None:
    """A file is read again in the mode the row says, and shows the same; any other format is refused."""
    photo = load(picture_of(MODES[name]))
    written, path = MODES[name].written_as(ENDINGS[ending]), tmp_path / f"out{ending}"
    if written is None:
        with pytest.raises(UsageError, match="cannot hold mode"):
            save(photo.with_rgb(photo.rgb), path)
        return
    save(photo.with_rgb(photo.rgb), path)
    again = load(path)
    assert again.mode == ("RGB" if written == "YCbCr" else written)  # Pillow reads what it wrote as YCbCr as RGB
    if ENDINGS[ending] not in ("JPEG", "AVIF") and name not in COARSE:
        white = np.iinfo(again.rgb.dtype).max
        assert np.array_equal(again.rgb // (white // 255), photo.rgb // (np.iinfo(photo.rgb.dtype).max // 255))


def test_a_mode_is_added_by_adding_its_row(monkeypatch: pytest.MonkeyPatch) -> None:
    """Grey arrays of 32 bits, of which 16 are worked on."""
    array = np.arange(0, 2**32, 2**27, dtype=np.uint32).reshape(4, 8)
    with pytest.raises(UsageError, match="an array of uint32"):
        load(array)
    row = Mode(
        "L;32",
        "=u4",
        1,
        lambda pixels, colours: np.repeat((pixels >> 16).astype(np.uint16)[..., None], 3, axis=2),
        lambda values, alpha, colours: luma(values).astype(np.uint32) << 16,
        array=True,
    )
    monkeypatch.setitem(MODES, row.name, row)
    photo = load(array)
    rgb = photo.rgb.copy()
    rgb[1, 2] = 1000
    got = photo.array_with_rgb(rgb)
    assert (photo.mode, got.dtype, int(got[1, 2])) == ("L;32", np.dtype(np.uint32), 1000 << 16)
    got[1, 2] = array[1, 2]
    assert np.array_equal(got, array)
