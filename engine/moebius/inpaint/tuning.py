"""The kernels that were found fastest on a device: kept in the cache, beside the verdict on it, and measured the first time it is used.

A table is of one adapter with one driver, one implementation and version, and of these shaders. It is read by every process, and grows
when one of them measures: what another has found meanwhile is kept.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from moebius.backends.webgpu import WebGPU, choice
from moebius.backends.webgpu.calls import GemmCall
from moebius.backends.webgpu.tuned import Table, Tuned
from moebius.backends.webgpu.tuner import Measured, Tuner, shapes
from moebius.errors import DeviceLostError, MoebiusError, OutOfMemoryError
from moebius.inpaint import verdicts
from moebius.weights import folders

SWITCH = "MOEBIUS_TUNE"
BUDGET = 3.0  # seconds that a device is measured for without being asked, in all


def is_on() -> bool:
    """MOEBIUS_TUNE=0: every device gets the defaults, whatever was measured on it."""
    return os.environ.get(SWITCH, "1") != "0"


def file_of(ops: WebGPU) -> Path:
    return folders.subfolder("tuned") / f"{verdicts.digest_of(ops)}.json"


def read(file: Path) -> Table:
    """Empty where there is none that can be read."""
    return Table.of_json(folders.read_note(file))


def keep(file: Path, table: Table, right: Iterable[str] = ()) -> None:
    """Adds to what is kept, whole or not at all; of `right` rows nobody says any more that they are wrong. Where the cache cannot be
    written, it is measured again at the next start."""
    with suppress(OSError):
        both = read(file)
        both.take(table)
        for row in right:
            both.wrong.pop(row, None)
        folders.write_note(file, both.as_json())


def apply(ops: WebGPU) -> Table:
    """Has a device use what was measured on it; measures nothing."""
    table = read(file_of(ops)) if is_on() else Table()
    ops.choose = Tuned(table)
    return table


def prepare(ops: WebGPU) -> None:
    """The same, and measures what a plan needs when one is made: on a hardware adapter, for BUDGET, and not where tests run."""
    table = apply(ops)
    if is_on() and not ops.caps.is_software and os.environ.get("CI", "").lower() not in ("1", "true"):
        ops.tuner = Automatic(table)


class Automatic:
    """The tuner of a device that nobody asked to tune."""

    def __init__(self, table: Table) -> None:
        self.table, self.said = table, False

    def __call__(self, ops: WebGPU, calls: list[GemmCall]) -> bool:
        left = BUDGET - self.table.seconds
        new = [shape for shape in shapes(calls) if shape not in self.table.picks]
        if left <= 0 or not new:
            return False
        log = logging.getLogger("moebius")
        if not self.said:  # without a handler of the user's, the line goes to standard error as it is
            log.warning("Trying which kernels are fastest on %s, once, for %.1f seconds at most (%s=0: never).", ops.name, left, SWITCH)
        self.said = True
        # A driver that crashes over a kernel must not do so at every start: until this has ended, all the time there is counts as spent.
        keep(file_of(ops), replace(self.table, seconds=BUDGET))
        try:
            return bool(measure(ops, calls, self.table, left))
        except MoebiusError as error:
            if isinstance(error, DeviceLostError) and not isinstance(error, OutOfMemoryError):
                self.table.seconds = BUDGET  # as after a crash
                keep(file_of(ops), self.table)
                raise
            # Such as a lack of memory for operands of its own: the defaults run without.
            log.warning("The kernels of %s stay the defaults: %s", ops.name, error)
            return False


def measure(ops: WebGPU, calls: list[GemmCall], table: Table, seconds: float = math.inf, tuner: Tuner | None = None, **told: object) -> int:
    """Measures the layers that are not in the table, keeps it, and says which kernels are wrong; returns how many shapes are new.

    A row that the table calls wrong is not tried. One that only the file does is: where it is right now, such as with settings of the
    driver that the file's name does not tell, it is no longer called so.
    """
    found, before = list[Measured](), set(table.wrong)
    try:
        with ops.gpu.turns:
            found = (tuner or Tuner(ops.gpu, ops.caps, choice.promising)).run(calls, table, seconds, **told)  # type: ignore[arg-type]
    finally:  # what was measured before a Ctrl-C too
        keep(file_of(ops), table, {row for one in found for row in one.ms} - table.wrong.keys())
    for row in sorted(table.wrong.keys() - before):
        logging.getLogger("moebius").warning("%s", complaint(ops, row, table.wrong[row]))
    return len(found)


def complaint(ops: WebGPU, row: str, said: str) -> str:
    return (
        f"The kernel {row!r} computes wrong on {ops.name} ({said}), so it is not used there. This is a fault of the graphics driver: "
        "update it, or report it with the output of `moebius doctor --json`."
    )
