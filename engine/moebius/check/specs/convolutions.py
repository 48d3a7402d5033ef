"""Specs of the linear layers and the convolutions."""

from __future__ import annotations

from typing import Any

import numpy as np

from moebius.check.bounds import SILU, cancellation, sums
from moebius.check.specs.case import RESIDUAL, OpCase, OpSpec, Size, Sizes, batch_norm, image, titled
from moebius.model.params import Params, Shapes


# linear --------------------------------------------------------------------------------------------------------------
def linear_bound(x: np.ndarray, p: Params, residual: np.ndarray | None = None) -> float:
    return sums(x.shape[-1]) * cancellation(x, p, residual)


def linear(size: Size, k: int, n: int, bias: bool = True, residual: bool = True) -> OpCase:
    return OpCase(
        "linear",
        titled(size, f"{k} → {n} channels{', residual' * residual}"),
        lambda o, p, x, r=None: o.linear(x, p, r),
        {"weight": (n, k, 1, 1)} | ({"bias": (n,)} if bias else {}),
        (image("x", size, k), image("r", size, n, RESIDUAL))[: 1 + residual],
    )


def linear_sizes(x: Any, p: Params, residual: Any = None) -> Sizes:
    n, k = p["weight"].shape[:2]
    arguments = {"k": k, "n": n, "bias": p.get("bias") is not None, "residual": residual is not None}
    return Sizes(x.shape[:3], arguments, ((*x.shape[:3], n),))


# conv3x3 -------------------------------------------------------------------------------------------------------------
def conv3x3_bound(
    x: np.ndarray, p: Params, stride: int = 1, pad: int = 1, residual: np.ndarray | None = None, inner: bool = False
) -> float:
    return sums(9 * x.shape[-1])


def conv3x3(size: Size, k: int, n: int, stride: int = 1, pad: int = 1, residual: bool = False) -> OpCase:
    return OpCase(
        "conv3x3",
        titled(size, f"{k} → {n} channels, stride {stride}, pad {pad}{', residual' * residual}"),
        lambda o, p, x, r=None: o.conv3x3(x, p, stride, pad, r),
        {"weight": (n, k, 3, 3), "bias": (n,)},
        (image("x", size, k), image("r", strided(size, stride), n, RESIDUAL))[: 1 + residual],
    )


def conv3x3_sizes(x: Any, p: Params, stride: int = 1, pad: int = 1, residual: Any = None, inner: bool = False) -> Sizes:
    n, k = p["weight"].shape[:2]
    arguments = {"k": k, "n": n, "stride": stride, "pad": pad, "residual": residual is not None}
    return Sizes(x.shape[:3], arguments, ((*strided(x.shape[:3], stride), n),))


def strided(size: Size, stride: int) -> Size:
    return size[0], -(-size[1] // stride), -(-size[2] // stride)


# upsample_conv3x3 ----------------------------------------------------------------------------------------------------
def upsample_conv3x3_bound(x: np.ndarray, p: Params, inner: bool = False) -> float:
    return sums(9 * x.shape[-1])


def upsample_conv3x3(size: Size, k: int, n: int) -> OpCase:
    shapes: Shapes = {"weight": (n, k, 3, 3), "bias": (n,)}
    title = titled(size, f"{k} → {n} channels")
    return OpCase("upsample_conv3x3", title, lambda o, p, x: o.upsample_conv3x3(x, p), shapes, (image("x", size, k),))


def upsample_conv3x3_sizes(x: Any, p: Params, inner: bool = False) -> Sizes:
    n, k = p["weight"].shape[:2]
    b, h, w, _ = x.shape
    return Sizes((b, h, w), {"k": k, "n": n}, ((b, 2 * h, 2 * w, n),))


# dwconv --------------------------------------------------------------------------------------------------------------
def dwconv_bound(x: np.ndarray, p: Params, shift: np.ndarray | None = None, residual: np.ndarray | None = None) -> float:
    return sums(9, x.shape[-1])


def dwconv(size: Size, k: int, n: int, shift: bool = True, residual: bool = True) -> OpCase:
    """In a resnet the first one adds a shift, the second one a residual."""
    added = [name for name, there in (("shift", shift), ("residual", residual)) if there]
    inputs = [image("x", size, k)]
    inputs += [image("s", (1, 1, 1), n, RESIDUAL, table=True)] if shift else []
    inputs += [image("r", size, n, RESIDUAL)] if residual else []
    return OpCase(
        "dwconv",
        titled(size, f"{k} → {n} channels{', ' * bool(added)}{' and '.join(added)}"),
        lambda o, p, x, *others: o.dwconv(x, p, **dict(zip(added, others, strict=True))),
        {"conv_dw.weight": (k, 1, 3, 3), "conv_pw.weight": (n, k, 1, 1), **batch_norm("bn1", k), **batch_norm("bn2", n)},
        tuple(inputs),
    )


def dwconv_sizes(x: Any, p: Params, shift: Any = None, residual: Any = None) -> Sizes:
    n, k = p["conv_pw.weight"].shape[:2]
    arguments = {"k": k, "n": n, "shift": shift is not None, "residual": residual is not None}
    return Sizes(x.shape[:3], arguments, ((*x.shape[:3], n),))


# feed_forward --------------------------------------------------------------------------------------------------------
def feed_forward_bound(x: np.ndarray, p: Params, residual: np.ndarray) -> float:
    return sums(x.shape[-1], 9, p["point_conv.conv.weight"].shape[1]) + 2 * SILU


def feed_forward(size: Size, c: int, hid: int) -> OpCase:
    shapes: Shapes = {"inverted_conv.conv.weight": (2 * hid, c, 1, 1), "inverted_conv.conv.bias": (2 * hid,)}
    shapes |= {"depth_conv.conv.weight": (2 * hid, 1, 3, 3), "depth_conv.conv.bias": (2 * hid,), "point_conv.conv.weight": (c, hid, 1, 1)}
    inputs = image("x", size, c), image("r", size, c, RESIDUAL / 4)
    return OpCase("feed_forward", titled(size, f"{c} channels, hidden {hid}"), lambda o, p, x, r: o.feed_forward(x, p, r), shapes, inputs)


def feed_forward_sizes(x: Any, p: Params, residual: Any) -> Sizes:
    c, hid = p["point_conv.conv.weight"].shape[:2]
    return Sizes(x.shape[:3], {"c": c, "hid": hid}, (x.shape,))


SPECS = (
    OpSpec("linear", linear_bound, linear, linear_sizes),
    OpSpec("conv3x3", conv3x3_bound, conv3x3, conv3x3_sizes),
    OpSpec("upsample_conv3x3", upsample_conv3x3_bound, upsample_conv3x3, upsample_conv3x3_sizes),
    OpSpec("dwconv", dwconv_bound, dwconv, dwconv_sizes),
    OpSpec("feed_forward", feed_forward_bound, feed_forward, feed_forward_sizes),
)
