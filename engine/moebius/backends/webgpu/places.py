"""Where a plan's intermediate tensors lie: over one another, where they are not wanted at the same time, and a sum over a part of it."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from moebius.backends.webgpu.caps import DEFAULT_LIMITS
from moebius.backends.webgpu.device import Device
from moebius.backends.webgpu.dispatch import Dispatch
from moebius.backends.webgpu.tensor import Binding, Buffer

LARGEST = DEFAULT_LIMITS["max-buffer-size"]
SMALL = 16 << 20  # bytes of a tensor that a shared buffer may grow for, at most
MANY = 2000  # of a picture larger than the published size
APART = 8 << 20  # bytes that a buffer counts for beside its own: the more there are, the more of a plan lies beside what others have
Life = tuple[int, int]  # the first and the last dispatch that wants a tensor
# Of the buffers that have room, by their sizes and where in them that is: the smallest one, the largest, or where a tensor lies lowest.
# Which packs best depends on the plan; all are tried, in a tenth of a second at most, where there are not too MANY tensors.
Rather = Callable[[int, int], int]
RATHER: tuple[Rather, ...] = (lambda size, at: size, lambda size, at: -size, lambda size, at: at)
# Shaders that add `first` at the very places that they write, and read it nowhere else.
ADDING = ("gemm", "gemm_blocked", "gemm_matrix", "winograd", "differences")


def sooner(dispatches: Sequence[Dispatch], kept: set[int]) -> list[Dispatch]:
    """The dispatches in an order that takes less memory: the last one that wants something larger than what it makes comes right behind
    whatever wants that before it, where all else that it reads is there. So a smaller shortcut takes the place of its input part by part.
    """
    uses: dict[int, list[tuple[int, str]]] = {}
    for i, d in enumerate(dispatches):
        for b in d.bindings:
            uses.setdefault(id(b.buffer), []).append((i, b.access))
    moved: dict[int, tuple[int, int]] = {}  # behind which one; those behind the same one keep their order
    for i, d in enumerate(dispatches):
        read = {id(b.buffer): b.buffer for b in d.bindings if b.access == "read"}
        last = {key for key, b in read.items() if b.kind == "intermediate" and key not in kept and uses[key][-1][0] == i}
        new = all(uses[id(b.buffer)][0][0] == i for b in d.outputs)
        if new and sum(read[key].nbytes for key in last) > sum(b.buffer.nbytes for b in d.outputs):
            behind = [j for key in read for j, access in uses[key] if j < i and (key in last or access == "read_write")]
            moved[i] = max(behind, default=i), i
    return [dispatches[i] for i in sorted(range(len(dispatches)), key=lambda i: moved.get(i, (i, -1)))]


def over_residuals(dispatches: Sequence[Dispatch], kept: set[int]) -> list[Dispatch]:
    """The dispatches, with outputs over the residuals that are added to them, where nobody wants those any more.

    Such an output and its residual are two tensors in one memory. Each number is read and written by one invocation of one dispatch:
    those that write a tensor, its bands, divide its rows among them.
    """
    uses: dict[int, list[int]] = {}
    for i, d in enumerate(dispatches):
        for b in d.bindings:
            uses.setdefault(id(b.buffer), []).append(i)
    out = list(dispatches)
    for i, d in enumerate(dispatches):
        pair = _sum(d)
        if pair is None:
            continue
        first, total = (b.buffer for b in pair)
        last = uses[id(first)][-1]
        adding = [j for j in uses[id(first)] if j >= i]
        alone = all(j in adding for j in uses[id(total)] if j <= last)
        free = all(b.kind == "intermediate" and id(b) not in kept for b in (first, total)) and first.nbytes == total.nbytes
        if free and alone and all(_adds(dispatches[j], first, total) for j in adding):
            for j in adding:
                out[j] = _over(dispatches[j])
    return out


def _sum(d: Dispatch) -> tuple[Binding, Binding] | None:
    """The bindings of a residual and of the sum that it is a part of, where the one may lie over the other."""
    named = {b.name: b for b in d.bindings}
    if d.shader not in ADDING or "first" not in named:
        return None
    first, total = named["first"], named["out"]
    same = (first.offset, first.nbytes, first.dtype) == (total.offset, total.nbytes, total.dtype)
    return (first, total) if same and total.dtype == "f32" else None


def _adds(d: Dispatch, first: Buffer, total: Buffer) -> bool:
    """Whether a dispatch adds the one to the other, and has neither for anything else."""
    pair, bound = _sum(d), [b.buffer for b in d.bindings]
    return pair is not None and pair[0].buffer is first and pair[1].buffer is total and bound.count(first) == bound.count(total) == 1


def _over(d: Dispatch) -> Dispatch:
    (first,) = (b for b in d.bindings if b.name == "first")
    constants = tuple(sorted({**dict(d.constants), "OVER": True}.items()))
    return replace(d, constants=constants, bindings=[b for b in d.bindings if b is not first], over=first)


@dataclass(frozen=True)
class Place:
    """Of a tensor's buffer in one that others lie in, too."""

    buffer: Buffer
    shared: Buffer
    offset: int

    @property
    def end(self) -> int:
        return self.offset + self.buffer.nbytes


class Shared:
    """A buffer that tensors lie in, with the ids of theirs."""

    def __init__(self, device: Device, label: str, nbytes: int) -> None:
        self.buffer = Buffer(device, nbytes, label, "pinned")
        self.there: set[int] = set()
        self._ends: list[int] = []  # of their lives, in order
        self._taken: list[tuple[int, int, int, int]] = []  # offset and end of each, first and last dispatch; the lowest first

    def add(self, key: int, life: Life, at: Place) -> None:
        self.there.add(key)
        insort(self._ends, life[1])
        insort(self._taken, (at.offset, at.end, *life))

    def room(self, nbytes: int, life: Life, alignment: int) -> int:
        """The lowest offset from which on there is nothing for so many bytes at that time."""
        (since, until), offset = life, 0
        for begin, end, first, last in self._taken:
            if first <= until and since <= last:
                if begin >= offset + nbytes:
                    break
                offset = max(offset, -(-end // alignment) * alignment)
        return offset

    def idle(self, since: int) -> int:
        """For how many dispatches nothing ended here."""
        ended = bisect_left(self._ends, since)
        return since - self._ends[ended - 1] if ended else since


def place(
    dispatches: Sequence[Dispatch], kept: set[int], device: Device, in_turn: tuple[int, int] = (0, 0)
) -> tuple[list[Buffer], dict[int, Place]]:
    """Memory that they share, the largest buffer first; and by the ids of their buffers where intermediate tensors lie in it.

    `in_turn` are bytes of half of the largest tensor in parts. There are two buffers of so much, and every other part lies in the one, so
    that what is made of a part finds room where the part before it was. Where a number has 16 bits the first has room for twice as much:
    other plans, which lie in the same memory, want so large a buffer for what is float32.
    """
    tensors = _tensors(dispatches, kept)
    apart = _apart(dispatches, *tensors[1:])
    start = list(in_turn) if 0 < in_turn[0] <= LARGEST else []
    tried = [(small, rather) for small in (SMALL, SMALL // 2) for rather in RATHER]
    ways = [_placed(tensors, apart, device, start, *way) for way in tried[: len(tried) if len(apart) <= MANY else 1]]
    arena, placed = min(ways, key=lambda way: sum(shared.nbytes + APART for shared in way[0]))
    return sorted(arena, key=lambda b: -b.nbytes), placed


def _placed(
    tensors: Tensors, apart: Mapping[int, set[int]], device: Device, start: Sequence[int], small: int, rather: Rather
) -> tuple[list[Buffer], dict[int, Place]]:
    """The largest tensor first, each where there is room while it lives."""
    buffers, lives, below = tensors
    arena = [Shared(device, f"arena {i}", nbytes) for i, nbytes in enumerate(start)]
    placed: dict[int, Place] = {}
    for key in sorted(lives, key=lambda k: (-buffers[k].nbytes, lives[k][0])):
        life, nbytes = lives[key], buffers[key].nbytes
        # A shared buffer's growth, what is thought of it, its size, how long its memory was idle; which one it is, and where in it.
        ways: list[tuple[int, int, int, int, int, int]] = []
        for i, shared in enumerate(arena):
            if apart[key].isdisjoint(shared.there):
                size = shared.buffer.nbytes
                offset = shared.room(nbytes, life, device.caps.storage_alignment)
                growth = max(0, offset + nbytes - size)
                if growth == 0 or (nbytes <= small and size + growth <= LARGEST):
                    ways.append((growth, rather(size, offset), size, shared.idle(life[0]), i, offset))
        if not ways:
            ways.append((0, 0, nbytes, 0, len(arena), 0))
            arena.append(Shared(device, f"arena {len(arena)}", nbytes))
        growth, *_, i, offset = min(ways)
        arena[i].buffer.nbytes += growth
        placed[key] = Place(buffers[key], arena[i].buffer, offset)
        arena[i].add(key, life, placed[key])
    placed |= {key: replace(placed[root], buffer=buffers[key]) for key, root in below.items()}
    return [shared.buffer for shared in arena], placed


# By the ids of their buffers: these; the first and the last dispatch that wants what lies there; and, of a sum that lies over what was
# added to it, that instead.
Tensors = tuple[dict[int, Buffer], dict[int, Life], dict[int, int]]


def _tensors(dispatches: Sequence[Dispatch], kept: set[int]) -> Tensors:
    """One may lie over another that does."""
    buffers: dict[int, Buffer] = {}
    lives: dict[int, Life] = {}
    below: dict[int, int] = {}
    for i, d in enumerate(dispatches):
        if d.over is not None:
            (total,) = d.outputs
            below[id(total.buffer)] = below.get(id(d.over.buffer), id(d.over.buffer))
        for b in d.bindings if d.over is None else [*d.bindings, d.over]:
            key = id(b.buffer)
            if b.buffer.kind == "intermediate" and key not in kept:
                buffers[key] = b.buffer
                root = below.get(key, key)
                lives[root] = lives.get(root, (i, i))[0], i
    return buffers, lives, below


def _apart(dispatches: Sequence[Dispatch], lives: Mapping[int, object], below: Mapping[int, int]) -> dict[int, set[int]]:
    """What may not share a buffer wherever in it that is, for a dispatch has both and writes one: WebGPU forbids that."""
    apart: dict[int, set[int]] = {key: set() for key in lives}
    for d in dispatches:
        keys = {below.get(id(b.buffer), id(b.buffer)) for b in d.bindings} & lives.keys()
        for written in {below.get(id(b.buffer), id(b.buffer)) for b in d.outputs} & lives.keys():
            for key in keys - {written}:
                apart[key].add(written)
                apart[written].add(key)
    return apart
