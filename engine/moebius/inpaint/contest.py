"""Whether Dawn with matrix units is faster on a GPU than wgpu without: the best kernel of each on three layers, measured once and kept.
So is whether it was worth opening Dawn there at all."""

from __future__ import annotations

import hashlib
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np

from moebius.backends.webgpu import WebGPU
from moebius.backends.webgpu.calls import GemmCall, Operands, Weight
from moebius.backends.webgpu.tensor import NUMPY, Binding, Buffer, Tensor
from moebius.backends.webgpu.tuner import Tuner
from moebius.inpaint import verdicts
from moebius.weights import folders

LAYERS = ((8192, 320, 320), (2048, 640, 640), (512, 1280, 1280))  # rows, columns and depth of the full model's, one a level


def is_faster(one: WebGPU, other: WebGPU) -> bool:
    """Whether the layers take the first less time in all; from the cache where that was asked before."""
    file = _file(*map(verdicts.digest_of, (one, other)), one.precision, other.precision)
    match folders.read_note(file):
        case {"ms": [int() | float() as ms, int() | float() as others]}:
            return ms < others
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


def keep(ops: WebGPU, worth: bool) -> None:
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
    with ops.gpu.turns:
        tuner = Tuner(ops.gpu, ops.caps)
        return sum(min(tuner.measure(layer(ops, *sizes)).ms.values()) for sizes in LAYERS)


def layer(ops: WebGPU, rows: int, columns: int, depth: int) -> GemmCall:
    def noise() -> np.ndarray:
        return np.random.default_rng(0).standard_normal((depth, columns)).astype(NUMPY[ops.precision])

    weight = ops.recorder.buffer(noise().nbytes, "contest weight", "weight", noise)
    a, out = (Tensor(Buffer(ops.gpu, 4 * rows * width, "contest", "pinned"), (1, 1, rows, width)) for width in (depth, columns))
    w = Weight(Binding("w", "read", weight, (depth, columns), dtype=ops.precision))
    return GemmCall("linear", "contest", Operands(a, w, out, depth, columns))
