"""One call of a kernel, as data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from moebius.backends.webgpu import wgsl
from moebius.backends.webgpu.tensor import Binding


@dataclass
class Dispatch:
    """One call of a kernel: what it is for, what is compiled, what is bound, and what of it `check` compares with the caps."""

    op: str
    path: str
    shader: str
    entry: str
    constants: wgsl.Constants
    grid: tuple[int, int, int]
    bindings: list[Binding]
    params: dict[str, int | float]
    workgroup: tuple[int, int]
    workgroup_bytes: int
    iterations: int
    flops: int
    kernel: str = ""  # where there are several: which one this is, and why
    over: Binding | None = None  # what is added to its output, where that lies over it (`places.over_residuals`)

    @property
    def nbytes(self) -> int:
        return sum(b.nbytes for b in self.bindings) + (self.over.nbytes if self.over else 0)

    @property
    def outputs(self) -> list[Binding]:
        return [b for b in self.bindings if b.access == "read_write"]

    def describe(self) -> dict[str, Any]:
        return {
            "op": self.op,
            "path": self.path,
            "shader": self.shader,
            "entry": self.entry,
            "constants": dict(self.constants),
            "grid": list(self.grid),
            "workgroup": list(self.workgroup),
            "params": dict(self.params),
            "bindings": [
                {
                    "name": b.name,
                    "access": b.access,
                    "buffer": b.buffer.label,
                    "shape": list(b.shape),
                    "offset": b.offset,
                    "bytes": b.nbytes,
                    **({"dtype": b.dtype} if b.dtype != "f32" else {}),
                }
                for b in self.bindings
            ],
            "flops": self.flops,
            "bytes": self.nbytes,
            "kernel": self.kernel,
        }
