"""What README and the pages of docs/ tell people to do is done here: commands and examples run as pasted, links lead somewhere, tables and
quoted code are those of their sources."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import pytest
from PIL import Image

from moebius import sample
from moebius.cli.main import parser
from moebius.errors import MoebiusError

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "benchmarks"), str(ROOT / "tools")]
import mutate  # noqa: E402
import plans  # noqa: E402
import quote  # noqa: E402
import readme  # noqa: E402

README = ROOT / "README.md"
PAGES = [README, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", ROOT / "examples/README.md", *sorted((ROOT / "docs").glob("*.md"))]
PYTHON = [README, ROOT / "docs/usage.md"]  # whose examples run
NOT_RUN = {  # commands that are parsed and not run, and why
    "download": "needs a network",
    "view": "needs a window",
    "serve": "serves until Ctrl-C",
    "validate": "has tests of its own, and takes minutes",
    "compare": "has tests of its own, and takes minutes",
    "tune": "has tests of its own, and takes a minute",
}
OPTIONS_NOT_RUN = {  # the same for options; "" stands for any value
    ("--serve", ""): "serves until Ctrl-C",
    ("--model", "places2"): "needs a network",
    ("--model", "./checkpoint.bin"): "is the reader's own file",
    ("--clear", ""): "clears the cache",
    ("--ray", ""): "needs Ray",
    ("s3://bucket/photos", ""): "needs a network",
    ("list.csv", ""): "is the reader's own file",
}


HAVE_RUN: set[tuple[str, ...]] = set()


def environment() -> dict[str, str]:
    return {**os.environ, "OPENBLAS_NUM_THREADS": "1", "PYTHONIOENCODING": "utf-8"}


class Block(NamedTuple):
    page: str
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def blocks(text: str, page: str = "") -> list[Block]:
    """The fenced blocks of a page."""
    fences = re.finditer(r"^( *)```(\w*)\n(.*?)^\1```$", text, re.M | re.S)
    return [
        Block(page, text[: f.start()].count("\n") + 2, f[2], "".join(line.removeprefix(f[1]) for line in f[3].splitlines(keepends=True)))
        for f in fences
    ]


def blocks_of(pages: list[Path], *languages: str) -> list[Block]:
    found = [b for p in pages for b in blocks(p.read_text(encoding="utf-8"), p.relative_to(ROOT).as_posix())]
    return [block for block in found if block.language in languages]


# commands ------------------------------------------------------------------------------------------------------------
def commands(block: Block) -> list[list[str]]:
    """The words of every command; `a && b` are two."""
    lines = block.text.replace("\\", "/").splitlines() if block.language == "powershell" else block.text.splitlines()
    words = [shlex.split(line, comments=True) for line in lines]
    every: list[list[str]] = []
    for line in words:
        every.append([])
        for word in line:
            every.append([]) if word == "&&" else every[-1].append(word)
    return [command for command in every if command]


def moebius_arguments(command: list[str]) -> list[str] | None:
    """What `moebius` gets where a command is one of its ways to be called."""
    for start in (
        ["moebius"],
        ["tools/moebius"],
        ["py", "-m", "moebius"],
        ["python", "-m", "moebius"],
        ["uvx", "--from", ".", "moebius"],
        ["uvx", "--from", ".[serve]", "moebius"],
        ["pipx", "run", "--spec", ".", "moebius"],
    ):
        if command[: len(start)] == start:
            return command[len(start) :]
    return None


def why_not_run(arguments: list[str]) -> str | None:
    options = [reason for (option, value), reason in OPTIONS_NOT_RUN.items() if option in arguments and value in ("", *arguments)]
    return next(iter(options), None) or NOT_RUN.get(arguments[0])


def check_moebius(arguments: list[str]) -> None:
    """Runs a command of moebius, or parses it where there is a reason not to, or where it has run before."""
    outputs = [Path(path) for option, path in pairwise(arguments) if option == "-o"]  # which others of this folder take
    if why_not_run(arguments) is None and (tuple(arguments) not in HAVE_RUN or not all(path.exists() for path in outputs)):
        done = subprocess.run(
            [sys.executable, "-m", "moebius", *arguments], capture_output=True, text=True, encoding="utf-8", env=environment()
        )
        assert done.returncode == 0, f"exit code {done.returncode}\n{done.stderr}"
        HAVE_RUN.add(tuple(arguments))
    else:
        parser().parse_args(arguments)


def check_other(command: list[str]) -> None:
    """A command that is not moebius's: the files, options and extras it names are there. One of no known kind fails."""
    while re.fullmatch(r"[A-Z_]+=\S*", command[0]):  # what it has in its environment
        command = command[1:]
    command = [re.sub(r"^(?:py|\.venv/(?:bin|Scripts)/python)$", "python", command[0]), *command[1:]]
    script = ROOT / next((word for word in command if (ROOT / word).is_file()), "no such file")
    match command:
        case ["python", name, *rest] if name.endswith(".py"):
            assert script.is_file(), f"{name} is not there"
            source = script.read_text(encoding="utf-8")
            missing = [word for word in rest if word.startswith("--") and f'"{word}"' not in source]
            assert not missing, f"{name} has no {', '.join(missing)}"
        case ["python", "-m", "pip", "install", *what] | ["pip", "install", *what]:
            project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
            for extra in re.findall(r"\.\[(\w+)\]", " ".join(what)):
                assert extra in project["optional-dependencies"], f"there is no extra {extra}"
        case ["python", "-m", "ruff" | "mypy" | "pytest" | "venv" | "build" | "twine" | "http.server", *_]:
            pass
        case ["tools/test", *rest]:
            assert os.access(ROOT / "tools/test", os.X_OK)
            for word in rest:
                assert not word.endswith(".py") or (ROOT / word).is_file(), f"{word} is not there"
        case _:
            raise AssertionError(f"no such command: {shlex.join(command)}")


@pytest.fixture
def a_users_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The files that the pages speak of: photo.jpg and mask.png, and two folders of such."""
    monkeypatch.setenv("MOEBIUS_CACHE", str(tmp_path / "cache"))
    for photo, mask in ((tmp_path / "photo.jpg", tmp_path / "mask.png"), (tmp_path / "photos/a.jpg", tmp_path / "masks/a.png")):
        for path in (photo, mask):
            path.parent.mkdir(exist_ok=True)
        Image.open(sample.photo()).convert("RGB").save(photo)
        shutil.copy(sample.mask(), mask)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_commands_run_as_pasted(page: Path, a_users_folder: Path) -> None:
    for block in blocks_of([page], "sh", "powershell"):
        for command in commands(block):
            arguments = moebius_arguments(command)
            try:
                check_other(command) if arguments is None else check_moebius(arguments)
            except (AssertionError, MoebiusError) as error:
                pytest.fail(f"{block}: {shlex.join(command)}: {error}")
    if page == README:
        assert all((a_users_folder / name).is_file() for name in ("out.png", "other.png", "filled/a.jpg"))


@pytest.mark.parametrize(
    "text", ["moebius inpaint --smaple -o out.png", "moebius info nothing.png", "moebius paint", "moebius view --device"]
)
def test_a_wrong_command_of_moebius_is_noticed(text: str, a_users_folder: Path) -> None:
    with pytest.raises((AssertionError, MoebiusError)):
        check_moebius(shlex.split(text)[1:])


@pytest.mark.parametrize(
    "text",
    [
        "python benchmarks/bench_speed.py",
        "python benchmarks/readme.py --chekc",
        "pip install '.[tests]'",
        "tools/test tests/test_x.py",
        "make",
    ],
)
def test_another_wrong_command_is_noticed(text: str) -> None:
    with pytest.raises(AssertionError):
        check_other(shlex.split(text))


def test_a_blocks_commands_are_seen() -> None:
    text = "a\n```sh\nmoebius adapters  # all\npip install . && moebius x 'y z'\n```\n"
    text += "   ```powershell\n   .venv\\Scripts\\python -m pytest\n   ```\n"
    assert [commands(block) for block in blocks(text)] == [
        [["moebius", "adapters"], ["pip", "install", "."], ["moebius", "x", "y z"]],
        [[".venv/Scripts/python", "-m", "pytest"]],
    ]
    readme_text = README.read_text(encoding="utf-8")
    assert len([c for b in blocks(readme_text) if b.language == "sh" for c in commands(b) if moebius_arguments(c)]) >= 10


# examples ------------------------------------------------------------------------------------------------------------
def run_python(text: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", text], cwd=folder, capture_output=True, text=True, encoding="utf-8", env=environment())


@pytest.mark.parametrize("block", blocks_of(PYTHON, "python"), ids=str)
def test_examples_run_as_pasted(block: Block, tmp_path: Path) -> None:
    done = run_python(block.text, tmp_path)
    assert done.returncode == 0, f"{block}\n{done.stdout}\n{done.stderr}"
    assert done.stdout


def test_there_are_examples_and_a_wrong_one_is_noticed(tmp_path: Path) -> None:
    assert len(blocks_of([README], "python")) == 1
    assert len(blocks_of(PYTHON, "python")) == 3
    (block,) = blocks_of([README], "python")
    assert run_python(block.text.replace("from_pretrained", "from_pretraind"), tmp_path).returncode != 0


def test_examples_use_public_names_alone() -> None:
    every = [b.text for b in blocks_of(PYTHON, "python")] + [p.read_text(encoding="utf-8") for p in (ROOT / "examples").glob("*.py")]
    modules = {name for text in every for name in re.findall(r"^(?:from|import) (moebius[\w.]*)", text, re.M)}
    assert modules <= {"moebius", "moebius.errors"}, modules


# the pages themselves ------------------------------------------------------------------------------------------------
def test_readme_is_one_page() -> None:
    assert len(README.read_text(encoding="utf-8").splitlines()) <= 150


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def broken_links(text: str, page: Path) -> list[str]:
    """Links of a page to a file or a heading that is not there; links into the web are not followed."""
    bare = re.sub(r"^ *```.*?^ *```", "", text, flags=re.M | re.S)
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", bare):
        file, _, anchor = link.partition("#")
        target = (page.parent / file).resolve() if file else page
        if not link.startswith(("https:", "http:")) and (not target.exists() or (anchor and anchor not in anchors(target))):
            broken.append(link)
    return broken


LINKED = [*PAGES, ROOT / "engine/moebius/weights/nano.md", ROOT / "benchmarks/results/compare/report.md"]


@pytest.mark.parametrize("page", LINKED, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page: Path) -> None:
    assert not broken_links(page.read_text(encoding="utf-8"), page)


def test_a_broken_link_is_noticed() -> None:
    text = "[a](docs/usage.md) ![b](docs/nothing.png) [c](docs/usage.md#limits) [d](docs/usage.md#nowhere) [e](#nowhere) [f](https://example.org)"
    assert broken_links(text, README) == ["docs/nothing.png", "docs/usage.md#nowhere", "#nowhere"]


def missing_files(text: str) -> list[str]:
    """Paths from the root of the repository, set as code, that lead to nothing."""
    paths = re.findall(r"`((?:\.ci|benchmarks|docs|engine|examples|shaders|tests|tools)/[\w./*-]*)`", text)
    return [path for path in paths if not list(ROOT.glob(path.rstrip("/")))]


@pytest.mark.parametrize("page", LINKED, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_files_that_are_named_are_there(page: Path) -> None:
    text = page.read_text(encoding="utf-8").replace("shaders/NAME.wgsl", "")
    assert not missing_files(text)


def test_a_missing_file_is_noticed() -> None:
    assert missing_files("`engine/moebius/` `tests/test_view*.py` `engine/inpainter.py`") == ["engine/inpainter.py"]


def test_every_page_is_linked_from_readme() -> None:
    linked = set(re.findall(r"\]\(([^)#\s]+)\)", README.read_text(encoding="utf-8")))
    assert {p.relative_to(ROOT).as_posix() for p in PAGES if p != README} <= linked


# what scripts write into them ----------------------------------------------------------------------------------------
def test_tables_are_what_the_results_say() -> None:
    assert readme.main(["--check"]) == 0


def test_a_changed_figure_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for page in readme.PAGES:
        (tmp_path / page).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / page, tmp_path / page)
    monkeypatch.setattr(readme, "ROOT", tmp_path)
    page = tmp_path / "docs/accuracy.md"
    text = page.read_text(encoding="utf-8")
    page.write_text(text.replace("3.6e-06", "3.5e-06"), encoding="utf-8")
    assert readme.main(["--check"]) == 1
    assert "docs/accuracy.md differs from the results" in capsys.readouterr().out
    assert readme.main([]) == 0
    assert page.read_text(encoding="utf-8") == text


def test_a_changed_figure_of_the_report_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(readme.COMPARE, tmp_path / "compare")
    monkeypatch.setattr(readme, "COMPARE", tmp_path / "compare")
    report = tmp_path / "compare/report.md"
    text = report.read_text(encoding="utf-8")
    report.write_text(text.replace("exact", "about", 1), encoding="utf-8")
    assert readme.main(["--check"]) == 1
    assert readme.main([]) == 0
    assert report.read_text(encoding="utf-8") == text
    assert not (tmp_path / "compare/report.html").exists()


def test_quoted_code_is_the_code() -> None:
    pages = [page.read_text(encoding="utf-8") for page in (ROOT / "docs").glob("*.md")]
    assert sum(len(quote.QUOTE.findall(page)) for page in pages) >= 5
    for page in pages:
        assert quote.with_quotes(page) == page, "run tools/quote.py"
        assert quote.with_quotes(page.replace("eps: float = 1e-5", "eps: float = 1e-6")) == page


def test_mutations_quote_lines_that_are_there() -> None:
    """One that does not would be passed over until all of them are run."""
    texts = {file: (ROOT / file).read_text(encoding="utf-8") for file in mutate.MUTATIONS}
    assert [(file, old) for file, changes in mutate.MUTATIONS.items() for old, _ in changes if texts[file].count(old) != 1] == []


def test_what_a_step_costs_is_what_the_plan_says(llvmpipe: object) -> None:
    assert plans.figures("llvmpipe") == readme.read_plain("plans.json")
    step = {"flops": 2.4e9, "dispatches": 7, "peak_bytes": 3e6, "weight_bytes": 5e6}
    picture = {
        "f32": {"picture_bytes": 6.5e9, "low_memory_bytes": 4e9},
        "f16": {"picture_bytes": 3.25e9, "weight_bytes": 2e6, "low_memory_bytes": 1.5e9},
    }
    assert readme.plan_line({"full step": step, "full picture": picture}) == [
        "One guided step of the full UNet (batch 2, 64×64 latents): 2 GFLOP in 7 dispatches; 3 MB beyond the 5 MB of its weights. "
        "At the peak of a picture 6.50 GB, both networks' weights among them; in f16 3.25 GB, with 2 MB of weights for the UNet; "
        "with `--low-memory` 4.00 and 1.50 GB."
    ]


def test_figures_are_held_to_their_results_in_ci() -> None:
    """By name, before the tests; `.ci/run` is what CI runs."""
    assert '" benchmarks/readme.py --check\n' in (ROOT / "tools/test").read_text(encoding="utf-8")
    assert "\nCI=true tools/test\n" in (ROOT / ".ci/run").read_text(encoding="utf-8")


def test_a_fingerprint_of_hardware_is_a_column_with_its_commit() -> None:
    found = readme.fingerprints()
    hardware = {c["adapter"]["device"]: fp["machine"]["commit"] for fp in found.values() for c in fp["columns"] if readme.is_hardware(c)}
    assert hardware == {"NVIDIA H200": "01b97b3887"}
    assert all(fp["machine"]["commit"] for fp in found.values())
    report = (readme.COMPARE / "report.md").read_text(encoding="utf-8")
    assert all(f"commit {commit}" in report for commit in hardware.values())
    rows = [line for line in readme.tables()["compare"] if "H200" in line]
    assert rows[0].count("339 of 339") == 1  # every op, alone and in the run from end to end
    assert [row.split("|")[3].strip() for row in rows if "OpenGL" in row] == ["crashed"]
