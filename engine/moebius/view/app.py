"""What the window does: pointer, keys and events of a run in, state for `scene.build` out. It knows neither glfw nor the GPU.

Positions are framebuffer pixels; keys are named as they are printed ("a", "[", "?"), others by words ("enter", "left", "space").
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from moebius.errors import MoebiusError
from moebius.pictures import mask as masks
from moebius.pictures import photo as photos
from moebius.pictures.photo import Photo
from moebius.view import brush
from moebius.view.camera import NOTCH, Camera
from moebius.view.canvas import MaskCanvas
from moebius.view.geometry import Point
from moebius.view.job import Event, Failed, Finished, Loaded, Place, Progress, Worker
from moebius.view.picture import Picture
from moebius.view.save import save

if TYPE_CHECKING:
    from moebius.inpaint.result import Result

RESULT_BYTES = 1 << 30  # what kept results may take; the oldest go first
MARGIN, FOOT = 16, 88  # logical pixels around the fitted picture and below it

Drag = Literal["paint", "erase", "box", "unbox", "pan"]


@dataclass(frozen=True)
class KeptResult:
    """A result that can be browsed and saved."""

    result: Result
    picture: Picture
    seed: int
    ms_per_step: float | None


@dataclass
class Running:
    """The run under way, and the mask it fills."""

    number: int
    seed: int
    hole: np.ndarray
    progress: Progress


class App:
    def __init__(self, worker: Worker, settings: dict[str, Any], largest_side: int) -> None:
        self.worker, self.settings, self.largest_side = worker, settings, largest_side
        self.seed = self.first_seed = int(settings.get("seed", 0))
        self.camera, self.ui = Camera(), 1.0  # ui: framebuffer pixels a logical one
        self.photo: Photo | None = None
        self.path: Path | None = None
        self.folder: Path | None = None  # where results go; None: beside the photo
        self.picture: Picture | None = None
        self.canvas: MaskCanvas | None = None
        self.results: list[KeptResult] = []
        self.shown = 0  # 0 is the photo, n the nth result
        self.running: Running | None = None
        self.device = ""
        self.message, self.is_error = "", False
        self.help = self.comparing = self.space = False
        self.brush = brush.Brush()
        self.pointer: Point | None = None
        self.drag: Drag | None = None
        self.grabbed: Point = (0.0, 0.0)  # where a box began, in the picture
        self.changed = True  # something is to be drawn

    # pictures ----------------------------------------------------------------------------------------------------
    def open(self, path: Path, mask: Path | None = None, folder: Path | None = None) -> None:
        """Another photo. One that cannot be read leaves all as it was."""
        with self._errors_shown():
            photo = photos.load(path)
            marked = None if mask is None else masks.load(mask, photo, force=True, allow_empty=True)  # it is seen at once
            fill = None if marked is None else marked.fill
            picture = Picture.of(photo, self.largest_side)
            width, height = photo.size
            self.cancel()
            self.photo, self.path, self.folder, self.picture = photo, path, folder, picture
            self.canvas = MaskCanvas(width, height, fill)
            self.results, self.shown, self.drag, self.seed = [], 0, None, self.first_seed
            self.brush.fit(photo.size)
            self.camera.picture = photo.size
            self.camera.fit()
            self.say(" ".join((*photo.notes, *(marked.notes if marked else ()))))

    def close_picture(self, why: str) -> None:
        """There is no memory on the GPU to show it."""
        self.cancel()
        self.photo = self.path = self.picture = self.canvas = None
        self.results, self.shown, self.drag = [], 0, None
        self.say(why, error=True)

    def drop(self, paths: list[Path]) -> None:
        if paths:
            self.open(paths[0])

    # a run -------------------------------------------------------------------------------------------------------
    def start(self, seed: int) -> None:
        if self.running is not None:
            self.say("A run is on its way; Esc cancels it.")
        elif self.photo is None or self.canvas is None:
            self.say("Drop a picture on the window first.")
        elif not self.canvas.fill.any():
            self.shown = 0
            self.say("Paint over what should go first.")
        else:
            self.seed, self.shown, self.help = seed, 0, False
            hole = self.canvas.fill.copy()
            number = self.worker.start(self.photo, hole, self.settings | {"seed": seed})
            self.running = Running(number, seed, hole, Progress(number, "Starting" if self.device else "Loading the model"))
            self.say("")

    def cancel(self) -> None:
        if self.running is not None:
            self.worker.cancel()
            self.running, self.changed = None, True

    def handle_events(self) -> None:
        """All that the worker has sent since; events of a run that was cancelled are dropped."""
        while not self.worker.events.empty():
            self._handle(self.worker.events.get())

    def _handle(self, event: Event) -> None:
        run = self.running
        if isinstance(event, Loaded):
            self.device = event.device
        elif isinstance(event, Failed) and (event.number == 0 or (run is not None and run.number == event.number)):
            self.cancel()  # where loading failed, a run that waits for it would try again
            self.say(event.text, error=True)
        elif run is None or run.number != event.number:
            return
        elif isinstance(event, Progress):
            run.progress = event
        elif isinstance(event, Finished):
            self.results.append(KeptResult(event.result, event.picture, run.seed, run.progress.ms_per_step))
            while len(self.results) > 1 and sum(3 * k.picture.levels[0].nbytes for k in self.results) > RESULT_BYTES:
                self.results.pop(0)
            self.shown, self.running = len(self.results), None
            known = () if self.photo is None else self.photo.notes
            self.say(" ".join(note for note in event.result.notes if note not in known))
        self.changed = True

    def save(self) -> None:
        if not self.shown:
            self.say("There is no result in view to save; Enter makes one." if not self.results else "Right shows a result to save.")
            return
        assert self.photo is not None
        assert self.path is not None
        with self._errors_shown():
            self.say(f"Saved as {save(self.results[self.shown - 1].result, self.photo, self.path, self.folder)}")

    # keys --------------------------------------------------------------------------------------------------------
    def key(self, name: str, control: bool = False) -> None:
        if control:
            actions: dict[str, Callable[[], object]] = {"z": self._undo, "y": self._redo}
        else:
            actions = {
                "enter": lambda: self.start(self.seed),
                "r": lambda: self.start(self.seed + 1),
                "escape": self._escape,
                "c": lambda: self._edit(MaskCanvas.clear),
                "i": lambda: self._edit(MaskCanvas.invert),
                "[": lambda: self._resize_brush(1 / brush.KEY),
                "]": lambda: self._resize_brush(brush.KEY),
                "left": lambda: self._browse(-1),
                "right": lambda: self._browse(1),
                "s": self.save,
                "h": self._toggle_help,
                "?": self._toggle_help,
                "0": self.camera.fit,
                "1": lambda: self.camera.zoom(1 / self.camera.scale, self.pointer or self.camera.middle),
                "b": lambda: setattr(self, "comparing", True),
                "space": lambda: setattr(self, "space", True),
            }
        if name in actions:
            if name not in ("b", "space"):
                self.message = ""  # it was read by now
            actions[name]()
            self.changed = True

    def key_up(self, name: str) -> None:
        if name == "b":
            self.comparing = False
        elif name == "space":
            self.space = False
        self.changed = True

    def focus_lost(self) -> None:
        """All keys and buttons are taken as up: the window hears no more of those that come up."""
        self.comparing = self.space = False
        self._end_drag(commit=False)
        self.changed = True

    def _escape(self) -> None:
        if self.drag in ("box", "unbox"):
            self.drag = None
        elif self.running is not None:
            self.cancel()
            self.say("Cancelled.")
        else:
            self.help = False

    def _toggle_help(self) -> None:
        self.help = not self.help

    def _edit(self, change: Callable[[MaskCanvas], object]) -> None:
        if self.canvas is not None:
            self._end_drag(commit=True)
            self.shown = 0
            change(self.canvas)

    def _undo(self) -> None:
        self._edit(MaskCanvas.undo)

    def _redo(self) -> None:
        self._edit(MaskCanvas.redo)

    def _browse(self, by: int) -> None:
        if self.running is None:
            self.shown = min(max(self.shown + by, 0), len(self.results))

    def _resize_brush(self, factor: float) -> None:
        self.brush.resize(factor, self.camera.picture)

    # pointer -----------------------------------------------------------------------------------------------------
    def press(self, button: str, shift: bool = False) -> None:
        if self.photo is None or self.canvas is None or self.pointer is None or self.drag is not None:
            return
        self.message, self.help, self.changed = "", False, True
        if button == "middle" or self.space:
            self.drag = "pan"
            return
        if button not in ("left", "right"):
            return
        self.shown = 0
        here = self.grabbed = self.camera.to_picture(self.pointer)
        if shift:
            self.drag = "box" if button == "left" else "unbox"
            return
        self.drag = "paint" if button == "left" else "erase"
        self.canvas.begin()
        self.canvas.stroke(here, here, self.brush.radius, self.drag == "paint")

    def move(self, to: Point | None) -> None:
        before, self.pointer = self.pointer, to
        self.changed = True
        if before is None or to is None or self.canvas is None:
            return
        if self.drag == "pan" or (self.space and self.drag is None):
            self.camera.pan(to[0] - before[0], to[1] - before[1])
        elif self.drag in ("paint", "erase"):
            self.canvas.stroke(self.camera.to_picture(before), self.camera.to_picture(to), self.brush.radius, self.drag == "paint")

    def release(self, button: str) -> None:
        buttons = {"paint": "left", "box": "left", "erase": "right", "unbox": "right", "pan": button}
        if self.drag is not None and buttons[self.drag] == button:
            self._end_drag(commit=True)

    def _end_drag(self, commit: bool) -> None:
        """A stroke stays as it is; a box is filled only with `commit`, which is when its button comes up."""
        drag, self.drag = self.drag, None
        if self.canvas is None:
            return
        if drag in ("paint", "erase"):
            self.canvas.end()
        elif drag in ("box", "unbox") and commit and self.pointer is not None:
            self.canvas.begin()
            self.canvas.box(self.grabbed, self.camera.to_picture(self.pointer), drag == "box")
            self.canvas.end()
        self.changed = True

    def wheel(self, notches: float, control: bool) -> None:
        if self.photo is None:
            return
        if control and self.pointer is not None:
            self.camera.zoom(NOTCH**notches, self.pointer)
        elif not control:
            self._resize_brush(brush.NOTCH**notches)
        self.changed = True

    def resize(self, window: tuple[int, int], ui: float) -> None:
        self.ui, self.changed = ui, True
        self.camera.resize(window, MARGIN * ui, FOOT * ui)

    # what it says ------------------------------------------------------------------------------------------------
    def say(self, text: str, error: bool = False) -> None:
        self.message, self.is_error, self.changed = text, error, True

    @contextmanager
    def _errors_shown(self) -> Iterator[None]:
        """What goes wrong within is a message in the window."""
        try:
            yield
        except MoebiusError as error:
            self.say(str(error), error=True)
        except MemoryError:
            self.say("There is not enough memory for this picture; close other programs, or use a smaller one.", error=True)

    @property
    def patches(self) -> dict[Place, np.ndarray]:
        return {} if self.running is None else self.running.progress.patches

    @property
    def title(self) -> str:
        parts = [] if self.path is None else [self.path.name]
        each = None
        if self.running is not None:
            progress = self.running.progress
            each = progress.ms_per_step
            parts.append(f"{progress.done}/{progress.total}" if progress.total else progress.phase)
        elif self.shown:
            each = self.results[self.shown - 1].ms_per_step
            parts.append(f"result {self.shown} of {len(self.results)}, seed {self.results[self.shown - 1].seed}")
        parts += [] if each is None else [f"{each:.0f} ms/step"]
        return " · ".join([*parts, *([self.device] if self.device else []), "moebius"])
