"""What the window decides, without a window: its history, buttons, words and how long they stay, dialogs, the clipboard, what is asked."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np
import pytest
from PIL import Image

from moebius.errors import MoebiusError, UsageError
from moebius.pictures import photo as photos
from moebius.view import clipboard, dialogs, fonts, history, keys, labels, layout, toolbar
from moebius.view.app import App
from moebius.view.bars import status
from moebius.view.errands import Errands
from moebius.view.history import Fill, History
from moebius.view.job import Failed, Finished, Loaded, Worker, built_on
from moebius.view.notices import Notices
from moebius.view.picture import Picture
from moebius.view.scene import Painter

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


@pytest.fixture
def app(tmp_path: Path) -> Any:
    Image.new("RGB", SIZE, (90, 120, 150)).save(tmp_path / "photo.png")
    made = App(Results(), Errands(lambda: None), {}, 4096, Clock())  # type: ignore[arg-type]
    made.resize((800, 600), 1.0)
    made.open(tmp_path / "photo.png")
    assert made.opening == "photo.png"
    patient(made)
    yield made
    made.errands.close()


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


# history -------------------------------------------------------------------------------------------------------------
def state(app: App) -> tuple[int, int, int]:
    """What is painted on, which fill of it is in view, how many pixels are marked."""
    sheet = app.easel.sheet
    assert sheet is not None
    return int(sheet.photo.rgb[0, 0, 0]), sheet.shown, int(sheet.canvas.fill.sum())


def test_strokes_and_fills_are_one_history_and_a_fill_is_built_on(app: App) -> None:
    states = [state(app)]
    paint(app, 10, 10)
    states.append(state(app))
    fill(app, 200)
    assert state(app) == (90, 1, states[1][2])
    states.append(state(app))
    paint(app, 30, 20)
    assert state(app)[:2] == (200, 0)
    states.append(state(app))
    fill(app, 250)
    states.append(state(app))
    for before in states[-2::-1]:
        app.key("z", control=True)
        if before[1] and state(app)[0] == 200:  # the fill in view, and the same as a sheet without a stroke: two names of one picture
            assert state(app) == (200, 0, 0)
            continue
        assert state(app) == before
    app.key("z", control=True)
    assert state(app) == states[0]
    assert not app.can("undo")
    seen = []
    for _ in range(4):
        app.key("z", control=True, shift=True)
        seen.append(state(app))
    assert seen == states[1:]
    worker: Any = app.worker
    assert [int(photo.rgb[0, 0, 0]) for photo, _, _ in worker.runs] == [90, 200]


def test_another_stroke_ends_what_can_be_redone_and_clear_can_be_undone(app: App) -> None:
    paint(app, 10, 10)
    fill(app, 200)
    paint(app, 30, 20)
    for _ in range(2):
        app.key("z", control=True)
    assert state(app)[:2] == (90, 0)
    marked = state(app)[2]
    app.key("c")
    assert state(app) == (90, 0, 0)
    app.key("y", control=True)
    assert state(app) == (90, 0, 0)
    app.key("z", control=True)
    assert state(app) == (90, 0, marked)
    app.key("right")
    assert state(app) == (90, 1, marked)  # no result is gone


def test_what_is_painted_during_a_run_is_gone_on_with(app: App) -> None:
    paint(app, 5, 5)
    app.key("enter")
    begun = state(app)[2]
    paint(app, 35, 25)
    both = state(app)[2]
    finish(app, 200)
    assert state(app) == (200, 0, both - begun)
    assert both > begun


def test_a_run_ends_on_the_sheet_that_it_was_begun_on() -> None:
    photo = photos.load(np.zeros((*SIZE[::-1], 3), np.uint8))
    picture, hole = Picture.of(photo, 64), np.zeros(SIZE[::-1], bool)
    made = History(photo, picture)

    def result(seed: int) -> Fill:
        return Fill(None, photo, picture, hole, seed)  # type: ignore[arg-type]

    first = made.sheet
    assert made.keep(result(0), first)
    made.build_on()
    assert made.sheet is not first
    assert not made.keep(result(1), first)
    assert (made.sheet.fills, [f.seed for f in first.fills], first.shown) == ([], [0, 1], 1)
    assert made.undo()
    assert (made.sheet, first.shown, first.undone) == (first, 0, 1)


def test_the_oldest_goes_first_where_there_is_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    photo = photos.load(np.zeros((*SIZE[::-1], 3), np.uint8))
    picture, hole = Picture.of(photo, 64), np.zeros(SIZE[::-1], bool)
    monkeypatch.setattr(history, "KEPT_BYTES", 3 * history.COPIES * picture.levels[0].nbytes)
    made = History(photo, picture)
    for seed in range(5):
        made.keep(Fill(None, photo, picture, hole, seed), made.sheet)  # type: ignore[arg-type]
    assert ([f.seed for f in made.sheet.fills], made.sheet.shown) == ([2, 3, 4], 3)


def test_a_fill_keeps_what_came_with_the_photo() -> None:
    image = Image.new("RGB", SIZE, (9, 9, 9))
    exif = Image.Exif()
    exif[271] = "a camera"
    image.info["exif"] = exif.tobytes()
    image.info["dpi"] = (300, 300)
    photo = photos.load(image)
    filled: Any = FakeResult(photo.with_rgb(np.full_like(photo.rgb, 7)))
    onto = built_on(photo, filled)
    assert (onto.extras, int(onto.rgb[0, 0, 0])) == (photo.extras, 7)
    assert onto.extras.exif


# keys and buttons ----------------------------------------------------------------------------------------------------
def test_every_key_and_button_has_an_action(app: App) -> None:
    for table in (keys.PLAIN, keys.CONTROL, keys.CONTROL_SHIFT):
        assert set(table.values()) <= app._actions.keys()
    assert {b.name for b in (*toolbar.BUTTONS, toolbar.STOP)} <= app._actions.keys()
    assert (keys.action("z", True, True), keys.action("z", True, False), keys.action("z", False, False)) == ("redo", "undo", None)


@pytest.mark.parametrize(("window", "ui"), [((1000, 700), 1.0), ((360, 280), 1.0), ((2000, 1500), 2.0), ((450, 400), 1.5)])
def test_buttons_lie_in_the_bar_and_are_hit(window: tuple[int, int], ui: float) -> None:
    places = layout.buttons(window, ui)
    assert list(places) == ["open", "brush", "erase", "undo", "fill", "compare", "save"]
    for name, (x, y, w, h) in places.items():
        assert layout.button_at((x + w / 2, y + h / 2), window, ui) == name
        assert x >= 0
        assert y >= 0
        assert x + w <= window[0] - 40 * ui  # the zoom
        assert y + h <= layout.HEAD * ui
    assert layout.button_at((window[0] / 2, window[1] / 2), window, ui) is None
    lefts = [x for x, _, w, _ in places.values()]
    assert all(b >= a + places["open"][2] for a, b in pairwise(lefts))


@pytest.mark.parametrize("window", [(360, 280), (400, 700), (1000, 700)])
def test_help_and_questions_fit(window: tuple[int, int]) -> None:
    size, columns = layout.help_size(keys.HELP, window, 1.0)
    assert (size == 14) == (window[1] == 700)
    width, height = layout.help_room(keys.HELP, size, columns, 1.0)
    assert width <= window[0]
    assert height <= window[1]
    card, _, places = layout.question("The last fill is not saved. Save it first?", ("Save", "Discard", "Cancel"), window, 1.0)
    assert card[0] >= 0
    assert card[1] >= 0
    for x, y, w, h in places:
        assert x >= card[0]
        assert x + w <= card[0] + card[2]
        assert y + h <= card[1] + card[3]


def test_the_buttons_do_what_they_say(app: App) -> None:
    assert [name for name in ("undo", "fill", "compare", "save") if app.can(name)] == []
    press_button(app, "erase")
    assert app.easel.erasing
    paint(app, 10, 10)
    assert state(app)[2] == 0
    press_button(app, "brush")
    paint(app, 10, 10)
    marked = state(app)[2]
    assert marked
    assert app.can("fill")
    press_button(app, "undo")
    assert state(app)[2] == 0
    app.key("y", control=True)
    press_button(app, "fill")
    assert app.running is not None
    press_button(app, "fill")  # Stop
    assert app.running is None
    fill(app, 200)
    x, y, _, _ = layout.buttons(app.camera.window, app.ui)["compare"]
    app.move((x + 3, y + 3))
    app.press("left")
    assert app.comparing
    app.release("left")
    assert not app.comparing
    assert app.path is not None
    press_button(app, "save")
    app.key("left")  # while it is written
    patient(app)
    assert app.shown == 0
    assert np.asarray(Image.open(app.path.with_name("photo-filled.png")))[0, 0, 0] == 200


def test_words_for_a_button_come_when_the_pointer_rests_there() -> None:
    hover = toolbar.Hover()
    hover.over("save", 10.0)
    assert hover.tip(10.1) is None
    assert hover.due(10.1) == pytest.approx(toolbar.HOVER - 0.1)
    assert (hover.tip(10.6), hover.appears(10.6), hover.appears(10.7)) == ("save", True, False)
    hover.over("save", 11.0)
    assert hover.tip(11.0) == "save"
    hover.pressed()
    assert (hover.tip(12.0), hover.due(12.0)) == (None, None)
    hover.over(None, 13.0)
    assert hover.tip(99.0) is None


def test_messages_go_away_and_failures_stay_longer(app: App) -> None:
    clock: Any = app.clock
    lasting = {}
    for error in (False, True):
        app.say("Something that takes a while to read.", error)
        begun, due = clock.now, app.due()
        assert due is not None
        clock.now += due - 0.01
        app.handle_events()
        assert app.message
        clock.now += 0.02
        app.handle_events()
        assert not app.message
        lasting[error] = clock.now - begun
    assert lasting[True] > 2 * lasting[False] > 6
    assert app.due() is None


def test_a_note_is_given_once(app: App) -> None:
    assert Notices().once(["a", "a", "b"]) == "a b"
    paint(app, 10, 10)
    fill(app, 200, ("nano is small.",))
    assert app.message == "nano is small."
    app.key("left")
    fill(app, 210, ("nano is small.", "Most is marked."))
    assert app.message == "Most is marked."


# unsaved work --------------------------------------------------------------------------------------------------------
def test_unsaved_work_is_asked_about(app: App, tmp_path: Path) -> None:
    app.close()
    assert app.closing
    app.closing = False
    paint(app, 10, 10)
    fill(app, 200)
    app.close()
    assert not app.closing
    app.key("escape")
    assert (app.question, app.closing) == (None, False)
    other = tmp_path / "other.png"
    Image.new("RGB", (20, 20)).save(other)
    app.drop([other])
    assert app.question is not None
    app.key("r")  # does nothing meanwhile
    assert app.running is None
    _, _, places = layout.question(app.question.text, [a[0] for a in app.question.answers], app.camera.window, app.ui)
    app.move((places[0][0] + 2, places[0][1] + 2))
    app.press("left")  # Save
    patient(app)
    assert (tmp_path / "photo-filled.png").exists()
    assert app.path == other
    app.close()
    assert app.closing


def test_discarding_goes_on_and_a_save_that_fails_does_not(app: App, tmp_path: Path) -> None:
    paint(app, 10, 10)
    fill(app, 200)
    app.folder = tmp_path / "nowhere"
    app.close()
    app.key("s")
    app.close()  # while it is written
    assert not app.closing
    patient(app)
    assert (app.closing, app.is_error, app.unsaved) == (False, True, True)
    app.close()
    app.key("d")
    assert app.closing


def test_what_is_painted_and_not_filled_in_is_asked_about(app: App, tmp_path: Path) -> None:
    """But for a mask that came with the picture, and what undo has taken back."""
    paint(app, 10, 10)
    app.close()
    assert (app.closing, app.question is not None) == (False, True)
    app.key("enter")
    assert (app.closing, app.question) == (False, None)
    app.drop([tmp_path / "photo.png"])
    app.key("escape")
    patient(app)
    assert app.canvas is not None
    assert app.canvas.any()
    app.key("z", control=True)
    assert not app.at_stake
    app.key("z", control=True, shift=True)
    assert app.at_stake
    fill(app, 200)
    app.save()
    patient(app)
    assert not app.at_stake  # the mask was filled in, and that is saved
    paint(app, 20, 20)
    app.drop([tmp_path / "photo.png"])
    app.key("d")
    patient(app)
    assert not app.at_stake
    Image.new("L", SIZE, 255).save(tmp_path / "mask.png")
    app.open(tmp_path / "photo.png", tmp_path / "mask.png")
    patient(app)
    app.close()
    assert app.closing


def test_what_is_painted_during_a_run_is_still_to_be_filled_in(app: App) -> None:
    paint(app, 10, 10)
    app.key("enter")
    paint(app, 30, 20)
    finish(app, 200)
    app.save()
    patient(app)
    assert (app.unsaved, app.at_stake) == (False, True)


# opening -------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("platform", "there", "desktop", "begins"),
    [
        ("linux", ("zenity", "kdialog"), "GNOME", ["/bin/zenity", "--file-selection"]),
        ("linux", ("zenity", "kdialog"), "KDE", ["/bin/kdialog", "--title"]),
        ("linux", ("kdialog",), "GNOME", ["/bin/kdialog", "--title"]),
        ("linux", (), "GNOME", None),
        ("darwin", (), "", ["osascript", "-e"]),
        ("win32", ("powershell",), "", ["powershell", "-NoProfile"]),
    ],
)
def test_the_dialog_of_every_system(platform: str, there: tuple[str, ...], desktop: str, begins: list[str] | None) -> None:
    hostile = Path("/home/a\"; rm -rf x ' $(y)")
    words = dialogs.command(hostile, platform, lambda name: f"/bin/{name}" if name in there else None, desktop)
    assert (words if words is None else words[:2]) == begins
    if words is not None:  # a folder's name is a word of its own, or in the environment: never within a script
        scripts = [w for w in words if "choose file" in w or "Forms" in w]
        assert not any("rm -rf" in w for w in scripts)
        assert platform == "win32" or any(str(hostile) in w for w in words)


def test_a_dialog_answers_is_cancelled_or_is_not_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def answer(code: str) -> Path | None:
        monkeypatch.setattr(dialogs, "command", lambda _: [sys.executable, "-S", "-c", code])
        return dialogs.Dialog().choose(tmp_path)

    assert answer("print('/a/ name .png')") == Path("/a/ name .png")
    assert answer("raise SystemExit(1)") is None
    with pytest.raises(dialogs.NoDialogError):
        answer("raise SystemExit(255)")
    monkeypatch.setattr(dialogs, "command", lambda _: None)
    with pytest.raises(dialogs.NoDialogError):
        dialogs.Dialog().choose(tmp_path)


def test_a_path_is_typed_where_there_is_no_dialog(app: App, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dialogs, "command", lambda _: None)
    Image.new("RGB", (20, 20)).save(tmp_path / "einß.png")
    app.key("o", control=True)
    patient(app)
    assert app.typed == ""
    app.type(f"{tmp_path}/ein")
    app.key("c")  # a letter is no command meanwhile
    app.paste_text = lambda: "ßx\n"
    app.key("v", control=True)
    app.key("backspace")
    app.type(".pn")
    app.key("enter")
    assert app.is_error
    app.key("o", control=True)
    patient(app)
    app.type(f"{tmp_path}/einß.png")
    app.key("enter")
    patient(app)
    assert app.path == tmp_path / "einß.png"


def test_what_the_clipboard_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there = {"xclip": "/bin/xclip", "wl-paste": "/bin/wl-paste"}
    both = {"DISPLAY": ":0", "WAYLAND_DISPLAY": "w"}
    assert [words[0] for words in clipboard.commands(there.get, both)] == ["/bin/wl-paste", "/bin/xclip"]
    assert [words[0] for words in clipboard.commands(there.get, {"DISPLAY": ":0"})] == ["/bin/xclip"]
    file = tmp_path / "a b.png"
    file.write_bytes(b"x")
    for text in (str(file), f'"{file}"\n', file.as_uri(), f"\n{file.as_uri()}\r\n"):
        assert clipboard.file_named(text) == file
    for text in ("", "https://example.org/a.png", str(tmp_path), "a\0b", "x" * 10_000):
        with pytest.raises(UsageError):
            clipboard.file_named(text)
    monkeypatch.setattr(clipboard, "commands", lambda: [[sys.executable, "-S", "-c", "print('PNG', end='')"]])
    if sys.platform == "linux":
        assert clipboard.pasted(str(file)) == b"PNG"
        monkeypatch.setattr(clipboard, "commands", lambda: [["/no/such/program"]])
        assert clipboard.pasted(str(file)) == file


def test_a_picture_is_pasted_and_saved_in_the_current_folder(app: App, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = (tmp_path / "photo.png").read_bytes()
    monkeypatch.setattr(clipboard, "picture", lambda: data)
    monkeypatch.chdir(tmp_path)
    app.key("v", control=True)
    patient(app)
    assert app.path == Path("pasted.png")
    paint(app, 10, 10)
    fill(app, 200)
    app.key("s")
    patient(app)
    assert (tmp_path / "pasted-filled.png").exists()


def test_the_last_picture_that_was_asked_for_is_shown_and_a_broken_one_leaves_all(app: App, tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        Image.new("RGB", (20, 20)).save(tmp_path / name)
        app.open(tmp_path / name)
    patient(app)
    assert app.path == tmp_path / "b.png"
    app.open(tmp_path / "missing.png")
    assert status(app)[0][0].startswith("Paint")
    patient(app)
    assert (app.path, app.is_error, app.opening) == (tmp_path / "b.png", True, "")


def test_the_sample_has_a_field_to_drop_on_that_opens(app: App, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not app.has_drop_field
    app.open(tmp_path / "photo.png", sample=True)
    patient(app)
    assert app.has_drop_field
    x, y, w, h = layout.drop_field(app.camera.window, app.ui, beside=True)
    bottom = app.camera.to_window(SIZE)[1]
    assert bottom < y  # below the picture, above the bar
    assert y + h < app.camera.window[1] - layout.BAR
    monkeypatch.setattr(dialogs, "command", lambda _: [sys.executable, "-S", "-c", f"print({str(tmp_path / 'photo.png')!r})"])
    app.move((x + w / 2, y + h / 2))
    app.press("left")
    patient(app)
    assert not app.is_sample


# the run's thread ----------------------------------------------------------------------------------------------------
def test_a_gpu_that_is_refused_is_said_in_the_window(app: App, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "moebius")

    class Model:
        device, precision = "the CPU", "f32"

    def load(_: Callable[[], None]) -> Any:
        logging.getLogger("moebius").warning("%s does not compute right.", "Some GPU")
        return Model()

    worker = Worker(load, lambda: None, 64)
    worker.begin()
    event = worker.events.get(timeout=60)
    assert worker.close(60)
    assert event == Loaded("the CPU, in f32", ("Some GPU does not compute right.",))
    app.worker.events.put(event)
    app.handle_events()
    assert (app.message, app.is_error) == ("Some GPU does not compute right.", True)
    app.worker.events.put(Failed(0, "The GPU named is refused."))
    app.handle_events()
    assert app.message == "The GPU named is refused."


def test_closing_does_not_wait_for_a_step_without_end() -> None:
    over = SimpleQueue[None]()

    def load(_: Callable[[], None]) -> Any:
        over.get()
        raise MoebiusError("enough")

    worker = Worker(load, lambda: None, 64)
    worker.begin()
    assert not worker.close(0.1)
    assert not worker.close(60, lambda: True)  # a second Ctrl-C
    over.put(None)
    assert worker.close(60)


# words ---------------------------------------------------------------------------------------------------------------
def test_names_in_other_scripts_are_drawn_with_a_font_that_has_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever fonts this system has: one that lacks nothing but what is asked for plays the system's."""
    fonts.system_font.cache_clear()
    monkeypatch.setattr(fonts, "_found", [])
    have = {"й": "one.ttf", "像": "two.ttf"}
    other = fonts.packaged(20)
    monkeypatch.setattr(fonts, "_candidates", lambda _: iter([("one.ttf", 0), ("two.ttf", 0)]))
    monkeypatch.setattr(fonts, "opened", lambda name, index, size: other)
    monkeypatch.setattr(fonts, "has", lambda name, index, c: c.isascii() if name is None else have.get(c, name) == name)
    asked = fonts.system_font
    assert (asked("й"), asked("像"), asked("й像")) == (("one.ttf", 0), ("two.ttf", 0), None)
    assert [(text, font is other) for text, font in fonts.runs("a йй b", 14)] == [("a ", False), ("йй", True), (" b", False)]
    fonts.system_font.cache_clear()


def test_no_letter_is_a_question_mark() -> None:
    """Where no font has it, it is drawn as the box of a letter that is missing, or without its accent."""
    for name in ("像.png", "Пейзаж.png", "שלום.png", "é.png"):
        assert "?" not in "".join(text for text, _ in fonts.runs(labels.plain(name), 14))
        assert labels.drawn(name, 14).any()


@pytest.mark.parametrize("window", [(360, 280), (1100, 750)])
def test_every_state_is_drawn_and_its_words_stay_off_the_picture(app: App, window: tuple[int, int]) -> None:
    app.resize(window, 1.0)
    app.camera.fit()
    painter = Painter()
    bottom = app.camera.to_window(SIZE)[1]

    def words() -> list[float]:
        """The upper edges of what is written on this frame and lies below the toolbar."""
        return [q.rect[1] for q in painter.build(app).quads if q.kind == "text" and q.rect[1] >= layout.HEAD]

    paint(app, 10, 10)
    assert min(words()) >= bottom
    app.say("A sentence of a usual length, as it is said when something was saved somewhere.")
    assert min(words()) >= bottom
    app.say("", error=False)
    fill(app, 200)
    assert min(words()) >= bottom
    for change in (lambda: app.key("f1"), lambda: app.close(), lambda: setattr(app, "typed", os.sep.join(["name"] * 90))):
        change()
        assert words()
