"""What an adapter can do at best: multiply-adds a second, and bytes a second for every size of what is worked on.

Measured, not looked up, with the clock that the rows are measured with. A kernel is some percent of the shortest time that its
FLOPs and its bytes take at these rates.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

import numpy as np

from moebius.backends.webgpu.device import Device, guard
from moebius.backends.webgpu.timing import timed

LOOPS, UNROLLED = 128, 4
# How many independent vec4 an invocation works on, and how it is written: what is best depends on registers and on the compiler.
ACCUMULATORS = (1, 2, 4, 8)
FORMS = ("fma({x}, a, b)", "{x} * a + b")
COPIES = 4  # vec4 that an invocation of the copying kernel moves
READS = 16  # vec4 that an invocation of the reading kernel sums


def fma_source(accumulators: int, form: str) -> str:
    """x = x·a + b over and over; a and b come from a buffer, so that nothing is known beforehand."""
    names = [f"x{i}" for i in range(accumulators)]
    begin = "".join(f"  var {x} = vec4<f32>(f32(id.x) + {i}.0);\n" for i, x in enumerate(names))
    body = "".join(f"    {x} = {form.format(x=x)};\n" for _ in range(UNROLLED) for x in names)
    return f"""
@group(0) @binding(0) var<storage, read> factors: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read_write> out: array<vec4<f32>>;
@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {{
  let a = factors[0];
  let b = factors[1];
{begin}  for (var i = 0u; i < {LOOPS}u; i++) {{
{body}  }}
  out[id.x] = {" + ".join(names)};
}}
"""


COPY = f"""
@group(0) @binding(0) var<storage, read> a: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read_write> out: array<vec4<f32>>;
@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) l: u32) {{
  let i = (group.y * groups.x + group.x) * 64u + l;
  let n = arrayLength(&out) / {COPIES}u;
  if (i < n) {{
{"".join(f"    out[i + {k}u * n] = a[i + {k}u * n];{chr(10)}" for k in range(COPIES))}  }}
}}
"""

READ = f"""
@group(0) @binding(0) var<storage, read> a: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read_write> out: array<vec4<f32>>;
@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) l: u32) {{
  let i = (group.y * groups.x + group.x) * 64u + l;
  let n = arrayLength(&out);
  if (i < n) {{
    var sum = vec4<f32>(0.0);
    for (var k = 0u; k < {READS}u; k++) {{
      sum += a[k * n + i];
    }}
    out[i] = sum;
  }}
}}
"""


@dataclass
class Roof:
    """`bandwidth` is (bytes worked on, GB/s), smallest first."""

    gflops: float = 0.0
    bandwidth: list[tuple[int, float]] = field(default_factory=list)

    def gbs(self, nbytes: int) -> float:
        """The best rate of a set of half this size or more: what is smaller, and so in nearer caches, may only be faster."""
        return max((rate for size, rate in self.bandwidth if 2 * size > nbytes), default=self.bandwidth[-1][1])

    def floor_ms(self, flops: int, nbytes: int) -> tuple[float, str]:
        """The shortest time, and which of the two asks for it."""
        compute, memory = flops / self.gflops / 1e6, nbytes / self.gbs(nbytes) / 1e6
        return max(compute, memory), "compute" if compute > memory else "memory"

    def higher(self, other: Roof) -> Roof:
        """Of two measurements the better one: what else the machine does only ever takes away."""
        if not self.bandwidth:
            return other
        best = [(size, max(a, b)) for (size, a), (_, b) in zip(self.bandwidth, other.bandwidth, strict=True)]
        return Roof(max(self.gflops, other.gflops), best)


def encoder(gpu: Device, source: str, sizes: Sequence[int], threads: int, data: np.ndarray | None = None) -> Callable[[Any, int], None]:
    """encode(compute pass, repeats) for a kernel of two buffers, the first one read."""
    device = gpu.device
    with guard(gpu.name, "preparing the roof"):
        made = {"module": device.create_shader_module(label="roof", code=source), "entry_point": "main"}
        pipeline = device.create_compute_pipeline(label="roof", layout="auto", compute=made)
        buffers = [gpu.create_buffer(n, "roof") for n in sizes]
        if data is not None:
            device.queue.write_buffer(buffers[0], 0, data)
        entries = [{"binding": i, "resource": {"buffer": b}} for i, b in enumerate(buffers)]
        group = device.create_bind_group(layout=pipeline.get_bind_group_layout(0), entries=entries)
    groups = -(-threads // 64)
    x = min(groups, gpu.caps.limits["max-compute-workgroups-per-dimension"])

    def encode(run: Any, repeats: int) -> None:
        run.set_pipeline(pipeline)
        run.set_bind_group(0, group)
        for _ in range(repeats):
            run.dispatch_workgroups(x, -(-groups // x))

    return encode


def fma(gpu: Device, accumulators: int, form: str) -> tuple[Callable[[Any, int], None], int]:
    """The multiply-add kernel, and the FLOPs of a dispatch."""
    threads = 2**12 if gpu.caps.is_software else 2**20
    factors = np.repeat(np.float32([0.5, 0.5]), 4)  # towards 1: neither subnormal nor infinite
    encode = encoder(gpu, fma_source(accumulators, form), (32, 16 * threads), threads, factors)
    return encode, threads * accumulators * 4 * 2 * LOOPS * UNROLLED


def best_ms(gpu: Device, clock: str, encode: Callable[[Any, int], None], target_ms: float, batches: int = 5) -> float:
    """Milliseconds of a dispatch in the fastest of some batches that take `target_ms` each."""

    def batch(repeats: int) -> float:
        return float(timed(gpu, [lambda run: encode(run, repeats)], clock)[0]) / repeats

    batch(1)
    fastest, repeats = batch(1), 1
    for _ in range(batches):  # a dispatch alone takes its submit's time too, or waits for something else: longer batches tell
        repeats = max(repeats, int(np.clip(target_ms / max(fastest, 1e-6), 1, 2000)))
        fastest = min(fastest, batch(repeats))
    return fastest


class Pace:
    """The machine's own speed: milliseconds of a multiply-add kernel that never changes. Where they grow, something else runs as well."""

    def __init__(self, gpu: Device, clock: str, target_ms: float) -> None:
        self.gpu, self.clock = gpu, clock
        self.encode, _ = fma(gpu, ACCUMULATORS[0], FORMS[0])
        self.seen = [best_ms(gpu, clock, self.encode, target_ms)]
        self.repeats = max(1, round(target_ms / self.best))

    @property
    def best(self) -> float:
        """The tenth percentile: a lucky sample, or a GPU that is still cold, is no measure of the rest."""
        return float(np.percentile(self.seen, 10))

    def now(self) -> float:
        ms = float(timed(self.gpu, [lambda run: self.encode(run, self.repeats)], self.clock)[0]) / self.repeats
        self.seen.append(ms)
        return ms


def measure(gpu: Device, clock: str, target_ms: float) -> Roof:
    gflops = 0.0
    for accumulators in ACCUMULATORS:
        for form in FORMS:
            encode, flops = fma(gpu, accumulators, form)
            gflops = max(gflops, flops / best_ms(gpu, clock, encode, target_ms) / 1e6)
    bandwidth = []
    largest = min(
        gpu.caps.limits["max-storage-buffer-binding-size"], gpu.caps.limits["max-buffer-size"], 2**25 if gpu.caps.is_software else 2**28
    )
    size = 2**15  # of the first buffer
    while size <= largest:
        copying = encoder(gpu, COPY, (size, size), size // 16 // COPIES)
        reading = encoder(gpu, READ, (size, size // READS), size // 16 // READS)
        rates = [2 * size / best_ms(gpu, clock, copying, target_ms), size * (1 + 1 / READS) / best_ms(gpu, clock, reading, target_ms)]
        bandwidth.append((2 * size, max(rates) / 1e6))
        size *= 2
        gpu.trim()
    return Roof(gflops, bandwidth)


def trusted_clock(gpu: Device) -> tuple[str, str]:
    """Timestamps where four times the work takes four times as long by them, and as long as by the wall; else the wall, and why."""
    if not gpu.timestamps:
        return "wall", "the wall; the adapter has no timestamp queries"
    encode, _ = fma(gpu, 1, FORMS[0])
    once = best_ms(gpu, "wall", encode, 20.0, batches=3)
    n = int(np.clip(20.0 / once, 1, 500))
    times, shares = [], []
    for _ in range(5):
        start = perf_counter()
        times.append(timed(gpu, [lambda run: encode(run, n), lambda run: encode(run, 4 * n)], "timestamp"))
        shares.append(times[-1].sum() / (1e3 * (perf_counter() - start)))
    short, long = np.min(times, axis=0)
    ratio, share = long / max(short, 1e-9), max(shares)
    if not (2.5 < ratio < 6 and 0.5 < share <= 1):
        return (
            "wall",
            f"the wall; timestamps cannot be trusted: {ratio:.2f} times the time for four times the work, {share:.2f} of the wall's",
        )
    return "timestamp", f"timestamp queries, {gpu.timestamp_period:g} ns a tick"
