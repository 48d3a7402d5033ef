"""What a checkpoint is, by its shapes and its config; and what is refused as none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from goldens import CONFIGS
from torch_files import torch_file
from weights_cases import CODER, UNET, UNET_FILE, UNET_WEIGHTS, VAE_FILE, VAE_WEIGHTS, same, with_unet
from weights_fixtures import cache, folder  # noqa: F401

from moebius.errors import WeightError
from moebius.model import unet, vae
from moebius.model.unet import UNetConfig
from moebius.model.vae import VAEConfig
from moebius.weights import infer, store
from moebius.weights.formats import safetensors, torch_save

# ruff: noqa: F811 (fixtures)


# What a checkpoint is ------------------------------------------------------------------------------------------------
UNETS = {
    "full": UNetConfig.full(),
    "tiny": UNetConfig.tiny(),
    "of these tests": UNET,
    "odd widths and ratio": UNetConfig(8, 9, 4, (24, 36), 1, 4, 20, 28, 20, 3, 2.3),
    "four levels": UNetConfig(8, 9, 4, (24, 24, 48, 24), 1, 8, 12, 16, 20, 2, 1.7),
    "one level": UNetConfig(5, 7, 3, (20,), 2, 2, 8, 12, 20, 5, 3.0),
    "sixteen heads": UNetConfig(4, 9, 4, (64, 32), 1, 16, 16, 24, 30, 8, 2.5),
}
VAES = {"full": VAEConfig.full(), "tiny": VAEConfig.tiny(), "three blocks": VAEConfig((12, 24, 20), 1, 3, 3, 4), "two": CODER}


@pytest.mark.parametrize("config", UNETS.values(), ids=UNETS)
def test_unet_config_from_shapes(config: UNetConfig) -> None:
    groups = {"norm_num_groups": config.norm_num_groups}
    assert infer.unet_config(unet.shapes(config), groups if config.norm_num_groups != 32 else None) == config
    assert infer.unet_config(unet.shapes(config), infer.to_json(config)) == config


@pytest.mark.parametrize("config", VAES.values(), ids=VAES)
def test_vae_config_from_shapes(config: VAEConfig) -> None:
    groups = {"norm_num_groups": config.norm_num_groups}
    assert infer.vae_config(vae.shapes(config), groups if config.norm_num_groups != 32 else None) == config
    assert infer.vae_config(vae.shapes(config), infer.to_json(config)) == config


def test_published_manifests_are_the_full_models() -> None:
    assert infer.unet_config(unet.shapes(CONFIGS["unet_full"])) == UNetConfig.full()
    assert infer.vae_config(vae.shapes(CONFIGS["vae_full"])) == VAEConfig.full()


def test_groups_that_no_shape_tells() -> None:
    with pytest.raises(WeightError, match=r"norm_num_groups = 32 does not divide.*config\.json"):
        infer.unet_config(unet.shapes(UNETS["odd widths and ratio"]))


def test_a_vae_that_shifts_its_latents() -> None:
    with pytest.raises(WeightError, match="shift_factor"):
        infer.vae_config(vae.shapes(CODER), {"shift_factor": 0.1})


BAD_CONFIGS = [
    {"heads": 0},
    {"heads": -8},
    {"heads": 8.0},
    {"heads": True},
    {"attention_head_dim": [5, 10]},
    {"sample_size": 10**30},
    {"norm_num_groups": "32"},
    {"norm_eps": 0},
    {"norm_eps": float("nan")},
    {"mix_mlp_ratio": 1e30},
    {"block_out_channels": []},
    {"block_out_channels": [32] * 1000},
    {"block_out_channels": 32},
    {"block_out_channels": [32, "64"]},
    {"layers_per_block": 10**9},
]


@pytest.mark.parametrize("given", BAD_CONFIGS, ids=str)
def test_configs_that_cannot_be(given: dict[str, Any]) -> None:
    with pytest.raises(WeightError):
        infer.unet_config(unet.shapes(UNET), given)


# Refusing ------------------------------------------------------------------------------------------------------------
def test_extras_are_ignored_by_name_and_reported(folder: Path) -> None:
    extras = {
        "ema.diff_model.conv_in.weight": np.ones(3),
        "optimizer.state": np.ones(3),
        "global_step": np.array(5),
        "ema_decay": np.ones(1),
    }
    tracked = {k.replace("running_mean", "num_batches_tracked"): np.array(9) for k in UNET_WEIGHTS if k.endswith("running_mean")}
    loaded = store.load(with_unet(folder, {**UNET_WEIGHTS, **extras, **tracked}, wrap="state_dict"))
    assert set(loaded.ignored) == {"global_step", *extras}
    assert same(loaded.unet, UNET_WEIGHTS)
    assert store.load(folder).ignored == loaded.ignored  # the copy remembers


def test_missing_unexpected_and_misshapen(folder: Path) -> None:
    weights = dict(UNET_WEIGHTS)
    del weights["diff_model.conv_norm_out.bias"]
    weights["diff_model.surprise"] = np.ones(1, np.float32)
    weights["diff_model.conv_norm_out.weight"] = np.ones(7, np.float32)
    with pytest.raises(WeightError) as caught:
        store.load(with_unet(folder, weights))
    for part in (
        UNET_FILE,
        "1 missing: diff_model.conv_norm_out.bias",
        "1 unexpected: diff_model.surprise",
        "conv_norm_out.weight is (7,)",
    ):
        assert part in str(caught.value)


def test_integer_weights(folder: Path) -> None:
    with pytest.raises(WeightError, match=r"1 not floating point: diff_model\.conv_norm_out\.bias is int64"):
        store.load(with_unet(folder, {**UNET_WEIGHTS, "diff_model.conv_norm_out.bias": np.ones(32, np.int64)}))


def test_one_network_given_as_the_other(folder: Path) -> None:
    with pytest.raises(WeightError, match=r"no UNet of this family: .* is missing"):
        store.load(folder / VAE_FILE)
    with pytest.raises(WeightError, match=r"no VAE of this family: .* is missing"):
        store.load(folder, vae=folder / UNET_FILE)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("kind", ["F32", "F16", "BF16", "F64", "safetensors"])
@pytest.mark.parametrize("use_cache", [True, False])
def test_values_that_are_not_finite(bad: float, kind: str, use_cache: bool, folder: Path, cache: Path) -> None:
    name = "diff_model.encoder_hid_proj.weight"
    weights = {**UNET_WEIGHTS, name: UNET_WEIGHTS[name].copy()}
    weights[name][3, 4] = bad
    if kind == "safetensors":
        safetensors.write(folder / "diffusion_pytorch_model.safetensors", weights)
    else:
        with_unet(folder, weights, kind)
    with pytest.raises(WeightError, match=rf"diffusion_pytorch_model\.\w+: {name} holds a NaN or an infinity"):
        store.load(folder, cache=use_cache)
    assert not list(cache.glob("*/unet*"))


def test_float64_beyond_float32(folder: Path) -> None:
    weights = {**UNET_WEIGHTS, "diff_model.conv_norm_out.bias": np.full(32, 1e300)}
    with pytest.raises(WeightError, match="conv_norm_out"):
        store.load(with_unet(folder, weights, "F64"))


def test_damage_that_only_a_checksum_shows(folder: Path) -> None:
    data = bytearray((folder / UNET_FILE).read_bytes())
    at = torch_save.read(folder / UNET_FILE).info["diff_model.conv_norm_out.bias"].offset
    data[at] ^= 1
    (folder / UNET_FILE).write_bytes(data)
    with pytest.raises(WeightError, match="checksum"):
        store.load(folder)


def test_old_names_of_the_vae_attention(folder: Path) -> None:
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    weights = {}
    for key, array in VAE_WEIGHTS.items():
        name = next((key.replace(f".attentions.0.{new}.", f".attentions.0.{o}.") for new, o in old.items() if f".0.{new}." in key), key)
        weights[name] = array[:, :, None, None] if name != key and array.ndim == 2 else array
    assert weights.keys() != VAE_WEIGHTS.keys()
    (folder / VAE_FILE).write_bytes(torch_file(weights))
    for use_cache in (True, False):
        assert same(store.load(folder, cache=use_cache).vae, VAE_WEIGHTS)
    safetensors.write(folder / "vae/diffusion_pytorch_model.safetensors", weights)
    loaded = store.load(folder)
    assert same(loaded.vae, VAE_WEIGHTS)
    (folder / "vae/diffusion_pytorch_model.safetensors").unlink()
    (folder / VAE_FILE).write_bytes(torch_file({**weights, **VAE_WEIGHTS}))
    with pytest.raises(WeightError, match="under its old names and under its new ones"):
        store.load(folder)
