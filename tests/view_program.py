"""The program of the window's tests: the `moebius` command with an inspector on a thread, which answers at standard input and output.

The inspector looks; only what no input device can do (a device that is lost, memory that is refused) is done by it.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from importlib.machinery import SourceFileLoader
from typing import Any

import numpy as np

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
STARTED: list[str] = []  # processes


class Inspector:
    def __init__(self, window: Any) -> None:
        self.window, self.app = window, window.app
        self.folder = tempfile.mkdtemp()
        self.moves: list[float] = []
        self.steps: list[int] = []  # of every run
        self.app.notices.slowness = 1000.0  # a message waits for a busy machine
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
            if shown and not self.made:
                self.made = {
                    "modules": [m for m in sys.modules if m.startswith("moebius.")],
                    "objects": self._counted(),
                    "children": list(STARTED),
                }
            return shown

        renderer.draw = noted

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
