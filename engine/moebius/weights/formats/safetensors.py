"""`.safetensors`: 8 bytes of header length, a JSON header, the data. Written in one piece or not at all.

The published library (0.8) writes and reads the same files, and the tests hold this module to it both ways; it is no part of a run.
With NumPy it cannot read bfloat16, which the model is published in. It opens a file by its name alone, so that what is looked at,
hashed and read may be three files; it takes headers of 100 MB and a name that occurs twice; it writes only what is in memory as a
whole, and straight into the place of what was there.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from moebius.errors import WeightError
from moebius.files import replacing
from moebius.weights.formats.tensors import ITEMSIZE, MAX_NDIM, NUMPY, FileTensors, MappedFile, OpenFile, Tensor

MAX_HEADER = 4 << 20  # the format allows 100 MB, of which Python would make 1 GB of objects; the full model's header is 0.2 MB
ALIGNMENT = 64
NAMES = {np.dtype(code): name for name, code in NUMPY.items() if name != "BF16"}


def read(path: str | Path, *, mapped: bool = False) -> FileTensors:
    """The tensors of a file. All of the header is checked, so that every one lies inside the file and no two overlap.

    `mapped` is for files that nobody writes to: the cache's own."""
    path = Path(path)
    file = MappedFile(path) if mapped else OpenFile(path)

    def refuse(what: str) -> WeightError:
        return WeightError(f"{path} is not a sound .safetensors file: {what}. Copy or download it again.")

    if file.size < 8:
        raise refuse(f"it has {file.size} bytes")
    length = int.from_bytes(file[:8], "little")
    if length > file.size - 8:
        raise refuse(f"its header claims {length} bytes and the file has {file.size}")
    if length > MAX_HEADER:
        raise refuse(f"its header has {length} bytes, and more than {MAX_HEADER} are not read")
    try:
        header = json.loads(file[8 : 8 + length].decode("utf-8"), object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        raise refuse(f"its header cannot be read ({error})") from error
    if not isinstance(header, dict):
        raise refuse("its header is not a JSON object")
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise refuse("its __metadata__ is not a map of strings")

    info, spans = {}, []
    for name, entry in header.items():
        try:
            tensor, end = place(entry, 8 + length)
        except ValueError as error:
            raise refuse(f"the entry of {name[:200]!r} {error}") from error
        info[name] = tensor
        spans.append((tensor.offset, end, name))
    at = 8 + length
    for begin, end, name in sorted(spans):
        if begin != at:
            raise refuse(f"{name[:200]!r} begins at byte {begin} where {at} was expected: there is a hole or an overlap")
        at = end
    if at != file.size:
        raise refuse(f"its tensors end at byte {at} and the file at {file.size}")
    return FileTensors(file, info, metadata)


def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """For json: which of two equal keys counts would be anyone's guess."""
    out = dict(pairs)
    if len(out) != len(pairs):
        raise ValueError("a name appears twice")
    return out


def place(entry: Any, start: int) -> tuple[Tensor, int]:
    """A header entry → the tensor and the byte after it."""
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise ValueError("is not {dtype, shape, data_offsets}")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in NUMPY:
        raise ValueError(f"has type {str(dtype)[:40]!r}; {', '.join(NUMPY)} are read")
    if not isinstance(shape, list) or len(shape) > MAX_NDIM or not all(is_size(n) for n in shape):
        raise ValueError(f"has a shape that is not a list of at most {MAX_NDIM} sizes")
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(is_size(n) for n in offsets):
        raise ValueError("has no two data_offsets")
    tensor, (begin, end) = Tensor(dtype, tuple(shape), start + offsets[0]), offsets
    if end - begin != tensor.size * ITEMSIZE[dtype]:
        raise ValueError(f"takes {end - begin} bytes, but {dtype} {tensor.shape} takes {tensor.size * ITEMSIZE[dtype]}")
    return tensor, start + end


def is_size(n: Any) -> bool:
    return type(n) is int and 0 <= n < 1 << 48


def write(
    path: str | Path,
    arrays: Mapping[str, np.ndarray],
    metadata: Mapping[str, str] | None = None,
    like: Mapping[str, tuple[np.dtype, tuple[int, ...]]] | None = None,
) -> None:
    """Writes beside `path`, flushes to the disk, and renames: `path` holds the old bytes or all of the new ones, never a part.

    Arrays are asked for one at a time. `like` gives their types and shapes ahead, where making an array costs something.
    OSError is left to the caller, who knows what the file is for.
    """
    path, like = Path(path), like or {name: (a.dtype, a.shape) for name, a in arrays.items()}
    names = sorted(like, key=lambda name: -like[name][0].itemsize)  # wide types first keeps every tensor aligned to its type
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    at = 0
    for name in names:
        dtype, shape = like[name]
        end = at + dtype.itemsize * int(np.prod(shape, dtype=np.int64))
        header[name] = {"dtype": NAMES[dtype.newbyteorder("<")], "shape": list(shape), "data_offsets": [at, end]}
        at = end
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-(8 + len(text)) % ALIGNMENT)

    with replacing(path) as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in names:
            dtype, shape = like[name]
            array = np.asarray(arrays[name], dtype.newbyteorder("<"), order="C")
            if array.shape != shape:
                raise WeightError(f"{name} is {array.shape}, but {shape} was announced.")
            file.write(array.reshape(-1).view(np.uint8).data)
