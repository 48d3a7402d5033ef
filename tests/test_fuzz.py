"""tools/fuzz.py: a short run of it finds nothing; and it finds what is put there to be found."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

TOOLS = Path(__file__).parents[1] / "tools"
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="it forks")
KINDS = ["photo", "mask", "weights", "torch", "config", "metadata", "names", "killed"]


def python(*words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *map(str, words)], capture_output=True, text=True, timeout=250)


def test_a_short_run_finds_nothing() -> None:
    done = python(TOOLS / "fuzz.py", "--cases", 2, "--seed", 5, "--only", *KINDS)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.findall(r"^(\w+) +2 cases", done.stdout, re.M) == KINDS


# What the command does instead of its work, in a case of which kind, and what is found.
BROKEN = [
    ("metadata", "[][0]", "a traceback: IndexError"),
    ("metadata", "time.sleep(60)", "it took too long"),
    ("metadata", "os._exit(77)", "it ended with 77"),
    ("metadata", "1", "it ended with 1 and said nothing"),
    ("metadata", "len(b'1' * (1100 << 20)) * 0", "of memory"),
    ("metadata", "print(chr(27) + '[31m') or 0", "it prints the control character"),
    ("photo", "open('.x.part', 'w') and 0", ".x.part was left"),
    ("names", "os.rename('strange.png', '../x') or 0", "strange.png is lost"),
    ("names", "os.chmod('.', 0o755) or 0", "was not written"),
    ("weights", "Image.new('RGB', (40, 32)).save('out.png') or 0", "pixels outside the mask have changed"),
    ("weights", "Image.new('RGB', (41, 32)).save('out.png') or 0", "its size is (41, 32)"),
    ("weights", "open('out.png', 'w') and sys.stderr.write('no') * 0 + 1", "out.png was written, and the command failed"),
    ("cache", "Image.new('RGB', (40, 32)).save('out.png') or 0", "another picture was made"),
]
TRIAL = """
import json, os, sys, tempfile, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import fuzz
from PIL import Image

with tempfile.TemporaryDirectory() as made:
    base = Path(made) / "base"
    base.mkdir()
    assert fuzz.in_child(lambda: fuzz.prepare(base), Path(made) / "said").code == 0
    fuzz.MEMORY, patience = 2 << 30, fuzz.WALL_SECONDS
    for kind, instead, _ in json.loads(sys.argv[2]):
        fuzz.WALL_SECONDS = 3 if "sleep" in instead else patience  # a busy machine is no fault of the other cases
        moebius = fuzz.moebius.cli.main
        moebius.run = lambda argv: eval(instead)
        print(json.dumps(fuzz.one(base, kind, 1, 1, Path(made) / "now")[2]))
"""


def test_what_is_wrong_is_found() -> None:
    done = python("-c", TRIAL, TOOLS, json.dumps(BROKEN))
    assert done.returncode == 0, done.stderr
    for (kind, instead, expected), found in zip(BROKEN, map(json.loads, done.stdout.splitlines()), strict=True):
        assert any(expected in what for what in found), (kind, instead, found)


def test_a_case_is_the_same_again(tmp_path: Path) -> None:
    said = [python(TOOLS / "fuzz.py", "--replay", "names:3:4", "--keep", tmp_path / str(i)) for i in range(2)]
    words = [re.sub(r"\S*fuzz-\w+|[\d.]+ s|\d+ MiB", "", done.stdout) for done in said]
    assert words[0] == words[1]
    assert words[0].startswith("moebius 'inpaint'")
