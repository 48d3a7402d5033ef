"""Which precision a device computes in, who says so, and the commands that look at one."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from batch_cases import mask, picture

import moebius.backends
from moebius.backends.cpu import CPU
from moebius.backends.webgpu import WebGPU
from moebius.backends.webgpu.caps import Matrix
from moebius.check.compare import child as compare_child
from moebius.check.compare import collect, measure
from moebius.check.compare.adapters import Target
from moebius.check.compare.cases import fixed_set
from moebius.check.doctor import kernels
from moebius.check.doctor.examine import open_named
from moebius.cli import doctor
from moebius.cli.main import run as command
from moebius.errors import AdapterError, UsageError
from moebius.inpaint import device, verdicts
from moebius.inpaint.inpainter import Inpainter
from moebius.model.contract import Precision

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
import bench_kernels
import bench_model
import contenders


# choosing it ---------------------------------------------------------------------------------------------------------
@pytest.mark.usefixtures("llvmpipe")
def test_auto_is_f32_and_wrong_words_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verdicts, "fault", lambda ops: "")
    assert [device.open_device(name).precision for name in ("cpu", "llvmpipe")] == ["f32", "f32"]
    with pytest.raises(UsageError, match="precision is 'fp16'; choose one of auto, f32, f16"):
        device.open_device("cpu", precision="fp16")
    with pytest.raises(UsageError, match="precision is 16"):
        device.open_device("cpu", precision=16)  # type: ignore[arg-type]


@pytest.mark.usefixtures("llvmpipe")
def test_a_gpu_takes_the_one_that_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verdicts, "fault", lambda ops: "")
    ops = device.open_device("llvmpipe", precision="f16")
    assert isinstance(ops, WebGPU)
    assert (ops.precision, ops.in_f32().precision) == ("f16", "f32")
    assert ops.in_f32().gpu is ops.gpu  # one device, whose memory and turns they share
    assert ops.in_f32().in_f32().caps == replace(ops.caps, precision="f32")


@pytest.fixture
def faults(llvmpipe: WebGPU, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """What is wrong in which precision with the GPU that "auto" finds, for which llvmpipe stands in."""
    found = SimpleNamespace(info={"adapter_type": "DiscreteGPU", "backend_type": "Vulkan"}, summary="a card")
    monkeypatch.setattr(moebius.backends.hardware, "possible", lambda: True)
    monkeypatch.setattr(moebius.backends.webgpu, "adapters", lambda: [found])
    monkeypatch.setattr(moebius.backends.webgpu, "WebGPU", lambda precision: WebGPU(llvmpipe.gpu, precision=precision))
    wrong = {"f16": "", "f32": ""}
    monkeypatch.setattr(verdicts, "fault", lambda ops: wrong[ops.precision])
    return wrong


@pytest.mark.parametrize("require_gpu", [False, True])
def test_a_gpu_that_is_wrong_in_f16_alone_computes_in_f32(
    llvmpipe: WebGPU, faults: dict[str, str], caplog: pytest.LogCaptureFixture, require_gpu: bool
) -> None:
    """And that is said once, and in no note of every picture besides."""
    faults["f16"] = "linear is wrong"
    ops = device.open_device("auto", precision="f16", require_gpu=require_gpu)
    assert isinstance(ops, WebGPU)
    assert (ops.gpu, ops.precision) == (llvmpipe.gpu, "f32")
    (record,) = caplog.records
    assert "in f16: linear is wrong" in record.getMessage()
    assert device.unmet("f16", ops) == ()
    caplog.clear()
    faults["f16"] = ""
    assert device.open_device("auto", precision="f16").precision == "f16"
    assert not caplog.records


def test_a_gpu_that_is_wrong_in_f32_too_is_not_used(faults: dict[str, str], caplog: pytest.LogCaptureFixture) -> None:
    faults.update(f16="linear is wrong", f32="softmax is wrong")
    ops = device.open_device("auto", precision="f16")
    assert isinstance(ops, CPU)
    (record,) = caplog.records
    assert "softmax is wrong" in record.getMessage()
    assert len(device.unmet("f16", ops)) == 1
    with pytest.raises(AdapterError, match="softmax is wrong"):
        device.open_device("auto", precision="f16", require_gpu=True)


@pytest.mark.parametrize("precision", ["f16", "f32"])
def test_f32_for_what_overflowed_has_no_matrix_units(llvmpipe: WebGPU, precision: Precision) -> None:
    """Splitting ends where halves do: a picture would overflow once more, and fail."""
    ops = WebGPU(llvmpipe.gpu, replace(llvmpipe.caps, matrix=Matrix("emulated", frozenset())), precision=precision)
    assert ops.in_f32().caps == llvmpipe.caps
    assert ops.in_f32().in_f32().precision == "f32"


@pytest.mark.parametrize("precision", ["auto", "f32", "f16"])
def test_the_cpu_device_computes_in_f32_and_says_so(precision: str) -> None:
    made = Inpainter.from_pretrained("nano", device="cpu", precision=precision)
    assert made.precision == "f32"
    assert any("Precision f16 is for GPUs" in note for note in made.notes) == (precision == "f16")


def test_the_command_says_what_was_chosen_and_like_takes_it_again(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    photo, hole, out = picture(tmp_path / "a.png"), mask(tmp_path / "m.png"), tmp_path / "out.png"
    made = ["--device", "cpu", "--steps", "1", "--guidance", "1", "--strength", "1", "--synthetic", "tiny"]
    assert command(["inpaint", str(photo), str(hole), "-o", str(out), *made]) == 0
    assert re.search(r"Device: CPU .*, in f32\n", capfd.readouterr().err)
    assert command(["info", str(out)]) == 0
    assert re.search(r"^precision +f32$", capfd.readouterr().out, re.M)
    assert command(["inpaint", str(photo), str(hole), "-o", str(out), *made, "--precision", "f16"]) == 0
    assert capfd.readouterr().err.count("Precision f16 is for GPUs") == 1


@pytest.mark.parametrize(("record", "typed", "taken"), [("f16", None, "f16"), ("f16", "f32", "f32"), (7, None, None), (None, None, None)])
def test_like_takes_the_precision_of_the_record(record: Any, typed: str | None, taken: str | None) -> None:
    from argparse import Namespace

    from moebius.cli.like import take_same_precision

    args = Namespace(precision=typed)
    take_same_precision(args, {} if record is None else {"precision": record})
    assert args.precision == taken


# the commands that look at one ----------------------------------------------------------------------------------------
@pytest.mark.usefixtures("llvmpipe")
def test_plan_says_weights_and_memory(capfd: pytest.CaptureFixture[str]) -> None:
    said = {}
    for precision in ("f32", "f16"):
        asked = ["plan", "--config", "tiny", "--adapter", "llvmpipe", "--kind", "discrete", "--precision", precision, "--json"]
        assert command(asked) == 0
        said[precision] = json.loads(capfd.readouterr().out)
        assert said[precision]["precision"] == precision
        assert said[precision]["picture_bytes"] > said[precision]["model_bytes"] > said[precision]["weight_bytes"]
        assert said[precision]["weight_bytes"] < said[precision]["low_memory_bytes"] < said[precision]["picture_bytes"]
    for name, share in (("weight_bytes", 0.6), ("model_bytes", 0.6), ("picture_bytes", 0.9)):
        assert said["f16"][name] < share * said["f32"][name]


def test_each_precision_has_a_verdict_of_its_own(llvmpipe: WebGPU) -> None:
    files = [verdicts.verdict_file(WebGPU(llvmpipe.gpu, precision=precision)) for precision in ("f32", "f16")]
    assert files[0].stem == verdicts.digest_of(llvmpipe)
    assert files[0] != files[1]


def test_doctor_and_compare_hold_f16_against_what_halves_may_lose(llvmpipe: WebGPU) -> None:
    case = next(case for case in fixed_set() if case.op == "linear" and case.kind == "edge")
    (_, whole), (_, half) = case.expected()[0], case.expected("f16")[0]
    assert half > 10 * whole
    (row,) = measure.rows(case, WebGPU(llvmpipe.gpu, precision="f16"), lambda: None)
    assert whole < row["relative_l2"] < half == row["limit"]
    tally = kernels.Tally()
    kernels.examine(case, WebGPU(llvmpipe.gpu, precision="f16"), tally)
    assert (tally.wrong, tally.count) == ([], 1)
    assert measure.identity(WebGPU(llvmpipe.gpu, precision="f16"))["name"].endswith(", f16")


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What precision a device was opened in, of which there is none."""
    asked: list[str] = []

    def refuse(adapter: object, *, precision: str, **options: object) -> None:
        asked.append(precision)
        raise AdapterError("There is no adapter.")

    for module in (moebius.backends.webgpu, bench_kernels, contenders):
        monkeypatch.setattr(module, "WebGPU", refuse)
    return asked


@pytest.mark.parametrize("name", ["validate", "plan", "tune"])
@pytest.mark.parametrize(("given", "precision"), [([], "f32"), (["--precision", "f16"], "f16")])
def test_commands_open_a_device_in_it(told: list[str], name: str, given: list[str], precision: str) -> None:
    assert command([name, *given]) == 1
    assert told == [precision]


def test_benchmarks_do_too(told: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    for given in ([], ["--precision", "f16"]):
        monkeypatch.setattr("sys.argv", ["bench_kernels.py", *given])
        with pytest.raises(AdapterError):
            bench_kernels.main()
    monkeypatch.setattr("sys.argv", ["bench_model.py", "--precision", "f16"])
    precision = bench_model.arguments().precision
    (ours,) = (c for c in contenders.contenders(precision) if c.name == contenders.OURS)
    with pytest.raises(AdapterError):
        ours.make(contenders.Setting(Path(), Path(), None, 1, True, (), precision))
    assert told == ["f32", "f16", "f16"]


@pytest.mark.usefixtures("llvmpipe")
def test_their_processes_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def messages(arguments: Any, *more: Any) -> Any:
        asked.append(arguments)
        yield {"end": True}

    monkeypatch.setattr(collect, "messages", messages)
    collect.column(Target("a", "wgpu", "llvmpipe"), False, 1.0, "f16")
    doctor.examined("llvmpipe", False, quiet=True, precision="f16")
    assert [arguments[-1] for arguments in asked] == ["f16", "f16"]
    opened = compare_child.opened("llvmpipe", "f16"), open_named("llvmpipe", "f16")
    assert [ops.precision for ops in opened] == ["f16", "f16"]
