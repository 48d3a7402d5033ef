"""`moebius compare` on files: what several say together, and what is refused."""

from __future__ import annotations

import base64
import copy
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from moebius.check.compare import files, publish
from moebius.check.compare.fingerprint import error_map
from moebius.check.compare.pictures import png
from moebius.check.compare.report import Report
from moebius.cli import main as cli
from moebius.errors import UsageError

U = 2.0**-24


def op_row(checksum: str, error: float, op: str = "linear", **other: Any) -> dict[str, Any]:
    return {
        "op": op,
        "case": "1×1×2",
        "kind": "model",
        "inputs": "same",
        "status": "done",
        "ms": 1.5,
        "repeatable": True,
        "shape": [1, 1, 1, 2],
        "checksum": checksum,
        "max_ulp": error / U / 2,
        "relative_l2": error,
        "bias": 0.0,
        "max_abs": error,
        "rms": 1.0,
        "limit": 1e-6,
        "map": error_map(np.full((1, 1, 1, 2), 1 + error, np.float32), np.ones((1, 1, 1, 2))),
    } | other


def traced(op: str, checksum: str, own: float = 1e-7) -> dict[str, Any]:
    path = {"stage": "step 1", "op": op, "path": f"net.{op}", "shape": [1, 2, 2, 4], "checksum": checksum}
    return path | {"relative_l2": own, "own": own, "own_max_abs": own, "rms": 1.0, "limit": 1e-6}


def run_row(trace: list[dict[str, Any]], colour: int = 100, **other: Any) -> dict[str, Any]:
    image = np.full((8, 8, 3), 100, np.uint8)
    image[2, 3] = colour
    output = {k: v for k, v in op_row("x", 1e-6).items() if k not in ("op", "case", "kind", "inputs", "status", "ms", "repeatable")}
    return {
        "name": "end to end",
        "model": "tiny",
        "settings": {"steps": 2},
        "inputs": "same",
        "status": "done",
        "seconds": {"denoise": 1.0},
        "repeatable": True,
        "trace": trace,
        "outputs": [{"name": "latents", **output, "limit": None, "checksum": str(colour)}],
        "picture": base64.b64encode(png(image)).decode(),
    } | other


def column(device: str, ops: list[dict[str, Any]], runs: list[dict[str, Any]], **other: Any) -> dict[str, Any]:
    return {
        "name": f"{device} (GPU) via Vulkan, wgpu 0.32.0",
        "implementation": "wgpu",
        "adapter": {"device": device, "backend": "Vulkan", "driver": "1.2", "type": "DiscreteGPU", "vendor": "v"},
        "limits": {"max-buffer-size": 1 << 30},
        "features": ["timestamp-query"],
        "versions": {"wgpu": "0.32.0"},
        "shaders": "0" * 64,
        "status": "done",
        "seconds": 1.0,
        "ops": ops,
        "runs": runs,
    } | other


def fingerprint(*columns: dict[str, Any]) -> dict[str, Any]:
    return {
        "format": "moebius-fingerprint",
        "version": 1,
        "moebius": "0.1.0",
        "made": "2026-01-01T00:00:00Z",
        "machine": {"system": "Linux"},
        "set": "default",
        "columns": list(columns),
    }


SAME = [traced("dwconv", "1"), traced("linear", "2"), traced("concat", "3")]
PARTED = [traced("dwconv", "1"), traced("linear", "9"), traced("concat", "8")]


def written(folder: Path, **fingerprints: dict[str, Any]) -> list[str]:
    for name, content in fingerprints.items():
        files.save(folder / f"{name}.json", files.dumped(content))
    return [str(folder / f"{name}.json") for name in fingerprints]


def test_two_machines_in_one_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = written(
        tmp_path,
        a=fingerprint(
            column("Alpha", [op_row("1", 1e-7)], [run_row(SAME)]),
            column("Beta", [op_row("1", 1e-7), op_row("5", 0, op="concat", limit=0)], [run_row(PARTED, 103)]),
        ),
        b=fingerprint(column("Gamma", [op_row("2", 9e-7)], [run_row(SAME)])),
    )
    report = Report.of({p: files.load(Path(p)) for p in paths})
    assert report.ok
    assert [c.label for c in report.columns] == ["a: Alpha Vulkan wgpu", "a: Beta Vulkan wgpu", "b: Gamma Vulkan wgpu"]
    assert [report.matrix["linear"][n].letter for n in (1, 2, 3)] == ["a", "a", "b"]
    assert report.matrix["concat"].keys() == {2}
    (view,) = report.runs
    assert {(p.index, p.first.number, p.second.number, p.verdict) for p in view.partings} == {(1, 1, 2, "rounding"), (1, 2, 3, "rounding")}
    assert [view.letters[n] for n in (1, 2, 3)] == ["a", "b", "a"]

    assert cli.run(["compare", *paths, "-o", str(tmp_path / "out")]) == 0
    text = (tmp_path / "out/report.md").read_text()
    assert "| linear | 0.839 ULP · 1.0e-07 · 10 % · a | 0.839 ULP · 1.0e-07 · 10 % · a | 7.55 ULP · 9.0e-07 · 90 % · b |" in text
    assert "| 2: linear (net.linear, step 1) | a: Alpha Vulkan wgpu \\| a: Beta Vulkan wgpu; " in text
    assert "1 pixels differ, by at most 3 of 255" in text
    page = (tmp_path / "out/report.html").read_text()
    assert "<script" not in page
    assert 'src="http' not in page
    assert page.count("data:image/png;base64,") == len(list((tmp_path / "out/pictures").iterdir())) == 3 + 3 + 3 + 2
    with Image.open(tmp_path / "out/pictures/4-1.png") as amplified:  # Beta's difference from Alpha, 3 levels, times 85
        assert np.asarray(amplified)[2, 3].tolist() == [255] * 3
        assert np.count_nonzero(np.asarray(amplified)) == 3
    assert cli.run(["compare", *paths]) == 0
    assert "Every difference that was measured is rounding" in capsys.readouterr().out


def test_what_is_more_than_rounding_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wrong = [traced("dwconv", "1"), traced("linear", "9", 3e-5), traced("concat", "8")]
    paths = written(
        tmp_path,
        f=fingerprint(column("Alpha", [op_row("1", 1e-7)], [run_row(SAME)]), column("Beta", [op_row("7", 3e-5)], [run_row(wrong)])),
    )
    assert cli.run(["compare", *paths]) == 1
    text = capsys.readouterr().out
    assert "| Beta Vulkan wgpu | linear (1×1×2) | more than rounding: relative L2 3.0e-05, at most 252 ULP" in text
    assert "1 of 3 ops are more than rounding; the first is op 2, linear (net.linear, step 1)" in text
    assert "| 2: linear (net.linear, step 1) | Alpha Vulkan wgpu \\| Beta Vulkan wgpu | 3.0e-05 of 1.0e-06 | more than rounding |" in text


def test_a_run_without_a_trace_of_its_own_is_held_against_those_that_have_one() -> None:
    bare = [{k: v for k, v in t.items() if k not in ("own", "own_max_abs", "rms", "limit")} for t in PARTED]
    far = run_row(bare, 103)
    far["outputs"][0]["relative_l2"] = 5e-6
    report = Report.of({"f": fingerprint(column("Alpha", [], [run_row(SAME)]), column("Browser", [], [run_row(bare, 103)]))})
    assert report.ok
    assert [p.verdict for p in report.runs[0].partings] == ["not judged op by op"]
    report = Report.of({"f": fingerprint(column("Alpha", [], [run_row(SAME)]), column("Browser", [], [far]))})
    assert [(f.column.number, f.fault) for f in report.findings] == [(2, True)]
    alone = Report.of({"f": fingerprint(column("Browser", [], [run_row(bare, 103)]))})
    assert alone.ok
    assert "Not judged, for want of a column" in publish.markdown(publish.document(alone), None)
    for difference, ok in ((1.0, True), (2.0, False)):  # of bytes: relative to their root mean square that is far more than rounding
        picture = far["outputs"][0] | {"name": "picture", "relative_l2": 1e-3, "max_abs": difference}
        near = run_row([], 103) | {"outputs": [run_row(bare)["outputs"][0], picture]}
        report = Report.of({"f": fingerprint(column("Alpha", [], [run_row(SAME)]), column("Browser", [], [near]))})
        assert report.ok is ok
        assert Report.of({"f": fingerprint(column("Browser", [], [near]))}).ok is ok  # a picture is judged without others, too


def test_a_run_that_ends_in_nan_is_a_fault_whatever_its_first_step_was() -> None:
    run = run_row(SAME)
    run["outputs"][0] |= dict.fromkeys(("max_ulp", "relative_l2", "bias", "max_abs"))
    report = Report.of({"f": fingerprint(column("Alpha", [], [run]))})
    assert [(f.what, f.fault) for f in report.findings] == [("its result holds a NaN or an infinity", True)]


def test_a_wrong_picture_is_a_fault_however_sound_its_first_step_was() -> None:
    """An op that goes wrong from the second step on: only the first one is traced."""
    run = run_row(SAME)
    run["outputs"].append(run["outputs"][0] | {"name": "picture", "max_abs": 2.0})
    report = Report.of({"f": fingerprint(column("Alpha", [], [run]))})
    assert [(f.what, f.fault) for f in report.findings] == [("its picture is 2 levels of 255 from the oracle's", True)]
    half = column("Alpha", [], [run], name="Alpha (GPU) via Vulkan, wgpu 0.32.0, f16")
    assert Report.of({"f": fingerprint(half)}).ok  # halves move some values by more than a rounding


@pytest.mark.parametrize("scale", [1e-200, 10**299], ids=["small", "large"])
def test_numbers_of_any_size_make_a_report(tmp_path: Path, scale: float) -> None:
    content = fingerprint(column("Alpha", [op_row("1", 1e-7, limit=scale, rms=scale)], [run_row(SAME)]))
    (path,) = written(tmp_path, f=content)
    assert cli.run(["compare", path, "-o", str(tmp_path / "r.html")]) == (1 if scale < 1 else 0)


def test_a_terminal_without_the_signs_gets_the_report(tmp_path: Path) -> None:
    (path,) = written(tmp_path, f=fingerprint(column("Alpha", [op_row("1", 1e-7)], [])))
    command = [sys.executable, "-P", "-m", "moebius", "compare", path]
    done = subprocess.run(command, env=os.environ | {"PYTHONIOENCODING": "ascii"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "in units of the last place of float32" in done.stdout


def test_what_was_not_measured_has_a_reason_and_faults_fail() -> None:
    gone = {"op": "concat", "case": "1×1×2", "kind": "edge", "inputs": "", "status": "crashed", "reason": "SIGABRT"}
    small = {"op": "concat", "case": "1×1×2", "kind": "edge", "inputs": "", "status": "refused", "reason": "its binding is small"}
    broken = {"name": "Delta", "implementation": "wgpu", "status": "hung", "reason": "silent for 3 s"}
    report = Report.of({"f": fingerprint(column("Alpha", [gone], []), column("Beta", [small], []), broken)})
    assert [(f.column.label, f.where, f.what, f.fault) for f in report.findings] == [
        ("Alpha Vulkan wgpu", "concat (1×1×2)", "crashed: SIGABRT", True),
        ("Beta Vulkan wgpu", "concat (1×1×2)", "refused: its binding is small", False),
        ("Delta", "the whole column", "hung: silent for 3 s", True),
    ]
    assert not report.ok
    text = publish.markdown(publish.document(report), None)
    assert "✗ crashed" in text
    assert "## What is not rounding" not in text  # nothing that was measured is
    assert "2 things could not" in text
    over = Report.of({"f": fingerprint(column("Alpha", [op_row("1", 1.0)], []), broken)})
    assert [f.unmeasured for f in over.findings] == [False, True]
    assert "## What is not rounding" in publish.markdown(publish.document(over), None)


def test_columns_with_other_inputs_are_not_called_different() -> None:
    report = Report.of(
        {"f": fingerprint(column("Alpha", [op_row("1", 1e-7)], []), column("Beta", [op_row("2", 1e-7, inputs="other")], []))}
    )
    assert report.different_inputs() == ["linear (1×1×2)"]


def test_text_of_a_file_stays_text(tmp_path: Path) -> None:
    evil = "<script>alert(1)</script> | [x](javascript:1)"
    made = column("Alpha", [op_row("1", 1e-7)], [run_row(SAME)], name=evil, adapter={"device": evil, "backend": "Vulkan"})
    (path,) = written(tmp_path, f=fingerprint(made))
    cli.run(["compare", path, "-o", str(tmp_path / "out")])
    page, text = ((tmp_path / f"out/report.{kind}").read_text() for kind in ("html", "md"))
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert "<script" not in text
    assert "[x](" not in text


def changed(*path: Any, to: Any) -> dict[str, Any]:
    made: Any = copy.deepcopy(fingerprint(column("Alpha", [op_row("1", 1e-7)], [run_row(SAME)])))
    at = made
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = to
    return made


OP, RUN = ("columns", 0, "ops", 0), ("columns", 0, "runs", 0)
BAD = {
    "another format": (changed("format", to="x"), "format is 'moebius-fingerprint'"),
    "a later version": (changed("version", to=2), "version is 2"),
    "no columns": (changed("columns", to={}), "the file.columns is {}"),
    "a number as text": (changed(*OP, "max_ulp", to="3"), "the file.columns[0].ops[0].max_ulp is '3'"),
    "a negative error": (changed(*OP, "relative_l2", to=-1), "cannot be below 0"),
    "no scale": (changed(*OP, "rms", to=0), "must be above 0"),
    "a huge number": (changed(*OP, "bias", to=10**400), "not a finite number"),
    "an unknown status": (changed(*OP, "status", to="fine"), "not one of done"),
    "lines in a name": (changed("columns", 0, "name", to="a\nb"), "not a line of text"),
    "a long text": (changed("columns", 0, "name", to="a" * 20_000), "not a line of text"),
    "a large map": (changed(*OP, "map", to={"height": 999, "width": 1, "ulps": ""}), "larger than 16"),
    "a short map": (changed(*OP, "map", "ulps", to="AAA="), "bytes of its size"),
    "a map that is none": (changed(*OP, "map", "ulps", to="!"), "not base64"),
    "a picture that is none": (changed(*RUN, "picture", to="AAAA"), "no PNG"),
    "a wide picture": (changed(*RUN, "picture", to=base64.b64encode(png(np.zeros((1, 2000, 3), np.uint8))).decode()), "2000×1"),
    "an error that is half null": (changed(*OP, "max_ulp", to=None), "some are null and some are numbers"),
    "an output that is half null": (changed(*RUN, "outputs", 0, "bias", to=None), "some are null and some are numbers"),
    "many columns": (fingerprint(*(column("Alpha", [], [], name=str(i)) for i in range(65))), "not a list of at most 64"),
    "many ops": (fingerprint(column("Alpha", [op_row("1", 1e-7)] * 2001, [])), "not a list of at most 2000"),
    "many runs": (fingerprint(column("Alpha", [], [run_row(SAME, name=str(i)) for i in range(9)])), "not a list of at most 8"),
    "a run behind another": (fingerprint(column("Alpha", [], [run_row(SAME), run_row([], inputs="x")])), "two runs of the same name"),
    "a shape of words": (changed(*OP, "shape", to=["a"]), "not a shape"),
    "a trace that is none": (changed(*RUN, "trace", to=[3]), "trace[0] is 3"),
    "own without a limit": (changed(*RUN, "trace", 0, "limit", to=None), "limit is None"),
    "settings without end": (changed(*RUN, "settings", "a", to=json.loads("[" * 20 + "]" * 20)), "nested too deep"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_refused_in_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    content, what = BAD[name]
    path = tmp_path / "bad.json"
    path.write_text(json.dumps(content))
    assert cli.run(["compare", str(path)]) == 2
    said = capsys.readouterr().err
    assert what in said
    assert "bad.json" in said
    assert len(said.splitlines()) == 1


def test_a_file_without_end_is_refused(tmp_path: Path) -> None:
    with (tmp_path / "large.json").open("wb") as file:
        file.truncate((64 << 20) + 1)  # a hole: nothing is stored
    with pytest.raises(UsageError, match="64 MiB"):
        files.load(tmp_path / "large.json")
    if Path("/dev/zero").exists():
        with pytest.raises(UsageError, match="not a regular file"):
            files.load(Path("/dev/zero"))


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"[1, 2", b"[]", b'{"format": NaN}', b"[" * 100_000, b'"x"'])
def test_what_is_no_json_object_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "bad.json"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=r"bad\.json"):
        files.load(path)


def test_cut_and_flipped_files_are_refused_or_read(tmp_path: Path) -> None:
    whole = files.dumped(fingerprint(column("Alpha", [op_row("1", 1e-7)], [run_row(SAME)]))).encode()
    path, random = tmp_path / "f.json", np.random.default_rng(0)
    for _ in range(300):
        data = bytearray(whole)
        if random.random() < 0.3:
            del data[random.integers(len(data)) :]
        else:
            data[random.integers(len(data))] = random.integers(32, 127)
        path.write_bytes(data)
        try:
            report = Report.of({str(path): files.load(path)})
        except UsageError:
            continue
        publish.page(publish.document(report))


def test_arguments_that_do_not_go_together(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    (path,) = written(tmp_path, f=fingerprint(column("Alpha", [], [])))
    (tmp_path / "d.html").mkdir()
    (tmp_path / "v1.5").mkdir()
    publish.check_place(tmp_path / "v1.5")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("moebius.check.compare.adapters.targets", lambda *_: [])  # nothing is measured
    for arguments, what in (
        ([path, "--full"], "for measuring"),
        ([path, "--adapter", "x"], "for measuring"),
        ([path, "-o", "a", "--report", "b"], "one of them"),
        ([path, "-o", str(tmp_path / "x.json")], "a folder, a .html or a .md file"),
        (["-o", "x.html"], "is a .json file"),
        (["-o", f"{path}/x.json"], "no folder"),
        (["-o", "nosuch/f/x.json"], "no folder nosuch/f; make it first"),
        (["--report", "nosuch/x.md"], "make it first"),
        ([path, "-o", "nosuch/x"], "make it first"),
        (["--report", "x.pdf"], "a folder, a .html or a .md file"),
        (["--report", str(tmp_path / "d.html")], "a folder, a .html or a .md file"),
        (["--report", path], "a folder, a .html or a .md file"),
        (["--timeout", "0"], "above 0"),
        (["--timeout", "nan"], "above 0"),
        ([str(tmp_path / "none.json")], "cannot be read"),
    ):
        assert cli.run(["compare", *arguments]) == 2
        assert what in capsys.readouterr().err
