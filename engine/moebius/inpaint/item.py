"""One window for one seed, on its way through a run."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from moebius.inpaint.draws import Drawn
from moebius.inpaint.loaded import Moments
from moebius.pictures.cut import Cut
from moebius.pictures.windows import Window


@dataclass(eq=False)
class Item:
    """What every stage of a run adds for one window and one seed. Arrays are NCHW with N = 1 where no other shape is named."""

    image: int  # which of the run's pictures it is a part of
    cut: Cut  # prepare: the window's pixels, the same for every seed
    drawn: Drawn  # prepare: the draws of all windows and seeds,
    row: int  # of which this one has so-and-so

    clean: Moments | None = field(default=None, init=False)  # encode: of the pixels as they are, where the start needs them
    start: np.ndarray = field(init=False)  # encode: the latents that sampling starts from
    mask: np.ndarray = field(init=False)  # encode: 1 where a latent pixel is filled in
    masked: np.ndarray = field(init=False)  # encode: latents of the pixels with the hole in grey
    latents: np.ndarray = field(init=False)  # denoise
    decoded: np.ndarray = field(init=False)  # decode: (h, w, 3), of the photo's type

    def drop(self) -> None:
        """Keeps but what putting it back takes."""
        self.clean, self.drawn = None, dict
        self.start = self.mask = self.masked = self.latents = np.empty(0)
        self.cut = replace(self.cut, x=np.empty(0, np.float32), m=np.empty(0, np.float32))

    @property
    def noise(self) -> dict[str, np.ndarray]:
        """Its draws, by name."""
        return {name: array[self.row : self.row + 1] for name, array in self.drawn().items()}

    @property
    def window(self) -> Window:
        return self.cut.window
