"""A sampling loop on a plan that other loops use too."""

from __future__ import annotations

import weakref
from collections.abc import Sequence

import numpy as np

from moebius.backends.webgpu.plan import Plan
from moebius.backends.webgpu.tensor import Tensor, read
from moebius.model.arrays import time_sinusoid, to_nchw
from moebius.model.contract import Timesteps


class Tenant:
    """What one run has in the buffers of a plan: latents, estimate, and which steps were not finite.

    It is in the buffers while the run is alone. When another run takes a step on the same plan, what is there is read back first
    (`_leave`), and written again when this one goes on (`enter`), with the time tables of its steps: a few small copies to and fro, and a
    wait for the GPU. A run alone pays nothing.
    States of the run that someone keeps hold the tenant, and so these buffers, but not the memory of the plan.
    """

    def __init__(self, plan: Plan, inputs: Sequence[np.ndarray], timesteps: Timesteps) -> None:
        recording = plan.recording
        assert recording.sinusoid is not None
        assert recording.flags is not None
        self._turns, self._flags = plan.device.turns, recording.flags
        self._latents, self._estimate = plan.inputs[0], plan.outputs[1]
        self._table = time_sinusoid(timesteps, recording.sinusoid.shape[3])
        self._steps = len(timesteps)
        # What is not in the buffers: the channels-last inputs, and after a step the estimate and the flags too.
        self._fixed = list(inputs[1:])
        self._away: dict[str, np.ndarray] | None = {"latents": inputs[0]}

    def enter(self, plan: Plan) -> None:
        """Sees to it that the plan's buffers are this run's. The caller has the turn."""
        tenant = plan.tenant() if plan.tenant is not None else None
        if tenant is self:  # whatever an interrupt left half done, nobody else's latents have been written since
            self._away = None
            return
        if tenant is not None:
            tenant._leave()
        assert self._away is not None
        plan.tenant = None  # nobody's, should what follows fail
        plan.upload([self._away["latents"], *self._fixed])
        plan.start(self._table)
        if "flags" in self._away:
            self._flags.write(self._away["flags"])
        plan.tenant = weakref.ref(self)
        self._away = None

    def _leave(self) -> None:
        self._away = {"latents": read(self._latents), "estimate": read(self._estimate), "flags": self._read_flags()}

    def latents(self) -> np.ndarray:
        """NCHW, after the last step."""
        return self._fetch("latents", self._latents)

    def estimate(self) -> np.ndarray:
        """NCHW, x0 as the last step predicts it."""
        return self._fetch("estimate", self._estimate)

    def flags(self) -> np.ndarray:
        """A word a step, not zero where its result was not finite."""
        return self._read_flags() if self._away is None else self._away["flags"]

    def _fetch(self, name: str, tensor: Tensor) -> np.ndarray:
        with self._turns:
            return to_nchw(read(tensor) if self._away is None else self._away[name])

    def _read_flags(self) -> np.ndarray:
        return self._flags.read(4 * self._steps, np.uint32)
