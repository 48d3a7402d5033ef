"""Every shader, as every plan specialises it, under naga (wgpu) and under Tint (Dawn); and what turns a file into that text."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import cache
from importlib.resources import files
from typing import Any

import numpy as np
import pytest

from moebius.backends.reference import Reference
from moebius.backends.webgpu import WebGPU, wgsl
from moebius.backends.webgpu.device import guard
from moebius.backends.webgpu.dispatch import Dispatch
from moebius.backends.webgpu.menu import (
    CPU,
    CPU_THIN,
    GEMMS,
    LINES,
    LINES_THIN,
    LLVMPIPE_WIDE,
    SINGLE_ROWS,
    STAGED,
    STAGED_NARROW,
    STAGED_TALL,
    STAGING,
    THIN,
    TILED,
    TILED_SMALL,
    Gemm,
)
from moebius.backends.webgpu.plan import PARAMS_PITCH
from moebius.errors import MoebiusError
from moebius.model import unet, vae
from moebius.model.contract import POSITION_WINDOW, Timesteps
from moebius.model.denoise import Denoiser
from moebius.model.params import ShapeOnly
from moebius.model.scheduler import DDIM
from moebius.model.unet import UNet, UNetConfig
from moebius.model.vae import VAE, VAEConfig

SHADERS = sorted(f.name.removesuffix(".wgsl") for f in files("moebius.shaders").iterdir() if f.name.endswith(".wgsl"))
PARTS = ("common", "dense", "half", "matrix_dawn", "matrix_emulated", "matrix_naga", "moments")  # of other files
KERNELS = [name for name in SHADERS if name not in (*PARTS, "view")]
NOT_IN_A_PLAN = {"finite", "gemm_matrix", "view"}  # unless matrix units were asked for: test_matrix.py

every_shader = pytest.mark.parametrize("shader", SHADERS)
every_kernel = pytest.mark.parametrize("shader", KERNELS)


def entries(shader: str) -> list[str]:
    return re.findall(r"^@compute @workgroup_size\([\w, ]+\)\s*fn (\w+)\(", wgsl.source(shader), re.M)


# what plans use ------------------------------------------------------------------------------------------------------
@cache
def recorded(webgpu: WebGPU, *caps: tuple[str, Any]) -> list[Dispatch]:
    """The dispatches of the published and the tiny networks, as a device with these caps records them."""
    device = WebGPU(webgpu.gpu, replace(webgpu.caps, **dict(caps)))
    out: list[Dispatch] = []
    for config in (UNetConfig.full(), UNetConfig.tiny()):
        net, s = UNet(config, ShapeOnly(unet.shapes(config)), device), config.sample_size
        ids = np.array([np.arange(10, 20), np.arange(10)])
        out += device.record(net.forward, [(2, s, s, 9)], Timesteps((500,)), ids).dispatches
        timesteps = DDIM().timesteps()
        for guidance in (1.0, 2.5):
            run = Denoiser(net, ids, timesteps, DDIM().coefficients(timesteps, 20), guidance)
            out += device.record(run.step, [(1, s, s, 4), (1, s, s, 1), (1, s, s, 4)], slice(None)).dispatches
    for config in (VAEConfig.full(), VAEConfig.tiny()):
        coder = VAE(config, ShapeOnly(vae.shapes(config)), device)
        for s in (8, 64):
            out += device.record(coder.encoder, [(1, 8 * s, 8 * s, 3)]).dispatches
            out += device.record(coder.decoder, [(1, s, s, 4)]).dispatches
    return out


GPU = (("kind", "discrete"),)  # some GPU, such as a browser's
H200 = (*GPU, ("vendor", "NVIDIA"), ("checked", False))


def specialisations(webgpu: WebGPU, *caps: tuple[str, Any]) -> set[tuple[str, str, wgsl.Constants]]:
    return {(d.shader, d.entry, d.constants) for d in recorded(webgpu, *caps)}


def compile_module(gpu: WebGPU, shader: str, constants: wgsl.Constants, entry: str | None = None) -> Any:
    with guard(gpu.name, f"compiling {shader}.wgsl with {dict(constants)}"):
        return gpu.gpu.device.create_shader_module(label=shader, code=wgsl.specialise(shader, constants, entry))


@every_kernel
def test_compiles_as_it_stands(gpu: WebGPU, shader: str) -> None:
    compile_module(gpu, shader, ())
    for entry in entries(shader):
        large = shader == "gemm_matrix" or (shader == "gemm" and "SwiftShader" in gpu.name)  # which takes half a minute for such a tile
        if not large:
            gpu.gpu.pipeline(shader, entry, ())


@every_kernel
def test_compiles_as_software_drivers_run_it(gpu: WebGPU, shader: str) -> None:
    found = [(entry, constants) for name, entry, constants in specialisations(gpu) if name == shader]
    by_gpus = any(name == shader for name, _, _ in specialisations(gpu, *GPU))
    assert bool(found or by_gpus) == (shader not in NOT_IN_A_PLAN), f"{shader}.wgsl is used by no plan, or the list of exceptions is old."
    for entry, constants in found:
        gpu.gpu.pipeline(shader, entry, constants)


def test_the_windows_shader_compiles(gpu: WebGPU) -> None:
    compile_module(gpu, "view", ())


def test_compiles_as_gpus_run_it(gpu: WebGPU) -> None:
    """The modules alone: the large tiles take software drivers long, and test_kernels runs them."""
    rows: dict[Any, set[str]] = {GPU: set(), H200: set()}
    for caps, used in rows.items():
        for shader, entry, constants in specialisations(gpu, *caps) - specialisations(gpu):
            compile_module(gpu, shader, constants, entry)
            if shader == "gemm":
                plain = [row for row in GEMMS if (row.entry, row.packing) == (entry, "plain")]
                used |= {row.key for row in plain if row.constants().items() <= set(constants)}
    common = {row.key for row in THIN}
    assert rows == {GPU: common | {TILED.key, TILED_SMALL.key}, H200: common | {STAGED.key, STAGED_TALL.key, STAGED_NARROW.key}}


def test_software_drivers_keep_to_small_tiles(gpu: WebGPU) -> None:
    tiles = {CPU, CPU_THIN, SINGLE_ROWS} | ({LINES, LINES_THIN, LLVMPIPE_WIDE} if "llvmpipe" in gpu.name else set())
    small = {tuple(sorted(tile.constants().items())) for tile in tiles}
    names = CPU.constants().keys()
    for shader, _, constants in specialisations(gpu):
        assert shader != "gemm" or tuple((k, v) for k, v in constants if k in names) in small


def test_a_broken_shader_does_not_compile(gpu: WebGPU, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests above would notice."""
    for broken in ("fn main( {}", "@compute @workgroup_size(1) fn main() { let x: u32 = 1.5; }", "fn f() -> u32 { return y; }"):
        monkeypatch.setattr(wgsl, "specialise", lambda *_, text=broken: text)
        with pytest.raises(MoebiusError, match=r"broken\.wgsl"):
            compile_module(gpu, "broken", ())


def test_every_dispatch_gives_just_what_its_shader_declares(llvmpipe: WebGPU) -> None:
    for d in recorded(llvmpipe) + recorded(llvmpipe, *GPU) + recorded(llvmpipe, *H200):
        face = wgsl.interface(d.shader, d.constants, d.entry)
        assert [b.name for b in d.bindings] == [s.name for s in face.slots if s.access != "uniform"]
        assert [s.index for s in face.slots] == list(range(len(face.slots)))
        assert len(d.bindings) <= 8  # storage buffers every implementation grants
        assert all(b.shape for b in d.bindings), "nothing is bound that is not there"
        assert d.params.keys() == {name for name, _ in face.params}, d.shader
        assert d.entry in entries(d.shader)
        declared = re.findall(r"^(?:const|alias) (\w+)", wgsl.whole(d.shader), re.M)
        assert {name for name, _ in d.constants} <= set(declared)


# the files -----------------------------------------------------------------------------------------------------------
@every_shader
def test_opens_with_its_formula_its_grid_and_its_reference(shader: str) -> None:
    comment = re.match(r"(?:^//.*\n)+", wgsl.source(shader), re.M)
    assert comment, f"{shader}.wgsl does not open with a comment."
    if shader in PARTS:
        return
    text = re.sub(r"\s*\n// ?", " ", comment[0])
    assert re.search(r"[=Σ√·]", text), "its formula"
    assert "Grid: " in text or "grid: " in text
    if shader not in NOT_IN_A_PLAN:
        assert "Reference: " in text
    for name in re.findall(r"Reference\.(\w+)", text):
        assert hasattr(Reference, name), f"{shader}.wgsl names Reference.{name}, which is not there."


@every_kernel
def test_bindings_stand_in_order_with_the_outputs_and_params_last(shader: str) -> None:
    face = wgsl.interface(shader)
    access = [s.access for s in face.slots]
    assert [s.index for s in face.slots] == list(range(len(face.slots)))
    assert len(face.slots) == wgsl.whole(shader).count("@binding(")
    assert access == sorted(access, key=["read", "read_write", "uniform"].index)
    assert access.count("uniform") == 1
    assert "read_write" in access


@every_kernel
def test_every_field_of_params_is_seen(shader: str) -> None:
    """A field of another type would shift all behind it."""
    struct = re.search(r"^struct Params \{\n(.*?)^\}", wgsl.whole(shader), re.M | re.S)
    assert struct
    fields = [line for line in struct[1].splitlines() if line.strip()]
    assert [f"{name}: {kind}" for name, kind in wgsl.interface(shader).params] == [line.split(",")[0].strip() for line in fields]
    assert 4 * len(fields) <= PARAMS_PITCH


@every_kernel
def test_no_mark_is_left_in_what_is_compiled(shader: str) -> None:
    text = wgsl.specialise(shader)
    assert "// unroll" not in text
    assert "// compiled" not in text
    assert "// include" not in text
    assert text.count("{") == text.count("}")


# what Python reads from them -----------------------------------------------------------------------------------------
FLAT = (64, 1)
WORKGROUPS: dict[tuple[str, str], tuple[tuple[int, int], int]] = {
    **{(shader, "main"): (FLAT, 0) for shader in KERNELS if shader not in ("gemm", "gemm_matrix", "winograd")},
    ("group_stats", "main"): (FLAT, 64 * 16),  # a vec3 takes the room of a vec4
    ("group_scale", "main"): (FLAT, 64 * 16),
    ("layer_norm", "row_variance"): (FLAT, 64 * 4),
    ("lambda_content", "main"): (FLAT, 5 * 64 * 16),
    ("lambda_window", "main"): ((40, 1), 16 * (19 * 10 + 4 * 8 * 4)),
    ("layer_norm", "main"): (FLAT, 64 * 4),
    ("softmax", "main"): (FLAT, 64 * 4),
    ("gemm", "direct"): ((8, 8), 0),  # tile_a and tile_w are the other entry's
    ("gemm", "lines"): ((8, 8), 0),
    ("gemm", "tiled"): ((8, 8), 16 * (8 * 4 * 5 + 16 * 8 * 2)),
    ("gemm", "staged"): ((8, 8), 4 * 16 * (8 * 4 + 4) + 16 * 16 * 8 * 2),  # tile_w is `tiled`'s too
    ("gemm", "thin"): ((8, 8), 16 * 8 * 8 * (8 + 1)),
    ("gemm_matrix", "units"): ((128, 1), 2 * (64 * 40 + 32 * 72) + 4 * 4 * 16 * 16),
    ("winograd", "to_points"): ((8, 8), 0),
    ("winograd", "from_points"): ((8, 8), 0),
}


@every_kernel
def test_workgroups_are_what_the_file_declares(shader: str) -> None:
    known = {entry: workgroup for (name, entry), workgroup in WORKGROUPS.items() if name == shader}
    read = {entry: wgsl.kernel(shader, entry) for entry in entries(shader)}
    assert {entry: (kernel.workgroup, kernel.workgroup_bytes) for entry, kernel in read.items()} == known


@pytest.mark.parametrize(
    ("row", "nbytes"),
    [
        (TILED, 16 * (128 * 5 + 256)),
        (TILED_SMALL, 16 * (64 * 5 + 256)),
        (STAGED, 4 * 16 * (64 + 4 + 64)),
        (STAGED_TALL, 4 * 16 * (128 + 4 + 64)),
        (THIN[2], 16 * 4 * 8 * 17),
        (CPU, 0),
        (LINES, 0),
    ],
)
def test_a_row_decides_the_workgroup(row: Gemm, nbytes: int) -> None:
    kernel = wgsl.kernel("gemm", row.entry, tuple(row.constants().items()))
    assert (kernel.workgroup, kernel.threads, kernel.workgroup_bytes) == ((row.wgx, row.wgy), row.threads, row.workgroup_bytes)
    assert row.workgroup_bytes == nbytes


def test_a_tile_stages_what_its_threads_load(llvmpipe: WebGPU) -> None:
    for d in recorded(llvmpipe, *GPU) + recorded(llvmpipe, *H200):
        if d.entry in STAGING:
            c = wgsl.numbers(d.shader, d.constants)
            assert c["LOAD_A"] * c["WGX"] * c["WGY"] == c["WGY"] * c["TM"] * c["BK4"]
            assert c["LOAD_W"] * c["WGX"] * c["WGY"] == 4 * c["BK4"] * c["WGX"] * c["TN4"]
            assert c["ACC"] == c["TM"] * c["TN4"]
            assert (c["ROW_PITCH"], c["RUN"]) == (c["BK4"] + 1, c["WGY"] * c["TM"] + 4)


def test_the_window_is_the_models() -> None:
    assert {wgsl.numbers(shader)["WINDOW"] for shader in ("lambda_apply", "lambda_window")} == {POSITION_WINDOW}


SHARING = """const SIZE: u32 = 8u;
const PAIRS: u32 = (SIZE + 1u) * 2u; // 18u
const FLAG: bool = true;
var<workgroup> whole: array<vec4<f32>, PAIRS>; // tile
var<workgroup> part: array<u32, SIZE / 2u>;
fn inner() -> u32 {
  return part[0];
}
fn outer() -> u32 {
  return inner();
}
@compute @workgroup_size(SIZE, 2u)
fn both(@builtin(local_invocation_index) l: u32) {
  whole[l].x = f32(outer());
}
@compute @workgroup_size(4)
fn one() {
  let x = outer(); // not whole
}
@compute @workgroup_size(SIZE % 3u)
fn none() {
}
"""


def test_workgroup_memory_is_that_of_the_entry_and_of_what_it_calls(shader) -> None:
    shader(SHARING)
    assert wgsl.numbers.__wrapped__("it") == {"SIZE": 8, "PAIRS": 18}
    assert wgsl.numbers.__wrapped__("it", (("SIZE", 4),)) == {"SIZE": 4, "PAIRS": 10}
    read = wgsl.kernel.__wrapped__
    assert read("it", "both") == wgsl.Kernel((8, 2), 18 * 16 + 4 * 4)
    assert read("it", "both", (("SIZE", 4),)) == wgsl.Kernel((4, 2), 10 * 16 + 2 * 4)
    assert read("it", "one") == wgsl.Kernel((4, 1), 4 * 4)
    assert read("it", "none") == wgsl.Kernel((2, 1), 0)
    assert read("it", "both").threads == 16
    with pytest.raises(MoebiusError, match=r"it\.wgsl .*absent"):
        read("it", "absent")


@pytest.mark.parametrize("text", ["B + 1u", "f(2u)", "1.5", "2u **", "-A", "true"])
def test_what_is_no_constant_expression_is_refused(text: str) -> None:
    with pytest.raises(MoebiusError, match="is no constant expression"):
        wgsl.evaluate(text, {"A": 3})


def test_parameters_are_packed_in_the_order_of_the_file() -> None:
    packed = wgsl.pack_params("layer_norm", {"eps": 0.5, "rows": 1, "channels": 2, "c4": 3})
    assert packed == np.array([1, 2, 3], "<u4").tobytes() + np.float32(0.5).tobytes()
    assert wgsl.pack_params("concat", dict.fromkeys((name for name, _ in wgsl.interface("concat").params), 2**32 - 1)) == b"\xff" * 24


# specialise ----------------------------------------------------------------------------------------------------------
@pytest.fixture
def shader(monkeypatch: pytest.MonkeyPatch):
    """specialise and interface of a text instead of a file."""

    def of(text: str, *constants: tuple[str, int | bool | str], also: dict[str, str] | None = None) -> str:
        monkeypatch.setattr(wgsl, "source", {"it": text, **(also or {})}.__getitem__)
        return wgsl.specialise.__wrapped__("it", constants)

    return of


def test_constants_are_replaced_where_they_are_declared(shader) -> None:
    text = "const A: u32 = 4u; // A is 4u\nconst AB: u32 = 4u;\nconst ON: bool = true;\nalias T = vec4<f32>;\nfn f() { let A = A; }\n"
    got = shader(text, ("A", 7), ("ON", False), ("T", "f32"))
    assert got == "const A: u32 = 7u; // A is 4u\nconst AB: u32 = 4u;\nconst ON: bool = false;\nalias T = f32;\nfn f() { let A = A; }\n"
    assert shader(text) == text
    assert shader("const ON: bool = false;\n", ("ON", True)) == "const ON: bool = true;\n"


def test_other_entry_points_are_left_out(shader) -> None:
    shader(SHARING)
    text = wgsl.specialise.__wrapped__("it", (), "one")
    assert re.findall(r"fn (\w+)", text) == ["inner", "outer", "one"]
    before, _, one, _ = SHARING.split("@compute")
    assert text == f"{before}@compute{one}"


def test_a_constant_may_span_an_expression(shader) -> None:
    assert shader("const A: u32 = 4u * B + 1u;\n", ("A", 3)) == "const A: u32 = 3u;\n"


BRANCHES = """const A: bool = true;
const B: bool = false;
@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read> y: array<f32>;
@group(0) @binding(2) var<storage, read_write> out: array<f32>;
fn unused() -> f32 {
  return y[1];
}
fn used() -> f32 {
  return x[2];
}
@compute @workgroup_size(1)
fn main() {
  if (A) { // compiled
    out[0] = used();
  } else {
    if (!B) { // compiled
      out[0] = y[0];
    }
  }
}
"""


def test_a_branch_is_decided_and_what_only_the_other_needs_is_left_out(shader) -> None:
    text = shader(BRANCHES)
    assert re.sub(r"\s+", " ", text.partition("fn main")[2]) == "() { { out[0] = used(); } } "
    assert "unused" not in text
    assert re.findall(r"@binding\((\d)\).* (\w+):", text) == [("0", "x"), ("1", "out")]
    text = shader(BRANCHES, ("A", False))
    assert re.sub(r"\s+", " ", text.partition("fn main")[2]) == "() { { { out[0] = y[0]; } } } "
    assert re.findall(r"@binding\((\d)\).* (\w+):", text) == [("0", "y"), ("1", "out")]
    text = shader(BRANCHES, ("A", False), ("B", True))
    assert re.sub(r"\s+", " ", text.partition("fn main")[2]) == "() { { } } "


@pytest.mark.parametrize("wrong", [("  }\n}\n", "   }\n}\n"), ("const A: bool = true", "const A: u32 = 1u")])
def test_a_branch_that_cannot_be_decided_is_refused(shader, wrong) -> None:
    with pytest.raises(MoebiusError, match=r"it\.wgsl: the branch on A .*`// compiled`"):
        shader(BRANCHES.replace(*wrong))


@pytest.mark.parametrize(("text", "count"), [("fn f() {}\n", 0), ("  const A: u32 = 1u;\n", 0), (2 * "const A: u32 = 1u;\n", 2)])
def test_a_constant_must_be_declared_once(shader, text: str, count: int) -> None:
    with pytest.raises(MoebiusError, match=rf"it\.wgsl .*{count} .* A\b"):
        shader(text, ("A", 2))


def test_includes_are_put_in_whole_lines(shader) -> None:
    got = shader("a\n// include part.wgsl\nb // include part.wgsl\n", also={"part": "const A: u32 = 1u;\n"})
    assert got == "a\nconst A: u32 = 1u;\n\nb // include part.wgsl\n"
    assert shader("// include part.wgsl\n", ("A", 2), also={"part": "const A: u32 = 1u;\n"}) == "const A: u32 = 2u;\n\n"


LOOP = """const N: u32 = 2u;
fn f() {
  for (var i = 0u; i < N; i++) { // unroll
    let at = i * ij + i;
  }
}
"""


def test_a_loop_is_written_out(shader) -> None:
    copies = "".join(f"  {{\n    let at = {i}u * ij + {i}u;\n  }}\n" for i in range(3))
    assert shader(LOOP, ("N", 3)) == f"const N: u32 = 3u;\nfn f() {{\n{copies}}}\n"
    assert shader(LOOP, ("N", 0)) == "const N: u32 = 0u;\nfn f() {\n}\n"
    assert shader(LOOP.replace("i < N", "i < 3u"), ("N", 3)) == f"const N: u32 = 3u;\nfn f() {{\n{copies}}}\n"
    assert shader(LOOP.replace(" // unroll", "")) == LOOP.replace(" // unroll", "")


NEST = """  for (var i = 0u; i < 2u; i++) { // unroll
    a[i] = 0;
    for (var j = 0u; j < 2u; j++) { // unroll
      if (i < j) {
        a[i] += b[j];
      }
    }
    for (var k = 0u; k < 2u; k++) {
      c[k] = i;
    }
  }
"""


def test_loops_unroll_inside_one_another(shader) -> None:
    want = ""
    for i in range(2):
        want += f"  {{\n    a[{i}u] = 0;\n"
        for j in range(2):
            want += f"    {{\n      if ({i}u < {j}u) {{\n        a[{i}u] += b[{j}u];\n      }}\n    }}\n"
        want += f"    for (var k = 0u; k < 2u; k++) {{\n      c[k] = {i}u;\n    }}\n  }}\n"
    assert shader(NEST) == want


def test_a_loop_that_cannot_be_unrolled_is_refused(shader) -> None:
    with pytest.raises(MoebiusError, match=r"it\.wgsl: .* i .*`// unroll`"):
        shader(LOOP.replace("\n  }\n", "\n   }\n"))
    with pytest.raises(ValueError, match="M"):  # a bound that is no constant
        shader(LOOP.replace("i < N", "i < M"))


def test_interface_reads_bindings_and_params(shader) -> None:
    shader(
        """struct Params {
  rows: u32, // how many
  eps: f32,
}
@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> out: array<f32>;
@group(0) @binding(2) var<uniform> params: Params;
"""
    )
    face = wgsl.interface.__wrapped__("it")
    assert face.slots == (wgsl.Slot(0, "x", "read"), wgsl.Slot(1, "out", "read_write"), wgsl.Slot(2, "params", "uniform"))
    assert face.params == (("rows", "u32"), ("eps", "f32"))


@pytest.mark.parametrize("shader", [*KERNELS, *PARTS])  # not the window's, which compares places
def test_no_comparison_of_floats_looks_for_a_nan(shader: str) -> None:
    """A driver may take it that there are none: on one GPU, select(x, 0, x < 0) became a max that dropped them. Bits cannot lie."""
    text = re.sub(r"//.*", "", wgsl.source(shader))
    assert not re.findall(r" [<>]=? vec\d<f32>\(", text)
    assert not re.findall(r"\b(\w+) (?:!=|==) \1\b", text)


def test_the_scan_for_comparisons_sees_them(monkeypatch: pytest.MonkeyPatch) -> None:
    for text in ("select(x, vec4<f32>(low), x < vec4<f32>(low))", "if (x != x) {"):
        monkeypatch.setattr(wgsl, "source", lambda _, text=text: text)
        with pytest.raises(AssertionError):
            test_no_comparison_of_floats_looks_for_a_nan("common")
