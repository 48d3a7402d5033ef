"""Linear layers and convolutions, and the time tables."""

from __future__ import annotations

from collections.abc import Callable
from math import gcd
from typing import Literal, NamedTuple

from moebius.backends.webgpu import pack, wgsl
from moebius.backends.webgpu.calls import TILE, Epilogue, GemmCall, Operands, Phases, Taps, Weight
from moebius.backends.webgpu.deferred import Added, GroupNormed, Joined, Parted, is_parted
from moebius.backends.webgpu.gemm import Dense
from moebius.backends.webgpu.ops.norms import CHUNKS, behind, copied
from moebius.backends.webgpu.pack import up4
from moebius.backends.webgpu.recorder import Recorder, ceil
from moebius.backends.webgpu.tensor import Binding, DType, Tensor, itemsize
from moebius.model.contract import Precision
from moebius.model.params import Finite, Params

WHOLE = 64 << 20  # bytes of a tensor that is kept in one piece on a GPU, at most
# And of a part of one that is not, at least, if there are more than two. With half of it f16 would take more memory, and more dispatches;
# with twice as much 24 dispatches less, and on matrix units 16 MB more.
PART: dict[Precision, int] = {"f32": 16 << 20, "f16": 32 << 20}
PARTS = 16  # of which there are so many at most
# Of what a convolution gives that is `inner`: as large as the weights make it, and maybe too large for halves. On GPUs alone: a software
# driver's statistics load one number at a time, and would unpack four for each.
INNER: dict[Precision, DType] = {"f32": "f32", "f16": "quad"}


class Block(NamedTuple):
    """How depthwise divides its work: lines of a thread, threads of a workgroup, and vec4 of channels and runs of it, at most."""

    rows: int
    threads: int
    lanes: int
    across: int


# No bit of a result depends on it. On an H200 two lines took as long as one in f32, 1.1 times as long in f16, and four 1.3 times as long.
# With two an output takes 3 loads in place of 4.5, and 0.7 of the time on llvmpipe, 0.9 on SwiftShader; with four 0.55 and 0.9, and
# SwiftShader compiles for twice as long. On software drivers a workgroup is neighbours in a line, for blocks take SwiftShader longer.
BLOCK, SOFTWARE_BLOCK = Block(1, 256, 8, 4), Block(2, 64, 64, 64)


def time_table(dense: Dense, x: Tensor, p: Params, op: str, act: Literal["silu"] | None) -> Tensor:
    """A linear layer of a row for every timestep, once a run."""
    rec = dense.recorder
    n, k = p["weight"].shape
    out = rec.new((1, 1, x.shape[2], n), f"{p.path} table")
    w = Weight(rec.weight(p, "weight", (up4(k), up4(n)), lambda p: pack.gemm(p["weight"])))
    dense(GemmCall(op, p.path, Operands(x, w, out, k, n), epilogue=Epilogue(bias=rec.vector(p, "bias"), act=act), prologue=True))
    return out


def linear(dense: Dense, x: Tensor, p: Params, residual: Tensor | None = None) -> Tensor:
    shape = (*x.shape[:3], p["weight"].shape[0])
    count = len(x.parts) if is_parted(x) and _divides(dense.recorder, shape) else 1
    return made(dense.recorder, shape, p.path, count, lambda out: _linear(dense, x, p, out, residual))


def _linear(dense: Dense, x: Tensor, p: Params, out: Tensor, residual: Tensor | None) -> Tensor:
    rec = dense.recorder
    n, k = p["weight"].shape[:2]
    w = Weight(rec.weight(p, "weight", (up4(k), up4(n)), lambda p: pack.gemm(pack.matrix(p))))
    bias = rec.vector(p, "bias") if p.get("bias") is not None else None
    operands = Operands(x, w, out, k, n)
    if isinstance(x, Added) and rec.fits(x.rest, x.g, out):
        operands = _of_both(rec, x, p, out)
    elif isinstance(x, Joined) and rec.fits(x.a, x.b, out):
        operands = Operands(x.a, w, out, k, n, joined=x.b)
    elif isinstance(x, GroupNormed) and rec.fits(x.x, out):
        operands = Operands(x.x, w, out, k, n, norm=x.norm)
    dense(GemmCall("linear", p.path, operands, epilogue=Epilogue(bias=bias, residuals=present(residual))))
    return out


def _of_both(rec: Recorder, x: Added, p: Params, out: Tensor) -> Operands:
    n, k = p["weight"].shape[0], x.shape[3] + x.g.shape[3]
    before = Finite(x.p.root, x.p.path)
    w = rec.weight(p, "weight", (up4(k), up4(n)), lambda p: pack.gemm(pack.behind_sum(pack.matrix(p), pack.matrix(before))), x.p.path)
    return Operands(x.rest, Weight(w), out, k, n, joined=x.g)


def conv3x3(
    dense: Dense, x: Tensor, p: Params, stride: int = 1, pad: int = 1, residual: Tensor | None = None, inner: bool = False
) -> Tensor:
    b, h, w, _ = x.shape
    shape = (b, ceil(h, stride), ceil(w, stride), p["weight"].shape[0])
    dtype = _given(dense.recorder, inner)
    count = _parts_behind(dense.recorder, shape, dtype, x, residual)
    return made(dense.recorder, shape, p.path, count, lambda out: _conv(dense, x, p, out, Taps(stride, pad), residual), dtype)


def _conv(dense: Dense, x: Tensor, p: Params, out: Tensor, mode: Taps, residual: Tensor | None) -> Tensor:
    rec = dense.recorder
    n, k = p["weight"].shape[:2]
    taps = rec.weight(p, "weight", (9, up4(k), up4(n)), lambda p: pack.taps(p["weight"]))
    weight = Weight(taps, others={"winograd": taps})
    epilogue = Epilogue(bias=rec.vector(p, "bias"), residuals=present(residual))
    dense(GemmCall("conv3x3", p.path, Operands(x, weight, out, k, n), mode, epilogue))
    return out


def upsample_conv3x3(dense: Dense, x: Tensor, p: Params, inner: bool = False) -> Tensor:
    rec, (b, h, w, _) = dense.recorder, x.shape
    shape = (b, 2 * h, 2 * w, p["weight"].shape[0])
    dtype = _given(rec, inner)
    return made(rec, shape, p.path, _parts(rec, shape, dtype), lambda out: _upsample(dense, x, p, out), dtype)


def _upsample(dense: Dense, x: Tensor, p: Params, out: Tensor) -> Tensor:
    rec = dense.recorder
    n, k = p["weight"].shape[:2]
    phases = rec.weight(p, "phases", (4, 4, up4(k), up4(n)), lambda p: pack.phases(p["weight"]))
    differences = rec.weight(p, "differences", (9, up4(k), up4(n)), lambda p: pack.differences(p["weight"]))
    weight = Weight(phases, others={"differences": differences})
    dense(GemmCall("upsample_conv3x3", p.path, Operands(x, weight, out, k, n), Phases(), Epilogue(bias=rec.vector(p, "bias"))))
    return out


def dwconv(dense: Dense, x: Tensor, p: Params, shift: Tensor | None = None, residual: Tensor | None = None) -> Tensor:
    rec = dense.recorder
    n, k = p["conv_pw.weight"].shape[:2]
    w = rec.constant(p, "depthwise", (9, up4(k)), lambda p: pack.depthwise(p)[0])
    bias = rec.constant(p, "depthwise bias", (up4(k),), lambda p: pack.depthwise(p)[1])
    h = rec.handed_on(x.shape, f"{p.path}.conv_dw")
    _depthwise(rec, "dwconv", p.path, x, w, bias, h, gated=False)
    out = rec.new((*x.shape[:3], n), p.path)
    weight = Weight(rec.weight(p, "pointwise", (up4(k), up4(n)), lambda p: pack.pointwise(p)[0]))
    bias = rec.constant(p, "pointwise bias", (up4(n),), lambda p: pack.pointwise(p)[1])
    # With a shift and a residual there would be nine bindings.
    normed = x if isinstance(x, GroupNormed) and n == x.shape[3] and (shift is None or residual is None) else None
    own = (normed.x if normed else x) if n == x.shape[3] else None
    epilogue = Epilogue(bias=bias, shift=shift, residuals=present(own, residual), norm=normed.norm if normed else None)
    dense(GemmCall("dwconv", p.path, Operands(h, weight, out, k, n), epilogue=epilogue))
    return out


def feed_forward(dense: Dense, x: Tensor, p: Params, residual: Tensor) -> Tensor:
    rec, op = dense.recorder, "feed_forward"
    inverted, depth, point = (p.at(f"{name}_conv.conv") for name in ("inverted", "depth", "point"))
    c, hid = point["weight"].shape[:2]
    hid4 = up4(hid)
    # Both halves are padded by themselves, so that value and gate of a channel are one distance apart.
    h = rec.handed_on((*x.shape[:3], 2 * hid4), inverted.path)
    x, norm, spread = behind(rec, x)
    matrix, bias = rec.layer(inverted, "inverted", (up4(c), 2 * hid4), pack.inverted, norm)
    dense(GemmCall(op, inverted.path, Operands(x, Weight(matrix), h, c, 2 * hid4), epilogue=Epilogue(spread, bias, "silu")))
    g = rec.handed_on((*x.shape[:3], hid), depth.path)
    w = rec.constant(depth, "weight", (9, 2 * hid4), lambda depth: pack.f32(pack.halves(depth["weight"].reshape(-1, 9)).T))
    bias = rec.constant(depth, "bias", (2 * hid4,), lambda depth: pack.f32(pack.halves(depth["bias"])))
    _depthwise(rec, op, depth.path, h, w, bias, g, gated=True)

    def make() -> Tensor:
        out = rec.new(residual.shape, p.path)
        weight = Weight(rec.weight(point, "weight", (hid4, up4(c)), lambda point: pack.gemm(pack.matrix(point))))
        dense(GemmCall(op, point.path, Operands(g, weight, out, hid, c), epilogue=Epilogue(residuals=(residual,))))
        return out

    # Halves go into a tile of matrix units as they are, which two tensors side by side do not.
    puts_off = rec.folds and rec.caps.fuses and c % 4 == 0 and (rec.caps.matrix is None or g.dtype == "f32")
    return Added(residual, g, point, make) if puts_off else make()


def _depthwise(rec: Recorder, op: str, path: str, x: Tensor, w: Binding, bias: Binding, out: Tensor, gated: bool) -> None:
    b, height, width, c = out.shape
    norm = x.norm if isinstance(x, GroupNormed) else None
    source = x.x if isinstance(x, GroupNormed) else x
    first, second = (source.a, source.b) if isinstance(source, Joined) else (source, None)
    c4, runs = up4(c) // 4, ceil(width, wgsl.numbers("depthwise")["RUN"])
    rows, threads, lanes, across = BLOCK if rec.caps.fuses else SOFTWARE_BLOCK
    lanes = gcd(c4, lanes)
    across = min(across, threads // lanes, 1 << runs.bit_length() - 1)
    down = threads // (lanes * across)
    rec.dispatch(
        op,
        path,
        "depthwise",
        (c4 // lanes, ceil(runs, across), ceil(b * ceil(height, rows), down)),
        {"x": first, "joined": second, "norm": norm.table if norm else None, "w": w, "bias": bias, "out": out},
        {"images": b, "height": height, "width": width, "c4": c4, "a4": first.pitch // 4},
        {
            "ROWS": rows,
            "LANES": lanes,
            "ACROSS": across,
            "DOWN": down,
            "RELU": not gated,
            "GATED": gated,
            "JOINED": second is not None,
            "NORMED": norm is not None,
            "NORM_SILU": bool(norm and norm.silu),
        },
        iterations=2 * (rows + 2),
        flops=18 * x.rows * x.shape[3],
    )


def _given(rec: Recorder, inner: bool) -> DType:
    """The type of what a convolution gives."""
    return INNER[rec.caps.precision] if inner and rec.caps.fuses else "f32"


def _parts(rec: Recorder, shape: tuple[int, int, int, int], dtype: DType) -> int:
    """In how many parts a large tensor is: every line of tiles can be where one begins, and a norm's chunks are whole in them."""
    _, height, _, _ = shape
    nbytes, count = _nbytes(shape, dtype), 1
    if rec.caps.fuses and nbytes > WHOLE and _divides(rec, shape):
        while height % (2 * TILE * count) == 0 and count < PARTS and (count == 1 or nbytes >= 2 * count * PART[rec.caps.precision]):
            count *= 2
    return count


def _parts_behind(rec: Recorder, shape: tuple[int, int, int, int], dtype: DType, x: Tensor, residual: Tensor | None) -> int:
    """And what a convolution makes: as its residual, over which it lies then; or as an input of up to twice its size, whose memory it takes
    part by part."""
    source, nbytes = x.x if isinstance(x, GroupNormed) and not x.is_made else x, _nbytes(shape, dtype)
    alike = residual if residual is not None else source if 2 * nbytes >= source.nbytes >= nbytes > WHOLE else None
    return len(alike.parts) if is_parted(alike) and alike.shape[:3] == shape[:3] and _divides(rec, shape) else 1


def _nbytes(shape: tuple[int, int, int, int], dtype: DType) -> int:
    b, h, w, c = shape
    return itemsize(dtype) * b * h * w * up4(c)


def _divides(rec: Recorder, shape: tuple[int, int, int, int]) -> bool:
    """Of one image, whose lines a window can begin at, and its chunks be divided in two."""
    b, h, w, c = shape
    return b == 1 and w * up4(c) % rec.alignment == 0 and h * w % CHUNKS == 0


def made(
    rec: Recorder, shape: tuple[int, int, int, int], label: str, count: int, make: Callable[[Tensor], Tensor], dtype: DType = "f32"
) -> Tensor:
    """What `make` makes in the tensor that it is given: one in so many parts."""

    def whole() -> Tensor:
        return make(rec.new(shape, label, dtype=dtype))

    if count == 1:
        return whole()
    b, h, w, c = shape
    parts = [rec.new((b, h // count, w, c), f"{label}, part {i}", dtype=dtype) for i in range(count)]
    rec.recording.in_turn = max(rec.recording.in_turn, (_nbytes(shape, "f32") // 2, _nbytes(shape, dtype) // 2))
    return make(Parted(parts, whole, copied(rec, label)))


def present(*tensors: Tensor | None) -> tuple[Tensor, ...]:
    return tuple(t for t in tensors if t is not None)
