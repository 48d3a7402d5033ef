"""The command as a user meets it: output, exit codes, one sentence for every mistake."""

import json
import re

import numpy as np
import pytest
from goldens import FOLDER
from PIL import Image, ImageFilter

from moebius import cli
from moebius.image import prepare
from moebius.webgpu import kernel

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
    assert (code, out) == (0, "")
    assert "Weights: synthetic" in err
    assert "Device: CPU" in err
    assert f"Wrote {target}" in err
    prepared = prepare(Image.open(IMAGE), Image.open(MASK), 128)  # the published code works at the model's size
    picture = np.asarray(Image.open(target))
    outside = np.asarray(prepared.mask.convert("L").filter(ImageFilter.GaussianBlur(3))) == 0
    same = (picture == np.asarray(prepared.image)).all(axis=-1)
    assert same[outside].all()
    assert not same[~outside].all()
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
    assert re.fullmatch(rf"moebius: {re.escape(str(target))} cannot be written: No such file or directory\.", err.splitlines()[-1])


NOT_A_PICTURE = str(FOLDER / "unet_nano_manifest.json")
MISUSE = [
    (["inpaint", NOT_A_PICTURE, MASK, "-o", "x.png", "--synthetic", "tiny"], "cannot be read as a picture"),
    (["inpaint", "missing.png", MASK, "-o", "x.png", "--synthetic", "tiny"], "missing.png cannot be read as a picture: .*No such file"),
    (["inpaint", IMAGE, MASK, "-o", "x", "--synthetic", "tiny"], "x has no ending"),
    (["inpaint", IMAGE, MASK, "-o", "x.png", "--synthetic", "tiny", "--device", "cpu", "--steps", "0"], "steps is 0"),
    (["inpaint", IMAGE, MASK, "-o", "x.png", "--synthetic", "tiny", "--device", "cpu", "--strength", "-1"], "strength is -1"),
    (["inpaint", IMAGE, MASK, "-o", "x.png"], "--synthetic"),
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
    original = kernel.source

    def broken(name):
        text = original(name)
        if name == shader:
            assert right in text
            text = text.replace(right, wrong)
        return text

    monkeypatch.setattr(kernel, "source", broken)
    kernel.specialise.cache_clear()
    try:
        code, out, _ = run(capsys, "validate", "--adapter", "llvmpipe", "--image-size", 32, "--json")
    finally:
        kernel.specialise.cache_clear()
    rows = json.loads(out)["rows"]
    assert code == 1
    assert {r["op"] for r in rows if not r["ok"]} == {op}
