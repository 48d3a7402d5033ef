"""From a name, a folder or a file to weights: what is found, what is refused, what is kept, and that the second start reads the copy."""

from __future__ import annotations

import errno
import json
import os
import shutil
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from goldens import CONFIGS
from torch_files import torch_file

from moebius.backends.cpu import CPU
from moebius.errors import UsageError, WeightError
from moebius.model import unet, vae
from moebius.model.synthetic import synthetic
from moebius.model.unet import UNet, UNetConfig
from moebius.model.vae import VAE, VAEConfig
from moebius.weights import infer, store
from moebius.weights.bundle import read_bundle, write_bundle
from moebius.weights.cache import cache_entries, remove
from moebius.weights.copies import read_copy
from moebius.weights.folders import MARK, cache_folder
from moebius.weights.formats import safetensors, torch_save
from moebius.weights.formats.tensors import FileTensors

UNET = UNetConfig(8, block_out_channels=(32, 64), layers_per_block=1, cross_attention_dim=16, encoder_hid_dim=24)
CODER = VAEConfig((32, 64), 1)
Arrays = dict[str, np.ndarray]
UNET_WEIGHTS = synthetic(unet.shapes(UNET), 0)
VAE_WEIGHTS = synthetic(vae.shapes(CODER), 0)
UNET_FILE, VAE_FILE = "diffusion_pytorch_model.bin", "vae/diffusion_pytorch_model.bin"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the test's own, and no Hub."""
    monkeypatch.setenv("MOEBIUS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "cache"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """As a published model is laid out, with bfloat16 weights."""
    folder = tmp_path / "model"
    (folder / "vae").mkdir(parents=True)
    (folder / UNET_FILE).write_bytes(torch_file(UNET_WEIGHTS, "BF16"))
    (folder / VAE_FILE).write_bytes(torch_file(VAE_WEIGHTS, "BF16"))
    (folder / "vae/config.json").write_text(json.dumps({"scaling_factor": 0.25, "norm_num_groups": 32, "act_fn": "silu"}))
    return folder


def bfloat16(arrays: Arrays) -> Arrays:
    return {k: (a.astype(np.float32).view(np.uint32) & 0xFFFF0000).view(np.float32) for k, a in arrays.items()}


def same(a: Any, b: Arrays) -> bool:
    return a.keys() == b.keys() and all(a[k].dtype == np.float32 and np.array_equal(a[k], b[k]) for k in b)


def no_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on sources may not be read, only their copies."""

    def read(path: Path) -> FileTensors:
        raise AssertionError(f"{path} was read again")

    monkeypatch.setattr(torch_save, "read", read)


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


# Finding -------------------------------------------------------------------------------------------------------------


def test_folder(folder: Path) -> None:
    loaded = store.load(folder)
    assert loaded.unet_config == UNET
    assert loaded.vae_config == replace(CODER, scaling_factor=0.25)
    assert same(loaded.unet, bfloat16(UNET_WEIGHTS))
    assert same(loaded.vae, bfloat16(VAE_WEIGHTS))
    assert (loaded.name, loaded.commit, loaded.ignored) == ("model", None, ())


def test_weights_go_into_the_model(folder: Path) -> None:
    loaded, ops = store.load(folder), CPU()
    net = UNet(loaded.unet_config, loaded.unet, ops)
    assert np.isfinite(net(np.zeros((1, 9, 8, 8), np.float32), 500, np.arange(10)[None])).all()
    assert np.isfinite(VAE(loaded.vae_config, loaded.vae, ops).encode(np.zeros((1, 3, 8, 8), np.float32))).all()


def test_file_and_its_vae(folder: Path, tmp_path: Path) -> None:
    moved = Path(shutil.move(folder / UNET_FILE, tmp_path / "my model.bin"))
    for vae_path in (folder / "vae", folder / VAE_FILE, folder):
        loaded = store.load(str(moved), vae=vae_path)
        assert loaded.name == "my model.bin"
        assert loaded.vae_config.scaling_factor == 0.25
    beside = Path(shutil.move(folder / "vae", tmp_path / "vae"))
    assert store.load(moved).vae_config.scaling_factor == 0.25
    shutil.rmtree(beside)
    with pytest.raises(WeightError, match=r"hustvl/PixelHacker/vae/diffusion_pytorch_model\.bin.*HF_HUB_OFFLINE"):
        store.load(moved)


def test_a_clone_with_the_vae_one_above(folder: Path) -> None:
    (folder / "ft_places2").mkdir()
    shutil.move(folder / UNET_FILE, folder / "ft_places2")
    assert store.load(folder / "ft_places2").vae_config.scaling_factor == 0.25


def test_diffusers_layout(folder: Path) -> None:
    (folder / "unet").mkdir()
    shutil.move(folder / UNET_FILE, folder / "unet")
    assert same(store.load(folder).unet, bfloat16(UNET_WEIGHTS))


def test_a_folder_of_the_hubs_cache(folder: Path, tmp_path: Path) -> None:
    """Its files are links to blobs, which have neither their names nor their neighbours."""
    snapshot, blobs = tmp_path / "snapshots/0123", tmp_path / "blobs"
    blobs.mkdir()
    for name in (UNET_FILE, VAE_FILE, "vae/config.json"):
        (snapshot / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).rename(blobs / name.replace("/", "-")[:-5])
        (snapshot / name).symlink_to(blobs / name.replace("/", "-")[:-5])
    loaded = store.load(snapshot)
    assert same(loaded.unet, bfloat16(UNET_WEIGHTS))
    assert loaded.vae_config.scaling_factor == 0.25


def test_safetensors_is_preferred(folder: Path) -> None:
    safetensors.write(folder / "diffusion_pytorch_model.safetensors", UNET_WEIGHTS)
    (folder / UNET_FILE).write_bytes(b"not looked at")
    assert same(store.load(folder).unet, UNET_WEIGHTS)


def test_config_beside_the_unet(folder: Path) -> None:
    given = {"norm_eps": 1e-6, "norm_num_groups": 16, "attention_head_dim": 8, "_class_name": "UNet", "sample_size": None}
    (folder / "config.json").write_text(json.dumps(given))
    assert store.load(folder).unet_config == replace(UNET, norm_eps=1e-6, norm_num_groups=16)
    (folder / "config.json").write_text(json.dumps({"heads": 16}))
    with pytest.raises(WeightError, match=r"diffusion_pytorch_model\.bin: These weights do not fit the UNet.*wrong shape"):
        store.load(folder)
    for broken in ("{", "[]", "\0" * 100):
        (folder / "config.json").write_text(broken)
        with pytest.raises(WeightError, match=r"config\.json is not"):
            store.load(folder)


def test_what_is_no_model(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"'plces2' is neither a published model \(pretrained, places2, celebahq, ffhq\) nor a file"):
        store.load("plces2")
    with pytest.raises(UsageError, match="holds neither"):
        store.load(tmp_path)
    with pytest.raises(UsageError, match="goes with a published model"):
        store.load(folder, revision="main")
    (folder / "a.onnx").write_bytes(b"x")
    with pytest.raises(UsageError, match=r"ends in '\.onnx'"):
        store.load(folder / "a.onnx")
    with pytest.raises(UsageError, match="neither"):
        store.load(folder, vae=tmp_path / "missing")


def test_offline_and_nothing_there() -> None:
    with pytest.raises(WeightError, match=r"hustvl/Moebius/ft_places2/.* at main is not on this machine.*moebius download"):
        store.load("places2")


# Refusing ------------------------------------------------------------------------------------------------------------


def with_unet(folder: Path, arrays: Arrays, kind: str = "F32", wrap: str | None = None) -> Path:
    (folder / UNET_FILE).write_bytes(torch_file(arrays, kind, wrap))
    return folder


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


# Keeping -------------------------------------------------------------------------------------------------------------


def test_second_start_maps_the_copy(folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[tuple[str, int, int]] = []
    first = store.load(folder, progress=lambda *event: events.append(event))
    assert {what for what, _, _ in events} == {f"converting {folder / UNET_FILE}", f"converting {folder / VAE_FILE}"}
    assert any(done == total == 4 * sum(a.size for a in UNET_WEIGHTS.values()) for _, done, total in events)
    no_reading(monkeypatch)
    second = store.load(folder, progress=lambda *_: pytest.fail("there was something to do"))
    assert isinstance(second.unet, FileTensors)
    assert second.unet.path.parent == cache / "weights"
    assert not any(a.flags.owndata for a in second.unet.values())
    assert same(second.unet, dict(first.unet))
    assert (second.unet_config, second.vae_config, second.name) == (first.unet_config, first.vae_config, first.name)


@pytest.mark.parametrize("kind", ["F32", "BF16", "F16", "F64"])
def test_every_float_type_is_converted(kind: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = store.load(with_unet(folder, UNET_WEIGHTS, kind))
    exact = {"F32": UNET_WEIGHTS, "F64": UNET_WEIGHTS, "BF16": bfloat16(UNET_WEIGHTS)}
    want = exact.get(kind) or {k: a.astype(np.float16).astype(np.float32) for k, a in UNET_WEIGHTS.items()}
    assert same(loaded.unet, want)
    assert same(store.load(folder, cache=False).unet, want)


def test_float32_safetensors_are_used_where_they_lie(folder: Path, cache: Path) -> None:
    path = folder / "diffusion_pytorch_model.safetensors"
    safetensors.write(path, {**UNET_WEIGHTS, "global_step": np.array(5)})
    loaded = store.load(folder)
    assert loaded.sources["unet"] == {"path": str(path)}
    assert loaded.ignored == ("global_step",)
    assert same(loaded.unet, UNET_WEIGHTS)
    assert not list(cache.glob("weights/unet-*"))


def test_other_safetensors_are_converted(folder: Path, cache: Path) -> None:
    half = {k: a.astype(np.float16) for k, a in UNET_WEIGHTS.items()}
    safetensors.write(folder / "diffusion_pytorch_model.safetensors", half)
    assert same(store.load(folder).unet, {k: a.astype(np.float32) for k, a in half.items()})
    assert len(list(cache.glob("weights/unet-*"))) == 1


def test_a_changed_source_is_converted_again(folder: Path) -> None:
    store.load(folder)
    path = folder / UNET_FILE
    times = path.stat()
    new = synthetic(unet.shapes(UNET), 1)
    path.write_bytes(torch_file(new, "BF16"))
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))  # of the same size and time
    assert path.stat().st_size == times.st_size
    assert same(store.load(folder).unet, bfloat16(new))


def test_the_same_content_elsewhere_is_not_converted_again(
    folder: Path, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.load(folder)
    shutil.copytree(folder, tmp_path / "copy")
    monkeypatch.setattr(safetensors, "write", lambda *_: pytest.fail("was written again"))
    assert same(store.load(tmp_path / "copy").unet, bfloat16(UNET_WEIGHTS))
    assert len(list(cache.glob("weights/unet-*"))) == 1


def test_a_changed_config_makes_another_copy(folder: Path) -> None:
    assert store.load(folder).vae_config.scaling_factor == 0.25
    (folder / "vae/config.json").write_text("{}")
    assert store.load(folder).vae_config == CODER


@pytest.mark.parametrize("damage", ["cut", "empty", "gone", "other", "ref"])
def test_a_damaged_copy_is_made_again(damage: str, folder: Path, cache: Path) -> None:
    store.load(folder)
    (copy,) = cache.glob("weights/unet-*")
    match damage:
        case "cut":
            copy.write_bytes(copy.read_bytes()[:-1])
        case "empty":
            copy.write_bytes(b"")
        case "gone":
            copy.unlink()
        case "other":
            safetensors.write(copy, {"x": np.ones(1)}, {"config": '{"heads": -1}'})
        case "ref":
            for ref in cache.glob("refs/*"):
                ref.write_text('{"net": "unet", "copy": "../../etc/passwd", "source": {}}')
    assert same(store.load(folder).unet, bfloat16(UNET_WEIGHTS))
    assert same(store.load(folder).unet, bfloat16(UNET_WEIGHTS))


def test_without_a_cache_nothing_is_written(folder: Path, cache: Path) -> None:
    assert same(store.load(folder, cache=False).unet, bfloat16(UNET_WEIGHTS))
    assert not cache.exists()


def test_a_full_disk(folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(WeightError, match=r"disk of .*weights is full: .*moebius cache.* or set MOEBIUS_CACHE.*same command"):
        store.load(folder)
    assert [p.name for p in cache.rglob("*") if p.is_file()] == [MARK]
    monkeypatch.undo()
    monkeypatch.setenv("MOEBIUS_CACHE", str(cache))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(1 << 40, 1 << 40, 1000))
    with pytest.raises(WeightError, match=r"full: .*diffusion_pytorch_model\.bin takes .* MB and 0\.0 MB are free"):
        store.load(folder)


def test_a_cache_that_cannot_be_written(folder: Path, cache: Path) -> None:
    cache.write_text("a file where a folder should be")
    with pytest.raises(WeightError, match=r"cannot be written: .*MOEBIUS_CACHE"):
        store.load(folder)
    assert same(store.load(folder, cache=False).unet, bfloat16(UNET_WEIGHTS))


def test_many_names_for_the_same_bytes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("moebius.weights.convert.MAX_GROWTH", 1)
    with pytest.raises(WeightError, match="the same bytes"):
        store.load(folder)


def test_where_the_cache_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for variable in ("MOEBIUS_CACHE", "HF_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache/moebius"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg/moebius"
    monkeypatch.setenv("HF_HOME", "~/hf")
    assert cache_folder() == tmp_path / "hf/moebius"
    monkeypatch.setenv("MOEBIUS_CACHE", str(tmp_path / "ours"))
    assert cache_folder() == tmp_path / "ours"


def test_listing_and_clearing(folder: Path, cache: Path) -> None:
    assert cache_entries() == []
    remove([])
    store.load(folder)
    (cache / "parts").mkdir()
    (cache / f"parts/download-{'0' * 64}.part").write_bytes(bytes(10))
    (cache / f"weights/.unet-{'0' * 64}.safetensors.1234.part").write_bytes(bytes(5))  # left by a process that was killed
    listed = cache_entries()
    assert [e.size for e in listed] == sorted((e.size for e in listed), reverse=True)
    assert {source for e in listed for source in e.sources} == {str(folder / UNET_FILE), str(folder / VAE_FILE)}
    assert len(listed) == 4
    matching = cache_entries("vae/")
    assert [e.path.name[:4] for e in matching] == ["vae-"]
    remove(matching)
    assert len(list(cache.glob("refs/*"))) == 1
    mapped = store.load(folder).unet
    assert len(cache_entries()) == 4
    remove(cache_entries())
    assert [p.name for p in cache.rglob("*") if p.is_file()] == [MARK]
    assert same(mapped, bfloat16(UNET_WEIGHTS))  # what is in use stays usable


def test_start_is_quick(tmp_path: Path) -> None:
    """The second start of the full model costs its header, not its weights: measured 0.02 s."""
    config = UNetConfig.full()
    shapes = unet.shapes(config)
    path = tmp_path / "sparse.safetensors"
    header, at = {}, 0
    for name, shape in shapes.items():
        size = 4 * int(np.prod(shape))
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [at, at + size]}
        at += size
    header["__metadata__"] = {"config": json.dumps(infer.to_json(config)), "ignored": "[]"}
    header["sha256"] = {"dtype": "U8", "shape": [32], "data_offsets": [at, at + 32]}
    at += 32
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + at)  # a hole in the file: nothing is stored
    start = time.process_time()
    copy, _ = read_copy("unet", path)
    UNet(config, copy.tensors, CPU())
    assert time.process_time() - start < 1
    assert copy.config == config


# Bundles -------------------------------------------------------------------------------------------------------------


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
