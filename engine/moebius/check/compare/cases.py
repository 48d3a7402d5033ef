"""The fixed set of op calls: every op of the contract at edge shapes, and at shapes of the published model.

Inputs and parameters are the engine's portable noise, so every machine computes with the same bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import DTypeLike

from moebius.backends.reference import Reference
from moebius.check.compare.fingerprint import digest
from moebius.check.compare.portable import normal, portable_weights
from moebius.check.specs import limits, listed
from moebius.check.specs.assembling import concat, guided_ddim, repeat, unet_input
from moebius.check.specs.attention import attention, cross_lambda, self_lambda
from moebius.check.specs.case import OpCase
from moebius.check.specs.convolutions import conv3x3, dwconv, feed_forward, linear, upsample_conv3x3
from moebius.check.specs.norms import group_norm, layer_norm
from moebius.check.specs.tables import time_embedding, time_shift
from moebius.check.standin import StandIn
from moebius.model.contract import Precision, Timesteps
from moebius.model.params import Checkpoint, Params

Kind = Literal["edge", "model"]


@dataclass(frozen=True)
class Case:
    """An op's case with inputs and parameters of portable noise, which depend on its op and its name alone."""

    kind: Kind
    of: OpCase

    @property
    def op(self) -> str:
        return self.of.op

    @property
    def name(self) -> str:
        """Unique within an op."""
        return self.of.title

    @cached_property
    def inputs(self) -> list[np.ndarray]:
        return [np.float32(x.scale) * normal(f"{self.op} {self.name} input {i}", x.shape) for i, x in enumerate(self.of.inputs)]

    @cached_property
    def params(self) -> Params:
        shapes = {f"layer.{name}": shape for name, shape in self.of.shapes.items()} | self.of.root
        return Params(Checkpoint(portable_weights(shapes, f"{self.op} {self.name}")), "layer")

    def digest(self) -> str:
        root = self.params.root
        return digest(*self.inputs, *(root[name] for name in sorted(root)), np.array(self.of.timesteps or (), np.float32))

    def call(self, ops: Any, *tensors: Any) -> list[Any]:
        """The outputs on any backend, from its own tensors."""
        return listed(self.of.call(ops, self.params, *tensors, *self.of.on_host))

    def expected(self, precision: Precision = "f32") -> list[tuple[np.ndarray, float]]:
        """The oracle's outputs, channels-last float64, each with the relative L2 error that rounding explains in this precision."""
        oracle = Bounded(Reference(np.float64), precision)
        out = self.call(oracle, *self.numpy_tensors(np.float64))
        return list(zip(out, oracle.limits, strict=True))

    def numpy_tensors(self, dtype: DTypeLike) -> list[np.ndarray]:
        return [x.in_numpy(a.astype(dtype)) for x, a in zip(self.of.inputs, self.inputs, strict=True)]

    def forget(self) -> None:
        """Lets go of the arrays: a set holds many."""
        self.__dict__.pop("inputs", None)
        self.__dict__.pop("params", None)


class Bounded(StandIn):
    """The oracle; it also notes what a precision may lose in the outputs of the op that is called."""

    limits: list[float]

    def __init__(self, ops: Reference, of: Precision) -> None:
        super().__init__(ops)
        self.of = of

    def called(self, op: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        out = super().called(op, args, kwargs)
        self.limits = limits(op, args, kwargs, out, self.of)
        return out


def fixed_set() -> list[Case]:
    """Small to large within an op, in the contract's order. 1×1, odd sizes, one less and one more than a vec4 and a tile, batches
    of 1 and 2, many channels over few positions; then the published model's channels, over fewer positions where its own are many
    GFLOP."""
    return [*table_cases(), *convolution_cases(), *norm_cases(), *attention_cases(), *joining_cases()]


ONE, ODD, THIN, FEW = (1, 1, 1), (2, 5, 7), (1, 17, 3), (1, 2, 3)  # edge sizes


def edge(case: OpCase) -> Case:
    return Case("edge", case)


def model(case: OpCase) -> Case:
    return Case("model", case)


def timesteps(rows: int) -> Timesteps:
    return Timesteps(range(950, 0, -950 // rows)[:rows])


def table_cases() -> list[Case]:
    return [
        edge(time_embedding(timesteps(3), 6, 24)),
        model(time_embedding(timesteps(20), 320, 1280)),
        edge(time_shift(3, 13, 10)),
        model(time_shift(20, 1280, 320)),
    ]


def convolution_cases() -> list[Case]:
    return [
        edge(linear(ONE, 1, 1)),
        edge(linear(ODD, 13, 10)),
        edge(linear(THIN, 64, 65, residual=False)),
        edge(linear(FEW, 2563, 1277)),
        model(linear((1, 64, 64), 320, 320)),
        model(linear((1, 16, 16), 2560, 1280, residual=False)),
        edge(conv3x3(ONE, 1, 1)),
        edge(conv3x3(ODD, 5, 6)),
        edge(conv3x3(ODD, 5, 6, stride=2)),
        edge(conv3x3(THIN, 7, 9, stride=2, pad=0)),
        edge(conv3x3(FEW, 1283, 31)),
        model(conv3x3((1, 64, 64), 4, 512)),
        model(conv3x3((1, 64, 64), 320, 320, stride=2)),
        edge(upsample_conv3x3(ONE, 1, 1)),
        edge(upsample_conv3x3(ODD, 5, 6)),
        edge(upsample_conv3x3(FEW, 1283, 31)),
        model(upsample_conv3x3((1, 16, 16), 640, 640)),
        edge(dwconv(ONE, 1, 1)),
        edge(dwconv(ODD, 13, 10)),
        edge(dwconv(THIN, 9, 9, shift=False, residual=False)),
        edge(dwconv(FEW, 1283, 67)),
        model(dwconv((1, 64, 64), 9, 320, shift=False, residual=False)),
        model(dwconv((1, 64, 64), 320, 320)),
        model(dwconv((1, 16, 16), 1280, 1280)),
        edge(feed_forward(ONE, 1, 1)),
        edge(feed_forward(ODD, 6, 15)),
        edge(feed_forward(FEW, 130, 325)),
        model(feed_forward((1, 32, 32), 640, 1600)),
    ]


def norm_cases() -> list[Case]:
    return [
        edge(group_norm(ONE, 1, 3)),
        edge(group_norm(ODD, 3, 3, silu=True)),
        edge(group_norm(FEW, 32, 41)),
        model(group_norm((1, 64, 64), 32, 30, silu=True)),
        model(group_norm((1, 16, 16), 32, 40)),
        edge(layer_norm(ONE, 3)),
        edge(layer_norm(ODD, 13)),
        edge(layer_norm(FEW, 1283)),
        model(layer_norm((1, 64, 64), 320)),
    ]


def attention_cases() -> list[Case]:
    return [
        edge(self_lambda(ONE, 1, 2)),
        edge(self_lambda(ODD, 2, 3)),
        edge(self_lambda(FEW, 8, 33)),
        model(self_lambda((1, 16, 16), 8, 160)),
        model(self_lambda((1, 64, 64), 8, 40)),
        edge(cross_lambda(ONE, 1, 2, cond=7, hidden=9)),
        edge(cross_lambda(ODD, 2, 3, cond=7, hidden=9)),
        edge(cross_lambda(ODD, 2, 3, cond=7, copies=2, hidden=9)),
        edge(cross_lambda(FEW, 8, 33, cond=48, hidden=96)),
        model(cross_lambda((1, 32, 32), 8, 80, cond=768, hidden=3072)),
        edge(attention(ONE, 4)),
        edge(attention(ODD, 12)),
        edge(attention(FEW, 258)),
        model(attention((1, 32, 32), 512)),
    ]


def joining_cases() -> list[Case]:
    return [
        edge(concat(ODD, 5, 6)),
        edge(concat(FEW, 1281, 643)),
        model(concat((1, 16, 16), 1280, 1280)),
        edge(repeat(ODD, 5, 3)),
        model(repeat((1, 64, 64), 320, 2)),
        edge(unet_input(ODD)),
        model(unet_input((1, 64, 64))),
        edge(guided_ddim(ONE, guidance=2.5)),
        edge(guided_ddim(ODD, guidance=1, guided=False)),
        model(guided_ddim((1, 64, 64), guidance=2.5)),
    ]
