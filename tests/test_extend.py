"""A larger canvas around the photo: what is new is filled, what was there keeps its bytes, in every mode."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from moebius.backends.cpu import CPU
from moebius.cli.main import run as command
from moebius.errors import UsageError
from moebius.inpaint.inpainter import Inpainter
from moebius.inpaint.settings import Settings
from moebius.model import unet, vae
from moebius.model.synthetic import synthetic
from moebius.model.unet import UNet, UNetConfig
from moebius.model.vae import VAE, VAEConfig
from moebius.pictures import photo as photos
from moebius.pictures.extend import extended, extended_size, nothing
from moebius.pictures.metadata import read_metadata

SIDES = (7, 0, 12, 5)
INSIDE = np.s_[0:40, 7:67]
RGB = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)


@pytest.fixture(scope="module")
def inpaint() -> Inpainter:
    """Windows of 32 pixels."""
    ops, net = CPU(threads=1), VAEConfig((8, 8, 8, 8), layers_per_block=1, norm_num_groups=4)
    config = UNetConfig(
        4, block_out_channels=(8,), heads=2, layers_per_block=1, cross_attention_dim=8, encoder_hid_dim=8, norm_num_groups=4
    )
    return Inpainter(UNet(config, synthetic(unet.shapes(config), 0), ops), VAE(net, synthetic(vae.shapes(net), 0), ops))


def pictures() -> dict[str, Image.Image | np.ndarray]:
    """One of every kind of mode; those with transparency have a part that is."""
    image = Image.fromarray(RGB)
    grey, half = image.convert("L"), Image.fromarray(np.where(np.arange(60) < 9, 0, 255).astype(np.uint8)[None].repeat(40, 0))
    see_through = image.copy()
    see_through.putalpha(half)
    keyed = image.quantize(32)
    keyed.info["transparency"] = 3
    return {
        **{"RGB": image, "L": grey, "1": grey.convert("1"), "CMYK": image.convert("CMYK"), "P": image.quantize(32), "keyed": keyed},
        **{"RGBA": see_through, "LA": see_through.convert("LA"), "I;16": Image.fromarray(RGB[..., 0].astype(np.uint16) * 257)},
        **{
            "array": RGB,
            "floats": RGB[..., :1].astype(np.float32) / 255,
            "uint16 with alpha": np.dstack([RGB, RGB[..., 0]]).astype(np.uint16),
        },
    }


@pytest.mark.parametrize("mode", pictures())
def test_the_photo_keeps_its_bytes_in_every_mode(mode: str) -> None:
    photo = photos.load(pictures()[mode])
    larger, mask = extended(photo, nothing(photo), SIDES, 0, 10**6)
    assert larger.size == (79, 45)
    assert np.array_equal(larger.rgb[INSIDE], photo.rgb)
    assert mask.fill.sum() == 79 * 45 - 60 * 40
    assert not mask.fill[INSIDE].any()
    if photo.alpha is not None and larger.alpha is not None:
        assert np.array_equal(larger.alpha[INSIDE], photo.alpha)
        assert (larger.alpha[mask.fill] == np.iinfo(larger.alpha.dtype).max).all(), "what is new is opaque"
    assert larger.mode == ("RGBA" if mode == "keyed" else photo.mode)
    assert np.array_equal(larger.rgb[0, :7], photo.rgb[0, 1:8][::-1]), "until it is filled the reflection stands there"
    filled = larger.with_rgb(np.where(mask.fill[..., None], 0, larger.rgb).astype(larger.rgb.dtype), mask.fill)
    assert filled.size == (79, 45)


def test_a_run_fills_it_and_says_so(inpaint: Inpainter) -> None:
    result = inpaint(RGB, extend=SIDES, steps=2, feather=0)
    (got,) = result.arrays
    assert got.shape == (45, 79, 3)
    assert np.array_equal(got[INSIDE], RGB)
    reflected, _ = extended(photos.load(RGB), nothing(photos.load(RGB)), SIDES, 0, 10**6)
    assert (got != reflected.rgb).any(axis=2)[:, 67:].mean() > 0.9
    assert result.metadata["extend"] == SIDES
    read = read_metadata(result.to_bytes())
    assert read is not None
    assert read["extend"] == list(SIDES)
    assert Settings(extend=read["extend"]) == Settings(extend=SIDES)
    again = inpaint(RGB, extend=SIDES, steps=2, feather=0)
    assert again.to_bytes(metadata=False) == result.to_bytes(metadata=False)


def test_with_a_mask_and_grown(inpaint: Inpainter) -> None:
    """The mask is of the photo as it came; what is grown of the new part reaches into the photo."""
    run = inpaint.steps(RGB, [(20, 10, 5, 5)], extend=SIDES)
    assert run.mask.fill[INSIDE].sum() == 25
    assert run.mask.fill[10:15, 27:32].all()
    grown = inpaint.steps(RGB, extend=SIDES, grow=2)
    assert grown.mask.fill[20, 7:9].all()
    assert not grown.mask.fill[20, 9:65].any()


def test_what_cannot_be_extended(inpaint: Inpainter) -> None:
    for wrong in ((1, 2, 3), (-1, 0, 0, 0), "1,2,3,4", (0.5, 0, 0, 0), (10**6, 0, 0, 0), None, (True, 0, 0, 0)):
        with pytest.raises(UsageError):
            Settings(extend=wrong)  # type: ignore[arg-type]
    with pytest.raises(UsageError):
        inpaint.steps(RGB, extend=SIDES, max_pixels=79 * 45 - 1)
    with pytest.raises(UsageError):
        inpaint.steps(RGB, extend=(0, 0, 0, 0))
    assert extended_size(photos.load(RGB), SIDES, 79 * 45) == (79, 45)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image, out, again = tmp_path / "a.png", tmp_path / "out.png", tmp_path / "again.png"
    Image.fromarray(RGB).save(image)
    tiny = ["--synthetic", "tiny", "--device", "cpu", "--steps", "2", "--strength", "1", "--feather", "0", "--quiet"]
    assert command(["inpaint", str(image), "--extend", "0,0,12,0", "-o", str(out), *tiny]) == 0
    got = np.asarray(Image.open(out))
    assert got.shape == (40, 72, 3)
    assert np.array_equal(got[:, :60], RGB)
    assert command(["inpaint", str(image), "--like", str(out), "-o", str(again), "--quiet", "--device", "cpu"]) == 0
    assert np.array_equal(np.asarray(Image.open(again)), got)
    for wrong in ("1,2,3", "-1,0,0,0", "a,b,c,d"):
        assert command(["inpaint", str(image), "--extend", wrong, "-o", str(out), *tiny]) == 2
    assert command(["inpaint", str(image), "--extend", "60000,60000,0,0", "-o", str(out), *tiny]) == 2
    assert command(["inpaint", str(image), "--extend", "70000,0,0,0", "-o", str(tmp_path / "x.jpg"), *tiny]) == 2
