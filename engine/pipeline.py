"""Image and mask to filled image: prepare, encode, denoise, decode, blend. Every random draw can be given."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from PIL import Image

from moebius import image as pixels
from moebius.denoise import Denoiser
from moebius.errors import NonFiniteError, UsageError
from moebius.scheduler import DDIM
from moebius.unet import UNet, UNetConfig
from moebius.vae import VAE

OnStep = Callable[[int, int, np.ndarray, np.ndarray], None]
Blend = Literal["paste", "compensate", "raw"]

LOG_VARIANCE = (-30.0, 20.0)


@dataclass(frozen=True)
class Result:
    """`image` is blended as asked for, `raw` is the decoder's whole picture; both are of the size the networks worked at."""

    image: Image.Image
    raw: Image.Image
    latents: np.ndarray  # (1, 4, h, w), scaled as the UNet sees them
    timings: dict[str, float]  # seconds: prepare, encode, denoise, decode, blend


def inpaint(
    unet: UNet,
    vae: VAE,
    image: Image.Image,
    mask: Image.Image,
    *,
    steps: int = 20,
    guidance: float = 2.5,
    strength: float = 0.99,
    noise_offset: float = 0.0357,
    seed: int = 0,
    noise: Mapping[str, np.ndarray] | None = None,
    blend: Blend = "paste",
    on_step: OnStep | None = None,
) -> Result:
    """Fills in what is white in `mask`. `noise` gives draws by name, see `draws`; on_step(i, t, latents, x0) follows step i."""
    if blend not in get_args(Blend):
        raise UsageError(f"blend is {blend!r}; choose one of {', '.join(get_args(Blend))}.")
    if not np.isfinite(noise_offset):
        raise UsageError(f"noise_offset is {noise_offset}; it must be a finite number (0 turns it off).")
    scheduler = DDIM()
    timesteps = scheduler.timesteps(steps, strength)
    clock = _Clock()

    grid, factor = unet.config.sample_size, vae.config.factor
    prepared = pixels.prepare(image, mask, grid * factor)
    height, width = prepared.x.shape[2:]
    if (height, width) != (grid * factor, grid * factor):
        raise UsageError(
            f"The image would be worked on at {width}×{height}; this UNet takes {grid * factor}×{grid * factor}: give a square."
        )
    z_shape = (1, vae.config.latent_channels, grid, grid)
    eps = draws(seed, noise, z_shape)
    denoiser = Denoiser(unet, condition_ids(unet.config), timesteps.tolist(), scheduler.coefficients(timesteps, steps), guidance)
    clock("prepare")

    y = eps["start"] + noise_offset * eps["offset"]
    if strength < 1:  # from 1 on the image itself has no part in the start
        y = scheduler.add_noise(encode(vae, prepared.x, eps["image"]), y, int(timesteps[0]))
    zm = encode(vae, pixels.masked_image(prepared.x, prepared.m), eps["masked"])
    clock("encode")

    for state in denoiser.steps(y, pixels.latent_mask(prepared.m, factor), zm):
        last = state.index == len(timesteps) - 1
        if on_step is not None or last:
            latents = state.latents()
        if on_step is not None:
            on_step(state.index, state.t, latents, state.estimate())
    _finite(latents, f"latents of {unet.ops!r}")
    clock("denoise")

    decoded = _finite(vae.decode(latents / vae.config.scaling_factor), f"decoded image of {vae.ops!r}")
    clock("decode")

    raw = pixels.to_uint8(decoded)
    raw_image = filled = Image.fromarray(raw)
    if blend == "paste":
        filled = pixels.paste(raw, prepared)
    elif blend == "compensate":
        filled = pixels.compensate(raw, prepared)
    clock("blend")
    return Result(filled, raw_image, latents, clock.seconds)


def draws(seed: int, given: Mapping[str, np.ndarray] | None, shape: tuple[int, int, int, int]) -> dict[str, np.ndarray]:
    """The four standard normal draws of a run on latents of `shape` (B, 4, h, w):

    image (B, 4, h, w)   the posterior sample of the image's latents
    masked (B, 4, h, w)  the same for the masked image
    start (B, 4, h, w)   the noise that sampling starts from
    offset (B, 4, 1, 1)  times noise_offset, added to start: one shift a channel

    All four are drawn in this order, in float32, from Generator(PCG64(seed)); a given one takes the place of its draw and
    leaves the others as they were.
    """
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or seed < 0:
        raise UsageError(f"seed is {seed!r}; it must be an integer from 0 up.")
    shapes = {"image": shape, "masked": shape, "start": shape, "offset": (*shape[:2], 1, 1)}
    given = given or {}
    for name, array in given.items():
        if name not in shapes:
            raise UsageError(f"noise has no draw named {name!r}; its names are {', '.join(shapes)}.")
        if np.shape(array) != shapes[name]:
            raise UsageError(f"noise[{name!r}] is {np.shape(array)}; it must be {shapes[name]}.")
    generator = np.random.Generator(np.random.PCG64(seed))
    drawn = {name: generator.standard_normal(s, dtype=np.float32) for name, s in shapes.items()}
    return {name: np.asarray(given.get(name, drawn[name])) for name in shapes}


def condition_ids(config: UNetConfig) -> np.ndarray:
    """(2, n/2): the second half of the embedding table is the unconditional row, the first half the conditional one."""
    half = config.num_embeddings // 2
    return np.stack([np.arange(half, 2 * half), np.arange(half)])


def encode(vae: VAE, x: np.ndarray, eps: np.ndarray) -> np.ndarray:
    """(mean + exp(0.5·logvar)·eps)·scaling_factor, logvar clipped to [-30, 20]."""
    mean, logvar = np.split(_finite(vae.encode(x), f"moments of {vae.ops!r}"), 2, axis=1)
    z: np.ndarray = mean + np.exp(0.5 * np.clip(logvar, *LOG_VARIANCE)) * eps
    return z * vae.config.scaling_factor


def _finite(array: np.ndarray, what: str) -> np.ndarray:
    if not np.isfinite(array).all():
        raise NonFiniteError(f"The {what} contain a NaN or an infinity; check the weights, and the adapter against the reference.")
    return array


class _Clock:
    """clock(name) books the time since the call before under `name`."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def __call__(self, name: str) -> None:
        now = time.perf_counter()
        self.seconds[name], self._last = now - self._last, now
