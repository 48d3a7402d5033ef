"""The command as a user meets it: output, exit codes, one sentence for every mistake."""

import json
import re

import numpy as np
import pytest
from goldens import FOLDER
from PIL import Image, ImageFilter

from moebius.__main__ import main
from moebius.backends.webgpu import wgsl
from moebius.cli import main as cli

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
    assert code == 1
    assert re.fullmatch(rf"moebius: {re.escape(str(target))} cannot be written: there is no folder .*\.", err.splitlines()[-1])


NOT_A_PICTURE = str(FOLDER / "unet_nano_manifest.json")
MISUSE = [
    (["validate", "--image-size", "12"], "The image size is 12; it must be a multiple of 8"),
    (["inpaint", NOT_A_PICTURE, MASK, "-o", "x.png", "--synthetic", "tiny"], "is not a PNG, JPEG"),
    (["inpaint", "missing.png", MASK, "-o", "x.png", "--synthetic", "tiny"], "missing.png"),
    (["inpaint", IMAGE, "-o", "x.png", "--synthetic", "tiny"], "There is no mask"),
    (["inpaint", IMAGE, "--box", "1,2,3", "-o", "x.png", "--synthetic", "tiny"], "invalid box value"),
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
    ([], "COMMAND"),
]


@pytest.mark.parametrize(("argv", "message"), MISUSE)
def test_misuse_is_exit_code_2(capsys, argv, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, _, err = run(capsys, *argv)
    assert code == 2
    assert re.search(message, err)
    assert "Traceback" not in err
    assert not list(tmp_path.iterdir())


def test_an_adapter_that_is_not_there_is_exit_code_1(capsys, llvmpipe):
    code, _, err = run(capsys, "plan", "--adapter", "voodoo")
    assert code == 1
    assert err.startswith("moebius: No adapter matches 'voodoo'. There are 0: ")


def test_adapters_marks_the_chosen_one(capsys, llvmpipe):
    code, out, _ = run(capsys, "adapters")
    assert code == 0
    assert len(re.findall(r"^\* \d+: ", out, re.M)) == 1
    code, out, _ = run(capsys, "adapters", "--json")
    rows = json.loads(out)
    assert sum(r["chosen"] for r in rows) == 1
    assert any("llvmpipe" in r["name"] and r["backend"] == "Vulkan" and r["driver"].startswith("Mesa") for r in rows)
    assert all(r["limits"]["max-buffer-size"] > 0 and isinstance(r["features"], list) for r in rows)


@pytest.mark.parametrize("config", ["tiny", "full"])
def test_plan(capsys, llvmpipe, config):
    code, out, _ = run(capsys, "plan", "--config", config, "--adapter", "llvmpipe", "--json")
    data = json.loads(out)
    assert code == 0
    assert {"flops", "dispatches", "peak_bytes", "weight_bytes"} <= data.keys()
    assert len(data["plan"]) == data["dispatches"]
    assert sum(d["flops"] for d in data["plan"]) == data["flops"]
    code, out, _ = run(capsys, "plan", "--config", config, "--adapter", "llvmpipe")
    assert code == 0
    assert re.search(rf"^flops +{data['flops']:,}$", out, re.M)
    assert re.search(rf"^dispatches +{data['dispatches']:,}$", out, re.M)


def test_validate_passes_and_shows_every_op(capsys, llvmpipe):
    code, out, _ = run(capsys, "validate", "--adapter", "llvmpipe", "--image-size", 32)
    assert code == 0
    ops = {line.split()[0] for line in out.splitlines()[2:-1]}
    contract = "time_embedding time_shift linear conv3x3 upsample_conv3x3 dwconv feed_forward group_norm layer_norm self_lambda "
    assert ops == set((contract + "cross_lambda attention concat unet_input guided_ddim").split())
    assert re.search(r"^\d+ ops, 0 over their limit", out, re.M)


@pytest.mark.parametrize(
    ("shader", "right", "wrong", "op"),
    [
        ("group_apply", "+ bias[c]", "+ bias[c] * 1.0001", "group_norm"),
        ("lambda_apply", "let sy = y + dy - reach;", "let sy = y + dy - reach + 1;", "self_lambda"),
        ("guided_ddim", "a.y * e", "a.y * e * 1.00001", "guided_ddim"),
    ],
)
def test_validate_fails_and_names_a_wrong_kernel(capsys, llvmpipe, monkeypatch, shader, right, wrong, op):
    original = wgsl.source

    def broken(name):
        text = original(name)
        if name == shader:
            assert right in text
            text = text.replace(right, wrong)
        return text

    monkeypatch.setattr(wgsl, "source", broken)
    wgsl.specialise.cache_clear()
    try:
        code, out, _ = run(capsys, "validate", "--adapter", "llvmpipe", "--image-size", 32, "--json")
    finally:
        wgsl.specialise.cache_clear()
    rows = json.loads(out)["rows"]
    assert code == 1
    assert {r["op"] for r in rows if not r["ok"]} == {op}


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


def test_an_empty_mask_returns_the_image_and_says_so(capsys, tmp_path):
    empty, target = tmp_path / "empty.png", tmp_path / "out.png"
    Image.new("L", (200, 200)).save(empty)
    code, _, err = run(capsys, "inpaint", IMAGE, empty, *FAST, "-o", target)
    assert code == 0
    assert "nothing to fill in" in err
    np.testing.assert_array_equal(np.asarray(Image.open(target)), np.asarray(Image.open(IMAGE)))


def test_batch(capsys, tmp_path):
    images, masks = pictures(tmp_path / "in", ["a.png", "b.jpg", "c.png"]), tmp_path / "masks"
    masks.mkdir()
    (images / "broken.png").write_bytes(b"\x89PNG not really")
    for stem in ("a", "b", "broken"):
        Image.fromarray((np.indices((30, 40))[0] < 9).astype(np.uint8) * 255).save(masks / f"{stem}.png")
    code, _, err = run(capsys, "batch", images, masks, tmp_path / "out", *FAST)
    assert code == 1
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["a.png", "b.jpg"]
    assert "c.png: there is no mask of that stem" in err
    assert "broken.png" in err
    assert "2 done, 0 skipped, 2 failed" in err
    before = (tmp_path / "out" / "a.png").stat().st_mtime_ns
    code, _, err = run(capsys, "batch", images, masks / "a.png", tmp_path / "out", *FAST, "--resume")
    assert code == 1
    assert "1 done, 2 skipped, 1 failed" in err
    assert (tmp_path / "out" / "a.png").stat().st_mtime_ns == before


def test_ctrl_c_is_130_and_leaves_nothing(capsys, tmp_path, monkeypatch):
    from moebius.inpaint.inpainter import Inpainter

    def stop(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(Inpainter, "moments", stop)
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
    assert len(out.splitlines()) <= 45
    assert max(map(len, out.splitlines())) <= 100
    missing = [option for option in set(re.findall(r"--[a-z-]+", out)) - {"--help"} if option not in page]
    assert not missing


def test_the_bar_is_for_terminals(capsys, tmp_path, monkeypatch):
    import sys

    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert run(capsys, "inpaint", IMAGE, MASK, *FAST, "-o", tmp_path / "a.png")[0] == 0
    shown = run(capsys, "inpaint", IMAGE, MASK, *FAST, "-o", tmp_path / "a.png")[2]
    monkeypatch.setattr(sys.stderr, "isatty", lambda: False)
    plain = run(capsys, "inpaint", IMAGE, MASK, *FAST, "-o", tmp_path / "a.png")[2]
    assert "#] 1/1" in shown
    assert "\r" not in plain
    assert "#" not in plain
