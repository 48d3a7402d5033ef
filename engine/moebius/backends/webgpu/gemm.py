"""Records dense layers: which kernel of the menu they get, and, above the binding limit, in which bands."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from moebius.backends.webgpu import wgsl
from moebius.backends.webgpu.calls import POINTS, TILE, WINDOW, Epilogue, GemmCall, Operands, Packing, Phases, Rows, Weight
from moebius.backends.webgpu.choice import Choose
from moebius.backends.webgpu.deferred import GroupNormed, Parted, is_parted
from moebius.backends.webgpu.menu import Gemm
from moebius.backends.webgpu.recorder import BINDING_LIMIT, Recorder, ceil
from moebius.backends.webgpu.tensor import Binding, Tensor, itemsize
from moebius.backends.webgpu.tuned import why
from moebius.errors import LimitError


@dataclass(frozen=True)
class Band:
    """Rows [begin, end) of a call, and the floats [begin, end) of A and of the output that they touch; None: both are bound whole."""

    begin: int
    end: int
    spans: tuple[tuple[int, int], tuple[int, int]] | None = None
    made: bool = False  # these lines of A are made for it: normed, or copied from the parts that they are in


# Of each, for a channel of a tile, or of a pixel that is enlarged.
OPERATIONS: dict[tuple[Packing, str], int] = {
    ("winograd", "to_filters"): 9 * 12,
    ("winograd", "to_points"): 12 * 22,
    ("winograd", "from_points"): 10 * 18,
    ("differences", "to_points"): 6 * 2,
    ("differences", "from_points"): 5 * 2,
}
SCRATCH = 40 << 20  # bytes of a band's windows and products, of a line of tiles at least: about a large GPU's cache
ENLARGED = 48 << 20  # of what differences.wgsl makes: an image of the full UNet's enlarging layers is a band with that
NORMED = 16 << 20  # bytes of a norm in front of a 3×3 convolution, or of lines copied for one, that are in memory at a time


def bands(call: GemmCall, recorder: Recorder, row: Gemm) -> Iterable[Band]:
    """The parts of a call that can be bound; rows of its bands are tiles where the kernel's are."""
    a, out = call.operands.a, call.operands.out
    if row.packing == "winograd":
        return _bands_of_tiles(call, recorder)
    points = POINTS.get(row.packing, 0) * (a.pitch + out.pitch)  # of a row, that are in memory
    whole = 4 * points * call.rows <= min(ENLARGED, recorder.caps.limits[BINDING_LIMIT])
    if whole and recorder.fits(a, out, *call.epilogue.residuals) and not made_in_bands(call, recorder):
        return [Band(0, call.rows)]
    return _bands_of_rows(call, call.mode, recorder) if isinstance(call.mode, Rows) else _bands_of_lines(call, recorder, points)


def made_in_bands(call: GemmCall, recorder: Recorder) -> bool:
    """Whether A, in front of a filter, is there in parts, which that reaches across; or a group norm, and too large to be in memory whole,
    whose lines are where a window may begin."""
    a = call.operands.a
    if isinstance(call.mode, Rows):
        return False
    if not isinstance(a, GroupNormed) or a.is_made:
        return is_parted(a)
    return (a.nbytes > NORMED or is_parted(a.x)) and a.shape[2] * a.pitch % recorder.alignment == 0


def _bands_of_rows(call: GemmCall, mode: Rows, recorder: Recorder) -> Iterator[Band]:
    a, out = call.operands.a, call.operands.out
    if (mode.split, mode.offset, mode.out_row) != (1, 0, 0):
        raise LimitError(
            f"{call.op} ({call.path}): {a.shape} to {out.shape} takes {max(a.nbytes, out.nbytes):,} bytes, above the "
            f"{recorder.caps.limits[BINDING_LIMIT]:,} a binding may have on {recorder.caps.name}. "
            "Use a smaller image or batch, or another adapter."
        )
    step = recorder.bands(f"{call.op} ({call.path})", call.rows, a.pitch, out.pitch)
    for begin, end in recorder.pieces(0, call.rows, step, call.rows, a, out, *call.epilogue.residuals):
        yield Band(begin, end, ((begin * a.pitch, end * a.pitch), (begin * out.pitch, end * out.pitch)))


def _bands_of_lines(call: GemmCall, recorder: Recorder, points: int) -> Iterator[Band]:
    """Whole lines of one image each, with those above and below that the filter reaches; `points` numbers are made for each row."""
    a, out, stride = call.operands.a, call.operands.out, call.stride
    images, height, width, _ = a.shape
    grid_height, grid_width = call.grid_size
    scale = 2 if isinstance(call.mode, Phases) else 1  # output rows per row of the iteration grid
    in_line, out_line = width * a.pitch, out.shape[2] * out.pitch
    line = stride * in_line, scale * out_line, grid_width * points
    step = recorder.bands(f"{call.op} ({call.path})", grid_height, *line, overhead=3 * in_line)
    made, written = made_in_bands(call, recorder), (out, *call.epilogue.residuals)
    if made:
        step = min(step, max(1, NORMED // (itemsize(a.dtype) * in_line) - 2))
    if points:
        step = min(step, max(1, ENLARGED // (4 * grid_width * points)))
    each = recorder.of_a_part(grid_height, *written)
    step = ceil(each, ceil(each, step))  # alike: a small last band would leave most of a GPU idle
    for image in range(images):
        for y, y1 in recorder.pieces(0, grid_height, step, grid_height, *written):
            top, bottom = max(y * stride - 1, 0), min((y1 - 1) * stride + 3, height)
            a_span = ((image * height + top) * in_line, (image * height + bottom) * in_line)
            out_span = ((image * out.shape[1] + scale * y) * out_line, (image * out.shape[1] + scale * y1) * out_line)
            yield Band((image * grid_height + y) * grid_width, (image * grid_height + y1) * grid_width, (a_span, out_span), made)


def _bands_of_tiles(call: GemmCall, recorder: Recorder) -> Iterator[Band]:
    """Whole lines of tiles of one image each: TILE lines of the output, and those of the input that the filter reaches."""
    a, out = call.operands.a, call.operands.out
    images, height, width, _ = out.shape
    down, across = ceil(height, TILE), ceil(width, TILE)
    in_line, out_line, in_points = a.shape[2] * a.pitch, width * out.pitch, POINTS["winograd"] * across
    points = in_points * max(a.pitch, out.pitch)
    step = recorder.bands(f"{call.op} ({call.path})", down, TILE * in_line, TILE * out_line, points, overhead=2 * in_line)
    step = min(step, max(1, SCRATCH // (4 * in_points * (a.pitch + out.pitch))))
    made = is_parted(a.x if isinstance(a, GroupNormed) else a) and made_in_bands(call, recorder)
    for image in range(images):
        for y, y1 in recorder.pieces(0, down, step, down, out, *call.epilogue.residuals):
            top, bottom = max(TILE * y - 1, 0), min(TILE * y1 + 1, height)
            a_span = ((image * height + top) * in_line, (image * height + bottom) * in_line)
            out_span = ((image * height + TILE * y) * out_line, (image * height + min(TILE * y1, height)) * out_line)
            yield Band((image * down + y) * across, (image * down + y1) * across, (a_span, out_span), made)


def of_the_normed(call: GemmCall) -> GemmCall:
    """Of what a group norm is made of, where A is one that was put off: the inputs under a tile are normed as they are loaded. That is done
    up to four times for each, and saves a pass that reads and writes all of them."""
    a = call.operands.a
    if not isinstance(a, GroupNormed) or a.is_made:
        return call
    return replace(call, operands=replace(call.operands, a=a.x, norm=a.norm))


class Dense:
    """Records calls. `choose` picks the kernel of each for the recorder's caps."""

    def __init__(self, recorder: Recorder, choose: Choose) -> None:
        self.recorder, self.choose = recorder, choose
        self.calls: list[GemmCall] | None = None  # what is recorded, for a tuner that asked

    def __call__(self, call: GemmCall) -> None:
        if self.calls is not None:
            self.calls.append(call)
        self.record(call, self.choose(self.recorder.caps, call))

    def record(self, call: GemmCall, row: Gemm) -> None:
        """A call on a row of the menu, in all its bands."""
        rec, parts = self.recorder, list(bands(call, self.recorder, row))
        row, chosen = row.on(rec.caps), f"{row.key}; {why(self.choose, rec.caps, call)}"
        if row.packing == "plain":
            for band in parts:
                self._record(call, row, band, chosen)
            return
        most = max(band.end - band.begin for band in parts)  # of the rows of a band: all of them have the same memory
        weights = call.operands.w.packed_as(row.packing)
        assert weights is not None  # `supports` said so
        if row.packing == "winograd":
            weights = self._filters(call, weights, chosen)
        windows = rec.new((POINTS[row.packing], 1, most, call.operands.k), f"{call.path} windows")
        products = rec.new((POINTS[row.packing], 1, most, call.operands.n), f"{call.path} products")
        for band in parts:
            self._record_points(call, row, band, chosen, weights, windows, products)

    def _record(self, call: GemmCall, row: Gemm, band: Band, chosen: str) -> None:
        bound, a_origin, out_origin = self._bound(call, row, band)
        rows, taps = band.end - band.begin, call.mode.side**2
        out_row = call.mode.out_row if isinstance(call.mode, Rows) else 0
        # Rows that land further down are a negative origin: u32 arithmetic wraps.
        origins = {"a_origin": a_origin // 4, "out_origin": (out_origin // 4 - out_row * call.n4) % 2**32}
        self.recorder.dispatch(
            call.op,
            call.path,
            row.shader,
            row.grid(call, rows),
            bound,
            {"row0": band.begin, "rows": band.end, **call.params(), **origins},
            {**call.constants(), **row.options(call), **row.constants()},
            entry=row.entry,
            iterations=row.iterations(call),
            flops=2 * rows * call.operands.n * call.operands.k * taps * call.phases,
            prologue=call.prologue,
            chosen=chosen,
        )

    def _filters(self, call: GemmCall, taps: Binding, chosen: str) -> Binding:
        """Winograd's points of the weights: kept, those of all layers would be four times the weights."""
        names, k, n4 = wgsl.numbers("winograd"), 4 * call.k4, call.n4
        unbound = {slot.name: None for slot in wgsl.interface("winograd").slots if slot.access != "uniform"}
        made = self.recorder.new((POINTS["winograd"], 1, k, call.operands.n), f"{call.path} filters")
        self.recorder.dispatch(
            call.op,
            call.path,
            "winograd",
            (ceil(n4, names["WGX"]), ceil(k, names["WGY"]), 1),
            {**unbound, "w": taps, "out": made},
            {"row0": 0, "rows": k, **call.params(), "a_origin": 0, "out_origin": 0},
            {"MODE": names["TO_FILTERS"], "BIAS": False},
            entry="to_filters",
            flops=4 * k * n4 * OPERATIONS["winograd", "to_filters"],
            prologue=call.prologue,
            chosen=chosen,
        )
        return Binding("w", "read", made.buffer, made.shape)

    def _record_points(
        self, call: GemmCall, row: Gemm, band: Band, chosen: str, weights: Binding, windows: Tensor, products: Tensor
    ) -> None:
        """Three dispatches: the points of the windows of A under a band's tiles, their products with the weights', and the outputs that
        those make."""
        shader, side = row.packing, WINDOW[row.packing]
        if shader == "winograd" and not band.made:
            call = of_the_normed(call)
        operands, names = call.operands, wgsl.numbers(shader)
        height, width = call.grid_size
        tiles, down, across = band.end - band.begin, ceil(height, side - 2), ceil(width, side - 2)
        plane = windows.shape[2]

        def transform(entry: str, of: GemmCall, over: tuple[int, int], a: Tensor | None = None, **bound: Tensor) -> None:
            """Its grid is over columns, in vec4, and tiles; `over` has the lines and columns that its rows are numbered by."""
            found, a_origin, out_origin = self._bound(of, row, band, a)
            into = entry == "to_points"
            c4, origins = (of.k4, {"a_origin": a_origin // 4}) if into else (of.n4, {"out_origin": out_origin // 4})
            sizes = {"row0": band.begin, "rows": band.end, "plane": plane, "out_height": over[0], "out_width": over[1]}
            sizes |= {"stride": side - 2, "pad": 1}
            self.recorder.dispatch(
                call.op,
                call.path,
                shader,
                (ceil(c4, names["WGX"]), ceil(tiles, names["WGY"]), 1),
                {**found, "w": None, **bound},
                {**of.params(), "a_origin": 0, "out_origin": 0, **sizes, **origins},
                {**of.constants(), "MODE": names[entry.upper()], **({"KERNEL": side} if into else {})},
                entry=entry,
                flops=4 * c4 * tiles * OPERATIONS[shader, entry],
                prologue=call.prologue,
                chosen=chosen,
            )

        # Without what is done to the sums: the same pipeline, whatever that is.
        transform("to_points", replace(call, epilogue=Epilogue()), (down, across), out=windows)
        mode = Rows(tiles, matrices=POINTS[shader], plane=plane)
        inner = Operands(windows, Weight(weights), products, operands.k, operands.n)
        multiply = GemmCall(call.op, call.path, inner, mode, prologue=call.prologue)
        self._record(multiply, replace(row, packing="plain"), Band(0, tiles), chosen)
        transform("from_points", call, (height, width), a=products)

    def _bound(
        self, call: GemmCall, row: Gemm, band: Band, instead: Tensor | None = None
    ) -> tuple[dict[str, Tensor | Binding | None], int, int]:
        """What the shader's names are bound to, `instead` for A, and how many floats of A and of the output lie before their windows."""
        operands, epilogue, recorder = call.operands, call.epilogue, self.recorder
        first, second = (*epilogue.residuals, None, None)[:2]
        norm = operands.norm or epilogue.norm
        bound: dict[str, Tensor | Binding | None] = {
            "a": instead or operands.a,
            "joined": operands.joined,
            "w": operands.w.packed_as(row.packing),
            "norm": norm.table if norm else None,
            "variance": epilogue.spread.variance if epilogue.spread else None,
            "bias": epilogue.bias,
            "shift": epilogue.shift,
            "state": Binding("state", "read", recorder.recording.state, (1,)) if epilogue.shift is not None else None,
            "first": first,
            "second": second,
            "out": operands.out,
        }
        if band.spans is None:
            return bound, 0, 0
        (a_span, out_span), a_origin = band.spans, 0
        if instead is None and band.made:
            assert isinstance(operands.a, GroupNormed | Parted)
            # The points of a norm that is made for them are those of one that is applied as they are loaded.
            dtype, a_origin = "f32" if row.packing == "winograd" else operands.a.dtype, a_span[0]
            bound["a"] = operands.a.rows_of(a_origin // operands.a.pitch, a_span[1] // operands.a.pitch, dtype)
        elif instead is None:
            bound["a"], a_origin = recorder.window("a", "read", operands.a, *a_span)
        bound["out"], out_origin = recorder.window("out", "read_write", operands.out, *out_span)
        for name, residual in (("first", first), ("second", second)):
            if residual is not None:
                bound[name], _ = recorder.window(name, "read", residual, *out_span)
        return bound, a_origin, out_origin
