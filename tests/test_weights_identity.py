"""Which model it is: by its content, whatever a file is called; what a picture says of it, and what --like makes of that."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_cli import IMAGE, MASK, run
from torch_files import torch_file
from weights_cases import CODER, UNET, UNET_WEIGHTS, VAE_FILE, VAE_WEIGHTS
from weights_fixtures import cache, folder  # noqa: F401

from moebius import Inpainter
from moebius.backends.cpu import CPU
from moebius.errors import UsageError, WeightError
from moebius.model.unet import UNet
from moebius.model.vae import VAE
from moebius.pictures.metadata import read_metadata
from moebius.weights import identity, infer, store
from moebius.weights.bundle import BUNDLE_KEY, write_bundle
from moebius.weights.formats import safetensors
from moebius.weights.nano import packaged_nano

# ruff: noqa: F811 (fixtures)

QUICK = ["--device", "cpu", "--steps", 1, "--strength", 1]


def digest(config: Any, weights: Any) -> str:
    return identity.digest(config, weights, weights.__getitem__)


# The digest ----------------------------------------------------------------------------------------------------------


def test_the_same_content_has_one_digest_in_every_file(folder: Path, tmp_path: Path) -> None:
    halves = {k: a.astype(np.float16).astype(np.float32) for k, a in UNET_WEIGHTS.items()}
    want = digest(UNET, halves)
    safetensors.write(tmp_path / "whole.safetensors", halves)
    safetensors.write(tmp_path / "half.safetensors", {k: a.astype(np.float16) for k, a in reversed(halves.items())})
    (tmp_path / "half.bin").write_bytes(torch_file(halves, "F16"))
    write_bundle(tmp_path / "bundle.safetensors", UNET, halves, CODER, VAE_WEIGHTS)
    for name in ("whole.safetensors", "half.safetensors", "half.bin"):
        for use_cache in (True, True, False):
            assert store.load(tmp_path / name, vae=folder / VAE_FILE, cache=use_cache).digests["unet"] == want
    assert store.load(tmp_path / "bundle.safetensors").digests == {"unet": want, "vae": digest(CODER, VAE_WEIGHTS)}


def changed(name: str, change: Callable[[np.ndarray], np.ndarray]) -> dict[str, np.ndarray]:
    return {**VAE_WEIGHTS, name: change(VAE_WEIGHTS[name])}


def test_another_content_has_another_digest() -> None:
    bias, other = "quant_conv.bias", "post_quant_conv.bias"

    def bit(x: np.ndarray) -> np.ndarray:
        bits = x.copy().view(np.uint32)
        bits[0] ^= 1
        return bits.view(np.float32)

    swapped = {**VAE_WEIGHTS, "decoder.conv_in.bias": VAE_WEIGHTS["encoder.conv_out.bias"]}
    digests = [
        digest(CODER, VAE_WEIGHTS),
        digest(CODER, changed(bias, bit)),
        digest(CODER, changed(other, bit)),
        digest(CODER, changed(bias, lambda x: x.reshape(1, -1))),
        digest(CODER, swapped),
        digest(infer.build(type(CODER), {**infer.to_json(CODER), "scaling_factor": 0.5}), VAE_WEIGHTS),
    ]
    assert len(set(digests)) == len(digests)


# How fills are put back ----------------------------------------------------------------------------------------------


def test_no_file_name_decides_how_fills_are_put_back(tmp_path: Path) -> None:
    write_bundle(tmp_path / "nano.safetensors", UNET, UNET_WEIGHTS, CODER, VAE_WEIGHTS)
    write_bundle(tmp_path / "mine.safetensors", UNET, UNET_WEIGHTS, CODER, VAE_WEIGHTS, blend="match")
    assert Inpainter.from_pretrained(tmp_path / "nano.safetensors", device="cpu").blend == "paste"
    assert Inpainter.from_pretrained(tmp_path / "mine.safetensors", device="cpu").blend == "match"
    assert json.loads(safetensors.read(packaged_nano()).metadata[BUNDLE_KEY])["blend"] == "match"
    write_bundle(tmp_path / "odd.safetensors", UNET, UNET_WEIGHTS, CODER, VAE_WEIGHTS, blend="melt")
    with pytest.raises(UsageError, match="'melt'"):
        Inpainter.from_pretrained(tmp_path / "odd.safetensors", device="cpu")


def test_a_blend_that_is_no_text(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    write_bundle(path, UNET, UNET_WEIGHTS, CODER, VAE_WEIGHTS)
    tensors = safetensors.read(path)
    entry = json.dumps({**json.loads(tensors.metadata[BUNDLE_KEY]), "blend": ["match"]})
    safetensors.write(path, dict(tensors), {BUNDLE_KEY: entry})
    with pytest.raises(WeightError, match="blend"):
        store.load(path)


# What a picture says of its model, and --like ------------------------------------------------------------------------


@pytest.fixture
def model(folder: Path, tmp_path: Path) -> Path:
    """A UNet of the user's that has a published model's name, with its VAE."""
    path = tmp_path / "places2.safetensors"
    safetensors.write(path, UNET_WEIGHTS)
    return path


def inpaint(capsys: pytest.CaptureFixture, out: Path, *more: object) -> tuple[int, str]:
    """Exit code, and what was said."""
    code, _, err = run(capsys, "inpaint", IMAGE, MASK, *QUICK, "-o", out, *more)
    return code, err


def test_the_record_is_of_the_content(model: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    first = tmp_path / "first.png"
    assert inpaint(capsys, first, "--model", model, "--vae", folder / VAE_FILE)[0] == 0
    record = read_metadata(first)
    assert record is not None
    loaded = store.load(model, vae=folder / VAE_FILE)
    assert record["model"] == "places2.safetensors"
    assert record["source"]["unet"] == {"path": "places2.safetensors"}  # where it lay is nobody else's business
    assert record["config"]["unet"]["block_out_channels"] == [32, 64]
    assert record["weights"] == loaded.digests
    assert record["weights"]["unet"] == digest(UNET, UNET_WEIGHTS)

    code, said = inpaint(capsys, tmp_path / "no.png", "--like", first)
    assert (code, (tmp_path / "no.png").exists()) == (2, False)
    assert "places2.safetensors (digest " in said
    assert "--model" in said
    again = ("--like", first, "--model", model, "--vae", folder / VAE_FILE)
    code, said = inpaint(capsys, tmp_path / "again.png", *again)
    assert (code, "another" in said) == (0, False)
    assert (tmp_path / "again.png").read_bytes()
    model.write_bytes(b"")
    safetensors.write(model, {k: a * np.float32(0.5) for k, a in UNET_WEIGHTS.items()})
    code, said = inpaint(capsys, tmp_path / "other.png", *again)
    assert code == 0
    assert f"another UNet (digest {record['weights']['unet'][:10]}" in said


def test_like_does_not_take_another_model_of_the_same_name(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    first = tmp_path / "first.png"
    assert inpaint(capsys, first)[0] == 0
    record = read_metadata(first)
    assert record is not None
    assert record["source"]["unet"] == {"packaged": "nano"}
    code, _ = inpaint(capsys, tmp_path / "again.png", "--like", first)
    assert code == 0
    assert (read_metadata(tmp_path / "again.png") or {})["weights"] == record["weights"]

    from moebius.pictures import photo as photos
    from moebius.pictures.save import save

    forged = {**record, "weights": {**record["weights"], "vae": "0" * 64}}
    save(photos.load(first).with_rgb(*unchanged(first), opaque=False), first, like=photos.load(first), metadata=forged)
    code, said = inpaint(capsys, tmp_path / "no.png", "--like", first)
    assert (code, (tmp_path / "no.png").exists()) == (2, False)
    assert "another VAE (digest 000" in said


def unchanged(path: Path) -> tuple[np.ndarray, np.ndarray]:
    from moebius.pictures import photo as photos

    rgb = np.array(photos.load(path).rgb)
    return rgb, np.zeros(rgb.shape[:2], bool)


SOURCES = [None, 1, {"unet": 1}, {"unet": {"path": "\x1b[31m/x"}}, {"unet": {"repo": "evil/repo"}}, {"unet": {"packaged": 1}}]


@pytest.mark.parametrize("source", SOURCES, ids=ascii)
def test_a_record_is_only_words(source: Any) -> None:
    import argparse

    from moebius.cli.like import take_same_model

    args = argparse.Namespace(like="a.png", model=None, synthetic=None, revision=None, vae=None)
    with pytest.raises(UsageError, match="--model") as caught:
        take_same_model(args, {"model": "places2", "source": source, "weights": {"unet": 5}})
    assert str(caught.value).isprintable()
    assert (args.model, args.revision) == (None, None)
    published = {"unet": {"repo": "hustvl/Moebius", "commit": "../../x"}}
    take_same_model(args, {"model": "places2", "source": published, "weights": {}})
    assert (args.model, args.revision) == ("places2", None)


def test_weights_handed_in_by_hand_have_no_digest() -> None:
    made = Inpainter(UNet(UNET, UNET_WEIGHTS, CPU()), VAE(CODER, VAE_WEIGHTS, CPU()))
    assert made.identity["weights"] == made.identity["source"] == {}
    assert made.identity["config"]["vae"]["scaling_factor"] == CODER.scaling_factor
    json.dumps(made.identity)
