"""The sampling loop: noise in, latents out. One step is one function on the backend's own tensors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Generic

import numpy as np

from moebius.errors import UsageError
from moebius.model.checks import check_floats, check_timestep
from moebius.model.contract import StepState, T, Timesteps
from moebius.model.unet import UNet


class Denoiser(Generic[T]):
    """Runs a schedule. `ids` are (2·B, m), the unconditional rows first; guidance 1 needs, and runs, the conditional ones only."""

    def __init__(self, unet: UNet[T], ids: np.ndarray, timesteps: Sequence[int], coefficients: np.ndarray, guidance: float) -> None:
        ids = unet.check_ids(ids)
        if not len(ids) or len(ids) % 2:
            raise UsageError(f"ids have {len(ids)} rows; give the unconditional rows, then as many conditional ones.")
        if not np.isfinite(guidance):
            raise UsageError(f"guidance is {guidance}; it must be a finite number (1 turns it off).")
        if len(timesteps) == 0 or np.shape(coefficients) != (len(timesteps), 4):
            raise UsageError(
                f"{len(timesteps)} timesteps go with coefficients {np.shape(coefficients)}; give four coefficients a timestep."
            )
        self.unet, self.batch, self.guidance = unet, len(ids) // 2, float(guidance)
        self.copies = 1 if self.guidance == 1.0 else 2
        self.ids = ids[self.batch :] if self.copies == 1 else ids
        self.timesteps = Timesteps(check_timestep(t) for t in timesteps)
        self.coefficients = np.asarray(coefficients, np.float64)

    def run(self, y: np.ndarray, mask: np.ndarray, masked: np.ndarray) -> np.ndarray:
        """Starting latents (B, 4, h, w), latent mask (B, 1, h, w), latents of the masked image (B, 4, h, w) → the final latents."""
        for state in self.steps(y, mask, masked):
            if state.index == len(self.timesteps) - 1:
                latents = state.latents()
        return latents

    def steps(self, y: np.ndarray, mask: np.ndarray, masked: np.ndarray) -> Iterator[StepState]:
        """The same, step by step; not iterated further, it stops."""
        self._check(y, mask, masked)
        return self.unet.ops.loop(self.step, [y, mask, masked], self.timesteps)

    def rehearse(self) -> None:
        """Raises LimitError now where the step does not fit the device."""
        s, c = self.unet.config.sample_size, self.unet.config.out_channels
        self.unet.ops.rehearse(self.step, [(self.batch, n, s, s) for n in (c, 1, c)])

    def step(self, y: T, mask: T, masked: T, rows: slice) -> tuple[T, T]:
        """ε = UNet([y, mask, masked], t), guided; DDIM. Returns y', x0.

        `rows` of the schedule are handed on: one of them to take that step, all of them where a backend records the step once
        and picks its row while it replays.
        """
        ops = self.unet.ops
        x = ops.unet_input(y, mask, masked)  # (B, h, w, 9)
        eps = self.unet.forward(x, Timesteps(self.timesteps[rows]), self.ids, self.copies)  # (copies·B, h, w, 4)
        return ops.guided_ddim(eps, y, self.coefficients[rows], self.guidance)

    def _check(self, y: np.ndarray, mask: np.ndarray, masked: np.ndarray) -> None:
        b, s, c = self.batch, self.unet.config.sample_size, self.unet.config.out_channels
        for what, array, channels in (("starting latents", y, c), ("latent mask", mask, 1), ("masked latents", masked, c)):
            if np.shape(array) != (b, channels, s, s):
                raise UsageError(f"The {what} are {np.shape(array)}; this UNet and these ids take {(b, channels, s, s)}.")
            check_floats(array, what)
