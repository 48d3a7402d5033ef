"""What half precision may lose in an op on top of float32: by how much its outputs move when what is stored in it is moved.

Sums are float32's, so what is lost are the roundings of numbers as they are stored, or put before matrix units: every weight that
products are made with by 2⁻¹¹ of itself, every tensor that one kernel hands on to the next, and an input that is a norm's output. How
large that becomes in the outputs (sums that cancel, a softmax of large logits) the oracle says, at the op's own values: it computes them
once more with weights and input moved by as much, up or down at random. A value that is handed on is a factor in a product with a weight,
and a rounding of it does what one of that weight does: so weights are moved by two roundings.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from moebius.backends.reference import Reference
from moebius.backends.webgpu import quads
from moebius.check.bounds import U_HALF, WORST
from moebius.model.params import Checkpoint, Params

NORMS = ("group_norm", "layer_norm")  # whose output is stored as halves; nothing in them is multiplied by a weight that is


def peak(out: np.ndarray) -> float:
    """The largest value in units of the root mean square. A rounding is as large as its value makes it, and a single error is judged by
    `WORST` limits of the root mean square: behind a SiLU a value may be further away than that."""
    return float(np.abs(out).max()) / (float(np.sqrt(np.mean(out * out))) or 1.0)


def moved(array: np.ndarray, seed: str, roundings: float = 1.0) -> np.ndarray:
    """Every value so many roundings of a half larger or smaller."""
    signs = np.random.default_rng(zlib.crc32(seed.encode())).integers(0, 2, array.shape, np.int8)
    out: np.ndarray = array * (1.0 + roundings * U_HALF * (2.0 * signs - 1.0))
    return out


class Moved(Mapping[str, np.ndarray]):
    """Parameters with all that products are made with moved. Biases and what norms are made of stay: they are float32."""

    def __init__(self, weights: Mapping[str, np.ndarray]) -> None:
        self._weights = weights

    def __getitem__(self, name: str) -> np.ndarray:
        array = self._weights[name]
        return moved(array, name, 2.0) if array.ndim > 1 else array

    def __iter__(self) -> Iterator[str]:
        return iter(self._weights)

    def __len__(self) -> int:
        return len(self._weights)


def moved_params(p: Params) -> Params:
    return Params(Checkpoint(Moved(p.root)), p.path)


class Lost(NamedTuple):
    """What roundings to halves explain of an output's error."""

    relative_l2: float
    worst: float = WORST  # a single value's, in those of the root mean square: more than others where few values have most of what is lost


def lost(op: str, args: tuple[Any, ...], kwargs: dict[str, Any], outputs: list[np.ndarray]) -> list[Lost]:
    """Of an op's outputs, which are the oracle's for these arguments."""
    if op in NORMS:
        return [Lost(U_HALF * max(1.0, peak(outputs[0]) / WORST))]
    if not any(isinstance(a, Params) for a in args):
        return [Lost(0.0)] * len(outputs)
    shaken: list[Any] = [moved_params(a) if isinstance(a, Params) else a for a in args]
    if isinstance(args[0], np.ndarray):
        shaken[0] = moved(args[0], op)
    out = getattr(Reference(np.float64), op)(*shaken, **kwargs)
    again = list(out) if isinstance(out, tuple) else [out]
    return [_explained(a - o, o) for a, o in zip(again, outputs, strict=True)]


def _explained(difference: np.ndarray, out: np.ndarray) -> Lost:
    return Lost(float(np.linalg.norm(difference)) / (float(np.linalg.norm(out)) or 1.0), max(WORST, peak(difference)))


def in_quads(found: Lost, out: np.ndarray) -> Lost:
    """And where an output is kept so: all of it is off by two of quads.ERROR at most, a value by one of the largest."""
    return Lost(found.relative_l2 + quads.ERROR * max(2.0, peak(out) / WORST), found.worst)
