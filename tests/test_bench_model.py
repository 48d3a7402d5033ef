"""The model benchmark: peers make our picture, who does not is left out by name, and the last line is the summary."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from moebius import Inpainter
from moebius.backends.cpu import CPU
from moebius.backends.webgpu import WebGPU
from moebius.backends.webgpu.tensor import Buffer
from moebius.errors import MoebiusError, UsageError
from moebius.model import unet, vae
from moebius.model.synthetic import synthetic
from moebius.model.unet import UNet, UNetConfig
from moebius.model.vae import VAE, VAEConfig

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
import apart
import bench_model
import contenders
import costs
import model
import part
import whole
import workload
from peers.nets import Nets, inpainter

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
TINY = (
    UNetConfig(4, block_out_channels=(8, 16), heads=2, cross_attention_dim=8, encoder_hid_dim=8, norm_num_groups=4),
    VAEConfig((8, 8, 8, 8), norm_num_groups=4),
)


@pytest.fixture(scope="module", autouse=True)
def smaller_than_tiny() -> Iterator[None]:
    """The benchmark's tiny model is a smaller one here, of 32 pixels: nothing of what is tested is how long it takes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(UNetConfig, "tiny", staticmethod(lambda: TINY[0]))
        patch.setattr(VAEConfig, "tiny", staticmethod(lambda: TINY[1]))
        yield


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everyone works in this process, where what a test puts in place of something is."""
    monkeypatch.setattr(model, "at_work", lambda contender, setting, task, seconds: part.Part(contender, setting, task))


@pytest.fixture(scope="module")
def weights(smaller_than_tiny: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model.write_synthetic("tiny", tmp_path_factory.mktemp("bench") / "weights.safetensors")


def setting(weights: Path, **changes: Any) -> contenders.Setting:
    given: dict[str, Any] = {"weights": weights, "folder": weights.parent, "adapter": None, "cores": 2, "small": True, "only": ()}
    return contenders.Setting(**(given | changes))


def numpy_nets(scale: float = 1.0) -> Nets:
    """A peer that is our CPU device in disguise; with a scale, one that is wrong."""
    ops, (net_config, coder_config) = CPU(), TINY
    net = UNet(net_config, synthetic(unet.shapes(net_config), 0), ops)
    coder = VAE(coder_config, synthetic(vae.shapes(coder_config), 0), ops)

    def evaluate(x: np.ndarray, t: int, ids: np.ndarray) -> np.ndarray:
        return scale * net(x, t, ids)

    return Nets(evaluate, coder.encode, coder.decode, lambda a: a, lambda a: a, lambda arrays, axis: np.concatenate(arrays, axis))


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(BENCHMARKS / "bench_model.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)


# peers ---------------------------------------------------------------------------------------------------------------
def test_a_peer_in_the_place_of_our_networks_makes_our_picture(weights: Path) -> None:
    ours = contenders.ours(CPU(), setting(weights))
    theirs = inpainter("a peer", numpy_nets(), *TINY)
    for settings in ({}, {"guidance": 1.0, "strength": 1.0}):
        seconds, want = workload.picture(ours, 2, **settings)
        _, got = workload.picture(theirs, 2, **settings)
        assert workload.relative(got, want) < 1e-6
        assert seconds.keys() == set(model.PARTS)
        assert seconds["image"] >= seconds["encode"] + seconds["decode"]


@pytest.mark.parametrize("how", ["eager", pytest.param("compiled", marks=pytest.mark.slow)])
def test_pytorch_makes_our_picture(weights: Path, how: str) -> None:
    pytest.importorskip("torch", reason="the PyTorch peer needs torch (the `bench` extra)")
    given = setting(weights, only=("PyTorch CPU compiled",))
    contenders.torch_ready("PyTorch CPU compiled", "cpu", how)(given)
    theirs = contenders.torch_peer("cpu", how)(given)
    _, want = workload.picture(contenders.ours(CPU(), given), 2)
    assert workload.relative(workload.picture(theirs, 2)[1], want) < 2e-5


@pytest.mark.slow
def test_onnx_runtime_makes_our_picture(weights: Path) -> None:
    for module in ("torch", "onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(module, reason="the ONNX Runtime peer needs the `bench` extra")
    given = setting(weights)
    contenders.onnx_ready(given)
    theirs = contenders.onnx_peer("cpu")(given)
    _, want = workload.picture(contenders.ours(CPU(), given), 2)
    assert workload.relative(workload.picture(theirs, 2)[1], want) < 2e-5


def test_who_is_not_installed_is_named(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contenders.importlib.util, "find_spec", lambda name: None)
    said = {}
    for contender in contenders.contenders()[2:]:
        with pytest.raises(contenders.LeftOutError) as raised:
            contender.beforehand(setting(weights))
        said[contender.name] = str(raised.value)
    assert set(said.values()) == {"torch is not installed (pip install '.[bench]')"}
    assert len(said) == 11


# the comparison ------------------------------------------------------------------------------------------------------
def arguments(monkeypatch: pytest.MonkeyPatch, *given: str) -> Any:
    monkeypatch.setattr(sys, "argv", ["bench_model.py", *given])
    return bench_model.arguments()


@pytest.mark.usefixtures("here")
def test_a_peer_that_makes_something_else_is_left_out_untimed(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = {"right": 1.0, "wrong": 1.001, "broken": float("nan")}
    made = [
        contenders.Contender(contenders.NUMPY, lambda s: contenders.ours(CPU(), s)),
        *(contenders.Contender(name, lambda s, x=x: inpainter("peer", numpy_nets(x), *TINY)) for name, x in names.items()),  # type: ignore[misc]
    ]
    monkeypatch.setattr(model, "contenders", lambda precision: made)
    args = arguments(monkeypatch, "--small", "--steps", "2", "--runs", "2", "--limit", "100")
    result = model.measure("tiny", setting(weights), args)
    assert list(result["contenders"]) == [contenders.NUMPY, "right"]
    assert result["contenders"]["right"]["differs_by"]["picture"] < 1e-6
    assert "its step differs from that of moebius CPU by" in result["left_out"]["wrong"]
    assert "broken" in result["left_out"]
    right = result["contenders"]["right"]["image"]
    pairs = [a / b for a, b in zip(result["contenders"][contenders.NUMPY]["image"]["seconds"], right["seconds"], strict=True)]
    assert (right["ratio_best"], right["ratio_worst"]) == (min(pairs), max(pairs))
    assert len(right["seconds"]) == 2


@pytest.mark.usefixtures("here")
def test_what_numpy_makes_is_kept_for_a_later_run(weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def numpy(setting: contenders.Setting) -> Inpainter:
        asked.append(setting)
        return contenders.ours(CPU(), setting)

    made = [
        contenders.Contender(contenders.NUMPY, numpy),
        *(
            contenders.Contender(name, lambda s, x=x: inpainter("peer", numpy_nets(x), *TINY))
            for name, x in (("right", 1.0), ("wrong", 1.001))
        ),  # type: ignore[misc]
    ]
    monkeypatch.setattr(model, "contenders", lambda precision: made)
    file = tmp_path / "reference.npz"
    for steps in ("2", "2", "3"):
        args = arguments(monkeypatch, "--small", "--steps", steps, "--runs", "1", "--only", "right", "wrong", "--reference", str(file))
        if steps == "3":
            with pytest.raises(UsageError, match="2 steps"):
                model.measure("tiny", setting(weights), args)
            continue
        result = model.measure("tiny", setting(weights), args)
        assert (list(result["contenders"]), list(result["left_out"])) == (["right"], ["wrong"])
    assert len(asked) == 1
    file.write_bytes(b"no archive")
    with pytest.raises(UsageError, match="remove it"):
        model.measure("tiny", setting(weights), args)


@pytest.mark.usefixtures("here")
def test_who_is_too_slow_is_left_out_by_name(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = [
        contenders.Contender(contenders.NUMPY, lambda s: contenders.ours(CPU(), s)),
        contenders.Contender("slow", lambda s: inpainter("peer", numpy_nets(), *TINY)),
    ]
    monkeypatch.setattr(model, "contenders", lambda precision: made)
    result = model.measure("tiny", setting(weights), arguments(monkeypatch, "--small", "--steps", "2", "--runs", "1", "--limit", "1e-6"))
    assert result["left_out"]["slow"].endswith("above --limit 1e-06")
    with pytest.raises(UsageError, match=r"'nobody'.*'moebius CPU', 'slow'"):
        model.measure("tiny", setting(weights), arguments(monkeypatch, "--only", "nobody"))


@pytest.mark.usefixtures("here")
def test_a_peer_that_fails_while_it_is_timed_is_left_out_by_name(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = [
        contenders.Contender(contenders.NUMPY, lambda s: contenders.ours(CPU(), s)),
        contenders.Contender("steady", lambda s: inpainter("peer", numpy_nets(), *TINY)),
        contenders.Contender("tired", lambda s: inpainter("the tired one", numpy_nets(), *TINY)),
    ]
    whole, pictures = part.picture, []

    def picture(inpaint: Inpainter, steps: int) -> Any:
        pictures.append(inpaint.unet.ops.name)
        if pictures[-1] == "the tired one" and pictures.count("the tired one") == 3:  # compared, timed once, and no more
            raise RuntimeError("no\n memory")
        return whole(inpaint, steps)

    monkeypatch.setattr(model, "contenders", lambda precision: made)
    monkeypatch.setattr(part, "picture", picture)
    args = arguments(monkeypatch, "--small", "--steps", "2", "--runs", "3", "--limit", "100")
    result = model.measure("tiny", setting(weights), args)
    assert result["left_out"] == {"tired": "failed while it was timed: RuntimeError: no memory"}
    assert [(name, len(c["image"]["seconds"])) for name, c in result["contenders"].items()] == [(contenders.NUMPY, 3), ("steady", 3)]


@pytest.mark.usefixtures("here")
def test_the_backend_of_the_package_may_be_too_slow_too(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = [
        contenders.Contender(contenders.OURS, lambda s: inpainter("ours", numpy_nets(), *TINY)),
        contenders.Contender(contenders.NUMPY, lambda s: contenders.ours(CPU(), s)),
    ]
    monkeypatch.setattr(model, "contenders", lambda precision: made)
    result = model.measure("tiny", setting(weights), arguments(monkeypatch, "--small", "--steps", "2", "--runs", "1", "--limit", "1e-6"))
    assert result["left_out"][contenders.OURS].endswith("above --limit 1e-06")
    assert result["against"] == contenders.NUMPY
    with pytest.raises(MoebiusError, match="moebius WebGPU: "):
        model.measure(
            "tiny", setting(weights, only=(contenders.OURS,)), arguments(monkeypatch, "--limit", "1e-6", "--only", contenders.OURS)
        )


# the script ----------------------------------------------------------------------------------------------------------
@pytest.mark.usefixtures("here")
def test_a_run_ends_with_its_summary_and_writes_its_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # A part of the costs: what a second is made of is tested below, and -m slow has it all.
    monkeypatch.setattr(costs, "TRIES", 1)
    monkeypatch.setattr(costs, "SIZES", (0.5,))
    monkeypatch.setattr(costs, "BATCHES", (2,))
    monkeypatch.setattr(costs, "STEPS", (1, 2))
    files = "--json", str(tmp_path / "m.json"), "--plot", str(tmp_path / "m.png")
    who = "--only", "moebius WebGPU", "moebius CPU"
    args = arguments(monkeypatch, "--small", "--adapter", "llvmpipe", "--steps", "2", "--runs", "1", "--limit", "200", *who, *files)
    assert model.bench(args) == 0
    out = capsys.readouterr().out
    summary, written = json.loads(out.splitlines()[-1]), json.loads((tmp_path / "m.json").read_text())
    assert summary["image_s"].keys() == {"moebius WebGPU", "moebius CPU"} == written["contenders"].keys()
    assert summary["against"] == "moebius WebGPU"
    assert "llvmpipe" in written["environment"]["adapter"]["name"]
    assert written["environment"]["packages"]["numpy"] == np.__version__
    ours = written["ours"]
    assert ours["host"]["us_per_dispatch"] == pytest.approx(1e3 * ours["host"]["ms_per_step"] / ours["host"]["dispatches"])
    assert [c["pixels"] for c in ours["image_size"]] == [16]
    assert [c["images"] for c in ours["batch"]] == [2]
    assert [c["calls"] for c in ours["steps"]["runs"]] == [1, 3]
    planned = sum(p["weight_bytes"] for p in ours["plans"].values()) + max(p["peak_bytes"] for p in ours["plans"].values())
    assert written["contenders"]["moebius WebGPU"]["peak_bytes"] > planned
    with Image.open(tmp_path / "m.png") as image:
        assert len(image.convert("RGB").getcolors(100_000)) > 5
    assert out.index("outputs differ") < out.index("seconds, medians")


def test_misuse_is_one_sentence(tmp_path: Path) -> None:
    done = run("--adapter", "no such adapter", "--small")
    assert (done.returncode, len(done.stderr.strip().splitlines())) == (1, 1)
    assert done.stderr.startswith("bench_model.py: No adapter matches 'no such adapter'.")
    assert run("--steps", "1").returncode == 2


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_small_takes_everyone_who_is_there() -> None:
    done = run("--small", "--adapter", "llvmpipe")
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout.splitlines()[-1])
    assert len(summary["image_s"]) + len(summary["left_out"]) == len(contenders.contenders())


# who takes too long --------------------------------------------------------------------------------------------------
@pytest.fixture
def strange(monkeypatch: pytest.MonkeyPatch, weights: Path) -> Iterator[Callable[[str, float], apart.Apart]]:
    """A contender of strange_contenders.py, in its process."""
    started: list[apart.Apart] = []

    def start(name: str, seconds: float) -> apart.Apart:
        task = part.Task(2, 100.0)
        started.append(apart.Apart(name, setting(weights), task, seconds, "strange_contenders:contenders"))
        return started[-1]

    yield start
    for one in started:
        one.stop(0.0)


def test_who_hangs_is_stopped_with_all_it_started_and_says_what_it_was_doing(strange: Any, weights: Path) -> None:
    hanging = strange("hangs", 60.0)
    with pytest.raises(contenders.LeftOutError, match="compiler has given up"):  # its process works, and its errors come here
        hanging.prepare()
    hanging.seconds = 0.5
    with pytest.raises(contenders.LeftOutError, match=r"^stopped after 0\.5 s, while loading$"):
        hanging.prepare()
    assert not hanging.process.is_alive()
    below = int((weights.parent / "below.pid").read_text())
    for _ in range(100):
        if not running(below):
            break
        time.sleep(0.05)
    assert not running(below)


def running(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[:1]
    except OSError:
        return False


def test_who_takes_its_process_down_is_left_out(strange: Any) -> None:
    with pytest.raises(contenders.LeftOutError, match=r"^its process ended \(exit code 7\) while loading$"):
        strange("dies", 60.0).prepare()


def test_the_others_go_on(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = [
        contenders.Contender(contenders.NUMPY, lambda s: contenders.ours(CPU(), s)),
        contenders.Contender("hangs", lambda s: inpainter("peer", numpy_nets(), *TINY)),
        contenders.Contender("steady", lambda s: inpainter("peer", numpy_nets(), *TINY)),
    ]
    stopped: list[str] = []

    class Stub(part.Part):
        def prepare(self) -> Any:
            if self.contender.name == "hangs":
                raise contenders.LeftOutError("stopped after 3 s, while loading")
            return super().prepare()

        def stop(self) -> None:
            stopped.append(self.contender.name)

    monkeypatch.setattr(model, "contenders", lambda precision: made)
    monkeypatch.setattr(model, "at_work", lambda contender, setting, task, seconds: Stub(contender, setting, task))
    result = model.measure("tiny", setting(weights), arguments(monkeypatch, "--small", "--steps", "2", "--runs", "1", "--limit", "100"))
    assert result["left_out"] == {"hangs": "stopped after 3 s, while loading"}
    assert list(result["contenders"]) == [contenders.NUMPY, "steady"]
    assert sorted(stopped) == sorted(["hangs", contenders.NUMPY, "steady"])


@pytest.mark.usefixtures("here")
def test_who_has_not_begun_when_the_time_is_over_is_left_out(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = [
        contenders.Contender(contenders.NUMPY, lambda s: contenders.ours(CPU(), s)),
        contenders.Contender("late", lambda s: inpainter("peer", numpy_nets(), *TINY)),
    ]
    monkeypatch.setattr(model, "contenders", lambda precision: made)
    clock = iter([0.0, 0.0, 81.0])
    monkeypatch.setattr(model, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    args = arguments(monkeypatch, "--small", "--steps", "2", "--runs", "1", "--budget", "100")
    result = model.measure("tiny", setting(weights), args)
    assert result["left_out"] == {"late": "the time was over: --budget is 100"}


# costs ---------------------------------------------------------------------------------------------------------------
def test_the_meter_counts_what_is_there(llvmpipe: WebGPU) -> None:
    gpu = copy.copy(llvmpipe.gpu)
    meter = costs.Meter(gpu)
    first, second = (Buffer(gpu, n, "metered", "pinned") for n in (1024, 4096))
    for buffer in (first, second):
        buffer.allocate()
    del buffer
    assert (meter.now, meter.peak) == (5120, 5120)
    del second
    assert (meter.now, meter.peak) == (1024, 5120)


def test_host_time_is_that_of_the_step_that_runs(llvmpipe: WebGPU, weights: Path) -> None:
    made: Inpainter = contenders.ours(llvmpipe, setting(weights))
    workload.picture(made, 2)
    known = {id(plan) for plans in llvmpipe._plans.values() for plan in plans.values()}
    of = costs.plans(made, 2)
    assert all(id(plan) in known for plan in of.values())  # none is recorded anew
    assert costs.host(of["step"])["dispatches"] == of["step"].summary()["dispatches"]


# the tables ----------------------------------------------------------------------------------------------------------


def test_a_picture_is_timed_by_parts_and_ops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(whole, "WARM", 0.0)
    monkeypatch.setattr(whole, "STEPS", 2)
    file = tmp_path / "whole.json"
    monkeypatch.setattr(sys, "argv", ["whole.py", "--adapter", "llvmpipe", "--json", str(file)])
    assert whole.main() == 0
    result = json.loads(file.read_text())
    assert (result["bench"], result["config"], list(result["parts"])) == ("whole", "tiny", ["step", "encode", "decode"])
    for plan in result["parts"].values():
        assert plan["dispatches"] == sum(op["dispatches"] for op in plan["ops"].values())
        assert plan["ms"] > 0
        assert all(op["ms"] > 0 for op in plan["ops"].values())
    assert [list(p) for p in result["pictures"]] == whole.PICTURES * [["encode", "step", "decode", "image"]]
