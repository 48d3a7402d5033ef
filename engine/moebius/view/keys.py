"""Which key does what, and the page that says so. What the actions are is in `app`."""

from __future__ import annotations

PLAIN = {
    "enter": "fill",
    "r": "again",
    "escape": "escape",
    "c": "clear",
    "i": "invert",
    "e": "swap",
    "[": "thinner",
    "]": "thicker",
    "left": "previous",
    "right": "next",
    "s": "save",
    "h": "help",
    "?": "help",
    "f1": "help",
    "0": "fit",
    "1": "pixels",
    "+": "closer",
    "=": "closer",
    "-": "further",
    "b": "compare",
    "space": "pan",
}
CONTROL = {"z": "undo", "y": "redo", "o": "open", "s": "save", "v": "paste", "0": "fit", "+": "closer", "=": "closer", "-": "further"}
CONTROL_SHIFT = CONTROL | {"z": "redo"}
HELD = ("compare", "pan")  # as long as the key is down

HELP = (
    ("Ctrl+O, Ctrl+V", "open a picture, paste one"),
    ("left button", "paint what should go"),
    ("right button, E", "erase; brush or eraser"),
    ("Shift + button", "a box instead of a stroke"),
    ("wheel, [ and ]", "size of the brush"),
    ("Ctrl + wheel, + and -", "zoom"),
    ("0, 1", "fit the picture, pixel by pixel"),
    ("middle button, Space", "move the picture"),
    ("Ctrl+Z, Ctrl+Shift+Z", "undo, redo: strokes and fills"),
    ("C, I", "clear the mask, invert it"),
    ("Enter", "fill the hole"),
    ("R", "again, with the next seed"),
    ("Esc", "stop the run"),
    ("Left, Right", "browse the results"),
    ("B (hold)", "compare with the photo"),
    ("S, Ctrl+S", "save beside the photo"),
    ("F1, H or ?", "these keys"),
)


def action(name: str, control: bool, shift: bool) -> str | None:
    return (CONTROL_SHIFT if control and shift else CONTROL if control else PLAIN).get(name)
