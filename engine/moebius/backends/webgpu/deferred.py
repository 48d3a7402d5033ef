"""Tensors of which a GPU's kernels take what they are made of: norms that are applied, and channels that are joined, as they are loaded.

Software drivers keep to one op after the other: there a load costs more than the pass that it saves.

Also the largest tensors, which are never wanted whole, in parts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeGuard

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


RowsOf = Callable[[int, int, DType], Tensor]  # makes the rows [begin, end) of something as a tensor of their own, of this type


class GroupNormed(Deferred):
    """A group norm of x, whose statistics are made."""

    __slots__ = ("norm", "rows_of", "x")

    def __init__(self, x: Tensor, norm: Norm, dtype: DType, make: Callable[[], Tensor], rows_of: RowsOf) -> None:
        super().__init__(x.shape, dtype, make)
        self.x, self.norm, self.rows_of = x, norm, rows_of


class LayerNormed(Deferred):
    """A layer norm of x. A dense layer behind it takes x itself, has weight, bias and the mean in its own weights, and scales its sums."""

    __slots__ = ("eps", "p", "x")

    def __init__(self, x: Tensor, p: Params, eps: float, dtype: DType, make: Callable[[], Tensor]) -> None:
        super().__init__(x.shape, dtype, make)
        self.x, self.p, self.eps = x, p, eps


class Added(Deferred):
    """rest + W·g, W of `p`: the end of a feed-forward. A linear layer V behind it takes both side by side: [V, V·W]·[rest, g]."""

    __slots__ = ("g", "p", "rest")

    def __init__(self, rest: Tensor, g: Tensor, p: Params, make: Callable[[], Tensor]) -> None:
        super().__init__(rest.shape, rest.dtype, make)
        self.rest, self.g, self.p = rest, g, p


class Parted(Deferred):
    """A tensor of one image whose lines lie in several buffers, as many in each: its memory is given back, and taken, part by part.

    What takes it in bands has a band within a part (`Recorder.pieces`), and a filter has the lines that it reaches copied. For all else it
    is made once more, in one piece.
    """

    __slots__ = ("_copied", "parts")

    def __init__(self, parts: Sequence[Tensor], make: Callable[[], Tensor], copied: Callable[[Parted, int, int, DType], Tensor]) -> None:
        _, height, width, channels = parts[0].shape
        super().__init__((1, height * len(parts), width, channels), parts[0].dtype, make)
        self.parts, self._copied = list(parts), copied  # not bound to self: that would be a circle, and its memory stay

    def rows_of(self, begin: int, end: int, dtype: DType) -> Tensor:
        """Copies them."""
        return self._copied(self, begin, end, dtype)


def is_parted(t: Tensor | None) -> TypeGuard[Parted]:
    """Whether it is there in parts alone."""
    return isinstance(t, Parted) and not t.is_made
