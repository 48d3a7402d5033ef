"""This checkout against another one: a step and a picture of a small model, in turns, in one run.

    git worktree add ../before COMMIT
    python benchmarks/against.py ../before [--adapter NAME] [--config tiny|nano] [--steps N] [--runs N] [--json FILE]

Each works in a process of its own, with its own engine and shaders and the packages of this Python. After a picture that is not timed they
take turns, every second time in the opposite order. Ratios, this one's time in the other's, are of the pairs of a turn; the last line is
their median. `cpu` is what the process took of the processors, where a software driver computes: it says the same on a busy machine.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

from common import ROOT, busy, commit, environment, run, write_json

from moebius.backends.webgpu.device import Device
from moebius.errors import MoebiusError, UsageError

NAMES = ("this", "other")
PARTS = ("encode", "step", "decode", "image", "cpu step", "cpu image")
TURN = Path(__file__).with_name("against_turn.py")


class Turns:
    """A checkout's process: every request is a picture, and gives its seconds by part."""

    def __init__(self, checkout: Path, site: Path, arguments: list[str]) -> None:
        package = site / "moebius"
        package.mkdir(parents=True)
        for part in (checkout / "engine/moebius").iterdir():
            (package / part.name).symlink_to(part)
        (package / "shaders").symlink_to(checkout / "shaders")
        self.checkout = checkout
        self.process = subprocess.Popen(
            [sys.executable, str(TURN), *arguments],
            env=os.environ | {"PYTHONPATH": str(site)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            encoding="utf-8",
        )

    def picture(self) -> dict[str, float]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        with suppress(OSError):  # it has ended: reading says so
            self.process.stdin.write("\n")
            self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise MoebiusError(f"The process of {self.checkout} ended (exit code {self.process.wait()}); what it said is above.")
        times: dict[str, float] = json.loads(line)
        return times


def measure(checkouts: tuple[Path, Path], args: argparse.Namespace) -> dict[str, Any]:
    arguments = [args.adapter, args.config, str(args.steps)]
    times: dict[str, list[dict[str, float]]] = {name: [] for name in NAMES}
    with tempfile.TemporaryDirectory(prefix="moebius-bench-") as folder:
        workers = {}
        try:
            for name, checkout in zip(NAMES, checkouts, strict=True):
                workers[name] = Turns(checkout, Path(folder) / name, arguments)
                workers[name].picture()
            for turn in range(args.runs):
                for name in NAMES[:: 1 if turn % 2 == 0 else -1]:
                    times[name].append(workers[name].picture())
        finally:
            for worker in workers.values():
                worker.process.kill()
                worker.process.communicate()
    ratios = {part: [a[part] / b[part] for a, b in zip(*times.values(), strict=True)] for part in PARTS}
    return {
        "bench": "against",
        "config": args.config,
        "steps": args.steps,
        "runs": args.runs,
        "other": commit(checkouts[1]),
        "environment": environment(Device.open(args.adapter)),
        "seconds": {name: {part: [t[part] for t in times[name]] for part in PARTS} for name in NAMES},
        "ratio_median": {part: statistics.median(values) for part, values in ratios.items()},
        "ratio_best": {part: min(values) for part, values in ratios.items()},
        "ratio_worst": {part: max(values) for part, values in ratios.items()},
    }


def show(result: dict[str, Any]) -> None:
    where = result["environment"]
    print(f"{result['config']}, {result['steps']} steps; {where['adapter']['name']}; {where['commit']} against {result['other']}")
    for part in PARTS:
        this, other = (statistics.median(result["seconds"][name][part]) for name in NAMES)
        ratio, best, worst = (result[f"ratio_{which}"][part] for which in ("median", "best", "worst"))
        print(f"{part:9} {this:8.4f} s against {other:8.4f} s: {ratio:.3f} of its time ({best:.3f} to {worst:.3f})")
    if note := busy(where):
        print(f"{note}; measure again when it is not")
    print(json.dumps({part: round(ratio, 3) for part, ratio in result["ratio_median"].items()}))


def main() -> int:
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("other", type=Path, help="another checkout's folder")
    parser.add_argument("--adapter", default="llvmpipe", help="by name or number, as `moebius adapters` lists them (llvmpipe)")
    parser.add_argument("--config", choices=["tiny", "nano"], default="tiny")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--runs", type=int, default=5, help="timed pictures of each (5)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result")
    args = parser.parse_args()
    other = args.other.resolve()
    if not (other / "engine/moebius").is_dir() or not (other / "shaders").is_dir():
        raise UsageError(f"{args.other} is no checkout: it must hold engine/moebius and shaders.")
    if args.steps < 3 or args.runs < 1:
        raise UsageError(f"--steps is {args.steps} and --runs {args.runs}; they must be 3 and 1 or more.")
    result = measure((ROOT, other), args)
    show(result)
    if args.json:
        write_json(args.json, result)
    return 0


if __name__ == "__main__":
    run(main)
