"""Matrix units: what a kernel on them is in a device's dialect, and as rows of the menu have them, the tiles of gemm_matrix.wgsl."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

from moebius.backends.webgpu.calls import GemmCall, Rows
from moebius.backends.webgpu.caps import DEFAULT_LIMITS, Caps, Dialect, Unit

SHADER = "gemm_matrix"
HALVES = "f16", "f32"  # what is multiplied, and what the sums are
# How many halves an element of a tile is in Dawn's dialect, and what that makes of it.
TILES: dict[int, dict[str, int | bool | str]] = {
    8: {"WIDE": True, "PER": 8, "Halves": "vec4<u32>", "FLOATS": 4, "Passed": "vec4<f32>"},
    2: {"PAIRED": True, "PER": 2, "Halves": "vec2<f16>"},
    1: {},
}


def fragments(dialect: Dialect, lanes: int, per: int, shape: Unit) -> dict[str, int | bool | str]:
    """The constants of a kernel on units of a shape: what they are in a device's dialect."""
    m, n, k = shape.m, shape.n, shape.k
    out: dict[str, int | bool | str] = {"FM": m, "FN": n, "FK": k, "LANES": lanes, "DIALECT": f"matrix_{dialect}"}
    if dialect == "dawn":
        out |= TILES[per]
    if dialect == "naga":
        out |= {"Left": f"coop_mat{k}x{m}<f16, A>", "Right": f"coop_mat{n}x{k}<f16, B>", "Sum": f"coop_mat{n}x{m}<f32, C>"}
    return out


@dataclass(frozen=True)
class Units:
    """What a row needs beside its tile: how deep that is, the shape of a unit, and, of the device, its subgroups and its dialect."""

    depth: int  # of a tile, in numbers
    m: int
    n: int
    k: int
    share: int = 1  # subgroups that a tile's depth is divided among
    lanes: int = 32
    dialect: Dialect = "emulated"
    per: int = 1
    room: int = DEFAULT_LIMITS["max-compute-workgroup-storage-size"]  # bytes

    @property
    def key(self) -> str:
        share = f"/{self.share}" * (self.share > 1)
        return f"k{self.depth}{share} {self.m}x{self.n}x{self.k}"

    @property
    def shape(self) -> Unit:
        return Unit(*HALVES, self.m, self.n, self.k)

    @property
    def overlaid(self) -> bool:
        """Whether sums are passed where a tile was, whose elements are whole floats then."""
        return self.dialect == "emulated" or (self.dialect == "dawn" and self.per == 8)

    def on(self, caps: Caps) -> Self:
        """As a device runs it; as it is where that has no units."""
        has = caps.matrix
        room = caps.limits["max-compute-workgroup-storage-size"]
        return self if has is None else replace(self, lanes=has.lanes, dialect=has.dialect, per=has.per, room=room)

    def there(self, caps: Caps) -> bool:
        """Whether a device has them, and numbers for every lane."""
        return caps.matrix is not None and self.shape in caps.matrix.shapes and self.m * self.n % self.lanes == 0

    def constants(self, split: bool) -> dict[str, int | bool | str]:
        out = fragments(self.dialect, self.lanes, self.per, self.shape)
        if self.overlaid:
            out |= {"OVERLAID": True, "OVERLAP": 1}
        return out | {"BK4": self.depth // 4, "SPLIT": split, "PARTS": 2 if split else 1, "SHARE": self.share}

    def products(self, tm: int, columns: int, split: bool) -> int:
        """Turns of the emulation's loops for one tile, of which there are none on real units."""
        if self.dialect != "emulated":
            return 0
        return tm * columns // self.lanes * self.depth // 2 // self.share * (3 if split else 1)


def taken(call: GemmCall) -> dict[str, bool | str]:
    """How operands become halves. Those that are some go into a tile as they are, eight at a time, where rows begin with whole eights.

    Far is what no norm has bounded, in front of a filter or where it is quads: in a coder that may be more than halves hold. What goes from
    linear layer to linear layer as float32 is not.
    """
    operands, mode, w = call.operands, call.mode, call.operands.w
    a, of_rows = operands.a, mode if isinstance(mode, Rows) else Rows()
    starts = a.pitch // 4 if of_rows.outer is None else of_rows.outer, of_rows.inner, of_rows.offset, call.k4
    raw_a = a.dtype == "f16" and operands.norm is None and operands.joined is None and not any(at % 2 for at in starts)
    raw_w = w.binding.dtype == "f16" and not any(at % 2 for at in (call.n4, w.pitch4 or 0, w.offset4))
    far = operands.norm is None and (a.dtype == "quad" or (a.dtype == "f32" and not isinstance(mode, Rows)))
    out: dict[str, bool | str] = {"RAW_A": raw_a, "RAW_W": raw_w, "FAR": far}
    return out | {name: "vec4<u32>" for name, is_raw in (("NextA", raw_a), ("NextW", raw_w)) if is_raw}
