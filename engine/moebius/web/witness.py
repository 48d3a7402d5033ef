"""The native run that a page checks itself against: the sample picture in float64, with all that came and went on the way."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from moebius import sample
from moebius.backends.cpu import CPU
from moebius.backends.webgpu.pack import pad4
from moebius.backends.webgpu.wgsl import shaders_digest
from moebius.check.compare import endtoend
from moebius.check.compare.fingerprint import FORMAT, VERSION
from moebius.inpaint.draws import draws, shared
from moebius.inpaint.inpainter import Inpainter
from moebius.inpaint.settings import Settings
from moebius.model.contract import Step, StepState, Tap, Timesteps
from moebius.model.unet import UNet
from moebius.model.vae import VAE
from moebius.pictures.cut import cut_out
from moebius.pictures.published import to_uint8
from moebius.web.edition import samples

RUN = "end to end"


class Witness(CPU):
    """The CPU device in float64, which is the oracle to fifteen digits; remembers the outputs of every net and module."""

    def __init__(self) -> None:
        super().__init__(np.float64)
        self.outputs: dict[str, list[np.ndarray]] = {}  # by the name of the net, one for every call
        self.modules: dict[str, np.ndarray] = {}  # samples, by plan and path, of every net's first call
        self.latents: list[np.ndarray] = []  # after every step
        self._plan = ""

    def run(self, forward: Callable[..., np.ndarray], arrays: Sequence[np.ndarray], *args: Any, tap: Tap | None = None) -> np.ndarray:
        self._plan = forward.__name__
        out = super().run(forward, arrays, *args, tap=tap)
        self.outputs.setdefault(forward.__name__, []).append(out)
        return out

    def loop(self, step: Step, arrays: Sequence[np.ndarray], timesteps: Timesteps) -> Iterator[StepState]:
        self._plan = step.__name__
        for state in super().loop(step, arrays, timesteps):
            self.latents.append(state.latents())
            yield state

    def tap(self, path: str, x: np.ndarray, layout: str = "image") -> None:
        """Not by way of `run`'s tap, which would have every op computed by definition."""
        self.modules.setdefault(f"{self._plan}/{path}", sampled(x))


def sampled(channels_last: np.ndarray) -> np.ndarray:
    """What a tap copies, from the same layout: channels padded to a multiple of four."""
    flat = pad4(channels_last).reshape(-1)
    starts, count = samples(flat.size)
    return np.concatenate([flat[start : start + count] for start in starts]).astype(np.float32)


@dataclass
class Check:
    """What the page needs to run the same, and what should come out."""

    about: dict[str, Any]
    arrays: dict[str, np.ndarray]


def witness(inpainter: Inpainter) -> Check:
    """The end-to-end run of `moebius compare` with these weights: where they are the small model's, its column compares."""
    settings = Settings(**endtoend.SETTINGS)
    ops = Witness()
    unet = UNet(inpainter.unet.config, inpainter.unet.root.root, ops)
    vae = VAE(inpainter.vae.config, inpainter.vae.root.root, ops)
    run = Inpainter(unet, vae, inpainter.scheduler).steps(sample.photo(), sample.mask(), **endtoend.SETTINGS)
    for _ in run:
        pass
    (window,) = run.windows
    cut = cut_out(window, run.photo.rgb)
    latent = unet.config.sample_size
    noise = draws(settings, None, (1, vae.config.latent_channels, latent, latent), shared(run.windows, latent))
    moments = ops.outputs["encoder"]
    model = endtoend.Model(inpainter.model, unet.config, dict(unet.root.root), vae.config, dict(vae.root.root))
    about = {
        "device": "NumPy in float64",
        "name": RUN,
        "settings": endtoend.SETTINGS,
        "inputs": model.digest(),
        "shaders": shaders_digest(),
        "fingerprint": {"format": FORMAT, "version": VERSION},
        "window": {"x": window.x, "y": window.y, "side": window.width, "size": window.size},
    }
    return Check(
        about,
        {
            "photo": np.array(run.photo.rgb),
            "mask": run.mask.fill.astype(np.uint8),
            "picture": to_uint8(ops.outputs["decoder"][0]),
            "x": last(cut.x)[0],
            "m": cut.m[0, 0].astype(np.uint8),
            **{f"noise {name}": last(array)[0] for name, array in noise.items()},
            **dict(zip(("moments of the image", "moments of the masked image")[-len(moments) :], map(last, moments), strict=True)),
            **{f"latents after step {i + 1}": last(a) for i, a in enumerate(ops.latents)},
            "latents": last(run.result.latents),
            "decoded picture": last(ops.outputs["decoder"][0]),
            **{name: array for name, array in ops.modules.items()},
        },
    )


def last(nchw: np.ndarray) -> np.ndarray:
    """Channels last, as the plans hold them, in float32."""
    return np.ascontiguousarray(np.moveaxis(nchw, 1, -1), np.float32)
