"""A file mapped into memory, and the tensors that lie in it."""

from __future__ import annotations

import math
import mmap
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from moebius.errors import WeightError
from moebius.files import open_regular

# By their safetensors names. NumPy has no bfloat16: its bits are read as integers and decoded.
NUMPY = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "BF16": "<u2",
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "|i1",
    "U64": "<u8",
    "U32": "<u4",
    "U16": "<u2",
    "U8": "|u1",
    "BOOL": "|b1",
}
ITEMSIZE = {name: np.dtype(code).itemsize for name, code in NUMPY.items()}
MAX_NDIM = 8
RESIDENT = 64 << 20  # bytes handed out before pages are given back


@dataclass(frozen=True, slots=True)
class Tensor:
    """Where a tensor lies: `offset` in bytes from the file's start, `strides` in elements (None: in order, without gaps)."""

    dtype: str
    shape: tuple[int, ...]
    offset: int
    strides: tuple[int, ...] | None = None

    @property
    def size(self) -> int:
        return math.prod(self.shape)


class MappedFile:
    """The bytes of a file, read when they are used."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with open_regular(path) as file:
                self.size = file.seek(0, 2)
                if not self.size:
                    raise WeightError(f"{path} is empty. Copy or download it again.")
                self.map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:
            raise WeightError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}.") from error
        self._used = 0

    def __getitem__(self, part: slice) -> bytes:
        return self.map[part]

    def use(self, nbytes: int) -> None:
        """Counts what is handed out and gives pages back, so that a pass over the file never holds the whole of it.

        A view stays good: its pages are still in the system's cache, and come back when they are touched.
        """
        self._used += nbytes
        if self._used > RESIDENT and hasattr(mmap, "MADV_DONTNEED"):
            self.map.madvise(mmap.MADV_DONTNEED)
            self._used = nbytes


class MappedTensors(Mapping[str, np.ndarray]):
    """Tensors of a mapped file by name. Each is a read-only view of the file, made on access; bfloat16 is decoded into float32.

    `info` tells shapes and types without touching the data, `metadata` is what the file says of itself, and `ignored` names
    the entries beside the tensors: training state and the like. `verify` reads all of the file and compares its checksums, if it has any.
    """

    def __init__(
        self,
        file: MappedFile,
        info: dict[str, Tensor],
        metadata: dict[str, str] | None = None,
        ignored: tuple[str, ...] = (),
        verify: Callable[[], None] = lambda: None,
    ) -> None:
        self.file, self.info, self.metadata, self.ignored, self.verify = file, info, metadata or {}, ignored, verify
        self._views: dict[str, np.ndarray] = {}

    @property
    def path(self) -> Path:
        return self.file.path

    def __getitem__(self, name: str) -> np.ndarray:
        t = self.info[name]
        if name not in self._views:
            self._views[name] = self._view(t)
        self.file.use(t.size * ITEMSIZE[t.dtype])
        view = self._views[name]
        return decode_bfloat16(view) if t.dtype == "BF16" else view

    def __iter__(self) -> Iterator[str]:
        return iter(self.info)

    def __len__(self) -> int:
        return len(self.info)

    def _view(self, t: Tensor) -> np.ndarray:
        if not t.size:
            return np.zeros(t.shape, NUMPY[t.dtype])
        strides = None if t.strides is None else tuple(s * ITEMSIZE[t.dtype] for s in t.strides)
        return np.ndarray(t.shape, NUMPY[t.dtype], self.file.map, t.offset, strides)


def decode_bfloat16(bits: np.ndarray) -> np.ndarray:
    """A bfloat16 is the upper half of a float32."""
    wide = bits.astype(np.uint32)
    wide <<= 16
    return wide.view(np.float32)


def is_finite(x: np.ndarray) -> bool:
    """No NaN, no infinity. A dot product sees both in one pass at memory speed; only where it overflows is each value looked at."""
    if x.dtype.kind != "f":
        return True
    if x.dtype == np.float32 and x.flags.c_contiguous:
        flat = x.reshape(-1)
        with np.errstate(over="ignore", invalid="ignore"):
            if np.isfinite(np.dot(flat, flat)):
                return True
    return bool(np.isfinite(x).all())
