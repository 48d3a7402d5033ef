"""One call of one op, with its shapes and inputs: what the kernel tests check, and what the kernel benchmark times."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from goldens import noise
from harness import Guarded

from moebius.backends.reference import Reference
from moebius.backends.webgpu import WebGPU
from moebius.backends.webgpu.gemm import Tile
from moebius.backends.webgpu.plan import Plan
from moebius.model.contract import Timesteps
from moebius.model.params import Checkpoint, Params
from moebius.model.scheduler import DDIM
from moebius.model.synthetic import synthetic

EPS = float(np.finfo(np.float32).eps)
ORACLE = Reference(np.float64)
Size = tuple[int, int, int]  # (B, H, W)
Shapes = dict[str, tuple[int, ...]]


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
            given = iter(tensors)
            return self.call(gpu, p, *(a if a.dtype.kind == "i" else next(given) for a in self.inputs))

        return gpu.record(call, floats)

    def check(self, gpu: WebGPU, tile: Tile | None = None, **options: int) -> Guarded:
        guarded = Guarded(gpu, tile, **options)
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


def listed(x: Any) -> list[Any]:
    return list(x) if isinstance(x, tuple) else [x]


def distance(got: np.ndarray, want: np.ndarray) -> tuple[float, float]:
    """‖got - want‖ / ‖want‖, and the largest difference in units of want's root mean square; absolute where want is 0."""
    scale = float(np.sqrt(np.mean(want * want))) or 1.0
    difference = np.abs(got.astype(np.float64) - want)
    return float(np.sqrt(np.mean(difference**2))) / scale, float(difference.max()) / scale


def normal(name: str, *shape: int) -> np.ndarray:
    return noise(f"kernels.{name}", shape)


# the ops -------------------------------------------------------------------------------------------------------------
def batch_norm(name: str, n: int) -> Shapes:
    return {f"{name}.{leaf}": (n,) for leaf in ("weight", "bias", "running_mean", "running_var")}


def linear(size: Size, k: int = 13, n: int = 10, bias: bool = True, residual: bool = True) -> Case:
    b, h, w = size
    shapes = {"weight": (n, k, 1, 1), **({"bias": (n,)} if bias else {})}
    inputs = [normal("x", b, k, h, w), *([normal("r", b, n, h, w)] if residual else [])]
    return Case("linear", k + 2, shapes, inputs, lambda o, p, x, r=None: o.linear(x, p, r))


def conv3x3(size: Size, k: int = 5, n: int = 6, stride: int = 1, pad: int = 1, residual: bool = True) -> Case:
    b, h, w = size
    inputs = [normal("x", b, k, h, w), *([normal("r", b, n, -(-h // stride), -(-w // stride))] if residual else [])]
    shapes = {"weight": (n, k, 3, 3), "bias": (n,)}
    return Case(f"conv3x3 stride {stride} pad {pad}", 9 * k + 2, shapes, inputs, lambda o, p, x, r=None: o.conv3x3(x, p, stride, pad, r))


def upsample_conv3x3(size: Size, k: int = 5, n: int = 6) -> Case:
    b, h, w = size
    return Case(
        "upsample_conv3x3",
        9 * k + 1,
        {"weight": (n, k, 3, 3), "bias": (n,)},
        [normal("x", b, k, h, w)],
        lambda o, p, x: o.upsample_conv3x3(x, p),
    )


def dwconv(size: Size, k: int = 13, n: int = 10, shift: bool = True, residual: bool = True) -> Case:
    b, h, w = size
    shapes = {"conv_dw.weight": (k, 1, 3, 3), "conv_pw.weight": (n, k, 1, 1), **batch_norm("bn1", k), **batch_norm("bn2", n)}
    inputs = [normal("x", b, k, h, w)]
    inputs += [normal("s", 1, n, 1, 1)] if shift else []
    inputs += [normal("r", b, n, h, w)] if residual else []

    def call(o: Any, p: Params, x: Any, *rest: Any) -> Any:
        given = iter(rest)
        return o.dwconv(x, p, next(given) if shift else None, next(given) if residual else None)

    return Case("dwconv", 9 + k + 4, shapes, inputs, call)


def feed_forward(size: Size, c: int = 6, hid: int = 15) -> Case:
    b, h, w = size
    shapes: Shapes = {"inverted_conv.conv.weight": (2 * hid, c, 1, 1), "inverted_conv.conv.bias": (2 * hid,)}
    shapes |= {"depth_conv.conv.weight": (2 * hid, 1, 3, 3), "depth_conv.conv.bias": (2 * hid,), "point_conv.conv.weight": (c, hid, 1, 1)}
    inputs = [normal("x", b, c, h, w), normal("r", b, c, h, w)]
    return Case("feed_forward", c + 9 + hid + 3, shapes, inputs, lambda o, p, x, r: o.feed_forward(x, p, r))


def group_norm(size: Size, groups: int = 3, width: int = 3, eps: float = 1e-5, silu: bool = False) -> Case:
    b, h, w = size
    c = groups * width
    shapes = {"weight": (c,), "bias": (c,)}
    return Case("group_norm", 4, shapes, [normal("x", b, c, h, w)], lambda o, p, x: o.group_norm(x, p, groups, eps, silu))


def layer_norm(size: Size, c: int = 13) -> Case:
    b, h, w = size
    return Case("layer_norm", 4, {"weight": (c,), "bias": (c,)}, [normal("x", b, c, h, w)], lambda o, p, x: o.layer_norm(x, p))


def lambda_shapes(c: int, k: int, source: tuple[int, ...]) -> Shapes:
    shapes: Shapes = {"to_q.weight": (c, c, 1, 1), "to_k.weight": (k, *source), "to_v.weight": (k, *source)}
    return shapes | batch_norm("norm_q", c) | batch_norm("norm_v", k)


def self_lambda(size: Size, heads: int = 2, k: int = 3) -> Case:
    b, h, w = size
    c = heads * k
    shapes = lambda_shapes(c, k, (c, 1, 1)) | {"pos_conv.weight": (k, 1, 1, 15, 15), "pos_conv.bias": (k,)}
    inputs = [normal("x", b, c, h, w), normal("r", b, c, h, w)]
    return Case("self_lambda", c + h * w + 225 + k, shapes, inputs, lambda o, p, x, r: o.self_lambda(x, p, heads, r))


def cross_lambda(size: Size, heads: int = 2, k: int = 3, tokens: int = 10, cond: int = 7) -> Case:
    b, h, w = size
    c = heads * k
    shapes = lambda_shapes(c, k, (cond,)) | {"rel_pos_emb": (h * w, tokens, k, 1)}
    root = {"embedding_layer.weight": (20, 9), "diff_model.encoder_hid_proj.weight": (cond, 9), "diff_model.encoder_hid_proj.bias": (cond,)}

    def call(o: Any, p: Params, x: Any, r: Any, ids: np.ndarray) -> Any:
        return o.cross_lambda(x, o.condition(ids, Params(p.root)), p, heads, r)

    inputs = [normal("x", b, c, h, w), normal("r", b, c, h, w), np.random.default_rng(0).integers(0, 20, (b, tokens))]
    return Case("cross_lambda", c + cond + k + tokens, shapes, inputs, call, root=root)


def attention(size: Size, c: int = 12) -> Case:
    b, h, w = size
    shapes: Shapes = {f"{name}.{leaf}": (c, c)[: 1 + (leaf == "weight")] for name in QKVO for leaf in ("weight", "bias")}
    inputs = [normal("x", b, c, h, w), normal("r", b, c, h, w)]
    return Case("attention", 3 * c + h * w, shapes, inputs, lambda o, p, x, r: o.attention(x, p, r))


QKVO = ("to_q", "to_k", "to_v", "to_out.0")


def concat(size: Size, a: int = 5, c: int = 6) -> Case:
    b, h, w = size
    return Case("concat", 0, {}, [normal("a", b, a, h, w), normal("c", b, c, h, w)], lambda o, p, x, y: o.concat(x, y))


def unet_input(size: Size, copies: int = 2, channels: tuple[int, int, int] = (4, 1, 4)) -> Case:
    b, h, w = size
    inputs = [normal(name, b, n, h, w) for name, n in zip("ymz", channels, strict=True)]
    return Case("unet_input", 0, {}, inputs, lambda o, p, y, m, z: o.unet_input(y, m, z, copies))


def guided_ddim(size: Size, c: int = 4, guided: bool = True, guidance: float = 2.5) -> Case:
    b, h, w = size
    inputs = [normal("eps", b * (2 if guided else 1), c, h, w), normal("y", b, c, h, w)]
    rows = DDIM().coefficients(np.array([450]), 20)
    return Case("guided_ddim", 10, {}, inputs, lambda o, p, e, y: o.guided_ddim(e, y, rows, guidance))


def time_case(timesteps: Timesteps, width: int = 6, hidden: int = 10, n: int = 7) -> Case:
    layers = {"linear_1": (hidden, width), "linear_2": (hidden, hidden)}
    shapes = {f"time_embedding.{name}.weight": shape for name, shape in layers.items()} | {"time_emb_proj.weight": (n, hidden)}
    shapes |= {f"time_embedding.{name}.bias": (hidden,) for name in layers} | {"time_emb_proj.bias": (n,)}

    def call(o: Any, p: Params) -> Any:
        temb = o.time_embedding(timesteps, p)
        return temb, o.time_shift(temb, p.at("time_emb_proj"))

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
    "unet_input": unet_input,
    "guided_ddim": guided_ddim,
    "guided_ddim without guidance": lambda s: guided_ddim(s, guided=False),
}
