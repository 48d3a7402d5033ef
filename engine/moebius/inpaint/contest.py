"""Whether Dawn with matrix units is faster on a GPU than wgpu without: the best kernel of each on three layers, measured once and kept.
So is whether it was worth opening Dawn there at all."""

from __future__ import annotations

import hashlib
import logging
import math
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from time import perf_counter

import numpy as np

from moebius.backends.webgpu import WebGPU, choice
from moebius.backends.webgpu.calls import GemmCall, Operands, Weight
from moebius.backends.webgpu.caps import Caps
from moebius.backends.webgpu.menu import Gemm
from moebius.backends.webgpu.tensor import NUMPY, Binding, Buffer, Tensor, itemsize
from moebius.backends.webgpu.tuned import Tuned
from moebius.backends.webgpu.tuner import Tuner
from moebius.inpaint import verdicts
from moebius.model.contract import Precision
from moebius.weights import folders

LAYERS = ((8192, 320, 320), (2048, 640, 640), (512, 1280, 1280))  # rows, columns and depth of the full model's, one a level
BUDGET = 10.0  # seconds that one of the two is measured for, most of which its kernels are compiled


def is_faster(one: WebGPU, other: WebGPU) -> bool:
    """Whether the layers take the first less time in all; from the cache where that was asked before."""
    file = _file(*map(verdicts.digest_of, (one, other)), one.precision, other.precision)
    match folders.read_note(file):
        case {"ms": [int() | float() as ms, int() | float() as others]}:
            return ms < others
    log = logging.getLogger("moebius")  # without a handler of the user's, the line goes to standard error as it is
    log.warning("Trying whether matrix units are faster on %s, once, for about %.0f seconds.", one.name, 2 * BUDGET)
    ms, others = milliseconds(one), milliseconds(other)
    with suppress(OSError):
        folders.write_note(file, {"ms": [ms, others]})
    return ms < others


def was_worth_it(ops: WebGPU) -> bool | None:
    """Whether Dawn had faster units for the adapter of this one; None where nobody knows. No is kept before the first try, so that a driver
    that crashes over it does not do so at every start."""
    match folders.read_note(_beside(ops)):
        case {"worth": bool(worth)}:
            return worth
    return None


def keep(ops: WebGPU, worth: bool | None) -> None:
    with suppress(OSError):
        folders.write_note(_beside(ops), {"worth": worth})


def _beside(ops: WebGPU) -> Path:
    try:
        dawn = version("wgpudawn")
    except PackageNotFoundError:
        dawn = ""
    return _file(verdicts.digest_of(ops), ops.precision, dawn)


def _file(*of: str) -> Path:
    return folders.subfolder("contests") / f"{hashlib.sha256(' '.join(of).encode()).hexdigest()}.json"


def milliseconds(ops: WebGPU) -> float:
    """Of the layers in all, each on the fastest kernel that was tried before its time was up; infinite where none computes. One that is
    known to be wrong is never used, so it does not count."""
    total, begin = 0.0, perf_counter()
    wrong = dict(ops.choose.table.wrong) if isinstance(ops.choose, Tuned) else {}
    with ops.gpu.turns:
        tuner = Tuner(ops.gpu, ops.caps, candidates)
        for i, sizes in enumerate(LAYERS, 1):
            end = begin + i * BUDGET / len(LAYERS)
            found = tuner.measure(layer(ops, *sizes), wrong, lambda end=end: perf_counter() >= end)  # type: ignore[misc]
            wrong |= found.wrong
            total += min(found.ms.values(), default=math.inf)
    return total


def candidates(caps: Caps, call: GemmCall) -> tuple[Gemm, ...]:
    """The default, those on units, which it is about, and the others: time may be up before all are tried."""
    default, *others = choice.candidates(caps, call)
    return default, *sorted(others, key=lambda row: row.units is None)


def layer(ops: WebGPU, rows: int, columns: int, depth: int) -> GemmCall:
    """The second one of a block: in f16 it multiplies halves, and makes floats."""
    half = ops.precision

    def noise() -> np.ndarray:
        return np.random.default_rng(0).standard_normal((depth, columns)).astype(NUMPY[half])

    def tensor(width: int, dtype: Precision) -> Tensor:
        return Tensor(Buffer(ops.gpu, itemsize(dtype) * rows * width, "contest", "pinned"), (1, 1, rows, width), dtype)

    weight = ops.recorder.buffer(itemsize(half) * depth * columns, "contest weight", "weight", noise)
    w = Weight(Binding("w", "read", weight, (depth, columns), dtype=half))
    return GemmCall("linear", "contest", Operands(tensor(depth, half), w, tensor(columns, "f32"), depth, columns))
