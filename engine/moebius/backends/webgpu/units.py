"""Matrix units as rows of the menu have them: the tiles of gemm_matrix.wgsl, and what a device makes of them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

from moebius.backends.webgpu.caps import Caps, Dialect, Unit

SHADER = "gemm_matrix"
HALVES = "f16", "f32"  # what is multiplied, and what the sums are


@dataclass(frozen=True)
class Units:
    """What a row needs beside its tile: how deep that is, the shape of a unit, and, of the device, its subgroups and its dialect."""

    depth: int  # of a tile, in numbers
    m: int
    n: int
    k: int
    lanes: int = 32
    dialect: Dialect = "emulated"
    paired: bool = False

    @property
    def key(self) -> str:
        return f"k{self.depth} {self.m}x{self.n}x{self.k}"

    @property
    def shape(self) -> Unit:
        return Unit(*HALVES, self.m, self.n, self.k)

    def on(self, caps: Caps) -> Self:
        """As a device runs it; as it is where that has no units."""
        has = caps.matrix
        return self if has is None else replace(self, lanes=has.lanes, dialect=has.dialect, paired=has.paired)

    def there(self, caps: Caps) -> bool:
        """Whether a device has them, and numbers for every lane."""
        return caps.matrix is not None and self.shape in caps.matrix.shapes and self.m * self.n % self.lanes == 0

    def constants(self, split: bool) -> dict[str, int | bool | str]:
        out: dict[str, int | bool | str] = {"FM": self.m, "FN": self.n, "FK": self.k, "BK4": self.depth // 4, "LANES": self.lanes}
        out |= {"DIALECT": f"matrix_{self.dialect}", "SPLIT": split, "PARTS": 2 if split else 1}
        if self.paired and self.dialect == "dawn":
            out |= {"PAIRED": True, "PER": 2, "Halves": "vec2<f16>"}
        if self.dialect == "naga":
            out |= {"Left": f"coop_mat{self.k}x{self.m}<f16, A>", "Right": f"coop_mat{self.n}x{self.k}<f16, B>"}
            out |= {"Sum": f"coop_mat{self.n}x{self.m}<f32, C>"}
        return out

    def products(self, tm: int, columns: int, split: bool) -> int:
        """Turns of the emulation's loops for one tile, of which there are none on real units."""
        if self.dialect != "emulated":
            return 0
        return tm * columns // self.lanes * self.depth // 2 * (3 if split else 1)
