"""The kernels of dense layers on the GPU against the float64 oracle: every row of the menu, every mode, every edge of a tile. All of these
with each other, with bounds checks and without, are in test_rows.py, which is slow."""

from __future__ import annotations

import re

import numpy as np
import pytest
from cases import OPS, ORACLE, Case, conv3x3, distance, in_bands, is_swiftshader, linear, some, upsample_conv3x3

from moebius.backends.cpu import winograd as cpu_winograd
from moebius.backends.webgpu import WebGPU, calls, gemm, menu, wgsl
from moebius.backends.webgpu.menu import Gemm

SMALL = [  # of every entry but `lines`, in which a small image has edges enough
    menu.CPU,
    menu.CPU_THIN,
    menu.SINGLE_ROWS,
    Gemm("direct", 2, 1, 8, 8),
    Gemm("tiled", 2, 1, 8, 8),
    Gemm("staged", 2, 1, 8, 8),
    Gemm("blocked", 8, 1, 8, 4, groups=2),
    Gemm("thin", 4, 2, 4, 8),
    Gemm("tiled", 4, 1, 4, 16),
    Gemm("staged", 2, 2, 4, 8),
]
LINES = [Gemm("lines", 2, 1, 4, 4), Gemm("lines", 3, 1, 1, 8)]
LARGE = [menu.LINES, Gemm("direct", 3, 2, 16, 4)]  # slow on SwiftShader

every_row = pytest.mark.parametrize("row", menu.GEMMS, ids=lambda row: row.key.replace(" ", "-"))


def is_long_to_compile(row: Gemm) -> bool:
    """For SwiftShader."""
    return row not in (*SMALL, *LINES) and (row.tm * row.tn4 > 4 or row.entry in menu.STAGING)


def entries_of(row: Gemm, case: Case) -> list[str]:
    """Of one band of a case on a row, or on the one that takes what it cannot."""
    images, tiles = case.inputs[0].shape[0], ["to_points", row.entry, "from_points"]
    if row.packing == "winograd" and case.name.startswith("conv3x3"):
        return ["to_filters", *images * tiles]
    if row.packing == "differences" and case.name == "upsample_conv3x3":
        return tiles
    return ["direct" if row.packing != "plain" or (row.entry == "lines" and case.name == "linear") else row.entry]


@every_row
def test_every_row_of_the_menu_runs_every_mode_beyond_its_edges(gpu: WebGPU, row: Gemm) -> None:
    if is_swiftshader(gpu) and is_long_to_compile(row):
        pytest.skip("SwiftShader takes minutes and gigabytes to compile it; small ones of its entry are below.")
    m, n = row.rows, min(4 * row.columns4, 15)
    cases = [linear((1, 1, rows), depth, columns) for rows, columns, depth in ((m + 1, n + 1, 17), (m - 1, n - 1, 35), (5, 1, 3))]
    if row not in menu.BLOCKS[:-1]:  # which take long to compile; one of them does the same in a smaller tile, and others are SMALL
        cases += [conv3x3((2, 5, 7), 33, n), upsample_conv3x3((1, 6, 9), 32, n)]
    for case in cases:
        entries = [d.entry for d in case.check(gpu, row).dispatches]
        assert entries == entries_of(row, case)


def test_every_tile_meets_every_edge(gpu: WebGPU) -> None:
    for tile in some(gpu, SMALL, LARGE):
        m, n = tile.rows, 4 * tile.columns4
        edges = [(m - 1, n + 1, 17), (m, n, 16), (m + 1, n - 1, 15), (5, 1, 1), (6, 3, 5)]
        for rows, columns, depth in edges + some(
            gpu, [], [(2 * m + 1, 2 * n + 1, 33), (m, n + 4, 1), (7, 5, 4), (1, 5, 3), (4, n + 1, 13)]
        ):
            linear((1, 1, rows), depth, columns).check(gpu, tile)


def test_a_sum_that_groups_divide_is_the_same_wherever_in_a_tile_its_row_lies(llvmpipe: WebGPU) -> None:
    """In a batch as alone, in bands as whole: four parts are added in one order."""
    assert in_bands(conv3x3((2, 31, 7)), llvmpipe, "gemm_blocked", menu.BLOCKED_SMALL_IN_4, max_storage_buffer_binding_size=4096) > 2


def test_every_tile_runs_every_mode(gpu: WebGPU) -> None:
    names = ["linear without bias", "conv3x3 stride 2 pad 0", "upsample_conv3x3", "dwconv with all"]
    more = ["conv3x3", "conv3x3 stride 2", "feed_forward", "self_lambda", "attention"]
    for tile in some(gpu, SMALL[3:8], LINES[:1]):
        for name in some(gpu, names, more):
            OPS[name]((2, 5, 7)).check(gpu, tile)
            OPS[name]((1, 6, 9)).check(gpu, tile)


def test_lines_meet_every_edge(gpu: WebGPU) -> None:
    """Runs shorter than a line, as long, longer; lines that end in the middle of a workgroup; images one after the other."""
    for tile in some(gpu, LINES, [menu.LINES, menu.LINES_THIN]):
        for size in some(gpu, [(2, 5, 2 * tile.tm + 1), (1, 3, tile.tm)], [(1, 7, 1), (3, 2, tile.tm - 1), (2, tile.wgy + 1, tile.tm + 1)]):
            for case in (conv3x3(size, 5, 4 * tile.wgx + 3), upsample_conv3x3(size, 6, 3)):
                guarded = case.check(gpu, tile)
                assert [d.entry for d in guarded.dispatches] == ["lines"]
        assert [d.entry for d in conv3x3((1, 4, 6), stride=2).check(gpu, tile).dispatches] == ["direct"]  # no neighbours to share


def test_tiles_of_sixteen_outputs_meet_every_edge(gpu: WebGPU, monkeypatch: pytest.MonkeyPatch) -> None:
    """Images of odd and even sides, of one line; lines of tiles in bands, for all of which the points of the weights are made once; and
    what has no tiles gets another kernel."""
    row = menu.WINOGRAD[-1]
    tiles = ["to_points", "direct", "from_points"]
    for size in some(gpu, [(1, 1, 5), (2, 3, 4)], [(1, 9, 1), (2, 5, 7), (1, 8, 8), (1, 6, 9), (1, 4, 13)]):
        for case in (conv3x3(size), conv3x3(size, 9, 13, residual=False)):
            assert [d.entry for d in case.check(gpu, row).dispatches] == ["to_filters", *size[0] * tiles]
    for other in (conv3x3((1, 4, 6), stride=2), linear((1, 1, 6), 5, 7), upsample_conv3x3((1, 4, 6))):
        assert [d.entry for d in other.check(gpu, row).dispatches] == ["direct"]
    assert in_bands(conv3x3((2, 31, 7)), gpu, "gemm", row, max_storage_buffer_binding_size=12288) > 2
    case = conv3x3((2, 31, 7))
    monkeypatch.setattr(gemm, "SCRATCH", 1 << 20)
    whole = case.run(case.check(gpu, row))
    monkeypatch.setattr(gemm, "SCRATCH", 4 * 36 * 2 * (8 + 8))  # of two tiles of 8 channels each: a line of them
    banded = case.check(gpu, row)
    assert [d.entry for d in banded.dispatches] == ["to_filters", *2 * 8 * tiles]
    np.testing.assert_array_equal(case.run(banded), whole)


def test_pixels_that_become_four_meet_every_edge(gpu: WebGPU, monkeypatch: pytest.MonkeyPatch) -> None:
    """Images of one line, of one pixel, several; all of them in one band, or lines of one image each; what is not enlarged gets another
    kernel."""
    row = menu.DIFFERENCES_CPU
    tiles = ["to_points", "direct", "from_points"]
    for size in some(gpu, [(1, 1, 5), (2, 3, 4)], [(1, 9, 1), (2, 5, 7), (1, 8, 8), (3, 2, 1)]):
        assert [d.entry for d in upsample_conv3x3(size, 9, 5).check(gpu, row).dispatches] == tiles
    for other in (conv3x3((1, 4, 6)), linear((1, 1, 6), 5, 7)):
        assert [d.entry for d in other.check(gpu, row).dispatches] == ["direct"]
    assert in_bands(upsample_conv3x3((2, 13, 5)), gpu, "gemm", row, max_storage_buffer_binding_size=8192) > 2
    assert in_bands(upsample_conv3x3((2, 13, 5)), gpu, "gemm", row, max_storage_buffer_binding_size=20_000) > 1  # for the points alone
    case = upsample_conv3x3((2, 10, 4), 8, 5)
    whole = case.run(case.check(gpu, row))
    monkeypatch.setattr(gemm, "ENLARGED", 4 * 9 * 3 * 4 * (8 + 8))  # of three lines of four pixels
    banded = case.check(gpu, row)
    assert [d.entry for d in banded.dispatches] == 2 * 4 * tiles
    np.testing.assert_array_equal(case.run(banded), whole)


def test_points_are_compared_where_the_cpu_does(llvmpipe: WebGPU) -> None:
    """And lose as little: half of what the usual 0, ±1, ±2 would."""
    numbers = re.findall(r"^const ([PQ]): f32 = ([\d.]+);", wgsl.source("winograd"), re.M)
    p, q = (float(value) for _, value in numbers)
    assert (0.0, p, -p, q, -q) == cpu_winograd.POINTS
    assert {shader: wgsl.numbers(shader)["SIDE"] for shader in ("winograd", "differences")} == calls.WINDOW
    assert {shader: wgsl.numbers(shader)["POINTS"] for shader in ("winograd", "differences")} == calls.POINTS
    assert calls.WINDOW["winograd"] == cpu_winograd.N
    case = conv3x3((1, 12, 12), 128, 16, residual=False)
    row = menu.WINOGRAD_LLVMPIPE
    (got,), (want,) = case.run(case.check(llvmpipe, row)), case.run(ORACLE)
    assert distance(got, want)[0] < 1.5e-6


def test_one_row_of_tokens_to_many_channels(gpu: WebGPU) -> None:
    """Up to four rows have a tile of their own."""
    for rows, k, n in [(1, 33, 65), (2, 7, 64), (3, 16, 63), (4, 5, 129)]:
        linear((1, rows, 1), k, n).check(gpu)


def test_dense_widths(gpu: WebGPU) -> None:
    for k, n in some(gpu, [(3, 4), (8, 1)], [(1, 1), (4, 8), (17, 33), (9, 31), (6, 32)]):
        for name in (conv3x3, upsample_conv3x3):
            name((1, 5, 4), k, n).check(gpu)
        conv3x3((1, 7, 4), k, n, stride=2).check(gpu)
