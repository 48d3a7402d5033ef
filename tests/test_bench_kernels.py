"""The kernel benchmark: its rows are the model's, its cases are right, its roof holds, and what is slower is seen."""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cases
import numpy as np
import pytest
from model_cases import Call, model_calls

from moebius.backends.webgpu import WebGPU, wgsl
from moebius.backends.webgpu.dispatch import Dispatch
from moebius.errors import MoebiusError, UsageError
from moebius.model import unet, vae
from moebius.model.denoise import Denoiser
from moebius.model.params import Checkpoint, Params, ShapeOnly
from moebius.model.scheduler import DDIM
from moebius.model.unet import UNet, UNetConfig, condition_ids
from moebius.model.vae import VAE, VAEConfig

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
import bench_kernels
import kernels
import roof
from traffic import traffic

TINY = UNetConfig.tiny(), VAEConfig.tiny()
CONFIGS = {"tiny": TINY, "full": (UNetConfig.full(), VAEConfig.full())}
EFFORT = kernels.Effort(batch_ms=5.0, row_seconds=0.3, together=2**28)


# the rows ------------------------------------------------------------------------------------------------------------
def kind(d: Dispatch) -> str:
    """What a dispatch does, without whose it is. Tables of the schedule have one row in a case, and a sum lies over no residual there."""
    bindings = d.bindings if d.over is None else [*d.bindings, d.over]
    bound = sorted((b.name, b.shape) for b in bindings if b.name not in ("shift", "coefficients", "flags"))
    constants = [(name, value) for name, value in d.constants if name != "OVER"]
    return repr((d.op, d.shader, d.entry, constants, d.grid, bound, sorted(d.params.items()), d.flops))


@pytest.mark.parametrize("config", CONFIGS)
def test_the_rows_are_the_dispatches_of_the_recorded_plans(llvmpipe: WebGPU, config: str, monkeypatch: pytest.MonkeyPatch) -> None:
    unet_config, vae_config = CONFIGS[config]
    schedule, s, c = DDIM(), unet_config.sample_size, vae_config.latent_channels
    times = schedule.timesteps(20)
    net = UNet(unet_config, ShapeOnly(unet.shapes(unet_config)), llvmpipe)
    denoiser = Denoiser(net, condition_ids(unet_config), times.tolist(), schedule.coefficients(times, 20), 2.5)
    coder = VAE(vae_config, ShapeOnly(vae.shapes(vae_config)), llvmpipe)
    side = s * vae_config.factor
    recorded = {
        "step": llvmpipe.record(denoiser.step, [(1, s, s, c), (1, s, s, 1), (1, s, s, c)], slice(None)),
        "encode": llvmpipe.record(coder.encoder, [(1, side, side, 3)]),
        "decode": llvmpipe.record(coder.decoder, [(1, s, s, c)]),
    }
    monkeypatch.setattr(cases, "normal", lambda name, *shape: np.broadcast_to(np.float32(0), shape))  # no memory, only shapes
    calls = model_calls(unet_config, vae_config)
    made = {}
    for call in calls:
        case = call.case()
        shapes = {f"layer.{name}": shape for name, shape in case.shapes.items()} | case.root
        made[call] = case.record(llvmpipe, Params(Checkpoint(ShapeOnly(shapes)), "layer"))
    for plan, want in recorded.items():
        got = Counter[str]()
        for call, counts in calls.items():
            for d in made[call].recording.steps:
                got[kind(d)] += counts.get(plan, 0)
        assert +got == Counter(kind(d) for d in want.recording.steps), plan
    starting = {kind(d) for call in calls if "start" in calls[call] for d in made[call].recording.prologue}
    assert starting == {kind(d) for d in recorded["step"].recording.prologue}


TINY_CALLS = model_calls(*TINY)


@pytest.mark.parametrize("op", sorted({call.op for call in TINY_CALLS}))
def test_the_models_own_cases_agree_with_the_oracle(llvmpipe: WebGPU, op: str) -> None:
    for call in TINY_CALLS:
        if call.op == op:
            call.case().check(llvmpipe)


def test_a_row_is_named_by_all_that_makes_it_another(llvmpipe: WebGPU) -> None:
    for config in CONFIGS.values():
        calls = model_calls(*config)
        assert len({str(call) for call in calls}) == len(calls)
    assert str(Call("conv3x3", (1, 16, 8), (("k", 4), ("stride", 2), ("residual", True)))) == "conv3x3 1×16×8 k=4 stride=2 residual"


def test_a_filter_takes_the_rows_that_hold_its_words() -> None:
    assert {c.op for c in bench_kernels.chosen(TINY_CALLS, "conv3x3 128x128")} == {"conv3x3"}
    assert len(bench_kernels.chosen(TINY_CALLS, "")) == len(TINY_CALLS)
    with pytest.raises(UsageError, match="'conv9'"):
        bench_kernels.chosen(TINY_CALLS, "conv9")


# the roof ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("source", ["fma", "copy", "read"])
def test_the_roofs_kernels_do_what_is_counted(gpu: WebGPU, source: str) -> None:
    device, n = gpu.gpu, 256
    text = {"fma": roof.fma_source(2, roof.FORMS[0]), "copy": roof.COPY, "read": roof.READ}[source]
    a = np.arange(4 * n, dtype=np.float32) if source != "fma" else np.repeat(np.float32([0.5, 0.5]), 4)
    outputs = n // roof.READS if source == "read" else n
    made = []
    create = device.create_buffer
    device.create_buffer = lambda nbytes, label: made.append(create(nbytes, label)) or made[-1]  # type: ignore[method-assign]
    try:
        threads = {"fma": n, "copy": n // roof.COPIES, "read": outputs}[source]
        encode = roof.encoder(device, text, (a.nbytes, 16 * outputs), threads, a)
    finally:
        del device.create_buffer
    roof.timed(device, [lambda run: encode(run, 1)], "wall")
    got = np.frombuffer(device.device.queue.read_buffer(made[1]), np.float32)
    want = {"fma": lambda: np.full(4 * n, 2.0), "copy": lambda: a, "read": lambda: a.reshape(roof.READS, -1).sum(axis=0)}[source]()
    np.testing.assert_allclose(got, want, rtol=1e-6)


def test_a_roof_is_that_of_the_size_worked_on() -> None:
    low, high = roof.Roof(100.0, [(1000, 5.0), (2000, 50.0), (4000, 10.0)]), roof.Roof(90.0, [(1000, 6.0), (2000, 40.0), (4000, 12.0)])
    assert [low.gbs(n) for n in (10, 3999, 4000, 10**9)] == [50.0, 50.0, 10.0, 10.0]
    both = low.higher(high)
    assert (both.gflops, both.bandwidth) == (100.0, [(1000, 6.0), (2000, 50.0), (4000, 12.0)])
    assert low.floor_ms(10**9, 10) == (10.0, "compute")
    assert low.floor_ms(1, 10**9) == (100.0, "memory")


def test_what_a_kernel_must_move_is_at_most_what_it_has_bound(llvmpipe: WebGPU) -> None:
    parts = {}
    for call in TINY_CALLS:
        case = call.case()
        for d in case.record(llvmpipe, case.params).dispatches:
            assert 0 < traffic(d) <= d.nbytes, call
            parts[d.op, d.path.rsplit(".", 1)[-1]] = traffic(d), d.nbytes
    # A third of [q, k, v] is transposed; keys and values, of heads + 2 parts, make the content.
    moved, bound = parts["attention", "keys"]
    assert moved == pytest.approx(bound / 2, rel=0.01)
    moved, bound = parts["self_lambda", "content"]
    assert moved < bound / 2


# the times -----------------------------------------------------------------------------------------------------------
def small_call(op: str) -> dict[Call, dict[str, int]]:
    call = max((c for c in TINY_CALLS if c.op == op), key=lambda c: np.prod(c.size))
    return {call: TINY_CALLS[call]}


def test_a_row_has_all_its_figures(llvmpipe: WebGPU) -> None:
    (row,) = kernels.measure(llvmpipe, small_call("dwconv"), EFFORT, "wall")
    top = roof.Roof(1e6, [(2**20, 1e6)])
    described = row.describe(top)
    assert [k["shader"] for k in described["kernels"]] == ["depthwise", "gemm"]
    assert described["ms"] == pytest.approx(np.median(row.times.sum(axis=1)))
    assert described["gflops"] == pytest.approx(described["flops"] / described["ms"] / 1e6)
    assert described["gbs"] == pytest.approx(described["bytes"] / described["ms"] / 1e6)
    assert {k["bound"] for k in described["kernels"]} <= {"compute", "memory"}
    assert not bench_kernels.above([described])
    lower = row.describe(roof.Roof(1e-3, [(2**20, 1e-3)]))
    assert len(bench_kernels.above([lower])) == 2  # faster than that roof: an error, and reported by name
    json.dumps(described)


def test_a_dense_layer_is_measured_on_every_row_that_may_run_it(llvmpipe: WebGPU) -> None:
    dense, norm = Call("linear", (1, 8, 8), (("k", 64), ("n", 128))), Call("layer_norm", (1, 8, 8), (("c", 64),))
    found = kernels.on_every_row(llvmpipe, {dense: {"step": 3}, norm: {"step": 1}})
    gpu = kernels.on_every_row(WebGPU(llvmpipe.gpu, replace(llvmpipe.caps, kind="discrete")), {dense: {"step": 3}})
    assert [str(c).removeprefix(f"{dense} on ") for c in found] == ["the default", "direct 32x32 4x4", "direct 32x64 16x8"]
    assert list(found.values()) == [{"step": 3}, {}, {}]  # what the rows add up to has each call once
    assert {"staged 64x64 8x4", "blocked 64x64 8x8"} <= {str(c).removeprefix(f"{dense} on ") for c in gpu}
    rows = kernels.measure(llvmpipe, found, EFFORT, "wall")
    made = [[k["kernel"].partition(";")[0] for k in row.kernels] for row in rows]
    assert made == [["direct 64x64 16x8"], ["direct 32x32 4x4"], ["direct 32x64 16x8"]]


def test_rows_that_lie_apart_are_noisy() -> None:
    call = next(iter(TINY_CALLS))

    def noisy(times: list[float], paces: list[float]) -> bool:
        return kernels.Row(call, {}, [{"flops": 1, "bytes": 1}], np.array(times)[:, None], np.array(paces), SimpleNamespace(best=2.0)).noisy

    even = [2.0, 2.1, 2.0, 2.1, 2.0]
    assert not noisy([1.0, 1.01, 1.02, 1.0, 1.03], even)
    assert noisy([1.0, 1.3, 1.0, 1.3, 1.0], even)
    assert noisy([1.6, 1.61, 1.62, 1.6, 1.63], [3.2] * 5)  # even, but the machine was slow all along


def test_noisy_rows_are_measured_again_and_the_quietest_is_kept(llvmpipe: WebGPU, monkeypatch: pytest.MonkeyPatch) -> None:
    taken = iter([1.0, 2.0, 3.0, 4.0, 5.0, 7.0, 7.0, 7.0, 7.0, 7.0])
    monkeypatch.setattr(kernels.Prepared, "round", lambda self: np.full(1, next(taken)))
    monkeypatch.setattr(kernels.Pace, "now", lambda self: self.best)
    (row,) = kernels.measure(llvmpipe, small_call("layer_norm"), kernels.Effort(0.1, 100.0, 2**28), "wall")
    assert row.total.tolist() == [7.0] * 5


def test_rows_of_a_slow_machine_are_measured_again(llvmpipe: WebGPU, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even rounds, of which the first five ran while the machine was at half its pace."""
    taken, pace = iter([2.0] * 5 + [1.0] * 5), iter([2.0] * 6 + [1.0] * 6)
    monkeypatch.setattr(kernels.Prepared, "round", lambda self: np.full(1, next(taken)))

    def now(self: kernels.Pace) -> float:
        self.seen[:] = [1.0]
        return next(pace)

    monkeypatch.setattr(kernels.Pace, "now", now)
    (row,) = kernels.measure(llvmpipe, small_call("layer_norm"), kernels.Effort(0.1, 100.0, 2**28), "wall")
    assert row.total.tolist() == [1.0] * 5
    assert not row.noisy


@pytest.mark.parametrize(("submit_ms", "first_ms"), [(0.0, 0.0), (1.0, 0.0), (0.0, 5.0)])
def test_batches_are_long_however_long_the_first_dispatch_took(
    llvmpipe: WebGPU, monkeypatch: pytest.MonkeyPatch, submit_ms: float, first_ms: float
) -> None:
    waits = iter([first_ms, first_ms])

    def timed(gpu: Any, passes: list[Any], clock: str) -> np.ndarray:
        return np.array([submit_ms + 0.02 * len(p.keywords["indices"]) for p in passes]) + next(waits, 0)

    monkeypatch.setattr(kernels, "timed", timed)
    (call,) = small_call("layer_norm")
    prepared = kernels.Prepared(llvmpipe, call, kernels.Effort(10.0, 1.0, 2**28), "wall")
    assert min(prepared.repeats) * 0.02 > 4
    assert prepared.round() == pytest.approx(0.02, rel=0.25)


def test_a_roof_is_not_that_of_a_submit(llvmpipe: WebGPU, monkeypatch: pytest.MonkeyPatch) -> None:
    counted: list[int] = []

    def encode(run: Any, repeats: int) -> None:
        counted.append(repeats)

    def timed(gpu: Any, passes: list[Callable[[Any], None]], clock: str) -> np.ndarray:
        passes[0](None)
        return np.array([1.0 + 0.02 * counted[-1]])

    monkeypatch.setattr(roof, "timed", timed)
    assert roof.best_ms(llvmpipe.gpu, "wall", encode, 10.0) == pytest.approx(0.02, rel=0.25)


def four_times(text: str) -> str:
    """The same kernel doing its work four times over: more than what a busy machine makes of two."""
    head = re.search(r"fn main\((.*?)\) \{\n", text, re.S)
    assert head is not None
    names = ", ".join(re.findall(r"(\w+): (?:vec3<u32>|u32)", head[1]))
    plain = re.sub(r"@builtin\(\w+\) ", "", head[1])
    once = text.replace("@compute @workgroup_size(SIZE)\n", "").replace(head[0], f"fn once({plain}) {{\n")
    assert once.count("@compute") == 0
    call = f"  once({names});\n"
    return f"{once}\n@compute @workgroup_size(SIZE)\nfn main({head[1]}) {{\n{4 * call}}}\n"


def test_a_kernel_that_works_four_times_over_is_flagged(
    llvmpipe: WebGPU, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    slowed, same = Call("layer_norm", (1, 32, 32), (("c", 320),)), Call("linear", (1, 32, 32), (("k", 64), ("n", 64)))
    specialise: Callable[..., str] = wgsl.specialise
    pipelines: dict[bool, dict[Any, Any]] = {False: {}, True: {}}

    def rows(slow: bool) -> list[dict[str, Any]]:
        def variant(shader: str, constants: wgsl.Constants = (), entry: str | None = None) -> str:
            text = specialise(shader, constants, entry)
            return four_times(text) if slow and shader == "layer_norm" else text

        monkeypatch.setattr(wgsl, "specialise", variant)
        monkeypatch.setattr(llvmpipe.gpu, "_pipelines", pipelines[slow])
        made = kernels.measure(llvmpipe, {slowed: {"step": 1}, same: {"step": 1}}, kernels.Effort(10.0, 1.0, 2**28), "wall")
        return [row.describe(FLAT) for row in made]

    # In turn, and the best of each: what else the machine does must not decide.
    taken: dict[bool, list[list[dict[str, Any]]]] = {False: [], True: []}
    for turn in range(12):
        for slow in (False, True):
            taken[slow].append(rows(slow))
        fast, slow_rows = ([min(tries, key=lambda row: row["ms"]) for tries in zip(*taken[slow], strict=True)] for slow in (False, True))
        old, new = result_of(fast), result_of(slow_rows)
        if turn > 1 and bench_kernels.show(new, old) == [str(slowed)]:
            break
    capsys.readouterr()
    assert bench_kernels.show(new, old) == [str(slowed)]
    assert re.search(r"SLOWER.*layer_norm", capsys.readouterr().out)
    assert bench_kernels.show(old, old) == []
    assert "SLOWER" not in capsys.readouterr().out


FLAT = roof.Roof(1e6, [(2**20, 1e6)])


def result_of(rows: list[dict[str, Any]]) -> dict[str, Any]:
    flat = {"gflops": FLAT.gflops, "bandwidth": [{"bytes": size, "gbs": rate} for size, rate in FLAT.bandwidth]}
    return {
        "bench": "bench_kernels",
        "config": "tiny",
        "clock": "wall",
        "roof": flat,
        "rows": rows,
        "plans": {},
        "environment": {"adapter": {"name": "some adapter"}, "load_average": 0.5, "cores": 2},
    }


def test_a_ratio_is_judged_by_how_much_both_spread() -> None:
    quiet, loud = {"ms": 1.0, "spread": 0.01, "slowed": 0.0}, {"ms": 1.0, "spread": 0.5, "slowed": 0.0}
    assert bench_kernels.verdict({"ms": 1.05, "spread": 0.01, "slowed": 0.0}, quiet) == (1.05, "")
    assert bench_kernels.verdict({"ms": 1.2, "spread": 0.01, "slowed": 0.0}, quiet) == (1.2, "SLOWER")
    assert bench_kernels.verdict({"ms": 1.2, "spread": 0.01, "slowed": 0.2}, quiet) == (1.2, "")
    assert bench_kernels.verdict({"ms": 0.8, "spread": 0.01, "slowed": 0.0}, quiet) == (0.8, "faster")
    assert bench_kernels.verdict({"ms": 1.5, "spread": 0.01, "slowed": 0.0}, loud) == (1.5, "")
    assert bench_kernels.verdict({"ms": 2.0, "spread": 0.1, "slowed": 0.0}, loud) == (2.0, "SLOWER")


def test_a_clock_that_lies_is_not_taken(llvmpipe: WebGPU, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = roof.timed
    monkeypatch.setattr(roof, "timed", lambda gpu, passes, clock: honest(gpu, passes, clock) * (0 if clock == "timestamp" else 1))
    clock, why = roof.trusted_clock(llvmpipe.gpu)
    assert clock == "wall"
    assert "timestamps cannot be trusted" in why
    monkeypatch.setattr(llvmpipe.gpu, "timestamps", False)
    assert roof.trusted_clock(llvmpipe.gpu) == ("wall", "the wall; the adapter has no timestamp queries")


def test_the_exit_code_is_1_where_a_row_is_slower_or_above_the_roof(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    call = next(iter(TINY_CALLS))

    def of(ms: float) -> dict[str, Any]:
        done = [{"shader": "a", "part": "", "flops": 10**6, "bytes": 1}]
        row = kernels.Row(call, {"step": 1}, done, np.full((3, 1), ms), np.ones(3), SimpleNamespace(best=1.0))
        return result_of([row.describe(FLAT)])

    old, written = tmp_path / "old.json", tmp_path / "new.json"
    old.write_text(json.dumps(of(1.0)))
    given = ["--adapter", "llvmpipe", "--config", "tiny", "--compare", str(old), "--json", str(written)]
    monkeypatch.setattr(sys, "argv", ["bench_kernels.py", *given])
    for ms, code in ((1.0, 0), (2.0, 1), (0.5, 0)):
        result = of(ms)
        monkeypatch.setattr(bench_kernels, "bench", lambda *_, result=result: result)
        assert bench_kernels.main() == code
        assert json.loads(written.read_text()) == result
    assert "another clock" not in capsys.readouterr().out
    monkeypatch.setattr(bench_kernels, "bench", lambda *_: of(1e-7) | {"clock": "timestamp"})
    with pytest.raises(MoebiusError, match="Faster than the roof"):
        bench_kernels.main()
    assert "timed by another clock (wall, now timestamp)" in capsys.readouterr().out
