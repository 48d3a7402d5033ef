"""What the picture would be if the run stopped now, cheaply: for progress, not for keeping."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from threading import Lock

import numpy as np
from PIL import Image

from moebius.errors import NonFiniteError
from moebius.inpaint.item import Item
from moebius.inpaint.loaded import LoadedModel, Moments, wider
from moebius.pictures.pixels import rescaled
from moebius.pictures.windows import Window

PREVIEW_SIDE = 256


class Preview:
    """Estimated latents as a small picture, by the affine map from the photo's own latents to its own pixels: least squares
    over a window's latent pixels, 5 numbers a colour. It needs no decoder and no knowledge of the model."""

    def __init__(self, model: LoadedModel, rgb: np.ndarray, fill: np.ndarray) -> None:
        """`rgb` (H, W, 3) and `fill` (H, W) of the photo."""
        self.model, self.rgb, self.fill = model, rgb, fill
        height, width = fill.shape
        self.scale = min(1.0, PREVIEW_SIDE / max(width, height))
        self.size = max(1, round(width * self.scale)), max(1, round(height * self.scale))
        self._maps: dict[Window, np.ndarray] = {}
        self._making = Lock()  # of a map, by one thread for all

    @cached_property
    def _base(self) -> tuple[Image.Image, Image.Image]:
        """Photo and mask, small."""
        rgb = rescaled(np.ascontiguousarray(self.rgb), np.dtype(np.uint8))
        holes = Image.fromarray(self.fill.astype(np.uint8) * 255)
        return Image.fromarray(rgb).resize(self.size, Image.Resampling.BOX), holes.resize(self.size, Image.Resampling.BOX)

    def _map(self, item: Item) -> np.ndarray:
        """(5, 3): four latent channels and a constant to red, green and blue."""
        with self._making:
            if item.window not in self._maps:
                vae, x = self.model.vae, item.cut.x[0]
                mean, _ = item.clean or self._moments(item.cut.x)
                z, f = mean[0].reshape(mean.shape[1], -1).T * vae.config.scaling_factor, vae.config.factor  # (positions, 4)
                small = x.reshape(3, x.shape[1] // f, f, x.shape[2] // f, f).mean(axis=(2, 4)).reshape(3, -1).T
                self._maps[item.window] = np.linalg.lstsq(np.column_stack([z, np.ones(len(z))]), small, rcond=None)[0]
            return self._maps[item.window]

    def _moments(self, x: np.ndarray) -> Moments:
        """In f32 where f16 overflows: the picture is made without these. What that takes on the device is given back at once, unless some
        run needs it."""
        try:
            return self.model.moments(x)
        except NonFiniteError as error:
            whole, _ = wider(self.model, self, error)
        try:
            return whole.moments(x)
        finally:
            self.model.leave(self)

    def patches(self, estimate: Callable[[], np.ndarray], items: Sequence[Item]) -> list[tuple[Window, np.ndarray]]:
        """Windows, and what their estimated latents look like: (h, w, 3) uint8, a pixel a latent.

        The estimate has a row an item; of these, the ones of the first item's picture are shown.
        """
        patches = []
        for item, latents in zip(items, estimate(), strict=True):
            if item.image == items[0].image:
                z = latents.reshape(latents.shape[0], -1).T
                rgb = np.column_stack([z, np.ones(len(z))]) @ self._map(item)
                pixels = np.clip((rgb.reshape(*latents.shape[1:], 3) + 1) * 127.5, 0, 255).astype(np.uint8)
                patches.append((item.window, pixels))
        return patches

    def __call__(self, estimate: Callable[[], np.ndarray], items: Sequence[Item]) -> Image.Image:
        """The photo, small, with the patches in its holes."""
        base, holes = self._base
        picture = base.copy()
        for window, pixels in self.patches(estimate, items):
            x, y = round(window.x * self.scale), round(window.y * self.scale)
            size = max(1, round(window.width * self.scale)), max(1, round(window.height * self.scale))
            patch = Image.fromarray(pixels).resize(size, Image.Resampling.BILINEAR)
            picture.paste(patch, (x, y), holes.crop((x, y, x + size[0], y + size[1])))
        return picture
