"""From windows to the latents that sampling starts from, and from the latents that it ends with to pixels."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from moebius.errors import NonFiniteError, OutOfMemoryError
from moebius.inpaint.item import Item
from moebius.inpaint.loaded import LoadedModel, check_finite
from moebius.inpaint.settings import Settings
from moebius.pictures import published
from moebius.pictures.cut import cut_out


def encode(
    model: LoadedModel, items: Sequence[Item], settings: Settings, strength: float, timesteps: np.ndarray, given: np.ndarray | None = None
) -> None:
    """Encodes each window once, as it is and with its hole in grey; from these comes what the sampling loop takes. `given` (H, W, 3) takes
    the photo's place in the first.

    One behind the other: in one batch the two took as long on llvmpipe, and 2 and 4 % less on the CPU device (nano, tiny), for memory twice
    as large.
    """
    _with_room(model, lambda: _encode(model, items, settings, strength, timesteps, given))


def _encode(
    model: LoadedModel, items: Sequence[Item], settings: Settings, strength: float, timesteps: np.ndarray, given: np.ndarray | None
) -> None:
    count = sum(item.image == items[0].image for item in items)

    # From strength 1 on the image itself has no part in the start. A preview's colours are made of it then, when the VAE may be gone.
    both = strength < 1 or model.low_memory

    def pictures() -> Iterator[np.ndarray]:
        for cut in (item.cut for item in items[:count]):
            if both:
                yield cut.x if given is None or strength >= 1 else cut_out(cut.window, given).x
            yield published.masked_image(cut.x, cut.m)

    moments = model.moments_each(pictures())
    for w in range(count):
        clean = next(moments) if both else None
        noise = [item.noise for item in items[w::count]]  # drawn now, if it was not, while the device has the masked ones
        masked = next(moments)
        mask = published.latent_mask(items[w].cut.m, model.vae.config.factor)
        for item, drawn in zip(items[w::count], noise, strict=True):
            start = drawn["start"] + settings.noise_offset * drawn["offset"]
            if clean is not None and strength < 1:
                start = model.scheduler.add_noise(model.sample(clean, drawn["image"]), start, int(timesteps[0]))
            item.clean, item.mask = clean, mask
            item.start = start.astype(np.float64)
            item.masked = model.sample(masked, drawn["masked"]).astype(np.float64)


def are_finite(items: Sequence[Item]) -> bool:
    """Whether all of them have latents, and finite ones."""
    return all(hasattr(item, "latents") and np.isfinite(item.latents).all() for item in items)


def decode(model: LoadedModel, items: Sequence[Item]) -> None:
    _with_room(model, lambda: _decode(model, items))


def _decode(model: LoadedModel, items: Sequence[Item]) -> None:
    decoded = model.vae.decode_each(item.latents / model.vae.config.scaling_factor for item in items)
    for item, x in zip(items, decoded, strict=True):
        item.decoded = published.to_integers(check_finite(x, "decoded picture", model.vae), item.cut.rgb.dtype)
        if not item.decoded.any() and item.cut.rgb[item.cut.m[0, 0] == 0].any():
            raise NonFiniteError(f"The decoded picture is black (vae.decode on {model.device}). Run `moebius validate` on this adapter.")


def _with_room(model: LoadedModel, work: Callable[[], None]) -> None:
    """What the VAE does; where there is no memory for it, once more when the UNet has given its own back."""
    saved = model.low_memory
    try:
        with model.room.at_work(model.vae):
            work()
        return
    except OutOfMemoryError:
        if not model.save_memory(saved):
            raise
    with model.room.at_work(model.vae):  # when the error is forgotten, and with it what was taken
        work()
