"""Adapter, device, buffers, pipelines. Nothing here knows what is computed."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from moebius.backends.webgpu import native, wgsl
from moebius.errors import AdapterError, DeviceLostError, MoebiusError, OutOfMemoryError

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
PREFERENCE = ["DiscreteGPU", "IntegratedGPU", "Unknown", "CPU"]
UPLOAD_CHUNK = 16 << 20
STAGING = 64 << 20
NO_ADAPTER = (
    "No WebGPU adapter was found. Install a Vulkan driver (on Debian or Ubuntu, software: apt-get install -y mesa-vulkan-drivers), "
    "or compute on the CPU with moebius.backends.cpu.CPU()."
)


def adapters(implementation: str = "wgpu") -> list[Any]:
    """Every adapter the implementation finds, as it lists them."""
    return list(native.load(implementation).gpu.enumerate_adapters_sync())


def rank(adapter: Any) -> tuple[int, bool]:
    """Smaller is better: discrete before integrated before software, OpenGL last among its kind."""
    kind = adapter.info["adapter_type"]
    return PREFERENCE.index(kind) if kind in PREFERENCE else 2, "OpenGL" in adapter.info["backend_type"]


def choose(name: str | int | None, implementation: str = "wgpu", found: list[Any] | None = None) -> Any:
    """The best adapter; or the one of that index; or the best whose summary holds every word of `name`."""
    found = adapters(implementation) if found is None else found
    if not found:
        raise AdapterError(NO_ADAPTER)
    listing = "; ".join(f"{i}: {a.summary}" for i, a in enumerate(found))
    if isinstance(name, int) or (isinstance(name, str) and name.isdecimal()):
        if int(name) >= len(found):
            raise AdapterError(f"There is no adapter {name}. There are {listing}.")
        return found[int(name)]
    words = (name or "").lower().split()
    matching = [a for a in found if all(w in a.summary.lower() for w in words)]
    if not matching:
        raise AdapterError(f"No adapter matches {name!r}. There are {listing}.")
    return min(matching, key=rank)


class Buffer:
    """GPU memory, made on first use. `fill`, for weights and constants, gives its content then and is dropped.

    A plan places its intermediate tensors (`kind` "intermediate") over one another; all else keeps its own memory.
    """

    __slots__ = ("_handle", "fill", "gpu", "kind", "label", "nbytes")

    def __init__(self, gpu: Gpu, nbytes: int, label: str, kind: str, fill: Callable[[], np.ndarray] | None = None) -> None:
        self.gpu, self.nbytes, self.label, self.kind, self.fill = gpu, max(16, -(-nbytes // 4) * 4), label, kind, fill
        self._handle: Any = None

    @property
    def handle(self) -> Any:
        if self._handle is None:
            self._handle = self.gpu.create_buffer(self.nbytes, self.label)
            if self.fill is not None:
                try:
                    self.gpu.write(self, self.fill())
                except BaseException:  # a Ctrl-C too: a buffer of zeros must not pass for a weight
                    self._handle = None
                    raise
                self.fill = None
        return self._handle

    def place(self, other: Buffer) -> None:
        """Shares the memory of another buffer, at least as large."""
        self._handle = other.handle


class Gpu:
    """One device of one adapter. `limits`: "adapter" asks for all the adapter has, "webgpu" for the default limits alone."""

    def __init__(self, adapter: str | int | None = None, implementation: str = "wgpu", limits: str = "adapter") -> None:
        if isinstance(adapter, str) and ":" in adapter:
            implementation, adapter = adapter.split(":", 1)
        self.module = native.load(implementation)
        self.implementation = implementation
        chosen = choose(adapter, implementation)
        self.info: dict[str, Any] = dict(chosen.info)
        self.name = f"{chosen.summary}, {implementation} {self.module.__version__}"
        if limits not in ("adapter", "webgpu"):
            raise AdapterError(f"limits is {limits!r}; it is 'adapter' or 'webgpu'.")
        wanted = DEFAULT_LIMITS if limits == "webgpu" else {k: chosen.limits.get(k, v) for k, v in DEFAULT_LIMITS.items()}
        short = [f"{k} is {chosen.limits[k]}, below {v}" for k, v in DEFAULT_LIMITS.items() if is_short(k, chosen.limits.get(k, v), v)]
        if short:
            raise AdapterError(f"{self.name} stays under WebGPU's default limits: {'; '.join(short)}. Choose another adapter.")
        features = [f for f in ("timestamp-query",) if f in chosen.features]
        self.timestamps = bool(features)
        with guard(self.name, "opening the device"):
            self.device = chosen.request_device_sync(label="moebius", required_features=features, required_limits=wanted)
        self.limits: dict[str, int] = {k: int(self.device.limits[k]) for k in DEFAULT_LIMITS}
        if limits == "webgpu":  # an implementation may grant more than was asked for; the planner keeps to what was asked
            self.limits = dict(DEFAULT_LIMITS)
        self._staged = 0
        self._pipelines: dict[tuple[str, str, wgsl.Constants], tuple[Any, Any]] = {}
        self.timestamp_period = native.timestamp_period(self.module, self.device.queue)
        _watch_for_loss()

    @property
    def is_cpu(self) -> bool:
        """A software driver: no workgroup memory to gain from, every barrier a loss."""
        return bool(self.info["adapter_type"] == "CPU")

    def create_buffer(self, nbytes: int, label: str) -> Any:
        usage = self.module.BufferUsage
        for again in (True, False):
            try:
                with guard(self.name, f"taking {nbytes / 2**20:.1f} MiB for {label}"):
                    return self.device.create_buffer(label=label, size=nbytes, usage=usage.STORAGE | usage.COPY_SRC | usage.COPY_DST)
            except OutOfMemoryError:
                if not again:
                    raise
                self.trim()  # what was dropped may not have been given back yet

    def write(self, buffer: Buffer, data: np.ndarray) -> None:
        """In pieces, so that the staging memory of a large weight stays small."""
        flat = np.ascontiguousarray(data).reshape(-1).view(np.uint8)
        if flat.nbytes > buffer.nbytes:
            raise MoebiusError(f"{buffer.label}: {flat.nbytes} bytes do not fit its {buffer.nbytes}.")
        with guard(self.name, f"writing {buffer.label}"):
            for start in range(0, flat.nbytes, UPLOAD_CHUNK):
                piece = flat[start : start + UPLOAD_CHUNK]
                self.device.queue.write_buffer(buffer.handle, start, piece)
                # What is written waits in staging memory for the next submit: 900 MB of weights would be there twice.
                self._staged += piece.nbytes
                if self._staged > STAGING:
                    native.drain(self.device)
                    self._staged = 0

    def read(self, buffer: Buffer, nbytes: int, dtype: Any = np.float32) -> np.ndarray:
        with guard(self.name, f"reading {buffer.label}"):
            return np.frombuffer(self.device.queue.read_buffer(buffer.handle, 0, nbytes), dtype).copy()

    def pipeline(self, shader: str, entry: str, constants: wgsl.Constants) -> tuple[Any, Any]:
        """(pipeline, bind group layout), compiled once for every (shader, entry, constants)."""
        key = (shader, entry, constants)
        if key not in self._pipelines:
            stage, kinds = self.module.ShaderStage.COMPUTE, {"read": "read-only-storage", "read_write": "storage", "uniform": "uniform"}
            entries = [{"binding": s.index, "visibility": stage, "buffer": {"type": kinds[s.access]}} for s in wgsl.interface(shader).slots]
            with guard(self.name, f"compiling {shader}.wgsl"):
                layout = self.device.create_bind_group_layout(label=shader, entries=entries)
                module = self.device.create_shader_module(label=shader, code=wgsl.specialise(shader, constants))
                pipeline = self.device.create_compute_pipeline(
                    label=f"{shader}.{entry}",
                    layout=self.device.create_pipeline_layout(bind_group_layouts=[layout]),
                    compute={"module": module, "entry_point": entry},
                )
            self._pipelines[key] = pipeline, layout
        return self._pipelines[key]

    def trim(self) -> None:
        """Gives dropped buffers back to the system now."""
        native.drain(self.device)


def is_short(limit: str, has: int, needs: int) -> bool:
    return has > needs if limit.startswith("min-") else has < needs


@contextmanager
def guard(adapter: str, doing: str) -> Iterator[None]:
    """Turns what wgpu raises into one sentence. Programming errors (validation) keep their own text."""
    try:
        yield
    except MoebiusError:
        raise
    except Exception as error:
        kind, text = type(error).__name__, str(error)
        if "OutOfMemory" in kind or isinstance(error, MemoryError) or "out of memory" in text.lower():
            raise OutOfMemoryError(
                f"{adapter} is out of memory while {doing}. Close other programs that use the GPU, or use a smaller image or batch."
            ) from error
        if "lost" in text.lower() or _LOSS.seen:
            raise DeviceLostError(
                f"{adapter} was lost while {doing}. Open it again with a new WebGPU(); if it happens again, use a smaller image."
            ) from error
        raise MoebiusError(f"{adapter} failed while {doing}: {text}") from error


class _LossWatch(logging.Filter):
    """wgpu 0.32 reports a lost device by a log line and nothing else. A filter sees the line and lets it pass."""

    seen = False

    def filter(self, record: logging.LogRecord) -> bool:
        if "DEVICE LOST" in record.getMessage().upper():
            self.seen = True
        return True


_LOSS = _LossWatch()


def _watch_for_loss() -> None:
    """From here on; what was lost before is another device's."""
    _LOSS.seen = False
    logging.getLogger("wgpu").addFilter(_LOSS)  # adding it twice is adding it once
