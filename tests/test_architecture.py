"""The tree is what it says it is: imports run one way, files and functions are short enough to read at one go."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "engine/moebius"
MODULES = sorted(PACKAGE.rglob("*.py"))
TESTS = sorted(Path(__file__).parent.glob("*.py"))

# From the bottom to the top. What stands in one row does not import one another.
LAYERS = [
    ("errors", "files", "sample"),
    ("model", "pictures"),
    ("backends", "weights"),
    ("inpaint",),
    ("check",),
    ("view", "web", "serve", "many"),
    ("cli",),
]
TOP = ("moebius", "moebius.__main__")  # the public names, and the command
FLOOR = {part: floor for floor, row in enumerate(LAYERS) for part in row}
# Third-party packages that a part may import, where that says what it is.
LIBRARIES = {"model": {"numpy"}, "pictures": {"numpy", "PIL"}, "errors": set(), "files": set()}

MOST_LINES, MOST_LINES_OF_A_FUNCTION = 400, 60
REASON = "# long:"  # on the line of the `def`, or in front of it
# Files of tests that are longer yet: who next adds to one divides it.
LONG_TESTS = {"test_bench_model", "test_tuner", "test_webgpu"}


def dotted(path: Path) -> str:
    """engine/moebius/model/unet.py → moebius.model.unet"""
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def part(module: str) -> str:
    return module.split(".")[1]


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


KNOWN = {dotted(path) for path in MODULES}


def imports(path: Path) -> set[str]:
    """Every module that is imported anywhere in a file: at its top, in a function, for types alone. Of this package by its full name."""
    names: set[str] = set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: imports are absolute"
            module = node.module or ""
            submodules = {f"{module}.{alias.name}" for alias in node.names} & KNOWN
            names |= submodules
            if len(submodules) < len(node.names):
                names.add(module)
    return names


def graph() -> dict[str, set[str]]:
    return {dotted(path): {name for name in imports(path) if name.split(".")[0] == "moebius"} for path in MODULES}


def wrong_imports(edges: dict[str, set[str]]) -> list[str]:
    """Imports that run upward, or sideways within a row of LAYERS."""
    found = []
    for module, targets in edges.items():
        for target in targets - {"moebius", "moebius.shaders"}:
            if module not in TOP and part(module) != part(target) and FLOOR[part(module)] <= FLOOR[part(target)]:
                found.append(f"{module} imports {target}")
    return sorted(found)


def cycles(edges: dict[str, set[str]]) -> list[str]:
    """The modules that lie on a cycle: what is left when everything that imports nothing of the rest has gone, from both ends."""
    left = {module: targets & edges.keys() - {"moebius"} for module, targets in edges.items() if module != "moebius"}
    while True:
        ends = {m for m, targets in left.items() if not targets & left.keys()}
        ends |= left.keys() - set().union(*left.values()) if left else set()
        if not ends:
            return sorted(left)
        left = {m: targets - ends for m, targets in left.items() if m not in ends}


def test_every_part_has_a_layer() -> None:
    assert {part(m) for m in KNOWN if m not in TOP} == FLOOR.keys()


def test_imports_run_downward() -> None:
    assert not wrong_imports(graph())


def test_no_import_cycle() -> None:
    assert not cycles(graph())


def test_the_checks_would_see_it() -> None:
    edges = graph()
    assert wrong_imports(edges | {"moebius.model.unet": {"moebius.backends.cpu"}}) == ["moebius.model.unet imports moebius.backends.cpu"]
    assert wrong_imports(edges | {"moebius.model.unet": {"moebius.pictures.photo"}})
    assert wrong_imports(edges | {"moebius.backends.cpu": {"moebius.weights.store"}})
    assert cycles(edges | {"moebius.errors": {"moebius.files"}, "moebius.files": {"moebius.errors"}}) == ["moebius.errors", "moebius.files"]
    assert "moebius.view.app" in edges["moebius.view.window"]


@pytest.mark.parametrize("name", sorted(LIBRARIES))
def test_libraries_of_the_lower_layers(name: str) -> None:
    """The networks know no picture and no GPU; pictures are NumPy and Pillow alone."""
    import sys

    paths = [p for p in MODULES if dotted(p) not in TOP and part(dotted(p)) == name]
    used = {i.split(".")[0] for p in paths for i in imports(p)} - set(sys.stdlib_module_names) - {"moebius"}
    assert used <= LIBRARIES[name]


@pytest.mark.parametrize("path", MODULES, ids=dotted)
def test_short_enough_to_read(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    assert len(lines) <= MOST_LINES
    long = []
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno is not None:
            reasons = lines[node.lineno - 2 : node.lineno]
            if node.end_lineno - node.lineno + 1 > MOST_LINES_OF_A_FUNCTION and not any(REASON in line for line in reasons):
                long.append(f"{node.name}: {node.end_lineno - node.lineno + 1} lines")
    assert not long


def test_tests_are_short_enough_to_read() -> None:
    assert {path.stem for path in TESTS if len(path.read_text(encoding="utf-8").splitlines()) > MOST_LINES} <= LONG_TESTS
