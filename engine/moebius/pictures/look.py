"""Whether a picture looks like a photograph or like a mask: by its greys between black and white, and by how many colours it has."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from moebius.pictures.pixels import luma, rescaled

JUDGED, ENOUGH = 2**18, 1024  # about how many pixels are looked at; with fewer than these a picture looks like nothing
DARK, BRIGHT = 32, 223
# Measured on photographs and on masks that are blurred, drawn with a soft brush, or saved as JPEG of quality 30: photographs in colour
# have 0.4 to 1 of middle greys and 60 to 1300 colours (the darkest, of the night sky, 0.08), those in grey 0.7 to 1; masks up to 0.4 and
# 16 colours, coloured ones up to 0.27 and 40. A flat grey, or three, are nobody's photograph.
COLOURS, IN_COLOUR = 60, 0.3
GREYS, IN_GREY = 6, 0.6


@dataclass(frozen=True)
class Look:
    middle: float  # the share of pixels from DARK to BRIGHT of 255
    colours: int  # of 16 levels a channel, those that one pixel in ten thousand has
    ends: bool  # both black and white are there

    @property
    def photograph(self) -> bool:
        return (self.colours > COLOURS and self.middle > IN_COLOUR) or (self.colours >= GREYS and self.middle > IN_GREY)

    @property
    def mask(self) -> bool:
        return self.ends and self.middle < IN_COLOUR and self.colours <= COLOURS


def look(rgb: np.ndarray, opaque: np.ndarray | None = None) -> Look:
    """Of a picture (H, W, 3); of the pixels in `opaque` (H, W), if given, as shares of all."""
    step = max(1, round((rgb.shape[0] * rgb.shape[1] / JUDGED) ** 0.5))
    seen = rescaled(rgb[::step, ::step], np.dtype(np.uint8))
    total = seen.shape[0] * seen.shape[1]
    pixels = seen.reshape(-1, 3) if opaque is None else seen[opaque[::step, ::step]]
    if total < ENOUGH or not len(pixels):
        return Look(0.0, 0, False)
    grey = luma(pixels)
    r, g, b = (pixels[:, i].astype(np.intp) >> 4 for i in range(3))
    counts = np.bincount(256 * r + 16 * g + b)
    return Look(
        float(((grey >= DARK) & (grey <= BRIGHT)).sum() / total),
        int((counts >= max(1, total * 1e-4)).sum()),
        bool((grey < DARK).any() and (grey > BRIGHT).any()),
    )
