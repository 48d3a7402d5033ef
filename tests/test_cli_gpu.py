"""The commands that ask a GPU: adapters, plan and validate, on llvmpipe."""

import json
import re

import pytest
from test_cli import run

from moebius.backends.webgpu import device, wgsl
from moebius.check import lockstep
from moebius.inpaint.device import open_device


def test_an_adapter_that_is_not_there_is_exit_code_1(capsys, llvmpipe):
    code, _, err = run(capsys, "plan", "--adapter", "voodoo")
    assert code == 1
    assert err.startswith("moebius: No adapter matches 'voodoo'. There are 0: ")


def test_adapters_marks_the_chosen_one(capsys, llvmpipe):
    code, out, _ = run(capsys, "adapters")
    assert code == 0
    marked = re.findall(r"^\* (\d+|cpu): (.*)$", out, re.M)
    assert len(marked) == 1
    code, out, _ = run(capsys, "adapters", "--json")
    rows = json.loads(out)
    assert [str(r["index"]) for r in rows if r["chosen"]] == [marked[0][0]]
    chosen = open_device().name  # what `inpaint` computes on
    assert chosen == marked[0][1] if marked[0][0] == "cpu" else rows[int(marked[0][0])]["name"] in chosen
    rows = [r for r in rows if r["index"] != "cpu"]
    assert any("llvmpipe" in r["name"] and r["backend"] == "Vulkan" and r["driver"].startswith("Mesa") for r in rows)
    assert all(r["limits"]["max-buffer-size"] > 0 and isinstance(r["features"], list) for r in rows)


def test_adapters_of_dawn_are_told_by_what_is_to_be_typed(capsys, llvmpipe, monkeypatch):
    listed = device.adapters()
    monkeypatch.setattr(device, "adapters", lambda implementation: listed if implementation == "dawn" else [])
    code, out, _ = run(capsys, "adapters", "--implementation", "dawn")
    assert code == 0
    assert re.findall(r"^  (\S+): .* via ", out, re.M) == [f"dawn:{i}" for i in range(len(listed))]
    assert not re.search(r"^\*", out, re.M)  # "auto" chooses among wgpu's
    assert device.choose("0", "dawn", listed) is listed[0]
    rows = json.loads(run(capsys, "adapters", "--implementation", "dawn", "--json")[1])
    assert [(r["index"], r["chosen"]) for r in rows] == [*((f"dawn:{i}", False) for i in range(len(listed))), ("cpu", False)]


@pytest.mark.parametrize("config", ["tiny", "nano", "full"])
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
    assert re.search(rf"^bytes +{data['bytes']:,} ", out, re.M)
    code, out, _ = run(capsys, "plan", "--config", config, "--adapter", "llvmpipe", "--kind", "discrete", "--json")
    assert json.loads(out)["dispatches"] < data["dispatches"]  # a GPU's plan is fused


def test_validate_passes_and_shows_every_op(capsys, llvmpipe):
    code, out, _ = run(capsys, "validate", "--adapter", "llvmpipe", "--image-size", 32)
    assert code == 0
    ops = {line.split()[0] for line in out.splitlines()[2:-1]}
    contract = "time_embedding time_shift linear conv3x3 upsample_conv3x3 dwconv feed_forward group_norm layer_norm self_lambda "
    assert ops == set((contract + "cross_lambda attention concat repeat unet_input guided_ddim").split())
    assert re.search(r"^\d+ ops, 0 over their limit", out, re.M)


def test_validate_takes_nano_with_its_own_weights(llvmpipe):
    """Its first ops; all of them take nine seconds."""

    class Enough(Exception):  # noqa: N818
        pass

    rows = []

    def report(row):
        rows.append(row)
        if len(rows) == 12:
            raise Enough

    with pytest.raises(Enough):
        lockstep.validate(llvmpipe, "nano", None, report)
    assert all(row.ok for row in rows)
    config, weights, _, _ = lockstep.networks("nano")
    assert len({row.path for row in rows} & {name.rpartition(".")[0] for name in weights}) > 3
    assert lockstep.networks("tiny")[0] != config


@pytest.mark.parametrize(
    ("shader", "right", "wrong", "op"),
    [
        ("group_apply", "+ table[at + params.c4]", "+ table[at + params.c4] * 1.0001", "group_norm"),
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
