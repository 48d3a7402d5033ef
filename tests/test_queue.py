"""What a GPU is given to do while the host looks at what it did before, and how often the host waits with nothing given."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from goldens import noise, relative
from test_webgpu import END_TO_END

from moebius.backends.reference import Reference
from moebius.backends.webgpu import WebGPU, native
from moebius.backends.webgpu.device import SIZES, Device
from moebius.backends.webgpu.plan import FIRST, MORE, Plan
from moebius.backends.webgpu.readback import Readback
from moebius.backends.webgpu.tensor import Buffer
from moebius.errors import MoebiusError, NonFiniteError
from moebius.inpaint import draws
from moebius.inpaint.inpainter import Inpainter
from moebius.inpaint.loaded import LoadedModel
from moebius.model import unet, vae
from moebius.model.denoise import Denoiser
from moebius.model.scheduler import DDIM
from moebius.model.synthetic import synthetic
from moebius.model.unet import UNet, UNetConfig, condition_ids
from moebius.model.vae import VAE, VAEConfig

SMALL = UNetConfig(4, block_out_channels=(8, 16), heads=2, cross_attention_dim=8, encoder_hid_dim=8, norm_num_groups=4)
SMALL_VAE = VAEConfig((8, 8, 8, 8), norm_num_groups=4)  # windows of 32 pixels
TIMESTEPS = [750, 500, 250, 0]


@pytest.fixture(scope="module")
def as_gpu(llvmpipe: WebGPU) -> WebGPU:
    """llvmpipe as if it were a GPU."""
    return WebGPU(llvmpipe.gpu, replace(llvmpipe.caps, kind="discrete"))


@pytest.fixture
def queue(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What is submitted to be read, by its number, and what is waited for, with how many are queued behind it then."""
    seen: list[Any] = []
    known: dict[int, int] = {}
    submit, wait = native.submit, native.wait

    def submitted(*args: Any) -> Any:
        known[id(index := [submit(*args)])] = len(known)
        seen.append("submitted")
        return index

    def waited(module: Any, device: Any, index: Any) -> None:
        seen.append(len(known) - 1 - known[id(index)])
        wait(module, device, index[0])

    monkeypatch.setattr(native, "submit", submitted)
    monkeypatch.setattr(native, "wait", waited)
    return seen


def waits(queue: list[Any]) -> list[int]:
    return [each for each in queue if each != "submitted"]


def small(ops: Any) -> Inpainter:
    return Inpainter(UNet(SMALL, synthetic(unet.shapes(SMALL), 0), ops), VAE(SMALL_VAE, synthetic(vae.shapes(SMALL_VAE), 0), ops))


def picture(boxes: int) -> tuple[np.ndarray, np.ndarray]:
    rgb = np.random.default_rng(0).integers(0, 256, (32, 200, 3), dtype=np.uint8)
    mask = np.zeros((32, 200), np.uint8)
    for i in range(boxes):
        mask[12:20, 12 + 80 * i : 20 + 80 * i] = 255
    return rgb, mask


def test_a_picture_waits_three_times_with_nothing_queued(as_gpu: WebGPU, queue: list[Any]) -> None:
    """For its encoded pictures, for its latents and for its pixels; where it was five times, and once more for every step looked at."""
    inpaint = small(as_gpu)
    for step in inpaint.steps(*picture(1), steps=5, strength=0.8):
        step.state.estimate()
    steps = [1] * 3 + [0]  # each with the next one queued behind it
    assert waits(queue) == [1, 0, *steps, 0]


def test_windows_are_encoded_and_decoded_with_others_queued(as_gpu: WebGPU, queue: list[Any]) -> None:
    run = small(as_gpu).steps(*picture(2), steps=2, strength=1)
    assert len(run.modelled) == 2
    assert list(run)
    assert run.result.images
    assert waits(queue) == [1, 0, 0, 1, 0]


def sampler(ops: Any) -> Denoiser:
    net = UNet(SMALL, synthetic(unet.shapes(SMALL), 0), ops)
    return Denoiser(net, condition_ids(SMALL), TIMESTEPS, DDIM().coefficients(np.array(TIMESTEPS), 4), 2.5)


def steps(ops: Any, sign: float = 1.0) -> Iterator[Any]:
    shapes = (1, 4, 4, 4), (1, 1, 4, 4), (1, 4, 4, 4)
    y, m, zm = (noise(name, shape) for name, shape in zip(("y", "m", "zm"), shapes, strict=True))
    return sampler(ops).steps(np.float32(sign) * y, (m > 0).astype(np.float32), zm)


@pytest.mark.parametrize("kind", ["discrete", "software"])
def test_a_step_is_its_own_whenever_it_is_looked_at(llvmpipe: WebGPU, kind: Any) -> None:
    ops = WebGPU(llvmpipe.gpu, replace(llvmpipe.caps, kind=kind))
    at_once = [(state.index, state.latents(), state.estimate()) for state in steps(ops)]
    kept = list(steps(ops))
    of_cpu = [(state.index, state.latents(), state.estimate()) for state in steps(Reference())]
    assert [i for i, *_ in at_once] == [i for i, *_ in of_cpu]
    for now, later, want in zip(at_once, kept, of_cpu, strict=True):
        np.testing.assert_array_equal(later.latents(), now[1])
        np.testing.assert_array_equal(later.estimate(), now[2])
        assert relative(now[1], want[1]) <= END_TO_END
        assert relative(now[2], want[2]) <= END_TO_END


def test_loops_that_take_turns_on_a_gpu_do_not_mix(as_gpu: WebGPU) -> None:
    net = sampler(as_gpu)  # and one plan
    y, m, zm = noise("y", (1, 4, 4, 4)), np.ones((1, 1, 4, 4), np.float32), noise("zm", (1, 4, 4, 4))
    want = [net.run(sign * y, m, zm) for sign in (1, -1)]
    for pair in zip(*(net.steps(sign * y, m, zm) for sign in (1, -1)), strict=True):
        last = [state.latents() for state in pair]
    np.testing.assert_array_equal(last, want)


def test_a_gpu_is_one_step_ahead_and_no_further(as_gpu: WebGPU, queue: list[Any]) -> None:
    under_way = steps(as_gpu)
    for taken in (1, 2):
        next(under_way)
        assert queue.count("submitted") == taken + 1


def test_memory_to_read_into_is_kept_for_few_sizes_and_not_after_a_failure(llvmpipe: WebGPU, monkeypatch: pytest.MonkeyPatch) -> None:
    own = Device(llvmpipe.gpu.implementation, llvmpipe.gpu.module, llvmpipe.gpu.device, llvmpipe.gpu.info, llvmpipe.caps)
    source = Buffer(own, 400, "source", "pinned", lambda: np.arange(100, dtype=np.uint32))
    source.allocate()

    def copied(nbytes: int) -> Readback:
        readback = Readback(own, [(source, nbytes)])
        readback.submit(own.device.create_command_encoder())
        return readback

    for n in range(1, 100):
        np.testing.assert_array_equal(copied(4 * n).read()[0].view(np.uint32), np.arange(n))
    assert list(own._memory) == [4 * n for n in range(100 - SIZES, 100)]
    failing = copied(396)
    assert own._memory[396] == []
    monkeypatch.setattr(native, "read", lambda *_: 1 / 0)
    for _ in range(2):
        with pytest.raises(MoebiusError, match="source"):
            failing.read()
    del failing
    assert own._memory[396] == [], "it may be mapped still"


def test_what_is_not_finite_is_found_though_others_are_queued_behind_it(llvmpipe: WebGPU) -> None:
    coder, z = VAE(SMALL_VAE, synthetic(vae.shapes(SMALL_VAE), 0), llvmpipe), noise("z", (1, 4, 4, 4))
    decoded = coder.decode_each([z, np.float32(3e38) * np.sign(z), z])
    np.testing.assert_array_equal(next(decoded), coder.decode(z))
    with pytest.raises(NonFiniteError, match=r"decoder|post_quant"):
        next(decoded)


def test_an_idle_gpu_has_work_while_the_rest_is_encoded(as_gpu: WebGPU, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first step, and the first of pictures that come one behind the other, are a few submissions, each much larger than the last one;
    nothing changes but when it begins."""
    coder, z = VAE(SMALL_VAE, synthetic(vae.shapes(SMALL_VAE), 0), as_gpu), [noise(n, (1, 4, 4, 4)) for n in "ab"]
    net, given = sampler(as_gpu), [noise("y", (1, 4, 4, 4)), np.ones((1, 1, 4, 4), np.float32), noise("zm", (1, 4, 4, 4))]
    want = [state.latents() for state in net.steps(*given)], list(coder.decode_each(z))
    sizes: list[int] = []
    encode = Plan.encode
    monkeypatch.setattr(Plan, "encode", lambda self, run, indices: (sizes.append(len(indices)), encode(self, run, indices))[1])
    made = [state.latents() for state in net.steps(*given)], list(coder.decode_each(z))

    def grown(total: int) -> list[int]:
        made, count = list[int](), FIRST
        while total - sum(made) > count:
            made, count = [*made, count], MORE * count
        return [*made, total - sum(made)]

    picture = sizes[-1]
    step = sizes[-2 - len(grown(picture))]
    assert FIRST * (1 + MORE) < step < FIRST * (1 + MORE + MORE**2)
    assert sizes == [*grown(step), *[step] * 3, *grown(picture), picture]
    np.testing.assert_array_equal(made[0], want[0])
    np.testing.assert_array_equal(made[1], want[1])


def test_noise_is_drawn_behind_the_first_encoding_or_when_it_is_prepared(llvmpipe: WebGPU, monkeypatch: pytest.MonkeyPatch) -> None:
    happened: list[str] = []
    made, drawn = LoadedModel.moments_each, draws.draws
    monkeypatch.setattr(LoadedModel, "moments_each", lambda self, x: (happened.append("encoded") or each for each in made(self, x)))
    monkeypatch.setattr(draws, "draws", lambda *args: happened.append("drawn") or drawn(*args))
    model, latents = small(llvmpipe), []
    for ahead, given in ((False, None), (True, None), (False, {})):
        run = model.steps(*picture(1), steps=2, strength=0.5, noise=given)
        if ahead:
            run.prepare()
        list(run)
        latents.append(run.result.latents)
    assert happened == ["encoded", "drawn", "encoded", *["drawn", "encoded", "encoded"] * 2]
    np.testing.assert_array_equal(latents[1:], [latents[0]] * 2)
