"""Which row of the menu a dense layer gets: the default where nothing was measured, and those that are worth a measurement."""

from __future__ import annotations

from collections.abc import Callable
from math import prod

from moebius.backends.webgpu.calls import POINTS, TILE, GemmCall, Phases
from moebius.backends.webgpu.caps import Caps, Kind
from moebius.backends.webgpu.menu import (
    BLOCKED,
    BLOCKED_IN_2,
    BLOCKED_NARROW,
    BLOCKED_NARROW_IN_2,
    BLOCKED_SMALL_IN_2,
    BLOCKED_SMALL_IN_4,
    CPU,
    CPU_THIN,
    DIFFERENCES_CPU,
    DIFFERENCES_GPU,
    DIFFERENCES_LLVMPIPE,
    DIFFERENCES_LOW,
    LINES,
    LINES_THIN,
    LLVMPIPE,
    LLVMPIPE_LOW,
    LLVMPIPE_NARROW,
    OF_LLVMPIPE,
    ROWS,
    SINGLE_ROWS,
    STAGED,
    STAGED_TALL,
    THIN,
    TILED,
    TILED_SMALL,
    UNITS,
    WINOGRAD_CPU,
    WINOGRAD_CPU_LOW,
    WINOGRAD_GPU,
    WINOGRAD_LLVMPIPE,
    WINOGRAD_LOW,
    WINOGRAD_NARROW,
    Gemm,
)
from moebius.backends.webgpu.recorder import ceil

Choose = Callable[[Caps, GemmCall], Gemm]
FEW = 4  # rows that have a kernel of their own. An image of so few may be one of a batch, and has its sums made the same way there
PROCESSORS = 132  # of an H200
WORTH = 2**18  # products: fewer are made in less time than a kernel for more of them takes to compile
FEW_ROWS = 5  # that are tried where there is little time
WASTE = 1.5  # times the least that any row computes: what a tile hangs over the edges is computed too


def candidates(caps: Caps, call: GemmCall) -> tuple[Gemm, ...]:
    """The rows that are worth a measurement, the default first."""
    default = choose(caps, call)
    slow = OF_LLVMPIPE if "swiftshader" in _said(caps) else ()  # to compile: minutes
    never = (default, SINGLE_ROWS, *slow)
    others = [row for row in ROWS if row not in never and row.software == caps.is_software]
    rest = [row for row in others if row.fits(caps) and row.supports(call)]
    least = min(computed(row, call) for row in (default, *rest))
    return default, *(row for row in rest if computed(row, call) <= WASTE * least)


def tiles(call: GemmCall) -> int:
    """Of one image: Winograd's, of a convolution's output, or pixels that are enlarged."""
    height, width = call.grid_size
    side = 1 if isinstance(call.mode, Phases) else TILE
    return ceil(height, side) * ceil(width, side)


def of_two(call: GemmCall) -> int:
    """Rows of two images, which a guided step has of every picture."""
    return 2 * call.each


def promising(caps: Caps, call: GemmCall) -> tuple[Gemm, ...]:
    """A few of them, for who has little time: the default, and those that look best on paper."""
    default, *others = candidates(caps, call)
    return default, *sorted(others, key=lambda row: on_paper(row, call))[: FEW_ROWS - 1]


def on_paper(row: Gemm, call: GemmCall) -> float:
    """What a processor has to do for its share of a layer: rounds of workgroups, times the products of one, with what it loads for them."""
    x, y, z = row.grid(call, call.rows)
    groups, each = x * y * z, row.outputs() * (1 + 8 / row.rows + 8 / (4 * row.columns4))
    if row.packing != "plain":  # its products for a tile, with as much again for their points, where others make one for each tap
        images = call.operands.out.shape[0]
        groups, each = x * ceil(images * tiles(call), row.rows) * POINTS[row.packing], 2 * each / call.mode.side**2
    return ceil(groups, PROCESSORS) * each * (1.0 if row.units is None else 0.5)


def computed(row: Gemm, call: GemmCall) -> int:
    """Outputs, with those beyond the edges."""
    x, y, _ = row.grid(call, call.rows)
    return x * y * row.outputs() // 4


def choose(caps: Caps, call: GemmCall) -> Gemm:
    """The default row of a call on a device, of the first line of DEFAULTS that is about it."""
    if call.rows <= FEW:
        return SINGLE_ROWS
    if caps.matrix is not None and (row := _units(caps, call)) is not None:
        return row
    return next(pick for word, kinds, pick in DEFAULTS if word in _said(caps) and caps.kind in kinds)(caps, call)


def _said(caps: Caps) -> str:
    """What an adapter says of itself."""
    return f"{caps.vendor} {caps.name}".lower()


def _units(caps: Caps, call: GemmCall) -> Gemm | None:
    """Halves, on units where there are some: the largest tile that suits the call. Numbers of f32 are split where that was measured to be
    faster, and never by default."""
    if caps.precision != "f16" or _thin(call) is not None:
        return None
    fitting = [row for row in UNITS if row.fits(caps) and row.supports(call)]
    for row in fitting:
        smaller = next((each for each in fitting if each.outputs() < row.outputs()), None)
        if _suits(row, smaller, call):
            return row
    return None


def _suits(row: Gemm, smaller: Gemm | None, call: GemmCall) -> bool:
    """As measured on an H200: unless there are two rounds of workgroups at most, and a processor would compute less in smaller ones."""
    if smaller is None or prod(row.grid(call, of_two(call))) > 2 * PROCESSORS:
        return True
    return _in_rounds(row, call) <= _in_rounds(smaller, call)


def _in_rounds(row: Gemm, call: GemmCall) -> int:
    """Sums that the busiest processor makes."""
    return ceil(prod(row.grid(call, of_two(call))), PROCESSORS) * row.outputs()


def _nvidia(caps: Caps, call: GemmCall) -> Gemm:
    """As measured on an H200, by how many workgroups of 64×64 there are for each processor, and how long their sums are."""
    thin = _thin(call)
    if thin is not None or caps.checked:
        return thin or _gpu(caps, call)
    if (in_tiles := _in_tiles(caps, call, 128)) is not None:
        return in_tiles
    each, depth = prod(STAGED.grid(call, of_two(call))) / PROCESSORS, 4 * call.k4 * call.mode.side**2
    if each <= 4 / 3:  # a few processors would have two, and the others wait for them
        return BLOCKED_SMALL_IN_4 if depth >= 2**11 else BLOCKED_SMALL_IN_2
    if isinstance(call.mode, Phases):
        return BLOCKED_NARROW if each < 8 else BLOCKED_IN_2
    if each >= 8 and depth >= 2**10:
        return STAGED_TALL
    if each < 8 and 0 < call.n4 % STAGED.columns4 <= BLOCKED_NARROW.columns4:  # half of the last tiles would be beyond the edge
        return BLOCKED_NARROW if depth < 2**9 else BLOCKED_NARROW_IN_2
    if depth < 2**9:
        return BLOCKED if each >= 16 else STAGED
    return BLOCKED_IN_2


def _thin(call: GemmCall) -> Gemm | None:
    """The kernel for few columns, where K is long enough to be divided."""
    fitting = [row for row in THIN if call.n4 <= row.tn4 and row.supports(call)]
    return fitting[0] if fitting and 2 * call.k4 >= fitting[0].wgx else None


def _gpu(caps: Caps, call: GemmCall) -> Gemm:
    if (thin := _thin(call)) is not None:
        return thin
    if caps.kind == "discrete" and not caps.checked and (in_tiles := _in_tiles(caps, call, 256)) is not None:
        return in_tiles
    return TILED if call.rows * call.operands.n >= 2**21 else TILED_SMALL


def _in_tiles(caps: Caps, call: GemmCall, channels: int) -> Gemm | None:
    """The row where a 3×3 is worth Winograd's tiles, 36 products for 144, or an enlarging one its differences, 9 for 16: between passes
    that move several times what is read and written. A GPU whose memory is slower for what it computes than an H200's wants more channels:
    elsewhere twice as many have to do, where it has memory of its own.
    """
    row = DIFFERENCES_GPU if isinstance(call.mode, Phases) else WINOGRAD_GPU
    if min(call.operands.k, call.operands.n) < channels or not (row.supports(call) and row.fits(caps)):
        return None
    groups = POINTS[row.packing] * ceil(tiles(call), row.rows) * ceil(call.n4, row.columns4)
    return row if groups >= 2 * PROCESSORS else None


def _llvmpipe(caps: Caps, call: GemmCall) -> Gemm:
    """Milliseconds of the processors, at M×N×K. 512×160×32: LLVMPIPE 5.3, with threads of 8×8 in its place 6.6; 32×640×128: 8.6 and 10.5;
    512×32×32: LLVMPIPE_NARROW 1.5, CPU 3.6. 3×3 of 16, 32 and 64 channels on 128², 64² and 32²: LINES 120, 103 and 85, Winograd's
    tiles 81, 70 and 26; of 64 on 16²: 28 and 7. Enlarging 64 channels from 32², 32 from 64² and 128 from 4²: LINES 119, 111 and 68,
    differences 88, 147 and 15.
    """
    if call.phases * of_two(call) * call.mode.side**2 * call.operands.n * call.operands.k < WORTH:
        return _software(caps, call)
    count, width = tiles(call), call.grid_size[1]
    if DIFFERENCES_LLVMPIPE.supports(call) and count > FEW and min(call.k4, call.n4) >= (12 if width >= LINES.tm else 8):
        return DIFFERENCES_LOW if 2 * count <= DIFFERENCES_LOW.rows else DIFFERENCES_LLVMPIPE
    if WINOGRAD_LLVMPIPE.supports(call) and min(call.k4, call.n4) >= 4 and count >= WINOGRAD_LOW.rows:
        if call.n4 <= WINOGRAD_NARROW.columns4:
            return WINOGRAD_NARROW
        return WINOGRAD_LLVMPIPE if count >= WINOGRAD_LLVMPIPE.rows else WINOGRAD_LOW
    if LINES.supports(call) and width >= LINES.tm:
        return LINES_THIN if call.n4 <= 2 else LINES
    if call.n4 <= 2:
        return CPU_THIN
    if call.rows <= LLVMPIPE_LOW.rows:
        return LLVMPIPE_LOW
    return min(LLVMPIPE, LLVMPIPE_NARROW, key=lambda row: computed(row, call))


def _swiftshader(caps: Caps, call: GemmCall) -> Gemm:
    """Milliseconds: 32 to 64 channels on 64²: CPU 226, WINOGRAD_CPU 63; 64 to 32 on 32²: 75 and 28; 3 to 16 and back on 128²: 272 and 170,
    94 and 81. Enlarging 64 channels from 32²: 227, DIFFERENCES_CPU 119; 64 from 4²: 10 and 7; 16 from 32²: 39 and 40."""
    count = tiles(call)
    if DIFFERENCES_CPU.supports(call) and count > FEW and min(call.k4, call.n4) >= 8:
        return DIFFERENCES_CPU
    if WINOGRAD_CPU.supports(call) and max(call.k4, call.n4) >= 4 and count >= WINOGRAD_CPU_LOW.rows:
        return WINOGRAD_CPU if count > WINOGRAD_CPU.rows else WINOGRAD_CPU_LOW
    return _software(caps, call)


def _software(caps: Caps, call: GemmCall) -> Gemm:
    return CPU_THIN if call.n4 <= 2 else CPU


GPUS: tuple[Kind, ...] = ("discrete", "integrated", "unknown")
# A word of the adapter's vendor or name, the kinds of adapter it is about, and who gets what there.
DEFAULTS: tuple[tuple[str, tuple[Kind, ...], Choose], ...] = (
    ("nvidia", ("discrete",), _nvidia),
    ("", GPUS, _gpu),
    ("llvmpipe", ("software",), _llvmpipe),
    ("swiftshader", ("software",), _swiftshader),
    ("", ("software",), _software),
)
