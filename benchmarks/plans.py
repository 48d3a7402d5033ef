"""What a guided step of the full model costs, and the memory of a picture. Counted from the recorded plans, not timed.

    python benchmarks/plans.py [--adapter NAME]

writes benchmarks/results/plans.json from `moebius plan --kind discrete --json`, as for a GPU with that adapter's limits;
`python benchmarks/readme.py` then puts the figures into the pages.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from typing import Any

from common import RESULTS, run, write_json

from moebius.errors import MoebiusError

FIGURES = ("flops", "dispatches", "peak_bytes", "weight_bytes")
PICTURE = ("weight_bytes", "model_bytes", "picture_bytes", "low_memory_bytes")


def figures(adapter: str) -> dict[str, Any]:
    plan, half = (asked(adapter, precision) for precision in ("f32", "f16"))
    picture = {each["precision"]: {name: each[name] for name in PICTURE} for each in (plan, half)}
    return {"bench": "plans", "full step": {name: plan[name] for name in FIGURES}, "full picture": picture}


def asked(adapter: str, precision: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "moebius", "plan", "--config", "full", "--kind", "discrete", "--adapter", adapter, "--json"]
    done = subprocess.run([*command, "--precision", precision], capture_output=True, text=True, encoding="utf-8", check=False)
    if done.returncode:
        raise MoebiusError(f"The plan cannot be had: {done.stderr.strip()}")
    plan: dict[str, Any] = json.loads(done.stdout)
    return plan


def main() -> int:
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--adapter", default="llvmpipe")
    write_json(RESULTS / "plans.json", figures(parser.parse_args().adapter))
    return 0


if __name__ == "__main__":
    run(main)
