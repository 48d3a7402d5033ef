"""The page's editor in a real browser: marking, history, runs and zoom, with pixels, keys and fingers."""

from __future__ import annotations

import time

import numpy as np
import pytest
from chromium import Page
from hand import Hand
from javascript import fetched
from web_editor_cases import FILLED, GREY, NEGATIVE, PREVIEW, dropped, fill, near

pytest_plugins = ("web_editor_fixtures",)

TINTED = [round(0.55 * GREY + 0.45 * c) for c in (236, 72, 153)]


# marking -------------------------------------------------------------------------------------------------------------
def test_what_is_marked_can_be_seen_through_and_has_an_outline(page: Page, hand: Hand) -> None:
    """While it is painted and after it; the outline is dark and light, so that one of both shows on any picture."""
    page.run("moebius.editor.setBrush(60)")
    hand.drag([(40, 60), (80, 60)], release=False)
    assert near(hand.shown((60, 60)), TINTED)
    assert near(hand.shown((60, 20)), [GREY] * 3)
    ring = page.run("const r = document.getElementById('ring'); return [r.hidden, r.offsetWidth, getComputedStyle(r).boxShadow]")
    assert ring[:2] == [False, 60]
    assert "rgba(0, 0, 0" in ring[2]
    hand.mouse("mouseReleased", hand.screen((80, 60)))
    assert near(hand.shown((60, 60)), TINTED)
    column = page.run("""
      const { canvas, view, screen } = moebius.editor;
      const [x, y] = view.toStage(60, 60).map((v) => Math.round(v * screen.ratio));
      const { data } = canvas.getContext('2d').getImageData(x, y - 40, 1, 40);
      return Array.from({ length: 40 }, (_, i) => (data[4 * i] + data[4 * i + 1] + data[4 * i + 2]) / 3);""")
    assert min(column) < GREY - 40
    assert max(column) > 180


def test_brush_eraser_and_box(page: Page, hand: Hand) -> None:
    """What the engine is given, to the pixel for a box; the right button and Shift are shortcuts of both."""

    def marked() -> np.ndarray:
        rect = "{ x: 0, y: 0, width: 160, height: 120 }"
        got = fetched(page, f"return (await import('./marks.js')).rasterised(moebius.editor.marks, {rect}).data;")
        return got.reshape(120, 160).astype(bool)

    hand.click("tool-box")
    hand.drag([(20, 30), (50, 60)])
    want = np.zeros((120, 160), bool)
    box = page.run("(({ x, y, width, height }) => [x, y, width, height])(moebius.editor.marks[0])")
    want[box[1] : box[1] + box[3], box[0] : box[0] + box[2]] = True
    assert max(abs(a - b) for a, b in zip(box, (20, 30, 30, 30), strict=True)) <= 1
    assert np.array_equal(marked(), want)
    hand.click("tool-eraser")
    page.run("moebius.editor.setBrush(30)")
    hand.drag([(20, 45), (50, 45)])
    assert not marked()[45, 20:50].any()
    assert marked()[33, 25]
    hand.click("tool-brush")
    hand.drag([(100, 20), (120, 20)])
    assert marked()[20, 100:120].all()
    hand.drag([(110, 20), (111, 20)], "right")
    assert not marked()[20, 110]
    hand.drag([(100, 80), (120, 100)], keys=["Shift"])
    assert marked()[82:98, 102:118].all()
    assert page.run("moebius.editor.marks.length") == 5


def test_sizes_by_keys_wheel_and_slider(page: Page, hand: Hand) -> None:
    size = "moebius.editor.brush"
    for act, larger in (
        (lambda: hand.key("]"), True),
        (lambda: hand.key("["), False),
        (lambda: hand.wheel((80, 60), -120, ["Shift"]), True),
        (lambda: hand.wheel((80, 60), 120, ["Alt"]), False),
    ):
        before, scale = page.run(size), page.run("moebius.editor.view.scale")
        act()
        page.wait(f"{size} {'>' if larger else '<'} {before}")
        assert page.run("moebius.editor.view.scale") == scale
    page.run("const s = document.getElementById('size'); s.value = 100; s.dispatchEvent(new Event('input'));")
    assert page.run(size) == 400
    assert page.run("document.getElementById('size').getAttribute('aria-valuetext')") == "400 pixels"


# one history ---------------------------------------------------------------------------------------------------------
def test_strokes_and_fills_have_one_history(page: Page, hand: Hand) -> None:
    """Painting goes on on the result; every result has a way back, and forth."""
    hand.drag([(20, 20), (40, 20)])
    fill(page)
    assert hand.pixel((30, 20)) == [NEGATIVE] * 3
    assert page.run("moebius.editor.marks.length") == 0
    hand.drag([(100, 90), (120, 90)])
    assert hand.pixel((30, 20)) == [NEGATIVE] * 3, "a stroke takes nothing back"
    hand.key("c")
    assert page.run("moebius.editor.marks.length") == 0
    hand.key("z", "Control")
    assert page.run("moebius.editor.marks.length") == 1
    fill(page)
    assert hand.pixel((110, 90)) == hand.pixel((30, 20)) == [NEGATIVE] * 3
    for _ in range(4):
        hand.key("z", "Control")
    assert hand.pixel((110, 90)) == hand.pixel((30, 20)) == [GREY] * 3
    assert page.run("[moebius.editor.history.at, moebius.editor.marks.length]") == [0, 0]
    for _ in range(3):
        hand.key("Z", "Control", "Shift")
    hand.key("y", "Control")
    assert hand.pixel((110, 90)) == hand.pixel((30, 20)) == [NEGATIVE] * 3
    # Another picture is a step like any other.
    page.run("moebius.editor.open({ canvas: new OffscreenCanvas(50, 40), name: 'b.png', type: 'image/png' })")
    hand.key("z", "Control")
    assert page.run("[moebius.editor.picture.width, moebius.editor.name]") == [160, "sample.png"]
    assert hand.pixel((30, 20)) == [NEGATIVE] * 3


def test_fill_again_is_the_same_job_with_the_next_seed(page: Page, hand: Hand) -> None:
    """And the check of the engine follows the first fill, once."""
    assert page.run("stub.checks") == 0
    hand.drag([(20, 20), (40, 20)])
    fill(page)
    assert page.run("document.getElementById('run-name').textContent") == "Fill again"
    fill(page)
    fill(page)
    assert page.run("stub.checks") == 1
    jobs = page.run("stub.jobs")
    assert [job.pop("seed") for job in jobs] == ["0", "1", "2"]
    assert jobs[0] == jobs[1] == jobs[2], "of the picture before, not of its result"
    hand.key("z", "Control")
    hand.key("z", "Control")
    assert hand.pixel((30, 20)) == [NEGATIVE] * 3
    hand.key("z", "Control")
    assert hand.pixel((30, 20)) == [GREY] * 3


def test_history_is_bounded(page: Page) -> None:
    got = page.run("""
      const { History } = await import('./history.js');
      const history = new History(1000);
      for (let i = 0; i < 8; i++) history.push({ i, bytes: 300 });
      const grown = [history.entries.length, history.bytes, history.unsaved];
      history.undo();
      history.keptSaved();
      const saved = history.unsaved;
      history.redo();
      history.undo();
      history.undo();
      history.push({ i: 8, bytes: 5000 });
      return [grown, saved, history.entries.map((e) => e.i), history.unsaved, history.canRedo];""")
    assert got == [[3, 900, True], False, [8], True, False]


# a run ---------------------------------------------------------------------------------------------------------------
def test_the_hole_shows_the_run_and_stop_ends_it_within_a_step(page: Page, hand: Hand) -> None:
    page.run("Object.assign(stub, { steps: 1000, delay: 20 })")
    hand.drag([(60, 60), (100, 60)])
    hand.key("Enter")
    page.wait("moebius.editor.preview.length > 0")
    assert near(hand.shown((80, 60)), PREVIEW)
    assert near(hand.shown((80, 20)), [GREY] * 3)
    stage, progress = page.run("['stage', 'progress'].map((id) => document.getElementById(id).getBoundingClientRect().toJSON())")
    assert progress["width"] > 50
    assert progress["y"] >= stage["y"] + stage["height"], "outside the picture"
    assert page.run("document.getElementById('status').textContent").startswith("Step ")
    page.run("stub.delay = 1e6")
    hand.drag([(20, 100), (40, 100)])  # moves the picture, and marks nothing
    assert page.run("moebius.editor.marks.length") == 1
    for act in (lambda: hand.key("s", "Control"), lambda: page.run(dropped(33))):  # not now, and that is said
        act()
        page.wait("!document.getElementById('message').hidden")
        page.run("document.getElementById('dismiss').click()")
    assert page.run("moebius.editor.picture.width") == 160
    hand.key("Escape")
    page.wait(FILLED)
    assert page.run("[stub.aborted, moebius.editor.marks.length, moebius.editor.history.at, moebius.error ?? null]") == [1, 1, 1, None]
    assert page.run("document.getElementById('status').textContent") == "Stopped"
    assert hand.pixel((80, 60)) == [GREY] * 3


def test_compare_by_space_and_by_slider(page: Page, hand: Hand) -> None:
    hand.drag([(60, 60), (100, 60)])
    fill(page)
    assert near(hand.shown((80, 60)), [NEGATIVE] * 3)
    hand.key(" ", held=True)
    assert near(hand.shown((80, 60)), [GREY] * 3)
    page.send("Input.dispatchKeyEvent", {"type": "keyUp", "key": " ", "code": "Space"})
    assert near(hand.shown((80, 60)), [NEGATIVE] * 3)
    hand.click("compare")
    assert page.run("[document.getElementById('split').hidden, document.getElementById('compare').ariaPressed]") == [False, "true"]
    assert near(hand.shown((66, 60)), [GREY] * 3)
    assert near(hand.shown((94, 60)), [NEGATIVE] * 3)
    page.run("const s = document.getElementById('split'); s.value = 0; s.dispatchEvent(new Event('input'));")
    assert near(hand.shown((66, 60)), [NEGATIVE] * 3)
    hand.key("Escape")
    assert page.run("document.getElementById('split').hidden")
    box = page.run("document.getElementById('compare').getBoundingClientRect().toJSON()")
    hand.mouse("mousePressed", (box["x"] + 9, box["y"] + 9))
    assert near(hand.shown((80, 60)), [GREY] * 3), "as long as it is held"
    time.sleep(0.35)
    hand.mouse("mouseReleased", (box["x"] + 9, box["y"] + 9))
    assert near(hand.shown((80, 60)), [NEGATIVE] * 3)
    assert page.run("document.getElementById('split').hidden")


# where it is seen ----------------------------------------------------------------------------------------------------
def test_wheel_zooms_where_the_pointer_is_and_keys_know_two_scales(page: Page, hand: Hand) -> None:
    place = hand.screen((30, 90))
    hand.wheel((30, 90), -500)
    page.wait("!moebius.editor.view.fitted")
    assert page.run("moebius.editor.view.scale") > 3.5
    assert hand.screen((30, 90)) == pytest.approx(place, abs=1.1)
    before = hand.screen((0, 0))
    hand.drag([(30, 90), (40, 80)], "middle")
    after = hand.screen((0, 0))
    assert (after[0] - before[0]) * (after[1] - before[1]) < 0
    assert page.run("moebius.editor.marks.length") == 0
    hand.key("1")
    assert page.run("moebius.editor.view.scale") == pytest.approx(1)
    assert hand.shown((80, 60)) == [GREY, GREY, GREY, 255]
    hand.key("0")
    assert page.run("moebius.editor.view.fitted")
    hand.key("+")
    assert page.run("document.getElementById('zoom').textContent").endswith("%")
    for _ in range(30):
        hand.key("ArrowLeft")
    assert page.run("moebius.editor.view.x") < page.run("moebius.editor.view.stage.width"), "some of it stays in sight"


def test_two_fingers_zoom_and_never_paint(page: Page, hand: Hand) -> None:
    page.send("Emulation.setTouchEmulationEnabled", {"enabled": True, "maxTouchPoints": 2})
    scale = page.run("moebius.editor.view.scale")
    (x, y) = hand.screen((80, 60))
    hand.touch("touchStart", (x, y))
    hand.touch("touchMove", (x + 5, y))
    hand.touch("touchStart", (x + 5, y), (x + 60, y))
    for far in (80, 120, 160):
        hand.touch("touchMove", (x + 5, y), (x + far, y))
    hand.touch("touchEnd", (x + 5, y))  # one of both is lifted, and the other goes on
    hand.touch("touchMove", (x - 40, y))
    hand.touch("touchEnd")
    assert page.run("[moebius.editor.marks.length, moebius.editor.active, moebius.editor.history.at]") == [0, None, 0]
    assert page.run("moebius.editor.view.scale") > 1.5 * scale
    hand.key("0")
    hand.touch("touchStart", hand.screen((80, 60)))
    hand.touch("touchMove", hand.screen((90, 60)))
    hand.touch("touchEnd")
    assert page.run("moebius.editor.marks.length") == 1, "one finger does"
