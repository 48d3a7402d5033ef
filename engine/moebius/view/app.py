"""What the window does: pointer, keys, buttons and events of a run in, state for `scene.build` out. It knows neither glfw nor the GPU.

Positions are framebuffer pixels; keys are named as they are printed ("a", "[", "?"), others by words ("enter", "left", "space").
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from moebius.errors import MoebiusError
from moebius.view import brush, clipboard, easel, keys, layout
from moebius.view.canvas import MaskCanvas
from moebius.view.desk import Desk
from moebius.view.errands import Errands
from moebius.view.geometry import Point
from moebius.view.history import Fill, Sheet
from moebius.view.job import Event, Failed, Finished, Loaded, Place, Progress, Worker
from moebius.view.toolbar import Hover


@dataclass
class Running:
    """The run under way, and the mask it fills."""

    number: int
    seed: int
    hole: np.ndarray
    progress: Progress
    sheet: Sheet


class App(Desk):
    def __init__(
        self, worker: Worker, errands: Errands, settings: dict[str, Any], largest_side: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        super().__init__(errands, largest_side, int(settings.get("seed", 0)), clock)
        self.worker, self.settings, self.hover = worker, settings, Hover()
        self.running: Running | None = None
        self.device = ""
        self.comparing = False
        self._actions: dict[str, Callable[[], object]] = {
            "fill": lambda: self.start(self.seed),
            "again": lambda: self.start(self.seed + 1),
            "stop": self._escape,
            "escape": self._escape,
            "clear": lambda: self.easel.edit(MaskCanvas.clear),
            "invert": lambda: self.easel.edit(MaskCanvas.invert),
            "undo": self.easel.undo,
            "redo": self.easel.redo,
            "brush": lambda: self._take(erasing=False),
            "erase": lambda: self._take(erasing=True),
            "swap": lambda: self._take(erasing=not self.easel.erasing),
            "thinner": lambda: self.easel.resize_brush(1 / brush.KEY),
            "thicker": lambda: self.easel.resize_brush(brush.KEY),
            "previous": lambda: self.easel.browse(-1),
            "next": lambda: self.easel.browse(1),
            "open": self.choose,
            "save": self.save,
            "paste": self.paste,
            "help": self._toggle_help,
            "fit": self.camera.fit,
            "pixels": self.easel.zoom_to_pixels,
            "closer": lambda: self.easel.zoom(easel.CLOSER),
            "further": lambda: self.easel.zoom(1 / easel.CLOSER),
            "compare": partial(self._hold, "compare", True),
            "pan": partial(self._hold, "pan", True),
        }

    # what there is -----------------------------------------------------------------------------------------------
    def can(self, action: str) -> bool:
        """Whether an action of the toolbar has something to do."""
        sheet, history = self.easel.sheet, self.easel.history
        match action:
            case "undo":
                return history is not None and history.can_undo
            case "fill":
                return sheet is not None and sheet.canvas.any()
            case "compare":
                return self._comparable
            case "save":
                return sheet is not None and sheet.fill is not None
            case "brush" | "erase":
                return sheet is not None
        return True

    @property
    def _comparable(self) -> bool:
        history = self.easel.history
        return history is not None and (self.shown > 0 or self.running is not None or history.sheet.picture is not history.original)

    # a run -------------------------------------------------------------------------------------------------------
    def start(self, seed: int) -> None:
        sheet = self.easel.sheet
        if self.running is not None:
            self.say("A run is on its way; Esc stops it.")
        elif sheet is None:
            self.say("Drop a picture on the window first.")
        elif not sheet.canvas.any():
            self.say("Paint over what should go first.")
        else:
            self.easel.end_drag(commit=True)
            self.seed, sheet.shown, self.help = seed, 0, False
            hole = sheet.canvas.fill.copy()
            number = self.worker.start(sheet.photo, hole, self.settings | {"seed": seed})
            self.running = Running(number, seed, hole, Progress(number, "Starting" if self.device else "Loading the model"), sheet)
            self.say("")

    def cancel(self) -> None:
        if self.running is not None:
            self.worker.cancel()
            self.running, self.changed = None, True

    def handle_events(self) -> None:
        """All that threads have sent since; events of a run that was cancelled are dropped."""
        while not self.worker.events.empty():
            self._handle(self.worker.events.get())
        if self.errands.handle():
            self.changed = True
        now = self.clock()
        if self.notices.expire(now) | self.hover.appears(now):
            self.changed = True

    def due(self) -> float | None:
        """Seconds until something changes by itself, if it does."""
        now = self.clock()
        return min((s for s in (self.notices.due(now), self.hover.due(now)) if s is not None), default=None)

    def _handle(self, event: Event) -> None:
        run = self.running
        if isinstance(event, Loaded):
            self.device = event.device
            if event.warnings:
                self.say(" ".join(event.warnings), error=True)
        elif isinstance(event, Failed) and (event.number == 0 or (run is not None and run.number == event.number)):
            self.cancel()  # where loading failed, a run that waits for it would try again
            self.say(event.text, error=True)
        elif run is None or run.number != event.number:
            return
        elif isinstance(event, Progress):
            run.progress = event
        elif isinstance(event, Finished) and self.easel.history is not None:
            self.running, self.unsaved = None, True
            fill = Fill(event.result, event.photo, event.picture, run.hole, run.seed, run.progress.ms_per_step)
            self.easel.end_drag(commit=True)
            seen = self.easel.history.keep(fill, run.sheet)
            self.say(self.notices.once(event.result.notes) if seen else "The fill is ready, on the picture that it was begun on.")
        self.changed = True

    # keys --------------------------------------------------------------------------------------------------------
    def key(self, name: str, control: bool = False, shift: bool = False) -> None:
        action = keys.action(name, control, shift)
        if self.question is not None:
            for i, (_, key, _) in enumerate(self.question.answers):
                if name == key or (name == "enter" and i == 0):
                    self.answer(i)
                    return
        elif self.typed is not None:
            self._typing(name, control)
        elif action is not None:
            self.act(action)

    def act(self, action: str) -> None:
        if action not in keys.HELD:
            self.notices.text = ""  # it was read by now
        self._actions[action]()
        self.changed = True

    def _typing(self, name: str, control: bool) -> None:
        if name == "enter":
            typed, self.typed = self.typed, None
            if typed and typed.strip():
                try:
                    self.drop([clipboard.file_named(typed)])
                except MoebiusError:
                    self.say(f"There is no file {typed.strip()}.", error=True)
        elif name == "escape":
            self.typed = None
        elif name == "backspace" and self.typed:
            self.typed = self.typed[:-1]
        elif name == "v" and control:
            self.paste()
        self.changed = True

    def key_up(self, name: str) -> None:
        held = keys.PLAIN.get(name)
        if held in keys.HELD:
            self._hold(held, False)

    def _hold(self, what: str, down: bool) -> None:
        if what == "compare":
            self.comparing = down
        else:
            self.easel.panning = down
        self.changed = True

    def focus_lost(self) -> None:
        """All keys and buttons are taken as up: the window hears no more of those that come up."""
        self.comparing = self.easel.panning = False
        self.easel.end_drag(commit=False)
        self.changed = True

    def _escape(self) -> None:
        if self.easel.drag in ("box", "unbox"):
            self.easel.drag = None
        elif self.running is not None:
            self.cancel()
            self.say("Stopped.")
        else:
            self.help = False

    def _toggle_help(self) -> None:
        self.help = not self.help

    def _take(self, erasing: bool) -> None:
        self.easel.end_drag(commit=True)
        self.easel.erasing = erasing

    # pointer -----------------------------------------------------------------------------------------------------
    def press(self, button: str, shift: bool = False) -> None:
        at, window = self.easel.pointer, self.camera.window
        if at is None or self.easel.drag is not None:
            return
        self.changed = True
        if self.question is not None:
            _, _, places = layout.question(self.question.text, [a[0] for a in self.question.answers], window, self.ui)
            for i, place in enumerate(places):
                if layout.contains(place, at):
                    self.answer(i)
                    return
        elif (name := layout.button_at(at, window, self.ui)) is not None:
            if button == "left" and self.typed is None:
                self.hover.pressed()
                self.act("stop" if name == "fill" and self.running is not None else name)
        elif self._on_drop_field(at):
            self.act("open")
        elif not layout.in_bars(at, window, self.ui):
            self.notices.text, self.help, self.typed = "", False, None
            self.easel.press(button, shift)

    def _on_drop_field(self, at: Point) -> bool:
        return self.has_drop_field and layout.contains(layout.drop_field(self.camera.window, self.ui, self.is_sample), at)

    @property
    def has_drop_field(self) -> bool:
        """Beside the sample, as long as it lies as it was; and where there is no picture."""
        return (self.is_sample and self.camera.fitted and self.running is None) if self.easel.sheet else not self.opening

    def move(self, to: Point | None) -> None:
        self.easel.move(to)
        name = None if to is None or self.easel.drag else layout.button_at(to, self.camera.window, self.ui)
        self.hover.over(name, self.clock())
        self.changed = True

    def release(self, button: str) -> None:
        if self.comparing and button == "left":
            self.comparing = False
        self.easel.release(button)
        self.changed = True

    def wheel(self, notches: float, control: bool) -> None:
        self.easel.wheel(notches, control)
        self.changed = True

    def resize(self, window: tuple[int, int], ui: float) -> None:
        self.ui, self.changed = ui, True
        self._fit_bars(window)

    # what it says ------------------------------------------------------------------------------------------------
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
