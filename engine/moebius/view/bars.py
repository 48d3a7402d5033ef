"""What lies around and over the picture: the toolbar, the bar of words below, the field to drop on, help, and questions."""

from __future__ import annotations

from moebius.view import labels, layout, toolbar
from moebius.view.app import App
from moebius.view.keys import HELP
from moebius.view.pencil import ACCENT, BLACK, DARK, DIM, GREY, TINT, WARNING, WHITE, Pencil

ICON = 0.58  # of a button's side
SAMPLE = (
    "This is a sample. Drop a picture of yours here, or click to open one",
    "Drop a picture here, or click to open one",
    "Drop a picture here",
)


def draw(pencil: Pencil, app: App) -> None:
    if app.has_drop_field:
        drop_field(pencil, app)
    elif app.easel.sheet is None:
        _opening(pencil, app)
    _toolbar(pencil, app)
    _foot(pencil, app)
    if app.help:
        _help(pencil)
    if app.question is not None:
        _question(pencil, app)


# above ---------------------------------------------------------------------------------------------------------------
def _toolbar(pencil: Pencil, app: App) -> None:
    window, px = app.camera.window, pencil.px
    pencil.panel((0, 0, window[0], px(layout.HEAD)), DARK, 1)
    pencil.panel((0, px(layout.HEAD) - px(1), window[0], px(1)), WHITE, 0.08)
    tool = "erase" if app.easel.erasing else "brush"
    for name, rect in layout.buttons(window, app.ui).items():
        able, over = app.can(name), app.hover.name == name
        chosen = able and (name == tool or (name == "compare" and app.comparing))
        stops = name == "fill" and app.running is not None
        if stops or (name == "fill" and able):
            pencil.panel(rect, WARNING if stops else ACCENT, 1 if over or stops else 0.85, radius=px(8))
        elif chosen or (over and able):
            pencil.panel(rect, WHITE, 0.16 if chosen else 0.08, radius=px(8))
        if stops or not able:
            colour = WHITE if stops else DIM
        elif name == "fill":
            colour = BLACK
        else:
            colour = TINT if chosen and name == "brush" else WHITE
        pencil.icon("stop" if stops else name, rect, ICON * rect[2], colour)
    if app.easel.sheet is not None:
        zoom = f"{100 * app.camera.scale:.0f} %"
        pencil.text(zoom, window[0] - px(12), (px(layout.HEAD) - pencil.line(13)) / 2, 13, GREY, "right")
    if (shown := app.hover.tip(app.clock())) is not None and app.question is None:
        _tip(pencil, app, shown)


def _tip(pencil: Pencil, app: App, name: str) -> None:
    button = toolbar.STOP if name == "fill" and app.running is not None else toolbar.button(name)
    px, rect = pencil.px, layout.buttons(app.camera.window, app.ui)[name]
    gap = px(9)
    width = pencil.width(button.tip, 13) + gap + pencil.width(button.key, 13) + px(22)
    x = min(max(px(4), rect[0] + rect[2] / 2 - width / 2), app.camera.window[0] - width - px(4))
    y, height = px(layout.HEAD + 5), pencil.line(13) + px(12)
    pencil.card((x, y, width, height))
    pencil.text(button.tip, x + px(11), y + px(6), 13)
    pencil.text(button.key, x + width - px(11), y + px(6), 13, ACCENT, "right")


# below ---------------------------------------------------------------------------------------------------------------
def _foot(pencil: Pencil, app: App) -> None:
    """One thing at a time: what is typed, what is to be read, how far it is, what can be done."""
    window, px = app.camera.window, pencil.px
    top = window[1] - px(layout.BAR)
    if app.message and app.typed is None:
        _message(pencil, app)
    else:
        _foot_panel(pencil, app, top)
        if app.typed is not None:
            _typed(pencil, app.typed, window, top)
        elif app.opening:
            _words(pencil, app, top, [(f"Opening {app.opening} …", False)])
        elif app.running is not None:
            _progress(pencil, app, top)
        else:
            _words(pencil, app, top, status(app))
    if app.running is not None and app.running.progress.total:  # also behind a message
        done = app.running.progress.done / app.running.progress.total
        pencil.panel((0, top, window[0] * done, px(3)), ACCENT, 1)


def _foot_panel(pencil: Pencil, app: App, top: float) -> None:
    window = app.camera.window
    pencil.panel((0, top, window[0], window[1] - top), DARK, 1)
    pencil.panel((0, top, window[0], pencil.px(1)), WHITE, 0.08)


def _message(pencil: Pencil, app: App) -> None:
    """In the bar; a long one in a narrow window in smaller letters, and then in a higher bar."""
    window, px = app.camera.window, pencil.px
    room = min(window[0] - px(32), px(900))
    for size in (14, 13, 12, 11):
        lines = labels.wrapped(app.message, pencil.size(size), round(room))
        step = pencil.line(size) + px(2)
        if step * len(lines) <= px(layout.BAR - 8):
            break
    top = window[1] - max(px(layout.BAR), step * len(lines) + px(16))
    pencil.panel((0, top, window[0], window[1] - top), WARNING if app.is_error else DARK, 1)
    pencil.panel((0, top, window[0], px(1)), WHITE, 0.08)
    y = top + (window[1] - top - step * len(lines)) / 2
    for i, line in enumerate(lines):
        pencil.text(line, window[0] / 2, y + i * step, size, WHITE, "centre")


def _typed(pencil: Pencil, typed: str, window: tuple[int, int], top: float) -> None:
    px = pencil.px
    left, y = px(16), top + px(9)
    pencil.text("Path of a picture", left, y, 12, GREY)
    pencil.text("Enter opens it, Esc does not", window[0] - left, y, 12, GREY, "right")
    y += pencil.line(12) + px(4)
    shown = typed
    while shown and pencil.width(shown, 14) > window[0] - 2 * left - px(4):  # its end
        shown = shown[max(1, len(shown) // 16) :]
    if shown:
        pencil.text(shown, left, y, 14)
    pencil.panel((left + (pencil.width(shown, 14) + px(2) if shown else 0), y, px(1.5), pencil.line(14)), ACCENT, 1)


def _progress(pencil: Pencil, app: App, top: float) -> None:
    assert app.running is not None
    progress, window, px = app.running.progress, app.camera.window, pencil.px
    left, y = px(16), top + (px(layout.BAR) - pencil.line(14)) / 2
    counted = f"{progress.phase}  {progress.done} / {progress.total}" if progress.total else f"{progress.phase} …"
    pencil.text(counted, left, y, 14)
    right = ["Esc stops"]
    if progress.ms_per_step is not None:
        seconds = progress.ms_per_step * (progress.total - progress.done) / 1000
        right = [f"{progress.ms_per_step:.0f} ms/step", f"{seconds:.0f} s left", *right]
    while right and pencil.width(counted, 14) + pencil.width("   ".join(right), 14) + 3 * left > window[0]:
        right.pop(0)
    if right:
        pencil.text("   ".join(right), window[0] - left, y, 14, GREY, "right")


def status(app: App) -> list[tuple[str, bool]]:
    """Words, and whether each is a key."""
    sheet = app.easel.sheet
    if sheet is None:
        return [("Ctrl+O", True), ("open a picture", False), ("F1", True), ("keys", False)]
    if sheet.shown:
        text = f"Result {sheet.shown} of {len(sheet.fills)}, seed {sheet.fills[sheet.shown - 1].seed}"
        hints = [("R", "another"), ("B", "compare"), ("S", "save"), ("F1", "keys")]
    elif sheet.canvas.any():
        text, hints = "", [("Enter", "fill it"), ("Right button", "erase"), ("F1", "keys")]
    else:
        text, hints = "Paint over what should go", [("Enter", "fill it"), ("F1", "keys")]
    if sheet.fills and not sheet.shown:
        hints.insert(1, ("Right", "results"))
    return [(text, False)] * bool(text) + [word for key, what in hints for word in ((key, True), (what, False))]


def _words(pencil: Pencil, app: App, top: float, words: list[tuple[str, bool]]) -> None:
    """In the middle of the bar; the last ones are left out where it is narrow."""
    window, px = app.camera.window, pencil.px

    def gap(i: int) -> float:
        return 0.0 if i == 0 else px(22) if words[i][1] else px(7)

    def total() -> float:
        return sum(pencil.width(word, 14) + gap(i) for i, (word, _) in enumerate(words))

    while len(words) > 1 and total() > window[0] - px(24):
        words = words[: -2 if words[-2][1] else -1]
    size = 14
    while size > 9 and pencil.width(words[0][0], size) > window[0] - px(24) and len(words) == 1:
        size -= 1
    x = (window[0] - total()) / 2 if len(words) > 1 else (window[0] - pencil.width(words[0][0], size)) / 2
    y = top + (px(layout.BAR) - pencil.line(size)) / 2
    first = not words[0][1]
    for i, (word, is_key) in enumerate(words):
        x += gap(i)
        pencil.text(word, max(x, px(4)), y, size, ACCENT if is_key else WHITE if first and i == 0 else GREY)
        x += pencil.width(word, size)


# in the middle -------------------------------------------------------------------------------------------------------
def drop_field(pencil: Pencil, app: App) -> None:
    beside = app.easel.sheet is not None
    rect, px = layout.drop_field(app.camera.window, app.ui, beside), pencil.px
    over = app.easel.pointer is not None and layout.contains(rect, app.easel.pointer)
    pencil.panel(rect, WHITE, 0.08 if over else 0.03, radius=px(4))
    pencil.dashes(rect, ACCENT if over else GREY, 0.8)
    middle = rect[0] + rect[2] / 2
    if beside:
        text = next((t for t in SAMPLE if pencil.width(t, 13) < rect[2] - px(16)), SAMPLE[-1])
        pencil.text(text, middle, rect[1] + (rect[3] - pencil.line(13)) / 2, 13, WHITE, "centre")
        return
    y = rect[1] + (rect[3] - px(30) - pencil.line(18) - pencil.line(13) - px(14)) / 2
    pencil.icon("open", (rect[0], y, rect[2], px(30)), px(30), ACCENT)
    pencil.text("Drop a picture here", middle, y + px(38), 18, WHITE, "centre")
    pencil.text("or click to open one", middle, y + px(44) + pencil.line(18), 13, GREY, "centre")


def _opening(pencil: Pencil, app: App) -> None:
    window = app.camera.window
    pencil.text("Opening …", window[0] / 2, window[1] / 2 - pencil.line(20), 20, GREY, "centre")


def _help(pencil: Pencil) -> None:
    window, ui, px = pencil.scene.window, pencil.ui, pencil.px
    size, columns = layout.help_size(HELP, window, ui)
    width, height = layout.help_room(HELP, size, columns, ui)
    first, second = layout.help_columns(HELP, size, ui)
    lines, step = -(-len(HELP) // columns), layout.help_step(size, ui)
    x, y = (window[0] - width) / 2, (window[1] - height) / 2
    pencil.card((x, y, width, height), alpha=1)
    for i, (key, what) in enumerate(HELP):
        left = x + px(22) + i // lines * (first + second + px(44))
        at = y + px(0.85 * size) + i % lines * step
        pencil.text(key, left + first, at, size, ACCENT, "right")
        pencil.text(what, left + first + px(18), at, size)


def _question(pencil: Pencil, app: App) -> None:
    assert app.question is not None
    window, px = app.camera.window, pencil.px
    names = [name for name, _, _ in app.question.answers]
    card, lines, places = layout.question(app.question.text, names, window, app.ui)
    pencil.panel((0, 0, *window), BLACK, 0.5)
    pencil.card(card, alpha=1)
    for i, line in enumerate(lines):
        pencil.text(line, card[0] + card[2] / 2, card[1] + px(20) + i * (pencil.line(14) + px(3)), 14, WHITE, "centre")
    for i, (name, rect) in enumerate(zip(names, places, strict=True)):
        over = app.easel.pointer is not None and layout.contains(rect, app.easel.pointer)
        pencil.panel(rect, ACCENT if i == 0 else WHITE, (1 if over else 0.85) if i == 0 else (0.18 if over else 0.1), radius=px(8))
        pencil.text(name, rect[0] + rect[2] / 2, rect[1] + (rect[3] - pencil.line(14)) / 2, 14, BLACK if i == 0 else WHITE, "centre")
