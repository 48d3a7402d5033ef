"""The UNet and the VAE in plain PyTorch, eager, as published: the peer our CPU device is timed against.

Written from the same description as the engine; state-dict keys are the checkpoint's, so that `load` can be strict. Nothing is
folded, reordered or cached: what a user of the published PyTorch code runs. Tensors are NCHW, tokens are (B, H·W, C).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

TRANSFORMER_GROUP_NORM_EPS = 1e-6
VAE_EPS = 1e-6
WINDOW = 15


def load(module: nn.Module, weights: Mapping[str, np.ndarray]) -> None:
    """Strict: every key must be there and fit, except num_batches_tracked, which carries nothing."""
    state = {key: torch.from_numpy(np.array(value)) for key, value in weights.items()}
    for key, value in module.state_dict().items():
        if key.endswith("num_batches_tracked"):
            state.setdefault(key, value)
    module.load_state_dict(state, strict=True)
    module.eval()


def image(tokens: Tensor, height: int, width: int) -> Tensor:
    """(B, H·W, C) → (B, C, H, W)."""
    return tokens.transpose(1, 2).reshape(tokens.shape[0], -1, height, width)


class DWConv(nn.Module):
    """BN(pw(ReLU(BN(dw(x))))), plus x when Cin = Cout."""

    def __init__(self, cin: int, cout: int) -> None:
        super().__init__()
        self.conv_dw = nn.Conv2d(cin, cin, 3, padding=1, groups=cin, bias=False)
        self.bn1 = nn.BatchNorm2d(cin)
        self.conv_pw = nn.Conv2d(cin, cout, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(cout)
        self.skip = cin == cout

    def forward(self, x: Tensor) -> Tensor:
        h = self.bn2(self.conv_pw(F.relu(self.bn1(self.conv_dw(x)))))
        return h + x if self.skip else h


class Resnet(nn.Module):
    def __init__(self, cin: int, cout: int, temb: int, groups: int, eps: float) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, cin, eps)
        self.conv1 = DWConv(cin, cout)
        self.time_emb_proj = nn.Linear(temb, cout)
        self.norm2 = nn.GroupNorm(groups, cout, eps)
        self.conv2 = DWConv(cout, cout)
        self.conv_shortcut = nn.Conv2d(cin, cout, 1) if cin != cout else None

    def forward(self, x: Tensor, temb: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        h = h + self.time_emb_proj(F.silu(temb))[:, :, None, None]
        h = self.conv2(F.silu(self.norm2(h)))
        return h + (x if self.conv_shortcut is None else self.conv_shortcut(x))


class SelfLambda(nn.Module):
    """y[h,v,n] = Σ_k Q[h,k,n]·(λc[k,v] + λp[k,v,n]), λc = Σ_m softmax(K)[k,m]·V[v,m], λp = V through k filters 15×15."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads, k = heads, channels // heads
        self.to_q = nn.Conv2d(channels, channels, 1, bias=False)
        self.to_k = nn.Conv2d(channels, k, 1, bias=False)
        self.to_v = nn.Conv2d(channels, k, 1, bias=False)
        self.norm_q = nn.BatchNorm2d(channels)
        self.norm_v = nn.BatchNorm2d(k)
        self.pos_conv = nn.Conv3d(1, k, (1, WINDOW, WINDOW), padding=(0, WINDOW // 2, WINDOW // 2))

    def forward(self, tokens: Tensor, height: int, width: int) -> Tensor:
        x = image(tokens, height, width)
        b, n = x.shape[0], height * width
        q = self.norm_q(self.to_q(x)).reshape(b, self.heads, -1, n)
        keys = self.to_k(x).reshape(b, -1, n).softmax(-1)
        values = self.norm_v(self.to_v(x))  # (B, v, H, W)
        content = torch.einsum("bkm,bvm->bkv", keys, values.reshape(b, -1, n))
        y = torch.einsum("bhkn,bkv->bhvn", q, content)
        position = self.pos_conv(values[:, None]).reshape(b, q.shape[2], -1, n)  # (B, k, v, n)
        y = y + torch.einsum("bhkn,bkvn->bhvn", q, position)
        return y.reshape(b, -1, n).transpose(1, 2)


class CrossLambda(nn.Module):
    """The same over the m condition tokens, with a learned table (n, m, k) for the positional part."""

    def __init__(self, channels: int, heads: int, cond: int, grid: int, tokens: int) -> None:
        super().__init__()
        self.heads, k = heads, channels // heads
        self.to_q = nn.Conv2d(channels, channels, 1, bias=False)
        self.to_k = nn.Linear(cond, k, bias=False)
        self.to_v = nn.Linear(cond, k, bias=False)
        self.norm_q = nn.BatchNorm2d(channels)
        self.norm_v = nn.BatchNorm1d(k)
        self.rel_pos_emb = nn.Parameter(torch.empty(grid * grid, tokens, k, 1))

    def forward(self, tokens: Tensor, cond: Tensor, height: int, width: int) -> Tensor:
        x = image(tokens, height, width)
        b, n = x.shape[0], height * width
        q = self.norm_q(self.to_q(x)).reshape(b, self.heads, -1, n)
        keys = self.to_k(cond).transpose(1, 2).softmax(-1)  # (B, k, m)
        values = self.norm_v(self.to_v(cond).transpose(1, 2))  # (B, v, m)
        content = torch.einsum("bkm,bvm->bkv", keys, values)
        y = torch.einsum("bhkn,bkv->bhvn", q, content)
        position = torch.einsum("nmk,bvm->bnkv", self.rel_pos_emb[..., 0], values)
        y = y + torch.einsum("bhkn,bnkv->bhvn", q, position)
        return y.reshape(b, -1, n).transpose(1, 2)


class Conv(nn.Module):
    """A convolution one name deeper, as the checkpoint has it."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.conv = conv

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class FeedForward(nn.Module):
    """point(a·SiLU(g)), [a, g] = depth(SiLU(inverted(x)))."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.inverted_conv = Conv(nn.Conv2d(channels, 2 * hidden, 1))
        self.depth_conv = Conv(nn.Conv2d(2 * hidden, 2 * hidden, 3, padding=1, groups=2 * hidden))
        self.point_conv = Conv(nn.Conv2d(hidden, channels, 1, bias=False))

    def forward(self, tokens: Tensor, height: int, width: int) -> Tensor:
        a, g = self.depth_conv(F.silu(self.inverted_conv(image(tokens, height, width)))).chunk(2, dim=1)
        return self.point_conv(a * F.silu(g)).flatten(2).transpose(1, 2)


class Block(nn.Module):
    def __init__(self, channels: int, heads: int, cond: int, grid: int, tokens: int, hidden: int) -> None:
        super().__init__()
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(channels) for _ in range(3))
        self.attn1 = SelfLambda(channels, heads)
        self.attn2 = CrossLambda(channels, heads, cond, grid, tokens)
        self.ff = FeedForward(channels, hidden)

    def forward(self, h: Tensor, cond: Tensor, height: int, width: int) -> Tensor:
        h = h + self.attn1(self.norm1(h), height, width)
        h = h + self.attn2(self.norm2(h), cond, height, width)
        return h + self.ff(self.norm3(h), height, width)


class Transformer(nn.Module):
    def __init__(self, channels: int, heads: int, cond: int, grid: int, tokens: int, hidden: int, groups: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(groups, channels, TRANSFORMER_GROUP_NORM_EPS)
        self.proj_in = nn.Conv2d(channels, channels, 1)
        self.transformer_blocks = nn.ModuleList([Block(channels, heads, cond, grid, tokens, hidden)])
        self.proj_out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor, cond: Tensor) -> Tensor:
        height, width = x.shape[2:]
        h = self.proj_in(self.norm(x)).flatten(2).transpose(1, 2)
        for block in self.transformer_blocks:
            h = block(h, cond, height, width)
        return self.proj_out(image(h, height, width)) + x


class Downsample(nn.Module):
    """3×3, stride 2. Without `symmetric` the padding is at the right and bottom only, as in the VAE."""

    def __init__(self, channels: int, symmetric: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2, padding=1 if symmetric else 0)
        self.symmetric = symmetric

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x if self.symmetric else F.pad(x, (0, 1, 0, 1)))


class Upsample(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class UNetBlock(nn.Module):
    """Layers of (resnet, attention), then a down- or an upsampler when there is one."""

    def __init__(self, cfg: Any, widths: list[int], width: int, grid: int, sampler: str | None) -> None:
        super().__init__()
        temb, groups = 4 * cfg.block_out_channels[0], cfg.norm_num_groups
        self.resnets = nn.ModuleList([Resnet(cin, width, temb, groups, cfg.norm_eps) for cin in widths])
        self.attentions = nn.ModuleList(
            [Transformer(width, cfg.heads, cfg.cross_attention_dim, grid, 10, int(width * cfg.mix_mlp_ratio), groups) for _ in widths]
        )
        if sampler == "down":
            self.downsamplers = nn.ModuleList([Downsample(width, symmetric=True)])
        elif sampler == "up":
            self.upsamplers = nn.ModuleList([Upsample(width)])


class TimeEmbedding(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.half = width // 2
        self.linear_1 = nn.Linear(2 * self.half, 4 * width)
        self.linear_2 = nn.Linear(4 * width, 4 * width)

    def forward(self, t: Tensor) -> Tensor:
        frequencies = torch.exp(-math.log(10000.0) * torch.arange(self.half, dtype=torch.float32, device=t.device) / self.half)
        angles = t[:, None].float() * frequencies
        return self.linear_2(F.silu(self.linear_1(torch.cat([angles.cos(), angles.sin()], dim=-1))))


class DiffModel(nn.Module):
    def __init__(self, cfg: Any) -> None:
        super().__init__()
        c, layers = cfg.block_out_channels, cfg.layers_per_block
        self.time_embedding = TimeEmbedding(c[0])
        self.encoder_hid_proj = nn.Linear(cfg.encoder_hid_dim, cfg.cross_attention_dim)
        self.conv_in = DWConv(cfg.in_channels, c[0])
        self.down_blocks, self.up_blocks = nn.ModuleList(), nn.ModuleList()
        skips, below = [c[0]], c[0]
        for i, width in enumerate(c):
            last = i == len(c) - 1
            widths = [below] + [width] * (layers - 1)
            self.down_blocks.append(UNetBlock(cfg, widths, width, cfg.sample_size >> i, None if last else "down"))
            skips += [width] * (layers + (not last))
            below = width
        for i in reversed(range(len(c))):
            widths = []
            for _ in range(layers + 1):
                widths.append(below + skips.pop())
                below = c[i]
            self.up_blocks.append(UNetBlock(cfg, widths, c[i], cfg.sample_size >> i, "up" if i else None))
        self.conv_norm_out = nn.GroupNorm(cfg.norm_num_groups, c[0], cfg.norm_eps)
        self.conv_out = DWConv(c[0], cfg.out_channels)

    def forward(self, x: Tensor, t: Tensor, embedded: Tensor) -> Tensor:
        temb = self.time_embedding(t)
        cond = self.encoder_hid_proj(embedded)
        h = self.conv_in(x)
        skips = [h]
        for block in self.down_blocks:
            for resnet, attention in zip(block.resnets, block.attentions, strict=True):
                h = attention(resnet(h, temb), cond)
                skips.append(h)
            if hasattr(block, "downsamplers"):
                h = block.downsamplers[0](h)
                skips.append(h)
        for block in self.up_blocks:
            for resnet, attention in zip(block.resnets, block.attentions, strict=True):
                h = attention(resnet(torch.cat([h, skips.pop()], dim=1), temb), cond)
            if hasattr(block, "upsamplers"):
                h = block.upsamplers[0](h)
        return self.conv_out(F.silu(self.conv_norm_out(h)))


class TorchUNet(nn.Module):
    """unet(latents (B, in, h, w), t, ids (B, m)) → the predicted noise (B, out, h, w). `cfg` has the fields of UNetConfig."""

    def __init__(self, cfg: Any) -> None:
        super().__init__()
        self.embedding_layer = nn.Embedding(cfg.num_embeddings, cfg.encoder_hid_dim)
        self.diff_model = DiffModel(cfg)

    def forward(self, latents: Tensor, t: int, ids: Tensor) -> Tensor:
        return self.diff_model(latents, torch.full((latents.shape[0],), t, device=latents.device), self.embedding_layer(ids))


class VAEResnet(nn.Module):
    def __init__(self, cin: int, cout: int, groups: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, cin, VAE_EPS)
        self.conv1 = nn.Conv2d(cin, cout, 3, padding=1)
        self.norm2 = nn.GroupNorm(groups, cout, VAE_EPS)
        self.conv2 = nn.Conv2d(cout, cout, 3, padding=1)
        self.conv_shortcut = nn.Conv2d(cin, cout, 1) if cin != cout else None

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv2(F.silu(self.norm2(self.conv1(F.silu(self.norm1(x))))))
        return h + (x if self.conv_shortcut is None else self.conv_shortcut(x))


class VAEAttention(nn.Module):
    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.group_norm = nn.GroupNorm(groups, channels, VAE_EPS)
        self.to_q, self.to_k, self.to_v = (nn.Linear(channels, channels) for _ in range(3))
        self.to_out = nn.ModuleList([nn.Linear(channels, channels)])

    def forward(self, x: Tensor) -> Tensor:
        h = self.group_norm(x).flatten(2).transpose(1, 2)
        h = F.scaled_dot_product_attention(self.to_q(h)[:, None], self.to_k(h)[:, None], self.to_v(h)[:, None])[:, 0]
        return image(self.to_out[0](h), *x.shape[2:]) + x


class VAEMid(nn.Module):
    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.attentions = nn.ModuleList([VAEAttention(channels, groups)])
        self.resnets = nn.ModuleList([VAEResnet(channels, channels, groups) for _ in range(2)])

    def forward(self, x: Tensor) -> Tensor:
        return self.resnets[1](self.attentions[0](self.resnets[0](x)))


class VAEBlock(nn.Module):
    def __init__(self, cin: int, cout: int, layers: int, groups: int, sampler: str | None) -> None:
        super().__init__()
        self.resnets = nn.ModuleList([VAEResnet(cin if j == 0 else cout, cout, groups) for j in range(layers)])
        if sampler == "down":
            self.downsamplers = nn.ModuleList([Downsample(cout, symmetric=False)])
        elif sampler == "up":
            self.upsamplers = nn.ModuleList([Upsample(cout)])

    def forward(self, h: Tensor) -> Tensor:
        for resnet in self.resnets:
            h = resnet(h)
        for name in ("downsamplers", "upsamplers"):
            if hasattr(self, name):
                h = getattr(self, name)[0](h)
        return h


class VAESide(nn.Module):
    """The encoder or the decoder: they differ in the order of their parts."""

    def __init__(self, widths: tuple[int, ...], layers: int, groups: int, sampler: str, cin: int, cout: int) -> None:
        super().__init__()
        self.encodes = sampler == "down"
        self.conv_in = nn.Conv2d(cin, widths[0], 3, padding=1)
        blocks = nn.ModuleList()
        for i, width in enumerate(widths):
            blocks.append(VAEBlock(widths[max(i - 1, 0)], width, layers, groups, sampler if i < len(widths) - 1 else None))
        self.mid_block = VAEMid(widths[-1] if self.encodes else widths[0], groups)
        self.add_module("down_blocks" if self.encodes else "up_blocks", blocks)
        self.conv_norm_out = nn.GroupNorm(groups, widths[-1], VAE_EPS)
        self.conv_out = nn.Conv2d(widths[-1], cout, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv_in(x)
        if not self.encodes:
            h = self.mid_block(h)
        for block in self.down_blocks if self.encodes else self.up_blocks:
            h = block(h)
        if self.encodes:
            h = self.mid_block(h)
        return self.conv_out(F.silu(self.conv_norm_out(h)))


class TorchVAE(nn.Module):
    """`cfg` has the fields of VAEConfig."""

    def __init__(self, cfg: Any) -> None:
        super().__init__()
        c, layers, groups, latent = cfg.block_out_channels, cfg.layers_per_block, cfg.norm_num_groups, cfg.latent_channels
        self.encoder = VAESide(c, layers, groups, "down", cfg.in_channels, 2 * latent)
        self.decoder = VAESide(c[::-1], layers + 1, groups, "up", latent, cfg.in_channels)
        self.quant_conv = nn.Conv2d(2 * latent, 2 * latent, 1)
        self.post_quant_conv = nn.Conv2d(latent, latent, 1)

    def encode(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) → moments (B, 2·latent, H/8, W/8)."""
        return self.quant_conv(self.encoder(x))

    def decode(self, z: Tensor) -> Tensor:
        """(B, latent, h, w) → (B, 3, 8h, 8w)."""
        return self.decoder(self.post_quant_conv(z))
