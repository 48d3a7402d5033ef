"""The bytes a dispatch cannot do without: every value it uses read once, every value it makes written once.

A plan counts the bytes of what is bound, which is more where a kernel uses a part of a buffer only: the keys of [q, k, v], one row of a
table. Counted so, a kernel could seem faster than the memory is.
"""

from __future__ import annotations

from moebius.backends.webgpu import wgsl
from moebius.backends.webgpu.dispatch import Dispatch
from moebius.backends.webgpu.tensor import Binding

ROWS = wgsl.numbers("gemm")["ROWS"]


def traffic(d: Dispatch) -> int:
    bound = d.bindings if d.over is None else [*d.bindings, d.over]
    return int(sum(min(b.nbytes, needed(d, b)) for b in bound))


def needed(d: Dispatch, b: Binding) -> float:
    p = d.params
    match d.shader, b.name:
        case "gemm" | "gemm_blocked", "a" if dict(d.constants)["MODE"] == ROWS:
            return 4 * (p["rows"] - p["row0"]) * p["k"] * d.grid[2]
        case "gemm" | "gemm_blocked", "w" if dict(d.constants)["MODE"] == ROWS:
            return 16 * p["k"] * p["n4"] * d.grid[2]
        case "gemm" | "gemm_blocked", "shift":
            return 16 * p["n4"]
        case "lambda_content", "qkv":
            return 16 * d.grid[2] * p["positions"] * (p["k4"] + p["v4"])
        case "lambda_apply", "qkv":
            return 16 * p["images"] * p["height"] * p["width"] * (p["qkv_pitch"] - p["k4"])
        case "transpose", "x":
            return 4 * p["rows"] * p["columns"]
        case "guided_ddim", "coefficients":
            return 16
        case _, "flags":
            return 4
        case _:
            return b.nbytes
