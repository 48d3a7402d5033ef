"""What a check found, in words for people and in numbers for a bug report."""

from __future__ import annotations

import contextlib
import getpass
import math
import platform
import re
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

State = Literal["ok", "note", "wrong"]  # a note is nothing wrong: something to know


@dataclass(frozen=True)
class Finding:
    """`advice` says what to do, where something is to be done."""

    check: str
    state: State
    text: str
    advice: str = ""
    numbers: dict[str, Any] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        return without_names(asdict(self))


def without_names(value: Any) -> Any:
    """The same without paths and names of people and machines: drivers' messages have them, and a report is for publication."""
    if isinstance(value, dict):
        return {key: without_names(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [without_names(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)  # JSON has no number for it
    return scrubbed(value) if isinstance(value, str) else value


PATH = re.compile(r"(?:\b[A-Za-z]:|\\)(?:\\[^\\\s:;,'\"]+)+|~?(?<![\w.)/])(?:/[^/\s:;,'\"()]+){2,}/?")


NO_NAMES = ("root", "user", "home", "localhost")  # which tell nothing, and stand in sentences


def scrubbed(text: str) -> str:
    text = PATH.sub("(path)", text)
    names = [platform.node(), Path.home().name]
    with contextlib.suppress(Exception):  # a process without a user's name
        names.append(getpass.getuser())
    for name in names:
        if len(name) > 2 and name not in NO_NAMES:
            text = re.sub(rf"(?<!\w){re.escape(name)}(?!\w)", "(name)", text)
    return text
