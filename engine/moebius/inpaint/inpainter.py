"""Any photo, any mask: load once, call many."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any, cast

import numpy as np

from moebius.errors import UsageError, did_you_mean
from moebius.inpaint.device import open_device, unmet
from moebius.inpaint.loaded import LoadedModel
from moebius.inpaint.result import Result, Step
from moebius.inpaint.run import Run
from moebius.inpaint.settings import Settings
from moebius.model.contract import Ops
from moebius.model.unet import UNet
from moebius.model.vae import VAE
from moebius.pictures.blend import Blend
from moebius.pictures.mask import MaskSource
from moebius.pictures.photo import MAX_PIXELS, Photo, PhotoSource
from moebius.weights.checkpoint import Weights
from moebius.weights.published import NANO


class Inpainter(LoadedModel):
    """`inpaint = Inpainter.from_pretrained("places2"); inpaint("photo.jpg", "mask.png").image.save("out.png")`

    Any number of threads may call it, and iterate over its `steps`, at the same time: every result is that of the same call alone.
    They take turns on the device, a step at a time. `close`, or a `with` block, gives the device's memory back.
    """

    @classmethod
    def from_pretrained(
        cls,
        model: Any = NANO,
        *,
        device: str = "auto",
        require_gpu: bool = False,
        precision: str = "auto",
        threads: int | None = None,
        matrix_units: bool = False,
        low_memory: bool = False,
        vae: Any = None,
        revision: str | None = None,
        progress: Any = None,
    ) -> Inpainter:
        """The packaged nano, a published model by name (`weights.published.FOLDERS`), a folder, or a .bin or .safetensors file.

        `low_memory`: of the two networks only the one that computes is on the device. A picture takes about half the memory, and longer by
        what it takes to bring both there; its bytes are the same.
        """
        from moebius.weights import nano, store  # imports what only loading needs

        store.check_choice(model, vae, revision)  # before a device is opened
        on: dict[str, Any] = {"require_gpu": require_gpu, "precision": precision, "threads": threads, "matrix_units": matrix_units}
        ops = open_device(device, **on)
        weights = store.load(model, vae=vae, revision=revision, progress=progress)
        inpainter = cls.from_weights(weights, ops)
        if model == NANO:
            inpainter.notes = (nano.NOTE, *inpainter.notes)
        inpainter.notes += unmet(precision, ops)
        inpainter.low_memory = low_memory
        return inpainter

    @classmethod
    def from_weights(cls, weights: Weights, ops: Ops) -> Inpainter:
        """Of both networks as `weights.store.load` gives them, on a device that is open."""
        inpainter = cls(
            UNet(weights.unet_config, weights.unet, ops),
            VAE(weights.vae_config, weights.vae, ops),
            model=weights.name,
            blend=cast(Blend, weights.blend or "paste"),
            sources=weights.sources,
            digests=weights.digests,
        )
        inpainter.notes = weights.notes
        if weights.ignored:
            some = ", ".join(weights.ignored[:3]) + (", …" if len(weights.ignored) > 3 else "")
            more = f"{len(weights.ignored)} entries of the checkpoint are no part of the model and were left out: {some}"
            inpainter.notes = (*weights.notes, more)
        return inpainter

    def __call__(
        self,
        image: PhotoSource | Photo,
        mask: MaskSource | None = None,
        *,
        noise: Mapping[str, np.ndarray] | None = None,
        max_pixels: int = MAX_PIXELS,
        on_step: Callable[[Step], None] | None = None,
        force: bool = False,
        allow_empty: bool = False,
        **settings: Any,
    ) -> Result:
        """Fills in what is white in `mask`; see `Settings` for the rest. Without a mask, what is transparent in the image.

        `max_pixels` is the most that a picture may have. `on_step` is called after every sampling step; what it raises ends the run. A
        mask that looks like a photograph is refused unless `force`, one that marks nothing (EmptyMaskError) unless `allow_empty`; one that
        marks most of the image is a UserWarning, with the cost, before the run begins, and so is at its end one that overflowed f16.
        """
        run = self.steps(image, mask, noise=noise, max_pixels=max_pixels, force=force, allow_empty=allow_empty, **settings)
        if run.warning:
            warnings.warn(run.warning, UserWarning, stacklevel=2)
        for step in run:
            if on_step is not None:
                on_step(step)
        if run.overflow:
            warnings.warn(run.overflow, UserWarning, stacklevel=2)
        return run.result

    def steps(
        self,
        image: PhotoSource | Photo,
        mask: MaskSource | None = None,
        *,
        noise: Mapping[str, np.ndarray] | None = None,
        max_pixels: int = MAX_PIXELS,
        force: bool = False,
        allow_empty: bool = False,
        **settings: Any,
    ) -> Run:
        """The same, step by step: iterate over it; then its `result` is there. Not iterated further, it has stopped. What would be
        warned of is its `warning`, and among its `notes`, from the start. Where f16 overflows its steps begin again, in f32."""
        self.check_open()
        names = [f.name for f in fields(Settings)]
        unknown = sorted(settings.keys() - set(names))
        if unknown:
            raise UsageError(f"There is no setting {', '.join(unknown)}. There are {', '.join(names)}.{did_you_mean(unknown[0], names)}")
        options: dict[str, Any] = {"max_pixels": max_pixels, "force": force, "allow_empty": allow_empty}
        return Run(self, image, mask, Settings(**settings), noise, **options)
