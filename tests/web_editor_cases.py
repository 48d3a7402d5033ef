"""The page's editor opened in a browser with a stub of an engine, tests/engine_stub.js, which makes the negative."""

from __future__ import annotations

from typing import Any

from chromium import Browser, Page

GREY, NEGATIVE, PREVIEW = 90, 165, [0, 255, 0]  # of the stub's sample, and of what it makes
SIZE = {"width": 800, "height": 500, "deviceScaleFactor": 1, "mobile": False}
FILLED = "document.getElementById('run-name').textContent !== 'Stop'"


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


DROP = "document.querySelector('footer').dispatchEvent(new DragEvent('drop', { dataTransfer, bubbles: true, cancelable: true }))"


def dropped(width: int, script: str = DROP) -> str:
    """The script that drops a picture of that width on the page's foot."""
    return f"""
      const big = new OffscreenCanvas({width}, 20);
      big.getContext('2d').fillRect(0, 0, 9, 9);
      const dataTransfer = new DataTransfer();
      dataTransfer.items.add(new File([await big.convertToBlob()], 'dropped.png', {{ type: 'image/png' }}));
      {script}; return 0"""
