"""The report as files: Markdown for an issue, and one page that needs nothing beside it."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from html import escape
from pathlib import Path

from moebius.check.compare.document import Part, Table, document
from moebius.check.compare.files import check_folder, save
from moebius.check.compare.pictures import Strip
from moebius.check.compare.report import Report
from moebius.errors import UsageError

TITLE = "moebius compare"
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 90rem; padding: 0 1.5rem; color: #1b1d22; background: #fff }
h1 { font-size: 1.6rem } h2 { font-size: 1.2rem; margin: 2.2rem 0 .4rem } h3 { font-size: 1rem; margin: 1.4rem 0 .3rem }
p { max-width: 60rem; margin: .4rem 0 } .wide { overflow-x: auto }
table { border-collapse: collapse; font-size: 13px; margin: .6rem 0 } th { text-align: left; background: #f3f4f7 }
th, td { border: 1px solid #d9dce3; padding: .25rem .5rem; vertical-align: top } td:first-child { white-space: nowrap }
td.bad { background: #fde3e1; font-weight: 600 } td.good { background: #eef8ee }
.strip { display: flex; flex-wrap: wrap; gap: 1rem } figure { margin: 0; width: 13rem } figcaption { font-size: 12px }
img { image-rendering: pixelated; max-width: 100%; border: 1px solid #d9dce3 }
@media (prefers-color-scheme: dark) { body { background: #16181d; color: #e4e6eb } th { background: #23262d }
th, td, img { border-color: #3a3e47 } td.bad { background: #5b1f1c } td.good { background: #1d3220 } }
"""


def publish(report: Report, place: Path | None) -> list[Path]:
    """Writes it, or prints the Markdown where no place is given; returns what was written."""
    parts = document(report)
    if place is None:
        print(markdown(parts, None), end="")
        return []
    if place.suffix == ".html":
        save(place, page(parts))
        return [place]
    if place.suffix == ".md":
        save(place, markdown(parts, None))
        return [place]
    shots = {f"pictures/{i + 1}-{j + 1}.png": p.png for i, strip in enumerate(strips(parts)) for j, p in enumerate(strip.pictures)}
    for name, data in shots.items():
        save(place / name, data)
    save(place / "report.md", markdown(parts, "pictures"))
    save(place / "report.html", page(parts))
    return [place / "report.html", place / "report.md"]


def check_place(place: Path | None) -> None:
    """Refuses what is no place for a report. A new folder is taken by a name without an ending: one with any other is a mistake."""
    if place is None:
        return
    is_page = place.suffix in (".html", ".md")
    if place.is_dir() == is_page if place.exists() else place.suffix and not is_page:
        raise UsageError(f"{place}: the report is a folder, a .html or a .md file; a folder with an ending in its name has to be there.")
    check_folder(place if place.is_dir() else place.absolute().parent)


def strips(parts: list[Part]) -> list[Strip]:
    return [strip for part in parts for strip in part.strips]


# Markdown ------------------------------------------------------------------------------------------------------------
def markdown(parts: list[Part], pictures: str | None) -> str:
    """`pictures` is the folder they are in, beside the file; without one they are left out."""
    out = [f"# {TITLE}", ""]
    for part in parts:
        if part.strips and pictures is None:
            continue
        out += [f"## {plain(part.title)}", ""]
        for text in part.text:
            out += [plain(text), ""]
        if part.table:
            out += [*rows_of(part.table), ""]
        for i, strip in enumerate(part.strips):
            out += [f"### {plain(strip.title)}", ""] + ([plain(strip.text), ""] if strip.text else [])
            cells = [(plain(p.caption), f"![{plain(p.caption)}]({pictures}/{i + 1}-{j + 1}.png)") for j, p in enumerate(strip.pictures)]
            for first in range(0, len(cells), 4):
                some = cells[first : first + 4]
                out += [line([image for _, image in some]), line(["---"] * len(some)), line([caption for caption, _ in some]), ""]
    return "\n".join(out).rstrip() + "\n"


def rows_of(table: Table) -> list[str]:
    return [line(map(plain, table.header)), line(["---"] * len(table.header)), *(line(map(plain, row)) for row in table.rows)]


def line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def plain(text: str) -> str:
    """Text from a file is text: no tags, links or table cells of its own."""
    return "".join(f"\\{c}" if c in "\\`*_[]|#" else {"<": "&lt;", ">": "&gt;", "&": "&amp;"}.get(c, c) for c in text)


# a page --------------------------------------------------------------------------------------------------------------
def page(parts: list[Part]) -> str:
    body = "\n".join(section(part) for part in parts)
    return (
        f'<!doctype html>\n<html lang="en">\n<head><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{TITLE}</title>\n<style>{STYLE}</style></head>\n<body>\n<h1>{TITLE}</h1>\n{body}\n</body>\n</html>\n"
    )


def section(part: Part) -> str:
    out = [f"<section>\n<h2>{escape(part.title)}</h2>", *(f"<p>{escape(text)}</p>" for text in part.text)]
    if part.table:
        head = "".join(f"<th>{escape(text)}</th>" for text in part.table.header)
        rows = "\n".join(f"<tr>{''.join(map(cell, row))}</tr>" for row in part.table.rows)
        out.append(f'<div class="wide"><table>\n<tr>{head}</tr>\n{rows}\n</table></div>')
    for strip in part.strips:
        shown = "\n".join(
            f'<figure><img alt="{escape(p.caption)}" src="data:image/png;base64,{base64.b64encode(p.png).decode()}">'
            f"<figcaption>{escape(p.caption)}</figcaption></figure>"
            for p in strip.pictures
        )
        out.append(f'<h3>{escape(strip.title)}</h3>\n<p>{escape(strip.text)}</p>\n<div class="strip">{shown}</div>')
    return "\n".join([*out, "</section>"])


def cell(text: str) -> str:
    kind = ' class="bad"' if text.startswith("✗") or "more than rounding" in text else ' class="good"' if text.startswith("exact") else ""
    return f"<td{kind}>{escape(text)}</td>"
