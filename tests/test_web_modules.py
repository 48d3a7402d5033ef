"""The page's modules one by one, in a real browser: what they do is what Python does, and what they load is what was exported."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from urllib.request import urlopen

import numpy as np
import pytest
from chromium import Address, Browser, Page, bytes_of, fetched, floats, picture_of, served
from PIL import Image

from moebius.check.compare.fingerprint import errors
from moebius.inpaint.draws import draws
from moebius.inpaint.settings import Settings
from moebius.model.arrays import time_sinusoid
from moebius.model.scheduler import DDIM
from moebius.pictures import published as image
from moebius.pictures.blend import put_back
from moebius.pictures.cut import cut_out
from moebius.pictures.windows import windows
from moebius.web.bundle import Bundle
from moebius.web.export import write_site


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Address]:
    """The page's files, and a weights.bin that is no model's."""
    folder = tmp_path_factory.mktemp("modules")
    write_site(folder)
    bundle = Bundle()
    bundle.arrays = {"noise": np.random.default_rng(1).standard_normal(300_000, np.float32)}
    bundle.write(folder, {})
    with served(folder) as address:
        yield address


@pytest.fixture(scope="module")
def bare(chromium: Browser, site: Address) -> Page:
    """A tab that may load the modules and has loaded nothing."""
    return Page(chromium, site + "style.css")


# the weights' way ----------------------------------------------------------------------------------------------------
STREAM = """
  const { streamed, forgotten } = await import('./weights.js');
  const plan = await (await fetch('plan.json')).json();
  const heard = [];
  const load = async (binary = plan.binary) => {
    const host = new Uint8Array(plan.binary.size);
    const middle = 4 * Math.floor(host.length / 8);
    const parts = [{ at: 0, size: middle, host: host.subarray(0, middle) }];
    parts.push({ at: middle, size: host.length - middle, host: host.subarray(middle) });
    const device = { queue: { onSubmittedWorkDone: async () => {} } };
    await streamed(new URL(binary.file, location.href), binary, parts, device, (what, done, total) => heard.push([what, done, total]));
    return host;
  };
"""


def content_of(site: str) -> bytes:
    with urlopen(site + "weights.bin") as answer:
        return answer.read()


def test_weights_are_downloaded_once(chromium: Browser, site: Address) -> None:
    page = Page(chromium, site + "style.css")

    def asked() -> int:
        return sum(path.startswith("/weights.bin") for path in site.asked)

    whole = np.frombuffer(content_of(site), np.uint8)
    page.run(STREAM + "return await forgotten()")
    before = asked()
    assert np.array_equal(fetched(page, STREAM + "return await load();"), whole)
    assert asked() == before + 1
    assert np.array_equal(fetched(page, STREAM + "return await load();"), whole)
    assert asked() == before + 1
    what, done, total = page.run(STREAM + "await load(); return heard.at(-1);")
    assert (what, done, total) == ("Reading weights", len(whole), len(whole))
    # Another export at the same place replaces what is kept.
    assert np.array_equal(fetched(page, STREAM + "return await load({ ...plan.binary, sha256: 'other' });"), whole)
    assert asked() == before + 2
    assert page.run("const c = await caches.open('moebius-webgpu'); return (await c.keys()).length") == 1


def test_pieces_of_any_length_reach_the_gpu_in_words(bare: Page) -> None:
    """WebGPU writes multiples of four bytes; a network cuts where it likes, in the middle of a buffer or of a number."""
    content = np.random.default_rng(7).integers(0, 256, 1000, np.uint8)
    got = bare.run(f"""
      const {{ Sink }} = await import('./weights.js');
      const content = {bytes_of(content)}, made = new Uint8Array(1000);
      const writeBuffer = (first, offset, data) => {{
        if (offset % 4 || data.length % 4) throw new Error(`${{data.length}} bytes at ${{offset}}`);
        made.set(data, first.at + offset);
      }};
      const parts = [[0, 256], [256, 4], [512, 488]].map(([at, size]) => ({{ at, size, buffer: {{ at }} }}));
      const sink = new Sink(parts, {{ queue: {{ writeBuffer }} }});
      for (let at = 0, length = 1; at < 1000; at += length, length = (length * 7) % 61) await sink.take(content.subarray(at, at + length));
      return [...made];""")
    expected = content.copy()
    expected[260:512] = 0  # no part is there
    assert got == expected.tolist()


@pytest.mark.parametrize(
    "trouble",
    [
        "Cache.prototype.put = async () => { throw new DOMException('full', 'QuotaExceededError'); };",
        "CacheStorage.prototype.open = async () => { throw new DOMException('no', 'SecurityError'); };",
        "navigator.storage.estimate = async () => ({ quota: 1000, usage: 900 });",
    ],
    ids=["quota", "forbidden", "no room"],
)
def test_weights_come_without_a_cache(chromium: Browser, site: Address, trouble: str) -> None:
    page = Page(chromium, site + "style.css")
    page.run(STREAM + "return await forgotten()")
    whole = np.frombuffer(content_of(site), np.uint8)
    assert np.array_equal(fetched(page, trouble + STREAM + "return await load();"), whole)
    assert page.run(STREAM + "await load(); return heard.at(-1)[0];") == "Downloading weights"


def test_weights_of_another_length_are_refused(chromium: Browser, site: Address) -> None:
    page = Page(chromium, site + "style.css")
    for change in (4, -4):
        script = (
            f"try {{ await load({{ ...plan.binary, size: plan.binary.size + {change}, sha256: 'x' }}); }} catch (e) {{ return e.message; }}"
        )
        assert "load the page again, or export it again" in page.run(STREAM + script)
    missing = "try { await load({ ...plan.binary, file: 'none.bin' }); } catch (e) { return e.message; }"
    assert page.run(STREAM + missing) == "none.bin could not be loaded (404); serve the whole exported folder."


# the same arithmetic as Python ---------------------------------------------------------------------------------------
@pytest.mark.parametrize("seed", [0, 1, 2**32 - 1, 2**32, 2**53 - 1, 2**130 + 7])
def test_noise_has_the_same_bits(bare: Page, seed: int) -> None:
    expected = draws(Settings(seed=seed), None, (1, 4, 9, 9), 1)
    script = f"const {{ draws }} = await import('./inpaint.js'); return draws({seed}n, {{ latent: 9, channels: 4 }})"
    for name, want in expected.items():
        got = fetched(bare, f"{script}.{name};").view(np.float32)
        assert np.array_equal(got.reshape(want.shape[2], want.shape[3], 4), np.moveaxis(want[0], 0, -1)), name


@pytest.mark.parametrize(("steps", "strength"), [(20, 0.99), (1, 1.0), (4, 0.99), (7, 0.5), (50, 1.5), (100, 0.3)])
def test_schedule(bare: Page, steps: int, strength: float) -> None:
    scheduler = DDIM()
    times, rows = bare.run(f"""
      const {{ timesteps, coefficients }} = await import('./ddim.js');
      const times = timesteps({steps}, {strength}); return [times, coefficients(times, {steps})];""")
    expected = scheduler.timesteps(steps, strength)
    assert times == expected.tolist()
    np.testing.assert_allclose(rows, scheduler.coefficients(expected, steps), rtol=1e-12, atol=1e-13)
    table = fetched(bare, f"const {{ sinusoid }} = await import('./ddim.js'); return sinusoid({times}, 64);").view(np.float32)
    np.testing.assert_allclose(table.reshape(len(times), 64), time_sinusoid(times, 64), atol=1e-6)


PLACES = {
    "native": ((150, 200), (60, 40, 30, 20), 64),
    "at the border": ((150, 200), (180, 0, 20, 12), 64),
    "scaled": ((150, 200), (40, 20, 90, 70), 64),
    "all of it": ((90, 140), (0, 0, 140, 90), 64),
    "small picture": ((40, 50), (10, 10, 12, 8), 64),
    "thin picture": ((30, 300), (100, 5, 60, 10), 128),
}


@pytest.mark.parametrize("place", PLACES)
def test_windows_and_pasting(bare: Page, place: str) -> None:
    (tall, wide), (x, y, w, h), size = PLACES[place]
    g = np.random.default_rng(5)
    smooth = Image.fromarray(g.integers(0, 256, (tall // 10 + 2, wide // 10 + 2, 3), np.uint8)).resize(
        (wide, tall), Image.Resampling.BICUBIC
    )
    rgb, mask = np.asarray(smooth), np.zeros((tall, wide), bool)
    mask[y : y + h, x : x + w] = True
    (window,) = windows(mask, size)
    cut = cut_out(window, rgb)
    setup = f"""
      const {{ windowOf, cut, pasted }} = await import('./pixels.js');
      const [picture, mask] = [{picture_of(rgb)}, {picture_of(mask)}];
      const window = windowOf(mask, {size}); const c = cut(picture, mask, window);
    """
    assert bare.run(setup + "return window") == {"x": window.x, "y": window.y, "side": window.width, "size": size}
    assert np.array_equal(fetched(bare, setup + "return c.m;").reshape(size, size), cut.m[0, 0])
    seen = fetched(bare, setup + "return c.rgb.data;").reshape(size, size, 3)
    assert np.array_equal(seen, cut.rgb)
    assert np.allclose(
        fetched(bare, setup + "return c.x;").view(np.float32), image.normalized(seen)[0].transpose(1, 2, 0).reshape(-1), atol=1e-7
    )

    result = np.ascontiguousarray(255 - cut.rgb)
    for blend, shown in (("paste", window), ("match", replace(window, feather=0))):
        expected = rgb.copy()
        put_back(expected, result, replace(cut, window=shown), blend)
        got = fetched(bare, setup + f"return pasted(picture, mask, {picture_of(result)}, window, '{blend}').data;").reshape(rgb.shape)
        wrong = got != expected
        if window.native:
            assert not wrong.any()
        else:  # Pillow rounds the corners of a piece to 32 bits before it resizes it; the page resizes the whole square
            assert np.abs(got.astype(int) - expected).max() <= 1
            assert wrong.mean() < 1e-3
            assert not wrong[np.all(expected == rgb, axis=-1) & ~mask].any()


def test_bytes_are_truncated_as_published(bare: Page) -> None:
    x = np.float32(np.linspace(-1.2, 1.2, 3 * 41 * 41).reshape(1, 3, 41, 41))
    got = fetched(bare, f"const {{ toBytes }} = await import('./pixels.js'); return toBytes({floats(np.moveaxis(x, 1, -1))});")
    assert np.array_equal(got.reshape(41, 41, 3), image.to_uint8(x))


def test_errors_are_those_of_the_fingerprint(bare: Page) -> None:
    g = np.random.default_rng(6)
    want = np.float32(g.standard_normal((1, 3, 5, 4)) * 10.0 ** g.integers(-6, 3, (1, 3, 5, 4)))
    for got in (want + np.float32(1e-3) * g.standard_normal(want.shape, np.float32), np.where(want > 0, want, np.nan)):
        row = bare.run(f"const {{ errors }} = await import('./check.js'); return errors({floats(got)}, {floats(want)}, [1, 3, 5, 4]);")
        expected = errors(np.float32(got), want, None)
        assert row.keys() == expected.keys() - {"checksum"}
        assert row == {k: v if v is None or isinstance(v, list) else pytest.approx(v, rel=1e-9) for k, v in expected.items() if k in row}
