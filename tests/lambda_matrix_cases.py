"""Self lambda on matrix units: how its kernel divides its work, and plans on devices that have such units."""

from __future__ import annotations

from dataclasses import dataclass, replace

from cases import Case

from moebius.backends.webgpu import WebGPU
from moebius.backends.webgpu.caps import Matrix, Unit
from moebius.backends.webgpu.ops.lambdas import UnitWindow
from moebius.backends.webgpu.plan import Plan
from moebius.backends.webgpu.units import HALVES


@dataclass(frozen=True)
class Form:
    """A shape of units, lanes of a subgroup, and the kernel's own constants."""

    m: int
    n: int
    k: int
    lanes: int
    window: UnitWindow

    @property
    def matrix(self) -> Matrix:
        return Matrix("emulated", frozenset([Unit(*HALVES, self.m, self.n, self.k)]), self.lanes)

    def __str__(self) -> str:
        return f"{self.m}x{self.n}x{self.k}-{self.lanes}-" + "-".join(map(str, self.window))


# Those of the H200's levels, then one of everything else: units of other shapes, all that may be shared, and subgroups of few lanes.
FORMS = (
    Form(16, 16, 16, 32, UnitWindow(4, 1, 1)),
    Form(16, 16, 16, 32, UnitWindow(1, 2, 2)),
    Form(16, 8, 16, 16, UnitWindow(2, 2, 1)),
    Form(8, 8, 8, 8, UnitWindow(2, 3, 2)),
    Form(16, 16, 16, 8, UnitWindow(1, 1, 1)),
)


def on_units(gpu: WebGPU, case: Case, form: Form) -> Plan:
    """As a GPU with such units records it."""
    return case.record(WebGPU(gpu.gpu, replace(gpu.caps, kind="discrete", matrix=form.matrix), precision="f16"), case.params)
