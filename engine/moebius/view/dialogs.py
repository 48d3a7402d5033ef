"""The system's own dialog to choose a file, as a child process: no shell, and nothing of a name is ever part of a script."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from moebius.errors import MoebiusError
from moebius.pictures.formats import ENDINGS

TITLE = "Open a picture"
FOLDER = "MOEBIUS_FOLDER"  # by which PowerShell is told where to begin
PATTERNS = " ".join(f"*{ending}" for ending in ENDINGS)
APPLE = (
    "on run argv",
    f'POSIX path of (choose file with prompt "{TITLE}" of type {{"public.image"}} default location POSIX file (item 1 of argv))',
    "end run",
)
WINDOWS = (
    "[Console]::OutputEncoding = [Text.Encoding]::UTF8; Add-Type -AssemblyName System.Windows.Forms; "
    f"$d = New-Object System.Windows.Forms.OpenFileDialog; $d.Title = '{TITLE}'; $d.InitialDirectory = $env:{FOLDER}; "
    f"$d.Filter = 'Pictures|{PATTERNS.replace(' ', ';')}|All files|*.*'; if ($d.ShowDialog() -eq 'OK') {{ $d.FileName }}"
)


class NoDialogError(MoebiusError):
    """There is none here, or it does not open; a path can be typed."""


def command(
    folder: Path, platform: str = sys.platform, which: Callable[[str], str | None] = shutil.which, desktop: str | None = None
) -> list[str] | None:
    """The dialog of this system, as words of a command; None where there is none."""
    if platform == "darwin":
        return ["osascript", *(word for line in APPLE for word in ("-e", line)), str(folder)]
    if platform == "win32":
        return ["powershell", "-NoProfile", "-STA", "-Command", WINDOWS] if which("powershell") else None
    desktop = os.environ.get("XDG_CURRENT_DESKTOP", "") if desktop is None else desktop
    inside = str(folder / "_")[:-1]  # with its last separator: the folder itself would be taken for the file
    known = {
        "zenity": [
            "--file-selection",
            f"--title={TITLE}",
            f"--filename={inside}",
            f"--file-filter=Pictures | {PATTERNS}",
            "--file-filter=*",
        ],
        "kdialog": ["--title", TITLE, "--getopenfilename", inside, f"{PATTERNS} | Pictures"],
    }
    for name in sorted(known, reverse="kde" not in desktop.lower()):
        if found := which(name):
            return [found, *known[name]]
    return None


class Dialog:
    """One at a time. `choose` waits for the user, on a thread of its own; `close` takes the dialog away."""

    def __init__(self) -> None:
        self._child: subprocess.Popen[bytes] | None = None

    def choose(self, folder: Path) -> Path | None:
        """The file, or None where the user wanted none. NoDialogError where nobody could be asked."""
        words = command(folder)
        if words is None:
            raise NoDialogError("No dialog is installed here (zenity or kdialog).")
        quiet = subprocess.DEVNULL
        try:
            self._child = subprocess.Popen(words, stdin=quiet, stdout=subprocess.PIPE, stderr=quiet, env=os.environ | {FOLDER: str(folder)})
        except OSError as error:
            raise NoDialogError(f"{words[0]} does not start ({error.strerror}).") from error
        answer, _ = self._child.communicate()
        code, self._child = self._child.returncode, None
        name = os.fsdecode(answer).rstrip("\r\n")
        if name:
            return Path(name)
        if code not in (0, 1):  # 1: cancelled
            raise NoDialogError(f"{words[0]} ended with code {code}.")
        return None

    def close(self) -> None:
        if (child := self._child) is not None:
            child.kill()
