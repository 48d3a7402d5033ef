"""What a device can do, as data: all that the choice of a kernel and the check of a dispatch may ask."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal, NamedTuple

from moebius.model.contract import Precision

Kind = Literal["discrete", "integrated", "software", "unknown"]
KINDS: dict[str, Kind] = {"DiscreteGPU": "discrete", "IntegratedGPU": "integrated", "CPU": "software"}  # by wgpu's adapter_type

Dialect = Literal["dawn", "naga", "emulated"]


class Unit(NamedTuple):
    """A shape of matrix units: m×k by k×n numbers of one type, to m×n sums of another."""

    operands: str
    sums: str
    m: int
    n: int
    k: int


@dataclass(frozen=True)
class Matrix:
    """The matrix units of a device that proved them (`units.prove`), or their emulation, and how a shader asks for them."""

    dialect: Dialect
    shapes: frozenset[Unit]
    lanes: int = 32  # of a subgroup
    per: int = 1  # how many halves an element of what operands are loaded of may be: as many are stored at a time


# WebGPU's default limits: what every implementation grants, and what everything here is designed for.
DEFAULT_LIMITS = {
    "max-buffer-size": 256 << 20,
    "max-storage-buffer-binding-size": 128 << 20,
    "max-storage-buffers-per-shader-stage": 8,
    "max-uniform-buffer-binding-size": 64 << 10,
    "max-compute-workgroups-per-dimension": 65535,
    "max-compute-invocations-per-workgroup": 256,
    "max-compute-workgroup-size-x": 256,
    "max-compute-workgroup-size-y": 256,
    "max-compute-workgroup-size-z": 64,
    "max-compute-workgroup-storage-size": 16384,
    "min-storage-buffer-offset-alignment": 256,
    "min-uniform-buffer-offset-alignment": 256,
}


@dataclass(frozen=True)
class Caps:
    """`Device.caps` is what an opened device can do; a plan may be recorded for other caps than those of the device here."""

    name: str  # for messages
    vendor: str
    kind: Kind
    backend: str  # "Vulkan", "Metal", "D3D12", "OpenGL"; "" where the implementation does not say
    features: frozenset[str] = frozenset()  # those the device was opened with
    limits: Mapping[str, int] = field(default_factory=lambda: DEFAULT_LIMITS, hash=False)  # the keys of DEFAULT_LIMITS
    checked: bool = True  # else kernels whose reach is proved are compiled without bounds checks
    matrix: Matrix | None = None  # None where there are no units, and where nobody asked for them
    precision: Precision = "f32"  # what is recorded, of the two that every device can do

    def __post_init__(self) -> None:
        object.__setattr__(self, "limits", MappingProxyType(dict(self.limits)))

    @property
    def is_software(self) -> bool:
        """A software driver: no workgroup memory to gain from, every barrier a loss."""
        return self.kind == "software"

    @property
    def fuses(self) -> bool:
        """Whether what a kernel reads may be made as it is loaded, over and over: on a GPU, where the memory is what takes the time."""
        return not self.is_software

    @property
    def storage_alignment(self) -> int:
        """Bytes that the offset of a storage binding is a multiple of: at least the default, so that plans agree between adapters."""
        limit = "min-storage-buffer-offset-alignment"
        return max(DEFAULT_LIMITS[limit], self.limits[limit])

    @classmethod
    def browser(cls, software: bool = False, precision: Precision = "f32") -> Caps:
        """What every browser grants: the default limits and no feature, on some GPU or on a software driver."""
        return cls("a browser with WebGPU's default limits", "", "software" if software else "discrete", "", precision=precision)
