"""The VAE (AutoencoderKL), once, against the ops contract."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Generic

import numpy as np

from moebius.errors import LimitError, UsageError
from moebius.model.checks import check_floats
from moebius.model.contract import Ops, T, Tap
from moebius.model.params import Params, Shapes, check

EPS = 1e-6
OLD_ATTENTION_NAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


@dataclass(frozen=True)
class VAEConfig:
    """A member of the family: eight-fold when it has four blocks, as the published one."""

    block_out_channels: tuple[int, ...] = (128, 256, 512, 512)
    layers_per_block: int = 2
    latent_channels: int = 4
    in_channels: int = 3
    norm_num_groups: int = 32
    scaling_factor: float = 0.13025

    def __post_init__(self) -> None:
        for c in self.block_out_channels:
            if c % self.norm_num_groups:
                raise UsageError(f"block_out_channels has {c}, which norm_num_groups = {self.norm_num_groups} does not divide.")

    @property
    def factor(self) -> int:
        """Pixels per latent, on a side."""
        return 2 ** (len(self.block_out_channels) - 1)

    @classmethod
    def full(cls) -> VAEConfig:
        """The published VAE, 83 653 863 parameters."""
        return cls()

    @classmethod
    def tiny(cls) -> VAEConfig:
        """The goldens' nano."""
        return cls((16, 32, 64, 64), norm_num_groups=8)


class VAE(Generic[T]):
    """Image ↔ latent. `ops` is any backend of the contract."""

    def __init__(self, config: VAEConfig, weights: Mapping[str, np.ndarray], ops: Ops[T]) -> None:
        self.config, self.ops = config, ops
        self.root = Params(check(modern_names(weights), shapes(config), "VAE"))

    def encode(self, image: np.ndarray, tap: Tap | None = None) -> np.ndarray:
        """(B, 3, H, W) in [-1, 1] → moments (B, 2·latent, H/8, W/8): mean, then log variance."""
        return self._run(self.encoder, self._image(image), tap)

    def encode_each(self, images: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """`encode` of one image after the other, while the device has the next ones at hand."""
        return self.ops.run_each(self.encoder, ([self._image(image)] for image in images))

    def _image(self, image: np.ndarray) -> np.ndarray:
        f, shape = self.config.factor, tuple(np.shape(image))
        if len(shape) != 4 or shape[1] != self.config.in_channels or shape[2] % f or shape[3] % f or 0 in shape:
            raise UsageError(f"The image is {shape}; encode takes (B, {self.config.in_channels}, H, W) with H and W multiples of {f}.")
        check_floats(image, "image's values")
        return image

    def decode(self, latents: np.ndarray, tap: Tap | None = None) -> np.ndarray:
        """(B, latent, h, w), already divided by the scaling factor → (B, 3, 8h, 8w), about [-1, 1]."""
        return self._run(self.decoder, self._latents(latents), tap)

    def decode_each(self, latents: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """`decode` of one after the other, while the device has the next ones at hand."""
        return self.ops.run_each(self.decoder, ([self._latents(z)] for z in latents))

    def _latents(self, latents: np.ndarray) -> np.ndarray:
        shape = tuple(np.shape(latents))
        if len(shape) != 4 or shape[1] != self.config.latent_channels or 0 in shape:
            raise UsageError(f"The latents are {shape}; decode takes (B, {self.config.latent_channels}, h, w).")
        check_floats(latents, "latents")
        return latents

    def _run(self, forward: Callable[[T], T], array: np.ndarray, tap: Tap | None) -> np.ndarray:
        try:
            return self.ops.run(forward, [array], tap=tap)
        except LimitError:  # when the plan is recorded; the images of a batch are independent, to the bit
            if len(array) == 1 or tap is not None:
                raise
            half = len(array) // 2
            return np.concatenate([self._run(forward, array[:half], tap), self._run(forward, array[half:], tap)])

    def encoder(self, x: T) -> T:
        """x is (B, H, W, 3)."""
        ops, p, n = self.ops, self.root.at("encoder"), len(self.config.block_out_channels)
        h = ops.conv3x3(x, p.at("conv_in"))  # (B, H, W, C0)
        for i in range(n):
            block = p.at(f"down_blocks.{i}")
            for j in range(self.config.layers_per_block):
                h = self._resnet(h, block.at(f"resnets.{j}"))
            if i < n - 1:
                inner = self._inner(block.at("downsamplers.0.conv")) and projects(p.at(f"down_blocks.{i + 1}"))
                h = ops.conv3x3(h, block.at("downsamplers.0.conv"), stride=2, pad=0, inner=inner)  # (B, H/2, W/2, Ci)
                ops.tap(f"{block.path}.downsamplers.0", h)
            ops.tap(block.path, h)
        h = self._ends(self._mid(h, p.at("mid_block")), p)
        h = ops.linear(h, self.root.at("quant_conv"))  # (B, H/8, W/8, 2·latent)
        ops.tap("moments", h)
        return h

    def decoder(self, z: T) -> T:
        """z is (B, h, w, latent)."""
        ops, p, n = self.ops, self.root.at("decoder"), len(self.config.block_out_channels)
        h = ops.linear(z, self.root.at("post_quant_conv"))
        h = ops.conv3x3(h, p.at("conv_in"))  # (B, h, w, C3)
        h = self._mid(h, p.at("mid_block"))
        for i in range(n):
            block = p.at(f"up_blocks.{i}")
            for j in range(self.config.layers_per_block + 1):
                h = self._resnet(h, block.at(f"resnets.{j}"))
            if i < n - 1:
                inner = self._inner(block.at("upsamplers.0.conv")) and projects(p.at(f"up_blocks.{i + 1}"))
                h = ops.upsample_conv3x3(h, block.at("upsamplers.0.conv"), inner=inner)  # (B, 2h, 2w, Ci)
                ops.tap(f"{block.path}.upsamplers.0", h)
            ops.tap(block.path, h)
        h = self._ends(h, p)  # (B, 8h, 8w, 3)
        ops.tap("image", h)
        return h

    def _inner(self, conv: Params) -> bool:
        """Whether four neighbouring channels of what a convolution gives a norm are of one group."""
        return conv["weight"].shape[0] % (4 * self.config.norm_num_groups) == 0

    def _ends(self, h: T, p: Params) -> T:
        ops = self.ops
        h = ops.group_norm(h, p.at("conv_norm_out"), self.config.norm_num_groups, EPS, silu=True)
        ops.tap(f"{p.path}.conv_act", h)
        h = ops.conv3x3(h, p.at("conv_out"))
        ops.tap(p.path, h)
        return h

    def _mid(self, h: T, p: Params) -> T:
        ops, attention = self.ops, p.at("attentions.0")
        h = self._resnet(h, p.at("resnets.0"))
        normed = ops.group_norm(h, attention.at("group_norm"), self.config.norm_num_groups, EPS)
        h = ops.attention(normed, attention, residual=h)
        ops.tap(attention.path, h)
        h = self._resnet(h, p.at("resnets.1"))
        ops.tap(p.path, h)
        return h

    def _resnet(self, x: T, p: Params) -> T:
        ops, groups = self.ops, self.config.norm_num_groups
        h = ops.conv3x3(ops.group_norm(x, p.at("norm1"), groups, EPS, silu=True), p.at("conv1"), inner=self._inner(p.at("conv1")))
        h = ops.group_norm(h, p.at("norm2"), groups, EPS, silu=True)
        ops.tap(f"{p.path}.nonlinearity", h)
        if has_shortcut(p):
            x = ops.linear(x, p.at("conv_shortcut"))
        h = ops.conv3x3(h, p.at("conv2"), residual=x)
        ops.tap(p.path, h)
        return h


def has_shortcut(resnet: Params) -> bool:
    """Whether a linear layer of its input is added to what it makes, and not its input."""
    return resnet.get("conv_shortcut.weight") is not None


def projects(block: Params) -> bool:
    """Whether what goes into a block is part of no sum."""
    return has_shortcut(block.at("resnets.0"))


def modern_names(weights: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
    """Older checkpoints name the attention query/key/value/proj_attn and may store it as 1×1 convolutions; both are read."""
    if not any(".attentions.0." in k and (k.split(".")[-2] in OLD_ATTENTION_NAMES or np.ndim(weights[k]) == 4) for k in weights):
        return weights
    out: dict[str, np.ndarray] = {}
    for key, value in weights.items():
        head, _, tail = key.partition(".attentions.0.")
        module, _, leaf = tail.rpartition(".")
        name = f"{head}.attentions.0.{OLD_ATTENTION_NAMES.get(module, module)}.{leaf}" if tail else key
        out[name] = value[:, :, 0, 0] if tail and np.ndim(value) == 4 and value.shape[2:] == (1, 1) else value
    return out


def shapes(config: VAEConfig) -> Shapes:
    """Every parameter of the checkpoint with its shape."""
    c, latent, out = config.block_out_channels, config.latent_channels, Shapes()

    def add(path: str, *shape: int) -> None:
        out[f"{path}.weight"], out[f"{path}.bias"] = shape, shape[:1]

    def resnet(path: str, cin: int, cout: int) -> None:
        add(f"{path}.norm1", cin)
        add(f"{path}.conv1", cout, cin, 3, 3)
        add(f"{path}.norm2", cout)
        add(f"{path}.conv2", cout, cout, 3, 3)
        if cin != cout:
            add(f"{path}.conv_shortcut", cout, cin, 1, 1)

    def mid(path: str, n: int) -> None:
        add(f"{path}.attentions.0.group_norm", n)
        for name in ("to_q", "to_k", "to_v", "to_out.0"):
            add(f"{path}.attentions.0.{name}", n, n)
        resnet(f"{path}.resnets.0", n, n)
        resnet(f"{path}.resnets.1", n, n)

    def side(path: str, widths: tuple[int, ...], layers: int, sampler: str, cin: int) -> None:
        for i, width in enumerate(widths):
            for j in range(layers):
                resnet(f"{path}.{i}.resnets.{j}", cin, width)
                cin = width
            if i < len(widths) - 1:
                add(f"{path}.{i}.{sampler}.0.conv", width, width, 3, 3)

    add("encoder.conv_in", c[0], config.in_channels, 3, 3)
    side("encoder.down_blocks", c, config.layers_per_block, "downsamplers", c[0])
    mid("encoder.mid_block", c[-1])
    add("encoder.conv_norm_out", c[-1])
    add("encoder.conv_out", 2 * latent, c[-1], 3, 3)
    add("decoder.conv_in", c[-1], latent, 3, 3)
    side("decoder.up_blocks", c[::-1], config.layers_per_block + 1, "upsamplers", c[-1])
    mid("decoder.mid_block", c[-1])
    add("decoder.conv_norm_out", c[0])
    add("decoder.conv_out", config.in_channels, c[0], 3, 3)
    add("quant_conv", 2 * latent, 2 * latent, 1, 1)
    add("post_quant_conv", latent, latent, 1, 1)
    return out
