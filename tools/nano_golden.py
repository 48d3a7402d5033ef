"""Writes `sample.filled()`: the packaged sample as the float64 oracle fills it, without grain. To be run after nano was trained anew,
or a change of how fills are joined."""

from __future__ import annotations

from moebius import Inpainter, sample
from moebius.backends.reference import Reference
from moebius.weights import store
from moebius.weights.published import NANO


def main() -> None:
    nano = Inpainter.from_weights(store.load(NANO), Reference())
    nano(sample.photo(), sample.mask(), detail=0).image.save(sample.filled())


if __name__ == "__main__":
    main()
