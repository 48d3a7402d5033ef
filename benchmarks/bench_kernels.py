"""Every distinct op and shape of the model by itself: GPU time, GFLOP/s, GB/s, and percent of what this adapter can do.

    python benchmarks/bench_kernels.py [--config full|tiny|nano] [--adapter NAME] [--filter WORDS] [--menu] [--json FILE]
                                       [--compare OLD.json]

The cases are those of the kernel tests (tests/model_cases.py), in the model's own sizes. Times are medians of rounds of batches, by GPU
timestamps where they can be trusted and by the wall where not. A kernel is repeated on the same buffers, so what fits a cache is found
there, weights too. The roof is measured first, and once more at the end. Exit code 1: a row is slower than in OLD.json, or above the roof.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from common import ROOT, busy, environment, read_json, run, write_json

from moebius.backends.webgpu import WebGPU
from moebius.errors import MoebiusError, UsageError
from moebius.inpaint import tuning
from moebius.model.unet import UNetConfig
from moebius.model.vae import VAEConfig

sys.path.insert(0, str(ROOT / "tests"))
from kernels import Effort, measure, on_every_row
from model_cases import Call, model_calls
from roof import Roof, trusted_clock
from roof import measure as measure_roof

NAME = Path(__file__).stem
SLOWER = 0.1  # and as much as the two rows spread, or the machine was slow


def arguments() -> argparse.Namespace:
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", choices=["full", "tiny", "nano"], help="default: full on a GPU, tiny on a software driver")
    parser.add_argument("--adapter", help="by name or number, as `moebius adapters` lists them; default: the best")
    parser.add_argument("--precision", choices=["f32", "f16"], default="f32", help="what it computes in (f32)")
    parser.add_argument("--matrix-units", action="store_true", help="with the adapter's matrix units, through Dawn")
    parser.add_argument("--filter", default="", metavar="WORDS", help="only rows that hold all of them, such as 'conv3x3 64×64'")
    parser.add_argument("--menu", action="store_true", help="dense layers alone, on every row of the menu of kernels that may run them")
    parser.add_argument("--seconds", type=float, default=2.0, help="for the batches of a row; what is slower gets fewer, two at least")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result")
    parser.add_argument("--compare", type=Path, metavar="OLD.json", help="a ratio to an earlier result in every row")
    return parser.parse_args()


def configs(name: str) -> tuple[UNetConfig, VAEConfig]:
    if name == "nano":
        from moebius.weights import store
        from moebius.weights.nano import packaged_nano

        weights = store.load(packaged_nano())
        return weights.unet_config, weights.vae_config
    return (UNetConfig.full(), VAEConfig.full()) if name == "full" else (UNetConfig.tiny(), VAEConfig.tiny())


def chosen(calls: Mapping[Call, dict[str, int]], words: str) -> dict[Call, dict[str, int]]:
    matching = {
        call: counts for call, counts in calls.items() if all(w in str(call) or w in str(call).replace("×", "x") for w in words.split())
    }
    if not matching:
        raise UsageError(f"No row holds {words!r}. A row reads like {str(next(iter(calls)))!r}.")
    return matching


def bench(gpu: WebGPU, config: str, calls: Mapping[Call, Mapping[str, int]], seconds: float) -> dict[str, Any]:
    """The whole result, as it is written."""
    clock, why = trusted_clock(gpu.gpu)
    print(f"{gpu.gpu.name}\n{config} model, {len(calls)} rows; clock: {why}")
    effort = Effort.of(gpu.caps.is_software, seconds)
    roof = measure_roof(gpu.gpu, clock, effort.batch_ms)
    rows = measure(gpu, calls, effort, clock, say=progress)
    roof = roof.higher(measure_roof(gpu.gpu, clock, effort.batch_ms))
    described = [row.describe(roof) for row in rows]
    for _ in range(3):  # where the roof was measured while something else ran
        if not above(described):
            break
        roof = roof.higher(measure_roof(gpu.gpu, clock, effort.batch_ms))
        described = [row.describe(roof) for row in rows]
    return {
        "bench": NAME,
        "config": config,
        "precision": gpu.precision,
        "environment": environment(gpu.gpu),
        "clock": clock,
        "clock_note": why,
        "caches": "warm: a batch repeats one kernel on the same buffers, weights included",
        "roof": {"gflops": roof.gflops, "bandwidth": [{"bytes": size, "gbs": rate} for size, rate in roof.bandwidth]},
        "rows": described,
        "plans": plans(described),
    }


def progress(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r{text}\x1b[K", end="", file=sys.stderr, flush=True)


def above(rows: list[dict[str, Any]]) -> list[str]:
    """Rows with a kernel faster than the roof allows: its FLOPs, its bytes or the roof are wrong."""
    return [
        f"{row['row']} / {k['shader']}: {k['percent_of_roof']:.0f} %" for row in rows for k in row["kernels"] if k["percent_of_roof"] > 100
    ]


def plans(rows: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """What the rows add up to in a guided step of one picture, an encoding, a decoding."""
    out: dict[str, dict[str, float]] = {}
    for row in rows:
        for plan, count in row["counts"].items():
            if plan == "start":  # its rows overlap: each has the embedding in it
                continue
            total = out.setdefault(plan, {"ms": 0.0, "flops": 0.0})
            total["ms"] += count * row["ms"]
            total["flops"] += count * row["flops"]
    return out


def verdict(row: dict[str, Any], old: dict[str, Any]) -> tuple[float, str]:
    """The new time in old times, and what that says, given how much both spread and how slow the machine was."""
    ratio = row["ms"] / old["ms"]
    margin = 1 + SLOWER + sum(r["spread"] + r["slowed"] for r in (row, old))
    return ratio, "SLOWER" if ratio > margin else "faster" if ratio < 1 / margin else ""


def show(result: dict[str, Any], old: dict[str, Any] | None) -> list[str]:
    """Prints the table; returns the rows that are slower than the old ones."""
    roof = Roof(result["roof"]["gflops"], [(b["bytes"], b["gbs"]) for b in result["roof"]["bandwidth"]])
    best = max(rate for _, rate in roof.bandwidth)
    print(f"roof: {roof.gflops:,.0f} GFLOP/s, {best:,.1f} GB/s at best and {roof.bandwidth[-1][1]:,.1f} beyond the caches; caches warm")
    before = {row["row"]: row for row in old["rows"]} if old else {}
    if old and old["environment"]["adapter"] != result["environment"]["adapter"]:
        print(f"The old result is from another adapter or driver: {old['environment']['adapter']['name']}.")
    if old and old["clock"] != result["clock"]:
        print(f"The old result was timed by another clock ({old['clock']}, now {result['clock']}): ratios say little.")
    print(f"{'ms':>10} {'spread':>7} {'GFLOP/s':>9} {'GB/s':>8} {'roof':>6}{'  ratio to the old' if old else ''}")
    slower = []
    for row in result["rows"]:
        compared = ""
        if old:
            ratio, says = verdict(row, before[row["row"]]) if row["row"] in before else (0.0, "new")
            compared = f" {ratio:7.2f} {says:6}"
            slower += [row["row"]] if says == "SLOWER" else []
        counts = ", ".join(f"{n}× {plan}" for plan, n in row["counts"].items())
        print(f"{figures(row)}{compared}  {row['row']}  ({counts}){'  NOISY' if row['noisy'] else ''}")
        if len(row["kernels"]) > 1:
            for k in row["kernels"]:
                print(f"{figures(k)}{' ' * len(compared)}    {k['shader']} {k['kernel'].partition(';')[0]} {k['part']} ({k['bound']})")
    if gone := before.keys() - {row["row"] for row in result["rows"]}:
        some = "; ".join(sorted(gone)[:5]) + ("; …" if len(gone) > 5 else "")
        print(f"{len(gone)} rows of the old result were not measured now: {some}")
    for plan, total in result["plans"].items():
        print(f"{plan}: the rows add up to {total['ms']:.4g} ms, {total['flops'] / total['ms'] / 1e6:,.0f} GFLOP/s")
    noisy = sum(row["noisy"] for row in result["rows"])
    print(f"{noisy} of {len(result['rows'])} rows are noisy: their rounds lie more than 10 % apart, or the machine was slow")
    if note := busy(result["environment"]):
        print(f"{note}; measure again when it is not")
    return slower


def figures(row: dict[str, Any]) -> str:
    return f"{row['ms']:10.4f} {100 * row['spread']:6.1f}% {row['gflops']:9.2f} {row['gbs']:8.2f} {row['percent_of_roof']:5.1f}%"


def main() -> int:
    args = arguments()
    old = read_json(args.compare, NAME) if args.compare else None
    if not args.seconds > 0:
        raise UsageError(f"--seconds is {args.seconds}; it must be above 0.")
    gpu = WebGPU(args.adapter, precision=args.precision, matrix_units=args.matrix_units)
    tuning.apply(gpu)  # what users get
    config = args.config or ("tiny" if gpu.caps.is_software else "full")
    if args.config is None:
        print(f"--config {config}, because {'this is a software driver' if gpu.caps.is_software else 'this is a GPU'}")
    if old and old.get("precision", "f32") != args.precision:
        raise UsageError(f"{args.compare} was measured in {old.get('precision', 'f32')}; compare it with that --precision.")
    if old and old["config"] != config:
        raise UsageError(f"{args.compare} is of the {old['config']} model; compare it with --config {old['config']}.")
    calls: Mapping[Call, Mapping[str, int]] = chosen(model_calls(*configs(config)), args.filter)
    if args.menu and not (calls := on_every_row(gpu, calls)):
        raise UsageError(f"No row that holds {args.filter!r} has a dense layer.")
    result = bench(gpu, config, calls, args.seconds)
    progress("")
    slower = show(result, old)
    if args.json:
        write_json(args.json, result)
        print(f"written: {args.json}")
    if impossible := above(result["rows"]):
        raise MoebiusError(f"Faster than the roof, so FLOPs, bytes or the roof are wrong: {'; '.join(impossible)}.")
    if slower:
        print(f"{len(slower)} slower than in {args.compare}: {'; '.join(slower)}")
    return 1 if slower else 0


if __name__ == "__main__":
    run(main)
