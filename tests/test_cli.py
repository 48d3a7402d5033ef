"""The command as a user meets it: output, exit codes, one sentence for every mistake."""

import argparse
import io
import json
import re
import sys

import numpy as np
import pytest
from goldens import FOLDER
from PIL import Image, ImageFilter

import moebius
from moebius.__main__ import main
from moebius.cli import main as cli
from moebius.cli import progress

IMAGE, MASK = (str(FOLDER / f"pipeline_nano.{which}.png") for which in ("image", "mask"))


def run(capsys, *argv):
    """(exit code, stdout, stderr), also where argparse exits by itself."""
    try:
        code = cli.run([str(a) for a in argv])
    except SystemExit as stop:
        code = stop.code
    out = capsys.readouterr()
    return code, out.out, out.err


def test_inpaint_writes_a_picture_and_says_what_the_weights_are(capsys, tmp_path):
    target = tmp_path / "out.png"
    options = ["--synthetic", "tiny", "--steps", 2, "--device", "cpu", "-o", target]
    code, out, err = run(capsys, "inpaint", IMAGE, MASK, *options)
    assert (code, out) == (0, ""), err
    assert "Weights: synthetic" in err
    assert "Device: CPU" in err
    assert f"Wrote {target}" in err
    same = (np.asarray(Image.open(target)) == np.asarray(Image.open(IMAGE))).all(axis=-1)
    far = np.asarray(Image.open(MASK).convert("L").filter(ImageFilter.MaxFilter(41))) == 0  # the window is scaled by 200/128
    assert same.shape == (200, 200)
    assert same[far].all()
    assert not same.all()
    assert [p.name for p in tmp_path.iterdir()] == ["out.png"]


def test_inpaint_on_an_adapter(capsys, tmp_path, llvmpipe):
    options = ["--synthetic", "tiny", "--steps", 2, "-o"]
    for device in ("llvmpipe", "cpu"):
        code, _, err = run(capsys, "inpaint", IMAGE, MASK, "--device", device, *options, tmp_path / f"{device}.png")
        assert code == 0, err
    a, b = (np.asarray(Image.open(tmp_path / f"{device}.png"), np.int16) for device in ("llvmpipe", "cpu"))
    assert np.abs(a - b).max() <= 1


def test_the_output_is_whole_or_not_there(capsys, tmp_path):
    target = tmp_path / "no folder" / "out.png"
    code, _, err = run(
        capsys, "inpaint", IMAGE, MASK, "--synthetic", "tiny", "--steps", 1, "--strength", 1, "--device", "cpu", "-o", target
    )
    assert code == 2
    why = "cannot be written: there is no folder .*; make it first"
    assert re.fullmatch(rf"moebius: {re.escape(str(target))} {why}\.", err.splitlines()[-1])


NOT_A_PICTURE = str(FOLDER / "unet_nano_manifest.json")
MISUSE = [
    (["validate", "--image-size", "12"], "The image size is 12; it must be a multiple of 8"),
    (["inpaint", NOT_A_PICTURE, MASK, "-o", "x.png", "--synthetic", "tiny"], "is not a PNG, JPEG"),
    (["inpaint", "missing.png", MASK, "-o", "x.png", "--synthetic", "tiny"], "missing.png"),
    (["inpaint", IMAGE, "-o", "x.png", "--synthetic", "tiny"], "There is no mask"),
    (["inpaint", IMAGE, "--box", "1,2,3", "-o", "x.png", "--synthetic", "tiny"], "four whole numbers"),
    (["inpaint", IMAGE, "--box", "900,2,3,4", "-o", "x.png", "--synthetic", "tiny"], "covers nothing of the image, which is 200×200"),
    (["inpaint", IMAGE, MASK, "-o", IMAGE, "--synthetic", "tiny"], "is one of the inputs itself"),
    (["inpaint", IMAGE, MASK, "-o", MASK, "--synthetic", "tiny"], "is one of the inputs itself"),
    (["inpaint", IMAGE, MASK, "-o", "x.png", "--synthetic", "tiny", "--grow", "1e300"], "grow is 1e"),
    (["batch", str(FOLDER), MASK, str(FOLDER), "--synthetic", "tiny"], "is one of the inputs itself"),
    (["inpaint", IMAGE, MASK, "-o", "x.png", "--model", "places3"], "neither a published model"),
    (["inpaint", IMAGE, MASK, "-o", "x.png", "--synthetic", "tiny", "--device", "cpu", "--require-gpu"], "A GPU is required"),
    (["inpaint", IMAGE, MASK, "-o", "x.png", "--synthetic", "tiny", "--like", IMAGE], "does not say how it was made"),
    (["inpaint", IMAGE, MASK, "-o", "x", "--synthetic", "tiny"], "x has no ending"),
    (["inpaint", IMAGE, MASK, "-o", "x.png", "--synthetic", "tiny", "--device", "cpu", "--steps", "0"], "steps is 0"),
    (["inpaint", IMAGE, MASK, "-o", "x.png", "--synthetic", "tiny", "--device", "cpu", "--strength", "-1"], "strength is -1"),
    (["plan", "--config", "huge"], "invalid choice"),
    (["inpaint", IMAGE, MASK, "-o", "x.png", "--steps", "1"], "leaves none of 1 steps"),
    (["inpaint", IMAGE, MASK, "-o", "x.png", "-n", "1000000000"], "num_images is 1000000000"),
    (["inpaint", IMAGE, MASK, "-o", "x.png", "--vae", "x.bin"], "nano has a VAE of its own"),
    (["inpaint", IMAGE, MASK, "-o", "x.png", "--model", "plaecs2"], "Did you mean places2"),
    (["inpaint", IMAGE, MASK, "-o", "x.png", "--max-pixels", "39999"], r"200×200.*\(--max-pixels\)"),
    (["inpaint", IMAGE, MASK, "-o", "."], r"^moebius: \. is a folder; name a file to write the picture into\.\n$"),
    (["inpaint", IMAGE, MASK, "-o", "x.png", "--stepz", "2"], "Did you mean --steps"),
    (["inpant", IMAGE, MASK, "-o", "x.png"], "Did you mean inpaint"),
    (["inpaint", "-", "-", "-o", "x.png"], "not both"),
    (["inpaint", IMAGE, MASK, "-o", "-", "-n", "2"], "one picture"),
    (["inpaint", IMAGE, MASK, "-o", "-", "--json"], "--json"),
    (["inpaint", IMAGE, MASK, "-o", "-", "--format", "xcf"], "--format is 'xcf'"),
    (["inpaint", IMAGE, MASK, "-o", "x.png", "--format", "png"], "--format goes with -o -"),
    (["inpaint", IMAGE, MASK, "-o", "x.png", "--synthetic", "tiny", "--device", " "], "name .* is empty"),
    (["inpaint", IMAGE, MASK, "-o", "x.png", "--synthetic", "tiny", "--device", ""], "name .* is empty"),
    (["inpaint", IMAGE, MASK, "-o", "x.png", "--synthetic", "tiny", "--vae", "v", "--revision", "r"], "or --vae and --revision"),
    (["batch", str(FOLDER), MASK, IMAGE, "--synthetic", "tiny"], r"image\.png is a file; name a folder"),
    (["cache", "--clear", "--check"], "not allowed with"),
    (["inpaint", "https://user:secret@host/a.png", MASK, "-o", "x.png"], "is a URL"),
]


@pytest.mark.parametrize(("argv", "message"), MISUSE)
def test_misuse_is_exit_code_2(capsys, argv, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, _, err = run(capsys, *argv)
    assert code == 2
    assert re.search(message, err)
    assert "Traceback" not in err
    assert not list(tmp_path.iterdir())


def test_the_defaults_that_help_tells_are_those_of_the_settings():
    """They are typed, for the settings' module takes half a second to import, and the window's start is to have none of the server's."""
    from moebius.cli.options import add_settings
    from moebius.cli.serve import add_parser
    from moebius.inpaint.settings import Settings
    from moebius.serve.limits import Limits

    p, commands = argparse.ArgumentParser(), argparse.ArgumentParser().add_subparsers()
    add_settings(p)
    add_parser(commands)
    of_server = [a for a in commands.choices["serve"]._actions if a.dest.startswith("max_")]
    of_run = [a for a in p._actions if a.dest != "max_pixels"]
    for defaults, actions, count in ((Settings(), of_run, 9), (Limits(), of_server, 6)):
        told = {a.dest: match[1].replace(",", "") for a in actions if (match := re.search(r"\(([\d.,]+|numpy)\)", a.help or ""))}
        names = {name: name if hasattr(defaults, name) else name.removeprefix("max_") for name in told}
        assert told == {name: str(getattr(defaults, attribute)).removesuffix(".0") for name, attribute in names.items()}
        assert len(told) == count


def test_synthetic_weights_go_with_no_others_whoever_chose_them(capsys, tmp_path):
    """Typed, or taken from a picture: nothing is named that nobody typed."""
    picture, made = tmp_path / "a.png", ["--synthetic", "tiny", "--steps", 1, "--strength", 1, "--device", "cpu"]
    assert run(capsys, "inpaint", IMAGE, MASK, *made, "-o", picture)[0] == 0
    for chosen, said in ((made, "leave out --synthetic, or --vae."), (["--like", picture], f"{picture} was made with synthetic weights")):
        code, _, err = run(capsys, "inpaint", IMAGE, MASK, *chosen, "--vae", "x.bin", "-o", tmp_path / "b.png")
        assert code == 2
        assert said in err
        assert ("--synthetic" in err) == (chosen is made)
    assert "leave out --vae." in err


def test_bare_moebius_prints_its_help_and_a_capital_v_the_version(capsys):
    code, out, err = run(capsys)
    assert (code, err) == (0, "")
    assert re.search(r"^ +inpaint +", out, re.M)
    assert run(capsys, "-V") == run(capsys, "--version") == (0, f"moebius {moebius.__version__}\n", "")


def test_a_box_that_begins_left_of_the_picture_needs_no_equals_sign(capsys, tmp_path):
    for i, box in enumerate((["--box", "-5,-3,40,40"], ["--box=-5,-3,40,40"])):
        code, _, err = run(capsys, "inpaint", IMAGE, *box, *FAST, "-o", tmp_path / f"{i}.png")
        assert code == 0, err
    a, b = (np.asarray(Image.open(tmp_path / f"{i}.png")) for i in range(2))
    np.testing.assert_array_equal(a, b)
    assert (a != np.asarray(Image.open(IMAGE))).any()


def test_json_names_what_went_in_and_says_what_failed(capsys, tmp_path):
    code, out, _ = run(capsys, "inpaint", IMAGE, MASK, "--box", "1,2,30,40", *FAST, "-o", tmp_path / "a.png", "--json")
    row = json.loads(out)
    assert code == 0
    assert (row["image"], row["mask"], row["box"]) == (IMAGE, MASK, [[1, 2, 30, 40]])
    code, out, err = run(capsys, "inpaint", "missing.png", MASK, *FAST, "-o", tmp_path / "b.png", "--json")
    row = json.loads(out)
    assert (code, row["exit_code"], row["error"]["kind"], row["image"]) == (2, 2, "UsageError", "missing.png")
    assert err.strip().endswith(row["error"]["message"])
    code, out, err = run(capsys, "inpaint", IMAGE, MASK, "--stepz", 2, "--json")
    assert (code, json.loads(out)["error"]["kind"]) == (2, "UsageError")
    assert err.startswith("usage: moebius inpaint ")


def test_info_reads_standard_input(capsys, tmp_path, monkeypatch):
    assert run(capsys, "inpaint", IMAGE, MASK, *FAST, "-o", tmp_path / "a.png")[0] == 0
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO((tmp_path / "a.png").read_bytes())))
    assert run(capsys, "info", "-", "--json") == run(capsys, "info", tmp_path / "a.png", "--json")


FAST = ["--synthetic", "tiny", "--steps", 2, "--device", "cpu"]


def pictures(folder, names, size=(40, 30)):
    folder.mkdir()
    g = np.random.default_rng(0)
    for name in names:
        Image.fromarray(g.integers(0, 255, (*size[::-1], 3), np.uint8)).save(folder / name)
    return folder


def test_settings_travel_with_the_picture_and_run_again(capsys, tmp_path):
    first, again, bare = tmp_path / "first.png", tmp_path / "again.png", tmp_path / "bare.png"
    options = [*FAST[:2], "--device", "cpu", "--steps", 3, "--seed", 5, "--guidance", 1.5, "--rng", "torch", "--box", "10,20,60,50"]
    assert run(capsys, "inpaint", IMAGE, *options, "-o", first)[0] == 0
    code, out, _ = run(capsys, "info", first, "--json")
    record = json.loads(out)
    assert code == 0
    assert {k: record[k] for k in ("model", "steps", "seed", "guidance", "rng")} == {
        "model": "synthetic tiny",
        "steps": 3,
        "seed": 5,
        "guidance": 1.5,
        "rng": "torch",
    }
    assert str(tmp_path) not in out  # no local paths
    same = ["--device", "cpu", "--box", "10,20,60,50"]  # the model is named in the picture
    assert run(capsys, "inpaint", IMAGE, *same, "--like", first, "-o", again, "--no-metadata")[0] == 0
    np.testing.assert_array_equal(np.asarray(Image.open(first)), np.asarray(Image.open(again)))
    assert run(capsys, "inpaint", IMAGE, *same, "--like", first, "--seed", 6, "-o", bare, "--no-metadata")[0] == 0
    assert not np.array_equal(np.asarray(Image.open(first)), np.asarray(Image.open(bare)))
    code, _, err = run(capsys, "info", bare)
    assert code == 1
    assert "does not say how it was made" in err


def test_several_images_and_json(capsys, tmp_path):
    code, out, err = run(capsys, "inpaint", IMAGE, MASK, *FAST, "-n", 2, "-o", tmp_path / "out.png", "--json", "--quiet")
    assert (code, err) == (0, "")
    record = json.loads(out)
    assert record["output"] == [str(tmp_path / "out-1.png"), str(tmp_path / "out-2.png")]
    assert set(record["timings"]) == {"prepare", "encode", "denoise", "decode", "blend"}
    one, two = (np.asarray(Image.open(p)) for p in record["output"])
    assert not np.array_equal(one, two)
    alone = tmp_path / "alone.png"
    assert run(capsys, "inpaint", IMAGE, MASK, *FAST, "--seed", 1, "-o", alone)[0] == 0
    difference = np.asarray(Image.open(alone)).astype(int) - two
    assert np.abs(difference).max() <= 1  # the second seed, in a batch or alone


def test_what_a_run_will_cost_is_said_before_it_begins(capsys, tmp_path):
    Image.new("RGB", (600, 100), (90, 120, 60)).save(tmp_path / "wide.png")
    boxes = "--box", "5,5,8,8", "--box", "550,50,9,9"
    for options, count in (((), 2), (("--max-windows", 1), None)):
        code, _, err = run(capsys, "inpaint", tmp_path / "wide.png", *boxes, *FAST, *options, "-o", tmp_path / "out.png")
        assert code == 0, err
        assert re.findall(r"^(\d+) windows", err, re.MULTILINE) == ([str(count)] if count else [])
        assert count is None or err.index("windows") < err.index("Wrote")
    refined = *FAST, "--box", "100,0,200,100", "--refine", "0.5", "--max-windows", 9
    code, _, err = run(capsys, "inpaint", tmp_path / "wide.png", *refined, "-o", tmp_path / "out.png")
    assert code == 0, err
    assert [0 < int(n) <= 9 for n in re.findall(r"^1 window .*\b(\d+) draw", err, re.MULTILINE)] == [True]


def test_an_empty_mask_is_an_error_unless_it_is_allowed(capsys, tmp_path):
    empty, target = tmp_path / "empty.png", tmp_path / "out.png"
    Image.new("L", (200, 200)).save(empty)
    code, _, err = run(capsys, "inpaint", IMAGE, empty, *FAST, "-o", target)
    assert code == 2
    assert "marks nothing" in err
    assert "Device" not in err
    assert not target.exists()
    assert run(capsys, "inpaint", IMAGE, empty, *FAST, "-o", target, "--allow-empty")[0] == 0
    np.testing.assert_array_equal(np.asarray(Image.open(target)), np.asarray(Image.open(IMAGE)))


def test_a_photograph_for_a_mask_is_refused_before_anything_is_loaded(capsys, tmp_path):
    target = tmp_path / "out.png"
    code, _, err = run(capsys, "inpaint", MASK, IMAGE, *FAST, "-o", target)
    assert code == 2
    assert f"{MASK} looks like the mask" in err
    assert "Device" not in err
    assert run(capsys, "inpaint", MASK, IMAGE, *FAST, "-o", target, "--yes")[0] == 0


def test_a_mask_that_marks_most_is_warned_of_before_it_starts(capsys, tmp_path, monkeypatch):
    from moebius.inpaint.inpainter import Inpainter

    def stop(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(Inpainter, "moments_each", stop)
    assert cli.run(["inpaint", IMAGE, "--box", "0,0,200,150", *map(str, FAST), "-o", str(tmp_path / "out.png")]) == 130
    assert "75 %" in capsys.readouterr().err


def test_ctrl_c_is_130_and_leaves_nothing(capsys, tmp_path, monkeypatch):
    from moebius.inpaint.inpainter import Inpainter

    def stop(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(Inpainter, "moments_each", stop)
    monkeypatch.setattr("sys.argv", ["moebius", "inpaint", IMAGE, MASK, *map(str, FAST), "-o", str(tmp_path / "out.png")])
    assert main() == 130
    assert capsys.readouterr().err.endswith("moebius: stopped\n")
    assert not list(tmp_path.iterdir())


def test_what_the_format_cannot_hold_is_refused_first(capsys, tmp_path):
    see_through = tmp_path / "a.png"
    Image.new("RGBA", (20, 20), (9, 9, 9, 0)).save(see_through)
    code, _, err = run(capsys, "inpaint", see_through, *FAST, "-o", tmp_path / "a.jpg")
    assert code == 2
    assert "cannot hold mode RGBA" in err
    assert "Device" not in err


def test_help_fits_a_screen_and_the_page_has_every_option(capsys):
    code, out, _ = run(capsys, "inpaint", "--help")
    page = (FOLDER.parents[1] / "docs/usage.md").read_text(encoding="utf-8")
    assert code == 0
    assert len(out.splitlines()) <= 47
    assert max(map(len, out.splitlines())) <= 100
    missing = [option for option in set(re.findall(r"--[a-z-]+", out)) - {"--help"} if option not in page]
    assert not missing


def test_the_bar_is_for_terminals(capsys, tmp_path, monkeypatch):
    command = ["inpaint", IMAGE, MASK, *FAST, "--strength", 1, "-o", tmp_path / "a.png"]
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    shown = run(capsys, *command)[2]
    monkeypatch.setattr(sys.stderr, "isatty", lambda: False)
    monkeypatch.setattr(progress, "EVERY", 1e9)
    silent = run(capsys, *command)[2]
    monkeypatch.setattr(progress, "EVERY", 0)
    lines = run(capsys, *command)[2]
    quiet = run(capsys, *command, "--quiet")[2]
    assert "2/2" in shown
    assert "\r" in shown
    assert "step" not in silent  # it was done before a line was due
    assert re.findall(r"^step (\d) of 2", lines, re.M) == ["1", "2"]
    assert "\r" not in silent + lines
    assert quiet == ""


def test_transfers_too(capsys, monkeypatch):
    monkeypatch.setattr(progress, "EVERY", 1e9)
    for terminal in (False, True):
        monkeypatch.setattr(sys.stderr, "isatty", lambda terminal=terminal: terminal)
        transfer = progress.Transfer()
        for done in range(0, 11):
            transfer("downloading \x1b]x", done * 10**6, 10**7)
        err = capsys.readouterr().err
        if terminal:
            assert "10.0M/10.0M" in err
        else:
            assert err.splitlines() == [f"downloading \\x1b]x: {n} of 10 MB" for n in (0, 10)]
        assert "\x1b]" not in err
