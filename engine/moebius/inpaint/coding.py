"""From windows to the latents that sampling starts from, and from the latents that it ends with to pixels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from moebius.errors import NonFiniteError
from moebius.inpaint.item import Item
from moebius.inpaint.loaded import LoadedModel, check_finite
from moebius.inpaint.settings import Settings
from moebius.pictures import published
from moebius.pictures.cut import cut_out


def encode(
    model: LoadedModel, items: Sequence[Item], settings: Settings, strength: float, timesteps: np.ndarray, given: np.ndarray | None = None
) -> None:
    """Encodes each window once, as it is and with its hole in grey; from these comes what the sampling loop takes. `given` (H, W, 3) takes
    the photo's place in the first."""
    count = sum(item.image == items[0].image for item in items)
    for w in range(count):
        of_window = items[w::count]
        cut = of_window[0].cut
        # From strength 1 on the image itself has no part in the start.
        first = cut.x if given is None else cut_out(cut.window, given).x
        clean = model.moments(first) if strength < 1 else None
        masked = model.moments(published.masked_image(cut.x, cut.m))
        mask = published.latent_mask(cut.m, model.vae.config.factor)
        for item in of_window:
            start = item.noise["start"] + settings.noise_offset * item.noise["offset"]
            if clean is not None:
                start = model.scheduler.add_noise(model.sample(clean, item.noise["image"]), start, int(timesteps[0]))
            item.clean, item.mask = clean, mask
            item.start = start.astype(np.float64)
            item.masked = model.sample(masked, item.noise["masked"]).astype(np.float64)


def are_finite(items: Sequence[Item]) -> bool:
    """Whether all of them have latents, and finite ones."""
    return all(hasattr(item, "latents") and np.isfinite(item.latents).all() for item in items)


def decode(model: LoadedModel, items: Sequence[Item]) -> None:
    for item in items:
        x = check_finite(model.vae.decode(item.latents / model.vae.config.scaling_factor), "decoded picture", model.vae)
        item.decoded = published.to_integers(x, item.cut.rgb.dtype)
        if not item.decoded.any() and item.cut.rgb[item.cut.m[0, 0] == 0].any():
            raise NonFiniteError(f"The decoded picture is black (vae.decode on {model.device}). Run `moebius validate` on this adapter.")
