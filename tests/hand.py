"""A hand on a page in Chromium: mouse, fingers, keys and files as the browser itself delivers them, and what the screen shows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from chromium import Page

Point = tuple[float, float]
MODIFIERS = {"Alt": 1, "Control": 2, "Meta": 4, "Shift": 8}
BUTTONS = {"none": 0, "left": 1, "right": 2, "middle": 4}
CODES = {"Enter": 13, "Escape": 27, " ": 32, "Tab": 9}
TEXTS = {"Enter": "\r"}


class Hand:
    """On the editor of a page, whose places are pixels of its picture."""

    def __init__(self, page: Page) -> None:
        self.page = page

    # where -----------------------------------------------------------------------------------------------------------
    def screen(self, point: Point) -> Point:
        """A pixel's middle on the screen."""
        script = "return [moebius.editor.view.toStage(X, Y), moebius.editor.stage.getBoundingClientRect().toJSON()]"
        (x, y), box = self.page.run(script.replace("X", str(point[0] + 0.5)).replace("Y", str(point[1] + 0.5)))
        return box["x"] + x, box["y"] + y

    def shown(self, point: Point) -> list[int]:
        """The canvas' colour there, red, green, blue and alpha."""
        x, y = point[0] + 0.5, point[1] + 0.5
        return self.page.run(f"""
          await new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)));
          const {{ canvas, view, screen }} = moebius.editor;
          const [x, y] = view.toStage({x}, {y});
          return [...canvas.getContext('2d').getImageData(Math.floor(x * screen.ratio), Math.floor(y * screen.ratio), 1, 1).data];""")

    def pixel(self, point: Point) -> list[int]:
        """The picture's own, red, green and blue."""
        return self.page.run(f"[...moebius.editor.context.getImageData({point[0]}, {point[1]}, 1, 1).data.slice(0, 3)]")

    # mouse -----------------------------------------------------------------------------------------------------------
    def mouse(self, kind: str, at: Point, button: str = "left", keys: Sequence[str] = (), **more: Any) -> None:
        pressed = {} if kind == "mouseWheel" else {"button": button, "buttons": BUTTONS[button], "clickCount": int(kind != "mouseMoved")}
        modifiers = sum(MODIFIERS[key] for key in keys)
        self.page.send("Input.dispatchMouseEvent", {"type": kind, "x": at[0], "y": at[1], "modifiers": modifiers, **pressed, **more})

    def drag(self, points: Sequence[Point], button: str = "left", keys: Sequence[str] = (), release: bool = True) -> None:
        """Through pixels of the picture."""
        places = [self.screen(point) for point in points]
        self.mouse("mousePressed", places[0], button, keys)
        for place in places[1:]:
            self.mouse("mouseMoved", place, button, keys)
        if release:
            self.mouse("mouseReleased", places[-1], button, keys)

    def wheel(self, point: Point, turned: float, keys: Sequence[str] = ()) -> None:
        self.mouse("mouseWheel", self.screen(point), keys=keys, deltaX=0, deltaY=turned)

    # fingers, keys, files --------------------------------------------------------------------------------------------
    def touch(self, kind: str, *fingers: Point) -> None:
        """Where the fingers are on the screen."""
        points = [{"x": x, "y": y, "id": i} for i, (x, y) in enumerate(fingers)]
        self.page.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    def key(self, key: str, *keys: str, held: bool = False) -> None:
        event = {"key": key, "modifiers": sum(MODIFIERS[k] for k in keys), "code": {" ": "Space"}.get(key, key)}
        event["windowsVirtualKeyCode"] = CODES.get(key, ord(key[0].upper()))
        text = {} if keys and keys != ("Shift",) else {"text": TEXTS.get(key, key if len(key) == 1 else "")}
        self.page.send("Input.dispatchKeyEvent", {"type": "keyDown" if text.get("text") else "rawKeyDown", **event, **text})
        if not held:
            self.page.send("Input.dispatchKeyEvent", {"type": "keyUp", **event})

    def choose(self, selector: str, file: Path) -> None:
        """A file in the dialog of a file input."""
        root = self.page.send("DOM.getDocument")["root"]["nodeId"]
        node = self.page.send("DOM.querySelector", {"nodeId": root, "selector": selector})["nodeId"]
        self.page.send("DOM.setFileInputFiles", {"files": [str(file)], "nodeId": node})

    def click(self, element: str) -> None:
        """The middle of an element, by its id, as a pointer does it."""
        box = self.page.run(f"document.getElementById('{element}').getBoundingClientRect().toJSON()")
        at = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        for kind in ("mouseMoved", "mousePressed", "mouseReleased"):
            self.mouse(kind, at, "none" if kind == "mouseMoved" else "left")
