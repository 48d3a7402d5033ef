"""The published code's outputs: loading, remaking their inputs, comparing module by module."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

from moebius.model.synthetic import rng, synthetic
from moebius.model.unet import UNetConfig
from moebius.model.vae import VAEConfig

FOLDER = Path(__file__).parent / "goldens"
IDS = np.array([np.arange(10, 20), np.arange(0, 10)])
CONFIGS = {"unet_nano": UNetConfig.tiny(), "unet_full": UNetConfig.full(), "vae_nano": VAEConfig.tiny(), "vae_full": VAEConfig.full()}


def noise(name: str, shape: tuple[int, ...]) -> np.ndarray:
    return rng(0, name).standard_normal(shape, dtype=np.float32)


def load(name: str) -> dict[str, np.ndarray]:
    return load_file(FOLDER / f"{name}.safetensors")


def stats(name: str) -> dict[str, dict]:
    return json.loads((FOLDER / f"{name}.stats.json").read_text())


def manifest(net: str) -> dict[str, tuple[int, ...]]:
    return {key: tuple(shape) for key, shape, _ in json.loads((FOLDER / f"{net}_manifest.json").read_text())}


@cache
def weights(net: str) -> dict[str, np.ndarray]:
    """The synthetic weights the goldens were made with."""
    return synthetic(manifest(net), 0)


def relative(a: np.ndarray, b: np.ndarray) -> float:
    """‖a - b‖ / ‖b‖ in float64."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    assert a.shape == b.shape, (a.shape, b.shape)
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


class ModuleSamples:
    """A tap that compares every module output with its `sub:` sample and remembers the error."""

    def __init__(self, name: str) -> None:
        self.expected = {k.removeprefix("sub:"): v for k, v in load(name).items() if k.startswith("sub:")}
        self.shapes = {k: tuple(v["shape"]) for k, v in stats(name).items()}
        self.errors: dict[str, float] = {}

    def __call__(self, path: str, array: np.ndarray) -> None:
        if path not in self.expected:
            return
        want, shape = self.expected[path], self.shapes[path]
        if array.shape != shape and array.shape[0] == 1:  # a row of the time embedding stands for the whole batch
            array = np.broadcast_to(array, shape)
        assert array.shape == shape, f"{path}: {array.shape}, golden {shape}"
        self.errors[path] = relative(sample(array, path, want.size), want)

    @property
    def missing(self) -> list[str]:
        return sorted(self.expected.keys() - self.errors.keys())


def sample(array: np.ndarray, path: str, count: int) -> np.ndarray:
    return np.ascontiguousarray(array).reshape(-1)[rng(0, f"index:{path}").integers(0, array.size, size=count)]
