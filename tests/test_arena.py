"""One memory for the intermediate tensors of all plans of a device."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import numpy as np
import pytest
from goldens import noise

from moebius.backends.webgpu import WebGPU
from moebius.backends.webgpu.arena import Arena
from moebius.backends.webgpu.device import Device
from moebius.model import vae
from moebius.model.synthetic import synthetic
from moebius.model.vae import VAE, VAEConfig

SMALL = VAEConfig((8, 8, 8, 8), norm_num_groups=4)


def made_by(ops: WebGPU) -> VAE:
    return VAE(SMALL, synthetic(vae.shapes(SMALL), 0), ops)


class Memory:
    def __init__(self, nbytes: int, label: str) -> None:
        self.nbytes = nbytes


class Taker:
    """Holds what it is lent until it has to vacate it."""

    def __init__(self, arena: Arena, sizes: list[int], seen: list[str]) -> None:
        self.arena, self.sizes, self.seen, self.lent = arena, sizes, seen, list[Any]()

    def take(self) -> list[int]:
        self.lent = self.arena.lend(self, self.sizes, Memory, lambda: self.seen.append("trim"))
        return [memory.nbytes for memory in self.lent]

    def vacate(self) -> None:
        self.seen.append("vacate")
        self.lent = []


def test_plans_lie_over_one_another_and_the_largest_makes_room() -> None:
    seen: list[str] = []
    arena = Arena()
    small, large, tall = (Taker(arena, sizes, seen) for sizes in ([4, 2], [8, 2, 1], [6]))
    assert small.take() == [4, 2]
    first = weakref.ref(small.lent[0])
    assert large.take() == [8, 2, 1]
    assert seen == ["vacate", "trim"]
    assert first() is None, "given back before the larger one was taken"
    assert small.take() == [8, 2]
    assert tall.take() == [8]
    assert tall.lent[0] is large.lent[0] is small.lent[0]
    assert seen == ["vacate", "trim"], "there was room"
    memory = weakref.ref(tall.lent[0])
    for taker in (small, large, tall):
        taker.lent = []
    assert memory() is None
    assert small.take() == [4, 2], "what nobody holds is not there"


def test_what_others_hold_is_known_after_a_failure() -> None:
    arena = Arena()
    small, large = Taker(arena, [4, 2], []), Taker(arena, [4, 2, 1], [])
    small.take()

    def full(nbytes: int, label: str) -> Memory:
        raise MemoryError

    with pytest.raises(MemoryError):
        arena.lend(large, large.sizes, full, lambda: None)
    assert large.take() == [4, 2, 1]
    assert large.lent[:2] == small.lent


def test_coders_share_their_memory_and_make_what_they_made_alone(llvmpipe: WebGPU) -> None:
    z, image = noise("z", (1, 4, 8, 8)), np.clip(noise("x", (1, 3, 64, 64)), -1, 1)
    want = made_by(llvmpipe).decode(z), made_by(llvmpipe).encode(image)
    gpu = llvmpipe.gpu
    taken: list[int] = []

    class Counting(Device):
        def create_buffer(self, nbytes: int, label: str) -> Any:
            if label.startswith("arena"):
                taken.append(nbytes)
            return super().create_buffer(nbytes, label)

    own = WebGPU(Counting(gpu.implementation, gpu.module, gpu.device, gpu.info, gpu.caps))
    coder = made_by(own)
    for _ in range(2):
        np.testing.assert_array_equal(coder.decode(z), want[0])
        np.testing.assert_array_equal(coder.encode(image), want[1])
    plans = own.plan(coder.decoder, [(1, 8, 8, 4)]), own.plan(coder.encoder, [(1, 64, 64, 3)])
    sizes = [[b.nbytes for b in plan._arena] for plan in plans]
    shared = [max(a, b) for a, b in zip(*sizes, strict=False)]
    alive = [memory() for _, memory in own.gpu.arena._memory]
    assert [nbytes for nbytes, _ in own.gpu.arena._memory][: len(shared)] == shared
    assert all(alive)
    assert sum(nbytes for nbytes, _ in own.gpu.arena._memory) < sum(map(sum, sizes))
    del plans, alive
    own.forget(coder, coder.root.root)
    gc.collect()
    assert [memory() for _, memory in own.gpu.arena._memory] == [None] * len(own.gpu.arena._memory)
