"""The window on a display of its own, driven from outside: pointer and keys by xdotool, drops and closing by the X protocol.

A test gets the picture that is on the screen, and answers from within the process: the program that is tested is view_program.py.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

NEEDED = ("Xvfb", "xdotool")
SCREEN = (1000, 760)
PATIENCE = 240.0  # seconds; compiling kernels on a busy machine is what takes long


def missing() -> list[str]:
    return [name for name in NEEDED if shutil.which(name) is None]


class Screen:
    """An X server without a window manager: windows have no border, the top left corner is theirs."""

    def __init__(self, dpi: int = 96) -> None:
        from Xlib import Xatom
        from Xlib.display import Display

        read, write = os.pipe()
        size = f"{SCREEN[0]}x{SCREEN[1]}x24"
        command = ["Xvfb", "-displayfd", str(write), "-screen", "0", size, "-nolisten", "tcp", "-noreset"]
        self.server = subprocess.Popen(command, pass_fds=(write,), stderr=subprocess.DEVNULL)
        os.close(write)
        with os.fdopen(read) as pipe:
            self.name = f":{pipe.readline().strip()}"
        self.display = Display(self.name)
        root = self.display.screen().root
        root.change_property(Xatom.RESOURCE_MANAGER, Xatom.STRING, 8, f"Xft.dpi:\t{dpi}\n".encode())
        self.display.sync()

    def close(self) -> None:
        self.display.close()
        self.server.terminate()
        self.server.wait()

    def xdotool(self, *words: object) -> str:
        environment = os.environ | {"DISPLAY": self.name}
        done = subprocess.run(["xdotool", *map(str, words)], env=environment, capture_output=True, text=True, check=True)
        return done.stdout

    def grab(self) -> np.ndarray:
        from PIL import ImageGrab

        return np.asarray(ImageGrab.grab(xdisplay=self.name).convert("RGB"))


class Session:
    """One `moebius view` on a screen."""

    def __init__(self, screen: Screen, *arguments: object, cwd: Path) -> None:
        self.screen = screen
        environment = os.environ | {"DISPLAY": screen.name, "PYTHONFAULTHANDLER": "1", "XDG_SESSION_TYPE": "x11"}
        environment.pop("VK_ADD_DRIVER_FILES", None)  # llvmpipe alone: the window's adapter is the system's choice
        command = [sys.executable, str(Path(__file__).with_name("view_program.py")), "view", *map(str, arguments)]
        self.errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 # it is open as long as the process
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, env=environment, cwd=cwd, stdin=pipe, stdout=pipe, stderr=self.errors, text=True)
        try:
            self.wait("frames", lambda n: n > 0)
            self.wait("state", lambda state: not state["opening"])
            self.point(*self.to_window(0, 0))
        except BaseException:
            self.kill()
            raise

    # looking -----------------------------------------------------------------------------------------------------
    def ask(self, what: str) -> Any:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        try:
            self.process.stdin.write(what + "\n")
            self.process.stdin.flush()
            answer = self.process.stdout.readline()
        except BrokenPipeError:
            answer = ""
        if not answer:
            raise AssertionError(f"The window has ended: {self.process.wait(10)}\n{self.said()}")
        return json.loads(answer)

    def said(self) -> str:
        self.errors.seek(0)
        return self.errors.read()

    def wait(self, what: str, until: Callable[[Any], bool], patience: float = PATIENCE) -> Any:
        end = time.monotonic() + patience
        while not until(answer := self.ask(what)):
            assert time.monotonic() < end, f"{what} is still {answer}\n{self.said()}"
            time.sleep(0.01)
        return answer

    def settle(self) -> None:
        """Until everything that was sent is handled and drawn."""
        self.screen.display.sync()
        quiet = 0
        before = self.ask("frames")
        while quiet < 3:
            time.sleep(0.03)
            now = self.ask("frames")
            quiet = quiet + 1 if now == before and not self.ask("changed") else 0
            before = now

    def picture(self) -> np.ndarray:
        """What is on the screen, without the brush."""
        self.screen.xdotool("mousemove", SCREEN[0] - 1, SCREEN[1] - 1)
        self.settle()
        width, height = self.ask("camera")["window"]
        return self.screen.grab()[:height, :width]

    def shows(self, shot: np.ndarray, patience: float = PATIENCE) -> bool:
        """Whether that is, or soon will be, on the screen: a driver shows a frame some time after it was given it."""
        end = time.monotonic() + patience
        while not (same := np.array_equal(self.picture(), shot)) and time.monotonic() < end:
            pass
        return same

    def to_window(self, x: float, y: float) -> tuple[int, int]:
        camera = self.ask("camera")
        return round(camera["origin"][0] + x * camera["scale"]), round(camera["origin"][1] + y * camera["scale"])

    def mask(self) -> np.ndarray:
        return np.load(self.ask("mask"))

    def result(self, index: int = -1) -> np.ndarray:
        return np.load(self.ask(f"result {index}"))

    # doing -------------------------------------------------------------------------------------------------------
    def point(self, x: int, y: int) -> None:
        self.screen.xdotool("mousemove", x, y)

    def click(self, button: str) -> None:
        """A button of the toolbar."""
        x, y = self.ask(f"button {button}")
        self.screen.xdotool("mousemove", round(x), round(y), "click", 1)
        self.settle()

    def drag(self, *points: tuple[float, float], button: int = 1, hold: str = "") -> None:
        """In one command, as fast as the server takes it; points of the picture."""
        words: list[object] = ["keydown", hold] if hold else []
        for i, point in enumerate(points):
            words += ["mousemove", *self.to_window(*point), *(["mousedown", button] if i == 0 else [])]
        self.screen.xdotool(*words, "mouseup", button, *(["keyup", hold] if hold else []))
        self.settle()

    def key(self, *names: str) -> None:
        self.screen.xdotool("key", *names)
        self.settle()

    def start(self, steps: int) -> None:
        """Enter, and until so many steps of the run are taken. It does not settle, for which the run might first have to end."""
        self.screen.xdotool("key", "Return")
        self.wait("running", lambda running: running is not None)
        assert self.wait("running", lambda running: running is None or running["done"] >= steps), "the run was over before it was seen"

    def idle(self) -> None:
        """The run, if any, has ended."""
        self.wait("running", lambda running: running is None)
        self.settle()

    # the X protocol ----------------------------------------------------------------------------------------------
    @property
    def _window(self) -> Any:
        windows = [w for w in self.screen.display.screen().root.query_tree().children if w.get_wm_protocols()]
        assert len(windows) == 1
        return windows[0]

    def resize(self, width: int, height: int) -> None:
        self._window.configure(width=width, height=height)
        self.screen.display.sync()
        self.wait("camera", lambda camera: camera["window"] == [width, height])
        self.settle()

    def ask_to_close(self) -> None:
        """What a window manager sends when the cross is clicked."""
        atom = self.screen.display.intern_atom
        self._send("WM_PROTOCOLS", [atom("WM_DELETE_WINDOW"), 0, 0, 0, 0])

    def _send(self, kind: str, data: list[int], window: Any = None) -> None:
        from Xlib.protocol.event import ClientMessage

        to = window or self._window
        to.send_event(ClientMessage(window=to, client_type=self.screen.display.intern_atom(kind), data=(32, data)))
        self.screen.display.sync()

    def drop(self, path: Path, discard: bool = True) -> None:
        """A drag-and-drop source as file managers are one (XDND 5). Whether to save what is there before is answered with no."""
        from Xlib import X
        from Xlib.protocol.event import SelectionNotify

        display = self.screen.display
        atom, root = display.intern_atom, display.screen().root
        source = root.create_window(0, 0, 1, 1, 0, X.CopyFromParent)
        source.set_selection_owner(atom("XdndSelection"), X.CurrentTime)
        x, y = 50, 50
        self.point(x, y)
        self._send("XdndEnter", [source.id, 5 << 24, atom("text/uri-list"), 0, 0])
        self._send("XdndPosition", [source.id, 0, x << 16 | y, X.CurrentTime, atom("XdndActionCopy")])
        dropped = False
        while True:
            event = display.next_event()
            if event.type == X.SelectionRequest:
                event.requestor.change_property(event.property, event.target, 8, path.as_uri().encode() + b"\r\n")
                answer = SelectionNotify(
                    time=event.time, requestor=event.requestor, selection=event.selection, target=event.target, property=event.property
                )
                event.requestor.send_event(answer)
                display.sync()
            elif event.type == X.ClientMessage and event.client_type == atom("XdndStatus") and not dropped:
                dropped = True
                self._send("XdndDrop", [source.id, 0, X.CurrentTime, 0, 0])
            elif event.type == X.ClientMessage and event.client_type == atom("XdndFinished"):
                break
        source.destroy()
        self.settle()
        if discard and self.ask("state")["question"]:
            self.key("d")

    def ended(self, patience: float = PATIENCE) -> int:
        return self.process.wait(patience)

    def _forget(self) -> None:
        for pipe in (self.process.stdin, self.process.stdout, self.errors):
            assert pipe is not None
            pipe.close()

    def kill(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self._forget()
