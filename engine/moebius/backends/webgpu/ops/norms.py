"""Group norm: statistics in one dispatch, or two where a tensor is large, and one that applies them; layer norm in one.

On a GPU, what reads a norm applies it as it loads.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import gcd

from moebius.backends.webgpu import wgsl
from moebius.backends.webgpu.calls import Spread
from moebius.backends.webgpu.deferred import GroupNormed, Joined, LayerNormed, Norm, is_parted
from moebius.backends.webgpu.recorder import Recorder, ceil
from moebius.backends.webgpu.tensor import Binding, DType, Tensor
from moebius.model.params import Params

WHOLE = 2**17  # elements of a group of one image that one workgroup reduces, at most
SCALE_THREADS = 1024  # of a GPU's workgroup of group_scale, at most: there are fewer workgroups than a large GPU has processors
SCALE_AHEAD = 8  # floats that each of them has under way
STATS_AHEAD = 8  # loads that one of its group_stats has: on an H200 16 loads one after the other took a thread 12 µs
EACH = 4  # vec4 that a thread of a GPU's group_apply has under way
FEW_THREADS = 16  # of a software driver's workgroup: what is added up across threads costs it more than what each adds up
CHUNK = 4096  # elements a workgroup of group_stats reduces, at least
CHUNKS = 256  # chunks of a group, at most
ROUNDS = 10  # at least the steps of a tree over the threads of a workgroup: what is added to a loop for the sum behind it
VALUES: dict[int, dict[str, int | bool | str]] = {  # floats of a load, and what says so
    1: {},
    2: {"TWOS": True, "WIDTH": 2, "Value": "vec2<f32>"},
    4: {"FOURS": True, "WIDTH": 4, "Value": "vec4<f32>"},
}
OP = "group_norm"


@dataclass(frozen=True)
class Groups:
    """A group norm of x: the statistics of every (image, chunk of positions, group) lie in `parts`."""

    x: Tensor
    path: str
    groups: int
    chunk: int  # positions
    chunks: int
    parts: Binding

    @property
    def images(self) -> int:
        return self.x.shape[0]

    @property
    def positions(self) -> int:
        return self.x.shape[1] * self.x.shape[2]

    @property
    def channels(self) -> int:
        """Of one group."""
        return self.x.shape[3] // self.groups

    @property
    def sizes(self) -> dict[str, int | float]:
        return {
            "positions": self.positions,
            "pitch": self.x.pitch,
            "channels": self.channels,
            "groups": self.groups,
            "chunk": self.chunk,
            "chunks": self.chunks,
        }


def group_norm(rec: Recorder, x: Tensor, p: Params, groups: int, eps: float, silu: bool = False) -> Tensor:
    norm = Norm(_table(rec, x, p, groups, eps), silu)
    return put_off(rec, x, p.path, norm) if rec.caps.fuses else _applied(rec, x, p.path, norm, rec.handed_on(x.shape, p.path))


def put_off(rec: Recorder, x: Tensor, path: str, norm: Norm) -> GroupNormed:
    """Until something asks for it."""
    make = partial(_applied, rec, x, path, norm)
    return GroupNormed(x, norm, rec.caps.precision, lambda: make(rec.handed_on(x.shape, path)), partial(_rows, rec, x, path, norm))


def copied(rec: Recorder, path: str) -> Callable[[Tensor, int, int, DType], Tensor]:
    """What copies rows of a tensor, from the parts that they are in."""
    return lambda x, begin, end, dtype: _rows(rec, x, path, None, begin, end, dtype)


def _table(rec: Recorder, x: Tensor, p: Params, groups: int, eps: float) -> Tensor:
    """(1, 1, 2·B, C): for every image what a channel is multiplied by, and what is added then."""
    b, h, w, c = x.shape
    table = rec.new((1, 1, 2 * b, c), f"{p.path} table")
    affine = {"weight": rec.vector(p, "weight"), "bias": rec.vector(p, "bias")}
    parts = (x.a, x.b) if isinstance(x, Joined) else (x,)
    if h * w * (c // groups) > WHOLE or not rec.fits(*parts):
        return _table_of_chunks(rec, x, p, groups, eps, table, affine)
    width, floats, size, ahead = c // groups, 1, FEW_THREADS, wgsl.numbers("group_scale")["AHEAD"]
    if rec.caps.fuses:
        limits = [rec.caps.limits[f"max-compute-{name}"] for name in ("invocations-per-workgroup", "workgroup-size-x")]
        size, floats = 1 << min(SCALE_THREADS, *limits).bit_length() - 1, gcd(4, width)  # rows of a tensor, of two too, are whole vec4
        ahead = SCALE_AHEAD // floats
    values = width // floats
    step = size // min(values, size)
    first, second = (*parts, None)[:2]
    rec.dispatch(
        OP,
        p.path,
        "group_scale",
        (groups, b, 1),
        {"x": first, "joined": second, **affine, "out": table},
        {
            "positions": h * w,
            "channels": width,
            "groups": groups,
            "a": parts[0].pitch,
            "b": parts[-1].pitch,
            "pitch": table.pitch,
            "eps": eps,
        },
        {"SIZE": size, "AHEAD": ahead, "JOINED": second is not None, **VALUES[floats]},
        iterations=ceil(values, size) * (1 + ceil(h * w, ahead * step)) + ROUNDS + ceil(width, size),
        flops=4 * x.rows * c,
    )
    return table


def _table_of_chunks(rec: Recorder, x: Tensor, p: Params, groups: int, eps: float, table: Tensor, affine: Mapping[str, Binding]) -> Tensor:
    """The same for a tensor that is too large for one workgroup a group, or for one binding."""
    b, h, w, c = x.shape
    positions = h * w
    chunks = max(1, min(CHUNKS, positions * (c // groups) // CHUNK, positions))
    if rec.caps.fuses:  # a tensor's parts are a power of two, too, and so hold whole ones
        chunks = 1 << chunks.bit_length() - 1
    chunk = ceil(positions, chunks)
    chunks = ceil(positions, chunk)
    if is_parted(x) and x.parts[0].rows % chunk:
        _ = x.buffer
    count, size = 2 * b * chunks * groups, FEW_THREADS if rec.caps.is_software else wgsl.numbers("group_finish")["SIZE"]
    parts = Binding("parts", "read_write", rec.buffer(4 * count, f"{p.path} parts", "intermediate"), (1, 1, 1, count))
    norm = Groups(x, p.path, groups, chunk, chunks, parts)
    _partial(rec, norm)
    rec.dispatch(
        OP,
        p.path,
        "group_finish",
        (groups, b, 1),
        {"parts": parts, **affine, "out": table},
        {**norm.sizes, "eps": eps},
        {"SIZE": size},
        iterations=ceil(chunks, size) + ROUNDS + ceil(norm.channels, size) + ceil(x.pitch - c, size),
    )
    return table


def _partial(rec: Recorder, norm: Groups) -> None:
    """The statistics of every chunk, in bands of chunks of one image where x cannot be bound whole."""
    x, positions, chunk, chunks = norm.x, norm.positions, norm.chunk, norm.chunks
    if rec.fits(x):
        _stats(rec, norm, (0, norm.images), (0, chunks), x, 0)
        return
    step = rec.bands(f"{OP} ({norm.path})", chunks, chunk * x.pitch)
    for image in range(norm.images):
        for c0, c1 in rec.pieces(0, chunks, step, chunks, x):
            begin, end = image * positions + c0 * chunk, image * positions + min(c1 * chunk, positions)
            window, origin = rec.window("x", "read", x, begin * x.pitch, end * x.pitch)
            _stats(rec, norm, (image, 1), (c0, c1 - c0), window, origin)


def _stats(rec: Recorder, norm: Groups, images: tuple[int, int], chunks: tuple[int, int], source: Tensor | Binding, origin: int) -> None:
    """(first, how many) of images and of chunks. `origin` floats lie before `source`."""
    size, fours = wgsl.kernel("group_stats", "main").threads, rec.caps.fuses and norm.channels % 4 == 0
    constants: dict[str, int | bool | str] = {"AHEAD": STATS_AHEAD} if rec.caps.fuses else {}
    image0, image_count = images
    chunk0, chunk_count = chunks
    rec.dispatch(
        OP,
        norm.path,
        "group_stats",
        (norm.groups, chunk_count, image_count),
        {"x": source, "out": norm.parts},
        {**norm.sizes, "image0": image0, "chunk0": chunk0, "origin": origin},
        constants | VALUES[4 if fours else 1],
        iterations=ceil(norm.chunk * norm.channels, size) + ROUNDS,
        flops=4 * image_count * min(chunk_count * norm.chunk, norm.positions) * norm.x.shape[3],
    )


def _rows(rec: Recorder, x: Tensor, path: str, norm: Norm | None, begin: int, end: int, dtype: DType) -> Tensor:
    return _applied(rec, x, path, norm, rec.new((1, 1, end - begin, x.shape[3]), path, dtype=dtype), begin)


def _applied(rec: Recorder, x: Tensor, path: str, norm: Norm | None, out: Tensor, first: int = 0) -> Tensor:
    """The norm of x, or x as it is, from its row `first` on. In bands of rows where x cannot be bound whole."""
    # So many rows keep windows aligned.
    step = x.rows if rec.fits(x) else rec.bands(f"{OP} ({path})", x.rows, x.pitch, multiple=rec.alignment)
    pieces = list(rec.pieces(first, first + out.rows, step, x.rows, x))
    together = 3 if is_parted(x) and rec.fits(out) else 1
    for i in range(0, len(pieces), together):
        _apply(rec, x, path, norm, out, first, pieces[i : i + together])
    return out


def _apply(rec: Recorder, x: Tensor, path: str, norm: Norm | None, out: Tensor, first: int, pieces: Sequence[tuple[int, int]]) -> None:
    """These rows of x, which lie in one or, in parts, up to three buffers; row `first` is that which `out` begins with."""
    pitch, each, positions = x.pitch, EACH if rec.caps.fuses else 1, x.shape[1] * x.shape[2]
    windows = [rec.window("x", "read", x, begin * pitch, end * pitch) for begin, end in pieces]
    begin, end = pieces[0][0], pieces[-1][1]
    target, before = rec.window("out", "read_write", out, (begin - first) * pitch, (end - first) * pitch)
    assert [*(origin for _, origin in windows), before] == [*(at * pitch for at, _ in pieces), (begin - first) * pitch]
    above = [None, *windows] if len(pieces) == 1 else windows  # one alone is in the middle
    bound = {name: part and part[0] for name, part in zip(("above", "x", "below"), (*above, None, None), strict=False)}
    count = (end - begin) * pitch // 4
    rec.dispatch(
        OP,
        path,
        "group_apply",
        rec.flat(count, each * wgsl.numbers("group_apply")["SIZE"]),
        {**bound, "table": norm.table if norm else None, "out": target},
        {
            "first": begin * pitch // 4,
            "count": count,
            "c4": pitch // 4,
            "image": positions * pitch // 4,
            "begin": (pieces[0][1] - begin) * pitch // 4 if bound["above"] else 0,
            "end": (pieces[2][0] - begin) * pitch // 4 if bound["below"] else count,
        },
        {
            "SCALED": norm is not None,
            "SILU": norm is not None and norm.silu,
            "EACH": each,
            "ABOVE": bound["above"] is not None,
            "BELOW": bound["below"] is not None,
        },
        flops=((8 if norm.silu else 3) if norm else 0) * (end - begin) * x.shape[3],
    )


def layer_norm(rec: Recorder, x: Tensor, p: Params, eps: float = 1e-5) -> Tensor:
    if rec.caps.fuses:
        return LayerNormed(x, p, eps, rec.caps.precision, lambda: _layer_norm(rec, x, p, eps))
    return _layer_norm(rec, x, p, eps)


def behind(rec: Recorder, x: Tensor) -> tuple[Tensor, Params | None, Spread | None]:
    """What a dense layer of x reads, the norm that its weights have in them then, and what its sums are divided by."""
    if not isinstance(x, LayerNormed) or not rec.fits(x.x):
        return x, None, None
    if x.x.variance is None:
        x.x.variance = _variance(rec, x.x, x.p.path, x.eps)
    return x.x, x.p, Spread(x.x.variance, x.eps)


def _variance(rec: Recorder, x: Tensor, path: str, eps: float) -> Tensor:
    """Of every row."""
    out = rec.new((1, 1, x.rows, 1), f"{path} variance")
    lanes, size = (wgsl.numbers("layer_norm")[name] for name in ("LANES", "SIZE"))
    rec.dispatch(
        "layer_norm",
        path,
        "layer_norm",
        rec.flat(x.rows, size // lanes),
        {"x": x, "variance": out},
        {"rows": x.rows, "channels": x.shape[3], "c4": x.pitch // 4, "eps": eps},
        entry="row_variance",
        iterations=2 * ceil(x.pitch // 4, lanes) + ROUNDS,
        flops=4 * x.rows * x.shape[3],
    )
    return out


def _layer_norm(rec: Recorder, x: Tensor, p: Params, eps: float) -> Tensor:
    out = rec.handed_on(x.shape, p.path)
    constants = {"ALONE": True, "LANES": 1, "SIZE": FEW_THREADS} if rec.caps.is_software else {}
    lanes, size = ((wgsl.numbers("layer_norm") | constants)[name] for name in ("LANES", "SIZE"))
    rec.dispatch(
        "layer_norm",
        p.path,
        "layer_norm",
        rec.flat(x.rows, size // lanes),
        {"x": x, "weight": rec.vector(p, "weight"), "bias": rec.vector(p, "bias"), "out": out},
        {"rows": x.rows, "channels": x.shape[3], "c4": x.pitch // 4, "eps": eps},
        constants,
        iterations=3 * ceil(x.pitch // 4, lanes) + ROUNDS,
        flops=8 * x.rows * x.shape[3],
    )
    return out
