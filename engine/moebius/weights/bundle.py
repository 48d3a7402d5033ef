"""The bundle: one .safetensors of ours that holds both networks and their configs, as the packaged nano does."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from moebius.errors import WeightError
from moebius.model import unet as unet_module
from moebius.model import vae as vae_module
from moebius.model.params import check
from moebius.model.unet import UNetConfig
from moebius.model.vae import VAEConfig
from moebius.weights import identity, infer
from moebius.weights.checkpoint import NET_NAMES, Weights, in_memory, stand_ins
from moebius.weights.formats import safetensors
from moebius.weights.formats.half import stored
from moebius.weights.formats.tensors import FileTensors, is_finite

BUNDLE_KEY = "moebius"  # of the metadata: {"unet": {config}, "vae": {config}, and "blend" where the model wants its fills joined so}


def is_bundle(tensors: FileTensors) -> bool:
    return BUNDLE_KEY in tensors.metadata


def write_bundle(
    path: str | Path,
    unet_config: UNetConfig,
    unet: Mapping[str, np.ndarray],
    vae_config: VAEConfig,
    vae: Mapping[str, np.ndarray],
    *,
    half: bool = False,
    blend: str | None = None,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Both networks in one .safetensors, tensors named unet.… and vae.…, with their configs; `half` as `formats.half` says."""
    arrays: dict[str, np.ndarray] = {}
    configs: dict[str, Any] = {}
    for net, config, weights, shapes in (
        ("unet", unet_config, unet, unet_module.shapes(unet_config)),
        ("vae", vae_config, vae_module.modern_names(vae), vae_module.shapes(vae_config)),
    ):
        check(weights, shapes, NET_NAMES[net])
        configs[net] = infer.to_json(config)
        for name in shapes:
            with np.errstate(over="ignore"):
                array = np.asarray(weights[name], np.float32)
            if not is_finite(array):
                raise WeightError(f"{net}.{name} holds a NaN or an infinity, or a value beyond float32.")
            arrays[f"{net}.{name}"] = stored(f"{net}.{name}", array, "f16" if half else "f32")
    if blend is not None:
        configs["blend"] = blend
    safetensors.write(path, arrays, {**(metadata or {}), BUNDLE_KEY: json.dumps(configs)})


def read_bundle(path: str | Path, name: str | None = None, source: Mapping[str, str] | None = None) -> Weights:
    """What `write_bundle` wrote. Meant for small models: it is decoded into memory at each start."""
    path = Path(path)
    tensors = safetensors.read(path)
    if not is_bundle(tensors):
        raise WeightError(f"{path} is no bundle: its metadata has no {BUNDLE_KEY!r}. Give a file that holds a UNet and a VAE of Moebius.")
    configs = infer.parse(tensors.metadata[BUNDLE_KEY], f"The config in {path}")
    nets: dict[str, FileTensors] = {}
    for net in NET_NAMES:
        if not isinstance(configs.get(net), dict):
            raise WeightError(f"The config in {path} has no {net}. Get the file again from where it came.")
        info = {name.removeprefix(f"{net}."): t for name, t in tensors.info.items() if name.startswith(f"{net}.")}
        nets[net] = FileTensors(tensors.file, info)
    if len(nets["unet"]) + len(nets["vae"]) != len(tensors):
        raise WeightError(f"{path} has tensors that are neither unet.… nor vae.…. Get the file again from where it came.")
    try:
        unet_config, vae_config = infer.build(UNetConfig, configs["unet"]), infer.build(VAEConfig, configs["vae"])
        check(stand_ins(nets["unet"].info), unet_module.shapes(unet_config), NET_NAMES["unet"])
        check(stand_ins(nets["vae"].info), vae_module.shapes(vae_config), NET_NAMES["vae"])
    except WeightError as error:
        raise WeightError(f"{path}: {error}") from error
    blend = configs.get("blend")
    if blend is not None and not isinstance(blend, str):
        raise WeightError(f"The config in {path} has a blend that is no text. Get the file again from where it came.")
    unet, vae = in_memory(nets["unet"]), in_memory(nets["vae"])
    digests = identity.Digests({"unet": (unet_config, unet), "vae": (vae_config, vae)})
    source = source or {"path": str(path)}
    return Weights(name or path.name, unet_config, unet, vae_config, vae, {"unet": source, "vae": source}, digests, blend)
