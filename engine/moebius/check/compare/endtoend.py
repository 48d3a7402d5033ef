"""Whole runs: the small model on the sample picture, and one guided step of the full UNet, with the oracle going along."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from moebius import sample
from moebius.backends.reference import Reference
from moebius.check.compare.fingerprint import Json, digest, error_map, errors
from moebius.check.compare.portable import normal, portable_weights
from moebius.check.compare.trace import Traced
from moebius.errors import UsageError
from moebius.inpaint.inpainter import Inpainter
from moebius.model import unet, vae
from moebius.model.contract import OpByOp, Ops
from moebius.model.denoise import Denoiser
from moebius.model.scheduler import DDIM
from moebius.model.unet import UNet, UNetConfig, condition_ids
from moebius.model.vae import VAE, VAEConfig
from moebius.pictures.blend import Blend
from moebius.pictures.published import to_uint8
from moebius.weights.nano import packaged_nano

# One window over the whole picture: the model's own size, and one encoding and decoding of everything.
SETTINGS: dict[str, Any] = {"steps": 4, "guidance": 2.5, "strength": 0.99, "seed": 0, "crop": "full", "blend": "paste"}
GUIDED_STEPS = 20  # the schedule that the full model's one step is taken from

Say = Callable[[], None]


# the small model, from picture to picture ----------------------------------------------------------------------------
@dataclass
class Model:
    name: str
    unet_config: UNetConfig
    unet: dict[str, np.ndarray]
    vae_config: VAEConfig
    vae: dict[str, np.ndarray]
    blend: Blend = "paste"

    def on(self, ops: Ops[Any]) -> Inpainter:
        return Inpainter(UNet(self.unet_config, self.unet, ops), VAE(self.vae_config, self.vae, ops), model=self.name, blend=self.blend)

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
    return Model("nano", loaded.unet_config, dict(loaded.unet), loaded.vae_config, dict(loaded.vae), cast(Blend, loaded.blend or "paste"))


def end_to_end(ops: OpByOp[Any], say: Say) -> Json:
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
def full_step(ops: OpByOp[Any], say: Say) -> Json:
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

    def taken(backend: Ops[Any]) -> tuple[np.ndarray, float]:
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


RUNS: dict[str, Callable[[OpByOp[Any], Say], Json]] = {"end to end": end_to_end, "full step": full_step}
