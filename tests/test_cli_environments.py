"""The command as a user runs it, in shells and environments that nobody should have: the right exit code, no traceback, nothing left."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import moebius.check.compare.measure
import moebius.check.doctor.examine
import moebius.web.export  # noqa: F401 (types and classes of these three are made of the WebGPU that is replaced here)
from moebius import sample

FILL = "inpaint there.png mask.png --device cpu --steps 2 -o out.png"
ENVIRONMENTS: list[tuple[str, dict[str, str | None], int, bool]] = [  # a command line, the environment, the exit code, whether it writes
    (f"{FILL} 2>&-", {}, 0, True),
    (f"{FILL} >&- 2>&- <&-", {}, 0, True),
    (f"{FILL} 2>/dev/full", {}, 0, True),
    (f"{FILL} --json >/dev/full", {}, 1, True),
    ("info made.png >/dev/full", {}, 1, False),
    ("--help >/dev/full", {"PYTHONUNBUFFERED": "1"}, 1, False),
    ("--help | true", {}, 0, False),
    (f"{FILL}", {"HOME": None, "MOEBIUS_CACHE": None, "XDG_CACHE_HOME": None}, 0, True),
    ("cache", {"MOEBIUS_CACHE": "~nosuch/x"}, 2, False),
    ("cache", {"MOEBIUS_CACHE": "x" * 5000}, 1, False),
    ("cache", {"MOEBIUS_CACHE": "text.png"}, 0, False),
    ("download places2 --dry-run", {"HF_ENDPOINT": "http://127.0.0.1:99999"}, 1, False),
    ("inpaint there.png mask.png -o out.png --model places2", {"HF_HUB_OFFLINE": "1", "MOEBIUS_CACHE": "text.png"}, 1, False),
    (f"{FILL}", {"PYTHONIOENCODING": "ascii", "LC_ALL": "C", "PYTHONUTF8": "0"}, 0, True),
    ("inpaint --help", {"COLUMNS": "1"}, 0, False),
    ("inpaint --help", {"COLUMNS": "many"}, 0, False),
    ("inpaint there.png mask.png -o out.png --model there.png --device cpu", {}, 2, False),
    ("inpaint - --box 1,1,3,3 --device cpu --steps 2 -o - <there.png >out.png", {}, 0, True),
    ("inpaint there.png - --device cpu --steps 2 -o out.png --json <mask.png", {}, 0, True),
    ("inpaint there.png mask.png --device cpu --steps 2 -o - | true", {}, 1, False),
    ("inpaint - mask.png --device cpu -o out.png </dev/null", {}, 2, False),
]


@pytest.mark.parametrize(("line", "environment", "code", "writes"), ENVIRONMENTS, ids=lambda value: str(value)[:40])
def test_as_a_user_runs_it(line: str, environment: dict[str, str | None], code: int, writes: bool, tmp_path: Path) -> None:
    env = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "MOEBIUS_CACHE": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "0"}
    for name, value in environment.items():
        env.pop(name, None) if value is None else env.__setitem__(name, value)
    photo = Image.open(sample.photo()).resize((40, 30))
    photo.save(tmp_path / "there.png")
    Image.fromarray((np.indices((30, 40))[0] < 9).astype(np.uint8) * 255).save(tmp_path / "mask.png")
    (tmp_path / "text.png").write_text("text")
    if "made.png" in line:
        from moebius.pictures.save import save

        save(photo, tmp_path / "made.png", metadata={"steps": 2})
    before = {path.name for path in tmp_path.iterdir()}
    shell = f"set -o pipefail; {sys.executable} -m moebius {line}"
    done = subprocess.run(["bash", "-c", shell], cwd=tmp_path, env=env, capture_output=True, timeout=120)
    err = done.stderr.decode("utf-8", "replace")
    assert done.returncode == code, err
    assert "Traceback" not in err
    assert "Exception ignored" not in err
    assert {path.name for path in tmp_path.iterdir()} - before - {"cache"} == ({"out.png"} if writes else set()), err
    if writes:
        Image.open(tmp_path / "out.png").load()


def test_in_a_folder_that_is_gone(tmp_path: Path) -> None:
    shell = f"mkdir gone && cd gone && rmdir ../gone && exec {Path(sys.executable).parent / 'moebius'} info x.png"
    done = subprocess.run(["bash", "-c", shell], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert (done.returncode, "Traceback" in done.stderr) == (2, False), done.stderr
