"""`moebius export-web`: records what an Inpainter runs and writes it as a static page."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from importlib.resources import files
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

import moebius
from moebius.errors import MoebiusError, UsageError
from moebius.files import REPLACED, folder_beside
from moebius.inpaint.device import chosen_precision
from moebius.inpaint.inpainter import Inpainter
from moebius.inpaint.loaded import LOG_VARIANCE
from moebius.inpaint.settings import Settings
from moebius.model import contract, noise, scheduler
from moebius.model.denoise import Denoiser
from moebius.model.unet import UNet, condition_ids
from moebius.model.vae import VAE
from moebius.pictures import blend, grain, islands, mask, pixels, published, seam, tiling, windows
from moebius.web.bundle import PLAN, WEIGHTS, Bundle, Progress, edition_file
from moebius.web.edition import Edition, ForBrowsers
from moebius.web.targets import NAMES, PLAIN, Target, targets
from moebius.web.witness import witness

ROWS = 100  # sampling steps that a page can take: the rows of its time tables

SYNTHETIC = "Its weights were made from a seed, not trained: the hole is filled with noise."
TILES = ("gpu", "cpu")
OPENING = b'{"format":'  # of every plan.json
PLAYED = ("steps", "guidance", "strength", "noise_offset", "seed")  # the settings that the page has
CONSTANTS: dict[ModuleType, tuple[str, ...]] = {  # what the page's scripts take from plan.json: they type no number of the engine's
    blend: ("MARGIN",),
    contract: ("TEMB_MAX_PERIOD",),
    grain: ("BLOCK", "MEAN", "DRAWN", "ALIKE", "PICK", "GRAIN_FADE", "BEYOND"),
    islands: ("CELL",),
    mask: ("PIECE", "SLACK"),
    noise: ("LN2", "LOG_DEGREE", "TURN_DEGREE"),
    pixels: ("LANCZOS",),
    published: ("BLUR_RADIUS",),
    scheduler: ("TRAIN_STEPS", "BETA_START", "BETA_END"),
    seam: ("CYCLES", "SWEEPS", "BAND", "RIM", "AROUND", "OFF", "SPREAD", "NEAR", "NOTHING", "PLACE", "THIN", "ROUND", "FADE", "EASE"),
    tiling: ("SCALES", "REACHED", "ROUNDED", "STEP", "EDGE", "RAMP", "WORTH"),
    windows: ("CONTEXT", "SHARED_CONTEXT", "SCALED", "MOST"),
}


def export(
    inpainter: Inpainter,
    folder: str | os.PathLike[str],
    *,
    tile: str = "gpu",
    precision: str = "auto",
    adapter: str | int | None = None,
    progress: Progress | None = None,
) -> int:
    """Writes the page of this model into `folder`, in place of a page that is there; returns its bytes.

    `tile` "cpu" is for browsers on a software driver. With `precision` "f16" the weights take half the room; "auto" is f32. Plans are
    recorded with WebGPU's default limits, so that every browser grants them, and once more for those that have matrix units; `adapter`
    only lends its driver.
    """
    target = Path(folder)
    if tile not in TILES:
        raise UsageError(f"tile is {tile!r}; choose one of {', '.join(TILES)}.")
    stored = chosen_precision(precision)
    check_target(target)
    bundle = record(inpainter, ForBrowsers(adapter, stored=stored), targets(stored, software=tile == "cpu"))
    check = witness(inpainter)
    keep_taps([edition for edition, _ in bundle.editions.values()], check.arrays)
    bundle.arrays = check.arrays
    unet, vae = inpainter.unet.config, inpainter.vae.config
    about: dict[str, Any] = {
        "moebius": moebius.__version__,
        "model": inpainter.model,
        "revision": inpainter.revision,
        "note": SYNTHETIC if inpainter.model.startswith("synthetic") else "",
        "tile": tile,
        "precision": stored,
        "config": {
            "size": inpainter.size,
            "factor": vae.factor,
            "latent": unet.sample_size,
            "channels": vae.latent_channels,
            "scaling": vae.scaling_factor,
        },
        "defaults": {name: getattr(Settings(), name) for name in PLAYED} | {"blend": inpainter.blend, "detail": inpainter.detail},
        "constants": constants(),
        "check": check.about,
    }
    return publish(target, lambda folder: write_site(folder) + bundle.write(folder, about, progress))


def constants() -> dict[str, Any]:
    """The numbers of CONSTANTS by their names, and the bounds of a posterior's log variance."""
    return {name: getattr(module, name) for module, names in CONSTANTS.items() for name in names} | {"LOG_VARIANCE": LOG_VARIANCE}


def record(inpainter: Inpainter, recorder: ForBrowsers, aims: Sequence[Target]) -> Bundle:
    """An edition for each target, of the three plans of a run: encoder, guided sampling step, decoder. Nothing runs. One that has no use
    for what it needs is left out."""
    bundle = Bundle()
    unet = UNet(inpainter.unet.config, inpainter.unet.root.root, recorder)
    vae = VAE(inpainter.vae.config, inpainter.vae.root.root, recorder)
    for target in aims:
        recorder.aim(target.caps, target.choose)
        add_plans(bundle.edition(target.name, **target.about()), unet, vae, recorder)
    plain = bundle.editions[PLAIN][0].data()
    bundle.editions = {name: made for name, made in bundle.editions.items() if name == PLAIN or made[0].data() != plain}
    return bundle


def add_plans(edition: Edition, unet: UNet, vae: VAE, recorder: ForBrowsers) -> None:
    latent, channels = unet.config.sample_size, vae.config.latent_channels
    side = latent * vae.config.factor
    # The values of the schedule and of the guidance are the player's to fill in.
    steps = Denoiser(unet, condition_ids(unet.config), [0] * ROWS, np.ones((ROWS, 4)), Settings().guidance)
    for name, forward, shapes, args in (
        ("encoder", vae.encoder, [(1, side, side, 3)], ()),
        ("step", steps.step, [(1, latent, latent, c) for c in (channels, 1, channels)], (slice(None),)),
        ("decoder", vae.decoder, [(1, latent, latent, channels)], ()),
    ):
        edition.add(name, *recorder.recorded(forward, shapes, *args))


def keep_taps(editions: Sequence[Edition], arrays: dict[str, np.ndarray]) -> None:
    """Modules are compared where both a plan and the native run have them."""
    plans = [(name, plan) for edition in editions for name, plan in edition.plans.items()]
    for name, plan in plans:
        plan["taps"] = [tap for tap in plan["taps"] if f"{name}/{tap['path']}" in arrays]
    names, paths = {name for name, _ in plans}, {f"{name}/{tap['path']}" for name, plan in plans for tap in plan["taps"]}
    for name in [n for n in arrays if n.split("/")[0] in names and "/" in n and n not in paths]:
        del arrays[name]


def write_site(folder: Path) -> int:
    """The page itself."""
    total = 0
    for item in files("moebius.web").joinpath("site").iterdir():
        total += (folder / item.name).write_bytes(item.read_bytes())
    return total


# the folder ----------------------------------------------------------------------------------------------------------


def page_files() -> set[str]:
    """The names of all that an export may write."""
    site = {item.name for item in files("moebius.web").joinpath("site").iterdir()}
    return site | {PLAN, WEIGHTS} | {edition_file(name) for name in NAMES}


def is_page(folder: Path) -> bool:
    """Whether an export wrote what is in this folder, and nobody has put anything beside it."""
    if not (folder / PLAN).is_file() or any(f.name not in page_files() or not f.is_file() for f in folder.iterdir()):
        return False
    try:
        with (folder / PLAN).open("rb") as file:
            return file.read(len(OPENING)) == OPENING
    except OSError:
        return False


def check_target(folder: Path) -> None:
    """Refuses, before any work is done, what is no folder, cannot be written, or holds anything but a page."""
    parent = folder.absolute().parent
    try:
        if folder.exists() and not folder.is_dir():
            raise UsageError(f"{folder} is a file; name a folder to write the page into.")
        if folder.is_dir() and any(folder.iterdir()) and not is_page(folder):
            strange = [f.name for f in folder.iterdir() if f.name not in page_files() or not f.is_file()]
            raise UsageError(
                f"{folder} holds what no export wrote ({', '.join(sorted(strange)[:3]) or f'no {PLAN} of one'}); name another folder."
            )
        if not parent.is_dir():
            raise UsageError(f"{folder} cannot be made: there is no folder {parent}; make it first.")
        with folder_beside(folder.absolute()):
            pass
    except OSError as error:
        raise MoebiusError(f"{folder} cannot be written ({error.strerror or error}); choose another place.") from error


def publish(folder: Path, write: Callable[[Path], int]) -> int:
    """Writes beside, then takes the name: nobody sees half a page, and a failure leaves the page that was there."""
    folder = folder.absolute()
    try:
        with folder_beside(folder) as beside:
            new, old = beside / "new", beside / REPLACED
            new.mkdir()
            size = write(new)
            check_target(folder)  # minutes may have passed
            if folder.is_dir():
                folder.rename(old)
            try:
                new.rename(folder)
            except BaseException:  # Ctrl-C too
                if old.is_dir():
                    old.rename(folder)
                raise
    except OSError as error:
        raise MoebiusError(f"{folder} cannot be written ({error.strerror or error}); free some space, or choose another place.") from error
    return size
