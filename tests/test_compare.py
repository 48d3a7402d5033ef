"""`moebius compare`: the set, the runs, the numbers, the adapters. Files are in test_compare_report, processes in _processes."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from moebius.backends.cpu import CPU
from moebius.backends.reference import Reference
from moebius.backends.webgpu import WebGPU
from moebius.check.bounds import cancellation
from moebius.check.compare import adapters, cases, endtoend, measure
from moebius.check.compare.fingerprint import decoded_map, digest, error_map, errors, is_own_rounding, is_rounding, ulp
from moebius.check.specs import SPECS, bound, limits
from moebius.errors import AdapterError, LimitError, UsageError
from moebius.model.contract import Ops
from moebius.model.params import Params

U = 2.0**-24


# the set -------------------------------------------------------------------------------------------------------------
def test_every_op_of_the_contract_has_a_spec() -> None:
    ops = {name for name, value in vars(Ops).items() if callable(value) and not name.startswith("_")}
    assert ops - {"condition"} == SPECS.keys()


def test_the_set_has_every_op_at_edge_and_model_shapes() -> None:
    made = cases.fixed_set()
    assert {c.op for c in made} == SPECS.keys()
    for op in SPECS:
        assert {c.kind for c in made if c.op == op} == {"edge", "model"}
    assert len({(c.op, c.name) for c in made}) == len(made)
    edge = [x.shape for c in made if c.kind == "edge" for x in c.of.inputs]
    assert {size[0] for size in edge} >= {1, 2}
    assert any(size[2:] == (1, 1) for size in edge)
    assert any(size[1] % 4 and size[2] % 8 and size[3] % 2 for size in edge)
    assert max(size[1] for size in edge) > 2000


def test_inputs_are_the_same_bytes_everywhere() -> None:
    """Pinned: fingerprints of another version or machine are comparable where this is unchanged."""
    edge = "".join(case.digest() for case in cases.fixed_set() if case.kind == "edge")
    assert hashlib.sha256(edge.encode()).hexdigest()[:16] == "9f286ef66d9f6602"


@pytest.mark.parametrize("op", sorted(SPECS))
def test_the_cpu_device_is_inside_every_bound(op: str) -> None:
    ops = CPU()
    for case in (c for c in cases.fixed_set() if c.op == op and c.kind == "edge"):
        for row in measure.op_rows(case, ops):
            assert is_rounding(row), row
            assert row["repeatable"], row


def test_every_op_on_the_gpu_is_inside_its_bound(llvmpipe: WebGPU) -> None:
    """Edge shapes as plans; the whole set is run by `moebius compare` itself."""
    for case in (c for c in cases.fixed_set() if c.kind == "edge"):
        for row in measure.op_rows(case, llvmpipe):
            assert is_rounding(row), row
            assert row["repeatable"], row


def test_a_limit_is_a_row_with_its_reason(llvmpipe: WebGPU) -> None:
    two = WebGPU(llvmpipe.gpu, replace(llvmpipe.caps, limits={**llvmpipe.caps.limits, "max-storage-buffers-per-shader-stage": 2}))
    case = next(c for c in cases.fixed_set() if c.op == "linear")
    (row,) = measure.rows(case, two, lambda: None)
    assert row["status"] == "refused"
    assert "storage buffers" in row["reason"]
    assert (row["op"], row["case"]) == ("linear", case.name)


def test_cancellation_widens_the_bound_of_a_sampling_step_and_of_nothing_else() -> None:
    y, eps = (np.full((1, 1, 1, 1), v) for v in (1.0, 0.5))
    rows = np.array([[0.6, 0.8, 0.8, 0.6]])
    out = Reference(np.float64).guided_ddim(eps, y, rows, 1.0)
    plain, wide = 8 * U, limits("guided_ddim", (eps, y, rows, 1.0), {}, out)
    assert wide[0] == pytest.approx(plain * max(1, (0.8 * (1 + 0.4) / 0.6 + 0.3) / (0.8 * (1 - 0.4) / 0.6 + 0.3) / 2))
    assert limits("concat", (y, y), {}, y) == [0.0]


# runs ----------------------------------------------------------------------------------------------------------------
class Skewed(CPU):
    """A device that is wrong in one op, in the fifth digit."""

    def layer_norm(self, *args: Any, **kwargs: Any) -> Any:
        return super().layer_norm(*args, **kwargs) * np.float32(1.00003)


@pytest.fixture(scope="module")
def tiny() -> Any:
    """Two steps of the tiny network, whatever model the package has: fast."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(endtoend, "packaged_nano", lambda: (_ for _ in ()).throw(UsageError("not here")))
        patch.setitem(endtoend.SETTINGS, "steps", 2)
        yield {"sound": endtoend.end_to_end(CPU(), lambda: None), "skewed": endtoend.end_to_end(Skewed(), lambda: None)}


def test_a_run_is_traced_op_by_op_and_inside_its_bounds(tiny: Any) -> None:
    run = tiny["sound"]
    assert run["trace"][0]["stage"] == "encoder 1"
    assert {t["stage"] for t in run["trace"]} == {"encoder 1", "encoder 2", "step 1", "decoder 1"}
    assert {t["op"] for t in run["trace"]} == SPECS.keys()
    assert all(is_own_rounding(t) for t in run["trace"])
    assert run["repeatable"]
    assert [o["name"] for o in run["outputs"]] == ["latents", "picture"]
    assert 0 < run["outputs"][0]["relative_l2"] < 1e-5
    # From the stage's own inputs the first op has gathered nothing yet; later ones have.
    assert run["trace"][0]["own"] == run["trace"][0]["relative_l2"]
    assert run["trace"][-1]["relative_l2"] > run["trace"][-1]["own"]


def test_a_wrong_op_is_the_first_of_the_run_outside_its_bound(tiny: Any) -> None:
    outside = [t for t in tiny["skewed"]["trace"] if is_own_rounding(t) is False]
    assert {t["op"] for t in outside} == {"layer_norm"}
    assert outside[0]["own"] == pytest.approx(3e-5, rel=0.05)


def test_the_trained_model_is_inside_every_bound() -> None:
    """Its layers cancel: the terms of some sums are thirty times what is left of them."""
    run = endtoend.end_to_end(CPU(), lambda: None)
    assert (run["status"], run["repeatable"]) == ("done", True)
    outside = [t["path"] for t in run["trace"] if is_own_rounding(t) is False]
    assert not outside


def test_what_cancels_is_in_the_bound() -> None:
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal((1, 8, 8, 96)), rng.standard_normal((96, 96)).astype(np.float32)
    p = Params({"l.weight": w, "l.bias": np.zeros(96, np.float32)}, "l")
    y = x @ w.T.astype(np.float64)
    assert cancellation(x, p) == pytest.approx(1, abs=0.05)
    residual = 0.1 * rng.standard_normal(y.shape) - y
    assert cancellation(x, p, residual) == pytest.approx(10 * np.sqrt(2 * np.mean(y**2)), rel=0.05)
    assert cancellation(x, p, -y) == pytest.approx(1000)
    assert cancellation(0 * x, p) == 1
    assert bound("linear", (x, p), {"residual": residual}) > 100 * bound("linear", (x, p), {})


def test_a_step_of_the_full_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the tiny network in its place: one guided step, traced from its input to the next latents."""
    monkeypatch.setattr(endtoend.UNetConfig, "full", endtoend.UNetConfig.tiny)
    run = endtoend.full_step(CPU(), lambda: None)
    assert (run["status"], run["repeatable"]) == ("done", True)
    assert [t["op"] for t in run["trace"]][:: len(run["trace"]) - 1] == ["unet_input", "guided_ddim"]
    assert {t["stage"] for t in run["trace"]} == {"step 1"}
    assert all(is_own_rounding(t) for t in run["trace"])
    assert run["outputs"][0]["shape"] == [1, 16, 16, 4]
    assert 0 < run["outputs"][0]["relative_l2"] < 1e-5


# numbers -------------------------------------------------------------------------------------------------------------
def test_ulp_is_the_distance_of_float32_numbers() -> None:
    for x in (1.0, 1.5, 1.9999, 2.0, 3e-20, 7e12):
        assert ulp(np.array(x)) == np.spacing(np.float32(x))


def test_errors_of_a_tensor() -> None:
    want = np.array([[[[3.0, 4.0], [0.0, 5.0]]]])
    got = want.astype(np.float32)
    got[0, 0, 1, 0] = 2.0**-20
    row = errors(got, want, 1e-6)
    rms = math.sqrt(50 / 4)
    assert row["rms"] == pytest.approx(rms)
    assert row["max_ulp"] == 2.0**-20 / 2.0**-22  # 0 is judged at the root mean square, 3.5, whose ulp is 2^-22
    assert row["relative_l2"] == pytest.approx(2.0**-20 / math.sqrt(50))
    assert row["bias"] == pytest.approx(2.0**-20 / 4 / rms)
    assert row["max_abs"] == 2.0**-20
    assert row["checksum"] == digest(got)
    assert is_rounding(row)
    assert is_rounding(row | {"limit": 1e-7}) is False
    assert is_rounding(row | {"max_abs": 8.1e-6 * rms}) is False  # one value alone
    assert is_rounding(row | {"limit": None}) is None


def test_what_is_not_finite_is_not_rounding() -> None:
    row = errors(np.array([[1.0, np.nan]], np.float32), np.ones((1, 2)), 1e-6)
    assert row["max_ulp"] is None
    assert is_rounding(row) is False
    json.dumps(row, allow_nan=False)
    assert decoded_map(error_map(np.array([[1.0, np.nan]], np.float32), np.ones((1, 2)))).tolist() == [[0, 60_000]]
    foreign = base64.b64encode(np.array([np.nan, np.inf, -1], "<f2").tobytes()).decode()
    assert decoded_map({"height": 1, "width": 3, "ulps": foreign}).tolist() == [[60_000, 60_000, 0]]


def test_a_checksum_is_of_values_not_of_signs_of_zero() -> None:
    assert digest(np.array([0.0, 1.0], np.float32)) == digest(np.array([-0.0, 1.0]))
    assert digest(np.array([0.0, 1.0])) != digest(np.array([1.0, 0.0]))


def test_a_map_keeps_the_largest_error_of_every_block() -> None:
    want = np.ones((2, 40, 33, 3))
    got = want.astype(np.float32)
    got[1, 39, 0, 2] += 5 * 2.0**-23
    kept = decoded_map(error_map(got, want))
    assert kept.shape == (16, 16)
    assert kept[15, 0] == 5
    assert np.count_nonzero(kept) == 1


# adapters ------------------------------------------------------------------------------------------------------------
def asked(answers: dict[tuple[str, str], Any]) -> Any:
    def ask(arguments: Any, environment: dict[str, str], timeout: float) -> dict[str, Any]:
        answer = answers[arguments[1], Path(environment.get("VK_DRIVER_FILES", "")).name]
        if isinstance(answer, Exception):
            raise answer
        return answer

    return ask


def test_every_driver_is_asked_alone_and_nothing_is_listed_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapters, "drivers", lambda: [Path("/d/one.json"), Path("/d/two.json")])
    card, soft, gl = ({"summary": s, "backend": b} for s, b in (("Card", "Vulkan"), ("Soft", "Vulkan"), ("Card GL", "OpenGL")))
    said: list[str] = []
    targets = adapters.targets(
        asked(
            {
                ("wgpu", "one.json"): {"adapters": [card, card, gl]},
                ("wgpu", "two.json"): LimitError("the process ended by SIGSEGV"),
                ("wgpu", ""): {"adapters": [card, card, soft, gl]},
                ("dawn", "one.json"): {"refused": "wgpudawn cannot be imported"},
            }
        ),
        said.append,
    )
    assert [(t.name, t.selector, Path(t.environment.get("VK_DRIVER_FILES", "-")).name) for t in targets[2:]] == [
        ("Card, wgpu", "wgpu:0", "one.json"),
        ("Card, wgpu #2", "wgpu:1", "one.json"),
        ("wgpu with two.json", "", "two.json"),
        ("Soft, wgpu", "wgpu:2", "-"),
        ("Card GL, wgpu", "wgpu:3", "-"),
    ]
    assert "SIGSEGV" in targets[4].fault
    # Two manifests of one driver, as of two browsers: names stay unique within a file.
    empty = {("dawn", name): {"adapters": []} for name in ("one.json", "two.json", "")}
    same = adapters.targets(asked(empty | {("wgpu", name): {"adapters": [card]} for name in ("one.json", "two.json", "")}), said.append)
    assert [(t.name, t.twin) for t in same[2:]] == [("Card, wgpu", 1), ("Card, wgpu #2", 2)]
    monkeypatch.setenv("WGPU_BACKEND_TYPE", "OpenGL")
    answers = {("wgpu", name): {"adapters": [card, gl]} for name in ("one.json", "two.json", "")}
    only = adapters.targets(asked(answers | {("dawn", name): {"adapters": []} for name in ("one.json", "two.json", "")}), said.append)
    assert [t.name for t in only[2:]] == ["Card GL, wgpu"]
    assert "wgpudawn cannot be imported" in said[0]


def test_who_stops_a_listing_waits_for_no_driver_that_was_not_asked_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 1)
    before, stopped, begun = set(threading.enumerate()), threading.Event(), list[str]()

    def ask(environment: dict[str, str], timeout: float) -> dict[str, Any]:
        begun.append(environment["name"])
        assert environment["name"] in "ab" or stopped.wait(timeout)
        return environment

    found = adapters.answers(ask, [{"name": name} for name in "abcdefgh"])
    assert [next(found), next(found)] == [{"name": "a"}, {"name": "b"}]
    found.close()
    stopped.set()
    for thread in set(threading.enumerate()) - before:
        thread.join()
    assert begun in (["a", "b"], ["a", "b", "c"]), "the one that is under way is the last"


def test_drivers_named_in_the_environment_are_the_only_ones(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setattr(adapters, "MANIFESTS", (str(tmp_path),))
    monkeypatch.setattr(adapters, "BROWSERS", (str(tmp_path / "browser"),))
    (tmp_path / "installed.json").touch()
    (tmp_path / "browser").mkdir()
    (tmp_path / "browser/vk_swiftshader_icd.json").touch()
    assert [p.name for p in adapters.drivers({"VK_DRIVER_FILES": "/a/x.json:/b/y.json"})] == ["x.json", "y.json"]
    assert [p.name for p in adapters.drivers({"VK_ADD_DRIVER_FILES": "/a/x.json"})] == [
        "x.json",
        "installed.json",
        "vk_swiftshader_icd.json",
    ]


def test_adapters_are_chosen_by_words() -> None:
    targets = [
        adapters.Target(n, i, s) for n, i, s in (("Soft (CPU) via Vulkan, wgpu", "wgpu", "wgpu:0"), ("Soft, dawn", "dawn", "dawn:0"))
    ]
    targets.append(adapters.Target("CPU device, NumPy float32", "numpy", "cpu"))
    assert [t.selector for t in adapters.chosen(targets, ["soft"])] == ["wgpu:0", "dawn:0"]
    assert [t.selector for t in adapters.chosen(targets, ["dawn:soft", "cpu"])] == ["dawn:0", "cpu"]
    assert [t.selector for t in adapters.chosen(targets, ["vulkan SOFT"])] == ["wgpu:0"]
    assert len(adapters.chosen(targets, [])) == 3
    with pytest.raises(AdapterError, match="'Hard'"):
        adapters.chosen(targets, ["Hard"])
