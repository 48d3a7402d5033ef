"""The picture and the mask that come with the package: for `moebius inpaint --sample`, and for a window opened without a photo.

The photo is a smaller copy of "flower" by vultilion (flickr.com/photos/vultilion/6056698931), CC BY 2.0, out of scikit-learn; nano was
not trained on it. The mask covers the second flower.
"""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).parent


def photo() -> Path:
    return FOLDER / "photo.png"


def mask() -> Path:
    """White where the photo is to be filled."""
    return FOLDER / "mask.png"


def filled() -> Path:
    """What the packaged nano makes of the two by the float64 oracle, which every device has to reach: tools/nano_golden.py."""
    return FOLDER / "filled.png"
