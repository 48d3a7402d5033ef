"""What numbers of 16 bits may lose in an op, as the checks hold a device to it (check/halves.py)."""

from __future__ import annotations

import numpy as np
import pytest
from cases import ORACLE, linear

from moebius.backends.webgpu import quads
from moebius.check import halves
from moebius.check.bounds import U_HALF, WORST, is_rounding


def test_a_norms_largest_value_is_rounded_by_its_own_size() -> None:
    """Some values of a norm lie far from its root mean square; an error of as much as they have is none of the others."""
    out = np.full((1, 32, 32, 4), 0.1)
    out[0, 3, 5, 1] = 100.0
    ((limit, worst),) = halves.lost("group_norm", (out,), {}, [out])
    rms = float(np.sqrt(np.mean(out**2)))
    error = U_HALF * 100.0
    assert is_rounding(error / float(np.linalg.norm(out)), error, rms, limit)
    assert not is_rounding(error / float(np.linalg.norm(out)), 1.01 * error, rms, limit)
    assert worst == WORST
    assert halves.lost("group_norm", (out,), {}, [np.ones_like(out)]) == [(U_HALF, WORST)]


def test_what_roundings_do_is_within_what_they_explain_where_few_values_have_most_of_it() -> None:
    """In a row a hundred times as loud as others the roundings are too: by the root mean square of all each of them is many."""
    case, judged = linear((1, 40, 40), 8, 8), []
    for loud in (1, 100):
        x = np.float64(ORACLE.tensor(case.inputs[0]))
        x[0, 7, 7] *= loud
        out = ORACLE.linear(x, case.params)
        difference = 0.99 * (ORACLE.linear(halves.moved(x, "linear"), halves.moved_params(case.params)) - out)
        relative_l2, rms = float(np.linalg.norm(difference) / np.linalg.norm(out)), float(np.sqrt(np.mean(out**2)))
        ((limit, worst),) = halves.lost("linear", (x, case.params), {}, [out])
        assert limit == pytest.approx(relative_l2 / 0.99), "no more than there is"
        largest = float(np.abs(difference).max())
        assert is_rounding(relative_l2, largest, rms, limit, worst)
        assert not is_rounding(1.02 * relative_l2, largest, rms, limit, worst)
        assert not is_rounding(relative_l2, 1.01 * worst * limit * rms, rms, limit, worst)
        judged.append(worst)
    assert judged[0] == WORST, "as elsewhere"
    assert judged[1] > 5 * WORST


def test_a_value_is_judged_by_the_largest_of_its_quad() -> None:
    """Which may be many times the root mean square."""
    out = np.ones((1, 1, 128, 4))
    out[0, 0, 0, 0] = 512.94
    error = np.abs(quads.unpacked(quads.packed(out)) - out)
    relative_l2, rms = float(np.linalg.norm(error) / np.linalg.norm(out)), float(np.sqrt(np.mean(out**2)))
    found = halves.in_quads(halves.Lost(0.0), out)
    assert is_rounding(relative_l2, float(error.max()), rms, found.relative_l2, found.worst)
    assert not is_rounding(relative_l2, 1.01 * quads.ERROR * 512.94, rms, found.relative_l2, found.worst)
    assert halves.in_quads(halves.Lost(0.5, 9.0), np.ones((4, 4))) == (0.5 + 2 * quads.ERROR, 9.0), "and of what is alike, all of it"
