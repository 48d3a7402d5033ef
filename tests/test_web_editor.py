"""The page's editor in a real browser, with pixels, keys and fingers. What fills in is tests/engine_stub.js, which makes the negative."""

from __future__ import annotations

import shutil
import subprocess
import tarfile
import time
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chromium import Address, Browser, Page, served
from hand import Hand
from javascript import fetched
from PIL import Image

from moebius.web.export import write_site

GREY, NEGATIVE, PREVIEW = 90, 165, [0, 255, 0]  # of the stub's sample, and of what it makes
TINTED = [round(0.55 * GREY + 0.45 * c) for c in (236, 72, 153)]
SIZE = {"width": 800, "height": 500, "deviceScaleFactor": 1, "mobile": False}
AXE = "axe-core@4.14.1"
FILLED = "document.getElementById('run-name').textContent !== 'Stop'"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Address]:
    folder = tmp_path_factory.mktemp("editor")
    write_site(folder)
    shutil.copy(Path(__file__).with_name("engine_stub.js"), folder / "engine_webgpu.js")
    with served(folder) as address:
        yield address


@pytest.fixture
def page(chromium: Browser, site: Address) -> Iterator[Page]:
    opened = opened_page(chromium, site)
    yield opened
    opened.run("moebius.editor.history.keptSaved()")  # or leaving would ask
    opened.close()


@pytest.fixture
def hand(page: Page) -> Hand:
    return Hand(page)


def opened_page(chromium: Browser, address: str, **size: Any) -> Page:
    opened = Page(chromium, address)
    opened.send("Page.bringToFront")
    opened.send("Emulation.setDeviceMetricsOverride", SIZE | size)
    opened.wait("moebius.state !== 'loading'")
    assert opened.run("moebius.state") == "ready", (opened.run("moebius.error"), opened.log)
    opened.wait(f"moebius.editor.view.stage.width === {(SIZE | size)['width']}")
    return opened


def fill(page: Page) -> None:
    page.run("document.getElementById('run').click()")
    page.wait(FILLED)
    assert page.run("moebius.error ?? null") is None


def near(got: list[int], want: list[int], most: int = 3) -> bool:
    return max(abs(a - b) for a, b in zip(got[:3], want, strict=True)) <= most


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


# files ---------------------------------------------------------------------------------------------------------------
def test_masks_come_and_go_as_files(page: Page, hand: Hand, tmp_path: Path) -> None:
    mask = np.zeros((120, 160), np.uint8)
    mask[40:70, 33:90] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    hand.choose("#open-mask", tmp_path / "mask.png")
    page.wait("moebius.editor.marks.length === 1")
    script = "const blob = await (await import('./files.js')).maskWritten(moebius.editor.marks, moebius.editor.picture);"
    saved = fetched(page, script + "return new Uint8Array(await blob.arrayBuffer());")
    (tmp_path / "saved.png").write_bytes(saved.tobytes())
    assert np.array_equal(np.asarray(Image.open(tmp_path / "saved.png").convert("L")), mask)
    fill(page)
    assert page.run("stub.jobs[0].marked") == 30 * 57
    Image.fromarray(np.zeros((120, 160), np.uint8)).save(tmp_path / "black.png")
    hand.choose("#open-mask", tmp_path / "black.png")
    page.wait("!document.getElementById('message').hidden")
    assert "marks nothing" in page.run("document.getElementById('message-text').textContent")


DROP = "document.querySelector('footer').dispatchEvent(new DragEvent('drop', { dataTransfer, bubbles: true, cancelable: true }))"


def dropped(width: int, script: str = DROP) -> str:
    """The script that drops a picture of that width on the page's foot."""
    return f"""
      const big = new OffscreenCanvas({width}, 20);
      big.getContext('2d').fillRect(0, 0, 9, 9);
      const dataTransfer = new DataTransfer();
      dataTransfer.items.add(new File([await big.convertToBlob()], 'dropped.png', {{ type: 'image/png' }}));
      {script}; return 0"""


def test_pictures_are_dropped_anywhere_and_pasted(page: Page) -> None:
    for width, script in ((33, DROP), (44, "document.dispatchEvent(new ClipboardEvent('paste', { clipboardData: dataTransfer }))")):
        page.run(dropped(width, script))
        page.wait(f"moebius.editor.picture.width === {width}")
    page.run("""
      const dataTransfer = new DataTransfer();
      dataTransfer.items.add(new File(['x'], 'x.png', { type: 'image/png' }));
      document.dispatchEvent(new DragEvent('drop', { dataTransfer, cancelable: true })); return 0""")
    page.wait("!document.getElementById('message').hidden")
    assert "x.png is not a picture" in page.run("document.getElementById('message-text').textContent")
    assert page.run("moebius.editor.picture.width") == 44


def test_the_canvas_is_extended_and_the_new_part_marked(page: Page, hand: Hand) -> None:
    page.run("for (const [id, v] of [['left', 10], ['bottom', 30]]) document.getElementById(`edge-${id}`).value = v;")
    page.run("document.getElementById('extend').click()")
    assert page.run("[moebius.editor.picture.width, moebius.editor.picture.height]") == [170, 150]
    fill(page)
    assert page.run("stub.jobs[0].marked") == 170 * 150 - 160 * 120
    assert hand.pixel((11, 119)) == [GREY] * 3
    assert hand.pixel((9, 5)) == hand.pixel((100, 121)) == [127] * 3
    hand.key("z", "Control")
    hand.key("z", "Control")
    assert page.run("[moebius.editor.picture.width, moebius.editor.marks.length]") == [160, 0]
    too_long = "try { (await import('./files.js')).checkSize(16385, 10); } catch (error) { return error.message; }"
    assert "16384 a side" in page.run(too_long)


LEAVING = "const e = new Event('beforeunload', { cancelable: true }); window.dispatchEvent(e); return e.defaultPrevented;"


def test_a_large_photo_keeps_its_size_and_its_name(page: Page, hand: Hand, chromium: Browser, tmp_path: Path) -> None:
    """24 megapixels: the engine is given the surroundings of the hole alone. Leaving asks until it is saved, beside the photo it was."""
    Image.new("RGB", (6000, 4000), (200, 100, 50)).save(tmp_path / "my photo.JPG", "JPEG", quality=60)
    hand.choose("#open", tmp_path / "my photo.JPG")
    page.wait("moebius.editor.picture.width === 6000")
    assert page.run(LEAVING) is False, "nothing was done to it"
    hand.drag([(3000, 2000)])
    assert page.run(LEAVING) is True
    fill(page)
    (job,) = page.run("stub.jobs")
    assert max(job["width"], job["height"]) < 2000
    assert near(hand.pixel((3050, 2000)), [55, 155, 205], 4)
    chromium.send("Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(tmp_path)})
    hand.key("s", "Control")
    saved = tmp_path / "my photo-filled.JPG"
    page.wait("document.getElementById('message-text').textContent.startsWith('Saved as')")
    end = time.monotonic() + 120
    while not saved.is_file() and time.monotonic() < end:
        time.sleep(0.05)
    with Image.open(saved) as image:
        assert (image.size, image.format) == ((6000, 4000), "JPEG")
    assert page.run(LEAVING) is False
    hand.key("z", "Control")
    assert page.run(LEAVING) is True


def test_names_of_files(page: Page) -> None:
    got = page.run("""
      const { nameOf } = await import('./files.js');
      return [['a.b.jpeg', 'image/jpeg'], ['x.heic', 'image/png'], ['x.webp', 'image/webp'], ['', 'image/png'], ['../x/y', 'image/png'],
              ['写真.PNG', 'image/png']].map(([name, type]) => nameOf(name, type));""")
    assert got == ["a.b-filled.jpeg", "x-filled.png", "x-filled.webp", "picture-filled.png", ".._x_y-filled.png", "写真-filled.PNG"]


# the page around it --------------------------------------------------------------------------------------------------
def test_the_picture_is_what_the_screen_is_for(page: Page) -> None:
    """On a phone Undo, Compare, Fill and Save are one row below it; nothing is cut off anywhere."""
    assert not page.run("[...document.querySelectorAll('dialog')].some((d) => d.open)"), "the check is folded away"
    for size in ((320, 640), (360, 740), (768, 1024), (844, 390), (1000, 600), (1120, 740), (1440, 900)):
        check_layout(page, *size)


def check_layout(page: Page, width: int, height: int) -> None:
    page.send("Emulation.setDeviceMetricsOverride", {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600})
    page.wait(f"moebius.editor.view.stage.width === {width}")
    boxes = page.run("""
      const boxes = {};
      for (const e of document.querySelectorAll('header button, header label, footer .zoom button, #stage')) {
        if (e.checkVisibility()) boxes[e.id || e.textContent.trim()] = e.getBoundingClientRect().toJSON();
      }
      return boxes;""")
    stage = boxes.pop("stage")
    assert stage["height"] >= 0.6 * height
    for name, box in boxes.items():
        assert box["x"] >= 0, name
        assert box["x"] + box["width"] <= width + 0.5, name
        assert box["y"] + box["height"] <= height, name
        for other, b in boxes.items():
            apart = box["x"] + box["width"] <= b["x"] + 0.5 or b["x"] + b["width"] <= box["x"] + 0.5
            assert name == other or apart or abs(box["y"] - b["y"]) > 20, (name, other)
    if width < 600:
        row = [boxes[name] for name in ("undo", "compare", "run", "download")]
        assert len({round(box["y"]) for box in row}) == 1
        assert row[0]["y"] > stage["y"] + stage["height"]
        assert min(box["height"] for box in row) >= 44


def test_the_keyboard_reaches_everything_and_names_it(page: Page, hand: Hand) -> None:
    hand.key("Tab")
    assert page.run("document.activeElement.id") == "open", "the file input comes first"
    assert page.run("getComputedStyle(document.activeElement.closest('label')).outlineStyle") == "solid"
    seen = []
    for _ in range(13):
        hand.key("Tab")
        seen.append(page.run("document.activeElement.id"))
        assert page.run("getComputedStyle(document.activeElement).outlineStyle") == "solid", seen[-1]
    assert {"tool-brush", "size", "settings-button", "more-button", "canvas"} <= set(seen)
    page.run("""
      for (const sheet of [document.getElementById('settings'), document.getElementById('more')]) {
        sheet.setAttribute('popover', 'manual');
        sheet.showPopover();
      }""")
    tree = page.send("Accessibility.getFullAXTree")["nodes"]
    roles = {"button", "slider", "spinbutton", "progressbar", "combobox", "image"}
    named = [(n["role"]["value"], n.get("name", {}).get("value", "")) for n in tree if not n.get("ignored") and n["role"]["value"] in roles]
    assert len(named) > 25
    assert not [role for role, name in named if not name.strip()]
    assert {name for role, name in named if role == "slider"} >= {"Brush size", "Steps", "Guidance"}


@pytest.fixture(scope="module")
def axe(tmp_path_factory: pytest.TempPathFactory) -> str:
    """axe-core's script, from npm. Tests alone use it, and only where it is reachable."""
    npm, folder = shutil.which("npm"), tmp_path_factory.mktemp("axe")
    if npm is None:
        pytest.skip("npm is not installed.")
    command = [npm, "pack", AXE, "--silent", "--pack-destination", str(folder)]
    try:
        subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=60)
        (packed,) = folder.glob("*.tgz")
    except (subprocess.SubprocessError, ValueError) as error:
        pytest.skip(f"{AXE} cannot be had from npm ({error}).")
    with tarfile.open(packed) as archive:
        script = archive.extractfile("package/axe.min.js")
        assert script is not None
        return script.read().decode("utf-8")


STATES = {
    "as loaded": "",
    "settings": "document.getElementById('settings').showPopover()",
    "more": "document.getElementById('more').showPopover()",
    "keys": "document.getElementById('keys').showModal()",
    "check": "document.getElementById('check').showModal()",
    "an error": "moebius.editor.clear(); document.getElementById('run').click()",
}


def test_axe_finds_nothing_serious(page: Page, axe: str) -> None:
    page.send("Runtime.evaluate", {"expression": axe})
    for scheme, name in product(("light", "dark"), STATES):
        page.send("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]})
        page.run(f"{STATES[name]}; 0")
        page.wait("document.getAnimations().length === 0")
        found = page.run("""
          const { violations } = await axe.run(document, { resultTypes: ['violations'] });
          document.querySelectorAll('dialog[open]').forEach((d) => d.close());
          document.querySelectorAll(':popover-open').forEach((d) => d.hidePopover());
          return violations.filter((v) => ['serious', 'critical'].includes(v.impact))
            .map((v) => [v.id, v.nodes.map((n) => `${n.target} ${n.failureSummary}`)]);""")
        assert found == [], (scheme, name)


def test_motion_is_reduced_where_that_is_asked_for(page: Page) -> None:
    style = "getComputedStyle(document.getElementById('undo')).transitionDuration"
    assert page.run(style) != "0s"
    page.send("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-reduced-motion", "value": "reduce"}]})
    assert page.run(style) == "0s"


def test_no_script_but_the_pages_own(page: Page) -> None:
    page.run("""
      const script = document.createElement('script');
      script.textContent = 'globalThis.evil = 1';
      document.body.append(script);
      const button = document.createElement('button');
      button.setAttribute('onclick', 'globalThis.evil = 2');
      document.body.append(button);
      button.click();
      return 0""")
    assert page.run("globalThis.evil ?? 0") == 0
    with pytest.raises(Exception, match="fetch"):
        page.run("return await fetch('http://127.0.0.1:9/')")


def test_the_page_is_loaded_again_without_a_server(chromium: Browser, tmp_path: Path) -> None:
    write_site(tmp_path)
    shutil.copy(Path(__file__).with_name("engine_stub.js"), tmp_path / "engine_webgpu.js")
    with served(tmp_path) as address:
        page = opened_page(chromium, address)
        page.wait("moebius.offline && navigator.serviceWorker.controller")
    page.run("globalThis.before = true")
    page.send("Page.reload")
    page.wait("!globalThis.before && globalThis.moebius?.state === 'ready'")
    assert page.run("moebius.editor.picture.width") == 160
    assert page.run("return Boolean(await (await caches.open('moebius-page')).match('sw.js'))"), "what the engine may yet need"
    page.close()
