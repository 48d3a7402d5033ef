"""The window when things go wrong, when nothing happens, and when everything does."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from view_harness import SCREEN, Screen, Session
from view_screen import MANY_STEPS, MODEL, differs

from moebius import sample
from moebius.view.layout import BAR

pytest_plugins = ("view_fixtures",)
ENGINE = Path(__file__).parents[1] / "engine/moebius"


# what goes wrong -----------------------------------------------------------------------------------------------------
def test_what_cannot_be_read_is_said_and_the_photo_stays(view: Session, tmp_path: Path) -> None:
    before = view.picture()
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(40))
    view.drop(tmp_path / "broken.png")
    state = view.ask("state")
    assert state["error"]
    assert "broken.png" in state["message"]
    there = differs(view.picture(), before)
    assert there[-BAR:].any()  # it is on the screen
    assert not there[:-BAR].any()  # and not on the picture
    view.key("Escape")
    assert view.shows(before)


def test_a_run_that_fails_is_said_and_the_next_one_runs(view: Session) -> None:
    view.drag((50, 50), (90, 60))
    for failure, word in (("refuse_memory", "memory"), ("lose compute", "lost")):
        view.ask(failure)
        view.key("Return")
        view.idle()
        state = view.ask("state")
        assert state["error"]
        assert word in state["message"]
        assert view.ask("state")["results"] == (failure != "refuse_memory")
        view.key("Return")
        view.idle()
        assert not view.ask("state")["error"] or not view.ask("state")["message"]
        assert view.ask("state")["results"] == 1 + (failure != "refuse_memory")


def test_the_window_outlives_the_device_that_draws_it(view: Session) -> None:
    view.drag((50, 50), (90, 60))
    before = view.picture()
    view.ask("lose window")
    view.key("bracketright")
    view.settle()
    assert "lost" in view.ask("state")["message"]
    view.key("Escape")
    assert view.shows(before)


def alone(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "moebius", "view", *map(str, arguments)]
    return subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, timeout=240)


def test_without_a_display_or_an_adapter_it_says_so(screen: Screen, tmp_path: Path) -> None:
    nothing = str(tmp_path / "nothing.json")
    for environment, word in (
        ({"DISPLAY": "", "WAYLAND_DISPLAY": ""}, "display"),
        (
            {"DISPLAY": screen.name, "VK_DRIVER_FILES": nothing, "VK_ADD_DRIVER_FILES": "", "__EGL_VENDOR_LIBRARY_FILENAMES": nothing},
            "adapter",
        ),
    ):
        done = alone("--device", "cpu", *MODEL[:2], **environment)
        assert done.returncode == 1
        assert done.stderr.count("\n") == 1, done.stderr
        assert word in done.stderr


@pytest.mark.parametrize(("arguments", "code"), [(("--steps", "0"), 2), (("--device", "no such adapter"), 1)])
def test_what_is_wrong_with_the_command_is_said_before_a_window_opens(arguments: tuple[str, ...], code: int) -> None:
    done = alone(*arguments, DISPLAY="", WAYLAND_DISPLAY="")
    assert done.returncode == code
    assert arguments[1] in done.stderr
    assert "display" not in done.stderr


# the whole -----------------------------------------------------------------------------------------------------------
def test_the_sample_opens_with_its_mask_and_closing_during_a_run_ends_cleanly(tmp_path: Path, screen: Screen) -> None:
    session = Session(Screen(), *MODEL, "--steps", MANY_STEPS, cwd=tmp_path)
    try:
        assert session.ask("state")["path"] == str(sample.photo())
        assert np.array_equal(session.mask(), np.asarray(Image.open(sample.mask()).convert("L")) > 127)
        plain = session.picture()
        for key in ("h", "question"):
            session.key(key)
            assert differs(session.picture(), plain).mean() > 0.05
            session.key(key)
            assert session.shows(plain)
        session.start(1)
        session.ask_to_close()
        assert session.ended() == 0
        assert session.said().count("\n") == 2, session.said()  # what the weights and the device are
    finally:
        session.kill()
        session.screen.close()


def test_with_nothing_happening_nothing_is_done(view: Session) -> None:
    view.picture()
    frames, used, start = view.ask("frames"), view.ask("processor"), time.monotonic()
    time.sleep(2)
    assert view.ask("frames") == frames
    assert (view.ask("processor") - used) / (time.monotonic() - start) < 0.03


def test_two_hundred_random_actions(view: Session, folder: Path) -> None:
    """No exception, and after it as many GPU objects as before."""
    shutil.copy(folder / "photo.png", folder / "other.png")
    rng = np.random.default_rng(7)
    width, height = view.ask("camera")["window"]

    def anywhere() -> tuple[int, int]:
        return int(rng.integers(0, width)), int(rng.integers(0, height))

    def stroke() -> list[object]:
        button, middle = rng.choice([1, 1, 1, 2, 3]), [word for _ in range(3) for word in ("mousemove", *anywhere())]
        words = ["mousemove", *anywhere(), "mousedown", button, *middle, "mouseup", button]
        return ["keydown", "shift", *words, "keyup", "shift"] if rng.random() < 0.3 else words

    def key() -> list[object]:
        names = ["Return", "Return", "r", "Escape", "c", "i", "ctrl+z", "ctrl+y", "bracketleft", "bracketright", "Left", "Right"]
        names += ["b", "s", "h", "question", "space", "0", "1", "x", "Tab"]
        return ["key", rng.choice(names)]

    def wheel() -> list[object]:
        words = ["mousemove", *anywhere(), *(["click", rng.choice([4, 5])] * 3)]
        return ["keydown", "ctrl", *words, "keyup", "ctrl"] if rng.random() < 0.5 else words

    def full_round() -> None:
        """Every texture has its size, every pipeline is there."""
        view.key("Escape", "c", "0")
        view.drop(folder / "photo.png")
        view.drag((50, 50), (90, 60))
        view.key("Return")
        view.idle()
        view.picture()

    view.drop(folder / "photo.png")
    for x, y in ((30, 30), (width - 60, height - 120)):  # two windows at once, whose plan is kept beside that of one
        view.drag((x, y), (x + 20, y + 10))
    view.key("Return")
    view.idle()
    full_round()
    before = view.ask("objects")
    for i in range(200):
        view.screen.xdotool(*rng.choice(np.array([stroke, key, wheel], object), p=[0.4, 0.4, 0.2])())
        if i % 40 == 20:
            view.drop(folder / rng.choice(["other.png", "photo.png"]))
        if i % 50 == 30:
            view.resize(int(rng.integers(400, SCREEN[0])), int(rng.integers(300, SCREEN[1])))
    view.resize(width, height)
    full_round()
    after = view.ask("objects")
    assert not {kind: n for kind, n in after.items() if n > before.get(kind, 0)}
    assert "Traceback" not in view.said()


# the start -----------------------------------------------------------------------------------------------------------
LATER = [  # modules that the first frame does without
    *("inpaint.run", "inpaint.inpainter", "weights.store", "model.unet", "backends.cpu.ops", "backends.reference", "many.places"),
    *(f"backends.webgpu.{name}" for name in ("backend", "plan", "gemm", "menu", "choice", "ops", "tuner", "probe")),
    *("check", "serve", "web"),
]


def test_the_first_frame_needs_little(shared: Session) -> None:
    """Nothing of a model is imported for it, no process is started, and one device makes what this frame shows. The rest comes after it."""
    made = shared.ask("first_made")
    early = {m for m in made["modules"] for name in LATER if f"{m}.".startswith(f"moebius.{name}.")}
    assert (early, made["children"]) == (set(), [])
    objects = made["objects"]
    assert (objects["Device"], objects["RenderPipeline"], objects["ShaderModule"], objects.get("ComputePipeline", 0)) == (1, 2, 1, 0)
    assert shared.ask("objects")["RenderPipeline"] >= 8


def test_only_the_window_knows_glfw() -> None:
    importing = set()
    for path in ENGINE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = (
                [a.name for a in node.names] if isinstance(node, ast.Import) else [node.module] if isinstance(node, ast.ImportFrom) else []
            )
            if any(name and name.split(".")[0] == "glfw" for name in names):
                importing.add(path.relative_to(ENGINE).as_posix())
    assert importing == {"view/window.py"}


def test_the_command_line_needs_less() -> None:
    """Neither the window nor NumPy: adapters are looked for while that comes, and help needs none."""
    names = {"glfw", "moebius.view", "numpy", "PIL", "wgpu"}
    code = f"import sys, moebius.cli.main; moebius.cli.main.parser(); print(*{names} & sys.modules.keys())"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split() == []
