"""What is shipped: every way to install it, each used from an empty folder; what is in it; and who may import what."""

from __future__ import annotations

import ast
import hashlib
import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import venv
import zipfile
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version
from PIL import Image

ROOT = Path(__file__).parents[1]
SHADERS = {path.name: path.read_text(encoding="utf-8") for path in (ROOT / "shaders").glob("*.wgsl")}
PACKED = ("benchmarks", "docs", "engine", "examples", "shaders", "tests", "tools")  # folders of the source distribution
EPOCH = "1700000000"  # SOURCE_DATE_EPOCH of what is built here
PRIVATE_ALLOWED = {f"moebius/backends/webgpu/{name}.py" for name in ("native", "header")}

# Run by the Python that got the package, in an empty folder.
LOOK = """
import importlib.metadata, importlib.resources, json, sys
import moebius, moebius.shaders, moebius.backends.webgpu.wgsl
print(json.dumps({
    "files": [moebius.__file__, moebius.shaders.__file__],
    "version": [moebius.__version__, importlib.metadata.version("moebius-webgpu")],
    "typed": (importlib.resources.files("moebius") / "py.typed").is_file(),
    "shaders": {f.name: f.read_text("utf-8") for f in importlib.resources.files("moebius.shaders").iterdir() if f.name.endswith(".wgsl")},
    "license": [str(f) for f in importlib.metadata.files("moebius-webgpu") if f.name == "LICENSE"],
}))
"""


def run(*command: str | Path, cwd: Path) -> str:
    env = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "SOURCE_DATE_EPOCH": EPOCH}
    done = subprocess.run([str(c) for c in command], cwd=cwd, capture_output=True, text=True, env=env)
    assert done.returncode == 0, f"{' '.join(map(str, command))}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the checkout, so that nothing left by an earlier build gets into this one."""
    folder = tmp_path_factory.mktemp("source")
    for path in (p for p in ROOT.iterdir() if p.is_file() and p.name != ".git"):
        shutil.copy(path, folder)
    for name in (*PACKED, ".ci", ".github"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    return folder


@pytest.fixture(scope="module")
def dist(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with both distributions; the wheel is built from the source distribution, so that this one is seen to be complete."""
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, source, cwd=folder)
    return folder


@pytest.fixture(scope="module")
def wheel(dist: Path) -> Path:
    (built,) = dist.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def sdist(dist: Path) -> Path:
    (built,) = dist.glob("*.tar.gz")
    return built


def installed(folder: Path, *what: str | Path) -> Path:
    """The Python of a new environment with the package in it; what it depends on is seen in the environment of the tests."""
    venv.create(folder, symlinks=True)
    (site,) = folder.glob("lib/python*/site-packages") if sys.platform != "win32" else folder.glob("Lib/site-packages")
    (site / "tests.pth").write_text("".join(f"{path}\n" for path in sys.path if path.endswith("site-packages")))
    python = next(folder.glob("bin/python")) if sys.platform != "win32" else folder / "Scripts/python.exe"
    run(python, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-build-isolation", *what, cwd=folder)
    return python


@pytest.fixture(scope="module", params=["folder", "editable", "wheel", "sdist"])
def python(request: pytest.FixtureRequest, source: Path, dist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment that got the package in one of four ways; `folder` is `pip install .`"""
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "folder":
        return installed(folder, shutil.copytree(source, tmp_path_factory.mktemp("checkout") / "moebius"))
    if request.param == "editable":
        return installed(folder, "--editable", source)
    return installed(folder, request.getfixturevalue(request.param))


def test_package_is_complete(python: Path, source: Path, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    seen = json.loads(run(python, "-c", LOOK, cwd=tmp_path))
    home = source if "editable" in request.node.name else python.parents[1]
    assert all(Path(file).is_relative_to(home) for file in seen["files"]), seen["files"]
    assert seen["version"][0] == seen["version"][1]
    assert seen["typed"]
    assert seen["shaders"] == SHADERS
    assert len(seen["license"]) == 1


def test_the_sample_is_filled_from_an_empty_folder(python: Path, tmp_path: Path) -> None:
    run(python.parent / "moebius", "inpaint", "--sample", "--detail", "0", "-o", "out.png", "--device", "cpu", cwd=tmp_path)
    got, want = (np.asarray(Image.open(p), float) for p in (tmp_path / "out.png", ROOT / "engine/moebius/sample/filled.png"))
    assert [p.name for p in tmp_path.iterdir()] == ["out.png"]
    assert np.abs(got - want).max() <= 1, "not the picture that the oracle makes"


def test_the_command_goes_by_three_names(python: Path, tmp_path: Path) -> None:
    for command in ([python.parent / "moebius"], [python.parent / "moebius-webgpu"], [python, "-m", "moebius"]):
        assert "usage: moebius" in run(*command, "--help", cwd=tmp_path)


def test_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        for name in ("LICENSE", "NOTICE"):
            (found,) = [n for n in names if n.endswith(f".dist-info/licenses/{name}")]
            assert archive.read(found) == (ROOT / name).read_bytes()
    package = {n for n in names if ".dist-info/" not in n}
    kinds = ("**/*.py", "py.typed", "sample/*.png", "weights/nano.*", "web/site/*")
    engine = {p.relative_to(ROOT / "engine").as_posix() for kind in kinds for p in (ROOT / "engine/moebius").glob(kind)}
    assert {"moebius/weights/nano.safetensors", "moebius/sample/photo.png", "moebius/web/site/index.html"} <= engine
    assert package == engine | {"moebius/shaders/__init__.py"} | {f"moebius/shaders/{name}" for name in SHADERS}


def test_source_distribution_holds_the_repository(sdist: Path) -> None:
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    files = [p for folder in PACKED for p in (ROOT / folder).rglob("*") if p.is_file() and p.suffix != ".pyc" and "egg-info" not in str(p)]
    assert len(files) > 200
    missing = {p.relative_to(ROOT).as_posix() for p in files} - names
    assert not missing
    assert {
        "README.md",
        "CHANGELOG.md",
        "CONTRIBUTING.md",
        "LICENSE",
        "NOTICE",
        ".ci/lowest",
        ".ci/run",
        ".github/workflows/ci.yml",
        ".pre-commit-config.yaml",
    } <= names


def test_source_distribution_holds_every_tracked_file(sdist: Path) -> None:
    if not (ROOT / ".git").exists() or shutil.which("git") is None:
        pytest.skip("this is no clone, or git is missing: there is nothing to compare with")
    tracked = set(run("git", "ls-files", "-z", cwd=ROOT).rstrip("\0").split("\0"))
    with tarfile.open(sdist) as archive:
        names = {member.name.partition("/")[2] for member in archive if member.isfile()}
    assert "tests/test_package.py" in tracked
    assert not tracked - names
    strange = {name for name in names - tracked if not name.startswith("engine/moebius_webgpu.egg-info/")}
    assert strange - set(run("git", "ls-files", "-oz", "--exclude-standard", cwd=ROOT).split("\0")) <= {"PKG-INFO", "setup.cfg"}


def test_tests_pass_in_the_unpacked_source_distribution(sdist: Path, tmp_path: Path) -> None:
    """With its own package, and a few files of tests: what they read must be there. All of them do: this is a sample."""
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    (unpacked,) = tmp_path.iterdir()
    python = installed(tmp_path / "venv", "--editable", unpacked)
    tests = ["tests/test_architecture.py", "tests/test_docs.py", "tests/test_package.py"]
    few = "cycle or downward or links or files_that or every_tracked"
    said = run(python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-rs", *tests, "-k", few, cwd=unpacked)
    assert re.search(r"\d{2,} passed", said)
    assert re.search(r"SKIPPED \[1\].*this is no clone", said)


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def test_who_builds_it_again_gets_the_same_bytes(dist: Path, source: Path, tmp_path: Path) -> None:
    """Elsewhere, with other times, other rights and another umask; and the wheel not by way of the source distribution."""
    again = shutil.copytree(source, tmp_path / "elsewhere", ignore=shutil.ignore_patterns("*.egg-info", "build"))
    for path in again.rglob("*"):
        os.utime(path, (1_700_000_000, 1_700_000_000))
        if path.is_file():
            path.chmod(0o700 if path.stat().st_mode & 0o100 else 0o600)
    code = "import os, runpy, sys; os.umask(0o077); sys.argv[0] = 'build'; runpy.run_module('build', run_name='__main__')"
    run(sys.executable, "-c", code, "--no-isolation", "--sdist", "--wheel", "--outdir", tmp_path / "dist", again, cwd=tmp_path)
    assert digests(tmp_path / "dist") == digests(dist)


# what it needs --------------------------------------------------------------------------------------------------------

IMPORTED_AS = {"pillow": "PIL", "python-xlib": "Xlib", "scikit-image": "skimage", "scikit-learn": "sklearn"}
IMPORTED_AS |= {"opencv-contrib-python-headless": "cv2", "onnxruntime-webgpu": "onnxruntime", "pytest-timeout": "pytest_timeout"}
RUN = {"ruff", "mypy", "build", "twine", "setuptools", "pytest-timeout", "pytest-xdist"}  # tools: started, not imported
RUN |= {"moebius-webgpu"}  # another of its extras
NAMED = {"wgpudawn", "onnx", "onnxscript", "skimage", "sklearn"}  # imported by a name in a table, or for another, or for their pictures
WITH_OTHERS = {
    "starlette": "fastapi",
    "h11": "uvicorn",
    "cffi": "wgpu",
    "scipy": "scikit-image",
    "yaml": "huggingface-hub",
    "fsspec": "huggingface-hub",
    "packaging": "pytest",
}  # module: what it comes with


def requirements(of: str | None = None) -> dict[str, Requirement]:
    """What the package needs, or one of its extras, by name."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    listed = project["dependencies"] if of is None else project["optional-dependencies"][of]
    found = {canonicalize_name(r.name): r for r in map(Requirement, listed)}
    own = found.pop("moebius-webgpu", None)  # an extra that brings another one
    return found | {name: r for extra in (own.extras if own else ()) for name, r in requirements(extra).items()}


def modules(*folders: str) -> set[str]:
    """The packages of others that files import, by statement or by name in a call."""
    found: set[str] = set()
    files = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
    for path in files:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                found.add((node.module or "").split(".")[0])
            elif isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in ("import_module", "importorskip", "find_spec"):
                found |= {a.value.split(".")[0] for a in node.args[:1] if isinstance(a, ast.Constant) and isinstance(a.value, str)}
    beside = [path for path in files if path.relative_to(ROOT).parts[0] != "engine"]  # imported by their bare names
    return found - set(sys.stdlib_module_names) - {"moebius", *(path.stem for path in beside), *(path.parent.name for path in beside)}


def module_of(requirement: str) -> str:
    return IMPORTED_AS.get(requirement, requirement.replace("-", "_"))


def test_the_package_depends_on_what_it_imports_and_on_nothing_else() -> None:
    used = modules("engine")
    needed = {module_of(name) for name in requirements()}
    extras = {module_of(name) for extra in ("serve", "ray") for name in requirements(extra)}
    assert used - needed - extras - WITH_OTHERS.keys() <= {"wgpudawn", "pillow_heif"}, "which a user may bring along"
    assert needed | extras <= used
    outside = {path for path in (ROOT / "engine").rglob("*.py") if path.parent.name != "serve"}
    assert not any(
        re.search(r"^\s*(from|import) (fastapi|starlette|uvicorn|python_multipart)", p.read_text("utf-8"), re.M) for p in outside
    )


@pytest.mark.parametrize("extra", ["test", "bench", "train", "ray"])
def test_an_extra_brings_what_is_imported_or_run(extra: str) -> None:
    used = modules("engine", "tests", "tools", "benchmarks", "examples")
    texts = [p.read_text(encoding="utf-8") for folder in ("engine", "tools", "benchmarks") for p in (ROOT / folder).rglob("*.py")]
    named = {name for name in NAMED if any(f'"{name}"' in text for text in texts)}
    assert {module_of(name) for name in requirements(extra).keys() - RUN} <= used | named
    every = {module_of(name) for of in (None, "heic", "serve", "ray", "test", "bench", "train") for name in requirements(of)}
    assert used - every <= {*WITH_OTHERS, "gradio"}, "or what one example is for"


def test_every_dependency_has_a_range_and_both_its_ends_are_tested() -> None:
    lines = (ROOT / "tools/lowest.txt").read_text(encoding="utf-8").splitlines()
    lowest = dict(line.split("==") for line in lines if not line.startswith("#"))
    every = requirements() | requirements("serve") | requirements("ray")
    assert {canonicalize_name(name) for name in lowest} == every.keys()
    for name, version in lowest.items():
        needed = every[canonicalize_name(name)]
        bounds = {s.operator: Version(s.version) for s in needed.specifier}
        assert bounds.keys() == {">=", "<"}, name
        assert bounds[">="] == Version(version), f"{name}: tools/lowest.txt has another one than pyproject.toml"
        if name == "ray" and find_spec("ray") is None:
            continue
        assert needed.specifier.contains(importlib.metadata.version(name)), f"{name} here is one that nobody else would get"


def test_the_index_would_take_both(dist: Path) -> None:
    run(sys.executable, "-m", "twine", "check", "--strict", *sorted(dist.iterdir()), cwd=dist)


def test_metadata_is_what_the_index_shows(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [n for n in archive.namelist() if n.endswith("dist-info/METADATA")]
        fields, _, description = archive.read(name).decode().partition("\n\n")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert "\nLicense-Expression: Apache-2.0 AND CC-BY-2.0\n" in fields
    assert re.findall(r"^License-File: (.+)$", fields, re.M) == ["LICENSE", "NOTICE"]
    assert fields.count("\nClassifier: ") == len(project["classifiers"])
    assert f"\nKeywords: {','.join(project['keywords'])}\n" in fields
    urls = dict(re.findall(r"^Project-URL: (\w+), (\S+)$", fields, re.M))
    assert urls.keys() == {"Homepage", "Documentation", "Changelog", "Issues"}
    assert all(url.startswith(urls["Homepage"]) for url in urls.values())
    # Links of the README lead into the repository, also from the index, where there is no repository beside it.
    links = re.findall(r"\]\(([^)\s]+)\)", description)
    assert len(links) == len(re.findall(r"\]\(([^)\s]+)\)", (ROOT / "README.md").read_text(encoding="utf-8"))) > 5
    assert "![" in description
    assert f"]({urls['Homepage']}/raw/HEAD/benchmarks/results/nano.png)" in description
    assert all(link.startswith(("https://", "#")) for link in links), links


def test_hosted_ci_runs_what_ci_runs_and_commits_are_checked_by_the_same_ruff() -> None:
    yaml = pytest.importorskip("yaml", reason="comes with huggingface_hub")
    workflow, hooks = (
        yaml.safe_load((ROOT / path).read_text(encoding="utf-8")) for path in (".github/workflows/ci.yml", ".pre-commit-config.yaml")
    )
    assert ".ci/run" in [step.get("run") for step in workflow["jobs"]["test"]["steps"]]
    assert ".ci/lowest" in [step.get("run") for step in workflow["jobs"]["lowest"]["steps"]]
    assert ".ci/lowest" in (ROOT / ".ci/run").read_text(encoding="utf-8")
    assert all(os.access(ROOT / path, os.X_OK) for path in (".ci/run", ".ci/lowest"))
    assert [hook["id"] for repo in hooks["repos"] for hook in repo["hooks"]] == ["ruff-check", "ruff-format"]


def modules_of_wgpu(tree: ast.AST) -> list[str]:
    """Every import of an implementation, by statement or by call."""
    names = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names.append(node.module or "")
        elif isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in ("import_module", "__import__"):
            names += [a.value for a in node.args if isinstance(a, ast.Constant) and isinstance(a.value, str)]
    return [name for name in names if name.split(".")[0] in ("wgpu", "wgpudawn")]


def foreign_privates(tree: ast.AST) -> list[str]:
    """`device._something`: private attributes that the module does not define itself."""
    uses = [n for n in ast.walk(tree) if isinstance(n, ast.Attribute) and n.attr.startswith("_") and not n.attr.endswith("__")]
    own = {n.attr for n in uses if isinstance(n.value, ast.Name) and n.value.id in ("self", "cls")}
    own |= {n.name for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.ClassDef)}
    own |= {n.id for n in ast.walk(tree) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    named = [
        ast.unparse(n)
        for n in ast.walk(tree)
        if isinstance(n, ast.Call) and isinstance(n.func, ast.Name) and n.func.id in ("getattr", "hasattr", "setattr")
        if isinstance(n.args[1], ast.Constant) and str(n.args[1].value).startswith("_")
    ]
    uses = [n for n in uses if ast.unparse(n) != "os._exit"]  # which is public
    return [ast.unparse(n) for n in uses if n.attr not in own] + named


@pytest.mark.parametrize("path", sorted((ROOT / "engine").rglob("*.py")), ids=lambda p: p.relative_to(ROOT / "engine").as_posix())
def test_only_native_and_header_know_the_implementations(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = modules_of_wgpu(tree) + foreign_privates(tree)
    if path.relative_to(ROOT / "engine").as_posix() in PRIVATE_ALLOWED:
        assert found, "the scan no longer sees what it is there to see"
    else:
        assert not found


def test_import_is_light(tmp_path: Path) -> None:
    """The command answers at once; a driver is started when one is asked for, the hub's client when something is downloaded."""
    code = "import sys, moebius, moebius.__main__; print([m for m in ('wgpu', 'wgpudawn', 'huggingface_hub') if m in sys.modules])"
    assert run(sys.executable, "-c", code, cwd=tmp_path).strip() == "[]"
