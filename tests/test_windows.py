"""Windows: where they lie, what they show a model, and that nothing but the seam and what is inside it changes."""

import itertools

import numpy as np
import pytest
from PIL import Image, ImageDraw

from moebius.errors import UsageError
from moebius.inpaint.draws import draws, shared
from moebius.inpaint.settings import Settings
from moebius.pictures import mask, published, tiling
from moebius.pictures.blend import published_picture, put_back, put_finer, seam_weights
from moebius.pictures.cut import Cut, _any_of, cut_out, reflected
from moebius.pictures.islands import grouped, islands
from moebius.pictures.mask import dilated, feathered, support
from moebius.pictures.pixels import piece, resized
from moebius.pictures.seam import eased
from moebius.pictures.windows import Window, finer, windows


def noise(height: int, width: int, seed: int = 0, dtype: type = np.uint8) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, np.iinfo(dtype).max, (height, width, 3), dtype, endpoint=True)


def blobs(height: int, width: int, *boxes: tuple[int, int, int, int]) -> np.ndarray:
    """x0, y0, x1, y1"""
    fill = np.zeros((height, width), bool)
    for x0, y0, x1, y1 in boxes:
        fill[y0:y1, x0:x1] = True
    return fill


def random_fill(g: np.random.Generator, height: int, width: int) -> np.ndarray:
    kind = g.choice(["pixel", "border", "islands", "specks", "full", "line", "half"])
    fill = np.zeros((height, width), bool)
    if kind == "pixel":
        fill[g.integers(height), g.integers(width)] = True
    elif kind == "border":
        fill[[0, -1]] = fill[:, [0, -1]] = True
    elif kind == "islands":
        for _ in range(int(g.integers(1, 8))):
            y, x = int(g.integers(height)), int(g.integers(width))
            fill[y : y + int(g.integers(1, height // 3 + 2)), x : x + int(g.integers(1, width // 3 + 2))] = True
    elif kind == "specks":
        fill = g.random((height, width)) < 5 / (height * width)
        fill[0, 0] = True
    elif kind == "full":
        fill[:] = True
    elif kind == "line":
        fill[:, width // 2] = True
    else:
        fill[: height // 2 + 1] = True
    return fill


def random_size(g: np.random.Generator, longest: int) -> tuple[int, int]:
    height, width = (int(np.exp(g.uniform(0, np.log(longest)))) for _ in range(2))
    return [(height, width), (1, width), (height, 1), (1, 1)][int(g.choice(4, p=[0.85, 0.06, 0.06, 0.03]))]


def zone(window: Window) -> np.ndarray:
    """(H, W) uint8: how much of the window's filling shows."""
    w = np.zeros(window.islands.fill.shape, np.uint8)
    rows, columns, part = seam_weights(window)
    w[rows, columns] = part
    return w


def check(fill: np.ndarray, size: int, crop: str, feather: float | None, dtype: type = np.uint8) -> list[Window]:
    """Every promise about the windows of a mask."""
    height, width = fill.shape
    rgb = noise(height, width, 1, dtype)
    given = rgb.copy()
    found = windows(fill, size, crop, feather)
    filled_by = np.zeros(fill.shape, int)
    shows, into, same = np.zeros(fill.shape, np.uint8), rgb.copy(), rgb.copy()
    for window in found:
        rows, columns = window.inside()
        own = window.islands.of(window.index, rows, columns)
        filled_by[rows, columns] += (
            own if window.before is None else own & (window.share(rows, columns) > 0) & (filled_by[rows, columns] == 0)
        )
        assert own.any()
        if width >= window.width:
            assert (columns.stop - columns.start) == window.width, "the window could lie inside"
        if height >= window.height:
            assert (rows.stop - rows.start) == window.height
        cut = cut_out(window, rgb)
        check_cut(window, cut, rgb)
        w = zone(window)
        shows = np.maximum(shows, w)
        result = np.iinfo(dtype).max - cut.rgb
        put_back(into, result, cut, picture=rgb)
        put_back(same, cut.rgb, cut, picture=rgb)
        if window.native and window.before is None:
            inside = w[rows, columns] == 255
            here = slice(rows.start - window.y, rows.stop - window.y), slice(columns.start - window.x, columns.stop - window.x)
            np.testing.assert_array_equal(into[rows, columns][inside], result[here][inside])
    np.testing.assert_array_equal(filled_by, fill)  # each marked pixel by one window, or by several of one island
    np.testing.assert_array_equal(into[shows == 0], rgb[shows == 0])
    np.testing.assert_array_equal(same[shows == 0], rgb[shows == 0])
    if all(window.native and not (window.upstream and dtype == np.uint16) for window in found):  # what is published has 8 bits
        np.testing.assert_array_equal(same, rgb)  # a model that changes nothing
    np.testing.assert_array_equal(rgb, given)
    return found


def check_cut(window: Window, cut: Cut, rgb: np.ndarray) -> None:
    height, width = window.target[1], window.target[0]
    assert cut.x.shape == (1, 3, height, width)
    assert cut.m.shape == (1, 1, height, width)
    assert cut.rgb.shape == (height, width, 3)
    assert cut.own.shape == (height, width)
    assert cut.x.dtype == cut.m.dtype == np.float32
    assert cut.rgb.dtype == rgb.dtype
    assert -1 <= cut.x.min() <= cut.x.max() <= 1
    assert cut.m.any()
    assert (cut.m[0, 0] >= cut.own).all()
    if window.native and not window.upstream:
        rows, columns = (reflected(start, n, m) for start, n, m in ((window.y, height, rgb.shape[0]), (window.x, width, rgb.shape[1])))
        np.testing.assert_array_equal(cut.rgb, rgb[np.ix_(rows, columns)])
        np.testing.assert_array_equal(cut.m[0, 0], window.islands.fill[np.ix_(rows, columns)])


@pytest.mark.parametrize("crop", ["auto", "full"])
@pytest.mark.parametrize("seed", range(5))
def test_random_pictures_and_masks(crop: str, seed: int) -> None:
    g = np.random.default_rng(seed)
    for _ in range(10):
        height, width = random_size(g, 500)
        feather = g.choice([None, None, 0.0, 1.0, 11.0])
        check(random_fill(g, height, width), 64, crop, feather, np.uint16 if g.random() < 0.2 else np.uint8)


@pytest.mark.parametrize("shape", [(1200, 1900), (3000, 5), (1, 3000)])
def test_large_pictures(shape: tuple[int, int]) -> None:
    g = np.random.default_rng(sum(shape))
    for crop in ("auto", "full"):
        check(random_fill(g, *shape), 512, crop, None)


@pytest.mark.parametrize("shape", [(1, 1), (1, 2), (64, 64), (200, 200), (90, 240), (240, 90), (40, 300)])
def test_upstream_keeps_its_promises_too(shape: tuple[int, int]) -> None:
    height, width = shape
    check(blobs(height, width, (0, 0, width // 2 + 1, height // 2 + 1)), 64, "upstream", None)
    check(blobs(height, width, (0, 0, width // 2 + 1, height // 2 + 1)), 64, "upstream", 5.0, np.uint16)


def test_an_empty_mask_has_no_windows() -> None:
    for crop in ("auto", "full", "upstream"):
        assert windows(np.zeros((50, 60), bool), 64, crop) == []


# Where windows lie


def placed(fill: np.ndarray, size: int = 512, feather: float | None = None) -> list[tuple[int, int, int]]:
    return [(w.x, w.y, w.width) for w in windows(fill, size, "auto", feather)]


def test_a_small_hole_gets_one_native_window_around_it() -> None:
    assert placed(blobs(4000, 6000, (3000, 2000, 3100, 2050))) == [(3050 - 256, 2025 - 256, 512)]


def test_windows_are_shifted_into_the_picture() -> None:
    assert placed(blobs(2000, 3000, (0, 0, 10, 10))) == [(0, 0, 512)]
    assert placed(blobs(2000, 3000, (2990, 1900, 3000, 1910))) == [(3000 - 512, 2000 - 512, 512)]


def test_a_picture_smaller_than_the_window_lies_in_its_middle() -> None:
    assert placed(blobs(100, 300, (0, 0, 10, 10))) == [(-106, -206, 512)]
    assert placed(blobs(100, 3000, (0, 0, 10, 10))) == [(0, -206, 512)]


@pytest.mark.parametrize(("side", "window"), [(448, 512), (449, 599), (900, 1200), (1800, 2000), (2000, 2000)])
def test_a_hole_that_leaves_no_context_is_scaled(side: int, window: int) -> None:
    """512/16 = 32 pixels a side; then 4/3 of the hole, and never more than the picture's longer side."""
    (found,) = windows(blobs(2000, 2000, (0, 0, side, side // 2)), 512)
    assert found.width == found.height == window
    assert found.native == (side <= 448)


def test_near_islands_share_a_window_while_it_stays_native() -> None:
    assert len(placed(blobs(2000, 3000, (1000, 1000, 1050, 1050), (1300, 1000, 1384, 1050)))) == 1  # 384 = 512 - 2·64
    assert len(placed(blobs(2000, 3000, (1000, 1000, 1050, 1050), (1300, 1000, 1385, 1050)))) == 2
    assert len(placed(blobs(2000, 3000, (100, 100, 200, 200), (2000, 1500, 2100, 1600), (2200, 1500, 2300, 1550)))) == 2


def test_touching_islands_are_one_even_if_it_must_be_scaled() -> None:
    (found,) = windows(blobs(2000, 3000, (500, 500, 1000, 900), (1010, 500, 1500, 900)), 512)
    assert not found.native
    assert len(windows(blobs(2000, 3000, (500, 500, 1000, 900), (1040, 500, 1500, 900)), 512)) == 2


def test_scaled_windows_come_first_then_from_top_to_bottom() -> None:
    fill = blobs(3000, 3000, (100, 100, 120, 120), (2000, 2000, 2900, 2900), (1500, 100, 1540, 120), (100, 2000, 800, 2400))
    sides = [w.width for w in windows(fill, 512)]
    assert sides == [1200, 934, 512, 512]
    assert placed(fill)[2:] == [(0, 0, 512), (1264, 0, 512)]


def test_cells_that_meet_at_a_corner_are_one_island() -> None:
    """Grown by one, the cells (2, 2) and (5, 5) touch corner to corner, and so do (2, 5) and (5, 2)."""
    for first, second in (((20, 44), (44, 20)), ((20, 20), (44, 44))):
        fill = np.zeros((80, 80), bool)
        fill[first] = fill[second] = True
        assert len(islands(fill, 0)[1]) == 1
        fill[second], fill[second[0] + 8, second[1]] = False, True
        assert len(islands(fill, 0)[1]) == 2


@pytest.mark.parametrize("feather", [None, 0.0, 3.0, 8.0])
def test_the_seams_of_native_windows_never_meet(feather: float | None) -> None:
    """So the order they are pasted in does not matter."""
    g = np.random.default_rng(3)
    for _ in range(12):
        fill = np.zeros((500, 700), bool)
        for _ in range(12):
            y, x = g.integers(480), g.integers(680)
            fill[y : y + g.integers(1, 25), x : x + g.integers(1, 25)] = True
        native = [w for w in windows(fill, 160, "auto", feather) if w.native]
        assert len(native) > 1
        for a, b in itertools.combinations([zone(w) > 0 for w in native], 2):
            assert not (a & b).any()
        rgb = noise(500, 700)
        cuts = [cut_out(w, rgb) for w in native]
        forwards, backwards = rgb.copy(), rgb.copy()
        for cut in cuts:
            put_back(forwards, 255 - cut.rgb, cut)
        for cut in reversed(cuts):
            put_back(backwards, 255 - cut.rgb, cut)
        np.testing.assert_array_equal(forwards, backwards)


@pytest.mark.parametrize("feather", [None, 20.0, 60.0])
def test_the_window_holds_the_whole_seam(feather: float | None) -> None:
    """Inside the picture, no weight is cut off at a window's edge: its zone is the one the whole mask would have."""
    g = np.random.default_rng(4)
    for _ in range(10):
        y, x, h, w = int(g.integers(700)), int(g.integers(900)), int(g.integers(1, 250)), int(g.integers(1, 250))
        fill = blobs(700, 900, (x, y, x + w, y + h))
        for window in windows(fill, 256, "auto", feather):
            np.testing.assert_array_equal(zone(window), feathered(fill, window.radius))
            assert support(window.radius) > 0


def test_the_same_mask_has_the_same_windows() -> None:
    fill = random_fill(np.random.default_rng(8), 700, 900)
    assert placed(fill, 128) == placed(fill.copy(), 128)


# Islands


def flood(fill: np.ndarray, empty: int) -> list[set[tuple[int, int]]]:
    """Parts of cells with at most `empty` empty cells between, by definition."""
    high, wide = -(-fill.shape[0] // 8), -(-fill.shape[1] // 8)
    left = {(y, x) for y in range(high) for x in range(wide) if fill[8 * y : 8 * y + 8, 8 * x : 8 * x + 8].any()}
    parts = []
    for seed in sorted(left):
        if seed in left:
            left.remove(seed)
            part, queue = {seed}, [seed]
            while queue:
                y, x = queue.pop()
                near = {c for c in left if max(abs(c[0] - y), abs(c[1] - x)) <= empty + 1}
                left -= near
                part |= near
                queue += near
            parts.append(part)
    return parts


@pytest.mark.parametrize("gap", [0, 18, 30, 60])
def test_islands_are_cells_that_lie_near_each_other(gap: int) -> None:
    g = np.random.default_rng(gap)
    for density in (0.0005, 0.002, 0.02):
        for _ in range(8):
            height, width = (int(n) for n in g.integers(1, 260, 2))
            fill = g.random((height, width)) < density
            fill[g.integers(height), g.integers(width)] = True
            labels, boxes = islands(fill, gap)
            empty = {0: 2, 18: 2, 30: 4, 60: 8}[gap]  # the least even number whose next one is at least gap/8, and at least 2
            parts = {frozenset(zip(*(a.tolist() for a in np.nonzero(labels == i)), strict=True)) for i in range(1, len(boxes) + 1)}
            assert parts == {frozenset(p) for p in flood(fill, empty)}
            for i, (x0, y0, x1, y1) in enumerate(boxes, 1):
                mine = fill & (labels.repeat(8, 0).repeat(8, 1)[:height, :width] == i)
                rows, columns = np.flatnonzero(mine.any(axis=1)), np.flatnonzero(mine.any(axis=0))
                assert (x0, y0, x1, y1) == (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)


def test_islands_of_a_spiral_are_one() -> None:
    """A shape whose parts meet only at the end of the scan."""
    fill = np.zeros((600, 600), bool)
    for i in range(0, 240, 60):
        fill[i : i + 8, i : 600 - i] = fill[i : 600 - i, 592 - i : 600 - i] = fill[592 - i : 600 - i, i : 600 - i] = True
        fill[i + 60 : 600 - i, i : i + 8] = True
        fill[i + 60 : i + 68, i : i + 60] = True
    assert len(islands(fill, 18)[1]) == 1
    fill[300:310, 300:310] = True
    assert len(islands(fill, 18)[1]) == 2


def test_islands_join_the_group_that_stays_smallest() -> None:
    boxes = np.array([(0, 0, 10, 10), (100, 0, 110, 10), (60, 0, 70, 10), (0, 500, 300, 510)])
    assert grouped(boxes, 64) == [([0], [0, 0, 10, 10]), ([1, 2], [60, 0, 110, 10]), ([3], [0, 500, 300, 510])]
    assert grouped(boxes[:3], 200) == [([0, 1, 2], [0, 0, 110, 10])]
    assert grouped(boxes[:2], -5) == [([0], [0, 0, 10, 10]), ([1], [100, 0, 110, 10])]


# What a model sees


@pytest.mark.parametrize("n", [1, 2, 3, 7, 100])
def test_reflection_repeats_and_never_leaves_the_picture(n: int) -> None:
    for start in (-250, -7, -1, 0, n // 2):
        i = reflected(start, 400, n)
        assert len(i) == 400
        assert i.min() >= 0
        assert i.max() <= n - 1
        if n > 1:
            assert set(np.abs(np.diff(i))) == {1}  # neighbours stay neighbours
        inside = [k for k in range(400) if 0 <= start + k < n]
        assert i[inside].tolist() == [start + k for k in inside]
    np.testing.assert_array_equal(reflected(-3, 7 + 6, 7), np.pad(np.arange(7), 3, mode="reflect"))


def test_what_is_outside_the_picture_is_its_reflection_mask_and_all() -> None:
    rgb, fill = noise(40, 50), blobs(40, 50, (5, 0, 15, 10))
    (window,) = windows(fill, 64)
    cut = cut_out(window, rgb)
    np.testing.assert_array_equal(cut.rgb, np.pad(rgb, ((12, 12), (7, 7), (0, 0)), mode="reflect"))
    np.testing.assert_array_equal(cut.m[0, 0], np.pad(fill, ((12, 12), (7, 7)), mode="reflect"))
    np.testing.assert_array_equal(cut.own, np.pad(fill, ((12, 12), (7, 7))))


def test_other_windows_holes_are_holes_here_too() -> None:
    fill = blobs(600, 600, (100, 100, 300, 300), (330, 100, 345, 110))
    own = [(w, cut_out(w, noise(600, 600))) for w in windows(fill, 320)]
    assert len(own) == 2
    for w, cut in own:
        inside = w.inside()
        assert cut.m.sum() == fill[inside].sum()
        assert 0 < cut.own.sum() < fill.sum()


def test_a_scaled_window_loses_no_thin_line() -> None:
    fill = np.zeros((2000, 2000), bool)
    fill[np.arange(2000), np.arange(2000)] = True
    (window,) = windows(fill, 128, most=1)
    cut = cut_out(window, noise(2000, 2000))
    assert cut.m[0, 0].diagonal().all()
    assert cut.m.sum() < 3 * 128


@pytest.mark.parametrize("length", [1, 3, 10, 17, 50])
def test_any_of_covers_what_lies_under_a_row(length: int) -> None:
    for n in (1, 2, 10, 33):
        for k in range(n):
            mask = np.zeros((n, 2), bool)
            mask[k, 1] = True
            marked = np.flatnonzero(_any_of(mask, length)[:, 1])
            expected = [i for i in range(length) if i * n < (k + 1) * length and (i + 1) * n > k * length]  # intervals that overlap
            assert marked.tolist() == expected
            assert not _any_of(mask, length)[:, 0].any()


def test_a_scaled_window_is_the_reflected_square_scaled() -> None:
    boxes = (
        ((300, 700), (100, 0, 600, 300)),
        ((700, 300), (0, 100, 300, 600)),
        ((600, 600), (50, 50, 550, 550)),
        ((600, 700), (90, 90, 300, 300)),
    )
    for shape, box in boxes:
        rgb, fill = noise(*shape), blobs(*shape, box)
        fill[0, 0] = True
        for crop in ("auto", "full"):
            window = windows(fill, 64, crop)[0]
            rows, columns = reflected(window.y, window.height, shape[0]), reflected(window.x, window.width, shape[1])
            square = Image.fromarray(rgb[np.ix_(rows, columns)]).resize((64, 64), Image.Resampling.LANCZOS)
            cut = cut_out(window, rgb)
            assert np.abs(cut.rgb.astype(int) - np.asarray(square)).max() <= 1  # the order of the axes rounds differently
            mask = _any_of(_any_of(fill[np.ix_(rows, columns)], 64).T, 64).T
            np.testing.assert_array_equal(cut.m[0, 0], mask)
            placed = np.zeros((window.height, window.width), bool)
            inside = window.inside()
            placed[window.relative(*inside)] = window.own(*inside)
            np.testing.assert_array_equal(cut.own, _any_of(_any_of(placed, 64).T, 64).T)


@pytest.mark.parametrize("shape", [(1, 100_000), (100_000, 1), (3, 30_000), (100, 30_000)])
def test_strips_take_no_more_memory_than_they_have_pixels(shape: tuple[int, int]) -> None:
    """The square they are letterboxed in would have up to ten thousand million."""
    fill = np.zeros(shape, bool)
    fill[0, 0] = fill[-1, -1] = True
    rgb = np.broadcast_to(np.array([10, 20, 30], np.uint8), (*shape, 3))
    for crop in ("auto", "full"):
        for window in windows(fill, 512, crop):
            cut = cut_out(window, rgb)
            np.testing.assert_array_equal(cut.rgb, np.broadcast_to([10, 20, 30], (512, 512, 3)))
            assert 0 < cut.own.sum() <= 4
            into = rgb.copy()
            put_back(into, cut.rgb, cut)
            np.testing.assert_array_equal(into, rgb)


def test_full_shows_the_whole_picture() -> None:
    rgb = np.zeros((100, 200, 3), np.uint8)
    rgb[:, 100:] = 200
    (window,) = windows(blobs(100, 200, (0, 0, 3, 3)), 64, "full")
    assert (window.x, window.y, window.width, window.height) == (0, -50, 200, 200)
    cut = cut_out(window, rgb)
    assert (cut.rgb[:, :28] == 0).all()
    assert (cut.rgb[:, 36:] == 200).all()
    (window,) = windows(blobs(200, 100, (0, 0, 3, 3)), 64, "full")
    assert (window.x, window.y, window.width, window.height) == (-50, 0, 200, 200)


def test_grey_planes_that_are_views_are_cut_alike() -> None:
    plane = noise(90, 70)[..., :1]
    view, copy = np.broadcast_to(plane, (90, 70, 3)), np.repeat(plane, 3, axis=2)
    for crop in ("auto", "full", "upstream"):
        (window,) = windows(blobs(90, 70, (20, 20, 40, 40)), 64, crop)
        np.testing.assert_array_equal(cut_out(window, view).x, cut_out(window, copy).x)


# Pasting


def whole(size: int, box: tuple[int, int, int, int]) -> tuple[Window, published.Prepared, np.ndarray]:
    """A picture of the model's size, as one window and as published."""
    rgb, fill = noise(size, size), blobs(size, size, box)
    (window,) = windows(fill, size)
    return window, published.prepare(Image.fromarray(rgb), Image.fromarray(fill.astype(np.uint8) * 255), size), rgb


def test_a_native_window_shows_the_networks_what_is_published() -> None:
    window, p, rgb = whole(128, (30, 40, 80, 90))
    cut = cut_out(window, rgb)
    np.testing.assert_array_equal(cut.x, p.x)
    np.testing.assert_array_equal(cut.m, p.m)


@pytest.mark.parametrize("blend", ["paste", "compensate"])
def test_pasting_is_as_published_but_for_the_rounding_of_floats(blend: str) -> None:
    """⌊255·(a/255·w + …)⌋ in floats falls below a whole number where the exact value is one: then it is one less."""
    window, p, rgb = whole(128, (30, 40, 80, 90))
    out, into = noise(128, 128, 5) // 2, rgb.copy()
    put_back(into, out, cut_out(window, rgb), blend)
    expected = np.asarray({"paste": published.paste, "compensate": published.compensate}[blend](out, p))
    difference = into.astype(int) - expected
    assert set(np.unique(difference)) <= {0, 1}
    assert (difference != 0).mean() < 0.01


def test_pasting_truncates_the_exact_blend() -> None:
    window, _, rgb = whole(64, (20, 20, 40, 40))
    out, into, w = noise(64, 64, 5), rgb.copy(), zone(window).astype(int)[..., None]
    put_back(into, out, cut_out(window, rgb))
    np.testing.assert_array_equal(into, (out * w + rgb * (255 - w)) // 255)


def test_large_seams_are_blended_strip_by_strip() -> None:
    fill = np.zeros((1500, 1500), bool)
    fill[::30] = True
    (window,) = windows(fill, 64, "auto", 8, 1)
    rgb, level = noise(1500, 1500), np.full((64, 64, 3), 60, np.uint8)
    into, w = rgb.copy(), zone(window).astype(int)[..., None]
    assert w.size > 2 * 2**20
    put_back(into, level, cut_out(window, rgb))
    np.testing.assert_array_equal(into, (60 * w + rgb * (255 - w)) // 255)


def test_compensation_clips() -> None:
    rgb = np.full((64, 64, 3), (255, 0, 255), np.uint8)
    (window,) = windows(blobs(64, 64, (20, 20, 44, 44)), 64)
    out, into = np.full((64, 64, 3), (200, 50, 255), np.uint8), rgb.copy()
    out[20:44, 20:44] = (250, 10, 255)
    put_back(into, out, cut_out(window, rgb), "compensate")
    assert into[32, 32].tolist() == [255, 0, 255]


def test_compensation_of_a_full_mask_is_the_result() -> None:
    (window,) = windows(np.ones((64, 64), bool), 64)
    rgb, out = noise(64, 64), noise(64, 64, 1)
    into = rgb.copy()
    put_back(into, out, cut_out(window, rgb), "compensate")
    np.testing.assert_array_equal(into, out)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_matching_takes_away_what_a_film_can_take_away(dtype) -> None:
    """A result that is off by a slope comes back as the picture was, with no blur: to a hundredth, but for the two pixels at the rim, where
    less of its own detail shows; beyond the mask nothing changes."""
    y, x = np.mgrid[:64, :64]
    rgb = (np.stack([60 + x, 70 + y, 120 + 20 * np.sin(x / 3)], axis=-1) * np.iinfo(dtype).max / 255).astype(dtype)
    slope = (np.stack([x, y - x, 40 - y], axis=-1) * (np.iinfo(dtype).max / 255) / 4).astype(int)
    (window,) = windows(blobs(64, 64, (20, 16, 44, 50)), 64, "auto", 0)
    into, wrong = rgb.copy(), (rgb.astype(int) + slope).astype(dtype)
    assert np.abs(wrong.astype(int) - rgb).max() > np.iinfo(dtype).max / 20
    put_back(into, wrong, cut_out(window, rgb), "match")
    off, inside = np.abs(into.astype(int) - rgb).max(axis=2), eased(window.islands.fill) == 1
    assert 0.5 < inside.sum() / window.islands.fill.sum() < 1
    assert off[inside].max() <= np.iinfo(dtype).max / 100
    assert off.max() <= np.iinfo(dtype).max / 40
    np.testing.assert_array_equal(into[~window.islands.fill], rgb[~window.islands.fill])


def test_matching_two_windows_asks_neither_for_the_other_s_hole() -> None:
    """What the second window is to fill in is no part of the first one's rim."""
    rgb, fill = np.full((64, 160, 3), 100, np.uint8), blobs(64, 160, (20, 20, 40, 40), (90, 20, 150, 40))
    rgb[fill] = 255
    pair = windows(fill, 64, "auto", 0)
    assert len(pair) == 2
    into = rgb.copy()
    for window in pair:
        cut = cut_out(window, rgb)
        put_back(into, np.full_like(cut.rgb, 30), cut, "match")
    np.testing.assert_array_equal(into, np.full_like(rgb, 100))


@pytest.mark.parametrize(("shape", "rim", "crop"), [((300, 300), 5, "auto"), ((20, 20), 2, "full"), ((3, 300), 8, "auto")])
def test_matching_takes_the_rim_there_is(shape: tuple[int, int], rim: int, crop: str) -> None:
    fill = np.ones(shape, bool)
    fill[:, :rim] = False
    (window,) = windows(fill, 64, crop, 0, 1)
    assert not window.native
    rgb = np.full((*shape, 3), 200, np.uint8)
    into = rgb.copy()
    put_back(into, np.full((64, 64, 3), 100, np.uint8), cut_out(window, rgb), "match")
    np.testing.assert_array_equal(into, rgb)


def test_raw_replaces_the_window() -> None:
    (window,) = windows(blobs(200, 200, (90, 90, 110, 110)), 64)
    rgb = noise(200, 200)
    into = rgb.copy()
    put_back(into, noise(64, 64, 1), cut_out(window, rgb), "raw")
    np.testing.assert_array_equal(into[window.inside()], noise(64, 64, 1))
    into[window.inside()] = rgb[window.inside()]
    np.testing.assert_array_equal(into, rgb)


def test_eight_bit_results_go_into_sixteen_bit_pictures() -> None:
    (window,) = windows(blobs(64, 64, (10, 10, 50, 50)), 64)
    rgb = noise(64, 64, 0, np.uint16)
    into, out = rgb.copy(), noise(64, 64, 1)
    put_back(into, out, cut_out(window, rgb))
    assert into[30, 30].tolist() == (out[30, 30].astype(int) * 257).tolist()


def test_a_scaled_filling_comes_back_in_its_place() -> None:
    """A ramp is the same ramp after it was scaled down and up again."""
    x = np.linspace(20, 230, 900)
    rgb = np.repeat(np.repeat(x.astype(np.uint8)[None], 700, 0)[..., None], 3, axis=2)
    (window,) = windows(blobs(700, 900, (200, 100, 600, 500)), 128)
    assert not window.native
    into = rgb.copy()
    cut = cut_out(window, rgb)
    put_back(into, cut.rgb, cut)
    assert np.abs(into.astype(int) - rgb).max() <= 2
    sixteen = rgb.astype(np.uint16) * 257
    cut = cut_out(window, sixteen)
    into = sixteen.copy()
    put_back(into, cut.rgb, cut)
    assert np.abs(into.astype(int) - sixteen).max() <= 600


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize(("n", "side"), [(64, 201), (64, 64), (64, 40), (7, 5), (3, 90)])
def test_a_piece_of_the_enlarged_is_the_whole_s(n: int, side: int, dtype: type) -> None:
    rgb = noise(n, n, 2, dtype)
    want = resized(rgb, (side, side))
    for rows, columns in ((slice(0, side), slice(0, side)), (slice(side // 3, side // 2), slice(side - 2, side))):
        off = piece(rgb, (side, side), rows, columns).astype(int) - want[rows, columns]
        assert np.abs(off).max() <= (dtype == np.uint16)  # Pillow's floats have 32 bits


@pytest.mark.parametrize("box", [(20, 150, 380, 153), (60, 40, 330, 260)])
def test_a_scaled_filling_is_joined_where_the_picture_is(box: tuple[int, int, int, int]) -> None:
    """The step at the hole's border is that of the picture itself, though the model saw a seventh of its detail."""
    coarse = Image.fromarray(noise(50, 66))
    rgb, fill = np.asarray(coarse.resize((400, 300), Image.Resampling.BICUBIC)), blobs(300, 400, box)
    (window,) = windows(fill, 64, "auto", 0, 1)
    cut = cut_out(window, rgb)
    assert window.scale > 5
    into = np.where(fill[..., None], np.uint8(0), rgb)
    put_back(into, cut.rgb, cut, "match")
    steps = np.abs(np.diff(into.astype(int), axis=0)).mean(axis=2)
    across = fill[1:] != fill[:-1]
    assert steps[across].mean() < 1.3 * np.abs(np.diff(rgb.astype(int), axis=0)).mean()  # 2 to 3 where the film hangs in what was scaled
    np.testing.assert_array_equal(into[~fill], rgb[~fill])


def test_a_scaled_filling_is_compensated_where_the_picture_is() -> None:
    """What is five darker all over, and thirty darker far away, gets five and a half."""
    rgb, fill = np.full((400, 400, 3), 100, np.uint8), blobs(400, 400, (150, 150, 250, 250))
    (window,) = windows(fill, 64)
    out = np.full((64, 64, 3), 70, np.uint8)
    out[5:-5, 5:-5] = 95
    into = rgb.copy()
    put_back(into, out, cut_out(window, rgb), "compensate")
    assert into[200, 200].tolist() == [100] * 3


def test_feather_is_in_the_pictures_pixels_and_the_published_blur_in_the_models() -> None:
    fill = blobs(900, 900, (200, 200, 700, 700))
    (scaled,) = windows(fill, 128)
    assert scaled.radius == pytest.approx(3 * scaled.width / 128)
    (scaled,) = windows(fill, 128, "auto", 5)
    assert scaled.radius == 5
    assert set(np.unique(zone(windows(fill, 128, "auto", 0)[0]))) == {0, 255}


def test_upstream_is_the_published_program() -> None:
    rgb, fill = noise(150, 150), blobs(150, 150, (40, 30, 90, 77))
    (window,) = windows(fill, 64, "upstream")
    p = published.prepare(Image.fromarray(rgb), Image.fromarray(fill.astype(np.uint8) * 255), 64)
    cut, out = cut_out(window, rgb), noise(64, 64, 3)
    np.testing.assert_array_equal(cut.x, p.x)
    np.testing.assert_array_equal(cut.m, p.m)
    assert published_picture(out, cut).tobytes() == published.paste(out, p).tobytes()
    assert published_picture(out, cut, "compensate").tobytes() == published.compensate(out, p).tobytes()
    assert published_picture(out, cut, "raw").tobytes() == out.tobytes()
    for photo in (rgb, rgb.astype(np.uint16) * 257):
        cut = cut_out(window, photo)
        joined, outside = np.asarray(published_picture(out, cut, "match")), cut.m[0, 0] == 0
        np.testing.assert_array_equal(joined[outside], np.asarray(p.image)[outside])
        assert joined.dtype == np.uint8


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda w, c: windows(np.ones((5, 5), bool), 64, "crop"), "crop is 'crop'"),
        (lambda w, c: windows(np.ones((5, 5)), 64), "float64"),
        (lambda w, c: windows(np.ones((0, 5), bool), 64), r"\(0, 5\)"),
        (lambda w, c: windows(np.ones((5, 5), bool), 64, "auto", -1), "feather is -1"),
        (lambda w, c: windows(np.ones((5, 5), bool), 63, "upstream"), "size is 63"),
        (lambda w, c: windows(np.ones((1, 3000), bool), 512, "upstream"), "1536000×512"),
        (lambda w, c: cut_out(w, noise(65, 64)), r"\(65, 64, 3\)"),
        (lambda w, c: put_back(noise(64, 64), noise(64, 65), c), r"result is \(64, 65, 3\)"),
        (lambda w, c: put_back(noise(64, 65), noise(64, 64), c), r"\(64, 65, 3\) uint8"),
        (lambda w, c: put_back(noise(64, 64, 0, np.uint16), noise(64, 64), c), "uint16"),
        (lambda w, c: put_back(noise(64, 64), noise(64, 64), c, "past"), "blend is 'past'"),
        (lambda w, c: published_picture(noise(64, 64), c), "upstream"),
    ],
)
def test_mistakes_are_named(call, says: str) -> None:
    (window,) = windows(blobs(64, 64, (10, 10, 20, 20)), 64)
    with pytest.raises(UsageError, match=says):
        call(window, cut_out(window, noise(64, 64)))


# Several windows of one island


def line(height: int, width: int, thickness: int = 3) -> np.ndarray:
    """From corner to corner."""
    y, x = np.mgrid[:height, :width]
    return np.abs(y * width - x * height) < thickness * width / 2


def test_a_thin_hole_is_covered_by_native_windows() -> None:
    fill = line(900, 1300)
    found = windows(fill, 128)
    assert all(w.native for w in found)
    assert 8 <= len(found) <= 24  # 1581 pixels, 80 from window to window at most
    held = np.zeros(fill.shape, bool)
    for w in found:
        rows, columns = w.inside()
        held[max(0, w.y + 16) : rows.stop - 16, max(0, w.x + 16) : columns.stop - 16] = True  # with room around it
    border = np.ones_like(fill)
    border[16:-16, 16:-16] = False
    assert not (fill & ~held & ~border).any()


def test_fewer_windows_are_larger_ones_and_a_thick_hole_has_one() -> None:
    fill, counts = line(900, 1300), []
    for most in (64, 10, 5, 1):
        found = windows(fill, 128, "auto", None, most)
        counts.append((len(found), found[0].scale))
        assert len(found) <= most
    assert counts == sorted(counts, key=lambda c: (-c[0], c[1]))
    assert len({scale for _, scale in counts}) == 4
    assert len(windows(blobs(900, 1300, (300, 300, 800, 700)), 128)) == 1
    specks = np.zeros((900, 1300), bool)
    specks[50::200, 50::200] = True
    assert [len(windows(specks, 128, "auto", None, most)) for most in (128, 30)] == [35, 12]
    assert len(windows(specks, 128, "auto", None, 1)) == 1


@pytest.mark.parametrize("blend", ["paste", "match", "compensate"])
def test_several_windows_are_averaged_where_they_overlap(blend: str) -> None:
    """Where each is one brightness, the line goes smoothly from one to the next, and beyond it and its blur nothing changes."""
    fill, rgb = line(300, 700, 19), np.full((300, 700, 3), 128, np.uint8)
    found = windows(fill, 128, "auto", 0 if blend == "match" else None)
    assert len(found) > 4
    into, shows = rgb.copy(), np.zeros(fill.shape, bool)
    for i, window in enumerate(found):
        cut = cut_out(window, rgb)
        put_back(into, np.full_like(cut.rgb, 100 + 8 * (i % 2)), cut, blend, rgb)
        shows |= zone(window) > 0
    np.testing.assert_array_equal(into[~shows], rgb[~shows])
    along = into[np.arange(700) * 300 // 700, np.arange(700), 0].astype(int)  # the middle of the line
    if blend == "paste":
        assert along.min() < 104
        assert along.max() > 104
        assert np.abs(np.diff(along)).max() <= 2
    else:  # a film takes the whole difference away, and 1.1 times the mean a little more
        assert np.abs(into.astype(int) - rgb).max() <= (3 if blend == "compensate" else 0)


def test_windows_that_overlap_begin_with_the_same_noise() -> None:
    found = windows(line(300, 700), 128)
    drawn = draws(Settings(seed=5), None, (len(found), 4, 16, 16), shared(found, 16))["start"]
    same = 0
    for (a, first), (b, second) in itertools.combinations(zip(found, drawn, strict=True), 2):
        down, right = (b.y - a.y) / 8, (b.x - a.x) / 8
        if max(abs(down), abs(right)) < 16 and down % 1 == right % 1 == 0:
            rolled = np.roll(first, (-int(down), -int(right)), axis=(1, 2))
            np.testing.assert_array_equal(rolled, second)
            same += 1
    assert same > 3
    alone = windows(blobs(300, 700, (10, 10, 30, 30), (400, 200, 420, 230)), 128)
    drawn = draws(Settings(seed=5), None, (2, 4, 16, 16), shared(alone, 16))["start"]
    assert np.abs(np.corrcoef(drawn.reshape(2, -1))[0, 1]) < 0.1


# Several windows for one hole


def test_a_thick_hole_with_a_wire_is_a_window_and_native_ones_along_the_wire() -> None:
    size = 128
    y, x = np.mgrid[:600, :1400]
    disc, wire = np.hypot(y - 300, x - 700) < 0.6 * size, np.abs(y - 300) < 2
    found = windows(disc | wire, size)
    sides = [w.width for w in found]
    assert sides[0] > size
    assert set(sides[1:]) == {size}
    first = found[0]
    assert np.count_nonzero(disc & ~first.own(slice(0, 600), slice(0, 1400))) == 0
    assert first.width <= 2 * size  # as large as the disc wants it, not the wire
    held = np.zeros(disc.shape, bool)
    for w in found[1:]:
        rows, columns = w.inside()
        held[rows, columns] |= w.share(rows, columns) > 0
    assert held[wire & (np.abs(x - 700) > 0.8 * size)].all()
    origins = shared(found, size // 8)
    assert {o[0] for o in origins} == {0, 1}  # noise is shared by windows of one scale
    check(disc | wire, size, "auto", None)


def test_finer_windows_cover_the_hole_and_add_nothing_that_is_coarse() -> None:
    fill = blobs(300, 400, (60, 40, 340, 260))
    picture = np.full((300, 400, 3), 120, np.uint8)
    finer_ones = finer(windows(fill, 64), 128)
    held, into = np.zeros(fill.shape, bool), picture.copy()
    ripple = np.rint(20 * np.sin(np.arange(64) * np.pi / 2 + 0.3)).astype(int)[:, None]  # four pixels long
    for window in finer_ones:
        rows, columns = window.inside()
        held[rows, columns] |= window.own(rows, columns) & (window.share(rows, columns) > 0)
        cut = cut_out(window, picture)
        same = picture.copy()
        put_finer(same, cut.rgb, cut, picture)
        np.testing.assert_array_equal(same, picture)
        put_finer(into, (cut.rgb + 40 + ripple[..., None]).astype(np.uint8), cut, picture)
    np.testing.assert_array_equal(held, fill)
    change = into.astype(int) - 120
    assert np.abs(change[~fill]).max() == 0
    assert abs(change[fill].mean()) < 1  # of 40
    assert change[60:240, 80:320].std() > 10


def test_a_thick_hole_with_a_short_stub_stays_one_window() -> None:
    fill = blobs(900, 900, (200, 200, 600, 600), (600, 390, 680, 400))
    assert [w.before for w in windows(fill, 128)] == [None]


def plain_tiled(
    own: np.ndarray, corner: tuple[int, int], shape: tuple[int, int], size: int, one: int, reach: int, most: int
) -> list[tiling.Square]:
    """`tiling.tiled` by its definition: every dilation at full size, and every window looked at."""
    for scale in tiling.SCALES:
        side = int(size * scale)
        if 3 * side >= 2 * one:
            break
        if reach > side // 8:
            continue
        core = own & ~dilated(~np.pad(own, 1), side / 10)[1:-1, 1:-1]
        thick = own & dilated(core, side / 5)
        squares = [tiling._around(box, corner, shape, size, reach) for box in (islands(thick, 0)[1].tolist() if thick.any() else [])]
        if all(3 * square[2] < 2 * one for square in squares):
            step, rest = int(size * 5 // 8 // 8 * 8 * scale), own & ~thick
            squares += tiling._cover(rest, corner, shape, side, step, reach, rest.size, squares) or []
            if len(squares) <= most:
                return squares
    return []


def strokes(g: np.random.Generator, height: int, width: int) -> np.ndarray:
    """A brush's, of several widths, with discs on them."""
    drawn = Image.new("L", (width, height))
    pen = ImageDraw.Draw(drawn)
    for _ in range(int(g.integers(1, 5))):
        a, b = (tuple((g.random(2) * (width, height)).tolist()) for _ in range(2))
        pen.line([a, b], fill=255, width=int(g.choice([2, 5, 12, 40])))
        radius = int(g.choice([0, 0, 10, 35, 70]))
        pen.ellipse((b[0] - radius, b[1] - radius, b[0] + radius, b[1] + radius), fill=255)
    return np.asarray(drawn) > 0


def test_a_hole_is_divided_as_defined() -> None:
    g, kinds = np.random.default_rng(17), set()
    for _ in range(40):
        height, width = (int(n) for n in g.integers(90, 420, 2))
        own = strokes(g, height, width)
        if own.any():
            corner, size = (int(g.integers(0, 9)), int(g.integers(0, 9))), int(g.choice([24, 40, 64, 104]))
            shape = height + corner[1] + int(g.integers(0, 30)), width + corner[0] + int(g.integers(0, 30))
            most, reach = int(g.choice([1, 4, 12, 128])), int(g.choice([0, 3, 9]))
            call = own, corner, shape, size, max(height, width) * 4 // 3, reach, most
            squares = tiling.tiled(*call)
            assert squares == plain_tiled(*call)
            kinds.add((len(squares) > 0, len({side for _, _, side in squares}) > 1))
    assert len(kinds) == 3


def test_a_huge_hole_is_divided_without_a_look_at_each_pixel(monkeypatch: pytest.MonkeyPatch) -> None:
    looked, within = [], mask._within

    def counted(part: np.ndarray, radius: float, reach: int) -> np.ndarray:
        looked.append(part.size)
        return within(part, radius, reach)

    monkeypatch.setattr(mask, "_within", counted)
    y, x = np.mgrid[:1000, :1600]
    disc = np.hypot((y - 500) / 480, (x - 800) / 780) < 1
    assert len(windows(disc, 64)) == 1
    assert 0 < sum(looked) < 0.3 * disc.size
    looked.clear()
    wire = np.abs(y * 1.6 - x) < 3
    assert len(windows(wire, 128)) > 8
    assert sum(looked) < 0.1 * wire.size
