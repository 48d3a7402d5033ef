"""Every dense layer from one kernel: how gemm.wgsl is asked for, in tiles and, above the binding limit, in bands."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from moebius.backends.webgpu.pack import up4
from moebius.backends.webgpu.plan import Binding, Tensor
from moebius.backends.webgpu.recorder import Recorder, ceil
from moebius.errors import LimitError, UsageError


@dataclass(frozen=True)
class Tile:
    """How gemm.wgsl divides its output. Threads own TM rows × 4·TN4 columns."""

    entry: str
    tm: int
    tn4: int
    wgx: int
    wgy: int

    def __post_init__(self) -> None:
        if self.entry == "tiled" and (self.tm * 4 % self.wgx or 16 * self.tn4 % self.wgy):
            raise UsageError(f"{self} does not divide its tiles among its threads: 4·tm / wgx and 16·tn4 / wgy must be whole.")

    def constants(self) -> dict[str, int]:
        out = {"TM": self.tm, "TN4": self.tn4, "WGX": self.wgx, "WGY": self.wgy, "ACC": self.tm * self.tn4}
        if self.entry == "tiled":
            threads = self.wgx * self.wgy
            out |= {"LOAD_A": self.wgy * self.tm * 4 // threads, "LOAD_W": 16 * self.wgx * self.tn4 // threads}
        return out

    @property
    def workgroup_bytes(self) -> int:
        return 16 * (self.wgy * self.tm * 5 + 16 * self.wgx * self.tn4) if self.entry == "tiled" else 0


SINGLE_ROWS = Tile("direct", 1, 1, 16, 4)  # a handful of rows: time tables
CPU_TILE = Tile("direct", 4, 1, 8, 8)  # SwiftShader takes half a minute to compile 8×2, and runs it no faster
GPU_TILE = Tile("tiled", 8, 2, 8, 16)  # 128×64
GPU_TILE_SMALL = Tile("tiled", 4, 2, 8, 16)  # 64×64: the 16² level has 512 rows, which must make enough workgroups


class Gemm(Recorder):
    """`tile` takes the place of the choice by adapter and size."""

    def __init__(self, adapter: str | int | None = None, *, limits: str = "adapter", tile: Tile | None = None) -> None:
        super().__init__(adapter, limits=limits)
        self._tile = tile

    def _tile_for(self, m: int, n: int) -> Tile:
        if m <= 4:
            return SINGLE_ROWS
        if self._tile is not None:
            return self._tile
        if self.gpu.is_cpu:
            return CPU_TILE
        return GPU_TILE if m * n >= 2**21 else GPU_TILE_SMALL

    def _gemm(
        self,
        op: str,
        p_path: str,
        a: Tensor,
        w: Binding,
        out: Tensor,
        *,
        k: int,
        n: int,
        bias: Binding | None = None,
        mode: str = "ROWS",
        act: str | None = None,
        shift: Tensor | None = None,
        residuals: Sequence[Tensor] = (),
        stride: int = 1,
        pad: int = 0,
        rows: int | None = None,
        k4: int | None = None,
        ldb4: int | None = None,
        w_offset: int = 0,
        split: int = 1,
        outer: int | None = None,
        inner: int = 0,
        a_offset: int = 0,
        out_row: int = 0,
        tail: bool = False,
        prologue: bool = False,
    ) -> None:
        """Everything dense; see gemm.wgsl. `k`, `n` are the true sizes, for counting; `rows` are those of the iteration grid."""
        kernel_size = {"ROWS": 1, "TAPS": 3, "PHASE": 2}[mode]
        images, height, width, _ = a.shape
        out_height, out_width = (height, width) if mode == "PHASE" else out.shape[1:3]
        rows = (images * height * width if mode == "PHASE" else out.rows) if rows is None else rows
        tile = self._tile_for(rows, n)
        n4, k4 = up4(n) // 4, up4(k) // 4 if k4 is None else k4
        constants: dict[str, int | bool | str] = {
            "MODE": {"ROWS": 0, "TAPS": 1, "PHASE": 2}[mode],
            "KERNEL": kernel_size,
            "ACT": {None: 0, "silu": 1}[act],
            "BIAS": bias is not None,
            "SHIFT": shift is not None,
            "RESIDUALS": len(residuals),
            "TAIL": tail,
            **tile.constants(),
        }
        phases = 4 if mode == "PHASE" else 1
        common: dict[str, int | float] = {
            "n4": n4,
            "k": k,
            "k4": k4,
            "ldb4": n4 if ldb4 is None else ldb4,
            "w_offset": w_offset,
            "split": split,
            "outer": a.pitch // 4 if outer is None else outer,
            "inner": inner,
            "a_offset": a_offset,
            "height": height,
            "width": width,
            "out_height": out_height,
            "out_width": out_width,
            "stride": stride,
            "pad": pad,
        }
        first, second = (*residuals, None, None)[:2]

        def emit(row0: int, row1: int, a_span: tuple[int, int] | None, out_span: tuple[int, int] | None) -> None:
            bound: dict[str, Tensor | Binding | None] = {
                "a": a,
                "w": w,
                "bias": bias,
                "shift": shift,
                "first": first,
                "second": second,
                "out": out,
            }
            bound["state"] = Binding("state", "read", self.recording.state, (1,)) if shift is not None else None
            a_origin = out_origin = 0
            if a_span is not None and out_span is not None:
                bound["a"], a_origin = self._window("a", "read", a, *a_span)
                bound["out"], out_origin = self._window("out", "read_write", out, *out_span)
                for name, residual in (("first", first), ("second", second)):
                    if residual is not None:
                        bound[name], _ = self._window(name, "read", residual, *out_span)
            grid = (ceil(n4, tile.wgx * tile.tn4), ceil(row1 - row0, tile.wgy * tile.tm), phases)
            # Rows that land further down are a negative origin: u32 arithmetic wraps.
            origins = {"a_origin": a_origin // 4, "out_origin": (out_origin // 4 - out_row * n4) % 2**32}
            params: dict[str, int | float] = {"row0": row0, "rows": row1, **common, **origins}
            flops = 2 * (row1 - row0) * n * k * kernel_size**2 * phases
            loops = kernel_size**2 * (1 + (k4 if tile.entry == "direct" else ceil(k4, 4)))
            self._dispatch(
                op,
                p_path,
                "gemm",
                grid,
                bound,
                params,
                constants,
                entry=tile.entry,
                workgroup=(tile.wgx, tile.wgy),
                workgroup_bytes=tile.workgroup_bytes,
                iterations=loops,
                flops=flops,
                prologue=prologue,
            )

        if self._fits(a, out):
            emit(0, rows, None, None)
        elif mode == "ROWS":
            if (split, a_offset, out_row) != (1, 0, 0):
                limit = self.gpu.limits["max-storage-buffer-binding-size"]
                raise LimitError(
                    f"{op} ({p_path}): {a.shape} to {out.shape} takes {max(a.nbytes, out.nbytes):,} bytes, above the {limit:,} "
                    f"a binding may have on {self.gpu.name}. Use a smaller image or batch, or another adapter."
                )
            step = self._bands(f"{op} ({p_path})", rows, a.pitch, out.pitch)
            for r in range(0, rows, step):
                end = min(r + step, rows)
                emit(r, end, (r * a.pitch, end * a.pitch), (r * out.pitch, end * out.pitch))
        else:
            scale = 2 if mode == "PHASE" else 1  # output rows per row of the iteration grid
            in_line, out_line = width * a.pitch, out.shape[2] * out.pitch
            step = self._bands(f"{op} ({p_path})", out_height, stride * in_line, scale * out_line, overhead=3 * in_line)
            for image in range(images):
                for y in range(0, out_height, step):
                    y1 = min(y + step, out_height)
                    top, bottom = max(y * stride - 1, 0), min((y1 - 1) * stride + 3, height)
                    a_span = ((image * height + top) * in_line, (image * height + bottom) * in_line)
                    out_span = ((image * out.shape[1] + scale * y) * out_line, (image * out.shape[1] + scale * y1) * out_line)
                    emit((image * out_height + y) * out_width, (image * out_height + y1) * out_width, a_span, out_span)
