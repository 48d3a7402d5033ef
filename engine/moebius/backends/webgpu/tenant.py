"""A sampling loop on a plan that other loops use too."""

from __future__ import annotations

import weakref
from collections.abc import Sequence

import numpy as np

from moebius.backends.turns import Turns
from moebius.backends.webgpu.plan import Plan
from moebius.backends.webgpu.readback import Readback
from moebius.backends.webgpu.tensor import planes, unpadded
from moebius.model.arrays import time_sinusoid
from moebius.model.contract import Timesteps

Shape = tuple[int, int, int, int]


class After:
    """What a step made, copied behind it on the GPU's timeline. Whoever keeps it keeps these few numbers, and nothing of the plan."""

    def __init__(self, coming: Readback, shapes: tuple[Shape, Shape], turns: Turns) -> None:
        self._coming, self._shapes, self._turns = coming, shapes, turns

    def latents(self) -> np.ndarray:
        """NCHW."""
        return planes(self._part(0), self._shapes[0], "f32")

    def estimate(self) -> np.ndarray:
        """NCHW, x0 as this step predicts it."""
        return planes(self._part(1), self._shapes[1], "f32")

    def channels_last(self) -> np.ndarray:
        """The latents."""
        return unpadded(self._part(0), self._shapes[0], "f32")

    def flags(self) -> np.ndarray:
        """A word a step, not zero where its result was not finite."""
        return self._part(2).view(np.uint32)

    def _part(self, which: int) -> np.ndarray:
        with self._turns:
            return self._coming.read()[which]


class Tenant:
    """One run in the buffers of a plan: its latents, its estimate, and which of its steps were not finite.

    When another run takes a step on the same plan, it writes its own over them; when this one goes on, what its last step made is written
    again (`enter`), with the time tables of its steps: a few small copies. A run alone pays nothing.
    """

    def __init__(self, plan: Plan, inputs: Sequence[np.ndarray], timesteps: Timesteps) -> None:
        recording = plan.recording
        assert recording.sinusoid is not None
        self._table = time_sinusoid(timesteps, recording.sinusoid.shape[3])
        self._steps = len(timesteps)
        self._inputs = list(inputs)  # channels last
        self._after: After | None = None

    def enter(self, plan: Plan) -> None:
        """Sees to it that the plan's buffers are this run's. The caller has the turn."""
        if plan.tenant is not None and plan.tenant() is self:
            return
        plan.tenant = None  # nobody's, should what follows fail
        plan.upload([self._inputs[0] if self._after is None else self._after.channels_last(), *self._inputs[1:]])
        plan.start(self._table)
        if self._after is not None and plan.recording.flags is not None:
            plan.recording.flags.write(self._after.flags())
        plan.tenant = weakref.ref(self)

    def step(self, plan: Plan, index: int) -> After:
        """Queues a step; the caller has the turn."""
        self.enter(plan)
        latents, estimate, flags = plan.inputs[0], plan.outputs[1], plan.recording.flags
        assert flags is not None
        coming = Readback(plan.device, [(latents.buffer, latents.nbytes), (estimate.buffer, estimate.nbytes), (flags, 4 * self._steps)])
        plan.replay(index, coming, idle=index == 0)
        self._after = After(coming, (latents.shape, estimate.shape), plan.device.turns)
        return self._after
