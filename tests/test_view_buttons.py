"""The window's keys and buttons, without a window: each has an action, lies where it can be hit, and does what it says."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from PIL import Image
from view_app_cases import fill, paint, patient, press_button, state

from moebius.view import keys, layout, toolbar
from moebius.view.app import App

pytest_plugins = ("view_app_fixtures",)


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
