"""The menu of kernels for a dense layer: a row each, and which rows a device and a call allow."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Literal, Self

from moebius.backends.webgpu import units, wgsl
from moebius.backends.webgpu.calls import POINTS, SHADER, GemmCall, Packing, Phases, Taps
from moebius.backends.webgpu.caps import Caps
from moebius.backends.webgpu.recorder import ceil
from moebius.backends.webgpu.tensor import DType
from moebius.backends.webgpu.units import Units
from moebius.errors import UsageError

Entry = Literal["direct", "lines", "tiled", "staged", "blocked", "thin", "units"]
STAGING = ("tiled", "staged", "blocked", "units")  # their threads share tiles of both operands
SHADERS: dict[Entry, str] = {"blocked": "gemm_blocked", "units": units.SHADER}  # of entries that have one of their own


@dataclass(frozen=True)
class Gemm:
    """An entry of gemm.wgsl, gemm_blocked.wgsl or gemm_matrix.wgsl, and its workgroup. A thread owns TM rows × 4·TN4 columns; under `thin`
    WGX of them together do, and under `units` a subgroup does: WGX×WGY counts those there."""

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
            fills = self.tm == self.wgx == 8 and self.wgy % 4 == 0
            shares = self._staged_w % (self.wgx * self.wgy) == 0
            adds = self.tm * self.tn4 % self.groups == 0
            room = self.groups * (self._staged_a + self._staged_w) >= (self.groups - 1) * self.outputs() // 4
            if not (fills and shares and adds and room):
                raise UsageError(f"{self} does not divide its tiles or its sums among its threads: see gemm_blocked.wgsl.")
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
        return SHADERS.get(self.entry, SHADER)

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
        return wgsl.numbers(self.shader)["BK4"] if self.units is None else self.units.depth // 4

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
            is_one = isinstance(call.mode, Taps) and (call.mode.stride, call.mode.pad) == (1, 1)
            return is_one and 64 * POINTS["winograd"] * call.k4 * call.n4 <= FILTERS
        if self.packing == "differences":
            return isinstance(call.mode, Phases)
        return self.entry != "lines" or (isinstance(call.mode, Taps | Phases) and call.stride == 1 and call.operands.w.packed)

    # how it runs ---------------------------------------------------------------------------------------------------
    def options(self, call: GemmCall) -> dict[str, bool | str]:
        """What a call adds to the constants of this kernel alone."""
        if self.entry not in ("staged", "blocked", "units"):
            return {}
        steps = call.mode.side**2 * ceil(call.k4, self.depth4)
        out: dict[str, bool | str] = {"RAGGED": call.k4 % self.depth4 > 0 or steps % self.groups > 0}
        return out | units.taken(call) if self.operands == "f16" else out

    def constants(self) -> dict[str, int | bool | str]:
        out: dict[str, int | bool | str] = {"TM": self.tm, "TN4": self.tn4, "WGX": self.wgx, "WGY": self.wgy}
        out |= {"ACC": self.tm * self.tn4} if self.units is None else self.units.constants(self.operands == "f32")
        if self.entry == "blocked":
            out |= {"LOAD_W": self._staged_w // (self.wgx * self.wgy), "GROUPS": self.groups}
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


# the rows ------------------------------------------------------------------------------------------------------------
SINGLE_ROWS = Gemm("direct", 1, 1, 16, 4)  # a handful of rows: time tables
# µs on an H200, without bounds checks, at M×N×K 8192×320×320 / 2048×640×640 / 512×1280×1280 / 512×6400×1280. What staged 64×64 leaves out
# is the way of `blocked`, which pays where K is long, and K in parts, which pays where there are few workgroups:
STAGED = Gemm("staged", 8, 1, 16, 8)  # 64×64: 55 / 69 / 99 / 296
STAGED_TALL = Gemm("staged", 8, 2, 8, 16)  # 128×64
BLOCKED = Gemm("blocked", 8, 2, 8, 8)  # 64×64: 60 / 81 / 96 / 272
BLOCKED_IN_2 = replace(BLOCKED, groups=2)  # 64 / 63 / 85 / 248
BLOCKED_NARROW = Gemm("blocked", 8, 1, 8, 8)  # 64×32: 71 / 67 / 96 / 263
BLOCKED_NARROW_IN_2 = replace(BLOCKED_NARROW, groups=2)  # – / 72 / 72 / –
BLOCKED_SMALL_IN_2 = Gemm("blocked", 8, 1, 8, 4, groups=2)  # 32×32: – / 72 / 69 / –
BLOCKED_SMALL_IN_4 = replace(BLOCKED_SMALL_IN_2, groups=4)  # – / 72 / 76 / –
# With bounds checks these are ahead in larger layers, TFLOP/s of the first three and of 16384×512×4608: 25.0 / 18.0 / 14.5 / 32.7 for the
# first row, where STAGED has 23.8 / 20.0 / 15.0 / 26.3.
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

FILTERS = 40 << 20  # bytes of weights' points that are made for a call, at most: more take longer than they save, and room
THIN4 = THIN[-1].tn4  # vec4 of columns
# 36 products for 144, which are made in tiles as above, between two passes over what they read and make. On an H200 those of 128×64
# take 1.1 to 1.4 of the time at every shape, and those of 8×8 sums a thread 1.03 to 1.2.
WINOGRAD_GPU = replace(STAGED, packing="winograd")
WINOGRAD_LLVMPIPE, WINOGRAD_LOW, WINOGRAD_NARROW = (
    replace(row, packing="winograd") for row in (LLVMPIPE, replace(LLVMPIPE, wgy=1), LLVMPIPE_NARROW)
)
WINOGRAD_CPU, WINOGRAD_CPU_LOW = (replace(row, packing="winograd") for row in (CPU, replace(CPU, tm=2)))
WINOGRAD = (WINOGRAD_GPU, WINOGRAD_LLVMPIPE, WINOGRAD_LOW, WINOGRAD_NARROW, WINOGRAD_CPU, WINOGRAD_CPU_LOW)

# Where the image is enlarged first, nine products for the sixteen of its phases.
DIFFERENCES_GPU = replace(STAGED, packing="differences")
DIFFERENCES_LLVMPIPE, DIFFERENCES_LOW, DIFFERENCES_CPU = (replace(row, packing="differences") for row in (LLVMPIPE, LLVMPIPE_LOW, CPU))
DIFFERENCES = (DIFFERENCES_GPU, DIFFERENCES_LLVMPIPE, DIFFERENCES_LOW, DIFFERENCES_CPU)

OF_LLVMPIPE = (LLVMPIPE, LLVMPIPE_LOW, LLVMPIPE_NARROW, LINES, LINES_THIN, *WINOGRAD[1:4], *DIFFERENCES[1:3])
BLOCKS = (BLOCKED, BLOCKED_IN_2, BLOCKED_NARROW, BLOCKED_NARROW_IN_2, BLOCKED_SMALL_IN_2, BLOCKED_SMALL_IN_4)
GEMMS: tuple[Gemm, ...] = (
    *(SINGLE_ROWS, STAGED, STAGED_TALL, *BLOCKS, *THIN, *WINOGRAD, *DIFFERENCES),
    *(TILED, TILED_SMALL, CPU, CPU_THIN, *OF_LLVMPIPE[:5]),
)


# On matrix units: rows and columns/4 of a subgroup, subgroups across and down, depth, subgroups that share it. A subgroup has
# registers for 64×32 sums at most. The largest first. TFLOP/s of halves on an H200, each in a step with its own epilogue, at 512×1280×1280,
# 512×1280×3200, 2048×640×640, 2048×3200×640 and 8192×320×800:
Tile = tuple[int, int, int, int, int, int]
WHOLE: tuple[Tile, ...] = (
    (32, 8, 4, 4, 32, 1),  # 128×128: 36, 53, 55, 87, 84
    (32, 8, 4, 4, 64, 1),  # for the tuner: no GPU has timed it
    (32, 8, 4, 2, 64, 1),  # 64×128: 50, 84, 45, 79, 87
    (32, 8, 2, 2, 64, 2),  # 64×64: 39, 60, 45, 66, 78
    (32, 8, 2, 2, 32, 1),  # 27, 37, 32, 49, 53, in 16 KiB
    (16, 4, 2, 2, 64, 1),  # 32×32: 39, 57, 40, 54, 58, in 16 KiB
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
