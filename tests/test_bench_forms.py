"""benchmarks/bench_forms.py: what a step is recorded with, and what is said of it."""

from __future__ import annotations

import json
import sys
from math import prod
from pathlib import Path
from typing import Any

import pytest
from test_menu import H200, call

from moebius.backends.webgpu import choice, menu
from moebius.backends.webgpu.calls import Taps
from moebius.backends.webgpu.ops import dense
from moebius.backends.webgpu.plan import Plan

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
import bench_forms
import on_gpu


@pytest.mark.usefixtures("llvmpipe")
def test_one_choice_is_another_at_a_time(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    threads: list[Any] = []

    def profile(plan: Plan) -> list[dict[str, float]]:
        found = {prod(d.workgroup) for d in plan.dispatches if d.shader == "depthwise"}
        threads.append(found)
        steps = plan.dispatches[len(plan.recording.prologue) :]
        return [{"ms": 0.5 if d.shader == "depthwise" and found == {256} else 1.0} for d in steps]

    monkeypatch.setattr(bench_forms, "milliseconds", lambda plan, clock: [9.0, 7.0, 1.0])
    monkeypatch.setattr(Plan, "profile", profile)
    monkeypatch.setattr(dense, "SOFTWARE_BLOCK", dense.Block(2, 64, 8, 4))
    few = {name: form for name, form in bench_forms.FORMS.items() if "(2, " in name and "8, 4)" in name}
    monkeypatch.setattr(bench_forms, "FORMS", few)
    file, before = tmp_path / "forms.json", (dense.BLOCK, dense.SOFTWARE_BLOCK)
    monkeypatch.setattr(
        sys, "argv", ["bench_forms.py", "--config", "tiny", "--adapter", "llvmpipe", "--filter", "depthwise", "--json", str(file)]
    )
    assert bench_forms.main() == 0
    assert threads == [{64}, {128}, {256}], "what changes nothing is not timed"
    rows = json.loads(file.read_text(encoding="utf-8"))["rows"]
    assert list(rows) == ["as it is", *(f"depthwise (2, {n}, 8, 4)" for n in (128, 256))]
    assert len(rows["as it is"]["layers"]) > 20
    changed = rows["depthwise (2, 256, 8, 4)"]["layers"]
    assert {layer.split()[1] for layer in changed} == {"depthwise"}
    assert len(changed) > 3, "levels are layers of their own"
    said = [line for line in capsys.readouterr().out.splitlines() if " with " in line]
    assert len(said) == len(changed)
    assert all(line.endswith("with depthwise (2, 256, 8, 4)") for line in said)
    assert before == (dense.BLOCK, dense.SOFTWARE_BLOCK)


def test_every_form_is_of_constants_that_are_there() -> None:
    for values in bench_forms.FORMS.values():
        with bench_forms.constants(values):
            pass


def test_a_row_is_taken_for_layers_that_it_is_worth_a_measurement_for() -> None:
    choose = bench_forms.everywhere(menu.STAGED)
    wide, filtered, thin = call(2048, 640, 640), call(4096, 512, 512, Taps(1, 1)), call(2048, 3, 640)
    for wanted in (wide, filtered):
        assert choice.choose(H200, wanted) != menu.STAGED == choose(H200, wanted)
    assert choose(H200, thin) == choice.choose(H200, thin)


def test_what_a_card_says_of_forms_names_the_layers_that_lose_most() -> None:
    rows = {"as it is": {"ms": 3.0, "layers": {"a": 1.0, "b": 2.0, "c": 1.0}}, "x": {"ms": 2.5, "layers": {"a": 0.9, "b": 1.5, "c": 0.98}}}
    said = ["step: 3.00 ms, on 1 other kernels or forms", "b: 2.000 ms, 1.500 with x", "a: 1.000 ms, 0.900 with x"]
    assert on_gpu.forms({"part": "step", "rows": rows}) == said
    assert on_gpu.WORDS.keys() == set(on_gpu.SAVED)
