"""The process in which one device is examined: `python -m moebius.check.doctor.child NAME [--full]`.

It writes a line of JSON for the device, {"device": name, "about": …}, one for every finding, and {"end": true}; or {"refused": reason}.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from moebius.check.compare.child import channel
from moebius.check.doctor.findings import without_names
from moebius.errors import MoebiusError


def main(argv: list[str]) -> int:
    examine(argv[0], "--full" in argv, channel())
    return 0


def examine(name: str, full: bool, say: Callable[[Any], None]) -> None:
    from moebius.check.doctor.examine import about, findings, open_named

    try:
        ops = open_named(name)
    except MoebiusError as error:
        say({"refused": without_names(str(error))})
        return
    say({"device": ops.name, "about": without_names(about(ops))})
    for finding in findings(ops, full):
        say({"finding": finding.as_json()})
    say({"end": True})


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
