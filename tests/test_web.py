"""The exported page in a real browser: Chromium without a window, its WebGPU on SwiftShader."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chromium import Address, Browser, Page, served
from hand import Hand
from javascript import fetched, floats
from PIL import Image

from moebius import sample
from moebius.backends.cpu import CPU
from moebius.backends.reference import Reference
from moebius.backends.webgpu import WebGPU
from moebius.backends.webgpu.caps import DEFAULT_LIMITS
from moebius.check.compare import endtoend
from moebius.check.compare.files import load
from moebius.check.compare.fingerprint import errors, is_rounding
from moebius.check.specs import bound
from moebius.inpaint.inpainter import Inpainter
from moebius.model import unet, vae
from moebius.model.params import Checkpoint, Params
from moebius.model.synthetic import synthetic
from moebius.model.unet import UNet, UNetConfig
from moebius.model.vae import VAE, VAEConfig
from moebius.web import export as exporting
from moebius.web.bundle import Bundle
from moebius.web.edition import ForBrowsers
from moebius.web.export import export, write_site
from moebius.web.targets import BOUNDS, FEATURES, LANES, targets

LOADED = 240  # seconds a page may take to load a small model and check itself
READY = "moebius.state !== 'loading'"
# What a loop has beside other plans, of any buffers.
LOOP = "sinusoid: linear.inputs[0], state: 0, coefficients: 0, guidance: [0, 0], rows: 1"
SCALED = 2  # grey levels: what one level of two neighbours becomes in Lanczos's two rounded passes


def tiny() -> Inpainter:
    ops, u, v = CPU(), UNetConfig.tiny(), VAEConfig.tiny()
    return Inpainter(UNet(u, synthetic(unet.shapes(u), 0), ops), VAE(v, synthetic(vae.shapes(v), 0), ops), model="synthetic tiny")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Address]:
    """A whole page, of the tiny model."""
    folder = tmp_path_factory.mktemp("site") / "page"
    export(tiny(), folder, tile="cpu", adapter="llvmpipe")
    with served(folder) as address:
        yield address


@pytest.fixture(scope="module")
def page(chromium: Browser, site: Address) -> Page:
    """The page, loaded and checked."""
    opened = Page(chromium, site)
    opened.wait(READY, LOADED)
    assert opened.run("moebius.state") == "ready", (opened.run("moebius.error"), opened.log)
    assert opened.run("document.getElementById('check').open || Boolean(moebius.checked)") is False, "not before it is of use"
    assert opened.run("return await moebius.check()", LOADED)
    return opened


# one kernel family ---------------------------------------------------------------------------------------------------
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


# the page ------------------------------------------------------------------------------------------------------------
def test_page_makes_the_native_picture(page: Page, tmp_path: Path) -> None:
    native = tiny()
    expected = native(sample.photo(), sample.mask(), **endtoend.SETTINGS)
    painted, shown = endtoend.painted(native, expected.latents), np.asarray(expected.image.convert("RGB"))
    for name, want, levels in (("painted", painted, 1), ("picture", shown, SCALED)):
        got = fetched(page, f"return moebius.checked.{name}.data;").reshape(want.shape)
        assert np.abs(got.astype(int) - want).max() <= levels
    checked = page.run("const { painted, picture, ...rest } = moebius.checked; return rest")
    assert checked["ok"]
    assert checked["noiseIsSame"]
    assert checked["windowIsSame"]
    assert {row["name"] for row in checked["rows"]} >= {
        "moments of the image",
        "latents after step 3",
        "step/diff_model.conv_out",
        "decoder/image",
    }
    for row in checked["rows"]:
        assert row["relative_l2"] < 1e-5, row
    assert page.run("document.getElementById('verdict').textContent").startswith("Yes")

    # Its column of `moebius compare`.
    (tmp_path / "chromium.json").write_text(json.dumps(page.run("moebius.fingerprint")))
    (column,) = load(tmp_path / "chromium.json")["columns"]
    (run,) = column["runs"]
    latents = np.moveaxis(expected.latents, 1, -1)
    assert column["implementation"] == "chromium"
    assert "swiftshader" in column["name"]
    assert {k: column["limits"][k] for k in DEFAULT_LIMITS} == DEFAULT_LIMITS
    assert {row["name"]: row["shape"] for row in run["outputs"]} == {"latents": list(latents.shape), "picture": [1, *painted.shape]}
    assert run["outputs"][0]["rms"] == pytest.approx(np.sqrt(np.mean(latents**2)), rel=1e-5)
    made = tiny()
    model = endtoend.Model("", made.unet.config, dict(made.unet.root.root), made.vae.config, dict(made.vae.root.root))
    assert run["inputs"] == model.digest()


def test_no_run_begins_while_a_picture_is_opened(page: Page) -> None:
    """It would take the place of the one that is run."""
    assert page.run("document.getElementById('run').disabled") is False
    disabled = page.run("""
      const run = document.getElementById('run'), dataTransfer = new DataTransfer(), decode = globalThis.createImageBitmap;
      let finish;
      globalThis.createImageBitmap = () => new Promise((_, reject) => (finish = reject));
      dataTransfer.items.add(new File(['x'], 'x.png', { type: 'image/png' }));
      document.dispatchEvent(new DragEvent('drop', { dataTransfer, cancelable: true }));
      const meanwhile = run.disabled;
      globalThis.createImageBitmap = decode;
      finish(new Error('no picture'));
      await new Promise((resolve) => setTimeout(resolve, 50));
      return [meanwhile, run.disabled];""")
    assert disabled == [True, False]


def test_a_run_is_stopped_within_a_step(page: Page) -> None:
    """Between two submits; what is run next is not affected."""
    stopped = page.run("""
      const { engine } = moebius, { queue } = engine.player.device, { picture, mask } = engine.model().sample;
      const control = new AbortController(), submit = GPUQueue.prototype.submit;
      let submits = 0, after = 0, steps = 0;
      GPUQueue.prototype.submit = function (commands) {
        if (control.signal.aborted) after++;
        if (steps === 1 && ++submits === 2) control.abort(new Error('stopped'));
        return submit.call(this, commands);
      };
      const hear = ({ step }) => (steps = step ?? steps);
      const said = await engine.fill(picture, mask, { steps: 3, seed: 0n }, hear, control.signal).catch((error) => error.message);
      GPUQueue.prototype.submit = submit;
      return [said, steps, after];""")
    assert stopped == ["stopped", 1, 0]


def test_people_paint_and_run(page: Page, tmp_path: Path) -> None:
    """A picture of one's own, a stroke of the mouse, a run: what Python makes of the same. A check that is under way ends."""
    rgb = np.asarray(Image.open(sample.photo()).convert("RGB").resize((180, 150)))
    Image.fromarray(rgb).save(tmp_path / "mine.png")
    hand = Hand(page)
    hand.choose("#open", tmp_path / "mine.png")
    page.wait("moebius.editor.picture.width === 180")
    hand.drag([(60, 70), (80, 90), (100, 80)])
    script = "(await import('./marks.js')).rasterised(moebius.editor.marks, { x: 0, y: 0, width: 180, height: 150 })"
    mask = fetched(page, f"return {script}.data;").reshape(150, 180).astype(bool)
    assert all(mask[v, u] for u, v in ((60, 70), (70, 80), (80, 90), (90, 85), (100, 80)))
    assert not mask[20:40].any()

    settings = {"steps": 2, "seed": str(2**61 + 5)}  # more digits than a JavaScript number has
    page.run(f"for (const [id, v] of Object.entries({settings})) document.getElementById(id).value = v; moebius.result = null;")
    page.run("moebius.check(); document.getElementById('run').click()")
    page.wait("moebius.result || moebius.error", LOADED)
    got = fetched(page, "return moebius.result.data;").reshape(rgb.shape)
    expected = np.asarray(tiny()(rgb, mask, steps=2, seed=2**61 + 5).image)
    assert np.abs(got.astype(int) - expected).max() <= 1
    assert np.abs(expected.astype(int) - rgb).max() > 20
    shown = fetched(page, "return (await import('./bitmaps.js')).pictureOf(moebius.editor.picture).data;").reshape(rgb.shape)
    assert np.array_equal(shown, got)

    page.run("moebius.editor.undo(); moebius.editor.clear(); document.getElementById('run').click()")
    assert page.run("document.getElementById('message').textContent").startswith("Nothing is marked")


def speck() -> Inpainter:
    """The same networks, as small as they can be: few kernels to compile."""
    u = UNetConfig(
        8, block_out_channels=(16, 16), layers_per_block=1, heads=2, cross_attention_dim=16, encoder_hid_dim=16, norm_num_groups=4
    )
    ops, v = CPU(), VAEConfig((8, 8), layers_per_block=1, norm_num_groups=4)
    return Inpainter(UNet(u, synthetic(unet.shapes(u), 0), ops), VAE(v, synthetic(vae.shapes(v), 0), ops), model="synthetic speck")


# A browser that says it has matrix units, and has none.
BOAST = """
  for (const { prototype } of [GPUAdapter, GPUDevice]) {
    const { get } = Object.getOwnPropertyDescriptor(prototype, 'features');
    Object.defineProperty(prototype, 'features', { get() { return new Set([...get.call(this), ...FEATURES]); } });
  }
  const { requestDevice } = GPUAdapter.prototype;
  GPUAdapter.prototype.requestDevice = function () { return requestDevice.call(this); };
  const value = [{ componentType: 'f16', resultComponentType: 'f32', M: 16, N: 16, K: 16 }];
  Object.defineProperty(GPUAdapterInfo.prototype, 'subgroupMatrixConfigs', { value });
  for (const name of ['subgroupMinSize', 'subgroupMaxSize']) Object.defineProperty(GPUAdapterInfo.prototype, name, { value: LANES });
"""


@pytest.fixture(scope="module")
def half(chromium: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    """A page in half precision, loaded and checked, in a browser that asks for matrix units and cannot run them."""
    units, *_, plain, wide = targets("f16", software=False)
    aims = [replace(target, caps=replace(target.caps, kind="software")) for target in (units, plain, wide)]
    folder = tmp_path_factory.mktemp("half") / "page"
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(exporting, "targets", lambda precision, software: aims)
        export(speck(), folder, tile="cpu", precision="f16", adapter="llvmpipe")
    with served(folder) as address:
        opened = Page(chromium, address, BOAST.replace("FEATURES", json.dumps(sorted(FEATURES))).replace("LANES", str(LANES)))
        opened.wait(READY, LOADED)
        assert opened.run("moebius.state") == "ready", (opened.run("moebius.error"), opened.log)
        opened.run("return await moebius.check()", LOADED)
        yield opened
        opened.close()


def distance(got: np.ndarray, want: np.ndarray) -> tuple[float, float]:
    """The mean difference in grey levels, and the PSNR."""
    difference = got.astype(float) - want
    return float(np.abs(difference).mean()), float(10 * np.log10(255**2 / np.mean(difference**2)))


def test_an_edition_that_does_not_run_gives_way_to_one_that_does(half: Page) -> None:
    assert half.run("moebius.engine.failed.map(({ name }) => name)") == ["units-16x16x16"]
    assert half.run("moebius.engine.player.about.name") == "plain"
    assert "matrix units" in half.run("document.getElementById('model').textContent")


def test_half_precision_makes_the_picture_of_f32(half: Page) -> None:
    """Within its bound, by the page's own measure and by this one's; and it is not f32 that ran."""
    assert "half precision" in half.run("document.getElementById('model').textContent")
    assert half.run("moebius.checked.ok"), half.run("moebius.checked.distance")
    assert half.run("document.getElementById('verdict').textContent").startswith("Yes")
    assert half.run("moebius.fingerprint.columns[0].name").endswith(", half precision")
    native = speck()
    want = endtoend.painted(native, native(sample.photo(), sample.mask(), **endtoend.SETTINGS).latents)
    mean, psnr = distance(fetched(half, "return moebius.checked.painted.data;").reshape(want.shape), want)
    assert mean <= BOUNDS["f16"]["mean"], (mean, psnr)
    assert psnr >= BOUNDS["f16"]["psnr"], (mean, psnr)
    assert 1e-4 < max(half.run("moebius.checked.rows.map((row) => row.relative_l2)")) < 2e-2


def test_what_is_too_much_for_half_precision_is_made_in_single(half: Page) -> None:
    """What one player reads, as if it had overflowed; the same weights make the picture in f32, which is said in one sentence."""
    half.run("""
      const { player } = moebius.engine, { read } = player;
      player.read = async (tensor) => (await read.call(player, tensor)).fill(Infinity);
      document.getElementById('steps').value = 2;
      document.getElementById('run').click();""")
    half.wait("moebius.result || moebius.error", LOADED)
    assert half.run("moebius.error") is None
    said = half.run("document.getElementById('message-text').textContent")
    assert "single precision" in said
    assert said.count(".") == 1
    got = fetched(half, "return (await import('./bitmaps.js')).pictureOf(moebius.editor.picture).data;")
    want = np.asarray(speck()(sample.photo(), sample.mask(), steps=2).image.convert("RGB"))
    assert distance(got.reshape(want.shape), want)[0] < BOUNDS["f16"]["mean"]
    half.run("moebius.editor.history.keptSaved()")


@pytest.mark.parametrize(
    ("before", "said"),
    [
        ("Object.defineProperty(Navigator.prototype, 'gpu', { value: undefined });", "This browser has no WebGPU; use a current"),
        ("GPU.prototype.requestAdapter = async () => null;", "found no graphics adapter"),
        ("GPUAdapter.prototype.requestDevice = async () => { throw new Error('busy'); };", "could not be opened (busy)"),
    ],
    ids=["no webgpu", "no adapter", "no device"],
)
def test_browsers_that_cannot_are_told(chromium: Browser, site: Address, before: str, said: str) -> None:
    page = Page(chromium, site, before)
    page.wait(READY)
    assert said in page.run("document.getElementById('message').textContent")
    page.close()


def test_files_are_told_to_be_served(chromium: Browser, tmp_path: Path) -> None:
    write_site(tmp_path)
    page = Page(chromium, f"file://{tmp_path}/index.html")
    assert "python -m http.server" in page.run("document.getElementById('status').textContent")


@pytest.mark.slow
def test_small_model_in_chromium_is_native(chromium: Browser, llvmpipe: WebGPU, tmp_path: Path) -> None:
    """The packaged nano: within one grey level of this machine's Vulkan driver."""
    model = endtoend.small_model()
    export(model.on(CPU()), tmp_path / "page", tile="cpu")
    inpaint = model.on(llvmpipe)
    assert json.loads((tmp_path / "page/plan.json").read_text())["defaults"]["blend"] == inpaint.blend == "match"
    result = inpaint(sample.photo(), sample.mask(), **endtoend.SETTINGS)
    native = endtoend.painted(inpaint, result.latents), np.asarray(result.image.convert("RGB"))
    with served(tmp_path / "page") as address:
        page = Page(chromium, address)
        page.wait(READY, 3600)
        assert page.run("moebius.state") == "ready", page.run("moebius.error")
        page.run("return await moebius.check()", 3600)
        got = [fetched(page, f"return moebius.checked.{name}.data;") for name in ("painted", "picture")]
        assert page.run("moebius.checked.ok")
        column = page.run("moebius.fingerprint.columns[0]")
        page.close()
    for mine, want, levels in zip(got, native, (1, SCALED), strict=True):
        assert np.abs(mine.reshape(want.shape).astype(int) - want).max() <= levels
    assert column["runs"][0]["inputs"] == model.digest()
