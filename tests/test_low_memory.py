"""Where the device's memory does not suffice, and where little of it is to be taken."""

import logging
import weakref
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
from inpainter_cases import SMALL_UNET, SMALL_VAE, made_of

from moebius.backends.cpu import CPU
from moebius.backends.webgpu import WebGPU
from moebius.cli.load import recipe
from moebius.cli.main import parser
from moebius.errors import NonFiniteError, OutOfMemoryError
from moebius.inpaint import coding
from moebius.inpaint.inpainter import Inpainter
from moebius.inpaint.loaded import LoadedModel, wider
from moebius.inpaint.room import Room

LARGE_STEP = replace(SMALL_UNET, sample_size=16, block_out_channels=(64, 64))  # which takes more than the decoder
IMAGE, MASK = np.random.default_rng(0).integers(0, 256, (128, 128, 3), dtype=np.uint8), [(40, 40, 40, 40)]
SMALL_IMAGE, SMALL_MASK = IMAGE[:32, :32], [(10, 10, 10, 10)]


class Memory:
    """Of a device: how much is taken, and was at most; what goes beyond the limit, in all or by itself, is refused."""

    def __init__(self) -> None:
        self.now, self.most, self.largest, self.refused = 0, 0, 0, 0
        self.limit = self.limit_of_one = float("inf")

    def take(self, size: int) -> None:
        self.largest = max(self.largest, size)
        if self.now + size > self.limit or size > self.limit_of_one:
            self.refused += 1
            raise MemoryError
        self.now += size
        self.most = max(self.most, self.now)

    def gone(self, size: int) -> None:
        self.now -= size


@pytest.fixture
def memory(llvmpipe, monkeypatch) -> Memory:
    memory = Memory()
    create = type(llvmpipe.gpu.device).create_buffer

    def counted(self, **options):
        memory.take(options["size"])
        buffer = create(self, **options)
        weakref.finalize(buffer, memory.gone, options["size"])
        return buffer

    monkeypatch.setattr(type(llvmpipe.gpu.device), "create_buffer", counted)
    return memory


def test_a_batch_that_the_memory_refuses_is_halved(llvmpipe, memory: Memory) -> None:
    """Two windows at once need more than the pretended memory; one by one they fit, and the picture is the same."""
    made = made_of(LARGE_STEP, SMALL_VAE, llvmpipe)
    one = made(IMAGE, MASK, steps=2, seed=2)
    one_needs = memory.largest
    three = made(IMAGE, MASK, steps=2, num_images=3)
    assert memory.largest > one_needs
    made.forget_denoisers()
    memory.limit_of_one = one_needs
    halved = made(IMAGE, MASK, steps=2, num_images=3)  # three, then two are too many
    for got, want in zip(halved.images, three.images, strict=True):
        np.testing.assert_array_equal(got, want)
    np.testing.assert_array_equal(halved.images[2], one.image)
    memory.limit_of_one = one_needs // 2
    made.release()  # all of it: the memory of a step is the decoder's too
    with pytest.raises(OutOfMemoryError, match=" MiB for "):
        made(IMAGE, MASK, steps=2)


def test_a_part_that_the_memory_refuses_gets_that_of_the_part_before_it(llvmpipe, memory: Memory) -> None:
    """Three pictures where two fit at once: the third fits too, when the step of the first two is given up."""
    made = made_of(LARGE_STEP, SMALL_VAE, llvmpipe)
    two = made(IMAGE, MASK, steps=2, num_images=2)
    made.forget_denoisers()
    memory.limit = memory.most + 4096  # what is read back may pass through a buffer
    steps = []
    three = made(IMAGE, MASK, steps=2, num_images=3, on_step=steps.append)
    assert memory.refused >= 4  # three at once, and the third beside the first two; each is tried again
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


# one network at a time ------------------------------------------------------------------------------------------------
def weights_of(net) -> int:
    """Bytes that its weights have on the device."""
    return sum(buffer.nbytes for buffer in net.root.root.derived.get(net.ops.recorder, {}).values() if buffer.fill is None)


def test_one_network_at_a_time_takes_the_memory_of_one(llvmpipe, memory: Memory) -> None:
    made = made_of(SMALL_UNET, SMALL_VAE, llvmpipe)
    both = made(SMALL_IMAGE, SMALL_MASK, steps=2)
    wanted, there = memory.most, weights_of(made.unet) + weights_of(made.vae)
    assert weights_of(made.vae) > 0
    made.release()
    assert memory.now == 0
    memory.most, made.low_memory = 0, True
    seen = []

    def look(step) -> None:
        assert step.preview.size == (32, 32)
        seen.append((weights_of(made.unet) > 0, weights_of(made.vae)))

    for _ in range(2):
        one = made(SMALL_IMAGE, SMALL_MASK, steps=2, on_step=look)
        assert weights_of(made.unet) == 0 < weights_of(made.vae)
        np.testing.assert_array_equal(one.image, both.image)
    assert set(seen) == {(True, 0)}
    assert memory.most <= wanted - min(there - weights_of(made.vae), weights_of(made.vae))


@pytest.mark.parametrize("settings", [{}, {"refine": 0.5}], ids=str)
def test_where_both_networks_do_not_fit_one_leaves_for_the_other(llvmpipe, memory: Memory, caplog, settings) -> None:
    """Without being asked, with a sentence, from where the memory ends; and so from then on."""
    made = made_of(SMALL_UNET, SMALL_VAE, llvmpipe)
    made.low_memory = True
    want = made(SMALL_IMAGE, SMALL_MASK, steps=2, **settings)
    made.release()
    made.low_memory, memory.limit = False, memory.most + 4096
    with caplog.at_level(logging.WARNING, "moebius"):
        got = made(SMALL_IMAGE, SMALL_MASK, steps=2, **settings)
        again = made(SMALL_IMAGE, SMALL_MASK, steps=2, **settings)
    for result in (got, again):
        np.testing.assert_array_equal(np.stack(result.images), np.stack(want.images))
    assert made.low_memory
    assert [r.getMessage() for r in caplog.records] == [
        f"The memory of {made.device} does not hold both networks at once: from now on one leaves it while the other computes (low_memory)."
    ]


def test_what_does_not_fit_alone_is_an_error(llvmpipe, memory: Memory) -> None:
    made = made_of(SMALL_UNET, SMALL_VAE, llvmpipe)
    memory.limit = 4096
    for _ in range(2):
        with pytest.raises(OutOfMemoryError, match=r"memory"):
            made(SMALL_IMAGE, SMALL_MASK, steps=2)
    memory.limit = float("inf")
    assert made(SMALL_IMAGE, SMALL_MASK, steps=2).image.size == (32, 32)


def test_runs_beside_one_another_share_what_both_have_at_work(llvmpipe, memory: Memory) -> None:
    """One in its steps, the other at its end: the UNet stays for the first one, and is there once."""
    made = made_of(SMALL_UNET, SMALL_VAE, llvmpipe)
    made.low_memory = True
    want = made(SMALL_IMAGE, SMALL_MASK, steps=3)
    slow = made.steps(SMALL_IMAGE, SMALL_MASK, steps=3)
    going = iter(slow)
    next(going)
    unet, memory.most = weights_of(made.unet), memory.now
    np.testing.assert_array_equal(made(SMALL_IMAGE, SMALL_MASK, steps=3).image, want.image)
    assert weights_of(made.unet) == unet > 0
    assert 1 + sum(1 for _ in going) == len(slow)
    np.testing.assert_array_equal(slow.result.image, want.image)
    made.release()
    going.close()
    assert weights_of(made.unet) == 0


def test_who_began_without_it_is_tried_again_though_another_run_chose_it_meanwhile() -> None:
    model, tries = SimpleNamespace(low_memory=False, vae="vae", room=Room(), device="a device"), []
    model.save_memory = partial(LoadedModel.save_memory, model)

    def work() -> None:
        tries.append(model.low_memory)
        if len(tries) < 2:
            model.low_memory = True  # as a thread beside this one does
            raise OutOfMemoryError("full")

    coding._with_room(model, work)
    assert tries == [False, True]
    tries.clear()
    with pytest.raises(OutOfMemoryError):
        coding._with_room(model, work)
    assert tries == [True]


def test_a_preview_wants_no_network_at_any_strength(llvmpipe) -> None:
    made = made_of(SMALL_UNET, SMALL_VAE, llvmpipe)
    want = made(SMALL_IMAGE, SMALL_MASK, steps=2, strength=1)
    made.low_memory, seen = True, []

    def look(step) -> None:
        assert step.preview.size == (32, 32)
        seen.append(weights_of(made.vae))

    got = made(SMALL_IMAGE, SMALL_MASK, steps=2, strength=1, on_step=look)
    assert seen == [0, 0]
    np.testing.assert_array_equal(got.image, want.image)


def test_what_overflowed_f16_leaves_the_device_to_f32(llvmpipe) -> None:
    made = made_of(SMALL_UNET, SMALL_VAE, WebGPU(llvmpipe.gpu, precision="f16"))
    for low_memory in (False, True):
        made(SMALL_IMAGE, SMALL_MASK, steps=2)
        made.low_memory = low_memory
        whole, _ = wider(made, made, NonFiniteError("too large"))
        assert whole.precision == "f32"
        assert (weights_of(made.vae) == 0) == low_memory
    assert weights_of(made.unet) == 0
    made.low_memory = False
    made(SMALL_IMAGE, SMALL_MASK, steps=2)
    assert whole.save_memory(saved=False)  # where f32 itself ran out: f16 makes room for it, too
    with whole.room.at_work(whole.vae):
        assert weights_of(made.unet) == weights_of(made.vae) == 0
    made.leave(made)


def test_the_cpu_device_gives_up_what_it_made_of_a_network(small_on_cpu: Inpainter) -> None:
    want = small_on_cpu(SMALL_IMAGE, SMALL_MASK, steps=2)
    small_on_cpu.low_memory = True
    np.testing.assert_array_equal(small_on_cpu(SMALL_IMAGE, SMALL_MASK, steps=2).image, want.image)
    assert not small_on_cpu.unet.root.root.derived.get(small_on_cpu.unet.ops)
    assert small_on_cpu.vae.root.root.derived.get(small_on_cpu.vae.ops)


@pytest.fixture
def small_on_cpu() -> Inpainter:
    return made_of(SMALL_UNET, SMALL_VAE, CPU())


@pytest.mark.parametrize("model", [["--synthetic", "tiny"], []], ids=str)
def test_the_option_reaches_the_model(model: list[str]) -> None:
    asked = parser().parse_args(["inpaint", "--sample", "-o", "a.png", "--device", "cpu", *model])
    assert not recipe(asked).load().low_memory
    asked.low_memory = True
    assert recipe(asked).on(threads=1).load().low_memory
