"""Arguments that nobody should type, several hundred of them: one sentence each, the right exit code, and nothing left.

They run in this process and end where the model would be loaded; test_cli_environments runs the command as a user does.
"""

from __future__ import annotations

import os
import random
import re
import signal
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
from PIL import Image
from test_cli_environments import ENVIRONMENTS

import moebius.check.compare.measure
import moebius.check.doctor.examine
import moebius.web.export  # noqa: F401 (types and classes of these three are made of the WebGPU that is replaced here)
from moebius.backends.webgpu.device import uninterrupted
from moebius.cli import batch, endings, inpaint, view, web
from moebius.cli import main as cli
from moebius.errors import CONTROL_BUT_LINES, AdapterError, MoebiusError, UsageError

REACHED = "the work begins here"
LONG = "a" * 300 + ".png"
# A word for any option; what it means there, if anything, differs.
WORDS = [
    *("", " ", "0", "-1", "1", "2", "1.5", "1e308", "-1e308", "1e-320", "nan", "inf", "-inf", "0x10", "1_0", "٣", "1,2", "1,2,3,4", "None"),
    *("9" * 401, "9" * 5000, "-" + "9" * 5000, "1000000000", "-1000000000", "\x1b[31mred", "a\nb: c", "\udcff", "%s%n", "{0}", "⚠️"),
]
PATHS = [
    *(
        "",
        ".",
        "..",
        "/",
        "-",
        "--",
        " ",
        "nosuch",
        "nosuch/x.png",
        "there.png/x.png",
        "folder.png",
        "folder.png/",
        LONG,
        "é" * 130 + ".png",
    ),
    *("/dev/null", "/proc/self/mem", "/dev/null.png", "~nosuch/x.png", "~", "x\ny.png", "\x1b]0;x\x07.png", "\udcff.png", "x" * 5000),
    *("https://user:secret@host/x.png", "file:///etc/passwd", "data:,", "data:image/png;base64,@@@", "C:\\x.png", "\\\\host\\x.png"),
    *("there.png", "text.png", "empty.png", "out.webp", "out.exe", "x.PNG", "a/../there.png", "./there.png", "*", "$HOME"),
]
BASE: dict[str, list[str]] = {  # commands that work, up to where the work begins
    "inpaint": ["there.png", "mask.png", "-o", "out.png"],
    "batch": ["photos", "mask.png", "out"],
    "export-web": ["page"],
    "view": [],
    "plan": [],
    "validate": [],
    "compare": [],
    "download": ["places2"],
    "info": ["there.png"],
    "cache": [],
}
VALUES = {  # options that take a value
    "inpaint": [
        *("--output", "--box", "--steps", "--guidance", "--strength", "--noise-offset", "--seed", "--rng", "--num-images", "--crop", "-n"),
        *("--blend", "--grow", "--feather", "--max-pixels", "--like", "--model", "--vae", "--revision", "--synthetic", "--device", "-o"),
        *("--precision", "--quality", "--format", "--nosuch"),
    ],
    "batch": ["--steps", "--seed", "--num-images", "--model", "--quality"],
    "export-web": ["--port", "--tile", "--synthetic", "--model"],
    "view": ["--steps", "--seed", "--guidance"],
    "plan": ["--config", "--limits"],
    "validate": ["--config", "--image-size"],
    "compare": ["--timeout", "--output", "--report"],
    "cache": ["--clear"],
}
MOST = {"inpaint": 300}  # cases of a command, 70 of the others; all of them are a slow test
PLACES = {"inpaint": 2, "batch": 3, "export-web": 1, "info": 1, "download": 1, "view": 2}  # how many of BASE are places


def cases(command: str, most: int | None = None) -> list[list[str]]:
    """At most so many of them, always the same ones."""
    base, every, most = BASE[command], [], most or MOST.get(command, 70)
    for option in VALUES.get(command, []):
        words = PATHS if option in ("--output", "--like", "--model", "--vae", "--report") else WORDS
        every += [[command, *base, option, word] for word in words]
        every += [[command, *base, f"{option}={word}"] for word in words[:6]]
    for i in range(min(PLACES.get(command, 0), len(base))):
        every += [[command, *base[:i], word, *base[i + 1 :]] for word in PATHS]
    return random.Random(command).sample(every, min(most, len(every)))


COUNT = sum(len(cases(command)) for command in BASE)


def reached(*_: Any, **__: Any) -> NoReturn:
    raise MoebiusError(REACHED)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's folder, where commands end as soon as their work would begin."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MOEBIUS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    Image.fromarray(np.full((8, 8, 3), 99, np.uint8)).save("there.png")
    Image.fromarray((np.indices((8, 8))[0] < 4).astype(np.uint8) * 255).save("mask.png")
    for name in ("folder.png", "photos"):
        Path(name).mkdir()
    Image.open("there.png").save("photos/a.png")
    Path("text.png").write_text("text")
    Path("empty.png").touch()
    for module in (inpaint, batch, web):
        monkeypatch.setattr(module, "load_model", reached)
    monkeypatch.setattr(view, "check_device", reached)
    monkeypatch.setattr("moebius.backends.webgpu.WebGPU", reached)
    monkeypatch.setattr("moebius.check.compare.adapters.targets", reached)
    monkeypatch.setattr("moebius.weights.hub.ask", reached)
    return tmp_path


def listing(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir() and "cache" not in path.parts}


def wrong_with(code: Any, err: str) -> str | None:
    """What is wrong with how a command ended."""
    last = err.strip().splitlines()[-1:] or [""]
    if code not in (0, 1, 2):
        return f"exit code {code}"
    if "Traceback" in err or endings.DEBUG in err:
        return "not foreseen"
    if code and not re.match(r"moebius( [\w-]+)?: .*\w", last[0]):
        return "no sentence"
    if CONTROL_BUT_LINES.search(err) or len(err) > 3000:
        return "control characters, or too long"
    if "secret" in err:
        return "tells a password"
    return None


def run(argv: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[Any, str]:
    try:
        code: Any = cli.run(argv)
    except BaseException as error:
        code = repr(error)
    return code, capsys.readouterr().err


def bad_endings(command: str, most: int | None, folder: Path, capsys: pytest.CaptureFixture[str]) -> list[str]:
    before, bad = listing(folder), []
    code, err = run([command, *BASE[command]], capsys)
    assert REACHED in err or code == (0 if command == "cache" else 1)
    for argv in cases(command, most):
        code, err = run(argv, capsys)
        why, left = wrong_with(code, err), listing(folder) - before
        if why or left:
            bad.append(f"{[a[:40] for a in argv]}: {why}: {err[-300:]}, left {left}")
    return bad


@pytest.mark.parametrize("command", sorted(BASE))
def test_every_word_for_every_option(command: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert not bad_endings(command, None, folder, capsys)


@pytest.mark.slow
@pytest.mark.parametrize("command", sorted(BASE))
def test_all_of_them(command: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert not bad_endings(command, 10**6, folder, capsys)


def test_there_are_many_of_them() -> None:
    assert COUNT + len(ENVIRONMENTS) >= 600


RANGES = [  # option, what is refused, what is taken
    ("--steps", ["0", "-1", "1.5", "1001", "1", "nan", "9" * 5000], ["2", "1000"]),
    ("--guidance", ["nan", "inf", "1e308", "-1e308", "1000.1", "x"], ["1", "0", "-3", "1e3", "1e-320"]),
    ("--strength", ["0", "-0.5", "1.01", "1e308", "nan", "0.04"], ["1", "0.99", "0.05"]),
    ("--noise-offset", ["nan", "inf", "1e9"], ["0", "-1"]),
    ("--seed", ["-1", "1.5", str(2**64), "9" * 401], ["0", str(2**64 - 1)]),
    ("--num-images", ["0", "-1", "1000000000", "1001"], ["1"]),
    ("--grow", ["-1", "nan", "1e300"], ["0", "2.5"]),
    ("--feather", ["-1", "nan", "1e300"], ["0", "2.5"]),
    ("--quality", ["0", "101", "best", "1e1"], ["1", "100", "keep"]),
    ("--max-pixels", ["0", "-1", "x", "63"], ["64", "100000000"]),
    ("--box", ["1,2,3", "1,2,3,x", "0,0,0,5", "9,9,2,2", "", "9" * 5000 + ",1,1,1"], ["-5,-5,9,9", "7,7,900,900"]),
    ("--format", ["png"], []),
]


@pytest.mark.parametrize(("option", "refused", "taken"), RANGES, ids=[row[0] for row in RANGES])
def test_ranges_are_checked_before_anything_is_loaded(
    option: str, refused: list[str], taken: list[str], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for word in refused + taken:
        code, err = run(["inpaint", *BASE["inpaint"], option, word], capsys)
        assert (code, REACHED in err) == ((2, False) if word in refused else (1, True)), (word[:40], err)


OUTPUTS = [  # an output that cannot be written, and the exit code
    ("folder.png", 2),
    (".", 2),
    (LONG, 2),
    ("é" * 130 + ".png", 2),  # 264 bytes
    ("nosuch/out.png", 2),
    ("there.png/out.png", 2),
    ("out", 2),
    ("a\0.png", 2),
    ("pipe.png", 2),
    ("there.png", 2),  # the image itself
]


@pytest.mark.parametrize(("output", "expected"), OUTPUTS, ids=lambda value: str(value)[:20])
def test_an_output_that_cannot_be_written_is_refused_before_the_work(
    output: str, expected: int, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    os.mkfifo(folder / "pipe.png")
    before = listing(folder)
    code, err = run(["inpaint", "there.png", "mask.png", "-o", output], capsys)
    assert (code, REACHED in err, listing(folder)) == (expected, False, before), err


def test_a_name_that_fits_is_taken_to_the_last_byte(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert REACHED in run(["inpaint", "there.png", "mask.png", "-o", "é" * 125 + ".png"], capsys)[1]  # 254 bytes
    (folder / "locked").mkdir()
    (folder / "locked").chmod(0o500)
    if os.getuid():  # root may write anywhere
        assert REACHED not in run(["inpaint", "there.png", "mask.png", "-o", "locked/out.png"], capsys)[1]


def test_what_the_format_cannot_hold(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.new("L", (16384, 1)).save("wide.png")
    for output, expected in (("out.webp", 2), ("out.png", 1)):
        code, err = run(["inpaint", "wide.png", "--box", "1,0,2,1", "-o", output], capsys)
        assert (code, REACHED in err) == (expected, expected == 1), err


# texts from files ----------------------------------------------------------------------------------------------------
EVIL = "\x1b]0;owned\x07\x1b[2J\x9b31m\u202egnp.exe"


def test_no_text_from_a_file_commands_the_terminal(folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    info.add_itxt(
        "moebius", '{"model": "%s", "a\\u001b[2Jb": 1, "line": "x\\nmoebius: all is well", "steps": "%s"}' % (("\\u001b[31m\\u009b",) * 2)
    )
    Image.open("there.png").save("evil.png", pnginfo=info)
    name = folder / f"{EVIL}\nmoebius: all is well.png"
    name.write_text("no picture")
    for argv in (
        ["info", "evil.png"],
        ["inpaint", str(name), "mask.png", "-o", "x.png"],
        ["inpaint", "there.png", "mask.png", "-o", "x.png", "--like", "evil.png"],
        ["inpaint", "there.png", "mask.png", "-o", "x.png", "--model", str(name)],
        ["batch", str(name), "mask.png", "out"],
        ["info", str(name)],
        [EVIL],
        ["plan", "--config", EVIL],
        ["inpaint", "there.png", "mask.png", "-o", "x.png", f"--{EVIL}"],
    ):
        cli.run(argv)
        out, err = capsys.readouterr()
        assert out + err
        assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e]", out + err), argv
        assert not re.search(r"^moebius: all is well", out + err, re.M), argv


RECORDS = ['{"guidance": %s}' % ("9" * 401), '{"seed": %s}' % ("9" * 5000), '{"strength": 1e999}', '{"steps": [1]}', '{"steps": null}']


@pytest.mark.parametrize("record", [*RECORDS, '{"model": {"a": 1}}', '{"rng": {}}', "[" * 100_000, "[]", "{", "1"], ids=lambda r: r[:16])
def test_settings_from_a_file_are_checked_like_those_that_are_typed(record: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    info.add_text("moebius", record)
    Image.open("there.png").save("made.png", pnginfo=info)
    for argv in (["inpaint", "there.png", "mask.png", "-o", "x.png", "--model", "nano", "--like", "made.png"], ["info", "made.png"]):
        code, err = run(argv, capsys)
        assert wrong_with(code, err) is None, err
        assert code == 2 or argv[0] == "info" or REACHED in err


def test_an_error_that_nobody_catches_commands_no_terminal_either() -> None:
    assert str(MoebiusError(f"{EVIL} is broken\nin two lines", 3)).isascii()
    assert str(UsageError(f"{EVIL}\nx")).endswith("\nx")


# every way to end ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("error", "code"),
    [
        (UsageError("x"), 2),
        (AdapterError("x"), 1),
        (OSError(36, "File name too long", "x" * 5000), 2),
        (PermissionError(13, "Permission denied", "/x"), 1),
        (OSError(28, "No space left on device"), 1),
        (OSError("no number"), 1),
        (RuntimeError("Could not determine home directory."), 1),
        (ImportError("no", name="x"), 1),
        (MemoryError(), 1),
        (RecursionError(), 1),
        (ValueError("Invalid port: '99999'"), 1),
        (AssertionError(), 1),
        (UnicodeEncodeError("utf-8", "\udcff", 0, 1, "surrogates not allowed"), 1),
        (KeyboardInterrupt(), 130),
        (SystemExit(3), 3),
        (SystemExit("words"), 1),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else None,
)
def test_whatever_is_raised_becomes_a_sentence_and_a_code(
    error: BaseException, code: int, folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any) -> NoReturn:
        raise error

    monkeypatch.setattr(inpaint, "load_model", fails)
    for debug in ("0", "1"):
        monkeypatch.setenv("MOEBIUS_DEBUG", debug)
        assert cli.run(["inpaint", *BASE["inpaint"]]) == code
        err = capsys.readouterr().err
        if not isinstance(error, SystemExit):
            assert ("Traceback" in err) == (debug == "1")
            assert len(err.splitlines()[-1]) < 500
            assert err.splitlines()[-1].startswith("moebius: ")


def test_ctrl_c_waits_for_a_driver_s_call() -> None:
    reached_the_end = False

    def call() -> None:
        nonlocal reached_the_end
        with uninterrupted(), uninterrupted():
            os.kill(os.getpid(), signal.SIGINT)
            reached_the_end = True

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        call()
    assert reached_the_end
    assert signal.getsignal(signal.SIGINT) is before
