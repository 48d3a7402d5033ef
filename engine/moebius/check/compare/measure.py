"""What is done for one column: every case on one backend, timed, and held against the oracle."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np

import moebius
from moebius.backends.reference import Reference
from moebius.backends.webgpu import WebGPU
from moebius.backends.webgpu.plan import Plan
from moebius.backends.webgpu.tensor import read
from moebius.backends.webgpu.wgsl import shaders_digest
from moebius.check.compare.cases import Case, fixed_set
from moebius.check.compare.endtoend import RUNS
from moebius.check.compare.fingerprint import HALVES, Json, digest, error_map, errors
from moebius.errors import DeviceLostError, LimitError, MoebiusError
from moebius.model.arrays import time_sinusoid

Backend = Reference | WebGPU  # `CPU` is a Reference

REPEATS = 3
ENOUGH = 1.0  # seconds: a case that took longer is run once more and no further


def work(full: bool) -> list[Case | str]:
    """The set in its order: cases of ops, then runs by name."""
    return [*fixed_set(), *([name for name in RUNS if full or name != "full step"])]


def described(item: Case | str) -> Json:
    return {"name": item} if isinstance(item, str) else {"op": item.op, "case": item.name, "kind": item.kind}


def rows(item: Case | str, ops: Backend, say: Callable[[], None]) -> Iterator[Json]:
    """The finished rows of one item of work, or one row that says why there is none. A lost device is the end of the process."""
    try:
        if isinstance(item, str):
            yield described(item) | RUNS[item](ops, say)
        else:
            yield from op_rows(item, ops)
    except DeviceLostError:
        raise  # nothing more can be done with it in this process
    except LimitError as error:
        yield unfinished(item, "refused", str(error))
    except (MoebiusError, MemoryError) as error:
        yield unfinished(item, "failed", str(error) or type(error).__name__)


def unfinished(item: Case | str, status: str, reason: str) -> Json:
    row = described(item) | {"status": status, "reason": one_line(reason)}
    return row | ({"model": "", "inputs": ""} if isinstance(item, str) else {"inputs": ""})


def one_line(text: str) -> str:
    """Drivers' messages have lines, carets and colours."""
    return "".join(c if c.isprintable() else " " for c in " ".join(text.split()))[:600]


def op_rows(case: Case, ops: Backend) -> Iterator[Json]:
    expected = case.expected(ops.precision)
    runs, milliseconds = repeated(case, ops)
    inputs = case.digest()
    for i, ((want, limit), *got) in enumerate(zip(expected, *runs, strict=True)):
        name = {"case": f"{case.name}, output {i}"} if i else {}
        yield (
            described(case)
            | name
            | {"inputs": inputs, "status": "done", "ms": round(float(np.median(milliseconds)), 4)}
            | {"repeatable": len({digest(g) for g in got}) == 1}
            | errors(got[0], want, limit)
            | {"map": error_map(got[0], want)}
        )
    case.forget()


def repeated(case: Case, ops: Backend) -> tuple[list[list[np.ndarray]], list[float]]:
    """The outputs of every run, and the milliseconds of all but the first, which compiles."""
    once = gpu_runner(case, ops) if isinstance(ops, WebGPU) else numpy_runner(case, ops)
    runs, milliseconds = [], []
    for _ in range(1 + REPEATS):
        out, ms = once()
        runs.append(out)
        milliseconds.append(ms)
        if len(runs) > 1 and sum(milliseconds) > 1e3 * ENOUGH:
            break
    return runs, milliseconds[1:]


def numpy_runner(case: Case, ops: Reference) -> Callable[[], tuple[list[np.ndarray], float]]:
    tensors = case.numpy_tensors(ops.dtype)

    def once() -> tuple[list[np.ndarray], float]:
        begun = time.perf_counter()
        out = case.call(ops, *tensors)
        ms = 1e3 * (time.perf_counter() - begun)
        return [np.array(o) for o in out], ms

    return once


def gpu_runner(case: Case, ops: WebGPU) -> Callable[[], tuple[list[np.ndarray], float]]:
    run = OnGPU(case, ops)

    def once() -> tuple[list[np.ndarray], float]:
        run.upload(case.inputs)
        begun = time.perf_counter()
        run.replay()
        run.plan.recording.state.read(4)  # there when all before it is done
        ms = 1e3 * (time.perf_counter() - begun)
        return run.outputs(), ms

    return once


class OnGPU:
    """A case as a plan: recorded once, replayed. Called with NCHW inputs, it gives the outputs, channels last."""

    def __init__(self, case: Case, ops: WebGPU) -> None:
        shapes = [np.moveaxis(a, 1, -1).shape for a in case.inputs]
        self.plan: Plan = ops.record(lambda *tensors: tuple(case.call(ops, *tensors)), shapes)
        table, timesteps = self.plan.recording.sinusoid, case.of.timesteps
        self.times = None if timesteps is None or table is None else time_sinusoid(timesteps, table.shape[3])

    def __call__(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        self.upload(inputs)
        self.replay()
        return self.outputs()

    def upload(self, inputs: Sequence[np.ndarray]) -> None:
        self.plan.upload([np.moveaxis(a, 1, -1) for a in inputs])

    def replay(self) -> None:
        self.plan.start(self.times)
        self.plan.replay()

    def outputs(self) -> list[np.ndarray]:
        return [read(t) for t in self.plan.outputs]


# who it is -----------------------------------------------------------------------------------------------------------
def identity(ops: Backend) -> Json:
    """A COLUMN's head."""
    if not isinstance(ops, WebGPU):
        return {
            "name": f"NumPy {ops.dtype} (the oracle)" if type(ops) is Reference else f"CPU device, NumPy {ops.dtype}",
            "implementation": "numpy",
            "adapter": {"device": platform.processor() or platform.machine(), "type": "CPU", "backend": "NumPy"},
            "versions": {"numpy": np.__version__},
            "shaders": None,
        }
    gpu = ops.gpu
    keys = {"device": "device", "vendor": "vendor", "backend": "backend_type", "type": "adapter_type", "driver": "description"}
    return {
        "name": one_line(ops.name) + ("" if ops.precision == "f32" else HALVES),
        "implementation": gpu.implementation,
        "adapter": {name: one_line(str(gpu.info.get(key) or "")) for name, key in keys.items()},
        "limits": dict(gpu.caps.limits),
        "features": sorted(map(str, gpu.device.features)),
        "versions": {gpu.implementation: gpu.module.__version__},
        "shaders": shaders_digest(),
    }


def machine() -> dict[str, str]:
    """Without names of hosts and people."""
    import os

    return {
        "system": f"{platform.system()} {platform.release()}",
        "processor": platform.processor() or platform.machine(),
        "cores": str(os.cpu_count()),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "moebius": moebius.__version__,
    }
