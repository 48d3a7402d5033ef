"""Pictures and holes for windows, and every promise about the windows of a mask."""

import numpy as np

from moebius.pictures.blend import put_back, seam_weights
from moebius.pictures.cut import Cut, cut_out, reflected
from moebius.pictures.windows import Window, windows


def noise(height: int, width: int, seed: int = 0, dtype: type = np.uint8) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, np.iinfo(dtype).max, (height, width, 3), dtype, endpoint=True)


def blobs(height: int, width: int, *boxes: tuple[int, int, int, int]) -> np.ndarray:
    """x0, y0, x1, y1"""
    fill = np.zeros((height, width), bool)
    for x0, y0, x1, y1 in boxes:
        fill[y0:y1, x0:x1] = True
    return fill


# Where windows lie
def placed(fill: np.ndarray, size: int = 512, feather: float | None = None) -> list[tuple[int, int, int]]:
    return [(w.x, w.y, w.width) for w in windows(fill, size, "auto", feather)]


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
