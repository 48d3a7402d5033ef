"""Self lambda on matrix units: what lambda_matrix.wgsl computes in emulation, who gets it, and what compilers say of its dialects.

SwiftShader compiles it in half a second, llvmpipe in ten: that runs one form.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import naga
import numpy as np
import pytest
from cases import Case, self_lambda
from javascript import Node
from lambda_matrix_cases import FORMS, Form, on_units
from matrix_cases import ALL, DAWN
from test_halves import check
from test_matrix_dialects import says, tint  # noqa: F401
from test_menu import H200

from moebius.backends.webgpu import WebGPU, wgsl
from moebius.backends.webgpu.caps import DEFAULT_LIMITS, Caps, Matrix, Unit
from moebius.backends.webgpu.menu import CPU
from moebius.backends.webgpu.ops import lambdas
from moebius.backends.webgpu.ops.lambdas import UnitWindow
from moebius.backends.webgpu.plan import Plan
from moebius.backends.webgpu.units import HALVES, TILES

SIXTEEN = Unit(*HALVES, 16, 16, 16)
LEVELS = ((10, 64), (20, 32), (40, 16))  # of the full model: vec4 of a head, and its side


def computed(gpu: WebGPU, size: tuple[int, int, int], heads: int, k: int, form: Form, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lambdas, "UNIT_WINDOWS", (form.window,))
    d = check(self_lambda(size, heads, k), gpu, CPU, kind="discrete", matrix=form.matrix).dispatches[-1]
    assert d.shader == "lambda_matrix"
    found = dict(d.constants)
    assert (found["FRAGMENTS"], found["LINES"], found["SHARE"]) == form.window[:3]


def made(plan: Plan, case: Case) -> np.ndarray:
    plan.upload([np.moveaxis(a, 1, -1) for a in case.inputs])
    plan.start()
    plan.replay()
    return plan.outputs[0].buffer.read(plan.outputs[0].nbytes)


# what it computes ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("form", FORMS, ids=str)
def test_it_is_self_lambda_within_the_bound_of_halves(swiftshader: WebGPU, form: Form, monkeypatch: pytest.MonkeyPatch) -> None:
    """Images smaller than a run, narrower than the window, and larger than both; channels that end within a fragment and within a vec4."""
    share = form.window.share
    for size, k in (((2, 3, 5), 5 if share == 1 else 2 * form.k - 3), ((1, 17, 18), 20 if share == 1 else 2 * form.k)):
        computed(swiftshader, size, 8, k, form, monkeypatch)


def test_a_head_for_every_row_of_a_fragment(swiftshader: WebGPU, monkeypatch: pytest.MonkeyPatch) -> None:
    computed(swiftshader, (1, 4, 9), 16, 12, FORMS[2], monkeypatch)


def test_it_runs_on_llvmpipe(llvmpipe: WebGPU, monkeypatch: pytest.MonkeyPatch) -> None:
    computed(llvmpipe, (1, 3, 5), 8, 4, FORMS[4], monkeypatch)


def test_its_rows_have_the_variance_of_the_layer_norm_behind(swiftshader: WebGPU) -> None:
    """By what is written beside the sums, of the numbers that are written."""
    case = self_lambda((2, 3, 5), 8, 12)
    plan = on_units(swiftshader, case, FORMS[0])
    made(plan, case)
    bound = {b.name: b.buffer.read(b.nbytes).reshape(30, -1) for b in plan.dispatches[-1].bindings if b.name in ("out", "variance")}
    np.testing.assert_allclose(bound["variance"][:, 0], bound["out"].astype(np.float64).var(axis=1), rtol=1e-5)


@pytest.mark.parametrize("large", ["queries and values", "logits"])
def test_what_no_half_holds_makes_no_number(swiftshader: WebGPU, large: str) -> None:
    """From 65520 on: the sums that they are in are NaNs, and no infinity is left that a norm behind could hide."""
    case = self_lambda((1, 3, 5), 8, 4)
    if large == "logits":
        key = "pos_conv.weight"
        case = replace(case, weights={key: case.params[key] * np.float32(6e4 / np.abs(case.params[key]).max())})
    else:
        case = replace(case, inputs=[case.inputs[0] * np.float32(1e6), case.inputs[1]])
    out = made(on_units(swiftshader, case, FORMS[0]), case)
    assert np.isnan(out).any()
    assert not np.isinf(out).any()


def test_lanes_that_are_no_subgroup_make_no_number(swiftshader: WebGPU, monkeypatch: pytest.MonkeyPatch) -> None:
    case, specialise = self_lambda((1, 3, 5), 8, 12), wgsl.specialise

    def apart(shader: str, constants: wgsl.Constants = (), entry: str | None = None) -> str:
        text = specialise(shader, constants, entry)
        if shader != "lambda_matrix":
            return text
        assert text.count("return true;") == 1
        return text.replace("return true;", "return thread < 2u;")

    monkeypatch.setattr(wgsl, "specialise", apart)
    monkeypatch.setattr(swiftshader.gpu, "_pipelines", {})
    assert np.isnan(made(on_units(swiftshader, case, FORMS[0]), case)).any()


# who gets it ---------------------------------------------------------------------------------------------------------
ROOM = {**DEFAULT_LIMITS, "max-compute-workgroup-storage-size": 48 << 10}
LARGE = {**ROOM, "max-compute-workgroup-size-x": 1024, "max-compute-invocations-per-workgroup": 1024}


def device(**changes: Any) -> Caps:
    return replace(H200, **{"matrix": Matrix("dawn", ALL, per=8), "precision": "f16", "limits": LARGE, **changes})


def chosen(caps: Caps, heads: int = 8) -> list[tuple[int, int, int] | None]:
    found = [lambdas.unit_windows(caps, heads, k4, (side, side)) for k4, side in LEVELS]
    return [c and (int(c["FRAGMENTS"]), int(c["LINES"]), int(c["SHARE"])) for c in found]


def test_an_h200_has_workgroups_for_all_processors_at_every_level() -> None:
    assert chosen(device()) == [(4, 1, 1), (4, 2, 1), (1, 2, 2)]
    assert dict(lambdas.unit_windows(device(), 8, 10, (64, 64)) or {})["FM"] == 16


def test_who_has_no_units_for_halves_keeps_the_other_kernel() -> None:
    nobody = [None] * 3
    assert chosen(device(matrix=None)) == nobody
    assert chosen(device(precision="f32")) == nobody
    assert chosen(device(kind="software")) == nobody
    assert chosen(device(matrix=Matrix("dawn", frozenset()))) == nobody
    wide = Matrix("dawn", frozenset([SIXTEEN]))
    assert chosen(device(matrix=wide), heads=4) == nobody, "four positions lie over more columns than a line of logits has"
    assert chosen(device(), heads=12) == nobody
    assert chosen(device(matrix=Matrix("dawn", ALL, lanes=48))) == nobody
    for n, k in ((32, 16), (16, 32)):  # a line of logits has sixteen columns
        assert chosen(device(matrix=Matrix("dawn", frozenset([Unit(*HALVES, 16, n, k)])))) == nobody


def test_a_device_of_little_memory_has_fewer_positions_a_workgroup() -> None:
    assert chosen(device(limits=DEFAULT_LIMITS)) == [(2, 1, 1), (1, 1, 1), None]
    assert chosen(device(limits=ROOM)) == chosen(device())
    small = {**ROOM, "max-compute-invocations-per-workgroup": 128, "max-compute-workgroup-size-x": 128}
    assert chosen(device(limits=small)) == [(4, 1, 1), (4, 1, 1), (1, 2, 2)]


def test_small_images_have_the_most_workgroups_that_there_can_be() -> None:
    constants = lambdas.unit_windows(device(), 8, 1, (4, 4))
    assert constants is not None
    assert constants["FRAGMENTS"] == 1


def test_what_an_invocation_goes_round_is_bounded(swiftshader: WebGPU) -> None:
    """Loops that are left, by the text that is compiled: of an invocation with a whole window, in emulation and on units."""
    for form in (*FORMS[:3], Form(16, 16, 16, 32, UnitWindow(1, 2, 2))):
        for dialect in ("emulated", "dawn"):
            matrix = replace(form.matrix, dialect=dialect)
            caps = replace(swiftshader.caps, kind="discrete", matrix=matrix, limits=LARGE)
            plan = self_lambda((1, 16, 16), 8, 40).record(
                WebGPU(swiftshader.gpu, caps, precision="f16"), self_lambda((1, 16, 16), 8, 40).params
            )
            d = plan.dispatches[-1]
            n = wgsl.numbers("lambda_matrix", d.constants)
            inner = n["VALUES"] * (1 + n["FK"] // 2) if dialect == "emulated" else 0
            lines, parts = -(-n["WINDOW"] // n["LINES"]), -(-n["KP"] // n["FK"] // n["LINES"])
            least = lines * (1 + n["STEPS"] + n["DEEP"] + (n["STEPS"] * n["ABREAST"] + n["DEEP"] * n["OWN"]) * inner) + parts * (
                1 + n["OWN"] * inner
            )
            assert least < d.iterations < 2 * least + 100, (form, dialect)


# dialects ------------------------------------------------------------------------------------------------------------
def text(form: UnitWindow, v4: int, matrix: Matrix, shape: Unit = SIXTEEN) -> str:
    constants = {
        **lambdas.fragments(matrix.dialect, matrix.lanes, matrix.per, shape),
        "HEADS": 8,
        "V4": v4,
        "WHOLE": True,
        "Number": "vec4<f32>",
    }
    constants |= {"FRAGMENTS": form.fragments, "LINES": form.lines, "SHARE": form.share}
    return wgsl.specialise("lambda_matrix", tuple(sorted(constants.items())), "main")


def test_tint_takes_it_in_dawns_dialect(tint: Node) -> None:  # noqa: F811
    for (v4, _), form in zip(LEVELS, (UnitWindow(8, 1, 1), UnitWindow(4, 2, 1), UnitWindow(1, 2, 2)), strict=True):
        for per in TILES:
            assert says(tint, text(form, v4, replace(DAWN, per=per))) == [], (form, per)
    for shape in ALL:
        if (shape.operands, shape.sums) == HALVES:
            assert says(tint, text(UnitWindow(2, 1, 1), 8, DAWN, shape)) == [], shape


def test_naga_takes_it_where_it_is_let(llvmpipe: WebGPU) -> None:
    said = naga.says([text(UnitWindow(4, 1, 1), 10, replace(DAWN, dialect="naga"))])
    if said is None:
        pytest.skip("Where this wgpu keeps the features of a device is not known.")
    assert said == [""]
