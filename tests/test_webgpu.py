"""The whole networks on every adapter: against the oracle, against themselves, and what the user is told when it fails."""

import gc
import re
import subprocess
import sys
import weakref
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from goldens import CONFIGS, FOLDER, IDS, ModuleSamples, load, noise, relative, weights
from harness import always
from PIL import Image

from moebius import Inpainter
from moebius.backends.cpu import CPU
from moebius.backends.reference import Reference
from moebius.backends.webgpu import WebGPU, menu, native
from moebius.backends.webgpu import device as gpu_module
from moebius.backends.webgpu.caps import DEFAULT_LIMITS, Caps
from moebius.backends.webgpu.tensor import Buffer
from moebius.errors import AdapterError, DeviceLostError, LimitError, MoebiusError, NonFiniteError, UsageError, WeightError
from moebius.model import unet, vae
from moebius.model.denoise import Denoiser
from moebius.model.params import Checkpoint, Params, ShapeOnly
from moebius.model.scheduler import DDIM
from moebius.model.synthetic import synthetic
from moebius.model.unet import UNet, UNetConfig
from moebius.model.vae import VAE, VAEConfig

END_TO_END = 2e-5  # measured: 1.2e-6 (UNet), 8.2e-7 (VAE)

UNET_FAMILY = {
    "two levels, odd widths": UNetConfig(8, 9, 4, (24, 36), 1, 4, 20, 28, 20, 3, 2.3),
    "head dim 3, four levels": UNetConfig(8, 9, 4, (24, 24, 48, 24), 1, 8, 12, 16, 20, 2, 1.7),
    "one level, other channels": UNetConfig(5, 7, 3, (20,), 2, 2, 8, 12, 20, 5, 3.0),
    "sixteen heads": UNetConfig(4, 9, 4, (64, 32), 1, 16, 16, 24, 30, 8, 2.5),
}
VAE_FAMILY = {
    "wide image": (VAEConfig.tiny(), 3, 7),
    "three blocks": (VAEConfig((12, 24, 20), 1, 3, 3, 4), 12, 8),
    "one group, odd widths": (VAEConfig((6, 10), 2, 5, 1, 1), 6, 10),
}


def make_unet(config, ops, seed=0):
    return UNet(config, synthetic(unet.shapes(config), seed), ops)


def make_vae(config, ops, seed=0):
    return VAE(config, synthetic(vae.shapes(config), seed), ops)


def latents(config, batch, name="latents"):
    return noise(name, (batch, config.in_channels, config.sample_size, config.sample_size))


def ids_for(config, batch):
    return np.array([(np.arange(10) + i) % config.num_embeddings for i in range(batch)])


def test_tiny_unet(gpu):
    net, x = make_unet(UNetConfig.tiny(), gpu), noise("unet_nano_seed0_t500.latent", (2, 9, 16, 16))
    out = net(x, 500, IDS)
    assert relative(out, make_unet(UNetConfig.tiny(), Reference())(x, 500, IDS)) <= END_TO_END
    assert relative(out, load("unet_nano_seed0_t500")["output"]) <= END_TO_END
    np.testing.assert_array_equal(out, net(x, 500, IDS))  # a replay of the same plan
    np.testing.assert_array_equal(out, make_unet(UNetConfig.tiny(), gpu)(x, 500, IDS))  # and a fresh plan
    for i in range(2):  # a batch of two is two batches of one
        np.testing.assert_array_equal(out[i : i + 1], net(x[i : i + 1], 500, IDS[i : i + 1]))
    other = net(x, 20, IDS)  # the same plan, another time
    assert relative(other, make_unet(UNetConfig.tiny(), Reference())(x, 20, IDS)) <= END_TO_END


def test_tiny_vae(gpu):
    golden, coder, oracle = load("vae_nano_128"), make_vae(VAEConfig.tiny(), gpu), make_vae(VAEConfig.tiny(), Reference())
    image, z = np.clip(noise("vae_nano_128.image", (1, 3, 128, 128)), -1, 1), noise("vae_nano_128.latent", (1, 4, 16, 16))
    moments, decoded = coder.encode(image), coder.decode(z)
    assert relative(moments, golden["moments"]) <= END_TO_END
    assert relative(decoded, golden["image"]) <= END_TO_END
    assert relative(moments, oracle.encode(image)) <= END_TO_END
    assert relative(decoded, oracle.decode(z)) <= END_TO_END


@pytest.mark.parametrize("family", UNET_FAMILY)
@pytest.mark.parametrize("batch", [1, 3])
def test_any_unet_of_the_family(gpu, family, batch):
    config = UNET_FAMILY[family]
    x, ids = latents(config, batch), ids_for(config, batch)
    assert relative(make_unet(config, gpu)(x, 77, ids), make_unet(config, Reference())(x, 77, ids)) <= END_TO_END


@pytest.mark.parametrize("family", VAE_FAMILY)
def test_any_vae_of_the_family(gpu, family):
    config, height, width = VAE_FAMILY[family]
    coder, oracle = make_vae(config, gpu), make_vae(config, Reference())
    image = noise("image", (2, config.in_channels, height * config.factor, width * config.factor))
    z = noise("z", (2, config.latent_channels, height, width))
    both = coder.decode(z)
    assert relative(coder.encode(image), oracle.encode(image)) <= END_TO_END
    assert relative(both, oracle.decode(z)) <= END_TO_END
    np.testing.assert_array_equal(both[1:], coder.decode(z[1:]))


def test_tap_sees_module_outputs(of_any_limits):
    tap, net = ModuleSamples("unet_nano_seed0_t500"), make_unet(UNetConfig.tiny(), of_any_limits)
    x = noise("unet_nano_seed0_t500.latent", (2, 9, 16, 16))
    tapped = net(x, 500, IDS, tap=tap)
    assert {"diff_model.conv_in", "diff_model.down_blocks.1.attentions.0", "diff_model.up_blocks.2.resnets.2"} <= tap.errors.keys()
    assert len(tap.errors) > 40
    assert max(tap.errors.values()) <= 5e-5
    np.testing.assert_array_equal(tapped, net(x, 500, IDS))


def test_pipeline_golden(gpu):
    golden, steps = load("pipeline_nano"), []
    names = {"image": "eps_image", "masked": "eps_masked", "start": "eps_noise", "offset": "eps_offset"}
    draws = {k: noise(f"pipeline_nano.{n}", (1, 4, 1, 1) if k == "offset" else (1, 4, 16, 16)) for k, n in names.items()}
    pictures = [Image.open(FOLDER / f"pipeline_nano.{which}.png") for which in ("image", "mask")]
    parts = make_unet(UNetConfig.tiny(), gpu), make_vae(VAEConfig.tiny(), gpu)
    run = Inpainter(*parts).steps(*pictures, crop="upstream", steps=8, guidance=2.0, noise=draws)
    for step in run:
        if step.index != 3:  # nothing need be read back between steps
            steps.append((step.index, step.state.latents()))
    for blend in ("raw", "paste", "compensate"):  # one run, put back in three ways
        difference = np.abs(np.asarray(run._picture(0, blend), np.int16) - golden[f"out.{blend}"].astype(np.int16))
        assert difference.max() <= 1, blend
        assert np.mean(difference > 0) <= 1e-3, blend
    np.testing.assert_array_equal(run.result.image, run._picture(0, "paste"))
    assert max(relative(got, golden["step_latents"][i]) for i, got in steps) <= 2e-5  # measured: 2.4e-6 after the last
    np.testing.assert_array_equal(run.result.latents, steps[-1][1])


def denoiser(net, guidance=2.0, steps=4):
    scheduler = DDIM()
    t = scheduler.timesteps(steps)
    return Denoiser(net, IDS, t.tolist(), scheduler.coefficients(t, steps), guidance)


def start():
    return noise("y", (1, 4, 16, 16)), (noise("m", (1, 1, 16, 16)) > 0).astype(np.float32), noise("zm", (1, 4, 16, 16))


@pytest.mark.parametrize("guidance", [1.0, 2.5])
def test_sampling_loop(of_any_limits, guidance):
    want = denoiser(make_unet(UNetConfig.tiny(), Reference()), guidance).run(*start())
    loop = denoiser(make_unet(UNetConfig.tiny(), of_any_limits), guidance)
    out = loop.run(*start())
    assert relative(out, want) <= END_TO_END
    np.testing.assert_array_equal(out, loop.run(*start()))


def test_replay_makes_no_gpu_objects(of_any_limits, monkeypatch):
    loop = denoiser(make_unet(UNetConfig.tiny(), of_any_limits))
    want = loop.run(*start())

    def refuse(*args, **kwargs):
        raise AssertionError("made during replay")

    device = type(of_any_limits.gpu.device)
    for name in ("create_buffer", "create_buffer_with_data", "create_bind_group", "create_compute_pipeline", "create_shader_module"):
        monkeypatch.setattr(device, name, refuse)
    np.testing.assert_array_equal(loop.run(*start()), want)


def test_no_gpu_object_is_leaked(of_any_limits):
    def work():
        loop = denoiser(make_unet(UNetConfig.tiny(), of_any_limits), steps=2)
        loop.run(*start())
        make_vae(VAEConfig.tiny(), of_any_limits).decode(noise("z", (1, 4, 4, 4)))

    counts = []
    for _ in range(4):
        work()
        gc.collect()
        of_any_limits.gpu.trim()
        counts.append(native.object_counts(of_any_limits.gpu.module))
    assert counts[1] == counts[2] == counts[3]
    assert counts[1]["ComputePipeline"] > 0, "the counters count"


@pytest.mark.usefixtures("untested_weights")
def test_a_value_that_is_not_finite_names_its_op_and_step(of_any_limits):
    params = synthetic(unet.shapes(UNetConfig.tiny()), 0)
    path = "diff_model.down_blocks.1.attentions.0.transformer_blocks.0.ff"
    params[f"{path}.depth_conv.conv.bias"] = np.full_like(params[f"{path}.depth_conv.conv.bias"], np.nan)
    net = UNet(UNetConfig.tiny(), params, of_any_limits)
    with pytest.raises(NonFiniteError, match=rf"feed_forward \({path}\.depth_conv\.conv, depthwise\.wgsl.*at step 0"):
        net(latents(net.config, 2), 5, IDS)
    with pytest.raises(NonFiniteError, match=r"depth_conv\.conv.*at step 0"):
        denoiser(net).run(*start())


@pytest.mark.usefixtures("untested_weights")
@pytest.mark.parametrize("name", ["time_embedding.linear_1.weight", "down_blocks.1.resnets.0.time_emb_proj.bias"])
def test_a_value_that_is_not_finite_in_the_time_tables_names_its_op(llvmpipe, name):
    params = synthetic(unet.shapes(UNetConfig.tiny()), 0)
    params[f"diff_model.{name}"].flat[0] = np.inf
    net = UNet(UNetConfig.tiny(), params, llvmpipe)
    with pytest.raises(NonFiniteError, match=rf"time_(embedding|shift) \(diff_model\.{name.rpartition('.')[0]}"):
        net(latents(net.config, 2), 5, IDS)


UNSOUND = {
    "a weight": ("diff_model.down_blocks.0.resnets.0.conv1.conv_pw.weight", np.nan),
    "what a batch norm scales": ("diff_model.down_blocks.0.resnets.0.conv1.bn1.running_mean", -np.inf),
    "what would fold into zeros": ("diff_model.down_blocks.0.resnets.0.conv1.bn1.running_var", np.inf),
    "what only the condition needs": ("embedding_layer.weight", np.nan),
    "a bias of a time table": ("diff_model.time_embedding.linear_1.bias", np.inf),
}


@pytest.mark.parametrize("what", UNSOUND)
@pytest.mark.parametrize("device", ["gpu", "cpu", "oracle"])
def test_weights_that_are_not_finite_are_refused_by_name(llvmpipe, device, what):
    """On every backend, when they are first taken: nobody tested what a caller hands in."""
    name, value = UNSOUND[what]
    params = synthetic(unet.shapes(UNetConfig.tiny()), 0)
    params[name].flat[3] = value
    net = UNet(UNetConfig.tiny(), params, {"gpu": lambda: llvmpipe, "cpu": CPU, "oracle": Reference}[device]())
    with pytest.raises(WeightError, match=rf"^{re.escape(name)} holds {value}"):
        net(latents(net.config, 2), 5, IDS)


def test_a_vae_whose_weights_are_not_finite_is_refused(llvmpipe):
    params = synthetic(vae.shapes(VAEConfig.tiny()), 0)
    params["decoder.conv_in.bias"][:2] = np.nan
    for ops in (llvmpipe, CPU()):
        with pytest.raises(WeightError, match=r"^decoder\.conv_in\.bias holds nan and 1 more"):
            VAE(VAEConfig.tiny(), params, ops).decode(noise("z", (1, 4, 4, 4)))


@pytest.mark.parametrize(("leaf", "value"), [("running_var", -1.0), ("weight", 3e38)])
def test_weights_that_fold_into_something_not_finite_are_refused(llvmpipe, leaf, value):
    params = synthetic(unet.shapes(UNetConfig.tiny()), 0)
    path = "diff_model.down_blocks.0.resnets.0.conv1"
    params[f"{path}.bn1.{leaf}"][0], params[f"{path}.bn1.running_mean"][0] = value, 1e6
    with pytest.raises(WeightError, match=rf"^{re.escape(path)}\.depthwise( bias)?, as it is packed"):
        UNet(UNetConfig.tiny(), params, llvmpipe)(latents(UNetConfig.tiny(), 2), 5, IDS)


def test_a_second_run_of_a_sampler_leaves_the_first_its_latents(of_any_limits):
    loop, (y, m, zm) = denoiser(make_unet(UNetConfig.tiny(), of_any_limits)), start()
    first = loop.steps(y, m, zm)
    kept = next(first)
    latents, estimate = kept.latents(), kept.estimate()
    other = loop.run(-y, m, zm)
    want = loop.run(y, m, zm)
    assert not np.array_equal(other, want)
    np.testing.assert_array_equal(kept.latents(), latents)
    np.testing.assert_array_equal(kept.estimate(), estimate)
    *_, last = first
    np.testing.assert_array_equal(last.latents(), want)


def test_a_step_that_is_not_finite_is_seen_in_the_run_it_was_in(llvmpipe):
    """Its flag goes with the run when another one takes a step between."""
    loop, (y, m, zm) = denoiser(make_unet(UNetConfig.tiny(), llvmpipe)), start()
    broken, sound = loop.steps(np.where(y == y.flat[0], np.float32(3e38), y), m, zm), loop.steps(y, m, zm)
    next(broken)
    sound_latents = [state.latents() for state in sound]
    assert np.isfinite(sound_latents).all()
    with pytest.raises(NonFiniteError, match="at step 0"):
        for _ in broken:
            pass


def test_a_batch_above_the_limits_runs_in_parts(llvmpipe, monkeypatch):
    """The largest binding of one image is a weight, on a kernel that takes it as it is; of eight some tensors are larger."""
    plain = WebGPU(llvmpipe.gpu, llvmpipe.caps, always(menu.CPU))
    net, x = make_unet(UNetConfig.tiny(), plain), latents(UNetConfig.tiny(), 8)
    coder, z = make_vae(VAEConfig.tiny(), llvmpipe), noise("z", (3, 4, 4, 4))
    whole, picture = net(x, 9, ids_for(net.config, 8)), coder.decode(z)
    plan = plain.plan(net.forward, [(1, 16, 16, 9)], unet.Timesteps((9,)), ids_for(net.config, 1))
    largest = max(b["bytes"] for d in plan.describe() for b in d["bindings"])
    limits = {**llvmpipe.caps.limits, "max-storage-buffer-binding-size": largest}
    small = WebGPU(llvmpipe.gpu, replace(llvmpipe.caps, limits=limits), always(menu.CPU))
    parts = make_unet(UNetConfig.tiny(), small)
    with pytest.raises(LimitError):
        small.record(parts.forward, [(8, 16, 16, 9)], unet.Timesteps((9,)), ids_for(net.config, 8))
    np.testing.assert_array_equal(parts(x, 9, ids_for(net.config, 8)), whole)
    one_by_one, run = [], llvmpipe.run

    def single(forward, arrays, *args, tap=None):
        if len(arrays[0]) > 1:
            raise LimitError("too many")
        one_by_one.append(len(arrays[0]))
        return run(forward, arrays, *args, tap=tap)

    monkeypatch.setattr(llvmpipe, "run", single)
    np.testing.assert_array_equal(coder.decode(z), picture)
    assert one_by_one == [1, 1, 1]


def test_an_interrupted_upload_leaves_no_empty_weight(llvmpipe):
    def interrupted():
        raise KeyboardInterrupt

    buffer = Buffer(llvmpipe.gpu, 16, "a.weight", "weight", interrupted)
    with pytest.raises(KeyboardInterrupt):
        buffer.allocate()
    with pytest.raises(MoebiusError, match=r"a\.weight "):
        _ = buffer.handle
    buffer.fill = lambda: np.arange(4, dtype=np.float32)
    buffer.allocate()
    np.testing.assert_array_equal(buffer.read(16), np.arange(4))


def test_a_buffer_takes_memory_when_it_is_told_to(llvmpipe):
    buffer = Buffer(llvmpipe.gpu, 16, "a tensor", "pinned")
    for use in (lambda: buffer.handle, lambda: buffer.read(16), lambda: Buffer(llvmpipe.gpu, 16, "another", "pinned").place(buffer.handle)):
        with pytest.raises(MoebiusError, match=r"a tensor "):
            use()
    buffer.allocate()
    handle = buffer.handle
    buffer.allocate()
    assert buffer.handle is handle


def test_a_plan_may_be_recorded_for_another_machine(llvmpipe):
    """The caps decide, and the adapter that is open does not."""
    browser = WebGPU(llvmpipe.gpu, Caps.browser())
    x, p = (1, 64, 64, 32), Params(Checkpoint(ShapeOnly({"layer.weight": (64, 32)})), "layer")
    entries = [w.record(lambda x, w=w: w.linear(x, p), [x]).dispatches[0].entry for w in (llvmpipe, browser)]
    assert entries == ["direct", "tiled"]
    assert browser.name == llvmpipe.name
    with pytest.raises(LimitError, match="browser"):
        browser.record(lambda a, b: browser.concat(a, b), [(1, 4096, 1024, 5)] * 2)


def test_caps_say_what_an_adapter_is(llvmpipe, minimum):
    assert (llvmpipe.caps.kind, llvmpipe.caps.is_software, llvmpipe.caps.backend) == ("software", True, "Vulkan")
    assert llvmpipe.caps.name == llvmpipe.name == llvmpipe.gpu.name
    assert minimum.caps.limits == Caps.browser().limits == DEFAULT_LIMITS
    assert [Caps.browser(software).kind for software in (False, True)] == ["discrete", "software"]
    kinds = {"DiscreteGPU": "discrete", "IntegratedGPU": "integrated", "CPU": "software", "Unknown": "unknown", "VirtualGPU": "unknown"}
    assert {k: gpu_module.describe("", {"adapter_type": k}, (), DEFAULT_LIMITS).kind for k in kinds} == kinds
    info = {"adapter_type": "DiscreteGPU", "vendor": "nvidia"}
    caps = gpu_module.describe("a card", info, ("timestamp-query",), DEFAULT_LIMITS)
    assert (caps.vendor, caps.features) == ("nvidia", {"timestamp-query"})
    with pytest.raises(TypeError):
        caps.limits["max-buffer-size"] = 1
    assert hash(caps) == hash(replace(caps))


def test_weights_of_a_plan_that_never_ran_go_with_their_model(llvmpipe):
    def work():
        net = make_unet(UNetConfig.tiny(), llvmpipe)
        net(latents(net.config, 1), 5, ids_for(net.config, 1))
        llvmpipe.rehearse(denoiser(net).step, [(1, c, 16, 16) for c in (4, 1, 4)])
        return weakref.ref(net.root.root)

    gone = work()
    gc.collect()
    assert gone() is None


def test_an_overflow_late_in_a_run_names_its_step(of_any_limits):
    loop = denoiser(make_unet(UNetConfig.tiny(), of_any_limits))
    loop.coefficients[2, 0] = 1e-45  # √ā_t so small that x0 overflows
    with pytest.raises(NonFiniteError, match=r"guided_ddim .* at step 2"):
        loop.run(*start())


def full_plan(gpu):
    config = UNetConfig.full()
    net = UNet(config, ShapeOnly(unet.shapes(config)), gpu)
    shapes = [(1, 64, 64, 4), (1, 64, 64, 1), (1, 64, 64, 4)]
    return gpu.record(denoiser(net, steps=20).step, shapes, slice(None))


def test_full_step_keeps_its_budget(gpu):
    summary = full_plan(gpu).summary()
    assert summary["flops"] <= 500e9  # the definition costs 632
    assert summary["dispatches"] <= 600
    assert summary["peak_bytes"] <= 400e6
    assert 880e6 <= summary["weight_bytes"] + summary["early_bytes"] <= 960e6


def test_plan_describes_itself(gpu):
    rows = full_plan(gpu).describe()
    row = next(r for r in rows if r["path"].endswith("down_blocks.0.attentions.0.proj_in"))
    assert (row["op"], row["shader"], row["flops"]) == ("linear", "gemm", 2 * 4096 * 320 * 320)  # of one image for both
    bound = {b["name"]: b for b in row["bindings"]}
    assert bound["a"]["shape"] == [1, 64, 64, 320]
    assert bound["w"]["shape"] == [320, 320]
    assert bound["out"] | {"buffer": ""} == bound["out"] | {
        "access": "read_write",
        "shape": [1, 64, 64, 320],
        "bytes": 4096 * 1280,
        "buffer": "",
    }
    assert row["bytes"] == sum(b["bytes"] for b in row["bindings"])
    assert all(r["grid"] and r["constants"] is not None for r in rows)


def test_profile_times_every_dispatch(gpu):
    net = make_unet(UNETS_SMALLEST, gpu)
    net(latents(net.config, 1), 1, ids_for(net.config, 1))
    plan = gpu.plan(net.forward, [(1, 5, 5, 7)], unet.Timesteps((1,)), ids_for(net.config, 1))
    rows = plan.profile(repeats=1)
    assert len(rows) == plan.summary()["dispatches"]
    assert {r["clock"] for r in rows} == {"timestamp" if gpu.gpu.timestamps else "wall"}
    assert all(np.isfinite(r["ms"]) and r["ms"] >= 0 for r in rows)
    assert sum(r["ms"] for r in rows) > 0


UNETS_SMALLEST = UNET_FAMILY["one level, other channels"]


def test_what_does_not_fit_is_refused_when_the_plan_is_made(gpu):
    config = VAEConfig.full()
    coder = VAE(config, ShapeOnly(vae.shapes(config)), gpu)
    with pytest.raises(LimitError, match=r"decoder\..* [\d,]+, above [\d,]+ "):
        gpu.record(coder.decoder, [(1, 256, 256, 4)])


def test_full_decoder_at_512_fits_the_default_limits(minimum):
    config = VAEConfig.full()
    coder = VAE(config, ShapeOnly(vae.shapes(config)), minimum)
    plan = minimum.record(coder.decoder, [(1, 64, 64, 4)])
    bands = [d for d in plan.describe() if d["path"] == "decoder.up_blocks.3.resnets.0.conv1"]
    assert len(bands) > 1
    assert max(b["bytes"] for d in plan.describe() for b in d["bindings"]) <= 128 << 20


def test_unknown_adapters_are_named():
    with pytest.raises(AdapterError, match=r"'no such gpu'.* 0: "):
        WebGPU("no such gpu")
    with pytest.raises(AdapterError, match=" 99"):
        WebGPU(99)
    with pytest.raises(AdapterError, match="'metal'"):
        WebGPU("metal:anything")


def test_no_adapter_at_all_says_what_to_install(monkeypatch):
    monkeypatch.setattr(gpu_module, "adapters", lambda implementation="wgpu": [])
    with pytest.raises(AdapterError, match=r"mesa-vulkan-drivers.*moebius\.CPU\(\)"):
        WebGPU()


def test_discrete_comes_before_integrated_before_software(monkeypatch):
    class Fake:
        def __init__(self, kind, backend):
            self.info = {"adapter_type": kind, "backend_type": backend}
            self.summary = f"{kind} {backend}"

    twins = [Fake("DiscreteGPU", "Vulkan"), Fake("DiscreteGPU", "Vulkan")]
    assert gpu_module.choose(None, listed=twins) is twins[0]
    kinds = [("CPU", "Vulkan"), ("IntegratedGPU", "Vulkan"), ("DiscreteGPU", "OpenGL"), ("DiscreteGPU", "Vulkan"), ("Unknown", "Vulkan")]
    monkeypatch.setattr(gpu_module, "adapters", lambda implementation="wgpu": [Fake(*k) for k in kinds])
    assert gpu_module.choose(None).summary == "DiscreteGPU Vulkan"
    assert gpu_module.choose("opengl").summary == "DiscreteGPU OpenGL"
    assert gpu_module.choose("1").summary == "IntegratedGPU Vulkan"
    for beyond in (5, "5", -1):
        with pytest.raises(AdapterError, match=f"no adapter {beyond}"):
            gpu_module.choose(beyond)


def test_ops_outside_a_recording_are_refused(gpu):
    with pytest.raises(MoebiusError, match="WebGPU"):
        gpu.concat(gpu.tensor(np.zeros((1, 4, 2, 2))), gpu.tensor(np.zeros((1, 4, 2, 2))))


def test_bad_latents_are_refused_before_the_gpu_sees_them(gpu):
    loop, (y, m, zm) = denoiser(make_unet(UNetConfig.tiny(), gpu)), start()
    with pytest.raises(UsageError, match="masked latents"):
        loop.run(y, m, zm * np.nan)


LOSS = """
import numpy as np, sys
sys.path.insert(0, {tests!r})
from goldens import IDS, weights, noise
from moebius.errors import DeviceLostError
from moebius.model.unet import UNet, UNetConfig
from moebius.backends.webgpu import WebGPU
gpu = WebGPU({name!r})
net = UNet(UNetConfig.tiny(), weights("unet_nano"), gpu)
gpu.gpu.device.destroy()
try:
    net(noise("x", (2, 9, 16, 16)), 1, IDS)
except DeviceLostError as error:
    print("told:", error)
"""


def test_a_lost_device_is_one_sentence(llvmpipe):
    """In a process of its own: a lost device may end it."""
    code = LOSS.format(tests=str(FOLDER.parent), name="llvmpipe")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=400)
    assert "was lost while" in done.stdout, done.stderr
    assert "Open it again" in done.stdout


def test_out_of_memory_is_one_sentence(llvmpipe, monkeypatch):
    def refuse(**kwargs):
        raise MemoryError("Not enough memory left.")

    net = make_unet(UNetConfig.tiny(), llvmpipe)
    monkeypatch.setattr(type(llvmpipe.gpu.device), "create_buffer", lambda self, **kwargs: refuse())
    with pytest.raises(DeviceLostError, match=r" MiB for "):
        net(latents(net.config, 2), 1, IDS)


@pytest.mark.slow
def test_full_unet(gpu):
    """Measured: 3.6e-6 on llvmpipe, SwiftShader and SwiftShader through Dawn."""
    x = noise("unet_full_seed0_t811.latent", (2, 9, 64, 64))
    out = UNet(UNetConfig.full(), weights("unet_full"), gpu)(x, 811, IDS)
    assert relative(out, full_oracle(x)) <= 5e-5
    assert relative(out, load("unet_full_seed0_t811")["output"]) <= 5e-5


_FULL_ORACLE = {}


def full_oracle(x):
    if not _FULL_ORACLE:
        _FULL_ORACLE[0] = UNet(UNetConfig.full(), weights("unet_full"), Reference())(x, 811, IDS)
    return _FULL_ORACLE[0]


@pytest.mark.slow
def test_full_vae_at_512_in_bands(minimum):
    golden, coder = load("vae_full_512"), VAE(CONFIGS["vae_full"], weights("vae_full"), minimum)
    moments = coder.encode(np.clip(noise("vae_full_512.image", (1, 3, 512, 512)), -1, 1))
    assert relative(moments, golden["moments"]) <= END_TO_END
    image = coder.decode(noise("vae_full_512.latent", (1, 4, 64, 64)))
    from goldens import sample

    assert relative(sample(image, "image", golden["image"].size), golden["image"]) <= END_TO_END


def test_plain_c_types_are_what_cffi_reads() -> None:
    """All that wgpu's own source names, read by cffi's parser and looked up."""
    api = pytest.importorskip("wgpu.backends.wgpu_native._api")
    names = set(re.findall(r"\"(WGPU\w+(?: \*| ?\[\])?)\"", Path(api.__file__).read_text(encoding="utf-8")))
    parser = api.ffi._parser
    parse = type(parser).parse_type  # cffi's own
    known = [name for name in sorted(names) if f"typedef {name.rstrip(' *[]')}" in parser._declarations]
    assert len(known) > 30
    native.load("wgpu")
    with api.ffi._lock:
        for name in known[::4] + [f"{name} *" for name in known[1::6] if name.isalnum()]:
            assert api.ffi._get_cached_btype(parser.parse_type(name)) is api.ffi._get_cached_btype(parse(parser, name)), name
    assert parser.parse_type is not parse
    assert parser.parse_type.__name__ != "parse_type", "they are looked up"
