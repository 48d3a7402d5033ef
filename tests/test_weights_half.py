"""Weights kept in f16: half the size on the disk, the same network wherever they are read, and never a number that f16 does not hold."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from batch_cases import SMALL_UNET, SMALL_VAE
from hub_cases import UNET_FILE
from hub_fixtures import here, server  # noqa: F401
from hub_server import HubServer
from test_cli import run
from torch_files import torch_file
from weights_cases import UNET, UNET_WEIGHTS, VAE_WEIGHTS, bfloat16, flip

from moebius.backends.cpu import CPU
from moebius.errors import WeightError
from moebius.inpaint.inpainter import Inpainter
from moebius.model.synthetic import synthetic
from moebius.model.unet import UNet
from moebius.model.unet import shapes as unet_shapes
from moebius.model.vae import VAE
from moebius.model.vae import shapes as vae_shapes
from moebius.weights import copies, identity, store
from moebius.weights.cache import cache_entries, remove
from moebius.weights.formats.half import stored
from moebius.weights.loading import Loading

# ruff: noqa: F811 (fixtures)

Arrays = dict[str, np.ndarray]


def rounded(arrays: Arrays) -> Arrays:
    return {name: a.astype(np.float16).astype(np.float32) if a.ndim > 1 else a for name, a in bfloat16(arrays).items()}


def equal(got: Any, want: Arrays) -> bool:
    return got.keys() == want.keys() and all(np.array_equal(got[name].astype(np.float32), want[name]) for name in want)


def copy_of(here: Path, net: str = "unet") -> Path:
    (path,) = here.glob(f"cache/weights/{net}-*.safetensors")
    return path


def test_a_download_in_f16_is_half_as_large_and_loaded_ever_after(server: HubServer, here: Path) -> None:
    assert [item.state for item in store.download("places2", precision="f16")] == ["ready", "ready"]
    size = 4 * sum(a.size for a in UNET_WEIGHTS.values())
    assert 0.5 * size < copy_of(here).stat().st_size < 0.6 * size  # of so small a network the header shows
    transfers = len(server.transfers)
    loaded = store.load("places2")
    assert len(server.transfers) == transfers
    assert equal(loaded.unet, rounded(UNET_WEIGHTS))
    assert equal(loaded.vae, rounded(VAE_WEIGHTS))
    assert loaded.notes == (store.ROUNDED,)
    want = rounded(UNET_WEIGHTS)
    assert loaded.digests["unet"] == identity.digest(UNET, want, want.__getitem__)  # of what is computed from
    assert all(entry.sources[0].endswith(" at main in f16") for entry in cache_entries())
    assert [item.state for item in store.download("places2", dry_run=True)] == ["missing", "missing"]  # whole ones


def test_whole_copies_count_before_those_in_f16(server: HubServer, here: Path) -> None:
    whole = store.load("places2")
    transfers, notes = len(server.transfers), list[str]()
    assert [item.state for item in store.download("places2", precision="f16", dry_run=True)] == ["cached", "cached"]
    store.download("places2", precision="f16", notes=notes)
    assert all(r.path.endswith("config.json") for r in server.transfers[transfers:])  # they are made of the whole ones
    assert len(notes) == 1
    assert "moebius cache" in notes[0]
    assert len(cache_entries()) == 4
    again = store.load("places2")
    assert (again.digests, again.notes) == (whole.digests, ())
    remove([entry for entry in cache_entries() if not entry.sources[0].endswith(" in f16")])
    half = store.load("places2")
    assert half.notes == (store.ROUNDED,)
    assert equal(half.unet, rounded(UNET_WEIGHTS))
    store.download("places2")
    assert store.load("places2").digests == whole.digests


def test_a_copy_in_f16_that_was_damaged_is_made_again(server: HubServer, here: Path) -> None:
    store.download("places2", precision="f16")
    path = copy_of(here)
    flip(path, path.stat().st_size // 2, 3)
    loading = Loading()
    assert copies.open_copy("unet", path, loading) is None
    assert len(loading.notes) == 1


@pytest.mark.parametrize("value", [65520.0, -1e30])
def test_a_weight_that_f16_does_not_hold_is_refused_by_name(value: float, server: HubServer, here: Path) -> None:
    name = next(name for name, a in UNET_WEIGHTS.items() if a.ndim > 1)
    bad = {**UNET_WEIGHTS, name: np.where(np.arange(UNET_WEIGHTS[name].size) == 3, value, 0).reshape(UNET_WEIGHTS[name].shape)}
    server.files[UNET_FILE] = torch_file({k: a.astype(np.float32) for k, a in bad.items()})
    with pytest.raises(WeightError, match=re.escape(f"{name} holds {abs(value):.6g}, and")):
        store.download("places2", precision="f16")
    assert not list(here.glob("cache/weights/unet*"))
    store.load("places2")
    with pytest.raises(WeightError, match=name):  # from its whole copy, too
        store.download("places2", precision="f16")


def test_what_is_stored() -> None:
    wide = np.array([1e30, 1e-30], np.float32)
    assert stored("norm.bias", wide, "f16").dtype == np.float32
    small = stored("weight", np.array([[65519.0, 1e-30]], np.float32), "f16")
    np.testing.assert_array_equal(small, np.array([[65504, 0]], np.float16))
    assert stored("weight", np.array([[1e30]], np.float32), "f32").dtype == np.float32


def test_the_command(server: HubServer, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "download", "places2", "--precision", "f16")
    assert (code, out.count("ready")) == (0, 2)
    code, out, _ = run(capsys, "cache", "--clear", " in f16")
    assert out.count(" in f16\n") == 2
    assert not list(here.glob("cache/weights/*"))


def test_the_variant_in_16_bits_where_there_is_no_other(tmp_path: Path, here: Path) -> None:
    names = [path.name for path in store.candidates(tmp_path)]
    (tmp_path / names[2]).touch()
    assert store.weights_file(tmp_path, tmp_path).name == "diffusion_pytorch_model.fp16.safetensors"
    (tmp_path / names[1]).touch()
    assert store.weights_file(tmp_path, tmp_path).name == names[1]


@pytest.mark.parametrize("device", ["cpu", "llvmpipe"])
def test_a_device_makes_the_same_of_float16_arrays(device: str, request: pytest.FixtureRequest) -> None:
    ops = CPU(threads=1) if device == "cpu" else request.getfixturevalue("llvmpipe")
    nets = synthetic(unet_shapes(SMALL_UNET), 0), synthetic(vae_shapes(SMALL_VAE), 0)
    half = [{name: stored(name, a, "f16") for name, a in weights.items()} for weights in nets]
    wide = [{name: a.astype(np.float32) for name, a in weights.items()} for weights in half]
    photo = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)
    made = [
        Inpainter(UNet(SMALL_UNET, w[0], ops), VAE(SMALL_VAE, w[1], ops))(photo, [(5, 5, 12, 12)], steps=2, guidance=1.0)
        for w in (half, wide)
    ]
    np.testing.assert_array_equal(made[0].latents, made[1].latents)
    np.testing.assert_array_equal(made[0].arrays[0], made[1].arrays[0])
