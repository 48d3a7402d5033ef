"""Several windows for one hole: along what is thin, beside what is thick, and finer ones over a scaled one."""

import itertools

import numpy as np
import pytest
from PIL import Image, ImageDraw
from windows_cases import blobs, check, zone

from moebius.inpaint.draws import draws, shared
from moebius.inpaint.settings import Settings
from moebius.pictures import mask, tiling
from moebius.pictures.blend import put_back, put_finer
from moebius.pictures.cut import cut_out
from moebius.pictures.islands import islands
from moebius.pictures.mask import dilated
from moebius.pictures.windows import finer, windows


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
