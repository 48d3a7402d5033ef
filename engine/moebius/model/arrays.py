"""What every backend does to arrays on the host: layouts, the table of the timesteps, the weights of nine products."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from moebius.model.contract import TEMB_MAX_PERIOD


def to_nchw(x: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(np.moveaxis(x, -1, 1))


def time_sinusoid(t: Sequence[int], width: int) -> np.ndarray:
    """(T, width) float64: cosines, then sines, of t·exp(-ln(10000)·i/half). GPUs have no sine good enough for t up to 999."""
    half = width // 2
    angles = np.asarray(t, np.float64)[:, None] * np.exp(-np.log(TEMB_MAX_PERIOD) * np.arange(half) / half)
    return np.concatenate([np.cos(angles), np.sin(angles)], axis=1)


def enlarging(weight: np.ndarray) -> np.ndarray:
    """(Cout, Cin, 3, 3) → (9, Cin, Cout) in float64, of a 3×3 behind nearest×2 as nine products of an image and its differences: on either
    axis the first tap, all three together, and the last."""
    sums = np.array([[1.0, 0, 0], [1, 1, 1], [0, 0, 1]])
    taps = np.kron(sums, sums) @ weight.reshape(-1, 9).T.astype(np.float64)
    return taps.reshape(9, *weight.shape[:2]).transpose(0, 2, 1)
