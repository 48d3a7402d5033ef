"""One inpainting, a method a stage, in the order they happen: prepare, encode, denoise, decode, blend."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from copy import copy
from dataclasses import replace
from functools import cached_property, partial
from threading import Lock
from typing import Any, cast

import numpy as np
from PIL import Image

from moebius.errors import LimitError, NonFiniteError, OutOfMemoryError, UsageError
from moebius.inpaint.clock import Clock
from moebius.inpaint.coding import decode, encode
from moebius.inpaint.cost import large_mask
from moebius.inpaint.draws import Draw, drawn_later, shared
from moebius.inpaint.item import Item
from moebius.inpaint.loaded import LoadedModel, check_finite, wider
from moebius.inpaint.preview import Preview
from moebius.inpaint.record import record, resolved
from moebius.inpaint.result import Result, Step
from moebius.inpaint.settings import Settings
from moebius.model.contract import StepState
from moebius.pictures import photo as photos
from moebius.pictures import windows
from moebius.pictures.blend import NO_DETAIL, Blend, is_thin, kept, published_picture, put_back, put_film, put_finer, seam_weights
from moebius.pictures.cut import cut_out
from moebius.pictures.extend import chosen_mask, extended
from moebius.pictures.grain import Detail, mixed
from moebius.pictures.mask import MaskSource
from moebius.pictures.photo import MAX_PIXELS, Photo, PhotoSource
from moebius.pictures.pixels import rescaled

FINER = 1  # which noise of a seed the finer windows have
MOST_ITEMS = 10_000  # windows × pictures of one run: each keeps its noise and its latents


class Run:
    """One inpainting on its way. Photo and mask are read at once; iterating does the work, and `result` is there afterwards.

    Nothing runs before the first step is asked for, so that a progress bar may take it: `for step in tqdm(run)`.
    """

    def __init__(
        self,
        model: LoadedModel,
        image: PhotoSource | Photo,
        mask: MaskSource | None,
        settings: Settings,
        noise: Mapping[str, np.ndarray] | None,
        *,
        max_pixels: int = MAX_PIXELS,
        force: bool = False,
        allow_empty: bool = False,
    ) -> None:
        self._clock = Clock()
        self._asked = model  # `model` is another one where f16 overflowed
        self.model, self.settings, self.noise = model, resolved(settings, model), noise
        self.blend, self.detail = cast(Blend, self.settings.blend), cast(float, self.settings.detail)
        self.timesteps = model.scheduler.timesteps(settings.steps, settings.strength)
        self.photo = image if isinstance(image, Photo) else photos.load(image, max_pixels)
        options: dict[str, Any] = {"invert": settings.invert, "grow": settings.grow, "max_pixels": max_pixels, "force": force}
        self.mask = chosen_mask(mask, self.photo, settings.extend, allow_empty, options)
        if any(settings.extend):
            self.photo, self.mask = extended(self.photo, self.mask, settings.extend, settings.grow, max_pixels)
        self.windows = windows.windows(self.mask.fill, model.size, settings.crop, settings.feather, settings.max_windows)
        if self.blend == "match" and settings.feather is None:  # the same windows, pasted with no blur
            self.windows = [replace(w, feather=0) for w in self.windows]
        films = self.blend == "match" and settings.crop != "upstream"
        self.modelled = [w for w in self.windows if not (films and is_thin(w))]  # the windows that a model is asked for
        left = settings.max_windows - len(self.modelled)
        self.finer = windows.finer(self.modelled, left) if settings.refine else []  # windows that draw over those
        each = len(self.modelled) + len(self.finer)
        if settings.num_images * each > MOST_ITEMS:
            raise UsageError(
                f"{settings.num_images} pictures of {each} windows each are {settings.num_images * each} runs of the model; at most "
                f"{MOST_ITEMS} can be one call's. Ask for fewer pictures at once, or grow the mask so that its parts become one."
            )
        self.warning = large_mask(self.mask.fill, self.modelled, len(self.finer), len(self.timesteps), settings.num_images)
        self.items: list[Item] = []  # all these windows of the first picture, then of the next
        self._finer_items: list[Item] = []  # likewise of the finer ones
        self._total: int | None = None  # steps, as soon as it is known how many windows the device takes at once
        self._start: np.ndarray | None = None  # as `prepare` is given it
        self._keep, self._draw = 0.0, cast(Draw | None, None)
        self._prepared = self._started = self._decoded = False
        self.overflow: str | None = None  # what is to be said where it began again in f32
        self._result: Result | None = None
        self._joining = Lock()  # whoever asks for the result first puts it together
        self._done = 0  # steps
        self._clock.book("prepare")

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user should know, before the run begins: of the model, of photo and mask, of the cost where most is marked; and
        at its end, whether it overflowed."""
        return (*self.model.notes, *self.photo.notes, *self.mask.notes, *(note for note in (self.warning, self.overflow) if note))

    @property
    def result(self) -> Result:
        """Put together when it is first asked for, which needs no device: another run may have it meanwhile."""
        if not self._decoded:
            raise UsageError("The run has not ended; iterate over it first.")
        with self._joining:
            if self._result is None:
                self._clock.resume()
                images = [self._picture(i, self.blend) for i in range(self.settings.num_images)]
                self._clock.book("blend")
                self._result = self._finished(images)
            return self._result

    def __len__(self) -> int:
        """How many steps it has; of a device with little memory there may become more of them on the way. The step is recorded for this."""
        if self._total is None:
            self.model.check_open()
            self._total = self._length(self._count, self.timesteps) + self._after(self.settings.num_images)
        return self._total

    def __bool__(self) -> bool:
        return True  # also where there is nothing to fill in

    def __iter__(self) -> Iterator[Step]:
        self._check_not_started()
        self.model.check_open()
        return self._stages()

    def _check_not_started(self) -> None:
        if self._started:
            raise UsageError("A run can be iterated once; start another with steps().")

    @property
    def _side(self) -> int:
        """Of the latents."""
        return self.model.unet.config.sample_size

    @property
    def _count(self) -> int:
        """Windows × pictures."""
        return len(self.modelled) * self.settings.num_images

    @property
    def _finer_timesteps(self) -> np.ndarray:
        return self.model.scheduler.timesteps(self.settings.steps, self.settings.refine or 1)

    def _length(self, count: int, timesteps: np.ndarray) -> int:
        """Steps of the sampling loop for so many windows."""
        return -(-count // self._batch(count, timesteps)) * len(timesteps) if count else 0

    def _after(self, images: int) -> int:
        """Steps of the finer windows of so many pictures."""
        return images * self._length(len(self.finer), self._finer_timesteps) if self.finer else 0

    def _stages(self) -> Iterator[Step]:
        try:
            self.begin()
            yield from self.denoise()
            while not self.finish():
                yield from self.denoise()
        finally:
            self.leave()

    def leave(self) -> None:
        """Gives back what nobody else needs."""
        self._asked.leave(self)

    def begin(self) -> None:
        """Up to the latents that sampling starts from."""
        self._check_not_started()
        self._started = True
        self.prepare(drawn=False)
        self._clock.resume()
        self._begin()

    def _begin(self) -> None:
        try:
            encode(self.model, self.items, self.settings, self.settings.strength, self.timesteps, self._start)
        except NonFiniteError as error:
            self.fall_back(error)
        self._clock.book("encode")

    def fall_back(self, error: NonFiniteError) -> None:
        """Begins again in f32, where what is not finite may have overflowed f16; raises the error where it cannot have."""
        self.model, self.overflow = wider(self.model, self, error)
        self._finer_items, self._done, self._total = [], 0, None
        self.__dict__.pop("_preview", None)
        self._begin()

    def denoise(self) -> Iterator[Step]:
        """All its steps; where they overflow, all again in f32."""
        try:
            yield from self._denoise()
            return
        except NonFiniteError as error:
            self.fall_back(error)
        yield from self._denoise()  # when the error is forgotten, and with it what its run had on the device

    def _denoise(self) -> Iterator[Step]:
        """The steps of its windows, then those of the finer ones, which start from what the others made."""
        count = self.settings.num_images
        yield from self._sample(self.items, self.timesteps, self._preview, self._after(count))
        if self.finer:
            self._clock.book("denoise")
            decode(self.model, self.items)
            self._clock.book("decode")
            for image in range(count):
                yield from self._draw_over(image)

    def finish(self) -> bool:
        """From the latents of all items to their pixels. False where these overflow: it has begun again, and all its steps are to come."""
        self._clock.book("denoise")
        try:
            if not self.finer:
                decode(self.model, self.items)
        except NonFiniteError as error:
            self.fall_back(error)
            return False
        self._decoded = True
        self._clock.book("decode")
        return True

    def _draw_over(self, image: int) -> Iterator[Step]:
        """The finer windows of one picture: they start from what the others made, with noise of their own seed, in the picture's places."""
        settings, side = replace(self.settings, seed=mixed(self.settings.seed + image, FINER), num_images=1), self._side
        canvas, _ = self._canvas(image, self.model.blend if self.blend == "raw" else self.blend, NO_DETAIL)
        shape = len(self.finer), self.model.vae.config.latent_channels, side, side
        noise = drawn_later(settings, self._draw and self._draw(settings, self.finer), shape, shared(self.finer, side))
        cuts = [cut_out(window, canvas) for window in self.finer]
        items = [Item(image, cut, noise, w) for w, cut in enumerate(cuts)]
        self._clock.book("prepare")
        preview, after = Preview(self.model, canvas, self.mask.fill), self._after(self.settings.num_images - image - 1)
        encode(self.model, items, settings, settings.refine, self._finer_timesteps)
        self._clock.book("encode")
        yield from self._sample(items, self._finer_timesteps, preview, after)
        self._clock.book("denoise")
        decode(self.model, items)
        self._clock.book("decode")
        for item in items:  # so that many pictures take no more memory than their pixels
            item.drop()
        self._finer_items += items

    # prepare -----------------------------------------------------------------------------------------------------
    def prepare(self, draw: Draw | None = None, start: np.ndarray | None = None, keep: float = 0.0, drawn: bool = True) -> None:
        """Cuts the windows out of the photo and, unless it is not to be `drawn` yet, draws the noise: before the first step, or now, while
        another run has the device.

        `draw` gives what `steps` takes as its noise, of these windows and of the finer ones. `start` (H, W, 3) takes the photo's place
        where the strength is below 1 and a picture has a part in the beginning; of its hole the result keeps the part `keep`, 0 to 1.
        """
        if self._prepared:
            return
        self._clock.resume()
        self._start, self._keep, self._draw = start, keep, draw
        if draw is not None:
            self.noise = draw(self.settings, self.modelled)
        self._prepare()
        if drawn and self.items:
            self.items[0].drawn()
        self._prepared = True
        self._clock.book("prepare")

    def _prepare(self) -> None:
        model, size = self.model, self.model.size
        cuts = [cut_out(w, self.photo.rgb) for w in self.modelled]
        for cut in cuts:
            if cut.x.shape[2:] != (size, size):
                raise UsageError(
                    f"The published resizing makes {cut.x.shape[3]}×{cut.x.shape[2]} of this image, and the model takes "
                    f"{size}×{size} alone; use crop='auto', or a square image."
                )
        count, side = self.settings.num_images * len(cuts), self._side
        noise = drawn_later(self.settings, self.noise, (count, model.vae.config.latent_channels, side, side), shared(self.modelled, side))
        self.items += [Item(i // len(cuts), cuts[i % len(cuts)], noise, i) for i in range(count)]

    # denoise -----------------------------------------------------------------------------------------------------
    def _sample(self, every: Sequence[Item], timesteps: np.ndarray, preview: Preview, after: int) -> Iterator[Step]:
        """Runs the sampling loop over as many items at once as the device takes; `after` steps are to come when they are through."""
        steps, count, batch = len(timesteps), len(every), self._batch(len(every), timesteps)
        first, done = 0, self._done
        while first < count:
            items = every[first : first + batch]
            begun, saved = done, self.model.low_memory
            total = self._total = done + -(-(count - first) // batch) * steps + after
            try:
                for state in self.loop(items, timesteps):
                    yield self.step_of(state, done, total, items, preview=preview)
                    done += 1
            except OutOfMemoryError:  # memory is taken when a step first runs; these items begin again, fewer at once
                if batch == 1 and not self.model.save_memory(saved):
                    raise
                self.model.forget_denoisers()
                done, batch = begun, -(-batch // 2)
                continue
            first += len(items)
        self._done = done

    def step_of(
        self,
        state: StepState,
        index: int,
        total: int,
        items: Sequence[Item],
        rows: slice = slice(None),
        preview: Preview | None = None,
    ) -> Step:
        """What is handed out of a step whose batch has this run's items in `rows`."""
        preview = self._preview if preview is None else preview
        own = StepState(state.index, state.t, lambda: state.latents()[rows], lambda: state.estimate()[rows])
        shown = partial(preview, own.estimate, items), partial(preview.patches, own.estimate, items)
        return Step(index, total, state.t, own, *shown)

    @cached_property
    def _preview(self) -> Preview:
        return Preview(self.model, self.photo.rgb, self.mask.fill)

    def _batch(self, count: int, timesteps: np.ndarray) -> int:
        """As many as fit one batch on this device; a limit says no when the step is recorded, before any memory is taken."""
        batch = max(1, min(count, self.model.unet.ops.largest_batch))
        while True:
            try:
                if count:
                    self.model.denoiser(batch, timesteps, self.settings)
                return batch
            except LimitError:
                if batch == 1:
                    raise
                batch = -(-batch // 2)

    def loop(self, items: Sequence[Item], timesteps: np.ndarray) -> Iterator[StepState]:
        """The steps of one batch, of this run's items or of several alike runs'; after the last, the items have their latents."""
        with self.model.room.at_work(self.model.unet):
            denoiser = self.model.denoiser(len(items), timesteps, self.settings)
            start, mask, masked = (np.concatenate([getattr(i, name) for i in items]) for name in ("start", "mask", "masked"))
            for state in denoiser.steps(start, mask, masked):
                if state.index == len(timesteps) - 1:
                    for item, latents in zip(items, state.latents(), strict=True):
                        item.latents = np.array(latents[None], np.float64)
                yield state
        check_finite(self._latents(items), "latents", self.model.unet)

    def _latents(self, items: Sequence[Item]) -> np.ndarray:
        empty = np.empty((0, self.model.vae.config.latent_channels, self._side, self._side))
        return np.concatenate([i.latents for i in items]) if items else empty

    # blend -------------------------------------------------------------------------------------------------------
    def _picture(self, image: int, blend: Blend) -> Image.Image:
        """The picture of one seed. With crop="upstream" what the published program returns, at the size it works at."""
        if self.settings.crop == "upstream" and self.windows:
            item = self.items[image]
            return published_picture(rescaled(item.decoded, np.dtype(np.uint8)), item.cut, blend)
        return self.photo.with_rgb(*self._whole(image, blend), opaque=self.mask.from_alpha)

    def _array(self, image: int) -> np.ndarray:
        """The same as an array of the photo's own shape and type."""
        if self.settings.crop == "upstream" and self.windows:
            return np.asarray(self._picture(image, self.blend))
        return self.photo.array_with_rgb(*self._whole(image, self.blend), opaque=self.mask.from_alpha)

    def _whole(self, image: int, blend: Blend) -> tuple[np.ndarray, np.ndarray]:
        """The photo's pixels with every window put back, the finer ones over the others, and which of them may have changed."""
        canvas, changed = self._canvas(image, blend, Detail(self.detail, self.settings.seed + image))
        finer = [item for item in self._finer_items if item.image == image]
        base = canvas.copy() if finer and blend != "raw" else canvas
        for item in finer:
            if blend == "raw":
                put_back(canvas, item.decoded, item.cut, blend)
                changed[item.window.inside()] = True
            else:
                put_finer(canvas, item.decoded, item.cut, base)
        if finer and self._start is not None and blend != "raw":
            kept(canvas, base, self.mask.fill, self._keep)  # which has so much of the start already
        return canvas, changed

    def _canvas(self, image: int, blend: Blend, detail: Detail) -> tuple[np.ndarray, np.ndarray]:
        """The same without the finer ones."""
        canvas, changed = np.array(self.photo.rgb), np.zeros(self.mask.fill.shape, bool)
        made = {i.window: i for i in self.items[image * len(self.modelled) : (image + 1) * len(self.modelled)]}
        for window in self.windows:
            seam = None if blend == "raw" else seam_weights(window)
            if window in made:
                put_back(canvas, made[window].decoded, made[window].cut, blend, self.photo.rgb, detail, seam)
            elif seam is not None:
                put_film(canvas, window, self.photo.rgb, seam)
            if seam is None:
                changed[window.inside()] |= window in made
            else:
                rows, columns, weights = seam
                changed[rows, columns] |= weights > 0
        if self._start is not None:
            kept(canvas, self._start, self.mask.fill, self._keep)
        return canvas, changed

    # result ------------------------------------------------------------------------------------------------------
    def _finished(self, images: list[Image.Image]) -> Result:
        model, seconds = self.model, self._clock.seconds
        known = record(model, self.settings, self.noise or ()) | {"timings": {stage: round(s, 4) for stage, s in seconds.items()}}
        made = copy(self)  # which has no result: one that knew the run that knows it would be in memory until Python looks for such circles
        more = self.notes, self.photo, self.windows, partial(made._picture, blend="raw"), made._array
        return Result(images, self._latents(self.items), seconds, known, *more)
