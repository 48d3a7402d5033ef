"""What cannot be read as a photo is one clear error; what is read with a loss is said."""

import io
from pathlib import Path

import numpy as np
import pytest
from photo_cases import png, smooth
from PIL import GifImagePlugin, Image, TiffImagePlugin

from moebius.errors import UsageError
from moebius.pictures.photo import load


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
