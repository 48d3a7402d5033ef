"""The page's modules one by one, in Node and in Chromium: what they import, and that what they compute is what Python computes."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from graphlib import TopologicalSorter
from importlib.resources import files
from pathlib import Path

import chromium as browsers
import numpy as np
import pytest
from conftest import CI
from javascript import Node, Scripts, bytes_of, fetched, find_node, floats, picture_of
from PIL import Image

from moebius.backends.webgpu import quads
from moebius.check.compare.fingerprint import errors
from moebius.inpaint.draws import draws, shared
from moebius.inpaint.settings import Settings
from moebius.model.arrays import time_sinusoid
from moebius.model.scheduler import DDIM
from moebius.pictures import published
from moebius.pictures.blend import is_thin, put_back, put_film
from moebius.pictures.cut import cut_out
from moebius.pictures.grain import Detail
from moebius.pictures.mask import dilated, feathered
from moebius.pictures.seam import matched
from moebius.pictures.windows import windows
from moebius.web.export import constants, write_site

ROOT = Path(__file__).parents[1]
SOURCES = {
    file.name: file.read_text(encoding="utf-8") for file in files("moebius.web").joinpath("site").iterdir() if file.name.endswith(".js")
}
CONSTANTS = f"const constants = {json.dumps(constants())};"  # as plan.json has them


# the sources ---------------------------------------------------------------------------------------------------------
def test_imports_have_no_cycle_and_nothing_is_left_over() -> None:
    imports = {name: set(re.findall(r"""(?:\bfrom|\bimport\(?)\s*["']\./([\w.]+)["']""", text)) for name, text in SOURCES.items()}
    assert imports["engine_webgpu.js"] >= {"inpaint.js", "exported.js"}
    assert imports["engine.js"] == {"engine_webgpu.js", "engine_server.js"}
    order = list(TopologicalSorter(imports).static_order())  # raises CycleError
    assert set(order) == SOURCES.keys()
    reached, rest = set(), {"page.js", "fromfile.js", "sw.js"}
    while rest:
        reached |= rest
        rest = {other for name in rest for other in imports[name]} - reached
    assert reached == SOURCES.keys()


def test_scripts_are_short_enough_to_read() -> None:
    assert {name: text.count("\n") for name, text in SOURCES.items() if text.count("\n") > 400} == {}


def test_comments_name_files_that_are_there() -> None:
    named = {path for text in SOURCES.values() for path in re.findall(r"\b(?:engine|tests|shaders|docs)/[\w/]+\.\w+", text)}
    assert len(named) > 5
    assert {path for path in named if not (ROOT / path).is_file()} == set()


def test_constants_are_typed_in_python_alone() -> None:
    everything = "\n".join(SOURCES.values())
    for name in constants():
        assert re.search(rf"\b{name}\b", everything), f"no script uses {name}"
        assert not re.search(rf"\b{name}\b\s*[:=]\s*[-\d\[.]", everything), f"a script types {name} again"


# where they run ------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module", params=["node", "chromium"])
def scripts(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scripts]:
    """Node, and a tab of Chromium that has loaded nothing. One of the two is enough on a machine that is not CI's."""
    there = {"node": find_node(), "chromium": browsers.find()}
    if not there[request.param]:
        give_up = pytest.fail if CI and not any(there.values()) else pytest.skip
        give_up(f"{request.param.title()} is not installed.")
    folder = tmp_path_factory.mktemp("scripts")
    write_site(folder)
    if request.param == "node":
        node = Node(folder)
        yield node
        node.close()
    else:
        with browsers.served(folder) as address:
            yield browsers.Page(request.getfixturevalue("chromium"), address + "style.css")


# the same arithmetic as Python ---------------------------------------------------------------------------------------
@pytest.mark.parametrize("seed", [0, 1, 2**32 - 1, 2**32, 2**53 - 1, 2**64 - 1])
def test_noise_has_the_same_bits(scripts: Scripts, seed: int) -> None:
    expected = draws(Settings(seed=seed), None, (1, 4, 9, 9), [(0, 0, 0)])
    script = f"{CONSTANTS} const {{ draws }} = await import('./inpaint.js'); return draws({seed}n, {{ latent: 9, channels: 4 }}, constants)"
    for name, want in expected.items():
        got = fetched(scripts, f"{script}.{name};").view(np.float32)
        assert np.array_equal(got.reshape(want.shape[2], want.shape[3], 4), np.moveaxis(want[0], 0, -1)), name


@pytest.mark.parametrize(("steps", "strength"), [(20, 0.99), (1, 1.0), (4, 0.99), (7, 0.5), (50, 1.5), (100, 0.3)])
def test_schedule(scripts: Scripts, steps: int, strength: float) -> None:
    scheduler = DDIM()
    times, rows = scripts.run(f"""
      {CONSTANTS} const {{ DDIM }} = await import('./ddim.js'); const scheduler = new DDIM(constants);
      const times = scheduler.timesteps({steps}, {strength}); return [times, scheduler.coefficients(times, {steps})];""")
    expected = scheduler.timesteps(steps, strength)
    assert times == expected.tolist()
    np.testing.assert_allclose(rows, scheduler.coefficients(expected, steps), rtol=1e-12, atol=1e-13)
    script = f"{CONSTANTS} const {{ sinusoid }} = await import('./ddim.js'); return sinusoid({times}, 64, constants);"
    table = fetched(scripts, script).view(np.float32)
    np.testing.assert_allclose(table.reshape(len(times), 64), time_sinusoid(times, 64), atol=1e-6)


PLACES = {
    "native": ((150, 200), (60, 40, 30, 20), 64),
    "at the border": ((150, 200), (180, 0, 20, 12), 64),
    "scaled": ((150, 200), (40, 20, 90, 70), 64),
    "scaled by six": ((300, 420), (30, 12, 290, 250), 64),
    "a thin line": ((200, 330), (10, 90, 300, 3), 64),
    "all of it": ((90, 140), (0, 0, 140, 90), 64),
    "small picture": ((40, 50), (10, 10, 12, 8), 64),
    "thin picture": ((30, 300), (100, 5, 60, 10), 128),
}


@pytest.mark.parametrize("place", PLACES)
def test_windows_and_pasting(scripts: Scripts, place: str) -> None:
    (tall, wide), (x, y, w, h), size = PLACES[place]
    g = np.random.default_rng(5)
    smooth = Image.fromarray(g.integers(0, 256, (tall // 10 + 2, wide // 10 + 2, 3), np.uint8)).resize(
        (wide, tall), Image.Resampling.BICUBIC
    )
    rgb, mask = np.asarray(smooth), np.zeros((tall, wide), bool)
    mask[y : y + h, x : x + w] = True
    (window,) = windows(mask, size, most=1)
    cut = cut_out(window, rgb)
    setup = f"""
      {CONSTANTS} const {{ windowOf, cut, isThin, pasted }} = await import('./pixels.js');
      const [picture, mask] = [{picture_of(rgb)}, {picture_of(mask)}];
      const window = windowOf(mask, {size}, constants); const c = cut(picture, mask, window, constants);
    """
    assert scripts.run(setup + "return window") == {"x": window.x, "y": window.y, "side": window.width, "size": size}
    assert np.array_equal(fetched(scripts, setup + "return c.m;").reshape(size, size), cut.m[0, 0])
    seen = fetched(scripts, setup + "return c.rgb.data;").reshape(size, size, 3)
    assert np.array_equal(seen, cut.rgb)
    assert np.allclose(
        fetched(scripts, setup + "return c.x;").view(np.float32), published.normalized(seen)[0].transpose(1, 2, 0).reshape(-1), atol=1e-7
    )

    result = np.ascontiguousarray(255 - cut.rgb)
    for blend, shown in (("paste", window), ("match", replace(window, feather=0))):
        expected = rgb.copy()
        put_back(expected, result, replace(cut, window=shown), blend)
        got = fetched(scripts, setup + f"return pasted(picture, mask, {picture_of(result)}, window, '{blend}', constants).data;").reshape(
            rgb.shape
        )
        assert np.array_equal(got, expected), blend
    shown = replace(window, feather=0)
    expected = rgb.copy()
    put_back(expected, result, replace(cut, window=shown), "match", detail=Detail(0.7, 2**40 + 5))
    detail = f"{{ part: 0.7, seed: {2**40 + 5}n }}"
    script = setup + f"return pasted(picture, mask, {picture_of(result)}, window, 'match', constants, {detail}).data;"
    assert np.array_equal(fetched(scripts, script).reshape(rgb.shape), expected)
    assert fetched(scripts, setup + "return Uint8Array.of((await import('./pixels.js')).isThin(mask, window, constants));")[0] == is_thin(
        shown
    )
    expected = rgb.copy()
    put_film(expected, shown, rgb)
    got = fetched(scripts, setup + "return pasted(picture, mask, null, window, 'match', constants).data;").reshape(rgb.shape)
    assert np.array_equal(got, expected)


def marked(kind: str) -> np.ndarray:
    """(180, 260) bool"""
    fill = np.zeros((180, 260), bool)
    y, x = np.mgrid[:180, :260]
    if kind == "specks":
        fill[[12, 14, 90, 171, 179], [7, 100, 130, 259, 3]] = True
    elif kind == "a disc with a wire":
        fill[(np.abs(y - 90) < 2) | (np.hypot(y - 90, x - 100) < 30)] = True
    elif kind == "a band and an object":
        fill[140:152] = fill[20:60, 30:90] = True
    return fill


@pytest.mark.parametrize("kind", ["specks", "a disc with a wire", "a band and an object"])
def test_several_windows(scripts: Scripts, kind: str) -> None:
    """The same squares in the same order, the same noise in them, and put back the same picture."""
    mask, size = marked(kind), 72
    rgb = np.asarray(
        Image.fromarray(np.random.default_rng(5).integers(0, 256, (18, 26, 3), np.uint8)).resize((260, 180), Image.Resampling.BICUBIC)
    )
    found = windows(mask, size)
    assert len(found) > 1
    setup = f"""
      {CONSTANTS} const {{ windowsOf }} = await import('./tiling.js'); const {{ cut, isThin, putBack }} = await import('./pixels.js');
      const [picture, mask] = [{picture_of(rgb)}, {picture_of(mask)}];
      const windows = windowsOf(mask, {size}, constants);
    """
    squares = scripts.run(setup + "return windows.map(({ x, y, side, before }) => [x, y, side, before]);")
    assert squares == [[w.x, w.y, w.width, None if w.before is None else [list(s) for s in w.before]] for w in found]
    fewer = scripts.run(setup + f"return windowsOf(mask, {size}, constants, 3).map(({{ x, y, side }}) => [x, y, side]);")
    assert fewer == [[w.x, w.y, w.width] for w in windows(mask, size, most=3)]

    noise = draws(Settings(seed=3), None, (len(found), 4, 9, 9), shared(found, 9))
    script = setup + "const { drawsOf } = await import('./inpaint.js');"
    script += "const [last] = drawsOf(3, { latent: 9, channels: 4 }, constants, windows).slice(-1); return last."
    for name, want in noise.items():
        got = fetched(scripts, f"{script}{name};").view(np.float32)
        assert np.array_equal(got.reshape(*want.shape[2:], 4), np.moveaxis(want[-1], 0, -1)), name

    for blend in ("paste", "match"):
        expected = rgb.copy()
        for window in found:
            shown = replace(window, feather=0) if blend == "match" else window
            cut = cut_out(shown, rgb)
            put_back(expected, np.ascontiguousarray(255 - cut.rgb), cut, blend, rgb, Detail(0.5, 7))
        got = fetched(
            scripts,
            f"""{setup} const into = {{ ...picture, data: picture.data.slice() }};
              for (const window of windows) {{
                const result = {{ data: cut(picture, mask, window, constants).rgb.data.map((v) => 255 - v) }};
                Object.assign(result, {{ width: {size}, height: {size} }});
                putBack(into, picture, mask, result, window, '{blend}', constants, {{ part: 0.5, seed: 7 }});
              }}
              return into.data;""",
        ).reshape(rgb.shape)
        assert np.array_equal(got, expected), blend


HOLES = {
    "inside": ((40, 50), (12, 14, 20, 13)),
    "at the border": ((31, 47), (0, 20, 15, 11)),
    "across": ((33, 40), (0, 12, 40, 9)),
    "all but a column": ((24, 25), (1, 0, 24, 24)),
    "everything": ((8, 9), (0, 0, 9, 8)),
    "deep": ((101, 118), (9, 0, 103, 97)),
}


@pytest.mark.parametrize("place", HOLES)
@pytest.mark.parametrize("ground", ["busy", "plain", "mask too tight"])
def test_seam_is_the_same_bytes(scripts: Scripts, place: str, ground: str) -> None:
    (tall, wide), (x, y, w, h) = HOLES[place]
    g = np.random.default_rng(8)
    hole = np.zeros((tall, wide), bool)
    hole[y : y + h, x : x + w] = True
    picture = np.broadcast_to(np.linspace(60, 180, wide)[None, :, None], (tall, wide, 3)).astype(np.uint8)
    if ground == "busy":
        picture = np.clip(picture + g.integers(-40, 40, picture.shape), 0, 255).astype(np.uint8)
    result = np.clip(picture * 0.9 + g.integers(-9, 10, picture.shape), 0, 255).astype(np.uint8)
    if ground == "mask too tight":
        picture = np.where(dilated(hole, 1)[..., None], np.uint8(250), picture)  # what was to be filled in shows around the hole
    for scale in (1, 1.5):
        script = f"""
          {CONSTANTS} const {{ matched }} = await import('./seam.js');
          return matched({bytes_of(result)}, {bytes_of(picture)}, {bytes_of(hole)}, {wide}, {tall}, constants, {scale});"""
        assert np.array_equal(fetched(scripts, script).reshape(picture.shape), matched(result, picture, hole, scale)), scale


SPECKS = np.random.default_rng(9).random((37, 52)) < 0.01


@pytest.mark.parametrize("radius", [0, 1, 2.5, 4, 13.7])
def test_masks_grow_the_same(scripts: Scripts, radius: float) -> None:
    small = json.dumps(constants() | {"PIECE": 16})
    for numbers in (json.dumps(constants()), small):  # at once, and piece by piece
        script = f"const {{ grown }} = await import('./grown.js'); return grown({bytes_of(SPECKS)}, 52, 37, {radius}, {numbers});"
        assert np.array_equal(fetched(scripts, script).reshape(SPECKS.shape), dilated(SPECKS, radius))


@pytest.mark.parametrize("radius", [3, 4.7, 13.7])
def test_masks_are_blurred_the_same(scripts: Scripts, radius: float) -> None:
    """From the published radius up: the page has no smaller one."""
    script = f"const {{ blurred }} = await import('./pixels.js'); return blurred({bytes_of(255 * SPECKS)}, 52, 37, {radius});"
    assert np.array_equal(fetched(scripts, script).reshape(SPECKS.shape), feathered(SPECKS, radius))


def test_bytes_are_truncated_as_published(scripts: Scripts) -> None:
    x = np.float32(np.linspace(-1.2, 1.2, 3 * 41 * 41).reshape(1, 3, 41, 41))
    got = fetched(scripts, f"const {{ toBytes }} = await import('./pixels.js'); return toBytes({floats(np.moveaxis(x, 1, -1))});")
    assert np.array_equal(got.reshape(41, 41, 3), published.to_uint8(x))


def test_errors_are_those_of_the_fingerprint(scripts: Scripts) -> None:
    g = np.random.default_rng(6)
    want = np.float32(g.standard_normal((1, 3, 5, 4)) * 10.0 ** g.integers(-6, 3, (1, 3, 5, 4)))
    for got in (want + np.float32(1e-3) * g.standard_normal(want.shape, np.float32), np.where(want > 0, want, np.nan)):
        row = scripts.run(f"const {{ errors }} = await import('./check.js'); return errors({floats(got)}, {floats(want)}, [1, 3, 5, 4]);")
        expected = errors(np.float32(got), want, None)
        assert row.keys() == expected.keys() - {"checksum"}
        assert row == {k: v if v is None or isinstance(v, list) else pytest.approx(v, rel=1e-9) for k, v in expected.items() if k in row}


def test_every_half_is_read_as_numpy_does(scripts: Scripts) -> None:
    script = "const { numbers } = await import('./tensors.js'); return numbers(new Uint16Array(65536).map((_, i) => i).buffer, 'f16');"
    np.testing.assert_array_equal(
        fetched(scripts, script).view(np.float32), np.arange(65536).astype(np.uint16).view(np.float16).astype(np.float32)
    )


def test_every_quad_is_read_as_numpy_does(scripts: Scripts) -> None:
    g = np.random.default_rng(8)
    given = np.float32(g.standard_normal((2048, 4)) * 2.0 ** g.integers(-110, 120, (2048, 1)))
    given[:4][np.eye(4, dtype=bool)] = np.inf
    words = quads.packed(given.reshape(-1))
    script = f"const {{ numbers }} = await import('./tensors.js'); return numbers({bytes_of(words.view(np.uint8))}.buffer, 'quad');"
    np.testing.assert_array_equal(fetched(scripts, script).view(np.float32), quads.unpacked(words))


def test_distances_are_of_the_hole(scripts: Scripts) -> None:
    """The largest difference is of all, and what an edition is held to is what its bound names."""
    g = np.random.default_rng(5)
    want, m = g.integers(20, 200, (9, 7, 3), np.uint8), g.random((9, 7)) < 0.5
    got = np.uint8(want + g.integers(0, 3, want.shape) * m[..., None] + 9 * ~m[..., None])
    found = scripts.run(f"""
      const {{ distances }} = await import('./check.js');
      return distances({bytes_of(got)}, {bytes_of(want)}, {bytes_of(m)});""")
    hole = (got.astype(float) - want)[m]
    assert found == {
        "levels": 9,
        "mean": pytest.approx(np.abs(hole).mean()),
        "psnr": pytest.approx(10 * np.log10(255**2 / np.mean(hole**2))),
    }
    script = "const { isWithin } = await import('./check.js'); return [{ levels: 9 }, { levels: 8 }, { mean: 2, psnr: 40 }, "
    script += f"{{ mean: 0.1 }}, {{ psnr: 60 }}].map((bound) => isWithin({json.dumps(found)}, bound));"
    assert scripts.run(script) == [True, False, True, False, False]
    assert scripts.run("return (await import('./check.js')).isWithin({ levels: NaN, mean: NaN, psnr: NaN }, { mean: 1 });") is False


@pytest.mark.parametrize("box", [(300, 200, 20, 16), (0, 5, 30, 20), (420, 300, 80, 60), (150, 100, 140, 9), (100, 60, 200, 180)])
def test_the_surroundings_of_a_hole_are_as_good_as_the_whole_picture(scripts: Scripts, box: tuple[int, int, int, int]) -> None:
    """The same windows, and the same bytes with them: the seam's and the grain's."""
    x, y, w, h = box
    rgb, mask = np.random.default_rng(12).integers(0, 256, (360, 500, 3), np.uint8), np.zeros((360, 500), bool)
    mask[y : y + h, x : x + w] = True
    same = scripts.run(f"""
      {CONSTANTS} const {{ windowsOf }} = await import('./tiling.js'), {{ pasted }} = await import('./pixels.js');
      const {{ surroundings }} = await import('./marks.js');
      const [picture, mask] = [{picture_of(rgb)}, {picture_of(mask)}];
      const r = surroundings({{ x: {x}, y: {y}, width: {w}, height: {h} }}, 64, 500, 360);
      const part = (whole, n) => {{
        const data = new Uint8Array(n * r.width * r.height);
        for (let j = 0; j < r.height; j++) {{
          const at = n * ((r.y + j) * whole.width + r.x);
          data.set(whole.data.subarray(at, at + n * r.width), n * j * r.width);
        }}
        return {{ data, width: r.width, height: r.height, left: r.x, top: r.y }};
      }};
      const [cut, hole] = [part(picture, 3), part(mask, 1)];
      const [far, near] = [windowsOf(mask, 64, constants), windowsOf(hole, 64, constants)];
      const place = (dx, dy) => (v) => [v.x + dx, v.y + dy, v.side];
      const result = {{ data: new Uint8Array(3 * 64 * 64).map((_, i) => 90 + (i % 70)), width: 64, height: 64 }};
      const detail = {{ part: 0.7, seed: 5n }};
      const whole = pasted(picture, mask, result, far[0], 'match', constants, detail);
      const got = pasted(cut, hole, result, near[0], 'match', constants, detail);
      const windowsAre = JSON.stringify(far.map(place(0, 0))) === JSON.stringify(near.map(place(r.x, r.y)));
      return [windowsAre, part(whole, 3).data.every((v, i) => v === got.data[i])];""")
    assert same == [True, True]


# previews ------------------------------------------------------------------------------------------------------------
def test_a_preview_is_the_estimate_by_the_fitted_map(scripts: Scripts) -> None:
    """x of y_t = √ā_t·x + √(1-ā_t)·ε, and the colours that least squares gives to four latent channels."""
    g = np.random.default_rng(11)
    x, noise = g.standard_normal((2, 36)).astype(np.float32)
    row = [0.3, 0.91**0.5, 0.5, 0.75**0.5]
    before, after = row[0] * x + row[1] * noise, row[2] * x + row[3] * noise
    script = f"const {{ estimated }} = await import('./preview.js'); return estimated({row}, {floats(before)}, {floats(after)});"
    np.testing.assert_allclose(fetched(scripts, script).view(np.float32), x, atol=1e-5)
    z, colours = g.standard_normal((50, 4)).astype(np.float32), g.uniform(-1, 1, (50, 3)).astype(np.float32)
    want = np.linalg.lstsq(np.column_stack([z, np.ones(50)]), colours, rcond=None)[0]
    script = f"const {{ fitted }} = await import('./preview.js'); return fitted({floats(z)}, {floats(colours)}, 4).map((row) => [...row]);"
    np.testing.assert_allclose(scripts.run(script), want, atol=1e-5)
    flat = "const [z, c] = [new Float32Array(200).fill(1), new Float32Array(150).fill(0.5)];"
    flat += "return (await import('./preview.js')).fitted(z, c, 4).map((row) => [...row]);"
    assert np.sum(scripts.run(flat), axis=0) == pytest.approx([0.5] * 3, abs=1e-3)


# weights.bin ---------------------------------------------------------------------------------------------------------
def test_pieces_of_any_length_reach_the_gpu_in_words(scripts: Scripts) -> None:
    """WebGPU writes multiples of four bytes; a network cuts where it likes, in the middle of a buffer or of a number."""
    content = np.random.default_rng(7).integers(0, 256, 1000, np.uint8)
    got = scripts.run(f"""
      const {{ Sink }} = await import('./weights.js');
      const content = {bytes_of(content)}, written = new Uint8Array(1000);
      const writeBuffer = (first, offset, data) => {{
        if (offset % 4 || data.length % 4) throw new Error(`${{data.length}} bytes at ${{offset}}`);
        written.set(data, first.at + offset);
      }};
      const parts = [[0, 256], [256, 4], [512, 488]].map(([at, size]) => ({{ at, size, buffer: {{ at }} }}));
      const sink = new Sink(parts, {{ queue: {{ writeBuffer }} }});
      for (let at = 0, length = 1; at < 1000; at += length, length = (length * 7) % 61) await sink.take(content.subarray(at, at + length));
      return [...written];""")
    expected = content.copy()
    expected[260:512] = 0  # no part is there
    assert got == expected.tolist()
