"""The kinds of browsers that an export has an edition for, and what the page's check holds each to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from moebius.backends.webgpu import menu
from moebius.backends.webgpu.caps import Caps
from moebius.backends.webgpu.menu import Choose
from moebius.model.contract import Precision

PLAIN, WIDE = "plain", "wide"
NAMES = (PLAIN, WIDE)
# How far the sample may be from what the native run in float64 made: the most of any value, the mean of all, in grey levels, and the PSNR.
BOUNDS: dict[Precision, dict[str, float]] = {"f32": {"levels": 1}, "f16": {"mean": 1, "psnr": 45}}


@dataclass(frozen=True)
class Target:
    """One kind: what its device can do, who picks the kernels there, and what a browser must have."""

    name: str
    caps: Caps
    stored: Precision  # of the weights
    choose: Choose = menu.choose

    def about(self) -> dict[str, Any]:
        """What plan.json says of its edition."""
        return {"precision": self.caps.precision, "bound": BOUNDS[self.stored], "features": sorted(self.caps.features)}


def targets(precision: Precision, software: bool) -> list[Target]:
    """The quickest first; every browser can do the last, whose numbers are all f32 but for what is stored: a picture that is too much for
    f16 is made with it."""
    found = [Target(PLAIN, Caps.browser(software, precision), precision)]
    if precision == "f16":
        found.append(Target(WIDE, Caps.browser(software), precision))
    return found
