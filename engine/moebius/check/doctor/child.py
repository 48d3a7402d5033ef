"""The process in which one device is examined: `python -m moebius.check.doctor.child NAME [--full] [f16]`.

It writes a line of JSON for the device, {"device": name, "about": …}, one for every finding, and {"end": true}; or {"refused": reason}.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from moebius.check.compare.child import channel
from moebius.check.doctor.findings import without_names
from moebius.errors import MoebiusError
from moebius.model.contract import Precision


def main(argv: list[str]) -> int:
    examine(argv[0], "--full" in argv, channel(), "f16" if "f16" in argv[1:] else "f32")
    return 0


def examine(name: str, full: bool, say: Callable[[Any], None], precision: Precision = "f32") -> None:
    from moebius.check.doctor.examine import about, findings, open_named

    try:
        ops = open_named(name, precision)
    except MoebiusError as error:
        say({"refused": without_names(str(error))})
        return
    say({"device": ops.name, "precision": ops.precision, "about": without_names(about(ops))})
    for finding in findings(ops, full):
        say({"finding": finding.as_json()})
    say({"end": True})


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
