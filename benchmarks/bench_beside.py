"""Nano's sample picture on the CPU device, from process start to saved file: alone, several at once, and beside busy cores.

    python benchmarks/bench_beside.py [--runs N] [--json FILE]

Alone and each of the others take turns; a ratio is of the slowest picture to the one alone in the same turn. Then where the time of a
picture alone goes, by the run's own clock; what is left of it is the start (the interpreter, imports, weights) and the saving.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from common import environment, run, write_json

from moebius.errors import MoebiusError

CASES = {"two at once": (2, 0), "four at once": (4, 0), "beside one busy process": (1, 1), "beside two busy processes": (1, 2)}
VARIABLES = ("OPENBLAS_NUM_THREADS", "OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE", "OMP_NUM_THREADS")  # as a user has them: not


def pictures(count: int, busy: int, folder: Path) -> tuple[float, dict[str, float]]:
    """Seconds until the last of them is saved, and one's timings."""
    own = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(busy)]
    command = [sys.executable, "-m", "moebius", "inpaint", "--sample", "--device", "cpu", "--json", "--overwrite", "-o"]
    try:
        start = time.perf_counter()
        quiet = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True, "env": own}
        started = [subprocess.Popen([*command, str(folder / f"{i}.png")], **quiet) for i in range(count)]
        said = [process.communicate()[0] for process in started]
        seconds = time.perf_counter() - start
    finally:
        for other in others:
            other.kill()
            other.wait()
    if any(process.returncode for process in started):
        raise MoebiusError("A picture that is measured failed.")
    timings: dict[str, float] = json.loads(said[0].splitlines()[-1])["timings"]
    return seconds, timings


def measure(runs: int) -> dict[str, Any]:
    times: dict[str, list[float]] = {"alone": [], **{name: [] for name in CASES}}
    stages: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory(prefix="moebius-bench-") as folder:
        pictures(1, 0, Path(folder))  # warms the page cache
        for _ in range(runs):
            seconds, timings = pictures(1, 0, Path(folder))
            times["alone"].append(seconds)
            stages.append(timings | {"start and save": seconds - sum(timings.values())})
            for name, (count, busy) in CASES.items():
                times[name].append(pictures(count, busy, Path(folder))[0])
    ratios = {name: [t / alone for t, alone in zip(times[name], times["alone"], strict=True)] for name in CASES}
    return {
        "bench": "bench_beside",
        "environment": environment(None),
        "seconds": times,
        "ratio_median": {name: statistics.median(values) for name, values in ratios.items()},
        "ratio_worst": {name: max(values) for name, values in ratios.items()},
        "alone by stage, medians": {stage: statistics.median(s[stage] for s in stages) for stage in stages[0]},
    }


def main() -> int:
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result")
    args = parser.parse_args()
    result = measure(max(1, args.runs))
    print(f"alone {statistics.median(result['seconds']['alone']):.2f} s: ", end="")
    print(", ".join(f"{stage} {seconds:.2f}" for stage, seconds in result["alone by stage, medians"].items()))
    for name, ratio in result["ratio_median"].items():
        print(f"{name:28} {ratio:5.2f} of the time alone, at worst {result['ratio_worst'][name]:.2f}")
    if args.json:
        write_json(args.json, result)
    return 0


if __name__ == "__main__":
    run(main)
