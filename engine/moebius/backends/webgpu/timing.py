"""How long compute passes take on the GPU."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from time import perf_counter
from typing import Any

import numpy as np

from moebius.backends.webgpu.device import Device, guard
from moebius.backends.webgpu.tensor import Buffer


def timed(device: Device, passes: Sequence[Callable[[Any], None]], clock: str) -> np.ndarray:
    """Milliseconds of compute passes that are encoded by `passes`, by "timestamp" queries or by the "wall" around each."""
    with guard(device.name, "taking times"):
        return _by_timestamps(device, passes) if clock == "timestamp" else _by_the_wall(device, passes)


def _by_timestamps(device: Device, passes: Sequence[Callable[[Any], None]]) -> np.ndarray:
    usage, out = device.module.BufferUsage, np.zeros(0, np.uint64)
    for start in range(0, len(passes), 2048):  # a set holds 4096 queries at most
        part = passes[start : start + 2048]
        queries = device.device.create_query_set(type="timestamp", count=2 * len(part))
        resolved = device.device.create_buffer(size=16 * len(part), usage=usage.QUERY_RESOLVE | usage.COPY_SRC)
        encoder = device.device.create_command_encoder()
        for i, encode in enumerate(part):
            writes = {"query_set": queries, "beginning_of_pass_write_index": 2 * i, "end_of_pass_write_index": 2 * i + 1}
            run = encoder.begin_compute_pass(timestamp_writes=writes)
            encode(run)
            run.end()
        encoder.resolve_query_set(queries, 0, 2 * len(part), resolved, 0)
        device.device.queue.submit([encoder.finish()])
        out = np.concatenate([out, np.frombuffer(device.device.queue.read_buffer(resolved), np.uint64)])
    return (out[1::2].astype(np.int64) - out[0::2].astype(np.int64)) * device.timestamp_period / 1e6


def _by_the_wall(device: Device, passes: Sequence[Callable[[Any], None]]) -> np.ndarray:
    """From the submit to the end of a copy behind it."""
    out, waited_for = [], Buffer(device, 16, "waited for", "pinned")
    waited_for.allocate()
    waited_for.read(4)  # all before is done
    for encode in passes:
        encoder = device.device.create_command_encoder()
        run = encoder.begin_compute_pass()
        encode(run)
        run.end()
        commands = [encoder.finish()]
        start = perf_counter()
        device.device.queue.submit(commands)
        waited_for.read(4)
        out.append(1e3 * (perf_counter() - start))
    return np.array(out)
