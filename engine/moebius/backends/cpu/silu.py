"""SiLU in three passes."""

from __future__ import annotations

import numpy as np

from moebius.backends.cpu import sizes
from moebius.backends.reference import Array


def silu_of_minus(x: Array, out: Array) -> None:
    """out ← y·σ(y) with y = -x, as x/(-1 - exp x): an infinity of exp gives the 0 that it should. `out` may be x.

    Half the time of tanh. It goes by pieces, so that the exponentials of a large block are read from the cache.
    """
    rows = max(1, sizes.PIECE * len(x) // max(1, x.size))
    with np.errstate(over="ignore"):
        for i in range(0, len(x), rows):
            part = x[i : i + rows]
            e = np.exp(part)
            np.subtract(-1, e, out=e)
            np.divide(part, e, out=out[i : i + rows])
