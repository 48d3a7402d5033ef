"""Contenders for bench_model that fail in ways only a process of its own can: found by name, for what a test defines is not there."""

from __future__ import annotations

import os
import subprocess
import sys
import time

from contenders import Contender, LeftOutError, Setting


def gives_up_then_hangs(setting: Setting) -> None:
    """The first time an error, the second time a program that it starts and waits for, for ever."""
    if not (setting.folder / "below.pid").exists():
        (setting.folder / "below.pid").write_text("0")
        raise LeftOutError("the compiler has given up")


def hang(setting: Setting) -> None:
    below = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    (setting.folder / "below.pid").write_text(str(below.pid))
    time.sleep(600)


def die(setting: Setting) -> None:
    os._exit(7)


def contenders() -> list[Contender]:
    return [Contender("hangs", hang, gives_up_then_hangs), Contender("dies", die)]  # type: ignore[arg-type, list-item]
