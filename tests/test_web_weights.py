"""What the page loads is what was exported, in a real browser: weights.bin on its way to the GPU."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from urllib.request import urlopen

import numpy as np
import pytest
from chromium import Address, Browser, Page, served
from javascript import fetched

from moebius.web.bundle import PIECE, Bundle
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


def test_a_damaged_copy_is_never_used_and_never_kept(chromium: Browser, tmp_path: Path) -> None:
    """Whether it comes so from the server, or lies so in the cache. The pieces are so many bytes as plan.json says."""
    write_site(tmp_path)
    bundle = Bundle()
    bundle.arrays = {"noise": np.random.default_rng(2).standard_normal(2 * PIECE // 4 + 1000, np.float32)}
    bundle.write(tmp_path, {})
    whole = (tmp_path / "weights.bin").read_bytes()
    damaged = bytearray(whole)
    damaged[PIECE + 5] ^= 1
    cached = "const c = await caches.open('moebius-webgpu'); return (await c.keys()).length"
    attempt = "try { await load(); } catch (e) { return e.message; }"
    with served(tmp_path) as address:
        page = Page(chromium, address + "style.css")
        assert len(page.run(STREAM + "return plan.binary.pieces")) == 3
        (tmp_path / "weights.bin").write_bytes(damaged)
        for trouble in ("", "navigator.storage.estimate = async () => ({ quota: 1, usage: 1 });"):
            said = page.run(trouble + STREAM + attempt)
            assert f"bytes {PIECE} to {2 * PIECE - 1} have another SHA-256" in said
            assert page.run(cached) == 0
        page.run("delete navigator.storage.estimate")
        (tmp_path / "weights.bin").write_bytes(whole)
        sums = "const sum = (a) => a.reduce((s, v) => s + v, 0); return sum(await load());"
        want = int(np.frombuffer(whole, np.uint8).sum(dtype=np.int64))
        assert page.run(STREAM + sums) == want
        assert page.run(cached) == 1
        spoil = """
          const cache = await caches.open('moebius-webgpu'), [key] = await cache.keys();
          const bytes = new Uint8Array(await (await cache.match(key)).arrayBuffer());
          bytes[7] ^= 1;
          await cache.put(key, new Response(bytes)); return bytes.length"""
        assert page.run(spoil) == len(whole)
        before = len(address.asked)
        assert page.run(STREAM + sums) == want, "downloaded once more"
        assert sum("weights.bin" in path for path in address.asked[before:]) == 1
        assert page.run(STREAM + "await load(); return heard.at(-1)[0];") == "Reading weights"
        page.close()


def test_weights_of_another_length_are_refused(chromium: Browser, site: Address) -> None:
    page = Page(chromium, site + "style.css")
    for change in (4, -4):
        script = (
            f"try {{ await load({{ ...plan.binary, size: plan.binary.size + {change}, sha256: 'x' }}); }} catch (e) {{ return e.message; }}"
        )
        assert "load the page again, or export it again" in page.run(STREAM + script)
    missing = "try { await load({ ...plan.binary, file: 'none.bin' }); } catch (e) { return e.message; }"
    assert page.run(STREAM + missing) == "none.bin could not be loaded (404); serve the whole exported folder."
