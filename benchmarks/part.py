"""One contender of bench_model at its work, in whichever process that is: loading, first calls, pictures, and what they cost."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import common
import numpy as np
from contenders import NUMPY, Contender, LeftOutError, Setting
from costs import Meter, costs
from workload import noise, picture

from moebius import Inpainter
from moebius.backends.webgpu import WebGPU
from moebius.inpaint.settings import Settings

TRIES = 3  # before someone is too slow: what else the machine does may be
Outputs = dict[str, np.ndarray]


@dataclass(frozen=True)
class Task:
    steps: int
    limit: float  # seconds that a picture may take


class Part:
    """`doing` is told what comes next, for whoever waits."""

    def __init__(self, contender: Contender, setting: Setting, task: Task, doing: Callable[[str], None] = lambda _: None) -> None:
        self.contender, self.setting, self.task, self.doing = contender, setting, task, doing
        self.made: Inpainter

    def prepare(self) -> tuple[Outputs, dict[str, Any]]:
        """Loads it, has it make each part's output and a picture; and how long loading and the first calls took."""
        self.doing("preparing what it loads")
        self.contender.beforehand(self.setting)
        self.doing("loading")
        start = time.perf_counter()
        made = self.made = self.contender.make(self.setting)
        meter = Meter(made.unet.ops.gpu) if isinstance(made.unet.ops, WebGPU) else None
        loaded = time.perf_counter()
        self.doing("taking its first step")
        outputs = self._first_step()
        one = time.perf_counter()
        self.doing("taking further steps")
        step = min(self._one_more_step() for _ in range(TRIES)) if self.contender.name != NUMPY else 0.0
        if step * self.task.steps > self.task.limit:
            raise LeftOutError(f"a picture would take about {step * self.task.steps:.0f} s, above --limit {self.task.limit:g}")
        begin = time.perf_counter()
        channels, size, s = made.vae.config.in_channels, made.size, made.unet.config.sample_size
        self.doing("encoding its first picture")
        outputs["encode"] = made.vae.encode(np.clip(noise("image", 1, channels, size, size), -1, 1))
        self.doing("decoding its first picture")
        outputs["decode"] = made.vae.decode(noise("latents", 1, made.vae.config.latent_channels, s, s))
        figures = {"load_s": loaded - start, "first_calls_s": one - loaded + time.perf_counter() - begin}
        self.doing("making a whole picture")
        _, outputs["picture"] = picture(made, self.task.steps)
        if meter is not None:
            figures["peak_bytes"] = meter.peak
        elif "CUDA" in self.contender.name:
            from peers.torch_nets import peak_bytes

            figures["peak_bytes"] = peak_bytes()
        return outputs, figures

    def picture(self) -> dict[str, float]:
        """Seconds of a picture, by its parts."""
        self.doing("making a picture that is timed")
        return picture(self.made, self.task.steps)[0]

    def facts(self) -> dict[str, Any]:
        """Where it ran, and the calls of a picture."""
        ops = self.made.unet.ops
        calls = len(self.made.scheduler.timesteps(self.task.steps, Settings.strength))
        return {"environment": common.environment(ops.gpu if isinstance(ops, WebGPU) else None), "calls": calls}

    def costs(self) -> dict[str, Any] | None:
        """Of our WebGPU backend: host time, memory, sizes, batches, steps."""
        self.doing("taking what pictures cost by size, batch and steps")
        return costs(self.made, self.task.steps) if isinstance(self.made.unet.ops, WebGPU) else None

    def stop(self) -> None:
        """There is nothing to end in this process."""

    def _one_more_step(self) -> float:
        start = time.perf_counter()
        self._first_step()
        return time.perf_counter() - start

    def _first_step(self) -> Outputs:
        """What the first guided step makes of the clean latents."""
        made, settings = self.made, Settings(steps=self.task.steps)
        denoiser = made.denoiser(1, made.scheduler.timesteps(self.task.steps, settings.strength), settings)
        s, c = made.unet.config.sample_size, made.unet.config.out_channels
        mask = (noise("mask", 1, 1, s, s) > 0).astype(np.float32)
        state = next(denoiser.steps(noise("start", 1, c, s, s), mask, noise("masked", 1, c, s, s)))
        return {"step": state.estimate()}
