"""Group norm in three dispatches, layer norm in one."""

from __future__ import annotations

from dataclasses import dataclass

from moebius.backends.webgpu import wgsl
from moebius.backends.webgpu.recorder import Recorder, ceil
from moebius.backends.webgpu.tensor import Binding, Tensor
from moebius.model.params import Params

CHUNK = 4096  # elements a workgroup of group_stats reduces, at least
CHUNKS = 256  # chunks of a group, at most
ROUNDS = 8  # at least the steps of a tree over the threads of a workgroup: what is added to a loop for the sum behind it
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
    b, h, w, c = x.shape
    positions = h * w
    chunks = max(1, min(CHUNKS, positions * (c // groups) // CHUNK, positions))
    chunk = ceil(positions, chunks)
    chunks = ceil(positions, chunk)
    size = 2 * b * chunks * groups
    parts = Binding("parts", "read_write", rec.buffer(4 * size, f"{p.path} parts", "intermediate"), (1, 1, 1, size))
    norm = Groups(x, p.path, groups, chunk, chunks, parts)
    stats = rec.new((1, 1, 2 * b, c), f"{p.path} stats")
    _partial(rec, norm)
    rec.dispatch(
        OP,
        p.path,
        "group_finish",
        b * x.pitch,
        {"parts": parts, "weight": rec.vector(p, "weight"), "out": stats},
        {"images": b, **norm.sizes, "eps": eps},
        iterations=2 * chunks,
    )
    return _applied(rec, norm, stats, rec.vector(p, "bias"), silu)


def _partial(rec: Recorder, norm: Groups) -> None:
    """The statistics of every chunk, in bands of chunks of one image where x cannot be bound whole."""
    x, positions, chunk, chunks = norm.x, norm.positions, norm.chunk, norm.chunks
    if rec.fits(x):
        _stats(rec, norm, (0, norm.images), (0, chunks), x, 0)
        return
    step = rec.bands(f"{OP} ({norm.path})", chunks, chunk * x.pitch)
    for image in range(norm.images):
        for c0 in range(0, chunks, step):
            begin, end = image * positions + c0 * chunk, image * positions + min((c0 + step) * chunk, positions)
            window, origin = rec.window("x", "read", x, begin * x.pitch, end * x.pitch)
            _stats(rec, norm, (image, 1), (c0, min(step, chunks - c0)), window, origin)


def _stats(rec: Recorder, norm: Groups, images: tuple[int, int], chunks: tuple[int, int], source: Tensor | Binding, origin: int) -> None:
    """(first, how many) of images and of chunks. `origin` floats lie before `source`."""
    size = wgsl.kernel("group_stats", "main").threads
    image0, image_count = images
    chunk0, chunk_count = chunks
    rec.dispatch(
        OP,
        norm.path,
        "group_stats",
        (norm.groups, chunk_count, image_count),
        {"x": source, "out": norm.parts},
        {**norm.sizes, "image0": image0, "chunk0": chunk0, "origin": origin},
        iterations=ceil(norm.chunk * norm.channels, size) + ROUNDS,
        flops=4 * image_count * min(chunk_count * norm.chunk, norm.positions) * norm.x.shape[3],
    )


def _applied(rec: Recorder, norm: Groups, stats: Tensor, bias: Binding, silu: bool) -> Tensor:
    """x·scale + offset, in bands of rows where x cannot be bound whole."""
    x = norm.x
    out = rec.new(x.shape, norm.path)
    aligned = rec.caps.storage_alignment // 4  # so many rows keep windows aligned
    step = x.rows if rec.fits(x) else rec.bands(f"{OP} ({norm.path})", x.rows, x.pitch, multiple=aligned)
    for begin in range(0, x.rows, step):
        end = min(begin + step, x.rows)
        source, origin = rec.window("x", "read", x, begin * x.pitch, end * x.pitch)
        target, _ = rec.window("out", "read_write", out, begin * x.pitch, end * x.pitch)
        assert origin == begin * x.pitch
        count = (end - begin) * x.pitch // 4
        rec.dispatch(
            OP,
            norm.path,
            "group_apply",
            count,
            {"x": source, "stats": stats, "bias": bias, "out": target},
            {"first": begin * x.pitch // 4, "count": count, "c4": x.pitch // 4, "image": norm.positions * x.pitch // 4},
            {"SILU": silu},
            flops=(8 if silu else 3) * (end - begin) * x.shape[3],
        )
    return out


def layer_norm(rec: Recorder, x: Tensor, p: Params, eps: float = 1e-5) -> Tensor:
    out = rec.new(x.shape, p.path)
    lanes, size = (wgsl.numbers("layer_norm")[name] for name in ("LANES", "SIZE"))
    rec.dispatch(
        "layer_norm",
        p.path,
        "layer_norm",
        rec.flat(x.rows, size // lanes),
        {"x": x, "weight": rec.vector(p, "weight"), "bias": rec.vector(p, "bias"), "out": out},
        {"rows": x.rows, "channels": x.shape[3], "c4": x.pitch // 4, "eps": eps},
        iterations=3 * ceil(x.pitch // 4, lanes) + ROUNDS,
        flops=8 * x.rows * x.shape[3],
    )
    return out
