"""The quick check of an adapter: two networks of a few channels, every op of the contract in them, against float64.

About a second, most of it compiling. It finds a driver that computes wrong; how nearly right each kernel is, `moebius doctor` measures.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from moebius.backends.reference import Reference
from moebius.backends.webgpu.backend import WebGPU
from moebius.backends.webgpu.plan import Plan
from moebius.backends.webgpu.tensor import Buffer, Tensor, numbers
from moebius.errors import DeviceLostError, MoebiusError
from moebius.model import unet, vae
from moebius.model.arrays import time_sinusoid
from moebius.model.contract import Condition, Precision, Timesteps
from moebius.model.denoise import Denoiser
from moebius.model.params import Params
from moebius.model.scheduler import DDIM
from moebius.model.synthetic import rng, synthetic
from moebius.model.unet import UNet, UNetConfig, condition_ids
from moebius.model.vae import VAE, VAEConfig

# Widths that are no multiple of four, so that padding counts.
UNET = UNetConfig(8, 9, 4, (10, 20), 1, heads=2, cross_attention_dim=6, encoder_hid_dim=7, norm_num_groups=5)
VAE_CONFIG = VAEConfig((6, 10), layers_per_block=1, norm_num_groups=2)
TIMESTEP, STEPS, GUIDANCE = 450, 20, 2.5
# Of a tensor's norm; errors add up through the networks, in f32 to 2e-6 on the drivers measured.
TOLERANCE: dict[Precision, float] = {"f32": 1e-4, "f16": 2e-2}
NOT_FINITE = (np.nan, np.inf, -np.inf)


class Pair(NamedTuple):
    """A tensor on the GPU, and what it should hold."""

    gpu: Tensor
    want: np.ndarray


@dataclass
class Made:
    """One call of an op: what went in and what came out."""

    op: str
    path: str
    inputs: list[Tensor]
    outputs: list[Pair]


class Both:
    """The contract twice: recorded for the GPU, and computed by the oracle at once. Its tensors are pairs."""

    largest_batch = 1

    def __init__(self, gpu: WebGPU) -> None:
        self.gpu, self.oracle = gpu, Reference(np.float64)
        self.made: list[Made] = []

    @property
    def name(self) -> str:
        return self.gpu.name

    def condition(self, ids: np.ndarray, p: Params) -> Condition:
        return self.oracle.condition(ids, p)

    def tap(self, path: str, x: Any, layout: str = "image") -> None:
        """Every op is seen anyway."""

    def __getattr__(self, op: str) -> Callable[..., Any]:
        return partial(self._called, op)

    def _called(self, op: str, *args: Any, **kwargs: Any) -> Any:
        def side(which: int, ops: Any) -> Any:
            def of(value: Any) -> Any:
                return value[which] if isinstance(value, Pair) else value

            return getattr(ops, op)(*map(of, args), **{k: of(v) for k, v in kwargs.items()})

        got, want = side(0, self.gpu), side(1, self.oracle)
        several = isinstance(got, tuple)
        pairs = [Pair(*both) for both in (zip(got, want, strict=True) if several else [(got, want)])]
        path = next((a.path for a in args if isinstance(a, Params)), op)
        inputs = [a.gpu for a in (*args, *kwargs.values()) if isinstance(a, Pair)]
        self.made.append(Made(op, path, inputs, pairs))
        return tuple(pairs) if several else pairs[0]


class Recorded:
    """A network's plan that keeps every tensor, and what each of them should be."""

    def __init__(self, both: Both, forward: Callable[..., Any], arrays: Sequence[np.ndarray]) -> None:
        self.arrays = [np.moveaxis(a, 1, -1) for a in arrays]
        self.precision = both.gpu.caps.precision
        both.made.clear()

        def recorded(*tensors: Tensor) -> tuple[Tensor, ...]:
            out = forward(*(Pair(t, a.astype(np.float64)) for t, a in zip(tensors, self.arrays, strict=True)))
            first = out[0] if isinstance(out[0], Pair) else out
            return first.gpu, *(pair.gpu for made in both.made for pair in made.outputs)

        self.plan: Plan = both.gpu.record(recorded, [a.shape for a in self.arrays])
        self.made = list(both.made)
        self.tensors = [pair.gpu for made in self.made for pair in made.outputs]
        table = self.plan.recording.sinusoid
        self.times = None if table is None else time_sinusoid(Timesteps([TIMESTEP]), table.shape[3])

    def run(self, arrays: Sequence[np.ndarray]) -> dict[int, np.ndarray]:
        """Every tensor's values by its id."""
        self.plan.upload(arrays)
        self.plan.start(self.times)
        self.plan.replay()
        values = dict(zip(map(id, self.tensors), self._read(), strict=True))
        return values | {id(t): a for t, a in zip(self.plan.inputs, arrays, strict=True)}

    def _read(self) -> list[np.ndarray]:
        """All tensors by one readback: on its own each would take a millisecond."""
        ends = np.cumsum([t.nbytes for t in self.tensors]).tolist()
        every = Buffer(self.plan.device, ends[-1], "tensors of the quick check", "pinned")
        every.allocate()
        encoder = self.plan.device.device.create_command_encoder()
        for t, end in zip(self.tensors, ends, strict=True):
            encoder.copy_buffer_to_buffer(t.buffer.handle, 0, every.handle, end - t.nbytes, t.nbytes)
        self.plan.device.device.queue.submit([encoder.finish()])
        parts = np.split(every.read(ends[-1], np.uint8), ends[:-1])
        flat = [numbers(part, t.dtype).astype(np.float32) for part, t in zip(parts, self.tensors, strict=True)]
        return [f.reshape(*t.shape[:3], t.pitch)[..., : t.shape[3]] for f, t in zip(flat, self.tensors, strict=True)]

    def flagged(self) -> bool | None:
        """Whether the last run's step set its flag; None where there is no step."""
        flags = self.plan.recording.flags
        return None if flags is None else bool(flags.read(4, np.uint32)[0])


def networks(gpu: WebGPU) -> list[tuple[Callable[..., Any], list[np.ndarray], Both]]:
    """A guided sampling step, the encoder and the decoder, each with inputs."""
    both = Both(gpu)
    net: UNet[Any] = UNet(UNET, synthetic(unet.shapes(UNET), 0), both)  # type: ignore[arg-type]
    coder: VAE[Any] = VAE(VAE_CONFIG, synthetic(vae.shapes(VAE_CONFIG), 0), both)  # type: ignore[arg-type]
    rows = DDIM().coefficients(np.array([TIMESTEP]), STEPS)
    step = Denoiser(net, condition_ids(UNET), [TIMESTEP], rows, GUIDANCE).step
    s, latent = UNET.sample_size, VAE_CONFIG.latent_channels

    def noise(name: str, *shape: int) -> np.ndarray:
        return rng(0, f"probe.{name}").standard_normal(shape, dtype=np.float32)

    return [
        (lambda y, m, z: step(y, m, z, slice(None)), [noise(n, 1, c, s, s) for n, c in (("y", 4), ("mask", 1), ("masked", 4))], both),
        (coder.encoder, [noise("image", 1, 3, 10, 6)], both),
        (coder.decoder, [noise("latents", 1, latent, 3, 5)], both),
    ]


def fault(gpu: WebGPU) -> str:
    """What is wrong with this adapter, in a few words; empty where nothing is. Raises DeviceLostError, which may be bad luck."""
    try:
        with gpu.gpu.turns:
            for forward, arrays, both in networks(gpu):
                recorded = Recorded(both, forward, arrays)
                if said := wrong_values(recorded) or swallowed(recorded):
                    return said
    except DeviceLostError:
        raise
    except MoebiusError as error:
        return " ".join(str(error).split())
    return ""


def wrong_values(recorded: Recorded) -> str:
    """The first op whose values are not the oracle's, or not the same twice."""
    tolerance = TOLERANCE[recorded.precision]
    first, second = (recorded.run(recorded.arrays) for _ in range(2))
    for made in recorded.made:
        for pair in made.outputs:
            got, want = first[id(pair.gpu)], pair.want.reshape(pair.gpu.shape)
            error = float(np.linalg.norm(got - want)) / (float(np.linalg.norm(want)) or 1.0)
            if not error <= tolerance:  # NaN too
                return f"{made.op} is wrong by {error:.1e} of its norm, at {made.path}"
            if got.tobytes() != second[id(pair.gpu)].tobytes():
                return f"{made.op} gave two results for the same input, at {made.path}"
    if recorded.flagged():
        return "guided_ddim flags a sound step as not finite"
    return ""


def swallowed(recorded: Recorded) -> str:
    """The first op that is given a value that is not finite and makes none."""
    for value in NOT_FINITE:
        arrays = [a.copy() for a in recorded.arrays]
        arrays[-1].flat[arrays[-1].size // 2] = value  # of a step, what comes to the latents through all of the network alone
        values = recorded.run(arrays)
        for made in recorded.made:
            given = any(not np.isfinite(values[id(t)]).all() for t in made.inputs)
            if given and all(np.isfinite(values[id(pair.gpu)]).all() for pair in made.outputs):
                return f"{made.op} was given {value} and hid it, at {made.path}"
        if recorded.flagged() is False:
            return f"guided_ddim did not flag {value}"
    return ""
