"""What every backend does to arrays on the host: layouts, and the table of the timesteps."""

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
