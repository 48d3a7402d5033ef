"""The report's text and tables, in the order they are read; `publish` writes them as Markdown and as a page."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from moebius.check.bounds import WORST
from moebius.check.compare.fingerprint import is_own_rounding
from moebius.check.compare.pictures import Strip, strips
from moebius.check.compare.report import Cell, Column, Parting, Report, RunView, numbers

MARKS = {
    "done": "",
    "exact": "exact",
    "over": "✗ OVER",
    "refused": "refused",
    "failed": "✗ failed",
    "hung": "✗ hung",
    "crashed": "✗ crashed",
}
MEBI = {"max-buffer-size": "buffer", "max-storage-buffer-binding-size": "binding"}


@dataclass(frozen=True)
class Table:
    header: list[str]
    rows: list[list[str]]


@dataclass(frozen=True)
class Part:
    title: str
    text: list[str] = field(default_factory=list)
    table: Table | None = None
    strips: list[Strip] = field(default_factory=list)


def document(report: Report) -> list[Part]:
    return [
        verdict(report),
        columns(report),
        matrix(report),
        identical(report),
        *(part for view in report.runs for part in run_parts(report, view)),
        timings(report),
        Part("Pictures", ["Heat maps of the worst tensors, then the final images."], strips=strips(report)),
        reading(),
    ]


def verdict(report: Report) -> Part:
    faults = [f for f in report.findings if f.fault]
    rest = [f for f in report.findings if not f.fault]
    ended = [f for f in faults if f.unmeasured]
    over = len(faults) - len(ended)
    fine = "Every difference that was measured is rounding: inside the bound that float32 arithmetic gives."
    text = [f"{over} {'thing is' if over == 1 else 'things are'} not rounding:" if over else fine]
    if ended:
        text.append(f"{len(ended)} {'thing' if len(ended) == 1 else 'things'} could not be measured, which is a fault:")
    if rest and not faults:
        text.append("Not measured, with the reason below.")
    for name in report.different_inputs():
        text.append(
            f"The inputs of {name} were not the same bytes on all columns: compare its numbers with the oracle, not with each other."
        )
    if unjudged := report.unjudged():
        text.append(f"Not judged, for want of a column that was traced op by op from the same inputs: {', '.join(unjudged)}.")
    rows = [[f.column.label, f.where, f.what] for f in (*faults, *rest)]
    return Part("What is not rounding" if over else "Verdict", text, Table(["adapter", "where", "what"], rows) if rows else None)


def columns(report: Report) -> Part:
    rows = []
    for c in report.columns:
        d, adapter, limits = c.data, c.data.get("adapter", {}), c.data.get("limits", {})
        sizes = ", ".join(f"{short} {int(limits[name]) >> 20} MiB" for name, short in MEBI.items() if name in limits)
        rows.append(
            [
                str(c.number),
                f"{c.file}: {d['name']}" if len({x.file for x in report.columns}) > 1 else d["name"],
                adapter.get("driver", ""),
                ", ".join(f"{k} {v}" for k, v in d.get("versions", {}).items()),
                sizes,
                d["status"],
                f"{d['seconds']:.0f} s" if "seconds" in d else "",
            ]
        )
    machines = {c.file: c.machine for c in report.columns}
    text = [f"{file}: {', '.join(f'{k} {v}' for k, v in machine.items())}" for file, machine in machines.items()]
    shaders = {c.data["shaders"][:16] for c in report.columns if c.data.get("shaders")}
    if len(shaders) > 1:
        text.append(f"The columns ran {len(shaders)} different versions of the shaders: {', '.join(sorted(shaders))}.")
    return Part("Adapters", text, Table(["", "adapter", "driver", "versions", "largest", "status", "time"], rows))


def heads(report: Report, named: list[Column]) -> list[str]:
    return [c.label for c in report.columns if c in named]


def matrix(report: Report) -> Part:
    named = [c for c in report.columns if c.ops]
    rows = [[op, *(shown(report.matrix[op].get(c.number)) for c in named)] for op in report.ops]
    text = [
        "The worst case of every op: the largest error in ULPs, the largest relative L2 error, how much of its bound is used, and a "
        "letter: columns with the same letter have the same bits in every case of that op."
    ]
    return Part("Ops", text, Table(["op", *heads(report, named)], rows))


def shown(cell: Cell | None) -> str:
    if cell is None:
        return "–"
    mark, ulps, relative, used = MARKS[cell.status], cell.largest("max_ulp"), cell.largest("relative_l2"), cell.share
    if not cell.done:
        return mark
    if cell.status == "exact":
        return f"exact · {cell.letter}"
    numbers = "not finite" if ulps is None or relative is None or used is None else f"{ulps:.3g} ULP · {relative:.1e} · {percent(used)}"
    return " · ".join(filter(None, (mark, numbers, cell.letter)))


def percent(used: float) -> str:
    return f"{100 * used:.0f} %" if used < 100 else "beyond"


def identical(report: Report) -> Part:
    groups = [" = ".join(c.label for c in group) for group in report.identical]
    return Part("Bit-identical", groups or ["No two columns have the same bits in everything."])


def run_parts(report: Report, view: RunView) -> list[Part]:
    rows = []
    for c in view.columns:
        run = view.of(c)
        errors = [f"{o['name']}: {numbers(o)}" for o in run.get("outputs", [])]
        seconds = ", ".join(f"{k} {v:.2f}" for k, v in run.get("seconds", {}).items() if v >= 0.005)
        rows.append([c.label, "; ".join(errors), report.run_verdict(view, c)[0], seconds, view.letters.get(c.number, "")])
    model = view.of(view.columns[0])["model"]
    about = Part(
        f"{view.name}: {model}",
        ["Against the oracle's own run of everything. The last column's letter: the same bits in every traced op and output."],
        Table(["adapter", "error at the end", "what it is", "seconds", ""], rows),
    )
    return [about, partings(view)]


def partings(view: RunView) -> Part:
    by_op: dict[tuple[int, str, str, str], list[Parting]] = {}
    for p in view.partings:
        t = p.traced[0]
        by_op.setdefault((p.index, t["stage"], t["op"], t["path"]), []).append(p)
    rows = []
    for (index, stage, op, path), pairs in sorted(by_op.items()):
        own = [t for p in pairs for t in p.traced if is_own_rounding(t) is not None]
        largest = max((t["own"] for t in own if t["own"] is not None), default=None)
        verdicts = sorted({p.verdict for p in pairs})
        rows.append(
            [
                f"{index + 1}: {op} ({path}, {stage})",
                "; ".join(f"{p.first.label} | {p.second.label}" for p in pairs),
                "" if largest is None else f"{largest:.1e} of {own[0]['limit']:.1e}",
                ", ".join(verdicts),
            ]
        )
    untraced = [c.label for c in view.adapters if not view.of(c).get("trace")]
    together = math.comb(len(view.adapters) - len(untraced), 2) - len(view.partings) - len(view.different)
    text = [
        "The first op of the run after which two adapters no longer have the same bits. Its own error is that op's alone, from the "
        "adapter's own inputs.",
        f"Pairs that part: {len(view.partings)}; with the same bits to the end of the trace: {together}.",
    ]
    text += [f"Measured without a trace, and so not here: {', '.join(untraced)}."] if untraced else []
    text += [f"{a.label} and {b.label} did not run the same ops." for a, b in view.different]
    return Part(f"{view.name}: where two adapters part ways", text, Table(["first op", "pairs", "own error, worst", "what it is"], rows))


def timings(report: Report) -> Part:
    named = [c for c in report.columns if c.ops]
    rows = []
    for op in report.ops:
        cells = [report.matrix[op].get(c.number) for c in named]
        rows.append([op, *("" if cell is None else total(cell) for cell in cells)])
    text = [
        "Milliseconds from submit to readback, all model shapes of the op together, each the median of a few runs. It says what a column "
        "costs; a benchmark it is not."
    ]
    return Part("Time", text, Table(["op", *heads(report, named)], rows))


def total(cell: Cell) -> str:
    timed = [r["ms"] for r in cell.done if r["kind"] == "model" and "ms" in r]
    return f"{sum(timed):.0f}" if sum(timed) >= 100 else f"{sum(timed):.2g}" if timed else ""


def reading() -> Part:
    return Part(
        "How to read it",
        [
            "Every tensor is held against a float64 oracle that keeps the definition of the op. ULP: |tensor − oracle| in units of "
            "the last place of float32 at max(|oracle|, the tensor's root mean square), so that a value near zero, left over from a sum "
            "of large terms, is judged by the scale of its tensor. Bias: mean(tensor − oracle) over the root mean square; rounding has "
            "next to none.",
            "Bound: what float32 may lose in the op, from the lengths of its sums (a random walk of roundings of 2⁻²⁴ each), what WGSL "
            "grants exp, for linear layers how much of the terms cancels, and for norms how far the mean lies from zero. A difference "
            f"is rounding when the relative L2 error is inside the bound and no single value is more than {WORST} bounds of the root mean "
            "square away. Ops that only move values must be exact.",
        ],
    )
