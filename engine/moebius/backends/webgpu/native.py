"""The one module that knows wgpu's implementations and touches their private parts."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from contextlib import nullcontext, suppress
from functools import partial
from threading import Lock
from types import ModuleType
from typing import Any, NoReturn

from moebius.backends.webgpu import header
from moebius.errors import AdapterError

IMPLEMENTATIONS = {"wgpu": "wgpu", "dawn": "wgpudawn"}  # wgpu-native (naga) and Dawn (Tint), the same Python API
FORKED = "does not work in the child; start that one with multiprocessing's 'spawn', or compute there on the CPU device."
_LOADED_BY: dict[str, int] = {}  # the process
_LOADED: set[str] = set()
_LOADING = Lock()
CHECKED = "MOEBIUS_CHECKED"
PRIVATE = "wgpu.backends.wgpu_native._api"  # what is used of it may have another name in another version of wgpu
# Dawn's, of the whole process: experimental features, and on NVIDIA's Vulkan driver shader-f16, without which it hides its matrix units.
MATRIX_TOGGLES = ("allow_unsafe_apis", "vulkan_enable_f16_on_nvidia")
MATRIX_FEATURES = ("shader-f16", "subgroups", "chromium-experimental-subgroup-matrix")
UNCHECKED_TOGGLES = ("disable_robustness", "disable_workgroup_init", "skip_validation")  # Dawn's, for a whole device
ROUNDING_TOGGLES = ("timestamp_quantization",)  # which are on where nothing is said: timestamps in steps of 65.5 µs, for pages


def load(implementation: str) -> ModuleType:
    """The module of an implementation, imported late: importing starts its instance and reads the driver's environment."""
    if _LOADED_BY.setdefault(implementation, os.getpid()) != os.getpid():
        raise AdapterError(f"WebGPU ({implementation}) was in use before this process was forked, and {FORKED}")
    os.environ.setdefault("XDG_RUNTIME_DIR", "/tmp")  # unset, Mesa prints a line for every adapter
    if implementation == "dawn":  # both have a logger "wgpu", and wgpu cannot be imported where it is wgpudawn's already
        with suppress(ImportError):
            importlib.import_module("wgpu")
    try:
        with _LOADING:
            with header.read_quickly() if implementation == "wgpu" and implementation not in _LOADED else nullcontext():
                module = importlib.import_module(IMPLEMENTATIONS[implementation])
            _LOADED.add(implementation)
        return module
    except KeyError:
        raise AdapterError(f"There is no implementation {implementation!r}; choose from {', '.join(IMPLEMENTATIONS)}.") from None
    except (ImportError, OSError) as error:  # the package, or what its library needs
        package = "'moebius-webgpu[dawn]'" if implementation == "dawn" else IMPLEMENTATIONS[implementation]
        raise AdapterError(f"{IMPLEMENTATIONS[implementation]} cannot be imported ({error}); pip install {package}.") from None


def adapters(implementation: str) -> list[Any]:
    """Every adapter the implementation finds, as it lists them."""
    return list(load(implementation).gpu.enumerate_adapters_sync())


_MATRIX_TOGGLES: list[str] = []  # that this process's Dawn was given


def allow_matrix_units() -> None:
    """Before Dawn's first adapter: its toggles are given when its instance is made, once in a process."""
    module = load("dawn")
    with _LOADING:
        if _MATRIX_TOGGLES:
            return
        try:
            importlib.import_module(f"{module.__name__}.backends.dawn.extras").set_instance_extras(enable_toggles=MATRIX_TOGGLES)
        except (ImportError, AttributeError, TypeError, ValueError):  # another version's private parts
            raise AdapterError(f"wgpudawn {module.__version__} offers no matrix units; pip install 'moebius-webgpu[dawn]'.") from None
        except RuntimeError:
            raise AdapterError("Dawn is open in this process without matrix units; ask for them before its first adapter.") from None
        _MATRIX_TOGGLES.extend(MATRIX_TOGGLES)


def matrix_units(module: ModuleType, adapter: Any) -> list[tuple[tuple[str, str, int, int, int], int, int]]:
    """The shapes that an adapter lists, and the fewest and most lanes of their subgroups; none where it says nothing."""
    if module.__name__ != IMPLEMENTATIONS["dawn"] or not set(MATRIX_FEATURES) <= set(adapter.features):
        return []
    names = "component_type", "result_component_type", "m", "n", "k"
    try:
        extras = importlib.import_module(f"{module.__name__}.backends.dawn.extras")
        listed = extras.get_adapter_properties(adapter).get("subgroup_matrix_configs", [])
    except (ImportError, AttributeError):  # another version's private parts
        return []
    known = [adapter.info.get(f"subgroup_{end}_size") or 32 for end in ("min", "max")]  # where a shape says nothing of its own
    lanes = [[c[f"{end}_subgroup_size"] or size for end, size in zip(("min", "max"), known, strict=True)] for c in listed]
    return [(tuple(c[name] for name in names), low, high) for c, (low, high) in zip(listed, lanes, strict=True)]


def may_be_unchecked() -> bool:
    """Unless MOEBIUS_CHECKED=1 keeps every check there is: what is proved of a plan (reach.py) then need not be tested at every load."""
    return os.environ.get(CHECKED, "0") in ("", "0")


def request_device(adapter: Any, module: ModuleType, unchecked: bool, features: Sequence[str], limits: dict[str, int]) -> Any:
    """An opened device. Dawn's are `unchecked` as a whole, wgpu's by the module (`shader_module`); Dawn's timestamps are exact."""
    wanted: dict[str, Any] = {"label": "moebius", "required_features": list(features), "required_limits": limits}
    if module.__name__ == IMPLEMENTATIONS["dawn"]:
        with suppress(ImportError, AttributeError, TypeError):  # another version's private parts
            extras = importlib.import_module("wgpudawn.backends.dawn.extras")
            known, wished = extras.all_toggles(), (UNCHECKED_TOGGLES if unchecked else (), ROUNDING_TOGGLES)
            on, off = ([name for name in names if known.get(name, {}).get("stage") == "device"] for names in wished)
            return extras.request_device_sync(adapter, enable_toggles=on, disable_toggles=off, **wanted)
    return adapter.request_device_sync(**wanted)


def shader_module(device: Any, module: ModuleType, label: str, code: str, unchecked: bool) -> Any:
    """A compiled shader; `unchecked` without bounds checks and loop counters, where wgpu-native offers that. What fails so is compiled with
    them: an error in the WGSL is the public call's."""
    if unchecked and module.__name__ == IMPLEMENTATIONS["wgpu"]:
        with suppress(Exception):
            return _unchecked_module(device, label, code)
    return device.create_shader_module(label=label, code=code)


def _unchecked_module(device: Any, label: str, code: str) -> Any:
    api: Any = importlib.import_module(PRIVATE)
    source = api.new_struct_p("WGPUShaderSourceWGSL *", code=api.to_c_string_view(code))
    source[0].chain.next = api.ffi.NULL
    source[0].chain.sType = api.lib.WGPUSType_ShaderSourceWGSL
    chain = api.ffi.cast("WGPUChainedStruct *", source)  # owns nothing: `source` must outlive the call
    wanted = api.new_struct_p("WGPUShaderModuleDescriptor *", nextInChain=chain, label=api.to_c_string_view(label))
    made = api.libf.wgpuDeviceCreateShaderModuleTrusted(device._internal, wanted, api.lib.WGPUShaderRuntimeChecks_None)
    if made == api.ffi.NULL:
        raise RuntimeError(label)
    return api.GPUShaderModule(label, made, device)


def pipeline_later(
    module: ModuleType, device: Any, pool: Executor, described: Callable[[], tuple[dict[str, Any], Any]]
) -> Callable[[], tuple[Any, Any]]:
    """What waits for the pipeline and the layout that are described so. Dawn makes it on threads of its own, and is not to be called from
    two of ours; wgpu makes it on the thread that asks for it."""
    if module.__name__ != IMPLEMENTATIONS["dawn"]:

        def make() -> tuple[Any, Any]:
            wanted, layout = described()
            return device.create_compute_pipeline(**wanted), layout

        try:
            return pool.submit(make).result
        except RuntimeError as error:  # no thread can be started, or none any more
            return partial(_raise, error)
    try:
        wanted, layout = described()
        promise = device.create_compute_pipeline_async(**wanted)
    except Exception as error:
        return partial(_raise, error)
    return lambda: (promise.sync_wait(), layout)


def _raise(error: Exception) -> NoReturn:
    raise error


def submit(module: ModuleType, queue: Any, commands: Sequence[Any]) -> Any:
    """Submits, and returns what `wait` takes: None where nothing can be waited for by itself."""
    if module.__name__ == IMPLEMENTATIONS["wgpu"] and (call := _submission(queue, commands)) is not None:
        return call()
    queue.submit(commands)
    return None


def _submission(queue: Any, commands: Sequence[Any]) -> Callable[[], Any] | None:
    """The call that submits and gives a number, made ready; None where this wgpu has not all that it, `wait` and `read` need."""
    with suppress(Exception):  # nothing is submitted in here
        api: Any = importlib.import_module(PRIVATE)
        _ = api.libf.wgpuDevicePoll, api.ffi.typeof("WGPUSubmissionIndex *"), api.ffi.typeof("WGPUBufferMapCallbackInfo *"), api.new_struct
        _ = api.libf.wgpuBufferMapAsync, api.libf.wgpuBufferGetMappedRange, api.libf.wgpuBufferUnmap, api.from_c_string_view
        _ = api.lib.WGPUCallbackMode_AllowProcessEvents, api.lib.WGPUMapMode_Read, api.lib.WGPUMapAsyncStatus_Success
        numbers = api.new_array("WGPUCommandBuffer[]", [c._internal for c in commands])
        return partial(api.libf.wgpuQueueSubmitForIndex, queue._internal, len(commands), numbers)
    return None


def wait(module: ModuleType, device: Any, submitted: Any) -> None:
    """Until that submission is done, and not those behind it, which wgpu's own waiting for a buffer includes."""
    if submitted is not None:
        api: Any = importlib.import_module(PRIVATE)
        api.libf.wgpuDevicePoll(device._internal, True, api.ffi.new("WGPUSubmissionIndex *", submitted))


def read(device: Any, memory: Any, submitted: Any) -> Any:
    """The bytes of a buffer for reading, copied; what writes them is `submitted`, as `submit` gave it, and done."""
    if submitted is not None:
        return _read_now(device, memory)
    memory.map_async("READ").sync_wait()
    data = memory.read_mapped()
    memory.unmap()
    return data


_WAITED_FOR: list[Any] = []  # callbacks that outlive their call


def _read_now(device: Any, memory: Any) -> bytearray:
    """By this thread alone. wgpu's own call submits once more, and wakes a thread that waits for all that is queued: meanwhile nothing else
    can be."""
    api: Any = importlib.import_module(PRIVATE)
    said: list[tuple[int, str]] = []

    @api.ffi.callback("void(WGPUMapAsyncStatus, WGPUStringView, void *, void *)")  # type: ignore[untyped-decorator]
    def mapped(status: int, message: Any, *_: Any) -> None:
        said.append((status, api.from_c_string_view(message)))

    wanted = api.new_struct("WGPUBufferMapCallbackInfo", mode=api.lib.WGPUCallbackMode_AllowProcessEvents, callback=mapped)
    api.libf.wgpuBufferMapAsync(memory._internal, api.lib.WGPUMapMode_Read, 0, memory.size, wanted)
    for wait_for_all in (False, True):
        if not said:
            api.libf.wgpuDevicePoll(device._internal, wait_for_all, api.ffi.NULL)
    if not said:
        _WAITED_FOR.append(mapped)  # wgpu may still come back by it
    if not said or said[0][0] != api.lib.WGPUMapAsyncStatus_Success:
        raise RuntimeError(f"The memory cannot be mapped: {said[0][1] if said else 'it was not'}")
    data = bytearray(api.ffi.buffer(api.libf.wgpuBufferGetMappedRange(memory._internal, 0, memory.size), memory.size))
    api.libf.wgpuBufferUnmap(memory._internal)
    return data


def calls(module: ModuleType, run: Any) -> tuple[Callable[[Any], Any], Callable[[Any], Any], Callable[[int, int, int], Any]]:
    """What sets a pipeline, sets the bind group and dispatches in a compute pass. wgpu's own look for an error at every call, which takes
    ten times as long as the call, though it comes at the pass's end; past them where this wgpu lets us."""
    if module.__name__ == IMPLEMENTATIONS["wgpu"]:
        with suppress(Exception):
            api: Any = importlib.import_module(PRIVATE)
            this, lib, null = run._internal, api.lib, api.ffi.NULL
            pipeline, group = lib.wgpuComputePassEncoderSetPipeline, lib.wgpuComputePassEncoderSetBindGroup
            dispatch = partial(lib.wgpuComputePassEncoderDispatchWorkgroups, this)
            return lambda p: pipeline(this, p._internal), lambda g: group(this, 0, g._internal, 0, null), dispatch
    return run.set_pipeline, partial(run.set_bind_group, 0), run.dispatch_workgroups


def timestamp_period(module: ModuleType, queue: Any) -> float | None:
    """Nanoseconds per tick of the queue's timestamps; None where this wgpu does not say. Dawn already hands out nanoseconds."""
    if module.__name__ != IMPLEMENTATIONS["wgpu"]:
        return 1.0
    with suppress(ImportError, AttributeError, TypeError):
        api: Any = importlib.import_module(PRIVATE)
        return float(api.libf.wgpuQueueGetTimestampPeriod(queue._internal))
    return None


def drain(device: Any) -> None:
    """Lets the implementation free what was dropped: buffers go at the next submit and poll."""
    queue = device.queue
    queue.submit([])
    poll = getattr(device, "_poll_wait", None)
    if poll is not None:
        poll()


def object_counts(module: ModuleType) -> dict[str, int]:
    """Living GPU objects by kind, as the Python wrapper counts them."""
    return {k: int(v["count"]) for k, v in module.diagnostics.object_counts.get_dict().items() if "count" in v}
