"""What a spec of an op consists of: its bound, its cases, the sizes of a call."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from moebius.model.contract import Timesteps
from moebius.model.params import Shapes

Size = tuple[int, int, int]  # (B, H, W)
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Input:
    """One input of a case, which gets noise of this NCHW shape."""

    name: str
    shape: Shape
    # What the noise is multiplied by where cases are compared by their last digits: a rounding of what a residual is added to is a
    # rounding of the sum, and a large residual would hide the op.
    scale: float = 1.0
    table: bool = False  # of a schedule: T rows of C channels are (1, C, 1, T)

    def in_numpy(self, nchw: np.ndarray) -> np.ndarray:
        """As ops of NumPy take it: channels last, a table (T, C)."""
        nhwc = np.ascontiguousarray(np.moveaxis(nchw, 1, -1))
        return nhwc.reshape(nhwc.shape[2:]) if self.table else nhwc


RESIDUAL = 0.25  # the scale of a residual


@dataclass(frozen=True)
class OpCase:
    """One call of one op: `call(ops, p, *tensors, *on_host)`, where `p` are parameters of these `shapes` and `root` is the checkpoint's."""

    op: str
    title: str  # all that makes it another case than one of the same op
    call: Callable[..., Any]
    shapes: Shapes = field(default_factory=dict)
    inputs: tuple[Input, ...] = ()
    root: Shapes = field(default_factory=dict)  # parameters that the op takes from the checkpoint's root
    on_host: tuple[np.ndarray, ...] = ()  # what is an array on every backend: the ids of a condition
    timesteps: Timesteps | None = None  # what time_embedding takes in place of tensors


@dataclass(frozen=True)
class Sizes:
    """What a call of an op is, as the arguments of the op's `case`, and the shapes of its outputs."""

    size: Size
    arguments: dict[str, Any]
    outputs: tuple[Shape, ...]


@dataclass(frozen=True)
class OpSpec:
    """All that the checks know of one op of the contract.

    `bound` takes the op's own arguments, tensors as float64 arrays, and returns the relative L2 error that float32 explains.
    `case` takes a size and what else decides the shapes, and returns a case.
    `sizes` takes the op's own arguments, tensors as anything that has a shape, and returns what `case` makes such a call from.
    """

    name: str
    bound: Callable[..., float]
    case: Callable[..., OpCase]
    sizes: Callable[..., Sizes]


def titled(size: Size, text: str) -> str:
    return f"{'×'.join(map(str, size))}, {text}"


def image(name: str, size: Size, channels: int, scale: float = 1.0, table: bool = False) -> Input:
    return Input(name, (size[0], channels, *size[1:]), scale, table)


def batch_norm(name: str, n: int) -> Shapes:
    return {f"{name}.{leaf}": (n,) for leaf in ("weight", "bias", "running_mean", "running_var")}
