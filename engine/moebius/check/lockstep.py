"""Lock-step validation: the model runs once, every op on two implementations from the same inputs, and is compared.

The GPU's own tensors are the inputs of both, so an error is that op's own and never one that came down the network.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from moebius.backends.reference import Reference
from moebius.backends.webgpu import WebGPU
from moebius.backends.webgpu.tensor import Tensor
from moebius.errors import UsageError
from moebius.model import unet, vae
from moebius.model.contract import POSITION_WINDOW, Condition, Ops, Step, StepState, Tap, Timesteps
from moebius.model.params import Params
from moebius.model.synthetic import rng, synthetic
from moebius.model.unet import UNet, UNetConfig
from moebius.model.vae import VAE, VAEConfig

U = 2.0**-24  # unit roundoff of float32
# WGSL grants exp an error of 3 + 2·|x| ulp. |x| is about 1 where SiLU is not close to linear, 8 under a softmax's maximum.
SILU, SOFTMAX = 5 * 2.0**-23, 19 * 2.0**-23
OPS = {name for name, value in vars(Ops).items() if callable(value) and not name.startswith("_")} - {
    "run",
    "loop",
    "rehearse",
    "tap",
    "condition",
}


WORST = 8  # a single value may be this many limits of the root mean square away: one wrong value is lost in the norm of a million


@dataclass(frozen=True)
class Row:
    """One call of one op. `limit` bounds `relative_l2`, and WORST times it bounds `max_abs` over the root mean square."""

    op: str
    path: str
    shape: tuple[int, ...]
    max_abs: float
    relative_l2: float
    limit: float
    rms: float

    @property
    def ok(self) -> bool:
        return bool(self.relative_l2 <= self.limit and self.max_abs <= WORST * self.limit * self.rms)  # False for NaN


def sums(*lengths: int) -> float:
    """Relative L2 error of chained sums of that many float32 products: a random walk of roundings each, and a few on the way."""
    return U * sum(math.sqrt(n) + 4 for n in lengths)


def offset_ratio(x: np.ndarray, axes: tuple[int, ...]) -> float:
    """rms of |mean| over rms of the deviation: how many digits a norm loses by subtracting the mean."""
    mean = x.mean(axis=axes, keepdims=True)
    return float(np.sqrt(np.mean(mean**2) / max(np.mean((x - mean) ** 2), 1e-30)))


def cancellation(x: np.ndarray, p: Params, residual: np.ndarray | None = None) -> float:
    """How much larger the terms of a layer's sums are, by their root sum of squares, than what is left of them: the roundings are those
    of sums on the way. Terms of random signs leave as much as they are; trained ones may leave far less. At most a thousand times, for a
    bound that forgives everything is none."""
    w = p["weight"].astype(np.float64)
    w = w.reshape(len(w), -1)
    y, squares = x @ w.T, x**2 @ (w**2).T
    for term in (p.get("bias"), residual):
        if term is not None:
            y, squares = y + term, squares + np.square(term, dtype=np.float64)
    terms, left = math.sqrt(float(squares.sum())), float(np.linalg.norm(y))
    return max(1.0, terms / max(left, terms / 1000)) if terms else 1.0


def bound(op: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> float:
    """What float32 may lose in an op, from the sizes of its sums, its exponentials and, for norms, the offset of its input."""
    x: Any = args[0]
    p = next((a for a in args if isinstance(a, Params)), None)
    c = x.shape[-1] if isinstance(x, np.ndarray) else 1
    positions = int(np.prod(x.shape[1:3])) if isinstance(x, np.ndarray) and x.ndim == 4 else 1
    match op:
        case "time_embedding":
            assert p is not None
            return sums(*p["time_embedding.linear_1.weight"].shape[::-1]) + 2 * SILU
        case "time_shift":
            return sums(c)
        case "linear":
            assert p is not None
            return sums(c) * cancellation(x, p, *args[2:], **kwargs)
        case "conv3x3" | "upsample_conv3x3":
            return sums(9 * c)
        case "dwconv":
            return sums(9, c)
        case "feed_forward":
            assert p is not None
            return sums(c, 9, p["point_conv.conv.weight"].shape[1]) + 2 * SILU
        case "group_norm":
            groups = args[2]
            grouped = x.reshape(x.shape[0], positions, groups, c // groups)
            return U * (16 + 4 * offset_ratio(grouped, (1, 3))) + (SILU if kwargs.get("silu") else 0)
        case "layer_norm":
            return U * (16 + 4 * offset_ratio(x, (-1,)))
        case "self_lambda":
            k = c // args[2]
            return sums(c, positions, k, k, POSITION_WINDOW**2) + SOFTMAX
        case "cross_lambda":
            return sums(c, c // args[3], args[1].ids.shape[1])
        case "attention":
            return sums(c, c, positions, c) + SOFTMAX
        case "guided_ddim":
            return 8 * U
        case _:  # concat, unet_input: copies
            return 0.0


class LockStep:
    """The ops contract on `gpu`, every op checked against `oracle` before the model goes on."""

    def __init__(self, gpu: WebGPU, report: Callable[[Row], None]) -> None:
        self.gpu, self.report, self.oracle = gpu, report, Reference(np.float64)

    def run(self, forward: Callable[..., Any], arrays: list[np.ndarray], *args: Any, tap: Tap | None = None) -> np.ndarray:
        with self.gpu.eager():
            out = self.gpu.read(forward(*(self.gpu.tensor(a) for a in arrays), *args))
        return np.ascontiguousarray(np.moveaxis(out, -1, 1))

    def loop(self, step: Step, arrays: list[np.ndarray], timesteps: Timesteps) -> Iterator[StepState]:
        """One guided step: from the second on the ops are the same."""
        y = self.run(lambda *tensors: step(*tensors, slice(0, 1))[0], arrays)
        yield StepState(0, timesteps[0], lambda: y, lambda: y)

    def tap(self, path: str, x: Any, layout: str = "image") -> None: ...

    def condition(self, ids: np.ndarray, p: Params) -> Condition:
        return self.oracle.condition(ids, p)

    def __getattr__(self, op: str) -> Callable[..., Any]:
        if op not in OPS:
            raise AttributeError(op)
        return lambda *args, **kwargs: self._both(op, args, kwargs)

    def _both(self, op: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        got = getattr(self.gpu, op)(*args, **kwargs)
        args64, kwargs64 = tuple(map(self._host, args)), {k: self._host(v) for k, v in kwargs.items()}
        limit = bound(op, args64, kwargs64)
        want = getattr(self.oracle, op)(*args64, **kwargs64)
        path = next((a.path for a in args if isinstance(a, Params)), op)
        pairs = zip(got, want, strict=True) if isinstance(got, tuple) else [(got, want)]
        for g, w in pairs:
            host = self.gpu.read(g).astype(np.float64)
            difference = np.abs(host - w.reshape(host.shape))
            norm = float(np.linalg.norm(w)) or 1.0
            error = float(np.linalg.norm(difference)) / norm
            self.report(Row(op, path, g.shape, float(difference.max()), error, limit, norm / np.sqrt(difference.size)))
        return got

    def _host(self, value: Any) -> Any:
        return self.gpu.read(value).astype(np.float64) if isinstance(value, Tensor) else value


def validate(gpu: WebGPU, config: str, image_size: int | None, report: Callable[[Row], None]) -> None:
    """UNet, one guided sampling step, VAE both ways; synthetic weights of seed 0."""
    from moebius.model.denoise import Denoiser  # not at the top: denoise needs no GPU and is imported without one
    from moebius.model.scheduler import DDIM
    from moebius.model.unet import condition_ids

    unet_config = UNetConfig.full() if config == "full" else UNetConfig.tiny()
    vae_config = VAEConfig.full() if config == "full" else VAEConfig.tiny()
    if image_size is not None and (image_size <= 0 or image_size % vae_config.factor):
        raise UsageError(f"The image size is {image_size}; it must be a multiple of {vae_config.factor} from {vae_config.factor} up.")
    ops: Ops = LockStep(gpu, report)  # type: ignore[assignment]
    scheduler = DDIM()
    timesteps = scheduler.timesteps()
    net = UNet(unet_config, synthetic(unet.shapes(unet_config), 0), ops)
    denoiser = Denoiser(net, condition_ids(unet_config), timesteps.tolist(), scheduler.coefficients(timesteps, 20), 2.5)
    s = unet_config.sample_size
    noise = {name: rng(0, f"validate.{name}").standard_normal((1, 4, s, s), dtype=np.float32) for name in ("y", "masked")}
    mask = (rng(0, "validate.mask").random((1, 1, s, s)) < 0.3).astype(np.float32)
    next(denoiser.steps(noise["y"], mask, noise["masked"]))
    del net, denoiser
    coder = VAE(vae_config, synthetic(vae.shapes(vae_config), 0), ops)
    size = image_size or s * vae_config.factor
    coder.encode(np.clip(rng(0, "validate.image").standard_normal((1, 3, size, size), dtype=np.float32), -1, 1))
    latent = size // vae_config.factor
    coder.decode(rng(0, "validate.latent").standard_normal((1, vae_config.latent_channels, latent, latent), dtype=np.float32))


def as_dict(row: Row) -> dict[str, Any]:
    return asdict(row) | {"shape": list(row.shape), "ok": row.ok}
