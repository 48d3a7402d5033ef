"""The dialects of gemm_matrix.wgsl: Dawn's under Tint, naga's under naga; nothing runs here."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import naga
import pytest
from javascript import Node, find_node
from matrix_cases import DAWN, stored, text
from test_menu import call

from moebius.backends.webgpu import WebGPU, wgsl
from moebius.backends.webgpu.calls import Phases, Rows, Taps
from moebius.backends.webgpu.menu import UNITS
from moebius.backends.webgpu.units import TILES

ROOT = Path(__file__).parents[1]
OBLONG = next(row for row in UNITS if "16x8x16" in row.key)
NAGA = replace(DAWN, dialect="naga")


def test_dialects_have_the_same_primitives() -> None:
    def names(dialect: str) -> list[str]:
        return re.findall(r"^(?:fn|alias) (\w+)", wgsl.source(f"matrix_{dialect}"), re.M)

    assert names("dawn") == names("naga")
    assert set(names("emulated")) == {*names("dawn"), "unknown"}


@pytest.mark.parametrize(("per", "kind", "stored"), [(8, "vec4<u32>", "] = v;"), (2, "vec2<f16>", "] = pair;"), (1, "f16", "] = pair.x;")])
def test_as_many_halves_lie_together_as_a_device_loads(per: int, kind: str, stored: str) -> None:
    code = text(OBLONG, call(512, 320, 36), replace(DAWN, per=per))
    assert all(part in code for part in (f"alias Halves = {kind};", f"const PER: u32 = {per}u;"))
    assert re.search(r"tile\[.*" + re.escape(stored), code)
    assert ("alias Passed = vec4<f32>;" in code, "const FLOATS: u32 = 4u;" in code) == (per == 8,) * 2


# Dawn's ------------------------------------------------------------------------------------------------------------------
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
        for per in TILES:
            assert says(tint, text(row, call(512, 320, 36), replace(DAWN, per=per))) == [], row
    for mode in (Rows(), Taps(1, 1), Phases()):
        for row in (UNITS[0], UNITS[-1]):
            assert says(tint, text(row, call(64, 320, 320, mode), DAWN)) == []
        assert says(tint, text(UNITS[0], stored(call(64, 320, 320, mode)), replace(DAWN, per=8))) == []


def test_tint_refuses_what_is_wrong(tint: Node) -> None:
    good = text(OBLONG, call(512, 320, 320), DAWN)
    for old, new in (("Accumulate(x, y", "Accumulate(y, x"), ("<f16, FN, FK>", "<f16, FK, FM>"), ("enable f16;", "")):
        assert good.count(old) == 1
        assert says(tint, good.replace(old, new))[0].startswith("error"), old


# naga's ------------------------------------------------------------------------------------------------------------------
def test_naga_refuses_its_dialect_so_far(llvmpipe: WebGPU) -> None:
    """wgpu-native has no way to ask for cooperative matrices. Where this fails they have come: prove them as Dawn's are."""
    code = text(UNITS[-1], call(512, 320, 36), NAGA)
    device = llvmpipe.gpu
    with pytest.raises(llvmpipe.gpu.module.GPUError, match="not supported in the current environment"):
        device.device.create_shader_module(label="naga", code=code)


def test_naga_takes_its_dialect_where_it_is_let(llvmpipe: WebGPU) -> None:
    """And finds what is wrong. Of oblong units it has no types yet; later ones are named by columns and rows."""
    rows = [row for row in UNITS if "16x8x16" not in row.key]
    good = [text(row, call(512, 320, 36), NAGA) for row in rows]
    good += [text(UNITS[-1], call(64, 320, 320, mode), NAGA) for mode in (Taps(1, 1), Phases())]
    wrong = [("coopMultiplyAdd(x, y", "coopMultiplyAdd(y, x"), ("<f32, C>", "<f16, C>"), ("enable wgpu_cooperative_matrix;", "")]
    assert all(good[-1].count(old) == 1 for old, _ in wrong)
    said = naga.says([*good, *(good[-1].replace(*change) for change in wrong)])
    if said is None:
        pytest.skip("Where this wgpu keeps the features of a device is not known.")
    assert said[: len(good)] == [""] * len(good)
    assert all(said[len(good) :])
    types = re.findall(r"^alias (Left|Right|Sum) = coop_mat(\w+)<", text(OBLONG, call(512, 320, 36), NAGA), re.M)
    assert types == [("Left", "16x16"), ("Right", "8x16"), ("Sum", "8x16")]
