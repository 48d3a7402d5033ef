"""What is stored in 16 bits: matrices. Vectors (biases, norms, statistics) stay float32, being small and wide in range."""

from __future__ import annotations

import numpy as np

from moebius.errors import WeightError
from moebius.model.contract import Precision

FLOAT32, FLOAT16 = np.dtype(np.float32), np.dtype(np.float16)


def stored_type(shape: tuple[int, ...], precision: Precision) -> np.dtype:
    """The type that a tensor of this shape is stored in."""
    return FLOAT16 if precision == "f16" and len(shape) > 1 else FLOAT32


def stored(name: str, array: np.ndarray, precision: Precision) -> np.ndarray:
    """A finite tensor as it is stored. What float16 cannot hold is refused by name; what is too small for it becomes zero, as anywhere."""
    with np.errstate(over="ignore"):
        made = np.asarray(array, stored_type(array.shape, precision))
    if made.dtype == FLOAT16 and not np.isfinite(made).all():
        worst = float(np.abs(array).max())
        raise WeightError(f"{name} holds {worst:.6g}, and the largest number of f16 is 65504; store these weights in f32.")
    return made
