"""`moebius batch`: which pictures, which masks, what is made again, and what goes wrong without ending it."""

import json
import os
import sys
from pathlib import Path

import pytest
from batch_cases import files, mask, picture, small_model
from PIL import Image

from moebius.cli import batch, progress
from moebius.cli import main as cli
from moebius.errors import UsageError
from moebius.inpaint.inpainter import Inpainter
from moebius.many.pairs import find
from moebius.pictures import photo as photos
from moebius.pictures.metadata import read_metadata

NOTE = "what should be known of the model"


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> Inpainter:
    """In place of what the options name."""
    small = small_model()
    small.notes = (NOTE,)
    monkeypatch.setattr(batch, "load_model", lambda args, tell: small)
    return small


def run(capsys: pytest.CaptureFixture[str], *argv: object) -> tuple[int, str, str]:
    """(exit code, stdout, stderr) of `moebius batch` with two steps."""
    code = cli.run(["batch", *(str(a) for a in argv), "--steps", "2", "--strength", "1"])
    out = capsys.readouterr()
    return code, out.out, out.err


# Which pictures, which masks -------------------------------------------------------------------------------------------
def pairs(images: Path, masks: Path, out: Path, recursive: bool = False) -> tuple[dict[str, str | None], list[str]]:
    found = find(images, masks, out, recursive)
    names = {j.name: j.mask and j.mask.name for j in found.jobs}
    return names, sorted(name for names in found.ignored.values() for name in names)


def test_masks_beside_their_pictures(tmp_path: Path) -> None:
    for name in ("a.jpg", "b.png", "c.webp", "sub/a.png"):
        picture(tmp_path / name)
    for name in ("a_mask.png", "c_mask.jpg", "sub/a_mask.png", "z_mask.png"):
        mask(tmp_path / name)
    for name in ("notes.txt", ".hidden.png", "Thumbs.db"):
        (tmp_path / name).touch()
    out = tmp_path / "out"
    named = {"a.jpg": "a_mask.png", "b.png": None, "c.webp": "c_mask.jpg"}
    assert pairs(tmp_path, tmp_path, out) == (named, [".hidden.png", "Thumbs.db", "notes.txt", "sub", "z_mask.png"])
    picture(out / "sub/a.png")  # results of a run before are no pictures
    expected = named | {"sub/a.png": "a_mask.png"}, [".hidden.png", "Thumbs.db", "notes.txt", "z_mask.png"]
    assert pairs(tmp_path, tmp_path, out, recursive=True) == expected


def test_masks_in_a_folder_of_their_own_within_that_of_the_pictures(tmp_path: Path) -> None:
    for name in ("a.jpg", "sub/a.jpg", "b.jpg"):
        picture(tmp_path / name)
    for name in ("masks/a.png", "masks/sub/a_mask.png", "masks/c.png", "b_mask.png"):
        mask(tmp_path / name)
    named, ignored = pairs(tmp_path, tmp_path / "masks", tmp_path / "out", recursive=True)
    assert named == {"a.jpg": "a.png", "b.jpg": None, "sub/a.jpg": "a_mask.png"}
    assert ignored == ["b_mask.png", "c.png"]


def test_one_mask_for_all_is_no_picture(tmp_path: Path) -> None:
    picture(tmp_path / "a.jpg")
    one = mask(tmp_path / "m.png")
    mask(tmp_path / "a_mask.png")
    assert pairs(tmp_path, one, tmp_path / "out") == ({"a.jpg": "m.png"}, ["a_mask.png"])


def test_several_masks_for_a_picture_are_its_problem(tmp_path: Path) -> None:
    picture(tmp_path / "in/a.jpg")
    for name in ("a.png", "a_mask.png"):
        mask(tmp_path / "masks" / name)
    (job,) = find(tmp_path / "in", tmp_path / "masks", tmp_path / "out", False).jobs
    assert job.mask is None
    assert "a.png" in job.problem
    assert "a_mask.png" in job.problem


def test_what_makes_no_batch(tmp_path: Path) -> None:
    picture(tmp_path / "in/sub/a.png")
    one = mask(tmp_path / "m.png")
    out = tmp_path / "out"
    with pytest.raises(UsageError, match="recursive"):
        find(tmp_path / "in", one, out, False)
    for images, masks, target in ((one, one, out), (tmp_path / "in", tmp_path / "no", out), (tmp_path / "in", one, tmp_path / "in")):
        with pytest.raises(UsageError):
            find(images, masks, target, True)
    picture(tmp_path / "in/sub/a.jpg")
    with pytest.raises(UsageError, match="sub/a"):
        find(tmp_path / "in", one, out, True)


@pytest.mark.skipif(sys.platform == "win32", reason="no pipes among files there")
def test_a_pipe_is_ignored(tmp_path: Path) -> None:
    picture(tmp_path / "a.jpg")
    os.mkfifo(tmp_path / "b.jpg")
    assert pairs(tmp_path, mask(tmp_path / "m.png"), tmp_path / "out") == ({"a.jpg": "m.png"}, ["b.jpg"])


def test_what_cannot_be_written_in_its_own_format_becomes_a_png(tmp_path: Path) -> None:
    (tmp_path / "a.heic").touch()
    (tmp_path / "b.HEIF").touch()
    picture(tmp_path / "c.JPG")
    found = find(tmp_path, mask(tmp_path / "m.png"), tmp_path / "out", False)
    assert [job.out.name for job in found.jobs] == ["a.png", "b.png", "c.JPG"]


# A run -----------------------------------------------------------------------------------------------------------------
def test_a_batch_says_where_it_is_and_a_note_on_the_model_once(capsys, tmp_path: Path, model: Inpainter) -> None:
    for name in ("a.jpg", "b.png", "sub/c.png"):
        picture(tmp_path / "in" / name)
    (tmp_path / "in/notes.txt").touch()
    one, out = mask(tmp_path / "m.png"), tmp_path / "out"
    code, printed, err = run(capsys, tmp_path / "in", one, out, "--recursive")
    assert (code, printed) == (0, "")
    assert files(out) == ["a.jpg", "b.png", "sub/c.png"]
    assert err.count(NOTE) == 1
    assert all(f"[{n}/3" in err for n in (1, 2, 3))
    assert err.count(" left]") == 2
    assert "notes.txt" in err
    assert "3 done, 0 skipped, 0 failed" in err


def test_on_a_terminal_there_is_a_bar(capsys, tmp_path: Path, model: Inpainter, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("LINES", "30")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    for name in ("a.jpg", "b.png", "c\x1b[31m\n.png"):
        picture(tmp_path / "in" / name)
    one = mask(tmp_path / "m.png")
    said = run(capsys, tmp_path / "in", one, tmp_path / "out")[2]
    assert "\r2/3 b.png" in said
    assert "\r3/3 c\\x1b[31m\\n.png" in said
    assert "\r" not in run(capsys, tmp_path / "in", one, tmp_path / "out", "--quiet")[2]


def test_where_there_is_no_terminal_a_slow_picture_says_how_far_it_is(
    capsys, tmp_path: Path, model: Inpainter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "EVERY", 0.0)
    picture(tmp_path / "in/a.jpg")
    err = run(capsys, tmp_path / "in", mask(tmp_path / "m.png"), tmp_path / "out")[2]
    assert "1/1 a.jpg: step 1 of 2" in err


def test_what_is_there_is_taken_when_it_was_made_alike(capsys, tmp_path: Path, model: Inpainter) -> None:
    for name in ("a.jpg", "b.png"):
        picture(tmp_path / "in" / name)
    out = tmp_path / "out"
    argv = [tmp_path / "in", mask(tmp_path / "m.png"), out]

    def again(*options: object) -> list[str]:
        """Which of the results are made anew."""
        before = {name: (out / name).read_bytes() for name in files(out)}
        for name in before:
            os.utime(out / name, (1, 1))
        code, _, err = run(capsys, *argv, "--resume", *options)
        made = [name for name in files(out) if (out / name).stat().st_mtime > 1]
        assert code == 0
        assert f"{len(made)} done, {2 - len(made)} skipped" in err
        return made

    assert again() == ["a.jpg", "b.png"]
    assert again() == []
    assert again("--guidance", 2.5) == []  # as it is without saying so
    for options in (["--seed", 4], ["--invert"], ["--grow", 2], ["--blend", "raw"]):
        assert again(*options) == ["a.jpg", "b.png"], options
        assert again(*options) == [], options
    model.model = "another"
    assert again(*options) == ["a.jpg", "b.png"]
    (out / "b.png").write_bytes(b"no picture")
    assert again(*options) == ["b.png"]
    Image.open(tmp_path / "in/a.jpg").save(out / "a.jpg")  # says nothing of how it was made
    assert again(*options) == ["a.jpg"]


def test_of_several_seeds_each_is_compared(capsys, tmp_path: Path, model: Inpainter) -> None:
    picture(tmp_path / "in/a.png")
    out, argv = tmp_path / "out", [tmp_path / "in", mask(tmp_path / "m.png"), tmp_path / "out", "--resume", "-n", 2]
    assert "1 done" in run(capsys, *argv)[2]
    assert files(out) == ["a-1.png", "a-2.png"]
    assert "1 skipped" in run(capsys, *argv)[2]
    (out / "a-2.png").write_bytes((out / "a-1.png").read_bytes())
    assert "1 done" in run(capsys, *argv)[2]


def test_the_settings_of_another_picture(capsys, tmp_path: Path, model: Inpainter) -> None:
    picture(tmp_path / "in/a.png")
    argv = [tmp_path / "in", mask(tmp_path / "m.png")]
    assert run(capsys, *argv, tmp_path / "first", "--seed", 7, "--guidance", 1.5, "--synthetic", "tiny")[0] == 0
    like = tmp_path / "first/a.png"
    assert run(capsys, *argv, tmp_path / "second", "--like", like, "--synthetic", "tiny")[0] == 0
    assert (tmp_path / "second/a.png").read_bytes() != b""
    one, two = (read_metadata(tmp_path / folder / "a.png") for folder in ("first", "second"))
    assert {k: v for k, v in one.items() if k != "timings"} == {k: v for k, v in two.items() if k != "timings"}
    assert (two["seed"], two["guidance"]) == (7, 1.5)


def test_an_empty_mask_fails_or_copies(capsys, tmp_path: Path, model: Inpainter) -> None:
    picture(tmp_path / "in/a.jpg")
    picture(tmp_path / "in/b.jpg")
    mask(tmp_path / "masks/a.png", None)
    mask(tmp_path / "masks/b.png")
    argv = [tmp_path / "in", tmp_path / "masks", tmp_path / "out"]
    code, _, err = run(capsys, *argv)
    assert code == 1
    assert files(tmp_path / "out") == ["b.jpg"]
    assert "1 done, 0 skipped, 1 failed" in err
    code, _, err = run(capsys, *argv, "--allow-empty")
    assert code == 0
    assert "2 done" in err
    assert (tmp_path / "out/a.jpg").read_bytes() == (tmp_path / "in/a.jpg").read_bytes()


def test_no_picture_ends_the_batch(capsys, tmp_path: Path, model: Inpainter, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a.png", "b.png", "c.png", "d.png"):
        picture(tmp_path / "in" / name)
    (tmp_path / "in/b.png").write_bytes(b"no picture")
    for name in ("a.png", "b.png", "c.png"):
        mask(tmp_path / "masks" / name)
    load = photos.load

    def load_or_fail(source, *args):
        if Path(source).stem == "a":
            raise MemoryError
        return load(source, *args)

    monkeypatch.setattr(photos, "load", load_or_fail)
    code, printed, err = run(capsys, tmp_path / "in", tmp_path / "masks", tmp_path / "out", "--json")
    assert code == 1
    assert files(tmp_path / "out") == ["c.png"]
    assert "1 done, 0 skipped, 3 failed" in err
    lines = [json.loads(line) for line in printed.splitlines()]
    assert [Path(line["image"]).name for line in lines[:4]] == ["a.png", "b.png", "c.png", "d.png"]
    assert [line["error"]["kind"] if "error" in line else None for line in lines[:4]] == ["MemoryError", "UsageError", None, "UsageError"]
    assert [line.get("exit_code") for line in lines[:4]] == [1, 2, None, 2]
    assert [Path(line["mask"]).name for line in lines[:3]] == ["a.png", "b.png", "c.png"]
    assert lines[2]["output"] == [str(tmp_path / "out/c.png")]
    assert {k: lines[4]["summary"][k] for k in ("done", "skipped", "failed")} == {"done": 1, "skipped": 0, "failed": 3}
    assert len(lines) == 5


def test_what_is_ignored_and_skipped_is_in_the_data(capsys, tmp_path: Path, model: Inpainter) -> None:
    picture(tmp_path / "in/a.png")
    (tmp_path / "in/notes.txt").touch()
    argv = [tmp_path / "in", mask(tmp_path / "m.png"), tmp_path / "out", "--json", "--quiet", "--resume"]
    run(capsys, *argv)
    code, printed, err = run(capsys, *argv)
    skipped, summary = (json.loads(line) for line in printed.splitlines())
    assert (code, err, skipped["skipped"]) == (0, "", True)
    assert summary["summary"]["ignored"] == ["notes.txt"]


def test_a_photograph_for_a_mask_fails_unless_meant(capsys, tmp_path: Path, model: Inpainter) -> None:
    picture(tmp_path / "in/a.png")
    picture(tmp_path / "masks/a.png")
    argv = [tmp_path / "in", tmp_path / "masks", tmp_path / "out"]
    code, _, err = run(capsys, *argv)
    assert code == 1
    assert "photograph" in err
    assert run(capsys, *argv, "--yes")[0] == 0


def test_without_ray_there_is_one_sentence(capsys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture(tmp_path / "in/a.png")
    monkeypatch.setitem(sys.modules, "ray", None)
    code, printed, err = run(capsys, tmp_path / "in", mask(tmp_path / "m.png"), tmp_path / "out", "--ray")
    assert (code, printed, len(err.splitlines())) == (2, "", 1)
    assert "moebius-webgpu[ray]" in err


def test_a_batch_that_is_stopped_ends_with_130(capsys, tmp_path: Path, model: Inpainter, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in "abcdef":
        picture(tmp_path / f"in/{name}.png")
    seen = []

    def stop(self: progress.Pictures, how: str) -> None:
        seen.append(how)
        raise KeyboardInterrupt

    monkeypatch.setattr(progress.Pictures, "end", stop)
    code, _, err = run(capsys, tmp_path / "in", mask(tmp_path / "m.png"), tmp_path / "out")
    assert (code, seen) == (130, ["done"])
    assert "Traceback" not in err
    assert "a.png" in files(tmp_path / "out")
    assert not [name for name in files(tmp_path / "out") if name.endswith(".part")]


def test_the_summary_says_what_each_device_did(capsys, tmp_path: Path, model: Inpainter) -> None:
    for name in ("a.png", "b.png"):
        picture(tmp_path / "in" / name)
    code, printed, err = run(capsys, tmp_path / "in", mask(tmp_path / "m.png"), tmp_path / "out", "--json")
    (did,) = json.loads(printed.splitlines()[-1])["summary"]["devices"].values()
    assert (code, did["pictures"]) == (0, 2)
    assert 0 < did["busy"] <= 1
    assert did["per_second"] > 0
    assert f"{model.device}: 2 pictures" in err


def test_a_folder_that_cannot_be_made(capsys, tmp_path: Path, model: Inpainter) -> None:
    picture(tmp_path / "in/a.png")
    (tmp_path / "file").touch()
    code, _, err = run(capsys, tmp_path / "in", mask(tmp_path / "m.png"), tmp_path / "file/out")
    assert code == 2
    assert f"{tmp_path / 'file'} is a file; name a folder." in err
