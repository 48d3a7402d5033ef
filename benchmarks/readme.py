"""Writes the figures of README.md, docs/results.md, docs/accuracy.md and docs/architecture.md from benchmarks/results/, and nothing else in
those pages; and the report of `moebius compare` from the fingerprints beside it.

    python benchmarks/readme.py [--check]

kernels.*.json are of bench_kernels, model.*.json of bench_model, whole.*.json of whole, start.json of bench_start, beside.json of
bench_beside, accuracy.json of accuracy, nano.json of bench_nano, nano_whole.json of bench_nano --whole, plans.json of plans, halves.json
of halves, compare/*.json of fingerprints.

Each table stands between two markers. With --check nothing is written, and the exit code is 1 where a page differs from the results. It
needs no GPU.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from common import RESULTS, ROOT, between, busy, read_json, run, write_text

from moebius.check.compare.document import document
from moebius.check.compare.files import load
from moebius.check.compare.fingerprint import Json, is_own_rounding, is_rounding
from moebius.check.compare.publish import markdown, publish
from moebius.check.compare.report import PICTURE, Report, share
from moebius.errors import UsageError

sys.path.insert(0, str(ROOT / "tools"))
from nano_data import STRUCTURED

PAGES = {
    "README.md": ("short", "plan"),
    "docs/results.md": ("nano", "whole", "plan", "gpu", "speed", "beside", "start", "kernels"),
    "docs/accuracy.md": ("accuracy", "halves", "compare"),
    "docs/architecture.md": ("memory",),
}
COMPARE = RESULTS / "compare"  # the report, and the fingerprints it is made of
CASES = ("UNet tiny", "VAE tiny", "UNet full", "VAE full 512²")  # the columns of accuracy.json
PHOTOS = "photographs"
WHOLE_METHODS = ("nano", "film", "Telea", "Navier-Stokes", "FSR")
METHODS = ("nano", "border mean", "Telea", "unmatched", "film", "VAE")  # the columns of nano.json


def markers(table: str) -> tuple[str, str]:
    return f"<!-- {table}: benchmarks/readme.py -->", f"<!-- /{table} -->"


def read(bench: str, pattern: str) -> dict[str, dict[str, Any]]:
    return {path.name: read_json(path, bench) for path in sorted(RESULTS.glob(pattern))}


def read_plain(name: str) -> dict[str, Any]:
    """A result that does not name its script."""
    result: dict[str, Any] = json.loads((RESULTS / name).read_text(encoding="utf-8"))
    return result


def short(
    models: Mapping[str, Any], whole: Mapping[str, Any], accuracy: Mapping[str, Any], nano: Mapping[str, Any], columns: list[Json]
) -> list[str]:
    """README's five tables: a run a row, a hardware GPU's pictures a row, a backend a row, a hardware GPU's column of `moebius compare`
    a row, and three of nano's rows."""
    lines = ["| one picture, weights made from a seed | this engine | the others |", "|---|---|---|"]
    for result in models.values():
        seconds = {name: f"{name} {duration(row['image']['median_s'])}" for name, row in result["contenders"].items()}
        ours = seconds.pop(result["against"])
        lines.append(f"| {result['config']} model, {place(result)} | {ours} | {', '.join(seconds.values())} |")
    lines += ["", *whole_plans(whole)]
    lines += ["", "| relative L2 error against float64 | full UNet | full VAE |", "|---|---|---|"]
    for backend, rows in accuracy.items():
        if any(row["oracle"] for row in rows.values()):  # not the oracle itself
            cells = (f"{rows[case]['oracle']:.1e}" if case in rows else "" for case in CASES[2:])
            lines.append(f"| {backend} | {' | '.join(cells)} |")
    if hardware := [c for c in columns if is_hardware(c) and c["status"] == "done"]:
        lines += [
            "",
            "| on a hardware GPU, against float64 | ops in their bounds; worst | nano: latents | the picture |",
            "|---|---|---|---|",
        ]
        lines += [f"| {c['name']} | {' | '.join(compared(c)[:3])} |" for c in hardware]
    lines += ["", "| PSNR in the hole, dB | nano | border mean | Telea |", "|---|---|---|---|"]
    for name, row in nano_groups(nano).items():
        lines.append(f"| {name} | {' | '.join(f'{row[method]:.1f}' for method in METHODS[:3])} |")
    return lines


def whole_plans(results: Mapping[str, Any]) -> list[str]:
    """A row a GPU and precision: the plans of a picture by themselves, and pictures with all that the host does."""
    lines = ["| on a hardware GPU, at a commit | a guided step | encode | decode | a picture |", "|---|---|---|---|---|"]
    for result in results.values():
        where, units = result["environment"], " on matrix units" if result["matrix_units"] else ""
        parts = " | ".join(duration(1e-3 * result["parts"][part]["ms"]) for part in ("step", "encode", "decode"))
        image = duration(statistics.median(p["image"] for p in result["pictures"]))
        place = f"{result['config']} model, {result['precision']}{units}, {where['adapter']['name']}, {where['commit'][:7]}"
        lines.append(f"| {place} | {parts} | {image} in {result['steps']} steps |")
    return lines


def is_hardware(column: Json) -> bool:
    return column.get("adapter", {}).get("type") in ("DiscreteGPU", "IntegratedGPU")


def compared(column: Json) -> list[str]:
    """Of a column of `moebius compare`: its ops, nano's latents and picture against the oracle's, and the seconds of that picture."""
    rows = [row for row in column.get("ops", []) if row["status"] == "done"]
    (run,) = (run for run in column.get("runs", []) if run["name"] == "end to end")
    latents, picture = (next(o for o in run["outputs"] if o["name"] == name) for name in ("latents", PICTURE))
    judged = [is_rounding(row) for row in rows] + [is_own_rounding(t) for t in run.get("trace", []) if "own" in t]
    ops = f"{judged.count(True)} of {len(judged)}; {100 * max((share(r) or 0 for r in rows), default=0):.0f} %" if judged else ""
    levels = "the same" if picture["max_abs"] == 0 else f"{picture['max_abs']:.0f} of 255 levels"
    return [ops, f"{latents['relative_l2']:.1e}", levels, duration(sum(run["seconds"].values()))]


def compare_table(fingerprints: Mapping[str, Json]) -> list[str]:
    """A row a column, hardware first."""
    lines = ["| adapter | commit | ops in their bounds; worst | nano: latents | the picture | its seconds |", "|---|---|---|---|---|---|"]
    rows = [(fp["machine"].get("commit", ""), c) for fp in fingerprints.values() for c in fp["columns"]]
    for commit, column in sorted(rows, key=lambda row: not is_hardware(row[1])):
        cells = compared(column) if column["status"] == "done" else [column["status"], "", "", ""]
        lines.append(f"| {column['name']} | {commit} | {' | '.join(cells)} |")
    return lines


def halves_table(adapters: Mapping[str, Any]) -> list[str]:
    """A row an adapter: op by op against float64, and f16 against f32."""
    head = (
        "f16 on",
        "tiny: ops in their bounds; worst",
        "its latents",
        "nano: PSNR",
        "levels: mean, largest",
        "its latents",
        "full: latents",
    )
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for name, row in adapters.items():
        nano, tiny, full = (row.get(part) for part in ("nano", "tiny", "full"))
        cells = [name]
        cells += [f"{tiny['f16']['inside']} of {tiny['f16']['count']}; {100 * tiny['f16']['used']:.0f} %"] if tiny else [""]
        cells += [f"{tiny['latents']:.1e}"] if tiny else [""]
        cells += [f"{nano['psnr']:.1f} dB", f"{nano['mean']:.2f}, {nano['largest']:.0f}", f"{nano['latents']:.1e}"] if nano else [""] * 3
        cells.append(f"{full['latents']:.1e} at {full['side']}²" if full else "")
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def plan_line(plans: Mapping[str, Any]) -> list[str]:
    step, wide, half = plans["full step"], *(plans["full picture"][precision] for precision in ("f32", "f16"))
    return [
        f"One guided step of the full UNet (batch 2, 64×64 latents): {step['flops'] / 1e9:.0f} GFLOP in {step['dispatches']} dispatches; "
        f"{step['peak_bytes'] / 1e6:.0f} MB beyond the {step['weight_bytes'] / 1e6:.0f} MB of its weights. "
        f"At the peak of a picture {wide['picture_bytes'] / 1e9:.2f} GB, both networks' weights among them; in f16 "
        f"{half['picture_bytes'] / 1e9:.2f} GB, with {half['weight_bytes'] / 1e6:.0f} MB of weights for the UNet; with `--low-memory` "
        f"{wide['low_memory_bytes'] / 1e9:.2f} and {half['low_memory_bytes'] / 1e9:.2f} GB."
    ]


def memory_table(pictures: Mapping[str, Mapping[str, int]]) -> list[str]:
    """A column a precision."""
    rows = {
        "the UNet's weights, without those of the tables": lambda of: of["weight_bytes"],
        "both networks' weights": lambda of: of["model_bytes"],
        "what a step, an encode and a decode have beside them, at most": lambda of: of["picture_bytes"] - of["model_bytes"],
        "**the peak of a picture**": lambda of: of["picture_bytes"],
        "the same with `--low-memory`": lambda of: of["low_memory_bytes"],
    }
    lines = [f"| of the full model, in MB | {' | '.join(pictures)} |", "|---|" + "---|" * len(pictures)]
    return lines + [f"| {what} | " + " | ".join(f"{of(each) / 1e6:.0f}" for each in pictures.values()) + " |" for what, of in rows.items()]


def fingerprints() -> dict[str, Json]:
    """By file, the hardware's first."""
    found = {path.as_posix(): load(path) for path in sorted(COMPARE.glob("*.json"))}
    return dict(sorted(found.items(), key=lambda item: not any(map(is_hardware, item[1]["columns"]))))


def accuracy_table(results: Mapping[str, Any]) -> list[str]:
    """A row a backend: the error against the oracle / against the published code's output."""

    def cell(row: Mapping[str, float] | None) -> str:
        return f"{row['oracle']:.1e} / {row['published']:.1e}" if row else ""

    lines = ["| backend | " + " | ".join(CASES) + " |", "|---|" + "---|" * len(CASES)]
    return lines + [f"| {backend} | " + " | ".join(cell(rows.get(c)) for c in CASES) + " |" for backend, rows in results.items()]


def nano_groups(table: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """The means of several kinds of picture: the rows the claims are about."""
    groups = {
        f"structured ({', '.join(STRUCTURED)})": STRUCTURED,
        "all made pictures": [k for k in table if k != PHOTOS],
        PHOTOS: [PHOTOS],
    }
    rows = {}
    for name, kinds in groups.items():
        count = sum(table[k]["pictures"] for k in kinds)
        rows[name] = {m: sum(table[k][m] * table[k]["pictures"] for k in kinds) / count for m in METHODS} | {"pictures": count}
    return rows


def nano_table(table: Mapping[str, Any]) -> list[str]:
    lines = ["| held-out pictures | nano | border mean | Telea | unmatched | film | VAE alone |", "|---|---|---|---|---|---|---|"]
    groups = nano_groups(table)
    for name, row in {**groups, **{f"· {k}": row for k, row in table.items() if k != PHOTOS}}.items():
        lines.append(f"| {name} ({row['pictures']}) | {' | '.join(f'{row[m]:.1f}' for m in METHODS)} |")
    structured, made, photos = (f"{row['nano'] - row['border mean']:.1f} dB" for row in groups.values())
    behind = [kind for kind, row in table.items() if row["nano"] < row["Telea"]]
    lines += [
        "",
        f"Over the border mean nano is {structured} ahead on structured pictures, {made} on all made ones and {photos} on photographs; "
        f"over Telea on every kind but these: {', '.join(behind) or 'none'}.",
    ]
    return lines


def whole_table(table: Mapping[str, Any]) -> list[str]:
    """A row a kind of mask."""
    lines = [
        f"| whole photographs, PSNR in the hole, dB | {' | '.join(WHOLE_METHODS)} | over the film on structure | step | detail | windows |",
        "|---" * (len(WHOLE_METHODS) + 5) + "|",
    ]
    for kind, row in table.items():
        ahead = row.get("ahead of the film on structure")
        scores = " | ".join(f"{row[m]:.1f}" for m in WHOLE_METHODS)
        lines.append(
            f"| {kind} ({row['pictures']}) | {scores} | {'' if ahead is None else f'{ahead:+.2f}'} "
            f"| {row['step']:.2f} | {row['detail']:.2f} | {row['windows']:.0f} |"
        )
    return lines


def start(result: Mapping[str, float]) -> list[str]:
    """Where the time from a checkpoint on disk to the first step goes."""
    total = result["total"]
    seconds = {k: v for k, v in result.items() if not k.startswith(("MiB", "software", "host", "total"))}
    return [
        "| from a mapped checkpoint to the first step ready | s | % |",
        "|---|---|---|",
        *(f"| {name.strip().replace('of it', '· of it')} | {value:.2f} | {100 * value / total:.0f} |" for name, value in seconds.items()),
        f"| all | {total:.2f} | 100 |",
        "",
        f"Host memory at its peak: {result['host / weights']:.2f} times the weights.",
    ]


def beside(result: Mapping[str, Any]) -> list[str]:
    """A picture by itself, and in company."""
    lines = ["| nano's sample, from process to saved file | seconds, median | of one alone: median, worst |", "|---|---|---|"]
    for name, seconds in result["seconds"].items():
        ratio = f"{result['ratio_median'][name]:.2f}, {result['ratio_worst'][name]:.2f}" if name in result["ratio_median"] else ""
        lines.append(f"| {name} | {statistics.median(seconds):.2f} | {ratio} |")
    return lines


def speed(results: dict[str, dict[str, Any]]) -> list[str]:
    """A row a contender of every run."""
    lines = [
        "| model, where | | load | encode | step | decode | picture | ratio of the pairs: median, worst |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, result in results.items():
        first = result["against"]
        where = f"{result['config']}, {place(result)}; [{name}](../benchmarks/results/{name})"
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
            f"{noisy} of {len(result['rows'])} rows are noisy{note}. [{name}](../benchmarks/results/{name})",
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


def counted(rows: list[dict[str, Any]], key: str, plans: tuple[str, ...]) -> float:
    """The sum over rows, each as often as these plans make its call."""
    return sum(row[key] * row["counts"].get(plan, 0) for row in rows for plan in plans)


def cells(rows: list[dict[str, Any]]) -> str:
    step, coder = counted(rows, "ms", ("step",)), counted(rows, "ms", ("encode", "decode"))
    time, flops, nbytes = (sum(row[key] for row in rows) for key in ("ms", "flops", "bytes"))
    roofs = [row["percent_of_roof"] for row in rows]
    figures = [f"{step:.3g}" if step else "", f"{coder:.3g}" if coder else "", f"{flops / time / 1e6:,.3g}", f"{nbytes / time / 1e6:,.3g}"]
    return " | ".join([*figures, f"{statistics.median(roofs):.0f}, {min(roofs):.0f}"])


def duration(seconds: float) -> str:
    return f"{seconds:.3g} s" if seconds >= 1 else f"{1e3 * seconds:.3g} ms"


def tables() -> dict[str, list[str]]:
    models, measured, whole = (read(b, f"{b.removeprefix('bench_')}.*.json") for b in ("bench_model", "bench_kernels", "whole"))
    if not models or not measured:
        raise UsageError(
            f"{RESULTS} has no kernels.*.json or no model.*.json; measure them first (bench_kernels.py, bench_model.py --json)."
        )
    accuracy, nano = read_plain("accuracy.json"), read_plain("nano.json")["PSNR in dB"]
    found = fingerprints()
    return {
        "short": short(models, whole, accuracy, nano, [c for fingerprint in found.values() for c in fingerprint["columns"]]),
        "gpu": whole_plans(whole),
        "plan": plan_line(read_plain("plans.json")),
        "memory": memory_table(read_plain("plans.json")["full picture"]),
        "compare": compare_table(found),
        "speed": speed(models),
        "kernels": kernels(measured),
        "beside": beside(read_plain("beside.json")),
        "start": start(read_plain("start.json")),
        "accuracy": accuracy_table(accuracy),
        "halves": halves_table(read_plain("halves.json")["adapters"]),
        "nano": nano_table(nano),
        "whole": whole_table(read_plain("nano_whole.json")["means"]),
    }


def main(argv: list[str] | None = None) -> int:
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 where a page differs")
    args = parser.parse_args(argv)
    lines, differs = tables(), False
    for page, names in PAGES.items():
        path = ROOT / page
        old = text = path.read_text(encoding="utf-8")
        for name in names:
            text = between(text, *markers(name), "\n".join(lines[name]), page)
        if args.check:
            print(f"{page} is what the results say." if text == old else f"{page} differs from the results; run benchmarks/readme.py.")
            differs |= text != old
        elif text != old:
            write_text(path, text)
    report = Report.of(fingerprints())
    path, text = COMPARE / "report.md", markdown(document(report), "pictures")
    current = path.is_file() and path.read_text(encoding="utf-8") == text
    if args.check:
        print(f"{path.name} is what the fingerprints say." if current else f"{path.name} differs from them; run benchmarks/readme.py.")
        differs |= not current
    elif not current:
        for old in (COMPARE / "pictures").glob("*.png"):
            old.unlink()
        publish(report, COMPARE)
        (COMPARE / "report.html").unlink()  # the same once more, with the pictures inside
    return int(differs)


if __name__ == "__main__":
    run(main)
