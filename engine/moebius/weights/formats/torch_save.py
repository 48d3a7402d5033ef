"""What `torch.save` writes, read without PyTorch and without running a pickle.

The file is a zip (`zip.py`) of `data.pkl`, a pickle (`pickle.py`) of the dictionary that was saved, and `data/0`, `data/1`, …, the bytes of
its storages. Nothing in the file is believed: every size and offset is compared with the bytes that are there before memory is taken
for it.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from moebius.errors import WeightError
from moebius.weights.formats.pickle import Ref, interpret
from moebius.weights.formats.refused import HOW_TO_CONVERT, SAVE_AGAIN, RefusedError, damaged
from moebius.weights.formats.tensors import ITEMSIZE, FileTensors, OpenFile, Tensor
from moebius.weights.formats.zip import Member, read_members, verify

MAX_PICKLE = 8 << 20  # bytes; the full model's has 0.2 MB
MAX_NESTING = 4  # {"model": {"state_dict": {…}}}

# Where training scripts put the weights among other things, in the order of preference.
WEIGHT_KEYS = ("state_dict", "model_state_dict", "model", "module", "unet", "vae", "params")


def read(path: str | Path) -> FileTensors:
    """Opens a file. Everything but the tensors' bytes is read and checked here."""
    path = Path(path)
    file = OpenFile(path)
    try:
        check_format(file)
        members = read_members(file)
        pickled = find_pickle(file, members)
        storages = {name: m for name, m in members.items() if name.startswith("data/")}
        refs, ignored = state_dict(interpret(file[pickled.offset : pickled.offset + pickled.size]))
        info = {name: place(name, ref, storages) for name, ref in refs.items()}
    except RefusedError as refused:
        raise WeightError(f"{path} cannot be used: {refused}") from None
    return FileTensors(file, info, ignored=ignored, verify=lambda: verify(file, storages))


def check_format(file: OpenFile) -> None:
    """Refuses what is no zip, with a word on what it is instead."""
    start = file[:512]
    if start.startswith(b"PK\x03\x04"):
        return
    if start.startswith(b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."):
        raise RefusedError(f"it has the format PyTorch wrote before version 1.6, which is not read. {HOW_TO_CONVERT}")
    if start[257:262] == b"ustar":
        raise RefusedError(f"it is a tar, the format of the oldest PyTorch, which is not read. {HOW_TO_CONVERT}")
    if start[:1] == b"\x80":
        raise RefusedError(f"it is a bare pickle, which is not read. {HOW_TO_CONVERT}")
    if start.startswith(b"version https://git-lfs"):
        raise RefusedError("it is a Git LFS pointer; the weights themselves are elsewhere. Fetch them with `git lfs pull`.")
    if start.lstrip()[:1] == b"<":
        raise RefusedError("it is a web page. Download the file itself.")
    if start[8:9] == b"{":
        raise RefusedError("it looks like a .safetensors file. Give it that ending.")
    raise RefusedError(f"it is no file that torch.save has written (it starts with {start[:8].hex(' ')}). Copy or download it again.")


def find_pickle(file: OpenFile, members: dict[str, Member]) -> Member:
    """The member data.pkl, after a look at what the other members say of the file. Its checksum is compared."""
    if "constants.pkl" in members:
        raise RefusedError(f"it is a TorchScript program, not a state dict. {SAVE_AGAIN}")
    if "data.pkl" not in members:
        damaged("it has no data.pkl")
    if order := members.get("byteorder"):
        byteorder = file[order.offset : order.offset + min(order.size, 16)]
        if byteorder != b"little":
            raise RefusedError(f"its byte order is {byteorder!r}; only little-endian files are read. {HOW_TO_CONVERT}")
    pickled = members["data.pkl"]
    if pickled.size > MAX_PICKLE:
        raise RefusedError(f"its data.pkl has {pickled.size} bytes; more than {MAX_PICKLE} are not read. {SAVE_AGAIN}")
    verify(file, {"data.pkl": pickled})
    return pickled


def state_dict(saved: Any, within: str = "", nesting: int = 0) -> tuple[dict[str, Ref], tuple[str, ...]]:
    """The tensors by name, and the names of what lies beside them. A state dict may lie inside of another dictionary."""
    if not isinstance(saved, dict):
        raise RefusedError(f"it holds a {type(saved).__name__}{within}, not a state dict. {SAVE_AGAIN}")
    refs = {key: value for key, value in saved.items() if isinstance(key, str) and isinstance(value, Ref)}
    if refs:
        return refs, tuple(str(key) for key in saved if key not in refs)
    for key in WEIGHT_KEYS:
        if isinstance(saved.get(key), dict) and nesting < MAX_NESTING:
            refs, ignored = state_dict(saved[key], f"{within} in {key!r}", nesting + 1)
            return refs, (*(str(other) for other in saved if other != key), *ignored)
    keys = ", ".join(repr(str(key)[:40]) for key in list(saved)[:5])
    raise RefusedError(f"it holds no tensors{within}{f', only {keys}' if keys else ''}. {SAVE_AGAIN}")


def place(name: str, ref: Ref, storages: dict[str, Member]) -> Tensor:
    """A tensor's place in the file, after its claims were compared with the bytes that are there. All in integers without limit."""
    member, item = storages.get(f"data/{ref.storage.key}"), ITEMSIZE[ref.storage.dtype]
    if member is None:
        damaged(f"the storage of {name[:200]!r} is missing")
    if ref.storage.numel * item != member.size:
        damaged(f"the storage of {name[:200]!r} claims {ref.storage.numel} elements of {item} bytes and has {member.size} bytes")
    size = math.prod(ref.shape)
    if size:
        last = ref.offset + sum((n - 1) * stride for n, stride in zip(ref.shape, ref.strides, strict=True))
        if last >= ref.storage.numel or size > ref.storage.numel:
            damaged(f"{name[:200]!r} {ref.shape} reaches beyond its storage of {ref.storage.numel} elements")
    steps = [math.prod(ref.shape[i + 1 :]) for i in range(len(ref.shape))]
    in_order = all(n == 1 or stride == step for n, stride, step in zip(ref.shape, ref.strides, steps, strict=True))
    return Tensor(ref.storage.dtype, ref.shape, member.offset + ref.offset * item, None if in_order or not size else ref.strides)
