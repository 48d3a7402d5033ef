"""The page's player of plans in a real browser: a kernel family against the oracle, and plans and files that are damaged or not there."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from chromium import Address, Browser, Page, served
from javascript import fetched, floats

from moebius.backends.reference import Reference
from moebius.check.compare.fingerprint import errors, is_rounding
from moebius.check.specs import bound
from moebius.model.params import Checkpoint, Params
from moebius.web.bundle import Bundle
from moebius.web.edition import ForBrowsers
from moebius.web.export import write_site
from moebius.web.targets import targets

# What a loop has beside other plans, of any buffers.
LOOP = "sinusoid: linear.inputs[0], state: 0, coefficients: 0, guidance: [0, 0], rows: 1"


class Layers:
    """The GEMM in its three modes: rows, 3×3 taps with stride, the phases of an upsampling convolution."""

    def __init__(self, ops: Any) -> None:
        g = np.random.default_rng(3)
        shapes = {"linear": (10, 6), "conv3x3": (10, 6, 3, 3), "upsample_conv3x3": (10, 6, 3, 3)}
        weights = {f"{name}.weight": g.standard_normal(s, np.float32) for name, s in shapes.items()}
        weights |= {f"{name}.bias": g.standard_normal(s[0], np.float32) for name, s in shapes.items()}
        self.ops, self.root = ops, Params(Checkpoint(weights))

    def linear(self, x: Any) -> Any:
        return self.ops.linear(x, self.root.at("linear"))

    def conv3x3(self, x: Any) -> Any:
        return self.ops.conv3x3(x, self.root.at("conv3x3"), stride=2)

    def upsample_conv3x3(self, x: Any) -> Any:
        return self.ops.upsample_conv3x3(x, self.root.at("upsample_conv3x3"))


NAMES = ("linear", "conv3x3", "upsample_conv3x3")


@pytest.fixture(scope="module")
def gemm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Address]:
    """The player with three plans of a layer each."""
    folder = tmp_path_factory.mktemp("gemm")
    write_site(folder)
    recorder, bundle, (plain,) = ForBrowsers("llvmpipe", software=True), Bundle(), targets("f32", software=True)
    layers, edition = Layers(recorder), bundle.edition(plain.name, **plain.about())
    for name in NAMES:
        edition.add(name, *recorder.recorded(getattr(layers, name), [(2, 5, 7, 6)]))
    bundle.arrays = {"half": np.float32([0.5]), "bytes": np.uint8([1, 2, 3])}
    bundle.write(folder, {})
    os.utime(folder / "plan.json", (1e9, 1e9))  # browsers take what has not changed for years from their cache, and ask nobody
    with served(folder) as address:
        yield address


PLAYER = """
  const { Exported } = await import('./exported.js');
  const exported = await Exported.open('plan.json'), player = await exported.player(exported.editions[0]);
"""


def test_gemm_is_the_oracles(chromium: Browser, gemm: Address) -> None:
    page = Page(chromium, gemm + "style.css")
    x = np.random.default_rng(4).standard_normal((2, 5, 7, 6), np.float32)
    oracle, results = Layers(Reference(np.float64)), {}
    for name in NAMES:
        plan = f"player.plans.{name}"
        script = f"player.write({plan}.inputs[0], {floats(x)}); player.replay('{name}'); return await player.read({plan}.outputs[0]);"
        results[name] = fetched(page, PLAYER + script).view(np.float32)
        want = getattr(oracle, name)(x.astype(np.float64))
        row = errors(results[name].reshape(want.shape), want, bound(name, (x, oracle.root.at(name)), {}))
        assert is_rounding(row), (name, row)
    assert page.run(PLAYER + "return [...player.arrays.bytes.data, ...player.arrays.half.data]") == [1, 2, 3, 0.5]


def test_the_plan_is_asked_for_every_time(chromium: Browser, gemm: Address) -> None:
    """One of an older export would not fit the weights of the newer one."""
    page, files = Page(chromium, gemm + "style.css"), ("/plan.json", "/plan-plain.json.gz")
    before = [gemm.asked.count(file) for file in files]
    for _ in range(2):
        page.run(PLAYER + "return 0")
    assert [gemm.asked.count(file) for file in files] == [n + 2 for n in before]


def test_lost_device_and_full_memory_are_one_sentence(chromium: Browser, gemm: Address) -> None:
    page = Page(chromium, gemm + "style.css")
    lost = "player.device.destroy(); try { await player.read(player.plans.linear.outputs[0]); } catch (e) { return e.message; }"
    assert "was lost" in page.run(PLAYER + lost)
    full = "GPUDevice.prototype.popErrorScope = async () => new GPUOutOfMemoryError('no'); try { PLAYER } catch (e) { return e.message; }"
    assert "not enough memory" in page.run(full.replace("PLAYER", PLAYER))


def test_an_editions_file_that_is_not_right_is_named(chromium: Browser, gemm: Address) -> None:
    answers = {
        "Promise.reject(new TypeError('no network'))": "could not be loaded (no network)",
        "new Response('', { status: 404 })": "could not be loaded (404)",
        "new Response('{}')": "has another SHA-256",
        "new Response(new Uint8Array([31, 139, 8]))": "has another SHA-256",
    }
    said = Page(chromium, gemm + "style.css").run(f"""
      {PLAYER} const said = [];
      for (const answer of {json.dumps(list(answers))}) {{
        globalThis.fetch = async () => eval(answer);
        await exported.player(exported.editions[0]).catch(({{ message }}) => said.push(message));
      }}
      return said;""")
    for message, wanted in zip(said, answers.values(), strict=True):
        assert message.startswith(f"plan-plain.json.gz {wanted}"), message


def test_damaged_plans_are_refused(chromium: Browser, gemm: Address) -> None:
    """Every index, offset and size that could reach beyond something."""
    page = Page(chromium, gemm + "style.css")
    damage = [
        "plan.format = 3",
        "plan.binary.size = 256",
        "plan.editions = []",
        "plan.editions[0].features = ['shader-f16']",
        "plan.editions[0].file = '../plan.json'",
        "plan.editions[0].precision = 'f8'",
        "plan.editions[0].bound.levels = '1'",
        "delete plan.editions[0].bound",
        "plan.weights[0].size = 2 ** 40",
        "plan.weights[0].at = plan.binary.size",
        "edition.buffers[0] = 2 ** 40",
        "edition.buffers[0] = -4",
        "edition.buffers[0] = 4.5",
        "plan.arrays.half.shape = [1e6]",
        "plan.arrays.half.type = 'float16'",
        "edition.pipelines[0].module = 99",
        "linear.inputs[0].buffer = 99",
        "linear.inputs[0].shape = [2, 5, 7, 600]",
        "linear.steps[0].pipeline = 99",
        "linear.steps[0].grid = [65536, 1, 1]",
        "linear.steps[0].params = []",
        "linear.steps[0].params[0] = 2 ** 32",
        "linear.steps[0].bind = [0, 0, 4]",
        "linear.steps[0].bind[0] = 99",
        "linear.steps[0].bind[0] = -99",
        "linear.steps[0].bind[0] = -0.5",
        "linear.steps[0].bind[1] = 128",
        "linear.steps[0].bind[1] = linear.steps[0].bind[2] = 4",
        "linear.steps[0].bind[2] = 2 ** 33",
        "linear.taps = [{path: '', type: 'f32', dispatch: 99, buffer: 0, size: 4, at: [0]}]",
        "linear.taps = [{path: '', type: 'f32', dispatch: 0, buffer: 0, size: 4, at: [2 ** 33]}]",
        "linear.taps = [{path: '', type: 'f64', dispatch: 0, buffer: 0, size: 4, at: [0]}]",
        "linear.carry = [[0, 1, 2 ** 33]]",
        "linear.carry = [[-9, 1, 4]]",
        "linear.steps[0].pipeline = -1",
        *(
            f"Object.assign(linear, {{ {LOOP}, {wrong} }})"
            for wrong in ("state: 99", "coefficients: -9", "guidance: [0, 99]", "guidance: [99, 0]", "rows: 1e6")
        ),
    ]
    said = page.run(f"""
      const {{ checkEdition, checkEditions, checkPlan }} = await import('./sound.js');
      const plain = (await fetch('plan-plain.json.gz')).body.pipeThrough(new DecompressionStream('gzip'));
      const texts = await Promise.all([await fetch('plan.json'), new Response(plain)].map((answer) => answer.text()));
      const limits = (await (await navigator.gpu.requestAdapter()).requestDevice()).limits;
      return [null, ...{json.dumps(damage)}].map((d) => {{
        const [plan, edition] = texts.map((text) => JSON.parse(text));
        new Function('plan', 'edition', 'linear', d)(plan, edition, edition.plans.linear);
        try {{
          checkEditions(plan);
          checkPlan(plan, limits);
          checkEdition('plan.json', edition, plan.weights, limits);
          return 'accepted';
        }} catch (e) {{ return e.message; }}
      }});""")
    assert said.pop(0) == "accepted"
    for what, message in zip(damage, said, strict=True):
        assert "plan.json is damaged or of another version" in message, (what, message)
