"""The CPU device's fast paths against the published code, module by module.

With a tap its ops are the reference's. Here they are its own, and what it hands from one module to the next is looked at on the way.
"""

from __future__ import annotations

import numpy as np
import pytest
from goldens import CONFIGS, IDS, ModuleSamples, load, noise, relative, sample, weights

from moebius.backends.cpu import CPU
from moebius.model.unet import UNet
from moebius.model.vae import VAE

slow = pytest.mark.slow


class Watched(CPU):
    """Shows what modules give, as it computes them."""

    def __init__(self, seen: ModuleSamples) -> None:
        super().__init__()
        self.seen = seen

    def tap(self, path: str, x: np.ndarray, layout: str = "image") -> None:
        assert self._tap is None, "these would be the reference's ops"
        self._tap = self.seen
        try:
            super().tap(path, x, layout)
        finally:
            self._tap = None


# Measured: 4.8e-6 (nano) and 1.0e-5 (full) at the worst module.
@pytest.mark.parametrize(("name", "t"), [("unet_nano_seed0_t500", 500), pytest.param("unet_full_seed0_t811", 811, marks=slow)])
def test_unet(name: str, t: int) -> None:
    net = name.rsplit("_seed0", 1)[0]
    side, seen = CONFIGS[net].sample_size, ModuleSamples(name)
    out = UNet(CONFIGS[net], weights(net), Watched(seen))(noise(f"{name}.latent", (2, 9, side, side)), t, IDS)
    assert relative(out, load(name)["output"]) <= 2e-5
    assert len(seen.errors) == 156  # of 946: those that end where the network itself is put together
    assert max(seen.errors.values()) <= 5e-5


# Measured: 2.7e-6 (nano) and 4.9e-6 (full at 64²). Of 512² there are no modules to compare with.
@pytest.mark.parametrize(
    ("name", "size", "modules"), [("vae_nano_128", 128, 94), ("vae_full_64", 64, 94), pytest.param("vae_full_512", 512, 0, marks=slow)]
)
def test_vae(name: str, size: int, modules: int) -> None:
    net, golden, seen = name.rsplit("_", 1)[0], load(name), ModuleSamples(name)
    coder = VAE(CONFIGS[net], weights(net), Watched(seen))
    moments = coder.encode(np.clip(noise(f"{name}.image", (1, 3, size, size)), -1, 1))
    image = coder.decode(noise(f"{name}.latent", (1, 4, size // 8, size // 8)))
    for path, array in (("moments", moments), ("image", image)):
        want = golden[path]
        assert relative(array if array.shape == want.shape else sample(array, path, want.size), want) <= 2e-5
    assert len(seen.errors) == modules
    assert max(seen.errors.values(), default=0) <= 5e-5
