"""Two small networks with weights made from a seed, as files of them are called, and what tests do with those."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from torch_files import torch_file

from moebius.model import unet, vae
from moebius.model.synthetic import synthetic
from moebius.model.unet import UNetConfig
from moebius.model.vae import VAEConfig

UNET = UNetConfig(8, block_out_channels=(32, 64), layers_per_block=1, cross_attention_dim=16, encoder_hid_dim=24)
CODER = VAEConfig((32, 64), 1)
Arrays = dict[str, np.ndarray]
UNET_WEIGHTS = synthetic(unet.shapes(UNET), 0)
VAE_WEIGHTS = synthetic(vae.shapes(CODER), 0)
UNET_FILE, VAE_FILE = "diffusion_pytorch_model.bin", "vae/diffusion_pytorch_model.bin"


def bfloat16(arrays: Arrays) -> Arrays:
    return {k: (a.astype(np.float32).view(np.uint32) & 0xFFFF0000).view(np.float32) for k, a in arrays.items()}


def same(a: Any, b: Arrays) -> bool:
    return a.keys() == b.keys() and all(a[k].dtype == np.float32 and np.array_equal(a[k], b[k]) for k in b)


def with_unet(folder: Path, arrays: Arrays, kind: str = "F32", wrap: str | None = None) -> Path:
    (folder / UNET_FILE).write_bytes(torch_file(arrays, kind, wrap))
    return folder


def flip(path: Path, at: int, bit: int) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 1 << bit]))
