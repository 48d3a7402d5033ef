"""From a .wgsl file to the text that is compiled, and what is read off it."""

from __future__ import annotations

import re

import numpy as np
import pytest

from moebius.backends.webgpu import wgsl
from moebius.errors import MoebiusError

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
  return vec2<f32>(x[2]).y; // a component is no binding
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


ALIASED = """alias Value = f32;
@group(0) @binding(0) var<storage, read> x: array<Value>;
@group(0) @binding(1) var<storage, read_write> out: array<vec4<f32>>;
@compute @workgroup_size(1)
fn main() {
  out[0] = vec4<f32>(x[1]);
}
"""


@pytest.mark.parametrize(("name", "reads"), [("HALVES", "unpacked"), ("QUADS", "of_quad")])
def test_an_array_of_an_alias_holds_what_that_stands_for(shader, name: str, reads: str) -> None:
    text = shader(ALIASED, ("Value", "vec4<f32>"), (name, "x"), also={"half": "", "quad": ""})
    assert "x: array<vec2<u32>>;" in text
    assert f"out[0] = vec4<f32>({reads}(x[1]));" in text
    with pytest.raises(MoebiusError, match="no array of vec4<f32> that is called x"):
        shader(ALIASED, (name, "x"))
