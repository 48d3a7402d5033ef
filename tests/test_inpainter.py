"""The whole pipeline against the published one, on the nano nets with the goldens' own noise."""

import warnings
import weakref
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from goldens import CONFIGS, FOLDER, load, noise, relative, weights
from PIL import Image

from moebius import sample
from moebius.backends.cpu import CPU
from moebius.backends.reference import Reference
from moebius.errors import EmptyMaskError, NonFiniteError, OutOfMemoryError, UsageError
from moebius.inpaint.draws import draws as draws_of
from moebius.inpaint.inpainter import Inpainter
from moebius.inpaint.settings import Settings
from moebius.model import noise as noises
from moebius.model.denoise import Denoiser
from moebius.model.params import ShapeOnly
from moebius.model.scheduler import DDIM
from moebius.model.synthetic import synthetic
from moebius.model.unet import UNet, UNetConfig, condition_ids
from moebius.model.unet import shapes as unet_shapes
from moebius.model.vae import VAE, VAEConfig
from moebius.model.vae import shapes as vae_shapes
from moebius.pictures.blend import seam_weights
from moebius.pictures.mask import dilated, support
from moebius.pictures.seam import film

Z = (1, 4, 16, 16)
STEPS, GUIDANCE, OFFSET = 8, 2.0, 0.0357
NOISE = {
    "image": noise("pipeline_nano.eps_image", Z),
    "masked": noise("pipeline_nano.eps_masked", Z),
    "start": noise("pipeline_nano.eps_noise", Z),
    "offset": noise("pipeline_nano.eps_offset", (1, 4, 1, 1)),
}


class SeenUNet(UNet):
    """Remembers every x and ids that enter the network, NCHW."""

    def forward(self, x, t, ids):
        self.seen.append((x.transpose(0, 3, 1, 2), t, ids))
        return super().forward(x, t, ids)


class SeenVAE(VAE):
    """Remembers what every call got and gave."""

    def encode_each(self, images):
        return (self._keep("encode", image, self.encode(image)) for image in images)

    def decode_each(self, latents):
        return (self._keep("decode", z, self.decode(z)) for z in latents)

    def _keep(self, name, given, got):
        self.seen.append((name, given, got))
        return got


def nets(dtype: type[np.floating] = np.float64) -> tuple[SeenUNet, SeenVAE]:
    ops = Reference(dtype)
    unet = SeenUNet(CONFIGS["unet_nano"], weights("unet_nano"), ops)
    vae = SeenVAE(CONFIGS["vae_nano"], weights("vae_nano"), ops)
    unet.seen, vae.seen = [], []
    return unet, vae


def pictures() -> tuple[Image.Image, Image.Image]:
    return Image.open(FOLDER / "pipeline_nano.image.png"), Image.open(FOLDER / "pipeline_nano.mask.png")


def inpaint(unet, vae, image, mask, on_step=None, **options):
    """As published."""
    run = Inpainter(unet, vae).steps(image, mask, crop="upstream", **options)
    for step in run:
        if on_step is not None:
            on_step(step.index, step.t, step.state.latents(), step.state.estimate())
    return run.result


def encode(vae, x, eps):
    made = Inpainter(nets()[0], vae)
    return made.sample(made.moments(x), eps)


def draws(seed, given, shape):
    return draws_of(Settings(seed=seed), given, shape, [(0, 0, 0)])


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    return load("pipeline_nano")


@pytest.fixture(scope="module")
def run() -> SimpleNamespace:
    """The published call, once for the module."""
    unet, vae = nets()
    steps: list[tuple] = []
    result = inpaint(
        unet, vae, *pictures(), steps=STEPS, guidance=GUIDANCE, noise_offset=OFFSET, noise=NOISE, on_step=lambda *a: steps.append(a)
    )
    return SimpleNamespace(result=result, steps=steps, unet=unet, vae=vae)


def test_what_enters_the_vae(run, golden) -> None:
    (_, image, _), (_, masked, _), _ = run.vae.seen
    np.testing.assert_array_equal(image, golden["pre.image"])
    np.testing.assert_array_equal(masked, golden["pre.masked_image"])


def test_what_leaves_the_encoder(run, golden) -> None:
    z = encode(nets()[1], golden["pre.image"], NOISE["image"])
    assert relative(z, golden["pre.latents"]) <= 2e-6  # measured 8e-7
    assert relative(run.unet.seen[0][0][:1, 5:], golden["pre.masked_latents"]) <= 2e-6  # measured 9e-7


def test_what_enters_the_unet(run, golden) -> None:
    """[y, m, zm] twice; y is √ā·z + √(1-ā)·(noise + offset·shift) at first, then the latents of the step before."""
    a = np.prod(1 - np.linspace(0.00085**0.5, 0.012**0.5, 1000)[:751] ** 2)
    start = np.sqrt(a) * golden["pre.latents"] + np.sqrt(1 - a) * (NOISE["start"] + OFFSET * NOISE["offset"])
    cell_corners = golden["pre.masked_image"][:, :1, ::8, ::8] == 0  # the hole, and the odd mid-grey pixel of the image
    for i, (x, t, ids) in enumerate(run.unet.seen):
        y, m, _ = np.split(x[:1], [4, 5], axis=1)
        assert t == (golden["timesteps"][i],)
        assert relative(y, start if i == 0 else golden["step_latents"][i - 1]) <= 2e-5
        assert set(np.unique(m)) == {0, 1}
        assert cell_corners[m == 1].all()
        np.testing.assert_array_equal(x[0], x[1])
        np.testing.assert_array_equal(ids, [np.arange(10, 20), np.arange(0, 10)])


def test_every_step(run, golden) -> None:
    """Measured: latents 1e-6 at the first step to 2e-6 at the last, guided ε 4e-6 to 1.2e-5."""
    assert [(i, t) for i, t, _, _ in run.steps] == list(enumerate(golden["timesteps"]))
    coefficients = DDIM().coefficients(golden["timesteps"], STEPS)
    for (i, _, latents, x0), (at, bt, _, _), (x, _, _) in zip(run.steps, coefficients, run.unet.seen, strict=True):
        assert relative(latents, golden["step_latents"][i]) <= 2e-5, i
        assert relative((x[:1, :4] - at * x0) / bt, golden["step_eps"][i]) <= 5e-5, i  # ε back from x0
    np.testing.assert_array_equal(run.result.latents, run.steps[-1][2])
    np.testing.assert_array_equal(run.steps[-1][2], run.steps[-1][3])  # the last step lands on x0


def test_decode(run, golden) -> None:
    _, given, got = run.vae.seen[-1]
    assert relative(given, golden["decode_in"]) <= 2e-5  # measured 2e-6
    assert relative(got, golden["decode_out"]) <= 2e-5  # measured 2e-6


@pytest.mark.parametrize("blend", ["raw", "paste", "compensate"])
def test_bytes(run, golden, blend: str) -> None:
    """Measured: 9, 0 and 1 of 49152 bytes differ, by one: float32 rounding before a truncation."""
    result = run.result
    if blend == "compensate":
        result = inpaint(*nets(), *pictures(), steps=STEPS, guidance=GUIDANCE, noise_offset=OFFSET, noise=NOISE, blend=blend)
    image = result.raw if blend == "raw" else result.image
    difference = np.abs(np.asarray(image).astype(int) - golden[f"out.{blend}"])
    assert difference.max() <= 1
    assert (difference == 0).mean() >= 0.999


def test_timings_name_every_stage(run) -> None:
    assert list(run.result.timings) == ["prepare", "encode", "denoise", "decode", "blend"]
    assert min(run.result.timings.values()) > 0


def test_raw_is_the_decoders_picture() -> None:
    result = inpaint(*nets(), *pictures(), steps=1, strength=1, blend="raw")
    np.testing.assert_array_equal(result.image, result.raw)
    assert result.raw.size == (128, 128)


def test_float32_runs_the_same_pipeline(run) -> None:
    result = inpaint(*nets(np.float32), *pictures(), steps=STEPS, guidance=GUIDANCE, noise_offset=OFFSET, noise=NOISE)
    assert relative(result.latents, run.result.latents) <= 2e-5  # measured 3e-6


def test_strength_one_starts_from_pure_noise() -> None:
    """Then neither the image's latents nor their draw matter, and the image is not even encoded."""
    unet, vae = nets()
    inpaint(unet, vae, *pictures(), steps=2, strength=1, noise=NOISE, noise_offset=OFFSET)
    x, t, _ = unet.seen[0]
    assert t == (500,)
    np.testing.assert_allclose(x[0, :4], (NOISE["start"] + OFFSET * NOISE["offset"])[0], rtol=1e-6)
    assert [name for name, _, _ in vae.seen] == ["encode", "decode"]


def test_guidance_one_runs_the_conditional_half_alone() -> None:
    (unet, vae), steps = nets(), []
    inpaint(unet, vae, *pictures(), steps=2, guidance=1.0, noise=NOISE, on_step=lambda *a: steps.append(a))
    x, _, ids = unet.seen[0]
    assert x.shape[0] == 1
    np.testing.assert_array_equal(ids, [np.arange(10)])
    both = Denoiser(unet, condition_ids(unet.config), [0], DDIM().coefficients([0], 2), 1 + 1e-12)
    assert relative(steps[0][2], both.run(*np.split(x, [4, 5], axis=1))) < 1e-9


def test_a_batch_is_its_images_one_by_one() -> None:
    (unet, _), g = nets(), np.random.default_rng(0)
    y, m, zm = (g.standard_normal((2, c, 16, 16)) for c in (4, 1, 4))
    ids, t = condition_ids(unet.config), [500, 0]
    schedule = (t, DDIM().coefficients(t, 2), 3.0)
    together = Denoiser(unet, np.repeat(ids, 2, axis=0), *schedule).run(y, m, zm)
    for i in range(2):
        alone = Denoiser(unet, ids, *schedule).run(y[i : i + 1], m[i : i + 1], zm[i : i + 1])
        assert relative(together[i : i + 1], alone) < 1e-12


def test_the_seed_decides_what_is_not_given() -> None:
    first, again, other = draws(7, None, Z), draws(7, {}, Z), draws(8, None, Z)
    for name in ("image", "masked", "start", "offset"):
        np.testing.assert_array_equal(first[name], again[name])
        assert not np.array_equal(first[name], other[name])


def test_the_draws_come_in_the_published_order() -> None:
    for rng in ("numpy", "torch"):
        source, drawn = noises.source(7, rng), draws_of(Settings(seed=7, rng=rng), None, Z, [(0, 0, 0)])
        assert list(drawn) == ["image", "masked", "start", "offset"]
        for array in drawn.values():
            np.testing.assert_array_equal(array, source.draw(array.shape))


def test_a_given_draw_leaves_the_others_as_they_were() -> None:
    given = np.ones(Z)
    mixed, drawn = draws(7, {"masked": given}, Z), draws(7, None, Z)
    np.testing.assert_array_equal(mixed.pop("masked"), given)
    for name, array in mixed.items():
        np.testing.assert_array_equal(array, drawn[name])


def test_posterior_log_variance_is_clipped() -> None:
    logvar, vae = np.array([-1e9, -30.0, 0.0, 1e9]).reshape(1, 4, 1, 1), nets()[1]
    vae.encode_each = lambda images: (np.concatenate([x, logvar], axis=1) for x in images)
    z = encode(vae, np.full((1, 4, 1, 1), 6.0), np.ones((1, 4, 1, 1)))
    s = vae.config.scaling_factor
    np.testing.assert_allclose(z.ravel() / s, [6 + np.exp(-15), 6 + np.exp(-15), 7, 6 + np.exp(10)])


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"blend": "past"}, "blend is 'past'"),
        ({"steps": 0}, "steps is 0"),
        ({"strength": 0.0}, "strength is 0.0"),
        ({"guidance": float("nan")}, "guidance is nan"),
        ({"noise_offset": float("inf")}, "noise_offset is inf"),
        ({"seed": -1}, "seed is -1"),
        ({"max_windows": 0}, "max_windows is 0"),
        ({"refine": 1.5}, "refine is 1.5"),
        ({"detail": 1.5}, "detail is 1.5"),
        ({"detail": True}, "detail is True"),
        ({"seed": 0.5}, "seed is 0.5"),
        ({"noise": {"eps": np.ones(Z)}}, "no draw named 'eps'"),
        ({"noise": {"offset": np.ones(Z)}}, r"must be \(1, 4, 1, 1\)"),
    ],
)
def test_bad_arguments_are_refused(options: dict, says: str) -> None:
    unet, vae = nets()
    with pytest.raises(UsageError, match=says):
        inpaint(unet, vae, *pictures(), **options)
    assert not vae.seen  # before anything is computed


def test_an_image_that_is_not_square_is_refused_with_both_sizes() -> None:
    image, mask = (p.resize((300, 200)) for p in pictures())
    with pytest.raises(UsageError, match=r"192×128.*128×128"):
        inpaint(*nets(), image, mask)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"ids": np.arange(10)[None]}, "1 rows"),
        ({"timesteps": [500]}, "1 timesteps"),
        ({"timesteps": [500, 1000]}, "t is 1000"),
        ({"guidance": float("inf")}, "guidance is inf"),
    ],
)
def test_a_denoiser_refuses_what_does_not_fit(change: dict, says: str) -> None:
    unet, _ = nets()
    arguments = {
        "ids": condition_ids(unet.config),
        "timesteps": [500, 0],
        "coefficients": DDIM().coefficients([500, 0], 2),
        "guidance": 2.0,
    }
    with pytest.raises(UsageError, match=says):
        Denoiser(unet, **{**arguments, **change})
    with pytest.raises(UsageError, match="latent mask"):
        Denoiser(unet, **arguments).run(np.zeros(Z), np.zeros(Z), np.zeros(Z))


@pytest.mark.parametrize("stage", ["encode", "decode"])
def test_a_nan_is_reported_and_not_painted(stage: str) -> None:
    unet, vae = nets()
    shape = (1, 8, 16, 16) if stage == "encode" else (1, 3, 128, 128)
    setattr(vae, f"{stage}_each", lambda arrays: (np.full(shape, np.nan) for _ in arrays))
    with pytest.raises(NonFiniteError, match=r"moments .*Reference\(float64\)" if stage == "encode" else "decoded picture"):
        inpaint(unet, vae, *pictures(), steps=1, strength=1)


# Any photo, any mask, through the public call ------------------------------------------------------------------------
SMALL_UNET = UNetConfig(4, block_out_channels=(8, 16), heads=2, cross_attention_dim=8, encoder_hid_dim=8, norm_num_groups=4)
SMALL_VAE = VAEConfig((8, 8, 8, 8), norm_num_groups=4)  # windows of 32 pixels
LARGE_STEP = replace(SMALL_UNET, sample_size=16, block_out_channels=(64, 64))  # which takes more than the decoder
MODES = ["RGB", "RGBA", "L", "LA", "P", "1", "CMYK", "I;16"]


def made_of(unet: UNetConfig, vae: VAEConfig, ops) -> Inpainter:
    return Inpainter(UNet(unet, synthetic(unet_shapes(unet), 0), ops), VAE(vae, synthetic(vae_shapes(vae), 0), ops))


@pytest.fixture(scope="module")
def small() -> Inpainter:
    return made_of(SMALL_UNET, SMALL_VAE, CPU())


def random_picture(g: np.random.Generator, mode: str, size: tuple[int, int]) -> Image.Image:
    width, height = size
    if mode == "I;16":
        return Image.fromarray(g.integers(0, 65536, (height, width), np.uint16))
    rgba = Image.fromarray(g.integers(0, 256, (height, width, 4), np.uint8))
    return rgba if mode == "RGBA" else rgba.convert("RGB" if mode == "P" else mode).convert(mode)


def random_mask(g: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    width, height = size
    fill = np.zeros((height, width), bool)
    for _ in range(g.integers(0, 4)):
        y, x = g.integers(0, height), g.integers(0, width)
        fill[y : y + g.integers(1, 1 + max(1, height // 2)), x : x + g.integers(1, 1 + max(1, width // 2))] = True
    return fill


@pytest.mark.parametrize("case", range(28))
def test_any_photo_and_any_mask(small: Inpainter, case: int) -> None:
    """Size and mode are kept, and every pixel beyond the seam keeps its bytes."""
    g = np.random.default_rng(case)
    extreme = [(1, 1), (1, 90), (200, 3), (33, 31), (300, 170), (64, 64)]
    large = [(3000, 2000), (2000, 3000), (3000, 2), (1, 2000)]
    size = extreme[case % 6] if case < 12 else (int(g.integers(1, 150)), int(g.integers(1, 150))) if case < 24 else large[case - 24]
    photo, fill = random_picture(g, MODES[case % len(MODES)], size), random_mask(g, size)
    settings = {
        "crop": ["auto", "full"][case % 2],
        "blend": ["paste", "compensate", "match"][case // 2 % 3],
        "feather": [None, 0, 2.5][case % 3],
    }
    result = small(photo, fill, steps=1, strength=1, seed=case, force=True, allow_empty=True, **settings)
    assert (result.image.size, result.image.mode) == (photo.size, photo.mode)
    touched, shown = np.zeros_like(fill), np.zeros_like(fill)
    for window in result.windows:
        rows, columns, w = seam_weights(window)
        touched[rows, columns] |= w > 0
        own, radius = window.own(rows, columns), window.radius
        # Of what a blur of that radius is sure to leave: all where it is none, of a disc 39 % at its middle, 1.8 % of a pixel at radius 3.
        least = 255 if radius == 0 else 4 if radius <= 3 else 90
        sure = own & ~dilated(~own, radius) if radius > 3 else own
        assert w[sure].min(initial=255) >= least
        assert not w[~dilated(own, 1.5 * support(radius))].any()
        shown[rows, columns] |= sure
    if all(w.native for w in result.windows):
        np.testing.assert_array_equal(shown, fill)
    np.testing.assert_array_equal(np.asarray(result.image)[~touched], np.asarray(photo)[~touched])
    assert len(result.windows) > 0 or not fill.any()


def test_a_mask_that_marks_nothing_or_most(small: Inpainter) -> None:
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 60, 3), np.uint8))
    fill = np.zeros((40, 60), bool)
    with pytest.raises(EmptyMaskError):
        small.steps(photo, fill)
    np.testing.assert_array_equal(np.asarray(small(photo, fill, allow_empty=True).image), np.asarray(photo))
    fill[:26] = True
    with pytest.warns(UserWarning, match=r"65 %.*2 windows of 2 steps"):
        result = small(photo, fill, steps=2, strength=1, blend="raw", crop="full", num_images=2)
    run = small.steps(photo, fill, steps=2, strength=1)
    assert run.warning in run.notes  # before it begins
    assert len(result.notes) == 1
    fill[:24], fill[24:] = True, False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert small(photo, fill, steps=1, strength=1).notes == ()  # 60 %


def test_a_photograph_for_a_mask_is_refused_unless_forced(small: Inpainter) -> None:
    """The two swapped."""
    with Image.open(sample.photo()) as photo, Image.open(sample.mask()) as mask:
        with pytest.raises(UsageError, match="swapped"):
            small.steps(mask, photo)
        assert any("swapped" in note for note in small.steps(mask, photo, force=True).notes)


def test_windows_and_seeds_run_as_one_batch(small: Inpainter) -> None:
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 200, 3), np.uint8))
    boxes = [(5, 5, 8, 8), (150, 20, 9, 9)]
    run = small.steps(photo, boxes, steps=3, num_images=2)
    steps = list(run)
    assert len(run.windows) == 2
    assert [(s.index, s.total) for s in steps] == [(0, 2), (1, 2)]  # one batch of four: three steps at strength 0.99 are two
    assert steps[0].state.latents().shape[0] == 4
    alone = small(photo, boxes, steps=3, seed=1)
    assert np.abs(np.asarray(run.result.images[1], np.int16) - np.asarray(alone.image)).max() <= 1


def test_matching_asks_no_model_where_the_hole_is_thin(small: Inpainter) -> None:
    """A wire is the film, at no step; with something thick beside it that alone is asked for."""
    photo = np.asarray(Image.fromarray(np.random.default_rng(0).integers(0, 255, (12, 30, 3), np.uint8)).resize((300, 120)))
    wire, both = np.zeros((120, 300), bool), np.zeros((120, 300), bool)
    wire[60:63, 10:290] = True
    both |= wire
    both[5:25, 100:120] = True
    run = small.steps(photo, wire, steps=3, blend="match", num_images=2)
    assert list(run) == []
    assert len(run.windows) > 1
    assert run.result.latents.shape[0] == 0
    got = np.asarray(run.result.images[1])
    assert np.abs(got.astype(int) - film(photo, wire)).max() <= 2  # which several windows have between them
    np.testing.assert_array_equal(got[~wire], photo[~wire])
    np.testing.assert_array_equal(run.result.raw, photo)
    run = small.steps(photo, both, steps=3, blend="match")
    assert len(list(run)) == 2
    assert run.result.latents.shape[0] == 1
    np.testing.assert_array_equal(np.asarray(run.result.image)[wire], got[wire])
    assert small.steps(photo, wire, steps=3, blend="paste").modelled  # as published


def test_the_seed_draws_the_grain(small: Inpainter) -> None:
    """With match alone, and none where none is asked for; this model brings none of its own."""
    photo = np.random.default_rng(0).integers(90, 160, (80, 120, 3), np.uint8)
    made = [small(photo, [(40, 30, 16, 16)], steps=1, strength=1, blend="match", seed=3, detail=d) for d in (None, 0, 1, 1)]
    plain, none, full, again = (np.asarray(r.image) for r in made)
    np.testing.assert_array_equal(plain, none)
    np.testing.assert_array_equal(full, again)
    assert full[36:42, 46:52].std() > 2 * none[36:42, 46:52].std()
    assert made[2].metadata["detail"] == 1
    assert small(photo, [(40, 30, 16, 16)], steps=1, strength=1, blend="paste", detail=1).metadata["detail"] == 0


def test_a_callback_sees_every_step_and_may_stop(small: Inpainter) -> None:
    photo, seen = random_picture(np.random.default_rng(0), "RGB", (50, 40)), []

    def on_step(step) -> None:
        seen.append(step.preview)
        if len(seen) == 2:
            raise StopIteration("enough")

    with pytest.raises(StopIteration, match="enough"):
        small(photo, [(10, 10, 20, 20)], steps=6, on_step=on_step)
    assert len(seen) == 2
    for preview in seen:  # outside the hole it is the photo
        assert preview.size == (50, 40)
        assert preview.getpixel((2, 2)) == photo.getpixel((2, 2))
    assert seen[0].getpixel((20, 20)) != seen[1].getpixel((20, 20))


def test_a_black_picture_is_an_error(small: Inpainter, monkeypatch) -> None:
    monkeypatch.setattr(small.vae, "decode_each", lambda latents: (np.full((1, 3, 32, 32), -1.0, np.float32) for _ in latents))
    with pytest.raises(NonFiniteError, match=r"black \(vae\.decode on CPU"):
        small(Image.new("RGB", (40, 40), (9, 99, 9)), [(3, 3, 9, 9)], steps=1, strength=1)


def test_transparency_is_a_mask_and_becomes_opaque(small: Inpainter) -> None:
    photo = Image.new("RGBA", (40, 40), (9, 99, 9, 255))
    photo.paste((0, 0, 0, 0), (10, 10, 20, 20))
    alpha = np.asarray(small(photo, steps=1, strength=1).image)[..., 3]
    assert (alpha[10:20, 10:20] == 255).all()
    with pytest.raises(UsageError, match="mask"):
        small(photo.convert("RGB"))


@pytest.mark.parametrize("blend", ["raw", "paste", "compensate"])
def test_bytes_on_the_cpu_device(golden, blend: str) -> None:
    parts = UNet(CONFIGS["unet_nano"], weights("unet_nano"), CPU()), VAE(CONFIGS["vae_nano"], weights("vae_nano"), CPU())
    result = inpaint(*parts, *pictures(), steps=STEPS, guidance=GUIDANCE, noise_offset=OFFSET, noise=NOISE, blend=blend)
    difference = np.abs(np.asarray(result.image).astype(int) - golden[f"out.{blend}"])
    assert difference.max() <= 1
    assert (difference == 0).mean() >= 0.999


def test_a_batch_that_the_memory_refuses_is_halved(llvmpipe, monkeypatch) -> None:
    """Two windows at once need more than the pretended memory; one by one they fit, and the picture is the same."""
    made = made_of(LARGE_STEP, SMALL_VAE, llvmpipe)
    image = np.random.default_rng(0).integers(0, 256, (128, 128, 3), dtype=np.uint8)
    mask = np.zeros((128, 128), np.uint8)
    mask[40:80, 40:80] = 255
    create, sizes, limit = type(llvmpipe.gpu.device).create_buffer, [], float("inf")

    def limited(self, **options):
        sizes.append(options["size"])
        if options["size"] > limit:
            raise MemoryError
        return create(self, **options)

    monkeypatch.setattr(type(llvmpipe.gpu.device), "create_buffer", limited)
    one = made(image, mask, steps=3, seed=3)
    one_needs = max(sizes)
    four = made(image, mask, steps=3, num_images=4)
    assert max(sizes) > one_needs
    made.forget_denoisers()
    limit = one_needs
    halved = made(image, mask, steps=3, num_images=4)
    for got, want in zip(halved.images, four.images, strict=True):
        np.testing.assert_array_equal(got, want)
    np.testing.assert_array_equal(halved.images[3], one.image)
    limit = one_needs // 2
    made.release()  # all of it: the memory of a step is the decoder's too
    with pytest.raises(OutOfMemoryError, match=" MiB for "):
        made(image, mask, steps=3)


def test_a_part_that_the_memory_refuses_gets_that_of_the_part_before_it(llvmpipe, monkeypatch) -> None:
    """Three pictures where two fit at once: the third fits too, when the step of the first two is given up."""
    made = made_of(LARGE_STEP, SMALL_VAE, llvmpipe)
    image, mask = np.random.default_rng(0).integers(0, 256, (128, 128, 3), dtype=np.uint8), [(40, 40, 40, 40)]
    there: dict[str, float] = {"now": 0, "most": 0, "limit": float("inf"), "refused": 0}
    create = type(llvmpipe.gpu.device).create_buffer

    def gone(size: int) -> None:
        there["now"] -= size

    def limited(self, **options):
        if there["now"] + options["size"] > there["limit"]:
            there["refused"] += 1
            raise MemoryError
        buffer = create(self, **options)
        there["now"] += options["size"]
        there["most"] = max(there["most"], there["now"])
        weakref.finalize(buffer, gone, options["size"])
        return buffer

    monkeypatch.setattr(type(llvmpipe.gpu.device), "create_buffer", limited)
    two = made(image, mask, steps=2, num_images=2)
    made.forget_denoisers()
    there["limit"] = there["most"] + 4096  # what is read back may pass through a buffer
    steps = []
    three = made(image, mask, steps=2, num_images=3, on_step=steps.append)
    assert there["refused"] >= 4  # three at once, and the third beside the first two; each is tried again
    np.testing.assert_array_equal(np.stack(three.images[:2]), np.stack(two.images))
    assert [(s.index, s.total) for s in steps][-1] == (len(steps) - 1, len(steps))


def test_memory_is_asked_for_again_after_what_was_dropped_is_given_back(llvmpipe, monkeypatch) -> None:
    create, said = type(llvmpipe.gpu.device).create_buffer, []

    def full_at_first(self, **options):
        said.append("asked")
        if "given back" not in said:
            raise MemoryError
        return create(self, **options)

    monkeypatch.setattr(type(llvmpipe.gpu.device), "create_buffer", full_at_first)
    monkeypatch.setattr(llvmpipe.gpu, "trim", lambda: said.append("given back"))
    assert llvmpipe.gpu.create_buffer(1024, "a tensor").size == 1024
    assert said == ["asked", "given back", "asked"]


@pytest.mark.parametrize(("dtype", "white"), [(np.uint8, 255), (np.uint16, 65535), (np.float32, 1.0)])
def test_an_array_comes_back_as_it_was_given(dtype: type, white: float) -> None:
    """16 bits and floats in colour have no mode in Pillow: `arrays` keeps them, to the bit outside of the hole."""
    made = made_of(replace(SMALL_UNET, sample_size=16), SMALL_VAE, CPU())
    image = (np.random.default_rng(1).random((96, 112, 3)) * white).astype(dtype)
    mask = np.zeros((96, 112), bool)
    mask[30:60, 40:70] = True
    result = made(image, mask, steps=2)
    array = result.arrays[0]
    assert (array.dtype, array.shape) == (image.dtype, image.shape)
    far = np.ones_like(mask)
    far[10:80, 20:90] = False
    np.testing.assert_array_equal(array[far], image[far])
    levels = np.unique(array[40:50, 50:60] / white * 255 % 1)
    assert (len(levels) > 2) == (dtype != np.uint8)  # finer than 8 bits where there were more
    np.testing.assert_allclose(np.asarray(result.image) / 255, array / white, atol=1.01 / 255)


@pytest.mark.parametrize("config", [UNetConfig.tiny(), UNetConfig.full()])
def test_guidance_1_costs_half(config: UNetConfig, llvmpipe) -> None:
    """By the arithmetic of the recorded step; what is left over depends on neither picture nor condition."""

    def flops(guidance: float) -> int:
        unet = UNet(config, ShapeOnly(unet_shapes(config)), llvmpipe)
        denoiser = Denoiser(unet, condition_ids(config), [500], DDIM().coefficients(np.array([500]), 20), guidance)
        size, c = config.sample_size, config.out_channels
        return llvmpipe.record(denoiser.step, [(1, size, size, n) for n in (c, 1, c)], slice(None)).summary()["flops"]

    assert flops(1.0) == pytest.approx(flops(2.5) / 2, rel=0.01)
