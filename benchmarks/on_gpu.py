"""What benchmarks/on_gpu.sh found, in one file and one table:  python benchmarks/on_gpu.py OUT

Reads what the steps left in OUT, writes results.json and table.md there, and prints the table. Exit code 1 when a step failed.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench_forms import AS_IT_IS, faster
from common import commit, run, write_json, write_text

from moebius.errors import UsageError

FORMS = ("forms_step", "forms_encode", "forms_decode")
SAVED = ("doctor", "validate", "defaults", "tune", "plan", "whole", "model", "sizes", "compare", "kernels", *FORMS)
STOPPED = (124, 137)


def read(out: Path, name: str) -> Any:
    """A step's JSON; None where it left none."""
    try:
        return json.loads((out / f"{name}.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def steps(out: Path) -> list[dict[str, Any]]:
    try:
        lines = (out / "steps.tsv").read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise UsageError(f"{out} holds no steps.tsv; give a folder that on_gpu.sh wrote.") from error
    rows = [line.split("\t") for line in lines]
    return [{"step": r[0], "code": int(r[1]), "seconds": int(r[2]), "limit": int(r[3]), "command": r[4]} for r in rows]


def last_words(out: Path, name: str) -> str:
    try:
        lines = (out / f"{name}.log").read_text(encoding="utf-8", errors="replace").strip().splitlines()
    except OSError:
        return ""
    return lines[-1][:200] if lines else ""


# what a step says, in a few words each -------------------------------------------------------------------------------
def doctor(found: Any) -> list[str]:
    device = found["devices"][0]
    wrong = [f["check"] for f in device["findings"] if f["state"] == "wrong"]
    return [f"{device['device']}: {'nothing is wrong' if device['ok'] else 'wrong: ' + ', '.join(wrong)}"]


def validate(found: Any) -> list[str]:
    over = [row for row in found["rows"] if not row["ok"]]
    return [f"{len(found['rows'])} ops, {len(over)} over their limit"]


def tune(found: Any) -> list[str]:
    others = [s for s in found["shapes"] if s["ms"] and s["kernel"] != next(iter(s["ms"]))]
    out = [f"{len(found['shapes'])} shapes in {found['seconds']:.1f} s by the {found['clock']}, {len(others)} with another kernel"]
    gains = sorted(((next(iter(s["ms"].values())) / s["ms"][s["kernel"]], s) for s in others), key=lambda pair: -pair[0])
    out += [f"{s['shape']}: {s['kernel']}, {gain:.2f} times as fast as the default" for gain, s in gains[:5]]
    return out + [f"wrong: {row} ({why})" for row, why in found["wrong"].items()]


def plan(found: Any) -> list[str]:
    return [f"a step: {found['dispatches']} dispatches, {found['flops'] / 1e9:.1f} GFLOP, {found['bytes'] / 1e9:.2f} GB"]


def kernels(found: Any) -> list[str]:
    roof = found["roof"]
    out = [f"roof {roof['gflops'] / 1e3:.1f} TFLOP/s, {max(b['gbs'] for b in roof['bandwidth']):,.0f} GB/s; {found['clock_note']}"]
    for name, total in found["plans"].items():
        out.append(f"{name}: {total['ms']:.3f} ms, {total['flops'] / total['ms'] / 1e9:.2f} TFLOP/s")
    return out


def model(found: Any) -> list[str]:
    out = []
    for name, c in found["contenders"].items():
        parts = ", ".join(f"{part} {1e3 * c[part]['median_s']:.1f} ms" for part in ("step", "encode", "decode", "image"))
        peak = f"; {c['peak_bytes'] / 1e9:.2f} GB" if c.get("peak_bytes") else ""
        out.append(f"{name}: {parts}{peak}")
    return out + [f"{name}: left out: {why}" for name, why in found["left_out"].items()]


def whole(found: Any) -> list[str]:
    return [f"{name}: {part['ms']:.2f} ms in {part['dispatches']} dispatches" for name, part in found["parts"].items()]


def defaults(found: Any) -> list[str]:
    return whole(found)


def sizes(found: Any) -> list[str]:
    return [
        f"{name}: {row['ms']:.2f} ms in {row['dispatches']} dispatches, {row['peak_bytes'] / 1e6:.0f} MB"
        for name, row in found["rows"].items()
    ]


def forms(found: Any) -> list[str]:
    """A part of a picture as it is, and the layers that lose most by it."""
    rows = found["rows"]
    out = [f"{found['part']}: {rows[AS_IT_IS]['ms']:.2f} ms, on {len(rows) - 1} other kernels or forms"]
    return out + [f"{layer}: {ms:.3f} ms, {less:.3f} with {name}" for layer, ms, less, name in faster(rows)[:8]]


def compare(found: Any) -> list[str]:
    return ["see compare.md"]


WORDS: dict[str, Callable[[Any], list[str]]] = {
    **{f.__name__: f for f in (doctor, validate, defaults, tune, plan, whole, model, sizes, compare, kernels)},
    **dict.fromkeys(FORMS, forms),
}


def said(out: Path, step: dict[str, Any]) -> list[str]:
    name, code = step["step"], step["code"]
    found = read(out, name)
    lines: list[str] = []
    if found is not None:
        try:
            lines = WORDS[name](found)
        except (KeyError, IndexError, TypeError, ZeroDivisionError) as error:  # a file that was cut off, or an error in JSON
            lines = [f"not understood ({type(error).__name__})"]
    elif name == "tests":
        lines = [last_words(out, name)]
    if code == -1:
        return ["left out: the time was over"]
    if code in STOPPED:
        return [f"stopped after {step['limit']} s; its last words: {last_words(out, name)}", *lines]
    return [f"exit code {code}: {last_words(out, name)}", *lines] if code and name != "tests" else lines


def table(rows: list[dict[str, Any]]) -> str:
    lines = ["| step | seconds | |", "|---|---|---|"]
    for row in rows:
        for i, words in enumerate(row["said"] or [""]):
            cells = (row["step"], row["seconds"]) if i == 0 else ("", "")
            lines.append(f"| {cells[0]} | {cells[1]} | {words.replace('|', '/')} |")
    return "\n".join(lines)


def main() -> int:
    if len(sys.argv) != 2:
        raise UsageError("usage: python benchmarks/on_gpu.py OUT")
    out = Path(sys.argv[1])
    rows = [step | {"said": said(out, step)} for step in steps(out)]
    found = {name: result for name in SAVED if (result := read(out, name)) is not None}
    environments = [r["environment"] for r in found.values() if isinstance(r, dict) and "environment" in r]
    write_json(
        out / "results.json",
        {"bench": "on_gpu", "commit": commit(), "environment": environments[0] if environments else None, "steps": rows, **found},
    )
    text = table(rows)
    write_text(out / "table.md", text + "\n")
    print(text)
    return 1 if any(row["code"] for row in rows) else 0


if __name__ == "__main__":
    run(main)
