"""What a run whose mask marks most of the picture will cost, said before it starts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from moebius.pictures.windows import Window

LARGE = 0.6  # of the picture


def large_mask(fill: np.ndarray, windows: Sequence[Window], steps: int, images: int) -> str | None:
    """The warning, in words; None where no more than LARGE of the picture is marked. `windows` are those that a model is asked for."""
    share = np.count_nonzero(fill) / fill.size  # mean() would take ten times as long
    if share <= LARGE:
        return None
    left = "nothing of it is" if share == 1 else "little of it is"
    scale = max((window.scale for window in windows), default=1.0)
    coarse = f"; a pixel of the model is {scale:.1f} of the image wide" if scale > 1.05 else ""
    count = len(windows) * images
    work = f"{count} window{'s' * (count != 1)} of {steps} step{'s' * (steps > 1)}"
    return (
        f"The mask marks {100 * share:.0f} % of the image: {left} left to go by. It takes {work} of the model{coarse}. "
        "If the rest is meant, invert the mask (invert=True, --invert)."
    )
