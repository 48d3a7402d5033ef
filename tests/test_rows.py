"""Every row of the menu, in every mode, at the edges of its tile, with bounds checks and without. Drivers compile large tiles for a long
time, once for each mode; so this runs by itself:

    tools/test -m slow tests/test_rows.py -k llvmpipe

test_kernels_dense.py has some of it for every run of the tests.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from cases import OPS, Case, conv3x3, in_bands, is_swiftshader, linear, upsample_conv3x3
from harness import in_mode
from test_fused import FUSED
from test_kernels_dense import LINES, SMALL, is_long_to_compile
from test_matrix import check_modes

from moebius.backends.webgpu import WebGPU
from moebius.backends.webgpu.caps import DEFAULT_LIMITS
from moebius.backends.webgpu.menu import GEMMS, UNITS, Gemm

pytestmark = pytest.mark.slow

either = pytest.mark.parametrize("checked", [False, True], ids=["unchecked", "checked"])
# Heads in rows, matrices within tensors with tails, a shift and two residuals; of two tensors, of a norm, of rows yet to be divided.
PLAIN = ("linear alone", "dwconv with all", "feed_forward", "self_lambda", "attention")
ON_GPUS = ("linear of two", "linear of a group norm with SiLU", "feed_forward of a layer norm", "dwconv with its skip of a group norm")


def every_row() -> list[Any]:
    rows = dict.fromkeys((*GEMMS, *SMALL, *LINES))
    return [pytest.param(row, id=f"{row.key} {row.wgx}x{row.wgy}".replace(" ", "-")) for row in rows]


def of_its_own(row: Gemm) -> Iterator[Case]:
    """At every edge of its tile, and of its depth."""
    m, n = row.rows, min(4 * row.columns4, 15)
    for rows, columns, depth in ((m + 1, n + 1, 17), (m - 1, n - 1, 35), (m, n, 16), (2 * m + 1, 2 * n + 1, 33), (5, 1, 3), (6, 3, 1)):
        yield linear((1, 1, rows), depth, columns)
    for size, k in (((2, 5, 7), 33), ((1, 6, 9), 32), ((1, 1, 5), 3)):
        yield conv3x3(size, k, n)
        yield upsample_conv3x3(size, k, n)
        yield conv3x3(size, k, n, stride=2)
    yield conv3x3((2, 6, 4), 17, n, stride=2, pad=0)


@either
@pytest.mark.parametrize("row", every_row())
def test_a_row_runs_every_mode_at_every_edge(gpu: WebGPU, row: Gemm, checked: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if is_swiftshader(gpu) and is_long_to_compile(row):
        pytest.skip("SwiftShader takes minutes and gigabytes to compile it; small ones of its entry are here too.")
    device = in_mode(gpu, checked, monkeypatch)
    assert device.caps.checked == checked
    for case in of_its_own(row):
        case.check(device, row)
    for name in PLAIN:
        OPS[name]((2, 5, 7)).check(device, row)
    for name in ON_GPUS:
        FUSED[name][0]((2, 5, 7)).check(device, row, kind="discrete")
    for case in (linear((2, 31, 7)), conv3x3((2, 31, 7)), upsample_conv3x3((2, 13, 5))):
        room = 4096 if row.packing == "plain" else 12288
        in_bands(case, device, row.shader, row, max_storage_buffer_binding_size=room)


@either
@pytest.mark.parametrize("row", UNITS, ids=lambda row: row.key.replace(" ", "-"))
def test_a_row_on_units_runs_every_mode_at_its_edges(
    request: pytest.FixtureRequest, row: Gemm, checked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In emulation. SwiftShader compiles it in a third of llvmpipe's time, but for a convolution whose threads stage eight vec4 each. It
    has no workgroups of more than 256 threads."""
    suits = int(row.constants()["LOAD_A"]) <= 4 and row.threads <= DEFAULT_LIMITS["max-compute-invocations-per-workgroup"]
    gpu = request.getfixturevalue("swiftshader" if suits else "llvmpipe")
    if row.workgroup_bytes > gpu.caps.limits["max-compute-workgroup-storage-size"]:
        pytest.skip("Its tiles take more workgroup memory than software drivers have; smaller ones of its kind are here too.")
    check_modes(in_mode(gpu, checked, monkeypatch), row)
