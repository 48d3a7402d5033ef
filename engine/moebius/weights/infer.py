"""Which member of the family a checkpoint is: read off its shapes, and from a config beside it what shapes do not tell."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any, TypeVar

from moebius.errors import UsageError, WeightError
from moebius.model.unet import PREFIX, UNetConfig
from moebius.model.vae import VAEConfig

Sizes = Mapping[str, tuple[int, ...]]
Config = TypeVar("Config", UNetConfig, VAEConfig)

# What a member of the family can be, field by field: from, to. Far beyond any that was trained, and near enough that a config cannot
# cost time or memory: 65 536 layers a block took a minute and gigabytes before a single tensor was compared.
LEVELS = 8  # of block_out_channels
BOUNDS: dict[type, dict[str, tuple[float, float]]] = {
    UNetConfig: {
        "sample_size": (1, 512),
        "in_channels": (1, 256),
        "out_channels": (1, 128),
        "block_out_channels": (1, 8192),
        "layers_per_block": (1, 8),
        "heads": (1, 128),
        "cross_attention_dim": (1, 8192),
        "encoder_hid_dim": (1, 16384),
        "num_embeddings": (1, 65536),
        "norm_num_groups": (1, 1024),
        "mix_mlp_ratio": (0.1, 16),
        "norm_eps": (1e-12, 0.1),
    },
    VAEConfig: {
        "block_out_channels": (1, 8192),
        "layers_per_block": (1, 8),
        "latent_channels": (1, 128),
        "in_channels": (1, 16),
        "norm_num_groups": (1, 1024),
        "scaling_factor": (1e-4, 1e4),
    },
}

OTHER_NAMES = {"attention_head_dim": "heads"}  # the published yaml's name for the number of heads
CHECK = "Check that the file is the right one, or put a config.json beside it."


def unet_config(shapes: Sizes, declared: Mapping[str, Any] | None = None) -> UNetConfig:
    """The config of a UNet with these shapes. `declared`, the fields of a config beside the weights, wins over what the shapes say (the
    strict check then names the tensors that disagree); groups and eps come from it alone."""

    def size(name: str, axis: int) -> int:
        return dimension(shapes, name, axis, "UNet")

    down = f"{PREFIX}.down_blocks"
    blocks = count(shapes, f"{down}.{{}}.resnets.0.norm1.weight")
    channels = tuple(size(f"{down}.{i}.attentions.0.proj_in.weight", 0) for i in range(blocks))
    block = f"{down}.0.attentions.0.transformer_blocks.0"
    grid = size(f"{block}.attn2.rel_pos_emb", 0)
    heads, left = divmod(channels[0] if channels else 0, size(f"{block}.attn1.to_k.weight", 0))
    feed_forward = "attentions.0.transformer_blocks.0.ff.inverted_conv.conv.weight"
    ratio = mlp_ratio([(n, size(f"{down}.{i}.{feed_forward}", 0)) for i, n in enumerate(channels)])
    if math.isqrt(grid) ** 2 != grid or left or not heads or not ratio:
        raise WeightError(f"These weights are no UNet of this family: the shapes below {block} do not go together. {CHECK}")
    return build(
        UNetConfig,
        {
            "sample_size": math.isqrt(grid),
            "in_channels": size(f"{PREFIX}.conv_in.conv_dw.weight", 0),
            "out_channels": size(f"{PREFIX}.conv_out.conv_pw.weight", 0),
            "block_out_channels": channels,
            "layers_per_block": count(shapes, f"{down}.0.resnets.{{}}.norm1.weight"),
            "heads": heads,
            "cross_attention_dim": size(f"{block}.attn2.to_k.weight", 1),
            "encoder_hid_dim": size("embedding_layer.weight", 1),
            "num_embeddings": size("embedding_layer.weight", 0),
            "mix_mlp_ratio": ratio,
        },
        declared,
    )


def vae_config(shapes: Sizes, declared: Mapping[str, Any] | None = None) -> VAEConfig:
    """As `unet_config`; a diffusers config.json is what one expects beside a VAE. Its scaling factor is in no shape."""

    def size(name: str, axis: int) -> int:
        return dimension(shapes, name, axis, "VAE")

    if declared and (declared.get("shift_factor") or declared.get("latents_mean") or declared.get("latents_std")):
        raise WeightError("The VAE's config shifts its latents (shift_factor, latents_mean or latents_std), which this model does not use.")
    down = "encoder.down_blocks"
    blocks = count(shapes, f"{down}.{{}}.resnets.0.conv1.weight")
    return build(
        VAEConfig,
        {
            "block_out_channels": tuple(size(f"{down}.{i}.resnets.0.conv1.weight", 0) for i in range(blocks)),
            "layers_per_block": count(shapes, f"{down}.0.resnets.{{}}.conv1.weight"),
            "latent_channels": size("decoder.conv_in.weight", 1),
            "in_channels": size("encoder.conv_in.weight", 1),
        },
        declared,
    )


def build(kind: type[Config], inferred: Mapping[str, Any], declared: Mapping[str, Any] | None = None) -> Config:
    """A config from what was inferred and, over that, the fields of `declared` that are the config's. Each is checked before it is used."""
    what = "UNet" if kind is UNetConfig else "VAE"
    values: dict[str, Any] = {}
    defaults = asdict(kind())
    for name, value in (*inferred.items(), *(declared or {}).items()):
        field = OTHER_NAMES.get(name, name) if kind is UNetConfig else name
        if field in defaults and value is not None:
            values[field] = tuple(value) if isinstance(value, list) else value
    for name, value in values.items():
        default, (low, high) = defaults[name], BOUNDS[kind][name]
        numbers = value if isinstance(value, tuple) else (value,)
        kinds = (int, float) if isinstance(default, float) else (int,)  # True is an int to Python, and its type is not
        listed = isinstance(value, tuple) == isinstance(default, tuple) and 0 < len(numbers) <= LEVELS
        if not listed or not all(type(n) in kinds and low <= n <= high for n in numbers):
            raise WeightError(f"The {what}'s config has {name} = {ascii(value)[:80]}; it can be from {low:g} to {high:g}. {CHECK}")
        if isinstance(default, float):
            values[name] = float(value)
    try:
        return kind(**values)
    except UsageError as error:
        has_groups = declared and "norm_num_groups" in declared
        hint = "" if has_groups else " No shape tells norm_num_groups; give it in a config.json beside the weights."
        raise WeightError(f"The {what}'s config does not go together: {error}{hint}") from error


def mlp_ratio(widths: list[tuple[int, int]]) -> float | None:
    """The roundest r with 2·int(n·r) rows for every width n."""
    low, high = max(rows / 2 / n for n, rows in widths), min((rows / 2 + 1) / n for n, rows in widths)
    tries = (UNetConfig().mix_mlp_ratio, *(round((low + high) / 2, digits) for digits in (0, 1, 2, 3, 6)))
    return next((r for r in tries if all(2 * int(n * r) == rows for n, rows in widths)), None)


def dimension(shapes: Sizes, name: str, axis: int, what: str) -> int:
    """One size of a tensor that must be there; `what` is the network's name in the error."""
    shape = shapes.get(name, ())
    if len(shape) <= axis or not shape[axis]:
        there = f"is {shape}" if name in shapes else "is missing"
        raise WeightError(f"These weights are no {what} of this family: {name} {there}. {CHECK}")
    return shape[axis]


def count(shapes: Sizes, pattern: str) -> int:
    """How many names in a row there are: pattern with 0, 1, 2, …"""
    n = 0
    while n < LEVELS + 1 and pattern.format(n) in shapes:
        n += 1
    return n


def to_json(config: UNetConfig | VAEConfig) -> dict[str, Any]:
    return {f.name: getattr(config, f.name) for f in fields(config)}


def parse(text: str, where: str) -> dict[str, Any]:
    """The JSON object of a config."""
    try:
        config = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise WeightError(f"{where} is not JSON ({error}). Repair it, or remove it if the defaults will do.") from error
    if not isinstance(config, dict):
        raise WeightError(f"{where} is not a JSON object. Repair it, or remove it if the defaults will do.")
    return config
