"""A checkout's own process in against.py: makes a picture for every line it reads, and says how long its parts took; and then one of two
steps, to tell what a step takes of the processors.

What it takes from the package is what older versions have, too.
"""

from __future__ import annotations

import json
import sys
import time

from workload import picture

from moebius import Inpainter
from moebius.backends.webgpu import WebGPU
from moebius.inpaint.settings import Settings
from moebius.model import unet, vae
from moebius.model.synthetic import synthetic
from moebius.model.unet import UNet, UNetConfig
from moebius.model.vae import VAE, VAEConfig
from moebius.weights import store
from moebius.weights.nano import packaged_nano


def made(adapter: str, config: str) -> Inpainter:
    ops = WebGPU(adapter)
    if config == "nano":
        w = store.load(packaged_nano())
        return Inpainter(UNet(w.unet_config, w.unet, ops), VAE(w.vae_config, w.vae, ops))
    ours, theirs = UNetConfig.tiny(), VAEConfig.tiny()
    return Inpainter(UNet(ours, synthetic(unet.shapes(ours), 0), ops), VAE(theirs, synthetic(vae.shapes(theirs), 0), ops))


def seconds(inpainter: Inpainter, steps: int) -> dict[str, float]:
    """By the wall; and of all processors, on which a software driver computes, whatever else they do meanwhile."""
    begin = time.process_time()
    by_part, _ = picture(inpainter, steps)
    whole = time.process_time() - begin
    picture(inpainter, 2)
    short = time.process_time() - begin - whole
    calls = [len(inpainter.scheduler.timesteps(n, Settings.strength)) for n in (steps, 2)]
    return by_part | {"cpu step": (whole - short) / (calls[0] - calls[1]), "cpu image": whole}


if __name__ == "__main__":
    adapter, config, steps = sys.argv[1:]
    inpainter = made(adapter, config)
    for _ in sys.stdin:
        print(json.dumps(seconds(inpainter, int(steps))), flush=True)
