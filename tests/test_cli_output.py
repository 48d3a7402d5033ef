"""What the commands print on terminals that lack letters: nothing crashes, every exit code is the right one."""

from __future__ import annotations

import ast
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from moebius.cli import main as cli
from moebius.cli.output import write_plainly

COMMANDS = ["inpaint", "batch", "info", "download", "cache", "view", "compare", "export-web", "adapters", "plan", "validate"]
PICTURE, MISSING = "рис 日本.png", "нет 無.png"
FAST = ["--device", "cpu", "--steps", "1", "--strength", "1"]
CALLS: list[tuple[list[str], int]] = [
    (["--help"], 0),
    *(([command, "--help"], 0) for command in COMMANDS),
    (["adapters"], 0),
    (["plan", "--config", "tiny", "--adapter", "llvmpipe"], 0),
    (["inpaint", "--sample", *FAST, "-o", PICTURE], 0),
    (["info", PICTURE], 0),
    (["info", PICTURE, "--json"], 0),
    (["cache"], 0),
    (["inpaint", "--sample", *FAST, "-o", MISSING + "/out.png"], 2),
    (["info", MISSING], 2),
    (["inpaint", "--sample", *FAST, "--box", "9000,2,3,4", "-o", "x.png"], 2),  # the message has a ×
    (["validate", "--config", "日本"], 2),  # argparse's own message
]
# These take seconds: they run with ascii alone, which lacks the most.
LONG: list[tuple[list[str], int]] = [(["validate", "--adapter", "llvmpipe", "--image-size", "32"], 0), (["compare", "--list"], 0)]

# All calls in one process, whose streams are those of a terminal with that code page.
PROGRAM = """
import json, sys
from moebius.__main__ import main
codes = []
for argv in json.loads(sys.argv[1]):
    print("$", json.dumps(argv), flush=True)
    sys.argv[1:] = argv
    try:
        codes.append(main())
    except SystemExit as stop:
        codes.append(stop.code)
open("codes", "w", encoding="utf-8").write(json.dumps(codes))
"""


@pytest.mark.parametrize("encoding", ["cp1251", "cp850", "ascii"])
def test_no_command_fails_for_want_of_a_letter(encoding: str, tmp_path: Path, llvmpipe) -> None:
    calls = CALLS + LONG * (encoding == "ascii")
    environment = os.environ | {"PYTHONIOENCODING": encoding, "MOEBIUS_CACHE": str(tmp_path / "кэш 隠")}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps([argv for argv, _ in calls])], cwd=tmp_path, env=environment, capture_output=True
    )
    out, err = done.stdout.decode(encoding), done.stderr.decode(encoding)
    assert done.returncode == 0, err
    assert "UnicodeEncodeError" not in err
    assert "Traceback" not in err
    assert json.loads((tmp_path / "codes").read_text(encoding="utf-8")) == [code for _, code in calls], err
    assert (tmp_path / PICTURE).is_file()
    signs = "x" if encoding != "cp850" else "×"
    assert re.search(rf"\d{signs}\d", out), "the grids of plan"
    assert "SEED+1, ..." in out if encoding != "cp1251" else "SEED+1, …" in out
    written = PICTURE.encode(encoding, "backslashreplace").decode(encoding)
    assert f"Wrote {written}" in err
    assert MISSING.encode(encoding, "backslashreplace").decode(encoding) in err


def test_the_command_itself(tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    done = subprocess.run([sys.executable, "-m", "moebius", "compare", "--help"], cwd=tmp_path, env=environment, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert b"FILE.json..." in done.stdout


def test_a_program_without_a_console(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """pythonw has neither stream."""
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, None)
    assert cli.run(["info", str(tmp_path / "missing.png")]) == 2
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, None)
    assert cli.run(["--help"]) == 0


class Closed(io.StringIO):
    """A pipe whose reader went away before the first line."""

    def write(self, text: str) -> int:
        raise BrokenPipeError


def test_a_reader_that_goes_away_ends_tables_well_and_work_not(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    for i in range(8):
        Image.new("RGB", (8, 8), (90, 99, 60)).save(tmp_path / f"photos/{i}.png")
    Image.new("L", (8, 8), 255).save(tmp_path / "mask.png")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MOEBIUS_CACHE", str(tmp_path / "cache"))
    work = ["batch", "photos", "mask.png", "out", "--synthetic", "tiny", *FAST, "--json"]
    for argv, code in ((["--help"], 0), ([], 0), (["cache"], 0), (["cache", "--clear"], 1), (work, 1)):
        streams = Closed(), io.StringIO()
        monkeypatch.setattr(sys, "stdout", streams[0])
        monkeypatch.setattr(sys, "stderr", streams[1])
        assert cli.run(argv) == code, argv
        assert streams[1].getvalue().endswith("moebius: Standard output was closed; the rest was not done.\n") is (code == 1), argv
    assert 1 <= len(list((tmp_path / "out").iterdir())) < 8  # the first, and those that were under way beside it


def test_streams_of_another_kind_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    streams = io.StringIO(), io.StringIO()
    monkeypatch.setattr(sys, "stdout", streams[0])
    monkeypatch.setattr(sys, "stderr", streams[1])
    write_plainly()
    assert (sys.stdout, sys.stderr) == streams


@pytest.mark.parametrize(
    ("encoding", "text", "written"),
    [
        ("cp1251", "200×200 → …", b"200x200 -> \x85"),
        ("cp850", "200×200 → …", b"200\x9e200 -> ..."),
        ("ascii", "200×200 → … ✗ ≤ 日本.png", rb"200x200 -> ... x <= \u65e5\u672c.png"),
        ("utf-8", "200×200 日本 \udcff", "200×200 日本 ".encode() + rb"\udcff"),  # a file name that is no UTF-8
    ],
)
def test_what_a_code_page_lacks_is_written_plainly(encoding: str, text: str, written: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    buffer = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(buffer, encoding=encoding))
    write_plainly()
    print(text, end="", flush=True)
    assert buffer.getvalue() == written
    assert sys.stdout.encoding == encoding


def test_no_stream_takes_a_command_for_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    buffer = io.BytesIO()
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, io.TextIOWrapper(buffer, encoding="utf-8"))
    write_plainly()
    write_plainly()  # twice is once
    print("a\tb\x1b[2J\x07\x9b\u202e\r", flush=True)
    print("c", file=sys.stderr, flush=True)
    assert buffer.getvalue() == b"a\tb\\x1b[2J\\x07\\x9b\\u202e\\r\nc\n".replace(b"\n", os.linesep.encode())


def without_encoding(call: ast.Call) -> bool:
    """Of a call that opens a text file: the encoding is left to the locale."""
    name = call.func.id if isinstance(call.func, ast.Name) else call.func.attr if isinstance(call.func, ast.Attribute) else ""
    if any(keyword.arg == "encoding" for keyword in call.keywords):
        return False
    if name in ("read_text", "write_text"):
        return len(call.args) < (1 if name == "read_text" else 2)
    modes = [a.value for a in call.args if isinstance(a, ast.Constant) and re.fullmatch("[rwax+bt]{1,3}", str(a.value))]
    return name in ("open", "fdopen") and (isinstance(call.func, ast.Name) or bool(modes)) and "b" not in "".join(modes)


@pytest.mark.parametrize("folder", ["engine", "tools", "benchmarks"])
def test_text_files_are_utf_8_in_every_locale(folder: str) -> None:
    paths = (Path(__file__).parents[1] / folder).rglob("*.py")
    calls = ((path, node) for path in paths for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Call))
    assert [f"{path.name}:{call.lineno}" for path, call in calls if without_encoding(call)] == []
