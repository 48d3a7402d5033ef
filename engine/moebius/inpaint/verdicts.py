"""Whether an adapter computes right: asked once, and kept in the cache for as long as adapter, driver and this version stay the same."""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from pathlib import Path

import moebius
from moebius.backends.webgpu import WebGPU, probe
from moebius.backends.webgpu.wgsl import shaders_digest
from moebius.errors import DeviceLostError
from moebius.weights import folders


def fault(ops: WebGPU) -> str:
    """What is wrong with the adapter, from the cache or by the quick check; empty where nothing is."""
    file = verdict_file(ops)
    kept = read(file)
    return check(ops, file) if kept is None else kept


def check(ops: WebGPU, file: Path | None = None) -> str:
    """The same, measured now; kept for the next time unless it may have been bad luck."""
    try:
        found = probe.fault(ops)
    except DeviceLostError as error:
        return str(error)
    write(file or verdict_file(ops), found)
    return found


def verdict_file(ops: WebGPU) -> Path:
    """One for each precision, for they are other kernels."""
    digest = digest_of(ops)
    if ops.precision != "f32":
        digest = hashlib.sha256(f"{digest} {ops.precision}".encode()).hexdigest()
    return folders.subfolder("verdicts") / f"{digest}.json"


def digest_of(ops: WebGPU) -> str:
    """Of all that what is found out about a device depends on: the adapter, its driver, what speaks to it, and the two versions."""
    gpu = ops.gpu
    what = {
        "adapter": {str(key): str(value) for key, value in gpu.info.items()},
        "implementation": [gpu.implementation, str(gpu.module.__version__)],
        "limits": dict(ops.caps.limits),
        "checked": gpu.caps.checked,
        "moebius": moebius.__version__,
        "shaders": shaders_digest(),
    }
    if (has := ops.caps.matrix) is not None:
        what["matrix"] = [has.dialect, sorted(has.shapes), has.lanes, has.per]
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()


def read(file: Path) -> str | None:
    """None where there is no verdict, or none that can be read."""
    note = folders.read_note(file)
    kept = note.get("fault") if isinstance(note, dict) else None
    return kept if isinstance(kept, str) else None


def write(file: Path, found: str) -> None:
    """Whole or not at all. Where the cache cannot be written, the check is done anew at the next start."""
    with suppress(OSError):
        folders.write_note(file, {"fault": found})
