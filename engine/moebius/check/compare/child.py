"""The process of one column: `python -m moebius.check.compare.child run TARGET FIRST [--full] [f16]`, or `list IMPLEMENTATION`.

It writes a line of JSON for everything that happens, so that what was done is known when a driver takes the process down:
{"column": head}, {"item": i} as item i of the work begins, {"op": row} or {"run": row}, {"alive": true} now and then, {"end": true};
or {"refused": reason} where there is nothing to begin with.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from moebius.errors import AdapterError, DeviceLostError, MoebiusError

if TYPE_CHECKING:
    from moebius.check.compare.measure import Backend
    from moebius.model.contract import Precision

BREATH = 1.0  # seconds between signs of life


def main(argv: list[str]) -> int:
    say = channel()
    try:
        if argv[0] == "list":
            say({"adapters": adapters_of(argv[1])})
        else:
            run(argv[1], int(argv[2]), "--full" in argv, "f16" if "f16" in argv[3:] else "f32", say)
    except DeviceLostError as error:
        print(error, file=sys.stderr)
        return 1
    except AdapterError as error:
        say({"refused": str(error)})
    except MoebiusError as error:
        say({"failed": str(error)})
    return 0


def channel() -> Callable[[Any], None]:
    """Writes lines where standard output went. What drivers print goes to standard error from now on."""
    out = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())

    def say(message: Any) -> None:
        out.write(json.dumps(message, allow_nan=False) + "\n")
        out.flush()

    return say


def adapters_of(implementation: str) -> list[dict[str, str]]:
    from moebius.backends.webgpu.device import adapters
    from moebius.check.compare.measure import one_line

    return [{"summary": one_line(a.summary), "backend": str(a.info["backend_type"])} for a in adapters(implementation)]


def run(target: str, first: int, full: bool, precision: Precision, say: Callable[[Any], None]) -> None:
    from moebius.check.compare import measure

    ops = opened(target, precision)
    say({"column": measure.identity(ops)})
    last = time.monotonic()

    def breathe() -> None:
        nonlocal last
        if time.monotonic() > last + BREATH:
            last = time.monotonic()
            say({"alive": True})

    for i, item in enumerate(measure.work(full)):
        if i >= first:
            say({"item": i})
            for row in measure.rows(item, ops, breathe):
                say({"run" if isinstance(item, str) else "op": row})
    say({"end": True})


def opened(target: str, precision: Precision) -> Backend:
    import numpy as np

    from moebius.backends.cpu import CPU
    from moebius.backends.reference import Reference
    from moebius.backends.webgpu import WebGPU

    if target == "oracle":
        return Reference(np.float64)
    return CPU() if target == "cpu" else WebGPU(target, precision=precision)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
