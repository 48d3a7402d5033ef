"""The tuner: what it measures and keeps, which kernels it drops, and when it leaves a device alone."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from cases import OPS, Case, conv3x3, group_norm, linear
from test_fused import FUSED, chained

from moebius.backends.webgpu import WebGPU, choice, gemm, menu
from moebius.backends.webgpu.calls import GemmCall
from moebius.backends.webgpu.caps import Caps
from moebius.backends.webgpu.device import Device
from moebius.backends.webgpu.menu import CPU, CPU_THIN, Gemm
from moebius.backends.webgpu.plan import Plan
from moebius.backends.webgpu.tuned import Pick, Table, Tuned, shape_of, why
from moebius.backends.webgpu.tuner import Tuner, differs, shapes
from moebius.cli.main import run
from moebius.errors import DeviceLostError, MoebiusError, OutOfMemoryError
from moebius.inpaint import tuning
from moebius.inpaint.device import open_device
from moebius.web.edition import ForBrowsers
from moebius.weights import folders

OTHER = Gemm("direct", 2, 1, 8, 8, software=True)
ROWS = (CPU, CPU_THIN, OTHER)


def calls_of(gpu: WebGPU, name: str | Case, size: tuple[int, int, int] = (2, 5, 7)) -> list[GemmCall]:
    case = OPS[name](size) if isinstance(name, str) else name
    params = case.params
    return gpu.layers(*forward(case, gpu, params))[0]


def forward(case: Case, gpu: WebGPU, params: Any) -> tuple[Callable[..., Any], list[tuple[int, ...]]]:
    floats = [np.moveaxis(a, 1, -1).shape for a in case.inputs if a.dtype.kind == "f"]

    def call(*tensors: Any) -> Any:
        rest = iter(tensors)
        return case.call(gpu, params, *(a if a.dtype.kind == "i" else next(rest) for a in case.inputs))

    return call, floats


def three(caps: Caps, call: GemmCall) -> tuple[Gemm, ...]:
    return ROWS


def clock(ms: dict[str, float]) -> Callable[[Sequence[tuple[Plan, int]]], list[float]]:
    """Milliseconds of each row, by key."""
    return lambda batches: [
        repeats * ms[next(d.kernel for d in plan.dispatches if d.kernel).partition(";")[0]] for plan, repeats in batches
    ]


TIMES = {CPU.key: 1.0, CPU_THIN.key: 2.0, OTHER.key: 0.5}


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of its own, and a tuner that is on, as outside of tests."""
    monkeypatch.setenv("MOEBIUS_CACHE", str(tmp_path))
    monkeypatch.delenv("MOEBIUS_TUNE", raising=False)
    monkeypatch.delenv("CI", raising=False)
    return tmp_path


# measuring -----------------------------------------------------------------------------------------------------------
def test_the_fastest_row_takes_the_place_of_the_default_and_little_is_noise(llvmpipe: WebGPU) -> None:
    (call,) = calls_of(llvmpipe, "linear")
    for other, row, gain in ((0.5, OTHER, 2.0), (0.98, CPU, 1.0), (3.0, CPU, 1.0)):
        table = Table()
        (found,) = Tuner(llvmpipe.gpu, llvmpipe.caps, three, clock(TIMES | {OTHER.key: other})).run([call], table)
        assert found.ms == TIMES | {OTHER.key: other}
        assert table.picks == {shape_of(call): Pick(row.key, gain, 3)}
        assert Tuned(table, {r.key: r for r in ROWS})(llvmpipe.caps, call) is row


@pytest.mark.parametrize("name", ["dwconv with all", "conv3x3 stride 2 pad 0", "upsample_conv3x3", "self_lambda", "attention"])
def test_every_kind_of_layer_can_be_measured(llvmpipe: WebGPU, name: str) -> None:
    """On operands of its own: heads in rows, matrices within tensors, shifts and residuals."""
    calls = calls_of(llvmpipe, name)
    found = Tuner(llvmpipe.gpu, llvmpipe.caps, three, clock(TIMES)).run(calls, table := Table())
    assert not table.wrong
    assert {row.shape for row in found} == shapes(calls).keys()
    assert all(len(row.ms) == 3 for row in found)


@pytest.mark.parametrize("name", ["linear of two", "linear of a group norm with SiLU", "feed_forward of a layer norm"])
def test_what_a_layer_makes_as_it_loads_is_measured_on_numbers_of_its_own(
    llvmpipe: WebGPU, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Tensors of a plan that has not run are zeros, on which a norm done wrong would look right."""
    gpu, case = as_hardware(llvmpipe), FUSED[name][0]((2, 5, 7))
    first, *_ = calls_of(gpu, case)
    wrong, constants = replace(OTHER, wgx=4), Gemm.constants
    monkeypatch.setattr(Gemm, "constants", lambda self: constants(self) | ({"NORM_SILU": False} if self == wrong else {}))
    tuner = Tuner(gpu.gpu, gpu.caps, lambda *_: (CPU, wrong, OTHER), clock(TIMES | {wrong.key: 1.0}))
    assert np.isfinite(np.concatenate(tuner._result(tuner._plan(tuner._stand_in(first), CPU)))).all()
    found = tuner.measure(first)
    assert list(found.wrong) == ([wrong.key] if "SiLU" in name else [])
    assert OTHER.key in found.ms
    norm, spread = first.operands.norm, first.epilogue.spread
    for tensor in (first.operands.joined, norm and norm.table, spread and spread.variance):
        if tensor is not None:
            with pytest.raises(MoebiusError, match="no memory yet"):
                _ = tensor.buffer.handle


def test_a_norm_that_is_made_for_a_convolution_is_measured_with_it(llvmpipe: WebGPU, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the bands of the plan, each behind its part of the norm; or as it is loaded."""
    monkeypatch.setattr(gemm, "NORMED", 4 * 4 * 16 * 12)  # of two lines, with those above and below
    gpu, case = as_hardware(llvmpipe), chained(group_norm((2, 7, 16), silu=True), conv3x3((2, 7, 16), 9, residual=False))
    tuner = Tuner(gpu.gpu, gpu.caps, lambda *_: (CPU, OTHER, menu.WINOGRAD[-1]), clock(TIMES | {menu.WINOGRAD[-1].key: 1.0}))
    for row, norms in ((CPU, 8), (menu.WINOGRAD[-1], 0)):
        on = WebGPU(gpu.gpu, gpu.caps, lambda *_, row=row: row)
        (call,), plan = on.layers(*forward(case, on, case.params))
        made, measured = plan.recording.steps, tuner._plan(tuner._stand_in(call), row).recording.steps
        made = [d for d in made if d.shader != "group_scale"]
        assert [(d.shader, d.entry, d.grid) for d in measured] == [(d.shader, d.entry, d.grid) for d in made]
        assert [d.shader for d in measured].count("group_apply") == norms
    found = tuner.measure(call)
    assert (found.wrong, len(found.ms)) == ({}, 3)


def test_a_clock_of_the_machine_is_asked_for_long_enough(llvmpipe: WebGPU) -> None:
    (call,) = calls_of(llvmpipe, "linear")
    asked: list[int] = []

    def short(batches: Sequence[tuple[Plan, int]]) -> list[float]:
        ((_, repeats),) = batches
        asked.append(repeats)
        return [(0.3 if len(asked) > 1 else 1.0) * repeats]  # slow at first

    tuner = Tuner(llvmpipe.gpu, llvmpipe.caps, lambda *_: (CPU,), short)
    tuner.measure(call)
    assert (tuner.by, asked) == ("wall", [1, 2, 7, *[7] * 5])  # 2 ms at least, five times
    real = Tuner(llvmpipe.gpu, llvmpipe.caps, lambda *_: (CPU, OTHER)).measure(call)
    assert all(0 < ms < 1000 for ms in real.ms.values())


def test_rows_are_compared_at_one_clock_and_timed_at_the_highest(llvmpipe: WebGPU) -> None:
    """Of a GPU that is slow until it has worked for a while, and never the same."""
    gpu = as_hardware(llvmpipe)
    (call,) = calls_of(gpu, "linear")
    worked, steady, asked = 0.0, clock(TIMES), []

    def rising(batches: Sequence[tuple[Plan, int]]) -> list[float]:
        nonlocal worked
        asked.append(len(batches))
        slow = (6.0 if worked < 30 else 2.0 if worked < 55 else 1.0) * (1.2 if len(asked) % 3 == 0 and worked > 200 else 1.0)
        out = [slow * ms for ms in steady(batches)]
        worked += sum(out)
        return out

    found = Tuner(gpu.gpu, gpu.caps, three, rising).measure(call)
    assert found.ms == pytest.approx(TIMES)
    warm = asked.index(3)
    assert asked == [1] * warm + [3] * (len(asked) - warm)  # then all of them in every round
    assert warm > 4
    stuck = Tuner(gpu.gpu, gpu.caps, three, lambda batches: [0.0] * len(batches))  # a clock that stands still ends, too
    assert max(stuck.measure(call).ms.values()) < 1e-3


def test_a_row_is_compared_with_the_default_round_by_round(llvmpipe: WebGPU) -> None:
    """On a clock that changes within a round, too: what counts is the middle one of the comparisons, not of the times."""
    (call,) = calls_of(llvmpipe, "linear")
    rounds = iter([(10.0, 10.0), (10.0, 5.0), (20.0, 10.0), (10.0, 50.0), (20.0, 10.0), (10.0, 50.0)])  # the first is long enough already
    found = Tuner(llvmpipe.gpu, llvmpipe.caps, lambda *_: (CPU, OTHER), lambda _: list(next(rounds))).measure(call)
    assert found.ms == pytest.approx({CPU.key: 10.0, OTHER.key: 5.0})
    assert not list(rounds)


def test_time_that_ends_while_rows_are_timed_leaves_one_round(llvmpipe: WebGPU) -> None:
    (call,) = calls_of(llvmpipe, "linear")
    for most in (0, 1, 3):
        taken: list[int] = []

        def quick(batches: Sequence[tuple[Plan, int]], taken: list[int] = taken) -> list[float]:
            taken.append(batches[0][1])
            return [1.0] * len(batches)

        tuner = Tuner(llvmpipe.gpu, llvmpipe.caps, three, quick)
        found = tuner.measure(call, enough=lambda taken=taken, most=most: len(taken) > most)
        assert (len(taken), len(found.ms)) == (most + 2, 3)  # those that settle, and one that counts


class Clocks:
    """In place of `timed`: milliseconds of one run of a pass, which both clocks show, the timestamps in whole steps and `lost` of them not
    at all."""

    def __init__(self, ms: float, step: float, lost: int = 0) -> None:
        self.ms, self.step, self.lost = ms, step, lost
        self.asked: list[tuple[str, int]] = []
        self.runs = 0

    def encode(self, plan: Plan, repeats: int, run: Any) -> None:
        self.runs += repeats

    def __call__(self, device: Device, passes: Sequence[Callable[[Any], None]], clock: str) -> np.ndarray:
        out = []
        for each in passes:
            self.runs = 0
            each(None)
            ms = self.ms * self.runs
            if clock == "timestamp":
                ms = ms // self.step * self.step if self.step else 0.0
                if self.lost:
                    self.lost, ms = self.lost - 1, 0.0
            self.asked.append((clock, self.runs))
            out.append(ms + 0.2 * (clock == "wall"))
        return np.array(out)


@pytest.mark.parametrize(
    ("ms", "step", "lost", "by", "most"),
    [
        (0.01, 0.0655, 0, "timestamp", 400),  # a run is over within a step of the clock
        (5.0, 0.0655, 1, "timestamp", 2),  # a driver loses one
        (5.0, 0.0, 0, "wall", 2),  # a clock that stands still, found out by one run
        (0.01, 0.0, 0, "wall", 1000),  # by as many as take a while, and no more
    ],
)
def test_timestamps_are_given_up_where_they_show_nothing_of_what_took_long(
    llvmpipe: WebGPU, monkeypatch: pytest.MonkeyPatch, ms: float, step: float, lost: int, by: str, most: int
) -> None:
    """The times are right either way, and nothing is asked for that would keep a GPU busy for seconds."""
    (call,) = calls_of(llvmpipe, "linear")
    clocks = Clocks(ms, step, lost)
    monkeypatch.setattr("moebius.backends.webgpu.tuner.timed", clocks)
    monkeypatch.setattr("moebius.backends.webgpu.tuner.encode", clocks.encode)
    tuner = Tuner(llvmpipe.gpu, llvmpipe.caps, lambda *_: (CPU, OTHER))
    tuner.by = "timestamp"
    found = tuner.measure(call)
    assert tuner.by == by
    assert list(found.ms.values()) == pytest.approx([ms, ms], rel=0.3)  # the wall's clock has the way there and back in it
    assert max(runs for _, runs in clocks.asked) <= most
    if by == "wall":
        assert {clock for clock, _ in clocks.asked[-10:]} == {"wall"}


def test_weights_that_were_only_tried_take_no_memory(llvmpipe: WebGPU) -> None:
    case = OPS["linear"]((2, 5, 7))
    params = case.params
    calls, plan = llvmpipe.layers(*forward(case, llvmpipe, params))
    weight, bias = calls[0].operands.w.binding.buffer, calls[0].epilogue.bias
    assert bias is not None
    bias.buffer.allocate()
    held = bias.buffer.handle
    Tuner(llvmpipe.gpu, llvmpipe.caps, three, clock(TIMES)).run(calls, Table())
    assert bias.buffer.handle is held
    with pytest.raises(MoebiusError, match="no memory yet"):
        _ = weight.handle
    plan.prepare()
    np.testing.assert_array_equal(weight.read(16), case.params["weight"].reshape(10, 13)[:4, 0])


def test_bands_are_measured_by_their_first(llvmpipe: WebGPU) -> None:
    (call,) = calls_of(llvmpipe, "conv3x3", (2, 31, 7))
    small = replace(llvmpipe.caps, limits={**llvmpipe.caps.limits, "max-storage-buffer-binding-size": 4096})
    assert len(Tuner(llvmpipe.gpu, small, three, clock(TIMES)).measure(call).ms) == 3


@pytest.mark.parametrize(("broken", "says"), [("sum", "differs by"), ("place", "are not there")])
def test_a_row_that_computes_something_else_is_dropped_and_named(
    llvmpipe: WebGPU, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, cache: Path, broken: str, says: str
) -> None:
    """As under a driver that compiles one kernel wrong: with a SiLU that the layer does not have, or so that half of its rows miss."""
    wrong, constants, grid = replace(OTHER, wgx=4), Gemm.constants, Gemm.grid
    if broken == "sum":
        monkeypatch.setattr(Gemm, "constants", lambda self: constants(self) | ({"ACT": 1} if self == wrong else {}))
    else:
        monkeypatch.setattr(Gemm, "grid", lambda self, call, rows: grid(self, call, rows // 2 if self == wrong else rows))
    (call,) = calls_of(llvmpipe, "linear")
    table = Table()
    times = TIMES | {wrong.key: 0.1}
    tuner = Tuner(llvmpipe.gpu, llvmpipe.caps, lambda *_: (CPU, wrong, CPU_THIN), clock(times))
    with caplog.at_level(logging.WARNING, logger="moebius"):
        assert tuning.measure(llvmpipe, [call], table, tuner=tuner) == 1
    assert says in table.wrong[wrong.key]
    assert table.picks[shape_of(call)].row == CPU.key
    assert wrong.key in caplog.text
    assert "driver" in caplog.text
    later = tuner.measure(call, table.wrong)
    assert wrong.key not in later.ms | later.wrong
    # Nor is it taken where a table of an earlier run names it.
    table.picks[shape_of(call)] = Pick(wrong.key, 9.0, 3)
    assert Tuned(table, {r.key: r for r in (CPU, wrong)}).measured(llvmpipe.caps, call) is None


def test_a_default_that_makes_no_number_is_none(llvmpipe: WebGPU, monkeypatch: pytest.MonkeyPatch) -> None:
    """As matrix units do where a subgroup is not what the device says. The others are held to the next row, and nobody gets the default."""
    (call,) = calls_of(llvmpipe, "linear")
    default, grid = choice.choose(llvmpipe.caps, call), Gemm.grid
    monkeypatch.setattr(choice, "candidates", lambda caps, call: (default, CPU_THIN, OTHER))
    monkeypatch.setattr(Gemm, "grid", lambda self, call, rows: (0, 0, 0) if self == default else grid(self, call, rows))
    table, times = Table(), TIMES | {default.key: 0.1}
    tuner = Tuner(llvmpipe.gpu, llvmpipe.caps, lambda *_: (default, CPU_THIN, OTHER), clock(times))
    assert len(tuner.run([call], table)) == 1
    assert table.wrong.keys() == {default.key}
    assert table.picks == {shape_of(call): Pick(OTHER.key, 4.0, 2)}
    elsewhere = Tuned(Table({}, table.wrong), {})
    assert elsewhere(llvmpipe.caps, call) == CPU_THIN
    assert why(elsewhere, llvmpipe.caps, call) == "the default is wrong"
    assert Tuned(Table({}, dict.fromkeys(times, "")), {})(llvmpipe.caps, call) == default  # where all are, there is nothing better
    late = tuner.measure(call, enough=lambda: True)
    assert (late.ms, late.wrong.keys(), late.whole) == ({}, {default.key}, False)  # a budget counts before there is a number too


def test_a_row_that_was_wrong_once_is_tried_again_by_who_asks_for_it_alone(llvmpipe: WebGPU, cache: Path) -> None:
    (call,) = calls_of(llvmpipe, "linear")
    tuner, file = Tuner(llvmpipe.gpu, llvmpipe.caps, three, clock(TIMES)), tuning.file_of(llvmpipe)
    blamed = {OTHER.key: "differs", CPU_THIN.key: "differs", "not in the menu": "differs"}
    tuning.keep(file, Table({}, blamed, 1.0))
    by_itself = tuning.read(file)
    tuning.measure(llvmpipe, [call], by_itself, tuner=tuner)
    assert tuning.read(file).wrong == blamed
    tuning.measure(llvmpipe, [call], Table(), tuner=tuner)
    assert tuning.read(file).wrong == {"not in the menu": "differs"}
    assert tuning.read(file).picks[shape_of(call)].row == OTHER.key


def test_a_row_that_does_not_compile_is_dropped_and_the_default_is_not(llvmpipe: WebGPU, monkeypatch: pytest.MonkeyPatch) -> None:
    (call,) = calls_of(llvmpipe, "linear")
    pipeline = llvmpipe.gpu.pipeline

    def refusing(shader: str, entry: str, constants: Any) -> Any:
        if dict(constants)["TM"] == refused:
            raise MoebiusError("the compiler gave up")
        return pipeline(shader, entry, constants)

    monkeypatch.setattr(llvmpipe.gpu, "pipeline", refusing)
    refused, tuner = OTHER.tm, Tuner(llvmpipe.gpu, llvmpipe.caps, three, clock(TIMES))
    found = tuner.measure(call)
    assert list(found.wrong) == [OTHER.key]
    refused = CPU.tm
    with pytest.raises(MoebiusError, match="gave up"):
        tuner.measure(call)


def test_a_lack_of_memory_is_no_fault_of_a_row(llvmpipe: WebGPU, monkeypatch: pytest.MonkeyPatch) -> None:
    (call,) = calls_of(llvmpipe, "linear")
    result = Tuner._result

    def short(self: Tuner, plan: Plan) -> Any:
        if plan.dispatches[0].kernel.startswith(OTHER.key):
            raise OutOfMemoryError("no memory for this")
        return result(self, plan)

    monkeypatch.setattr(Tuner, "_result", short)
    found = Tuner(llvmpipe.gpu, llvmpipe.caps, three, clock(TIMES)).measure(call)
    assert found.ms.keys() == {CPU.key, CPU_THIN.key}
    assert not found.wrong


def test_what_a_clock_shows_nothing_of_may_have_taken_all_but_one_of_its_steps(llvmpipe: WebGPU) -> None:
    """And not nothing: that would be a gain without end, where there is time for one round alone."""
    plans: list[Any] = [SimpleNamespace(dispatches=[SimpleNamespace(kernel=row.key)]) for row in (CPU, OTHER)]
    tuner = Tuner(llvmpipe.gpu, llvmpipe.caps, three, clock({CPU.key: 0.131, OTHER.key: 0.0}))
    assert tuner._times(plans, lambda: True) == pytest.approx([0.131, 0.0655])


def test_time_ends_between_two_rows_and_a_shape_half_measured_is_none(llvmpipe: WebGPU) -> None:
    calls = [*calls_of(llvmpipe, "linear"), *calls_of(llvmpipe, "dwconv with all")]
    for seconds, begun in ((5.0, 1), (12.0, 2)):  # before the second one; when it has one of its rows left
        seen, reported = iter(range(100)), list[int]()
        table = Table(seconds=1.0)
        tuner = Tuner(llvmpipe.gpu, llvmpipe.caps, three, clock(TIMES))
        found = tuner.run(
            calls, table, seconds, lambda seen=seen: float(next(seen)), lambda done, of, row, reported=reported: reported.append(done)
        )
        assert (len(found), len(reported), reported[-1]) == (1, begun, 1)
        assert len(table.picks) == 1
        assert table.seconds > seconds


def test_rounding_is_not_taken_for_a_fault(llvmpipe: WebGPU) -> None:
    (call,) = calls_of(llvmpipe, "linear")
    want = np.random.default_rng(0).standard_normal(1000).astype(np.float32)
    assert not differs([want * np.float32(1 + 3e-7)], [want], call)
    assert differs([want * np.float32(1 + 1e-4)], [want], call)
    assert differs([np.where(want > 2, np.float32(np.nan), want)], [want], call)
    hole = np.where(want > 2, np.float32(np.nan), want)  # what neither of them writes
    assert not differs([hole], [hole], call)


def test_a_few_rows_and_what_runs_once_are_no_shapes(llvmpipe: WebGPU) -> None:
    (call,) = calls_of(llvmpipe, "linear", (1, 1, 3))
    assert not shapes([call])
    (call,) = calls_of(llvmpipe, "linear")
    assert not shapes([replace(call, prologue=True)])
    assert list(shapes([call, call])) == ["rows 35x10x13"]


def test_a_shape_is_measured_with_two_images_where_it_has_them(llvmpipe: WebGPU) -> None:
    """A guided step begins with layers of one image, which has half of the workgroups of two; a batch has more."""
    one, two, five = (calls_of(llvmpipe, linear((images, 5, 7)))[0] for images in (1, 2, 5))
    for order in ([one, two, five], [two, one], [five, one, two]):
        assert list(shapes(order).values()) == [two]
    assert list(shapes([five, one]).values()) == [one]


# the table -----------------------------------------------------------------------------------------------------------
def test_a_table_is_what_was_written_and_nothing_else_is_one() -> None:
    table = Table({"rows 1x2x3": Pick("direct", 1.25, 4)}, {"tiled": "differs"}, 2.5)
    assert Table.of_json(json.loads(json.dumps(table.as_json()))) == table
    for note in (None, [], {"picks": []}, {"picks": {}, "wrong": {}}, {"picks": {}, "wrong": {}, "seconds": "1"}):
        assert Table.of_json(note) == Table()
    assert Table.of_json({"picks": {"a": ["r", 10**400, 2]}, "wrong": {}, "seconds": 10**400}) == Table()  # no float
    some = {
        "picks": {"a": ["r", 1, 2], "b": "r", "c": ["r", float("nan"), 2], "d": [1, 1.0, 2]},
        "wrong": {"x": 3},
        "seconds": float("nan"),
    }
    assert Table.of_json(some) == Table({"a": Pick("r", 1.0, 2)}, {}, 0.0)


def test_a_pick_that_is_no_row_or_does_not_fit_gives_way_to_the_default(llvmpipe: WebGPU) -> None:
    (call,) = calls_of(llvmpipe, "linear")
    default = choice.choose(llvmpipe.caps, call)
    tight = replace(llvmpipe.caps, limits={**llvmpipe.caps.limits, "max-compute-invocations-per-workgroup": 32})
    for row, caps in (("no such row", llvmpipe.caps), (menu.LINES.key, llvmpipe.caps), (OTHER.key, tight)):
        chooser = Tuned(Table({shape_of(call): Pick(row, 2.0, 3)}), {r.key: r for r in (*menu.GEMMS, OTHER)})
        assert chooser(caps, call) == default


def test_a_cache_that_cannot_be_read_is_ignored_and_one_that_can_grows(llvmpipe: WebGPU, cache: Path) -> None:
    file = tuning.file_of(llvmpipe)
    assert tuning.read(file) == Table()
    tuning.keep(file, Table({"a": Pick("x", 1.0, 1)}, {}, 1.0))
    tuning.keep(file, Table({"b": Pick("y", 1.0, 1)}, {"z": "differs"}, 2.0))  # another process
    assert tuning.read(file) == Table({"a": Pick("x", 1.0, 1), "b": Pick("y", 1.0, 1)}, {"z": "differs"}, 2.0)
    for text in (b"", b"{", b"\xff\xfe", b"[]", b'{"picks": 1}', b"[" * 100_000):
        file.write_bytes(text)
        assert tuning.read(file) == Table()
        assert tuning.apply(llvmpipe) == Table()
    tuning.keep(file / "below a file" / "x.json", Table())  # nothing is raised
    tuning.keep(file, Table({"a": Pick("x", 1.0, 1)}, {}, 1.0))  # in place of what could not be read
    assert tuning.read(file).picks.keys() == {"a"}
    assert folders.OWN["tuned"].fullmatch(file.name)


def test_a_table_is_of_one_device_driver_version_and_shaders(
    llvmpipe: WebGPU, swiftshader: WebGPU, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tuning.file_of(llvmpipe)
    assert tuning.file_of(swiftshader) != file
    monkeypatch.setattr("moebius.inpaint.verdicts.shaders_digest", lambda: "other")
    assert tuning.file_of(llvmpipe) != file


# by itself -----------------------------------------------------------------------------------------------------------
class Fake:
    """In place of the tuner: notes what it was given, and finds that OTHER is the fastest."""

    given: list[tuple[int, float]]

    def __init__(self) -> None:
        self.given = []

    def __call__(self, ops: WebGPU, calls: list[GemmCall], table: Table, seconds: float, **_: Any) -> int:
        self.given.append((len(calls), seconds))
        new = {shape: Pick(OTHER.key, 1.5, 3) for shape in shapes(calls)}
        table.picks |= new
        table.seconds += 1.0
        return len(new)


def as_hardware(gpu: WebGPU) -> WebGPU:
    """The same device, taken for a GPU."""
    return WebGPU(gpu.gpu, replace(gpu.caps, kind="discrete"))


def test_a_gpu_is_tried_when_its_first_plan_is_made_and_again_for_new_shapes(
    llvmpipe: WebGPU, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, cache: Path
) -> None:
    monkeypatch.setattr(choice, "ROWS", (*menu.ROWS, OTHER))
    monkeypatch.setattr("moebius.backends.webgpu.tuned.ROWS", (*menu.ROWS, OTHER))
    fake = Fake()
    monkeypatch.setattr(tuning, "measure", fake)
    gpu = as_hardware(llvmpipe)
    tuning.prepare(gpu)

    class Net:
        def __init__(self, gpu: WebGPU, size: tuple[int, int, int]) -> None:
            self.forward_, self.shapes = forward(case := OPS["linear"](size), gpu, case.params)

        def forward(self, *tensors: Any) -> Any:
            return self.forward_(*tensors)

    nets = [Net(gpu, (2, 5, 7)), Net(gpu, (2, 5, 7)), Net(gpu, (2, 9, 7))]
    with caplog.at_level(logging.WARNING, logger="moebius"):
        plans = [gpu.plan(net.forward, net.shapes) for net in nets]
    assert [round(seconds, 1) for _, seconds in fake.given] == [3.0, 2.0]
    assert caplog.text.count("which kernels are fastest") == 1
    for plan in plans:  # recorded again, with what was found
        assert plan.dispatches[0].kernel == f"{OTHER.key}; measured, 1.50× the default"
    # Until the tuner comes back, another start would not try again: it may have crashed.
    assert tuning.read(tuning.file_of(gpu)).seconds == tuning.BUDGET
    crashed = as_hardware(llvmpipe)
    tuning.prepare(crashed)
    net = Net(crashed, (2, 9, 7))
    crashed.plan(net.forward, net.shapes)
    assert len(fake.given) == 2


def test_who_is_never_tried_by_itself(llvmpipe: WebGPU, monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    tuning.keep(tuning.file_of(llvmpipe), Table({"a": Pick("x", 1.0, 1)}, {}, 1.0))
    tuning.prepare(gpu := WebGPU(llvmpipe.gpu))
    assert gpu.tuner is None  # a software driver
    assert isinstance(gpu.choose, Tuned)
    assert gpu.choose.table.picks
    for name, value in (("CI", "true"), ("MOEBIUS_TUNE", "0")):
        with monkeypatch.context() as patch:
            patch.setenv(name, value)
            tuning.prepare(gpu := as_hardware(llvmpipe))
            assert gpu.tuner is None
            assert isinstance(gpu.choose, Tuned)
            assert bool(gpu.choose.table.picks) == (name == "CI")
    tuning.prepare(gpu := as_hardware(llvmpipe))
    assert gpu.tuner is not None


def test_a_device_that_is_opened_for_pictures_has_its_table(llvmpipe: WebGPU, monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    monkeypatch.setattr("moebius.inpaint.verdicts.fault", lambda ops: "")
    tuning.keep(tuning.file_of(llvmpipe), Table({"a": Pick("x", 1.0, 1)}, {}, 1.0))
    ops = open_device("llvmpipe")
    assert isinstance(ops, WebGPU)
    assert isinstance(ops.choose, Tuned)
    assert ops.choose.table.picks.keys() == {"a"}
    assert ForBrowsers("llvmpipe").choose is choice.choose  # a page gets the defaults


@pytest.mark.parametrize("error", [MoebiusError, OutOfMemoryError])
def test_a_tuner_that_fails_leaves_the_defaults(
    llvmpipe: WebGPU, monkeypatch: pytest.MonkeyPatch, cache: Path, error: type[MoebiusError]
) -> None:
    def failing(*_: Any, **__: Any) -> int:
        raise error("no memory for this")

    monkeypatch.setattr(tuning, "measure", failing)
    assert tuning.Automatic(Table())(llvmpipe, calls_of(llvmpipe, "linear")) is False


def test_a_device_that_is_lost_over_a_kernel_is_not_tried_again(llvmpipe: WebGPU, monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    def losing(*_: Any, **__: Any) -> Any:
        raise DeviceLostError("it was lost")

    monkeypatch.setattr(Tuner, "run", losing)
    with pytest.raises(DeviceLostError):
        tuning.Automatic(Table())(llvmpipe, calls_of(llvmpipe, "linear"))
    assert tuning.read(tuning.file_of(llvmpipe)).seconds == tuning.BUDGET


# the command ---------------------------------------------------------------------------------------------------------
def test_the_command_measures_keeps_and_says(
    llvmpipe: WebGPU, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], cache: Path
) -> None:
    """On a software driver too, for it was asked for."""
    monkeypatch.setattr("moebius.cli.tune.layers", lambda ops, config: calls_of(ops, "linear"))
    monkeypatch.setattr(Tuner, "_clock", lambda self, batches: clock(TIMES)(batches))
    monkeypatch.setattr(choice, "candidates", three)
    monkeypatch.setattr(Tuner.__init__, "__defaults__", (three, None))
    assert run(["tune", "--config", "tiny", "--adapter", "llvmpipe", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert [row["kernel"] for row in said["shapes"]] == [OTHER.key]
    assert said["shapes"][0]["ms"] == TIMES
    assert said["clock"] == "wall"
    assert tuning.read(tuning.file_of(llvmpipe)).picks == {"rows 35x10x13": Pick(OTHER.key, 2.0, 3)}
    assert run(["tune", "--config", "tiny", "--adapter", "llvmpipe"]) == 0
    said = capsys.readouterr().out
    assert f"{OTHER.key} (2.00 times as fast)" in said
    assert "not measured" not in said
    assert run(["tune", "--config", "tiny", "--adapter", "llvmpipe", "--seconds", "1e-9"]) == 0
    assert (
        "0 shapes in 0.0 s, 0 with another kernel than the default. 1 shapes were not measured, and keep what they had"
        in capsys.readouterr().out
    )
    assert run(["tune", "--seconds", "0"]) == 2
    assert "--seconds is 0; give how long it may take, above 0." in capsys.readouterr().err


def test_the_layers_of_the_command_are_those_of_a_picture(llvmpipe: WebGPU) -> None:
    from moebius.cli.tune import layers

    calls = layers(WebGPU(llvmpipe.gpu), "tiny")
    assert {"linear", "dwconv", "conv3x3", "upsample_conv3x3", "attention", "self_lambda", "cross_lambda", "feed_forward"} <= {
        c.op for c in calls
    }


def test_plan_says_which_kernel_and_why(llvmpipe: WebGPU, capsys: pytest.CaptureFixture[str], cache: Path) -> None:
    assert run(["plan", "--config", "tiny", "--adapter", "llvmpipe", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["plan"]
    dense = [row for row in rows if row["shader"] == "gemm"]
    assert dense
    assert all(row["kernel"].endswith("; default, software") for row in dense)
    assert not any(row["kernel"] for row in rows if row["shader"] not in ("gemm", "winograd", "differences"))
