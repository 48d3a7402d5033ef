"""`moebius doctor`: whether this machine's adapters compute right, and what to do where not."""

from __future__ import annotations

import argparse
import json
import textwrap
import time
from typing import Any

from moebius.errors import UsageError

SILENCE = 120.0  # seconds after which a device that says nothing is given up
MARKS = {"ok": "✓", "note": "!", "wrong": "✗"}
WIDTH = 100


def add_parser(commands: Any) -> None:
    p = commands.add_parser(
        "doctor",
        help="check the adapter that would be used, and say what to do where something is wrong",
        description="Driver, limits, every kernel against float64, NaN, repeatability, nano's picture, speed and memory, on the device "
        "that would be used. Each device is examined in a process of its own. Exit code 1 when something is wrong.",
    )
    p.add_argument("--adapter", metavar="NAME", help="another one: an index, words of its name (`moebius adapters`), dawn:NAME, or cpu")
    p.add_argument("--all", action="store_true", help="every adapter, and the CPU device")
    p.add_argument("--precision", choices=["f32", "f16"], default="f32", help="what a GPU computes in (f32)")
    p.add_argument("--full", action="store_true", help="nano's whole picture on software drivers too, which takes a minute")
    p.add_argument("--json", action="store_true", help="for a bug report: all numbers, and no path and no name of yours")
    p.set_defaults(command=doctor)


def doctor(args: argparse.Namespace) -> int:
    import moebius
    from moebius.backends.webgpu.wgsl import shaders_digest
    from moebius.check.compare.measure import machine
    from moebius.check.doctor.findings import without_names

    if args.all and args.adapter is not None:
        raise UsageError("--all examines every adapter, and --adapter names one; give one of the two.")
    names, reports = every_name(args.json) if args.all else (["auto" if args.adapter is None else args.adapter], [])
    for name in names:
        if reports and not args.json:
            print()
        reports.append(examined(name, args.full, quiet=args.json, precision=args.precision))
    sound, args.prints = all(report["ok"] for report in reports), True
    if args.json:
        head = {"moebius": moebius.__version__, "shaders": shaders_digest(), "machine": without_names(machine())}
        print(json.dumps(head | {"ok": sound, "devices": reports}, indent=2))
    return 0 if sound else 1


def every_name(quiet: bool) -> tuple[list[str], list[dict[str, Any]]]:
    """Adapters by index, then the CPU device; and where they cannot be listed, the report on that. They are listed by a process of their
    own, for listing loads the drivers."""
    from moebius.check.compare import collect
    from moebius.check.doctor.findings import Finding

    begun = time.monotonic()
    try:
        answer = collect.ask(["list", "wgpu"], {}, SILENCE)
    except (collect.EndedError, StopIteration) as error:
        answer = {"failed": str(error) or "its process ended without a word"}
    if "adapters" in answer:
        return [*map(str, range(len(answer["adapters"]))), "cpu"], []
    why = answer.get("refused") or answer["failed"]  # refused: wgpu finds no loader, where the CPU device computes
    text, advice = f"The adapters cannot be listed: {why.rstrip('.')}.", "Update the graphics drivers; until then use --device cpu."
    finding = Finding("listing", "note", text) if "refused" in answer else Finding("listing", "wrong", text, advice)
    ok, seconds = finding.state != "wrong", round(time.monotonic() - begun, 1)
    report = {"device": "adapters", "ok": ok, "findings": [finding.as_json()], "seconds": seconds}
    if not quiet:
        show(finding.as_json())
        print(summary(report, [] if ok else ["listing"]), flush=True)
    return ["cpu"], [report]


def examined(name: str, full: bool, quiet: bool, precision: str = "f32") -> dict[str, Any]:
    """What was found out about one device; printed as it comes, unless `quiet`."""
    from moebius.check.compare import collect
    from moebius.check.doctor.findings import Finding

    report: dict[str, Any] = {"device": name, "ok": False, "findings": []}
    begun, ended = time.monotonic(), False

    def add(finding: dict[str, Any]) -> None:
        report["findings"].append(finding)
        if not quiet:
            show(finding)

    asked = [name, *["--full"] * full, *["f16"] * (precision == "f16")]
    try:
        for message in collect.messages(asked, {}, SILENCE, "moebius.check.doctor.child"):
            if "device" in message:
                report |= message
                if not quiet:
                    print(f"{message['device']}, in {message.get('precision', 'f32')}", flush=True)
            elif "finding" in message:
                add(message["finding"])
            elif "refused" in message:
                add(Finding("opening", "wrong", message["refused"], "`moebius adapters` lists what there is.").as_json())
            ended = ended or "end" in message
    except collect.EndedError as error:
        after = report["findings"][-1]["check"] if report["findings"] else "opening it"
        if not ended:  # a driver that dies as its process ends has computed all that it was asked to
            text = f"The driver took its process down after the check of {after}: {error.reason}"
            add(Finding("crash", "wrong", text, "Update the graphics driver; until then use --device cpu.").as_json())
    report["seconds"] = round(time.monotonic() - begun, 1)
    wrong = [f["check"] for f in report["findings"] if f["state"] == "wrong"]
    report["ok"] = ended and not wrong
    if not quiet:
        print(summary(report, wrong), flush=True)
    return report


def show(finding: dict[str, Any]) -> None:
    head = f"{MARKS[finding['state']]} {finding['check']:12}"
    text = " ".join(part for part in (finding["text"], finding["advice"]) if part)
    print(textwrap.fill(text, WIDTH, initial_indent=head, subsequent_indent=" " * len(head), break_on_hyphens=False), flush=True)


def summary(report: dict[str, Any], wrong: list[str]) -> str:
    if report["ok"]:
        return f"Nothing is wrong ({report['seconds']:.0f} s)."
    what = ", ".join(dict.fromkeys(wrong)) or "it did not come to its end"
    return f"Something is wrong: {what} ({report['seconds']:.0f} s). `moebius doctor --json` is what a bug report needs."
