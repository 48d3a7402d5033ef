"""The film in a hole against Laplace's equation solved as a system of linear equations."""

from __future__ import annotations

import numpy as np
import pytest

from moebius.pictures import seam
from moebius.pictures.mask import dilated
from moebius.pictures.seam import fidelity, harmonic, matched


def solved(known: np.ndarray, hole: np.ndarray) -> np.ndarray:
    """By elimination: a row for every unknown pixel, (how many neighbours)·v - (unknown neighbours) = (known neighbours)."""
    tall, wide = hole.shape
    unknown = {place: k for k, place in enumerate(zip(*np.nonzero(hole), strict=True))}
    matrix, right = np.zeros((len(unknown), len(unknown))), np.zeros((len(unknown), known.shape[2]))
    for (y, x), k in unknown.items():
        for row, column in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)):
            if 0 <= row < tall and 0 <= column < wide:
                matrix[k, k] += 1
                if (row, column) in unknown:
                    matrix[k, unknown[row, column]] -= 1
                else:
                    right[k] += known[row, column]
    out = known.copy()
    out[hole] = np.linalg.solve(matrix, right)
    return out


def picture(rng: np.random.Generator, tall: int, wide: int) -> np.ndarray:
    """Slow waves, and noise."""
    y, x = np.mgrid[:tall, :wide]
    waves = [80 * np.sin(rng.uniform(0.02, 0.2) * x + rng.uniform(0.02, 0.2) * y + rng.uniform(0, 6)) for _ in range(3)]
    return np.stack(waves, axis=-1) + rng.normal(0, 5, (tall, wide, 3))


@pytest.mark.parametrize("case", range(24))
def test_the_film_solves_laplace_s_equation(case: int) -> None:
    """For holes of every form and at every border."""
    rng = np.random.default_rng(case)
    tall, wide = rng.integers(1, 48, 2) if case < 12 else (47, 60)
    hole = rng.random((tall, wide)) < rng.uniform(0.05, 0.7)
    for _ in range(rng.integers(1, 4)):
        y, x = rng.integers(tall), rng.integers(wide)
        hole[y : y + rng.integers(1, 40), x : x + rng.integers(1, 40)] = True
    hole[rng.integers(tall), rng.integers(wide)] = False
    assert_solved(picture(rng, tall, wide), hole)


def test_a_wide_box_is_solved_as_well() -> None:
    hole = np.zeros((80, 80), bool)
    hole[10:70, 10:70] = True
    assert_solved(picture(np.random.default_rng(3), 80, 80), hole)


def test_a_deep_hole_s_middle_is_the_film_of_half_the_side(monkeypatch: pytest.MonkeyPatch) -> None:
    """To a fiftieth of what the known pixels differ by; and it is found at the cost of the rim."""
    known = picture(np.random.default_rng(4), 300, 310)
    hole = np.zeros((300, 310), bool)
    hole[8:290, 5:300] = True
    hole[60:62, 60:240] = False  # a wire through it
    built = []
    right = seam._Grid.__init__
    monkeypatch.setattr(seam._Grid, "__init__", lambda self, unknown: (built.append(unknown.sum()), right(self, unknown))[1])
    got = harmonic(known, hole)
    assert sum(built) < 1.1 * hole.sum()  # 1.33 where every level is solved whole
    monkeypatch.setattr(seam, "BAND", 10**6)
    whole = harmonic(known, hole)
    assert np.abs(got - whole).max() <= 0.02 * np.ptp(known)
    np.testing.assert_array_equal(got[~hole], known[~hole])


def assert_solved(known: np.ndarray, hole: np.ndarray) -> None:
    """To 1 % of what the known pixels differ by; and they stay what they are."""
    got = harmonic(known, hole)
    np.testing.assert_array_equal(got[~hole], known[~hole])
    assert np.abs(got - solved(known, hole)).max() <= 0.01 * np.ptp(known) + 1e-9


def test_the_order_of_the_array_in_memory_has_no_part_in_it() -> None:
    rng = np.random.default_rng(2)
    known, hole = picture(rng, 30, 41), rng.random((30, 41)) < 0.6
    want = harmonic(known, hole)
    np.testing.assert_array_equal(harmonic(np.asfortranarray(known), np.asfortranarray(hole)), want)
    np.testing.assert_array_equal(harmonic(np.ascontiguousarray(known.transpose(1, 0, 2)).transpose(1, 0, 2), hole), want)


def test_what_lies_in_the_hole_has_no_part_in_it() -> None:
    rng = np.random.default_rng(0)
    known, hole = picture(rng, 40, 40), rng.random((40, 40)) < 0.6
    other = np.where(hole[..., None], np.nan, known)
    np.testing.assert_array_equal(harmonic(known, hole), harmonic(other, hole))


def test_a_fill_that_is_off_by_a_film_becomes_the_picture() -> None:
    """Whatever the colours are off by, where that is linear or constant."""
    rng = np.random.default_rng(1)
    truth = rng.integers(60, 190, (50, 70, 3)).astype(np.uint8)
    y, x = np.mgrid[:50, :70]
    hole = (y - 25) ** 2 + (x - 33) ** 2 < 300
    off = (truth + np.stack([x - 30, 20 - y, np.full_like(x, 45)], axis=-1)).astype(np.uint8)
    got = matched(off, truth, hole).astype(int)
    deep = hole & ~dilated(~hole, 2)
    assert np.abs(got - truth)[deep | ~hole].max() <= 1


def test_the_detail_begins_with_a_quarter_at_the_rim() -> None:
    """Of what the fill is off the film by: so no border is seen where a model's detail ends."""
    truth, hole = np.full((40, 40, 3), 100, np.uint8), np.zeros((40, 40), bool)
    hole[10:30, 10:30] = True
    result = np.where(hole[..., None], np.uint8(140), truth)
    got = matched(result, truth, hole)[20, 10:30, 0]
    assert got[[0, 1, 2, 10, 17, 18, 19]].tolist() == [110, 130, 140, 140, 140, 130, 110]


def test_only_the_hole_changes_and_white_stays_white() -> None:
    truth, result = np.full((20, 20, 3), 250, np.uint8), np.full((20, 20, 3), 100, np.uint8)
    hole = np.zeros((20, 20), bool)
    hole[5:15, 5:15] = True
    result[8:12, 8:12] = 200  # 150 brighter than it should be: clipped, not wrapped
    got = matched(result, truth, hole)
    np.testing.assert_array_equal(got[~hole], truth[~hole])
    assert got[10, 10].tolist() == [255] * 3
    assert got[6, 6].tolist() == [250] * 3


def test_without_a_rim_the_result_is_the_fill_and_without_a_hole_the_picture() -> None:
    truth, result = np.full((9, 9, 3), 10, np.uint8), np.full((9, 9, 3), 77, np.uint8)
    np.testing.assert_array_equal(matched(result, truth, np.ones((9, 9), bool)), result)
    np.testing.assert_array_equal(matched(result, truth, np.zeros((9, 9), bool)), truth)


@pytest.mark.parametrize(("soft", "radius"), [(0, 19), (1, 19), (1, 20), (2, 20), (3, 20), (1, 22)])
def test_a_mask_a_pixel_too_tight_does_not_bring_the_object_back(soft: int, radius: int) -> None:
    """A dark disc of radius 20 on a light ground, with an edge so many pixels soft; what the model made is a little too light."""
    y, x = np.mgrid[:96, :96]
    ground = np.stack([150 + 0.3 * x, 160 + 0.2 * y, np.full(x.shape, 140.0)], axis=-1)
    distance = np.hypot(y - 48, x - 48)
    shown = (distance < 20) if not soft else np.clip(0.5 - (distance - 20) / soft, 0, 1)
    seen = np.rint(ground + (np.array([30, 20, 40]) - ground) * shown[..., None]).astype(np.uint8)
    got = matched(np.rint(ground + 10).astype(np.uint8), seen, distance <= radius)
    off = np.abs(got - ground)[distance < 16].mean()
    assert off < 8, off  # were the film to take every pixel: 24 to 127, but for the last


def disc(size: int, radius: int) -> np.ndarray:
    y, x = np.mgrid[:size, :size] - size // 2
    return np.hypot(y, x) <= radius


def test_ripple_is_left_out_where_the_surroundings_are_plain() -> None:
    """And a pattern that the model has right is left as it is."""
    y, x = np.mgrid[:80, :80]
    pattern = np.repeat((60 * np.sin(x / 4) * np.cos(y / 5))[..., None], 3, axis=2)
    ripple = np.repeat((5 * np.sin(x / 2) * np.sin(y / 2))[..., None], 3, axis=2)
    hole = disc(80, 20)
    for truth, made, most in ((np.full((80, 80, 3), 120.0), 130 + ripple, 0.5), (120 + pattern, 130 + pattern, 1.0)):
        truth, made = np.rint(truth).astype(np.uint8), np.rint(made).astype(np.uint8)
        assert np.abs(matched(made, truth, hole)[hole].astype(float) - truth[hole]).mean() < most


def test_fidelity_is_the_factor_that_fits_best() -> None:
    rng = np.random.default_rng(5)
    hole = disc(60, 12)
    result = rng.integers(0, 100, (60, 60, 3)).astype(np.uint8)
    assert fidelity(result, result, hole, hole) == 1
    assert fidelity(result, result // 2 + 30, hole, hole) == pytest.approx(0.5, abs=0.01)
    assert fidelity(result, 255 - result, hole, hole) == 0
    assert abs(fidelity(result, rng.integers(0, 100, (60, 60, 3)).astype(np.uint8), hole, hole)) < 0.05
    plain = np.full_like(result, 255)
    assert fidelity(plain, plain, hole, hole) == 1  # nothing to compare
    plain[14, 30] -= 1
    assert fidelity(plain, np.full_like(result, 255), hole, hole) > 0.9  # nor is a rounding anything
    far = result.copy()
    far[~disc(60, 22)] = 0
    assert fidelity(far, result, hole, hole) == 1  # what is far from the hole has no part in it
    assert fidelity(result, far, hole, disc(60, 40)) == 1  # nor what is unknown


def test_what_was_enlarged_is_worth_most_where_it_is_right() -> None:
    """Its detail is the picture's on the left, and nobody's on the right. Between them lies a film; at the model's own scale it is one
    factor."""
    y, x = np.mgrid[:80, :100]
    pattern = np.repeat((40 * np.sin(x / 2) * np.cos(y / 3))[..., None], 3, axis=2)
    made, hole = np.rint(120 + pattern).astype(np.uint8), disc(100, 24)[10:90]
    truth = np.where(x[..., None] < 50, made, np.uint8(120))
    unknown = np.zeros_like(hole) | hole
    worth = seam.fidelity_by_place(made, truth, hole, unknown, seam._Level(unknown))
    assert worth[40, 24] > 0.95
    assert worth[40, 76] < 0.05
    assert 0.3 < worth[40, 50] < 0.7
    one = fidelity(made, truth, hole, unknown)
    assert 0.3 < one < 0.7
    for scale, left, right in ((1, one, one), (1.5, 0.85, 0.15)):
        got = matched(made, truth, hole, scale)
        film = matched(np.full_like(made, 120), truth, hole, scale)
        for part, want in ((np.s_[30:50, 30:38], left), (np.s_[30:50, 62:70], right)):
            shown = (got[part].astype(float) - film[part]).std() / pattern[part].std()
            assert abs(shown - want) < 0.15, (scale, shown, want)


def test_by_place_a_plain_rim_and_a_hole_at_the_border_have_a_factor_too() -> None:
    plain, hole = np.full((30, 33, 3), 90, np.uint8), np.zeros((30, 33), bool)
    hole[:, 10:33] = True
    np.testing.assert_array_equal(seam.fidelity_by_place(plain, plain, hole, hole, seam._Level(hole)), np.ones((30, 33)))
