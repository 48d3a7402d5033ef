"""Who gets matrix units: which rows of the menu a device may have, which units it has, and when they are taken."""

from __future__ import annotations

import copy
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from matrix_cases import ALL, DAWN, OTHERS, stored
from test_menu import GPU, H200, LLVMPIPE, call

from moebius.backends.webgpu import WebGPU, native, prove, wgsl
from moebius.backends.webgpu import device as opening
from moebius.backends.webgpu.calls import GemmCall, Phases, Rows, Taps
from moebius.backends.webgpu.caps import DEFAULT_LIMITS, Caps, Matrix, Unit
from moebius.backends.webgpu.choice import candidates, choose
from moebius.backends.webgpu.deferred import Norm
from moebius.backends.webgpu.menu import GEMMS, ROWS, THIN, UNITS, Gemm
from moebius.backends.webgpu.tensor import DType, Tensor
from moebius.backends.webgpu.tuned import Table, Tuned
from moebius.backends.webgpu.tuner import Measured, Tuner
from moebius.backends.webgpu.units import Units, taken
from moebius.errors import AdapterError, UsageError
from moebius.inpaint import contest, verdicts
from moebius.inpaint import device as devices


# who gets them -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("precision", ["f32", "f16"])
def test_nobody_gets_them_unasked(precision: Any) -> None:
    for caps in (H200, GPU, LLVMPIPE):
        caps = replace(caps, precision=precision)
        assert not any(row.fits(caps) for row in UNITS)
        assert not any(row.units for wanted in OTHERS for row in candidates(caps, wanted))


def test_who_asked_gets_halves_in_f16_and_may_measure_splitting_in_f32() -> None:
    f32, f16 = replace(H200, matrix=DAWN), replace(H200, matrix=DAWN, precision="f16")
    assert all(choose(f16, wanted).operands == "f16" for wanted in OTHERS)
    for wanted in OTHERS:
        assert choose(f32, wanted) == choose(H200, wanted)
        split = [row for row in candidates(f32, wanted) if row.units]
        assert split
        assert all(row.operands == "f32" for row in split)
    assert choose(f16, call(4096, 8, 512, Taps(1, 1))) in THIN


# Rows, columns, depth of a layer, its mode, and what is the fastest row of the menu on an H200, in a step; of a 3×3 in what has 32 KiB.
MEASURED = (
    (512, 1280, 1280, Rows(), "64x128 k64"),
    (512, 1280, 3200, Rows(), "64x128 k64"),
    (512, 1600, 1280, Rows(), "64x128 k64"),
    (512, 6400, 1280, Rows(), "128x128 k32"),
    (2048, 640, 640, Rows(), "128x128 k32"),
    (2048, 800, 640, Rows(), "128x128 k32"),
    (2048, 640, 1600, Rows(), "128x128 k32"),
    (2048, 3200, 640, Rows(), "128x128 k32"),
    (8192, 320, 320, Rows(), "64x128 k64"),
    (8192, 320, 960, Rows(), "64x128 k64"),
    (8192, 400, 320, Rows(), "128x128 k32"),
    (8192, 1600, 320, Rows(), "128x128 k32"),
    (4096, 512, 512, Taps(1, 1), "128x128 k32"),
    (65536, 256, 256, Taps(1, 1), "128x128 k32"),
    (262144, 128, 128, Taps(1, 1), "128x128 k32"),
)


def with_room(kib: int, threads: int) -> Caps:
    sizes = {"max-compute-workgroup-storage-size": kib << 10}
    sizes |= dict.fromkeys(("max-compute-invocations-per-workgroup", "max-compute-workgroup-size-x"), threads)
    return replace(H200, matrix=replace(DAWN, per=8), precision="f16", limits={**DEFAULT_LIMITS, **sizes})


@pytest.mark.parametrize(("rows", "columns", "depth", "mode", "fastest"), MEASURED, ids=str)
def test_a_large_gpu_gets_the_row_that_was_measured_to_be_the_fastest(rows: int, columns: int, depth: int, mode: Any, fastest: str) -> None:
    found = choose(with_room(48, 1024), call(rows, columns, depth, mode))
    _, tile, _, deep, *_ = found.key.split()
    assert f"{tile} {deep}" == fastest
    assert found.units
    assert (found.threads, found.units.share) == ({"128x128": 512, "64x128": 256}[tile], 1)


def test_a_smaller_tile_is_taken_where_a_processor_computes_less_of_it() -> None:
    def tiles(caps: Caps, *calls: tuple[int, int, int]) -> list[str]:
        return [choose(caps, call(*sizes)).key.split()[1] for sizes in calls]

    large = with_room(48, 1024)
    # Workgroups of 128×128 and 64×128: 80 and 160, 64 and 128; 128 and 256, 144 and 288. An H200 has 132 processors.
    assert tiles(large, (2048, 640, 64), (2048, 512, 64)) == ["128x128", "64x128"]
    assert tiles(large, (2048, 1024, 64), (2048, 1152, 64)) == ["128x128", "64x128"]
    assert tiles(large, (8192, 512, 64), (8192, 640, 64)) == ["128x128", "128x128"]  # 256 and 512; of 320 there are more than two rounds
    assert tiles(large, (512, 1024, 64), (512, 64, 64)) == ["64x64", "32x32"]
    rooms = (32, 1024), (48, 256), (16, 1024)
    assert [tiles(with_room(*room), (8192, 1600, 64))[0] for room in rooms] == ["128x128", "64x128", "64x64"]


def test_where_there_is_little_memory_every_unit_has_a_tile_and_few_workgroups_have_small_ones() -> None:
    for shape in ALL:
        caps = replace(H200, matrix=replace(DAWN, shapes=frozenset([shape])), precision="f16", limits=DEFAULT_LIMITS)
        assert [choose(caps, call(rows, 320, 320)).key.split()[1] for rows in (8192, 512)] == ["64x64", "32x32"], shape
        assert any(row.fits(replace(caps, precision="f32")) for row in UNITS), shape


def test_rows_are_no_larger_than_a_subgroup_has_registers_for() -> None:
    """Nor deeper than 16 KiB hold: splitting makes two halves of a number."""
    for row in UNITS:
        assert row.units
        assert row.tm * 4 * row.tn4 <= 64 * 32, row
        assert row.units.depth in ((32, 64) if row.operands == "f16" else (16, 32)), row
        assert row.is_shared, row
    for operands, larger in (("f32", set[Any]()), ("f16", {(128, 128)})):
        tiles = {(row.rows, 4 * row.columns4) for row in UNITS if row.operands == operands}
        assert tiles == {(64, 128), (64, 64), (32, 32), *larger}


def test_the_turns_of_the_emulations_loops_are_counted() -> None:
    """Two steps of a fragment of four values a lane, whose products are made in pairs; by splitting three times."""
    units = Units(16, 8, 8, 8, lanes=16)
    assert [units.products(8, 8, split) for split in (False, True)] == [2 * 4 * 4, 3 * 2 * 4 * 4]
    assert replace(units, share=2).products(8, 8, False) == 4 * 4
    assert replace(units, dialect="dawn").products(8, 8, True) == 0


def test_halves_go_into_a_tile_as_they_are_where_rows_begin_with_eights_and_nothing_is_done_to_them() -> None:
    def kept(wanted: GemmCall) -> tuple[bool, bool]:
        found = taken(wanted)
        return found["RAW_A"] is True, found["RAW_W"] is True

    whole = stored(call(64, 320, 320))
    assert (kept(whole), kept(call(64, 320, 320))) == ((True, True), (False, False))
    assert [kept(stored(call(64, n, k))) for n, k in ((36, 320), (320, 36))] == [(True, False), (False, True)]
    of_rows = (Rows(inner=1), Rows(outer=81), Rows(offset=3))
    assert [kept(replace(whole, mode=mode)) for mode in of_rows] == [(False, True)] * 3
    operands = whole.operands
    of_w = (replace(operands.w, pitch4=81), replace(operands.w, offset4=1))
    assert [kept(replace(whole, operands=replace(operands, w=w))) for w in of_w] == [(True, False)] * 2
    made = ({"joined": operands.a}, {"norm": Norm(operands.a, False)})
    assert [kept(replace(whole, operands=replace(operands, **each))) for each in made] == [(False, True)] * 2
    assert taken(whole)["NextA"] == taken(whole)["NextW"] == "vec4<u32>"


def test_what_no_norm_has_bounded_is_far_where_a_coders_stream_may_be() -> None:
    """In front of filters, and where it is quads. What a norm bounds, or was stored as halves, is not; nor is what goes from layer to layer
    of the UNet."""

    def far(dtype: DType, mode: Taps | Phases | Rows, normed: bool = False) -> bool:
        wanted = call(64, 320, 320, mode)
        a = Tensor(wanted.operands.a.buffer, wanted.operands.a.shape, dtype)
        norm = Norm(a, False) if normed else None
        return taken(replace(wanted, operands=replace(wanted.operands, a=a, norm=norm)))["FAR"] is True

    modes: tuple[Taps | Phases | Rows, ...] = (Taps(1, 1), Phases(), Rows())
    assert [far("f32", mode) for mode in modes] == [True, True, False]
    assert [far("quad", mode) for mode in modes] == [True] * 3
    assert [far("f16", mode) for mode in modes] == [False] * 3
    assert [far(dtype, mode, normed=True) for dtype in ("f32", "quad") for mode in modes] == [False] * 6


def test_rows_take_the_devices_own_subgroups_and_shapes() -> None:
    f16 = replace(H200, matrix=DAWN, precision="f16", limits={**DEFAULT_LIMITS, "max-compute-workgroup-storage-size": 49152})
    for lanes, threads in ((32, {128, 256}), (64, {256})):
        caps = replace(f16, matrix=replace(DAWN, lanes=lanes))
        assert {row.on(caps).threads for row in UNITS if row.fits(caps)} == threads
    assert not any(row.fits(replace(f16, matrix=replace(DAWN, lanes=256))) for row in UNITS)
    for lanes, have_numbers in ((64, True), (128, False)):  # all of them, of 8×8
        caps = replace(f16, matrix=replace(DAWN, lanes=lanes))
        assert Units(32, 8, 8, 8).on(caps).there(caps) == have_numbers
    apple = replace(f16, matrix=replace(DAWN, shapes=frozenset([Unit("f16", "f32", 8, 8, 8)])))
    assert {row.units.shape[2:] for row in UNITS if row.units and row.fits(apple)} == {(8, 8, 8)}
    assert len({row.key for row in ROWS}) == len(ROWS) == len(GEMMS) + len(UNITS)
    with pytest.raises(UsageError):
        Gemm("units", 24, 4, 1, 2, operands="f16", units=Units(32, 16, 16, 16))


# the units of a device -----------------------------------------------------------------------------------------------
SHAPE, OBLONG = Unit("f16", "f32", 8, 8, 8), Unit("f16", "f32", 16, 8, 16)


def test_units_are_what_an_adapter_lists_and_computes_right(llvmpipe: WebGPU, monkeypatch: pytest.MonkeyPatch) -> None:
    listed = [(SHAPE, 16, 16), (Unit("f16", "f16", 16, 16, 16), 16, 16), (Unit("f16", "f32", 32, 8, 16), 16, 16)]
    assert prove.units(llvmpipe.gpu, listed, "emulated") == Matrix("emulated", frozenset([SHAPE]), 16)
    assert prove.units(llvmpipe.gpu, [], "emulated") is None
    tried: list[tuple[int, Unit]] = []
    monkeypatch.setattr(prove, "is_right", lambda device, ways, shape: tried.append((ways.lanes, shape)) or ways.lanes < 32)
    both = Matrix("emulated", frozenset([SHAPE, OBLONG]), 16)
    assert prove.units(llvmpipe.gpu, [(SHAPE, 8, 32), (OBLONG, 16, 16)], "emulated") == both
    assert sorted(tried) == [(16, SHAPE), (16, OBLONG), (32, SHAPE)]  # with no fewer lanes, once all shapes are right
    monkeypatch.undo()
    narrow = copy.copy(llvmpipe.gpu)  # no room for subgroups that share a depth
    narrow.caps = replace(narrow.caps, limits={**narrow.caps.limits, "max-compute-invocations-per-workgroup": 32})
    assert prove.is_right(narrow, Matrix("emulated", frozenset([SHAPE]), 16), SHAPE)
    fresh, specialise = copy.copy(llvmpipe.gpu), wgsl.specialise
    share = "v += received(at + s * PLACES * STRIP);"  # of subgroups that share a depth
    for old, new in (("made[i] += p.x", "made[i] += 1.0 + p.x"), ("fn load_left", "fn"), (share, "")):  # computes wrong; does not compile

        def altered(*args: Any, old: str = old, new: str = new) -> str:
            text = specialise(*args)
            assert old in text
            return text.replace(old, new)

        fresh._pipelines = {}
        monkeypatch.setattr(wgsl, "specialise", altered)
        assert prove.units(fresh, [(SHAPE, 16, 16)], "emulated") is None


def test_an_adapters_own_list_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    extras = pytest.importorskip("wgpudawn.backends.dawn.extras")
    has = {"component_type": "f16", "result_component_type": "f32", "m": 8, "n": 8, "k": 8}
    configs = [{**has, "min_subgroup_size": 8, "max_subgroup_size": 16}, {**has, "min_subgroup_size": 0, "max_subgroup_size": 0}]
    monkeypatch.setattr(extras, "get_adapter_properties", lambda adapter: {"subgroup_matrix_configs": configs})
    adapter = SimpleNamespace(features=set(native.MATRIX_FEATURES), info={"subgroup_max_size": 64})
    assert native.matrix_units(native.load("dawn"), adapter) == [(tuple(SHAPE), 8, 16), (tuple(SHAPE), 32, 64)]
    assert native.matrix_units(native.load("wgpu"), adapter) == []
    adapter.features.remove("shader-f16")
    assert native.matrix_units(native.load("dawn"), adapter) == []


@pytest.mark.usefixtures("llvmpipe")
def test_an_adapter_without_units_is_refused_and_wgpu_computes_on_beside_dawn() -> None:
    """In a process of its own: Dawn's toggles are given once."""
    code = """
import numpy as np
from moebius.backends.webgpu import WebGPU, adapters
from moebius.errors import AdapterError
numbers = [[str(i) for i, a in enumerate(adapters()) if word in a.summary][:1] for word in ("SwiftShader", "llvmpipe")]
for name in ("dawn:SwiftShader", "SwiftShader", "wgpu:SwiftShader", *sum(numbers, [])):
    try:
        print("opened:", WebGPU(name, matrix_units=True).name)
    except AdapterError as error:
        print("refused:", error)
x = np.float32(np.arange(8).reshape(1, 2, 2, 2))
for name in ("dawn:SwiftShader", "SwiftShader"):
    gpu = WebGPU(name)
    with gpu.eager():
        print(gpu.caps.matrix, np.array_equal(gpu.read(gpu.concat(gpu.tensor(x), gpu.tensor(x)))[..., :2], np.moveaxis(x, 1, -1)))
"""
    pytest.importorskip("wgpudawn")
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    said = [line for line in run.stdout.splitlines() if line.startswith(("opened:", "refused:", "None "))]  # and drivers say what they like
    if "cannot be opened" in run.stderr or "No adapter matches" in run.stdout:
        pytest.skip("SwiftShader is not here.")
    assert run.returncode == 0, run.stderr
    assert [line.startswith("refused:") for line in said[:4]] == [True] * 4
    assert "SwiftShader" in said[3], "a number is of wgpu's list, and the adapter that it names is Dawn's"
    assert "llvmpipe" in said[4], "which Dawn finds if Mesa is young enough, and later ones may have units"
    assert said[5:] == ["None True"] * 2


class Named:
    """As much of a WebGPU as is asked where matrix units are chosen."""

    def __init__(self, name: str = "", precision: str = "f32", matrix_units: bool = False) -> None:
        self.name, self.precision, self.gpu = name, precision, self
        self.info = adapter("card", 2).info


def adapter(name: str, number: int, backend: str = "Vulkan") -> Any:
    """As much of an adapter as is asked where the same one is looked for elsewhere."""
    info = {"device": name, "vendor_id": 1, "device_id": number, "adapter_type": "DiscreteGPU", "backend_type": backend}
    return SimpleNamespace(info=info, summary=name)


def test_the_same_gpu_is_found_by_its_makers_numbers_and_of_several_by_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """A card's name begins another's, two are alike, and the driver's own OpenGL is listed as well."""
    listed = [adapter("card 2", 2), adapter("card", 1, "OpenGL"), adapter("card", 1), adapter("card", 1), adapter("software", 0)]
    monkeypatch.setattr(opening, "adapters", lambda implementation="wgpu": listed)
    wgpus = [adapter("card", 1), adapter("card", 1, "OpenGL"), adapter("card of mine", 1), adapter("software", 0)]
    assert opening.twin(wgpus[0].info) == 2
    assert [opening.twin(a.info, wgpus[:i]) for i, a in enumerate(wgpus)] == [2, 2, 3, 4]
    both = [adapter("card", 1, backend) for backend in ("D3D12", "Vulkan") * 2]
    listed[:] = both
    assert [opening.twin(a.info, both[:i]) for i, a in enumerate(both)] == [0, 0, 2, 2]
    for stranger in (adapter("card", 3), adapter("unknown", 0)):
        with pytest.raises(AdapterError, match="Dawn does not find"):
            opening.twin(stranger.info)


def test_auto_takes_them_where_they_are_right_and_faster(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    plain, faster, wrong = Named("plain"), True, ""
    allowed: list[bool] = []
    monkeypatch.setattr("moebius.backends.webgpu.WebGPU", Named)
    monkeypatch.setattr(native, "allow_matrix_units", lambda: allowed.append(True))
    monkeypatch.setattr(opening, "adapters", lambda implementation: allowed and [adapter("other", 1), adapter("card", 2)])
    monkeypatch.setattr(devices, "_fault", lambda ops: wrong)
    monkeypatch.setattr(devices, "_tuned", lambda ops: ops)
    monkeypatch.setattr(contest, "is_faster", lambda one, other: faster)
    known: dict[str, bool] = {}
    monkeypatch.setattr(contest, "was_worth_it", lambda ops: known.get(ops.name))
    monkeypatch.setattr(contest, "keep", lambda ops, worth: known.update({ops.name: worth}))
    assert devices._on_units(plain, asked=False) is plain
    assert devices._on_units(plain, asked=True).name == "dawn:1"
    assert not caplog.records
    faster = False
    assert devices._on_units(plain, asked=True) is plain
    faster, wrong = True, "It is wrong."
    assert devices._on_units(plain, asked=True) is plain
    half = Named("half", precision="f16")
    monkeypatch.setattr(devices, "find_spec", lambda name: object())
    assert devices._on_units(half, asked=False) is half  # without a word: nobody asked
    assert len(caplog.records) == 2
    wrong = ""
    assert devices._on_units(half, asked=False) is half  # nor is it tried at every start
    assert devices._on_units(half, asked=True).name == "dawn:1"
    assert devices._on_units(half, asked=False).name == "dawn:1"
    monkeypatch.setattr(devices, "find_spec", lambda name: None)
    assert devices._on_units(half, asked=False) is half
    with pytest.raises(UsageError):
        devices.open_device("cpu", matrix_units=True)


def test_a_try_that_does_not_come_back_is_the_last(monkeypatch: pytest.MonkeyPatch, llvmpipe: WebGPU, tmp_path: Path) -> None:
    """Such as where a driver crashes over it; not where somebody had no time."""
    monkeypatch.setenv("MOEBIUS_CACHE", str(tmp_path))
    monkeypatch.setattr(devices, "find_spec", lambda name: object())
    half = WebGPU(llvmpipe.gpu, precision="f16")

    ends: list[type[BaseException]] = [KeyboardInterrupt, SystemExit]

    def crash(*args: Any, **options: Any) -> None:
        raise ends.pop(0)

    monkeypatch.setattr(native, "allow_matrix_units", lambda: None)
    monkeypatch.setattr(opening, "twin", lambda info: 0)
    monkeypatch.setattr("moebius.backends.webgpu.WebGPU", crash)
    with pytest.raises(KeyboardInterrupt):
        devices._on_units(half, asked=False)
    assert contest.was_worth_it(half) is None
    with pytest.raises(SystemExit):
        devices._on_units(half, asked=False)
    assert devices._on_units(half, asked=False) is half
    assert (contest.was_worth_it(half), contest.was_worth_it(llvmpipe)) == (False, None)
    contest.keep(half, True)
    assert contest.was_worth_it(half) is True


def test_a_contest_is_held_once_and_said(
    llvmpipe: WebGPU, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MOEBIUS_CACHE", str(tmp_path))
    asked: list[WebGPU] = []
    with_units = WebGPU(llvmpipe.gpu, replace(llvmpipe.caps, matrix=Matrix("emulated", ALL)))
    assert verdicts.digest_of(with_units) != verdicts.digest_of(llvmpipe)
    monkeypatch.setattr(contest, "milliseconds", lambda ops: asked.append(ops) or (1.0 if ops is with_units else 2.0))
    assert [contest.is_faster(with_units, llvmpipe) for _ in range(2)] == [True, True]
    assert not contest.is_faster(llvmpipe, with_units)
    assert asked == [with_units, llvmpipe, llvmpipe, with_units]
    assert [f"{2 * contest.BUDGET:.0f} seconds" in record.getMessage() for record in caplog.records] == [True, True]


@pytest.mark.parametrize("precision", ["f32", "f16"])
def test_the_layers_of_a_contest_are_a_precisions_own(llvmpipe: WebGPU, monkeypatch: pytest.MonkeyPatch, precision: Any) -> None:
    """Until its time is up, and the default at least."""
    ops, measured = WebGPU(llvmpipe.gpu, precision=precision), list[Any]()
    monkeypatch.setattr(contest, "LAYERS", ((64, 8, 8),))
    monkeypatch.setattr(contest, "BUDGET", math.inf)  # on a busy machine too
    monkeypatch.setattr(Tuner, "_times", lambda self, plans, enough: [measured.append(plan.dispatches[0]) or 3.0 for plan in plans])
    assert contest.milliseconds(ops) == 3.0
    types = {b.name: b.dtype for b in measured[0].bindings}
    assert types == {"a": precision, "w": precision, "out": "f32"}
    before = len(measured)
    assert before > 1
    ops.choose = Tuned(Table({}, {choose(ops.caps, contest.layer(ops, 64, 8, 8)).key: "a test"}))  # which nobody gets
    contest.milliseconds(ops)
    assert len(measured) == 2 * before - 1
    monkeypatch.setattr(contest, "BUDGET", 0.0)
    assert contest.milliseconds(ops) == 3.0
    assert len(measured) == 2 * before
    monkeypatch.setattr(Tuner, "measure", lambda self, call, *options: Measured("none"))
    assert contest.milliseconds(ops) == math.inf


def test_a_contest_tries_the_units_first() -> None:
    wanted = call(2048, 640, 640)
    for precision in ("f32", "f16"):
        rows = contest.candidates(replace(H200, matrix=DAWN, precision=precision), wanted)
        assert rows[0] == choose(replace(H200, matrix=DAWN, precision=precision), wanted)
        have = [row.units is not None for row in rows[1:]]
        assert have == sorted(have, reverse=True)
        assert any(have)
        assert not all(have)
