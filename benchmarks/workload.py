"""What everyone in bench_model works on: one picture, one mask, one noise."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from moebius import Inpainter
from moebius.model.synthetic import rng


def noise(name: str, *shape: int) -> np.ndarray:
    return rng(0, f"bench_model.{name}").standard_normal(shape, dtype=np.float32)


def photo(width: int, height: int) -> np.ndarray:
    """Something with edges and gradients, the same everywhere."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    waves = [127 + 127 * np.sin(x / width * a + y / height * b) for a, b in ((9, 4), (3, 11), (17, 7))]
    return np.stack(waves, axis=-1).astype(np.uint8)


def picture(made: Inpainter, steps: int, size: int | None = None, **settings: Any) -> tuple[dict[str, float], np.ndarray]:
    """A whole picture; seconds by part, and its latents."""
    size = size or made.size
    image, box = photo(size, size), (size // 4, size // 4, size // 2, size // 2)
    start = time.perf_counter()
    run = made.steps(image, [box], steps=steps, **settings)
    for _ in run:
        pass
    total = time.perf_counter() - start
    timings = run.result.timings
    step = timings["denoise"] / len(run.timesteps)
    return {"encode": timings["encode"], "step": step, "decode": timings["decode"], "image": total}, run.result.latents


def relative(a: np.ndarray, b: np.ndarray) -> float:
    a, b = a.astype(np.float64), b.astype(np.float64)
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))
