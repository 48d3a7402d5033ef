"""What a device's limits make of an op: bands, folded grids, and refusals with both numbers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from cases import OPS, Shapes, attention, conv3x3, group_norm, in_bands, linear, some, upsample_conv3x3
from harness import Guarded
from test_kernels import op_names
from test_kernels_dense import LINES, SMALL

from moebius.backends.webgpu import WebGPU, menu, wgsl
from moebius.backends.webgpu.ops import norms
from moebius.backends.webgpu.plan import check
from moebius.errors import LimitError
from moebius.model.params import Checkpoint, Params, ShapeOnly


def test_tensors_above_the_binding_limit_run_in_bands(gpu: WebGPU, monkeypatch: pytest.MonkeyPatch) -> None:
    small: dict[str, int] = {"max_storage_buffer_binding_size": 4096}
    assert in_bands(linear((2, 31, 7)), gpu, "gemm", **small) == 8  # 60 rows each
    assert in_bands(linear((1, 21, 4), 3, 29, residual=False), gpu, "gemm", **small) == 3  # the output is the large one
    for row in SMALL[4:7]:
        assert in_bands(linear((2, 31, 7)), gpu, row.shader, row, **small) == 8
    for case in [
        conv3x3((2, 31, 7)),
        conv3x3((2, 31, 7), stride=2),
        conv3x3((2, 31, 7), stride=2, pad=0),
        conv3x3((1, 37, 5), 5, 4, residual=False),
        upsample_conv3x3((2, 13, 5)),
    ]:
        for tile in some(gpu, [None, LINES[1], SMALL[5]], [SMALL[4], SMALL[6]]):
            in_bands(case, gpu, tile.shader if tile else "gemm", tile, **small)
    in_bands(attention((2, 11, 13), 4), gpu, "softmax", max_storage_buffer_binding_size=20000)
    monkeypatch.setattr(norms, "CHUNK", 32)
    monkeypatch.setattr(norms, "WHOLE", 0)
    for size in [(1, 31, 7), (2, 31, 7)]:
        case = group_norm(size, 3, 3, silu=True)
        in_bands(case, gpu, "group_stats", **small)
        in_bands(case, gpu, "group_apply", **small)
        in_bands(case, gpu, "group_apply", max_storage_buffer_binding_size=5000)  # 98 rows fit, 64 are aligned


@op_names
def test_flat_grids_fold(gpu: WebGPU, name: str) -> None:
    """However wide a dimension may be, every index is met once."""
    for fold in some(gpu, [2], [1, 3]):
        made = OPS[name]((2, 23, 13)).check(gpu, fold=fold).dispatches
        flat = [d.grid for d in made if "flat_index" in wgsl.source(d.shader)]
        assert not flat or max(y for _, y, _ in flat) > 1
        assert all(x <= fold for x, _, _ in flat)


def shapes_only(shapes: Shapes) -> Params:
    return Params(Checkpoint(ShapeOnly({f"layer.{name}": shape for name, shape in shapes.items()})), "layer")


REFUSED: dict[str, tuple[Callable[[WebGPU], Any], dict[str, int], str]] = {
    "a binding": (
        lambda g: g.record(lambda x: g.layer_norm(x, shapes_only({"weight": (13,), "bias": (13,)})), [(1, 4, 20, 13)]),
        {"max_storage_buffer_binding_size": 4096},
        r"layer_norm\.wgsl.* binding x \(1, 4, 20, 13\).* 5,120,.* 4,096 ",
    ),
    "a buffer": (
        lambda g: g.record(lambda x: g.layer_norm(x, shapes_only({"weight": (13,), "bias": (13,)})), [(1, 4, 20, 13)]),
        {"max_buffer_size": 4096},
        r"layer_norm\.wgsl.* buffer of x \(1, 4, 20, 13\).* 5,120,.* 4,096 ",
    ),
    "a row": (
        lambda g: g.record(lambda x: g.linear(x, shapes_only({"weight": (4, 1024)})), [(1, 4, 20, 1024)]),
        {"max_storage_buffer_binding_size": 4096},
        r"linear \(layer\).* 1 row of 4,096 .* 4,096 ",
    ),
    "a grid": (
        lambda g: g.record(lambda x: g.linear(x, shapes_only({"weight": (4, 4)})), [(1, 1, 97, 4)]),
        {"max_compute_workgroups_per_dimension": 3},
        r"linear \(layer, gemm\.wgsl\).* y is 4,.* 3 ",
    ),
    "a flat grid folded as far as it goes": (
        lambda g: g.record(lambda x, y: g.concat(x, y), [(1, 1, 36 * 64 + 1, 2)] * 2),
        {"max_compute_workgroups_per_dimension": 12},
        r"concat\.wgsl.* y is 13,.* 12 ",
    ),
    "a loop": (
        lambda g: g.record(lambda x: g.linear(x, shapes_only({"weight": (4, 240_000)})), [(1, 1, 5, 240_000)]),
        {},
        r"gemm\.wgsl.* loop .* 60,001,.* 60,000 ",
    ),
    "a workgroup": (
        lambda g: g.record(lambda x: g.linear(x, shapes_only({"weight": (4, 4)})), [(1, 1, 97, 4)]),
        {"max_compute_invocations_per_workgroup": 32},
        r"gemm\.wgsl.* size is 64,.* 32 ",
    ),
    "the workgroup's memory": (
        lambda g: g.record(lambda x: g.group_norm(x, shapes_only({"weight": (13,), "bias": (13,)}), 1, 1e-5), [(1, 4, 20, 13)]),
        {"max_compute_workgroup_storage_size": 64},
        r"group_scale\.wgsl.* memory .* (256|4,096),.* 64 ",
    ),
    "the number of bindings": (
        lambda g: g.record(lambda x: g.layer_norm(x, shapes_only({"weight": (13,), "bias": (13,)})), [(1, 4, 20, 13)]),
        {"max_storage_buffers_per_shader_stage": 3},
        r"layer_norm\.wgsl.* storage buffers is 4,.* 3 ",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_does_not_fit_is_refused_with_both_numbers(gpu: WebGPU, what: str) -> None:
    record, limits, says = REFUSED[what]
    with pytest.raises(LimitError, match=says):
        record(Guarded(gpu, menu.CPU, **limits))
    if limits:
        record(Guarded(gpu, menu.CPU))


def test_a_loop_of_sixty_thousand_is_not_refused(gpu: WebGPU) -> None:
    gpu.record(lambda x: gpu.linear(x, shapes_only({"weight": (4, 239_996)})), [(1, 1, 5, 239_996)])


def test_a_buffer_read_and_written_in_one_dispatch_is_refused(gpu: WebGPU) -> None:
    (d,) = gpu.record(lambda x: gpu.layer_norm(x, shapes_only({"weight": (13,), "bias": (13,)})), [(1, 4, 20, 13)]).dispatches
    x, *rest, out = d.bindings
    for bindings in ([x, *rest, replace(out, buffer=x.buffer)], [replace(x, access="read_write", buffer=out.buffer), *rest, out]):
        with pytest.raises(LimitError, match=r"reading.*writing"):
            check(replace(d, bindings=bindings), gpu.caps)
    with pytest.raises(LimitError, match=r"at 100 .*alignment"):
        check(replace(d, bindings=[replace(x, offset=100), *rest, out]), gpu.caps)
    with pytest.raises(LimitError, match="within its buffer"):
        check(replace(d, bindings=[replace(x, nbytes=x.nbytes + 4), *rest, out]), gpu.caps)
