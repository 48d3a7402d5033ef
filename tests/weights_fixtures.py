"""A cache of the test's own, and a model's folder. Who imports `cache` has it in every test."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from torch_files import torch_file
from weights_cases import UNET_FILE, UNET_WEIGHTS, VAE_FILE, VAE_WEIGHTS


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
