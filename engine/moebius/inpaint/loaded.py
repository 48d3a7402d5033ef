"""A loaded model: the networks on their device, the schedule, and the sampling loops that are kept between runs."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Self, get_args
from weakref import ref

import numpy as np

from moebius.errors import NonFiniteError, UsageError
from moebius.inpaint.room import Room
from moebius.inpaint.settings import Settings
from moebius.model.contract import Precision
from moebius.model.denoise import Denoiser
from moebius.model.scheduler import DDIM
from moebius.model.unet import UNet, condition_ids
from moebius.model.vae import VAE
from moebius.pictures.blend import Blend
from moebius.weights import infer

LOG_VARIANCE = (-30.0, 20.0)
# Of models whose fills are matched, for these are smooth. It costs less than a tenth of a decibel of PSNR; at 1 a third, and it is seen.
MATCH_DETAIL = 0.35
OVERFLOWED = "Numbers of this picture overflowed f16, so it was made in f32; with precision f32 (--precision f32) the first try is saved."
OVERFLOWED_UNITS = "Numbers of this picture overflowed the halves of matrix units, so it was made without these."
FULL = "The memory of %s does not hold both networks at once: from now on one leaves it while the other computes (low_memory)."
DENOISERS_KEPT = 2  # each holds a recorded step with its memory

Moments = tuple[np.ndarray, np.ndarray]  # mean and log variance, (1, 4, h, w) each


class LoadedModel:
    """A UNet, a VAE and a schedule that go together, for any number of threads. `_denoisers` is all that one run leaves to the next."""

    def __init__(
        self,
        unet: UNet,
        vae: VAE,
        scheduler: DDIM | None = None,
        *,
        model: str = "custom",
        blend: Blend = "paste",
        sources: Mapping[str, Mapping[str, str]] | None = None,
        digests: Mapping[str, str] | None = None,
    ) -> None:
        """`model` is a name for people, `blend` what counts where the settings name none. `sources` and `digests` say which model it is, as
        in `weights.checkpoint.Weights`; weights handed in by hand have neither."""
        if blend not in get_args(Blend):
            raise UsageError(f"The model wants blend={ascii(blend)[:80]}; this version knows {', '.join(get_args(Blend))}.")
        latent, channels = vae.config.latent_channels, unet.config.in_channels
        if unet.config.out_channels != latent or channels != 2 * latent + 1:
            raise UsageError(
                f"A UNet of {channels} channels in and {unet.config.out_channels} out does not go with a VAE of {latent} latent ones."
            )
        self.unet, self.vae, self.scheduler = unet, vae, scheduler or DDIM()
        self.model, self.blend = model, blend
        self.detail = MATCH_DETAIL if blend == "match" else 0.0  # where the settings name none
        self.sources, self.digests = sources or {}, digests or {}
        self.room = Room()
        self.room.join(self)
        self.closed = False
        self.notes: tuple[str, ...] = ()  # what the user should know about the weights
        self._denoisers: dict[tuple[int, int, int, float], Denoiser] = {}
        self._f32: LoadedModel | None = None  # as `in_f32` gives it
        self._guests: dict[int, ref[Any]] = {}  # whoever goes on in that one, by their ids: Python forgets a dying one's weak references
        self._lock = threading.Lock()  # for what is made here. Nothing that gives back takes it: see `leave`

    @property
    def revision(self) -> str | None:
        """The commit that the UNet is of, where it came from the Hub."""
        return self.sources.get("unet", {}).get("commit")

    @property
    def identity(self) -> dict[str, Any]:
        """Which model this is, for the record of a picture: its name, and of each network where it came from, its config and its digest."""
        return {
            "model": self.model,
            "source": {net: dict(source) for net, source in self.sources.items()},
            "config": {"unet": infer.to_json(self.unet.config), "vae": infer.to_json(self.vae.config)},
            "weights": dict(self.digests),
        }

    @property
    def size(self) -> int:
        """The side of the squares the model works on, in pixels."""
        return self.unet.config.sample_size * self.vae.config.factor

    @property
    def device(self) -> str:
        """What computes, in words."""
        return self.unet.ops.name

    @property
    def precision(self) -> Precision:
        return self.unet.ops.precision

    @property
    def low_memory(self) -> bool:
        """On the device only the network that computes; it takes the other's place anew in every picture."""
        return self.room.low_memory

    @low_memory.setter
    def low_memory(self, low: bool) -> None:
        self.room.low_memory = low

    def in_f32(self, guest: object) -> LoadedModel:
        """The same model on the same device in f32 and nothing narrower: itself where it is that, else one that takes memory there when it
        first computes, and gives it back when its last guest leaves."""
        with self._lock:
            if self._f32 is None:
                ops = self.unet.ops.in_f32()
                if ops is self.unet.ops:
                    return self
                nets = UNet(self.unet.config, self.unet.root.root, ops), VAE(self.vae.config, self.vae.root.root, ops)
                which: dict[str, Any] = {"model": self.model, "blend": self.blend, "sources": self.sources, "digests": self.digests}
                self._f32 = LoadedModel(*nets, self.scheduler, **which)
                self._f32.detail, self._f32.notes, self._f32.room = self.detail, self.notes, self.room
                self.room.join(self._f32)
            self._guests[id(guest)] = ref(guest)
            return self._f32

    def leave(self, guest: object) -> None:
        """Gives back what nobody else needs: f32 beside f16 where this was its last guest, and all of a model that was closed meanwhile.

        A run that is collected comes here too, in whatever thread Python collects it. That one may have the device's turn, for which a
        thread that has the lock may wait: so here are single operations of dicts, of which no other thread sees a half, and no lock.
        """
        was_guest = self._guests.pop(id(guest), None) is not None
        if self.closed:
            self.release()
        elif was_guest and self._f32 is not None and all(other() is None for other in list(self._guests.values())):
            self._f32.release()

    def denoiser(self, batch: int, timesteps: np.ndarray, settings: Settings) -> Denoiser:
        """The sampling loop for that many windows at once. The last ones used are kept, a recorded step with each, besides those of runs
        under way."""
        key = batch, settings.steps, len(timesteps), settings.guidance
        with self._lock:
            denoiser = self._denoisers.pop(key, None)
            if denoiser is None:
                ids = np.repeat(condition_ids(self.unet.config), batch, axis=0)
                coefficients = self.scheduler.coefficients(timesteps, settings.steps)
                denoiser = Denoiser(self.unet, ids, timesteps.tolist(), coefficients, settings.guidance)
                denoiser.rehearse()
            self._denoisers[key] = denoiser  # the last one used is the last to go
            for unused in list(self._denoisers)[:-DENOISERS_KEPT]:
                self._denoisers.pop(unused, None)
            return denoiser

    def forget_denoisers(self) -> None:
        """Gives up the recorded steps and the memory they hold."""
        self._denoisers.clear()

    def close(self) -> None:
        """Gives back the memory that this model takes on its device. No further run can begin; those under way go on to their end, and the
        last of them gives back what it took."""
        self.closed = True
        self.release()

    def check_open(self) -> None:
        if self.closed:
            raise UsageError("This Inpainter is closed; load the model again.")

    def release(self) -> None:
        """Gives the memory back now. A run that still needs some of it takes it again."""
        for net in (self.unet, self.vae):
            self.give_back(net)
        if self._f32 is not None:
            self._f32.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def give_back(self, net: UNet | VAE) -> None:
        """The memory of one of the two, now. A run that still needs some of it takes it again."""
        if net is self.unet:
            self.forget_denoisers()
        net.ops.forget(net, net.root.root)

    def save_memory(self, saved: bool) -> bool:
        """Where the device has no more: `low_memory` from now on. False where it was `saved` already when the work began that failed."""
        if not self.low_memory:
            logging.getLogger("moebius").warning(FULL, self.device)
        self.low_memory = True
        return not saved

    def moments(self, x: np.ndarray) -> Moments:
        """Mean and log variance of the latents of an image (1, 3, H, W)."""
        return next(self.moments_each([x]))

    def moments_each(self, images: Iterable[np.ndarray]) -> Iterator[Moments]:
        """Those of one image after the other, while the device has the next ones at hand."""
        for encoded in self.vae.encode_each(images):
            mean, logvar = np.split(check_finite(encoded, "moments", self.vae), 2, axis=1)
            yield mean, np.clip(logvar, *LOG_VARIANCE)

    def sample(self, moments: Moments, eps: np.ndarray) -> np.ndarray:
        """(mean + exp(½·logvar)·ε)·scaling_factor"""
        mean, logvar = moments
        z: np.ndarray = mean + np.exp(0.5 * logvar) * eps
        return z * self.vae.config.scaling_factor


def check_finite(array: np.ndarray, what: str, net: UNet | VAE) -> np.ndarray:
    """`array` itself. A GPU has named the op before its result comes here; this is for NumPy."""
    if not np.isfinite(array).all():
        raise NonFiniteError(f"The {what} of the {type(net).__name__} on {net.ops.name} hold a NaN or an infinity; check the weights.")
    return array


def wider(model: LoadedModel, guest: object, error: NonFiniteError) -> tuple[LoadedModel, str]:
    """The model in f32, for a picture that is not finite, and what is to be said of it; raises the error where nothing is narrower."""
    whole = model.in_f32(guest)
    if whole is model:
        raise error
    model.room.make()
    return whole, OVERFLOWED if model.precision == "f16" else OVERFLOWED_UNITS
