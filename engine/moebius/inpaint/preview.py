"""What the picture would be if the run stopped now, cheaply: for progress, not for keeping."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from moebius.pictures.cut import Cut
from moebius.pictures.pixels import rescaled
from moebius.pictures.windows import Window

if TYPE_CHECKING:
    from moebius.inpaint.inpainter import Run

PREVIEW_SIDE = 256


class Preview:
    """Estimated latents as a small picture, by the affine map from the photo's own latents to its own pixels: least squares
    over a window's latent pixels, 5 numbers a colour. It needs no decoder and no knowledge of the model."""

    def __init__(self, run: Run, clean: dict[int, tuple[np.ndarray, np.ndarray]], cuts: Sequence[Cut]) -> None:
        self.run, self.clean, self.cuts = run, clean, cuts
        self.maps: dict[int, np.ndarray] = {}
        width, height = run.photo.size
        self.scale = min(1.0, PREVIEW_SIDE / max(width, height))
        self.size = max(1, round(width * self.scale)), max(1, round(height * self.scale))

    @cached_property
    def _base(self) -> tuple[Image.Image, Image.Image]:
        rgb = rescaled(np.ascontiguousarray(self.run.photo.rgb), np.dtype(np.uint8))
        holes = Image.fromarray(self.run.mask.fill.astype(np.uint8) * 255)
        return Image.fromarray(rgb).resize(self.size, Image.Resampling.BOX), holes.resize(self.size, Image.Resampling.BOX)

    def _map(self, w: int) -> np.ndarray:
        if w not in self.maps:
            vae, x = self.run.inpainter.vae, self.cuts[w].x[0]
            mean = self.clean[w][0] if w in self.clean else self.run.inpainter.moments(self.cuts[w].x)[0]
            z, f = mean[0].reshape(mean.shape[1], -1).T * vae.config.scaling_factor, vae.config.factor  # (positions, 4)
            small = x.reshape(3, x.shape[1] // f, f, x.shape[2] // f, f).mean(axis=(2, 4)).reshape(3, -1).T
            self.maps[w] = np.linalg.lstsq(np.column_stack([z, np.ones(len(z))]), small, rcond=None)[0]
        return self.maps[w]

    def patches(self, fetch: Callable[[], np.ndarray], first: int) -> list[tuple[Window, np.ndarray]]:
        """The windows of one seed, and what their latents look like: (h, w, 3) uint8, a pixel a latent.

        The estimate holds the items from `first` on.
        """
        estimate, windows, out = fetch(), self.run.windows, []
        for i in range(min(len(estimate), len(windows) - first % len(windows))):
            w = first % len(windows) + i
            z = estimate[i].reshape(estimate.shape[1], -1).T
            rgb = np.column_stack([z, np.ones(len(z))]) @ self._map(w)
            out.append((windows[w], np.clip((rgb.reshape(*estimate.shape[2:], 3) + 1) * 127.5, 0, 255).astype(np.uint8)))
        return out

    def __call__(self, fetch: Callable[[], np.ndarray], first: int) -> Image.Image:
        """The photo, small, with the patches in its holes."""
        base, holes = self._base
        out = base.copy()
        for window, small in self.patches(fetch, first):
            x, y = round(window.x * self.scale), round(window.y * self.scale)
            size = max(1, round(window.width * self.scale)), max(1, round(window.height * self.scale))
            picture = Image.fromarray(small).resize(size, Image.Resampling.BILINEAR)
            out.paste(picture, (x, y), holes.crop((x, y, x + size[0], y + size[1])))
        return out
