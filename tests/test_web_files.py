"""The page's files in a real browser: masks, pictures that are dropped or pasted, a larger canvas, large photos, names."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
from chromium import Browser, Page
from hand import Hand
from javascript import fetched
from PIL import Image
from web_editor_cases import DROP, GREY, dropped, fill, near

pytest_plugins = ("web_editor_fixtures",)


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
