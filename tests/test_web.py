"""The exported page in a real browser: Chromium without a window, its WebGPU on SwiftShader."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from chromium import Address, Browser, Page, served
from hand import Hand
from javascript import fetched
from PIL import Image

from moebius import sample
from moebius.backends.cpu import CPU
from moebius.backends.webgpu import WebGPU
from moebius.backends.webgpu.caps import DEFAULT_LIMITS
from moebius.check.compare import endtoend
from moebius.check.compare.files import load
from moebius.inpaint.inpainter import Inpainter
from moebius.model import unet, vae
from moebius.model.synthetic import synthetic
from moebius.model.unet import UNet, UNetConfig
from moebius.model.vae import VAE, VAEConfig
from moebius.web import export as exporting
from moebius.web.export import export, write_site
from moebius.web.targets import BOUNDS, FEATURES, LANES, targets

LOADED = 240  # seconds a page may take to load a small model and check itself
READY = "moebius.state !== 'loading'"
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
