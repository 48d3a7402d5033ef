"""What is shipped: the built wheel and an editable install, each used from outside the checkout; and who may import what."""

from __future__ import annotations

import ast
import json
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SHADERS = {path.name: path.read_text(encoding="utf-8") for path in (ROOT / "shaders").glob("*.wgsl")}
PRIVATE_ALLOWED = "moebius/backends/webgpu/native.py"

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
    done = subprocess.run([str(c) for c in command], cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(map(str, command))}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Only what a build may need, and a copy, so that nothing left by an earlier build gets into this one."""
    folder = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    for name in ("engine", "shaders"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    return folder


@pytest.fixture(scope="module")
def wheel(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Through the source distribution, so that this one is seen to be complete too."""
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, source, cwd=folder)
    (built,) = folder.glob("*.whl")
    return built


def installed(folder: Path, *what: str | Path) -> Path:
    """The Python of a new environment with the package in it; what it depends on is seen in the environment of the tests."""
    venv.create(folder, symlinks=True)
    (site,) = folder.glob("lib/python*/site-packages") if sys.platform != "win32" else folder.glob("Lib/site-packages")
    (site / "tests.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    python = next(folder.glob("bin/python")) if sys.platform != "win32" else folder / "Scripts/python.exe"
    run(python, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-build-isolation", *what, cwd=folder)
    return python


@pytest.fixture(scope="module")
def from_wheel(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return installed(tmp_path_factory.mktemp("wheel"), wheel)


@pytest.fixture(scope="module")
def editable(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return installed(tmp_path_factory.mktemp("editable"), "--editable", source)


@pytest.fixture(params=["wheel", "editable"])
def python(request: pytest.FixtureRequest) -> Path:
    found: Path = request.getfixturevalue({"wheel": "from_wheel", "editable": "editable"}[request.param])
    return found


def test_package_is_complete(python: Path, source: Path, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    seen = json.loads(run(python, "-c", LOOK, cwd=tmp_path))
    home = source if "editable" in request.node.name else python.parents[1]
    assert all(Path(file).is_relative_to(home) for file in seen["files"]), seen["files"]
    assert seen["version"][0] == seen["version"][1]
    assert seen["typed"]
    assert seen["shaders"] == SHADERS
    assert len(seen["license"]) == 1


@pytest.mark.parametrize("as_module", [False, True], ids=["command", "module"])
def test_command_runs(python: Path, as_module: bool, tmp_path: Path) -> None:
    command = [python, "-m", "moebius"] if as_module else [python.parent / "moebius"]
    assert "usage: moebius" in run(*command, "--help", cwd=tmp_path)


def test_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        (license_file,) = [n for n in names if n.endswith("licenses/LICENSE")]
        assert archive.read(license_file) == (ROOT / "LICENSE").read_bytes()
        (metadata,) = [n for n in names if n.endswith("dist-info/METADATA")]
        assert "\nLicense-Expression: Apache-2.0\n" in archive.read(metadata).decode()
    package = {n for n in names if ".dist-info/" not in n}
    kinds = ("**/*.py", "py.typed", "sample/*.png", "weights/nano.*", "web/site/*")
    engine = {p.relative_to(ROOT / "engine").as_posix() for kind in kinds for p in (ROOT / "engine/moebius").glob(kind)}
    assert {"moebius/weights/nano.safetensors", "moebius/sample/photo.png", "moebius/web/site/index.html"} <= engine
    assert package == engine | {"moebius/shaders/__init__.py"} | {f"moebius/shaders/{name}" for name in SHADERS}


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
    return [ast.unparse(n) for n in uses if n.attr not in own] + named


@pytest.mark.parametrize("path", sorted((ROOT / "engine").rglob("*.py")), ids=lambda p: p.relative_to(ROOT / "engine").as_posix())
def test_only_native_knows_the_implementations(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = modules_of_wgpu(tree) + foreign_privates(tree)
    if path.relative_to(ROOT / "engine").as_posix() == PRIVATE_ALLOWED:
        assert found, "the scan no longer sees what it is there to see"
    else:
        assert not found


def test_import_is_light(tmp_path: Path) -> None:
    """The command answers at once; a driver is started when one is asked for, the hub's client when something is downloaded."""
    code = "import sys, moebius, moebius.__main__; print([m for m in ('wgpu', 'wgpudawn', 'huggingface_hub') if m in sys.modules])"
    assert run(sys.executable, "-c", code, cwd=tmp_path).strip() == "[]"
