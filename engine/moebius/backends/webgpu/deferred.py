"""Tensors of which a GPU's kernels take what they are made of: norms that are applied, and channels that are joined, as they are loaded.

Software drivers keep to one op after the other: there a load costs more than the pass that it saves.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from moebius.backends.webgpu.tensor import Deferred, DType, Tensor
from moebius.model.params import Params


class Joined(Deferred):
    """[a, b] on channels, both of whole vec4."""

    __slots__ = ("a", "b")

    def __init__(self, a: Tensor, b: Tensor, make: Callable[[], Tensor]) -> None:
        super().__init__((*a.shape[:3], a.shape[3] + b.shape[3]), a.dtype, make)
        self.a, self.b = a, b


@dataclass(frozen=True)
class Norm:
    """x·scale + offset, then SiLU when asked; `table` has both rows of every image."""

    table: Tensor
    silu: bool


class GroupNormed(Deferred):
    """A group norm of x, whose statistics are made."""

    __slots__ = ("norm", "x")

    def __init__(self, x: Tensor, norm: Norm, dtype: DType, make: Callable[[], Tensor]) -> None:
        super().__init__(x.shape, dtype, make)
        self.x, self.norm = x, norm


class LayerNormed(Deferred):
    """A layer norm of x. A dense layer behind it takes x itself, has weight, bias and the mean in its own weights, and scales its sums."""

    __slots__ = ("eps", "p", "x")

    def __init__(self, x: Tensor, p: Params, eps: float, dtype: DType, make: Callable[[], Tensor]) -> None:
        super().__init__(x.shape, dtype, make)
        self.x, self.p, self.eps = x, p, eps
