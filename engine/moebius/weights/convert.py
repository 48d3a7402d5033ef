"""A checkpoint → its copy in the cache.

A checkpoint is converted once. The copy holds float32 whatever the source held, because that is what every backend computes in and
packs from: the second start hands out views of the mapped file and decodes nothing. A 16-bit source takes twice its size on the disk
for that; a copy in f16 (`Loading.precision`) half of it, and each backend widens what it packs. A float32 .safetensors of the user's is
read into memory at each start instead, and leaves nothing but its digest.
"""

from __future__ import annotations

import json
import math
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from moebius.errors import WeightError
from moebius.model.unet import UNetConfig
from moebius.model.vae import VAEConfig
from moebius.weights import identity, infer, refs
from moebius.weights.checkpoint import Float32, Net, Network, in_memory, is_ready, open_tensors, recognise
from moebius.weights.copies import SEAL, Sealed, copy_file, note_checked, open_copy, read_copy
from moebius.weights.folders import cannot_write, make, need_room
from moebius.weights.formats import safetensors
from moebius.weights.formats.half import stored, stored_type
from moebius.weights.formats.tensors import FileIdentity, FileTensors
from moebius.weights.loading import Loading
from moebius.weights.refs import Ref, remember

MAX_GROWTH = 8  # bytes of a copy for a byte of its source; float16 doubles


@dataclass(frozen=True)
class Source:
    """A checkpoint file that is to be read as one network.

    label: what errors and the progress say for `path`, which may be a download's.
    config_text, config_label: the config.json beside it ("" if there is none), and what errors say for that.
    origin: what is noted of it: {"path"}, or {"repo", "file", "revision", "commit"} of the Hub.
    signature: what the cache knows it by; a file of the user's, with what `file_signature` adds when it is open.
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


def convert(source: Source, loading: Loading) -> Network:
    """Reads a checkpoint, and writes its copy where one is of use. What is noted of it is noted of the bytes that were read."""
    declared = source.config()
    try:
        config, tensors = recognise(source.net, open_tensors(source.path, source.origin.get("file")), declared)
        if source.is_local() and source.path.suffix.lower() == ".safetensors" and is_ready(tensors):
            return read_in_place(source, config, tensors, loading)
        if not loading.cache:
            arrays = unchanged(tensors)
            return Network(config, arrays, identity.digest(config, arrays, arrays.__getitem__), source.origin, tensors.ignored)
        if copy_size(tensors) > MAX_GROWTH * tensors.file.size:
            raise WeightError(
                f"{source.path} has many tensors that are the same bytes, which no checkpoint of this model has. Get it again."
            )
        tensors.verify()
        target = copy_file(source.net, tensors.file.sha256(), source.config_text, loading.precision)
    except WeightError as error:
        message = str(error) if str(source.path) in str(error) else f"{source.label}: {error}"
        raise WeightError(source.say_label(message)) from error
    network = open_copy(source.net, target, loading) or write_copy(target, source, config, tensors, loading)
    signature = file_signature(source.signature, tensors.file.identity) if source.is_local() else source.signature
    remember(signature, Ref(source.net, source.origin, copy=target.name, precision=loading.precision))
    return replace(network, source=source.origin)


def file_signature(signature: str, identity: FileIdentity) -> str:
    """A file of the user's: its times and its inode change whenever the content does, so what was loaded once is known again."""
    return f"{signature} {tuple(identity)}"


def unchanged(tensors: FileTensors) -> dict[str, np.ndarray]:
    """All of a file in memory, of one moment."""
    arrays = in_memory(tensors)
    tensors.file.check_unchanged()
    return arrays


def read_in_place(source: Source, config: UNetConfig | VAEConfig, tensors: FileTensors, loading: Loading) -> Network:
    """A float32 file of the user's, read into memory. Its digest is taken once, and known by the file's identity from then on."""
    arrays = unchanged(tensors)
    signature = file_signature(source.signature, tensors.file.identity)
    known = refs.find(signature, source.net) if loading.cache else None
    if known and known.digest:
        return Network(config, arrays, known.digest, source.origin, tensors.ignored)
    digest = identity.digest(config, arrays, arrays.__getitem__)
    if loading.cache:
        with suppress(WeightError):  # a cache that cannot be written costs the digest again at the next start
            remember(signature, Ref(source.net, source.origin, digest=digest))
    return Network(config, arrays, digest, source.origin, tensors.ignored)


def write_copy(target: Path, source: Source, config: UNetConfig | VAEConfig, tensors: FileTensors, loading: Loading) -> Network:
    """The network as its new copy: the tensors and the seal, with the config and what else `read_copy` wants in the metadata."""
    arrays = Reporting(tensors, f"converting {source.label}", loading)
    like = {name: (stored_type(shape, loading.precision), shape) for name, shape in arrays.shapes.items()}
    need_room(target, sum(dtype.itemsize * math.prod(shape) for dtype, shape in like.values()), source.label)
    metadata = {"config": json.dumps(infer.to_json(config)), "ignored": json.dumps(tensors.ignored)}
    like[SEAL] = (np.dtype(np.uint8), (32,))  # of the narrowest type, and so written last
    try:
        make(target.parent)
        safetensors.write(target, Sealed(config, arrays), metadata, like)
    except WeightError as error:
        raise WeightError(source.say_label(str(error))) from error
    except OSError as error:
        # else another process has just put it there, and Windows does not replace what is mapped
        if (copy := open_copy(source.net, target, loading)) is None:
            raise cannot_write(error, source.label, target) from error
        return copy
    network, copied = read_copy(source.net, target)
    note_checked(copied.file)  # what was written is what was hashed
    return network


def halved(net: Net, whole: Path, target: Path, label: str, loading: Loading) -> Network | None:
    """A copy in f16 of a whole copy; None where that is damaged."""
    network = open_copy(net, whole, loading)
    if network is None:
        return None
    _, tensors = read_copy(net, whole)
    parameters = FileTensors(tensors.file, {k: t for k, t in tensors.info.items() if k != SEAL}, tensors.metadata, network.ignored)
    return write_copy(target, Source(net, whole, label, "", "", {}, ""), network.config, parameters, loading)


def copy_size(tensors: FileTensors) -> int:
    """The bytes of all tensors as float32."""
    return 4 * sum(t.size for t in tensors.info.values())


class Reporting(Float32):
    """Says how far the conversion is, as arrays are asked for; after the last one the source must still be what it was."""

    def __init__(self, tensors: FileTensors, doing: str, loading: Loading) -> None:
        super().__init__(tensors)
        self.doing, self.loading, self.done = doing, loading, 0
        self.total = copy_size(tensors)

    def __getitem__(self, name: str) -> np.ndarray:
        array = super().__getitem__(name)
        self.done += array.nbytes
        self.loading.say(self.doing, self.done, self.total)
        if self.done == self.total:
            self.tensors.file.check_unchanged()
        try:
            return stored(name, array, self.loading.precision)
        except WeightError as error:
            raise WeightError(f"{self.tensors.path}: {error}") from error
