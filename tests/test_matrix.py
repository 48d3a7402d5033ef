"""Matrix units: the kernels of gemm_matrix.wgsl in emulation on software drivers, Dawn's dialect under Tint, and who gets them.

What runs in emulation is the text that runs on units, but for the primitives of a dialect.
"""

from __future__ import annotations

import copy
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from cases import OPS, Case, conv3x3, in_bands, linear, upsample_conv3x3
from harness import Guarded
from javascript import Node, find_node
from test_fused import FUSED
from test_menu import GPU, H200, LLVMPIPE, call

from moebius.backends.webgpu import WebGPU, native, prove, wgsl
from moebius.backends.webgpu.calls import GemmCall, Phases, Rows, Taps
from moebius.backends.webgpu.caps import DEFAULT_LIMITS, Matrix, Unit
from moebius.backends.webgpu.menu import GEMMS, ROWS, THIN, UNITS, Gemm, candidates, choose
from moebius.backends.webgpu.units import Units
from moebius.errors import UsageError
from moebius.inpaint import contest, verdicts
from moebius.inpaint import device as devices

ALL = frozenset(row.units.shape for row in UNITS if row.units)
SHAPES = ((16, 16, 16), (16, 8, 16), (8, 8, 8))
ROOT = Path(__file__).parents[1]


def small(shape: tuple[int, int, int], split: bool, across: int = 1, down: int = 2) -> Gemm:
    """A row of one fragment a subgroup: drivers take long over the large ones."""
    m, n, k = shape
    return Gemm("units", m, n // 4, across, down, operands="f32" if split else "f16", units=Units(2 * k, m, n, k, lanes=16))


HALF, SPLIT, APPLE = small(SHAPES[0], split=False), small(SHAPES[1], split=True, across=2), small(SHAPES[2], split=True, across=2)


def halves(case: Case) -> Case:
    """With operands that halves hold, and sums of filters too: then f16 loses nothing, and a limit of f32 holds."""
    p = case.params
    weights = {name: np.round(p[name] * 64) / 64 if p[name].ndim > 1 else p[name] for name in case.shapes}
    return replace(case, inputs=[np.float32(np.round(a * 32) / 32) for a in case.inputs], weights=weights)


def checked(case: Case, gpu: WebGPU, row: Gemm, **options: Any) -> Guarded:
    """Within the limit of float32, which f16 must keep where it loses nothing."""
    return (case if row.operands == "f32" else halves(case)).check(gpu, row, precision=row.operands, **options)


# what they compute ---------------------------------------------------------------------------------------------------
def check_modes(gpu: WebGPU, row: Gemm) -> None:
    m, n = row.rows, 4 * row.columns4
    cases = [linear((1, 1, rows), depth, columns) for rows, columns, depth in ((m + 1, n + 1, 37), (m - 1, n - 1, 17), (5, 1, 3))]
    cases += [conv3x3((2, 5, 7), 17, n + 3), conv3x3((1, 7, 4), 6, 9, stride=2), upsample_conv3x3((1, 6, 9), 18, n)]
    for case in cases:
        dispatches = checked(case, gpu, row).dispatches
        assert [(d.shader, d.entry) for d in dispatches] == [("gemm_matrix", "units")]


@pytest.mark.parametrize("row", [HALF, SPLIT], ids=lambda row: row.key.replace(" ", "-"))
def test_units_run_every_mode_beyond_their_edges(llvmpipe: WebGPU, row: Gemm) -> None:
    check_modes(llvmpipe, row)


@pytest.mark.slow
@pytest.mark.parametrize("row", UNITS, ids=lambda row: row.key.replace(" ", "-"))
def test_every_row_on_units_runs_every_mode_beyond_its_edges(llvmpipe: WebGPU, row: Gemm) -> None:
    check_modes(llvmpipe, row)


def test_units_run_on_swiftshader(swiftshader: WebGPU) -> None:
    checked(linear((1, 1, 33), 37, 17), swiftshader, HALF)


def test_a_subgroup_of_several_fragments_stores_each_in_its_place(llvmpipe: WebGPU) -> None:
    row = Gemm("units", 16, 4, 1, 2, operands="f16", units=Units(16, 8, 8, 8, lanes=32))
    checked(linear((1, 1, 35), 40, 17), llvmpipe, row)


@pytest.mark.parametrize("name", ["attention", "self_lambda of a layer norm", "linear of two", "linear of a group norm with SiLU"])
def test_heads_in_rows_tails_and_what_is_made_as_it_is_loaded(llvmpipe: WebGPU, name: str) -> None:
    kind = "discrete" if name in FUSED else None
    case = FUSED[name][0]((2, 5, 7)) if name in FUSED else OPS[name]((2, 5, 7))
    assert "gemm_matrix" in [d.shader for d in case.check(llvmpipe, APPLE, kind=kind).dispatches]


def test_units_run_in_bands(llvmpipe: WebGPU) -> None:
    small_bindings: dict[str, int] = {"max_storage_buffer_binding_size": 4096}
    for case in (linear((2, 31, 7)), conv3x3((2, 31, 7)), upsample_conv3x3((2, 13, 5))):
        in_bands(case, llvmpipe, "gemm_matrix", SPLIT, **small_bindings)  # whose kernels the test of modes has compiled


# splitting -----------------------------------------------------------------------------------------------------------
def products(gpu: WebGPU, row: Gemm, a: np.ndarray, w: np.ndarray) -> np.ndarray:
    """a · w as a row of the menu makes it."""
    units = row.units
    assert units
    return prove.product(gpu.gpu, Matrix("emulated", ALL, units.lanes), row, a, w)


def parts(v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """hi and lo, as the header of gemm_matrix.wgsl says."""
    hi = (v.view(np.uint32) & 0xFFFFE000).view(np.float32)
    hi = np.where(np.abs(v) < 2.0**-14, np.float32(0), hi)
    lo = np.float64(np.float16(np.clip((v - hi) * np.float32(2048), -65504, 65504)))
    return np.float64(np.float16(hi)), lo


@pytest.mark.parametrize("scale", [1.0, 2.0**-14, 1e-7, 30000.0])
def test_splitting_is_within_its_bound_for_numbers_of_any_size(llvmpipe: WebGPU, scale: float) -> None:
    random = np.random.default_rng(1)
    a = np.float32(random.standard_normal((20, 50)) * 10.0 ** random.uniform(-2, 0.3, (20, 50)) * min(scale, 6000))
    w = np.float32(random.standard_normal((50, 16)))
    got, terms = products(llvmpipe, SPLIT, a, w), np.abs(np.float64(a)) @ np.abs(np.float64(w))
    (ah, al), (wh, wl) = parts(a), parts(w)
    made = ah @ wh + (ah @ wl + al @ wh) / 2048
    rounding = 8 * 2.0**-24 * np.sqrt(50)
    step = np.abs(w).sum(axis=0) * 2.0**-35  # of lo, where halves have fewer digits
    assert (np.abs(got - made) <= rounding * terms + step).all()  # the units' own sums, in f32, and lo rounded either way
    # From 2⁻¹⁴ on a number is off by 2⁻²⁰ of itself, and lo·lo is 2⁻²⁰ of a product; below, by 2⁻¹⁰ or by 2⁻³⁵.
    off = np.where(np.abs(a) < 2.0**-14, np.abs(a) * 2.0**-10 + 2.0**-35, np.abs(a) * 2.0**-20)
    bound = off @ np.abs(w) + 2.0**-19 * terms + np.abs(a).sum(axis=1, keepdims=True) * 2.0**-35 + rounding * terms
    assert (np.abs(got - np.float64(a) @ np.float64(w)) <= bound).all()
    assert scale != 1.0 or np.linalg.norm(got - np.float64(a) @ np.float64(w)) <= 1e-6 * np.linalg.norm(np.float64(a) @ np.float64(w))


@pytest.mark.parametrize("row", [HALF, SPLIT], ids=["f16", "split"])
def test_what_no_half_holds_makes_no_wrong_number(llvmpipe: WebGPU, row: Gemm) -> None:
    a, w = np.ones((20, 33), np.float32), np.ones((33, 16), np.float32)
    a[3, 5], a[7, 30], a[9, 0], a[11, 2], a[12, 2] = 65520.0, -1e6, np.nan, 65504.0, -65519.0
    if row is SPLIT:
        a[3, 5] = 65536.0  # what is below, splitting holds
    got = products(llvmpipe, row, a, w)
    bad = ~np.isfinite(got).all(axis=1)
    assert np.flatnonzero(bad).tolist() == [3, 7, 9]
    assert np.isnan(got[bad]).all()  # a softmax makes a sound 0 of -∞
    loss = 0.02 if row is SPLIT else 16.0
    assert np.abs(got[~bad] - np.float64(a[~bad]) @ w).max() <= loss


# who gets them -------------------------------------------------------------------------------------------------------
DAWN = Matrix("dawn", ALL)
OTHERS = (call(8192, 320, 320), call(512, 1280, 1280), call(16384, 512, 512, Taps(1, 1)), call(256, 1280, 1280, Phases()))


@pytest.mark.parametrize("precision", ["f32", "f16"])
def test_nobody_gets_them_unasked(precision: Any) -> None:
    for caps in (H200, GPU, LLVMPIPE):
        caps = replace(caps, precision=precision)
        assert not any(row.fits(caps) for row in UNITS)
        assert not any(row.units for wanted in OTHERS for row in candidates(caps, wanted))


def test_who_asked_gets_halves_in_f16_and_may_measure_splitting_in_f32() -> None:
    f32, f16 = replace(H200, matrix=DAWN), replace(H200, matrix=DAWN, precision="f16")
    assert [choose(f16, wanted).key for wanted in OTHERS] == [
        "units 64x64 32x32 k32 16x16x16 f16-f32",
        "units 64x32 32x32 k64 16x16x16 f16-f32",
        "units 64x64 32x32 k32 16x16x16 f16-f32",
        "units 64x64 32x32 k32 16x16x16 f16-f32",
    ]
    for wanted in OTHERS:
        assert choose(f32, wanted) == choose(H200, wanted)
        split = [row for row in candidates(f32, wanted) if row.units]
        assert split
        assert all(row.operands == "f32" for row in split)
    assert choose(f16, call(4096, 8, 512, Taps(1, 1))) in THIN
    wide = replace(f16, limits={**DEFAULT_LIMITS, "max-compute-workgroup-storage-size": 49152})
    assert [choose(wide, wanted).key.split()[1] for wanted in OTHERS] == ["128x64", "64x32", "128x64", "64x64"]


def test_rows_take_the_devices_own_subgroups_and_shapes() -> None:
    f16 = replace(H200, matrix=DAWN, precision="f16", limits={**DEFAULT_LIMITS, "max-compute-workgroup-storage-size": 49152})
    for lanes, threads in ((32, 128), (64, 256)):
        caps = replace(f16, matrix=replace(DAWN, lanes=lanes))
        assert {row.on(caps).threads for row in UNITS if row.fits(caps) and row.wgx == 2} == {threads}
    assert not any(row.fits(replace(f16, matrix=replace(DAWN, lanes=256))) for row in UNITS)
    apple = replace(f16, matrix=replace(DAWN, shapes=frozenset([Unit("f16", "f32", 8, 8, 8)])))
    assert {row.units.shape[2:] for row in UNITS if row.units and row.fits(apple)} == {(8, 8, 8)}
    default = replace(f16, limits=DEFAULT_LIMITS)
    assert sum(row.fits(default) for row in UNITS) >= 7
    assert len({row.key for row in ROWS}) == len(ROWS) == len(GEMMS) + len(UNITS)
    with pytest.raises(UsageError):
        Gemm("units", 24, 4, 1, 2, operands="f16", units=Units(32, 16, 16, 16))


# the units of a device -----------------------------------------------------------------------------------------------
SHAPE = Unit("f16", "f32", 16, 8, 16)


def test_units_are_what_an_adapter_lists_and_computes_right(llvmpipe: WebGPU, monkeypatch: pytest.MonkeyPatch) -> None:
    listed = [(SHAPE, 16, 16), (Unit("f16", "f16", 16, 16, 16), 16, 16), (Unit("f16", "f32", 32, 8, 16), 16, 16)]
    assert prove.units(llvmpipe.gpu, listed, "emulated") == Matrix("emulated", frozenset([SHAPE]), 16)
    assert prove.units(llvmpipe.gpu, [], "emulated") is None
    tried: list[int] = []
    monkeypatch.setattr(prove, "is_right", lambda device, ways, shape: tried.append(ways.lanes) or ways.lanes < 32)
    assert prove.units(llvmpipe.gpu, [(SHAPE, 8, 32), (SHAPE, 16, 16)], "emulated") == Matrix("emulated", frozenset([SHAPE]), 16)
    assert tried == [32, 16]  # and no smaller ones, once all shapes are right
    monkeypatch.undo()
    fresh, specialise = copy.copy(llvmpipe.gpu), wgsl.specialise
    for old, new in (("out[i] += p.x", "out[i] += 1.0 + p.x"), ("fn load_left", "fn")):  # computes wrong; does not compile
        fresh._pipelines = {}
        monkeypatch.setattr(wgsl, "specialise", lambda *args, old=old, new=new: specialise(*args).replace(old, new))
        assert prove.units(fresh, [(SHAPE, 16, 16)], "emulated") is None


def test_an_adapters_own_list_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    extras = pytest.importorskip("wgpudawn.backends.dawn.extras")
    has = {"component_type": "f16", "result_component_type": "f32", "m": 16, "n": 8, "k": 16}
    configs = [{**has, "min_subgroup_size": 8, "max_subgroup_size": 16}, {**has, "min_subgroup_size": 0, "max_subgroup_size": 0}]
    monkeypatch.setattr(extras, "get_adapter_properties", lambda adapter: {"subgroup_matrix_configs": configs})
    adapter = SimpleNamespace(features=set(native.MATRIX_FEATURES), info={"subgroup_max_size": 64})
    assert native.matrix_units(native.load("dawn"), adapter) == [(tuple(SHAPE), 8, 16), (tuple(SHAPE), 32, 64)]
    assert native.matrix_units(native.load("wgpu"), adapter) == []
    adapter.features.remove("shader-f16")
    assert native.matrix_units(native.load("dawn"), adapter) == []


def test_an_adapter_without_units_is_refused_and_wgpu_computes_on_beside_dawn() -> None:
    """In a process of its own: Dawn's toggles are given once."""
    code = """
import numpy as np
from moebius.backends.webgpu import WebGPU
from moebius.errors import AdapterError
for name in ("dawn:SwiftShader", "SwiftShader", "wgpu:SwiftShader"):
    try:
        WebGPU(name, matrix_units=True)
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
    said = [line for line in run.stdout.splitlines() if line.startswith(("refused:", "None "))]  # and drivers say what they like
    if "cannot be opened" in run.stderr or "No adapter matches" in run.stdout:
        pytest.skip("SwiftShader is not here.")
    assert run.returncode == 0, run.stderr
    assert [line.startswith("refused:") for line in said] == [True, True, True, False, False]
    assert said[3:] == ["None True"] * 2


class Named:
    """As much of a WebGPU as is asked where matrix units are chosen."""

    def __init__(self, name: str = "", precision: str = "f32", matrix_units: bool = False) -> None:
        self.name, self.precision, self.gpu = name, precision, self
        self.info = {"device": "card"}


def test_auto_takes_them_where_they_are_right_and_faster(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    plain, faster, wrong = Named("plain"), True, ""
    monkeypatch.setattr("moebius.backends.webgpu.WebGPU", Named)
    monkeypatch.setattr(devices, "_fault", lambda ops: wrong)
    monkeypatch.setattr(devices, "_tuned", lambda ops: ops)
    monkeypatch.setattr(contest, "is_faster", lambda one, other: faster)
    known: dict[str, bool] = {}
    monkeypatch.setattr(contest, "was_worth_it", lambda ops: known.get(ops.name))
    monkeypatch.setattr(contest, "keep", lambda ops, worth: known.update({ops.name: worth}))
    assert devices._on_units(plain, asked=False) is plain
    assert devices._on_units(plain, asked=True).name == "dawn:card"
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
    assert devices._on_units(half, asked=True).name == "dawn:card"
    assert devices._on_units(half, asked=False).name == "dawn:card"
    monkeypatch.setattr(devices, "find_spec", lambda name: None)
    assert devices._on_units(half, asked=False) is half
    with pytest.raises(UsageError):
        devices.open_device("cpu", matrix_units=True)


def test_a_try_that_does_not_come_back_is_the_last(monkeypatch: pytest.MonkeyPatch, llvmpipe: WebGPU, tmp_path: Path) -> None:
    """Such as where a driver crashes over it."""
    monkeypatch.setenv("MOEBIUS_CACHE", str(tmp_path))
    monkeypatch.setattr(devices, "find_spec", lambda name: object())
    half = WebGPU(llvmpipe.gpu, precision="f16")

    def crash(*args: Any, **options: Any) -> None:
        raise SystemExit

    monkeypatch.setattr("moebius.backends.webgpu.WebGPU", crash)
    with pytest.raises(SystemExit):
        devices._on_units(half, asked=False)
    assert devices._on_units(half, asked=False) is half
    assert (contest.was_worth_it(half), contest.was_worth_it(llvmpipe)) == (False, None)
    contest.keep(half, True)
    assert contest.was_worth_it(half) is True


def test_a_contest_is_held_once(llvmpipe: WebGPU, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MOEBIUS_CACHE", str(tmp_path))
    asked: list[WebGPU] = []
    with_units = WebGPU(llvmpipe.gpu, replace(llvmpipe.caps, matrix=Matrix("emulated", ALL)))
    assert verdicts.digest_of(with_units) != verdicts.digest_of(llvmpipe)
    monkeypatch.setattr(contest, "milliseconds", lambda ops: asked.append(ops) or (1.0 if ops is with_units else 2.0))
    assert [contest.is_faster(with_units, llvmpipe) for _ in range(2)] == [True, True]
    assert not contest.is_faster(llvmpipe, with_units)
    assert asked == [with_units, llvmpipe, llvmpipe, with_units]


def test_the_layers_of_a_contest_are_measured(llvmpipe: WebGPU, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contest, "LAYERS", ((64, 8, 8),))
    monkeypatch.setattr("moebius.backends.webgpu.tuner.Tuner._time", lambda self, plan: 3.0)
    assert contest.milliseconds(llvmpipe) == 3.0


# the dialects --------------------------------------------------------------------------------------------------------
def text(row: Gemm, wanted: GemmCall, matrix: Matrix) -> str:
    row = row.on(replace(H200, matrix=matrix))
    constants = {**wanted.constants(), **row.options(wanted), **row.constants()}
    return wgsl.specialise(row.shader, tuple(sorted(constants.items())), row.entry)


def test_dialects_have_the_same_primitives() -> None:
    def names(dialect: str) -> list[str]:
        return re.findall(r"^(?:fn|alias) (\w+)", wgsl.source(f"matrix_{dialect}"), re.M)

    assert names("dawn") == names("naga")
    assert set(names("emulated")) == {*names("dawn"), "unknown"}


@pytest.fixture(scope="module")
def tint() -> Iterator[Node]:
    """Node with Dawn in it on its null backend, which grants matrix units without a GPU. From npm, where that is reachable."""
    folder, npm = ROOT / ".cache" / "webgpu-0.6.2", shutil.which("npm")
    if npm is None or find_node() is None:
        pytest.skip("Node and npm are not installed.")
    if not (folder / "node_modules" / "webgpu" / "index.js").exists():
        folder.mkdir(parents=True, exist_ok=True)
        command = [npm, "install", "--no-audit", "--no-fund", "--silent", "--prefix", str(folder), "webgpu@0.6.2"]
        try:
            subprocess.run(command, check=True, capture_output=True, timeout=120)
        except subprocess.SubprocessError as error:
            pytest.skip(f"webgpu@0.6.2 cannot be had from npm ({error}).")
    node = Node(folder)
    node.run("""
      const { create, globals } = await import('webgpu');
      Object.assign(globalThis, globals);
      globalThis.gpu = create(['backend=null', 'enable-dawn-features=allow_unsafe_apis']);
      const adapter = await gpu.requestAdapter();
      const requiredFeatures = ['shader-f16', 'subgroups', 'chromium-experimental-subgroup-matrix'];
      globalThis.device = await adapter.requestDevice({ requiredFeatures });
      return true;""")
    yield node
    node.run("device.destroy(); setTimeout(() => process.exit(0), 50); return true;")
    node.process.wait(60)


def says(tint: Node, code: str) -> list[str]:
    """What Tint has to say about a shader."""
    return tint.run(f"""
      device.pushErrorScope('validation');
      const module = device.createShaderModule({{ code: {json.dumps(code)} }});
      const info = await module.getCompilationInfo();
      await device.popErrorScope();
      return info.messages.map((m) => `${{m.type}}: ${{m.message}}`);""")


def test_tint_takes_every_row_in_dawns_dialect(tint: Node) -> None:
    for row in UNITS:
        for paired in (False, True):
            assert says(tint, text(row, call(512, 320, 36), replace(DAWN, paired=paired))) == [], row
    for mode in (Rows(), Taps(1, 1), Phases()):
        for row in (UNITS[0], UNITS[-1]):
            assert says(tint, text(row, call(64, 320, 320, mode), DAWN)) == []


def test_tint_refuses_what_is_wrong(tint: Node) -> None:
    oblong = next(row for row in UNITS if "16x8x16" in row.key)
    good = text(oblong, call(512, 320, 320), DAWN)
    for old, new in (("Accumulate(x, y", "Accumulate(y, x"), ("<f16, FN, FK>", "<f16, FK, FM>"), ("enable f16;", "")):
        assert good.count(old) == 1
        assert says(tint, good.replace(old, new))[0].startswith("error"), old


def test_naga_refuses_its_dialect_so_far(llvmpipe: WebGPU) -> None:
    """wgpu-native has no way to ask for cooperative matrices. Where this fails they have come: prove them as Dawn's are."""
    for row in UNITS:
        code = text(row, call(512, 320, 36), replace(DAWN, dialect="naga"))
        assert re.findall(r"^alias (Left|Right|Sum) = coop_mat", code, re.M) == ["Left", "Right", "Sum"]
    device = llvmpipe.gpu
    with pytest.raises(llvmpipe.gpu.module.GPUError, match="not supported in the current environment"):
        device.device.create_shader_module(label="naga", code=code)
