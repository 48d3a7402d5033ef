"""Writes the README's speed tables from benchmarks/results/: kernels.*.json of bench_kernels, model.*.json of bench_model.

    python benchmarks/readme.py [--check]

The tables stand between markers, and nothing else is touched. With --check nothing is written, and the exit code is 1 where the README
differs from the results.
"""

from __future__ import annotations

import argparse
import statistics
from collections import defaultdict
from typing import Any

from common import RESULTS, ROOT, between, busy, read_json, run, write_text

from moebius.errors import UsageError

TABLES = ("speed", "kernels")


def markers(table: str) -> tuple[str, str]:
    return f"<!-- {table}: benchmarks/readme.py -->", f"<!-- /{table} -->"


def read(bench: str, pattern: str) -> dict[str, dict[str, Any]]:
    return {path.name: read_json(path, bench) for path in sorted(RESULTS.glob(pattern))}


def speed(results: dict[str, dict[str, Any]]) -> list[str]:
    """A row a contender of every run."""
    lines = [
        "| model, where | | load | encode | step | decode | picture | ratio of the pairs: median, worst |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, result in results.items():
        first = result["against"]
        where = f"{result['config']}, {place(result)}; [{name}](benchmarks/results/{name})"
        for contender, row in result["contenders"].items():
            seconds = " | ".join(duration(row[part]["median_s"]) for part in ("encode", "step", "decode", "image"))
            image = row["image"]
            ratio = "" if contender == first else f"{image['ratio_median']:.2f}, {image['ratio_worst']:.2f}"
            lines.append(f"| {where} | {contender} | {duration(row['load_s'] + row['first_calls_s'])} | {seconds} | {ratio} |")
            where = ""
    return lines


def place(result: dict[str, Any]) -> str:
    where = result["environment"]
    adapter = where["adapter"]
    note = f"; **{busy(where)}**" if busy(where) else ""
    return f"{adapter['name'] if adapter else where['processor']}, {result['cores']} cores, {result['steps']} steps{note}"


def kernels(results: dict[str, dict[str, Any]]) -> list[str]:
    """A row an op: where a picture's time goes, and how near the adapter's roof that is."""
    lines = []
    for name, result in results.items():
        roof = result["roof"]
        widest = max(b["gbs"] for b in roof["bandwidth"])
        noisy = sum(row["noisy"] for row in result["rows"])
        environment = result["environment"]
        note = f"; **{busy(environment)}**" if busy(environment) else ""
        lines += [
            f"{environment['adapter']['name']} ({environment['adapter']['description']}), {result['config']} model, commit "
            f"{environment['commit']}; roof {roof['gflops']:,.0f} GFLOP/s and {widest:,.0f} GB/s, both measured; clock: {result['clock']}; "
            f"{noisy} of {len(result['rows'])} rows are noisy{note}. [{name}](benchmarks/results/{name})",
            "",
            "| op | shapes | ms a step | ms to encode and decode | GFLOP/s | GB/s | % of the roof: median, worst |",
            "|---|---|---|---|---|---|---|",
        ]
        by_op: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for row in result["rows"]:
            by_op[row["op"].removesuffix("_case")].append(row)
        for op, rows in by_op.items():
            lines.append(f"| {op} | {len(rows)} | {cells(rows)} |")
        lines.append("")
    return lines[:-1]


def cells(rows: list[dict[str, Any]]) -> str:
    def total(key: str, plans: tuple[str, ...]) -> float:
        return sum(row[key] * row["counts"].get(plan, 0) for row in rows for plan in plans)

    step, coder = total("ms", ("step",)), total("ms", ("encode", "decode"))
    time, flops, nbytes = (sum(row[key] for row in rows) for key in ("ms", "flops", "bytes"))
    roofs = [row["percent_of_roof"] for row in rows]
    figures = [f"{step:.3g}" if step else "", f"{coder:.3g}" if coder else "", f"{flops / time / 1e6:,.3g}", f"{nbytes / time / 1e6:,.3g}"]
    return " | ".join([*figures, f"{statistics.median(roofs):.0f}, {min(roofs):.0f}"])


def duration(seconds: float) -> str:
    return f"{seconds:.3g} s" if seconds >= 1 else f"{1e3 * seconds:.3g} ms"


def main() -> int:
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 where the README differs")
    args = parser.parse_args()
    made = {"speed": speed(read("bench_model", "model.*.json")), "kernels": kernels(read("bench_kernels", "kernels.*.json"))}
    if not made["kernels"] or len(made["speed"]) == 2:
        raise UsageError(
            f"{RESULTS} has no kernels.*.json or no model.*.json; measure them first (bench_kernels.py, bench_model.py --json)."
        )
    readme = ROOT / "README.md"
    old = text = readme.read_text(encoding="utf-8")
    for table in TABLES:
        text = between(text, *markers(table), "\n".join(made[table]))
    if args.check:
        print("README.md is what the results say." if text == old else "README.md differs from the results; run benchmarks/readme.py.")
        return int(text != old)
    write_text(readme, text)
    return 0


if __name__ == "__main__":
    run(main)
