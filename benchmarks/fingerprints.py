"""The fingerprints that benchmarks/results/compare/report.md is made of, with the commit each was measured at.

    python benchmarks/fingerprints.py native                               measures this machine (moebius compare)
    python benchmarks/fingerprints.py chromium                             and a Chromium without a window, on its software driver
    python benchmarks/fingerprints.py NAME FILE.json --commit COMMIT       takes a file that another machine measured

Each becomes benchmarks/results/compare/NAME.json; `python benchmarks/readme.py` then writes the report.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

from common import RESULTS, ROOT, commit, run, write_text

from moebius.check.compare import adapters, collect, endtoend
from moebius.check.compare.files import dumped, load
from moebius.errors import MoebiusError, UsageError

FOLDER = RESULTS / "compare"
SILENCE, LOADED = 300.0, 3600.0  # seconds: a native column's, a page's


def chromium() -> dict[str, Any]:
    """The column that the exported page of the small model makes of itself in a browser."""
    sys.path.insert(0, str(ROOT / "tests"))
    from chromium import Page, browser, find, served

    from moebius.backends.cpu import CPU
    from moebius.web.export import export

    if find() is None:
        raise UsageError("Chromium is not installed; on Debian it is the package chromium.")
    with tempfile.TemporaryDirectory() as folder:
        export(endtoend.small_model().on(CPU()), Path(folder) / "page", tile="cpu")
        with served(Path(folder) / "page") as address, browser(Path(folder) / "profile") as opened:
            page = Page(opened, address)
            page.wait("moebius.state !== 'loading'", LOADED)
            if page.run("moebius.state") != "ready":
                raise MoebiusError(f"The page did not come to its end: {page.run('moebius.error')}")
            page.run("return await moebius.check()", LOADED)
            made: dict[str, Any] = page.run("moebius.fingerprint")
    return made


def measured(name: str) -> dict[str, Any]:
    if name == "chromium":
        return chromium()
    if name != "native":
        raise UsageError(f"{name}: this machine measures native and chromium; of another one give its fingerprint, and --commit.")
    return collect.fingerprint(adapters.targets(collect.ask, print), False, SILENCE, print)


def main() -> int:
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name")
    parser.add_argument("file", metavar="FILE.json", type=Path, nargs="?", help="measured elsewhere")
    parser.add_argument("--commit", help="of the engine that measured the file")
    args = parser.parse_args()
    if (args.file is None) != (args.commit is None):
        raise UsageError("A FILE.json needs --commit, the commit of the engine that measured it, and --commit a file.")
    made = load(args.file) if args.file else measured(args.name)
    made["machine"]["commit"] = args.commit or commit() or ""
    write_text(FOLDER / f"{args.name}.json", dumped(made))
    load(FOLDER / f"{args.name}.json")
    return 0


if __name__ == "__main__":
    run(main)
