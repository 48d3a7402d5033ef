"""Both networks in one file: what is written is read, and what is wrong is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from weights_cases import CODER, UNET, UNET_WEIGHTS, VAE_WEIGHTS, Arrays, same
from weights_fixtures import cache, folder  # noqa: F401

from moebius.errors import WeightError
from moebius.weights import store
from moebius.weights.bundle import read_bundle, write_bundle
from moebius.weights.formats import safetensors

# ruff: noqa: F811 (fixtures)


@pytest.mark.parametrize("half", [False, True])
def test_bundle(half: bool, tmp_path: Path, cache: Path) -> None:
    path = tmp_path / "nano.safetensors"
    write_bundle(path, UNET, UNET_WEIGHTS, CODER, VAE_WEIGHTS, half=half, metadata={"license": "Apache-2.0"})
    for loaded in (read_bundle(path), store.load(path)):
        assert (loaded.unet_config, loaded.vae_config, loaded.name, loaded.commit) == (UNET, CODER, "nano.safetensors", None)
        for got, want in ((loaded.unet, UNET_WEIGHTS), (loaded.vae, VAE_WEIGHTS)):
            rounded = {k: a.astype(np.float16).astype(np.float32) if half and a.ndim > 1 else a for k, a in want.items()}
            assert same(dict(got), rounded)
    assert not cache.exists()
    stored = safetensors.read(path)
    assert json.loads(stored.metadata["moebius"])["unet"]["block_out_channels"] == [32, 64]
    assert stored.metadata["license"] == "Apache-2.0"
    size = sum(a.size for a in (*UNET_WEIGHTS.values(), *VAE_WEIGHTS.values()))
    assert path.stat().st_size < (2.2 if half else 4.2) * size + 100_000


def test_bundles_that_are_wrong(tmp_path: Path) -> None:
    path = tmp_path / "nano.safetensors"
    write_bundle(path, UNET, UNET_WEIGHTS, CODER, VAE_WEIGHTS)
    good = safetensors.read(path)
    arrays, configs = {k: np.array(a) for k, a in good.items()}, json.loads(good.metadata["moebius"])

    def refused(match: str, change: Arrays | None = None, drop: str = "", **config: Any) -> None:
        kept = {k: a for k, a in {**arrays, **(change or {})}.items() if k != drop}
        metadata = config.pop("metadata", {"moebius": json.dumps({**configs, **config})})
        safetensors.write(path, kept, metadata)
        with pytest.raises(WeightError, match=match):
            read_bundle(path)

    refused("is no bundle", metadata={"a": "b"})
    refused("not JSON", metadata={"moebius": "{"})
    refused("not a JSON object", metadata={"moebius": "[]"})
    refused("has no vae", vae=None)
    refused("has no unet", unet=[1])
    refused("from 1 to 128", unet={"heads": 0})
    refused("wrong shape", unet={**configs["unet"], "encoder_hid_dim": 25})
    refused("neither unet", {"other": np.ones(1)})
    refused("1 missing", drop="vae.quant_conv.bias")
    refused("NaN or an infinity", {"vae.quant_conv.bias": np.full(8, np.nan, np.float32)})
    refused("not floating point", {"vae.quant_conv.bias": np.ones(8, np.int8)})


def test_a_bundle_of_wrong_weights_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(WeightError, match="missing"):
        write_bundle(tmp_path / "a.safetensors", UNET, {}, CODER, VAE_WEIGHTS)
    large = {**VAE_WEIGHTS, "quant_conv.weight": VAE_WEIGHTS["quant_conv.weight"] * 1e30}
    with pytest.raises(WeightError, match=r"vae\.quant_conv\.weight holds .* 65504"):
        write_bundle(tmp_path / "a.safetensors", UNET, UNET_WEIGHTS, CODER, large, half=True)
    assert not list(tmp_path.glob("*.safetensors"))
