"""The cache under harm: flipped bits, forged references, files that are somebody else's, sources that change while they are read."""

from __future__ import annotations

import errno
import json
import os
import random
import time
from pathlib import Path
from typing import Any

import pytest
from test_cli import run
from torch_files import torch_file
from weights_cases import CODER, UNET, UNET_FILE, UNET_WEIGHTS, VAE_FILE, VAE_WEIGHTS, bfloat16, flip, same
from weights_fixtures import cache, folder  # noqa: F401

from moebius.errors import UsageError, WeightError
from moebius.model import unet, vae
from moebius.model.synthetic import synthetic
from moebius.model.vae import VAEConfig
from moebius.weights import copies, folders, infer, refs, store
from moebius.weights.cache import cache_entries, remove
from moebius.weights.formats import safetensors
from moebius.weights.formats.tensors import OpenFile
from moebius.weights.loading import Loading
from moebius.weights.nano import packaged_nano

# ruff: noqa: F811 (fixtures)


def copy_of(cache: Path, net: str = "unet") -> Path:
    (path,) = cache.glob(f"weights/{net}-*.safetensors")
    return path


# A copy that is not what was written ---------------------------------------------------------------------------------


def test_two_hundred_flipped_bits(tmp_path: Path, cache: Path) -> None:
    """Wherever it falls: the copy is refused and set aside, or the network is the same to the bit."""
    config = VAEConfig((8, 16), 1, norm_num_groups=4)
    weights = synthetic(vae.shapes(config), 0)
    (tmp_path / "vae.bin").write_bytes(torch_file(weights))
    (tmp_path / "config.json").write_text('{"norm_num_groups": 4}')
    store.from_path("vae", tmp_path / "vae.bin", Loading())
    path = copy_of(cache, "vae")
    whole = path.read_bytes()
    start = 8 + int.from_bytes(whole[:8], "little")
    silent = refused = 0
    for seed in range(200):
        choice = random.Random(seed)
        at = choice.randrange(start, len(whole)) if seed % 2 else choice.randrange(start)
        path.write_bytes(whole)
        flip(path, at, choice.randrange(8))
        loading = Loading()
        network = copies.open_copy("vae", path, loading)
        if network is None:
            refused += 1
            assert len(loading.notes) == 1
            assert path.name in loading.notes[0]
            assert not path.exists()
            assert path.with_name(f"{path.name}.damaged").exists()
        else:
            silent += network.config != config or not same(network.tensors, weights)
    assert silent == 0
    assert refused > 190  # a bit may fall on what says nothing


def test_a_damaged_copy_is_named_and_made_again(folder: Path, cache: Path) -> None:
    first = store.load(folder)
    path = copy_of(cache)
    flip(path, path.stat().st_size // 2, 6)
    again = store.load(folder)
    assert same(again.unet, bfloat16(UNET_WEIGHTS))
    assert again.digests == first.digests
    (note,) = again.notes
    assert f"{path}.damaged" in note
    assert [e.path.name for e in cache_entries(".damaged")] == [f"{path.name}.damaged"]
    assert store.load(folder).notes == ()


def test_a_damaged_copy_that_cannot_be_made_again_says_so(folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = store.published_unet("places2")
    store.load(folder)
    origin = {"repo": wanted.repo, "file": wanted.file, "revision": wanted.revision}
    refs.remember(store.hub_signature("unet", wanted, "f32"), refs.Ref("unet", origin, copy=copy_of(cache).name))
    flip(copy_of(cache), copy_of(cache).stat().st_size // 2, 0)
    with pytest.raises(WeightError, match=r"HF_HUB_OFFLINE.*set aside as .*\.damaged"):
        store.load("places2")


def test_what_was_compared_is_not_read_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store.load(folder)
    monkeypatch.setattr(copies, "check_seal", lambda *_: pytest.fail("was read again"))
    store.load(folder)


def test_a_new_identity_is_compared_again(folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store.load(folder)
    path = copy_of(cache)
    path.rename(cache / "x")
    path.write_bytes((cache / "x").read_bytes())
    compared: list[Any] = []
    check = copies.check_seal
    monkeypatch.setattr(copies, "check_seal", lambda *a: (compared.append(a), check(*a)))
    for _ in range(2):
        store.load(folder)
    assert len(compared) == 1


def test_a_cache_that_cannot_be_written_is_still_compared(folder: Path, cache: Path) -> None:
    store.load(folder)
    for file in cache.glob("checked/*"):
        file.unlink()
    (cache / "checked").rmdir()
    (cache / "checked").write_text("no folder")
    assert store.load(folder).notes == ()
    flip(copy_of(cache), copy_of(cache).stat().st_size // 2, 0)
    assert len(store.load(folder).notes) == 1


def test_cache_check(folder: Path, cache: Path, capsys: pytest.CaptureFixture) -> None:
    """Damage that no time tells of, as of a failing disk."""
    store.load(folder)
    path = copy_of(cache)
    assert run(capsys, "cache", "--check")[0] == 0
    flip(path, path.stat().st_size // 2, 3)
    (cache / f"checked/{path.name}.json").write_text(json.dumps(list(OpenFile(path).identity)))  # as if it had not been written to
    assert store.load(folder).notes == ()
    code, out, _ = run(capsys, "cache", "--check")
    assert (code, out.count("damaged "), out.count("sound ")) == (1, 1, 1)
    assert not path.exists()


# References ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        {"net": "vae"},
        {"net": "vae", "copy": "unet"},
        {"net": 1},
        {"copy": "vae"},
        {"copy": 1},
        {"digest": "x"},
        {"source": {"path": 1}},
        {"more": 1},
    ],
    ids=str,
)
def test_a_reference_that_says_otherwise_is_not_believed(change: dict[str, Any], folder: Path, cache: Path) -> None:
    store.load(folder)
    names = {net: copy_of(cache, net).name for net in ("unet", "vae")}
    for path in cache.glob("refs/*.json"):
        ref = json.loads(path.read_text()) | change
        path.write_text(json.dumps(ref | {"copy": names.get(str(ref["copy"]), ref["copy"])}))
    loaded = store.load(folder)
    assert same(loaded.unet, bfloat16(UNET_WEIGHTS))
    assert same(loaded.vae, bfloat16(VAE_WEIGHTS))


# What is not ours ----------------------------------------------------------------------------------------------------


def test_clearing_leaves_what_is_not_ours(folder: Path, cache: Path, capsys: pytest.CaptureFixture) -> None:
    store.load(folder)
    theirs = [
        cache / name
        for name in (
            "weights/mine.safetensors",
            "weights/unet-best.safetensors",
            "weights/.notes.safetensors.1.part",
            "parts/video.part",
            "parts/abc.part",
            "refs/list.json",
            "mine.safetensors",
            f"weights/sub/unet-{'0' * 64}.safetensors",
        )
    ]
    for path in theirs:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"mine")
    elsewhere = cache.parent / "elsewhere"
    elsewhere.write_bytes(b"mine")
    link = cache / f"weights/unet-{'1' * 64}.safetensors"
    link.symlink_to(elsewhere)
    verdict = cache / f"verdicts/{'2' * 64}.json"
    folders.write_note(verdict, {"fault": ""})
    code, out, _ = run(capsys, "cache", "--clear")
    assert code == 0
    assert "Removed 2 files" in out
    assert out.index("unet-") < out.index("Removed")
    assert all(path.exists() for path in (*theirs, elsewhere, link))
    assert not list(cache.glob("weights/vae-*"))
    assert not verdict.exists()


def test_a_source_s_name_is_one_line(folder: Path, cache: Path, capsys: pytest.CaptureFixture) -> None:
    store.load(folder.rename(folder.with_name("mo\ndel\x1b[31m")))
    for options in ([], ["--check"], ["--clear"]):
        assert len(run(capsys, "cache", *options)[1].splitlines()) == (2 if options == ["--check"] else 3)


def test_clearing_an_unmarked_folder(folder: Path, cache: Path, capsys: pytest.CaptureFixture) -> None:
    store.load(folder)
    (cache / folders.MARK).unlink()
    code, _, err = run(capsys, "cache", "--clear")
    assert code == 2
    assert "not marked" in err
    assert copy_of(cache).exists()
    with pytest.raises(UsageError):
        remove(cache_entries())


def test_entries_that_vanish_while_they_are_listed(folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store.load(folder)
    gone = copy_of(cache)
    stat = Path.stat

    def vanishing(self: Path, **more: Any) -> os.stat_result:
        if self == gone:
            raise FileNotFoundError(errno.ENOENT, "No such file", str(self))
        return stat(self, **more)

    monkeypatch.setattr(Path, "is_file", lambda self: True)
    monkeypatch.setattr(Path, "stat", vanishing)
    assert [e.path.name[:4] for e in cache_entries()] == ["vae-"]


def test_a_cache_that_cannot_be_read(cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    (cache / "weights").mkdir(parents=True)

    def refuse(_: Path) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "iterdir", refuse)
        assert run(capsys, "cache")[0] == 1
    monkeypatch.setenv("MOEBIUS_CACHE", "/" + "x" * 5000)
    code, _, err = run(capsys, "cache")
    assert (code, err.count("\n")) == (1, 1)
    monkeypatch.setenv("MOEBIUS_CACHE", "~nosuchuser/cache")
    assert run(capsys, "cache")[0] == 2


# Sources that change -------------------------------------------------------------------------------------------------

OTHER = synthetic(unet.shapes(UNET), 1)


def test_a_source_replaced_while_it_is_converted(folder: Path, tmp_path: Path) -> None:
    """What is kept for the old file is of the old file, and the new one is converted for itself."""
    new = tmp_path / "new.bin"
    new.write_bytes(torch_file(OTHER, "BF16"))
    keep = tmp_path / "old.bin"
    keep.write_bytes((folder / UNET_FILE).read_bytes())

    def replace(what: str, *_: int) -> None:
        if new.exists() and what.endswith(str(folder / UNET_FILE)):
            os.replace(new, folder / UNET_FILE)

    assert same(store.load(folder, progress=replace).unet, bfloat16(UNET_WEIGHTS))
    assert same(store.load(folder).unet, bfloat16(OTHER))
    assert same(store.load(keep, vae=folder / VAE_FILE).unet, bfloat16(UNET_WEIGHTS))


@pytest.mark.parametrize("how", ["rewritten", "cut"])
def test_a_source_changed_in_place_while_it_is_converted(how: str, folder: Path, cache: Path) -> None:
    path, other = folder / UNET_FILE, torch_file(OTHER, "BF16")
    time.sleep(0.02)  # another tick than the one it was written in

    def change(what: str, done: int, total: int) -> None:
        if what.endswith(str(path)) and done > total // 2:
            with path.open("r+b") as file:
                file.truncate(len(other) // 3) if how == "cut" else file.write(other)

    with pytest.raises(WeightError, match=r"diffusion_pytorch_model\.bin was (changed|cut short) while it was read"):
        store.load(folder, progress=change)
    assert not list(cache.glob("weights/*"))


@pytest.mark.parametrize("how", ["rewritten", "cut"])
def test_a_file_in_use_that_is_changed_in_place(how: str, folder: Path) -> None:
    """Mapped, the one would change the weights, and the other end this process."""
    path = folder / "diffusion_pytorch_model.safetensors"
    safetensors.write(path, UNET_WEIGHTS)
    loaded = store.load(folder)
    with path.open("r+b") as file:
        if how == "cut":
            file.truncate(1000)
        else:
            file.write(bytes(path.stat().st_size))
    assert same(loaded.unet, UNET_WEIGHTS)


def test_the_digest_of_a_file_in_use_is_taken_once(folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = folder / "diffusion_pytorch_model.safetensors"
    safetensors.write(path, UNET_WEIGHTS)
    first = store.load(folder)
    assert not list(cache.glob("weights/unet-*"))
    monkeypatch.setattr("moebius.weights.identity.digest", lambda *_: pytest.fail("was taken again"))
    assert store.load(folder).digests == first.digests


def test_no_file(folder: Path) -> None:
    os.mkfifo(folder / "pipe.safetensors")
    for path in (folder / "pipe.safetensors", Path("/dev/zero")):
        with pytest.raises(WeightError, match="not a regular file"):
            OpenFile(path)


# Configs -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", infer.BOUNDS, ids=lambda kind: kind.__name__)
def test_every_field_has_bounds_and_the_family_keeps_them(kind: Any) -> None:
    assert infer.BOUNDS[kind].keys() == infer.to_json(kind()).keys()
    for config in (kind.full(), kind.tiny(), UNET if kind is unet.UNetConfig else CODER):
        assert infer.build(kind, infer.to_json(config)) == config
        for name, (low, high) in infer.BOUNDS[kind].items():
            for value in (low / 2 if isinstance(low, float) else low - 1, high * 2):
                wrong = [value] if isinstance(getattr(config, name), tuple) else value
                with pytest.raises(WeightError, match=name):
                    infer.build(kind, {**infer.to_json(config), name: wrong})


@pytest.mark.parametrize("given", [{"layers_per_block": 65536}, {name: high for name, (_, high) in infer.BOUNDS[unet.UNetConfig].items()}])
def test_a_config_cannot_cost_time(given: dict[str, Any], folder: Path) -> None:
    """It took 70 s and 4.7 GB. The largest of everything takes 0.2 s."""
    largest = {**given, "block_out_channels": [8192] * 8} if len(given) > 1 else given
    (folder / "config.json").write_text(json.dumps(largest))
    start = time.process_time()
    with pytest.raises(WeightError):
        store.load(folder)
    assert time.process_time() - start < 5


def test_a_config_of_gigabytes_is_not_read(folder: Path) -> None:
    with (folder / "config.json").open("wb") as file:
        file.truncate(6 << 30)  # a hole: nothing is stored
    start = time.process_time()
    with pytest.raises(WeightError, match="6442450944 bytes"):
        store.load(folder)
    assert time.process_time() - start < 1


# Checkpoints that are not quite one ----------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.module."])
def test_a_checkpoint_saved_with_its_wrapper(prefix: str, folder: Path) -> None:
    (folder / UNET_FILE).write_bytes(torch_file({prefix + k: a for k, a in UNET_WEIGHTS.items()}, "BF16"))
    with pytest.raises(WeightError) as caught:
        store.load(folder)
    assert f"begin with '{prefix}'" in str(caught.value)
    assert f"k.removeprefix('{prefix}')" in str(caught.value)
    (folder / UNET_FILE).write_bytes(torch_file(UNET_WEIGHTS, "BF16"))
    (folder / VAE_FILE).write_bytes(torch_file({prefix + k: a for k, a in VAE_WEIGHTS.items()}, "BF16"))
    with pytest.raises(WeightError, match=f"begin with '{prefix}'"):
        store.load(folder)


def test_a_bundle_that_lost_its_metadata(tmp_path: Path) -> None:
    tensors = {f"unet.{k}": a for k, a in UNET_WEIGHTS.items()} | {f"vae.{k}": a for k, a in VAE_WEIGHTS.items()}
    safetensors.write(tmp_path / "model.safetensors", tensors, {})
    with pytest.raises(WeightError, match="metadata"):
        store.load(tmp_path / "model.safetensors")


def test_a_unet_without_a_vae(folder: Path) -> None:
    (folder / VAE_FILE).unlink()
    with pytest.raises(WeightError, match=r"There is no VAE with .*published one cannot be had.*--vae.*HF_HUB_OFFLINE"):
        store.load(folder)
    config = unet.UNetConfig(8, 17, 8, (32, 64), 1, cross_attention_dim=16, encoder_hid_dim=24)
    (folder / UNET_FILE).write_bytes(torch_file(synthetic(unet.shapes(config), 0), "BF16"))
    with pytest.raises(WeightError, match=r"There is no VAE with .* 4 latent channels, this UNet 8.*--vae"):
        store.load(folder)


def test_a_vae_beside_a_bundle(folder: Path) -> None:
    with pytest.raises(UsageError, match="nano has a VAE of its own"):
        store.load("nano", vae=folder / VAE_FILE)
    with pytest.raises(UsageError, match=r"nano\.safetensors brings a VAE of its own"):
        store.load(packaged_nano(), vae=folder / VAE_FILE)


@pytest.mark.parametrize("path", ["~nosuchuser/model.bin", "x" * 5000, "a\0b"])
def test_paths_that_cannot_be(path: str) -> None:
    with pytest.raises(UsageError) as caught:
        store.load(path)
    assert len(str(caught.value)) < 500
