"""The contract with WGSL kernels: each op records its dispatches; weights are packed and folded on first use.

Formulas are in `moebius.model.contract`, layouts in the shaders, packing in `pack`.
"""

from __future__ import annotations

import numpy as np

from moebius.backends.webgpu import pack
from moebius.backends.webgpu.device import Buffer
from moebius.backends.webgpu.gemm import Gemm
from moebius.backends.webgpu.pack import WINDOW_PITCH, up4
from moebius.backends.webgpu.plan import Binding, Tensor, write
from moebius.backends.webgpu.recorder import SIZE, ceil
from moebius.model.arrays import time_sinusoid
from moebius.model.contract import POSITION_WINDOW, Condition, Timesteps
from moebius.model.params import Params

GROUP_NORM_CHUNK = 4096  # elements a workgroup of group_stats reduces, at least
GROUP_NORM_CHUNKS = 256  # chunks of a group, at most
LAMBDA_CHUNKS = 64


class WebGPU(Gemm):
    """`WebGPU()` is the best adapter; `WebGPU("llvmpipe")` the best whose summary holds those words; `WebGPU("dawn:SwiftShader")`
    goes through Dawn. `limits="webgpu"` keeps to WebGPU's default limits on any adapter."""

    # time and condition ------------------------------------------------------------------------------------------
    def time_embedding(self, t: Timesteps, p: Params) -> Tensor:
        width = p["time_embedding.linear_1.weight"].shape[1]
        table = self._new((1, 1, len(t), width), "sinusoid", "pinned")
        self.recording.sinusoid = table
        if self._eager:
            write(table, time_sinusoid(t, width)[None, None])
        h = self._table(table, p.at("time_embedding.linear_1"), "time_embedding", "silu")
        return self._table(h, p.at("time_embedding.linear_2"), "time_embedding", "silu")

    def time_shift(self, temb: Tensor, p: Params) -> Tensor:
        return self._table(temb, p, "time_shift", None)

    def _table(self, x: Tensor, p: Params, op: str, act: str | None) -> Tensor:
        n, k = p["weight"].shape
        out = self._new((1, 1, x.shape[2], n), f"{p.path} table")
        w = self._constant(p, "weight", (up4(k), up4(n)), lambda: pack.gemm(p["weight"]))
        self._gemm(op, p.path, x, w, out, k=k, n=n, bias=self._vector(p, "bias"), act=act, prologue=True)
        return out

    def condition(self, ids: np.ndarray, p: Params) -> Condition:
        return Condition(ids, lambda: pack.condition_tokens(ids, p))

    # convolutions ------------------------------------------------------------------------------------------------
    def linear(self, x: Tensor, p: Params, residual: Tensor | None = None) -> Tensor:
        n, k = p["weight"].shape[:2]
        out = self._new((*x.shape[:3], n), p.path)
        w = self._constant(p, "weight", (up4(k), up4(n)), lambda: pack.gemm(pack.matrix(p)))
        bias = self._vector(p, "bias") if p.get("bias") is not None else None
        self._gemm("linear", p.path, x, w, out, k=k, n=n, bias=bias, residuals=[residual] if residual else [])
        return out

    def conv3x3(self, x: Tensor, p: Params, stride: int = 1, pad: int = 1, residual: Tensor | None = None) -> Tensor:
        n, k = p["weight"].shape[:2]
        b, h, w, _ = x.shape
        out = self._new((b, ceil(h, stride), ceil(w, stride), n), p.path)
        weight = self._constant(p, "weight", (9, up4(k), up4(n)), lambda: pack.taps(p["weight"]))
        bias, residuals = self._vector(p, "bias"), [residual] if residual else []
        self._gemm("conv3x3", p.path, x, weight, out, k=k, n=n, bias=bias, mode="TAPS", stride=stride, pad=pad, residuals=residuals)
        return out

    def upsample_conv3x3(self, x: Tensor, p: Params) -> Tensor:
        n, k = p["weight"].shape[:2]
        b, h, w, _ = x.shape
        out = self._new((b, 2 * h, 2 * w, n), p.path)
        weight = self._constant(p, "phases", (4, 4, up4(k), up4(n)), lambda: pack.phases(p["weight"]))
        self._gemm("upsample_conv3x3", p.path, x, weight, out, k=k, n=n, bias=self._vector(p, "bias"), mode="PHASE")
        return out

    def dwconv(self, x: Tensor, p: Params, shift: Tensor | None = None, residual: Tensor | None = None) -> Tensor:
        n, k = p["conv_pw.weight"].shape[:2]
        w = self._constant(p, "depthwise", (9, up4(k)), lambda: pack.depthwise(p)[0])
        bias = self._constant(p, "depthwise bias", (up4(k),), lambda: pack.depthwise(p)[1])
        h = self._new(x.shape, f"{p.path}.conv_dw")
        self._depthwise("dwconv", p.path, x, w, bias, h, gated=False)
        out = self._new((*x.shape[:3], n), p.path)
        w = self._constant(p, "pointwise", (up4(k), up4(n)), lambda: pack.pointwise(p)[0])
        bias = self._constant(p, "pointwise bias", (up4(n),), lambda: pack.pointwise(p)[1])
        residuals = [t for t in (x if n == x.shape[3] else None, residual) if t is not None]
        self._gemm("dwconv", p.path, h, w, out, k=k, n=n, bias=bias, shift=shift, residuals=residuals)
        return out

    def _depthwise(self, op: str, path: str, x: Tensor, w: Binding, bias: Binding, out: Tensor, gated: bool) -> None:
        b, height, width, c = out.shape
        run = 4
        self._dispatch(
            op,
            path,
            "depthwise",
            self._flat(b * height * ceil(width, run) * (up4(c) // 4)),
            {"x": x, "w": w, "bias": bias, "out": out},
            {"images": b, "height": height, "width": width, "c4": up4(c) // 4},
            {"RELU": not gated, "GATED": gated},
            iterations=6,
            flops=18 * x.rows * x.shape[3],
        )

    def feed_forward(self, x: Tensor, p: Params, residual: Tensor) -> Tensor:
        inverted, depth, point = (p.at(f"{name}_conv.conv") for name in ("inverted", "depth", "point"))
        c, hid = point["weight"].shape[:2]
        hid4 = up4(hid)
        # Both halves are padded by themselves, so that value and gate of a channel are one distance apart.
        h = self._new((*x.shape[:3], 2 * hid4), inverted.path)
        w = self._constant(inverted, "weight", (up4(c), 2 * hid4), lambda: pack.gemm(pack.halves(pack.matrix(inverted))))
        bias = self._constant(inverted, "bias", (2 * hid4,), lambda: pack.f32(pack.halves(inverted["bias"])))
        self._gemm("feed_forward", inverted.path, x, w, h, k=c, n=2 * hid4, bias=bias, act="silu")
        g = self._new((*x.shape[:3], hid), depth.path)
        w = self._constant(depth, "weight", (9, 2 * hid4), lambda: pack.f32(pack.halves(depth["weight"].reshape(-1, 9)).T))
        bias = self._constant(depth, "bias", (2 * hid4,), lambda: pack.f32(pack.halves(depth["bias"])))
        self._depthwise("feed_forward", depth.path, h, w, bias, g, gated=True)
        out = self._new((*x.shape[:3], c), p.path)
        w = self._constant(point, "weight", (hid4, up4(c)), lambda: pack.gemm(pack.matrix(point)))
        self._gemm("feed_forward", point.path, g, w, out, k=hid, n=c, residuals=[residual])
        return out

    # norms -------------------------------------------------------------------------------------------------------
    def group_norm(self, x: Tensor, p: Params, groups: int, eps: float, silu: bool = False) -> Tensor:
        b, h, w, c = x.shape
        positions, per_group = h * w, c // groups
        chunks = max(1, min(GROUP_NORM_CHUNKS, positions * per_group // GROUP_NORM_CHUNK, positions))
        chunk = ceil(positions, chunks)
        chunks = ceil(positions, chunk)
        parts = Tensor(Buffer(self.gpu, 8 * b * chunks * groups, f"{p.path} parts", "intermediate"), (1, 1, 1, 2 * b * chunks * groups))
        stats = self._new((1, 1, 2 * b, c), f"{p.path} stats")
        sizes: dict[str, int | float] = {"positions": positions, "pitch": x.pitch, "channels": per_group, "groups": groups, "chunk": chunk}

        def partial(image0: int, images: int, chunk0: int, count: int, source: Tensor | Binding, origin: int) -> None:
            self._dispatch(
                "group_norm",
                p.path,
                "group_stats",
                (groups, count, images),
                {"x": source, "out": Binding("out", "read_write", parts.buffer, parts.shape)},
                {**sizes, "chunks": chunks, "image0": image0, "chunk0": chunk0, "origin": origin},
                workgroup_bytes=16 * SIZE,
                iterations=ceil(chunk * per_group, SIZE) + 8,
                flops=4 * images * min(count * chunk, positions) * c,
            )

        if self._fits(x):
            partial(0, b, 0, chunks, x, 0)
        else:
            step = self._bands(f"group_norm ({p.path})", chunks, chunk * x.pitch)
            for image in range(b):
                for c0 in range(0, chunks, step):
                    begin, end = image * positions + c0 * chunk, image * positions + min((c0 + step) * chunk, positions)
                    window, origin = self._window("x", "read", x, begin * x.pitch, end * x.pitch)
                    partial(image, 1, c0, min(step, chunks - c0), window, origin)
        self._dispatch(
            "group_norm",
            p.path,
            "group_finish",
            self._flat(b * x.pitch),
            {"parts": Binding("parts", "read", parts.buffer, parts.shape), "weight": self._vector(p, "weight"), "out": stats},
            {"images": b, **sizes, "chunks": chunks, "eps": eps},
            iterations=2 * chunks,
        )
        out = self._new(x.shape, p.path)
        step = x.rows if self._fits(x) else self._bands(f"group_norm ({p.path})", x.rows, x.pitch, multiple=64)  # keeps windows aligned
        for r in range(0, x.rows, step):
            end = min(r + step, x.rows)
            source, origin = self._window("x", "read", x, r * x.pitch, end * x.pitch)
            target, _ = self._window("out", "read_write", out, r * x.pitch, end * x.pitch)
            assert origin == r * x.pitch
            self._dispatch(
                "group_norm",
                p.path,
                "group_apply",
                self._flat((end - r) * x.pitch // 4),
                {"x": source, "stats": stats, "bias": self._vector(p, "bias"), "out": target},
                {"first": r * x.pitch // 4, "count": (end - r) * x.pitch // 4, "c4": x.pitch // 4, "image": positions * x.pitch // 4},
                {"SILU": silu},
                flops=(8 if silu else 3) * (end - r) * c,
            )
        return out

    def layer_norm(self, x: Tensor, p: Params, eps: float = 1e-5) -> Tensor:
        out = self._new(x.shape, p.path)
        self._dispatch(
            "layer_norm",
            p.path,
            "layer_norm",
            self._flat(x.rows, SIZE // 16),
            {"x": x, "weight": self._vector(p, "weight"), "bias": self._vector(p, "bias"), "out": out},
            {"rows": x.rows, "channels": x.shape[3], "c4": x.pitch // 4, "eps": eps},
            workgroup_bytes=4 * SIZE,
            iterations=3 * ceil(x.pitch // 4, 16) + 8,
            flops=8 * x.rows * x.shape[3],
        )
        return out

    # attention ---------------------------------------------------------------------------------------------------
    def self_lambda(self, x: Tensor, p: Params, heads: int, residual: Tensor) -> Tensor:
        b, h, w, c = x.shape
        n, k = h * w, c // heads
        k4 = up4(k)
        width = (heads + 2) * k4  # q of every head, key, value
        qkv = self._new((b, h, w, width), f"{p.path} qkv")
        weight = self._constant(p, "qkv", (up4(c), width), lambda: pack.lambda_qkv(p, heads)[0])
        bias = self._constant(p, "qkv bias", (width,), lambda: pack.lambda_qkv(p, heads)[1])
        self._gemm("self_lambda", f"{p.path}.qkv", x, weight, qkv, k=c, n=width, bias=bias)

        chunks = min(LAMBDA_CHUNKS, ceil(n, 16))
        chunk = ceil(n, chunks)
        chunks = ceil(n, chunk)
        sums = self._new((b, chunks, k4, k4), f"{p.path} sums")
        stats = self._new((b, chunks, 2, k4), f"{p.path} stats")
        self._dispatch(
            "self_lambda",
            f"{p.path}.content",
            "lambda_content",
            self._flat(b * chunks * (k4 // 4) ** 2),
            {"qkv": qkv, "sums": sums, "stats": stats},
            {
                "images": b,
                "positions": n,
                "pitch": width // 4,
                "key": heads * k4 // 4,
                "k4": k4 // 4,
                "v4": k4 // 4,
                "chunk": chunk,
                "chunks": chunks,
            },
            iterations=2 * chunk,
            flops=2 * b * n * k * k,
        )
        content = self._new((b, 1, k4, k4), f"{p.path} lambda")
        pos_bias = self._constant(p, "pos_conv bias", (k4,), lambda: pack.vector(p["pos_conv.bias"]))
        self._dispatch(
            "self_lambda",
            f"{p.path}.combine",
            "lambda_combine",
            self._flat(b * k4 * k4 // 4),
            {"sums": sums, "stats": stats, "bias": pos_bias, "out": content},
            {"images": b, "k": k4, "v4": k4 // 4, "chunks": chunks},
            iterations=2 * chunks,
            flops=2 * b * chunks * k * k,
        )
        window = POSITION_WINDOW * WINDOW_PITCH
        logits = self._new((b, n, heads, window), f"{p.path} logits")
        filters = self._constant(p, "pos_conv", (k4, window), lambda: pack.position_filters(p))
        self._gemm("self_lambda", f"{p.path}.logits", qkv, filters, logits, k=k, n=window, split=heads, outer=width // 4, inner=k4 // 4)
        out = self._new(x.shape, p.path)
        self._dispatch(
            "self_lambda",
            f"{p.path}.apply",
            "lambda_apply",
            self._flat(b * n * k4 // 4),
            {"qkv": qkv, "lambda": content, "logits": logits, "residual": residual, "out": out},
            {"images": b, "height": h, "width": w, "qkv_pitch": width // 4, "k4": k4 // 4, "v4": k4 // 4, "v_dim": k, "pitch": out.pitch},
            {"HEADS": heads},
            iterations=POSITION_WINDOW * 5 + k4 // 4 + heads * 4,
            flops=2 * b * n * c * (window + k),
        )
        return out

    def cross_lambda(self, x: Tensor, cond: Condition, p: Params, heads: int, residual: Tensor) -> Tensor:
        b, h, w, c = x.shape
        n, k, tokens = h * w, c // heads, cond.ids.shape[1]
        k4 = up4(k)
        q = self._new((b, h, w, heads * k4), f"{p.path} q")
        weight = self._constant(p, "q", (up4(c), heads * k4), lambda: pack.lambda_query(p, heads)[0])
        bias = self._constant(p, "q bias", (heads * k4,), lambda: pack.lambda_query(p, heads)[1])
        self._gemm("cross_lambda", f"{p.path}.q", x, weight, q, k=c, n=heads * k4, bias=bias)

        def constants(which: int) -> np.ndarray:
            return pack.vector(pack.condition_keys_values(cond.tokens, p)[which])

        table = self._constant(p, "rel_pos_emb", (n, tokens, k4), lambda: pack.position_table(p))
        out = self._new(x.shape, p.path)
        self._dispatch(
            "cross_lambda",
            f"{p.path}.apply",
            "cross_lambda",
            self._flat(b * n * heads),
            {
                "q": q,
                "table": table,
                "keys": self._constant(p, "keys", (b, tokens, k4), lambda: constants(0), cond.key),
                "values": self._constant(p, "values", (b, tokens, k4), lambda: constants(1), cond.key),
                "residual": residual,
                "out": out,
            },
            {"images": b, "positions": n, "q_pitch": q.pitch // 4, "k4": k4 // 4, "v4": k4 // 4, "v_dim": k, "pitch": out.pitch},
            {"HEADS": heads, "TOKENS": tokens},
            iterations=6 * (k4 // 4) + 4,
            flops=4 * b * n * tokens * c,
        )
        return out

    def attention(self, x: Tensor, p: Params, residual: Tensor) -> Tensor:
        b, h, w, c = x.shape
        n, c4 = h * w, up4(c)
        qkv = self._new((b, h, w, 3 * c4), f"{p.path} qkv")
        weight = self._constant(p, "qkv", (c4, 3 * c4), lambda: pack.attention_qkv(p)[0])
        bias = self._constant(p, "qkv bias", (3 * c4,), lambda: pack.attention_qkv(p)[1])
        self._gemm("attention", f"{p.path}.qkv", x, weight, qkv, k=c, n=3 * c4, bias=bias)
        mixed = self._new(x.shape, f"{p.path} mixed")
        band = self._bands(f"attention ({p.path})", n, up4(n))  # queries whose scores fit one binding
        for image in range(b):
            keys = self._new((1, 1, c, n), f"{p.path} keys")
            rows = Tensor(qkv.buffer, (1, 1, b * n, 3 * c4))  # the same memory as one matrix
            self._dispatch(
                "attention",
                f"{p.path}.keys",
                "transpose",
                self._flat(c * keys.pitch),
                {"x": rows, "out": keys},
                {"rows": n, "columns": c, "pitch": 3 * c4, "offset": image * n * 3 * c4 + c4, "out_pitch": keys.pitch},
            )
            for q0 in range(0, n, band):
                count = min(band, n - q0)
                scores = self._new((1, 1, count, n), f"{p.path} scores")
                keys_bound = Binding("w", "read", keys.buffer, keys.shape)
                begin = image * n + q0
                at_query = begin * (3 * c4 // 4)
                self._gemm(
                    "attention", f"{p.path}.scores", rows, keys_bound, scores, k=c, n=n, rows=count, a_offset=at_query, tail=c % 4 > 0
                )
                weights = self._new((1, 1, count, n), f"{p.path} weights")
                self._dispatch(
                    "attention",
                    f"{p.path}.softmax",
                    "softmax",
                    self._flat(count, 1),
                    {"x": scores, "out": weights},
                    {"rows": count, "n": n, "n4": scores.pitch // 4},
                    workgroup_bytes=4 * SIZE,
                    iterations=3 * ceil(scores.pitch // 4, SIZE) + 16,
                    flops=6 * count * n,
                )
                values = Binding("w", "read", qkv.buffer, qkv.shape)
                at = image * n * (3 * c4 // 4) + 2 * c4 // 4
                self._gemm(
                    "attention",
                    f"{p.path}.values",
                    weights,
                    values,
                    mixed,
                    k=n,
                    n=c,
                    rows=count,
                    ldb4=3 * c4 // 4,
                    w_offset=at,
                    out_row=begin,
                    tail=n % 4 > 0,
                )
        return self.linear(mixed, p.at("to_out.0"), residual=residual)

    # assembling --------------------------------------------------------------------------------------------------
    def concat(self, a: Tensor, b: Tensor) -> Tensor:
        out = self._new((*a.shape[:3], a.shape[3] + b.shape[3]), "concat")
        unit = 4 if a.shape[3] % 4 == 0 and b.shape[3] % 4 == 0 else 1
        sizes = {"a": a.shape[3], "b": b.shape[3], "a_pitch": a.pitch, "b_pitch": b.pitch, "pitch": out.pitch}
        self._dispatch(
            "concat",
            "concat",
            "concat",
            self._flat(out.rows * out.pitch // unit),
            {"a": a, "b": b, "out": out},
            {"rows": out.rows, **{k: v // unit for k, v in sizes.items()}},
            {"UNIT": "vec4<f32>" if unit == 4 else "f32"},
        )
        return out

    def unet_input(self, y: Tensor, mask: Tensor, masked: Tensor, copies: int) -> Tensor:
        b, h, w, _ = y.shape
        parts = {"y": y, "mask": mask, "masked": masked}
        out = self._new((copies * b, h, w, sum(t.shape[3] for t in parts.values())), "unet input")
        channels: dict[str, int | float] = {k: t.shape[3] for k, t in parts.items()}
        pitches: dict[str, int | float] = {f"{k}_pitch": t.pitch for k, t in parts.items()}
        self._dispatch(
            "unet_input",
            "unet_input",
            "unet_input",
            self._flat(out.rows * out.pitch),
            {**parts, "out": out},
            {"rows": y.rows, "copies": copies, **channels, **pitches, "pitch": out.pitch},
        )
        return out

    def guided_ddim(self, eps: Tensor, y: Tensor, coefficients: np.ndarray, guidance: float) -> tuple[Tensor, Tensor]:
        rec, steps = self.recording, len(coefficients)
        table = Buffer(self.gpu, 16 * steps, "coefficients", "weight", lambda: pack.f32(coefficients))
        rec.flags = Buffer(self.gpu, 4 * steps, "finite flags", "pinned", lambda: np.zeros(steps, np.uint32))
        following, x0 = self._new(y.shape, "next latents"), self._new(y.shape, "estimate")
        count = y.nbytes // 16
        self._dispatch(
            "guided_ddim",
            "guided_ddim",
            "guided_ddim",
            self._flat(count),
            {
                "eps": eps,
                "y": y,
                "coefficients": Binding("coefficients", "read", table, (steps, 4)),
                "state": Binding("state", "read", rec.state, (1,)),
                "next": following,
                "x0": x0,
                "flags": Binding("flags", "read_write", rec.flags, (steps,)),
            },
            {"count": count, "guidance": guidance},
            {"GUIDED": eps.shape[0] != y.shape[0]},
            flops=9 * y.rows * y.shape[3],
        )
        return following, x0
