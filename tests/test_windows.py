"""Windows: what is promised of any mask, where they lie, and which islands they have."""

import itertools

import numpy as np
import pytest
from windows_cases import blobs, check, noise, placed, zone

from moebius.pictures.blend import put_back
from moebius.pictures.cut import cut_out
from moebius.pictures.islands import grouped, islands
from moebius.pictures.mask import feathered, support
from moebius.pictures.windows import windows


# any picture and any mask --------------------------------------------------------------------------------------------
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


# where they lie ------------------------------------------------------------------------------------------------------
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


# islands -------------------------------------------------------------------------------------------------------------


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
