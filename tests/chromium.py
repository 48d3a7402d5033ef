"""A real Chromium without a window, spoken to over its DevTools pipe: JSON messages ended by a NUL, on file descriptors 3 and 4.

WebGPU runs on SwiftShader, the software driver that is a part of Chromium, through Dawn and Tint as on any desktop.
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu-sandbox",
    "--enable-unsafe-webgpu",
    "--use-webgpu-adapter=swiftshader",
    "--use-angle=swiftshader",
    "--disable-dev-shm-usage",
    "--disable-accelerated-2d-canvas",  # on a software driver a detour, and reading pixels back is what tests do
    "--disable-gpu-watchdog",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-quic",
    "--disable-extensions",
    "--no-first-run",
    "--no-default-browser-check",
]
START_SECONDS = 60


def find() -> str | None:
    return shutil.which("chromium") or shutil.which("chromium-browser")


class PageError(Exception):
    """What a script in the page threw."""


class Page:
    """One tab. `before` is a script that runs ahead of the page's own."""

    def __init__(self, browser: Browser, url: str, before: str = "") -> None:
        self.browser = browser
        self.target = browser.send("Target.createTarget", {"url": "about:blank"})["targetId"]
        self.session = browser.send("Target.attachToTarget", {"targetId": self.target, "flatten": True})["sessionId"]
        self.log: list[str] = []
        for domain in ("Page", "Runtime", "Log"):
            self.send(f"{domain}.enable")
        if before:
            self.send("Page.addScriptToEvaluateOnNewDocument", {"source": before})
        self.send("Page.navigate", {"url": url})
        self.wait("document.readyState === 'complete' && location.href !== 'about:blank'")

    def send(self, method: str, params: dict[str, Any] | None = None, timeout: float = START_SECONDS) -> dict[str, Any]:
        return self.browser.send(method, params, self, timeout)

    def run(self, script: str, timeout: float = 120) -> Any:
        """The value of an expression, or of what an async function's body returns where it holds `return`."""
        if "return" in script:
            script = f"(async () => {{ {script} }})()"
        answer = self.send(
            "Runtime.evaluate", {"expression": script, "awaitPromise": True, "returnByValue": True, "userGesture": True}, timeout
        )
        if "exceptionDetails" in answer:
            thrown = answer["exceptionDetails"]
            raise PageError(thrown.get("exception", {}).get("description") or thrown["text"])
        return answer["result"].get("value")

    def wait(self, condition: str, timeout: float = 120) -> None:
        """Until a JavaScript expression is true."""
        end = time.monotonic() + timeout
        while not self.run(f"Boolean({condition})"):
            if time.monotonic() > end:
                raise TimeoutError(f"{condition} did not become true in {timeout:.0f} s. The page said: {self.log}")
            time.sleep(0.1)

    def close(self) -> None:
        self.browser.send("Target.closeTarget", {"targetId": self.target})

    def screenshot(self, path: Path, width: int, height: int, scale: float = 1) -> None:
        size = {"width": width, "height": height, "deviceScaleFactor": scale, "mobile": width < 600}
        self.send("Emulation.setDeviceMetricsOverride", size)
        time.sleep(0.3)  # the layout follows the size
        path.write_bytes(base64.b64decode(self.send("Page.captureScreenshot", {"format": "png"})["data"]))


def pipe() -> tuple[int, int]:
    """Both ends above the numbers that Chromium expects its own at."""
    low = os.pipe()
    read, write = (fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 10) for fd in low)
    for fd in low:
        os.close(fd)
    return read, write


class Browser:
    def __init__(self, profile: Path, flags: list[str] | None = None) -> None:
        executable = find()
        assert executable, "Chromium is not installed."
        from_us, out = pipe()
        self._in, to_us = pipe()
        self._to = os.fdopen(out, "wb")
        command = [executable, *(FLAGS if flags is None else flags), "--remote-debugging-pipe", f"--user-data-dir={profile}"]
        take = f"import os, sys; os.dup2({from_us}, 3); os.dup2({to_us}, 4); os.execvp(sys.argv[1], sys.argv[1:])"
        self.process = subprocess.Popen(
            [sys.executable, "-c", take, *command],
            pass_fds=(from_us, to_us),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        os.close(from_us)
        os.close(to_us)
        self._number, self._buffer, self._pages = 0, b"", {}

    def send(
        self, method: str, params: dict[str, Any] | None = None, page: Page | None = None, timeout: float = START_SECONDS
    ) -> dict[str, Any]:
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": params or {}}
        if page is not None:
            message["sessionId"] = page.session
            self._pages[page.session] = page
        self._to.write(json.dumps(message).encode() + b"\0")
        self._to.flush()
        end = time.monotonic() + timeout
        while True:
            answer = self._receive(end, method)
            if answer.get("id") == self._number:
                if "error" in answer:
                    raise PageError(f"{method}: {answer['error']['message']}")
                return answer["result"]
            self._note(answer)

    def _receive(self, end: float, method: str) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._in], [], [], max(0, end - time.monotonic()))
            if not ready:
                raise TimeoutError(f"Chromium did not answer {method} in time.")
            piece = os.read(self._in, 1 << 20)
            if not piece:
                raise PageError(f"Chromium ended while it was asked {method} (exit {self.process.poll()}).")
            self._buffer += piece
        line, self._buffer = self._buffer.split(b"\0", 1)
        return json.loads(line)

    def _note(self, event: dict[str, Any]) -> None:
        """What the page's console says, and what it throws, for the message of a failed test."""
        page, params = self._pages.get(event.get("sessionId")), event.get("params", {})
        if page is None:
            return
        if event["method"] == "Runtime.consoleAPICalled":
            page.log.append(" ".join(str(a.get("value", a.get("description"))) for a in params["args"]))
        elif event["method"] == "Runtime.exceptionThrown":
            page.log.append(str(params["exceptionDetails"].get("exception", {}).get("description")))
        elif event["method"] == "Log.entryAdded":
            page.log.append(params["entry"]["text"])

    def close(self) -> None:
        os.close(self._in)
        self._to.close()
        os.killpg(self.process.pid, signal.SIGKILL)  # its own session: the helpers of this Chromium and no other
        self.process.wait()


@contextmanager
def browser(profile: Path, flags: list[str] | None = None) -> Iterator[Browser]:
    opened = Browser(profile, flags)
    try:
        yield opened
    finally:
        opened.close()


class Handler(SimpleHTTPRequestHandler):
    def __init__(self, *args: Any, asked: list[str], **kwargs: Any) -> None:
        self.asked = asked
        super().__init__(*args, **kwargs)

    def log_message(self, *_: Any) -> None:
        self.asked.append(self.path)


class Address(str):
    """Of a static server; `asked` are the paths that were asked for."""

    asked: list[str]


@contextmanager
def served(folder: Path) -> Iterator[Address]:
    """As `python -m http.server` in that folder."""
    asked: list[str] = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder), asked=asked))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        address = Address(f"http://127.0.0.1:{server.server_port}/")
        address.asked = asked
        yield address
    finally:
        server.shutdown()
        server.server_close()


def main(folder: str, picture: str, phone: str) -> None:
    """python tests/chromium.py DIR FILE PHONE: pictures of an exported page (with --tile cpu): a phone's, with the sample's mask, and a
    desktop's that has filled it in, half of it compared with what was there."""
    with tempfile.TemporaryDirectory() as profile, served(Path(folder)) as address, browser(Path(profile)) as opened:
        page = Page(opened, address)
        page.wait("moebius.state !== 'loading'", 3600)
        page.screenshot(Path(phone), 390, 780, 2)
        page.run("document.getElementById('run').click()")
        page.wait("moebius.result || moebius.error", 3600)
        page.run("document.getElementById('compare').click(); document.getElementById('split').blur()")
        page.screenshot(Path(picture), 1280, 800)


if __name__ == "__main__":
    main(*sys.argv[1:])
