"""How gemm.wgsl divides its output among threads: the tiles there are, and which one a call gets."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from moebius.backends.webgpu import wgsl
from moebius.backends.webgpu.calls import SHADER, GemmCall, Phases, Taps
from moebius.backends.webgpu.caps import Caps
from moebius.backends.webgpu.recorder import ceil
from moebius.errors import UsageError

Entry = Literal["direct", "lines", "tiled"]


@dataclass(frozen=True)
class Tile:
    """An entry of gemm.wgsl and its workgroup. Threads own TM rows × 4·TN4 columns; those of `lines` are neighbours along a line."""

    entry: Entry
    tm: int
    tn4: int
    wgx: int
    wgy: int

    def __post_init__(self) -> None:
        if self.entry == "tiled" and (self._staged_a % self._threads or self._staged_w % self._threads):
            raise UsageError(f"{self} does not divide its tiles among its threads: 4·tm / wgx and 16·tn4 / wgy must be whole.")
        if self.entry == "lines" and self.tn4 != 1:
            raise UsageError(f"{self}: a thread of `lines` owns one vec4 of columns.")

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

    def supports(self, call: GemmCall) -> bool:
        """`lines` needs neighbouring outputs whose filters overlap: a 3×3 of stride 1, or the phases of an upsampling one."""
        return self.entry != "lines" or (isinstance(call.mode, Taps | Phases) and call.stride == 1 and call.operands.w.packed)

    def constants(self) -> dict[str, int]:
        out = {"TM": self.tm, "TN4": self.tn4, "WGX": self.wgx, "WGY": self.wgy, "ACC": self.tm * self.tn4}
        if self.entry == "tiled":
            out |= {"LOAD_A": self._staged_a // self._threads, "LOAD_W": self._staged_w // self._threads}
        return out

    def grid(self, call: GemmCall, rows: int) -> tuple[int, int, int]:
        """Workgroups for `rows` rows of a call; those of `lines` are whole lines, each cut in runs of TM."""
        runs = ceil(rows, self.tm)
        if self.entry == "lines":
            width = call.grid_size[1]
            runs = rows // width * ceil(width, self.tm)
        return ceil(call.n4, self.wgx * self.tn4), ceil(runs, self.wgy), call.phases

    def iterations(self, call: GemmCall) -> int:
        """Of the loops that are left when the others are written out."""
        turns = call.mode.side if self.entry == "lines" else call.mode.side**2
        return turns * (1 + (ceil(call.k4, depth4()) if self.entry == "tiled" else call.k4))


def depth4() -> int:
    """How many vec4 of K the tiled kernel takes at a time."""
    return wgsl.numbers(SHADER)["BK4"]


SINGLE_ROWS = Tile("direct", 1, 1, 16, 4)  # a handful of rows: time tables
GPU_TILE = Tile("tiled", 8, 2, 8, 16)  # 128×64
GPU_TILE_SMALL = Tile("tiled", 4, 2, 8, 16)  # 64×64: the 16² level has 512 rows, which must make enough workgroups
# Software drivers: what counts is loads for each product. `thin` ones are for outputs of few channels, of which a workgroup is one column.
CPU_TILE = Tile("direct", 4, 1, 8, 8)  # SwiftShader takes half a minute to compile 8×2, and runs it no faster
CPU_THIN = Tile("direct", 4, 1, 1, 64)
# llvmpipe makes every load lane by lane, and compiles what SwiftShader takes minutes and gigabytes for.
LLVMPIPE_WIDE = Tile("direct", 8, 2, 8, 8)  # 16 loads of vec4 for 64 products, where CPU_TILE has 32
LINES = Tile("lines", 8, 1, 8, 8)  # 22 for 96, where CPU_TILE has 48
LINES_THIN = Tile("lines", 8, 1, 1, 64)

Choose = Callable[[Caps, GemmCall], Tile]


def choose_tile(caps: Caps, call: GemmCall) -> Tile:
    """The tile of a call on a device."""
    if call.rows <= 4:
        return SINGLE_ROWS
    if not caps.is_software:
        return GPU_TILE if call.rows * call.operands.n >= 2**21 else GPU_TILE_SMALL
    thin = call.n4 <= 2
    if "llvmpipe" in caps.name:
        if LINES.supports(call):
            return LINES_THIN if thin else LINES
        if call.n4 >= LLVMPIPE_WIDE.wgx * LLVMPIPE_WIDE.tn4:
            return LLVMPIPE_WIDE
    return CPU_THIN if thin else CPU_TILE


def always(tile: Tile) -> Choose:
    """One tile wherever it can be, and there are more than a handful of rows."""
    return lambda caps, call: SINGLE_ROWS if call.rows <= 4 else tile if tile.supports(call) else CPU_TILE
