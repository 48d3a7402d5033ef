"""What float32 may lose: the arithmetic that the bounds of the ops are made of, and the rule by which a difference is judged.

A bound is the relative L2 error of an op's output that roundings explain. What an op's sums, exponentials and norms are is in `specs`;
what is lost on top of that where numbers are stored as halves, in `halves`.
"""

from __future__ import annotations

import math

import numpy as np

from moebius.model.contract import Precision
from moebius.model.params import Params

U = 2.0**-24  # unit roundoff of float32
U_HALF = 2.0**-11  # of float16
# WGSL grants exp an error of 3 + 2·|x| ulp. |x| is about 1 where SiLU is not close to linear, 8 under a softmax's maximum.
SILU, SOFTMAX = 5 * 2.0**-23, 19 * 2.0**-23
# Of 255, how far a picture may be from the same in float64: a value halfway between two levels may round to either; halves move some.
LEVELS: dict[Precision, int] = {"f32": 1, "f16": 3}
WORST = 8  # a single value may be this many limits of the root mean square away: one wrong value is lost in the norm of a million


def is_rounding(relative_l2: float, max_abs: float, rms: float, limit: float, worst: float = WORST) -> bool:
    """Whether the limit explains a difference; False for NaN."""
    return bool(relative_l2 <= limit and max_abs <= worst * limit * rms)


def sums(*lengths: int) -> float:
    """Relative L2 error of chained sums of that many float32 products: a random walk of roundings each, and a few on the way."""
    return U * sum(math.sqrt(n) + 4 for n in lengths)


def norm(x: np.ndarray, axes: tuple[int, ...]) -> float:
    """Relative L2 error of a norm over these axes: it loses digits by subtracting the mean."""
    return U * (16 + 4 * offset_ratio(x, axes))


def offset_ratio(x: np.ndarray, axes: tuple[int, ...]) -> float:
    """rms of |mean| over rms of the deviation."""
    mean = x.mean(axis=axes, keepdims=True)
    return float(np.sqrt(np.mean(mean**2) / max(np.mean((x - mean) ** 2), 1e-30)))


def cancellation(x: np.ndarray, p: Params, residual: np.ndarray | None = None) -> float:
    """How much larger the terms of a layer's sums are, by their root sum of squares, than what is left of them: the roundings are those
    of sums on the way. Terms of random signs leave as much as they are; trained ones may leave far less. At most a thousand times, for a
    bound that forgives everything is none."""
    w = p["weight"].astype(np.float64)
    w = w.reshape(len(w), -1)
    y, squares = x @ w.T, x**2 @ (w**2).T
    for term in (p.get("bias"), residual):
        if term is not None:
            y, squares = y + term, squares + np.square(term, dtype=np.float64)
    terms, left = math.sqrt(float(squares.sum())), float(np.linalg.norm(y))
    return max(1.0, terms / max(left, terms / 1000)) if terms else 1.0


def sampling_cancellation(eps: np.ndarray, y: np.ndarray, coefficients: np.ndarray, guidance: float) -> tuple[np.ndarray, np.ndarray]:
    """The sums of the magnitudes of the terms that a sampling step adds up to the next y and to x0."""
    at, bt, ap, bp = coefficients[0]
    u, c = np.split(np.abs(eps), 2) if len(eps) != len(y) else (np.zeros(()), np.abs(eps))
    noise = u + guidance * (c + u) if len(eps) != len(y) else c
    estimate = (np.abs(y) + bt * noise) / at
    return ap * estimate + bp * noise, estimate
