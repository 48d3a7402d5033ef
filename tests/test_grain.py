"""The grain laid over a fill: as strong as what is around, none where that is plain, and drawn from the seed."""

from __future__ import annotations

import numpy as np
import pytest

from moebius.pictures.blend import put_back
from moebius.pictures.cut import cut_out
from moebius.pictures.grain import Detail, grain, residual
from moebius.pictures.windows import windows


def scene(noise: float, edge: float = 0) -> tuple[np.ndarray, np.ndarray]:
    """A hole of 50 pixels, filled smoothly, in 160 pixels of noise; and a dark line along one side of it."""
    rng = np.random.default_rng(3)
    picture = 120 + rng.normal(0, noise, (160, 160, 1)) * [1, 0.5, 0.8]
    picture[45:50] -= edge
    hole = np.zeros((160, 160), bool)
    hole[55:105, 55:105] = True
    picture[hole] = 120
    return np.rint(picture).astype(np.uint8), hole


def test_it_has_the_strength_and_the_colours_of_what_is_around() -> None:
    picture, hole = scene(12)
    added = grain(picture, hole, hole, 5)
    deep = np.zeros_like(hole)
    deep[62:98, 62:98] = True
    around = residual(picture.astype(np.int64), ~hole)[~hole].std(axis=0)
    np.testing.assert_allclose(added[deep].std(axis=0), around, rtol=0.2)
    neighbours = np.corrcoef(added[deep][:, 0], np.roll(added, 1, axis=1)[deep][:, 0])[0, 1]
    assert abs(neighbours) < 0.15  # as white as theirs
    assert np.corrcoef(added[deep][:, 0], added[deep][:, 1])[0, 1] > 0.9
    assert np.abs(added[~hole]).max() == 0
    assert np.abs(added[55, 55:105]).mean() < 0.5 * np.abs(added[deep]).mean()  # the film is there


def test_there_is_none_where_the_surroundings_are_plain_and_an_edge_is_no_grain() -> None:
    picture, hole = scene(0)
    assert not grain(picture, hole, hole, 5).any()
    picture, hole = scene(0, 100)
    assert np.abs(grain(picture, hole, hole, 5)[hole]).mean() < 1  # of 100


def test_the_seed_draws_it_and_a_fill_that_has_it_gets_less() -> None:
    picture, hole = scene(12)
    first, again, other = (grain(picture, hole, hole, seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert np.abs(np.corrcoef(first[hole][:, 0], other[hole][:, 0])[0, 1]) < 0.5
    full = np.where(hole[..., None], np.roll(picture, 55, axis=0), picture).astype(np.uint8)
    assert grain(full, hole, hole, 1)[hole].std() < 0.5 * first[hole].std()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_matching_adds_it_in_thick_holes_alone(dtype: type) -> None:
    picture, hole = scene(12)
    rgb = picture.astype(dtype) * dtype(257 if dtype == np.uint16 else 1)
    white = np.iinfo(dtype).max
    hole[120:123, 20:140] = True  # a wire
    for part, least, most in ((0.0, 0, 3), (0.5, 3, 6), (1.0, 7, 12)):
        into = rgb.copy()
        for window in windows(hole, 64, "auto", 0):
            cut = cut_out(window, rgb)
            put_back(into, np.full_like(cut.rgb, 120 * (white // 255)), cut, "match", rgb, Detail(part, 3))
        std = into[65:95, 65:95, 0].std() * 255 / white
        assert least <= std <= most, (part, std)
        if part == 0:
            plain = into
        np.testing.assert_array_equal(into[120:123, 20:140], plain[120:123, 20:140])
        np.testing.assert_array_equal(into[~hole], rgb[~hole])


@pytest.mark.parametrize(("reach", "dtype"), [(1, np.uint8), (4, np.uint16), (100, np.uint16)])
def test_the_residual_is_the_picture_less_the_mean_of_what_is_known(reach: int, dtype: type) -> None:
    rng = np.random.default_rng(reach)
    picture = rng.integers(0, np.iinfo(dtype).max, (23, 31, 3), endpoint=True).astype(dtype)
    picture[:9] = np.iinfo(dtype).max
    known = rng.random((23, 31)) < 0.7
    got = residual(picture, known, reach)
    for y, x in ((0, 0), (5, 30), (12, 17), (22, 3)):
        near = np.s_[max(0, y - reach) : y + reach + 1, max(0, x - reach) : x + reach + 1]
        around = picture[near][known[near]].astype(np.int64)
        want = picture[y, x].astype(np.int64) - around.sum(axis=0) // len(around) if known[y, x] else np.zeros(3)
        np.testing.assert_array_equal(got[y, x], want)
