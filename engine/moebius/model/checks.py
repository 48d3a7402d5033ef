"""What the networks refuse: wrong types, values that are not finite, timesteps out of range."""

from __future__ import annotations

import numpy as np

from moebius.errors import UsageError, WeightError


def check_floats(array: np.ndarray, what: str) -> None:
    """Refuses arrays that are not finite floating-point numbers."""
    if np.asarray(array).dtype.kind != "f":
        raise UsageError(f"The {what} are {np.asarray(array).dtype}; give floating-point numbers.")
    with np.errstate(over="ignore"):
        if not np.isfinite(np.asarray(array).astype(np.float32, copy=False)).all():
            raise UsageError(f"The {what} hold a NaN, an infinity, or a number beyond float32; give finite numbers.")


def check_parameter(array: np.ndarray, name: str) -> None:
    """Refuses a parameter that is not finite in float32."""
    with np.errstate(over="ignore"):
        finite = np.isfinite(array.astype(np.float32, copy=False))
    if not finite.all():
        bad = np.asarray(array)[~finite]
        raise WeightError(
            f"{name} holds {bad[0]}{f' and {len(bad) - 1} more values' * (len(bad) > 1)}; weights must be finite in float32. "
            "Load the checkpoint again, or look for the step of a training at which it diverged."
        )


def check_timestep(t: int) -> int:
    if not isinstance(t, int | np.integer) or not 0 <= t < 1000:
        raise UsageError(f"t is {t!r}; the timestep is an integer from 0 to 999.")
    return int(t)
