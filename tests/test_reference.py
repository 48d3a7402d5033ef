"""The oracle against the published code's outputs, module by module."""

import numpy as np
import pytest
from goldens import CONFIGS, IDS, ModuleSamples, load, manifest, noise, relative, sample, weights

from moebius.backends.reference import Reference
from moebius.errors import UsageError, WeightError
from moebius.model import unet, vae
from moebius.model.synthetic import synthetic
from moebius.model.unet import UNet, UNetConfig
from moebius.model.vae import VAE, VAEConfig


@pytest.mark.parametrize("net", CONFIGS)
def test_shapes_are_the_published_ones(net):
    module = unet if net.startswith("unet") else vae
    ours = module.shapes(CONFIGS[net])
    assert ours == {k: s for k, s in manifest(net).items() if not k.endswith("num_batches_tracked")}


# Measured: 3.0e-6, 7.3e-6; modules 6.6e-6, 1.3e-5. PyTorch's own float32 rounding.
@pytest.mark.parametrize(
    ("name", "net", "t", "limit"),
    [
        ("unet_nano_seed0_t500", "unet_nano", 500, 1e-5),
        pytest.param("unet_full_seed0_t811", "unet_full", 811, 1.5e-5, marks=pytest.mark.slow),
    ],
)
def test_unet_golden(name, net, t, limit):
    s, tap = CONFIGS[net].sample_size, ModuleSamples(name)
    out = UNet(CONFIGS[net], weights(net), Reference())(noise(f"{name}.latent", (2, 9, s, s)), t, IDS, tap=tap)
    assert relative(out, load(name)["output"]) <= limit
    assert not tap.missing
    assert max(tap.errors.values()) <= 5e-5


# Measured: 1.0e-6 and 1.4e-6 (nano), 3.1e-6 and 3.6e-6 (full at 64²); modules 2.0e-6, 4.4e-6.
@pytest.mark.parametrize(
    ("name", "size"), [("vae_nano_128", 128), ("vae_full_64", 64), pytest.param("vae_full_512", 512, marks=pytest.mark.slow)]
)
def test_vae_golden(name, size):
    net, golden = name.rsplit("_", 1)[0], load(name)
    coder, tap = VAE(CONFIGS[net], weights(net), Reference()), ModuleSamples(name)
    moments = coder.encode(np.clip(noise(f"{name}.image", (1, 3, size, size)), -1, 1), tap=tap)
    image = coder.decode(noise(f"{name}.latent", (1, 4, size // 8, size // 8)), tap=tap)
    for path, array in (("moments", moments), ("image", image)):
        want = golden[path]
        assert relative(array if array.shape == want.shape else sample(array, path, want.size), want) <= 1e-5
    assert not tap.missing
    assert max(tap.errors.values(), default=0) <= 5e-5


def test_old_attention_names_and_1x1_convolutions_are_read():
    names = {v: k for k, v in vae.OLD_ATTENTION_NAMES.items()}
    old = {}
    for key, value in weights("vae_nano").items():
        head, _, tail = key.partition(".attentions.0.")
        module, _, leaf = tail.rpartition(".")
        if module in names:
            key = f"{head}.attentions.0.{names[module]}.{leaf}"
            value = value[:, :, None, None] if leaf == "weight" else value
        old[key] = value
    assert "decoder.mid_block.attentions.0.proj_attn.weight" in old
    z = noise("z", (1, 4, 2, 3))
    np.testing.assert_array_equal(*(VAE(VAEConfig.tiny(), w, Reference()).decode(z) for w in (old, weights("vae_nano"))))


def test_batches_are_independent():
    net = UNet(UNetConfig.tiny(), weights("unet_nano"), Reference())
    x = noise("batch", (2, 9, 16, 16))
    both = net(x, 3, IDS)
    for i in range(2):
        np.testing.assert_allclose(net(x[i : i + 1], 3, IDS[i : i + 1])[0], both[i], rtol=1e-12, atol=1e-12)


def test_weights_are_checked_by_name_and_shape():
    config, shapes = UNetConfig.tiny(), unet.shapes(UNetConfig.tiny())
    good = synthetic(shapes, 0)
    key = "diff_model.conv_in.bn1.weight"
    with pytest.raises(WeightError, match=r"1 missing: diff_model\.conv_in\.bn1\.weight"):
        UNet(config, {k: v for k, v in good.items() if k != key}, Reference())
    with pytest.raises(WeightError, match="1 unexpected: extra"):
        UNet(config, good | {"extra": np.zeros(3, np.float32)}, Reference())
    with pytest.raises(WeightError, match=r"diff_model\.conv_in\.bn1\.weight is \(8,\), not \(9,\)"):
        UNet(config, good | {key: np.zeros(8, np.float32)}, Reference())
    with pytest.raises(WeightError, match=r"diff_model\.conv_in\.bn1\.weight is int64"):
        UNet(config, good | {key: np.zeros(9, np.int64)}, Reference())
    UNet(config, good | {"diff_model.conv_in.bn1.num_batches_tracked": np.zeros((), np.int64)}, Reference())


BAD_CALLS = [
    ({"latents": np.zeros((2, 9, 16, 8), np.float32)}, r"latents are \(2, 9, 16, 8\); this UNet takes \(B, 9, 16, 16\)"),
    ({"latents": np.zeros((1, 9, 16, 16), np.float32)}, "latents have batch 1 but ids have 2 rows"),
    ({"latents": np.zeros((2, 9, 16, 16), np.int32)}, "latents are int32"),
    ({"latents": np.full((2, 9, 16, 16), np.nan, np.float32)}, "latents hold a NaN"),
    ({"t": 1000}, "t is 1000.* 0 to 999"),
    ({"t": 1.5}, r"t is 1\.5"),
    ({"ids": np.full((2, 10), 20)}, "ids .* 20 to 20.* 0 to 19"),
    ({"ids": np.zeros((2, 10), np.float32)}, "ids are float32"),
    ({"ids": np.zeros((2, 7), np.int64)}, "ids have 7 tokens a row"),
]


@pytest.mark.parametrize(("change", "message"), BAD_CALLS)
def test_bad_calls_are_one_sentence(change, message):
    net = UNet(UNetConfig.tiny(), weights("unet_nano"), Reference())
    call = {"latents": np.zeros((2, 9, 16, 16), np.float32), "t": 5, "ids": IDS} | change
    with pytest.raises(UsageError, match=message):
        net(**call)


@pytest.mark.parametrize("shape", [(1, 3, 12, 16), (1, 1, 16, 16), (3, 16, 16), (1, 3, 0, 8)])
def test_bad_images_are_refused(shape):
    with pytest.raises(UsageError, match="encode"):
        VAE(VAEConfig.tiny(), weights("vae_nano"), Reference()).encode(np.zeros(shape, np.float32))


def test_configs_that_cannot_be_are_refused():
    with pytest.raises(UsageError, match=r"sample_size 18 .* 4"):
        UNetConfig(sample_size=18)
    with pytest.raises(UsageError, match="heads = 7 "):
        UNetConfig(heads=7)
    with pytest.raises(UsageError, match="norm_num_groups = 48 "):
        VAEConfig(norm_num_groups=48)
