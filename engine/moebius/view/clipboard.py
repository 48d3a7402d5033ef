"""What can be pasted: a picture, or the name of a file."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

from moebius.errors import UsageError

PATIENCE = 10.0  # seconds: a picture comes from the program that it was copied in
LONGEST = 4096  # letters of a name
NOTHING = "There is no picture on the clipboard, and no name of a file. Copy one, or drop the file on the window."


def commands(which: Callable[[str], str | None] = shutil.which, environment: dict[str, str] | None = None) -> list[list[str]]:
    """What prints the picture of the clipboard, under X or Wayland, in the order to try."""
    environment = dict(os.environ) if environment is None else environment
    found = []
    if environment.get("WAYLAND_DISPLAY") and (program := which("wl-paste")):
        found.append([program, "--no-newline", "--type", "image/png"])
    if environment.get("DISPLAY") and (program := which("xclip")):
        found.append([program, "-selection", "clipboard", "-target", "image/png", "-out"])
    return found


def picture() -> bytes | None:
    """The picture of the clipboard as the bytes of a file."""
    if sys.platform in ("win32", "darwin"):
        from PIL import Image, ImageGrab

        grabbed = ImageGrab.grabclipboard()
        if not isinstance(grabbed, Image.Image):
            return None
        file = io.BytesIO()
        grabbed.save(file, "PNG", compress_level=1)
        return file.getvalue()
    for words in commands():
        try:
            done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, timeout=PATIENCE)
        except (OSError, subprocess.TimeoutExpired):
            continue
        if done.returncode == 0 and done.stdout:
            return done.stdout
    return None


def file_named(text: str) -> Path:
    """The file that a text names: a path, in quotes or not, or a file: address as file managers copy it. UsageError where it names none."""
    line = next((line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")), "")[:LONGEST].strip("\"'")
    try:
        if line[:5].lower() == "file:":
            from urllib.request import url2pathname  # takes its time to import

            line = url2pathname(urlsplit(line).path)
        if line and (path := Path(line).expanduser()).is_file():
            return path
    except (OSError, ValueError, RuntimeError):  # too long, a zero byte, no such home
        pass
    raise UsageError(NOTHING)


def pasted(text: str) -> bytes | Path:
    """The picture of the clipboard; where it holds none, the file that its text names."""
    return picture() or file_named(text)
