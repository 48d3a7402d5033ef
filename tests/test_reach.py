"""Kernels without bounds checks: what the plan proves of their indexes, and what it refuses. Who keeps checks: test_checked.py."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from cases import OPS, cross_lambda, self_lambda
from harness import always
from lambda_matrix_cases import FORMS, on_units
from test_fused import FUSED

from moebius.backends.webgpu import WebGPU, reach
from moebius.backends.webgpu.caps import Kind
from moebius.backends.webgpu.dispatch import Dispatch
from moebius.backends.webgpu.menu import BLOCKED, CPU, DIFFERENCES_CPU, UNITS, WINOGRAD, Gemm
from moebius.backends.webgpu.ops import norms
from moebius.backends.webgpu.plan import check
from moebius.errors import LimitError, MoebiusError
from moebius.model.contract import MAX_STEPS
from moebius.model.scheduler import DDIM

ON_GPUS = {f"{name}, fused": make for name, (make, _) in FUSED.items()}


def recorded(gpu: WebGPU, name: str, size: tuple[int, int, int], **limits: int) -> list[Dispatch]:
    """Of what is fused, as a GPU has it."""
    kind = "discrete" if name in ON_GPUS else gpu.caps.kind
    caps = replace(gpu.caps, kind=kind, limits={**gpu.caps.limits, **{k.replace("_", "-"): v for k, v in limits.items()}})
    case = (OPS | ON_GPUS)[name](size)
    return case.record(WebGPU(gpu.gpu, caps), case.params).dispatches


def spans(d: Dispatch) -> dict[str, tuple[int, int]]:
    found = reach.reach(d.shader, d.constants, d.params, d.grid)
    assert found is not None
    assert found.whole
    return dict(found.spans)


def test_every_kernel_has_a_row() -> None:
    """One without keeps its checks on wgpu, and then Dawn's devices keep theirs: write its row."""
    assert reach.unknown() == ()


@pytest.mark.parametrize("name", [*OPS, *ON_GPUS])
def test_what_is_bound_is_reached_to_its_ends(llvmpipe: WebGPU, name: str) -> None:
    """A row that says less than the kernel does would let a stray index pass. An output is written whole, an input read to its last row:
    but for the padding there, and what lies behind it of another kind or another image."""
    for size in [(1, 1, 1), (2, 5, 7), (1, 6, 9)]:
        for d in recorded(llvmpipe, name, size):
            part = name == "attention" and d.path.endswith((".keys", ".scores", ".values"))  # of one image, of queries, keys and values
            for b in d.bindings:
                begin, end = spans(d).get(b.name, (0, b.nbytes // 4))
                behind = b.nbytes // 4 - end
                assert part or begin == 0
                assert behind == 0 if b in d.outputs and not part else 0 <= behind < (10_000 if part else 12), f"{d.shader} {b.name} {size}"


def test_norms_of_chunks_are_reached_to_their_ends(llvmpipe: WebGPU, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(norms, "WHOLE", 0)
    monkeypatch.setattr(norms, "CHUNK", 32)
    made = [d for d in recorded(llvmpipe, "group_norm", (2, 5, 7)) if d.shader in ("group_stats", "group_finish")]
    assert len({d.shader for d in made}) == 2
    assert all(spans(d)[b.name] == (0, b.nbytes // 4) for d in made for b in d.outputs)


def test_the_images_of_an_attention_are_reached_by_themselves(llvmpipe: WebGPU) -> None:
    """Heads, queries, keys and values lie side by side in one tensor of two images."""
    n, c, pitch = 35, 12, 36
    dispatches = [d for d in recorded(llvmpipe, "attention", (2, n // 7, 7)) if d.path in ("layer.keys", "layer.scores", "layer.values")]
    for image, (keys, scores, values) in enumerate(zip(dispatches[::3], dispatches[1::3], dispatches[2::3], strict=True)):
        begin, end = image * n * pitch, (image * n + n - 1) * pitch
        assert spans(keys)["x"] == (0, end + 2 * c)
        assert spans(scores)["a"] == (begin, end + c)
        assert spans(values)["w"] == (0, end + 3 * c)
        assert spans(values)["out"] == (image * n * c, (image + 1) * n * c)


def test_bands_are_reached_in_their_windows(llvmpipe: WebGPU, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(norms, "CHUNK", 32)
    names = ["linear", "conv3x3", "conv3x3 stride 2 pad 0", "upsample_conv3x3", "group_norm with SiLU"]
    for name in names:
        parts = recorded(llvmpipe, name, (2, 31, 7), max_storage_buffer_binding_size=4096)
        assert len(parts) > len(recorded(llvmpipe, name, (2, 31, 7)))
        for d in parts:
            assert all(begin >= 0 for begin, _ in spans(d).values())


@pytest.mark.parametrize(("op", "row"), [("conv3x3", WINOGRAD[-1]), ("upsample_conv3x3", DIFFERENCES_CPU)])
def test_tiles_are_reached_in_their_windows(llvmpipe: WebGPU, op: str, row: Gemm) -> None:
    dispatches = []
    for size in ((1, 8, 4), (2, 5, 7)):  # whose last tile is whole; and is not
        case = OPS[op](size)
        made = case.record(WebGPU(llvmpipe.gpu, llvmpipe.caps, always(row)), case.params).dispatches
        assert [d.entry for d in made if d.entry != "to_filters"] == len(made) // 3 * ["to_points", "direct", "from_points"]
        dispatches = [*made, *dispatches]
    into = next(d for d in dispatches if d.entry == "to_points")
    for name in ("rows", "k4", "plane", "height"):
        with pytest.raises(LimitError, match=rf"{row.packing}\.wgsl"):
            check(replace(into, params=into.params | {name: into.params[name] + 32}), llvmpipe.caps)
    for d in dispatches:
        for b in d.bindings:
            begin, end = spans(d).get(b.name, (0, b.nbytes // 4))
            assert 0 <= begin <= 64, (d.entry, b.name)  # what a window's alignment adds before it
            assert 4 * end == b.nbytes or (d.entry, b.name) == ("to_points", "w"), (d.entry, b.name)


@pytest.mark.parametrize("kind", ["software", "discrete"])
def test_what_is_read_for_several_conditions_is_reached_once(llvmpipe: WebGPU, kind: Kind) -> None:
    case = cross_lambda((2, 3, 5), copies=3)
    ops = WebGPU(llvmpipe.gpu, replace(llvmpipe.caps, kind=kind), always(CPU))
    d = next(d for d in case.record(ops, case.params).dispatches if d.shader.startswith("cross_lambda"))
    bound = {b.name: b.nbytes // 4 for b in d.bindings}
    assert 3 * bound["residual"] == bound["out"]
    reached = {name: end for name, (_, end) in spans(d).items()}
    assert {name: reached[name] for name in ("q", "keys", "values", "out")} == {n: bound[n] for n in ("q", "keys", "values", "out")}
    assert bound["residual"] - 4 < reached["residual"] <= bound["residual"]  # but for the padding of its last row


# What makes an index larger: (kernel, parameter), and by how much.
WIDER = {
    "concat": ("rows", "a_pitch", "pitch"),
    "cross_lambda": ("images", "positions", "q_pitch", "k4", "v4", "pitch"),
    "cross_lambda_rows": ("rows", "positions", "q_pitch", "k4", "v_dim", "pitch"),
    "depthwise": ("images", "height", "width", "c4"),
    "differences": ("rows", "k4", "plane", "height"),
    "gemm": ("rows", "n4", "k4", "ldb4", "w_offset", "a_offset"),
    "gemm_blocked": ("rows", "n4", "k4", "ldb4", "w_offset", "a_offset"),
    "gemm_matrix": ("rows", "n4", "k4", "ldb4", "w_offset", "a_offset"),
    "group_apply": ("count", "c4"),
    "group_finish": ("groups", "chunks", "channels"),
    "group_stats": ("image0", "chunk0", "pitch"),
    "guided_ddim": ("count",),
    "lambda_apply": ("images", "height", "width", "qkv_pitch", "k4", "v4", "pitch"),
    "group_scale": ("positions", "channels", "a", "pitch"),
    "lambda_content": ("positions", "pitch", "key", "k4", "v4"),
    "lambda_matrix": ("height", "width", "qkv_pitch", "v_dim", "pitch"),
    "lambda_window": ("height", "width", "qkv_pitch", "v_dim", "pitch"),
    "layer_norm": ("rows", "c4"),
    "softmax": ("rows", "n4"),
    "transpose": ("columns", "pitch", "offset", "out_pitch"),
    "repeat": ("count", "copies"),
    "unet_input": ("rows", "y_pitch", "pitch"),
    "winograd": ("n4", "k4"),
}
FROM = {"gemm": "linear", "depthwise": "dwconv", "softmax": "attention", "transpose": "attention", "cross_lambda": "cross_lambda"}
FROM |= {name: "self_lambda" for name in WIDER if name.startswith("lambda_")} | {n: "group_norm" for n in WIDER if n.startswith("group_")}
ON_ROWS = {
    "winograd": ("conv3x3", WINOGRAD[-1]),
    "differences": ("upsample_conv3x3", DIFFERENCES_CPU),
    "gemm_blocked": ("linear", BLOCKED),
    "gemm_matrix": ("linear", UNITS[0]),
}
FROM |= {"lambda_window": "self_lambda of a layer norm, fused", "cross_lambda_rows": "cross_lambda of a layer norm, fused"}


@pytest.mark.parametrize("shader", WIDER)
def test_sizes_that_do_not_fit_what_is_bound_are_refused(llvmpipe: WebGPU, shader: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert WIDER.keys() == reach.REACH.keys()
    if shader in ("group_stats", "group_finish"):  # of large tensors
        monkeypatch.setattr(norms, "WHOLE", 0)
    if shader in ON_ROWS:
        op, row = ON_ROWS[shader]
        case = OPS[op]((1, 5, 7))
        d = case.record(WebGPU(llvmpipe.gpu, llvmpipe.caps, always(row)), case.params).dispatches[0]
    elif shader == "lambda_matrix":
        d = on_units(llvmpipe, self_lambda((1, 5, 7), 8, 12), FORMS[0]).dispatches[-1]
    else:
        d = next(d for d in recorded(llvmpipe, FROM.get(shader, shader), (1, 5, 7)) if d.shader == shader)
    check(d, llvmpipe.caps)
    for name in WIDER[shader]:
        with pytest.raises(LimitError, match=rf"{shader}\.wgsl"):
            check(replace(d, params=d.params | {name: d.params[name] + 32}), llvmpipe.caps)


def test_heads_that_a_thread_would_leave_out_are_refused(llvmpipe: WebGPU) -> None:
    """And lanes that would have no channel: nothing is divided by how many they have."""
    d = next(d for d in recorded(llvmpipe, FROM["cross_lambda_rows"], (1, 5, 7)) if d.shader == "cross_lambda_rows")
    check(d, llvmpipe.caps)
    assert (dict(d.constants)["HEADS"], d.params["k4"]) == (2, 1)
    for wrong in ({"EACH": 3}, {"HEADS": 3}, {"LANES": 2}):
        with pytest.raises(LimitError, match="none that its kernel was written for"):
            check(replace(d, constants=tuple(sorted((dict(d.constants) | wrong).items()))), llvmpipe.caps)


def test_the_variance_of_rows_is_reached_by_itself(llvmpipe: WebGPU) -> None:
    """It is the second entry of a kernel, with the first one's row."""
    d = next(d for d in recorded(llvmpipe, "self_lambda of a layer norm, fused", (2, 5, 3)) if d.entry == "row_variance")
    assert [(b.name, *spans(d)[b.name]) for b in d.bindings] == [("x", 0, 30 * 12), ("variance", 0, 30 * 4)]
    for name in WIDER["layer_norm"]:
        with pytest.raises(LimitError, match=r"layer_norm\.wgsl"):
            check(replace(d, params=d.params | {name: d.params[name] + 32}), llvmpipe.caps)


def test_a_binding_that_the_row_forgot_is_refused(llvmpipe: WebGPU, monkeypatch: pytest.MonkeyPatch) -> None:
    (d,) = recorded(llvmpipe, "layer_norm", (1, 5, 3))
    without = {name: span for name, span in spans(d).items() if name != "bias"}
    monkeypatch.setitem(reach.REACH, "layer_norm", lambda n, grid: reach.Reach(without))
    with pytest.raises(LimitError, match="how far it reaches in bias"):
        check(d, llvmpipe.caps)


def test_windows_that_begin_too_late_are_refused(llvmpipe: WebGPU, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(norms, "WHOLE", 0)
    for name, parameter in (("conv3x3", "a_origin"), ("conv3x3", "out_origin"), ("group_norm", "origin")):
        d = next(d for d in recorded(llvmpipe, name, (2, 5, 7)) if parameter in d.params)
        with pytest.raises(LimitError, match="may reach the words -"):
            check(replace(d, params=d.params | {parameter: 8}), llvmpipe.caps)


def test_a_grid_whose_numbers_wrap_is_refused(llvmpipe: WebGPU) -> None:
    (d,) = recorded(llvmpipe, "concat", (1, 5, 3))
    with pytest.raises(LimitError, match="none that its kernel was written for"):
        check(replace(d, grid=(65535, 1025, 1)), llvmpipe.caps)


ADDED_UP = {  # kernels that add up across threads by halves, and a size that would leave some out
    "group_finish": ("SIZE", 48),
    "group_scale": ("SIZE", 24),
    "group_stats": ("SIZE", 80),
    "layer_norm": ("LANES", 24),
    "softmax": ("SIZE", 63),
}


@pytest.mark.parametrize("shader", ADDED_UP)
def test_threads_that_cannot_be_halved_are_refused(llvmpipe: WebGPU, shader: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sum would leave some of them out. And rows of a workgroup are whole."""
    assert ADDED_UP.keys() == {name for name in reach.REACH if reach.halved(name)}
    assert all(reach.halved(name) == {constant} for name, (constant, _) in ADDED_UP.items())
    if shader in ("group_stats", "group_finish"):
        monkeypatch.setattr(norms, "WHOLE", 0)
    d = next(d for d in recorded(llvmpipe, FROM.get(shader, shader), (1, 5, 7)) if d.shader == shader)
    name, size = ADDED_UP[shader]

    def given(**sizes: int) -> Dispatch:
        return replace(d, constants=tuple(sorted((dict(d.constants) | sizes).items())))

    others = {"SIZE": 72} if name == "LANES" else {}
    check(given(**{name: 8}), llvmpipe.caps)
    with pytest.raises(LimitError, match="none that its kernel was written for"):
        check(given(**{name: size}, **others), llvmpipe.caps)
    if name == "LANES":
        with pytest.raises(LimitError, match="none that its kernel was written for"):
            check(given(LANES=16, SIZE=24), llvmpipe.caps)


def test_chunks_that_begin_within_a_load_are_refused(llvmpipe: WebGPU, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(norms, "WHOLE", 0)
    d = next(d for d in recorded(llvmpipe, "group_norm", (2, 5, 7)) if d.shader == "group_stats")

    def given(width: int, **params: int) -> Dispatch:
        constants = dict(d.constants) | norms.VALUES[width]
        return replace(d, constants=tuple(sorted(constants.items())), params=d.params | {"positions": 3, "chunk": 1} | params)

    for good in (given(1, pitch=13), given(4, channels=4)):
        check(good, llvmpipe.caps)
    for bad in (given(4), given(4, channels=2), given(4, channels=4, pitch=14), given(4, channels=4, origin=6)):
        with pytest.raises(LimitError, match="none that its kernel was written for"):
            check(bad, llvmpipe.caps)


def test_loads_across_groups_and_tensors_are_refused(llvmpipe: WebGPU) -> None:
    """Of the twelve channels of three groups eight are in the first of two tensors."""
    (d,) = (d for d in recorded(llvmpipe, "dwconv of a group norm of two, fused", (2, 5, 7)) if d.shader == "group_scale")

    def given(width: int, value: str, joined: bool = True, **params: int) -> Dispatch:
        constants = dict(d.constants) | {"WIDTH": width, "Value": value, "JOINED": joined}
        bindings = [b for b in d.bindings if joined or b.name != "joined"]
        return replace(d, constants=tuple(sorted(constants.items())), params=d.params | params, bindings=bindings)

    assert dict(d.constants)["WIDTH"] == 4
    assert spans(d)["x"] == (0, 70 * 8)
    assert spans(d)["joined"] == (0, 70 * 4)
    for good in (given(4, "vec4<f32>"), given(2, "vec2<f32>", channels=2, a=6, b=2), given(1, "f32", channels=1, a=3, b=1)):
        check(good, llvmpipe.caps)
    check(given(4, "vec4<f32>", joined=False, a=12, b=3, positions=20), llvmpipe.caps)  # there is no second one
    for bad in (
        *(given(4, "vec4<f32>", positions=17, **params) for params in ({"channels": 2}, {"a": 6, "b": 8}, {"b": 6})),
        *(given(2, "vec2<f32>", positions=17, **params) for params in ({"channels": 3}, {"a": 7, "b": 6}, {"b": 7})),
        *(given(2, "vec4<f32>"), given(1, "vec2<f32>"), given(4, "f32")),
    ):
        with pytest.raises(LimitError, match="none that its kernel was written for"):
            check(bad, llvmpipe.caps)


def test_lines_that_do_not_fill_their_parts_and_lanes_beyond_a_row_are_refused(llvmpipe: WebGPU) -> None:
    d = next(d for d in recorded(llvmpipe, "self_lambda", (1, 5, 7)) if d.shader == "lambda_content")

    def given(**sizes: int) -> Dispatch:
        return replace(d, constants=tuple(sorted((dict(d.constants) | sizes).items())))

    check(given(LINES=24), llvmpipe.caps)
    for sizes in ({"LINES": 12}, {"LANES": 2}):  # the grid has a workgroup for every vec4 of a row
        with pytest.raises(LimitError, match="none that its kernel was written for"):
            check(given(**sizes), llvmpipe.caps)


NO_WINDOWS: tuple[dict[str, int], ...] = (
    *({"FN": 32}, {"FK": 32}, {"FN": 4}, {"HEADS": 9}, {"HEADS": 4}, {"SHARE": 2}, {"LANES": 1}),
    *({"BAND": 8, "FN": 8, "FK": 8}, {"BAND": 32, "HEADS": 4}),
)


@pytest.mark.parametrize("other", NO_WINDOWS, ids=str)
def test_units_that_a_window_was_not_written_for_are_refused(llvmpipe: WebGPU, other: dict[str, int]) -> None:
    """Columns that no logit is made of would be left out, or read where nobody wrote."""
    d = on_units(llvmpipe, self_lambda((1, 5, 7), 8, 12), FORMS[0]).dispatches[-1]
    check(d, llvmpipe.caps)
    with pytest.raises(LimitError, match=r"lambda_matrix.*none that its kernel was written for"):
        check(replace(d, constants=tuple(sorted((dict(d.constants) | other).items()))), llvmpipe.caps)


def test_a_step_without_a_row_in_the_tables_is_refused(llvmpipe: WebGPU) -> None:
    rows = DDIM().coefficients(np.array([900, 450, 0]), 20)
    plan = llvmpipe.record(lambda y, e: llvmpipe.guided_ddim(e, y, rows, 2.5), [(1, 5, 3, 4), (2, 5, 3, 4)])
    plan.replay(2)
    for run in (plan.replay, plan.find_non_finite):
        for step in (3, -1):
            with pytest.raises(MoebiusError, match=rf"3 steps.*step {step}"):
                run(step)


def test_a_plan_without_tables_takes_no_step_that_has_no_number(llvmpipe: WebGPU) -> None:
    case = OPS["layer_norm"]((1, 1, 1))
    plan = case.record(llvmpipe, case.params)
    plan.replay(MAX_STEPS - 1)
    with pytest.raises(MoebiusError, match=rf"{MAX_STEPS} steps.*step {MAX_STEPS}"):
        plan.replay(MAX_STEPS)


def test_a_workgroup_wider_than_the_device_has_is_refused(llvmpipe: WebGPU) -> None:
    (d,) = recorded(llvmpipe, "layer_norm", (1, 5, 3))
    narrow = replace(llvmpipe.caps, limits={**llvmpipe.caps.limits, "max-compute-workgroup-size-x": d.workgroup[0] - 1})
    check(d, llvmpipe.caps)
    with pytest.raises(LimitError, match=r"layer_norm"):
        check(d, narrow)
