"""GPU memory: buffers, the tensors that lie in them, and the parts of them that a dispatch binds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from moebius.backends.webgpu import quads
from moebius.backends.webgpu.device import Device
from moebius.backends.webgpu.pack import up4
from moebius.errors import MoebiusError
from moebius.model.contract import Precision

BufferKind = Literal["weight", "intermediate", "pinned"]
DType = Literal["f32", "f16", "quad"]  # of numbers in memory; "quad" is 16 bits, too: four under one exponent
NUMPY: dict[Precision, type[np.floating]] = {"f32": np.float32, "f16": np.float16}


def itemsize(dtype: DType) -> int:
    """Bytes of a number."""
    return 4 if dtype == "f32" else 2


def stored(array: np.ndarray, dtype: DType) -> np.ndarray:
    """Rows of whole vec4 as they lie in memory."""
    return quads.packed(array) if dtype == "quad" else array.astype(NUMPY[dtype], copy=False)


def numbers(data: np.ndarray, dtype: DType) -> np.ndarray:
    """Of bytes, what they are; halves as such."""
    return quads.unpacked(data.view(np.uint32)) if dtype == "quad" else data.view(NUMPY[dtype])


class Buffer:
    """GPU memory that is planned now and taken by `allocate`. `fill`, for weights and constants, gives its content then and is dropped.

    A plan places its intermediate tensors (`kind` "intermediate") over one another; all else keeps its own memory.
    """

    __slots__ = ("_handle", "device", "fill", "kind", "label", "nbytes", "offset")

    def __init__(self, device: Device, nbytes: int, label: str, kind: BufferKind, fill: Callable[[], np.ndarray] | None = None) -> None:
        self.device, self.nbytes, self.label, self.kind, self.fill = device, max(16, -(-nbytes // 4) * 4), label, kind, fill
        self._handle: Any = None
        self.offset = 0  # in the memory that it lies in

    @property
    def handle(self) -> Any:
        """The buffer on the GPU."""
        if self._handle is None:
            raise MoebiusError(f"{self.label} has no memory yet; Buffer.allocate takes it.")
        return self._handle

    def allocate(self) -> None:
        """Takes the memory and writes its content, unless that is done."""
        if self._handle is not None:
            return
        self._handle = self.device.create_buffer(self.nbytes, self.label)
        if self.fill is not None:
            try:
                self.write(self.fill())
            except BaseException:  # a Ctrl-C too: a buffer of zeros must not pass for a weight
                self._handle = None
                raise
            self.fill = None

    def give_back(self, fill: Callable[[], np.ndarray]) -> None:
        """Leaves its memory; `fill` makes the content again when that is needed."""
        self._handle, self.fill = None, fill

    def place(self, memory: Any, offset: int = 0) -> None:
        """Lies in memory that others have too, from `offset` on; None: in none any more."""
        self._handle, self.offset = memory, offset

    def write(self, data: np.ndarray) -> None:
        flat = np.ascontiguousarray(data).reshape(-1).view(np.uint8)
        if flat.nbytes > self.nbytes:
            raise MoebiusError(f"{self.label}: {flat.nbytes} bytes do not fit its {self.nbytes}.")
        self.allocate()
        self.device.write(self.handle, self.label, flat)

    def read(self, nbytes: int, dtype: Any = np.float32) -> np.ndarray:
        return np.frombuffer(self.device.read(self.handle, self.label, nbytes), dtype).copy()


class Tensor:
    """(B, H, W, C) numbers in a buffer, channels padded to a multiple of four. Tables of T rows are (1, 1, T, C)."""

    __slots__ = ("__weakref__", "_buffer", "dtype", "shape", "variance")

    def __init__(self, buffer: Buffer | None, shape: tuple[int, int, int, int], dtype: DType = "f32") -> None:
        self._buffer, self.shape, self.dtype = buffer, shape, dtype
        self.variance: Tensor | None = None  # of every row, where the kernel that made them gave it too

    @property
    def buffer(self) -> Buffer:
        assert self._buffer is not None
        return self._buffer

    @property
    def pitch(self) -> int:
        """Numbers from one position to the next."""
        return up4(self.shape[3])

    @property
    def rows(self) -> int:
        b, h, w, _ = self.shape
        return b * h * w

    @property
    def nbytes(self) -> int:
        return itemsize(self.dtype) * self.rows * self.pitch

    def __repr__(self) -> str:
        return f"Tensor{self.shape} in {self.buffer.label}"


class Deferred(Tensor):
    """A tensor that is not in memory until something asks for its buffer. An op that can work with what it is made of never does."""

    __slots__ = ("_make",)

    def __init__(self, shape: tuple[int, int, int, int], dtype: DType, make: Callable[[], Tensor]) -> None:
        super().__init__(None, shape, dtype)
        self._make = make

    @property
    def is_made(self) -> bool:
        return self._buffer is not None

    @property
    def buffer(self) -> Buffer:
        if self._buffer is None:
            made = self._make()
            assert made.dtype == self.dtype
            self._buffer = made.buffer
        return self._buffer

    def __repr__(self) -> str:
        return f"{type(self).__name__}{self.shape}"


@dataclass
class Binding:
    """A buffer, or a part of one, under the name that a shader has for it."""

    name: str
    access: str
    buffer: Buffer
    shape: tuple[int, ...]
    offset: int = 0
    nbytes: int = 0  # 0: the whole buffer
    dtype: DType = "f32"  # "f32" of words of other kinds, too


def write(tensor: Tensor, array: np.ndarray) -> None:
    """(B, H, W, C) → the padded layout."""
    if tuple(array.shape) != tensor.shape:
        raise MoebiusError(f"{tensor.buffer.label} holds {tensor.shape}, not {tuple(array.shape)}.")
    padded = np.zeros((*tensor.shape[:3], tensor.pitch), np.float32)
    with np.errstate(over="ignore"):  # an infinity then, as kernels make it
        if tensor.shape[3] < tensor.pitch:
            for c in range(tensor.shape[3]):  # of an array that is turned, much quicker than all at once
                padded[..., c] = array[..., c]
        else:
            padded[...] = array
        tensor.buffer.write(stored(padded, tensor.dtype))


def read(tensor: Tensor) -> np.ndarray:
    """(B, H, W, C) float32."""
    return unpadded(tensor.buffer.read(tensor.nbytes, np.uint8), tensor.shape, tensor.dtype)


def planes(data: np.ndarray, shape: tuple[int, int, int, int], dtype: DType) -> np.ndarray:
    """Bytes in the padded layout → (B, C, H, W) float32, turned once."""
    padded = numbers(data, dtype).reshape(*shape[:3], up4(shape[3]))
    return np.ascontiguousarray(np.moveaxis(padded[..., : shape[3]], -1, 1), np.float32)


def unpadded(data: np.ndarray, shape: tuple[int, int, int, int], dtype: DType) -> np.ndarray:
    """Bytes in the padded layout → (B, H, W, C) float32."""
    return np.ascontiguousarray(numbers(data, dtype).reshape(*shape[:3], up4(shape[3]))[..., : shape[3]], np.float32)
