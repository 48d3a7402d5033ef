"""The ops' cases (`moebius.check.specs`) as the kernel tests check them and the kernel benchmark times them: with noise and synthetic
weights, sizes of their own, on guarded buffers, within the limit of a tight sum."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from goldens import noise
from harness import Guarded

from moebius.backends.reference import Reference
from moebius.backends.webgpu import WebGPU
from moebius.backends.webgpu.menu import Gemm
from moebius.backends.webgpu.plan import Plan
from moebius.check.specs import assembling, convolutions, listed, norms, tables
from moebius.check.specs import attention as lambdas
from moebius.check.specs.case import OpCase, Size
from moebius.model.contract import Timesteps
from moebius.model.params import Checkpoint, Params, Shapes
from moebius.model.synthetic import synthetic

EPS = float(np.finfo(np.float32).eps)
ORACLE = Reference(np.float64)


@dataclass
class Case:
    """One call of one op: `shapes` of the parameters below "layer", `inputs` NCHW, `terms` products in the longest sum."""

    name: str
    terms: float
    shapes: Shapes
    inputs: list[np.ndarray]
    call: Callable[..., Any]
    weights: dict[str, np.ndarray] = field(default_factory=dict)  # in place of the synthetic ones
    root: Shapes = field(default_factory=dict)  # parameters outside "layer"
    condition: float = 1.0  # how much a rounding of the inputs is amplified, see `largest_logit`

    @property
    def limit(self) -> float:
        return 4 * EPS * math.sqrt(self.terms) * self.condition

    @property
    def params(self) -> Params:
        w = synthetic({f"layer.{name}": shape for name, shape in self.shapes.items()} | self.root, 0)
        return Params(Checkpoint(w | {f"layer.{name}": value for name, value in self.weights.items()}), "layer")

    def run(self, backend: Reference | WebGPU, p: Params | None = None) -> list[np.ndarray]:
        """The outputs, channels-last."""
        p = p or self.params

        def call() -> list[Any]:
            return listed(self.call(backend, p, *(a if a.dtype.kind == "i" else backend.tensor(a) for a in self.inputs)))

        if isinstance(backend, Reference):
            return call()
        with backend.eager():
            return [backend.read(t) for t in call()]

    def record(self, gpu: WebGPU, p: Params) -> Plan:
        """The op as a plan, for inputs of these shapes."""
        floats = [np.moveaxis(a, 1, -1).shape for a in self.inputs if a.dtype.kind == "f"]

        def call(*tensors: Any) -> Any:
            rest = iter(tensors)
            return self.call(gpu, p, *(a if a.dtype.kind == "i" else next(rest) for a in self.inputs))

        return gpu.record(call, floats)

    def check(self, gpu: WebGPU, row: Gemm | None = None, **options: Any) -> Guarded:
        guarded = Guarded(gpu, row, **options)
        p = self.params
        self.compare(self.run(guarded, p), self.run(ORACLE, p))
        return guarded

    def compare(self, got: list[np.ndarray], want: list[np.ndarray]) -> None:
        for g, w in zip(got, want, strict=True):
            assert g.shape[-w.ndim :] == w.shape, f"{self}: {g.shape}, not {w.shape}"  # the oracle's tables have two axes, a Tensor four
            g = g.reshape(w.shape)
            assert np.isfinite(g).all(), f"{self}: {np.isnan(g).sum()} NaN, {np.isinf(g).sum()} infinities of {g.size}"
            error, worst = distance(g, w)
            print(f"used of the limit: {self.name}: {error / (self.limit or 1):.3f} {worst / (5 * self.limit or 1):.3f}")
            assert error <= self.limit, f"{self}: {error:.2e} of the norm, limit {self.limit:.2e}"
            # A single wrong value is lost in the norm of many; five sigma more than the mean are none of chance.
            assert worst <= 5 * self.limit, f"{self}: off by {worst:.2e} of the root mean square, limit {5 * self.limit:.2e}"

    def __str__(self) -> str:
        return f"{self.name} on {[a.shape for a in self.inputs]} with {self.shapes}"


def distance(got: np.ndarray, want: np.ndarray) -> tuple[float, float]:
    """‖got - want‖ / ‖want‖, and the largest difference in units of want's root mean square; absolute where want is 0."""
    scale = float(np.sqrt(np.mean(want * want))) or 1.0
    difference = np.abs(got.astype(np.float64) - want)
    return float(np.sqrt(np.mean(difference**2))) / scale, float(difference.max()) / scale


def normal(name: str, *shape: int) -> np.ndarray:
    return noise(f"kernels.{name}", shape)


# the ops -------------------------------------------------------------------------------------------------------------
def case_of(spec: OpCase, terms: float, name: str | None = None) -> Case:
    """The spec's case with noise of this module's."""
    inputs = [normal(x.name, *x.shape) for x in spec.inputs]
    return Case(name or spec.op, terms, spec.shapes, [*inputs, *spec.on_host], spec.call, root=spec.root)


def linear(size: Size, k: int = 13, n: int = 10, bias: bool = True, residual: bool = True) -> Case:
    return case_of(convolutions.linear(size, k, n, bias, residual), k + 2)


def conv3x3(size: Size, k: int = 5, n: int = 6, stride: int = 1, pad: int = 1, residual: bool = True) -> Case:
    return case_of(convolutions.conv3x3(size, k, n, stride, pad, residual), 9 * k + 2, f"conv3x3 stride {stride} pad {pad}")


def upsample_conv3x3(size: Size, k: int = 5, n: int = 6) -> Case:
    return case_of(convolutions.upsample_conv3x3(size, k, n), 9 * k + 1)


def dwconv(size: Size, k: int = 13, n: int = 10, shift: bool = True, residual: bool = True) -> Case:
    return case_of(convolutions.dwconv(size, k, n, shift, residual), 9 + k + 4)


def feed_forward(size: Size, c: int = 6, hid: int = 15) -> Case:
    return case_of(convolutions.feed_forward(size, c, hid), c + 9 + hid + 3)


def group_norm(size: Size, groups: int = 3, width: int = 3, eps: float = 1e-5, silu: bool = False) -> Case:
    return case_of(norms.group_norm(size, groups, width, eps, silu), 4)


def layer_norm(size: Size, c: int = 13) -> Case:
    return case_of(norms.layer_norm(size, c), 4)


def self_lambda(size: Size, heads: int = 2, k: int = 3) -> Case:
    return case_of(lambdas.self_lambda(size, heads, k), heads * k + size[1] * size[2] + 225 + k)


def cross_lambda(size: Size, heads: int = 2, k: int = 3, tokens: int = 10, cond: int = 7, copies: int = 1) -> Case:
    ids = np.random.default_rng(0).integers(0, lambdas.EMBEDDINGS, (copies * size[0], tokens))
    return case_of(lambdas.cross_lambda(size, heads, k, tokens, cond, hidden=9, ids=ids), heads * k + cond + k + tokens)


def attention(size: Size, c: int = 12) -> Case:
    return case_of(lambdas.attention(size, c), 3 * c + size[1] * size[2])


def concat(size: Size, a: int = 5, c: int = 6) -> Case:
    return case_of(assembling.concat(size, a, c), 0)


def repeat(size: Size, c: int = 5, copies: int = 3) -> Case:
    return case_of(assembling.repeat(size, c, copies), 0)


def unet_input(size: Size, channels: tuple[int, int, int] = (4, 1, 4)) -> Case:
    return case_of(assembling.unet_input(size, channels), 0)


def guided_ddim(size: Size, c: int = 4, guided: bool = True, guidance: float = 2.5) -> Case:
    """ε is the first input here, as in the contract: it is the one whose values the tests vary."""
    spec = assembling.guided_ddim(size, c, guided, guidance)
    y, eps = spec.inputs
    return case_of(replace(spec, inputs=(eps, y), call=lambda o, p, e, y: spec.call(o, p, y, e)), 10)


def time_case(timesteps: Timesteps, width: int = 6, hidden: int = 10, n: int = 7) -> Case:
    """Both tables, the second one made from the first."""
    embedding, shift = tables.time_embedding(timesteps, width, hidden), tables.time_shift(len(timesteps), hidden, n)
    shapes = embedding.shapes | {f"time_emb_proj.{name}": shape for name, shape in shift.shapes.items()}

    def call(o: Any, p: Params) -> Any:
        temb = embedding.call(o, p)
        return temb, shift.call(o, p.at("time_emb_proj"), temb)

    return Case("time_embedding, time_shift", width + 2 * hidden + 3, shapes, [], call)


OPS: dict[str, Callable[[Size], Case]] = {
    "linear": linear,
    "linear alone": lambda s: linear(s, bias=False, residual=False),
    "linear without bias": lambda s: linear(s, bias=False),
    "linear without residual": lambda s: linear(s, residual=False),
    "conv3x3": conv3x3,
    "conv3x3 without residual": lambda s: conv3x3(s, residual=False),
    "conv3x3 stride 2": lambda s: conv3x3(s, stride=2),
    "conv3x3 stride 2 pad 0": lambda s: conv3x3(s, stride=2, pad=0),
    "upsample_conv3x3": upsample_conv3x3,
    "dwconv": lambda s: dwconv(s, shift=False, residual=False),
    "dwconv with shift": lambda s: dwconv(s, residual=False),
    "dwconv with residual": lambda s: dwconv(s, shift=False),
    "dwconv with its skip": lambda s: dwconv(s, n=13, shift=False, residual=False),
    "dwconv with all": lambda s: dwconv(s, n=13),
    "feed_forward": feed_forward,
    "group_norm": group_norm,
    "group_norm with SiLU": lambda s: group_norm(s, silu=True),
    "layer_norm": layer_norm,
    "self_lambda": self_lambda,
    "cross_lambda": cross_lambda,
    "attention": attention,
    "concat": concat,
    "repeat": repeat,
    "unet_input": unet_input,
    "guided_ddim": guided_ddim,
    "guided_ddim without guidance": lambda s: guided_ddim(s, guided=False),
}


# what the tests of them share ----------------------------------------------------------------------------------------
def is_swiftshader(gpu: WebGPU) -> bool:
    return "SwiftShader" in gpu.name


def some(gpu: WebGPU, few: Iterable, more: Iterable = ()) -> list:
    """The whole sweep runs on one driver (and on real GPUs), a representative part of it on the slower ones."""
    return list(few) if is_swiftshader(gpu) else [*few, *more]


def in_bands(case: Case, gpu: WebGPU, shader: str, tile: Gemm | None = None, **limits: int) -> int:
    """Checks a case whole and under `limits`, bit for bit; returns how many dispatches of `shader` the limits made of one."""
    whole, banded = case.check(gpu, tile), case.check(gpu, tile, **limits)
    for w, b in zip(case.run(whole), case.run(banded), strict=True):
        np.testing.assert_array_equal(w, b)
    count, counted = (sum(d.shader == shader for d in g.dispatches) for g in (whole, banded))
    assert count < counted, case
    return counted
