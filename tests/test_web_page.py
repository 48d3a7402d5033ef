"""The page around its editor, in a real browser: layout, keyboard, accessibility, its own scripts alone, without a server."""

from __future__ import annotations

import shutil
import subprocess
import tarfile
from itertools import product
from pathlib import Path

import pytest
from chromium import Browser, Page, served
from hand import Hand
from web_editor_cases import opened_page

from moebius.web.export import write_site

pytest_plugins = ("web_editor_fixtures",)

AXE = "axe-core@4.14.1"


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
