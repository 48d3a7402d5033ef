"""The menu of kernels for a dense layer: a row each, which rows a device and a call allow, and the one taken where nothing was measured."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from math import prod
from typing import Literal, Self

from moebius.backends.webgpu import units, wgsl
from moebius.backends.webgpu.calls import POINTS, SHADER, TILE, GemmCall, Packing, Phases, Rows, Taps
from moebius.backends.webgpu.caps import Caps, Kind
from moebius.backends.webgpu.deferred import GroupNormed, is_parted
from moebius.backends.webgpu.recorder import ceil
from moebius.backends.webgpu.tensor import DType
from moebius.backends.webgpu.units import Units
from moebius.errors import UsageError

Entry = Literal["direct", "lines", "tiled", "staged", "blocked", "thin", "units"]
STAGING = ("tiled", "staged", "blocked", "units")  # their threads share tiles of both operands


@dataclass(frozen=True)
class Gemm:
    """An entry of gemm.wgsl and its workgroup. A thread owns TM rows × 4·TN4 columns; under `thin` WGX of them together do, and under
    `units`, the entry of gemm_matrix.wgsl, a subgroup does: WGX×WGY counts those there."""

    entry: Entry
    tm: int
    tn4: int
    wgx: int
    wgy: int
    software: bool = False  # for software drivers alone: there is no workgroup memory to gain from, and every barrier is a loss
    operands: DType = "f32"
    accumulator: DType = "f32"
    packing: Packing = "plain"  # of the weights
    features: frozenset[str] = frozenset()  # that a device must have
    units: Units | None = None  # of a device, which has them or has not
    groups: int = 1  # blocked: WGX×WGY threads each, among which K is divided

    def __post_init__(self) -> None:
        if self.units is not None:
            if self.tm % self.units.m or 4 * self.tn4 % self.units.n or self.units.depth % (self.units.k * self.units.share):
                raise UsageError(f"{self}: a subgroup owns whole fragments, and a tile is whole fragments deep, for each that shares it.")
        elif self.entry == "blocked":
            loads_w, loaders = self._staged_w, self.threads // self.groups - self._from_w
            fills = self.tm in (4, 8) and self.wgx % 8 == 0 and self.wgy % 4 == 0 and self.rows % 32 == 0
            shares = loads_w % loaders == 0 and (self._from_w > 0 or self._blocks % loaders == 0)
            adds = self.tm * self.tn4 % self.groups == 0
            room = self.groups * (self._staged_a + loads_w) >= (self.groups - 1) * self.outputs() // 4
            if not (fills and shares and adds and room):
                raise UsageError(f"{self} does not divide its tiles or its sums among its threads: see `blocked` of gemm.wgsl.")
        elif self.entry in STAGING and not self.is_shared:
            raise UsageError(f"{self} does not divide its tiles among its threads: 4·tm / wgx and 16·tn4 / wgy must be whole.")
        if self.entry == "lines" and self.tn4 != 1:
            raise UsageError(f"{self}: a thread of `lines` owns one vec4 of columns.")

    @property
    def key(self) -> str:
        """Names the row in files: a packing of its own, the entry, the tiles of a workgroup and of a thread, types other than f32."""
        types = "" if (self.operands, self.accumulator) == ("f32", "f32") else f" {self.operands}-{self.accumulator}"
        packing = "" if self.packing == "plain" else f"{self.packing} "
        unit = "" if self.units is None else f" {self.units.key}"
        groups = "" if self.groups == 1 else f" in {self.groups}"
        return f"{packing}{self.entry} {self.rows}x{4 * self.columns4} {self.tm}x{4 * self.tn4}{groups}{unit}{types}"

    @property
    def shader(self) -> str:
        return SHADER if self.units is None else units.SHADER

    @property
    def threads(self) -> int:
        return self.wgx * self.wgy * (self.groups if self.units is None else self.units.lanes * self.units.share)

    @property
    def rows(self) -> int:
        """Of the output, in a workgroup."""
        return self.wgy * self.tm

    @property
    def columns4(self) -> int:
        """The same of columns, in vec4."""
        return self.tn4 if self.entry == "thin" else self.wgx * self.tn4

    def outputs(self) -> int:
        """Of a workgroup."""
        return self.rows * 4 * self.columns4

    @property
    def workgroup_bytes(self) -> int:
        """Of the arrays that the entry declares in workgroup memory."""
        return self._bytes(self.constants())

    @property
    def depth4(self) -> int:
        """How many vec4 of K a kernel with workgroup memory takes at a time."""
        return depth4() if self.units is None else self.units.depth // 4

    @property
    def _staged_a(self) -> int:
        """vec4 of A that are staged at a time; pairs of them, on units."""
        return self.rows * self.depth4 // (1 if self.units is None else 2)

    @property
    def _staged_w(self) -> int:
        return 4 * self.depth4 * self.columns4 // (1 if self.units is None else 2)

    @property
    def is_shared(self) -> bool:
        """Whether its threads stage as much each."""
        return not (self._staged_a % self.threads or self._staged_w % self.threads)

    @property
    def _blocks(self) -> int:
        """Of four vec4 of A, under `blocked`."""
        return self._staged_a // 4

    @property
    def _from_w(self) -> int:
        """Under `blocked` the first thread of a group that stages W: 0 where each stages both."""
        return self._blocks if self._blocks < self.wgx * self.wgy else 0

    # where it can be -----------------------------------------------------------------------------------------------
    def on(self, caps: Caps) -> Self:
        """As a device runs it: matrix units are of its own kind."""
        return self if self.units is None else replace(self, units=self.units.on(caps))

    def fits(self, caps: Caps) -> bool:
        """Whether a device can run it at all."""
        return self.on(caps)._has_room(caps)

    def _has_room(self, caps: Caps) -> bool:
        limits = caps.limits
        if self.units is not None:
            if not (self.is_shared and self.operands == caps.precision and self.units.there(caps)):
                return False
            return (
                self.threads <= min(limits["max-compute-invocations-per-workgroup"], limits["max-compute-workgroup-size-x"])
                and self.workgroup_bytes <= limits["max-compute-workgroup-storage-size"]
            )
        return (
            self.features <= caps.features
            and self.threads <= limits["max-compute-invocations-per-workgroup"]
            and self.wgx <= limits["max-compute-workgroup-size-x"]
            and self.wgy <= limits["max-compute-workgroup-size-y"]
            and self.groups <= limits["max-compute-workgroup-size-z"]
            and self.workgroup_bytes <= limits["max-compute-workgroup-storage-size"]
        )

    def supports(self, call: GemmCall) -> bool:
        """`thin` is for few columns. `lines` needs neighbouring outputs whose filters overlap: a 3×3 of stride 1, or the phases of an
        upsampling one."""
        if call.operands.w.packed_as(self.packing) is None or (self.entry == "thin" and call.n4 > THIN4):
            return False
        if self.packing == "winograd":
            if isinstance(call.mode, Taps) and (call.mode.stride, call.mode.pad) != (1, 1):
                return False
            return not isinstance(call.mode, Rows) and 64 * POINTS * call.k4 * call.n4 <= FILTERS
        return self.entry != "lines" or (isinstance(call.mode, Taps | Phases) and call.stride == 1 and call.operands.w.packed)

    # how it runs ---------------------------------------------------------------------------------------------------
    def options(self, call: GemmCall) -> dict[str, bool | str]:
        """What a call adds to the constants of this kernel alone."""
        if self.entry not in ("staged", "blocked", "units"):
            return {}
        steps = call.mode.side**2 * ceil(call.k4, self.depth4)
        out: dict[str, bool | str] = {"RAGGED": call.k4 % self.depth4 > 0 or steps % self.groups > 0}
        return out | units.raw(call) if self.operands == "f16" else out

    def constants(self) -> dict[str, int | bool | str]:
        out: dict[str, int | bool | str] = {"TM": self.tm, "TN4": self.tn4, "WGX": self.wgx, "WGY": self.wgy}
        out |= {"ACC": self.tm * self.tn4} if self.units is None else self.units.constants(self.operands == "f32")
        if self.entry == "blocked":
            each, split = self.wgx * self.wgy, self._from_w
            blocks, loads_w = max(1, self._blocks // each), self._staged_w // (each - split)
            ahead = max(4 * blocks, loads_w) if split else 4 * blocks + loads_w
            out |= {"LOAD_A": blocks, "LOAD_W": loads_w, "AHEAD": ahead}
            out |= {"GROUPS": self.groups, "BOTH": split == 0, "FROM_W": split}
        elif self.entry in STAGING:
            out |= {"LOAD_A": self._staged_a // self.threads, "LOAD_W": self._staged_w // self.threads}
        if self.units is not None:
            across, down = 4 * self.tn4 // self.units.n, self.tm // self.units.m
            passed = [{"HIGH": high, "ABREAST": abreast} for high, abreast in ((2, across), (1, across), (1, 1)) if down % high == 0]
            out |= next((each for each in passed if self._bytes(out | each) <= self.units.room), passed[-1])
        return out

    def _bytes(self, constants: Mapping[str, int | bool | str]) -> int:
        return wgsl.kernel(self.shader, self.entry, tuple(sorted(constants.items()))).workgroup_bytes

    def grid(self, call: GemmCall, rows: int) -> tuple[int, int, int]:
        """Workgroups for `rows` rows of a call; those of `lines` are whole lines, each cut in runs of TM."""
        runs = ceil(rows, self.tm)
        if self.entry == "lines":
            width = call.grid_size[1]
            runs = rows // width * ceil(width, self.tm)
        return ceil(call.n4, self.columns4), ceil(runs, self.wgy), call.phases

    def iterations(self, call: GemmCall) -> int:
        """Of the loops that are left when the others are written out."""
        turns = call.mode.side if self.entry == "lines" else call.mode.side**2
        depth = self.depth4 if self.entry in STAGING else self.wgx if self.entry == "thin" else 1
        sums = 1 + self.wgx * ceil(self.tm * self.tn4, self.wgx) if self.entry == "thin" else 0
        each = 0 if self.units is None else self.units.products(self.tm, 4 * self.tn4, self.operands == "f32")
        return turns * (1 + ceil(call.k4, depth) * (1 + each)) + sums


def depth4() -> int:
    """Of the tiles of gemm.wgsl."""
    return wgsl.numbers(SHADER)["BK4"]


# the rows ------------------------------------------------------------------------------------------------------------
SINGLE_ROWS = Gemm("direct", 1, 1, 16, 4)  # a handful of rows: time tables
# TFLOP/s on an H200, without bounds checks, at M×N×K 8192×320×320 / 2048×640×640 / 512×1280×1280 / 16384×512×4608:
STAGED = Gemm("staged", 8, 1, 16, 8)  # 64×64: 35.6 / 29.2 / 22.1 / 40.3
STAGED_8X8 = Gemm("staged", 8, 2, 8, 8)  # 31.9 / 25.3 / 22.3 / 38.6
STAGED_TALL = Gemm("staged", 8, 2, 8, 16)  # 128×64: 30.9 / 23.6 / 21.9 / 41.5
STAGED_NARROW = Gemm("staged", 8, 1, 8, 8)  # 64×32: 26.4 / 28.9 / 23.1 / 35.3
STAGED_LOW = Gemm("staged", 4, 1, 16, 8)  # 32×64
STAGED_WIDE = Gemm("staged", 8, 2, 16, 8)  # 64×128
BLOCKED = Gemm("blocked", 8, 1, 16, 8)  # 64×64
BLOCKED_8X8 = Gemm("blocked", 8, 2, 8, 8)
BLOCKED_NARROW = Gemm("blocked", 8, 1, 8, 8)  # 64×32
BLOCKED_IN_2 = Gemm("blocked", 8, 1, 8, 8, groups=2)
BLOCKED_IN_4 = Gemm("blocked", 8, 1, 8, 4, groups=4)  # 32×32
# With bounds checks these are ahead in larger layers: 25.0 / 18.0 / 14.5 / 32.7 for the first, where STAGED has 23.8 / 20.0 / 15.0 / 26.3.
TILED = Gemm("tiled", 8, 2, 8, 16)  # 128×64
TILED_SMALL = Gemm("tiled", 4, 2, 8, 16)  # 64×64: the 16² level has 512 rows, which must make enough workgroups
# Few columns: what a tile of 64 would compute of them is mostly beyond the edge, so the lanes divide K. Eight sums a thread.
THIN = (Gemm("thin", 8, 1, 16, 4), Gemm("thin", 4, 2, 16, 4), Gemm("thin", 2, 4, 16, 4))  # up to 4, 8, 16 columns
# Software drivers: what counts is loads for each product. `thin` ones are for outputs of few channels, of which a workgroup is one column.
CPU = Gemm("direct", 4, 1, 8, 8, software=True)  # SwiftShader takes half a minute to compile 8×2, and runs it no faster
CPU_THIN = Gemm("direct", 4, 1, 1, 64, software=True)
# llvmpipe makes every load lane by lane, and compiles what SwiftShader takes minutes and gigabytes for.
# Threads of 16×4 take four fifths of the time of 16×2, and two seconds to compile for every epilogue.
LLVMPIPE = Gemm("direct", 16, 2, 8, 4, software=True)  # 64×64: 24 loads of vec4 for 128 products, where CPU has 64
LLVMPIPE_LOW = Gemm("direct", 16, 2, 8, 2, software=True)  # 32×64
LLVMPIPE_NARROW = Gemm("direct", 8, 2, 4, 16, software=True)  # 128×32
LINES = Gemm("lines", 16, 1, 8, 4, software=True)  # 30 for 192, where CPU has 96
LINES_THIN = Gemm("lines", 16, 1, 1, 32, software=True)

FILTERS = 64 << 20  # bytes of weights' points that are made for a call, at most: more take longer than they save, and room
THIN4 = THIN[-1].tn4  # vec4 of columns
# 36 products for 144, which are made in tiles as above, between two passes over what they read and make.
WINOGRAD_GPU, WINOGRAD_TALL = (replace(row, packing="winograd") for row in (STAGED, STAGED_TALL))
WINOGRAD_LLVMPIPE, WINOGRAD_LOW, WINOGRAD_NARROW = (
    replace(row, packing="winograd") for row in (LLVMPIPE, replace(LLVMPIPE, wgy=1), LLVMPIPE_NARROW)
)
WINOGRAD_CPU, WINOGRAD_CPU_LOW = (replace(row, packing="winograd") for row in (CPU, replace(CPU, tm=2)))
WINOGRAD = (WINOGRAD_GPU, WINOGRAD_TALL, WINOGRAD_LLVMPIPE, WINOGRAD_LOW, WINOGRAD_NARROW, WINOGRAD_CPU, WINOGRAD_CPU_LOW)

STAGES = (STAGED, STAGED_8X8, STAGED_TALL, STAGED_NARROW, STAGED_LOW, STAGED_WIDE)
OF_LLVMPIPE = (LLVMPIPE, LLVMPIPE_LOW, LLVMPIPE_NARROW, LINES, LINES_THIN, WINOGRAD_LLVMPIPE, WINOGRAD_LOW, WINOGRAD_NARROW)
BLOCKS = (BLOCKED, BLOCKED_8X8, BLOCKED_NARROW, BLOCKED_IN_2, BLOCKED_IN_4)
GEMMS: tuple[Gemm, ...] = (SINGLE_ROWS, *STAGES, *BLOCKS, *THIN, *WINOGRAD, TILED, TILED_SMALL, CPU, CPU_THIN, *OF_LLVMPIPE[:5])


# On matrix units: rows and columns/4 of a subgroup, subgroups across and down, depth, subgroups that share it. A subgroup has
# registers for 64×32 sums at most. The largest first. TFLOP/s of halves on an H200 at 512×1280×1280, 2048×640×640 and 3×3 of 4096×512×512:
Tile = tuple[int, int, int, int, int, int]
WHOLE: tuple[Tile, ...] = (
    (64, 8, 4, 2, 32, 1),  # 128×128: -, -, 178
    (32, 8, 4, 2, 32, 1),  # 64×128: 91, 79, 128
    (32, 8, 2, 2, 64, 2),  # 64×64: 84, 87, -
    (32, 8, 2, 2, 32, 1),  # 55, 61, 78, in 16 KiB
    (16, 4, 2, 2, 64, 1),  # 32×32: 61, -, -, in 16 KiB
)
SPLIT: tuple[Tile, ...] = ((32, 8, 4, 2, 32, 1), (32, 8, 2, 2, 16, 1), (16, 4, 2, 2, 32, 1))


def _on_units(shape: tuple[int, int, int], tiles: Iterable[Tile], operands: DType) -> tuple[Gemm, ...]:
    return tuple(
        Gemm("units", tm, tn4, x, y, operands=operands, units=Units(depth, *shape, share)) for tm, tn4, x, y, depth, share in tiles
    )


# What most have, then what some have alone: 8×8×8 is Apple's. Numbers are f16, or f32 by splitting.
UNITS: tuple[Gemm, ...] = (*_on_units((16, 16, 16), WHOLE, "f16"), *_on_units((16, 16, 16), SPLIT, "f32"))
for shape in ((16, 8, 16), (8, 8, 8)):
    UNITS += (*_on_units(shape, WHOLE[-2:], "f16"), *_on_units(shape, SPLIT[-1:], "f32"))
ROWS = (*GEMMS, *UNITS)


# which one -----------------------------------------------------------------------------------------------------------
Choose = Callable[[Caps, GemmCall], Gemm]
FEW = 4  # rows that have a kernel of their own
PROCESSORS = 132  # of an H200
LARGE, STEPS = 2**14, 2**13  # sums of a tile on matrix units for which a call must have as many steps of workgroups
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
    """Winograd's, of a convolution's output."""
    images, height, width, _ = call.operands.out.shape
    return images * ceil(height, TILE) * ceil(width, TILE)


def promising(caps: Caps, call: GemmCall) -> tuple[Gemm, ...]:
    """A few of them, for who has little time: the default, and those that look best on paper."""
    default, *others = candidates(caps, call)
    return default, *sorted(others, key=lambda row: on_paper(row, call))[: FEW_ROWS - 1]


def on_paper(row: Gemm, call: GemmCall) -> float:
    """What a processor has to do for its share of a layer: rounds of workgroups, times the products of one, with what it loads for them."""
    x, y, z = row.grid(call, call.rows)
    groups, each = x * y * z, row.outputs() * (1 + 8 / row.rows + 8 / (4 * row.columns4))
    if row.packing == "winograd":  # 36 products for a tile, with as much again for its points, where others make one for each tap
        groups, each = x * ceil(tiles(call), row.rows) * POINTS, 2 * each / call.mode.side**2
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
    return next((row for row, smaller in zip(fitting, [*fitting[1:], None], strict=True) if _suits(row, smaller, call)), None)


def _suits(row: Gemm, smaller: Gemm | None, call: GemmCall) -> bool:
    """As measured on an H200. A large tile has much to do at its end, and wants workgroups for all processors and many steps. Any other
    does unless there are two rounds of workgroups at most, of which a processor would compute less in the next smaller one."""
    groups = prod(row.grid(call, call.rows))
    if smaller is None:
        return True
    if row.outputs() >= LARGE:
        return groups >= 0.9 * PROCESSORS and groups * call.mode.side**2 * ceil(call.k4, row.depth4) >= STEPS
    return groups > 2 * PROCESSORS or _in_rounds(row, call) <= _in_rounds(smaller, call)


def _in_rounds(row: Gemm, call: GemmCall) -> int:
    """Sums that the busiest processor makes."""
    return ceil(prod(row.grid(call, call.rows)), PROCESSORS) * row.outputs()


def _h200(caps: Caps, call: GemmCall) -> Gemm:
    """As measured there; smaller tiles where there would be fewer than two workgroups for each of its 132 processors."""
    thin = _thin(call)
    if thin is not None or caps.checked:
        return thin or _gpu(caps, call)
    if _in_tiles(caps, call, 128):
        return WINOGRAD_GPU
    outputs = call.phases * call.rows * call.operands.n
    if outputs >= 2**22 and call.k4 * call.mode.side**2 >= 2**9:
        return STAGED_TALL
    return STAGED if outputs >= 2 * PROCESSORS * STAGED.outputs() else STAGED_NARROW


def _thin(call: GemmCall) -> Gemm | None:
    """The kernel for few columns, where K is long enough to be divided."""
    fitting = [row for row in THIN if call.n4 <= row.tn4 and row.supports(call)]
    return fitting[0] if fitting and 2 * call.k4 >= fitting[0].wgx else None


def _gpu(caps: Caps, call: GemmCall) -> Gemm:
    if (thin := _thin(call)) is not None:
        return thin
    if caps.kind == "discrete" and not caps.checked and _in_tiles(caps, call, 256):
        return WINOGRAD_GPU
    return TILED if call.rows * call.operands.n >= 2**21 else TILED_SMALL


def _in_tiles(caps: Caps, call: GemmCall, channels: int) -> bool:
    """Whether a 3×3 is worth Winograd's tiles: 36 products for 144, or for the 64 of an enlarging one, between passes that move 4.5 times
    what is read and written. A GPU whose memory is slower for what it computes than an H200's wants more channels:
    elsewhere twice as many have to do, where it has memory of its own. What is there in parts is so where memory is at its peak, which a
    band's windows and products would be above.
    """
    row, a = WINOGRAD_GPU, call.operands.a
    if min(call.operands.k, call.operands.n) < channels or not (row.supports(call) and row.fits(caps)):
        return False
    if any(is_parted(t) for t in (a.x if isinstance(a, GroupNormed) else a, *call.epilogue.residuals)):
        return False
    return POINTS * ceil(tiles(call), row.rows) * ceil(call.n4, row.columns4) >= 2 * PROCESSORS


def _llvmpipe(caps: Caps, call: GemmCall) -> Gemm:
    """Milliseconds of the processors, at M×N×K. 512×160×32: LLVMPIPE 5.3, with threads of 8×8 in its place 6.6; 32×640×128: 8.6 and 10.5;
    512×32×32: LLVMPIPE_NARROW 1.5, CPU 3.6. 3×3 of 16, 32 and 64 channels on 128², 64² and 32²: LINES 120, 103 and 85, Winograd's
    tiles 81, 70 and 26; of 64 on 16²: 28 and 7. Enlarging 64 and 32 channels: LINES 118 and 134, tiles 90 and 155.
    """
    if call.phases * call.rows * call.mode.side**2 * call.operands.n * call.operands.k < WORTH:
        return _software(caps, call)
    wide = 12 if isinstance(call.mode, Phases) else 4
    if WINOGRAD_LLVMPIPE.supports(call) and min(call.k4, call.n4) >= wide:
        if call.n4 <= WINOGRAD_NARROW.columns4:
            return WINOGRAD_NARROW
        return WINOGRAD_LLVMPIPE if tiles(call) >= WINOGRAD_LLVMPIPE.rows else WINOGRAD_LOW
    if LINES.supports(call) and call.grid_size[1] >= LINES.tm:
        return LINES_THIN if call.n4 <= 2 else LINES
    if call.n4 <= 2:
        return CPU_THIN
    if call.rows <= LLVMPIPE_LOW.rows:
        return LLVMPIPE_LOW
    return min(LLVMPIPE, LLVMPIPE_NARROW, key=lambda row: computed(row, call))


def _swiftshader(caps: Caps, call: GemmCall) -> Gemm:
    """Milliseconds: 32 to 64 channels on 64²: CPU 226, WINOGRAD_CPU 63; 64 to 32 on 32²: 75 and 28; 3 to 16 and back on 128²: 272 and 170,
    94 and 81. Enlarging 64 channels from 8²: 38, WINOGRAD_CPU_LOW 26; 128 from 4²: 32 and 55."""
    count = tiles(call)
    if WINOGRAD_CPU.supports(call) and max(call.k4, call.n4) >= 4 and count >= WINOGRAD_CPU_LOW.rows:
        return WINOGRAD_CPU if count > WINOGRAD_CPU.rows else WINOGRAD_CPU_LOW
    return _software(caps, call)


def _software(caps: Caps, call: GemmCall) -> Gemm:
    return CPU_THIN if call.n4 <= 2 else CPU


GPUS: tuple[Kind, ...] = ("discrete", "integrated", "unknown")
# A word of the adapter's vendor or name, the kinds of adapter it is about, and who gets what there.
DEFAULTS: tuple[tuple[str, tuple[Kind, ...], Choose], ...] = (
    ("nvidia", ("discrete",), _h200),
    ("", GPUS, _gpu),
    ("llvmpipe", ("software",), _llvmpipe),
    ("swiftshader", ("software",), _swiftshader),
    ("", ("software",), _software),
)


def always(row: Gemm) -> Choose:
    """One row wherever it can be, and there are more than a handful of rows."""
    return lambda caps, call: SINGLE_ROWS if call.rows <= FEW else row if row.supports(call) else CPU
