"""What the benchmarks share: where a result was measured, how it is written, and how a script ends."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from threadpoolctl import threadpool_info

from moebius.backends.webgpu.device import Device
from moebius.errors import MoebiusError, UsageError
from moebius.files import replacing

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks/results"
PACKAGES = ("moebius-webgpu", "numpy", "wgpu", "wgpudawn", "torch", "onnxruntime-webgpu", "onnxruntime")


def environment(gpu: Device | None) -> dict[str, Any]:
    """Adapter, driver, versions, commit: what a number means nothing without."""
    adapter = None
    if gpu is not None:
        adapter = {
            "name": gpu.name,
            "software": gpu.caps.is_software,
            **{k: gpu.info.get(k) for k in ("device", "description", "backend_type")},
        }
    return {
        "adapter": adapter,
        "checked": gpu is None or gpu.caps.checked,  # kernels have bounds checks
        "processor": processor(),
        "cores": cores(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": platform.python_version(),
        "packages": versions(),
        "blas": blas(),
        "commit": commit(),
        "load_average": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
    }


def blas() -> list[str]:
    """NumPy's BLAS, the kernel it chose for this processor, and its threads outside of the CPU device's turns."""
    return [
        f"{lib['internal_api']} {lib['version']}, {lib.get('architecture', 'kernel not known')}, {lib['num_threads']} threads"
        for lib in threadpool_info()
        if lib["user_api"] == "blas" and "numpy" in lib["filepath"]
    ]


def busy(where: Mapping[str, Any]) -> str:
    """Says so where more wanted to run than a benchmark alone asks for: such figures, ratios too, are not to be relied on."""
    load, count = where["load_average"], where["cores"]
    return f"the machine was busy: load {load:g} on {count} cores" if load is not None and load > 2 * count else ""


def versions() -> dict[str, str]:
    out = {}
    for package in PACKAGES:
        try:
            out[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return out


def commit(checkout: Path = ROOT) -> str | None:
    """A checkout's commit, with a + where files differ from it; None outside of git."""
    try:
        git = ["git", "-C", str(checkout)]
        head = subprocess.run([*git, "rev-parse", "--short=10", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        changed = subprocess.run(
            [*git, "status", "--porcelain", "--", "engine", "shaders", "benchmarks"], capture_output=True, text=True, check=True
        ).stdout
    except (OSError, subprocess.CalledProcessError):
        return None
    return head + ("+" if changed.strip() else "")


def processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def write_text(path: Path, text: str) -> None:
    try:
        with replacing(path) as file:
            file.write(text.encode())
    except OSError as error:
        raise MoebiusError(f"{path} cannot be written: {error.strerror}.") from error


def write_json(path: Path, result: Mapping[str, Any]) -> None:
    write_text(path, json.dumps(result, indent=1, ensure_ascii=False) + "\n")


def between(text: str, begin: str, end: str, table: str, page: str = "The page") -> str:
    """The page's text with another table between two markers."""
    if text.count(begin) != 1 or text.count(end) != 1 or text.index(begin) > text.index(end):
        raise MoebiusError(f"{page} has no place for this table: it must hold {begin} and, below it, {end}, once each.")
    return f"{text[: text.index(begin)]}{begin}\n{table}\n{text[text.index(end) :]}"


def read_json(path: Path, bench: str) -> dict[str, Any]:
    """A result of `bench`, as written by it."""
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise UsageError(f"{path} is no JSON ({error}); give a file that {bench}.py wrote.") from error
    if not isinstance(result, dict) or result.get("bench") != bench:
        raise UsageError(f"{path} is not a result of {bench}.py; give a file that it wrote.")
    return result


def run(main: Callable[[], int]) -> None:
    """As the command line does: one sentence for what was foreseen, and its exit code."""
    try:
        code = main()
    except MoebiusError as error:
        print(f"{Path(sys.argv[0]).name}: {error}", file=sys.stderr)
        code = error.exit_code
    except KeyboardInterrupt:
        print(f"{Path(sys.argv[0]).name}: stopped", file=sys.stderr)
        code = 130
    sys.exit(code)
