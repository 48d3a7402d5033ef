"""The UNet, once, against the ops contract. Names are the checkpoint's names; sizes come from the config."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Generic

import numpy as np

from moebius.errors import LimitError, UsageError
from moebius.model.checks import check_floats, check_timestep
from moebius.model.contract import POSITION_WINDOW, Condition, Ops, T, Tap, Timesteps
from moebius.model.params import Params, Shapes, check

PREFIX = "diff_model"
TRANSFORMER_GROUP_NORM_EPS = 1e-6
CONDITION_TOKENS = 10


@dataclass(frozen=True)
class UNetConfig:
    """A member of the family. `heads` is what the published yaml calls attention_head_dim."""

    sample_size: int = 64
    in_channels: int = 9
    out_channels: int = 4
    block_out_channels: tuple[int, ...] = (320, 640, 1280)
    layers_per_block: int = 2
    heads: int = 8
    cross_attention_dim: int = 768
    encoder_hid_dim: int = 3072
    num_embeddings: int = 20
    norm_num_groups: int = 32
    mix_mlp_ratio: float = 2.5
    norm_eps: float = 1e-5

    def __post_init__(self) -> None:
        shrink = 2 ** (len(self.block_out_channels) - 1)
        if self.sample_size % shrink:
            raise UsageError(f"sample_size {self.sample_size} must be a multiple of {shrink}, once for every downsampling.")
        for c in self.block_out_channels:
            for what, n in (("heads", self.heads), ("norm_num_groups", self.norm_num_groups)):
                if c % n:
                    raise UsageError(f"block_out_channels has {c}, which {what} = {n} does not divide.")

    @classmethod
    def full(cls) -> UNetConfig:
        """The published model, 226 041 531 parameters."""
        return cls()

    @classmethod
    def tiny(cls) -> UNetConfig:
        """The goldens' nano: the same network at a tenth of the width."""
        return cls(16, block_out_channels=(32, 64, 128), cross_attention_dim=48, encoder_hid_dim=96, norm_num_groups=8)

    @property
    def time_width(self) -> int:
        """Width of the time embedding."""
        return 4 * self.block_out_channels[0]

    def hidden(self, channels: int) -> int:
        """Width of the feed-forward of a block of `channels`."""
        return int(channels * self.mix_mlp_ratio)

    def up_widths(self) -> list[list[tuple[int, int]]]:
        """Per up block and layer: (channels coming from below, channels of the skip)."""
        c = self.block_out_channels
        skips = [c[0]]
        for i, width in enumerate(c):
            skips += [width] * (self.layers_per_block + (i < len(c) - 1))
        widths, below = [], c[-1]
        for width in reversed(c):
            row = []
            for _ in range(self.layers_per_block + 1):
                row.append((below, skips.pop()))
                below = width
            widths.append(row)
        return widths


class UNet(Generic[T]):
    """unet(latents, t, ids) → the predicted noise. `ops` is any backend of the contract."""

    def __init__(self, config: UNetConfig, weights: Mapping[str, np.ndarray], ops: Ops[T]) -> None:
        self.config, self.ops = config, ops
        self.root = Params(check(weights, shapes(config), "UNet"))
        self.net = self.root.at(PREFIX)

    def __call__(self, latents: np.ndarray, t: int, ids: np.ndarray, tap: Tap | None = None) -> np.ndarray:
        """(B, in, h, w), the timestep, (B, m) embedding ids → (B, out, h, w). `tap(path, array)` gets module outputs."""
        ids = self.check_ids(ids)
        c, s = self.config.in_channels, self.config.sample_size
        shape = tuple(np.shape(latents))
        if len(shape) != 4 or shape[1:] != (c, s, s) or not shape[0]:
            raise UsageError(f"latents are {shape}; this UNet takes (B, {c}, {s}, {s}): its position tables are bound to that grid.")
        check_floats(latents, "latents")
        if shape[0] != ids.shape[0]:
            raise UsageError(f"latents have batch {shape[0]} but ids have {ids.shape[0]} rows; give one row of ids per latent.")
        try:
            return self.ops.run(self.forward, [latents], Timesteps((check_timestep(t),)), ids, tap=tap)
        except LimitError:  # when the plan is recorded; the images of a batch are independent, to the bit
            if shape[0] == 1 or tap is not None:
                raise
            half = shape[0] // 2
            return np.concatenate([self(latents[:half], t, ids[:half]), self(latents[half:], t, ids[half:])])

    def check_ids(self, ids: np.ndarray) -> np.ndarray:
        ids, n = np.asarray(ids), self.config.num_embeddings
        if ids.ndim != 2 or ids.dtype.kind not in "iu":
            raise UsageError(f"ids are {ids.dtype} {ids.shape}; give integers of shape (B, m).")
        if ids.size and (ids.min() < 0 or ids.max() >= n):
            raise UsageError(f"ids run from {ids.min()} to {ids.max()}; the embedding table has rows 0 to {n - 1}.")
        if ids.shape[1] != CONDITION_TOKENS:
            raise UsageError(f"ids have {ids.shape[1]} tokens a row; the position tables of this model hold {CONDITION_TOKENS}.")
        return ids

    def forward(self, x: T, t: Timesteps, ids: np.ndarray, copies: int = 1) -> T:
        """The network on backend tensors, for (copies·B, m) ids; x is (B, h, w, in). What comes before the first look at the condition is
        computed once for all copies: the unconditional and the conditional image of a guided step differ in nothing else."""
        ops, net, cfg = self.ops, self.net, self.config
        temb = ops.time_embedding(t, net)  # (T, 4·C0)
        cond = ops.condition(ids, self.root)  # (copies·B, m, cross_attention_dim)

        h = ops.dwconv(x, net.at("conv_in"))  # (B, h, w, C0)
        ops.tap(f"{PREFIX}.conv_in", h)
        skips = [h if copies == 1 else ops.repeat(h, copies)]
        for i in range(len(cfg.block_out_channels)):
            block = net.at(f"down_blocks.{i}")
            for j in range(cfg.layers_per_block):
                h = self._resnet(h, temb, block.at(f"resnets.{j}"))
                h = self._transformer(h, cond, block.at(f"attentions.{j}"), copies if i == j == 0 else 1)
                skips.append(h)
            if i < len(cfg.block_out_channels) - 1:
                h = ops.conv3x3(h, block.at("downsamplers.0.conv"), stride=2)  # (B, h/2, w/2, Ci)
                ops.tap(f"{block.path}.downsamplers.0", h)
                skips.append(h)
            ops.tap(block.path, h)
        for i in range(len(cfg.block_out_channels)):
            block = net.at(f"up_blocks.{i}")
            for j in range(cfg.layers_per_block + 1):
                h = self._resnet(ops.concat(h, skips.pop()), temb, block.at(f"resnets.{j}"))
                h = self._transformer(h, cond, block.at(f"attentions.{j}"))
            if i < len(cfg.block_out_channels) - 1:
                h = ops.upsample_conv3x3(h, block.at("upsamplers.0.conv"))  # (B, 2h, 2w, Ci)
                ops.tap(f"{block.path}.upsamplers.0", h)
            ops.tap(block.path, h)
        h = ops.group_norm(h, net.at("conv_norm_out"), cfg.norm_num_groups, cfg.norm_eps, silu=True)
        ops.tap(f"{PREFIX}.conv_act", h)
        h = ops.dwconv(h, net.at("conv_out"))  # (B, h, w, out)
        ops.tap(f"{PREFIX}.conv_out", h)
        ops.tap(PREFIX, h)
        return h

    def _resnet(self, x: T, temb: T, p: Params) -> T:
        ops, cfg = self.ops, self.config
        h = ops.group_norm(x, p.at("norm1"), cfg.norm_num_groups, cfg.norm_eps, silu=True)  # (B, h, w, Cin)
        h = ops.dwconv(h, p.at("conv1"), shift=ops.time_shift(temb, p.at("time_emb_proj")))  # (B, h, w, Cout)
        h = ops.group_norm(h, p.at("norm2"), cfg.norm_num_groups, cfg.norm_eps, silu=True)
        ops.tap(f"{p.path}.nonlinearity", h)
        if p.get("conv_shortcut.weight") is not None:
            x = ops.linear(x, p.at("conv_shortcut"))
        h = ops.dwconv(h, p.at("conv2"), residual=x)
        ops.tap(p.path, h)
        return h

    def _transformer(self, x: T, cond: Condition, p: Params, copies: int = 1) -> T:
        """x for every copy that the condition has rows for, from `cross_lambda` on."""
        ops, cfg, block = self.ops, self.config, p.at("transformer_blocks.0")
        h = ops.group_norm(x, p.at("norm"), cfg.norm_num_groups, TRANSFORMER_GROUP_NORM_EPS)  # (B, h, w, C)
        h = ops.linear(h, p.at("proj_in"))
        h = ops.self_lambda(ops.layer_norm(h, block.at("norm1")), block.at("attn1"), cfg.heads, residual=h)
        h = ops.cross_lambda(ops.layer_norm(h, block.at("norm2")), cond, block.at("attn2"), cfg.heads, residual=h)
        h = ops.feed_forward(ops.layer_norm(h, block.at("norm3")), block.at("ff"), residual=h)
        ops.tap(block.path, h, "tokens")
        h = ops.linear(h, p.at("proj_out"), residual=x if copies == 1 else ops.repeat(x, copies))
        ops.tap(p.path, h)
        return h


def condition_ids(config: UNetConfig) -> np.ndarray:
    """(2, n/2): the second half of the embedding table is the unconditional row, the first half the conditional one."""
    half = config.num_embeddings // 2
    return np.stack([np.arange(half, 2 * half), np.arange(half)])


class _Parameters:
    """Collects the parameters of the checkpoint, `shapes`, by the modules they belong to; paths are below PREFIX."""

    def __init__(self, config: UNetConfig) -> None:
        self.config, self.shapes = config, Shapes()

    def add(self, path: str, *shape: int, bias: bool = True) -> None:
        self.shapes[f"{PREFIX}.{path}.weight"] = shape
        if bias:
            self.shapes[f"{PREFIX}.{path}.bias"] = shape[:1]

    def batch_norm(self, path: str, n: int) -> None:
        self.add(path, n)
        self.shapes[f"{PREFIX}.{path}.running_mean"] = self.shapes[f"{PREFIX}.{path}.running_var"] = (n,)

    def dwconv(self, path: str, cin: int, cout: int) -> None:
        self.add(f"{path}.conv_dw", cin, 1, 3, 3, bias=False)
        self.batch_norm(f"{path}.bn1", cin)
        self.add(f"{path}.conv_pw", cout, cin, 1, 1, bias=False)
        self.batch_norm(f"{path}.bn2", cout)

    def resnet(self, path: str, cin: int, cout: int) -> None:
        self.add(f"{path}.norm1", cin)
        self.dwconv(f"{path}.conv1", cin, cout)
        self.add(f"{path}.time_emb_proj", cout, self.config.time_width)
        self.add(f"{path}.norm2", cout)
        self.dwconv(f"{path}.conv2", cout, cout)
        if cin != cout:
            self.add(f"{path}.conv_shortcut", cout, cin, 1, 1)

    def transformer(self, path: str, n: int, grid: int) -> None:
        add, config = self.add, self.config
        k, hid, block = n // config.heads, config.hidden(n), f"{path}.transformer_blocks.0"
        add(f"{path}.norm", n)
        add(f"{path}.proj_in", n, n, 1, 1)
        for i in (1, 2, 3):
            add(f"{block}.norm{i}", n)
        for attn, source in (("attn1", (n, 1, 1)), ("attn2", (config.cross_attention_dim,))):
            add(f"{block}.{attn}.to_q", n, n, 1, 1, bias=False)
            add(f"{block}.{attn}.to_k", k, *source, bias=False)
            add(f"{block}.{attn}.to_v", k, *source, bias=False)
            self.batch_norm(f"{block}.{attn}.norm_q", n)
            self.batch_norm(f"{block}.{attn}.norm_v", k)
        add(f"{block}.attn1.pos_conv", k, 1, 1, POSITION_WINDOW, POSITION_WINDOW)
        self.shapes[f"{PREFIX}.{block}.attn2.rel_pos_emb"] = (grid * grid, CONDITION_TOKENS, k, 1)
        add(f"{block}.ff.inverted_conv.conv", 2 * hid, n, 1, 1)
        add(f"{block}.ff.depth_conv.conv", 2 * hid, 1, 3, 3)
        add(f"{block}.ff.point_conv.conv", n, hid, 1, 1, bias=False)
        add(f"{path}.proj_out", n, n, 1, 1)


def shapes(config: UNetConfig) -> Shapes:
    """Every parameter of the checkpoint with its shape."""
    c, temb, p = config.block_out_channels, config.time_width, _Parameters(config)
    p.shapes["embedding_layer.weight"] = (config.num_embeddings, config.encoder_hid_dim)
    p.add("time_embedding.linear_1", temb, 2 * (c[0] // 2))
    p.add("time_embedding.linear_2", temb, temb)
    p.add("encoder_hid_proj", config.cross_attention_dim, config.encoder_hid_dim)
    p.dwconv("conv_in", config.in_channels, c[0])
    last = len(c) - 1
    for i, width in enumerate(c):
        block, grid = f"down_blocks.{i}", config.sample_size >> i
        for j in range(config.layers_per_block):
            p.resnet(f"{block}.resnets.{j}", c[max(i - 1, 0)] if j == 0 else width, width)
            p.transformer(f"{block}.attentions.{j}", width, grid)
        if i < last:
            p.add(f"{block}.downsamplers.0.conv", width, width, 3, 3)
    for i, row in enumerate(config.up_widths()):
        block, width, grid = f"up_blocks.{i}", c[last - i], config.sample_size >> (last - i)
        for j, (below, skip) in enumerate(row):
            p.resnet(f"{block}.resnets.{j}", below + skip, width)
            p.transformer(f"{block}.attentions.{j}", width, grid)
        if i < last:
            p.add(f"{block}.upsamplers.0.conv", width, width, 3, 3)
    p.add("conv_norm_out", c[0])
    p.dwconv("conv_out", c[0], config.out_channels)
    return p.shapes
