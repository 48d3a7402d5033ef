"""What a Hub of the tests' own has, and how a failure to get it is looked at."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hub_server import HubServer
from torch_files import torch_file
from weights_cases import UNET_WEIGHTS, VAE_WEIGHTS

from moebius.errors import WeightError
from moebius.weights import store
from moebius.weights.folders import cache_folder
from moebius.weights.hub import HubError

UNET_FILE = ("hustvl/Moebius", "ft_places2/diffusion_pytorch_model.bin")
VAE_FILE = ("hustvl/PixelHacker", "vae/diffusion_pytorch_model.bin")
CONFIG_FILE = ("hustvl/PixelHacker", "vae/config.json")
UNET_BYTES, VAE_BYTES = torch_file(UNET_WEIGHTS, "BF16"), torch_file(VAE_WEIGHTS, "BF16")
PUBLISHED = {UNET_FILE: UNET_BYTES, VAE_FILE: VAE_BYTES, CONFIG_FILE: json.dumps({"scaling_factor": 0.25}).encode()}


def environment(server: HubServer, home: Path, **more: str) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "MOEBIUS"))}
    return {**kept, "HF_ENDPOINT": server.url, "HF_HOME": str(home / "home"), **more}


def failure(kind: type[WeightError] = HubError, **options: Any) -> str:
    """The sentence. Nothing that could be taken for weights is left behind."""
    with pytest.raises(kind) as caught:
        store.load("places2", **options)
    assert not list(cache_folder().glob("weights/*"))
    message = str(caught.value)
    assert "\n" not in message
    assert message.endswith(".")
    assert len(message) < 500
    return message


def saved_vae(folder: Path) -> Path:
    (folder / "vae.bin").write_bytes(torch_file(VAE_WEIGHTS))
    return folder / "vae.bin"
