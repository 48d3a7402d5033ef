"""Broken adapters are found: by `moebius doctor`, and by the quick check before an adapter is first used."""

from __future__ import annotations

import codecs
import getpass
import json
import logging
import re
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from test_cli import run

import moebius.backends.hardware
import moebius.backends.webgpu
from moebius.backends.cpu import CPU
from moebius.backends.webgpu import WebGPU, probe, wgsl
from moebius.backends.webgpu.device import Device
from moebius.check.compare import collect
from moebius.check.doctor import child, drivers, examine, kernels, picture
from moebius.check.doctor.findings import Finding, scrubbed
from moebius.check.specs import SPECS
from moebius.cli.output import plain
from moebius.errors import AdapterError, DeviceLostError
from moebius.inpaint import verdicts
from moebius.inpaint.device import open_device

# How a driver can be wrong: a shader, the text that is compiled in place of its own, and the op that has to be named.
WRONG = {
    "a thousandth": ("layer_norm", r"(out\[base \+ c\] =) (.*);", r"\1 1.001 * (\2);", "layer_norm is wrong"),
    "a residual forgotten": ("lambda_apply", r"(out\[to \+ i\] = .*) \+ residual\[to \+ i\];", r"\1;", "self_lambda is wrong"),
    "a max that drops NaN": (
        "depthwise",
        r"at_least\((value\[\w+\]), 0\.0\)",
        r"max(\1, vec4<f32>(0.0))",
        "dwconv was given nan and hid it",
    ),
    "no flag": ("guided_ddim", r"0x7f800000u", "0x7f800001u", "guided_ddim did not flag"),
}
FIFTH_DIGIT = ("layer_norm", r"(out\[base \+ c\] =) (.*);", r"\1 1.00003 * (\2);", "layer_norm")


class Broken(Device):
    """A device whose driver makes something else of one shader. It shares the other pipelines."""

    def __init__(self, device: Device, shader: str) -> None:
        self.__dict__.update(device.__dict__)
        self._pipelines = {key: made for key, made in device._pipelines.items() if key[0] != shader}


def broken(gpu: WebGPU, monkeypatch: pytest.MonkeyPatch, shader: str, pattern: str, instead: str) -> WebGPU:
    sound = wgsl.specialise

    def specialise(name: str, constants: wgsl.Constants = (), entry: str | None = None) -> str:
        text = sound(name, constants, entry)
        if name != shader:
            return text
        text, found = re.subn(pattern, instead, text)
        assert found, f"{shader}.wgsl has nothing like {pattern}"
        return text

    monkeypatch.setattr(wgsl, "specialise", specialise)
    return WebGPU(Broken(gpu.gpu, shader))


# the quick check -----------------------------------------------------------------------------------------------------
def test_a_sound_adapter_passes_the_quick_check(gpu: WebGPU) -> None:
    assert probe.fault(gpu) == ""


def test_the_quick_check_runs_every_op(llvmpipe: WebGPU) -> None:
    ops = set()
    for forward, arrays, both in probe.networks(llvmpipe):
        ops |= {made.op for made in probe.Recorded(both, forward, arrays).made}
    assert ops == SPECS.keys()


@pytest.mark.parametrize("how", WRONG)
def test_the_quick_check_names_the_op_that_is_wrong(llvmpipe: WebGPU, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    shader, pattern, instead, says = WRONG[how]
    assert probe.fault(broken(llvmpipe, monkeypatch, shader, pattern, instead)).startswith(says)


def test_a_shader_that_does_not_compile_fails_the_quick_check(llvmpipe: WebGPU, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "concat" in probe.fault(broken(llvmpipe, monkeypatch, "concat", r"@compute", "@computer"))


# its verdict ---------------------------------------------------------------------------------------------------------
@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MOEBIUS_CACHE", str(tmp_path))
    return tmp_path


@pytest.fixture
def asked(cache: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The quick check with what it is to find in it; it counts by growing."""
    found = [""]

    def fault(gpu: WebGPU) -> str:
        found.append(found[0])
        return found[0]

    monkeypatch.setattr(probe, "fault", fault)
    return found


def test_an_adapter_is_checked_once_for_each_driver_and_version(llvmpipe: WebGPU, asked: list[str], monkeypatch: Any, cache: Path) -> None:
    for _ in range(3):
        assert verdicts.fault(llvmpipe) == ""
    assert len(asked) == 2
    (file,) = cache.rglob("*.json")
    for key, value in (("__version__", "9.9"), ("shaders", "other"), ("driver", "other")):
        with monkeypatch.context() as patch:
            if key == "__version__":
                patch.setattr(moebius, key, value)
            elif key == "shaders":
                patch.setattr(verdicts, "shaders_digest", lambda: "other")
            else:
                patch.setitem(llvmpipe.gpu.info, "description", value)
            assert verdicts.verdict_file(llvmpipe) != file
    file.write_text("{torn")
    assert verdicts.fault(llvmpipe) == ""
    assert len(asked) == 3
    assert json.loads(file.read_text()) == {"fault": ""}


def test_a_verdict_survives_many_writers_and_a_cache_that_cannot_be_written(llvmpipe: WebGPU, asked: list[str], cache: Path) -> None:
    threads = [threading.Thread(target=verdicts.check, args=(llvmpipe,)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (file,) = cache.rglob("*.json")
    assert not list(cache.rglob("*.part"))
    assert verdicts.read(file) == ""
    verdicts.write(cache / "taken" / "x.json", "")
    verdicts.write(file / "below a file" / "x.json", "")  # nothing is raised


def test_bad_luck_is_no_verdict(llvmpipe: WebGPU, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def lost(gpu: WebGPU) -> str:
        raise DeviceLostError("it went away")

    monkeypatch.setattr(probe, "fault", lost)
    assert verdicts.fault(llvmpipe) == "it went away"
    assert not list(cache.rglob("*.json"))


@pytest.fixture
def hardware_found(llvmpipe: WebGPU, monkeypatch: pytest.MonkeyPatch) -> None:
    """llvmpipe stands in for the GPU that "auto" finds."""
    found = SimpleNamespace(info={"adapter_type": "DiscreteGPU", "backend_type": "Vulkan"}, summary="a card")
    monkeypatch.setattr(moebius.backends.hardware, "possible", lambda: True)
    monkeypatch.setattr(moebius.backends.webgpu, "adapters", lambda: [found])
    monkeypatch.setattr(moebius.backends.webgpu, "WebGPU", lambda *_, **options: llvmpipe)


@pytest.mark.usefixtures("hardware_found")
def test_a_gpu_that_fails_gives_way_to_the_cpu_device(llvmpipe: WebGPU, asked: list[str], caplog: pytest.LogCaptureFixture) -> None:
    assert open_device("auto") is llvmpipe
    assert not caplog.records


@pytest.mark.usefixtures("hardware_found")
def test_a_gpu_that_fails_is_not_used(asked: list[str], caplog: pytest.LogCaptureFixture) -> None:
    asked[0] = "layer_norm is wrong"
    with caplog.at_level(logging.WARNING, "moebius"):
        assert isinstance(open_device("auto"), CPU)
    (record,) = caplog.records
    assert "layer_norm is wrong" in record.getMessage()
    with pytest.raises(AdapterError, match="layer_norm is wrong"):
        open_device("auto", require_gpu=True)
    with pytest.raises(AdapterError, match="layer_norm is wrong"):  # who names one wants no other in its place
        open_device("llvmpipe")
    assert len(asked) == 2  # the verdict was kept


# doctor --------------------------------------------------------------------------------------------------------------
@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """The cases of two ops, and no picture: what takes seconds is run once, below."""
    every = kernels.cases
    monkeypatch.setattr(kernels, "cases", lambda software: [c for c in every(software) if c.op in ("layer_norm", "dwconv", "guided_ddim")])
    monkeypatch.setattr(picture, "findings", lambda ops, full: iter(()))


def by_check(found: Iterator[Finding]) -> dict[str, Finding]:
    return {finding.check: finding for finding in found}


@pytest.mark.usefixtures("few")
def test_doctor_names_a_kernel_wrong_in_the_fifth_digit(llvmpipe: WebGPU, monkeypatch: pytest.MonkeyPatch) -> None:
    shader, pattern, instead, op = FIFTH_DIGIT
    found = by_check(kernels.findings(broken(llvmpipe, monkeypatch, shader, pattern, instead)))
    assert {name: f.state for name, f in found.items()} == {"kernels": "wrong", "repeatable": "ok", "not finite": "ok"}
    assert all(text.startswith(op) for text in found["kernels"].numbers["wrong"])
    assert found["kernels"].advice


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize(("how", "op"), [("a max that drops NaN", "dwconv"), ("no flag", "guided_ddim")])
def test_doctor_names_the_op_that_hides_a_nan(llvmpipe: WebGPU, monkeypatch: pytest.MonkeyPatch, how: str, op: str) -> None:
    shader, pattern, instead, _ = WRONG[how]
    found = by_check(kernels.findings(broken(llvmpipe, monkeypatch, shader, pattern, instead)))
    assert found["kernels"].state == "ok"
    assert found["not finite"].state == "wrong"
    assert all(text.startswith(op) for text in found["not finite"].numbers["hidden"])


def inside(arguments: list[str], environment: dict[str, str], timeout: float, module: str) -> Iterator[dict[str, Any]]:
    """What the child says, in place of its process."""
    said: list[dict[str, Any]] = []
    child.examine(arguments[0], "--full" in arguments, said.append)
    yield from json.loads(json.dumps(said))


@pytest.mark.usefixtures("few", "cache")
def test_a_broken_driver_is_exit_code_1_and_named(llvmpipe: WebGPU, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    shader, pattern, instead, op = FIFTH_DIGIT
    ops = broken(llvmpipe, monkeypatch, shader, pattern, instead.replace("1.00003", "1.003"))
    monkeypatch.setattr(examine, "open_named", lambda name, precision: ops)
    monkeypatch.setattr(collect, "messages", inside)
    code, out, err = run(capsys, "doctor", "--adapter", "llvmpipe")
    assert (code, err) == (1, "")
    assert re.search(rf"^✗ kernels +.*{op}", out, re.M)
    assert re.search(rf"^✗ first start +.*{op}", out, re.M)
    assert out.splitlines()[-1].startswith("Something is wrong: first start, kernels")
    code, out, _ = run(capsys, "doctor", "--adapter", "llvmpipe", "--json")
    report = json.loads(out)
    assert (code, report["ok"], report["devices"][0]["ok"]) == (1, False, False)
    assert "llvmpipe" in report["devices"][0]["device"]
    assert str(Path.home()) not in out


@pytest.mark.usefixtures("few", "cache")
def test_a_sound_adapter_is_exit_code_0(llvmpipe: WebGPU, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr(examine, "open_named", lambda name, precision: llvmpipe)
    monkeypatch.setattr(collect, "messages", inside)
    code, out, _ = run(capsys, "doctor")
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()[1:-1] if not line.startswith(" ")] == ["✓"] * 6


def test_a_driver_that_takes_its_process_down_is_told(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    def messages(*_: Any) -> Iterator[dict[str, Any]]:
        yield {"device": "a card", "about": {}}
        yield {"finding": Finding("limits", "ok", "Fine.").as_json()}
        raise collect.EndedError("crashed", "the process ended by SIGSEGV")

    monkeypatch.setattr(collect, "messages", messages)
    code, out, _ = run(capsys, "doctor")
    assert code == 1
    assert re.search("^✗ crash +.*limits.*SIGSEGV", out.replace("\n ", " "), re.M)


def test_the_cpu_device_is_sound(capsys: Any) -> None:
    """All of it, in its own process, as users run it."""
    code, out, _ = run(capsys, "doctor", "--adapter", "cpu", "--json")
    report = json.loads(out)
    assert code == 0, out
    (device,) = report["devices"]
    assert [f["check"] for f in device["findings"]] == [
        "driver",
        "limits",
        "kernels",
        "repeatable",
        "not finite",
        "picture",
        "speed",
        "memory",
    ]
    assert all(f["state"] in ("ok", "note") for f in device["findings"])
    (whole,) = (f for f in device["findings"] if f["check"] == "picture")
    assert whole["numbers"]["levels"] <= 1


@pytest.mark.parametrize(("answer", "ok"), [(None, False), ({"failed": "x"}, False), ({"refused": "wgpu finds no loader"}, True)])
def test_adapters_that_cannot_be_listed(answer: dict[str, str] | None, ok: bool, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    def messages(arguments: list[str], *_: Any) -> Iterator[dict[str, Any]]:
        if arguments[0] != "list":
            yield from ({"device": arguments[0]}, {"end": True})
        elif answer is None:
            raise collect.EndedError("crashed", "the process ended by SIGSEGV")
        else:
            yield answer

    monkeypatch.setattr(collect, "messages", messages)
    code, out, _ = run(capsys, "doctor", "--all", "--json")
    report = json.loads(out)
    assert (code, report["ok"]) == (0 if ok else 1, ok)
    assert [device["device"] for device in report["devices"]] == ["adapters", "cpu"]
    assert [f["state"] for f in report["devices"][0]["findings"]] == ["note" if ok else "wrong"]
    code, out, _ = run(capsys, "doctor", "--all")
    assert (code, out[0], "\n\ncpu, in f32\n" in out) == (0 if ok else 1, "!" if ok else "✗", True)


def test_an_adapter_that_is_not_there_and_misuse(capsys: Any) -> None:
    assert run(capsys, "doctor", "--adapter", "cpu", "--all")[0] == 2


# what is known, and what is not told ---------------------------------------------------------------------------------
def test_known_drivers() -> None:
    assert all(row.source.startswith("https://") and row.reason and row.advice for row in drivers.KNOWN)
    llvmpipe = {"device": "llvmpipe (LLVM 15.0.6, 256 bits)", "backend_type": "Vulkan", "description": "Mesa 22.3.6 (LLVM 15.0.6)"}
    (row,) = drivers.known(llvmpipe)
    assert row.handled
    assert not drivers.known(llvmpipe | {"description": "Mesa 25.0.7"})
    assert not drivers.known({"device": "NVIDIA H200", "backend_type": "Vulkan", "description": "580.1"})
    vega = {"device": "AMD Radeon(TM) Graphics", "backend_type": "Vulkan", "description": "31.0.21923.1000"}
    assert len(drivers.known(vega)) == 1
    assert not drivers.known(vega | {"description": "32.0.1"})
    assert len(drivers.known({"device": "Intel(R) UHD Graphics", "backend_type": "D3D12"})) == 1


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("cannot open /home/someone/x/driver.so: no", "cannot open (path): no"),
        (r"in C:\Users\someone\moebius\a.py", "in (path)"),
        ("~/.cache/moebius/x failed", "(path) failed"),
        ("12.5 MB/s, a/b and 1/2", "12.5 MB/s, a/b and 1/2"),
        ("https://github.com/a/b/issues/1", "https://github.com/a/b/issues/1"),
    ],
)
def test_paths_are_not_told(text: str, told: str) -> None:
    assert scrubbed(text) == told


def test_names_are_not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(getpass, "getuser", lambda: "grete")
    assert scrubbed("grete's card, not gretel's") == "(name)'s card, not gretel's"


def test_a_tick_has_a_plain_form() -> None:
    codecs.register_error("moebius.plain", plain)
    assert "✓✗!".encode("ascii", "moebius.plain") == b"+x!"


@pytest.mark.parametrize(
    ("has", "state", "said"),
    [(2e9, "ok", "is room on the adapter:"), (1.3e9, "note", "for one network at a time"), (0, "note", "is not enough")],
)
def test_memory_is_a_pictures_and_may_suffice_for_one_network(
    llvmpipe: WebGPU, monkeypatch: pytest.MonkeyPatch, has: float, state: str, said: str
) -> None:
    monkeypatch.setattr(picture, "takes", lambda ops, nbytes: nbytes <= has)
    found = picture.memory(WebGPU(llvmpipe.gpu, replace(llvmpipe.caps, kind="discrete")))
    assert (found.state, found.numbers["fits"]) == (state, has == 2e9)
    assert said in found.text
    assert "takes 1.5 GB, with --low-memory 1.0 GB" in found.text
