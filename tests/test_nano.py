"""The trained model in the package: the picture is right, not only the tensors. Every check fails for a broken sampler (BROKEN)."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_cli import run

from moebius import Inpainter, sample
from moebius.backends.cpu import CPU
from moebius.inpaint import loaded
from moebius.model.scheduler import DDIM
from moebius.model.unet import UNet
from moebius.model.vae import VAE
from moebius.pictures.published import prepare
from moebius.weights import bundle, checkpoint
from moebius.weights.nano import packaged_nano

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tools"))
import nano_data

GOLDEN = Path(__file__).parent / "goldens" / "nano_sample.png"  # what the float64 oracle makes of the sample: tools/nano_golden.py


@pytest.fixture(scope="module")
def weights() -> checkpoint.Weights:
    return bundle.read_bundle(packaged_nano())


def on(ops, weights: checkpoint.Weights) -> Inpainter:
    return Inpainter(UNet(weights.unet_config, weights.unet, ops), VAE(weights.vae_config, weights.vae, ops), model="nano")


@pytest.fixture(scope="module")
def nano(weights) -> Inpainter:
    return on(CPU(), weights)


def box(left: int, top: int, right: int, bottom: int) -> np.ndarray:
    mask = np.zeros((128, 128), np.uint8)
    mask[top:bottom, left:right] = 255
    return mask


def fill(nano: Inpainter, truth: np.ndarray, mask: np.ndarray, **settings) -> np.ndarray:
    """The picture with its hole filled from its surroundings alone: the model gets mid-grey there, and starts from noise alone."""
    given = np.where(mask[..., None] > 0, np.uint8(127), truth)
    return np.asarray(nano(given, mask, strength=1.0, **settings).image)


# What a fill has to do. Each takes the model and raises AssertionError -------------------------------------------------------------


def check_better_than_the_border_mean(nano: Inpainter) -> None:
    """By more than four decibels, over made pictures that training never saw (5.5 when it was trained)."""
    gains = []
    for i in range(24):
        rng = np.random.default_rng([nano_data.HELD_OUT_SEED, 99, i])
        truth, hole = nano_data.picture(rng, nano_data.STRUCTURED[i % 4]), nano_data.mask(rng, low=0.05, high=0.2)
        mask = hole.astype(np.uint8) * 255
        border = np.pad(hole, 1)
        near = (border[:-2, 1:-1] | border[2:, 1:-1] | border[1:-1, :-2] | border[1:-1, 2:]) & ~hole
        error = np.square(fill(nano, truth, mask).astype(float) - truth)[hole].mean()
        plain = np.square(truth[near].mean(axis=0) - truth)[hole].mean()
        gains.append(10 * np.log10((plain + 1) / (error + 1)))
    assert np.mean(gains) >= 4, gains


def check_two_colours(nano: Inpainter) -> None:
    """Both halves reach into the hole, and each stays what it is."""
    truth = np.empty((128, 128, 3), np.uint8)
    truth[:, :64], truth[:, 64:] = (200, 60, 40), (40, 90, 190)
    got = fill(nano, truth, box(44, 40, 100, 84)).astype(float)
    left, right = got[44:80, 46:58], got[44:80, 70:98]
    assert np.abs(left.mean(axis=(0, 1)) - truth[0, 0]).max() < 25, left.mean(axis=(0, 1))
    assert np.abs(right.mean(axis=(0, 1)) - truth[0, 127]).max() < 25, right.mean(axis=(0, 1))
    assert right.std(axis=(0, 1)).max() < 25


def check_stripe(nano: Inpainter) -> None:
    """A dark stripe on a light ground goes on through a hole as wide as it is, at its place and in its colour."""
    truth = np.full((128, 128, 3), (225, 215, 190), np.uint8)
    truth[52:76] = (50, 60, 110)
    got = fill(nano, truth, box(52, 36, 76, 92)).astype(float)
    stripe, above, below = got[56:72, 54:74], got[38:48, 54:74], got[80:90, 54:74]
    for part, colour in ((stripe, truth[60, 0]), (above, truth[0, 0]), (below, truth[0, 0])):
        assert np.abs(part.mean(axis=(0, 1)) - colour).max() < 30, part.mean(axis=(0, 1))
        assert part.std(axis=(0, 1)).max() < 35


def check_sample(nano: Inpainter) -> None:
    """The packaged sample, filled as the oracle fills it, but for the grain."""
    got = np.asarray(nano(sample.photo(), sample.mask(), detail=0).image, np.int16)
    assert np.abs(got - np.asarray(Image.open(GOLDEN), np.int16)).max() <= 1


CHECKS = (check_better_than_the_border_mean, check_two_colours, check_stripe, check_sample)


@pytest.mark.parametrize("check", CHECKS)
def test_the_picture_is_right(check: Callable[[Inpainter], None], nano: Inpainter) -> None:
    check(nano)


def test_fills_are_joined_at_the_seam_but_for_published_ones(nano: Inpainter) -> None:
    photo, mask = np.full((128, 128, 3), 90, np.uint8), box(40, 40, 80, 80)
    kinds = {"auto": "match", "full": "match", "upstream": "paste"}
    for crop, blend in kinds.items():
        assert nano(photo, mask, steps=2, crop=crop).metadata["blend"] == blend
    assert nano(photo, mask, steps=2, blend="paste").metadata["blend"] == "paste"
    assert Inpainter(nano.unet, nano.vae, model="places2").blend == "paste"
    assert Inpainter.from_pretrained("nano", device="cpu").blend == "match"
    sixteen = nano(photo.astype(np.uint16) * 257, mask, steps=2, crop="upstream", blend="match")
    assert sixteen.image.size == (128, 128)


# What breaks it --------------------------------------------------------------------------------------------------------------------


def wrong_sign(monkeypatch: pytest.MonkeyPatch) -> None:
    right = DDIM.coefficients
    monkeypatch.setattr(DDIM, "coefficients", lambda self, *a: right(self, *a) * [1, 1, 1, -1])


def skipped_step(monkeypatch: pytest.MonkeyPatch) -> None:
    right = DDIM.timesteps
    monkeypatch.setattr(DDIM, "timesteps", lambda self, *a: np.delete(right(self, *a), 10))


def wrong_level(monkeypatch: pytest.MonkeyPatch) -> None:
    right = DDIM.coefficients
    monkeypatch.setattr(DDIM, "coefficients", lambda self, t, n: right(self, t, n)[:, [0, 1, 0, 1]])


def swapped_conditions(monkeypatch: pytest.MonkeyPatch) -> None:
    right = loaded.condition_ids
    monkeypatch.setattr(loaded, "condition_ids", lambda config: right(config)[::-1])


BROKEN = (wrong_sign, skipped_step, wrong_level, swapped_conditions)


@pytest.mark.parametrize("mutation", BROKEN)
def test_a_broken_sampler_is_seen(mutation, weights, monkeypatch: pytest.MonkeyPatch) -> None:
    mutation(monkeypatch)
    with pytest.raises(AssertionError):
        check_sample(on(CPU(), weights))


def test_swapped_conditions_are_worse_pictures(weights, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guidance means something: pushed the other way, the fill is further from the truth."""

    def error(nano: Inpainter) -> float:
        total = 0.0
        for i in range(8):
            rng = np.random.default_rng([nano_data.HELD_OUT_SEED, 98, i])
            truth, hole = nano_data.picture(rng, nano_data.STRUCTURED[i % 4]), nano_data.mask(rng, low=0.05, high=0.2)
            got = fill(nano, truth, hole.astype(np.uint8) * 255, guidance=3.0)
            total += np.square(got[hole].astype(float) - truth[hole]).mean()
        return total

    right = error(on(CPU(), weights))
    swapped_conditions(monkeypatch)
    assert error(on(CPU(), weights)) > 1.2 * right


# The same everywhere ---------------------------------------------------------------------------------------------------------------


def test_the_same_on_every_driver(gpu, nano: Inpainter, weights) -> None:
    want, got = (np.asarray(m(sample.photo(), sample.mask()).image, np.int16) for m in (nano, on(gpu, weights)))
    assert np.abs(got - want).max() <= 1


# The command -----------------------------------------------------------------------------------------------------------------------


def test_inpaint_sample(capsys, tmp_path: Path) -> None:
    code, out, err = run(capsys, "inpaint", "--sample", "--detail", 0, "-o", tmp_path / "out.png", "--device", "cpu")
    assert (code, out) == (0, ""), err
    assert "nano is a small demonstration model" in err
    assert "places2" in err
    assert np.abs(np.asarray(Image.open(tmp_path / "out.png"), np.int16) - np.asarray(Image.open(GOLDEN), np.int16)).max() <= 1


def test_sample_takes_no_other_picture(capsys, tmp_path: Path) -> None:
    code, _, err = run(capsys, "inpaint", sample.photo(), "--sample", "-o", tmp_path / "out.png")
    assert code == 2
    assert "--sample brings a picture of its own" in err
    code, _, err = run(capsys, "inpaint", "-o", tmp_path / "out.png")
    assert code == 2
    assert "--sample" in err


def test_the_package_s_files_are_small(weights) -> None:
    assert packaged_nano().stat().st_size <= 8_000_000
    assert sum(Path(p).stat().st_size for p in (sample.photo(), sample.mask())) < 300_000
    assert weights.vae_config.scaling_factor > 0
    photo, mask = Image.open(sample.photo()), Image.open(sample.mask())
    assert photo.size == mask.size
    assert prepare(photo, mask, 128).mask.getextrema()[1] > 0
