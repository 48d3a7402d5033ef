"""Whole runs: the small model on the sample picture, and one guided step of the full UNet, with the oracle going along."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from moebius import sample
from moebius.backends.reference import Reference
from moebius.check import lockstep as validate
from moebius.check.compare.cases import limits, listed, normal, portable_weights
from moebius.check.compare.fingerprint import Json, digest, error_map, errors
from moebius.errors import UsageError
from moebius.inpaint.inpainter import Inpainter
from moebius.model import unet, vae
from moebius.model.arrays import to_nchw
from moebius.model.contract import Condition, Step, StepState, Tap, Timesteps
from moebius.model.denoise import Denoiser
from moebius.model.params import Params
from moebius.model.scheduler import DDIM
from moebius.model.unet import UNet, UNetConfig, condition_ids
from moebius.model.vae import VAE, VAEConfig
from moebius.pictures.published import to_uint8
from moebius.weights.nano import packaged_nano

# One window over the whole picture: the model's own size, and one encoding and decoding of everything.
SETTINGS: dict[str, Any] = {"steps": 4, "guidance": 2.5, "strength": 0.99, "seed": 0, "crop": "full", "blend": "paste"}
GUIDED_STEPS = 20  # the schedule that the full model's one step is taken from

Say = Callable[[], None]


# any backend ---------------------------------------------------------------------------------------------------------
@contextlib.contextmanager
def eager(ops: Any) -> Iterator[None]:
    """Ops of a GPU run when their result is read; NumPy's always do."""
    with ops.eager() if hasattr(ops, "eager") else contextlib.nullcontext():
        yield


def fetch(ops: Any, tensor: Any) -> np.ndarray:
    """Channels last; a GPU's tables have two leading ones."""
    return ops.read(tensor) if hasattr(ops, "read") else np.asarray(tensor)


@dataclass
class Pair:
    """One tensor on the backend, and the oracle's of its own run."""

    got: Any
    want: Any


@dataclass
class Conditions:
    """The condition of the backend, and what the oracle and the bounds need of it."""

    got: Condition
    host: Condition


class Traced:
    """The ops contract on `ops`. Every op is also done by the oracle: on the backend's own inputs, and in a run of its own.

    `report` gets a TRACED of every output, for all calls of `run` and for the first step of a loop.
    """

    largest_batch = 1

    def __init__(self, ops: Any, report: Callable[[Json], None], say: Say) -> None:
        self.ops, self.report, self.say, self.oracle = ops, report, say, Reference(np.float64)
        self.name = ops.name
        self.stage = ""
        self._calls: dict[str, int] = {}
        self._tracing = True

    def run(self, forward: Callable[..., Any], arrays: Sequence[np.ndarray], *args: Any, tap: Tap | None = None) -> np.ndarray:
        self._calls[forward.__name__] = count = self._calls.get(forward.__name__, 0) + 1
        self.stage = f"{forward.__name__} {count}"
        return to_nchw(self._whole(lambda *pairs: forward(*pairs, *args), arrays)[0])

    def loop(self, step: Step, arrays: Sequence[np.ndarray], timesteps: Timesteps) -> Iterator[StepState]:
        y, *fixed = arrays
        for i, t in enumerate(timesteps):
            self.stage, self._tracing = f"step {i + 1}", i == 0
            rows = slice(i, i + 1)
            latents, estimate = (to_nchw(a) for a in self._whole(lambda *pairs, rows=rows: step(*pairs, rows), [y, *fixed]))
            self._tracing = True
            yield StepState(i, t, lambda latents=latents: latents, lambda estimate=estimate: estimate)  # type: ignore[misc]
            y = latents

    def _whole(self, forward: Callable[..., Any], arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        with eager(self.ops):
            pairs = [Pair(self.ops.tensor(a), self.oracle.tensor(a) if self._tracing else None) for a in arrays]
            out = forward(*pairs)
            return [fetch(self.ops, pair.got) for pair in listed(out)]

    def rehearse(self, step: Step, shapes: Sequence[tuple[int, ...]]) -> None:
        """Nothing is recorded."""

    def tap(self, path: str, x: Any, layout: str = "image") -> None:
        """Every op is seen anyway."""

    def condition(self, ids: np.ndarray, p: Params) -> Conditions:
        return Conditions(self.ops.condition(ids, p), self.oracle.condition(ids, p))

    def __getattr__(self, op: str) -> Callable[..., Any]:
        if op not in validate.OPS:
            raise AttributeError(op)
        return lambda *args, **kwargs: self._both(op, args, kwargs)

    def _both(self, op: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        def call(ops: Any, of: Callable[[Any], Any]) -> list[Any]:
            return listed(getattr(ops, op)(*map(of, args), **{k: of(v) for k, v in kwargs.items()}))

        got = call(self.ops, lambda a: a.got if isinstance(a, Pair | Conditions) else a)
        if not self._tracing:
            made = [Pair(g, None) for g in got]
        else:
            own_inputs = {id(a): self._host(a.got) for a in (*args, *kwargs.values()) if isinstance(a, Pair)}
            own = call(self.oracle, lambda a: a.host if isinstance(a, Conditions) else own_inputs.get(id(a), a))
            want = call(self.oracle, lambda a: a.host if isinstance(a, Conditions) else a.want if isinstance(a, Pair) else a)
            path = next((a.path for a in args if isinstance(a, Params)), op)
            made = [Pair(g, w) for g, w in zip(got, want, strict=True)]
            bounded = tuple(own_inputs.get(id(a), a.host if isinstance(a, Conditions) else a) for a in args)
            bounding = {k: own_inputs.get(id(v), v) for k, v in kwargs.items()}
            within = limits(op, bounded, bounding, tuple(own) if len(own) > 1 else own[0])
            for pair, expected, limit in zip(made, own, within, strict=True):
                self.report(self._row(op, path, pair, expected, limit))
        self.say()
        return tuple(made) if len(made) > 1 else made[0]

    def _host(self, tensor: Any) -> np.ndarray:
        return fetch(self.ops, tensor).astype(np.float64)

    def _row(self, op: str, path: str, pair: Pair, own: np.ndarray, limit: float) -> Json:
        got = fetch(self.ops, pair.got)
        of_run, of_own = errors(got, pair.want, limit), errors(got, own, limit)
        return {
            "stage": self.stage,
            "op": op,
            "path": path,
            **{k: of_run[k] for k in ("shape", "checksum", "relative_l2")},
            "own": of_own["relative_l2"],
            "own_max_abs": of_own["max_abs"],
            "rms": of_own["rms"],
            "limit": limit,
        }


# the small model, from picture to picture ----------------------------------------------------------------------------
@dataclass
class Model:
    name: str
    unet_config: UNetConfig
    unet: dict[str, np.ndarray]
    vae_config: VAEConfig
    vae: dict[str, np.ndarray]

    def on(self, ops: Any) -> Inpainter:
        return Inpainter(UNet(self.unet_config, self.unet, ops), VAE(self.vae_config, self.vae, ops), model=self.name)

    def digest(self) -> str:
        """Of all that decides the run."""
        from moebius.pictures import mask as masks
        from moebius.pictures import photo as photos

        photo = photos.load(sample.photo())
        arrays = [weights[k] for weights in (self.unet, self.vae) for k in sorted(weights)]
        text = json.dumps(SETTINGS, sort_keys=True).encode()
        return digest(*arrays, photo.rgb, masks.load(sample.mask(), photo).fill, np.frombuffer(text, np.uint8))


def small_model() -> Model:
    """The packaged nano; in a version without it, the tiny network with weights of portable noise."""
    from moebius.weights import store

    try:
        path = packaged_nano()
    except UsageError:
        unet_config, vae_config = UNetConfig.tiny(), VAEConfig.tiny()
        return Model(
            "synthetic tiny",
            unet_config,
            portable_weights(unet.shapes(unet_config), "unet"),
            vae_config,
            portable_weights(vae.shapes(vae_config), "vae"),
        )
    loaded = store.load(path)
    return Model("nano", loaded.unet_config, dict(loaded.unet), loaded.vae_config, dict(loaded.vae))


def end_to_end(ops: Any, say: Say) -> Json:
    """A RUN: traced op by op, then as users run it, which must give the same bits."""
    model = small_model()
    trace: list[Json] = []
    traced = model.on(Traced(ops, trace.append, say))(sample.photo(), sample.mask(), **SETTINGS)
    result = model.on(ops)(sample.photo(), sample.mask(), on_step=lambda _: say(), **SETTINGS)
    say()
    oracle = model.on(Reference(np.float64))(sample.photo(), sample.mask(), on_step=lambda _: say(), **SETTINGS)
    latents, expected = (np.moveaxis(r.latents, 1, -1) for r in (result, oracle))
    shown, wanted = (
        painted(model.on(on), r.latents)[None].astype(np.float32) for on, r in ((ops, result), (Reference(np.float64), oracle))
    )
    outputs = [at_the_end(latents, expected), {"name": "picture", **errors(shown, wanted, None)}]
    return {
        "model": model.name,
        "settings": SETTINGS,
        "inputs": model.digest(),
        "status": "done",
        "seconds": {k: round(v, 4) for k, v in result.timings.items()},
        "repeatable": digest(traced.latents) == digest(result.latents) and traced.image.tobytes() == result.image.tobytes(),
        "trace": trace,
        "outputs": outputs,
        "picture": png(result.image.convert("RGB")),
    }


def painted(inpaint: Inpainter, latents: np.ndarray) -> np.ndarray:
    """(h, w, 3) bytes, as the model made them: where scaling follows, two rounded passes turn one grey level into two."""
    return to_uint8(inpaint.vae.decode(latents / inpaint.vae.config.scaling_factor))


def at_the_end(latents: np.ndarray, expected: np.ndarray) -> Json:
    return {"name": "latents", **errors(latents, expected, None), "map": error_map(latents, expected)}


def png(image: Any) -> str:
    import base64
    import io

    kept = io.BytesIO()
    image.save(kept, "PNG", optimize=True)
    return base64.b64encode(kept.getvalue()).decode()


# one step of the full model ------------------------------------------------------------------------------------------
def full_step(ops: Any, say: Say) -> Json:
    """A RUN without pictures: one guided step of the published UNet's shape, weights of portable noise."""
    import time

    config = UNetConfig.full()
    weights = portable_weights(unet.shapes(config), "full")
    s, scheduler = config.sample_size, DDIM()
    timesteps = scheduler.timesteps(GUIDED_STEPS)[:1]
    coefficients = scheduler.coefficients(timesteps, GUIDED_STEPS)
    y, masked = (normal(f"full {name}", (1, config.out_channels, s, s)) for name in ("y", "masked"))
    mask = (normal("full mask", (1, 1, s, s)) > 0.5).astype(np.float32)
    trace: list[Json] = []

    def taken(backend: Any) -> tuple[np.ndarray, float]:
        net = UNet(config, weights, backend)
        denoiser = Denoiser(net, condition_ids(config), timesteps.tolist(), coefficients, SETTINGS["guidance"])
        begun = time.perf_counter()
        latents = next(denoiser.steps(y, mask, masked)).latents()
        say()
        return np.moveaxis(latents, 1, -1), time.perf_counter() - begun

    traced, _ = taken(Traced(ops, trace.append, say))
    result, seconds = taken(ops)
    expected, _ = taken(Reference(np.float64))
    return {
        "model": "full, synthetic",
        "settings": {"steps": 1, "guidance": SETTINGS["guidance"]},
        "inputs": digest(*(weights[k] for k in sorted(weights)), y, mask, masked),
        "status": "done",
        "seconds": {"denoise": round(seconds, 4)},
        "repeatable": digest(traced) == digest(result),
        "trace": trace,
        "outputs": [at_the_end(result, expected)],
    }


RUNS: dict[str, Callable[[Any, Say], Json]] = {"end to end": end_to_end, "full step": full_step}
