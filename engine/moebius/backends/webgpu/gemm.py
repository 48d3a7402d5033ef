"""Records dense layers: which tile gemm.wgsl runs on, and, above the binding limit, in which bands."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from moebius.backends.webgpu.calls import SHADER, GemmCall, Phases, Rows
from moebius.backends.webgpu.recorder import BINDING_LIMIT, Recorder
from moebius.backends.webgpu.tensor import Binding, Tensor
from moebius.backends.webgpu.tiles import Choose, Tile
from moebius.errors import LimitError


@dataclass(frozen=True)
class Band:
    """Rows [begin, end) of a call, and the floats [begin, end) of A and of the output that they touch; None: both are bound whole."""

    begin: int
    end: int
    spans: tuple[tuple[int, int], tuple[int, int]] | None = None


def bands(call: GemmCall, recorder: Recorder) -> Iterable[Band]:
    """The parts of a call that can be bound."""
    if recorder.fits(call.operands.a, call.operands.out):
        return [Band(0, call.rows)]
    return _bands_of_rows(call, call.mode, recorder) if isinstance(call.mode, Rows) else _bands_of_lines(call, recorder)


def _bands_of_rows(call: GemmCall, mode: Rows, recorder: Recorder) -> Iterator[Band]:
    a, out = call.operands.a, call.operands.out
    if (mode.split, mode.offset, mode.out_row) != (1, 0, 0):
        raise LimitError(
            f"{call.op} ({call.path}): {a.shape} to {out.shape} takes {max(a.nbytes, out.nbytes):,} bytes, above the "
            f"{recorder.caps.limits[BINDING_LIMIT]:,} a binding may have on {recorder.caps.name}. "
            "Use a smaller image or batch, or another adapter."
        )
    step = recorder.bands(f"{call.op} ({call.path})", call.rows, a.pitch, out.pitch)
    for begin in range(0, call.rows, step):
        end = min(begin + step, call.rows)
        yield Band(begin, end, ((begin * a.pitch, end * a.pitch), (begin * out.pitch, end * out.pitch)))


def _bands_of_lines(call: GemmCall, recorder: Recorder) -> Iterator[Band]:
    """Whole lines of one image each, with those above and below that the filter reaches."""
    a, out, stride = call.operands.a, call.operands.out, call.stride
    images, height, width, _ = a.shape
    grid_height, grid_width = call.grid_size
    scale = 2 if isinstance(call.mode, Phases) else 1  # output rows per row of the iteration grid
    in_line, out_line = width * a.pitch, out.shape[2] * out.pitch
    step = recorder.bands(f"{call.op} ({call.path})", grid_height, stride * in_line, scale * out_line, overhead=3 * in_line)
    for image in range(images):
        for y in range(0, grid_height, step):
            y1 = min(y + step, grid_height)
            top, bottom = max(y * stride - 1, 0), min((y1 - 1) * stride + 3, height)
            a_span = ((image * height + top) * in_line, (image * height + bottom) * in_line)
            out_span = ((image * out.shape[1] + scale * y) * out_line, (image * out.shape[1] + scale * y1) * out_line)
            yield Band((image * grid_height + y) * grid_width, (image * grid_height + y1) * grid_width, (a_span, out_span))


class Dense:
    """Records calls. `choose` picks the tile of each for the recorder's caps."""

    def __init__(self, recorder: Recorder, choose: Choose) -> None:
        self.recorder, self.choose = recorder, choose

    def __call__(self, call: GemmCall) -> None:
        tile = self.choose(self.recorder.caps, call)
        for band in bands(call, self.recorder):
            self._record(call, tile, band)

    def _record(self, call: GemmCall, tile: Tile, band: Band) -> None:
        bound, a_origin, out_origin = self._bound(call, band)
        rows, taps = band.end - band.begin, call.mode.side**2
        out_row = call.mode.out_row if isinstance(call.mode, Rows) else 0
        # Rows that land further down are a negative origin: u32 arithmetic wraps.
        origins = {"a_origin": a_origin // 4, "out_origin": (out_origin // 4 - out_row * call.n4) % 2**32}
        self.recorder.dispatch(
            call.op,
            call.path,
            SHADER,
            tile.grid(call, rows),
            bound,
            {"row0": band.begin, "rows": band.end, **call.params(), **origins},
            {**call.constants(), **tile.constants()},
            entry=tile.entry,
            iterations=tile.iterations(call),
            flops=2 * rows * call.operands.n * call.operands.k * taps * call.phases,
            prologue=call.prologue,
        )

    def _bound(self, call: GemmCall, band: Band) -> tuple[dict[str, Tensor | Binding | None], int, int]:
        """What the shader's names are bound to, and how many floats of A and of the output lie before their windows."""
        operands, epilogue, recorder = call.operands, call.epilogue, self.recorder
        first, second = (*epilogue.residuals, None, None)[:2]
        norm = operands.norm or epilogue.norm
        bound: dict[str, Tensor | Binding | None] = {
            "a": operands.a,
            "joined": operands.joined,
            "w": operands.w.binding,
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
        a_span, out_span = band.spans
        bound["a"], a_origin = recorder.window("a", "read", operands.a, *a_span)
        bound["out"], out_origin = recorder.window("out", "read_write", operands.out, *out_span)
        for name, residual in (("first", first), ("second", second)):
            if residual is not None:
                bound[name], _ = recorder.window(name, "read", residual, *out_span)
        return bound, a_origin, out_origin
