"""Specs of what joins tensors, and of the sampling step."""

from __future__ import annotations

from typing import Any

import numpy as np

from moebius.check.bounds import U
from moebius.check.specs.case import OpCase, OpSpec, Size, Sizes, image, titled
from moebius.model.scheduler import DDIM

STEPS, TIMESTEP = 20, 450  # of the cases' sampling step


def copy_bound(*arguments: Any) -> float:
    return 0.0


# concat --------------------------------------------------------------------------------------------------------------
def concat(size: Size, a: int, c: int) -> OpCase:
    title = titled(size, f"{a} and {c} channels")
    return OpCase("concat", title, lambda o, p, x, y: o.concat(x, y), {}, (image("a", size, a), image("c", size, c)))


def concat_sizes(a: Any, b: Any) -> Sizes:
    return Sizes(a.shape[:3], {"a": a.shape[3], "c": b.shape[3]}, ((*a.shape[:3], a.shape[3] + b.shape[3]),))


# repeat --------------------------------------------------------------------------------------------------------------
def repeat(size: Size, c: int, copies: int) -> OpCase:
    title = titled(size, f"{c} channels, {copies} times")
    return OpCase("repeat", title, lambda o, p, x: o.repeat(x, copies), {}, (image("x", size, c),))


def repeat_sizes(x: Any, copies: int) -> Sizes:
    return Sizes(x.shape[:3], {"c": x.shape[3], "copies": copies}, ((copies * x.shape[0], *x.shape[1:]),))


# unet_input ----------------------------------------------------------------------------------------------------------
def unet_input(size: Size, channels: tuple[int, int, int] = (4, 1, 4)) -> OpCase:
    inputs = tuple(image(name, size, n) for name, n in zip("ymz", channels, strict=True))
    title = titled(size, f"{', '.join(map(str, channels))} channels")
    return OpCase("unet_input", title, lambda o, p, y, m, z: o.unet_input(y, m, z), {}, inputs)


def unet_input_sizes(y: Any, mask: Any, masked: Any) -> Sizes:
    channels = y.shape[3], mask.shape[3], masked.shape[3]
    return Sizes(y.shape[:3], {"channels": channels}, ((*y.shape[:3], sum(channels)),))


# guided_ddim ---------------------------------------------------------------------------------------------------------
def guided_ddim_bound(eps: np.ndarray, y: np.ndarray, coefficients: np.ndarray, guidance: float) -> float:
    return 8 * U


def guided_ddim(size: Size, c: int = 4, guided: bool = True, guidance: float = 2.5) -> OpCase:
    """y is the first input: a recorded plan carries the new y into its first one."""
    rows = DDIM().coefficients(np.array([TIMESTEP]), STEPS)
    inputs = image("y", size, c), image("eps", (size[0] * (2 if guided else 1), *size[1:]), c)
    return OpCase("guided_ddim", titled(size, f"guidance {guidance:g}"), lambda o, p, y, e: o.guided_ddim(e, y, rows, guidance), {}, inputs)


def guided_ddim_sizes(eps: Any, y: Any, coefficients: np.ndarray, guidance: float) -> Sizes:
    arguments = {"c": y.shape[3], "guided": eps.shape[0] != y.shape[0], "guidance": guidance}
    return Sizes(y.shape[:3], arguments, (y.shape, y.shape))


SPECS = (
    OpSpec("concat", copy_bound, concat, concat_sizes),
    OpSpec("repeat", copy_bound, repeat, repeat_sizes),
    OpSpec("unet_input", copy_bound, unet_input, unet_input_sizes),
    OpSpec("guided_ddim", guided_ddim_bound, guided_ddim, guided_ddim_sizes),
)
