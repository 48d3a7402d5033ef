"""Specs of the tables of a schedule: a row a timestep."""

from __future__ import annotations

from typing import Any

import numpy as np

from moebius.check.bounds import SILU, sums
from moebius.check.specs.case import Input, OpCase, OpSpec, Sizes
from moebius.model.contract import Timesteps
from moebius.model.params import Params, Shapes


def time_embedding_bound(t: Timesteps, p: Params) -> float:
    return sums(*p["time_embedding.linear_1.weight"].shape[::-1]) + 2 * SILU


def time_embedding(timesteps: Timesteps, width: int, hidden: int) -> OpCase:
    shapes: Shapes = {}
    for i, k in ((1, width), (2, hidden)):
        shapes |= {f"time_embedding.linear_{i}.weight": (hidden, k), f"time_embedding.linear_{i}.bias": (hidden,)}
    title = f"{len(timesteps)} rows, {width} → {hidden}"
    return OpCase("time_embedding", title, lambda o, p: o.time_embedding(timesteps, p), shapes, timesteps=timesteps)


def time_embedding_sizes(t: Timesteps, p: Params) -> Sizes:
    hidden, width = p["time_embedding.linear_1.weight"].shape
    return Sizes((1, 1, len(t)), {"width": width, "hidden": hidden}, ((1, 1, len(t), hidden),))


def time_shift_bound(temb: np.ndarray, p: Params) -> float:
    return sums(temb.shape[-1])


def time_shift(rows: int, k: int, n: int) -> OpCase:
    table = Input("t", (1, k, 1, rows), table=True)
    return OpCase("time_shift", f"{rows} rows, {k} → {n}", lambda o, p, x: o.time_shift(x, p), {"weight": (n, k), "bias": (n,)}, (table,))


def time_shift_sizes(temb: Any, p: Params) -> Sizes:
    n, k = p["weight"].shape
    return Sizes(temb.shape[:3], {"k": k, "n": n}, ((*temb.shape[:3], n),))


SPECS = (
    OpSpec("time_embedding", time_embedding_bound, time_embedding, time_embedding_sizes),
    OpSpec("time_shift", time_shift_bound, time_shift, time_shift_sizes),
)
