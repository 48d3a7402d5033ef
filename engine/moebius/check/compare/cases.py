"""The fixed set of op calls: every op of the contract at edge shapes, and at shapes of the published model.

Inputs and parameters are the engine's portable noise, so every machine computes with the same bytes.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np

from moebius.backends.reference import Reference
from moebius.check import lockstep as validate
from moebius.check.compare.fingerprint import digest
from moebius.model.contract import Condition, Timesteps
from moebius.model.noise import Portable
from moebius.model.params import Checkpoint, Params, Shapes
from moebius.model.scheduler import DDIM

Size = tuple[int, int, int]  # (B, H, W)
Kind = Literal["edge", "model"]
TOKENS = 10
# A rounding of what a residual is added to is a rounding of the sum: a large one would hide the op.
RESIDUAL = 0.25
TRAIN_STEPS = 20


def normal(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Standard normals that depend on the name alone."""
    return Portable(zlib.crc32(name.encode())).draw(shape)


def portable_weights(shapes: Shapes, name: str) -> dict[str, np.ndarray]:
    """`moebius.weights.synthetic` from portable noise: the scales of real layers."""
    made = {}
    for path, shape in shapes.items():
        n, leaf = normal(f"{name} {path}", shape), path.rsplit(".", 1)[-1]
        if leaf == "running_var":
            made[path] = np.float32(0.5) + np.float32(0.5) * np.abs(n)
        elif leaf in ("running_mean", "bias"):
            made[path] = np.float32(0.1) * n
        elif leaf == "weight" and len(shape) == 1:
            made[path] = np.float32(1) + np.float32(0.1) * n
        elif leaf == "rel_pos_emb":
            made[path] = np.float32(0.3) * n
        else:
            made[path] = n / np.float32(math.sqrt(math.prod(shape[1:])))
    return made


@dataclass(frozen=True)
class Case:
    """One call of one op: `call(ops, params, *tensors)`, with `shapes` of the parameters below "layer" and of the NCHW inputs."""

    op: str
    name: str
    kind: Kind
    call: Callable[..., Any]
    shapes: Shapes
    sizes: tuple[tuple[int, ...], ...]
    scales: tuple[float, ...] = ()  # of the inputs, where it is not 1
    root: Shapes = field(default_factory=dict)  # parameters outside "layer"
    tables: tuple[int, ...] = ()  # which inputs are tables of T rows: (1, C, 1, T) here, (T, C) in NumPy
    timesteps: Timesteps | None = None  # what time_embedding takes in place of tensors

    @cached_property
    def inputs(self) -> list[np.ndarray]:
        scales = self.scales + (1.0,) * (len(self.sizes) - len(self.scales))
        return [
            np.float32(scale) * normal(f"{self.op} {self.name} input {i}", size)
            for i, (size, scale) in enumerate(zip(self.sizes, scales, strict=True))
        ]

    @cached_property
    def params(self) -> Params:
        shapes = {f"layer.{name}": shape for name, shape in self.shapes.items()} | self.root
        return Params(Checkpoint(portable_weights(shapes, f"{self.op} {self.name}")), "layer")

    def digest(self) -> str:
        root = self.params.root
        return digest(*self.inputs, *(root[name] for name in sorted(root)), np.array(self.timesteps or (), np.float32))

    def expected(self) -> list[tuple[np.ndarray, float]]:
        """The oracle's outputs, channels-last float64, each with the relative L2 error that rounding explains."""
        oracle = Bounded()
        out = listed(self.call(oracle, self.params, *self.numpy_tensors(oracle)))
        return list(zip(out, oracle.limits, strict=True))

    def numpy_tensors(self, ops: Any) -> list[np.ndarray]:
        tensors = [ops.tensor(a) for a in self.inputs]
        return [t.reshape(t.shape[2:]) if i in self.tables else t for i, t in enumerate(tensors)]

    def forget(self) -> None:
        """Lets go of the arrays: a set holds many."""
        self.__dict__.pop("inputs", None)
        self.__dict__.pop("params", None)


class Bounded:
    """The oracle; it also notes what float32 may lose in the outputs of the op that is called."""

    def __init__(self) -> None:
        self.oracle, self.limits = Reference(np.float64), [0.0]
        self.tensor = self.oracle.tensor

    def condition(self, ids: np.ndarray, p: Params) -> Condition:
        return self.oracle.condition(ids, p)

    def __getattr__(self, op: str) -> Callable[..., Any]:
        if op not in validate.OPS:
            raise AttributeError(op)

        def call(*args: Any, **kwargs: Any) -> Any:
            out = getattr(self.oracle, op)(*args, **kwargs)
            self.limits = limits(op, args, kwargs, out)
            return out

        return call


def listed(out: Any) -> list[Any]:
    return list(out) if isinstance(out, tuple) else [out]


def limits(op: str, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> list[float]:
    """What float32 may lose in every output of an op: `validate.bound`, and for guided_ddim, of few values in the cases here, how
    much larger the terms of its sums are than what is left of them; by half, for their roundings go both ways."""
    limit = validate.bound(op, args, kwargs)
    if op != "guided_ddim":
        return [limit] * len(listed(out))
    eps, y, coefficients, guidance = args
    at, bt, ap, bp = coefficients[0]
    u, c = np.split(np.abs(eps), 2) if len(eps) != len(y) else (np.zeros(()), np.abs(eps))
    noise = u + guidance * (c + u) if len(eps) != len(y) else c
    estimate = (np.abs(y) + bt * noise) / at
    sums = ap * estimate + bp * noise, estimate
    return [limit * max(1.0, float(np.linalg.norm(s) / np.linalg.norm(o)) / 2) for s, o in zip(sums, out, strict=True)]


# the ops -------------------------------------------------------------------------------------------------------------
def described(size: Size, text: str) -> str:
    return f"{'×'.join(map(str, size))}, {text}"


def image(size: Size, channels: int) -> tuple[int, ...]:
    return size[0], channels, *size[1:]


def batch_norm(name: str, n: int) -> Shapes:
    return {f"{name}.{leaf}": (n,) for leaf in ("weight", "bias", "running_mean", "running_var")}


def linear(kind: Kind, size: Size, k: int, n: int, residual: bool = True) -> Case:
    return Case(
        "linear",
        described(size, f"{k} → {n} channels{', residual' * residual}"),
        kind,
        lambda o, p, x, r=None: o.linear(x, p, r),
        {"weight": (n, k, 1, 1), "bias": (n,)},
        (image(size, k), image(size, n))[: 1 + residual],
        (1.0, RESIDUAL)[: 1 + residual],
    )


def conv3x3(kind: Kind, size: Size, k: int, n: int, stride: int = 1, pad: int = 1) -> Case:
    return Case(
        "conv3x3",
        described(size, f"{k} → {n} channels, stride {stride}, pad {pad}"),
        kind,
        lambda o, p, x: o.conv3x3(x, p, stride, pad),
        {"weight": (n, k, 3, 3), "bias": (n,)},
        (image(size, k),),
    )


def upsample_conv3x3(kind: Kind, size: Size, k: int, n: int) -> Case:
    shapes: Shapes = {"weight": (n, k, 3, 3), "bias": (n,)}
    name = described(size, f"{k} → {n} channels")
    return Case("upsample_conv3x3", name, kind, lambda o, p, x: o.upsample_conv3x3(x, p), shapes, (image(size, k),))


def dwconv(kind: Kind, size: Size, k: int, n: int, added: bool = True) -> Case:
    """`added`: with a shift and a residual, as in a resnet."""
    return Case(
        "dwconv",
        described(size, f"{k} → {n} channels{', shift and residual' * added}"),
        kind,
        lambda o, p, x, s=None, r=None: o.dwconv(x, p, s, r),
        {"conv_dw.weight": (k, 1, 3, 3), "conv_pw.weight": (n, k, 1, 1), **batch_norm("bn1", k), **batch_norm("bn2", n)},
        (image(size, k), (1, n, 1, 1), image(size, n))[: 1 + 2 * added],
        (1.0, RESIDUAL, RESIDUAL)[: 1 + 2 * added],
        tables=(1,)[:added],
    )


def feed_forward(kind: Kind, size: Size, c: int, hid: int) -> Case:
    shapes: Shapes = {"inverted_conv.conv.weight": (2 * hid, c, 1, 1), "inverted_conv.conv.bias": (2 * hid,)}
    shapes |= {"depth_conv.conv.weight": (2 * hid, 1, 3, 3), "depth_conv.conv.bias": (2 * hid,), "point_conv.conv.weight": (c, hid, 1, 1)}
    name = described(size, f"{c} channels, hidden {hid}")
    return Case("feed_forward", name, kind, lambda o, p, x, r: o.feed_forward(x, p, r), shapes, (image(size, c),) * 2, (1.0, RESIDUAL / 4))


def group_norm(kind: Kind, size: Size, groups: int, width: int, silu: bool) -> Case:
    c = groups * width
    name = described(size, f"{c} channels in {groups} groups{', SiLU' * silu}")
    shapes: Shapes = {"weight": (c,), "bias": (c,)}
    return Case("group_norm", name, kind, lambda o, p, x: o.group_norm(x, p, groups, 1e-5, silu), shapes, (image(size, c),))


def layer_norm(kind: Kind, size: Size, c: int) -> Case:
    shapes: Shapes = {"weight": (c,), "bias": (c,)}
    return Case("layer_norm", described(size, f"{c} channels"), kind, lambda o, p, x: o.layer_norm(x, p), shapes, (image(size, c),))


def lambda_shapes(c: int, k: int, source: tuple[int, ...]) -> Shapes:
    shapes: Shapes = {"to_q.weight": (c, c, 1, 1), "to_k.weight": (k, *source), "to_v.weight": (k, *source)}
    return shapes | batch_norm("norm_q", c) | batch_norm("norm_v", k)


def self_lambda(kind: Kind, size: Size, heads: int, k: int) -> Case:
    c = heads * k
    return Case(
        "self_lambda",
        described(size, f"{c} channels in {heads} heads"),
        kind,
        lambda o, p, x, r: o.self_lambda(x, p, heads, r),
        lambda_shapes(c, k, (c, 1, 1)) | {"pos_conv.weight": (k, 1, 1, 15, 15), "pos_conv.bias": (k,)},
        (image(size, c),) * 2,
        (1.0, RESIDUAL),
    )


def cross_lambda(kind: Kind, size: Size, heads: int, k: int, cond: int, hidden: int) -> Case:
    b, h, w = size
    c = heads * k
    ids = (np.arange(b * TOKENS).reshape(b, TOKENS) * 7 + 3) % 20
    root: Shapes = {"embedding_layer.weight": (20, hidden)}
    root |= {"diff_model.encoder_hid_proj.weight": (cond, hidden), "diff_model.encoder_hid_proj.bias": (cond,)}
    return Case(
        "cross_lambda",
        described(size, f"{c} channels in {heads} heads, {TOKENS} tokens of {cond}"),
        kind,
        lambda o, p, x, r: o.cross_lambda(x, o.condition(ids, Params(p.root)), p, heads, r),
        lambda_shapes(c, k, (cond,)) | {"rel_pos_emb": (h * w, TOKENS, k, 1)},
        (image(size, c),) * 2,
        (1.0, RESIDUAL),
        root,
    )


def attention(kind: Kind, size: Size, c: int) -> Case:
    names = ("to_q", "to_k", "to_v", "to_out.0")
    shapes: Shapes = {f"{name}.{leaf}": (c, c)[: 1 + (leaf == "weight")] for name in names for leaf in ("weight", "bias")}
    name = described(size, f"{c} channels")
    # The mean of many values is small, and so is the residual.
    return Case("attention", name, kind, lambda o, p, x, r: o.attention(x, p, r), shapes, (image(size, c),) * 2, (1.0, RESIDUAL / 4))


def time_embedding(kind: Kind, rows: int, width: int) -> Case:
    shapes: Shapes = {}
    for i, (n, k) in enumerate([(4 * width, width), (4 * width, 4 * width)], 1):
        shapes |= {f"time_embedding.linear_{i}.weight": (n, k), f"time_embedding.linear_{i}.bias": (n,)}
    steps = Timesteps(range(950, 0, -950 // rows)[:rows])
    return Case(
        "time_embedding", f"{rows} rows, {width} → {4 * width}", kind, lambda o, p: o.time_embedding(steps, p), shapes, (), timesteps=steps
    )


def time_shift(kind: Kind, rows: int, k: int, n: int) -> Case:
    shapes: Shapes = {"weight": (n, k), "bias": (n,)}
    return Case("time_shift", f"{rows} rows, {k} → {n}", kind, lambda o, p, x: o.time_shift(x, p), shapes, ((1, k, 1, rows),), tables=(0,))


def concat(kind: Kind, size: Size, a: int, b: int) -> Case:
    name = described(size, f"{a} and {b} channels")
    return Case("concat", name, kind, lambda o, p, x, y: o.concat(x, y), {}, (image(size, a), image(size, b)))


def unet_input(kind: Kind, size: Size, copies: int) -> Case:
    sizes = image(size, 4), image(size, 1), image(size, 4)
    return Case("unet_input", described(size, f"copies {copies}"), kind, lambda o, p, y, m, z: o.unet_input(y, m, z, copies), {}, sizes)


def guided_ddim(kind: Kind, size: Size, guidance: float) -> Case:
    rows = DDIM().coefficients(np.array([450]), TRAIN_STEPS)
    doubled = (size[0] * (1 if guidance == 1 else 2), *size[1:])
    name = described(size, f"guidance {guidance:g}")
    # y first: a recorded plan carries the new y into its first input.
    return Case("guided_ddim", name, kind, lambda o, p, y, e: o.guided_ddim(e, y, rows, guidance), {}, (image(size, 4), image(doubled, 4)))


def fixed_set() -> list[Case]:
    """Small to large within an op, in the contract's order. 1×1, odd sizes, one less and one more than a vec4 and a tile, batches
    of 1 and 2, many channels over few positions; then the published model's channels, over fewer positions where its own are many
    GFLOP."""
    one, odd, thin, few = (1, 1, 1), (2, 5, 7), (1, 17, 3), (1, 2, 3)
    return [
        time_embedding("edge", 3, 6),
        time_embedding("model", 20, 320),
        time_shift("edge", 3, 13, 10),
        time_shift("model", 20, 1280, 320),
        linear("edge", one, 1, 1),
        linear("edge", odd, 13, 10),
        linear("edge", thin, 64, 65, residual=False),
        linear("edge", few, 2563, 1277),
        linear("model", (1, 64, 64), 320, 320),
        linear("model", (1, 16, 16), 2560, 1280, residual=False),
        conv3x3("edge", one, 1, 1),
        conv3x3("edge", odd, 5, 6),
        conv3x3("edge", odd, 5, 6, stride=2),
        conv3x3("edge", thin, 7, 9, stride=2, pad=0),
        conv3x3("edge", few, 1283, 31),
        conv3x3("model", (1, 64, 64), 4, 512),
        conv3x3("model", (1, 64, 64), 320, 320, stride=2),
        upsample_conv3x3("edge", one, 1, 1),
        upsample_conv3x3("edge", odd, 5, 6),
        upsample_conv3x3("edge", few, 1283, 31),
        upsample_conv3x3("model", (1, 16, 16), 640, 640),
        dwconv("edge", one, 1, 1),
        dwconv("edge", odd, 13, 10),
        dwconv("edge", thin, 9, 9, added=False),
        dwconv("edge", few, 1283, 67),
        dwconv("model", (1, 64, 64), 9, 320, added=False),
        dwconv("model", (1, 64, 64), 320, 320),
        dwconv("model", (1, 16, 16), 1280, 1280),
        feed_forward("edge", one, 1, 1),
        feed_forward("edge", odd, 6, 15),
        feed_forward("edge", few, 130, 325),
        feed_forward("model", (1, 32, 32), 640, 1600),
        group_norm("edge", one, 1, 3, silu=False),
        group_norm("edge", odd, 3, 3, silu=True),
        group_norm("edge", few, 32, 41, silu=False),
        group_norm("model", (1, 64, 64), 32, 30, silu=True),
        group_norm("model", (1, 16, 16), 32, 40, silu=False),
        layer_norm("edge", one, 3),
        layer_norm("edge", odd, 13),
        layer_norm("edge", few, 1283),
        layer_norm("model", (1, 64, 64), 320),
        self_lambda("edge", one, 1, 2),
        self_lambda("edge", odd, 2, 3),
        self_lambda("edge", few, 8, 33),
        self_lambda("model", (1, 16, 16), 8, 160),
        self_lambda("model", (1, 64, 64), 8, 40),
        cross_lambda("edge", one, 1, 2, 7, 9),
        cross_lambda("edge", odd, 2, 3, 7, 9),
        cross_lambda("edge", few, 8, 33, 48, 96),
        cross_lambda("model", (1, 32, 32), 8, 80, 768, 3072),
        attention("edge", one, 4),
        attention("edge", odd, 12),
        attention("edge", few, 258),
        attention("model", (1, 32, 32), 512),
        concat("edge", odd, 5, 6),
        concat("edge", few, 1281, 643),
        concat("model", (1, 16, 16), 1280, 1280),
        unet_input("edge", odd, 1),
        unet_input("model", (1, 64, 64), 2),
        guided_ddim("edge", one, 2.5),
        guided_ddim("edge", odd, 1),
        guided_ddim("model", (1, 64, 64), 2.5),
    ]
