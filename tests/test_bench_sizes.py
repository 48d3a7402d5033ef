"""benchmarks/bench_sizes.py: what it records with which sizes, and that it holds the pictures to be the same."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from moebius.backends.webgpu import gemm
from moebius.backends.webgpu.ops import dense

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
import bench_sizes

from moebius.errors import MoebiusError


@pytest.mark.usefixtures("llvmpipe")
def test_every_row_is_recorded_with_its_sizes_and_makes_the_same_picture(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    before = dense.WHOLE, dense.PART, gemm.NORMED, gemm.SCRATCH
    monkeypatch.setattr(
        bench_sizes, "ROWS", {"as it is": {}, "parts": {"dense.WHOLE": 2**16, "dense.PART": dict.fromkeys(dense.PART, 2**16)}}
    )
    monkeypatch.setattr(bench_sizes, "picture", lambda plan, z: np.zeros(3))
    monkeypatch.setattr(bench_sizes, "timed", lambda gpu, passes, clock: np.arange(1.0, 1 + len(passes)))
    file = tmp_path / "sizes.json"
    monkeypatch.setattr(sys, "argv", ["bench_sizes.py", "--config", "tiny", "--side", "16", "--adapter", "llvmpipe", "--json", str(file)])
    assert bench_sizes.main() == 0
    rows = json.loads(file.read_text(encoding="utf-8"))["rows"]
    assert [row["ms"] for row in rows.values()] == [1.0, 2.0]
    assert rows["as it is"]["dispatches"] < rows["parts"]["dispatches"]
    assert before == (dense.WHOLE, dense.PART, gemm.NORMED, gemm.SCRATCH)
    pictures = iter([np.zeros(3), np.array([0.0, 0.0, 1e-9])])
    monkeypatch.setattr(bench_sizes, "picture", lambda plan, z: next(pictures))
    with pytest.raises(MoebiusError, match="With parts the picture is another one"):
        bench_sizes.main()


def test_what_is_wrong_within_leaves_the_sizes_as_they_were() -> None:
    before = gemm.NORMED
    with pytest.raises(pytest.fail.Exception, match="it was 1"), bench_sizes.constants({"gemm.NORMED": 1}):
        pytest.fail(f"it was {gemm.NORMED}")
    assert before == gemm.NORMED
