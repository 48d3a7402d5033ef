"""The recipe of nano: what it draws is fixed by seeds, what it trains is the engine's model, and a restart changes nothing."""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import numpy as np
import pytest

from moebius.backends.cpu import CPU
from moebius.model.unet import UNet
from moebius.model.vae import VAE
from moebius.weights import bundle

torch = pytest.importorskip("torch", reason="training needs torch (the `train` extra; CI has it by `bench`)")
sys.path.insert(0, str(Path(__file__).parents[1] / "tools"))

import nano_data  # noqa: E402
import train_nano  # noqa: E402
from peers.torch_moebius import SelfLambda  # noqa: E402


def test_pictures_and_masks_follow_from_their_seed() -> None:
    for kind in nano_data.PICTURES:
        first, again, other = (nano_data.picture(np.random.default_rng(seed), kind, 64) for seed in (1, 1, 2))
        assert (first.shape, first.dtype) == ((64, 64, 3), np.uint8)
        np.testing.assert_array_equal(first, again)
        assert not np.array_equal(first, other)
        assert first.std() > 1, kind
    for seed in range(20):
        mask = nano_data.mask(np.random.default_rng(seed))
        assert 0.05 <= mask.mean() <= 0.30
    picture = nano_data.picture(np.random.default_rng(0), "edge")
    changed = (nano_data.with_object(np.random.default_rng(0), picture, mask) != picture).any(axis=2)
    assert changed.any()
    assert not changed[~mask].any()


def test_no_photograph_is_both_trained_on_and_held_out() -> None:
    trained, held = ({(package, name) for package, name, _ in photos} for photos in (nano_data.TRAINING_PHOTOS, nano_data.HELD_OUT_PHOTOS))
    assert not trained & held
    card = (Path(__file__).parents[1] / "engine/moebius/weights/nano.md").read_text()
    for _, name, _ in (*nano_data.TRAINING_PHOTOS, *nano_data.HELD_OUT_PHOTOS):
        assert Path(name).stem in card


def test_the_fast_self_lambda_is_the_self_lambda() -> None:
    torch.manual_seed(0)
    plain = SelfLambda(32, 8)
    x = torch.randn(2, 12 * 9, 32)
    want = plain(x, 12, 9)
    plain.__class__ = train_nano.FastSelfLambda
    assert (plain(x, 12, 9) - want).abs().max() <= 1e-5 * want.abs().max()


@torch.no_grad()
def test_training_starts_from_the_noise_is_y() -> None:
    torch.manual_seed(0)
    unet = train_nano.new_unet()
    x = torch.randn(4, train_nano.UNET_CONFIG.in_channels, 16, 16)
    ids = torch.arange(10)[None].repeat(4, 1)
    answer = unet.diff_model(x, torch.full((4,), 900), unet.embedding_layer(ids))
    y = x[:, : train_nano.UNET_CONFIG.out_channels]
    assert (answer - y).norm() / y.norm() < 0.05


def test_own_runs_are_the_sampler_s() -> None:
    """Led by a model that knows the picture, a run is always that picture with noise on it, whatever the guidance."""
    torch.manual_seed(0)
    z, surroundings = torch.randn(4, 8, 16, 16), torch.randn(4, 9, 16, 16)

    def knows(y: torch.Tensor, t: torch.Tensor, given: torch.Tensor, on: torch.Tensor) -> torch.Tensor:
        assert torch.equal(given, surroundings.repeat(2, 1, 1, 1))
        assert on.tolist() == [True] * 4 + [False] * 4
        left, noisy = train_nano.levels(t)
        return (y - left * z.repeat(2, 1, 1, 1)) / noisy

    reached = set()
    for _ in range(20):
        y, t = train_nano.own_run(knows, surroundings, 0.5)
        left, noisy = train_nano.levels(t)
        noise = (y - left * z) / noisy
        if (t >= 900).all():  # so far noise alone
            noise = y
        assert 0.9 < noise.std() < 1.1, t
        reached |= set(t.tolist())
    assert min(reached) < 200
    assert max(reached) >= 900


def test_the_last_rounds_learn_from_own_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = {"FIRST_TRIPLES": 8, "PHOTOS_FROM": 3, "OWN_FROM": 3, "UNET_BATCH": 4, "OWN": 2, "LOG_EVERY": 1}
    for name, value in {"UNET_ROUNDS": [1, 1, 1, 1], **sizes}.items():
        monkeypatch.setattr(train_nano, name, value)
    monkeypatch.setattr(train_nano, "plot", lambda *_: None)
    torch.manual_seed(0)
    on, photo = torch.arange(8) > 2, torch.arange(8) > 5
    triples = torch.randn(8, 16, 16, 16), torch.randn(8, 8, 16, 16), torch.rand(8, 1, 16, 16).round(), on, photo
    unet = train_nano.train_unet(tmp_path, triples, 0.4, train_nano.UNET_ROUNDS)
    assert all(torch.isfinite(p).all() for p in unet.parameters())
    with (tmp_path / "unet.csv").open() as file:
        assert [float(row["own loss"]) > 0 for row in csv.DictReader(file)] == [False, False, True, True]


def test_a_restart_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train_nano, "SAVE_EVERY", 3)
    monkeypatch.setattr(train_nano, "LOG_EVERY", 3)
    monkeypatch.setattr(train_nano, "plot", lambda *_: None)

    def run(out: Path, until: int) -> dict[str, torch.Tensor]:
        out.mkdir(exist_ok=True)
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Conv2d(8, 3, 3))

        def loss_of(step: int) -> tuple[torch.Tensor, dict[str, float]]:
            if step >= until:
                raise KeyboardInterrupt
            x = torch.randn(2, 3, 8, 8)
            return (model(x) - x[:, :, 2:6, 2:6]).square().mean(), {}

        try:
            train_nano.train("toy", model, out, [5, 4], loss_of)
        except KeyboardInterrupt:
            return {}
        return model.state_dict()

    whole = run(tmp_path / "whole", 99)
    assert run(tmp_path / "parts", 7) == {}
    parts = run(tmp_path / "parts", 99)  # from the checkpoint of step 6
    for name, tensor in whole.items():
        assert torch.equal(tensor, parts[name]), name
    assert [line.split(",")[0] for line in (tmp_path / "parts/toy.csv").read_text().split()] == ["step", "3", "6", "9"]


@torch.no_grad()
def test_what_is_exported_is_what_the_engine_computes(tmp_path: Path) -> None:
    torch.manual_seed(1)
    unet, vae = train_nano.new_unet().eval(), train_nano.TorchVAE(train_nano.VAE_CONFIG).eval()
    for net in (unet, vae):  # what is trained is no longer zero anywhere; of float16, so that the file holds it exactly
        for p in net.parameters():
            p.copy_((p + 0.02 * torch.randn_like(p)).half().float())
    train_nano.export(tmp_path / "nano.safetensors", unet, vae, 0.5)
    weights = bundle.read_bundle(tmp_path / "nano.safetensors")
    assert weights.vae_config.scaling_factor == 0.5
    ops, g = CPU(), torch.Generator().manual_seed(2)
    x, ids = torch.randn(2, train_nano.UNET_CONFIG.in_channels, 16, 16, generator=g), np.array([range(10, 20), range(10)])
    got = UNet(weights.unet_config, weights.unet, ops)(x.numpy(), 321, ids)
    want = unet(x, 321, torch.from_numpy(ids)).numpy()
    assert np.linalg.norm(got - want) / np.linalg.norm(want) < 1e-5
    image = torch.rand(1, 3, 64, 64, generator=g) * 2 - 1
    moments = VAE(weights.vae_config, weights.vae, ops).encode(image.numpy())
    want = vae.encode(image).numpy()
    assert np.linalg.norm(moments - want) / np.linalg.norm(want) < 1e-5
