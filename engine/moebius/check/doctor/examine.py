"""All checks of one device, in the order in which they are told."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from moebius.backends.cpu import CPU
from moebius.backends.reference import Reference
from moebius.backends.webgpu import WebGPU, adapters
from moebius.backends.webgpu.caps import DEFAULT_LIMITS
from moebius.check.compare.measure import identity, one_line
from moebius.check.doctor import kernels, picture
from moebius.check.doctor.drivers import known
from moebius.check.doctor.findings import Finding
from moebius.errors import AdapterError, DeviceLostError, MoebiusError
from moebius.inpaint import tuning, verdicts
from moebius.inpaint.device import preferred
from moebius.model.contract import Precision

Device = WebGPU | Reference


def open_named(name: str, precision: Precision = "f32") -> Device:
    """The device of that name, whatever is wrong with it, with the kernels that runs get there; "auto" is the one that `inpaint.device`
    tries first."""
    try:
        best = name != "auto" or preferred(list(adapters())) is not None
    except AdapterError:
        best = False
    if name == "cpu" or not best:
        return CPU()
    ops = WebGPU(None if name == "auto" else name, precision=precision)
    tuning.apply(ops)
    return ops


def about(ops: Device) -> dict[str, Any]:
    """Who it is, for a report."""
    return {key: value for key, value in identity(ops).items() if key != "limits"}


def findings(ops: Device, full: bool = False) -> Iterator[Finding]:
    """Every check's, as soon as it is done. One that fails halfway is a finding, too; only a lost device is the end."""
    parts: list[tuple[str, Callable[[], Iterator[Finding]]]] = [
        ("driver", lambda: driver(ops)),
        ("limits", lambda: limits(ops)),
        ("first start", lambda: first_start(ops)),
        ("kernels", lambda: kernels.findings(ops)),
        ("picture", lambda: picture.findings(ops, full)),
    ]
    for name, part in parts:
        try:
            yield from part()
        except DeviceLostError as error:
            yield Finding(name, "wrong", one_line(str(error)), f"{kernels.TO_DO}.")
            return
        except (MoebiusError, MemoryError) as error:
            yield Finding(name, "wrong", f"The check failed: {one_line(str(error) or type(error).__name__)}", f"{kernels.TO_DO}.")


def driver(ops: Device) -> Iterator[Finding]:
    if not isinstance(ops, WebGPU):
        yield Finding("driver", "ok", f"None is needed: NumPy {np.__version__} computes.", "", {"numpy": np.__version__})
        return
    info, gpu = ops.gpu.info, ops.gpu
    name = one_line(str(info.get("description") or info.get("vendor") or "of no name"))
    words = f"{name}, by {info.get('backend_type')} and {gpu.implementation} {gpu.module.__version__}"
    rows = known(info)
    numbers = {"driver": name, "known": [{"reason": row.reason, "source": row.source} for row in rows]}
    if not rows:
        yield Finding("driver", "ok", f"{words}. Nothing is known against it.", "", numbers)
    for row in rows:
        state = "ok" if row.handled else "note"
        yield Finding("driver", state, f"{words}. Known: {row.reason} ({row.source}).", f"{row.advice}.", numbers)  # type: ignore[arg-type]


def limits(ops: Device) -> Iterator[Finding]:
    """A device below WebGPU's default limits is not even opened; here is what it grants beyond."""
    if not isinstance(ops, WebGPU):
        yield Finding("limits", "ok", "None but the machine's memory.")
        return
    granted = ops.caps.limits
    more = sum(granted[k] != v for k, v in DEFAULT_LIMITS.items())
    binding, buffer = (granted[k] >> 20 for k in ("max-storage-buffer-binding-size", "max-buffer-size"))
    text = f"All of WebGPU's default limits, {more} of {len(granted)} with more; bindings of {binding} MiB, buffers of {buffer} MiB."
    yield Finding("limits", "ok", text, "", {"limits": dict(granted)})


def first_start(ops: Device) -> Iterator[Finding]:
    """The quick check, and its verdict kept anew: who has mended something need not wait for another version."""
    if not isinstance(ops, WebGPU):
        return
    wrong = one_line(verdicts.check(ops))
    if wrong:
        advice = (
            "So device auto takes the CPU device instead, and naming this one is an error. Update the graphics driver and run this again."
        )
        yield Finding("first start", "wrong", f"The quick check fails: {wrong.rstrip('.')}.", advice, {"fault": wrong})
    else:
        yield Finding("first start", "ok", "The quick check passes, that an adapter has to pass before it is first used.")
