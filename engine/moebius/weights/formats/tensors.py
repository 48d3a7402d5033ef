"""A file's bytes, read or mapped, and the tensors that lie in it."""

from __future__ import annotations

import hashlib
import math
import mmap
import os
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from moebius.errors import WeightError
from moebius.files import regular_descriptor

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
RESIDENT = 64 << 20  # bytes of a mapped file handed out before pages are given back
PIECE = 1 << 30  # bytes asked of the system at once: some take no more than 2 GiB


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

    @property
    def nbytes(self) -> int:
        """From its first byte to its last."""
        if not self.size or self.strides is None:
            return self.size * ITEMSIZE[self.dtype]
        return (1 + sum((n - 1) * step for n, step in zip(self.shape, self.strides, strict=True))) * ITEMSIZE[self.dtype]


class UnreadableError(WeightError):
    """The system does not let a file be read; `errno` is its reason."""

    def __init__(self, path: Path, error: OSError | ValueError) -> None:
        super().__init__(f"{path} cannot be read: {error}.")
        self.errno = error.errno if isinstance(error, OSError) else None


class FileIdentity(NamedTuple):
    """What changes whenever a file's content does, as far as the system tells: nothing but the clock's tick is finer."""

    size: int
    modified: int  # nanoseconds, as `changed`
    changed: int
    inode: int


def identity_of(s: os.stat_result) -> FileIdentity:
    return FileIdentity(s.st_size, s.st_mtime_ns, s.st_ctime_ns, s.st_ino)


class OpenFile:
    """The bytes of a file, read through one descriptor when they are asked for, and never mapped.

    A file that is not ours may be cut or written to while it is in use. Mapped, a cut would end the process (SIGBUS) and new
    bytes would come into weights that were checked. Read, a cut is an error, and who replaces the file changes nothing here.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self.descriptor = regular_descriptor(path)
        except (OSError, ValueError) as error:
            raise UnreadableError(path, error) from error
        weakref.finalize(self, os.close, self.descriptor)
        self._lock = threading.Lock()
        self.identity = self.identity_now()
        self.size = self.identity.size
        if not self.size:
            raise WeightError(f"{path} is empty. Copy or download it again.")

    def identity_now(self) -> FileIdentity:
        return identity_of(os.fstat(self.descriptor))

    def check_unchanged(self) -> None:
        """To be called when all is read: raises where someone wrote to the file meanwhile."""
        now = self.identity_now()
        if (now.size, now.modified) != (self.size, self.identity.modified):  # a file that is moved or removed is still the same bytes
            raise WeightError(f"{self.path} was changed while it was read. Let that end, and run the same command again.")

    def __getitem__(self, part: slice) -> bytes:
        start, stop, _ = part.indices(self.size)
        return self.read(start, max(0, stop - start))

    def read(self, at: int, size: int) -> bytes:
        """`size` bytes from `at` on, or an error."""
        pieces = []
        try:
            while size:
                pieces.append(self._read(at, min(size, PIECE)))
                if not pieces[-1]:
                    raise WeightError(f"{self.path} was cut short while it was read. Copy or download it again.")
                at, size = at + len(pieces[-1]), size - len(pieces[-1])
        except OSError as error:
            raise UnreadableError(self.path, error) from error
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _read(self, at: int, size: int) -> bytes:
        if hasattr(os, "pread"):
            return os.pread(self.descriptor, size, at)
        with self._lock:
            os.lseek(self.descriptor, at, os.SEEK_SET)
            return os.read(self.descriptor, size)

    def sha256(self) -> str:
        """Of the whole file."""
        hashed = hashlib.sha256()
        for at in range(0, self.size, 4 << 20):
            hashed.update(self[at : at + (4 << 20)])
        return hashed.hexdigest()

    def view(self, tensor: Tensor) -> Any:
        """A buffer of the bytes from a tensor's first to its last."""
        return self.read(tensor.offset, tensor.nbytes)


class MappedFile(OpenFile):
    """A file mapped into memory: for the cache's own, which are replaced and never written to."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        try:
            self.map = mmap.mmap(self.descriptor, 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:
            raise UnreadableError(path, error) from error
        self._used = 0

    def view(self, tensor: Tensor) -> Any:
        """Counts what is handed out and gives pages back, so that a pass over the file never holds the whole of it.

        A view stays good: its pages are still in the system's cache, and come back when they are touched.
        """
        self._used += tensor.nbytes
        if self._used > RESIDENT and hasattr(mmap, "MADV_DONTNEED"):
            self.map.madvise(mmap.MADV_DONTNEED)
            self._used = tensor.nbytes
        return memoryview(self.map)[tensor.offset : tensor.offset + tensor.nbytes]


class FileTensors(Mapping[str, np.ndarray]):
    """Tensors of a file by name, read-only. Each is read, or a view of a mapped file is made, on access; bfloat16 is decoded into float32.

    `info` tells shapes and types without touching the data, `metadata` is what the file says of itself, and `ignored` names
    the entries beside the tensors: training state and the like. `verify` reads all of the file and compares its checksums, if it has any.
    """

    def __init__(
        self,
        file: OpenFile,
        info: dict[str, Tensor],
        metadata: dict[str, str] | None = None,
        ignored: tuple[str, ...] = (),
        verify: Callable[[], None] = lambda: None,
    ) -> None:
        self.file, self.info, self.metadata, self.ignored, self.verify = file, info, metadata or {}, ignored, verify
        self._views: dict[str, np.ndarray] = {}  # of a mapped file

    @property
    def path(self) -> Path:
        return self.file.path

    def __getitem__(self, name: str) -> np.ndarray:
        t = self.info[name]
        buffer = self.file.view(t)
        view = self._views.get(name)
        if view is None:
            strides = None if t.strides is None or not t.size else tuple(s * ITEMSIZE[t.dtype] for s in t.strides)
            view = np.ndarray(t.shape, NUMPY[t.dtype], buffer if t.size else None, 0, strides)
        if isinstance(self.file, MappedFile):
            self._views[name] = view
        return decode_bfloat16(view) if t.dtype == "BF16" else view

    def __iter__(self) -> Iterator[str]:
        return iter(self.info)

    def __len__(self) -> int:
        return len(self.info)


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
