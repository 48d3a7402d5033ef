"""Any photo, any mask: load once, call many. The whole run is in `Run._work`, in the order it happens."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cached_property, partial
from importlib.resources import files
from pathlib import Path
from typing import Any, get_args

import numpy as np
from PIL import Image

import moebius
from moebius.errors import LimitError, NonFiniteError, OutOfMemoryError, UsageError
from moebius.inpaint.device import describe, open_device
from moebius.inpaint.preview import Preview
from moebius.model import noise as noises
from moebius.model.contract import StepState
from moebius.model.denoise import Denoiser
from moebius.model.scheduler import DDIM
from moebius.model.unet import UNet, condition_ids
from moebius.model.vae import VAE
from moebius.pictures import blend as blending
from moebius.pictures import mask as masks
from moebius.pictures import photo as photos
from moebius.pictures import published as pixels
from moebius.pictures import windows as crops
from moebius.pictures.blend import Blend
from moebius.pictures.cut import Cut, cut_out
from moebius.pictures.mask import MaskSource
from moebius.pictures.photo import Photo, PhotoSource
from moebius.pictures.pixels import rescaled
from moebius.pictures.save import save
from moebius.pictures.windows import Crop, Window

LOG_VARIANCE = (-30.0, 20.0)
DENOISERS_KEPT = 2  # each holds a recorded step with its memory
LARGEST_RADIUS = 10_000
NANO_NOTE = "nano is a small demonstration model; for the published one (1.2 GB to download) name places2, celebahq, ffhq or pretrained."


@dataclass(frozen=True)
class Settings:
    """All that decides a result besides picture, mask and model. `moebius info` prints them, `--like` runs them again."""

    steps: int = 20
    guidance: float = 2.5  # 1 skips the unconditional half of the work
    strength: float = 0.99
    noise_offset: float = 0.0357
    seed: int = 0
    rng: noises.Rng = "numpy"
    num_images: int = 1  # seeds seed, seed + 1, …
    crop: Crop = "auto"
    blend: Blend | None = None  # None: match for nano, paste (as published) for all others and with crop="upstream"
    grow: float = 0
    feather: float | None = None  # None: the published blur of 3, in the model's pixels; with match none
    invert: bool = False

    def __post_init__(self) -> None:
        for name in ("steps", "num_images"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
                raise UsageError(f"{name} is {value!r}; it must be a whole number from 1 up.")
        for name in ("guidance", "strength", "noise_offset"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float | np.number) or not np.isfinite(value):
                raise UsageError(f"{name} is {value!r}; it must be a finite number.")
        if isinstance(self.seed, bool) or not isinstance(self.seed, int | np.integer) or self.seed < 0:
            raise UsageError(f"seed is {self.seed!r}; it must be an integer from 0 up.")
        for name in ("grow", "feather"):
            value = getattr(self, name)
            number = isinstance(value, int | float | np.number) and not isinstance(value, bool)
            if value is not None and not (number and 0 <= value <= LARGEST_RADIUS):
                raise UsageError(f"{name} is {value!r}; it must be a number of pixels from 0 to {LARGEST_RADIUS}.")
        if not isinstance(self.invert, bool):
            raise UsageError(f"invert is {self.invert!r}; it must be True or False.")
        for name, choices in (("rng", get_args(noises.Rng)), ("blend", get_args(Blend)), ("crop", get_args(Crop))):
            if getattr(self, name) not in choices and (name, getattr(self, name)) != ("blend", None):
                raise UsageError(f"{name} is {getattr(self, name)!r}; choose one of {', '.join(choices)}.")


@dataclass
class Result:
    """`images` and `raws` have one entry a seed; `image` and `raw` are the first."""

    images: list[Image.Image]
    latents: np.ndarray  # (seeds·windows, 4, h, w), scaled as the UNet sees them
    timings: dict[str, float]  # seconds: prepare, encode, denoise, decode, blend
    metadata: dict[str, Any]  # what was done, for the file
    notes: tuple[str, ...]  # what the user should know
    photo: Photo
    windows: list[Window]
    _make_raw: Callable[[int], Image.Image] = field(repr=False)
    _make_array: Callable[[int], np.ndarray] = field(repr=False)

    @property
    def image(self) -> Image.Image:
        return self.images[0]

    @cached_property
    def arrays(self) -> list[np.ndarray]:
        """The images in the shape and type the photo was given in: 16 bits and floats in colour have no Pillow mode.

        With crop="upstream" they are those of `images`: 8 bits, at the size the published program works at.
        """
        return [self._make_array(i) for i in range(len(self.images))]

    @property
    def raw(self) -> Image.Image:
        """What the decoder made, not blended: every window's whole square in the picture."""
        return self.raws[0]

    @cached_property
    def raws(self) -> list[Image.Image]:
        return [self._make_raw(i) for i in range(len(self.images))]

    def save(self, path: Any, *, index: int = 0, metadata: bool = True, quality: Any = None) -> tuple[str, ...]:
        """Writes one image with what belongs to the photo (profile, EXIF) and what was done; returns notes."""
        record = self.metadata | {"seed": self.metadata["seed"] + index, "num_images": 1} if metadata else None
        return save(self.images[index], path, like=self.photo, metadata=record, quality=quality)


@dataclass(frozen=True)
class Step:
    """After one sampling step. Ask for the preview, the patches, or for `state.latents()`, before the next one."""

    index: int
    total: int
    t: int
    state: StepState = field(repr=False)
    _preview: Callable[[], Image.Image] = field(repr=False)
    _patches: Callable[[], list[tuple[Window, np.ndarray]]] = field(repr=False)

    @property
    def preview(self) -> Image.Image:
        """The photo at most 256 pixels a side, with the current estimate in the holes."""
        return self._preview()

    @property
    def patches(self) -> list[tuple[Window, np.ndarray]]:
        """What the preview is made of: windows of the photo and the current estimate there, (h, w, 3) uint8, a pixel a latent."""
        return self._patches()


class Inpainter:
    """`inpaint = Inpainter.from_pretrained("places2"); inpaint("photo.jpg", "mask.png").image.save("out.png")`"""

    def __init__(self, unet: UNet, vae: VAE, scheduler: DDIM | None = None, *, model: str = "custom", revision: str | None = None) -> None:
        latent, channels = vae.config.latent_channels, unet.config.in_channels
        if unet.config.out_channels != latent or channels != 2 * latent + 1:
            raise UsageError(
                f"A UNet of {channels} channels in and {unet.config.out_channels} out does not go with a VAE of {latent} latent ones."
            )
        self.unet, self.vae, self.scheduler = unet, vae, scheduler or DDIM()
        self.model, self.revision = model, revision
        self.blend: Blend = "match" if model == "nano" else "paste"  # where the settings name none: a small model's colours are off
        self.notes: tuple[str, ...] = ()
        self._denoisers: dict[Any, Denoiser] = {}

    @classmethod
    def from_pretrained(
        cls,
        model: Any = "nano",
        *,
        device: str = "auto",
        require_gpu: bool = False,
        precision: str = "f32",
        vae: Any = None,
        revision: str | None = None,
        progress: Any = None,
    ) -> Inpainter:
        """The packaged nano, a published model by name (pretrained, places2, celebahq, ffhq), a folder, or a .bin or .safetensors file."""
        from moebius.weights import store  # imports what only loading needs

        notes: tuple[str, ...] = ()
        if model == "nano":
            model, notes = packaged_nano(), (NANO_NOTE,)
        ops = open_device(device, require_gpu=require_gpu, precision=precision)
        weights = store.load(model, vae=vae, revision=revision, progress=progress)
        made = cls(
            UNet(weights.unet_config, weights.unet, ops),
            VAE(weights.vae_config, weights.vae, ops),
            model=weights.name,
            revision=weights.commit,
        )
        if weights.ignored:
            some = ", ".join(weights.ignored[:3]) + (", …" if len(weights.ignored) > 3 else "")
            notes += (f"{len(weights.ignored)} entries of the checkpoint are no part of the model and were left out: {some}",)
        made.notes = notes
        return made

    @property
    def size(self) -> int:
        """The side of the squares the model works on, in pixels."""
        return self.unet.config.sample_size * self.vae.config.factor

    @property
    def device(self) -> str:
        return describe(self.unet.ops)

    def __call__(
        self,
        image: PhotoSource | Photo,
        mask: MaskSource | None = None,
        *,
        noise: Mapping[str, np.ndarray] | None = None,
        on_step: Callable[[Step], None] | None = None,
        **settings: Any,
    ) -> Result:
        """Fills in what is white in `mask`; see `Settings` for the rest. Without a mask, what is transparent in the image.

        `on_step` is called after every sampling step; what it raises ends the run.
        """
        run = self.steps(image, mask, noise=noise, **settings)
        for step in run:
            if on_step is not None:
                on_step(step)
        return run.result

    def steps(
        self, image: PhotoSource | Photo, mask: MaskSource | None = None, *, noise: Mapping[str, np.ndarray] | None = None, **settings: Any
    ) -> Run:
        """The same, step by step: iterate over it; then its `result` is there. Not iterated further, it has stopped."""
        unknown = settings.keys() - {f.name for f in fields(Settings)}
        if unknown:
            raise UsageError(f"There is no setting {', '.join(sorted(unknown))}. There are {', '.join(f.name for f in fields(Settings))}.")
        return Run(self, image, mask, Settings(**settings), noise)

    def denoiser(self, batch: int, timesteps: np.ndarray, settings: Settings) -> Denoiser:
        """The sampling loop for that many windows at once; the last ones made are kept, a recorded step with each."""
        key = batch, settings.steps, len(timesteps), settings.guidance
        if key not in self._denoisers:
            ids = np.repeat(condition_ids(self.unet.config), batch, axis=0)
            coefficients = self.scheduler.coefficients(timesteps, settings.steps)
            made = Denoiser(self.unet, ids, timesteps.tolist(), coefficients, settings.guidance)
            made.rehearse()
            while len(self._denoisers) >= DENOISERS_KEPT:
                self._denoisers.pop(next(iter(self._denoisers)))
            self._denoisers[key] = made
        return self._denoisers[key]

    def forget_denoisers(self) -> None:
        """Gives up the recorded steps and the memory they hold."""
        self._denoisers.clear()

    def moments(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Mean and log variance of the image's latents."""
        mean, logvar = np.split(_finite(self.vae.encode(x), "moments", self.vae), 2, axis=1)
        return mean, np.clip(logvar, *LOG_VARIANCE)

    def sample(self, moments: tuple[np.ndarray, np.ndarray], eps: np.ndarray) -> np.ndarray:
        """(mean + exp(½·logvar)·ε)·scaling_factor"""
        mean, logvar = moments
        z: np.ndarray = mean + np.exp(0.5 * logvar) * eps
        return z * self.vae.config.scaling_factor


class Run:
    """One inpainting on its way. Iterating does the work; `result` is there afterwards."""

    def __init__(
        self,
        inpainter: Inpainter,
        image: PhotoSource | Photo,
        mask: MaskSource | None,
        settings: Settings,
        noise: Mapping[str, np.ndarray] | None,
    ) -> None:
        self.blend: Blend = settings.blend or ("paste" if settings.crop == "upstream" else inpainter.blend)
        settings = replace(settings, blend=self.blend)
        self.inpainter, self.settings, self.noise = inpainter, settings, noise
        self._clock = _Clock()
        self.timesteps = inpainter.scheduler.timesteps(settings.steps, settings.strength)
        self.photo = image if isinstance(image, Photo) else photos.load(image)
        if mask is None and self.photo.alpha is None:
            raise UsageError("There is no mask, and the image has no transparency to take one from; give a mask or a box.")
        self.from_alpha = mask is None or (isinstance(mask, str) and mask == masks.ALPHA)
        self.mask = masks.load(masks.ALPHA if mask is None else mask, self.photo, invert=settings.invert, grow=settings.grow)
        self.windows = crops.windows(self.mask.fill, inpainter.size, settings.crop, settings.feather)
        if self.blend == "match" and settings.feather is None:  # the same windows, pasted with no blur
            self.windows = [replace(w, feather=0) for w in self.windows]
        self._result: Result | None = None
        self._started = False

    @property
    def result(self) -> Result:
        if self._result is None:
            raise UsageError("The run has not ended; iterate over it first.")
        return self._result

    def __iter__(self) -> Iterator[Step]:
        if self._started:
            raise UsageError("A run can be iterated once; start another with steps().")
        self._started = True
        return self._work()

    def _work(self) -> Iterator[Step]:
        made, settings, clock, windows = self.inpainter, self.settings, self._clock, self.windows
        cuts = [cut_out(w, self.photo.rgb) for w in windows]
        latent = made.unet.config.sample_size
        for cut in cuts:
            if cut.x.shape[2:] != (made.size, made.size):
                raise UsageError(
                    f"The published resizing makes {cut.x.shape[3]}×{cut.x.shape[2]} of this image, and the model takes "
                    f"{made.size}×{made.size} alone; use crop='auto', or a square image."
                )
        count = settings.num_images * len(windows)
        eps = draws(settings, self.noise, (count, made.vae.config.latent_channels, latent, latent), len(windows))
        clock("prepare")

        # Items are image-major: all windows of the first seed, then of the next.
        clean: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        if settings.strength < 1:  # from 1 on the image itself has no part in the start
            clean = {w: made.moments(cut.x) for w, cut in enumerate(cuts)}
        zm = [made.moments(pixels.masked_image(cut.x, cut.m)) for cut in cuts]
        y = np.empty((count, *eps["start"].shape[1:]))
        masked = np.empty_like(y)
        for i in range(count):
            w = i % len(windows)
            start = eps["start"][i : i + 1] + settings.noise_offset * eps["offset"][i : i + 1]
            if settings.strength < 1:
                start = made.scheduler.add_noise(made.sample(clean[w], eps["image"][i : i + 1]), start, int(self.timesteps[0]))
            y[i : i + 1], masked[i : i + 1] = start, made.sample(zm[w], eps["masked"][i : i + 1])
        m8 = [pixels.latent_mask(cut.m, made.vae.config.factor) for cut in cuts]
        mask8 = np.concatenate([m8[i % len(windows)] for i in range(count)]) if count else np.zeros((0, 1, latent, latent))
        clock("encode")

        latents = np.empty(y.shape)
        batch = self._batch(count)
        preview = Preview(self, clean, cuts)
        first = done = 0
        while first < count:
            part = slice(first, min(first + batch, count))
            total = done + -(-(count - first) // batch) * len(self.timesteps)
            try:
                denoiser = made.denoiser(part.stop - part.start, self.timesteps, settings)
                for state in denoiser.steps(y[part], mask8[part], masked[part]):
                    if state.index == len(self.timesteps) - 1:
                        latents[part] = state.latents()
                    shown = partial(preview, state.estimate, first), partial(preview.patches, state.estimate, first)
                    yield Step(done, total, state.t, state, *shown)
                    done += 1
            except OutOfMemoryError:  # taken when the step first runs, so nothing of this part is done yet
                if batch == 1:
                    raise
                made.forget_denoisers()
                batch = -(-batch // 2)
                continue
            first = part.stop
        _finite(latents, "latents", made.unet)
        clock("denoise")

        decoded = []
        for i in range(count):
            x = _finite(made.vae.decode(latents[i : i + 1] / made.vae.config.scaling_factor), "decoded picture", made.vae)
            cut = cuts[i % len(windows)]
            decoded.append(to_integers(x, cut.rgb.dtype))
            if not decoded[-1].any() and cut.rgb[cut.m[0, 0] == 0].any():
                raise NonFiniteError(f"The decoded picture is black (vae.decode on {made.device}). Run `moebius validate` on this adapter.")
        clock("decode")

        images = [self._blended(i, decoded, cuts, self.blend) for i in range(settings.num_images)]
        clock("blend")
        self._result = Result(
            images,
            latents,
            clock.seconds,
            self._record(),
            (*made.notes, *self.photo.notes, *self.mask.notes),
            self.photo,
            windows,
            lambda i: self._blended(i, decoded, cuts, "raw"),
            lambda i: self._blended_array(i, decoded, cuts),
        )

    def _batch(self, count: int) -> int:
        """As many as fit one batch on this device; a limit says no when the step is recorded, before any memory is taken."""
        batch = max(1, min(count, self.inpainter.unet.ops.largest_batch))
        while True:
            try:
                if count:
                    self.inpainter.denoiser(batch, self.timesteps, self.settings)
                return batch
            except LimitError:
                if batch == 1:
                    raise
                batch = -(-batch // 2)

    def _blended(self, index: int, decoded: Sequence[np.ndarray], cuts: Sequence[Cut], blend: Blend) -> Image.Image:
        """The picture of one seed. `upstream` is what the published program returns, at the size it works at."""
        mine = decoded[index * len(self.windows) : (index + 1) * len(self.windows)]
        if self.settings.crop == "upstream" and self.windows:
            return blending.published_picture(rescaled(mine[0], np.dtype(np.uint8)), cuts[0], blend)
        return self.photo.with_rgb(*self._canvas(mine, cuts, blend), opaque=self.from_alpha)

    def _blended_array(self, index: int, decoded: Sequence[np.ndarray], cuts: Sequence[Cut]) -> np.ndarray:
        if self.settings.crop == "upstream" and self.windows:
            return np.asarray(self._blended(index, decoded, cuts, self.blend))
        mine = decoded[index * len(self.windows) : (index + 1) * len(self.windows)]
        return self.photo.array_with_rgb(*self._canvas(mine, cuts, self.blend), opaque=self.from_alpha)

    def _canvas(self, mine: Sequence[np.ndarray], cuts: Sequence[Cut], blend: Blend) -> tuple[np.ndarray, np.ndarray]:
        """The photo's pixels with every window put back, and which of them may have changed."""
        canvas, changed = np.array(self.photo.rgb), np.zeros(self.mask.fill.shape, bool)
        for window, out, cut in zip(self.windows, mine, cuts, strict=True):
            blending.put_back(canvas, out, cut, blend)
            rows, columns = window.inside()
            weights: Any = True
            if blend != "raw":
                rows, columns, weights = blending.seam_weights(window)
            changed[rows, columns] |= np.asarray(weights) > 0
        return canvas, changed

    def _record(self) -> dict[str, Any]:
        made = self.inpainter
        model = {"version": moebius.__version__, "model": made.model, "revision": made.revision, "device": made.device}
        timings = {stage: round(seconds, 4) for stage, seconds in self._clock.seconds.items()}
        given = {"noise": sorted(self.noise)} if self.noise else {}  # what the seed did not decide
        return {**model, **asdict(self.settings), **given, "timings": timings}


def draws(
    settings: Settings, given: Mapping[str, np.ndarray] | None, shape: tuple[int, int, int, int], windows: int
) -> dict[str, np.ndarray]:
    """The standard normal draws of a run for `shape` (N, 4, h, w), N = seeds × windows:

    image (N, 4, h, w)   the posterior sample of the image's latents
    masked (N, 4, h, w)  the same for the masked image
    start (N, 4, h, w)   the noise that sampling starts from
    offset (N, 4, 1, 1)  times noise_offset, added to start: one shift a channel

    Every seed has a stream of its own, and draws these four, in this order, for one window after the other: what a window
    gets depends on no other seed. A given array takes the place of its draws and leaves the others as they were.
    """
    shapes = {"image": shape, "masked": shape, "start": shape, "offset": (*shape[:2], 1, 1)}
    given = given or {}
    for name, array in given.items():
        if name not in shapes:
            raise UsageError(f"noise has no draw named {name!r}; its names are {', '.join(shapes)}.")
        if np.shape(array) != shapes[name]:
            raise UsageError(f"noise[{name!r}] is {np.shape(array)}; it must be {shapes[name]} (seeds × windows first).")
    drawn = {name: np.empty(s, np.float32) for name, s in shapes.items()}
    for image in range(shape[0] // windows if windows else 0):
        source = noises.source(settings.seed + image, settings.rng)
        for i in range(image * windows, (image + 1) * windows):
            for name, s in shapes.items():
                drawn[name][i] = source.draw((1, *s[1:]))[0]
    return {name: np.asarray(given.get(name, drawn[name])) for name in shapes}


def packaged_nano() -> Path:
    """The small demonstration model, a bundle inside the package."""
    path = Path(str(files("moebius.weights") / "nano.safetensors"))
    if not path.is_file():
        raise UsageError(
            "This version has no nano model inside. Name a published model (pretrained, places2, celebahq, ffhq), a folder or a file; "
            "or try the engine with --synthetic tiny."
        )
    return path


def to_integers(x: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """(1, 3, h, w) in about [-1, 1] → (h, w, 3) of an integer type, truncated as published."""
    if dtype == np.uint8:
        return pixels.to_uint8(x)
    white = np.iinfo(dtype).max
    return np.ascontiguousarray((np.clip((x[0] + 1.0) / 2, 0, 1) * white).astype(dtype).transpose(1, 2, 0))


def _finite(array: np.ndarray, what: str, net: UNet | VAE) -> np.ndarray:
    """The GPU has named the op by now; this is for NumPy."""
    if not np.isfinite(array).all():
        raise NonFiniteError(f"The {what} of the {type(net).__name__} on {describe(net.ops)} hold a NaN or an infinity; check the weights.")
    return array


class _Clock:
    """clock(name) books the time since the call before under `name`."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def __call__(self, name: str) -> None:
        now = time.perf_counter()
        self.seconds[name], self._last = now - self._last, now
