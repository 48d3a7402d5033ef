"""The tables of the pages, made of the results of benchmarks."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from moebius.errors import MoebiusError

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
import common
import model
import readme


def test_a_table_is_replaced_between_its_markers_alone() -> None:
    begin, end = readme.markers("speed")
    assert common.between(f"a\n{begin}\nold\n{end}\nb\n", begin, end, "new\nrows") == f"a\n{begin}\nnew\nrows\n{end}\nb\n"
    for text in ("nothing", begin, f"{end}{begin}", f"{begin}{end}{end}"):
        with pytest.raises(MoebiusError, match="<!-- speed"):
            common.between(text, begin, end, "")


def test_the_tables_are_made_of_the_results_and_say_when_the_machine_was_busy() -> None:
    quiet = {"adapter": None, "processor": "A Processor", "load_average": 2.0, "cores": 2}
    part = {"median_s": 0.25, "ratio_median": 0.5, "ratio_worst": 0.75}
    row = {"load_s": 1.0, "first_calls_s": 0.5} | dict.fromkeys(model.PARTS, part)
    result = {"against": "a", "config": "tiny", "cores": 2, "steps": 4, "environment": quiet, "contenders": {"a": row, "b": row}}
    lines = readme.speed({"model.x.json": result})
    assert lines[2].startswith(
        "| tiny, A Processor, 2 cores, 4 steps; [model.x.json](../benchmarks/results/model.x.json) | a | 1.5 s | 250 ms |"
    )
    assert lines[3].endswith("| 0.50, 0.75 |")
    assert "busy" not in "".join(lines)
    lines = readme.speed({"model.x.json": result | {"environment": quiet | {"load_average": 9.5}}})
    assert "**the machine was busy: load 9.5 on 2 cores**" in lines[2]


def test_the_median_of_two_shapes_lies_between_them() -> None:
    rows = [{"ms": 1.0, "flops": 1e6, "bytes": 1e6, "percent_of_roof": p, "counts": {"step": 2}} for p in (80.0, 20.0)]
    assert readme.cells(rows) == "4 |  | 1 | 1 | 50, 20"
