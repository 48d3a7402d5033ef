"""What the window says, without a window: for how long, once, in which font, and never over the picture."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from typing import Any

import pytest
from view_app_cases import SIZE, fill, paint

from moebius.view import fonts, labels, layout
from moebius.view.app import App
from moebius.view.job import Failed, Loaded, Worker
from moebius.view.notices import Notices
from moebius.view.scene import Painter

pytest_plugins = ("view_app_fixtures",)


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
