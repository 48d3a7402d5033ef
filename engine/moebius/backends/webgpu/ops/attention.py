"""The VAE's attention: scores, softmax and the sum of values, in bands of queries."""

from __future__ import annotations

from moebius.backends.webgpu import pack, wgsl
from moebius.backends.webgpu.calls import Epilogue, GemmCall, Operands, Rows, Weight
from moebius.backends.webgpu.gemm import Dense
from moebius.backends.webgpu.ops.dense import linear
from moebius.backends.webgpu.pack import up4
from moebius.backends.webgpu.recorder import Recorder, ceil
from moebius.backends.webgpu.tensor import Binding, Tensor
from moebius.model.params import Params

OP = "attention"


def attention(dense: Dense, x: Tensor, p: Params, residual: Tensor) -> Tensor:
    rec = dense.recorder
    b, h, w, c = x.shape
    n, c4 = h * w, up4(c)
    qkv = rec.new((b, h, w, 3 * c4), f"{p.path} qkv")
    weight = rec.weight(p, "qkv", (c4, 3 * c4), lambda p: pack.attention_qkv(p)[0])
    bias = rec.constant(p, "qkv bias", (3 * c4,), lambda p: pack.attention_qkv(p)[1])
    dense(GemmCall(OP, f"{p.path}.qkv", Operands(x, Weight(weight), qkv, c, 3 * c4), epilogue=Epilogue(bias=bias)))
    mixed = rec.handed_on(x.shape, f"{p.path} mixed")
    band = rec.bands(f"{OP} ({p.path})", n, up4(n))  # queries whose scores fit one binding
    for image in range(b):
        _image(dense, Tensor(qkv.buffer, (1, 1, b * n, 3 * c4)), mixed, p, image, band)
    return linear(dense, mixed, p.at("to_out.0"), residual=residual)


def _image(dense: Dense, qkv: Tensor, mixed: Tensor, p: Params, image: int, band: int) -> None:
    """One image's rows of `mixed`; `qkv` has a row for every position of every image."""
    rec = dense.recorder
    _, h, w, c = mixed.shape
    n, c4, pitch = h * w, up4(c), qkv.pitch
    keys = rec.new((1, 1, c, n), f"{p.path} keys")
    rec.dispatch(
        OP,
        f"{p.path}.keys",
        "transpose",
        c * keys.pitch,
        {"x": qkv, "out": keys},
        {"rows": n, "columns": c, "pitch": pitch, "offset": image * n * pitch + c4, "out_pitch": keys.pitch},
    )
    keys_w = Weight(Binding("w", "read", keys.buffer, keys.shape), packed=False)
    values_at = image * n * (pitch // 4) + 2 * c4 // 4
    values_w = Weight(Binding("w", "read", qkv.buffer, (*mixed.shape[:3], pitch)), packed=False, pitch4=pitch // 4, offset4=values_at)
    for q0 in range(0, n, band):
        count = min(band, n - q0)
        begin = image * n + q0
        scores = rec.new((1, 1, count, n), f"{p.path} scores")
        queries = Rows(count, offset=begin * (pitch // 4))
        dense(GemmCall(OP, f"{p.path}.scores", Operands(qkv, keys_w, scores, c, n), queries))
        weights = _softmax(rec, scores, p)
        landing = Rows(count, out_row=begin)
        dense(GemmCall(OP, f"{p.path}.values", Operands(weights, values_w, mixed, n, c), landing))


def _softmax(rec: Recorder, scores: Tensor, p: Params) -> Tensor:
    _, _, count, n = scores.shape
    weights = rec.new(scores.shape, f"{p.path} weights")
    rec.dispatch(
        OP,
        f"{p.path}.softmax",
        "softmax",
        rec.flat(count, 1),
        {"x": scores, "out": weights},
        {"rows": count, "n": n, "n4": scores.pitch // 4},
        iterations=3 * ceil(scores.pitch // 4, wgsl.kernel("softmax", "main").threads) + 16,
        flops=6 * count * n,
    )
    return weights
