"""What the window opens, without a window: dialogs, typed paths, the clipboard, what is dropped, the sample."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from PIL import Image
from view_app_cases import SIZE, fill, paint, patient

from moebius.errors import UsageError
from moebius.view import clipboard, dialogs, layout
from moebius.view.app import App
from moebius.view.bars import status

pytest_plugins = ("view_app_fixtures",)


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
