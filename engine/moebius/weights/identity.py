"""Which network it is: a digest of its content, whatever file it came in."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import chain

import numpy as np

from moebius.model.unet import UNetConfig
from moebius.model.vae import VAEConfig
from moebius.weights import infer

TOGETHER = 16  # tensors that a thread hashes before it asks for more
SMALL = 16 << 20  # bytes of a network in memory that are not worth starting threads for: nano's 7 MB take 10 ms here, and 17 with threads


def digest(config: UNetConfig | VAEConfig, names: Iterable[str], tensor: Callable[[str], np.ndarray]) -> str:
    """SHA-256 of the config and of every tensor's name, shape and float32 values: equal for what computes the same.

    Tensors are hashed side by side (the hash lets other threads run): 1.3 GB/s a core. Some go together, for most are small."""
    listed = list(names)
    jobs = [listed[i : i + TOGETHER] for i in range(0, len(listed), TOGETHER)]
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        return of_lines(config, chain.from_iterable(pool.map(lambda some: [line(name, tensor(name)) for name in some], jobs)))


class Digests(Mapping[str, str]):
    """The digests of networks in memory, each taken when it is first asked for: after a run, and not before it."""

    def __init__(self, networks: Mapping[str, tuple[UNetConfig | VAEConfig, Mapping[str, np.ndarray]]]) -> None:
        self._networks = networks
        self._taken: dict[str, str] = {}

    def __getitem__(self, net: str) -> str:
        if net not in self._taken:
            config, arrays = self._networks[net]
            if sum(array.nbytes for array in arrays.values()) <= SMALL:
                self._taken[net] = of_lines(config, (line(name, array) for name, array in arrays.items()))
            else:
                self._taken[net] = digest(config, arrays, arrays.__getitem__)
        return self._taken[net]

    def __iter__(self) -> Iterator[str]:
        return iter(self._networks)

    def __len__(self) -> int:
        return len(self._networks)


def line(name: str, tensor: np.ndarray) -> str:
    """What `of_lines` takes of a tensor."""
    values = np.asarray(tensor, np.dtype("<f4"), order="C")
    return f"{name} {values.shape} {hashlib.sha256(values.reshape(-1).view(np.uint8).data).hexdigest()}"


def of_lines(config: UNetConfig | VAEConfig, lines: Iterable[str]) -> str:
    """The digest of a network, from its tensors' lines in any order."""
    head = f"{type(config).__name__} {json.dumps(infer.to_json(config), sort_keys=True)}"
    return hashlib.sha256("\n".join([head, *sorted(lines)]).encode()).hexdigest()
