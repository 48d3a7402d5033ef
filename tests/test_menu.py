"""The menu of kernels for dense layers: what its rows say of themselves, who may use one, and who gets which."""

from __future__ import annotations

from dataclasses import replace

import pytest

from moebius.backends.webgpu.calls import GemmCall, Operands, Phases, Rows, Taps, Weight
from moebius.backends.webgpu.caps import DEFAULT_LIMITS, Caps, Matrix, Unit
from moebius.backends.webgpu.choice import FEW_ROWS, candidates, choose, on_paper, promising
from moebius.backends.webgpu.menu import GEMMS, OF_LLVMPIPE, Gemm
from moebius.backends.webgpu.tensor import Binding, Buffer, Tensor
from moebius.errors import UsageError

H200 = Caps("NVIDIA H200 (DiscreteGPU) via Vulkan", "NVIDIA", "discrete", "Vulkan", checked=False)
GPU = Caps.browser()
LLVMPIPE = Caps("llvmpipe (LLVM 15.0.6, 256 bits)", "", "software", "Vulkan")
SOFTWARE = Caps.browser(software=True)


def call(m: int, n: int, k: int, mode: Rows | Taps | Phases = Rows(), packed: bool = True) -> GemmCall:  # noqa: B008
    """A dense layer of m rows, of two images where that can be and they are not a coder's, which are as square as there is; nothing of it
    has memory."""
    images = 1 if isinstance(mode, Taps) or m % 2 else 2
    side = next(s for s in range(int((m / images) ** 0.5), 0, -1) if m // images % s == 0)
    width, scale, stride = m // images // side, 2 if isinstance(mode, Phases) else 1, mode.stride if isinstance(mode, Taps) else 1
    a, out = (images, side * stride, width * stride, k), (images, scale * side, scale * width, n)
    buffer = Buffer(None, 4, "none", "pinned")  # type: ignore[arg-type]
    operands = Operands(Tensor(buffer, a), Weight(Binding("w", "read", buffer, (k, n)), packed), Tensor(buffer, out), k, n)
    return GemmCall("op", "path", operands, mode)


def test_every_row_keeps_to_the_default_limits_and_says_so() -> None:
    for row in GEMMS:
        assert row.fits(GPU), row
        assert row.threads == row.wgx * row.wgy * row.groups <= 256
        assert 0 <= row.workgroup_bytes <= 16384
        assert (row.workgroup_bytes > 0) == (row.entry in ("tiled", "staged", "blocked", "thin"))


def test_keys_name_rows_and_stay_as_they_are() -> None:
    """Measurements on disk are found by them."""
    assert [row.key for row in GEMMS] == [
        "direct 4x64 1x4",
        "staged 64x64 8x4",
        "staged 128x64 8x8",
        "blocked 64x64 8x8",
        "blocked 64x64 8x8 in 2",
        "blocked 64x32 8x4",
        "blocked 64x32 8x4 in 2",
        "blocked 32x32 8x4 in 2",
        "blocked 32x32 8x4 in 4",
        "thin 32x4 8x4",
        "thin 16x8 4x8",
        "thin 8x16 2x16",
        "winograd staged 64x64 8x4",
        "winograd direct 64x64 16x8",
        "winograd direct 16x64 16x8",
        "winograd direct 128x32 8x8",
        "winograd direct 32x32 4x4",
        "winograd direct 16x32 2x4",
        "differences staged 64x64 8x4",
        "differences direct 64x64 16x8",
        "differences direct 32x64 16x8",
        "differences direct 32x32 4x4",
        "tiled 128x64 8x8",
        "tiled 64x64 4x8",
        "direct 32x32 4x4",
        "direct 256x4 4x4",
        "direct 64x64 16x8",
        "direct 32x64 16x8",
        "direct 128x32 8x8",
        "lines 64x32 16x4",
        "lines 512x4 16x4",
    ]
    assert Gemm("staged", 8, 1, 16, 8, operands="f16").key == "staged 64x64 8x4 f16-f32"


IN_GROUPS = ("blocked 64x64 8x8 in 2", "blocked 64x32 8x4 in 2", "blocked 32x32 8x4 in 4")


@pytest.mark.parametrize(
    ("limit", "room", "lost"),
    [
        ("max-compute-workgroup-storage-size", 14000, ["blocked 64x64 8x8 in 2", "blocked 32x32 8x4 in 4", "tiled 128x64 8x8"]),
        ("max-compute-workgroup-storage-size", 8100, ["staged", "blocked 64x64", *IN_GROUPS, "blocked 32x32", "thin", "tiled"]),
        ("max-compute-invocations-per-workgroup", 127, ["staged", *IN_GROUPS, "tiled"]),
        ("max-compute-workgroup-size-x", 15, ["direct 4x64", "staged 64x64", "thin"]),
        ("max-compute-workgroup-size-z", 3, ["blocked 32x32 8x4 in 4"]),
        ("max-compute-workgroup-size-z", 1, [*IN_GROUPS, "blocked 32x32"]),
        ("max-compute-workgroup-size-y", 15, ["staged 128x64", "tiled", "direct 256x4", "direct 128x32", "lines 512x4"]),
    ],
)
def test_a_row_that_a_device_has_no_room_for_does_not_fit_it(limit: str, room: int, lost: list[str]) -> None:
    small = replace(H200, limits={**DEFAULT_LIMITS, limit: room})
    keys = [replace(row, packing="plain").key for row in GEMMS if not row.fits(small)]
    assert keys == [key for row in GEMMS if (key := replace(row, packing="plain").key).startswith(tuple(lost))]


def test_a_row_that_needs_a_feature_fits_only_a_device_that_has_it() -> None:
    row = replace(GEMMS[1], features=frozenset({"shader-f16"}))
    assert not row.fits(H200)
    assert row.fits(replace(H200, features=frozenset({"shader-f16", "subgroups"})))


def with_points(wanted: GemmCall) -> GemmCall:
    w, packing = wanted.operands.w, "differences" if isinstance(wanted.mode, Phases) else "winograd"
    return replace(wanted, operands=replace(wanted.operands, w=replace(w, others={packing: w.binding})))


def test_software_drivers_take_fewer_products_where_that_was_faster() -> None:
    swiftshader = replace(SOFTWARE, name="SwiftShader Device (Subzero)")
    got = {n: [choose(caps, with_points(call(4096, n, n, Taps(1, 1)))).key for caps in (LLVMPIPE, swiftshader)] for n in (8, 16, 60, 64)}
    assert got == {
        8: ["lines 512x4 16x4", "direct 256x4 4x4"],
        16: ["winograd direct 128x32 8x8", "winograd direct 32x32 4x4"],
        60: ["winograd direct 64x64 16x8", "winograd direct 32x32 4x4"],
        64: ["winograd direct 64x64 16x8", "winograd direct 32x32 4x4"],
    }
    enlarging = [with_points(call(m, n, n, Phases())) for m, n in ((32, 128), (2048, 64), (2048, 32), (128, 32), (2048, 16))]
    assert [[choose(caps, each).key for each in enlarging] for caps in (LLVMPIPE, swiftshader)] == [
        ["differences direct 32x64 16x8", tile := "differences direct 64x64 16x8", lines := "lines 64x32 16x4", tile, lines],
        [*["differences direct 32x32 4x4"] * 4, "direct 32x32 4x4"],
    ]
    tiny = [with_points(call(images * 4, 64, 64, Phases())) for images in (1, 2)]  # alone these are too few rows for anything else
    assert {choose(caps, each).packing for caps in (LLVMPIPE, swiftshader) for each in tiny} == {"plain"}
    few = with_points(call(256, 64, 64, Taps(1, 1)))
    assert [choose(caps, few).key for caps in (LLVMPIPE, swiftshader)] == ["winograd direct 16x64 16x8", "winograd direct 16x32 2x4"]
    for caps in (H200, GPU, SOFTWARE):
        assert choose(caps, with_points(call(4096, 64, 64, Taps(1, 1)))).packing == "plain"


def test_gpus_take_fewer_products_in_wide_layers() -> None:
    """Of many channels, and of more where nobody measured it; where there are workgroups enough; and not with bounds checks."""
    other = replace(H200, name="a GPU", vendor="other")

    def got(m: int, n: int, k: int, mode: Taps | Phases = Taps(1, 1)) -> list[bool]:  # noqa: B008
        tiles = f"{'differences' if isinstance(mode, Phases) else 'winograd'} staged 64x64 8x4"
        return [choose(caps, with_points(call(m, n, k, mode))).key == tiles for caps in (H200, other)]

    assert got(4096, 512, 512) == got(65536, 256, 512) == [True, True]
    assert got(262144, 128, 128) == got(262144, 128, 256) == [True, False]
    assert got(262144, 64, 256) == got(262144, 3, 128) == got(256, 256, 256) == got(4096, 512, 512, Taps(2, 1)) == [False, False]
    assert got(1024, 512, 512) == [True, True]  # 64 tiles of 16 outputs, in 36 products of 8 workgroups
    assert got(1024, 256, 512) == [False, False]
    assert got(512, 1280, 1280, Phases()) == got(2048, 640, 640, Phases()) == [True, True]
    assert got(32768, 128, 128, Phases()) == [True, False]
    assert got(512, 320, 1280, Phases()) == [False, False]  # 256 pixels of an image, in 9 products of 20 workgroups
    wide = with_points(call(4096, 512, 512, Taps(1, 1)))
    for caps in (replace(H200, checked=True), replace(other, checked=True), replace(other, kind="integrated"), GPU):
        assert choose(caps, wide).packing == "plain"


def test_weights_packed_in_another_way_are_for_the_convolutions_that_have_them() -> None:
    rows, enlarging = ([row for row in GEMMS if row.packing == packing] for packing in ("winograd", "differences"))
    has, stride, pad = call(64, 8, 8, Taps(1, 1)), call(64, 8, 8, Taps(2, 1)), call(64, 8, 8, Taps(1, 0))
    for wanted in (has, stride, pad, call(64, 8, 8), call(64, 8, 8, Phases())):
        assert not any(row.supports(wanted) for row in (*rows, *enlarging))
        assert [row.supports(with_points(wanted)) for row in rows] == [wanted is has] * len(rows)
        assert [row.supports(with_points(wanted)) for row in enlarging] == [isinstance(wanted.mode, Phases)] * len(enlarging)
    much = with_points(call(64, 640, 512, Taps(1, 1)))
    assert not any(row.supports(much) for row in rows)  # 47 MB of points
    assert all(row.supports(with_points(call(64, 512, 512, Taps(1, 1)))) for row in rows)


def test_a_tile_that_its_threads_cannot_share_is_refused() -> None:
    for row in (("tiled", 1, 1, 8, 8), ("staged", 1, 1, 8, 8), ("lines", 8, 2, 8, 8)):
        with pytest.raises(UsageError):
            Gemm(*row)  # type: ignore[arg-type]
    for blocked in ((4, 1, 8, 8), (8, 1, 4, 8), (8, 1, 16, 8), (8, 1, 8, 2)):  # no block of A for each thread; no 32 threads
        with pytest.raises(UsageError):
            Gemm("blocked", *blocked)
    Gemm("blocked", 8, 2, 8, 8, groups=2)
    for groups in (3, 4):  # 16 sums a thread; and what three groups give a fourth is more than the tiles have room for
        with pytest.raises(UsageError):
            Gemm("blocked", 8, 2, 8, 8, groups=groups)


@pytest.mark.parametrize(
    ("m", "n", "k", "mode", "on_h200", "elsewhere", "on_llvmpipe", "on_software"),
    [
        (1, 1280, 320, Rows(), "direct 4x64 1x4", "direct 4x64 1x4", "direct 4x64 1x4", "direct 4x64 1x4"),
        (8192, 320, 320, Rows(), "staged 64x64 8x4", "tiled 128x64 8x8", "direct 64x64 16x8", "direct 32x32 4x4"),
        (2048, 640, 3200, Rows(), "blocked 64x64 8x8 in 2", "tiled 64x64 4x8", "direct 64x64 16x8", "direct 32x32 4x4"),
        (512, 1280, 1280, Rows(), "blocked 32x32 8x4 in 2", "tiled 64x64 4x8", "direct 64x64 16x8", "direct 32x32 4x4"),
        (16384, 512, 512, Taps(1, 1), "staged 128x64 8x8", "tiled 128x64 8x8", "lines 64x32 16x4", "direct 32x32 4x4"),
        (256, 1280, 1280, Phases(), "blocked 64x32 8x4", "tiled 64x64 4x8", "lines 64x32 16x4", "direct 32x32 4x4"),
        (262144, 3, 128, Taps(1, 1), "thin 32x4 8x4", "thin 32x4 8x4", "lines 512x4 16x4", "direct 256x4 4x4"),
        (4096, 8, 512, Taps(1, 1), "thin 16x8 4x8", "thin 16x8 4x8", "lines 512x4 16x4", "direct 256x4 4x4"),
        (1024, 13, 64, Taps(2), "thin 8x16 2x16", "thin 8x16 2x16", "direct 128x32 8x8", "direct 32x32 4x4"),
        (64, 64, 64, Phases(), "blocked 32x32 8x4 in 2", "tiled 64x64 4x8", "direct 64x64 16x8", "direct 32x32 4x4"),
        (64, 64, 63, Rows(), "blocked 32x32 8x4 in 2", "tiled 64x64 4x8", "direct 32x32 4x4", "direct 32x32 4x4"),
        (32, 640, 128, Rows(), "blocked 32x32 8x4 in 2", "tiled 64x64 4x8", "direct 32x64 16x8", "direct 32x32 4x4"),
        (512, 96, 64, Rows(), "blocked 32x32 8x4 in 2", "tiled 64x64 4x8", "direct 128x32 8x8", "direct 32x32 4x4"),
        (4096, 8, 8, Rows(), "blocked 32x32 8x4 in 2", "tiled 64x64 4x8", "direct 256x4 4x4", "direct 256x4 4x4"),
    ],
)
def test_who_gets_which(
    m: int, n: int, k: int, mode: Rows | Taps | Phases, on_h200: str, elsewhere: str, on_llvmpipe: str, on_software: str
) -> None:
    wanted = call(m, n, k, mode)
    assert [choose(caps, wanted).key for caps in (H200, GPU, LLVMPIPE, SOFTWARE)] == [on_h200, elsewhere, on_llvmpipe, on_software]
    for unlike in (replace(H200, checked=True), replace(H200, kind="integrated"), replace(H200, name="a GPU", vendor="other")):
        assert choose(unlike, wanted) == choose(GPU, wanted)  # measured: with bounds checks the older kernel is ahead


@pytest.mark.parametrize(
    ("m", "n", "k", "mode", "key"),
    [
        (8192, 1600, 320, Rows(), "blocked 64x64 8x8"),
        (2048, 3200, 640, Rows(), "blocked 64x64 8x8 in 2"),
        (512, 6400, 1280, Rows(), "blocked 64x64 8x8 in 2"),
        (8192, 320, 800, Rows(), "blocked 64x64 8x8 in 2"),
        (2048, 640, 1600, Rows(), "blocked 64x64 8x8 in 2"),
        (512, 1280, 3200, Rows(), "blocked 32x32 8x4 in 4"),
        (8192, 320, 320, Rows(), "staged 64x64 8x4"),
        (2048, 640, 640, Rows(), "blocked 64x64 8x8 in 2"),
        (512, 1280, 1280, Rows(), "blocked 32x32 8x4 in 2"),
        (8192, 400, 320, Rows(), "blocked 64x32 8x4"),
        (2048, 800, 640, Rows(), "blocked 64x32 8x4 in 2"),
        (512, 1600, 1280, Rows(), "blocked 64x64 8x8 in 2"),
        (512, 1280, 1280, Phases(), "blocked 64x32 8x4"),
        (2048, 640, 640, Phases(), "blocked 64x64 8x8 in 2"),
        (8192, 1632, 320, Rows(), "blocked 64x64 8x8"),  # which is of no step: half of the last of 26 tiles is little
    ],
)
def test_a_step_gets_what_was_fastest_on_an_h200(m: int, n: int, k: int, mode: Rows | Phases, key: str) -> None:
    """Or within 2 % of it, and for enlarging ones 5 %: those of a step that take a hundredth of it or more."""
    assert choose(H200, call(m, n, k, mode)).key == key


@pytest.mark.parametrize("caps", [H200, GPU, LLVMPIPE, SOFTWARE], ids=["h200", "gpu", "llvmpipe", "software"])
def test_candidates_are_what_may_run_and_the_default_comes_first(caps: Caps) -> None:
    image, matrix, phases = call(4096, 8, 512, Taps(1, 1)), call(35, 35, 12, packed=False), call(64, 64, 8, Phases())
    for wanted in (call(8192, 320, 320), call(2, 64, 64), image, matrix, phases):
        found = candidates(caps, wanted)
        assert found[0] == choose(caps, wanted)
        assert len(set(found)) == len(found)
        assert all(row.supports(wanted) and row.fits(caps) and row.software == caps.is_software for row in found[1:])


def test_candidates_keep_to_the_device_and_waste_little() -> None:
    narrow = replace(H200, limits={**DEFAULT_LIMITS, "max-compute-invocations-per-workgroup": 64})
    assert [row.key for row in candidates(narrow, call(8192, 320, 320))[1:]] == [
        "blocked 64x64 8x8",
        "blocked 64x32 8x4",
        "blocked 32x32 8x4 in 2",
    ]
    few = [row.key for row in candidates(H200, call(4096, 8, 512, Taps(1, 1)))]
    assert few == ["thin 16x8 4x8", "thin 32x4 8x4"]  # 16 columns would be twice, 32 four times as much


def test_swiftshader_is_not_given_what_it_takes_minutes_to_compile() -> None:
    swiftshader, wanted = replace(SOFTWARE, name="SwiftShader Device (Subzero)"), with_points(call(4096, 64, 64, Taps(1, 1)))
    assert set(OF_LLVMPIPE) & set(candidates(LLVMPIPE, wanted))
    assert not set(OF_LLVMPIPE) & set(candidates(swiftshader, wanted))


def test_who_has_little_time_tries_what_looks_best() -> None:
    for wanted in (call(8192, 1600, 320), call(512, 6400, 1280), with_points(call(4096, 512, 512, Taps(1, 1)))):
        every, few = candidates(H200, wanted), promising(H200, wanted)
        assert few[0] == every[0] == choose(H200, wanted)
        assert len(set(few)) == FEW_ROWS < len(every)
        left = set(every) - set(few)
        assert max(on_paper(row, wanted) for row in few[1:]) <= min(on_paper(row, wanted) for row in left)
    assert promising(replace(H200, kind="integrated"), wanted)[1].packing == "winograd"  # where it is not the default
    assert all(
        row.rows * 4 * row.columns4 >= 64 * 64 for row in promising(H200, call(8192, 1600, 320))
    )  # what loads least for its products


def test_an_image_is_summed_alike_alone_and_in_a_batch() -> None:
    """Whatever divides a sum is chosen by one image: who is in a batch with others gets the same bits."""
    swiftshader = replace(SOFTWARE, name="SwiftShader Device (Subzero)")
    units = replace(H200, precision="f16", matrix=Matrix("dawn", frozenset({Unit("f16", "f32", 16, 16, 16)})), limits=ROOMY)
    sizes = [(16, 16), (64, 64), (320, 320), (640, 1600), (1280, 1280)]
    layers = [(rows, n, k, mode) for rows in (16, 64, 256, 1024, 4096) for n, k in sizes for mode in MODES]
    for caps in (H200, units, GPU, LLVMPIPE, swiftshader, SOFTWARE):
        for rows, n, k, mode in layers:
            made = {in_images(caps, images, rows, n, k, mode) for images in (1, 2, 3, 8)}
            assert len(made) == 1, (caps.name, rows, n, k, mode)


MODES = (Rows(), Taps(1, 1), Taps(2), Phases())
ROOMY = {**DEFAULT_LIMITS, "max-compute-workgroup-storage-size": 48 << 10, "max-compute-invocations-per-workgroup": 1024}


def in_images(caps: Caps, images: int, rows: int, n: int, k: int, mode: Rows | Taps | Phases) -> tuple[object, ...]:
    """What of the choice sums depend on."""
    side, scale, stride = int(rows**0.5), 2 if isinstance(mode, Phases) else 1, mode.stride if isinstance(mode, Taps) else 1
    wanted = with_points(call(rows, n, k, mode)) if mode != Rows() else call(rows, n, k)
    a, out = (images, side * stride, side * stride, k), (images, scale * side, scale * side, n)
    tensors = (Tensor(t.buffer, shape) for t, shape in ((wanted.operands.a, a), (wanted.operands.out, out)))
    wanted = replace(wanted, operands=replace(wanted.operands, **dict(zip(("a", "out"), tensors, strict=True))))
    row = choose(caps, wanted)
    shared = row.units and (row.units.share, row.units.depth)
    return row.packing, row.entry == "thin", row.groups, shared, row.wgx if row.entry == "thin" else 0, row.entry == "lines"
