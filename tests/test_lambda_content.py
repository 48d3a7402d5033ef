"""λ in one pass over the positions: every form of a GPU's kernel, on every driver, for any number of positions and keys of any size."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from cases import ORACLE, Case, normal, self_lambda, some

from moebius.backends.webgpu import WebGPU
from moebius.backends.webgpu.caps import DEFAULT_LIMITS, Caps
from moebius.backends.webgpu.menu import CPU
from moebius.backends.webgpu.ops import lambdas
from moebius.backends.webgpu.ops.lambdas import Content

# With the channels of a head: lanes and vec4 of a thread that make all of a row, and a part of it; more threads than sums, and fewer.
FORMS = [(Content(8, 1, 1, 1), 5), (Content(8, 2, 4, 4), 30), (Content(16, 3, 1, 2), 24), (Content(64, 2, 1, 8), 16)]


def checked(case: Case, gpu: WebGPU, form: Content) -> None:
    made = case.check(gpu, CPU, kind="discrete").dispatches
    constants = [dict(d.constants) for d in made if d.shader == "lambda_content"]
    assert constants == [form.constants()]


@pytest.mark.parametrize(("form", "k"), FORMS, ids=lambda of: "-".join(map(str, of[:4])) if isinstance(of, Content) else f"{of} channels")
def test_any_number_of_positions(gpu: WebGPU, form: Content, k: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """One, fewer than lines, as many as are under way at a time, and more than that, in two images."""
    monkeypatch.setattr(lambdas, "CONTENT", (form,))
    once = form.lines * form.ahead
    for n in some(gpu, [form.lines - 3, once + 3], [1, form.lines, form.lines + 1, once, 2 * once + form.lines + 1]):
        checked(self_lambda((2, 1, n), 1, k), gpu, form)


SPIKES = {"first": 0, "last": -1, "of another line": 21, "of a later round": 64 + 21, "nowhere": None}


@pytest.mark.parametrize("lanes", [1, 2])
@pytest.mark.parametrize("at", SPIKES)
def test_the_largest_keys_may_lie_anywhere(gpu: WebGPU, at: str, lanes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of one position are larger by hundreds: all sums before it shrink to nothing, and so do those of all other threads."""
    form = Content(16, lanes, 1, 4)
    monkeypatch.setattr(lambdas, "CONTENT", (form,))
    case = self_lambda((1, 10, 15), 1, 4 * lanes)
    x = case.inputs[0].reshape(4 * lanes, -1)
    if SPIKES[at] is not None:
        x[:, SPIKES[at]] = 10 * (1.0 + np.abs(x[:, SPIKES[at]]))
    keys_are(case, 20 * np.eye(4 * lanes), gpu, form)


@pytest.mark.parametrize("order", ["rising", "falling", "far below zero", "equal"])
def test_keys_in_any_order(gpu: WebGPU, order: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every position has a new maximum, or none has after the first; a maximum below zero is one, too."""
    form = Content(16, 2, 1, 4)
    monkeypatch.setattr(lambdas, "CONTENT", (form,))
    case = self_lambda((1, 10, 15), 1, 8)
    x = case.inputs[0].reshape(8, -1)
    x[...] = {
        "rising": np.sort(x),
        "falling": np.sort(x)[:, ::-1],
        "far below zero": -15 - 0.1 * np.abs(x),
        "equal": np.broadcast_to(x[:, :1], x.shape),
    }[order]
    keys_are(case, 20 * np.eye(8), gpu, form)


def keys_are(case: Case, weight: np.ndarray, gpu: WebGPU, form: Content) -> None:
    """Checks the case with keys of these weights: what rounds the largest of them is in the exponents (`largest_logit`)."""
    case.weights["to_k.weight"] = weight[:, :, None, None].astype(np.float32)
    keys = ORACLE._matrix(ORACLE.tensor(case.inputs[0]), case.params.at("to_k"))
    case.condition = float(np.abs(keys).max())
    checked(case, gpu, form)


@pytest.mark.usefixtures("untested_weights")
@pytest.mark.parametrize("value", [np.nan, np.inf], ids=str)
def test_one_position_that_is_not_finite_reaches_all(gpu: WebGPU, value: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lambdas, "CONTENT", (Content(16, 1, 1, 4),))
    device = WebGPU(gpu.gpu, replace(gpu.caps, kind="discrete"))
    for at in (0, 7, 70, 76):  # of 77: the last is what stands in for those past the end
        for leaf in ("to_k.weight", "to_v.weight"):
            case = self_lambda((1, 7, 11), 1, 4)
            case.weights[leaf] = normal(leaf, 4, 4, 1, 1)
            case.inputs[0].reshape(4, -1)[:, at] = value
            with device.eager():
                out = device.read(case.call(device, case.params, *(device.tensor(a) for a in case.inputs)))
            assert not np.isfinite(out).any()


def test_a_card_has_work_for_all_of_it() -> None:
    """At the positions and channels of the UNet's levels, in a browser and on a card with more memory a workgroup."""
    roomy = {**DEFAULT_LIMITS, "max-compute-workgroup-storage-size": 48 << 10}
    for limits in (DEFAULT_LIMITS, roomy):
        caps = replace(Caps.browser(), limits=limits)
        for positions, v4 in ((64 * 64, 10), (32 * 32, 20), (16 * 16, 40)):
            c = lambdas.content_block(caps, positions, v4)
            groups = 2 * v4 * v4 // (c["LANES"] * c["TV4"])
            assert groups >= 100
            assert 64 <= c["LINES"] * c["LANES"] <= 256
            assert positions <= 8 * c["LINES"] * c["AHEAD"]
    assert lambdas.content_block(caps, 1, 1) == lambdas.CONTENT[-1].constants()
