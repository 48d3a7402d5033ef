"""Photos in every format: read upright, written with every byte outside the change, whole or not at all."""

import io
import os
import struct
import sys
import types
from pathlib import Path

import numpy as np
import pytest
from photo_cases import SRGB, changed_photo, in_mode, raw, smooth, some, tagged
from PIL import Image, ImageFile, features

from moebius.errors import MoebiusError, UsageError
from moebius.pictures.formats import ENDINGS
from moebius.pictures.metadata import read_metadata
from moebius.pictures.photo import load
from moebius.pictures.save import save

# Formats


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
