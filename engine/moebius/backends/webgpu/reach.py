"""How far a dispatch reaches into what it binds, from its sizes alone.

This is what lets kernels run without bounds checks: every index of a kernel is made of its `Params`, its constants and its grid, and for
each kernel a row of REACH says where those indexes begin and end, in the numbers of a binding. The plan compares that with
what is bound before anything runs (`check_reach`). A kernel without a row keeps its checks.

Kernels add up across their threads by halves: the first half of them adds what the second has, and so on. That meets every thread where
there are a power of two of them, and for no other number (`halved`).

What comes from data is the number of a step alone, which picks a row of a table: `Reach.steps` says how many words a step has there, and
a plan refuses a step that its shortest table has no row for.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from importlib.resources import files
from typing import Any

from moebius.backends.webgpu import wgsl

Numbers = Mapping[str, int]  # the parameters of a dispatch and its constants, by their names
Grid = tuple[int, int, int]
Span = tuple[int, int]  # the first word that may be read or written, and one past the last
VEC4 = 4  # words
LARGEST = 2**31  # words of a buffer: an index is an i32 in places


@dataclass(frozen=True)
class Reach:
    """Words by the binding's name; what is bound and not named is refused. `whole` holds where every index is as the spans say, and nothing
    is left out."""

    spans: Mapping[str, Span]
    steps: Mapping[str, int] = field(default_factory=dict)
    whole: bool = True


def vec4(**ends: int) -> dict[str, Span]:
    """From the first vec4 of a binding to before this one."""
    return {name: (0, VEC4 * end) for name, end in ends.items()}


def words(**ends: int) -> dict[str, Span]:
    return {name: (0, end) for name, end in ends.items()}


# dense layers ---------------------------------------------------------------------------------------------------------
def gemm(n: Numbers, grid: Grid) -> Reach:
    """Rows are clamped to the last one, columns too; what lies past them is not stored. See `locate`, `tap_index` and `store`."""
    names = wgsl.numbers("gemm")
    first, last, n4, k4, width = n["row0"], n["rows"] - 1, n["n4"], n["k4"], n["out_width"]
    spans = dict[str, Span]()
    if n["MODE"] == names["ROWS"]:
        last += (grid[2] - 1) * n["plane"]
        low, high = _rows(n, first, last)
        if n["JOINED"]:  # a row's place is its number
            low, high = low * n["a4"], (last + 1) * n["a4"]
            spans |= vec4(joined=(last + 1) * (k4 - n["a4"]))
        elif n["NORMED"]:
            low, high = low * k4, (last + 1) * k4
    else:
        low, high = _lines(n, first // width, last // width, n["MODE"] == names["PHASE"])
    spans["a"] = VEC4 * (low - n["a_origin"]), VEC4 * (high - n["a_origin"] if n["JOINED"] else max(high - n["a_origin"], k4))
    depth = n["k"] if n["TAIL"] else 4 * k4 * n["KERNEL"] ** 2 * grid[2]
    spans |= vec4(w=n["w_offset"] + (depth - 1) * n["ldb4"] + n4)
    if n["MODE"] == names["PHASE"]:  # two lines of twice the width for every line of the grid
        out = 4 * width * n4 * (first // width), 4 * width * n4 * (last // width + 1)
    else:
        out = first * n4, (last + 1) * n4
    origin = (n["out_origin"] + 2**31) % 2**32 - 2**31  # see Dense._record
    written = {"out": True, "first": n["FIRST"], "second": n["SECOND"]}
    spans |= {name: (VEC4 * (out[0] - origin), VEC4 * (out[1] - origin)) for name, is_there in written.items() if is_there}
    if n["BIAS"]:
        spans |= vec4(bias=n4)
    if n["SPREAD"]:
        spans |= vec4(variance=last + 1)
    if n["NORMED"] or n["FIRST_NORMED"]:
        spans |= _table(n, last, k4 if n["NORMED"] else n4)
    if n["SHIFT"]:
        return Reach(spans | words(state=1), {"shift": VEC4 * n4}, _is_whole(n, first, last))
    return Reach(spans, whole=_is_whole(n, first, last))


def _is_whole(n: Numbers, first: int, last: int) -> bool:
    """Whether rows `first` to `last` are a call that the kernel was written for."""
    n4, k4 = n["n4"], n["k4"]
    there = 0 <= first <= last and min(n4, k4, n["k"], n["split"], n["out_width"], n["positions"]) > 0
    halves = not n["JOINED"] or 0 < n["a4"] < k4  # each of the two tensors has some of K
    steps, past = n["KERNEL"] ** 2 * -(-k4 // n["BK4"]), k4 % n["BK4"]  # what lies past the end of K is loaded where nobody looks
    even = bool(n.get("RAGGED", True)) or not (past or steps % n.get("GROUPS", 1))
    by_number = n["outer"], n["inner"], n["split"], n["a_offset"], n["a_origin"]
    plain = by_number == (1, 0, 1, 0, 0) or not (n["JOINED"] or n["NORMED"])
    pairs = {"RAW_A": (k4, n["outer"], n["inner"], n["a_offset"], n["a_origin"]), "RAW_W": (n4, n["ldb4"], n["w_offset"])}
    paired = not any(n.get(name) and any(size % 2 for size in sizes) for name, sizes in pairs.items())  # of vec4, that are read
    return there and halves and even and plain and paired


def _table(n: Numbers, last: int, width4: int) -> dict[str, Span]:
    """Scales and offsets of a norm, for every image down to that of row `last`."""
    return vec4(norm=2 * (last // n["positions"] + 1) * width4)


def winograd(n: Numbers, grid: Grid) -> Reach:
    """The transforms: from weights to their points, from the windows of A to theirs, and from products to the outputs of tiles."""
    if n["MODE"] == n["TO_FILTERS"]:
        rows = 4 * n["k4"]
        return Reach(vec4(w=9 * rows * n["n4"], out=n["POINTS"] * rows * n["n4"]), whole=min(n["k4"], n["n4"]) > 0)
    side = n["SIDE"] - 2
    across, down = -(-n["out_width"] // side), -(-n["out_height"] // side)

    def line(tile: int, past: int) -> int:
        image, y = divmod(tile // across, down)
        return image * n["out_height"] + min(side * y + past, n["out_height"])

    return _points(n, lambda first, last: (line(first, 0) * n["out_width"], line(last, side) * n["out_width"]))


def differences(n: Numbers, grid: Grid) -> Reach:
    """The same, of pixels that become four: two lines of twice the width for every line of the grid."""
    width = n["out_width"]
    reach = _points(n, lambda first, last: (4 * width * (first // width), 4 * width * (last // width + 1)))
    return replace(reach, whole=reach.whole and not n["NORMED"])


def _points(n: Numbers, made: Callable[[int, int], Span]) -> Reach:
    """`made`: the pixels of the output that the first and the last row are, and those between them."""
    first, last = n["row0"], n["rows"] - 1
    whole = 0 <= first <= last and min(n["n4"], n["k4"], n["out_width"]) > 0
    gathers = n["MODE"] == n["FROM_POINTS"]
    c4 = n["n4"] if gathers else n["k4"]
    points = 0, VEC4 * ((n["POINTS"] - 1) * n["plane"] + last + 1 - first) * c4
    if not gathers:
        low, high = _lines(n, first // n["out_width"], last // n["out_width"], False)
        loaded = {"a": (VEC4 * (low - n["a_origin"]), VEC4 * max(high - n["a_origin"], c4)), "out": points}
        if n["NORMED"]:
            loaded |= vec4(norm=2 * (last // n["out_width"] // n["out_height"] + 1) * c4)
        return Reach(loaded, whole=whole)
    begin, end = made(first, last)
    origin = (n["out_origin"] + 2**31) % 2**32 - 2**31
    lines = VEC4 * (begin * c4 - origin), VEC4 * (end * c4 - origin)
    there = {"out": True, "first": n["FIRST"], "second": n["SECOND"]}
    spans = {"a": points} | {name: lines for name, is_there in there.items() if is_there} | (vec4(bias=c4) if n["BIAS"] else {})
    return Reach(spans | words(state=1), {"shift": VEC4 * c4}, whole) if n["SHIFT"] else Reach(spans, whole=whole)


def _rows(n: Numbers, first: int, last: int) -> Span:
    """vec4 of A between the first and the last row, which need not be rows at its ends where heads are rows."""
    split, outer, inner = n["split"], n["outer"], n["inner"]
    begins = [r // split * outer + r % split * inner for r in (first, last)]
    if first // split < last // split:  # the last head of the row before, and the first of the row behind
        begins += [(last // split - 1) * outer + (split - 1) * inner, (first // split + 1) * outer]
    return n["a_offset"] + min(begins), n["a_offset"] + max(begins) + n["k4"]


def _lines(n: Numbers, first: int, last: int, phase: bool) -> Span:
    """vec4 of the input's lines under the filter, from the grid's line `first` to its line `last`, of all images."""

    def line(of: int, dy: int) -> int:
        image, y = divmod(of, n["out_height"])
        top = y - 1 if phase else y * n["stride"] - n["pad"]
        return image * n["height"] + min(max(top + dy, 0), n["height"] - 1)

    pitch = n["width"] * n["k4"]
    # The second phase's two taps begin a line below the first's.
    return line(first, 0) * pitch, (line(last, 2 if phase else n["KERNEL"] - 1) + 1) * pitch


def depthwise(n: Numbers, grid: Grid) -> Reach:
    pixels, inputs = n["images"] * n["height"] * n["width"], (2 if n["GATED"] else 1) * n["c4"]
    spans = vec4(x=pixels * inputs, w=9 * inputs, bias=inputs, out=pixels * n["c4"])
    if n["JOINED"]:
        spans |= vec4(x=pixels * n["a4"], joined=pixels * (inputs - n["a4"]))
    if n["NORMED"]:
        spans |= vec4(norm=2 * n["images"] * inputs)
    whole = grid[0] * n["LANES"] == n["c4"] and (not n["JOINED"] or 0 < n["a4"] < inputs)
    return Reach(spans, whole=whole)


# norms ----------------------------------------------------------------------------------------------------------------
def group_stats(n: Numbers, grid: Grid) -> Reach:
    groups, chunks, images = grid
    last = n["chunk0"] + chunks - 1  # of every image
    begin = n["image0"] * n["positions"] + n["chunk0"] * n["chunk"]
    end = (n["image0"] + images - 1) * n["positions"] + min((last + 1) * n["chunk"], n["positions"])
    x = begin * n["pitch"] - n["origin"], (end - 1) * n["pitch"] + groups * n["channels"] - n["origin"]
    out = (((n["image0"] + images - 1) * n["chunks"] + last) * n["groups"] + groups) * 2
    whole = last < n["chunks"] and last * n["chunk"] < n["positions"] and groups <= n["groups"]
    return Reach({"x": x} | words(out=out), whole=whole and _loads(n, n["pitch"], n["origin"]))


def group_scale(n: Numbers, grid: Grid) -> Reach:
    groups, images, _ = grid
    rows, channels = images * n["positions"], groups * n["channels"]
    spans = words(x=rows * n["a"], weight=channels, bias=channels, out=2 * images * n["pitch"])
    if n["JOINED"]:
        spans |= words(joined=rows * n["b"])
    rest = n["b"] if n["JOINED"] else 0
    whole = groups == n["groups"] and channels <= min(n["pitch"], n["a"] + rest) and min(n["positions"], channels) > 0
    return Reach(spans, whole=whole and _loads(n, n["a"], rest))


def _loads(n: Numbers, *starts: int) -> bool:
    """Whether the values of a statistic are so many neighbours, all of one group and of one tensor."""
    width = n["WIDTH"]
    return width == n.get("Value", 1) and not any(floats % width for floats in (n["channels"], *starts))


def group_finish(n: Numbers, grid: Grid) -> Reach:
    groups, images, _ = grid
    parts, channels = 2 * images * n["chunks"] * n["groups"], n["channels"] * n["groups"]
    spans = words(parts=parts, weight=channels, bias=channels, out=2 * images * n["pitch"])
    return Reach(spans, whole=groups == n["groups"] and channels <= n["pitch"])


def group_apply(n: Numbers, grid: Grid) -> Reach:
    image = (n["first"] + n["count"] - 1) // n["image"]
    spans = vec4(x=n["end"] - n["begin"], out=n["count"])
    spans |= vec4(table=2 * (image + 1) * n["c4"]) if n["SCALED"] else {}
    spans |= vec4(above=n["begin"]) if n["ABOVE"] else {}
    spans |= vec4(below=n["count"] - n["end"]) if n["BELOW"] else {}
    whole = 0 <= n["begin"] < n["end"] <= n["count"] and n["ABOVE"] == (n["begin"] > 0) and n["BELOW"] == (n["end"] < n["count"])
    return Reach(spans, whole=whole)


def layer_norm(n: Numbers, grid: Grid) -> Reach:
    row = n["rows"] * n["c4"]
    spans = vec4(x=row, out=row, weight=n["c4"], bias=n["c4"], variance=n["rows"])
    return Reach(spans, whole=n["rows"] > 0 and n["SIZE"] % n["LANES"] == 0)


# lambdas and attention ------------------------------------------------------------------------------------------------
def lambda_content(n: Numbers, grid: Grid) -> Reach:
    row, images = n["key"] + n["k4"] + n["v4"], grid[2]
    spans = vec4(qkv=(images * n["positions"] - 1) * n["pitch"] + row, out=4 * images * n["k4"] * n["v4"])
    whole = grid[0] * n["WIDE"] <= n["v4"] and grid[1] <= n["k4"] and n["positions"] > 0
    return Reach(spans | words(bias=4 * n["k4"]), whole=whole and n["LINES"] % n["PARTS"] == 0)


def lambda_window(n: Numbers, grid: Grid) -> Reach:
    """Its positions are clamped to the end of a line."""
    images, lanes = grid[2], n["LANES"]
    rows = images * n["height"] * n["width"]
    spans = vec4(qkv=(rows - 1) * n["qkv_pitch"] + (n["HEADS"] + 2) * lanes, variance=rows, filters=4 * lanes * n["WINDOW"] * 4)
    spans |= vec4(**{"lambda": 4 * images * lanes * lanes})
    heads = {**n, "v4": lanes}
    whole = _fills(heads) and grid[1] == n["height"] and n["width"] > 0
    divided = n["RUN"] % n["EACH"] == 0 and n["ROWS"] % n["SHARE"] == 0 and lanes % n["SPLIT"] == 0
    return Reach(spans | _heads(heads, rows, rows), whole=whole and divided)


def lambda_matrix(n: Numbers, grid: Grid) -> Reach:
    """As lambda_window; and a line of logits is whole fragments, as wide as the columns under a fragment's positions."""
    images, v4, band = grid[2], n["V4"], n["BAND"]
    rows = images * n["height"] * n["width"]
    spans = vec4(qkv=(rows - 1) * n["qkv_pitch"] + (n["HEADS"] + 2) * v4, variance=rows, filters=4 * v4 * n["WINDOW"] * band // 4)
    spans |= vec4(**{"lambda": 4 * images * v4 * v4})
    heads = {**n, "v4": v4}
    whole = _fills(heads) and grid[1] == n["height"] and n["width"] > 0
    fits = n["FM"] % n["HEADS"] == 0 and n["EACH"] in (1, 2) and n["WINDOW"] + n["EACH"] - 1 <= band and n["FEW"] * n["RUN"] == n["THREADS"]
    divided = not any(a % b for a, b in ((band, n["FN"]), (band, n["FK"]), (n["FN"], 8), (n["FK"], 8)))
    shared = not any(n[size] // n[fragment] % n["SHARE"] for size, fragment in (("KP", "FK"), ("VP", "FN")))
    return Reach(spans | _heads(heads, rows, rows), whole=whole and fits and divided and shared)


def lambda_apply(n: Numbers, grid: Grid) -> Reach:
    rows, window = n["images"] * n["height"] * n["width"], n["WINDOW"] * (n["WINDOW"] + 1) // 4
    qkv = (rows - 1) * n["qkv_pitch"] + (n["HEADS"] + 1) * n["k4"] + n["v4"]
    spans = vec4(qkv=qkv, **{"lambda": 4 * n["images"] * n["k4"] * n["v4"]})
    spans |= vec4(logits=rows * n["HEADS"] * window) if n["LOGITS"] else vec4(filters=4 * n["Q4"] * window)
    whole = _fills(n) and n["v4"] % n["TV4"] == 0 and (bool(n["LOGITS"]) or n["Q4"] == n["k4"])
    return Reach(spans | _heads(n, rows, rows), whole=whole)


def cross_lambda(n: Numbers, grid: Grid) -> Reach:
    rows, tokens = n["images"] * n["positions"], n["images"] * n["TOKENS"]
    table, of = n["positions"] * n["TOKENS"] * n["k4"], min(n["sources"], rows)
    spans = vec4(q=(of - 1) * n["q_pitch"] + n["HEADS"] * n["k4"], table=table, keys=tokens * n["k4"], values=tokens * n["v4"])
    return Reach(spans | _heads(n, rows, of), whole=_fills(n) and of > 0)


def cross_lambda_rows(n: Numbers, grid: Grid) -> Reach:
    """Rows beyond the last are computed as the last. Every thread has a channel."""
    rows, of, k4 = n["rows"], min(n["sources"], n["rows"]), n["k4"]
    tokens = ((rows - 1) // n["positions"] + 1) * n["TOKENS"] * k4
    spans = vec4(q=(of - 1) * n["q_pitch"] + n["HEADS"] * k4, table=n["positions"] * n["TOKENS"] * k4, variance=rows)
    heads, divided = {**n, "v4": k4}, n["EACH"] * n["TEAMS"] == n["HEADS"] and n["LANES"] <= k4
    return Reach(spans | vec4(keys=tokens, values=tokens) | _heads(heads, rows, of), whole=_fills(heads) and of > 0 and divided)


def _heads(n: Numbers, rows: int, of: int) -> dict[str, Span]:
    """`of` rows of the residual, which are repeated."""
    heads = n["HEADS"] * n["v_dim"]
    return words(residual=(of - 1) * n["pitch"] + heads, out=(rows - 1) * n["pitch"] + max(heads, n["pitch"]))


def _fills(n: Numbers) -> bool:
    """Whether every vec4 of a head has a channel that exists: `v_dim - 4·v` must not wrap."""
    return 4 * (n["v4"] - 1) < n["v_dim"]


def softmax(n: Numbers, grid: Grid) -> Reach:
    return Reach(vec4(x=n["rows"] * n["n4"], out=n["rows"] * n["n4"]), whole=n["rows"] > 0)


def transpose(n: Numbers, grid: Grid) -> Reach:
    rows = min(n["rows"], n["out_pitch"])
    return Reach(words(x=(rows - 1) * n["pitch"] + n["offset"] + n["columns"], out=n["columns"] * n["out_pitch"]))


# what puts tensors together -------------------------------------------------------------------------------------------
def concat(n: Numbers, grid: Grid) -> Reach:
    row = n["rows"] - 1
    ends = {"a": row * n["a_pitch"] + n["a"], "b": row * n["b_pitch"] + n["b"], "out": n["rows"] * n["pitch"]}
    return Reach({name: (0, n["UNIT"] * end) for name, end in ends.items()})


def unet_input(n: Numbers, grid: Grid) -> Reach:
    parts = {name: (0, (n["rows"] - 1) * n[f"{name}_pitch"] + n[name]) for name in ("y", "mask", "masked")}
    return Reach(parts | words(out=n["rows"] * n["pitch"]))


def guided_ddim(n: Numbers, grid: Grid) -> Reach:
    spans = vec4(eps=(2 if n["GUIDED"] else 1) * n["count"], y=n["count"], next=n["count"], x0=n["count"])
    return Reach(spans | words(state=1), {"coefficients": VEC4, "flags": 1})


REACH: dict[str, Callable[[Numbers, Grid], Reach]] = {
    "concat": concat,
    "cross_lambda": cross_lambda,
    "cross_lambda_rows": cross_lambda_rows,
    "depthwise": depthwise,
    "gemm": gemm,
    "gemm_blocked": gemm,
    "gemm_matrix": gemm,
    "group_apply": group_apply,
    "group_finish": group_finish,
    "group_scale": group_scale,
    "group_stats": group_stats,
    "guided_ddim": guided_ddim,
    "lambda_apply": lambda_apply,
    "lambda_content": lambda_content,
    "lambda_matrix": lambda_matrix,
    "lambda_window": lambda_window,
    "layer_norm": layer_norm,
    "repeat": lambda n, grid: Reach(vec4(x=n["count"], out=n["copies"] * n["count"])),
    "softmax": softmax,
    "transpose": transpose,
    "unet_input": unet_input,
    "winograd": winograd,
    "differences": differences,
}
BY_ITSELF = ("finite",)  # run beside a plan on what a binding holds, by that binding's own size
PARTS = "common", "dense", "half", "matrix", "matrix_dawn", "matrix_emulated", "matrix_naga", "moments", "quad", "rows"  # of others
NO_KERNELS = (*PARTS, "view")  # the window's own keeps its checks


def is_known(shader: str) -> bool:
    """Whether a kernel may run without its checks."""
    return shader in REACH or shader in BY_ITSELF


@cache
def unknown() -> tuple[str, ...]:
    """The kernels that have no row."""
    names = [f.name.removesuffix(".wgsl") for f in files("moebius.shaders").iterdir() if f.name.endswith(".wgsl")]
    return tuple(sorted(name for name in names if name not in NO_KERNELS and not is_known(name)))


def reach(shader: str, constants: wgsl.Constants, params: Mapping[str, int | float], grid: Grid) -> Reach | None:
    """None for a kernel without a row."""
    if shader not in REACH:
        return None
    # Of a type its words; what else is a text is in no index.
    given = {name: wgsl.STRIDES.get(value, 0) // 4 if isinstance(value, str) else int(value) for name, value in constants}
    sizes: dict[str, Any] = {**wgsl.numbers(shader, constants), **given, **params}  # floats are in no index
    found = REACH[shader](sizes, grid)
    return replace(found, whole=found.whole and all(sizes[name].bit_count() == 1 for name in halved(shader)))


@cache
def halved(shader: str) -> frozenset[str]:
    """The constants that say among how many threads a kernel adds up by halves."""
    return frozenset(re.findall(r"for \(var half = (\w+) / 2u;", wgsl.whole(shader)))
