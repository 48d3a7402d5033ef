"""Which backend computes: the best GPU, a named adapter, or the CPU device. A GPU is checked once (`verdicts`), and its kernels are tried
once (`tuning`)."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, get_args

from moebius.backends import hardware
from moebius.errors import AdapterError, MoebiusError, UsageError, did_you_mean
from moebius.model.contract import Ops, Precision

if TYPE_CHECKING:
    from moebius.backends.webgpu import WebGPU


PRECISIONS = ("auto", *get_args(Precision))


def chosen_precision(asked: str) -> Precision:
    """What "auto" means: f32, whatever the device."""
    if not isinstance(asked, str) or asked not in PRECISIONS:
        raise UsageError(f"precision is {ascii(asked)[:80]}; choose one of {', '.join(PRECISIONS)}.{did_you_mean(asked, PRECISIONS)}")
    return "f16" if asked == "f16" else "f32"


def unmet(asked: str, ops: Ops) -> tuple[str, ...]:
    """What is to be said where a device computes in another precision than the one that was asked for. Of a GPU it has been: `_sound`."""
    if asked == "auto" or asked == ops.precision or hasattr(ops, "gpu"):
        return ()
    return (f"Precision {asked} is for GPUs; {ops.name} computes in {ops.precision}.",)


def open_device(
    device: str = "auto",
    *,
    require_gpu: bool = False,
    precision: str = "auto",
    threads: int | None = None,
    matrix_units: bool = False,
) -> Ops:
    """The ops of a device.

    "auto" takes the best hardware GPU (discrete before integrated), else the CPU device; a software driver only when it is
    named, because NumPy is many times faster. "cpu" is the CPU device; anything else names an adapter (`moebius adapters`).
    `threads` are the CPU device's: as many as there are cores for this process, unless given. `precision` is "f32", "f16" for GPUs (the
    CPU device computes in f32 whatever is asked for), or "auto"; the one it is, is `precision` of the ops.

    `matrix_units` asks for those of a GPU, through Dawn. With "auto" (and there in f16 unasked, if Dawn is installed) they are taken where
    they compute right, and faster than wgpu does without; an adapter that is named must have them.

    A GPU that computes wrong is not used. Chosen by "auto" it gives way to the CPU device, and a warning says so; one that is wrong in f16
    alone computes in f32. Named, it is an error: who names an adapter wants that one, and neither another device in its place nor a wrong
    picture.
    """
    kind = chosen_precision(precision)
    if device == "cpu":
        if require_gpu:
            raise UsageError("A GPU is required, and the device asked for is cpu; drop one of the two.")
        if matrix_units:
            raise UsageError("Matrix units are a GPU's, and the device asked for is cpu; drop one of the two.")
        return _cpu(threads)
    if device == "auto":
        best = _best(require_gpu, kind, threads, matrix_units)
        if matrix_units and not hasattr(best, "gpu"):
            logging.getLogger("moebius").warning("Matrix units are a GPU's; %s computes without.", best.name)
        return best
    from moebius.backends.webgpu import WebGPU

    ops = WebGPU(device, precision=kind, matrix_units=matrix_units)
    if require_gpu and ops.caps.is_software:
        raise AdapterError(f"A GPU is required, and {ops.name} is a software driver. `moebius adapters` lists what there is.")
    if wrong := _fault(ops):
        other = "" if ops.precision == "f32" else "take precision f32, "
        raise AdapterError(f"{wrong} Update its driver, {other}or take another device (cpu always works); `moebius doctor` says more.")
    return _tuned(ops)


def preferred(listed: Sequence[Any]) -> Any | None:
    """The one of these adapters that "auto" takes: the best hardware GPU. None where there is none, and the CPU device computes."""
    from moebius.backends.webgpu.device import rank

    return min((a for a in listed if a.info["adapter_type"] != "CPU"), key=rank, default=None)


def _best(require_gpu: bool, precision: Precision, threads: int | None, matrix_units: bool = False) -> Ops:
    if not require_gpu and not hardware.possible():
        return _cpu(threads)
    from moebius.backends.webgpu import WebGPU, adapters

    try:
        listed = list(adapters())
    except AdapterError:  # wgpu cannot even load (no loader library); the CPU device still works
        listed = []
    if preferred(listed) is not None:
        ops, wrong = _sound(WebGPU(precision=precision))
        if not wrong:
            return _on_units(_tuned(ops), matrix_units)
        if require_gpu:
            raise AdapterError(f"A GPU is required. {wrong} Update its driver, or drop --require-gpu; `moebius doctor` says more.")
        # Without a handler of the user's, the line goes to standard error as it is.
        logging.getLogger("moebius").warning("%s The CPU device is used instead; `moebius doctor` says more.", wrong)
        return _cpu(threads)
    if require_gpu:
        summaries = "; ".join(a.summary for a in listed) or "none"
        raise AdapterError(
            f"A GPU is required, and there is no hardware adapter (found: {summaries}). Install its Vulkan driver, or drop --require-gpu."
        )
    return _cpu(threads)


def _sound(ops: WebGPU) -> tuple[WebGPU, str]:
    """A GPU as it computes right: in f32 where it does not in f16, which is said; and what is wrong where it does in neither."""
    wrong = _fault(ops)
    if not wrong or ops.precision == "f32":
        return ops, wrong
    whole = ops.in_f32()
    if in_f32 := _fault(whole):
        return ops, in_f32
    logging.getLogger("moebius").warning("%s It computes in f32 instead; `moebius doctor --precision f16` says more.", wrong)
    return whole, ""


def _on_units(ops: WebGPU, asked: bool) -> WebGPU:
    """The same adapter through Dawn, with its matrix units, where it computes right and faster; a word where it was asked for in vain."""
    if not asked and (ops.precision != "f16" or find_spec("wgpudawn") is None):
        return ops
    from moebius.backends.webgpu import WebGPU, native
    from moebius.backends.webgpu.device import twin
    from moebius.inpaint import contest

    known = contest.was_worth_it(ops)
    if known is False and not asked:
        return ops
    if known is None:
        contest.keep(ops, False)
    try:
        native.allow_matrix_units()  # before its first adapter
        other = WebGPU(f"dawn:{twin(ops.gpu.info)}", precision=ops.precision, matrix_units=True)
        wrong = _fault(other)
        if not wrong:
            _tuned(other)
            wrong = "" if contest.is_faster(other, ops) else f"{other.name} is no faster with its matrix units than {ops.name} without."
    except MoebiusError as error:
        wrong = str(error)
    except KeyboardInterrupt:  # which is no crash
        contest.keep(ops, known)
        raise
    if known is not (not wrong):
        contest.keep(ops, not wrong)
    if wrong and asked:
        logging.getLogger("moebius").warning("%s %s is used, without matrix units.", wrong, ops.name)
    return ops if wrong else other


def _fault(ops: WebGPU) -> str:
    """A sentence, or nothing where the adapter computes right."""
    from moebius.inpaint import verdicts

    wrong = verdicts.fault(ops)
    half = "" if ops.precision == "f32" else f" in {ops.precision}"
    return f"{ops.name} does not compute right{half}: {wrong.rstrip('.')}." if wrong else ""


def _tuned(ops: WebGPU) -> WebGPU:
    from moebius.inpaint import tuning

    tuning.prepare(ops)
    return ops


def _cpu(threads: int | None) -> Ops:
    from moebius.backends.cpu import CPU

    return CPU(threads=threads)
