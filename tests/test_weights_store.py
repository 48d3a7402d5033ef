"""From a name, a folder or a file to weights: what is found, what is kept, and that the second start reads the copy."""

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
from torch_files import torch_file
from weights_cases import CODER, UNET, UNET_FILE, UNET_WEIGHTS, VAE_FILE, VAE_WEIGHTS, bfloat16, same, with_unet
from weights_fixtures import cache, folder  # noqa: F401

from moebius.backends.cpu import CPU
from moebius.errors import UsageError, WeightError
from moebius.model import unet
from moebius.model.synthetic import synthetic
from moebius.model.unet import UNet, UNetConfig
from moebius.model.vae import VAE
from moebius.weights import infer, store
from moebius.weights.cache import cache_entries, remove
from moebius.weights.copies import read_copy
from moebius.weights.folders import MARK, cache_folder
from moebius.weights.formats import safetensors, torch_save
from moebius.weights.formats.tensors import FileTensors

# ruff: noqa: F811 (fixtures)


def no_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on sources may not be read, only their copies."""

    def read(path: Path) -> FileTensors:
        raise AssertionError(f"{path} was read again")

    monkeypatch.setattr(torch_save, "read", read)


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
