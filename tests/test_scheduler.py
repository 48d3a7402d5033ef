"""DDIM against its closed forms, written out again here from the paper's symbols."""

import numpy as np
import pytest

from moebius.errors import UsageError
from moebius.model.scheduler import DDIM


def alpha_bar(t: int) -> float:
    """ā_t as a plain product over the betas, betas evenly spaced in their square roots; ā is 1 before the first of them."""
    a, low, high = 1.0, 0.00085**0.5, 0.012**0.5
    for s in range(t + 1):
        a *= 1 - (low + (high - low) * s / 999) ** 2
    return a


@pytest.mark.parametrize("t", [0, 1, 499, 900, 950, 999])
def test_alphas_cumprod_is_the_product_of_one_minus_beta(t: int) -> None:
    assert DDIM().alphas_cumprod[t] == pytest.approx(alpha_bar(t), rel=1e-12)


def test_alphas_cumprod_of_the_published_schedule() -> None:
    a = DDIM().alphas_cumprod
    assert a.shape == (1000,)
    assert a[0] == pytest.approx(1 - 0.00085, rel=1e-14)
    assert a[900] == pytest.approx(0.119**2, rel=0.01)  # the share of the image in the published start, to the digits it is quoted with


@pytest.mark.parametrize(
    ("steps", "strength", "expected"),
    [
        (20, 0.99, range(900, -1, -50)),
        (20, 1.0, range(950, -1, -50)),
        (20, 5.0, range(950, -1, -50)),
        (20, 0.5, range(450, -1, -50)),
        (8, 0.99, range(750, -1, -125)),
        (7, 1.0, range(6 * 142, -1, -142)),  # 1000 // 7
        (1, 1.0, [0]),
        (1000, 1.0, range(999, -1, -1)),
    ],
)
def test_timesteps(steps: int, strength: float, expected: range) -> None:
    assert DDIM().timesteps(steps, strength).tolist() == list(expected)


def test_the_defaults_are_the_published_nineteen_steps() -> None:
    t = DDIM().timesteps()
    assert (len(t), t[0], t[-1]) == (19, 900, 0)


@pytest.mark.parametrize(
    ("steps", "strength"), [(0, 0.99), (-1, 0.99), (1001, 0.99), (20, 0.0), (20, -0.5), (20, float("nan")), (20, 0.04)]
)
def test_bad_arguments_are_refused(steps: int, strength: float) -> None:
    with pytest.raises(UsageError, match="steps" if not 1 <= steps <= 1000 else "strength"):
        DDIM().timesteps(steps, strength)


@pytest.mark.parametrize(("steps", "strength"), [(20, 0.99), (8, 1.0), (1, 1.0)])
def test_coefficients(steps: int, strength: float) -> None:
    ddim = DDIM()
    t = ddim.timesteps(steps, strength)
    rows = ddim.coefficients(t, steps)
    assert rows.shape == (len(t), 4)
    for at, row in zip(t, rows, strict=True):
        a, previous = alpha_bar(at), alpha_bar(at - 1000 // steps)
        np.testing.assert_allclose(row, [a**0.5, (1 - a) ** 0.5, previous**0.5, (1 - previous) ** 0.5], rtol=1e-10)
    assert rows[-1, 2:].tolist() == [1, 0]  # the last step lands on x0


def test_neighbouring_steps_meet() -> None:
    ddim = DDIM()
    rows = ddim.coefficients(ddim.timesteps(20, 0.99), 20)
    np.testing.assert_array_equal(rows[:-1, 2:], rows[1:, :2])


def test_add_noise_is_undone_by_the_true_noise() -> None:
    """With ε the noise that was added, x0 = (y - √(1-ā)·ε)/√ā is the image at every t."""
    ddim, g = DDIM(), np.random.default_rng(0)
    z, eps = g.standard_normal((2, 1, 4, 3, 3))
    for t in (0, 450, 900):
        y = ddim.add_noise(z, eps, t)
        np.testing.assert_allclose(y, alpha_bar(t) ** 0.5 * z + (1 - alpha_bar(t)) ** 0.5 * eps, rtol=1e-10)
        at, bt, _, _ = ddim.coefficients(np.array([t]), 20)[0]
        np.testing.assert_allclose((y - bt * eps) / at, z, rtol=1e-10)
