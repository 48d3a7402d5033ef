"""Keeps the code that the pages quote the same as the code itself.

    python tools/quote.py [--check]

A page of docs/ quotes between `<!-- quote: FILE [NAME] -->` and `<!-- /quote -->`: of a Python file the first function or class of that
name, else the line that holds NAME and the indented block below it, or the whole file. In place of a file may be a folder: the
longest function or class of that name below it. With --check nothing is written, and the exit code is 1 where a page differs.
"""

from __future__ import annotations

import ast
import re
import sys
import textwrap
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
QUOTE = re.compile(r"(<!-- quote: (\S+)(?: ([^\n]+?))? -->\n).*?(<!-- /quote -->)", re.S)


def definition(path: Path, name: str) -> str | None:
    """The text of the first function or class of that name in a Python file, without the indent of its first line."""
    text = path.read_text(encoding="utf-8")
    kinds = ast.FunctionDef | ast.ClassDef
    node = next((n for n in ast.walk(ast.parse(text)) if isinstance(n, kinds) and n.name == name), None)
    return None if node is None else textwrap.dedent("\n".join(text.splitlines()[node.lineno - 1 : node.end_lineno]))


def block(path: Path, name: str) -> str | None:
    """The first line that holds `name`, and what is indented below it up to the line that closes it."""
    lines = path.read_text(encoding="utf-8").splitlines()
    first = next((i for i, line in enumerate(lines) if name in line), None)
    if first is None:
        return None
    indent = len(lines[first]) - len(lines[first].lstrip())
    last = next(i for i in range(first + 1, len(lines)) if lines[i].strip() and not lines[i].startswith(" " * (indent + 1)))
    return textwrap.dedent("\n".join(lines[first : last + 1]))


def quoted(place: str, name: str | None) -> str:
    path = ROOT / place
    if name is None:
        return path.read_text(encoding="utf-8").strip("\n")
    files = sorted(path.rglob("*.py")) if path.is_dir() else [path] if path.suffix == ".py" else []
    texts = [text for file in files if (text := definition(file, name)) is not None]
    if not texts and path.is_file():
        texts = [text for text in [block(path, name)] if text is not None]
    if not texts:
        raise ValueError(f"{place} has no {name}; correct the page's `quote:` line.")
    return max(texts, key=len)


def with_quotes(page: str) -> str:
    """The page with every quote as the files have it now."""

    def filled(match: re.Match[str]) -> str:
        begin, place, name, end = match.groups()
        language = Path(place).suffix[1:] or "py"
        return f"{begin}```{language.replace('py', 'python')}\n{quoted(place, name)}\n```\n{end}"

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
