"""What a run gives: shown in a notebook, written to files and bytes, and sent to another process."""

from __future__ import annotations

import copy
import io
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from inpainter_cases import BOXES, PHOTO
from PIL import Image

from moebius.errors import UsageError
from moebius.inpaint.inpainter import Inpainter
from moebius.inpaint.result import Result
from moebius.pictures.metadata import read_metadata

pytest_plugins = ("inpainter_fixtures",)


def palette_with_alpha() -> Image.Image:
    image = Image.new("P", (90, 40), 1)
    image.putpalette([1, 2, 3, 255, 5, 6, 7, 255, 9, 9, 9, 0], "RGBA")
    image.paste(2, (80, 0, 90, 5))
    return image


PICTURES: dict[str, Any] = {
    "array": PHOTO,
    "16 bits": PHOTO.astype(np.uint16) * 257,
    **{mode: Image.fromarray(PHOTO).convert(mode) for mode in ("RGB", "L", "RGBA", "P", "1", "CMYK", "I", "F")},
    "palette with alpha": palette_with_alpha(),
}


@pytest.fixture(scope="module")
def result(small: Inpainter) -> Result:
    return small(PHOTO, BOXES, steps=2, seed=7, num_images=2)


@pytest.mark.parametrize("name", PICTURES)
def test_it_goes_through_pickle_unchanged(name: str, small: Inpainter) -> None:
    made = small(PICTURES[name], BOXES, steps=2)
    data = pickle.dumps(made)
    for other in (pickle.loads(data), copy.deepcopy(made)):
        for mine, theirs in (
            (made.images, other.images),
            (made.raws, other.raws),
            (made.arrays, other.arrays),
            ([made.latents], [other.latents]),
        ):
            for a, b in zip(mine, theirs, strict=True):
                np.testing.assert_array_equal(np.asarray(a), np.asarray(b))
        assert (other.timings, other.metadata, other.notes) == (made.timings, made.metadata, made.notes)
        assert [(w.x, w.y, w.width, w.height) for w in other.windows] == [(w.x, w.y, w.width, w.height) for w in made.windows]
        assert other.to_bytes("tif") == made.to_bytes("tif")
        np.testing.assert_array_equal(np.asarray(other.image.convert("RGBA")), np.asarray(made.image.convert("RGBA")))
        assert not other.photo.rgb.flags.writeable


def test_another_process_needs_no_model_for_it(result: Result, tmp_path: Path) -> None:
    (tmp_path / "a.pickle").write_bytes(pickle.dumps(result))
    program = (
        "import pickle, sys; r = pickle.load(open('a.pickle', 'rb')); r.save('a.png', index=1)\n"
        "sys.exit(any(m in sys.modules for m in ('wgpu', 'moebius.backends.cpu', 'moebius.model.unet')))"
    )
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=True)
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "a.png")), np.asarray(result.images[1]))
    assert (read_metadata(tmp_path / "a.png") or {})["seed"] == 8


@pytest.mark.parametrize("name", PICTURES)
def test_a_notebook_shows_it(name: str, small: Inpainter) -> None:
    made = small(PICTURES[name], BOXES, steps=2)
    shown = Image.open(io.BytesIO(made._repr_png_()))
    assert (shown.format, shown.size) == ("PNG", (90, 40))
    assert "moebius" not in shown.info
    assert np.asarray(shown.convert("L")).std() > 5 or name == "palette with alpha"  # neither white nor black
    assert len(repr(made)) < 120
    assert "90×40" in repr(made)
    assert "\n" not in repr(made)


@pytest.mark.parametrize(
    ("name", "kind"), [("png", "PNG"), ("JPG", "JPEG"), (".webp", "WEBP"), ("tif", "TIFF"), ("bmp", "BMP"), ("jpeg", "JPEG")]
)
def test_a_file_object_gets_the_bytes_of_the_file(name: str, kind: str, result: Result, tmp_path: Path) -> None:
    path, file = tmp_path / f"a.{name.strip('.')}", io.BytesIO()
    notes = result.save(path, index=1)
    assert result.save(file, format=name, index=1) == notes
    assert file.getvalue() == path.read_bytes() == result.to_bytes(name, index=1)
    assert Image.open(file).format == kind
    assert not file.closed


def test_the_seed_in_a_file_is_that_of_its_image(result: Result, tmp_path: Path) -> None:
    for index, seed in ((0, 7), (1, 8), (-1, 8), (-2, 7)):
        (tmp_path / "a.png").write_bytes(result.to_bytes(index=index))
        assert (read_metadata(tmp_path / "a.png") or {})["seed"] == seed
    (tmp_path / "a.png").write_bytes(result.to_bytes(metadata=False))
    assert read_metadata(tmp_path / "a.png") is None


def test_what_it_refuses(result: Result, tmp_path: Path) -> None:
    file, path = io.BytesIO(), tmp_path / "a.png"
    with (tmp_path / "text").open("w") as text:
        for call in (
            lambda: result.save(file),
            lambda: result.save(file, format="exe"),
            lambda: result.save(file, format=""),
            lambda: result.save(text, format="png"),
            lambda: result.save(path, format="png"),
            lambda: result.save(None),
            lambda: result.save(path, index=2),
            lambda: result.save(path, index=0.5),
            lambda: result.save(path, quality="best"),
            lambda: result.save(path, quality=0),
            lambda: result.to_bytes("xcf"),
        ):
            with pytest.raises(UsageError):
                call()
    assert file.getvalue() == b""
    assert not path.exists()
