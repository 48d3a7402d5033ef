"""Inputs and weights of the engine's own noise: every machine computes with the same bytes."""

from __future__ import annotations

import math
import zlib

import numpy as np

from moebius.model.noise import Portable
from moebius.model.params import Shapes


def normal(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Standard normals that depend on the name alone."""
    return Portable(zlib.crc32(name.encode())).draw(shape)


def portable_weights(shapes: Shapes, name: str) -> dict[str, np.ndarray]:
    """As `moebius.model.synthetic` makes them, with the scales of real layers, but from portable noise."""
    weights = {}
    for path, shape in shapes.items():
        n, leaf = normal(f"{name} {path}", shape), path.rsplit(".", 1)[-1]
        if leaf == "running_var":
            weights[path] = np.float32(0.5) + np.float32(0.5) * np.abs(n)
        elif leaf in ("running_mean", "bias"):
            weights[path] = np.float32(0.1) * n
        elif leaf == "weight" and len(shape) == 1:
            weights[path] = np.float32(1) + np.float32(0.1) * n
        elif leaf == "rel_pos_emb":
            weights[path] = np.float32(0.3) * n
        else:
            weights[path] = n / np.float32(math.sqrt(math.prod(shape[1:])))
    return weights
