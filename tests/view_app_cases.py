"""The window's application without a window, driven as a user would, and a worker whose runs end when the test says so."""

from __future__ import annotations

import time
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np
from PIL import Image

from moebius.pictures import photo as photos
from moebius.view import layout
from moebius.view.app import App
from moebius.view.job import Finished
from moebius.view.picture import Picture

SIZE = (40, 30)


class Results:
    """A worker whose runs end when the test says so."""

    def __init__(self) -> None:
        self.events: SimpleQueue[Any] = SimpleQueue()
        self.runs: list[tuple[Any, np.ndarray, dict[str, Any]]] = []

    def start(self, photo: Any, fill: np.ndarray, settings: dict[str, Any]) -> int:
        self.runs.append((photo, fill, settings))
        return len(self.runs)

    def cancel(self) -> None:
        pass


class FakeResult:
    def __init__(self, image: Image.Image, notes: tuple[str, ...] = ()) -> None:
        self.image, self.notes = image, notes

    def save(self, path: Path) -> None:
        self.image.save(path)


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def patient(app: App) -> None:
    """Until all errands are done."""
    end = time.monotonic() + 60
    while app.errands.pending:
        assert time.monotonic() < end
        app.handle_events()
        time.sleep(0.001)


def paint(app: App, x: float, y: float) -> None:
    app.move(app.camera.to_window((x, y)))
    app.press("left")
    app.release("left")


def fill(app: App, red: int, notes: tuple[str, ...] = ()) -> None:
    app.key("enter")
    finish(app, red, notes)


def finish(app: App, red: int, notes: tuple[str, ...] = ()) -> None:
    """The run under way ends with a picture of that red."""
    assert app.running is not None
    image = Image.new("RGB", SIZE, (red, 0, 0))
    photo = photos.load(image)
    app.worker.events.put(Finished(app.running.number, FakeResult(image, notes), photo, Picture.of(photo, 64)))  # type: ignore[arg-type]
    app.handle_events()


def press_button(app: App, name: str) -> None:
    x, y, w, h = layout.buttons(app.camera.window, app.ui)[name]
    app.move((x + w / 2, y + h / 2))
    app.press("left")
    app.release("left")


def state(app: App) -> tuple[int, int, int]:
    """What is painted on, which fill of it is in view, how many pixels are marked."""
    sheet = app.easel.sheet
    assert sheet is not None
    return int(sheet.photo.rgb[0, 0, 0]), sheet.shown, int(sheet.canvas.fill.sum())
