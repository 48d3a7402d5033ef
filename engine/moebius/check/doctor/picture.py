"""nano's picture on one device, its speed and its memory."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import Image

from moebius import sample
from moebius.backends.cpu import CPU
from moebius.backends.reference import Reference
from moebius.backends.webgpu import WebGPU, probe
from moebius.backends.webgpu.tensor import Buffer
from moebius.check import parts
from moebius.check.bounds import LEVELS
from moebius.check.doctor.findings import Finding
from moebius.check.doctor.kernels import TO_DO
from moebius.errors import OutOfMemoryError
from moebius.inpaint.inpainter import Inpainter
from moebius.inpaint.result import Step
from moebius.model import unet, vae
from moebius.model.denoise import Denoiser
from moebius.model.scheduler import DDIM
from moebius.model.synthetic import rng
from moebius.model.unet import UNetConfig, condition_ids
from moebius.model.vae import VAEConfig
from moebius.pictures.published import to_uint8
from moebius.weights import store
from moebius.weights.published import NANO

MEAN = 1.0  # of 255, on average over what is filled in: more is seen
PART = 64  # pixels on a side of the part of a picture that software drivers make
STEPS, GUIDANCE, TAKEN = 20, 2.5, 2  # of the schedule, and how many of them the part takes
TOLERANCE = probe.TOLERANCE  # of the norm: two devices, a whole network
PIECE = 128 << 20  # bytes of a buffer that is taken to see whether there is room


def nano_on(ops: Any) -> Inpainter:
    return Inpainter.from_weights(store.load(NANO), ops)


def findings(ops: WebGPU | Reference, full: bool) -> Iterator[Finding]:
    """The picture, the speed, the memory."""
    nano = nano_on(ops)
    software = isinstance(ops, WebGPU) and ops.caps.is_software
    picture, ms = in_part(nano) if software and not full else whole(nano)
    yield picture
    yield Finding(
        "speed", "ok", f"nano takes {ms:.0f} ms a step." if ms >= 10 else f"nano takes {ms:.1f} ms a step.", "", {"ms_per_step": ms}
    )
    yield memory(ops)


def whole(nano: Inpainter) -> tuple[Finding, float]:
    """The packaged sample, filled, against what the float64 oracle makes of it; and milliseconds a step."""
    times: list[float] = []

    def at_step(step: Step) -> None:
        step.state.latents()  # there when the GPU has done it
        times.append(time.perf_counter())

    result = nano(sample.photo(), sample.mask(), detail=0, on_step=at_step)
    with Image.open(sample.filled()) as golden:
        want = np.asarray(golden.convert("RGB"), np.int16)
    differ = np.abs(np.asarray(result.image.convert("RGB"), np.int16) - want)
    with Image.open(sample.mask()) as mask:
        mean = float(differ[np.asarray(mask.convert("L")) > 127].mean())
    apart = int(differ.max())
    ms = 1e3 * float(np.median(np.diff(times)))
    numbers = {"levels": apart, "mean": round(mean, 4), "part": False}
    if apart > LEVELS[nano.precision] or mean > MEAN:
        text = f"nano's picture is off by {apart} of 255 levels from the golden one."
        return Finding("picture", "wrong", text, f"{TO_DO}.", numbers), ms
    return Finding("picture", "ok", f"nano's picture is the golden one, to {apart} of 255 levels.", "", numbers), ms


def in_part(nano: Inpainter) -> tuple[Finding, float]:
    """Encoding a part of the sample, two steps, decoding a part: a software driver takes a minute for all of it. Against the CPU device."""
    cpu = nano_on(CPU())
    with Image.open(sample.photo()) as photo:
        x = np.moveaxis(np.asarray(photo.convert("RGB").resize((PART, PART)), np.float32)[None] / 127.5 - 1, -1, 1)
    moments = [n.vae.encode(x) for n in (nano, cpu)]
    (first, ms), (second, _) = (steps(n) for n in (nano, cpu))
    side = PART // nano.vae.config.factor
    z = second[:, :, :side, :side] / nano.vae.config.scaling_factor
    pictures = [to_uint8(n.vae.decode(z)).astype(np.int16) for n in (nano, cpu)]
    errors = {
        "encoding": relative(*moments),
        "sampling": relative(first, second),
    }
    levels = int(np.abs(pictures[0] - pictures[1]).max())
    wrong = [f"{name} by {error:.1e}" for name, error in errors.items() if not error <= TOLERANCE[nano.precision]]
    wrong += [f"decoding by {levels} of 255 levels"] if levels > LEVELS[nano.precision] else []
    numbers = {**errors, "levels": levels, "part": True}
    if wrong:
        return Finding("picture", "wrong", f"A part of nano's picture is off: {', '.join(wrong)}.", f"{TO_DO}.", numbers), ms
    text = f"A part of nano's picture is the CPU device's, to {levels} of 255 levels; --full makes the whole one."
    return Finding("picture", "ok", text, "", numbers), ms


def steps(nano: Inpainter) -> tuple[np.ndarray, float]:
    """The latents after a few steps, and the milliseconds of the last."""
    scheduler, config = DDIM(), nano.unet.config
    timesteps = scheduler.timesteps(STEPS)[:TAKEN]
    rows = scheduler.coefficients(timesteps, STEPS)
    denoiser = Denoiser(nano.unet, condition_ids(config), timesteps.tolist(), rows, GUIDANCE)
    s, c = config.sample_size, config.out_channels
    y, masked = (rng(0, f"doctor.{name}").standard_normal((1, c, s, s), dtype=np.float32) for name in ("y", "masked"))
    mask = np.zeros((1, 1, s, s), np.float32)
    mask[..., s // 4 : s // 2, s // 4 : s // 2] = 1
    begun = time.perf_counter()
    for state in denoiser.steps(y, mask, masked):
        latents = state.latents()
        ms, begun = 1e3 * (time.perf_counter() - begun), time.perf_counter()
    return latents, ms


def relative(got: np.ndarray, want: np.ndarray) -> float:
    return float(np.linalg.norm(got - want) / np.linalg.norm(want))


# memory --------------------------------------------------------------------------------------------------------------
def memory(ops: WebGPU | Reference) -> Finding:
    """Whether a published model finds room: its weights, and what a picture takes beside them on a GPU."""
    if isinstance(ops, WebGPU):
        found = parts.memory(*parts.recorded(ops, UNetConfig.full(), VAEConfig.full()))
        needs, one = found["picture_bytes"], found["low_memory_bytes"]
        words = f"a picture of a published model takes {needs / 1e9:.1f} GB, with --low-memory {one / 1e9:.1f} GB"
    else:
        sizes = (int(np.prod(shape)) for net in (unet.shapes(UNetConfig.full()), vae.shapes(VAEConfig.full())) for shape in net.values())
        needs = one = 4 * sum(sizes)
        words = f"the weights of a published model take {needs / 1e9:.1f} GB"
    numbers: dict[str, Any] = {"published_bytes": needs}
    if isinstance(ops, WebGPU) and not ops.caps.is_software:
        room, where = next((n for n in (needs, one) if takes(ops, n)), 0), "the adapter"
    else:
        free = free_bytes()
        if free is None:
            return Finding("memory", "note", f"There is no telling how much is free; {words}.", "", numbers)
        numbers["free_bytes"] = free
        room, where = free, f"the machine ({free / 1e9:.1f} GB free)"
    if room >= needs:
        return Finding("memory", "ok", f"There is room on {where}: {words}.", "", numbers | {"fits": True})
    if room >= one:
        advice = "Pictures are made so by themselves where the memory ends; --low-memory leaves it to others from the start."
        return Finding("memory", "note", f"There is room on {where} for one network at a time: {words}.", advice, numbers | {"fits": False})
    advice = "Close other programs that use the memory, or stay with nano."
    return Finding("memory", "note", f"There is not enough room on {where}: {words}.", advice, numbers | {"fits": False})


def takes(ops: WebGPU, nbytes: int) -> bool:
    """Whether that much can be had at once. It is written to, for memory that is only promised says nothing."""
    taken: list[Buffer] = []
    try:
        for begin in range(0, nbytes, PIECE):
            buffer = Buffer(ops.gpu, min(PIECE, nbytes - begin), "memory to try", "pinned")
            buffer.allocate()
            taken.append(buffer)
        encoder = ops.gpu.device.create_command_encoder()
        for buffer in taken:
            encoder.clear_buffer(buffer.handle)
        ops.gpu.device.queue.submit([encoder.finish()])
        taken[-1].read(4)
    except OutOfMemoryError:
        return False
    finally:
        taken.clear()
        ops.gpu.trim()
    return True


def free_bytes() -> int | None:
    """Of the machine's memory; None where the system does not say."""
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None
