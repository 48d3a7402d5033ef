"""The copies: a .safetensors for each network, mapped at every start, and sealed with the digest of what it holds: all float32, or in
f16, where that was asked for, with its matrices as float16.

The seal is compared once for every identity a copy has had (size, times, inode): when it was written to, moved or restored, all of it is
read and hashed, at 1.3 GB/s a core (the full UNet has 0.9 GB); else only its header is read. A copy that is not what its seal says is
set aside, and the weights are converted again. `moebius cache --check` compares all of them, whatever their identity.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

import numpy as np

from moebius.errors import WeightError
from moebius.model.contract import Precision
from moebius.model.unet import UNetConfig
from moebius.model.vae import VAEConfig
from moebius.weights import identity, infer
from moebius.weights.checkpoint import Net, Network
from moebius.weights.folders import read_note, subfolder, write_note
from moebius.weights.formats import safetensors
from moebius.weights.formats.tensors import NUMPY, FileTensors, OpenFile, UnreadableError
from moebius.weights.loading import Loading
from moebius.weights.refs import FORMAT

SEAL = "sha256"  # the last tensor of a copy: the 32 bytes of `identity.digest`
TICK = 20_000_000  # nanoseconds: two writes within one tick of a file system's clock leave one time behind


def copy_file(net: Net, sha256: str, config_text: str, precision: Precision = "f32") -> Path:
    """Where the copy of a file lies, or would lie: `sha256` is the file's, `config_text` the config beside it."""
    half = "" if precision == "f32" else f"{precision} "
    key = hashlib.sha256(f"{half}{FORMAT} {net} {sha256} {config_text}".encode()).hexdigest()
    return subfolder("weights") / f"{net}-{key}.safetensors"


def open_copy(net: Net, path: Path, loading: Loading) -> Network | None:
    """The network of a copy, or None where there is no sound one; a damaged one is set aside, and named in `loading.notes`."""
    if not os.path.isfile(path):
        return None
    try:
        network, tensors = read_copy(net, path)
        if not is_checked(tensors.file):
            check_seal(network, tensors)
            note_checked(tensors.file)
    except UnreadableError as error:
        if error.errno == errno.ENOENT:  # removed a moment ago
            return None
        if error.errno != errno.EIO:
            raise
        reason = str(error)
    except (WeightError, ValueError, TypeError, AttributeError, RecursionError) as error:
        reason = str(error)
    else:
        return network
    loading.notes.append(f"A converted copy in the cache was damaged, and is made again. It is set aside as {set_aside(path)}. ({reason})")
    return None


def read_copy(net: Net, path: Path) -> tuple[Network, FileTensors]:
    """The network of a copy, as it lies there, and its file with the seal. No value is looked at."""
    whole = safetensors.read(path, mapped=True)
    seal = whole.info.get(SEAL)
    parameters = {name: t for name, t in whole.info.items() if name != SEAL}
    if seal is None or (seal.dtype, seal.shape) != ("U8", (32,)) or any(t.dtype not in ("F32", "F16") for t in parameters.values()):
        raise WeightError(f"{path} is no copy of this program's.")
    fields = infer.parse(whole.metadata.get("config", ""), f"The config in {path}")
    config = infer.build(UNetConfig, fields) if net == "unet" else infer.build(VAEConfig, fields)
    ignored = tuple(str(name) for name in json.loads(whole.metadata.get("ignored", "[]")))
    tensors = FileTensors(whole.file, parameters, whole.metadata, ignored)
    return Network(config, tensors, whole[SEAL].tobytes().hex(), {}, ignored), whole


def check_seal(network: Network, tensors: FileTensors) -> None:
    """Reads all of a copy, not through the map (a bad block of the disk is an error then, and not the end of the process)."""

    def values(name: str) -> np.ndarray:
        t = tensors.info[name]
        return np.frombuffer(tensors.file.read(t.offset, t.nbytes), NUMPY[t.dtype]).reshape(t.shape)

    found = identity.digest(network.config, network.tensors, values)
    if found != network.digest:
        raise WeightError(f"Its content has the digest {found[:12]}…, and its seal says {network.digest[:12]}….")


class Sealed(Mapping[str, np.ndarray]):
    """What a copy is written from: the arrays, each asked for once, and at the end the seal made of what was handed out."""

    def __init__(self, config: UNetConfig | VAEConfig, arrays: Mapping[str, np.ndarray]) -> None:
        self.config, self.arrays = config, arrays
        self._lines: list[str] = []

    def __getitem__(self, name: str) -> np.ndarray:
        if name == SEAL:
            return np.frombuffer(bytes.fromhex(identity.of_lines(self.config, self._lines)), np.uint8)
        array = self.arrays[name]
        self._lines.append(identity.line(name, array))
        return array

    def __iter__(self) -> Iterator[str]:
        yield from (*self.arrays, SEAL)

    def __len__(self) -> int:
        return len(self.arrays) + 1


# When a copy was last compared with its seal --------------------------------------------------------------------------


def checked_file(path: Path) -> Path:
    return subfolder("checked") / f"{path.name}.json"


def is_checked(file: OpenFile) -> bool:
    """Whether a file has the identity that it had when it was compared."""
    return bool(read_note(checked_file(file.path)) == list(file.identity))


def note_checked(file: OpenFile) -> None:
    """Notes that what is in the file is sound. Where that cannot be written, the next start compares again."""
    if time.time_ns() - max(file.identity.modified, file.identity.changed) < TICK:
        time.sleep(TICK / 1e9)  # from here on, whoever writes to it gives it another time
    with suppress(OSError):
        if file.identity_now() == file.identity:
            write_note(checked_file(file.path), file.identity)


def set_aside(path: Path) -> Path:
    """Takes a damaged copy out of the way, for whoever wants to know what happened to it."""
    aside = path.with_name(f"{path.name}.damaged")
    try:
        os.replace(path, aside)
    except FileNotFoundError:  # another process was quicker
        pass
    except OSError as error:
        raise WeightError(f"{path} is damaged and cannot be moved: {error.strerror}. Remove it; it is made again.") from error
    return aside
