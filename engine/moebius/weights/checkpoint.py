"""A checkpoint file → a network's config and its tensors, checked."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from moebius.errors import UsageError, WeightError
from moebius.model import unet as unet_module
from moebius.model import vae as vae_module
from moebius.model.params import check
from moebius.model.unet import PREFIX, UNetConfig
from moebius.model.vae import VAEConfig
from moebius.weights import infer
from moebius.weights.formats import safetensors
from moebius.weights.formats.tensors import NUMPY, FileTensors, Tensor, is_finite

Net = Literal["unet", "vae"]
NET_NAMES = {"unet": "UNet", "vae": "VAE"}
TORCH_ENDINGS = (".bin", ".pt", ".pth", ".ckpt")

# What training scripts save beside the weights. No parameter of either network has such a name.
EXTRAS = re.compile(
    r"(ema|ema_model|model_ema|ema_\w+|optimizers?|optimizer_states?|lr_schedulers?|schedulers?|grad_scaler|scaler|loss\w*"
    r"|global_step|step|epoch|iteration|random_states?|rng_states?)(\..*)?"
)


# A name that every checkpoint of a network has: what stands in front of it, a wrapper has put there.
LANDMARKS = {"unet": f"{PREFIX}.conv_in.conv_dw.weight", "vae": "encoder.conv_in.weight"}


@dataclass(frozen=True)
class Network:
    """One network's weights: float32, finite, of exactly the config's names and shapes. `digest` is `identity.digest`, `source` where
    they came from ({"repo", "file", "revision", "commit"}, {"path"}), and `ignored` names what else the file held."""

    config: UNetConfig | VAEConfig
    tensors: Mapping[str, np.ndarray]
    digest: str
    source: Mapping[str, str]
    ignored: tuple[str, ...] = ()


@dataclass(frozen=True)
class Weights:
    """All that a pipeline needs, and which model it is.

    name: that of a published model, or of the file or folder. sources, digests: of "unet" and "vae", as in `Network`. blend: how the
    model wants its fills put back, where its file says so. notes: what the user should know of how it was loaded.
    """

    name: str
    unet_config: UNetConfig
    unet: Mapping[str, np.ndarray]
    vae_config: VAEConfig
    vae: Mapping[str, np.ndarray]
    sources: Mapping[str, Mapping[str, str]]
    digests: Mapping[str, str]
    blend: str | None = None
    ignored: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def commit(self) -> str | None:
        """The Hub's, of the UNet, where it came from there."""
        return self.sources["unet"].get("commit")


def open_tensors(path: Path, name: str | None = None) -> FileTensors:
    """Opens a file by its ending, which `name` has where the path does not."""
    ending = Path(name or path).suffix.lower()
    if ending == ".safetensors":
        return safetensors.read(path)
    if ending in TORCH_ENDINGS:
        from moebius.weights.formats import torch_save  # with its reader of pickles: most files need none

        return torch_save.read(path)
    raise UsageError(f"{path} ends in {ending or 'nothing'!r}; weights are read from .safetensors, {', '.join(TORCH_ENDINGS)}.")


def recognise(net: Net, tensors: FileTensors, declared: Mapping[str, Any] | None = None) -> tuple[UNetConfig | VAEConfig, FileTensors]:
    """The config, and the same file seen through it: its parameters alone, under their modern names. The data is not touched.

    `declared` are the fields of a config beside the file.
    """
    ignored = [name for name, t in tensors.info.items() if EXTRAS.fullmatch(name) or not t.size]
    unused = {*ignored, *(name for name in tensors.info if name.endswith("num_batches_tracked"))}
    info = {name: t for name, t in tensors.info.items() if name not in unused}
    refuse_wrapped(net, info)
    config: UNetConfig | VAEConfig
    if net == "unet":
        config = infer.unet_config({name: t.shape for name, t in info.items()}, declared)
        shapes = unet_module.shapes(config)
    else:
        info = modern_info(info)
        config = infer.vae_config({name: t.shape for name, t in info.items()}, declared)
        shapes = vae_module.shapes(config)
    check(stand_ins(info), shapes, NET_NAMES[net])
    return config, FileTensors(tensors.file, info, tensors.metadata, (*tensors.ignored, *ignored), tensors.verify)


def refuse_wrapped(net: Net, names: Collection[str]) -> None:
    """Says what to do with a checkpoint of a model that was saved with its wrapper."""
    landmark = LANDMARKS[net]
    name = next((n for n in names if n.endswith(f".{landmark}")), None)
    if landmark in names or name is None:
        return
    if {n.split(".")[0] for n in names} == set(NET_NAMES):
        raise WeightError(
            "It holds both networks, as a bundle does, but its metadata, which says how each is built, is gone. "
            "Write it with the metadata of the file that it came from."
        )
    prefix = ascii(name.removesuffix(landmark)[-80:])
    raise WeightError(
        f"The names of its tensors begin with {prefix}: the model was saved with a wrapper around it (DataParallel, torch.compile). "
        "Save the one inside, torch.save(model.module.state_dict(), 'out.bin'), or take that off the names: "
        f"torch.save({{k.removeprefix({prefix}): v for k, v in torch.load('in.bin', map_location='cpu', weights_only=True).items()}}, "
        "'out.bin')."
    )


def stand_ins(info: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
    """Arrays of the right types and shapes that take no memory."""
    zero = bytes(8)  # of any type; np.broadcast_to takes as long as reading a small tensor
    return {name: np.ndarray(t.shape, stand_in_type(t), zero, 0, (0,) * len(t.shape)) for name, t in info.items()}


def stand_in_type(t: Tensor) -> np.dtype:
    """The type of the array that a tensor is read as."""
    return np.dtype(np.float32 if t.dtype == "BF16" else NUMPY[t.dtype])


def modern_info(info: dict[str, Tensor]) -> dict[str, Tensor]:
    """`vae.modern_names` for tensors that are not read yet. It keeps the order, and takes only trailing ones off a shape."""
    renamed = vae_module.modern_names(stand_ins(info))
    if len(renamed) != len(info):
        raise WeightError("The VAE has an attention under its old names and under its new ones. Check that the file is the right one.")
    return {
        name: replace(t, shape=array.shape, strides=t.strides and t.strides[: array.ndim])
        for (name, array), t in zip(renamed.items(), info.values(), strict=True)
    }


def is_ready(tensors: FileTensors) -> bool:
    """Whether this file holds what a backend wants, aligned float32 in order: there is nothing to convert."""
    return all(t.dtype == "F32" and t.strides is None and t.offset % 4 == 0 for t in tensors.info.values())


class Float32(Mapping[str, np.ndarray]):
    """Tensors as float32 arrays, each converted and checked for NaN and infinity when it is asked for."""

    def __init__(self, tensors: FileTensors) -> None:
        self.tensors = tensors
        self.shapes = {name: t.shape for name, t in tensors.info.items()}

    def __getitem__(self, name: str) -> np.ndarray:
        with np.errstate(over="ignore"):  # a float64 beyond float32's range becomes infinite, and is reported as that
            array = np.asarray(self.tensors[name], np.float32, order="C")
        if not is_finite(array):
            raise WeightError(
                f"{self.tensors.path}: {name} holds a NaN or an infinity, so no picture could come of it. Copy or download the file again; "
                "if it was trained like this, use an earlier checkpoint."
            )
        return array

    def __iter__(self) -> Iterator[str]:
        return iter(self.shapes)

    def __len__(self) -> int:
        return len(self.shapes)


def in_memory(tensors: FileTensors) -> dict[str, np.ndarray]:
    """Every tensor as float32, checked: copies of the file's bytes, which do not change when the file does."""
    return dict(Float32(tensors))
