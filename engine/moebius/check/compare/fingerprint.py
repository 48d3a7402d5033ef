"""The fingerprint: what `moebius compare` measured on one machine, one JSON file, format 1.

::

    {"format": "moebius-fingerprint", "version": 1,
     "moebius": "0.1.0", "made": "2026-01-31T12:00:00Z",
     "machine": {"system": …, "processor": …, "cores": …, "python": …, "numpy": …},     strings; no host name, no user
     "set": "default" | "full",
     "columns": [COLUMN, …]}

A **COLUMN** is one adapter through one implementation, measured in a process of its own::

    {"name": "llvmpipe (LLVM 15.0.6, 256 bits) (CPU) via Vulkan, wgpu 0.32.0",           unique within a file; ends in ", f16" for that
     "implementation": "wgpu" | "dawn" | "chromium" | "numpy" | …,
     "adapter": {"device": …, "vendor": …, "backend": …, "type": …, "driver": …},        strings
     "limits": {"max-buffer-size": 268435456, …}, "features": ["timestamp-query", …],
     "versions": {"wgpu": "0.32.0", …},
     "shaders": SHA-256 of every shader's text, or null where there are none,
     "status": "done" | "refused" | "failed" | "hung" | "crashed", "reason": "…" (absent when done),
     "seconds": 41.2,
     "ops": [OP, …], "runs": [RUN, …]}

A status is `refused` where the adapter's limits do not allow it (an explanation, not a fault), `failed` where it raised an error,
`hung` where it gave no sign of life for the time allowed, `crashed` where the process died. A column's status is the worst of it.

Anything measured may be missing from a column: it is then "not measured", never an error.

An **OP** is one output of one op on one case of the fixed set (`moebius.check.compare.cases`)::

    {"op": "conv3x3",                   the method of moebius.model.contract.Ops
     "case": "2×5×7, 5 → 6 channels",   unique within an op; "…, output 1" for a second output
     "kind": "edge" | "model",
     "inputs": checksum of every input and parameter: rows are compared between columns only where it is the same,
     "status", "reason" as above;       what follows is there when done
     "ms": 0.81,                        median of a few runs after the first, from submit to readback
     "repeatable": true,                those runs had the same bits
     ERRORS,
      "map": {"height": 5, "width": 7, "ulps": "base64"}}   the largest error in ULPs at every position (over batch and channels; of
                                        one row of positions, and of a table: of every position and channel),
                                        little-endian float16, at most 16×16 (maxima of blocks)

**ERRORS** say how far the tensor lies from the float64 oracle. got is the tensor, want the oracle's, in float64; rms is the root of
the mean square of want (1 where that is 0)::

    "shape": [2, 5, 7, 6],              channels last, (B, H, W, C); tables (T, C)
    "checksum": checksum of the tensor (below),
    "max_ulp": max |got - want| / ulp(max(|want|, rms)),  ulp(x) = 2^(floor(log2 x) - 23): values near zero are judged by the
                                        scale of their tensor, for a sum that cancels has no digits of its own
    "relative_l2": ‖got - want‖ / ‖want‖   (the rms of the difference where ‖want‖ is 0),
    "bias": mean(got - want) / rms      a rounding has none,
    "max_abs": max |got - want|, "rms": rms,
    "limit": the relative_l2 that rounding in the column's precision explains (`moebius.check.specs`), or null where none is known

A difference is **rounding** when relative_l2 ≤ limit and max_abs ≤ 8·limit·rms (`moebius.check.bounds.is_rounding`); limit 0 means exact.
Where the tensor is not finite, max_ulp, relative_l2, bias and max_abs are null and the row is not rounding.

A **RUN** is one model from end to end, or a part of it::

    {"name": "end to end" | "full step",
     "model": "nano" | …, "settings": {"steps": 4, …},
     "inputs": checksum of the weights, the photo, the mask and the settings,
     "status", "reason" as above,
     "seconds": {"encode": 0.4, "denoise": 1.9, "decode": 0.5, …},
     "repeatable": true,                a second run had the same bits
     "trace": [TRACED, …],              ops in the order of execution: the encoders, the first sampling step, the decoder
     "outputs": [{"name": "latents", ERRORS, "map": …}, {"name": "picture", ERRORS}],   against the oracle's run of everything;
                                        a picture's values are the bytes that the model made, at its own size; "map" as in
                                        an OP, may be missing
     "picture": base64 of a PNG, what the user sees; absent in a part of a run}

A **TRACED** is one output of one op call. The oracle goes along: every stage is also run in float64 from the inputs of that stage::

    {"stage": "encoder 1" | "encoder 2" | "step 1" | "decoder 1",
     "op": "group_norm", "path": "encoder.conv_norm_out", "shape": [1, 16, 16, 64], "checksum": …,
     "relative_l2": error against the oracle's run of the stage: what has gathered on the way is in it,
     "own": error against the oracle applied to this adapter's own inputs of this op: its rounding alone,
     "own_max_abs": …, "rms": …,        of that comparison
     "limit": the `own` that rounding explains}

`own`, `own_max_abs`, `rms`, `limit` are absent where only the run's own tensors could be had (a browser).

A **checksum** is the first 16 hexadecimal digits of the SHA-256 of the tensor as little-endian float32, channels last without
padding, -0 written as 0. Two columns are bit-identical in a row when their checksums are equal.

Files are given by others: `load` believes nothing (sizes, types, ranges), and the report escapes every text.
"""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from moebius.check import bounds

FORMAT, VERSION = "moebius-fingerprint", 1
HALVES = ", f16"  # ends the name of a column in f16
STATUSES = ("done", "refused", "failed", "hung", "crashed")  # from good to bad
MAP_SIDE = 16
LARGEST_ULP = 60_000.0  # float16 ends at 65 504

Json = dict[str, Any]


# numbers -------------------------------------------------------------------------------------------------------------
def digest(*arrays: np.ndarray) -> str:
    """The checksum of tensors, one after the other."""
    hashed = hashlib.sha256()
    for array in arrays:
        hashed.update(np.ascontiguousarray(np.asarray(array, "<f4") + np.float32(0)).data)  # -0 + 0 is 0
    return hashed.hexdigest()[:16]


def ulp(x: np.ndarray) -> np.ndarray:
    """The distance of float32 numbers of that size: 2^(floor(log2 x) - 23), of positive normal numbers."""
    return np.ldexp(1.0, np.frexp(x)[1] - 24)


def errors(got: np.ndarray, want: np.ndarray, limit: float | None) -> Json:
    """ERRORS of a tensor (float32, or an oracle's float64) against the oracle's."""
    g, w = got.astype(np.float64).reshape(want.shape), want.astype(np.float64)
    norm = float(np.linalg.norm(w))
    rms = norm / math.sqrt(max(1, w.size)) or 1.0
    row: Json = {"shape": list(want.shape), "checksum": digest(got), "rms": rms, "limit": limit}
    if not np.isfinite(g).all():
        return row | dict.fromkeys(("max_ulp", "relative_l2", "bias", "max_abs"))
    difference = g - w
    return row | {
        "max_ulp": float(ulps(difference, w, rms).max(initial=0)),
        "relative_l2": float(np.linalg.norm(difference)) / (norm or math.sqrt(max(1, w.size))),
        "bias": float(difference.mean()) / rms,
        "max_abs": float(np.abs(difference).max(initial=0)),
    }


def ulps(difference: np.ndarray, want: np.ndarray, rms: float) -> np.ndarray:
    return np.abs(difference) / ulp(np.maximum(np.abs(want), max(rms, 2.0**-126)))


def error_map(got: np.ndarray, want: np.ndarray) -> Json:
    """The largest error in ULPs at every position, over batch and channels; a table's rows and columns are its positions."""
    w = want.astype(np.float64)
    rms = float(np.sqrt(np.mean(w * w))) or 1.0
    with np.errstate(invalid="ignore"):
        error = ulps(got.astype(np.float64).reshape(w.shape) - w, w, rms)
    error = np.where(np.isfinite(error), error, LARGEST_ULP)
    flat = error.max(axis=(0, 3)) if error.ndim == 4 and error.shape[1] > 1 else error.reshape(-1, error.shape[-1])
    for axis in (0, 1):
        cuts = np.linspace(0, flat.shape[axis], min(MAP_SIDE, flat.shape[axis]) + 1).astype(int)[:-1]
        flat = np.maximum.reduceat(flat, cuts, axis=axis)
    half = np.minimum(flat, LARGEST_ULP).astype("<f2")
    return {"height": flat.shape[0], "width": flat.shape[1], "ulps": base64.b64encode(half.tobytes()).decode()}


def decoded_map(kept: Json) -> np.ndarray:
    values = np.frombuffer(base64.b64decode(kept["ulps"]), "<f2").astype(np.float64)
    finite = np.nan_to_num(values, nan=LARGEST_ULP, posinf=LARGEST_ULP, neginf=0.0)
    return np.maximum(finite, 0).reshape(kept["height"], kept["width"])


def is_rounding(row: Json) -> bool | None:
    """Whether rounding explains an OP's or an output's distance from the oracle; None where no limit is known."""
    return _inside(row, "relative_l2", "max_abs")


def is_own_rounding(traced: Json) -> bool | None:
    """The same of what one op of a run did to its own inputs."""
    return _inside(traced, "own", "own_max_abs") if "own" in traced else None


def _inside(row: Json, relative: str, largest: str) -> bool | None:
    if row.get("limit") is None:
        return None
    if row[relative] is None or row[largest] is None:
        return False
    return bounds.is_rounding(row[relative], row[largest], row["rms"], row["limit"])


def worst(statuses: Iterable[str]) -> str:
    return max(statuses, key=STATUSES.index, default="done")
