"""Which matrix units a device really has: what its adapter lists, of that what computes right. A feature's name alone proves nothing."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from moebius.backends.webgpu.calls import GemmCall, Operands, Weight
from moebius.backends.webgpu.caps import Dialect, Matrix, Unit
from moebius.backends.webgpu.device import Device, guard
from moebius.backends.webgpu.gemm import Dense
from moebius.backends.webgpu.menu import UNITS, Gemm
from moebius.backends.webgpu.plan import Plan
from moebius.backends.webgpu.recorder import Recorder
from moebius.backends.webgpu.tensor import NUMPY, Binding, Tensor, read
from moebius.backends.webgpu.units import TILES, Units
from moebius.errors import DeviceLostError, MoebiusError
from moebius.model.contract import Precision

# What the depth is beyond two tiles, of which numbers, and among how many subgroups a tile's depth is divided where there is room for them.
TRIED: tuple[tuple[int, Precision, int], ...] = ((3, "f32", 1), (8, "f16", 2))
Listed = Iterable[tuple[Unit, int, int]]  # a shape, and the fewest and most lanes of its subgroups


def units(device: Device, listed: Listed, dialect: Dialect = "dawn") -> Matrix | None:
    """Of the shapes that the menu has rows for. Its rows need subgroups of one size: the one with which most shapes are right."""
    wanted = {row.units.shape for row in UNITS if row.units}
    fitting = [(shape, low, high) for shape, low, high in listed if shape in wanted]
    best: Matrix | None = None
    for lanes in sorted({size for _, low, high in fitting for size in (low, high)}, reverse=True):
        for per in TILES if dialect == "dawn" else (1,):
            ways = Matrix(dialect, frozenset(shape for shape, low, high in fitting if low <= lanes <= high), lanes, per)
            right = frozenset(shape for shape in ways.shapes if is_right(device, ways, shape))
            if len(right) > (len(best.shapes) if best else 0):
                best = replace(ways, shapes=right)
            if len(right) == len({shape for shape, _, _ in fitting}):
                return best  # what is compiled for no use takes its time, and may be what a driver falls over
    return best


def is_right(device: Device, ways: Matrix, shape: Unit) -> bool:
    """Multiplies two tiles and a bit, of numbers in memory on two subgroups, and of halves, which go into a tile as they are, on four that
    share its depth; every sum is exact, so that a right one is right to the last bit."""
    m, n = shape.m, shape.n
    if m * n % ways.lanes:
        return False
    random, room = np.random.default_rng(0), replace(device.caps, matrix=ways, precision="f16")
    for depth, dtype, share in TRIED:
        rows = (tried(shape, ways.lanes, most) for most in range(share, 0, -1))
        row = next((row for row in rows if row is not None and row.fits(room)), None)
        if row is None or row.units is None:
            return False
        deep = 2 * row.units.depth + depth
        a, w = (random.integers(-8, 9, size).astype(np.float32) / 8 for size in ((2 * m - 1, deep), (deep, n)))
        try:
            got = product(device, ways, row, a, w, dtype)
        except DeviceLostError:
            raise
        except MoebiusError:  # it does not compile
            return False
        if not np.array_equal(got, a @ w):
            return False
    return True


def tried(shape: Unit, lanes: int, share: int = 1) -> Gemm | None:
    """The smallest tile: a fragment a subgroup, and as many deep as its threads can load alike."""
    for fragments in range(share, 8 * share + 1, share):
        units = Units(fragments * shape.k, *shape[2:], share=share, lanes=lanes)
        row = Gemm("units", shape.m, shape.n // 4, 1, 2, operands="f16", units=units)
        if row.is_shared:
            return row
    return None


def product(device: Device, ways: Matrix, row: Gemm, a: np.ndarray, w: np.ndarray, dtype: Precision = "f32") -> np.ndarray:
    """a · w by a row of the menu, both of this type in memory."""
    recorder = Recorder(device, replace(device.caps, matrix=ways))
    (rows, depth), columns = a.shape, w.shape[1]

    def filled(array: np.ndarray, label: str) -> Tensor:
        padded = np.zeros((len(array), -(-array.shape[1] // 4) * 4), NUMPY[dtype])
        padded[:, : array.shape[1]] = array
        return Tensor(recorder.buffer(padded.nbytes, label, "pinned", lambda: padded), (1, 1, *array.shape), dtype)

    deep = np.zeros((-(-depth // 4) * 4, columns), np.float32)
    deep[:depth] = w
    left, right = filled(a, "left"), filled(deep, "right")
    out = recorder.new((1, 1, rows, columns), "product", "pinned")
    weight = Weight(Binding("w", "read", right.buffer, deep.shape, dtype=dtype))
    with recorder.open(eager=False) as recording:
        Dense(recorder, lambda caps, call: row)(GemmCall("linear", "matrix units", Operands(left, weight, out, depth, columns)))
        plan = Plan(recording, [], [out])
    with guard(device.name, "trying matrix units"):
        plan.start()
        plan.replay()
        return read(out)[0, 0]
