"""The CPU device against the float64 oracle: every op it has of its own, then the whole nano networks."""

from __future__ import annotations

import gc
import re
import weakref
from pathlib import Path

import numpy as np
import pytest
from cases import OPS as CASES
from goldens import CONFIGS, IDS, load, noise, relative, sample, weights

from moebius.backends.cpu import CPU, sizes
from moebius.backends.cpu.cores import cores, limits
from moebius.backends.cpu.silu import silu_of_minus
from moebius.backends.reference import Reference
from moebius.check.bounds import is_rounding, sums
from moebius.check.specs.attention import attention, cross_lambda, self_lambda
from moebius.check.specs.case import OpCase
from moebius.check.specs.convolutions import conv3x3, dwconv, feed_forward, linear, upsample_conv3x3
from moebius.check.specs.norms import group_norm, layer_norm
from moebius.errors import UsageError, WeightError
from moebius.inpaint.device import open_device
from moebius.model.params import Checkpoint, Params
from moebius.model.synthetic import synthetic
from moebius.model.unet import UNet
from moebius.model.vae import VAE

EPS = float(np.finfo(np.float32).eps)
SIZES = [(1, 5, 7), (2, 7, 4), (2, 1, 3), (1, 3, 1), (2, 9, 18)]  # (B, H, W): H ≠ W, widths that no tile divides, borders that meet
C, COUT, HEADS, TOKENS, COND = 12, 10, 2, 5, 7
K = C // HEADS


class Op:
    """A spec's case with its parameters and its inputs by name; `terms` is how many products the longest sum in it has."""

    def __init__(self, terms: int, case: OpCase) -> None:
        self.terms, self.case = terms, case
        self.inputs = {x.name: x.in_numpy(noise(f"test_cpu.{x.name}", x.shape)) for x in case.inputs}
        shapes = {f"layer.{name}": shape for name, shape in case.shapes.items()} | case.root
        self.p = Params(Checkpoint(synthetic(shapes, 0)), "layer")

    def __call__(self, ops: Reference) -> np.ndarray:
        return self.case.call(ops, self.p, *(np.asarray(v, ops.dtype) for v in self.inputs.values()), *self.case.on_host)


def make(name: str, size: tuple[int, int, int]) -> Op:
    positions = size[1] * size[2]
    cases: dict[str, tuple[int, OpCase]] = {
        "linear": (C, linear(size, C, COUT)),
        "linear without bias": (C, linear(size, C, COUT, bias=False, residual=False)),
        "conv3x3": (9 * C, conv3x3(size, C, COUT, residual=True)),
        "conv3x3 stride 2": (9 * C, conv3x3(size, C, COUT, stride=2, residual=True)),
        "conv3x3 stride 2, pad 0": (9 * C, conv3x3(size, C, COUT, stride=2, pad=0)),
        "conv3x3 to one channel": (9 * C, conv3x3(size, C, 1, residual=True)),
        "upsample_conv3x3": (9 * C, upsample_conv3x3(size, C, COUT)),
        "dwconv": (9 + C, dwconv(size, C, COUT, shift=False)),
        "dwconv with its skip and a shift": (9 + C, dwconv(size, C, C)),
        "feed_forward": (9 + 3 * C, feed_forward(size, C, 2 * C)),
        "group_norm": (positions * C, group_norm(size, 3, C // 3)),
        "group_norm with SiLU": (positions * C, group_norm(size, 3, C // 3, silu=True)),
        "layer_norm": (C, layer_norm(size, C)),
        "self_lambda": (C + positions + 225 + K, self_lambda(size, HEADS, K)),
        "self_lambda of few keys": (C + positions + 225 + K, self_lambda(size, 4, 3)),
        "attention": (2 * C + positions, attention(size, C)),
        "cross_lambda": (C + COND + K + TOKENS, cross_lambda(size, HEADS, K, TOKENS, COND)),
    }
    return Op(*cases[name])


OPS = [
    "linear",
    "linear without bias",
    "conv3x3",
    "conv3x3 stride 2",
    "conv3x3 stride 2, pad 0",
    "conv3x3 to one channel",
    "upsample_conv3x3",
    "dwconv",
    "dwconv with its skip and a shift",
    "feed_forward",
    "group_norm",
    "group_norm with SiLU",
    "layer_norm",
    "self_lambda",
    "self_lambda of few keys",
    "cross_lambda",
    "attention",
]


@pytest.fixture(params=["whole", "in blocks"])
def blocks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small tensors fit in one block; with tiny blocks every loop over blocks is walked, its ragged end included."""
    if request.param == "in blocks":
        small = {"BLOCK": 40, "PIECE": 30, "COLUMNS": 300, "ROWS": 1, "PRODUCT": 5, "SMALL": 1, "FEW": 400}
        small |= {"SLICE": 5, "BAND": 40, "ALONE": 1, "LINE": 12, "TALL": 20, "CHANNELS": 1, "TILES": 900, "PLACES": 3, "LARGE": 1}
        for name, size in small.items():
            monkeypatch.setattr(sizes, name, size)


@pytest.mark.usefixtures("blocks")
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("name", OPS)
def test_every_op_agrees_with_the_oracle(name: str, size: tuple[int, int, int]) -> None:
    op = make(name, size)
    before = {key: value.copy() for key, value in op.inputs.items()}
    got, want = op(CPU()), op(Reference(np.float64))
    assert got.dtype == np.float32
    assert relative(got, want) <= 4 * EPS * np.sqrt(op.terms)
    for key, value in before.items():
        np.testing.assert_array_equal(op.inputs[key], value, err_msg=f"{name} wrote into {key}")


@pytest.mark.parametrize("name", OPS)
def test_the_number_of_threads_changes_nothing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sizes, "BLOCK", 40)
    monkeypatch.setattr(sizes, "SMALL", 1)
    monkeypatch.setattr(sizes, "CHANNELS", 1)
    monkeypatch.setattr(sizes, "ALONE", 1)
    op = make(name, (2, 9, 18))
    np.testing.assert_array_equal(op(CPU(threads=1)), op(CPU(threads=4)))


@pytest.mark.parametrize("name", CASES)
def test_a_parameter_that_is_no_number_is_named(name: str) -> None:
    for leaf in CASES[name]((1, 2, 3)).shapes:
        case = CASES[name]((1, 2, 3))
        case.weights[leaf] = np.full(case.shapes[leaf], np.nan, np.float32)
        with pytest.raises(WeightError, match=re.escape(leaf)):
            case.run(CPU(), case.params)


@pytest.mark.parametrize("name", ["dwconv", "feed_forward", "group_norm with SiLU", "self_lambda"])
def test_small_images_are_taken_together_with_the_same_bits(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of a product stay what they are: its rows decide on the last bit of a sum."""
    op = make(name, (3, 5, 7))
    together = op(CPU())
    for size in ("BAND", "LAID", "PIECE"):
        monkeypatch.setattr(sizes, size, 1)
    monkeypatch.setattr(sizes, "BLOCK", 2 * together.size // 3)
    np.testing.assert_array_equal(op(CPU()), together)


@pytest.mark.parametrize("name", ["feed_forward", "self_lambda"])
def test_weights_in_another_order_are_kept_only_where_they_are_few(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    op, few, many = make(name, (2, 5, 7)), CPU(), CPU()
    want = op(few)
    monkeypatch.setattr(sizes, "TWICE", 1)
    np.testing.assert_array_equal(op(many), want)

    def kept(ops: CPU) -> bool:
        made = op.p.root.derived[ops]
        return ("layer", "to_k and to_v") in made if name == "self_lambda" else made["layer", "feed_forward"][-1] is not None

    assert kept(few)
    assert not kept(many)


def test_another_condition_is_another_one_also_in_the_same_array() -> None:
    unet = UNet(CONFIGS["unet_nano"], weights("unet_nano"), CPU())
    x, ids = noise("test_cpu.condition", (2, 9, 16, 16)), IDS.copy()
    first = unet(x, 3, ids)
    ids[:] = ids[::-1].copy()
    other = unet(x, 3, ids)
    np.testing.assert_array_equal(unet(x, 3, IDS), first)
    np.testing.assert_array_equal(UNet(CONFIGS["unet_nano"], weights("unet_nano"), CPU())(x, 3, ids), other)
    assert not np.array_equal(first, other)


def test_in_float64_the_order_of_the_sums_is_all_that_differs() -> None:
    for name in OPS:
        op = make(name, (2, 7, 4))
        assert relative(op(CPU(np.float64)), op(Reference(np.float64))) <= 1e-14, name


@pytest.mark.parametrize("name", ["group_norm", "layer_norm"])
def test_norms_stand_a_mean_far_from_zero(name: str) -> None:
    op = make(name, (2, 9, 18))
    op.inputs["x"] = op.inputs["x"] + np.float32(1000)
    # The mean rounds to 1000·eps = 1.2e-4 of a standard deviation; mean(x²) - mean(x)² would be off by 1000²·eps = 0.12 of the variance.
    assert relative(op(CPU()), op(Reference(np.float64))) <= 5e-4


def test_a_norm_over_many_positions_loses_no_digits() -> None:
    op = make("group_norm", (1, 64, 64))
    got, want = op(CPU()), op(Reference(np.float64))
    assert np.linalg.norm(got - want) < 1e-7 * np.linalg.norm(want)  # in one chain of float32 the sums make it 2e-7


def test_silu_neither_overflows_nor_loses_its_tail(monkeypatch: pytest.MonkeyPatch) -> None:
    x = np.concatenate([np.linspace(-20, 20, 401), [-1e30, -200.0, -88.8, 0.0, 200.0, 1e30]]).astype(np.float32)
    minus, xd = -x[:, None].repeat(3, axis=1), x.astype(np.float64)[:, None]
    monkeypatch.setattr(sizes, "PIECE", 100)
    with np.errstate(all="raise", under="ignore"):
        silu_of_minus(minus, minus)
    want = xd / (1 + np.exp(np.minimum(-xd, 700)))
    assert np.all(np.abs(minus - want) <= 4 * EPS * np.abs(want) + 1e-36)


@pytest.mark.parametrize("rows", [1, 2, 9])
def test_rows_of_the_self_lambda_are_taken_together_with_the_same_bits(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    op = make("self_lambda", (1, 5, 7))
    want = op(CPU())
    monkeypatch.setattr(sizes, "LAID", rows * 2 * 4 * HEADS * 15 * 18)  # tiles in a row, columns in a tile, the patch that they see
    np.testing.assert_array_equal(op(CPU()), want)


def test_nano_unet_end_to_end() -> None:
    name, config = "unet_nano_seed0_t500", CONFIGS["unet_nano"]
    x = noise(f"{name}.latent", (2, 9, 16, 16))
    got = UNet(config, weights("unet_nano"), CPU())(x, 500, IDS)
    want = UNet(config, weights("unet_nano"), Reference(np.float64))(x, 500, IDS)
    assert relative(got, want) <= 2e-5
    golden = load(name)["output"]
    assert relative(got if golden.shape == got.shape else sample(got, "output", golden.size), golden) <= 2e-5


def test_nano_vae_end_to_end() -> None:
    fast, oracle = (VAE(CONFIGS["vae_nano"], weights("vae_nano"), ops) for ops in (CPU(), Reference(np.float64)))
    image, latent = noise("test_cpu.image", (1, 3, 64, 40)), noise("test_cpu.latent", (2, 4, 5, 8))
    assert relative(fast.encode(image), oracle.encode(image)) <= 2e-5
    assert relative(fast.decode(latent), oracle.decode(latent)) <= 2e-5


def test_with_a_tap_every_module_is_seen() -> None:
    x = noise("test_cpu.tap", (2, 9, 16, 16))
    seen: dict[str, dict[str, np.ndarray]] = {}
    for key, ops in {"fast": CPU(), "plain": Reference(np.float32)}.items():
        into = seen.setdefault(key, {})
        UNet(CONFIGS["unet_nano"], weights("unet_nano"), ops)(x, 3, IDS, tap=into.__setitem__)
    assert seen["fast"].keys() == seen["plain"].keys()
    assert all(relative(seen["fast"][path], seen["plain"][path]) <= 2e-5 for path in seen["plain"])


def test_two_models_on_one_device_keep_to_their_own_weights() -> None:
    ops, oracle = CPU(), Reference(np.float64)
    first, second = make("upsample_conv3x3", (1, 5, 7)), make("upsample_conv3x3", (1, 5, 7))
    changed = {name: -first.p.root[name] for name in first.p.root}
    second.p = Params(Checkpoint(changed), "layer")
    for op in (first, second, first):
        assert relative(op(ops), op(oracle)) <= 1e-5
    assert all(ops in op.p.root.derived for op in (first, second))
    gone = weakref.ref(second.p.root)
    del second, op
    gc.collect()
    assert gone() is None  # and with it what was made for it


def test_weights_of_another_precision_are_converted_once() -> None:
    op = make("linear", (2, 5, 7))
    op.p = Params(Checkpoint({name: op.p.root[name].astype(np.float16) for name in op.p.root}), "layer")
    ops = CPU()
    assert relative(op(ops), op(Reference(np.float64))) <= 1e-5
    assert op(ops).dtype == np.float32
    assert sorted(op.p.root.derived[ops]) == [("layer", "bias"), ("layer", "weight")]


def test_with_and_without_a_tap_in_any_order() -> None:
    """In float64 weights are kept converted, as stored for a tapped run and rearranged for another: neither may get the other's."""
    image = noise("taps.image", (1, 3, 32, 32))
    want = VAE(CONFIGS["vae_nano"], weights("vae_nano"), Reference(np.float64)).encode(image)
    for first in (True, False):
        net = VAE(CONFIGS["vae_nano"], weights("vae_nano"), CPU(np.float64))
        for tapped in (first, not first):
            got = net.encode(image, tap=(lambda *_: None) if tapped else None)
            assert relative(got, want) < 1e-12


@pytest.mark.parametrize(("channels", "size"), [(64, (1, 12, 14)), (128, (1, 8, 9))], ids=str)
def test_a_convolution_by_tiles_stays_inside_the_bound_of_its_sums(channels: int, size: tuple[int, int, int]) -> None:
    op = Op(9 * channels, conv3x3(size, channels, channels))
    op.inputs["x"] = np.maximum(op.inputs["x"], -0.2)  # as SiLU leaves it, with a mean
    assert channels >= sizes.CHANNELS
    got, want = op(CPU()), op(Reference(np.float64))
    error = got - want
    assert is_rounding(relative(got, want), float(abs(error).max()), float(np.sqrt(np.mean(want**2))), sums(9 * channels))


def test_transformed_weights_are_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are four times the checkpoint's own, and scratch memory is as large as the largest layer's."""
    monkeypatch.setattr(sizes, "CHANNELS", 1)
    op, other, ops = make("conv3x3", (1, 8, 9)), make("conv3x3", (2, 9, 18)), CPU()
    want = op(ops)
    other(ops)
    np.testing.assert_array_equal(op(ops), want)
    assert not any(w.size >= 36 * C * COUT for w in op.p.root.derived.get(ops, {}).values())


def test_where_no_gpu_can_be_no_driver_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("moebius.backends.hardware.sys.platform", "linux")
    monkeypatch.setattr("moebius.backends.hardware.DEV", tmp_path)
    asked: list[str] = []
    monkeypatch.setattr("moebius.backends.webgpu.adapters", lambda: asked.append("drivers") or [])
    assert open_device(threads=2).name == CPU(threads=2).name
    assert not asked
    (tmp_path / "dri").mkdir()
    (tmp_path / "dri/renderD128").touch()
    assert isinstance(open_device(), CPU)
    assert asked == ["drivers"]


def test_control_groups_limit_the_cores(tmp_path: Path) -> None:
    groups, mount = tmp_path / "cgroup", tmp_path / "fs"
    for name, text in {
        "cpu.max": "max 100000",
        "a/cpu.max": "250000 100000",
        "a/b/cpu.max": "300000 100000",
        "cpu/old/cpu.cfs_quota_us": "50000",
        "cpu/old/cpu.cfs_period_us": "100000",
        "cpu/cpu.cfs_quota_us": "-1",
        "cpu/cpu.cfs_period_us": "100000",
    }.items():
        (mount / name).parent.mkdir(parents=True, exist_ok=True)
        (mount / name).write_text(text + "\n")
    groups.write_text("0::/a/b\n")
    assert sorted(limits(groups, mount)) == [2.5, 3.0]
    groups.write_text("12:memory:/x\n4:cpuacct,cpu:/old\n")
    assert list(limits(groups, mount)) == [0.5]
    groups.write_text("0::/../elsewhere\n")
    assert list(limits(groups, mount)) == []
    assert list(limits(tmp_path / "none", mount)) == []


def test_a_device_has_a_thread_for_every_core_or_as_many_as_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    assert CPU().threads == cores() >= 1
    monkeypatch.setattr("moebius.backends.cpu.cores.limits", lambda *_: [0.25])
    assert CPU().threads == 1
    assert CPU(threads=3).threads == 3
    with pytest.raises(UsageError, match="threads"):
        CPU(threads=0)
