"""What a picture costs on our WebGPU backend: host time, GPU memory, and time against image size, batch and steps."""

from __future__ import annotations

import statistics
import time
import weakref
from typing import Any

import numpy as np
from workload import picture

from moebius import Inpainter
from moebius.backends.webgpu import WebGPU
from moebius.backends.webgpu.device import Device
from moebius.backends.webgpu.plan import Plan
from moebius.inpaint.settings import Settings

REPLAYS, TRIES = 20, 3
SIZES, BATCHES, STEPS = (0.5, 1, 2, 4), (1, 2, 4), (1, 2, 4)  # times the model's side, pictures at once, times the steps asked for


class Meter:
    """Counts the bytes of the buffers that are there, and the most there ever were."""

    def __init__(self, gpu: Device) -> None:
        self.now = self.peak = 0
        create = gpu.create_buffer

        def counted(nbytes: int, label: str) -> Any:
            handle = create(nbytes, label)
            self.now += nbytes
            self.peak = max(self.peak, self.now)
            weakref.finalize(handle, self._gone, nbytes)
            return handle

        gpu.create_buffer = counted  # type: ignore[method-assign]

    def _gone(self, nbytes: int) -> None:
        self.now -= nbytes


def costs(made: Inpainter, steps: int) -> dict[str, Any]:
    of = plans(made, steps)
    runs = [(max(2, round(steps * f)), lambda n: seconds(made, n)) for f in STEPS]
    by_steps = [{"steps": n, "calls": len(made.scheduler.timesteps(n, Settings.strength)), "seconds": run(n)} for n, run in runs]
    slope, fixed = np.polyfit([r["calls"] for r in by_steps], [r["seconds"] for r in by_steps], 1)
    return {
        "host": host(of["step"]),
        "plans": {name: plan.summary() for name, plan in of.items()},
        "image_size": [{"pixels": n, "seconds": seconds(made, steps, n)} for n in (round(made.size * f) for f in SIZES)],
        "batch": [{"images": n, "seconds_per_image": seconds(made, steps, num_images=n) / n} for n in BATCHES],
        "steps": {"runs": by_steps, "fixed_s": float(fixed), "per_step_s": float(slope)},
    }


def seconds(made: Inpainter, steps: int, size: int | None = None, **settings: Any) -> float:
    """The best of some pictures, the first of which records what is new."""
    return min(picture(made, steps, size, **settings)[0]["image"] for _ in range(TRIES))


def plans(made: Inpainter, steps: int) -> dict[str, Plan]:
    """The recorded plans of a picture, the very ones that it runs."""
    gpu: WebGPU = made.unet.ops  # type: ignore[assignment]
    settings = Settings(steps=steps)
    denoiser = made.denoiser(1, made.scheduler.timesteps(steps, settings.strength), settings)
    s, c, size = made.unet.config.sample_size, made.unet.config.out_channels, made.size
    return {
        "step": gpu.plan(denoiser.step, [(1, s, s, c), (1, s, s, 1), (1, s, s, c)], slice(None)),
        "encode": gpu.plan(made.vae.encoder, [(1, size, size, made.vae.config.in_channels)]),
        "decode": gpu.plan(made.vae.decoder, [(1, s, s, c)]),
    }


def host(plan: Plan) -> dict[str, Any]:
    """Python's and the driver's time to encode and submit a step, while the GPU has nothing to do."""
    plan.start()
    taken = []
    for _ in range(REPLAYS):
        plan.device.trim()  # waits
        begin = time.perf_counter()
        plan.replay()
        taken.append(time.perf_counter() - begin)
    plan.device.trim()
    dispatches = len(plan.recording.steps)
    median = statistics.median(taken)
    return {"dispatches": dispatches, "ms_per_step": 1e3 * median, "us_per_dispatch": 1e6 * median / dispatches}
