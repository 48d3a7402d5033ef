"""What gemm.wgsl can be asked for: a dense layer as an op describes it, whatever tile it will run on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import ClassVar, Literal

from moebius.backends.webgpu import wgsl
from moebius.backends.webgpu.deferred import Norm
from moebius.backends.webgpu.pack import up4
from moebius.backends.webgpu.tensor import Binding, DType, Tensor

SHADER = "gemm"
# How a kernel wants its weights: `plain` is K rows of N columns, a tap after the other; `winograd` the 9 taps of a 3×3, of which it makes
# the points of F(4×4, 3×3) itself; `differences` nine sums of those, for one behind nearest×2. The latter two are shaders as well, which
# make what is multiplied and take what comes of it.
Packing = Literal["plain", "winograd", "differences"]
# Inputs on a side under a tile of theirs, which has two fewer: Winograd's has 4×4 outputs, the other is a pixel that becomes four. As many
# products as there are inputs make a tile.
WINDOW: dict[Packing, int] = {"winograd": 6, "differences": 3}
POINTS = {packing: side**2 for packing, side in WINDOW.items()}
TILE = WINDOW["winograd"] - 2


@dataclass(frozen=True)
class Weight:
    """W, K rows of N columns: a packed parameter, or a matrix within a tensor."""

    binding: Binding
    packed: bool = True  # else what follows its last row is not zero
    pitch4: int | None = None  # vec4 from one row to the next, where they are not those of N columns
    offset4: int = 0  # vec4 before the first row
    others: Mapping[Packing, Binding] = field(default_factory=lambda: MappingProxyType({}))  # the same, packed for other kernels

    def packed_as(self, packing: Packing) -> Binding | None:
        return self.binding if packing == "plain" else self.others.get(packing)


@dataclass(frozen=True)
class Operands:
    """out = A · W. `k` and `n` are the true sizes, without padding."""

    a: Tensor
    w: Weight
    out: Tensor
    k: int
    n: int
    joined: Tensor | None = None  # what follows in a row of A
    norm: Norm | None = None  # of A, applied as it is loaded


@dataclass(frozen=True)
class Rows:
    """A row of A for every row of the output. Row p·split + s begins at p·outer + s·inner, so that heads in a row are rows too."""

    name: ClassVar[str] = "ROWS"
    side: ClassVar[int] = 1  # taps on a side
    count: int | None = None  # where they are not all rows of the output
    split: int = 1
    outer: int | None = None  # vec4; A's own pitch unless given
    inner: int = 0
    offset: int = 0  # vec4 of A before the first row
    out_row: int = 0  # where the first row lands
    matrices: int = 1  # how many there are to multiply, each by its own W
    plane: int = 0  # rows from one of them to the next, of A and of the output


@dataclass(frozen=True)
class Taps:
    """A 3×3 convolution."""

    name: ClassVar[str] = "TAPS"
    side: ClassVar[int] = 3
    stride: int = 1
    pad: int = 0


@dataclass(frozen=True)
class Phases:
    """Nearest×2 and a 3×3 convolution behind it, as four 2×2 convolutions of the small image."""

    name: ClassVar[str] = "PHASE"
    side: ClassVar[int] = 2


@dataclass(frozen=True)
class Spread:
    """Of a layer norm before the layer: a sum is divided by √(variance + eps) of its row."""

    variance: Tensor
    eps: float


@dataclass(frozen=True)
class Epilogue:
    """What is done to a sum before it is stored, in this order."""

    spread: Spread | None = None
    bias: Binding | None = None
    act: Literal["silu"] | None = None
    shift: Tensor | None = None  # a row for every step
    residuals: tuple[Tensor, ...] = ()  # two at most
    norm: Norm | None = None  # of the first residual


@dataclass(frozen=True)
class GemmCall:
    """A dense layer, as an op asks for it."""

    op: str
    path: str
    operands: Operands
    mode: Rows | Taps | Phases = Rows()
    epilogue: Epilogue = Epilogue()
    prologue: bool = False

    @property
    def rows(self) -> int:
        """Those of the grid: of the output, or of the small image under four phases."""
        if isinstance(self.mode, Phases):
            return self.operands.a.rows
        return (self.mode.count if isinstance(self.mode, Rows) else None) or self.operands.out.rows

    @property
    def each(self) -> int:
        """Those of one image. What a sum is divided into goes by them: alone or in a batch, an image has the same bits."""
        if isinstance(self.mode, Rows) and self.mode.count is not None:
            return self.mode.count
        return self.rows // self.operands.out.shape[0]

    @property
    def grid_size(self) -> tuple[int, int]:
        """Height and width of the image that the rows run over."""
        _, height, width, _ = self.operands.a.shape if isinstance(self.mode, Phases) else self.operands.out.shape
        return height, width

    @property
    def phases(self) -> int:
        return 4 if isinstance(self.mode, Phases) else self.mode.matrices if isinstance(self.mode, Rows) else 1

    @property
    def stride(self) -> int:
        return self.mode.stride if isinstance(self.mode, Taps) else 1

    @property
    def types(self) -> tuple[DType, DType, DType]:
        """Of A, W and the output in memory. Products are made of float32 on most kernels, whatever these are."""
        return self.operands.a.dtype, self.operands.w.binding.dtype, self.operands.out.dtype

    @property
    def n4(self) -> int:
        return up4(self.operands.n) // 4

    @property
    def k4(self) -> int:
        return up4(self.operands.k) // 4

    def constants(self) -> dict[str, int | bool | str]:
        names, operands, epilogue, w = wgsl.numbers(SHADER), self.operands, self.epilogue, self.operands.w
        norm = operands.norm or epilogue.norm
        return {
            "MODE": names[self.mode.name],
            "KERNEL": self.mode.side,
            "ACT": names["SILU"] if epilogue.act == "silu" else 0,
            "BIAS": epilogue.bias is not None,
            "SHIFT": epilogue.shift is not None,
            "JOINED": operands.joined is not None,
            "NORMED": operands.norm is not None,
            "SPREAD": epilogue.spread is not None,
            "FIRST": len(epilogue.residuals) > 0,
            "FIRST_NORMED": epilogue.norm is not None,
            "SECOND": len(epilogue.residuals) > 1,
            "NORM_SILU": norm is not None and norm.silu,
            "TAIL": not w.packed and self.operands.k % 4 > 0,
        }

    def params(self) -> dict[str, int | float]:
        a, w = self.operands.a, self.operands.w
        rows = self.mode if isinstance(self.mode, Rows) else Rows()
        _, height, width, _ = a.shape
        joined, spread = self.operands.joined, self.epilogue.spread
        by_number = joined is not None or self.operands.norm is not None  # then a row's place is its number
        out_height, out_width = self.grid_size
        return {
            "n4": self.n4,
            "k": self.operands.k,
            "k4": self.k4,
            "ldb4": self.n4 if w.pitch4 is None else w.pitch4,
            "w_offset": w.offset4,
            "split": rows.split,
            "a4": a.pitch // 4,
            "positions": height * width,
            "outer": 1 if by_number else a.pitch // 4 if rows.outer is None else rows.outer,
            "inner": rows.inner,
            "a_offset": rows.offset,
            "height": height,
            "width": width,
            "out_height": out_height,
            "out_width": out_width,
            "stride": self.stride,
            "pad": self.mode.pad if isinstance(self.mode, Taps) else 0,
            "plane": rows.plane,
            "eps": spread.eps if spread else 0.0,
        }
