"""Four numbers under one exponent: what quad.wgsl writes and reads, in NumPy. How they lie is said there."""

from __future__ import annotations

import numpy as np

ERROR = 2.0**-13  # of a number, in units of the largest of its four, at most; the least is 2⁻¹²⁷
NONE = 0x3FFF  # bits of what is no number
SHIFTS = np.array([0, 14, 0, 14], np.uint32)


def packed(array: np.ndarray) -> np.ndarray:
    """(…, 4·n) float32 → (…, 2·n) words."""
    x = np.ascontiguousarray(array, np.float32).reshape(*np.shape(array)[:-1], -1, 4)
    exponents = x.view(np.uint32) >> 23 & 255
    numbers = exponents < 255
    exponent = np.maximum(np.where(numbers, exponents, 0).max(-1, keepdims=True), 13).astype(np.uint32)
    whole = np.rint(np.where(numbers, x, np.float32(0)) * (266 - exponent << 23).view(np.float32))
    bits = np.where(numbers, np.clip(whole, -8191, 8191) + 8191, NONE).astype(np.uint32) << SHIFTS
    pairs = bits[..., ::2] | bits[..., 1::2] | np.concatenate([exponent & 15, exponent >> 4], -1) << 28
    return pairs.astype(np.uint32).reshape(*x.shape[:-2], -1)


def unpacked(words: np.ndarray) -> np.ndarray:
    """(…, 2·n) words → (…, 4·n) float32."""
    pairs = words.reshape(*words.shape[:-1], -1, 2)
    bits = np.repeat(pairs, 2, -1) >> SHIFTS & NONE
    exponent = pairs[..., :1] >> 28 | pairs[..., 1:] >> 28 << 4
    whole = np.where(bits == NONE, np.nan, bits.astype(np.float32) - np.float32(8191)).astype(np.float32)
    return (whole * (exponent - 12 << 23).view(np.float32)).reshape(*words.shape[:-1], -1)
