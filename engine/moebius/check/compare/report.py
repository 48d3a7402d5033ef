"""What fingerprints say together: op by adapter, who is bit-identical to whom, where two part ways, what is not rounding."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import combinations
from pathlib import Path
from string import ascii_lowercase
from typing import Any

from moebius.check.bounds import LEVELS, WORST
from moebius.check.compare.fingerprint import HALVES, Json, is_own_rounding, is_rounding, worst
from moebius.model.contract import Precision

FAULTS = ("failed", "hung", "crashed")
PICTURE = "picture"  # the output whose values are bytes
# A run without an op by op trace of its own roundings may be this many times as far from the oracle as one with: roundings differ.
AS_FAR = 4.0
NOT_JUDGED = "not judged"


@dataclass(frozen=True)
class Column:
    number: int
    label: str  # short, unique in the report
    file: str
    machine: Mapping[str, str]
    data: Json

    @property
    def ops(self) -> list[Json]:
        return list(self.data.get("ops", []))

    @property
    def runs(self) -> list[Json]:
        return list(self.data.get("runs", []))

    def run(self, name: str) -> Json | None:
        return next((r for r in self.runs if r["name"] == name and r["status"] == "done"), None)

    @property
    def is_oracle(self) -> bool:
        return "(the oracle)" in self.data["name"]

    @property
    def precision(self) -> Precision:
        return "f16" if self.data["name"].endswith(HALVES) else "f32"


@dataclass
class Cell:
    """One op on one column, the worst of its cases."""

    rows: list[Json]
    letter: str = ""

    @cached_property
    def done(self) -> list[Json]:
        return [r for r in self.rows if r["status"] == "done"]

    @property
    def status(self) -> str:
        """done, exact, over, or why there is nothing."""
        if any(is_rounding(r) is False for r in self.done):
            return "over"
        if len(self.done) < len(self.rows):
            return worst(r["status"] for r in self.rows)
        return "exact" if all(r["max_abs"] == 0 for r in self.done) else "done"

    def largest(self, key: str) -> float | None:
        values = [r[key] for r in self.done]
        return None if not values or None in values else max(values, key=abs)

    @property
    def share(self) -> float | None:
        """Of the bound: the largest in use."""
        shares = [share(r) for r in self.done]
        return None if not shares or None in shares else max(s for s in shares if s is not None)


@dataclass(frozen=True)
class Finding:
    """One thing that is not rounding, or was not measured, and whether that is a fault."""

    column: Column
    where: str
    what: str
    fault: bool
    unmeasured: bool = False


@dataclass(frozen=True)
class Parting:
    """The first op of a run after which two columns no longer have the same bits."""

    index: int
    first: Column
    second: Column
    traced: tuple[Json, Json]

    @property
    def verdict(self) -> str:
        verdicts = [is_own_rounding(t) for t in self.traced]
        if False in verdicts:
            return "more than rounding"
        return "rounding" if None not in verdicts else "not judged op by op"


@dataclass
class RunView:
    """One run on all columns that did it from the same inputs."""

    name: str
    inputs: str
    columns: list[Column]
    letters: dict[int, str] = field(default_factory=dict)  # by column number: the same bits from beginning to end
    partings: list[Parting] = field(default_factory=list)
    different: list[tuple[Column, Column]] = field(default_factory=list)  # traces of different programs

    @property
    def adapters(self) -> list[Column]:
        """The oracle is none: it has other bits from the first op on."""
        return [c for c in self.columns if not c.is_oracle]

    def of(self, column: Column) -> Json:
        run = column.run(self.name)
        assert run is not None
        return run


@dataclass
class Report:
    columns: list[Column]

    @classmethod
    def of(cls, fingerprints: Mapping[str, Json]) -> Report:
        """Fingerprints by the file they were in."""
        stems = [Path(file).stem for file in fingerprints]
        places = {file: stem if stems.count(stem) == 1 else file for file, stem in zip(fingerprints, stems, strict=True)}
        columns: list[Column] = []
        for file, fingerprint in fingerprints.items():
            for data in fingerprint["columns"]:
                label = short_name(data)
                twins = sum(1 for c in columns if c.file == places[file] and c.label.split(" #")[0] == label)
                label = label if not twins else f"{label} #{twins + 1}"
                columns.append(Column(len(columns) + 1, label, places[file], fingerprint["machine"], data))
        if len(fingerprints) > 1:
            columns = [Column(c.number, f"{c.file}: {c.label}", c.file, c.machine, c.data) for c in columns]
        return cls(columns)

    # ops -------------------------------------------------------------------------------------------------------------
    @cached_property
    def ops(self) -> list[str]:
        return list(dict.fromkeys(row["op"] for c in self.columns for row in c.ops))

    @cached_property
    def matrix(self) -> dict[str, dict[int, Cell]]:
        """By op and column number; a column without the op has no cell."""
        table = {op: {c.number: Cell(rows) for c in self.columns if (rows := [r for r in c.ops if r["op"] == op])} for op in self.ops}
        for cells in table.values():
            signatures = {n: signature(cell.done) for n, cell in cells.items()}
            for n, letter in letters(signatures).items():
                cells[n].letter = letter
        return table

    @cached_property
    def identical(self) -> list[list[Column]]:
        """Groups of columns with the same bits in every op and run, of those that measured anything."""
        signatures = {c.number: (signature(r for r in c.ops if r["status"] == "done"), run_signature(c)) for c in self.columns}
        groups: dict[Any, list[Column]] = {}
        for c in self.columns:
            if any(signatures[c.number]):
                groups.setdefault(signatures[c.number], []).append(c)
        return [g for g in groups.values() if len(g) > 1]

    # runs ------------------------------------------------------------------------------------------------------------
    @cached_property
    def runs(self) -> list[RunView]:
        views: dict[tuple[str, str], RunView] = {}
        for c in self.columns:
            for run in c.runs:
                if run["status"] == "done":
                    key = run["name"], run["inputs"]
                    views.setdefault(key, RunView(*key, [])).columns.append(c)
        for view in views.values():
            view.letters = letters({c.number: trace_signature(view.of(c)) for c in view.columns})
            for a, b in combinations(view.adapters, 2):
                part(view, a, b)
        return list(views.values())

    def run_verdict(self, view: RunView, column: Column) -> tuple[str, bool]:
        """What a run's distance from the oracle is, in words, and whether that is rounding."""
        run, trace = view.of(column), view.of(column).get("trace", [])
        judged = [is_own_rounding(t) for t in trace]
        over = judged.count(False)
        if over:
            return f"{over} of {len(trace)} ops are more than rounding", False
        if run.get("repeatable") is False:
            return "a second run had other bits", False
        mine = distance(run)
        if math.inf in (mine, levels(run)):
            return "its result holds a NaN or an infinity", False
        if levels(run) > LEVELS[column.precision]:
            return f"its picture is {levels(run):g} levels of 255 from the oracle's", False
        if judged and None not in judged:
            return f"rounding: all {len(trace)} ops are inside their bounds", True
        others = [c for c in view.columns if c is not column and verified(view.of(c))]
        far = max((distance(view.of(c)) for c in others), default=None)
        if far is None or not run.get("outputs"):
            return NOT_JUDGED, True
        if mine <= AS_FAR * far:
            return f"as far from the oracle as runs with every op inside its bound ({mine:.1e}, they {far:.1e})", True
        return f"{mine:.1e} from the oracle, where runs with every op inside its bound are {far:.1e}", False

    def unjudged(self) -> list[str]:
        """Runs that nothing here says anything about: without a trace of their own, and without a column to hold them against."""
        return [f"{c.label} ({v.name})" for v in self.runs for c in v.columns if self.run_verdict(v, c)[0] == NOT_JUDGED]

    # judgement -------------------------------------------------------------------------------------------------------
    @cached_property
    def findings(self) -> list[Finding]:
        return [f for c in self.columns for f in self._found(c)]

    def _found(self, c: Column) -> Iterator[Finding]:
        rows = [*((row, f"{row['op']} ({row['case']})") for row in c.ops), *((run, run["name"]) for run in c.runs)]
        if c.data["status"] != "done" and all(row["status"] == "done" for row, _ in rows):
            yield unmeasured(c, "the whole column", c.data)
        for row, where in rows:
            if row["status"] != "done":
                yield unmeasured(c, where, row)
            elif "op" not in row:
                yield from self._found_in_run(c, row)
            elif is_rounding(row) is False:
                yield Finding(c, where, excess(row), True)
            elif row.get("repeatable") is False:
                yield Finding(c, where, "a second run had other bits", True)

    def _found_in_run(self, c: Column, run: Json) -> Iterator[Finding]:
        view = next(v for v in self.runs if (v.name, v.inputs) == (run["name"], run["inputs"]))
        words, fine = self.run_verdict(view, c)
        if fine:
            return
        for i, traced in enumerate(run.get("trace", [])):
            if is_own_rounding(traced) is False:
                words += f"; the first is op {i + 1}, {traced['op']} ({traced['path']}, {traced['stage']})"
                break
        yield Finding(c, run["name"], words, True)

    @property
    def ok(self) -> bool:
        return not any(f.fault for f in self.findings)

    def different_inputs(self) -> list[str]:
        """Cases and runs whose inputs were not the same bytes everywhere: those numbers are no comparison."""
        seen: dict[str, set[str]] = {}
        for c in self.columns:
            for row in (*c.ops, *c.runs):
                if row["status"] == "done":
                    seen.setdefault(f"{row['op']} ({row['case']})" if "op" in row else row["name"], set()).add(row["inputs"])
        return [name for name, inputs in seen.items() if len(inputs) > 1]

    def worst_cases(self, count: int) -> list[tuple[str, str]]:
        """(op, case) by the share of the bound that the worst column uses, where there is a map of the error."""
        shares: dict[tuple[str, str], float] = {}
        for c in self.columns:
            for row in c.ops:
                if row["status"] == "done" and "map" in row and not c.is_oracle:
                    key, mine = (row["op"], row["case"]), share(row)
                    shares[key] = max(shares.get(key, 0.0), float("inf") if mine is None else mine)
        return sorted((k for k in shares if shares[k] > 0), key=lambda k: -shares[k])[:count]


# pieces --------------------------------------------------------------------------------------------------------------
def short_name(data: Json) -> str:
    adapter = data.get("adapter", {})
    device = adapter.get("device", "").split("(")[0].strip()
    if data["implementation"] == "numpy" or not device:
        return str(data["name"]).split(" (")[0] if "oracle" not in data["name"] else "float64 oracle"
    return " ".join(filter(None, (device, adapter.get("backend", ""), data["implementation"])))


def share(row: Json) -> float | None:
    """How much of its bound a row uses: 1 is all. None where it is not finite."""
    if row["relative_l2"] is None or row["max_abs"] is None:
        return None
    if not row["limit"]:
        return 0.0 if row["max_abs"] == 0 or row["limit"] is None else float("inf")
    return max(row["relative_l2"] / row["limit"], row["max_abs"] / row["rms"] / (WORST * row["limit"]))  # in this order no product is 0


def unmeasured(column: Column, where: str, data: Json) -> Finding:
    return Finding(column, where, f"{data['status']}: {data.get('reason', 'no reason given')}", data["status"] in FAULTS, True)


def numbers(row: Json) -> str:
    """The errors of a row, for people."""
    if row["relative_l2"] is None:
        return "holds a NaN or an infinity"
    return f"relative L2 {row['relative_l2']:.1e}, at most {row['max_ulp']:.3g} ULP, bias {row['bias']:+.1e}"


def excess(row: Json) -> str:
    bound = f"{row['limit']:.1e}" if row["limit"] else "0: it only moves values"
    return f"more than rounding: {numbers(row)}; the bound is {bound}"


def signature(rows: Iterable[Json]) -> tuple[tuple[str, ...], ...]:
    return tuple(sorted((r["op"], r["case"], r["inputs"], r["checksum"]) for r in rows))


def trace_signature(run: Json) -> tuple[tuple[str, ...], ...]:
    traced = tuple((t["stage"], t["op"], t["path"], t["checksum"]) for t in run.get("trace", []))
    return traced + tuple((o["name"], o["checksum"]) for o in run.get("outputs", []))


def run_signature(column: Column) -> tuple[Any, ...]:
    return tuple((r["name"], r["inputs"], trace_signature(r)) for r in column.runs if r["status"] == "done")


def letters(signatures: Mapping[int, Any]) -> dict[int, str]:
    """a, b, c, … for every different signature, in order; nothing where nothing was measured."""
    known: dict[Any, str] = {}
    for signed in signatures.values():
        if signed:
            known.setdefault(signed, lettered(len(known)))
    return {n: known[signed] for n, signed in signatures.items() if signed}


def lettered(i: int) -> str:
    return ascii_lowercase[i % 26] * (1 + i // 26)


def part(view: RunView, a: Column, b: Column) -> None:
    """Notes where the two part ways, if they do."""
    traces = view.of(a).get("trace", []), view.of(b).get("trace", [])
    if not all(traces):
        return
    for i, (s, t) in enumerate(zip(*traces, strict=False)):
        if (s["op"], s["path"], s["shape"]) != (t["op"], t["path"], t["shape"]):
            view.different.append((a, b))
            return
        if s["checksum"] != t["checksum"]:
            view.partings.append(Parting(i, a, b, (s, t)))
            return
    if len(traces[0]) != len(traces[1]):
        view.different.append((a, b))


def verified(run: Json) -> bool:
    return bool(run.get("trace")) and all(is_own_rounding(t) for t in run["trace"]) and bool(run.get("outputs"))


def distance(run: Json) -> float:
    """From the oracle's run: of the worst output that is not a picture."""
    distances = [o["relative_l2"] for o in run.get("outputs", []) if o["name"] != PICTURE]
    return float("inf") if None in distances else max(distances, default=0.0)


def levels(run: Json) -> float:
    """How far the picture's bytes are from the oracle's: a rounding beside a whole number makes 1."""
    distances = [o["max_abs"] for o in run.get("outputs", []) if o["name"] == PICTURE]
    return float("inf") if None in distances else max(distances, default=0.0)
