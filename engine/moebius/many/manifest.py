"""A list of pictures: CSV with a header, or a line of JSON each. Read line by line, so it may be of any length.

image     a picture: in the manifest's own folder, or anywhere by an absolute path or a URL
mask      in MASKS, likewise; "alpha" is the picture's own transparency; without mask and box it is MASKS, where that is a file
box       x,y,width,height, several with ; between them; in JSON a list of four numbers, or a list of such lists
output    in OUT, likewise; without it the picture's own name
settings  of this picture, as an object in JSON; or each in a column of its own: steps, seed, grow, …
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import PurePosixPath
from typing import Any

from moebius.errors import UsageError, did_you_mean
from moebius.inpaint.settings import Settings
from moebius.many.jobs import Job, MaskOf
from moebius.many.places import Place, hidden, text_lines, within
from moebius.pictures.formats import ENDINGS, HEIC_ENDINGS

ENDS = (".csv", ".jsonl", ".ndjson")
LONGEST = 1 << 20  # characters of a line
NAMES = {f.name: f for f in fields(Settings)}
OWN = ("image", "mask", "box", "output", "settings")


def is_manifest(of: Place) -> bool:
    return of.suffix.lower() in ENDS


def jobs(manifest: Place, masks: Place, out: Place, base: Mapping[str, Any]) -> Iterator[Job]:
    """Its pictures, in order; `base` are the settings that a row's own go before. A row that is wrong is an error that names its line."""
    default = masks if masks.is_file() else None
    for index, (number, row) in enumerate(rows(manifest)):
        try:
            yield job(row, manifest.parent, masks, out, default, base, index)
        except UsageError as error:
            raise UsageError(f"{manifest}, line {number}: {error}") from error


def rows(manifest: Place) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """The number of its line, and what it says; a cell that is empty is not there."""
    lines = (short(line, number, manifest) for number, line in enumerate(text_lines(manifest), 1))
    if manifest.suffix.lower() == ".csv":
        table = csv.DictReader(lines, strict=True)
        try:
            for row in table:
                if None in row:
                    raise UsageError(f"{manifest}, line {table.line_num}: it has more cells than the header.")
                yield table.line_num, {k.strip().replace("-", "_"): v.strip() for k, v in row.items() if k and v and v.strip()}
        except csv.Error as error:
            raise UsageError(f"{manifest}, line {table.line_num}: it is no CSV ({error}).") from error
        return
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UsageError(f"{manifest}, line {number}: it is no JSON ({str(error)[:80]}).") from error
        if not isinstance(row, dict):
            raise UsageError(f'{manifest}, line {number}: it is no object of JSON; write {{"image": …}}.')
        yield number, {k: v for k, v in row.items() if v is not None}


def short(line: str, number: int, manifest: Place) -> str:
    if len(line) > LONGEST:
        raise UsageError(f"{manifest}, line {number}: it has more than {LONGEST:,} characters.")
    return line


def job(row: Mapping[str, Any], home: Place, masks: Place, out: Place, default: Place | None, base: Mapping[str, Any], index: int) -> Job:
    unknown = sorted(row.keys() - {*OWN, *NAMES})
    if unknown:
        raise UsageError(f"there is no {unknown[0]!r}; a row has {', '.join(OWN)}.{did_you_mean(unknown[0], [*OWN, *NAMES])}")
    image = words(row, "image")
    if image is None:
        raise UsageError("it names no image.")
    picture = within(home, image)
    target = within(out, words(row, "output") or own_name(picture))
    if target.suffix.lower() not in ENDINGS:
        raise UsageError(f"the output {target.name} ends in none of {', '.join(ENDINGS)}.")
    if target == picture:
        raise UsageError(f"the output {target} is its own image.")
    settings = own_settings(row)
    Settings(**{**base, **settings})
    return Job(picture, mask_of(row, masks, default), target, hidden(image), settings=settings, index=index)


def own_name(picture: Place) -> str:
    """In its own format, or as PNG where that is not written."""
    ending = picture.suffix.lower()
    return PurePosixPath(picture.name).with_suffix(".png").name if ending in HEIC_ENDINGS else picture.name


def mask_of(row: Mapping[str, Any], masks: Place, default: Place | None) -> MaskOf:
    name, boxes = words(row, "mask"), boxes_of(row.get("box"))
    if name and boxes:
        raise UsageError("it has a mask and a box; give one of them.")
    if boxes:
        return boxes
    if name == "alpha":
        return "alpha"
    found = within(masks, name) if name else default
    if found is None:
        raise UsageError(f"it has neither mask nor box, and {masks} is no mask for all.")
    return found


def words(row: Mapping[str, Any], key: str) -> str | None:
    value = row.get(key)
    if value is not None and not (isinstance(value, str) and value and "\0" not in value):
        raise UsageError(f"{key} is {str(value)[:60]!r}; it must be a name.")
    return value


def boxes_of(value: Any) -> tuple[tuple[int, ...], ...]:
    if value is None:
        return ()
    try:
        if isinstance(value, str):
            value = [[int(n) for n in box.split(",")] for box in value.split(";")]
        listed = [value] if value and not isinstance(value[0], list) else value
        found = tuple(tuple(box) for box in listed)
        if found and all(len(box) == 4 and all(type(n) is int for n in box) for box in found):
            return found
    except (TypeError, ValueError, KeyError):
        pass
    raise UsageError(f"box is {str(value)[:60]!r}; it must be x,y,width,height: four whole numbers.")


def own_settings(row: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the columns, then those of `settings`. A cell of a CSV is read as JSON where it is that, else as a word."""
    settings = {name: value_of(row[name]) for name in NAMES if name in row}
    more = value_of(row.get("settings", {}))
    if not isinstance(more, dict):
        raise UsageError('settings are no object of JSON; write {"steps": 8}.')
    unknown = sorted(more.keys() - NAMES.keys())
    if unknown:
        raise UsageError(f"there is no setting {unknown[0]!r}.{did_you_mean(unknown[0], NAMES)}")
    return settings | more


def value_of(cell: Any) -> Any:
    if not isinstance(cell, str):
        return cell
    try:
        return json.loads(cell.lower() if cell.lower() in ("true", "false") else cell)
    except (ValueError, RecursionError):
        return cell
