"""The window, for real: a display, a driver, pointer and keys from outside, and what is then on the screen."""

from __future__ import annotations

import shutil
import signal
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from view_harness import SCREEN, Screen, Session
from view_program import SMALL_UNET, SMALL_VAE
from view_screen import MANY_STEPS, MODEL, PHOTO_SIZE, STEPS, agreement, differs, gradient, in_picture, near, near_path, tinted

from moebius import Inpainter
from moebius.backends.webgpu import WebGPU
from moebius.model.synthetic import synthetic
from moebius.model.unet import UNet, UNetConfig, shapes
from moebius.model.vae import VAE, VAEConfig
from moebius.model.vae import shapes as vae_shapes
from moebius.pictures.metadata import read_metadata
from moebius.view import layout
from moebius.view.keys import HELP
from moebius.view.layout import FOOT, HEAD, MARGIN

pytest_plugins = ("view_fixtures",)


# painting ------------------------------------------------------------------------------------------------------------
def test_a_stroke_is_where_the_pointer_went_and_has_no_gaps(view: Session) -> None:
    before = in_picture(view, view.picture())
    path = [(30.0, 30.0), (120.0, 90.0), (125.0, 20.0)]
    view.drag(*path)
    want = near_path(path, view.ask("state")["brush"])
    assert agreement(view.mask(), want) > 0.93  # the pointer stops at whole pixels of the window
    assert agreement(tinted(in_picture(view, view.picture()), before), view.mask()) > 0.93


def test_what_is_painted_can_be_erased_undone_and_redone(view: Session) -> None:
    photo = view.picture()
    view.drag((40, 40), (100, 40))
    painted, shot = view.mask(), view.picture()
    view.drag((70, 10), (70, 70), button=3)
    erased = view.mask()
    assert agreement(erased, painted & ~near_path([(70, 10), (70, 70)], view.ask("state")["brush"])) > 0.9
    view.key("ctrl+z")
    assert np.array_equal(view.mask(), painted)
    assert view.shows(shot)
    view.key("ctrl+z")
    assert not view.mask().any()
    assert view.shows(photo)
    view.key("ctrl+y", "ctrl+y")
    assert np.array_equal(view.mask(), erased)


def test_boxes_clear_and_invert(view: Session) -> None:
    view.drag((20, 30), (80.9, 70.9), hold="shift")
    box = view.mask()
    rows, columns = np.flatnonzero(box.any(axis=1)), np.flatnonzero(box.any(axis=0))
    assert box[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()
    assert np.abs(np.array([columns[0], rows[0], columns[-1], rows[-1]]) - (20, 30, 80, 70)).max() <= 1
    view.drag((40, 40), (60, 60), hold="shift", button=3)
    assert not view.mask()[45:55, 45:55].any()
    hollow = view.mask()
    assert hollow[32, 22]
    view.key("i")
    assert np.array_equal(view.mask(), ~hollow)
    view.key("c")
    assert not view.mask().any()
    view.key("ctrl+z", "ctrl+z")
    assert np.array_equal(view.mask(), hollow)


def test_the_brush_has_the_size_it_is_given(view: Session) -> None:
    begin = view.ask("state")["brush"]
    view.point(*view.to_window(75, 60))
    view.key("bracketright")
    larger = view.ask("state")["brush"]
    view.key("bracketleft", "bracketleft")
    smaller = view.ask("state")["brush"]
    view.screen.xdotool("click", 4)
    view.settle()
    assert smaller < begin < larger
    assert view.ask("state")["brush"] > smaller
    view.drag((75, 60), (75, 60))
    radius = view.ask("state")["brush"]
    assert abs(view.mask().sum() / (np.pi * radius**2) - 1) < 0.1


# looking -------------------------------------------------------------------------------------------------------------
def test_zoom_keeps_what_is_under_the_pointer_and_pans_follow_it(view: Session) -> None:
    at = view.to_window(100, 40)
    fitted = view.ask("camera")
    view.screen.xdotool("mousemove", *at, "keydown", "ctrl", "click", 4, "click", 4, "click", 4, "keyup", "ctrl")
    view.settle()
    assert view.ask("camera")["scale"] > 1.3 * fitted["scale"]
    assert np.abs(np.subtract(view.to_window(100, 40), at)).max() <= 1
    view.screen.xdotool("mousemove", *at, "mousedown", 2, "mousemove", at[0] - 60, at[1] + 25, "mouseup", 2)
    view.settle()
    assert np.abs(np.subtract(view.to_window(100, 40), (at[0] - 60, at[1] + 25))).max() <= 1
    view.screen.xdotool("keydown", "space", "mousemove", *at, "keyup", "space")
    view.settle()
    assert np.abs(np.subtract(view.to_window(100, 40), at)).max() <= 1
    assert not view.mask().any()
    view.key("0")
    assert view.ask("camera") == fitted


@pytest.mark.parametrize("size", [(960, 400), (400, 700), (640, 333)])
def test_resizing_keeps_the_picture_whole_and_in_shape(view: Session, size: tuple[int, int]) -> None:
    before = view.ask("camera")["window"]
    try:
        view.resize(*size)
        shot = view.picture()
        bright = shot.min(axis=2) > 80
        bright[round(view.to_window(0, PHOTO_SIZE[1])[1]) :] = False  # what is written below it
        bright[:HEAD] = False  # and above
        rows, columns = np.flatnonzero(bright.any(axis=1)), np.flatnonzero(bright.any(axis=0))
        wide, tall = np.ptp(columns) + 1, np.ptp(rows) + 1
        assert abs(wide / tall - PHOTO_SIZE[0] / PHOTO_SIZE[1]) < 2 / min(wide, tall)
        assert max(wide / size[0], tall / (size[1] - HEAD - MARGIN - FOOT)) > 0.9  # fitted: it takes the room there is
        want = gradient(*PHOTO_SIZE)
        assert np.abs(in_picture(view, shot) - want).max() <= 8
    finally:
        view.resize(*before)


def test_a_picture_at_its_own_size_is_shown_as_it_is(view: Session, tmp_path: Path) -> None:
    noise = np.random.default_rng(5).integers(0, 256, (1201, 1801, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.png")
    view.drop(tmp_path / "noise.png")
    view.screen.xdotool("mousemove", 300, 200, "keydown", "ctrl", *(["click", 5] * 2), "keyup", "ctrl")
    view.settle()
    shot, camera = view.picture(), view.ask("camera")
    assert camera["scale"] < 0.6  # every pixel of the screen is the mean of several: of noise, grey
    x, y = view.to_window(900, 600)
    part = shot[y - 50 : y + 50, x - 50 : x + 50].astype(float)
    assert np.abs(part.mean(axis=(0, 1)) - 127.5).max() < 4
    assert part.std() < 0.75 * noise.std()
    view.key("1")
    assert view.ask("camera")["scale"] == 1
    x, y = view.ask("camera")["origin"]
    window = view.ask("camera")["window"]
    left, top = max(0, -x), max(0, HEAD - y)  # below the toolbar
    crop = noise[top : top + window[1] - 200, left : left + window[0]]
    shown = view.picture()[max(HEAD, y) : max(HEAD, y) + crop.shape[0], max(0, x) : max(0, x) + crop.shape[1]]
    assert np.array_equal(shown, crop[: shown.shape[0], : shown.shape[1]])


def test_a_picture_larger_than_any_texture_is_shown_with_fewer_pixels(view: Session, folder: Path) -> None:
    before = in_picture(view, view.picture())
    largest = view.ask("camera")["largest_side"]
    view.ask("limit_textures 64")
    try:
        view.drop(folder / "photo.png")
        smaller = in_picture(view, view.picture())
        assert np.abs(smaller - before).max() <= 8
        view.drag((30, 30), (120, 90))
        assert agreement(tinted(in_picture(view, view.picture()), before), view.mask()) > 0.75
        view.key("Return")
        view.idle()
        assert np.abs(in_picture(view, view.picture()) - view.result())[~near(view.mask(), 8)].max() <= 8
    finally:
        view.ask(f"limit_textures {largest}")


def test_twice_the_dots_are_twice_the_pixels_and_a_wrong_argument_is_said_in_the_window(screen: Screen, folder: Path) -> None:
    double = Screen(dpi=192)
    session = Session(double, folder / "missing.png", *MODEL, cwd=folder)
    try:
        assert "missing.png" in session.ask("state")["message"]
        assert session.ask("state")["error"]
        session.drop(folder / "photo.png")
        session.key("h")
        session.resize(*SCREEN)
        assert session.ask("camera")["ui"] == 2
        white = session.picture().min(axis=2) > 225
        lines = np.flatnonzero(np.diff(white.any(axis=1).astype(int)) == 1)
        size, _ = layout.help_size(HELP, SCREEN, 2)
        assert abs(np.median(np.diff(lines)) - layout.help_step(size, 2)) <= 2
        session.key("h")
        session.drag((50, 50), (90, 60))
        session.ask(f"take_steps {MANY_STEPS}")
        session.start(1)
        session.process.send_signal(signal.SIGINT)  # in the middle of a run
        assert session.ended() == 130
        assert "Traceback" not in session.said()
    finally:
        session.kill()
        double.close()


# running -------------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def inpaint(llvmpipe: WebGPU) -> Inpainter:
    ops, net, coder = llvmpipe, UNetConfig(**SMALL_UNET), VAEConfig(**SMALL_VAE)  # type: ignore[arg-type]
    return Inpainter(UNet(net, synthetic(shapes(net), 0), ops), VAE(coder, synthetic(vae_shapes(coder), 0), ops))


def test_the_hole_fills_step_by_step_and_the_result_is_the_inpainters(view: Session, inpaint: Inpainter, folder: Path) -> None:
    view.drag((50, 50), (90, 60))
    view.screen.xdotool("mousemove", SCREEN[0] - 1, SCREEN[1] - 1, "key", "Return")
    view.wait("running", lambda running: running is not None)
    frames, titles, seen = [], [], set()
    while (running := view.ask("running")) is not None:
        if running["done"] not in seen and running["done"] > 0 and not view.ask("changed"):
            seen.add(running["done"])
            frames.append(in_picture(view, view.screen.grab()))
            titles.append(view.ask("state")["title"])
        time.sleep(0.005)
    mask = view.mask()
    assert len(frames) >= 4, "the run was over before it was seen; take more steps"
    inside, outside = mask & ~near(~mask, 3), ~near(mask, 3)
    pairs = list(pairwise(frames))
    assert sum(differs(a, b)[inside].any() for a, b in pairs) >= 3
    assert not any(differs(a, b)[outside].any() for a, b in pairs)
    assert differs(frames[0], frames[-1])[inside].mean() > 0.2
    assert any("ms/step" in title and "llvmpipe" in title for title in titles)
    view.settle()
    want = np.asarray(inpaint(folder / "photo.png", mask, steps=STEPS).image)
    assert np.array_equal(view.result(), want)
    assert np.abs(in_picture(view, view.picture()) - want).mean() < 2


def test_results_are_browsed_compared_and_saved(view: Session, inpaint: Inpainter, folder: Path, tmp_path: Path) -> None:
    photo = Path(shutil.copy(folder / "photo.png", tmp_path))
    view.drop(photo)
    original = view.picture()
    view.drag((50, 50), (90, 60))
    for key in ("Return", "r"):
        view.key(key)
        view.idle()
    second = view.picture()
    assert view.ask("state")["shown"] == 2
    assert not np.array_equal(view.result(0), view.result(1))
    assert np.array_equal(view.result(1), np.asarray(inpaint(photo, view.mask(), steps=STEPS, seed=1).image))
    view.screen.xdotool("keydown", "b")
    view.settle()
    held = in_picture(view, view.screen.grab())
    view.screen.xdotool("keyup", "b")
    assert not differs(held, in_picture(view, original))[60:].any()  # above is written what it is
    assert view.shows(second)
    view.key("Left")
    assert view.ask("state")["shown"] == 1
    assert differs(view.picture(), second).any()
    view.key("s")
    view.key("s")
    view.key("Right", "s")
    saved = [tmp_path / f"photo-filled{n}.png" for n in ("", "-2", "-3")]
    for path, index, seed in zip(saved, (0, 0, 1), (0, 0, 1), strict=True):
        assert np.array_equal(np.asarray(Image.open(path)), view.result(index))
        record = read_metadata(path)
        assert record is not None
        assert record["seed"] == seed
    assert saved[2].name in view.ask("state")["message"]
    view.key("Left", "Left", "Left")
    assert view.ask("state")["shown"] == 0


def test_the_toolbar_the_dialog_the_way_back_and_what_is_asked(view: Session, folder: Path) -> None:
    view.click("erase")
    assert view.ask("state")["erasing"]
    view.click("brush")
    view.drag((50, 50), (90, 60))
    mask = view.mask()
    view.click("fill")
    view.idle()
    filled = view.picture()
    assert view.ask("state")["results"] == 1
    view.drag((20, 100), (60, 100))  # on the fill
    stroke = view.mask()
    assert stroke.any()
    assert not (stroke & mask).any()
    assert view.ask("state")["results"] == 0
    assert not differs(in_picture(view, view.picture()), in_picture(view, filled))[near(mask, 2)].any()
    view.click("undo")
    view.key("ctrl+z")  # the fill
    assert np.array_equal(view.mask(), mask)
    view.key("ctrl+shift+z")
    assert view.ask("state")["shown"] == 1
    assert view.shows(filled)
    view.key("ctrl+shift+z")
    assert np.array_equal(view.mask(), stroke)
    view.ask_to_close()
    view.wait("state", lambda state: state["question"])
    view.key("Escape")
    view.ask(f"answer_dialog {shutil.copy(folder / 'photo.png', folder / 'chosen.png')}")
    view.key("ctrl+o")
    assert view.ask("state")["question"]
    view.key("d")
    assert view.ask("state")["path"] == str(folder / "chosen.png")


def test_esc_stops_within_a_step(view: Session) -> None:
    view.drag((50, 50), (90, 60))
    painted = view.picture()
    view.ask(f"take_steps {MANY_STEPS}")
    view.start(2)
    view.screen.xdotool("key", "Escape")
    view.wait("running", lambda running: running is None)
    taken = view.ask("taken")
    view.screen.xdotool("key", "r")  # at once, while the step of the other may still be under way
    runs = view.wait("taken", lambda runs: len(runs) > len(taken))
    assert runs[len(taken) - 1] <= taken[-1] + 1 < MANY_STEPS // 2
    view.key("Escape")
    view.key("Escape")  # takes the message away
    assert view.shows(painted)
    assert view.ask("state")["results"] == 0


def test_the_pointer_is_followed_while_a_step_runs(view: Session) -> None:
    """At 20 Hz or more; or, on a machine too busy to draw that often, at a third of the rate without a run. Never step by step."""
    a, b = view.to_window(10, 100), view.to_window(140, 110)
    stroke = [word for x, y in np.linspace(a, b, 100).astype(int) for word in ("mousemove", x, y, "sleep", 0.01)]

    def rounds() -> tuple[int, float]:
        """How often the window came round to see where the pointer is, and that a second."""
        view.ask("moved")
        view.screen.xdotool("mousemove", *a, "mousedown", 1, *stroke, "mouseup", 1)
        gaps = np.diff(view.ask("moved"))
        return int((gaps > 0.005).sum()), float((gaps > 0.005).sum() / gaps.sum())  # what came in one round is handled at once

    view.ask(f"take_steps {MANY_STEPS}")
    rates = []
    for _ in range(3):
        view.key("c")
        _, without = rounds()
        view.key("c")
        view.drag((50, 50), (90, 60))
        view.start(1)
        before = view.ask("taken")[-1]
        count, rate = rounds()
        steps = view.ask("taken")[-1] - before
        assert view.ask("running") is not None, "the run was over before the pointer was"
        view.key("Escape")
        assert view.mask()[100:112, 20:130].any(axis=0).all()  # what it painted meanwhile is there
        rates.append((rate, without))
        if rate > min(20, without / 3) and count > 2 * steps:
            return
    pytest.fail(f"The pointer was followed at {rates} Hz, with and without a run; {count} times in {steps} steps.")
