"""The lambda layers: attention as a linear map that is made of keys and values and applied to queries."""

from __future__ import annotations

from collections.abc import Mapping
from math import gcd
from typing import NamedTuple

import numpy as np

from moebius.backends.webgpu import pack, wgsl
from moebius.backends.webgpu.calls import Epilogue, GemmCall, Operands, Rows, Weight
from moebius.backends.webgpu.caps import Caps
from moebius.backends.webgpu.gemm import Dense
from moebius.backends.webgpu.ops.norms import behind
from moebius.backends.webgpu.pack import WINDOW_PITCH, up4
from moebius.backends.webgpu.recorder import Recorder, ceil
from moebius.backends.webgpu.tensor import Binding, Tensor
from moebius.backends.webgpu.units import HALVES, fragments
from moebius.model.contract import POSITION_WINDOW, Condition
from moebius.model.params import Params

Constants = dict[str, int | bool | str]

CHANNELS = (2, 1)  # of a thread of lambda_apply, in vec4: two take 16 loads of 32 products each, one takes 12 of 16


class Window(NamedTuple):
    """How lambda_window divides its work: its constants of these names."""

    run: int
    each: int
    lines: int
    share: int
    kept: bool
    split: int = 1


class Content(NamedTuple):
    """How lambda_content divides its work: its constants of these names, for that many positions at least."""

    lines: int
    lanes: int
    tv4: int
    ahead: int
    least: int = 0

    def constants(self) -> dict[str, int]:
        return {"LINES": self.lines, "LANES": self.lanes, "TV4": self.tv4, "AHEAD": self.ahead}


class Cross(NamedTuple):
    """How cross_lambda_rows divides its work: lanes, rows and logits of a thread at most."""

    lanes: int
    rows: int
    own: int


class UnitWindow(NamedTuple):
    """How lambda_matrix divides its work: its constants of these names, for heads of that many vec4 at most."""

    fragments: int
    lines: int
    share: int
    lanes: int = 1024


# In the order of preference, with and without more workgroup memory than WebGPU's default limit.
ROOMY = 32 << 10
WINDOWS = (
    Window(8, 1, 3, 4, False),
    Window(8, 2, 3, 8, False),  # of half the threads
    Window(2, 1, 3, 2, True),
)
SMALL_WINDOWS = tuple(Window(run, 1, 1, 4, False) for run in (16, 8, 4, 2))
# The same: the fastest of each level, and what there is room for elsewhere.
UNIT_WINDOWS = tuple(UnitWindow(*form) for form in ((4, 1, 1, 10), (4, 2, 1), (4, 1, 1), (2, 1, 1), (1, 2, 2), (1, 1, 1)))
# Where positions are few, channels are many: more lanes, whose loads are neighbours, leave workgroups enough. The last form divides every
# row, and every device has room for it.
CONTENT = (
    Content(128, 2, 1, 8, 2048),
    Content(64, 2, 1, 8, 2048),
    Content(64, 4, 1, 8, 512),
    Content(32, 4, 1, 8, 512),
    Content(16, 8, 1, 8),
    Content(32, 4, 1, 4),
    Content(64, 2, 1, 4),
    Content(64, 1, 1, 4),
)
GROUPS = 256  # workgroups that make a GPU busy
# At every level within a hundredth of the fastest of nine: two heads of ten tokens a thread, and a row a workgroup.
CROSS_FORM = Cross(20, 1, 20)
SOFTWARE_CONTENT = {"LINES": 8, "LANES": 1, "TV4": 1, "AHEAD": 2}  # as many threads as llvmpipe has lanes
SELF, CROSS = "self_lambda", "cross_lambda"


def self_lambda(dense: Dense, x: Tensor, p: Params, heads: int, residual: Tensor) -> Tensor:
    rec = dense.recorder
    b, h, w, c = x.shape
    k = c // heads
    k4 = up4(k)
    width = (heads + 2) * k4  # q of every head, key, value
    qkv = rec.new((b, h, w, width), f"{p.path} qkv")
    x, norm, spread = behind(rec, x)
    weight, bias = rec.layer(p, "qkv", (up4(c), width), pack.lambda_qkv, norm, heads)
    dense(GemmCall(SELF, f"{p.path}.qkv", Operands(x, Weight(weight), qkv, c, width), epilogue=Epilogue(spread, bias)))
    content = _content(rec, qkv, p, heads, k)
    filters = rec.constant(p, "pos_conv", (k4, POSITION_WINDOW * WINDOW_PITCH), lambda p: pack.position_filters(p))
    if constants := unit_windows(rec.caps, heads, k4 // 4, (h, w)):
        return _window(rec, "lambda_matrix", qkv, content, filters, p, heads, k, constants, residual)
    if rec.caps.fuses and (constants := windows(rec.caps, heads, k4 // 4, (h, w))):
        return _window(rec, "lambda_window", qkv, content, filters, p, heads, k, constants, residual)
    return _apply(dense, qkv, content, filters, p, heads, k, residual)


def _content(rec: Recorder, qkv: Tensor, p: Params, heads: int, k: int) -> Tensor:
    """λ = λc + bias of every image, (4·K4, 4·V4): the part that is the same at all positions."""
    b, h, w, width = qkv.shape
    n, k4 = h * w, up4(k)
    constants = SOFTWARE_CONTENT if rec.caps.is_software else content_block(rec.caps, n, k4 // 4)
    c = wgsl.numbers("lambda_content", tuple(sorted(constants.items())))
    share = c["LINES"] // c["PARTS"]  # of a sum over the lines
    added = share + ceil(c["SUMS"] * c["SHARED"], c["SIZE"]) * (1 + share) + ceil(4 * c["WIDE"], c["SIZE"])
    content = rec.new((b, 1, k4, k4), f"{p.path} lambda")
    rec.dispatch(
        SELF,
        f"{p.path}.content",
        "lambda_content",
        (k4 // 4 // c["WIDE"], k4 // 4, b),
        {"qkv": qkv, "bias": rec.constant(p, "pos_conv bias", (k4,), lambda p: pack.vector(p["pos_conv.bias"])), "out": content},
        {"positions": n, "pitch": width // 4, "key": heads * k4 // 4, "k4": k4 // 4, "v4": k4 // 4},
        constants,
        iterations=ceil(n, c["AHEAD"] * c["LINES"]) + added,
        flops=2 * b * n * k * k,
    )
    return content


def content_block(caps: Caps, positions: int, v4: int) -> dict[str, int]:
    """The constants of a GPU's lambda_content: the first of `CONTENT` that divides a row of λ and that the device has room for."""
    forms = (form for form in CONTENT if positions >= form.least and v4 % (form.lanes * form.tv4) == 0)
    return next(constants for constants in (form.constants() for form in forms) if _fits(caps, "lambda_content", constants))


def _apply(dense: Dense, qkv: Tensor, content: Tensor, filters: Binding, p: Params, heads: int, k: int, residual: Tensor) -> Tensor:
    """The positional logits of all positions, then the sums; on a software driver both at once, where no logit is made twice."""
    rec = dense.recorder
    b, h, w, width = qkv.shape
    c, k4, window = residual.shape[3], up4(k), POSITION_WINDOW * WINDOW_PITCH
    v4 = k4 // 4
    tv4 = next(n for n in CHANNELS if v4 % n == 0)
    logits, own = None, rec.caps.is_software and v4 == tv4
    if not own:
        logits = rec.new((b, h * w, heads, window), f"{p.path} logits")
        every_head = Rows(split=heads, outer=width // 4, inner=k4 // 4)
        dense(GemmCall(SELF, f"{p.path}.logits", Operands(qkv, Weight(filters), logits, k, window), every_head))
    out = rec.new(residual.shape, p.path)
    rec.dispatch(
        SELF,
        f"{p.path}.apply",
        "lambda_apply",
        b * h * w * v4 // tv4,
        {"qkv": qkv, "lambda": content, "logits": logits, "filters": filters, "residual": residual, "out": out},
        {"images": b, "height": h, "width": w, "qkv_pitch": width // 4, "k4": k4 // 4, "v4": v4, "v_dim": k, "pitch": out.pitch},
        {"HEADS": heads, "TV4": tv4, "LOGITS": not own, "Q4": v4 if own else 1},
        iterations=POSITION_WINDOW * (WINDOW_PITCH // 4 + 1) + k4 // 4 + heads * 4 * tv4,
        flops=2 * b * h * w * c * ((2 if own else 1) * window + k),
    )
    return out


def windows(caps: Caps, heads: int, k4: int, size: tuple[int, int]) -> Constants | None:
    """The constants of lambda_window: the first that the device has room for and that make enough workgroups of the two images of a guided
    step, however many there are, else those that make the most; None where there is no room at all."""
    height, width = size
    found: list[Constants] = []
    for form in (WINDOWS if caps.limits[MEMORY] >= ROOMY else ()) + SMALL_WINDOWS:
        if form.run > 2 and form.run >= 2 * width:
            continue
        constants: Constants = {"HEADS": heads, "LANES": k4, "RUN": form.run, "EACH": form.each, "LINES": form.lines, "KEPT": form.kept}
        constants |= {"SHARE": gcd(form.share, form.run * heads), "SPLIT": gcd(form.split, k4)}
        if not _fits(caps, "lambda_window", constants):
            continue
        if 2 * height * ceil(width, form.run) >= GROUPS:
            return constants
        found.append(constants)
    return min(found, key=lambda constants: int(constants["RUN"]), default=None)


def unit_windows(caps: Caps, heads: int, k4: int, size: tuple[int, int]) -> Constants | None:
    """The constants of lambda_matrix, chosen in the same way; None without such units, and where numbers are no halves."""
    if caps.matrix is None or caps.precision != "f16" or not caps.fuses:
        return None
    height, width = size
    found: list[tuple[int, Constants]] = []
    for shape in sorted(caps.matrix.shapes, key=lambda shape: (-shape.m, -shape.n)):
        positions, left = divmod(shape.m, heads)
        suits = (shape.operands, shape.sums) == HALVES and not (
            WINDOW_PITCH % shape.n or WINDOW_PITCH % shape.k or shape.m * shape.n % caps.matrix.lanes
        )
        if not suits or left or positions not in (1, 2):
            continue
        for form in UNIT_WINDOWS:
            run, deep, across = form.fragments * positions, ceil(4 * k4, shape.k), ceil(4 * k4, shape.n)
            if form.lanes < k4 or deep % form.share or across % form.share or (form.fragments > 1 and run >= 2 * width):
                continue
            constants = fragments(caps.matrix.dialect, caps.matrix.lanes, caps.matrix.per, shape) | {"HEADS": heads, "V4": k4}
            constants |= {"FRAGMENTS": form.fragments, "LINES": form.lines, "SHARE": form.share}
            if not _fits(caps, "lambda_matrix", constants):
                continue
            if 2 * height * ceil(width, run) >= GROUPS:
                return constants
            found.append((run, constants))
    return min(found, key=lambda each: each[0], default=(0, None))[1]


def cross_rows(caps: Caps, heads: int, k4: int, tokens: int) -> dict[str, int] | None:
    """The constants of cross_lambda_rows: heads of a thread that divide them all, then as many lanes as share k evenly, then as many rows,
    as there is room for."""
    each = max(n for n in range(1, heads + 1) if heads % n == 0 and (n == 1 or n * tokens <= CROSS_FORM.own))
    for turns in range(ceil(k4, CROSS_FORM.lanes), k4 + 1):
        for rows in range(CROSS_FORM.rows, 0, -1):
            constants = {"HEADS": heads, "TOKENS": tokens, "EACH": each, "LANES": ceil(k4, turns), "ROWS": rows}
            if _fits(caps, "cross_lambda_rows", constants):
                return constants
    return None


def _whole(k: int) -> Constants:
    """The constants of a kernel of GPUs that writes k channels a head."""
    return {"WHOLE": True, "Number": "vec4<f32>"} if k % 4 == 0 else {}


MEMORY = "max-compute-workgroup-storage-size"


def _fits(caps: Caps, shader: str, constants: Mapping[str, int | bool | str]) -> bool:
    """Whether the device has room for a workgroup."""
    kernel = wgsl.kernel(shader, "main", tuple(sorted(constants.items())))
    threads = min(caps.limits[f"max-compute-{name}"] for name in ("invocations-per-workgroup", "workgroup-size-x"))
    return kernel.workgroup_bytes <= caps.limits[MEMORY] and kernel.threads <= threads


def _window(
    rec: Recorder,
    shader: str,
    qkv: Tensor,
    content: Tensor,
    filters: Binding,
    p: Params,
    heads: int,
    k: int,
    constants: Constants,
    residual: Tensor,
) -> Tensor:
    """Logits and sums in one kernel, and the variance of every row."""
    b, h, w, width = qkv.shape
    c, window = residual.shape[3], POSITION_WINDOW * WINDOW_PITCH
    out = rec.new(residual.shape, p.path)
    out.variance = rec.new((1, 1, out.rows, 1), f"{p.path} variance")
    n = wgsl.numbers(shader, tuple(sorted(constants.items())))
    on_units = shader == "lambda_matrix"
    sizes: dict[str, int | float] = {"height": h, "width": w, "qkv_pitch": width // 4, "v_dim": k, "pitch": out.pitch}
    rec.dispatch(
        SELF,
        f"{p.path}.window",
        shader,
        (ceil(w, n["RUN"]), h, b),
        {"qkv": qkv, "lambda": content, "filters": filters, "residual": residual, "out": out, "variance": out.variance},
        sizes | ({"rows": out.rows} if on_units else {}),
        constants | _whole(k),
        iterations=_unit_turns(n, constants["DIALECT"] == "matrix_emulated") if on_units else _turns(n),
        flops=2 * b * h * w * c * (2 * window + k),
    )
    return out


def _turns(n: Mapping[str, int]) -> int:
    """Of the loops of an invocation of lambda_window."""
    split, lines, lanes = n["SPLIT"], n["LINES"], n["LANES"]
    line = ceil(n["TASKS"] * split, n["SIZE"]) * (1 + n["CHANNELS"]) + (split - 1) * split
    return ceil(POSITION_WINDOW, lines) * (1 + line) + ceil(n["ROWS"] * lanes, n["SIZE"]) + 2 * lanes + lines * n["ACC"]


def _unit_turns(n: Mapping[str, int], emulated: bool) -> int:
    """The same of lambda_matrix, with those of products, which are loops in emulation alone."""
    product, passed = (n["VALUES"] * (1 + n["FK"] // 2), n["VALUES"]) if emulated else (0, 0)
    logits = n["STEPS"] * (1 + n["ABREAST"] * product) + n["ABREAST"] * passed
    moved = ceil(n["FM"] * n["BAND"] // 8, n["SHARE"] * n["LANES"]) * (1 + 3 * n["SHARE"])
    sums = n["DEEP"] * (1 + n["OWN"] * product)
    content = ceil(n["KP"] // n["FK"], n["LINES"]) * (1 + n["OWN"] * product)
    end = n["OWN"] * (passed + ceil(n["TASKS"], n["FEW"]) * (1 + n["LINES"])) + ceil(n["RUN"], n["THREADS"]) * (1 + n["FEW"]) + 3
    return ceil(POSITION_WINDOW, n["LINES"]) * (1 + logits + moved + sums) + content + end


def cross_lambda(dense: Dense, x: Tensor, cond: Condition, p: Params, heads: int, residual: Tensor) -> Tensor:
    rec = dense.recorder
    b, h, w, c = x.shape
    n, k, (images, tokens) = h * w, c // heads, cond.ids.shape
    k4 = up4(k)
    q = rec.handed_on((b, h, w, heads * k4), f"{p.path} q")
    x, norm, spread = behind(rec, x)
    weight, bias = rec.layer(p, "q", (up4(c), heads * k4), pack.lambda_query, norm, heads)
    dense(GemmCall(CROSS, f"{p.path}.q", Operands(x, Weight(weight), q, c, heads * k4), epilogue=Epilogue(spread, bias)))

    def constants(p: Params, which: int) -> np.ndarray:
        return pack.vector(pack.condition_keys_values(cond.tokens, p)[which])

    table = rec.weight(p, "rel_pos_emb", (n, tokens, k4), lambda p: pack.position_table(p))
    out = rec.new((images, h, w, c), p.path)
    bound: dict[str, Tensor | Binding | None] = {
        "q": q,
        "table": table,
        "keys": rec.constant(p, "keys", (images, tokens, k4), lambda p: constants(p, 0), cond.key),
        "values": rec.constant(p, "values", (images, tokens, k4), lambda p: constants(p, 1), cond.key),
        "residual": residual,
        "out": out,
    }
    sizes: dict[str, int | float] = {
        "positions": n,
        "sources": b * n,
        "q_pitch": q.pitch // 4,
        "k4": k4 // 4,
        "v_dim": k,
        "pitch": out.pitch,
    }
    at, flops = f"{p.path}.apply", 4 * images * n * tokens * c
    if rec.caps.fuses and (shared := cross_rows(rec.caps, heads, k4 // 4, tokens)):
        out.variance = rec.new((1, 1, out.rows, 1), f"{p.path} variance")
        grid = rec.flat(images * n, shared["ROWS"])
        lanes, each = shared["LANES"], shared["EACH"]
        rounds = 2 * ceil(k4 // 4, lanes) + ceil(each * tokens, lanes) + lanes + heads // each + 3  # of which the padding
        bound |= {"variance": out.variance}
        rec.dispatch(
            CROSS, at, "cross_lambda_rows", grid, bound, sizes | {"rows": images * n}, shared | _whole(k), iterations=rounds, flops=flops
        )
    else:
        sizes |= {"images": images, "v4": k4 // 4}
        own = {"HEADS": heads, "TOKENS": tokens}
        rec.dispatch(CROSS, at, "cross_lambda", images * n * heads, bound, sizes, own, iterations=6 * (k4 // 4) + 4, flops=flops)
    return out
