"""Every dense layer from one kernel: how gemm.wgsl is called, in tiles and, above the binding limit, in bands."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

from moebius.backends.webgpu import wgsl
from moebius.backends.webgpu.caps import Caps
from moebius.backends.webgpu.pack import up4
from moebius.backends.webgpu.recorder import BINDING_LIMIT, Recorder, ceil
from moebius.backends.webgpu.tensor import Binding, Tensor
from moebius.errors import LimitError, UsageError

SHADER = "gemm"


# tiles ---------------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Tile:
    """How gemm.wgsl divides its output. Threads own TM rows × 4·TN4 columns."""

    entry: str
    tm: int
    tn4: int
    wgx: int
    wgy: int

    def __post_init__(self) -> None:
        if self.entry == "tiled" and (self._staged_a % self._threads or self._staged_w % self._threads):
            raise UsageError(f"{self} does not divide its tiles among its threads: 4·tm / wgx and 16·tn4 / wgy must be whole.")

    @property
    def _threads(self) -> int:
        return self.wgx * self.wgy

    @property
    def _staged_a(self) -> int:
        """vec4 of A in workgroup memory."""
        return self.wgy * self.tm * depth4()

    @property
    def _staged_w(self) -> int:
        return 4 * depth4() * self.wgx * self.tn4

    def constants(self) -> dict[str, int]:
        out = {"TM": self.tm, "TN4": self.tn4, "WGX": self.wgx, "WGY": self.wgy, "ACC": self.tm * self.tn4}
        if self.entry == "tiled":
            out |= {"LOAD_A": self._staged_a // self._threads, "LOAD_W": self._staged_w // self._threads}
        return out


def depth4() -> int:
    """How many vec4 of K the tiled kernel takes at a time."""
    return wgsl.numbers(SHADER)["BK4"]


SINGLE_ROWS = Tile("direct", 1, 1, 16, 4)  # a handful of rows: time tables
CPU_TILE = Tile("direct", 4, 1, 8, 8)  # SwiftShader takes half a minute to compile 8×2, and runs it no faster
GPU_TILE = Tile("tiled", 8, 2, 8, 16)  # 128×64
GPU_TILE_SMALL = Tile("tiled", 4, 2, 8, 16)  # 64×64: the 16² level has 512 rows, which must make enough workgroups

Choose = Callable[[Caps, int, int], Tile]


def choose_tile(caps: Caps, m: int, n: int) -> Tile:
    """The tile of an m × n output."""
    if m <= 4:
        return SINGLE_ROWS
    if caps.is_software:
        return CPU_TILE
    return GPU_TILE if m * n >= 2**21 else GPU_TILE_SMALL


def always(tile: Tile) -> Choose:
    """One tile wherever there are more than a handful of rows."""
    return lambda caps, m, n: SINGLE_ROWS if m <= 4 else tile


# calls ---------------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Weight:
    """W, K rows of N columns: a packed parameter, or a matrix within a tensor."""

    binding: Binding
    packed: bool = True  # else what follows its last row is not zero
    pitch4: int | None = None  # vec4 from one row to the next, where they are not those of N columns
    offset4: int = 0  # vec4 before the first row


@dataclass(frozen=True)
class Operands:
    """out = A · W. `k` and `n` are the true sizes, without padding."""

    a: Tensor
    w: Weight
    out: Tensor
    k: int
    n: int


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
class Epilogue:
    """What is done to a sum before it is stored, in this order."""

    bias: Binding | None = None
    act: Literal["silu"] | None = None
    shift: Tensor | None = None  # a row for every step
    residuals: tuple[Tensor, ...] = ()  # two at most


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
    def grid_size(self) -> tuple[int, int]:
        """Height and width of the image that the rows run over."""
        _, height, width, _ = self.operands.a.shape if isinstance(self.mode, Phases) else self.operands.out.shape
        return height, width

    @property
    def phases(self) -> int:
        return 4 if isinstance(self.mode, Phases) else 1

    @property
    def stride(self) -> int:
        return self.mode.stride if isinstance(self.mode, Taps) else 1

    @property
    def n4(self) -> int:
        return up4(self.operands.n) // 4

    @property
    def k4(self) -> int:
        return up4(self.operands.k) // 4

    def constants(self) -> dict[str, int | bool | str]:
        names, epilogue, w = wgsl.numbers(SHADER), self.epilogue, self.operands.w
        return {
            "MODE": names[self.mode.name],
            "KERNEL": self.mode.side,
            "ACT": names["SILU"] if epilogue.act == "silu" else 0,
            "BIAS": epilogue.bias is not None,
            "SHIFT": epilogue.shift is not None,
            "RESIDUALS": len(epilogue.residuals),
            "TAIL": not w.packed and self.operands.k % 4 > 0,
        }

    def params(self) -> dict[str, int | float]:
        a, w = self.operands.a, self.operands.w
        rows = self.mode if isinstance(self.mode, Rows) else Rows()
        _, height, width, _ = a.shape
        out_height, out_width = self.grid_size
        return {
            "n4": self.n4,
            "k": self.operands.k,
            "k4": self.k4,
            "ldb4": self.n4 if w.pitch4 is None else w.pitch4,
            "w_offset": w.offset4,
            "split": rows.split,
            "outer": a.pitch // 4 if rows.outer is None else rows.outer,
            "inner": rows.inner,
            "a_offset": rows.offset,
            "height": height,
            "width": width,
            "out_height": out_height,
            "out_width": out_width,
            "stride": self.stride,
            "pad": self.mode.pad if isinstance(self.mode, Taps) else 0,
        }


# bands ---------------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Band:
    """Rows [begin, end) of a call, and the floats [begin, end) of A and of the output that they touch; None: both are bound whole."""

    begin: int
    end: int
    spans: tuple[tuple[int, int], tuple[int, int]] | None = None


def bands(call: GemmCall, recorder: Recorder) -> Iterable[Band]:
    """The parts of a call that can be bound."""
    if recorder.fits(call.operands.a, call.operands.out):
        return [Band(0, call.rows)]
    return _bands_of_rows(call, call.mode, recorder) if isinstance(call.mode, Rows) else _bands_of_lines(call, recorder)


def _bands_of_rows(call: GemmCall, mode: Rows, recorder: Recorder) -> Iterator[Band]:
    a, out = call.operands.a, call.operands.out
    if (mode.split, mode.offset, mode.out_row) != (1, 0, 0):
        raise LimitError(
            f"{call.op} ({call.path}): {a.shape} to {out.shape} takes {max(a.nbytes, out.nbytes):,} bytes, above the "
            f"{recorder.caps.limits[BINDING_LIMIT]:,} a binding may have on {recorder.caps.name}. "
            "Use a smaller image or batch, or another adapter."
        )
    step = recorder.bands(f"{call.op} ({call.path})", call.rows, a.pitch, out.pitch)
    for begin in range(0, call.rows, step):
        end = min(begin + step, call.rows)
        yield Band(begin, end, ((begin * a.pitch, end * a.pitch), (begin * out.pitch, end * out.pitch)))


def _bands_of_lines(call: GemmCall, recorder: Recorder) -> Iterator[Band]:
    """Whole lines of one image each, with those above and below that the filter reaches."""
    a, out, stride = call.operands.a, call.operands.out, call.stride
    images, height, width, _ = a.shape
    grid_height, grid_width = call.grid_size
    scale = 2 if isinstance(call.mode, Phases) else 1  # output rows per row of the iteration grid
    in_line, out_line = width * a.pitch, out.shape[2] * out.pitch
    step = recorder.bands(f"{call.op} ({call.path})", grid_height, stride * in_line, scale * out_line, overhead=3 * in_line)
    for image in range(images):
        for y in range(0, grid_height, step):
            y1 = min(y + step, grid_height)
            top, bottom = max(y * stride - 1, 0), min((y1 - 1) * stride + 3, height)
            a_span = ((image * height + top) * in_line, (image * height + bottom) * in_line)
            out_span = ((image * out.shape[1] + scale * y) * out_line, (image * out.shape[1] + scale * y1) * out_line)
            yield Band((image * grid_height + y) * grid_width, (image * grid_height + y1) * grid_width, (a_span, out_span))


class Dense:
    """Records calls. `choose` picks the tile of an m × n output for the recorder's caps."""

    def __init__(self, recorder: Recorder, choose: Choose) -> None:
        self.recorder, self.choose = recorder, choose

    def __call__(self, call: GemmCall) -> None:
        tile = self.choose(self.recorder.caps, call.rows, call.operands.n)
        for band in bands(call, self.recorder):
            self._record(call, tile, band)

    def _record(self, call: GemmCall, tile: Tile, band: Band) -> None:
        bound, a_origin, out_origin = self._bound(call, band)
        rows, taps = band.end - band.begin, call.mode.side**2
        out_row = call.mode.out_row if isinstance(call.mode, Rows) else 0
        # Rows that land further down are a negative origin: u32 arithmetic wraps.
        origins = {"a_origin": a_origin // 4, "out_origin": (out_origin // 4 - out_row * call.n4) % 2**32}
        depth = call.k4 if tile.entry == "direct" else ceil(call.k4, depth4())
        self.recorder.dispatch(
            call.op,
            call.path,
            SHADER,
            (ceil(call.n4, tile.wgx * tile.tn4), ceil(rows, tile.wgy * tile.tm), call.phases),
            bound,
            {"row0": band.begin, "rows": band.end, **call.params(), **origins},
            {**call.constants(), **tile.constants()},
            entry=tile.entry,
            iterations=taps * (1 + depth),
            flops=2 * rows * call.operands.n * call.operands.k * taps * call.phases,
            prologue=call.prologue,
        )

    def _bound(self, call: GemmCall, band: Band) -> tuple[dict[str, Tensor | Binding | None], int, int]:
        """What the shader's names are bound to, and how many floats of A and of the output lie before their windows."""
        operands, epilogue, recorder = call.operands, call.epilogue, self.recorder
        first, second = (*epilogue.residuals, None, None)[:2]
        bound: dict[str, Tensor | Binding | None] = {
            "a": operands.a,
            "w": operands.w.binding,
            "bias": epilogue.bias,
            "shift": epilogue.shift,
            "state": Binding("state", "read", recorder.recording.state, (1,)) if epilogue.shift is not None else None,
            "first": first,
            "second": second,
            "out": operands.out,
        }
        if band.spans is None:
            return bound, 0, 0
        a_span, out_span = band.spans
        bound["a"], a_origin = recorder.window("a", "read", operands.a, *a_span)
        bound["out"], out_origin = recorder.window("out", "read_write", operands.out, *out_span)
        for name, residual in (("first", first), ("second", second)):
            if residual is not None:
                bound[name], _ = recorder.window(name, "read", residual, *out_span)
        return bound, a_origin, out_origin
