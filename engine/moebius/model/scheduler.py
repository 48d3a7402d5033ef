"""DDIM (Song et al. 2021) as the published model samples: eta 0, epsilon prediction, no clipping."""

from __future__ import annotations

import numpy as np

from moebius.errors import UsageError
from moebius.model.contract import MAX_STEPS

TRAIN_STEPS = MAX_STEPS
BETA_START, BETA_END = 0.00085, 0.012


class DDIM:
    """ā_t and the coefficients of a run. Everything is float64; the sampler rounds once, at its own edge."""

    def __init__(self) -> None:
        betas = np.linspace(BETA_START**0.5, BETA_END**0.5, TRAIN_STEPS) ** 2
        self.alphas_cumprod = np.cumprod(1.0 - betas)

    def timesteps(self, steps: int = 20, strength: float = 0.99) -> np.ndarray:
        """(N-1)·r … 0 with r = 1000 // N, the last int(N·strength) of them."""
        if not 1 <= steps <= TRAIN_STEPS:
            raise UsageError(f"steps is {steps}; it must be between 1 and {TRAIN_STEPS}.")
        if not strength > 0.0:
            raise UsageError(f"strength is {strength}; it must be above 0 (1 starts from pure noise).")
        used = min(int(steps * strength), steps)
        if used == 0:
            raise UsageError(f"strength {strength} leaves none of {steps} steps to run; raise one of the two.")
        return (np.arange(steps)[::-1] * (TRAIN_STEPS // steps))[steps - used :].copy()

    def coefficients(self, timesteps: np.ndarray, steps: int) -> np.ndarray:
        """(T, 4): √ā_t, √(1-ā_t), √ā_p, √(1-ā_p) with p = t - 1000 // steps and ā_p = 1 below zero."""
        t = np.asarray(timesteps)
        p = t - TRAIN_STEPS // steps
        at = self.alphas_cumprod[t]
        ap = np.where(p >= 0, self.alphas_cumprod[np.maximum(p, 0)], 1.0)
        return np.stack([np.sqrt(at), np.sqrt(1 - at), np.sqrt(ap), np.sqrt(1 - ap)], axis=1)

    def add_noise(self, z: np.ndarray, noise: np.ndarray, t: int) -> np.ndarray:
        """√ā_t·z + √(1-ā_t)·noise."""
        a = self.alphas_cumprod[t]
        return np.sqrt(a) * z + np.sqrt(1 - a) * noise
