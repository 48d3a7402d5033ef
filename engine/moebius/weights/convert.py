"""A checkpoint → its float32 copy in the cache.

A checkpoint is converted once. The copy holds float32 whatever the source held, because that is what every backend computes in and
packs from: the second start hands out views of the mapped file and decodes nothing. A 16-bit source takes twice its size on the disk
for that. A float32 .safetensors is used where it lies.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from moebius.errors import WeightError
from moebius.model.unet import UNetConfig
from moebius.model.vae import VAEConfig
from moebius.weights import hub, infer
from moebius.weights.cache import cannot_write, copy_file, need_room, open_copy, read_copy, remember
from moebius.weights.checkpoint import Float32, Net, Network, in_memory, is_ready, open_tensors, recognise
from moebius.weights.formats import safetensors
from moebius.weights.formats.mapped import MappedTensors
from moebius.weights.hub import Progress

MAX_GROWTH = 8  # bytes of a copy for a byte of its source; float16 doubles


@dataclass(frozen=True)
class Source:
    """A checkpoint file that is to be read as one network.

    label: what errors and the progress say for `path`, which may be a download's.
    config_text, config_label: the config.json beside it ("" if there is none), and what errors say for that.
    origin: what the cache notes of it: {"path"}, or {"repo", "file", "revision", "commit"} of the Hub.
    signature: what the cache knows it by.
    """

    net: Net
    path: Path
    label: str
    config_text: str
    config_label: str
    origin: dict[str, str]
    signature: str

    def config(self) -> dict[str, Any] | None:
        return infer.parse(self.config_text, self.config_label) if self.config_text else None

    def is_local(self) -> bool:
        """Whether it is a file of the user's, and not of the Hub."""
        return "path" in self.origin

    def say_label(self, message: str) -> str:
        return message.replace(str(self.path), self.label)


def convert(source: Source, cache: bool, progress: Progress | None) -> Network:
    """Reads a checkpoint, and writes its copy where one is of use."""
    declared = source.config()
    try:
        config, tensors = recognise(source.net, open_tensors(source.path, source.origin.get("file")), declared)
        used_where_it_lies = source.is_local() and source.path.suffix.lower() == ".safetensors" and is_ready(tensors)
        if not cache or used_where_it_lies:
            return Network(config, in_memory(tensors), tensors.ignored)
        if copy_size(tensors) > MAX_GROWTH * tensors.file.size:
            raise WeightError(
                f"{source.path} has many tensors that are the same bytes, which no checkpoint of this model has. Get it again."
            )
        tensors.verify()
    except WeightError as error:
        message = str(error) if str(source.path) in str(error) else f"{source.label}: {error}"
        raise WeightError(source.say_label(message)) from error
    digest = hub.sha256(source.path)
    target = copy_file(source.net, digest, source.config_text)
    known = open_copy(source.net, target)
    if known is None:
        write_copy(target, source, config, tensors, digest, progress)
    remember(source.signature, source.net, target, source.origin)
    return known or read_copy(source.net, target)


def write_copy(
    target: Path, source: Source, config: UNetConfig | VAEConfig, tensors: MappedTensors, digest: str, progress: Progress | None
) -> None:
    """Writes the tensors as float32, with the config and what else `read_copy` wants in the metadata."""
    need_room(target, copy_size(tensors), source.label)
    metadata = {
        "net": source.net,
        "config": json.dumps(infer.to_json(config)),
        "ignored": json.dumps(tensors.ignored),
        "source": json.dumps({**source.origin, "sha256": digest}),
    }
    arrays = Reporting(tensors, f"converting {source.label}", progress)
    like = {name: (np.dtype(np.float32), shape) for name, shape in arrays.shapes.items()}
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        safetensors.write(target, arrays, metadata, like)
    except WeightError as error:
        raise WeightError(source.say_label(str(error))) from error
    except OSError as error:
        if open_copy(source.net, target) is None:  # else another process has just put it there, and Windows does not replace what is mapped
            raise cannot_write(error, source.label, target) from error


def copy_size(tensors: MappedTensors) -> int:
    """The bytes of all tensors as float32."""
    return 4 * sum(t.size for t in tensors.info.values())


class Reporting(Float32):
    """Says how far the conversion is, as arrays are asked for."""

    def __init__(self, tensors: MappedTensors, doing: str, progress: Progress | None) -> None:
        super().__init__(tensors)
        self.doing, self.progress, self.done = doing, progress, 0
        self.total = copy_size(tensors)

    def __getitem__(self, name: str) -> np.ndarray:
        array = super().__getitem__(name)
        self.done += array.nbytes
        if self.progress:
            self.progress(self.doing, self.done, self.total)
        return array
