"""What puts tensors together: channels side by side, and the sampling step."""

from __future__ import annotations

import numpy as np

from moebius.backends.webgpu import pack
from moebius.backends.webgpu.deferred import Joined
from moebius.backends.webgpu.recorder import Recorder
from moebius.backends.webgpu.tensor import Binding, Tensor

COEFFICIENTS = "coefficients"  # the table of the schedule, in guided_ddim.wgsl and as the label of its buffer


def concat(rec: Recorder, a: Tensor, b: Tensor) -> Tensor:
    if rec.caps.fuses and a.shape[3] % 4 == 0 and b.shape[3] % 4 == 0:
        return Joined(a, b, lambda: _concat(rec, a, b))
    return _concat(rec, a, b)


def _concat(rec: Recorder, a: Tensor, b: Tensor) -> Tensor:
    out = rec.new((*a.shape[:3], a.shape[3] + b.shape[3]), "concat")
    unit = 4 if a.shape[3] % 4 == 0 and b.shape[3] % 4 == 0 else 1
    sizes = {"a": a.shape[3], "b": b.shape[3], "a_pitch": a.pitch, "b_pitch": b.pitch, "pitch": out.pitch}
    rec.dispatch(
        "concat",
        "concat",
        "concat",
        out.rows * out.pitch // unit,
        {"a": a, "b": b, "out": out},
        {"rows": out.rows, **{k: v // unit for k, v in sizes.items()}},
        {"UNIT": "vec4<f32>" if unit == 4 else "f32"},
    )
    return out


def repeat(rec: Recorder, x: Tensor, copies: int) -> Tensor:
    out, count = rec.new((copies * x.shape[0], *x.shape[1:]), "repeat"), x.rows * x.pitch // 4
    rec.dispatch("repeat", "repeat", "repeat", copies * count, {"x": x, "out": out}, {"count": count, "copies": copies})
    return out


def unet_input(rec: Recorder, y: Tensor, mask: Tensor, masked: Tensor) -> Tensor:
    b, h, w, _ = y.shape
    parts = {"y": y, "mask": mask, "masked": masked}
    out = rec.new((b, h, w, sum(t.shape[3] for t in parts.values())), "unet input")
    channels: dict[str, int | float] = {k: t.shape[3] for k, t in parts.items()}
    pitches: dict[str, int | float] = {f"{k}_pitch": t.pitch for k, t in parts.items()}
    rec.dispatch(
        "unet_input",
        "unet_input",
        "unet_input",
        out.rows * out.pitch,
        {**parts, "out": out},
        {"rows": y.rows, **channels, **pitches, "pitch": out.pitch},
    )
    return out


def guided_ddim(rec: Recorder, eps: Tensor, y: Tensor, coefficients: np.ndarray, guidance: float) -> tuple[Tensor, Tensor]:
    recording, steps = rec.recording, len(coefficients)
    table = rec.buffer(16 * steps, COEFFICIENTS, "weight", lambda: pack.f32(coefficients))
    recording.flags = rec.buffer(4 * steps, "finite flags", "pinned", lambda: np.zeros(steps, np.uint32))
    following, x0 = rec.new(y.shape, "next latents"), rec.new(y.shape, "estimate")
    count = y.nbytes // 16
    rec.dispatch(
        "guided_ddim",
        "guided_ddim",
        "guided_ddim",
        count,
        {
            "eps": eps,
            "y": y,
            "coefficients": Binding(COEFFICIENTS, "read", table, (steps, 4)),
            "state": Binding("state", "read", recording.state, (1,)),
            "next": following,
            "x0": x0,
            "flags": Binding("flags", "read_write", recording.flags, (steps,)),
        },
        {"count": count, "guidance": guidance},
        {"GUIDED": eps.shape[0] != y.shape[0]},
        flops=9 * y.rows * y.shape[3],
    )
    return following, x0
