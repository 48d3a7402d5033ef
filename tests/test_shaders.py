"""Every shader, as every plan specialises it, under naga (wgpu) and under Tint (Dawn); and what each file declares."""

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
    BLOCKS,
    CPU,
    CPU_THIN,
    GEMMS,
    LINES,
    OF_LLVMPIPE,
    SINGLE_ROWS,
    STAGED,
    STAGED_TALL,
    STAGING,
    THIN,
    TILED,
    TILED_SMALL,
    WINOGRAD_CPU_LOW,
    Gemm,
)
from moebius.backends.webgpu.pack import WINDOW_PITCH
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
PARTS = ("common", "dense", "half", "matrix", "matrix_dawn", "matrix_emulated", "matrix_naga", "moments", "quad", "rows")  # of other files
KERNELS = [name for name in SHADERS if name not in (*PARTS, "view")]
DENSE = ("gemm", "gemm_blocked")
ON_UNITS = ("gemm_matrix", "lambda_matrix")  # in no plan, unless matrix units were asked for: test_matrix.py, test_lambda_matrix.py
NOT_IN_A_PLAN = {"finite", *ON_UNITS, "view"}

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


GPU = (("kind", "discrete"), ("checked", True))  # some GPU, such as a browser's
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
        large = shader in ON_UNITS or (shader in DENSE and "SwiftShader" in gpu.name)  # which takes half a minute for such a tile
        if not large:
            gpu.gpu.pipeline(shader, entry, ())


@every_kernel
def test_compiles_as_software_drivers_run_it(gpu: WebGPU, shader: str) -> None:
    found = [(entry, constants) for name, entry, constants in specialisations(gpu) if name == shader]
    by_gpus = any(name == shader for name, _, _ in specialisations(gpu, *GPU) | specialisations(gpu, *H200))
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
            if shader in DENSE:
                plain = [row for row in GEMMS if (row.entry, row.packing) == (entry, "plain")]
                used |= {row.key for row in plain if row.constants().items() <= set(constants)}
    common = {row.key for row in THIN}
    assert rows == {GPU: common | {TILED.key, TILED_SMALL.key}, H200: common | {row.key for row in (STAGED, STAGED_TALL, *BLOCKS)}}


def test_software_drivers_keep_to_small_tiles(gpu: WebGPU) -> None:
    tiles = {CPU, CPU_THIN, WINOGRAD_CPU_LOW, SINGLE_ROWS} | (set(OF_LLVMPIPE) if "llvmpipe" in gpu.name else set())
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
    **{(shader, "main"): (FLAT, 0) for shader in KERNELS if shader not in (*DENSE, *ON_UNITS, "winograd", "differences")},
    ("group_stats", "main"): (FLAT, 64 * 16),  # a vec3 takes the room of a vec4
    ("group_finish", "main"): (FLAT, 64 * 16),
    ("group_scale", "main"): (FLAT, 64 * 16),
    ("layer_norm", "row_variance"): (FLAT, 64 * 4),
    ("lambda_content", "main"): (FLAT, 5 * 64 * 16),
    ("lambda_window", "main"): ((40, 1), 16 * (19 * 10 + 4 * (8 * 4 + 1))),
    ("lambda_matrix", "main"): ((128, 1), 2 * (64 * 56 + 48 * 24 + 22 * 56 + 4 * 16 * 24) + 4 * 4 * 16 * 20 + 128 * 16),
    ("cross_lambda_rows", "main"): ((40, 1), 4 * 10 * (160 + 1) + 4 * 160 + 16 * 40),
    ("layer_norm", "main"): (FLAT, 64 * 4),
    ("softmax", "main"): (FLAT, 64 * 4),
    ("gemm", "direct"): ((8, 8), 0),  # tile_a and tile_w are the other entry's
    ("gemm", "lines"): ((8, 8), 0),
    ("gemm", "tiled"): ((8, 8), 16 * (8 * 4 * 5 + 16 * 8 * 2)),
    ("gemm", "staged"): ((8, 8), 4 * 16 * (8 * 4 + 4) + 16 * 16 * 8 * 2),  # tile_w is `tiled`'s too
    ("gemm_blocked", "blocked"): ((8, 8), 16 * 16 * (16 + 8)),
    ("gemm", "thin"): ((8, 8), 16 * 8 * 8 * (8 + 1)),
    ("gemm_matrix", "units"): ((128, 1), 2 * (64 * 40 + 32 * 72) + 4 * 4 * (2 * 16 * 36)),
    **{("winograd", entry): ((8, 8), 0) for entry in ("to_filters", "to_points", "from_points")},
    **{("differences", entry): ((8, 8), 0) for entry in ("to_points", "from_points")},
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
        (BLOCKS[0], 16 * 16 * (16 + 16)),
        (CPU, 0),
        (LINES, 0),
    ],
)
def test_a_row_decides_the_workgroup(row: Gemm, nbytes: int) -> None:
    kernel = wgsl.kernel(row.shader, row.entry, tuple(row.constants().items()))
    assert (kernel.workgroup, kernel.threads, kernel.workgroup_bytes) == ((row.wgx, row.wgy), row.threads, row.workgroup_bytes)
    assert row.workgroup_bytes == nbytes


def test_a_tile_stages_what_its_threads_load(llvmpipe: WebGPU) -> None:
    for d in recorded(llvmpipe, *GPU) + recorded(llvmpipe, *H200):
        if d.entry in STAGING:
            c = wgsl.numbers(d.shader, d.constants)
            threads, loads_a = c["WGX"] * c["WGY"], 4 if d.entry == "blocked" else c["LOAD_A"]
            assert loads_a * threads == c["WGY"] * c["TM"] * c["BK4"]
            assert c["LOAD_W"] * threads == 4 * c["BK4"] * c["WGX"] * c["TN4"]
            assert c["ACC"] == c["TM"] * c["TN4"]
            if d.entry != "blocked":
                assert (c["ROW_PITCH"], c["RUN"]) == (c["BK4"] + 1, c["WGY"] * c["TM"] + 4)


def test_the_window_is_the_models() -> None:
    found = [wgsl.numbers(shader) for shader in ("lambda_apply", "lambda_matrix", "lambda_window")]
    assert {numbers["WINDOW"] for numbers in found} == {POSITION_WINDOW}
    assert {numbers["BAND"] for numbers in found if "BAND" in numbers} == {WINDOW_PITCH}


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
