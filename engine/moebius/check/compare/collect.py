"""The processes of a comparison: they are listened to, given up when silent, and begun again after the case that ended them."""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import moebius
from moebius.check.compare.adapters import Target
from moebius.check.compare.fingerprint import FORMAT, VERSION, Json, worst
from moebius.check.compare.measure import machine, one_line, unfinished, work
from moebius.model.contract import Precision

RESTARTS = 3  # a driver that dies more often has nothing more to tell


class EndedError(Exception):
    """The process is gone before it said all: how ("crashed" or "hung"), and why."""

    def __init__(self, status: str, reason: str) -> None:
        super().__init__(reason)
        self.status, self.reason = status, one_line(reason)


def messages(
    arguments: Sequence[str], environment: dict[str, str], timeout: float, module: str = "moebius.check.compare.child"
) -> Iterator[Json]:
    """What a child says, line by line. Raises EndedError when it dies, or is silent for `timeout` seconds."""
    command = [sys.executable, "-P", "-m", module, *arguments]
    with tempfile.TemporaryFile() as errors:
        child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, env=os.environ | environment)
        lines: queue.Queue[bytes | None] = queue.Queue()

        def listen() -> None:
            assert child.stdout is not None
            for line in child.stdout:
                lines.put(line)
            lines.put(None)

        listener = threading.Thread(target=listen, daemon=True)
        listener.start()
        try:
            while True:
                try:
                    line = lines.get(timeout=timeout)
                except queue.Empty:
                    raise EndedError("hung", f"it gave no sign of life for {timeout:g} s") from None
                if line is None:
                    break
                with contextlib.suppress(ValueError):  # half a line, of a process that died while it wrote
                    yield json.loads(line)
            try:
                code = child.wait(timeout)
            except subprocess.TimeoutExpired:  # drivers can hang as their process ends
                raise EndedError("hung", f"it said all that it had to say, and did not end in {timeout:g} s") from None
            if code != 0:
                errors.seek(0)
                raise EndedError("crashed", f"{how(code)}. {tail(errors.read().decode(errors='replace'))}")
        finally:
            child.kill()
            child.wait()
            listener.join(timeout=5)  # a process of the driver's may hold the pipe open
            if not listener.is_alive() and child.stdout is not None:
                child.stdout.close()


def how(code: int) -> str:
    if code < 0:
        with contextlib.suppress(ValueError):
            return f"the process ended by {signal.Signals(-code).name}"
    return f"the process ended with exit code {code}"


def tail(text: str) -> str:
    """The last thing that it printed, before the stack that faulthandler prints."""
    before = text.split("Fatal Python error")[0] or text
    return " ".join(before.split())[-300:]


def column(target: Target, full: bool, timeout: float, precision: Precision = "f32") -> Json:
    """One COLUMN, whatever happens to its process."""
    begun = time.monotonic()
    if target.fault:
        return {"name": target.name, "implementation": target.implementation, "status": "crashed", "reason": target.fault}
    items = work(full)
    measured: Json = {"implementation": target.implementation, "status": "done", "ops": [], "runs": []}
    first, reason = 0, ""
    for _ in range(1 + RESTARTS):
        current: int | None = None
        try:
            asked = ["run", target.selector, str(first), *["--full"] * full, *["f16"] * (precision == "f16")]
            for message in messages(asked, target.environment, timeout):
                if "item" in message:
                    current = message["item"]
                elif "end" in message:
                    current = None  # what happens from now on is no item's fault
                else:
                    reason = noted(measured, message) or reason
            break
        except EndedError as end:
            if current is None:
                measured["status"], reason = end.status, end.reason
                break
            item = items[current]
            measured["runs" if isinstance(item, str) else "ops"].append(unfinished(item, end.status, end.reason))
            first, reason = current + 1, end.reason
    else:
        reason = f"it was begun {1 + RESTARTS} times and ended every time; {len(items) - first} cases were not reached. {reason}"
    measured["name"] = target.name if "versions" not in measured else target.distinct(measured["name"])
    measured["status"] = worst([measured["status"], *(row["status"] for row in (*measured["ops"], *measured["runs"]))])
    return measured | {"seconds": round(time.monotonic() - begun, 2)} | ({"reason": reason} if reason else {})


def noted(measured: Json, message: Json) -> str:
    """Puts what a child says of its adapter into the column; the reason, where it cannot go on."""
    if "column" in message:
        measured |= message["column"]
    for name, rows in (("op", "ops"), ("run", "runs")):
        if name in message:
            measured[rows].append(message[name])
    for status in ("refused", "failed"):
        if status in message:
            measured["status"] = status
            return one_line(str(message[status]))
    return ""


def fingerprint(targets: Sequence[Target], full: bool, timeout: float, say: Callable[[str], None], precision: Precision = "f32") -> Json:
    columns = []
    for i, target in enumerate(targets):
        say(f"[{i + 1}/{len(targets)}] {target.name}")
        columns.append(column(target, full, timeout, precision))
        say(f"      {summary(columns[-1])}")
    return {
        "format": FORMAT,
        "version": VERSION,
        "moebius": moebius.__version__,
        "made": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "machine": machine(),
        "set": "full" if full else "default",
        "columns": columns,
    }


def summary(row: Json) -> str:
    """A column in one line."""
    if row["status"] != "done" and "reason" in row:
        return f"{row['status']}: {row['reason']}"
    ops, runs, seconds = len(row.get("ops", [])), len(row.get("runs", [])), row.get("seconds", 0)
    return f"{row['status']}: {ops} outputs of ops and {runs} runs in {seconds:.0f} s"


def ask(arguments: Sequence[str], environment: dict[str, str], timeout: float) -> dict[str, Any]:
    """The one thing a child has to say."""
    return next(messages(arguments, environment, timeout))
