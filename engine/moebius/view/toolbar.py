"""The toolbar: its buttons, and when the words for the one under the pointer are shown. Where they are is in `layout`."""

from __future__ import annotations

from dataclasses import dataclass

HOVER = 0.5  # seconds that the pointer rests on a button before its words are shown


@dataclass(frozen=True)
class Button:
    """`name` is the action of the App that it does, and its icon."""

    name: str
    tip: str
    key: str


BUTTONS = (
    Button("open", "Open a picture", "Ctrl+O"),
    Button("brush", "Brush: paint what should go", "E"),
    Button("erase", "Eraser", "E, or the right button"),
    Button("undo", "Undo", "Ctrl+Z"),
    Button("fill", "Fill what is painted", "Enter"),
    Button("compare", "Hold to see the photo as it was", "B"),
    Button("save", "Save the result beside the photo", "Ctrl+S"),
)
STOP = Button("stop", "Stop", "Esc")  # in the place of Fill, while a run is on its way


def button(name: str) -> Button:
    return next(b for b in (*BUTTONS, STOP) if b.name == name)


class Hover:
    """Which button the pointer is on, and since when."""

    def __init__(self) -> None:
        self.name: str | None = None
        self._since = 0.0
        self._shown = False

    def over(self, name: str | None, now: float) -> None:
        if name != self.name:
            self.name, self._since, self._shown = name, now, False

    def pressed(self) -> None:
        """No words for a button that was just used."""
        self._since, self._shown = float("inf"), False

    def tip(self, now: float) -> str | None:
        """The button whose words are to be shown."""
        return self.name if self.name is not None and now - self._since >= HOVER else None

    def due(self, now: float) -> float | None:
        """Seconds until they are, if they will be."""
        return None if self.name is None or self._since == float("inf") or self.tip(now) else self._since + HOVER - now

    def appears(self, now: float) -> bool:
        """Once, when the words are to be drawn for the first time."""
        new = self.tip(now) is not None and not self._shown
        self._shown = self._shown or new
        return new
