"""What looks like a photograph and is given as a mask, and what only looks like one."""

import io

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter
from test_mask import photo

from moebius import sample
from moebius.errors import UsageError
from moebius.pictures.look import look
from moebius.pictures.mask import load
from moebius.pictures.photo import load as load_photo
from moebius.pictures.pixels import luma


def masks_of_all_kinds() -> dict[str, Image.Image]:
    """What people draw, blurred, small, in colour, and as JPEGs of low quality."""
    shapes = Image.new("L", (400, 300))
    draw = ImageDraw.Draw(shapes)
    draw.ellipse((40, 40, 190, 200), fill=255)
    draw.rectangle((250, 150, 350, 280), fill=255)
    draw.line((0, 0, 400, 300), fill=255, width=9)
    dots = Image.fromarray(np.uint8(255) * (np.random.default_rng(0).random((300, 400)) < 0.5))
    kinds = {"hard": shapes, "soft": shapes.filter(ImageFilter.GaussianBlur(3)), "softer": shapes.filter(ImageFilter.GaussianBlur(12))}
    kinds |= {"red": Image.merge("RGB", [shapes, *[Image.new("L", shapes.size)] * 2]), "dots": dots}
    for name, image in list(kinds.items()):
        if name != "dots":
            file = io.BytesIO()
            image.save(file, "JPEG", quality=30)
            kinds[f"{name} JPEG"] = Image.open(file)
    return kinds


@pytest.mark.parametrize("name", ["hard", "soft", "softer", "red", "dots", "hard JPEG", "soft JPEG", "softer JPEG", "red JPEG"])
def test_masks_do_not_look_like_photographs(name: str) -> None:
    seen = look(np.asarray(masks_of_all_kinds()[name].convert("RGB")))
    assert not seen.photograph
    assert seen.mask or name.startswith("red") or name == "softer JPEG"


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("grey", [False, True])
def test_a_mask_that_looks_like_a_photograph_is_refused(grey: bool, dtype: type) -> None:
    with Image.open(sample.photo()) as image:
        picture = np.asarray(image.convert("L" if grey else "RGB")).astype(dtype) * dtype(np.iinfo(dtype).max // 255)
    with Image.open(sample.mask()) as image:
        mask = np.asarray(image.convert("L"))
    height, width = mask.shape
    with pytest.raises(UsageError, match="looks like a photograph"):
        load(picture, photo(width, height))
    with pytest.raises(UsageError, match="swapped"):
        load(picture, load_photo(mask))
    forced = load(picture, load_photo(mask), force=True)
    assert "swapped" in forced.notes[0]
    np.testing.assert_array_equal(forced.fill, (luma(picture) if not grey else picture) > np.iinfo(dtype).max // 2)


def test_the_files_are_named_that_may_be_swapped(tmp_path) -> None:
    for name, source in (("a.png", sample.photo()), ("b.png", sample.mask())):
        (tmp_path / name).write_bytes(source.read_bytes())
    with pytest.raises(UsageError) as caught:
        load(tmp_path / "a.png", load_photo(tmp_path / "b.png"))
    assert f"{tmp_path / 'b.png'} looks like the mask" in str(caught.value)
    assert str(caught.value).startswith(str(tmp_path / "a.png"))


def test_a_photo_with_a_hole_in_it_is_no_mask() -> None:
    with Image.open(sample.photo()) as image:
        holed = image.convert("RGBA")
    holed.paste((0, 0, 0, 0), (10, 10, 60, 60))
    with pytest.raises(UsageError, match="looks like a photograph"):
        load(holed, photo(*holed.size))
    paint = Image.new("RGBA", holed.size)
    paint.paste(holed.crop((100, 100, 130, 130)), (50, 50))  # a colourful brush
    assert load(paint, photo(*holed.size)).fill.sum() == 900
