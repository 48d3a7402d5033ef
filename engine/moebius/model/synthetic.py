"""Weights from names and a seed, for tests, benchmarks and `--synthetic`: the same bytes on every machine."""

from __future__ import annotations

import zlib
from collections.abc import Mapping

import numpy as np


def rng(seed: int, name: str) -> np.random.Generator:
    """A generator that depends on a seed and a name alone."""
    return np.random.Generator(np.random.PCG64(zlib.crc32(f"{seed}:{name}".encode())))


def synthetic(shapes: Mapping[str, tuple[int, ...]], seed: int) -> dict[str, np.ndarray]:
    """Weights made from names and a seed: no training in them, but every scale is that of a real layer."""
    return {name: _synthetic(name, tuple(shape), seed) for name, shape in shapes.items()}


def _synthetic(name: str, shape: tuple[int, ...], seed: int) -> np.ndarray:
    g, leaf = rng(seed, name), name.rsplit(".", 1)[-1]
    if leaf == "num_batches_tracked":
        return np.zeros(shape, np.int64)
    if leaf == "running_var":
        return np.float32(0.5) + g.random(shape, dtype=np.float32)
    n = g.standard_normal(shape, dtype=np.float32)
    if leaf in ("running_mean", "bias"):
        return np.float32(0.1) * n
    if leaf == "weight" and len(shape) == 1:
        return np.float32(1) + np.float32(0.1) * n
    if name == "embedding_layer.weight":
        return n
    if leaf == "rel_pos_emb":
        return np.float32(0.3) * n
    return n / np.float32(np.sqrt(np.prod(shape[1:])))
