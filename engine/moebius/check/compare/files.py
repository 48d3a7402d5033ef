"""Fingerprints on disk. A file may come from anyone: sizes, types and ranges are checked before anything is believed."""

from __future__ import annotations

import base64
import binascii
import io
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from moebius.check.compare.fingerprint import FORMAT, MAP_SIDE, STATUSES, VERSION, Json
from moebius.errors import MoebiusError, UsageError
from moebius.files import open_regular, replacing

LARGEST_FILE = 64 << 20
LARGEST_TEXT = 2_000
LARGEST_LIST = 20_000
MOST_COLUMNS, MOST_OPS, MOST_RUNS = 64, 2_000, 8  # columns are compared pair by pair, and every run may have a picture
LARGEST_SIDE = 1024
LARGEST_NUMBER = 1e300
DEEPEST = 12

Check = Callable[[Any, str], None]


class WrongError(ValueError):
    """What is wrong, and where in the file."""


def save(path: Path, content: str | bytes) -> None:
    """Beside it first: a file is there whole or not at all."""
    data = content.encode() if isinstance(content, str) else content
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as file:
            file.write(data)
    except OSError as error:
        raise MoebiusError(f"{path} cannot be written ({error.strerror}). Choose another place.") from error


def check_folder(folder: Path) -> None:
    """Refuses a folder that is not there, or cannot be written to."""
    if not folder.is_dir():
        raise UsageError(f"There is no folder {folder}; make it first, or choose another place.")
    if not os.access(folder, os.W_OK):
        raise UsageError(f"{folder} cannot be written to. Choose another place.")


def dumped(fingerprint: Json) -> str:
    return json.dumps(fingerprint, allow_nan=False, separators=(",", ":"), ensure_ascii=False) + "\n"


def load(path: Path) -> Json:
    try:
        with open_regular(path) as file:
            data = file.read(LARGEST_FILE + 1)
        if len(data) > LARGEST_FILE:
            raise UsageError(f"{path} has more than the {LARGEST_FILE >> 20} MiB of the largest fingerprint. Give another file.")
        fingerprint = json.loads(data.decode("utf-8"), parse_constant=_no_constant)
    except OSError as error:
        raise UsageError(f"{path} cannot be read ({error.strerror}). Give files that `moebius compare -o FILE` wrote.") from error
    except (ValueError, RecursionError) as error:  # not UTF-8, not JSON, NaN, nested without end
        raise UsageError(f"{path} is no JSON file ({error}). Give files that `moebius compare -o FILE` wrote.") from error
    try:
        if not isinstance(fingerprint, dict) or fingerprint.get("format") != FORMAT:
            raise WrongError(f"it does not say that its format is {FORMAT!r}")
        if fingerprint.get("version") != VERSION:
            raise WrongError(
                f"its version is {_short(fingerprint.get('version'))}, and this moebius reads version {VERSION}; update the older one"
            )
        FINGERPRINT(fingerprint, "the file")
        names = [c["name"] for c in fingerprint["columns"]]
        if len(set(names)) < len(names):
            raise WrongError("two columns have the same name")
        for i, column in enumerate(fingerprint["columns"]):
            runs = [run["name"] for run in column.get("runs", []) if run["status"] == "done"]
            if len(set(runs)) < len(runs):
                raise WrongError(f"the file.columns[{i}] has two runs of the same name")
    except WrongError as error:
        raise UsageError(f"{path} is no fingerprint that can be used: {error}.") from None
    return fingerprint


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "…"


# what a value may be -------------------------------------------------------------------------------------------------
def text(value: Any, where: str) -> None:
    if not isinstance(value, str) or len(value) > LARGEST_TEXT or not value.isprintable():
        raise WrongError(f"{where} is {_short(value)}, not a line of text")


def number(value: Any, where: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= LARGEST_NUMBER:  # nor NaN
        raise WrongError(f"{where} is {_short(value)}, not a finite number")


def positive(value: Any, where: str) -> None:
    number(value, where)
    if value < 0:
        raise WrongError(f"{where} is {_short(value)}, and cannot be below 0")


def scale(value: Any, where: str) -> None:
    number(value, where)
    if value <= 0:
        raise WrongError(f"{where} is {_short(value)}, and must be above 0")


def truth(value: Any, where: str) -> None:
    if not isinstance(value, bool):
        raise WrongError(f"{where} is {_short(value)}, not true or false")


def status(value: Any, where: str) -> None:
    one_of(*STATUSES)(value, where)


def shape(value: Any, where: str) -> None:
    if not isinstance(value, list) or len(value) > 6 or not all(type(n) is int and 0 < n < 2**31 for n in value):
        raise WrongError(f"{where} is {_short(value)}, not a shape")


def plain(value: Any, where: str, depth: int = 0) -> None:
    """Settings and limits: texts, numbers, truths, and lists and objects of them."""
    if depth > DEEPEST:
        raise WrongError(f"{where} is nested too deep")
    if isinstance(value, dict):
        for key, inner in value.items():
            text(key, f"a name in {where}")
            plain(inner, f"{where}.{key}", depth + 1)
    elif isinstance(value, list):
        for inner in value:
            plain(inner, where, depth + 1)
    elif value is not None and not isinstance(value, bool):
        (text if isinstance(value, str) else number)(value, where)


def picture(value: Any, where: str) -> None:
    data = decoded(value, where)
    try:
        with Image.open(io.BytesIO(data), formats=["PNG"]) as opened:
            if max(opened.size) > LARGEST_SIDE:
                raise WrongError(f"{where} is {opened.width}×{opened.height}; at most {LARGEST_SIDE} a side are read")
            opened.convert("RGB")
    except WrongError:
        raise
    except Exception as error:  # Pillow raises what its decoder raises
        raise WrongError(f"{where} is no PNG picture ({type(error).__name__})") from None


def decoded(value: Any, where: str) -> bytes:
    try:
        return base64.b64decode(value, validate=True)
    except (TypeError, ValueError, binascii.Error):
        raise WrongError(f"{where} is not base64") from None


def heat(value: Any, where: str) -> None:
    HEAT(value, where)
    if not all(type(value[k]) is int and 0 < value[k] <= MAP_SIDE for k in ("height", "width")):
        raise WrongError(f"{where} is larger than {MAP_SIDE}×{MAP_SIDE}, or empty")
    if len(decoded(value["ulps"], where)) != 2 * value["height"] * value["width"]:
        raise WrongError(f"{where} does not have the bytes of its size")


def one_of(*choices: str) -> Check:
    def check(value: Any, where: str) -> None:
        if value not in choices:
            raise WrongError(f"{where} is {_short(value)}, not one of {', '.join(choices)}")

    return check


def or_null(inner: Check) -> Check:
    return lambda value, where: None if value is None else inner(value, where)


def every(inner: Check, most: int = LARGEST_LIST) -> Check:
    def check(value: Any, where: str) -> None:
        if not isinstance(value, list) or len(value) > most:
            raise WrongError(f"{where} is {_short(value)}, not a list of at most {most}")
        for i, item in enumerate(value):
            inner(item, f"{where}[{i}]")

    return check


def values(inner: Check) -> Check:
    def check(value: Any, where: str) -> None:
        if not isinstance(value, dict) or len(value) > LARGEST_LIST:
            raise WrongError(f"{where} is {_short(value)}, not an object")
        for key, item in value.items():
            text(key, f"a name in {where}")
            inner(item, f"{where}.{key}")

    return check


def record(required: Mapping[str, Check], optional: Mapping[str, Check] | None = None) -> Check:
    """An object with these members; others are passed over, so that later versions may add some."""

    def check(value: Any, where: str) -> None:
        if not isinstance(value, dict):
            raise WrongError(f"{where} is {_short(value)}, not an object")
        for name, inner in required.items():
            if name not in value:
                raise WrongError(f"{where} has no {name!r}")
            inner(value[name], f"{where}.{name}")
        for name, inner in (optional or {}).items():
            if name in value:
                inner(value[name], f"{where}.{name}")

    return check


def when_done(common: Mapping[str, Check], done: Mapping[str, Check], optional: Mapping[str, Check]) -> Check:
    """A member of a column: what was measured must be there when it was done, and need not be otherwise."""
    whole, rest = record({**common, **done}, optional), record(common, optional)
    return lambda value, where: (whole if isinstance(value, dict) and value.get("status") == "done" else rest)(value, where)


def all_or_none_finite(inner: Check) -> Check:
    """Of a row with ERRORS: of a tensor that is not finite all of these are null, and of another one none."""

    def check(value: Any, where: str) -> None:
        inner(value, where)
        if len({value[name] is None for name in ("max_ulp", "relative_l2", "bias", "max_abs") if name in value}) > 1:
            raise WrongError(f"{where} has errors of which some are null and some are numbers")

    return check


HEAT = record({"height": number, "width": number, "ulps": lambda value, where: None})
ERRORS: dict[str, Check] = {
    "shape": shape,
    "checksum": text,
    "max_ulp": or_null(positive),
    "relative_l2": or_null(positive),
    "bias": or_null(number),
    "max_abs": or_null(positive),
    "rms": scale,
    "limit": or_null(positive),
}
OP = all_or_none_finite(
    when_done(
        {"op": text, "case": text, "kind": one_of("edge", "model"), "inputs": text, "status": status},
        ERRORS,
        {"reason": text, "ms": positive, "repeatable": truth, "map": heat},
    )
)
OWN: dict[str, Check] = {"own": or_null(positive), "own_max_abs": or_null(positive), "rms": scale, "limit": positive}
TRACED_ALWAYS = record(
    {"stage": text, "op": text, "path": text, "shape": shape, "checksum": text, "relative_l2": or_null(positive)},
)


def traced(value: Any, where: str) -> None:
    TRACED_ALWAYS(value, where)
    if "own" in value:
        record(OWN)(value, where)


RUN = when_done(
    {"name": text, "model": text, "inputs": text, "status": status},
    {},
    {
        "reason": text,
        "settings": values(plain),
        "seconds": values(positive),
        "repeatable": truth,
        "trace": every(traced),
        "outputs": every(all_or_none_finite(record({"name": text, **ERRORS}, {"map": heat}))),
        "picture": picture,
    },
)
COLUMN = record(
    {"name": text, "implementation": text, "status": status},
    {
        "reason": text,
        "adapter": values(text),
        "limits": values(number),
        "features": every(text),
        "versions": values(text),
        "shaders": or_null(text),
        "seconds": positive,
        "ops": every(OP, MOST_OPS),
        "runs": every(RUN, MOST_RUNS),
    },
)
FINGERPRINT = record({"moebius": text, "made": text, "machine": values(text), "set": text, "columns": every(COLUMN, MOST_COLUMNS)})
