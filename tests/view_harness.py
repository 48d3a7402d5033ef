"""The window on a display of its own, driven from outside: pointer and keys by xdotool, drops and closing by the X protocol.

A test gets the picture that is on the screen, and answers from within the process: this file is also the program that is tested,
the `moebius` command with an inspector on a thread. The inspector looks; only what no input device can do (a device that is lost,
memory that is refused) is done by it.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from importlib.machinery import SourceFileLoader
from pathlib import Path
from typing import Any

import numpy as np

NEEDED = ("Xvfb", "xdotool")
SCREEN = (1000, 760)
# In the place of the tiny networks: what is tested is the window, and a step of theirs takes a second on a busy machine.
SMALL_UNET = {
    "sample_size": 16,
    "block_out_channels": (8, 16),
    "heads": 2,
    "cross_attention_dim": 8,
    "encoder_hid_dim": 8,
    "norm_num_groups": 4,
}
SMALL_VAE = {"block_out_channels": (8, 8, 8, 8), "norm_num_groups": 4}
STARTED: list[str] = []  # processes, within the program that is tested
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
        command = [sys.executable, __file__, "view", *map(str, arguments)]
        self.errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 # it is open as long as the process
        pipe = subprocess.PIPE
        self.begun = time.monotonic()
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

    def first_frame(self) -> float:
        """Seconds from the start of the process to the first frame that it drew."""
        return float(self.ask("first_drawn")) - self.begun

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


# within the process that is tested -----------------------------------------------------------------------------------
class Inspector:
    def __init__(self, window: Any) -> None:
        self.window, self.app = window, window.app
        self.folder = tempfile.mkdtemp()
        self.moves: list[float] = []
        self.steps: list[int] = []  # of every run
        self.app.notices.slowness = 1000.0  # a message waits for a busy machine
        self.drawn: list[float] = []
        self.made: dict[str, Any] = {}
        self._note_frames()
        self._count_moves()
        threading.Thread(target=self._serve, daemon=True).start()

    def _count_moves(self) -> None:
        move = self.app.move

        def counted(to: Any) -> None:
            move(to)
            self.moves.append(time.monotonic())

        self.app.move = counted

    def _note_frames(self) -> None:
        renderer = self.window.renderer
        draw = renderer.draw

        def noted(scene: Any) -> bool:
            shown = bool(draw(scene))
            if shown and not self.drawn:
                self.drawn.append(time.monotonic())
                self.made = {
                    "modules": [m for m in sys.modules if m.startswith("moebius.")],
                    "objects": self._counted(),
                    "children": list(STARTED),
                }
            return shown

        renderer.draw = noted

    def first_drawn(self) -> float:
        return self.drawn[0]

    def first_made(self) -> dict[str, Any]:
        """What there was when the first frame was drawn."""
        return self.made

    def _serve(self) -> None:
        for line in sys.stdin:
            name, *arguments = line.split()
            print(json.dumps(getattr(self, name)(*arguments)), flush=True)

    def _array(self, name: str, array: np.ndarray) -> str:
        path = f"{self.folder}/{name}.npy"
        np.save(path, array)
        return path

    def frames(self) -> int:
        return self.window.frames

    def changed(self) -> bool:
        return bool(self.app.changed or not self.app.worker.events.empty() or self.app.errands.pending)

    def camera(self) -> dict[str, Any]:
        camera = self.app.camera
        shown = {"window": camera.window, "origin": camera.origin, "scale": camera.scale, "picture": camera.picture}
        return shown | {"ui": self.app.ui, "largest_side": self.app.largest_side}

    def mask(self) -> str:
        return self._array("mask", self.app.canvas.fill)

    def result(self, index: str) -> str:
        return self._array("result", np.asarray(self.app.results[int(index)].result.image))

    def state(self) -> dict[str, Any]:
        app = self.app
        return {
            "path": str(app.path),
            "results": len(app.results),
            "shown": app.shown,
            "message": app.message,
            "error": app.is_error,
            "brush": app.brush.radius,
            "help": app.help,
            "title": app.title,
            "device": app.device,
            "seed": app.seed,
            "opening": app.opening,
            "question": app.question is not None,
            "typed": app.typed,
            "erasing": app.easel.erasing,
            "sample": app.is_sample,
        }

    def button(self, name: str) -> list[float]:
        """The middle of a button of the toolbar."""
        from moebius.view import layout

        x, y, width, height = layout.buttons(self.app.camera.window, self.app.ui)[name]
        return [x + width / 2, y + height / 2]

    def answer_dialog(self, path: str) -> None:
        """The system's dialog, from here on."""
        from moebius.view import dialogs

        dialogs.command = lambda _: [sys.executable, "-c", f"print({path!r})"]

    def running(self) -> dict[str, Any] | None:
        run = self.app.running
        return None if run is None else {"phase": run.progress.phase, "done": run.progress.done, "total": run.progress.total}

    def moved(self) -> list[float]:
        moves, self.moves = self.moves, []
        return moves

    def taken(self) -> list[int]:
        """Steps that the model took in every run, wanted or not."""
        return self.steps

    def take_steps(self, count: str) -> None:
        """As if the command had said so."""
        self.app.settings["steps"] = int(count)

    def _counted(self) -> dict[str, int]:
        from moebius.backends.webgpu import native

        return native.object_counts(self.window.renderer.module)

    def objects(self) -> dict[str, int]:
        counts = self._counted()
        return {kind: n for kind, n in counts.items() if n and kind not in ("GPUAdapter", "GPUCommandEncoder", "GPUCommandBuffer")}

    def processor(self) -> float:
        return time.process_time()

    def lose(self, which: str) -> None:
        """As a driver does that resets."""
        device = self.window.renderer.device if which == "window" else self.app.worker._model.unet.ops.gpu.device
        device.destroy()

    def limit_textures(self, side: str) -> None:
        """As if the adapter had no larger ones."""
        for holder, name in ((self.window.renderer, "largest_side"), (self.app, "largest_side"), (self.app.worker, "_largest_side")):
            setattr(holder, name, int(side))

    def refuse_memory(self) -> None:
        """To the next run alone."""
        model = self.app.worker._model

        def refuse(*_: Any, **__: Any) -> None:
            del model.steps
            raise MemoryError

        model.steps = refuse


def after_import(hooks: dict[str, Callable[[Any], None]]) -> None:
    """Calls each with its module, as soon as the program itself has imported it: what it imports for its first frame is looked at."""
    execute = SourceFileLoader.exec_module

    def executed(loader: SourceFileLoader, module: Any) -> None:
        execute(loader, module)
        if module.__name__ in hooks:
            hooks.pop(module.__name__)(module)

    SourceFileLoader.exec_module = executed  # type: ignore[method-assign]


def main() -> int:
    inspectors: list[Inspector] = []

    def on_window(module: Any) -> None:
        begin = module.Window.run

        def inspected(window: Any) -> Any:
            inspectors.append(Inspector(window))
            return begin(window)

        module.Window.run = inspected

    def on_run(module: Any) -> None:
        stages = module.Run._stages

        def counted(run: Any) -> Any:
            inspectors[0].steps.append(0)
            for step in stages(run):
                inspectors[0].steps[-1] += 1
                yield step

        module.Run._stages = counted

    def on_dialogs(module: Any) -> None:
        module.command = lambda _: None  # none is opened on this display

    def on_unet(module: Any) -> None:
        module.UNetConfig.tiny = staticmethod(lambda: module.UNetConfig(**SMALL_UNET))

    def on_vae(module: Any) -> None:
        module.VAEConfig.tiny = staticmethod(lambda: module.VAEConfig(**SMALL_VAE))

    hooks = {"view.window": on_window, "inpaint.run": on_run, "view.dialogs": on_dialogs, "model.unet": on_unet, "model.vae": on_vae}
    after_import({f"moebius.{name}": hook for name, hook in hooks.items()})
    start = subprocess.Popen.__init__

    def noted(self: Any, args: Any, *more: Any, **options: Any) -> None:
        STARTED.append(str(args))
        start(self, args, *more, **options)

    subprocess.Popen.__init__ = noted  # type: ignore[method-assign]
    from moebius.__main__ import main as command

    return command()


if __name__ == "__main__":
    sys.exit(main())
