"""`moebius compare` as users start it, on copies of the package: sound, wrong in the fifth digit of one kernel, dying, silent."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from moebius.backends.cpu import CPU
from moebius.check.compare import child, collect
from moebius.check.compare.adapters import Target, drivers
from moebius.check.compare.collect import EndedError
from moebius.check.compare.fingerprint import is_own_rounding
from moebius.check.compare.measure import work
from moebius.errors import DeviceLostError

ROOT = Path(__file__).parents[1]
# A copy measures less: the edge shapes, and two steps of the tiny network.
EDGES = "\n\ndef _edges(every=fixed_set):\n    return [case for case in every() if case.kind == 'edge']\n\n\nfixed_set = _edges\n"
SHORT = '\nSETTINGS["steps"] = 2\n'
SMALL = """
UNetConfig.tiny = lambda: UNetConfig(8, block_out_channels=(8, 16), heads=2, cross_attention_dim=8, encoder_hid_dim=8, norm_num_groups=4)
VAEConfig.tiny = lambda: VAEConfig((8, 8, 8, 8), norm_num_groups=4)
"""
NO_RUNS = "\nRUNS.clear()\n"
# For every shader, where its result is written, and the ops that must be named. Those that only move values are wrong at any digit.
WRITES = {
    "layer_norm": (r"(out\[base \+ c\] =) (.*);", {"layer_norm"}),
    "dense": (r"( out\[index\] =) (v);", {"linear", "conv3x3", "upsample_conv3x3", "dwconv", "feed_forward", "attention"}),
    "depthwise": (r"(out\[to \+ i \* params.c4\] =) (.*);", {"dwconv", "feed_forward"}),
    "group_apply": (r"(out\[index\] =) (.*);", {"group_norm"}),
    "group_scale": (r"(let scale =) (.*);", {"group_norm"}),
    "softmax": (r"(out\[base \+ c\] =) (.*);", {"attention"}),
    "lambda_apply": (r"(out\[to \+ i\] =) (.*);", {"self_lambda"}),
    "lambda_content": (r"(out\[.*\] =) (.*);", {"self_lambda"}),
    "cross_lambda": (r"(let y =) (.*);", {"cross_lambda"}),
    "guided_ddim": (r"(next\[index\] =) (.*);", {"guided_ddim"}),
    "concat": (r"(out\[index\] =) (a.*);", {"concat"}),
    "repeat": (r"(out\[index\] =) (.*);", {"repeat"}),
    "unet_input": (r"(out\[index\] =) (.*);", {"unet_input"}),
    "transpose": (r"( out\[index\] =) (.*);", {"attention"}),
}
FIFTH_DIGIT = "1.00003"


def package(folder: Path, *changes: tuple[str, str]) -> dict[str, str]:
    """A copy of the package with text added to files of it; the environment in which Python imports that one."""
    copy = folder / "moebius"
    shutil.copytree(ROOT / "engine/moebius", copy, ignore=shutil.ignore_patterns("__pycache__", "*.safetensors"))
    shutil.copytree(ROOT / "shaders", copy / "shaders", ignore=shutil.ignore_patterns("__pycache__"))
    for file, added in (("check/compare/cases.py", EDGES), *changes):
        with (copy / file).open("a") as opened:
            opened.write(added)
    llvmpipe = os.pathsep.join(str(path) for path in drivers() if "lvp" in path.name)
    return os.environ | {"PYTHONPATH": str(folder)} | ({"VK_DRIVER_FILES": llvmpipe} if llvmpipe else {})  # fewer to list


def broken(folder: Path, shader: str, pattern: str) -> None:
    path = folder / f"moebius/shaders/{shader}.wgsl"
    text, found = re.subn(pattern, rf"\1 ({FIFTH_DIGIT} * (\2));", path.read_text())
    assert found, f"{shader}.wgsl has nothing like {pattern}"
    path.write_text(text)


def compare(folder: Path, environment: dict[str, str], *arguments: str) -> tuple[int, Any, str]:
    """The exit code, the fingerprint, the report."""
    command = [sys.executable, "-P", "-m", "moebius", "compare", *arguments, "-o", "f.json", "--report", "r.md"]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert (folder / "r.md").exists(), done.stderr
    return done.returncode, json.loads((folder / "f.json").read_text()), (folder / "r.md").read_text()


def named(report: str) -> set[str]:
    """The ops that the report's first table says are more than rounding."""
    table = report.split("## Adapters")[0]
    return {row.split("|")[2].split(" (")[0].strip().replace("\\", "") for row in table.splitlines() if "more than rounding: " in row}


def test_a_sound_package_has_nothing_but_rounding(tmp_path: Path) -> None:
    environment = package(tmp_path, ("check/compare/endtoend.py", SHORT + SMALL))
    code, made, report = compare(tmp_path, environment, "--adapter", "wgpu:llvmpipe Vulkan")
    (column,) = made["columns"]
    assert (code, column["status"]) == (0, "done"), report
    assert column["implementation"] == "wgpu"
    assert "llvmpipe" in column["adapter"]["device"]
    assert column["runs"][0]["status"] == "done"
    assert not named(report)


def test_a_kernel_wrong_in_the_fifth_digit_is_flagged_and_named(tmp_path: Path) -> None:
    environment = package(tmp_path, ("check/compare/endtoend.py", NO_RUNS))
    pattern, ops = WRITES["layer_norm"]
    broken(tmp_path, "layer_norm", pattern)
    code, _, report = compare(tmp_path, environment, "--adapter", "wgpu:llvmpipe Vulkan")
    assert code == 1
    assert named(report) == ops


@pytest.mark.slow
@pytest.mark.parametrize("shader", WRITES)
def test_every_kernel_wrong_in_the_fifth_digit_is_flagged_and_named(tmp_path: Path, shader: str) -> None:
    """In the cases, and in the run from end to end."""
    environment = package(tmp_path, ("check/compare/endtoend.py", SHORT))
    pattern, ops = WRITES[shader]
    broken(tmp_path, shader, pattern)
    code, made, report = compare(tmp_path, environment, "--adapter", "wgpu:llvmpipe Vulkan")
    assert code == 1
    assert named(report) >= ops
    outside = [t["op"] for t in made["columns"][0]["runs"][0]["trace"] if is_own_rounding(t) is False]
    assert set(outside) & ops  # not all of them: beside a large residual a small term has no fifth digit
    assert re.search(rf"ops are more than rounding; the first is op \d+, {outside[0]} ", report.replace("\\", ""))


def test_a_crash_and_a_hang_are_rows_and_not_the_end(tmp_path: Path) -> None:
    dying = """

import os


def _dies(self, a, b):
    os.abort()


def _sleeps(self, y, mask, masked):
    import time

    time.sleep(600)


CPU.concat, CPU.unet_input = _dies, _sleeps
"""
    environment = package(tmp_path, ("backends/cpu/__init__.py", dying), ("check/compare/endtoend.py", NO_RUNS))
    code, made, report = compare(tmp_path, environment, "--adapter", "cpu", "--timeout", "5")
    (column,) = made["columns"]
    status = {(row["op"], row["case"]): row["status"] for row in column["ops"]}
    edges = [item for item in work(False) if not isinstance(item, str) and item.kind == "edge"]
    assert [key for key in status if "output" not in key[1]] == [(case.op, case.name) for case in edges]
    expected = {"concat": "crashed", "unet_input": "hung"}
    assert all(status[key] == expected.get(key[0], "done") for key in status)
    assert (code, column["status"]) == (1, "crashed")
    assert re.search("crashed: .*SIGABRT", report)
    assert re.search("hung: .* 5 s", report)


# without a process ---------------------------------------------------------------------------------------------------
HEAD = {"column": {"name": "Soft, wgpu 1", "implementation": "wgpu", "versions": {}}}


def measured(monkeypatch: pytest.MonkeyPatch, said: Any, target: Target | None = None) -> Any:
    monkeypatch.setattr(collect, "messages", said)
    return collect.column(target or Target("Soft, wgpu", "wgpu", "wgpu:0"), False, 1.0)


def test_a_driver_that_dies_again_and_again_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[int] = []

    def said(arguments: list[str], *_: Any) -> Iterator[Any]:
        begun.append(int(arguments[2]))
        yield HEAD
        yield {"item": begun[-1]}
        raise EndedError("crashed", "the process ended by SIGSEGV")

    made = measured(monkeypatch, said)
    assert begun == list(range(1 + collect.RESTARTS))
    assert [row["status"] for row in made["ops"]] == ["crashed"] * len(begun)
    assert f"{len(work(False)) - len(begun)} cases were not reached" in made["reason"]
    assert made["status"] == "crashed"


def test_a_process_that_dies_before_its_first_case_is_a_column(monkeypatch: pytest.MonkeyPatch) -> None:
    def said(*_: Any) -> Iterator[Any]:
        raise EndedError("hung", "it gave no sign\n of life")
        yield

    made = measured(monkeypatch, said)
    assert (made["name"], made["status"], made["reason"], made["ops"]) == ("Soft, wgpu", "hung", "it gave no sign of life", [])


def test_a_lost_device_ends_the_process_and_the_next_goes_on(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    class Lost(CPU):
        def linear(self, *_: Any, **__: Any) -> Any:
            raise DeviceLostError("the device was lost while running linear")

    monkeypatch.setattr(child, "opened", lambda target, precision: Lost())
    first = next(i for i, item in enumerate(work(False)) if not isinstance(item, str) and item.op == "linear")
    said: list[Any] = []
    monkeypatch.setattr(child, "channel", lambda: said.append)
    assert child.main(["run", "cpu", str(first)]) == 1
    assert said[-1] == {"item": first}
    assert "lost" in capfd.readouterr().err


def test_a_second_equal_gpu_has_a_name_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    def said(*_: Any) -> Iterator[Any]:
        yield HEAD
        yield {"end": True}

    assert measured(monkeypatch, said, Target("Soft, wgpu #2", "wgpu", "wgpu:1", twin=2))["name"] == "Soft, wgpu 1 #2"


def test_an_adapter_that_cannot_be_opened_is_refused_with_the_reason() -> None:
    made = collect.column(Target("Soft, wgpu", "wgpu", "wgpu:9999"), False, 60.0)
    assert made["status"] == "refused"
    assert "9999" in made["reason"]


def test_a_crash_behind_the_last_case_is_no_cases_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drivers die as their process ends, too."""
    last = len(work(False)) - 1

    def said(*_: Any) -> Iterator[Any]:
        yield from (HEAD, {"item": last}, {"run": {"name": "end to end", "status": "done"}}, {"end": True})
        raise EndedError("crashed", "the process ended by SIGSEGV")

    made = measured(monkeypatch, said)
    assert [row["status"] for row in made["runs"]] == ["done"]
    assert (made["status"], made["reason"]) == ("crashed", "the process ended by SIGSEGV")


@pytest.mark.parametrize("silence", ["time.sleep(600)", "os.close(1); time.sleep(600)"], ids=["silent", "said all, never ends"])
def test_a_silent_process_is_given_up_and_ended(tmp_path: Path, silence: str) -> None:
    (tmp_path / "moebius/check/compare").mkdir(parents=True)
    (tmp_path / "moebius/check/compare/child.py").write_text(f"import os, time; {silence}")
    begun = time.monotonic()
    with pytest.raises(EndedError) as caught:
        next(collect.messages([], {"PYTHONPATH": str(tmp_path)}, 2.0))
    assert caught.value.status == "hung"
    assert time.monotonic() - begun < 240  # a child that is not killed is waited for


def test_what_drivers_print_is_no_message(tmp_path: Path) -> None:
    environment = package(
        tmp_path, ("backends/webgpu/native.py", "\nprint('a line from a driver', flush=True)\nos.system('echo another')\n")
    )
    answer = collect.ask(["list", "wgpu"], {"PYTHONPATH": environment["PYTHONPATH"]}, 60.0)
    assert isinstance(answer["adapters"], list)


def test_the_set_is_the_same_for_parent_and_child() -> None:
    assert [type(item) for item in work(True)][-2:] == [str, str]
    assert work(True)[-1] == "full step"
    assert "full step" not in work(False)
