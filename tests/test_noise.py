"""Noise: PyTorch's bit for bit, with and without PyTorch there, and our own the same everywhere."""

import hashlib
import math
from fractions import Fraction

import numpy as np
import pytest

from moebius.errors import UsageError
from moebius.model import noise
from moebius.model.noise import Portable, Torch, box_muller, source

# Both of normal_'s ways, tails that are drawn anew, and the kept second value of a short draw left over and taken up later.
SHAPES = [*[(1, 4, 16, 16)] * 3, (1, 4, 1, 1), (3,), (5, 7), (16,), (17,), (2,), (1, 4, 64, 64), (4, 4, 1, 1), (1,)]
GOLDENS = {  # SHAPES drawn in turn by torch 2.13.0 on an x86 CPU, and by `Portable`
    0: (
        "be140e58fc6b20d74aa3f54ccf1f890e",
        "ddc5eab86badeb18ff5a1c70afd63580",
    ),
    7: (
        "a2132b5dd54ae366647905fe0c8d89aa",
        "f70e7481092934d84b58d43013b289f5",
    ),
    2**32 + 5: (
        "6e7e2f272deab8f5dd95eff93edd99ce",
        "0d18ec01e929b9b159b98e7883cfa6bc",
    ),
    2**63 + 1: (
        "2b986c6baaee9455b0073d4f15c8f3f3",
        "5050bbc490cd7b956d8e542ee1bc61ed",
    ),
}


def digest(generator: noise.Noise) -> str:
    return hashlib.sha256(b"".join(generator.draw(shape).tobytes() for shape in SHAPES)).hexdigest()[:32]


@pytest.mark.parametrize("seed", GOLDENS)
def test_torch_draws_what_torch_drew(seed: int) -> None:
    assert digest(Torch(seed)) == GOLDENS[seed][0]


@pytest.mark.parametrize("seed", GOLDENS)
def test_portable_draws_what_it_drew(seed: int) -> None:
    assert digest(Portable(seed)) == GOLDENS[seed][1]


def test_values_one_can_read() -> None:
    t = Torch(0)
    np.testing.assert_array_equal(t.draw((4,)), np.array([1.5409961, -0.2934289, -2.1787894, 0.56843126], np.float32))
    np.testing.assert_array_equal(t.draw((17,))[[0, 1, 15, 16]], np.array([-0.35612836, -0.15771244, -2.316042, -0.10230965], np.float32))
    np.testing.assert_array_equal(
        Portable(0).draw((5,)), np.array([-0.11777673, 0.94245434, 2.5141597, 0.26202852, 0.54874307], np.float32)
    )


def test_torch_against_torch() -> None:
    """Measured over 100 million values: none differs. Where PyTorch does not use its AVX2 kernel, by up to 2.3e-6."""
    torch = pytest.importorskip("torch")
    exact = torch.backends.cpu.get_cpu_capability().startswith("AVX")
    random = np.random.default_rng(0)
    for trial in range(150):
        seed = int(random.integers(0, 2**63)) * 2 + 1 if trial % 2 else trial
        theirs, ours = torch.Generator().manual_seed(seed), Torch(seed)
        for _ in range(int(random.integers(1, 7))):
            count = int(random.choice([0, 1, 2, 3, 4, 7, 15, 16, 17, 31, 32, 33, 100, 1000, 1024, 16384, 16385]))
            expected, drawn = torch.randn((count,), generator=theirs).numpy(), ours.draw((count,))
            if exact:
                np.testing.assert_array_equal(drawn.view(np.int32), expected.view(np.int32), err_msg=f"seed {seed}, {count} values")
            else:
                np.testing.assert_allclose(drawn, expected, atol=1e-5)


def test_torch_takes_the_low_32_bits_of_a_seed() -> None:
    np.testing.assert_array_equal(Torch(5).draw((20,)), Torch(2**40 + 5).draw((20,)))


@pytest.mark.parametrize("make", [Torch, Portable])
def test_a_draw_has_its_shape_and_type(make: type) -> None:
    for shape in [(), (0,), (1,), (2, 0, 3), (3, 5), (1, 4, 8, 8)]:
        drawn = make(1).draw(shape)
        assert drawn.shape == shape
        assert drawn.dtype == np.float32


def test_portable_is_one_stream_of_pairs() -> None:
    """The shape only cuts the stream; an odd draw uses up a whole pair."""
    whole = Portable(3).draw((100,))
    np.testing.assert_array_equal(Portable(3).draw((5, 20)).ravel(), whole)
    parts = Portable(3)
    np.testing.assert_array_equal(np.concatenate([parts.draw((60,)), parts.draw((40,))]), whole)
    parts = Portable(3)
    assert parts.draw((7,)).tolist() == whole[:7].tolist()
    assert parts.draw((2,)).tolist() == whole[8:10].tolist()


def test_portable_comes_from_the_bits_of_pcg64() -> None:
    u, v = (np.random.PCG64(11).random_raw(2) >> np.uint64(11)) * 2.0**-53
    radius, angle = math.sqrt(-2 * math.log(u + 2.0**-53)), 2 * math.pi * v
    np.testing.assert_allclose(Portable(11).draw((2,)), [radius * math.cos(angle), radius * math.sin(angle)], rtol=1e-7)


def test_box_muller_is_exact_to_the_last_places() -> None:
    """Against the C library, at random points and the ends of the range."""
    g = np.random.default_rng(0)
    u = np.concatenate([g.random(20000), 2.0 ** -g.integers(0, 54, 200), [2.0**-53, 1 - 2.0**-53, 1, 0.5**0.5, 0.5]])
    v = np.concatenate([g.random(20000), np.arange(200) / 200, [0, 2.0**-53, 1 - 2.0**-53, 0.125, 0.875]])
    cosine, sine = box_muller(u, v)
    radius = np.sqrt(-2 * np.log(u))
    np.testing.assert_allclose(cosine, radius * np.cos(2 * np.pi * v), rtol=2e-15, atol=4e-15)
    np.testing.assert_allclose(sine, radius * np.sin(2 * np.pi * v), rtol=2e-15, atol=4e-15)


@pytest.mark.parametrize("make", [Torch, Portable])
def test_it_is_standard_normal(make: type) -> None:
    """Moments and neighbours of 400 000 values, each within five standard errors; and a Kolmogorov-Smirnov distance."""
    x = np.concatenate([make(seed).draw((100000,)) for seed in range(4)]).astype(np.float64)
    n = len(x)
    assert abs(x.mean()) < 5 / n**0.5
    assert abs((x**2).mean() - 1) < 5 * (2 / n) ** 0.5
    assert abs((x**3).mean()) < 5 * (15 / n) ** 0.5
    assert abs((x**4).mean() - 3) < 5 * (96 / n) ** 0.5
    for lag in (1, 2, 8, 16):
        assert abs((x[lag:] * x[:-lag]).mean()) < 5 / n**0.5
    points = np.sort(x)
    distance = np.abs([0.5 * (1 + math.erf(p / 2**0.5)) for p in points[::100]] - np.arange(n)[::100] / n).max()
    assert distance < 2 / n**0.5


def test_fma_rounds_once() -> None:
    """Against exact fractions, most of all where two roundings would go wrong: sums a hair beside the middle of two floats."""
    g = np.random.default_rng(0)
    a = (1 + g.integers(0, 2**23, 4000) * 2.0**-23).astype(np.float32)
    b = (g.standard_normal(4000) * 2.0 ** g.integers(-40, 3, 4000)).astype(np.float32)
    c = g.standard_normal(4000).astype(np.float32)
    ulp = np.float32(2.0**-23)
    # (1 ± ulp)·2^-24·(1 ± ulp) is 2^-24·(1 - 2^-46): that much less than half a unit of the last place of 1 + k·ulp.
    k = np.arange(64, dtype=np.float32)
    a = np.concatenate([a, np.tile([1 + ulp, 1 + ulp], 32), np.tile([1 + ulp, 1 + ulp], 32)]).astype(np.float32)
    b = np.concatenate([b, np.full(64, (1 - ulp) * np.float32(2.0**-24)), np.full(64, -(1 - ulp) * np.float32(2.0**-24))])
    c = np.concatenate([c, 1 + k * ulp, 1 + (k + 1) * ulp]).astype(np.float32)
    expected = [nearest(Fraction(float(x)) * Fraction(float(y)) + Fraction(float(z))) for x, y, z in zip(a, b, c, strict=True)]
    np.testing.assert_array_equal(noise._fma(a, b.astype(np.float32), c), np.array(expected, np.float32))
    twice = (a.astype(np.float64) * b + c).astype(np.float32)
    assert (twice != np.array(expected, np.float32)).any()  # or the case was not there


def nearest(exact: Fraction) -> float:
    """The float32 nearest to a fraction, ties to even; for numbers in the normal range."""
    if exact == 0:
        return 0.0
    exponent = math.frexp(float(exact))[1] - 24
    scaled = exact / Fraction(2) ** exponent
    return float(round(scaled) * Fraction(2) ** exponent)  # round() of a Fraction goes to even


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((-1,), "seed is -1"),
        ((1.5,), "seed is 1.5"),
        ((True,), "seed is True"),
        ((2**64, "torch"), "below 2⁶⁴"),
        ((0, "cuda"), "rng is 'cuda'.*numpy, torch"),
    ],
)
def test_mistakes_are_named(arguments: tuple, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        source(*arguments)


def test_source_chooses() -> None:
    assert isinstance(source(0), Portable)
    assert isinstance(source(np.int64(3), "torch"), Torch)
    np.testing.assert_array_equal(source(2**70).draw((2,)), Portable(2**70).draw((2,)))
