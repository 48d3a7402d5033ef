"""The window's history of strokes and fills, and how unsaved work is kept from getting lost; without a window."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from view_app_cases import SIZE, FakeResult, fill, finish, paint, patient, state

from moebius.pictures import photo as photos
from moebius.view import history, layout
from moebius.view.app import App
from moebius.view.history import Fill, History
from moebius.view.job import built_on
from moebius.view.picture import Picture

pytest_plugins = ("view_app_fixtures",)


# history -------------------------------------------------------------------------------------------------------------
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
