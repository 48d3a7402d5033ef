"""The kernels of dense layers on the GPU against the float64 oracle: every row of the menu, every mode, every edge of a tile."""

from __future__ import annotations

import numpy as np
import pytest
from cases import OPS, conv3x3, in_bands, is_swiftshader, linear, some, upsample_conv3x3

from moebius.backends.webgpu import WebGPU, gemm, menu
from moebius.backends.webgpu.menu import Gemm

SMALL = [  # of every entry but `lines`, in which a small image has edges enough
    menu.CPU,
    menu.CPU_THIN,
    menu.SINGLE_ROWS,
    Gemm("direct", 2, 1, 8, 8),
    Gemm("tiled", 2, 1, 8, 8),
    Gemm("staged", 2, 1, 8, 8),
    Gemm("thin", 4, 2, 4, 8),
    Gemm("tiled", 4, 1, 4, 16),
    Gemm("staged", 2, 2, 4, 8),
]
LINES = [Gemm("lines", 2, 1, 4, 4), Gemm("lines", 3, 1, 1, 8)]
LARGE = [menu.LINES, Gemm("direct", 3, 2, 16, 4)]  # slow on SwiftShader

every_row = pytest.mark.parametrize("row", menu.GEMMS, ids=lambda row: row.key.replace(" ", "-"))


@every_row
def test_every_row_of_the_menu_runs_every_mode_beyond_its_edges(gpu: WebGPU, row: Gemm) -> None:
    if is_swiftshader(gpu) and (row.tm * row.tn4 > 4 or row.entry in menu.STAGING):
        pytest.skip("SwiftShader takes minutes and gigabytes to compile it; small ones of its entry are below.")
    m, n = row.rows, min(4 * row.columns4, 15)
    cases = [linear((1, 1, rows), depth, columns) for rows, columns, depth in ((m + 1, n + 1, 17), (m - 1, n - 1, 35), (5, 1, 3))]
    cases += [conv3x3((2, 5, 7), 33, n), upsample_conv3x3((1, 6, 9), 32, n)]
    for case in cases:
        entries = [d.entry for d in case.check(gpu, row).dispatches]
        if row.packing == "winograd" and "conv3x3 stride 1" in case.name:
            assert entries == 2 * ["to_points", row.entry, "from_points"]
        else:
            elsewhere = row.packing == "winograd" or (row.entry == "lines" and case.name == "linear")
            assert entries == ["direct" if elsewhere else row.entry]


def test_every_tile_meets_every_edge(gpu: WebGPU) -> None:
    for tile in some(gpu, SMALL, LARGE):
        m, n = tile.rows, 4 * tile.columns4
        edges = [(m - 1, n + 1, 17), (m, n, 16), (m + 1, n - 1, 15), (5, 1, 1), (6, 3, 5)]
        for rows, columns, depth in edges + some(
            gpu, [], [(2 * m + 1, 2 * n + 1, 33), (m, n + 4, 1), (7, 5, 4), (1, 5, 3), (4, n + 1, 13)]
        ):
            linear((1, 1, rows), depth, columns).check(gpu, tile)


def test_every_tile_runs_every_mode(gpu: WebGPU) -> None:
    names = ["linear without bias", "conv3x3 stride 2 pad 0", "upsample_conv3x3", "dwconv with all"]
    more = ["conv3x3", "conv3x3 stride 2", "feed_forward", "self_lambda", "attention"]
    for tile in some(gpu, SMALL[3:7], LINES[:1]):
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


def test_tiles_of_four_outputs_meet_every_edge(gpu: WebGPU, monkeypatch: pytest.MonkeyPatch) -> None:
    """Images of odd and even sides, of one line; lines of tiles in bands; what has no tiles gets another kernel."""
    row = menu.WINOGRAD[-1]
    for size in some(gpu, [(1, 1, 5), (2, 3, 4)], [(1, 5, 1), (2, 5, 7), (2, 4, 4), (1, 6, 9)]):
        for case in (conv3x3(size), conv3x3(size, 9, 13, residual=False)):
            assert [d.entry for d in case.check(gpu, row).dispatches] == size[0] * ["to_points", "direct", "from_points"]
    assert [d.entry for d in conv3x3((1, 4, 6), stride=2).check(gpu, row).dispatches] == ["direct"]
    for case in (conv3x3((1, 4, 6), 9, 13), conv3x3((1, 3, 3), 3, 2)):  # the points of the weights are made beside those of the windows
        entries = [d.entry for d in case.check(gpu, row, kind="discrete").dispatches]
        assert entries == ["filter_points", "to_points", "direct", "from_points"]
    case = conv3x3((2, 31, 7))
    assert in_bands(case, gpu, "gemm", row, max_storage_buffer_binding_size=4096) == 2 * 16  # a line of tiles at a time
    whole = case.run(case.check(gpu, row))
    monkeypatch.setattr(gemm, "SCRATCH", 3 * 4 * 16 * 4 * (8 + 8))  # of 4 tiles of 8 channels each: three lines of them
    banded = case.check(gpu, row)
    assert len(banded.dispatches) == 3 * 2 * 6
    np.testing.assert_array_equal(case.run(banded), whole)


def test_one_row_of_tokens_to_many_channels(gpu: WebGPU) -> None:
    """Up to four rows have a tile of their own."""
    for rows, k, n in [(1, 33, 65), (2, 7, 64), (3, 16, 63), (4, 5, 129)]:
        linear((1, rows, 1), k, n).check(gpu)


def test_dense_widths(gpu: WebGPU) -> None:
    for k, n in some(gpu, [(3, 4), (8, 1)], [(1, 1), (4, 8), (17, 33), (9, 31), (6, 32)]):
        for name in (conv3x3, upsample_conv3x3):
            name((1, 5, 4), k, n).check(gpu)
        conv3x3((1, 7, 4), k, n, stride=2).check(gpu)
