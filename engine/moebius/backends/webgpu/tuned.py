"""Which kernel of the menu each dense layer gets on a device where that was measured, and why: the table that `tuner` fills."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from moebius.backends.webgpu import choice
from moebius.backends.webgpu.calls import GemmCall, Taps
from moebius.backends.webgpu.caps import Caps
from moebius.backends.webgpu.choice import FEW, Choose
from moebius.backends.webgpu.menu import ROWS, Gemm

MOST = 1e9  # of what a file says, above which it is no time and no gain; nor is a NaN


def shape_of(call: GemmCall) -> str:
    """What times depend on, and how a table names it: mode and stride, M×N×K, types other than f32; M is of one image, and of a convolution
    K is that of a tap."""
    stride = f"/{call.stride}" if isinstance(call.mode, Taps) else ""
    types = "" if set(call.types) == {"f32"} else f" {'-'.join(call.types)}"
    return f"{call.mode.name.lower()}{stride} {call.each}x{call.operands.n}x{call.operands.k}{types}"


@dataclass(frozen=True)
class Pick:
    """The fastest row by its key, the default's time in its own, and how many rows were measured."""

    row: str
    gain: float
    of: int


@dataclass
class Table:
    """Of one device: picks by shape; rows that computed something else than the default there, and how; seconds spent on all this."""

    picks: dict[str, Pick] = field(default_factory=dict)
    wrong: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0

    def as_json(self) -> dict[str, Any]:
        picks = {shape: [p.row, round(p.gain, 3), p.of] for shape, p in sorted(self.picks.items())}
        return {"picks": picks, "wrong": self.wrong, "seconds": round(self.seconds, 3)}

    @classmethod
    def of_json(cls, note: Any) -> Self:
        """What `as_json` wrote; an empty table for anything else. A file of the cache may hold whatever a disk or a user put there."""
        match note:
            case {"picks": dict(picks), "wrong": dict(wrong), "seconds": int() | float() as seconds}:
                pass
            case _:
                return cls()
        out: dict[str, Pick] = {}
        for shape, pick in picks.items():
            match pick:
                case [str(row), int() | float() as gain, int(of)] if 0 < gain < MOST:
                    out[str(shape)] = Pick(row, float(gain), of)
        said = {row: why for row, why in wrong.items() if isinstance(why, str)}
        return cls(out, said, float(seconds) if 0 <= seconds < MOST else 0.0)

    def take(self, newer: Table) -> None:
        """All that is in another table, in place of what is here for the same shapes."""
        self.picks |= newer.picks
        self.wrong |= newer.wrong
        self.seconds = newer.seconds


class Tuned:
    """A choice of kernels: what was measured for a shape, and the default where nothing was, or where the row no longer is or fits."""

    def __init__(self, table: Table, rows: Mapping[str, Gemm] | None = None) -> None:
        self.table = table
        self.rows = {row.key: row for row in ROWS} if rows is None else rows

    def __call__(self, caps: Caps, call: GemmCall) -> Gemm:
        found = self.measured(caps, call)
        return self._default(caps, call) if found is None else found[0]

    def _default(self, caps: Caps, call: GemmCall) -> Gemm:
        """The next row where the default was found to be wrong."""
        default = choice.choose(caps, call)
        if not self.is_wrong(default):
            return default
        return next((row for row in choice.candidates(caps, call) if not self.is_wrong(row)), default)

    def is_wrong(self, row: Gemm) -> bool:
        return row.key in self.table.wrong

    def measured(self, caps: Caps, call: GemmCall) -> tuple[Gemm, Pick] | None:
        pick = self.table.picks.get(shape_of(call)) if call.rows > FEW else None
        row = self.rows.get(pick.row) if pick and pick.row not in self.table.wrong else None
        return (row, pick) if row and pick and row.fits(caps) and row.supports(call) else None


def why(choose: Choose, caps: Caps, call: GemmCall) -> str:
    """Why a call got its kernel, in a few words."""
    if call.rows <= FEW:
        return "few rows"
    found = choose.measured(caps, call) if isinstance(choose, Tuned) else None
    if found is None:
        is_wrong = isinstance(choose, Tuned) and choose.is_wrong(choice.choose(caps, call))
        return "the default is wrong" if is_wrong else f"default, {caps.kind}"
    gain, of = found[1].gain, found[1].of
    return f"measured, {gain:.2f}× the default" if gain > 1 else f"measured, best of {of}"
