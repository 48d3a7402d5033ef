"""Standard normal noise in float32 whose bytes a seed decides, on every machine.

`Portable` is the engine's own: the bits of NumPy's PCG64, whose stream NumPy keeps (NEP 19), through a Box-Muller of
additions, multiplications, divisions and square roots, which IEEE 754 rounds one way. NumPy's own standard_normal promises
neither: its algorithm may change between versions, and its tail and rejection steps call the C library's log1p and exp.

`Torch` repeats `torch.Generator().manual_seed(seed)` and `torch.randn(shape, generator=g)` of PyTorch 2.13 on a CPU, bit for bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol, get_args

import numpy as np

from moebius.errors import UsageError

Rng = Literal["numpy", "torch"]

LN2 = 0.693147180369123816490, 1.90821492927058770002e-10  # in two parts: a whole number times the first is exact
LOG_DEGREE, TURN_DEGREE = 21, 18  # where the series of `_log` and `_turn` end


class Noise(Protocol):
    def draw(self, shape: Sequence[int]) -> np.ndarray:
        """The next standard normals of the stream, in float32."""
        ...


def source(seed: int, rng: Rng = "numpy") -> Noise:
    if rng not in get_args(Rng):
        raise UsageError(f"rng is {rng!r}; choose one of {', '.join(get_args(Rng))}.")
    return Torch(seed) if rng == "torch" else Portable(seed)


class Portable:
    """Pairs √(-2·ln u)·(cos 2πv, sin 2πv), one after the other; u in (0, 1] and v in [0, 1) have 53 random bits. Any seed ≥ 0."""

    def __init__(self, seed: int) -> None:
        self._bits = np.random.PCG64(_checked(seed))

    def draw(self, shape: Sequence[int]) -> np.ndarray:
        count = int(np.prod(shape, dtype=np.int64))
        bits = (self._bits.random_raw((count + 1) // 2 * 2) >> np.uint64(11)).astype(np.float64)
        pairs = box_muller((bits[0::2] + 1) * 2.0**-53, bits[1::2] * 2.0**-53)
        return np.stack(pairs, axis=-1).reshape(-1)[:count].reshape(tuple(shape)).astype(np.float32)


def box_muller(u: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """√(-2·ln u)·cos 2πv and √(-2·ln u)·sin 2πv in float64, within a few units of the last place."""
    radius = np.sqrt(-2 * _log(u))
    cosine, sine = _turn(v)
    return radius * cosine, radius * sine


def _log(x: np.ndarray) -> np.ndarray:
    """ln x, x > 0: with x = m·2^e and √½ ≤ m < √2, e·ln 2 + 2·artanh s and s = (m-1)/(m+1), |s| < 0.1716."""
    m, e = np.frexp(x)
    low = m < 0.5**0.5
    m, e = np.where(low, 2 * m, m), e - low
    s = (m - 1) / (m + 1)
    square, series = s * s, np.full_like(s, 1 / LOG_DEGREE)
    for k in range(LOG_DEGREE - 2, 0, -2):
        series = series * square + 1 / k
    return e * LN2[0] + (2 * s * series + e * LN2[1])


def _turn(v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """cos 2πv and sin 2πv, 0 ≤ v ≤ 1: Taylor series within an eighth of a turn of the nearest quarter, |x| ≤ π/4."""
    quarter = np.floor(4 * v + 0.5)
    x = (4 * v - quarter) * (np.pi / 2)
    square = x * x
    cosine, sine = np.ones_like(x), np.ones_like(x)
    for k in range(TURN_DEGREE, 0, -2):
        cosine = 1 - cosine * square / (k * (k - 1))
        sine = 1 - sine * square / (k * (k + 1))
    sine = sine * x
    odd, negative = quarter % 2 == 1, (quarter // 2) % 2 == 1
    c = np.where(odd, -sine, cosine)
    s = np.where(odd, cosine, sine)
    return np.where(negative, -c, c), np.where(negative, -s, s)


class Torch:
    """PyTorch's CPU generator: a Mersenne twister seeded with the low 32 bits of the seed, and normal_'s two ways.

    - From 16 values on: one 24-bit uniform a value, then blocks of 16 in float32, u = 1 - the first 8, v = the other 8,
      √(-2·ln u)·cos 2πv and √(-2·ln u)·sin 2πv. When the count is not a multiple of 16, the last 16 values are drawn anew.
    - Below: in double, from two 53-bit uniforms a pair; the second of a pair is kept for the next short draw.

    The blocks are computed as PyTorch's AVX2 kernel does, which is what every x86 CPU with AVX2 or AVX-512 runs: Cephes
    polynomials with the multiply-adds its compiler fused. PyTorch on other CPUs (Arm, say) asks the C library instead and is
    a few float32 units of the last place away from this, and so from PyTorch on x86.
    """

    def __init__(self, seed: int) -> None:
        if _checked(seed) >= 2**64:
            raise UsageError(f"seed is {seed}; PyTorch takes seeds below 2⁶⁴.")
        state = np.empty(624, np.uint32)
        word = seed & 0xFFFFFFFF
        for i in range(624):
            state[i] = word
            word = (1812433253 * (word ^ (word >> 30)) + i + 1) & 0xFFFFFFFF
        self._bits = np.random.MT19937()
        self._bits.state = {"bit_generator": "MT19937", "state": {"key": state, "pos": 624}}
        self._kept: float | None = None

    def draw(self, shape: Sequence[int]) -> np.ndarray:
        count = int(np.prod(shape, dtype=np.int64))
        values = self._blocks(count) if count >= 16 else np.array([self._one() for _ in range(count)], np.float32)
        return values.reshape(tuple(shape))

    def _one(self) -> float:
        if self._kept is not None:
            value, self._kept = self._kept, None
            return value
        words = self._bits.random_raw(4)
        bits = ((words[0::2] << np.uint64(32)) | words[1::2]) & np.uint64(2**53 - 1)
        v, u = bits * 2.0**-53
        cosine, sine = box_muller(np.array([1 - u]), np.array([v]))
        self._kept = float(sine[0])
        return float(cosine[0])

    def _blocks(self, count: int) -> np.ndarray:
        uniform = self._uniform(count)
        whole = count // 16 * 16
        values = np.empty(count, np.float32)
        values[:whole] = _normal_blocks(uniform[:whole])
        if whole < count:
            values[-16:] = _normal_blocks(self._uniform(16))
        return values

    def _uniform(self, count: int) -> np.ndarray:
        bits = self._bits.random_raw(count) & np.uint64(2**24 - 1)
        return bits.astype(np.float32) * np.float32(2.0**-24)


# Of Cephes' logf, sinf and cosf, in the order they are used.
LOG = np.array(
    [
        7.0376836292e-2,
        -1.1514610310e-1,
        1.1676998740e-1,
        -1.2420140846e-1,
        1.4249322787e-1,
        -1.6668057665e-1,
        2.0000714765e-1,
        -2.4999993993e-1,
        3.3333331174e-1,
    ],
    np.float32,
)
LN2_HIGH, LN2_LOW = np.float32(0.693359375), np.float32(-2.12194440e-4)
SIN = np.array([-1.9515295891e-4, 8.3321608736e-3, -1.6666654611e-1], np.float32)
COS = np.array([2.443315711809948e-5, -1.388731625493765e-3, 4.166664568298827e-2], np.float32)
MINUS_QUARTER_PI = np.array([-0.78515625, -2.4187564849853515625e-4, -3.77489497744594108e-8], np.float32)
FOUR_OVER_PI, TWO_PI = np.float32(1.27323954473516), np.float32(2 * np.pi)


def _normal_blocks(uniform: np.ndarray) -> np.ndarray:
    u, v = uniform.reshape(-1, 2, 8).transpose(1, 0, 2)
    radius = np.sqrt(np.float32(-2) * _cephes_log(1 - u))
    cosine, sine = _cephes_turn(TWO_PI * v)
    return np.stack([radius * cosine, radius * sine], axis=1).reshape(-1) + np.float32(0)  # the kernel adds a mean of 0: no -0


def _cephes_log(x: np.ndarray) -> np.ndarray:
    m, e = np.frexp(x)
    low = m < np.float32(0.707106781186547524)
    x, e = np.where(low, 2 * m, m) - np.float32(1), (e - low).astype(np.float32)
    y = np.full_like(x, LOG[0])
    for coefficient in LOG[1:]:
        y = _fma(y, x, coefficient)
    z = x * x
    y = _fma(x * y, z, e * LN2_LOW) - z * np.float32(0.5)
    return _fma(e, LN2_HIGH, x + y)


def _cephes_turn(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    octant = (x * FOUR_OVER_PI).astype(np.int32)
    octant = (octant + 1) & ~1
    for part in MINUS_QUARTER_PI:
        x = _fma(octant.astype(np.float32), part, x)
    z = x * x
    cosine, sine = (_fma(_fma(p[0], z, p[1]), z, p[2]) * z for p in (COS, SIN))
    cosine = _fma(z, cosine, z * np.float32(-0.5)) + np.float32(1)
    sine = _fma(x, sine, x)
    swapped = (octant & 2) != 0
    c, s = np.where(swapped, sine, cosine), np.where(swapped, cosine, sine)
    return np.where((octant + 2) & 4, -c, c), np.where(octant & 4, -s, s)


def _fma(a: np.ndarray, b: np.ndarray | np.float32, c: np.ndarray | np.float32) -> np.ndarray:
    """a·b + c rounded once to float32.

    The product is exact in float64; the sum is rounded there and again here, which differs from rounding once only when
    the first rounding lands halfway between two float32 values. Then the first one's error says which way to go.
    """
    product = a.astype(np.float64) * b
    total = product + c
    halfway = np.flatnonzero((total.view(np.int64) & (2**29 - 1)) == 2**28)
    if halfway.size:
        p, k, t = (np.broadcast_to(array, total.shape).ravel()[halfway].astype(np.float64) for array in (product, c, total))
        back = t - p
        error = (p - (t - back)) + (k - back)
        total.flat[halfway] = np.where(error == 0, t, np.nextafter(t, np.copysign(np.inf, error)))
    return total.astype(np.float32)


def _checked(seed: int) -> int:
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or seed < 0:
        raise UsageError(f"seed is {seed!r}; it must be an integer from 0 up.")
    return int(seed)
