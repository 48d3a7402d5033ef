"""What a model sees of a window: the picture and its reflection around it, scaled where it must be, and which holes are its own."""

import numpy as np
import pytest
from PIL import Image
from windows_cases import blobs, noise

from moebius.pictures.blend import put_back
from moebius.pictures.cut import _any_of, cut_out, reflected
from moebius.pictures.windows import windows


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
