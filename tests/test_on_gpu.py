"""benchmarks/on_gpu.sh with a Python that only says what the steps would: what fails or hangs is named, and the rest goes on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="a script for bash")

STUB = """#!/bin/sh
case "$*" in
*on_gpu.py*) exec "$REAL" "$@" ;;
*doctor*) [ -z "$HANGS" ] || sleep 60; echo '{"devices": [{"device": "a card", "ok": true, "findings": []}]}' ;;
*validate*) echo '{"rows": [{"ok": true}, {"ok": false}]}'; exit 1 ;;
*tune*) echo 'No adapter was found.' >&2; exit 1 ;;
*plan*) echo '{"dispatches": 453' ;;
*bench_kernels*) echo 'about to crash'; kill -SEGV $$ ;;
*bench_model*) for word; do last=$word; case "$word" in */model.json) cp "$MODEL" "$word" ;; esac; done ;;
*pytest*) echo '3 passed in 1.00s' ;;
esac
"""
PARTS = {part: {"median_s": seconds} for part, seconds in {"step": 0.02, "encode": 0.03, "decode": 0.05, "image": 0.4}.items()}
MODEL = {"environment": {"commit": "x"}, "contenders": {"moebius WebGPU": PARTS | {"peak_bytes": 1.5e9}}, "left_out": {"a peer": "it hung"}}


def on_gpu(folder: Path, **more: str) -> tuple[int, str]:
    stub, result = folder / "python", folder / "m.json"
    stub.write_text(STUB)
    stub.chmod(0o755)
    result.write_text(json.dumps(MODEL))
    given = {"PYTHON": str(stub), "REAL": sys.executable, "MODEL": str(result), "SHORT": "1", "HANGS": ""}
    command = [str(ROOT / "benchmarks/on_gpu.sh"), str(folder / "out"), "a card"]
    done = subprocess.run(command, env=os.environ | given | more, capture_output=True, text=True, timeout=120, check=False)
    return done.returncode, done.stdout


def test_a_step_that_fails_is_named_and_the_others_go_on(tmp_path: Path) -> None:
    code, said = on_gpu(tmp_path, SECONDS_IN_ALL="120")
    assert code == 1
    assert "tune: exit code 1; its last words: No adapter was found." in said
    results = json.loads((tmp_path / "out/results.json").read_text())
    steps = {step["step"]: step for step in results["steps"]}
    assert list(steps) == ["doctor", "validate", "tune", "plan", "model", "tests", "kernels"]
    assert {name: step["code"] for name, step in steps.items() if step["code"]} == {"validate": 1, "tune": 1, "kernels": 139}
    assert results["model"] == MODEL
    words = steps["model"]["command"].split()
    assert 5 <= int(words[words.index("--budget") + 1]) <= 105  # less than is left, so that it ends by itself
    assert str(tmp_path) not in json.dumps(results["steps"])
    assert results["environment"] == {"commit": "x"}
    table = (tmp_path / "out/table.md").read_text()
    assert "moebius WebGPU: step 20.0 ms, encode 30.0 ms, decode 50.0 ms, image 400.0 ms; 1.50 GB" in table
    for said_so in ("2 ops, 1 over their limit", "a peer: left out: it hung", "3 passed", "about to crash", "nothing is wrong"):
        assert said_so in table
    assert table.splitlines()[2:] == [line for line in said.splitlines() if line.startswith("|")][2:]


def test_only_the_steps_that_are_named(tmp_path: Path) -> None:
    code, said = on_gpu(tmp_path, ONLY="doctor model forms")
    assert code == 0
    assert [line for line in said.splitlines() if "no such step" in line] == ["forms: there is no such step here"]
    results = json.loads((tmp_path / "out/results.json").read_text())
    assert [step["step"] for step in results["steps"]] == ["doctor", "model"]


def test_a_step_that_hangs_is_stopped_and_time_ends(tmp_path: Path) -> None:
    code, said = on_gpu(tmp_path, HANGS="1", SECONDS_IN_ALL="1")
    assert code == 1
    assert "doctor: stopped after 1 s" in said
    assert "model: left out" in said
