"""What comes with a photo, and is kept: EXIF, profile, texts, comments. The settings of a fill go with it, and no path of this machine."""

import io
import json
import struct
from pathlib import Path

import numpy as np
import pytest
from photo_cases import SRGB, smooth, tagged
from PIL import Image, PngImagePlugin

from moebius.errors import UsageError
from moebius.pictures.metadata import read_metadata
from moebius.pictures.photo import Photo, load
from moebius.pictures.save import save


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


def test_json_is_what_is_in_the_png(tmp_path: Path) -> None:
    """Other programs can read it."""
    save(smooth(8, 8), tmp_path / "out.png", metadata={"seed": 1, "name": "漢字"})
    with Image.open(tmp_path / "out.png") as image:
        assert json.loads(image.info["moebius"]) == {"seed": 1, "name": "漢字"}
