"""The trained model in the package: the picture is right, not only the tensors. SEEN says which broken samplers each check fails for."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

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
from moebius.pictures import published
from moebius.pictures.published import prepare
from moebius.pictures.seam import harmonic
from moebius.weights import bundle, checkpoint
from moebius.weights.nano import packaged_nano

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tools"))
import nano_data

GOLDEN = sample.filled()


@pytest.fixture(scope="module")
def weights() -> checkpoint.Weights:
    return bundle.read_bundle(packaged_nano())


def on(ops, weights: checkpoint.Weights) -> Inpainter:
    return Inpainter(
        UNet(weights.unet_config, weights.unet, ops), VAE(weights.vae_config, weights.vae, ops), model="nano", blend=weights.blend
    )


@pytest.fixture(scope="module")
def nano(weights) -> Inpainter:
    return on(CPU(), weights)


def box(left: int, top: int, right: int, bottom: int) -> np.ndarray:
    mask = np.zeros((128, 128), np.uint8)
    mask[top:bottom, left:right] = 255
    return mask


def fill(nano: Model, truth: np.ndarray, mask: np.ndarray, **settings: Any) -> np.ndarray:
    """The picture with its hole filled from its surroundings alone: the model gets mid-grey there, and starts from noise alone."""
    given = np.where(mask[..., None] > 0, np.uint8(127), truth)
    return np.asarray(nano(given, mask, steps=8, strength=1.0, **settings).image)


class FilmAlone:
    """No model at all: the smooth continuation of the surroundings, to which a model's fill is joined."""

    def __call__(self, photo: Any, mask: Any, **settings: Any) -> SimpleNamespace:
        picture, hole = (np.asarray(Image.open(x) if isinstance(x, str | Path) else x) for x in (photo, mask))
        film = harmonic(picture[..., :3].astype(np.float64), (hole if hole.ndim == 2 else hole[..., 0]) > 127)
        return SimpleNamespace(image=np.rint(film).astype(np.uint8))


Model = Inpainter | FilmAlone


# What a fill has to do. Each takes the model and raises AssertionError -------------------------------------------------------------


def check_better_than_the_film(nano: Model) -> None:
    """What repeats goes on through the hole, over made pictures that training never saw: nearer to the truth than the film alone is.

    By a decibel at least, of each kind of picture (1.4, 3.0 and 5.2 when this was written). Without grain, which is no model's.
    """
    for k, kind in enumerate(("stripes", "checks", "rings")):
        gains = []
        for i in range(2):
            rng = np.random.default_rng([nano_data.HELD_OUT_SEED, 96, k, i])
            truth, hole = nano_data.picture(rng, kind), nano_data.mask(rng, low=0.05, high=0.15)
            mask = hole.astype(np.uint8) * 255
            film, mine = (np.square(fill(m, truth, mask, detail=0).astype(float) - truth)[hole].mean() for m in (FilmAlone(), nano))
            gains.append(10 * np.log10((film + 1) / (mine + 1)))
        assert np.mean(gains) >= 1, (kind, gains)


def check_two_colours(nano: Model) -> None:
    """Both halves reach into the hole, each stays what it is, and they meet in an edge where they met before."""
    truth = np.empty((128, 128, 3), np.uint8)
    truth[:, :64], truth[:, 64:] = (200, 60, 40), (40, 90, 190)
    got = fill(nano, truth, box(44, 40, 100, 84)).astype(float)
    left, right = got[44:80, 46:58], got[44:80, 70:98]
    assert np.abs(left.mean(axis=(0, 1)) - truth[0, 0]).max() < 25, left.mean(axis=(0, 1))
    assert np.abs(right.mean(axis=(0, 1)) - truth[0, 127]).max() < 25, right.mean(axis=(0, 1))
    assert right.std(axis=(0, 1)).max() < 25
    red = got[56:68].mean(axis=0)[:, 0]
    edge = (red[59] - red[68]) / (200 - 40)  # how much of the difference lies within nine pixels: of a film's less than a quarter
    assert edge > 0.5, edge


def check_stripe(nano: Model) -> None:
    """A dark stripe on a light ground goes on through a hole as wide as it is, at its place and in its colour."""
    truth = np.full((128, 128, 3), (225, 215, 190), np.uint8)
    truth[52:76] = (50, 60, 110)
    got = fill(nano, truth, box(52, 36, 76, 92)).astype(float)
    stripe, above, below = got[56:72, 54:74], got[38:48, 54:74], got[80:90, 54:74]
    for part, colour in ((stripe, truth[60, 0]), (above, truth[0, 0]), (below, truth[0, 0])):
        assert np.abs(part.mean(axis=(0, 1)) - colour).max() < 30, part.mean(axis=(0, 1))
        assert part.std(axis=(0, 1)).max() < 35


def check_sample(nano: Model) -> None:
    """The packaged sample, filled as the oracle fills it, but for the grain."""
    got = np.asarray(nano(sample.photo(), sample.mask(), detail=0).image, np.int16)
    assert np.abs(got - np.asarray(Image.open(GOLDEN), np.int16)).max() <= 1


CHECKS = (check_better_than_the_film, check_two_colours, check_stripe, check_sample)


@pytest.mark.parametrize("check", CHECKS)
def test_the_picture_is_right(check: Callable[[Model], None], nano: Inpainter) -> None:
    check(nano)


def test_fills_are_joined_at_the_seam_but_for_published_ones(nano: Inpainter) -> None:
    photo, mask = np.full((128, 128, 3), 90, np.uint8), box(40, 40, 80, 80)
    kinds = {"auto": "match", "full": "match", "upstream": "paste"}
    for crop, blend in kinds.items():
        assert nano(photo, mask, steps=2, crop=crop).metadata["blend"] == blend
    assert nano(photo, mask, steps=2, blend="paste").metadata["blend"] == "paste"
    assert Inpainter(nano.unet, nano.vae, model="nano").blend == "paste"  # no name decides
    assert Inpainter.from_pretrained("nano", device="cpu").blend == "match"
    sixteen = nano(photo.astype(np.uint16) * 257, mask, steps=2, crop="upstream", blend="match")
    assert sixteen.image.size == (128, 128)


# What breaks it --------------------------------------------------------------------------------------------------------------------


def wrong_sign(monkeypatch: pytest.MonkeyPatch) -> None:
    right = DDIM.coefficients
    monkeypatch.setattr(DDIM, "coefficients", lambda self, *a: right(self, *a) * [1, 1, 1, -1])


def skipped_step(monkeypatch: pytest.MonkeyPatch) -> None:
    right = DDIM.timesteps
    monkeypatch.setattr(DDIM, "timesteps", lambda self, n, *a: np.delete(right(self, n, *a), n // 2))


def wrong_level(monkeypatch: pytest.MonkeyPatch) -> None:
    right = DDIM.coefficients
    monkeypatch.setattr(DDIM, "coefficients", lambda self, t, n: right(self, t, n)[:, [0, 1, 0, 1]])


def stopped_half_way(monkeypatch: pytest.MonkeyPatch) -> None:
    right = DDIM.timesteps
    monkeypatch.setattr(DDIM, "timesteps", lambda self, n, *a: right(self, n, *a)[: n // 2])


def swapped_conditions(monkeypatch: pytest.MonkeyPatch) -> None:
    right = loaded.condition_ids
    monkeypatch.setattr(loaded, "condition_ids", lambda config: right(config)[::-1])


def blind_to_the_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    right = published.latent_mask
    monkeypatch.setattr(published, "latent_mask", lambda *a: 0 * right(*a))


def no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """The film alone."""


# Which checks each must fail. The others pass: a sampler that is a little wrong makes other pictures, and as good ones.
SEEN: dict[Callable[[pytest.MonkeyPatch], None], tuple[Callable[[Model], None], ...]] = {
    wrong_sign: (check_sample,),
    skipped_step: (check_sample,),
    wrong_level: CHECKS,
    stopped_half_way: CHECKS,
    swapped_conditions: CHECKS,
    blind_to_the_mask: CHECKS,
    no_model: CHECKS,
}


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("mutation", SEEN)
def test_a_broken_sampler_is_seen(mutation, check, weights, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every check on every broken sampler, and on no model at all."""
    mutation(monkeypatch)
    model = FilmAlone() if mutation is no_model else on(CPU(), weights)
    if check in SEEN[mutation]:
        with pytest.raises(AssertionError):
            check(model)
    else:
        check(model)


def test_every_check_sees_more_than_the_film_alone() -> None:
    for check in CHECKS:
        assert sum(check in seen for seen in SEEN.values()) >= 5, check


# The same everywhere ---------------------------------------------------------------------------------------------------------------


def test_the_same_on_every_driver(gpu, nano: Inpainter, weights) -> None:
    want, got = (np.asarray(m(sample.photo(), sample.mask(), steps=4).image, np.int16) for m in (nano, on(gpu, weights)))
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
