"""Specs of the norms."""

from __future__ import annotations

from typing import Any

import numpy as np

from moebius.check.bounds import SILU, norm
from moebius.check.specs.case import OpCase, OpSpec, Size, Sizes, image, titled
from moebius.model.params import Params


def group_norm_bound(x: np.ndarray, p: Params, groups: int, eps: float, *positional: bool, silu: bool = False) -> float:
    """`silu` counts by name alone: the fixed set of `moebius compare` gives it by position, and its limits, which are kept in
    fingerprints, are those of the norm by itself."""
    grouped = x.reshape(x.shape[0], -1, groups, x.shape[-1] // groups)
    return norm(grouped, (1, 3)) + (SILU if silu else 0)


def group_norm(size: Size, groups: int, width: int, eps: float = 1e-5, silu: bool = False) -> OpCase:
    c = groups * width
    return OpCase(
        "group_norm",
        titled(size, f"{c} channels in {groups} groups{', SiLU' * silu}"),
        lambda o, p, x: o.group_norm(x, p, groups, eps, silu),
        {"weight": (c,), "bias": (c,)},
        (image("x", size, c),),
    )


def group_norm_sizes(x: Any, p: Params, groups: int, eps: float, silu: bool = False) -> Sizes:
    return Sizes(x.shape[:3], {"groups": groups, "width": x.shape[3] // groups, "eps": eps, "silu": silu}, (x.shape,))


def layer_norm_bound(x: np.ndarray, p: Params, eps: float = 1e-5) -> float:
    return norm(x, (-1,))


def layer_norm(size: Size, c: int) -> OpCase:
    inputs = (image("x", size, c),)
    return OpCase("layer_norm", titled(size, f"{c} channels"), lambda o, p, x: o.layer_norm(x, p), {"weight": (c,), "bias": (c,)}, inputs)


def layer_norm_sizes(x: Any, p: Params, eps: float = 1e-5) -> Sizes:
    return Sizes(x.shape[:3], {"c": x.shape[3]}, (x.shape,))


SPECS = (
    OpSpec("group_norm", group_norm_bound, group_norm, group_norm_sizes),
    OpSpec("layer_norm", layer_norm_bound, layer_norm, layer_norm_sizes),
)
