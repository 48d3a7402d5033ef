"""Keeps the code that the pages quote the same as the code itself.

    python tools/quote.py [--check]

A page of docs/ quotes between `<!-- quote: FILE [NAME] -->` and `<!-- /quote -->`: of a Python file the first function or class of that
name, of another file the line that holds NAME and the indented block below it, or the whole file. With --check nothing is written, and
the exit code is 1 where a page differs.
"""

from __future__ import annotations

import ast
import re
import sys
import textwrap
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
QUOTE = re.compile(r"(<!-- quote: (\S+)(?: ([^\n]+?))? -->\n).*?(<!-- /quote -->)", re.S)


def quoted(file: str, name: str | None) -> str:
    """The text of `name` in `file`, without the indent of its first line."""
    text = (ROOT / file).read_text(encoding="utf-8")
    if name is None:
        return text.strip("\n")
    lines = text.splitlines()
    if file.endswith(".py"):
        kinds = ast.FunctionDef | ast.ClassDef
        node = next((n for n in ast.walk(ast.parse(text)) if isinstance(n, kinds) and n.name == name), None)
        if node is not None:
            return textwrap.dedent("\n".join(lines[node.lineno - 1 : node.end_lineno]))
    first = next((i for i, line in enumerate(lines) if name in line), None)
    if first is None:
        raise ValueError(f"{file} has no {name}")
    indent = re.match(r" *", lines[first])[0]  # type: ignore[index]
    last = next(i for i in range(first + 1, len(lines)) if lines[i].strip() and not lines[i].startswith(f"{indent} "))
    return textwrap.dedent("\n".join(lines[first : last + 1]))


def with_quotes(page: str) -> str:
    """The page with every quote as the files have it now."""

    def filled(match: re.Match[str]) -> str:
        begin, file, name, end = match.groups()
        return f"{begin}```{Path(file).suffix[1:].replace('py', 'python')}\n{quoted(file, name)}\n```\n{end}"

    return QUOTE.sub(filled, page)


def main() -> int:
    differs = False
    for path in sorted((ROOT / "docs").glob("*.md")):
        old = path.read_text(encoding="utf-8")
        new = with_quotes(old)
        if new != old:
            differs = True
            print(f"{path.relative_to(ROOT)} quotes code that has changed since.")
            if "--check" not in sys.argv:
                path.write_text(new, encoding="utf-8")
    return int(differs and "--check" in sys.argv)


if __name__ == "__main__":
    sys.exit(main())
