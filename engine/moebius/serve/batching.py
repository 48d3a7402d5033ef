"""How many requests are sampled at once: measured on the device at start-up. Only where a picture comes faster, and bits stay the same."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from moebius.errors import LimitError, MoebiusError
from moebius.inpaint.inpainter import Inpainter
from moebius.inpaint.settings import Settings

MOST = 4  # a larger batch makes its first request wait for too many others
STEPS = 4  # of a measurement; the first warms up
GAIN = 1.1  # how many times faster a picture has to come
SLOW = 0.25  # seconds a step, from which on no more is measured: it would keep the first requests waiting for half a minute


@dataclass(frozen=True)
class Batching:
    size: int  # windows at once; 1 is one request after the other
    why: str
    gain: float = 1.0  # how many times as fast a picture comes


def measured(model: Inpainter, go_on: Callable[[], bool] = lambda: True) -> Batching:
    """Of made-up latents, with guidance and without: how long a step of 1, 2, … of them takes, and whether the bits are those of each
    alone. `go_on` is asked between the measurements."""
    best = Batching(1, "several at once are not faster a picture")
    guidances = Settings().guidance, 1.0
    try:
        alone = {}
        for guidance in guidances:
            for which in (0, 1):
                alone[guidance, which], seconds = sampled(model, [which], guidance)
                if seconds > SLOW:
                    return Batching(1, f"a step takes {seconds:.1f} s, too long to measure more")
                if guidance != 1:
                    one = seconds
        for size in range(2, min(MOST, model.unet.ops.largest_batch) + 1):
            for guidance in guidances:
                if not go_on():
                    return best
                got, seconds = sampled(model, [i % 2 for i in range(size)], guidance)
                if not all(np.array_equal(got[i], alone[guidance, i % 2][0]) for i in range(size)):
                    return best if best.size > 1 else Batching(1, f"of {size} at once the bits differ from those of each alone")
                if guidance != 1:
                    gain = one / (seconds / size)
            if gain >= max(GAIN, best.gain):
                best = Batching(size, f"{size} at once are {gain:.2f} times as fast a picture, to the same bits", gain)
    except LimitError as error:
        return best if best.size > 1 else Batching(1, f"the device has no room for more: {error}")
    except MoebiusError as error:
        return Batching(1, f"it could not be measured: {error}")
    finally:
        model.forget_denoisers()
    return best


def sampled(model: Inpainter, which: Sequence[int], guidance: float) -> tuple[np.ndarray, float]:
    """Latents (windows, steps, 4, h, w) after each step of the windows made with these seeds, and the seconds of the fastest step but the
    first."""
    timesteps = model.scheduler.timesteps(STEPS, 1.0)
    denoiser = model.denoiser(len(which), timesteps, Settings(steps=STEPS, strength=1.0, guidance=guidance))
    side, channels = model.unet.config.sample_size, model.vae.config.latent_channels
    start, masked = (np.stack([np.random.default_rng([i, k]).standard_normal((channels, side, side)) for i in which]) for k in range(2))
    mask = np.zeros((len(which), 1, side, side))
    mask[..., side // 4 : side // 2, side // 4 : side // 2] = 1
    latents, seconds = [], []
    begun = time.perf_counter()
    for state in denoiser.steps(start, mask, masked):
        latents.append(np.array(state.latents()))
        seconds.append(time.perf_counter() - begun)
        if seconds[-1] > 10 * SLOW * len(which):  # even the first step is that slow only on a slow device
            break
        begun = time.perf_counter()
    return np.stack(latents, axis=1), min(seconds[1:] or seconds)
