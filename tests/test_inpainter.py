"""Any photo and any mask through the public call, on small nets."""

import warnings
from dataclasses import replace

import numpy as np
import pytest
from inpainter_cases import SMALL_UNET, SMALL_VAE, made_of
from PIL import Image

from moebius import sample
from moebius.backends.cpu import CPU
from moebius.errors import EmptyMaskError, NonFiniteError, UsageError
from moebius.inpaint.inpainter import Inpainter
from moebius.model.denoise import Denoiser
from moebius.model.params import ShapeOnly
from moebius.model.scheduler import DDIM
from moebius.model.unet import UNet, UNetConfig, condition_ids
from moebius.model.unet import shapes as unet_shapes
from moebius.pictures.blend import seam_weights
from moebius.pictures.mask import dilated, support
from moebius.pictures.seam import film

pytest_plugins = ("inpainter_fixtures",)

MODES = ["RGB", "RGBA", "L", "LA", "P", "1", "CMYK", "I;16"]


def random_picture(g: np.random.Generator, mode: str, size: tuple[int, int]) -> Image.Image:
    width, height = size
    if mode == "I;16":
        return Image.fromarray(g.integers(0, 65536, (height, width), np.uint16))
    rgba = Image.fromarray(g.integers(0, 256, (height, width, 4), np.uint8))
    return rgba if mode == "RGBA" else rgba.convert("RGB" if mode == "P" else mode).convert(mode)


def random_mask(g: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    width, height = size
    fill = np.zeros((height, width), bool)
    for _ in range(g.integers(0, 4)):
        y, x = g.integers(0, height), g.integers(0, width)
        fill[y : y + g.integers(1, 1 + max(1, height // 2)), x : x + g.integers(1, 1 + max(1, width // 2))] = True
    return fill


@pytest.mark.parametrize("case", range(28))
def test_any_photo_and_any_mask(small: Inpainter, case: int) -> None:
    """Size and mode are kept, and every pixel beyond the seam keeps its bytes."""
    g = np.random.default_rng(case)
    extreme = [(1, 1), (1, 90), (200, 3), (33, 31), (300, 170), (64, 64)]
    large = [(3000, 2000), (2000, 3000), (3000, 2), (1, 2000)]
    size = extreme[case % 6] if case < 12 else (int(g.integers(1, 150)), int(g.integers(1, 150))) if case < 24 else large[case - 24]
    photo, fill = random_picture(g, MODES[case % len(MODES)], size), random_mask(g, size)
    settings = {
        "crop": ["auto", "full"][case % 2],
        "blend": ["paste", "compensate", "match"][case // 2 % 3],
        "feather": [None, 0, 2.5][case % 3],
    }
    result = small(photo, fill, steps=1, strength=1, seed=case, force=True, allow_empty=True, **settings)
    assert (result.image.size, result.image.mode) == (photo.size, photo.mode)
    touched, shown = np.zeros_like(fill), np.zeros_like(fill)
    for window in result.windows:
        rows, columns, w = seam_weights(window)
        touched[rows, columns] |= w > 0
        own, radius = window.own(rows, columns), window.radius
        # Of what a blur of that radius is sure to leave: all where it is none, of a disc 39 % at its middle, 1.8 % of a pixel at radius 3.
        least = 255 if radius == 0 else 4 if radius <= 3 else 90
        sure = own & ~dilated(~own, radius) if radius > 3 else own
        assert w[sure].min(initial=255) >= least
        assert not w[~dilated(own, 1.5 * support(radius))].any()
        shown[rows, columns] |= sure
    if all(w.native for w in result.windows):
        np.testing.assert_array_equal(shown, fill)
    np.testing.assert_array_equal(np.asarray(result.image)[~touched], np.asarray(photo)[~touched])
    assert len(result.windows) > 0 or not fill.any()


def test_a_mask_that_marks_nothing_or_most(small: Inpainter) -> None:
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 60, 3), np.uint8))
    fill = np.zeros((40, 60), bool)
    with pytest.raises(EmptyMaskError):
        small.steps(photo, fill)
    np.testing.assert_array_equal(np.asarray(small(photo, fill, allow_empty=True).image), np.asarray(photo))
    fill[:26] = True
    with pytest.warns(UserWarning, match=r"65 %.*2 windows of 2 steps"):
        result = small(photo, fill, steps=2, strength=1, blend="raw", crop="full", num_images=2)
    run = small.steps(photo, fill, steps=2, strength=1)
    assert run.warning in run.notes  # before it begins
    assert len(result.notes) == 1
    fill[:24], fill[24:] = True, False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert small(photo, fill, steps=1, strength=1).notes == ()  # 60 %


def test_a_photograph_for_a_mask_is_refused_unless_forced(small: Inpainter) -> None:
    """The two swapped."""
    with Image.open(sample.photo()) as photo, Image.open(sample.mask()) as mask:
        with pytest.raises(UsageError, match="swapped"):
            small.steps(mask, photo)
        assert any("swapped" in note for note in small.steps(mask, photo, force=True).notes)


def test_windows_and_seeds_run_as_one_batch(small: Inpainter) -> None:
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 200, 3), np.uint8))
    boxes = [(5, 5, 8, 8), (150, 20, 9, 9)]
    run = small.steps(photo, boxes, steps=3, num_images=2)
    steps = list(run)
    assert len(run.windows) == 2
    assert [(s.index, s.total) for s in steps] == [(0, 2), (1, 2)]  # one batch of four: three steps at strength 0.99 are two
    assert steps[0].state.latents().shape[0] == 4
    alone = small(photo, boxes, steps=3, seed=1)
    assert np.abs(np.asarray(run.result.images[1], np.int16) - np.asarray(alone.image)).max() <= 1


def test_matching_asks_no_model_where_the_hole_is_thin(small: Inpainter) -> None:
    """A wire is the film, at no step; with something thick beside it that alone is asked for."""
    photo = np.asarray(Image.fromarray(np.random.default_rng(0).integers(0, 255, (12, 30, 3), np.uint8)).resize((300, 120)))
    wire, both = np.zeros((120, 300), bool), np.zeros((120, 300), bool)
    wire[60:63, 10:290] = True
    both |= wire
    both[5:25, 100:120] = True
    run = small.steps(photo, wire, steps=3, blend="match", num_images=2)
    assert list(run) == []
    assert len(run.windows) > 1
    assert run.result.latents.shape[0] == 0
    got = np.asarray(run.result.images[1])
    assert np.abs(got.astype(int) - film(photo, wire)).max() <= 2  # which several windows have between them
    np.testing.assert_array_equal(got[~wire], photo[~wire])
    np.testing.assert_array_equal(run.result.raw, photo)
    run = small.steps(photo, both, steps=3, blend="match")
    assert len(list(run)) == 2
    assert run.result.latents.shape[0] == 1
    np.testing.assert_array_equal(np.asarray(run.result.image)[wire], got[wire])
    assert small.steps(photo, wire, steps=3, blend="paste").modelled  # as published


def test_the_seed_draws_the_grain(small: Inpainter) -> None:
    """With match alone, and none where none is asked for; this model brings none of its own."""
    photo = np.random.default_rng(0).integers(90, 160, (80, 120, 3), np.uint8)
    made = [small(photo, [(40, 30, 16, 16)], steps=1, strength=1, blend="match", seed=3, detail=d) for d in (None, 0, 1, 1)]
    plain, none, full, again = (np.asarray(r.image) for r in made)
    np.testing.assert_array_equal(plain, none)
    np.testing.assert_array_equal(full, again)
    assert full[36:42, 46:52].std() > 2 * none[36:42, 46:52].std()
    assert made[2].metadata["detail"] == 1
    assert small(photo, [(40, 30, 16, 16)], steps=1, strength=1, blend="paste", detail=1).metadata["detail"] == 0


def test_a_callback_sees_every_step_and_may_stop(small: Inpainter) -> None:
    photo, seen = random_picture(np.random.default_rng(0), "RGB", (50, 40)), []

    def on_step(step) -> None:
        seen.append(step.preview)
        if len(seen) == 2:
            raise StopIteration("enough")

    with pytest.raises(StopIteration, match="enough"):
        small(photo, [(10, 10, 20, 20)], steps=6, on_step=on_step)
    assert len(seen) == 2
    for preview in seen:  # outside the hole it is the photo
        assert preview.size == (50, 40)
        assert preview.getpixel((2, 2)) == photo.getpixel((2, 2))
    assert seen[0].getpixel((20, 20)) != seen[1].getpixel((20, 20))


def test_a_black_picture_is_an_error(small: Inpainter, monkeypatch) -> None:
    monkeypatch.setattr(small.vae, "decode_each", lambda latents: (np.full((1, 3, 32, 32), -1.0, np.float32) for _ in latents))
    with pytest.raises(NonFiniteError, match=r"black \(vae\.decode on CPU"):
        small(Image.new("RGB", (40, 40), (9, 99, 9)), [(3, 3, 9, 9)], steps=1, strength=1)


def test_transparency_is_a_mask_and_becomes_opaque(small: Inpainter) -> None:
    photo = Image.new("RGBA", (40, 40), (9, 99, 9, 255))
    photo.paste((0, 0, 0, 0), (10, 10, 20, 20))
    alpha = np.asarray(small(photo, steps=1, strength=1).image)[..., 3]
    assert (alpha[10:20, 10:20] == 255).all()
    with pytest.raises(UsageError, match="mask"):
        small(photo.convert("RGB"))


@pytest.mark.parametrize(("dtype", "white"), [(np.uint8, 255), (np.uint16, 65535), (np.float32, 1.0)])
def test_an_array_comes_back_as_it_was_given(dtype: type, white: float) -> None:
    """16 bits and floats in colour have no mode in Pillow: `arrays` keeps them, to the bit outside of the hole."""
    made = made_of(replace(SMALL_UNET, sample_size=16), SMALL_VAE, CPU())
    image = (np.random.default_rng(1).random((96, 112, 3)) * white).astype(dtype)
    mask = np.zeros((96, 112), bool)
    mask[30:60, 40:70] = True
    result = made(image, mask, steps=2)
    array = result.arrays[0]
    assert (array.dtype, array.shape) == (image.dtype, image.shape)
    far = np.ones_like(mask)
    far[10:80, 20:90] = False
    np.testing.assert_array_equal(array[far], image[far])
    levels = np.unique(array[40:50, 50:60] / white * 255 % 1)
    assert (len(levels) > 2) == (dtype != np.uint8)  # finer than 8 bits where there were more
    np.testing.assert_allclose(np.asarray(result.image) / 255, array / white, atol=1.01 / 255)


@pytest.mark.parametrize("config", [UNetConfig.tiny(), UNetConfig.full()])
def test_guidance_1_costs_little_more_than_half(config: UNetConfig, llvmpipe) -> None:
    """By the arithmetic of the recorded step: what does not look at the condition is computed once either way."""

    def flops(guidance: float) -> int:
        unet = UNet(config, ShapeOnly(unet_shapes(config)), llvmpipe)
        denoiser = Denoiser(unet, condition_ids(config), [500], DDIM().coefficients(np.array([500]), 20), guidance)
        size, c = config.sample_size, config.out_channels
        return llvmpipe.record(denoiser.step, [(1, size, size, n) for n in (c, 1, c)], slice(None)).summary()["flops"]

    assert 0.505 < flops(1.0) / flops(2.5) < 0.52
