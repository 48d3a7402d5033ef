"""Adapters, and an opened device with its pipelines. Nothing here knows what is computed."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

import numpy as np

from moebius.backends.turns import Turns
from moebius.backends.webgpu import native, reach, wgsl
from moebius.backends.webgpu.arena import Arena
from moebius.backends.webgpu.caps import DEFAULT_LIMITS, KINDS, Caps, Unit
from moebius.errors import AdapterError, DeviceLostError, MoebiusError, OutOfMemoryError, UsageError

PREFERENCE = ["DiscreteGPU", "IntegratedGPU", "Unknown", "CPU"]
UPLOAD_CHUNK = 16 << 20
STAGING = 64 << 20
MEMORIES = 4  # of one size that are kept for the next ones,
SIZES = 8  # and of so many sizes: a batch and a number of steps have one of their own
TIMESTAMPS = "timestamp-query"
COMPILERS = 8  # threads that make pipelines, at most
Key = tuple[str, str, wgsl.Constants]  # of a pipeline: its shader, entry and constants
NO_ADAPTER_DRIVER = (
    "No WebGPU adapter was found. Install a Vulkan driver (on Debian or Ubuntu, software: apt-get install -y mesa-vulkan-drivers)"
)
NO_ADAPTER = f"{NO_ADAPTER_DRIVER}, or compute on the CPU with moebius.CPU()."


def adapters(implementation: str = "wgpu") -> list[Any]:
    """Every adapter the implementation finds, as it lists them."""
    return native.adapters(implementation)


def rank(adapter: Any) -> tuple[int, bool]:
    """Smaller is better: discrete before integrated before software, OpenGL last among its kind."""
    kind = adapter.info["adapter_type"]
    return PREFERENCE.index(kind) if kind in PREFERENCE else 2, "OpenGL" in adapter.info["backend_type"]


def number(name: str | int | None) -> int | None:
    """That of an adapter which is named by its place in the list."""
    return int(name) if isinstance(name, int) or (isinstance(name, str) and name.isdecimal()) else None


def choose(name: str | int | None, implementation: str = "wgpu", listed: list[Any] | None = None) -> Any:
    """The best adapter; or the one of that index; or the best whose summary holds every word of `name`."""
    if isinstance(name, str) and not name.strip():
        raise UsageError("The name of the device is empty; give one, or an index, that `moebius adapters` lists, or leave it out.")
    listed = adapters(implementation) if listed is None else listed
    if not listed:
        raise AdapterError(NO_ADAPTER)
    listing = "; ".join(f"{i}: {a.summary}" for i, a in enumerate(listed))
    if (index := number(name)) is not None:
        if not 0 <= index < len(listed):
            raise AdapterError(f"There is no adapter {name}. There are {listing}.")
        return listed[index]
    words = str(name or "").lower().split()
    matching = [a for a in listed if all(w in a.summary.lower() for w in words)]
    if not matching:
        raise AdapterError(f"No adapter matches {name!r}. There are {listing}.")
    return min(matching, key=rank)


def twin(info: Mapping[str, Any], before: Sequence[Any] = ()) -> int:
    """Which of Dawn's adapters is the GPU that wgpu says this of: by its maker's numbers, or by its name where there are none. Of several
    that are alike, the one with as many before it as there are in `before`: both list them in the driver's order."""

    def alike(other: Mapping[str, Any]) -> bool:
        numbers = [(one.get("vendor_id"), one.get("device_id")) for one in (info, other)]
        return numbers[0] == numbers[1] if all(map(all, numbers)) else other.get("device") == info.get("device")

    listed = adapters("dawn")
    found = sorted((i for i, a in enumerate(listed) if alike(a.info)), key=lambda i: rank(listed[i]))
    if not found:
        raise AdapterError(f"Dawn does not find {info.get('device')}; `moebius adapters --implementation dawn` lists what it does.")
    found = [i for i in found if listed[i].info.get("backend_type") == listed[found[0]].info.get("backend_type")]  # each GPU once
    ahead = sum(alike(a.info) and a.info.get("backend_type") == info.get("backend_type") for a in before)
    return found[min(ahead, len(found) - 1)]


class Device:
    """An opened device of one adapter, and its pipelines."""

    def __init__(self, implementation: str, module: Any, device: Any, info: dict[str, Any], caps: Caps) -> None:
        self.implementation, self.module, self.device, self.info, self.caps = implementation, module, device, info, caps
        self.name = caps.name
        self.listed: list[tuple[Unit, int, int]] = []  # matrix units that the adapter speaks of, where they were asked for
        period = native.timestamp_period(module, device.queue)
        self.timestamps = TIMESTAMPS in caps.features and period is not None
        self.timestamp_period = period or 0.0
        # One thread at a time records, runs or reads; a step of a sampling loop is a turn.
        self.turns = Turns(f"{self.name} was opened before this process was forked, and {native.FORKED}")
        self.arena = Arena()
        self._staged = 0
        self._memory: dict[int, list[Any]] = {}  # of the host's, by its size: what Readbacks are not using
        self._pipelines: dict[Key, tuple[Any, Any]] = {}

    @classmethod
    def open(
        cls, adapter: str | int | None = None, implementation: str = "wgpu", limits: str = "adapter", matrix_units: bool = False
    ) -> Device:
        """The device of an adapter; see `choose` for its name, which may begin with an implementation: "dawn:SwiftShader".

        `limits`: "adapter" asks for all the adapter has, "webgpu" for the default limits alone. `matrix_units`: through Dawn, with what it
        needs for them; a number is still that of wgpu's list.
        """
        if limits not in ("adapter", "webgpu"):
            raise AdapterError(f"limits is {limits!r}; it is 'adapter' or 'webgpu'.")
        implementation, adapter = _asked(adapter, "dawn" if matrix_units else implementation, matrix_units)
        module = native.load(implementation)
        chosen = choose(adapter, implementation)
        name = f"{chosen.summary}, {implementation} {module.__version__}"
        wanted = DEFAULT_LIMITS if limits == "webgpu" else {k: chosen.limits.get(k, v) for k, v in DEFAULT_LIMITS.items()}
        short = [f"{k} is {chosen.limits[k]}, below {v}" for k, v in DEFAULT_LIMITS.items() if is_short(k, chosen.limits.get(k, v), v)]
        if short:
            raise AdapterError(f"{name} stays under WebGPU's default limits: {'; '.join(short)}. Choose another adapter.")
        listed = native.matrix_units(module, chosen) if matrix_units else []
        if matrix_units and not listed:
            raise AdapterError(f"{name} has no matrix units. Leave out matrix units, or choose another adapter.")
        features = [f for f in (TIMESTAMPS, *(native.MATRIX_FEATURES if listed else ())) if f in chosen.features]
        unchecked = native.may_be_unchecked()
        with guard(name, "opening the device"):
            # Dawn drops the checks of a device, not of a kernel: only where there is no kernel that needs them.
            device = native.request_device(chosen, module, unchecked and not reach.unknown(), features, wanted)
        # An implementation may grant more than was asked for; the planner keeps to what was asked.
        granted = DEFAULT_LIMITS if limits == "webgpu" else {k: int(device.limits[k]) for k in DEFAULT_LIMITS}
        _watch_for_loss()
        opened = cls(implementation, module, device, dict(chosen.info), describe(name, chosen.info, features, granted, not unchecked))
        opened.listed = [(Unit(*shape), low, high) for shape, low, high in listed]
        return opened

    def create_buffer(self, nbytes: int, label: str) -> Any:
        usage = self.module.BufferUsage
        return self._created(nbytes, label, usage.STORAGE | usage.COPY_SRC | usage.COPY_DST)

    def _created(self, nbytes: int, label: str, usage: int) -> Any:
        for again in (True, False):
            try:
                with guard(self.name, f"taking {nbytes / 2**20:.1f} MiB for {label}"):
                    return self.device.create_buffer(label=label, size=nbytes, usage=usage)
            except OutOfMemoryError:
                if not again:
                    raise
                self.trim()  # what was dropped may not have been given back yet

    def write(self, handle: Any, label: str, data: np.ndarray) -> None:
        """Bytes into a buffer, in pieces, so that the staging memory of a large weight stays small."""
        with guard(self.name, f"writing {label}"):
            for start in range(0, data.nbytes, UPLOAD_CHUNK):
                piece = data[start : start + UPLOAD_CHUNK]
                self.device.queue.write_buffer(handle, start, piece)
                # What is written waits in staging memory for the next submit: 900 MB of weights would be there twice.
                self._staged += piece.nbytes
                if self._staged > STAGING:
                    native.drain(self.device)
                    self._staged = 0

    def read(self, handle: Any, label: str, nbytes: int) -> Any:
        """The first bytes of a buffer, once all before is done."""
        with guard(self.name, f"reading {label}"):
            return self.device.queue.read_buffer(handle, 0, nbytes)

    def take_memory(self, nbytes: int) -> Any:
        """A buffer that the host can read. The caller has the turn; `return_memory` is called whenever one is collected."""
        free = self._memory[nbytes] = self._memory.pop(nbytes, [])  # the last one in the order of use
        for unused in list(self._memory)[:-SIZES]:
            self._memory.pop(unused, None)
        if free:
            return free.pop()
        usage = self.module.BufferUsage
        return self._created(nbytes, "what is read", usage.COPY_DST | usage.MAP_READ)

    def return_memory(self, nbytes: int, memory: Any) -> None:
        free = self._memory.setdefault(nbytes, [])
        if len(free) < MEMORIES:
            free.append(memory)

    def pipeline(self, shader: str, entry: str, constants: wgsl.Constants) -> tuple[Any, Any]:
        """(pipeline, bind group layout), compiled once for every (shader, entry, constants)."""
        key = (shader, entry, constants)
        if key not in self._pipelines:
            self._pipelines[key] = self._compiled(key)
        return self._pipelines[key]

    def _compiled(self, key: Key) -> tuple[Any, Any]:
        with guard(self.name, f"compiling {key[0]}.wgsl"):
            wanted, layout = self._described(key)
            return self.device.create_compute_pipeline(**wanted), layout

    def _described(self, key: Key) -> tuple[dict[str, Any], Any]:
        """What a pipeline is made of, and the layout of its bind group."""
        shader, entry, constants = key
        stage, kinds = self.module.ShaderStage.COMPUTE, {"read": "read-only-storage", "read_write": "storage", "uniform": "uniform"}
        slots = wgsl.interface(shader, constants, entry).slots
        entries = [{"binding": s.index, "visibility": stage, "buffer": {"type": kinds[s.access]}} for s in slots]
        layout = self.device.create_bind_group_layout(label=shader, entries=entries)
        code, unchecked = wgsl.specialise(shader, constants, entry), not self.caps.checked and reach.is_known(shader)
        module = native.shader_module(self.device, self.module, shader, code, unchecked)
        made_of = {"module": module, "entry_point": entry}
        layouts = self.device.create_pipeline_layout(bind_group_layouts=[layout])
        return {"label": f"{shader}.{entry}", "layout": layouts, "compute": made_of}, layout

    @contextmanager
    def compiling(self, wanted: Iterable[Key]) -> Iterator[None]:
        """Has these pipelines made while the block runs, several at a time, and ends when they are there: a GPU's driver takes a tenth of a
        second for each of a plan's seventy, on one core. What fails here is left to whoever wants it, and fails again there, by itself.

        A software driver makes them one by one, as they are wanted: it compiles on cores that compute as well, and large tiles take it
        gigabytes each.
        """
        new = [key for key in dict.fromkeys(wanted) if key not in self._pipelines]
        if self.caps.is_software or len(new) < 2:
            yield
            return
        from moebius.backends.cpu.cores import cores

        with ThreadPoolExecutor(min(COMPILERS, cores()), "moebius-compiling") as pool:
            later = {key: native.pipeline_later(self.module, self.device, pool, partial(self._described, key)) for key in new}
            try:
                yield
                for key, made in later.items():
                    with suppress(Exception), uninterrupted():  # Dawn comes back by callbacks
                        self._pipelines[key] = made()
            finally:
                pool.shutdown(cancel_futures=True)

    def trim(self) -> None:
        """Gives dropped buffers back to the system now."""
        self._memory.clear()
        native.drain(self.device)


def describe(name: str, info: Mapping[str, Any], features: Iterable[str], limits: Mapping[str, int], checked: bool = True) -> Caps:
    """The caps of a device that was opened with these features and limits, on the adapter of this `info`."""
    return Caps(
        name,
        vendor=str(info.get("vendor") or ""),
        kind=KINDS.get(info["adapter_type"], "unknown"),
        backend=str(info.get("backend_type") or ""),
        features=frozenset(features),
        limits=limits,
        checked=checked,
    )


def _asked(adapter: str | int | None, implementation: str, matrix_units: bool) -> tuple[str, str | int | None]:
    """The implementation, and the adapter as that has it."""
    place = number(adapter)
    if isinstance(adapter, str) and ":" in adapter:
        implementation, adapter = adapter.split(":", 1)
    if matrix_units and implementation != "dawn":
        raise AdapterError(f"{implementation} offers no matrix units; leave out its name, and Dawn is asked for them.")
    if matrix_units:
        native.allow_matrix_units()
        if place is not None:
            others = adapters()
            adapter = twin(choose(place, listed=others).info, others[:place])
    return implementation, adapter


def is_short(limit: str, has: int, needs: int) -> bool:
    return has > needs if limit.startswith("min-") else has < needs


@contextmanager
def guard(adapter: str, doing: str) -> Iterator[None]:
    """Turns what wgpu raises into one sentence. Programming errors (validation) keep their own text."""
    try:
        with uninterrupted():
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


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Ctrl-C takes effect when the block has ended. Inside a callback, which wgpu's calls come back by, Python would print a traceback
    and forget it."""
    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:  # nobody's to take, or taken already
        yield
        return
    pressed = False

    def note(*_: object) -> None:
        nonlocal pressed
        pressed = True

    signal.signal(signal.SIGINT, note)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if pressed:
            raise KeyboardInterrupt


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
