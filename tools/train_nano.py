"""Trains nano, the demonstration model inside the package: the VAE, then the UNet. One command, restartable, the same weights from a seed.

    python tools/train_nano.py OUT                   # all of it; run it again to go on where it stopped
    python tools/train_nano.py OUT --export          # OUT/nano.safetensors from what has been trained so far

Needs the extra `train`: PyTorch, and scikit-image, scikit-learn and matplotlib for the photographs in them. The networks are those of
benchmarks/peers/torch_moebius.py, the pictures and masks those of tools/nano_data.py. OUT holds the checkpoints, a log of the loss
for each network (CSV) and its plot (PNG).
"""

from __future__ import annotations

import argparse
import csv
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "benchmarks")]

import nano_data as data  # noqa: E402
from peers.torch_moebius import WINDOW, DiffModel, SelfLambda, TorchUNet, TorchVAE, image  # noqa: E402

from moebius.files import replacing  # noqa: E402
from moebius.model.scheduler import DDIM  # noqa: E402
from moebius.model.unet import UNetConfig  # noqa: E402
from moebius.model.vae import VAEConfig  # noqa: E402
from moebius.weights.bundle import write_bundle  # noqa: E402

VAE_CONFIG = VAEConfig((24, 48, 64, 96), layers_per_block=1, latent_channels=8, norm_num_groups=2)
UNET_CONFIG = UNetConfig(
    data.SIZE // VAE_CONFIG.factor,
    in_channels=2 * VAE_CONFIG.latent_channels + 1,
    out_channels=VAE_CONFIG.latent_channels,
    block_out_channels=(64, 96, 96),
    layers_per_block=1,
    cross_attention_dim=32,
    encoder_hid_dim=32,
    norm_num_groups=8,
)

SEED = data.TRAINING_SEED
POOL = 12_000  # made pictures; every one is seen again in other colours, mirrored and turned
PHOTOS = 0.4  # share of photographs in a batch
VAE_STEPS, VAE_BATCH = 1100, 16
VAE_SQUARES = 950  # steps on quarters of the pictures, at a quarter of the cost; then whole ones, in half the number
TRIPLES = 36_000  # picture, mask and target, encoded ahead: the VAE no longer changes
FIRST_TRIPLES = 12_000  # what the first round draws from
UNET_ROUNDS = [5800, 11_000, 8500, 13_000]  # steps; in each the rate rises and falls
UNET_BATCH = 32
OWN, HOPS, GUIDANCE = 16, 3, 3.0  # from the third round on: how many of a batch start from the model's own runs, and at most how far in
# In the third round and the fourth, a hop takes t to t·u^power, u uniform in (0, 1): the larger, the more runs end in the last steps.
HOP_POWER = [0.5, 0.8]
PHOTOS_FROM, PHOTOS_WEIGHT = 29_500, 4  # from that step on a photograph counts as four when one is drawn: 73 % instead of 40 %
ADAM_RATE, MUON_RATE = 1e-3, 0.02
OWN_FROM, OWN_WEIGHTS = 30_100, (0.3, 1.0)  # how much their error counts, before that step and after: sampling meets nothing else
DROPOUT = 0.15  # share of the pictures seen without the condition
SAVE_EVERY, LOG_EVERY = 100, 25
ALPHAS = torch.tensor(DDIM().alphas_cumprod, dtype=torch.float32)

LossOf = Callable[[int], tuple[Tensor, dict[str, float]]]  # of a step: the loss, and numbers for the log


# --- the loop both networks share -------------------------------------------------------------------------------------------------


def rate(step: int, rounds: list[int]) -> float:
    """Of the highest, in every round: up in a straight line, level, then down in a straight line."""
    while step >= rounds[0]:
        step, rounds = step - rounds[0], rounds[1:]
    return min((step + 1) / 50, 1.0, (rounds[0] - step) / (0.4 * rounds[0]))


class Muon(torch.optim.Optimizer):
    """Momentum whose matrices are made orthogonal by five Newton-Schulz steps (Jordan 2024): half the steps that Adam needs here."""

    def __init__(self, parameters: list[nn.Parameter]) -> None:
        super().__init__(parameters, {"lr": MUON_RATE})

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for p in group["params"]:
                momentum = self.state[p].setdefault("momentum", torch.zeros_like(p))
                momentum.lerp_(p.grad, 0.05)
                x = p.grad.lerp(momentum, 0.95).flatten(1)
                wide = x.shape[0] <= x.shape[1]
                x = x if wide else x.T
                x = x / (x.norm() + 1e-7)
                for _ in range(5):
                    square = x @ x.T
                    x = 3.4445 * x + (2.0315 * square @ square - 4.775 * square) @ x
                x = (x if wide else x.T) * max(1.0, p.shape[0] / p[0].numel()) ** 0.5
                p.sub_(x.view_as(p), alpha=group["lr"])


def is_matrix(name: str, p: nn.Parameter) -> bool:
    """What mixes channels with channels. First and last layers, tables, depthwise and positional filters are Adam's."""
    outer = ("conv_in", "conv_out", "embedding", "quant_conv", "pos_conv", "rel_pos_emb")
    return p.ndim >= 2 and p.shape[1] > 1 and not any(part in name for part in outer)


def train(name: str, model: nn.Module, out: Path, rounds: list[int], loss_of: LossOf) -> None:
    """Minimises `loss_of(step)`, keeping a running average of the weights, which is the result. Goes on from OUT/name.pt."""
    steps = sum(rounds)
    for p in model.parameters():
        if p.ndim == 4:
            p.data = p.data.contiguous(memory_format=torch.channels_last)  # a fifth faster than the default on a CPU
    matrices = [p for key, p in model.named_parameters() if is_matrix(key, p)]
    others = [p for key, p in model.named_parameters() if not is_matrix(key, p)]
    optimizers = [Muon(matrices), torch.optim.AdamW(others, ADAM_RATE, betas=(0.9, 0.99), weight_decay=1e-4)]
    average = {k: v.detach().clone() for k, v in model.state_dict().items()}
    path, log, first = out / f"{name}.pt", out / f"{name}.csv", 0
    if path.exists():
        saved = torch.load(path, weights_only=True)
        model.load_state_dict(saved["model"])
        for optimizer, state in zip(optimizers, saved["optimizers"], strict=True):
            optimizer.load_state_dict(state)
        average, first = saved["average"], saved["step"]
        print(f"{name}: goes on at step {first} of {steps}", flush=True)
    started, sums, count = time.perf_counter(), {}, 0
    for step in range(first, steps):
        for optimizer, highest in zip(optimizers, (MUON_RATE, ADAM_RATE), strict=True):
            for group in optimizer.param_groups:
                group["lr"] = rate(step, rounds) * highest
        torch.manual_seed(SEED + step)  # every step draws from its own stream, so that a restart changes nothing
        loss, parts = loss_of(step)
        model.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(others, 1.0)
        for optimizer in optimizers:
            optimizer.step()
        decay = min(0.999, (1 + step) / (20 + step))
        with torch.no_grad():
            for k, v in model.state_dict().items():
                average[k].lerp_(v, 1 - decay) if v.is_floating_point() else average[k].copy_(v)
        for k, v in {"loss": loss.item(), **parts}.items():
            sums[k] = sums.get(k, 0.0) + v
        count += 1
        if (step + 1) % LOG_EVERY == 0:
            row = {"step": step + 1, **{k: v / count for k, v in sums.items()}}
            write_header = not log.exists()
            with log.open("a", newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(file, list(row))
                if write_header:
                    writer.writeheader()
                writer.writerow(row)
            each = (time.perf_counter() - started) / (step + 1 - first)
            print(name, " ".join(f"{k} {v:.5g}" for k, v in row.items()), f"{each:.3f} s/step", flush=True)
            sums, count = {}, 0
        if (step + 1) % SAVE_EVERY == 0 or step + 1 == steps:
            state = {"model": model.state_dict(), "optimizers": [o.state_dict() for o in optimizers], "average": average, "step": step + 1}
            with replacing(path) as file:
                torch.save(state, file)
            plot(log, name)
    model.load_state_dict(average)
    model.eval()


def plot(log: Path, name: str) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    with log.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    figure, axes = plt.subplots(figsize=(7, 3.5), layout="constrained")
    axes.semilogy([int(r["step"]) for r in rows], [float(r["loss"]) for r in rows])
    axes.set(xlabel="step", ylabel="loss", title=f"nano: {name}")
    axes.grid(alpha=0.3)
    figure.savefig(log.with_suffix(".png"), dpi=110)
    plt.close(figure)


# --- pictures ---------------------------------------------------------------------------------------------------------------------


class Pictures:
    """Batches of training pictures: made ones out of a pool and squares of the photographs, recoloured, mirrored and turned."""

    def __init__(self, out: Path) -> None:
        path = out / "pool.npy"
        if not path.exists():
            print(f"making {POOL} pictures", flush=True)
            kinds = list(data.PICTURES)
            pool = np.stack([data.picture(np.random.default_rng([SEED, i]), kinds[i % len(kinds)]) for i in range(POOL)])
            with replacing(path) as file:
                np.save(file, pool)
        self.pool = np.load(path, mmap_mode="r")
        self.photos = [data.photo(package, name) for package, name, _ in data.TRAINING_PHOTOS]

    def draw(self, rng: np.random.Generator) -> tuple[np.ndarray, bool]:
        """One, uint8 (H, W, 3), and whether it is a photograph."""
        photo = rng.random() < PHOTOS
        if photo:
            picture = data.photo_crop(rng, self.photos)
            if rng.random() < 0.3:
                picture = picture[..., rng.permutation(3)]
        else:
            picture = self.pool[rng.integers(POOL)][..., rng.permutation(3)]
            if rng.random() < 0.5:
                picture = 255 - picture
            if rng.random() < 0.5:
                picture = picture.transpose(1, 0, 2)
            if rng.random() < 0.5:
                picture = picture[::-1]
        if rng.random() < 0.5:
            picture = picture[:, ::-1]
        if rng.random() < 0.5:
            picture = np.clip((picture - 127.5) * rng.uniform(0.6, 1.2) + 127.5 + rng.uniform(-30, 30), 0, 255).astype(np.uint8)
        return np.ascontiguousarray(picture), photo


def to_tensor(pictures: list[np.ndarray]) -> Tensor:
    """uint8 pictures → (B, 3, H, W) in [-1, 1]."""
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float() / 127.5 - 1


def psnr(y: Tensor, x: Tensor) -> float:
    """Averaged over the pictures."""
    return float((10 * torch.log10(4 / (y - x).square().mean((1, 2, 3)).clamp_min(1e-5))).mean())


def grey(x: Tensor, masks: Tensor) -> Tensor:
    """The masked picture: mid-grey in the hole."""
    return x * (1 - masks)


# --- the VAE ----------------------------------------------------------------------------------------------------------------------


def train_vae(out: Path, pictures: Pictures, rounds: list[int]) -> TorchVAE:
    torch.manual_seed(SEED)
    vae = TorchVAE(VAE_CONFIG)

    def loss_of(step: int) -> tuple[Tensor, dict[str, float]]:
        rng = np.random.default_rng([SEED, 1, step])
        count = VAE_BATCH if step < VAE_SQUARES else VAE_BATCH // 2
        x = to_tensor([pictures.draw(rng)[0] for _ in range(count)])
        holes = torch.from_numpy(np.stack([data.mask(rng) for _ in range(count // 4)]))[:, None].float()
        x = torch.cat([grey(x[: count // 4], holes), x[count // 4 :]])  # it must encode masked pictures as well
        if step < VAE_SQUARES:
            top, left = rng.integers(data.SIZE // 2 + 1, size=2)
            x = x[:, :, top : top + data.SIZE // 2, left : left + data.SIZE // 2]
        with torch.autocast("cpu", torch.bfloat16):
            mean, log_variance = vae.encode(x).float().chunk(2, dim=1)
            log_variance = log_variance.clamp(-30, 20)
            y = vae.decode(mean + torch.exp(0.5 * log_variance) * torch.randn_like(mean)).float()
        squares = (y - x).square().mean()
        kl = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean()
        return (y - x).abs().mean() + 4 * squares + 2e-4 * kl, {"psnr": psnr(y.detach(), x), "kl": kl.item()}

    train("vae", vae, out, rounds, loss_of)
    return vae


# --- the UNet ---------------------------------------------------------------------------------------------------------------------


class FastSelfLambda(SelfLambda):
    """The same sums with the positional part as one matrix product: on 16×16 positions the window of 15×15 is nearly everything."""

    def forward(self, tokens: Tensor, height: int, width: int) -> Tensor:
        x = image(tokens, height, width)
        b, n, k = x.shape[0], height * width, self.to_k.out_channels
        q = self.norm_q(self.to_q(x)).reshape(b, self.heads, k, n)
        keys = self.to_k(x).reshape(b, k, n).softmax(-1)
        values = self.norm_v(self.to_v(x)).reshape(b, k, n)
        weight = F.pad(self.pos_conv.weight.reshape(k, -1), (0, 1))[:, window(height, width).reshape(-1)].reshape(k * n, n)
        lam = (values.reshape(-1, n) @ weight.T).reshape(b, k, k, n)  # (B, v, k, n)
        lam = lam + self.pos_conv.bias[:, None] + torch.einsum("bkm,bvm->bvk", keys, values)[..., None]
        return torch.einsum("bhkn,bvkn->bhvn", q, lam).reshape(b, -1, n).transpose(1, 2)


def window(height: int, width: int) -> Tensor:
    """(n, n): for every pair of positions the index of the filter's tap, or the index after the last where the filter does not reach."""
    y, x = torch.arange(height).repeat_interleave(width), torch.arange(width).repeat(height)
    dy, dx = y[None] - y[:, None] + WINDOW // 2, x[None] - x[:, None] + WINDOW // 2
    reached = (dy >= 0) & (dy < WINDOW) & (dx >= 0) & (dx < WINDOW)
    return torch.where(reached, dy * WINDOW + dx, WINDOW * WINDOW)


def new_unet() -> TorchUNet:
    """Batch norms keep their statistics from the start, so that training and inference compute the same; their scale and shift learn."""
    torch.manual_seed(SEED + 1)
    unet = TorchUNet(UNET_CONFIG)
    for module in unet.modules():
        if type(module) is SelfLambda:
            module.__class__ = FastSelfLambda
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.eval()
    for name, parameter in unet.named_parameters():
        if name.endswith("rel_pos_emb"):
            nn.init.normal_(parameter, std=0.1)
        elif name.endswith(("proj_out.weight", "proj_out.bias", "norm2.weight")):
            nn.init.zeros_(parameter)  # every layer begins as a detour of no effect
    pass_through(unet.diff_model)
    return unet


@torch.no_grad()
def pass_through(net: DiffModel) -> None:
    """Makes the network's first answer "the noise is y itself", nearly right where the noise is strong, so that all it has to learn is the
    difference. Channels 2i and 2i+1 carry y_i and -y_i along the outermost skip; silu(s) - silu(-s) = s takes them through the last
    activation unchanged, and a shift lets them pass the two ReLUs. Their groups' norm has nothing to do: y has a variance of one."""
    latents, width = UNET_CONFIG.out_channels, UNET_CONFIG.block_out_channels[0]
    signs = torch.zeros(2 * latents, latents)
    for i in range(latents):
        signs[2 * i, i], signs[2 * i + 1, i] = 1.0, -1.0
    for conv, shift in ((net.conv_in, 4.0), (net.conv_out, 1.0)):
        conv.conv_dw.weight.mul_(0.3)
        conv.conv_dw.weight[:, 0, 1, 1] = 1.0
        conv.bn1.bias.fill_(shift)
    net.conv_out.conv_dw.weight[: 2 * latents] = 0.0
    net.conv_out.conv_dw.weight[: 2 * latents, 0, 1, 1] = 1.0
    net.conv_in.conv_dw.weight[:latents] = 0.0
    net.conv_in.conv_dw.weight[:latents, 0, 1, 1] = 1.0
    net.conv_in.conv_pw.weight[: 2 * latents] = 0.0
    net.conv_in.conv_pw.weight[: 2 * latents, :latents, 0, 0] = signs
    net.conv_in.bn2.bias.copy_(-4.0 * net.conv_in.conv_pw.weight[..., 0, 0].sum(dim=1))
    shortcut = net.up_blocks[-1].resnets[-1].conv_shortcut
    shortcut.weight[: 2 * latents] = 0.0
    shortcut.bias[: 2 * latents] = 0.0
    for i in range(2 * latents):
        shortcut.weight[i, width + i] = 1.0
    net.conv_out.conv_pw.weight.zero_()
    net.conv_out.conv_pw.weight[:, : 2 * latents, 0, 0] = signs.T


def encode_triples(out: Path, vae: TorchVAE, pictures: Pictures) -> tuple[Tensor, ...]:
    """The target's moments, the masked picture's latents, the mask; whether the condition is on; whether it is a photograph."""
    path = out / "triples.pt"
    if not path.exists():
        print(f"encoding {TRIPLES} pictures", flush=True)
        rows: list[tuple[Tensor, ...]] = []
        for start in range(0, TRIPLES, 32):
            rng = np.random.default_rng([SEED, 2, start])
            targets, inputs, masks, on, photos = [], [], [], [], []
            for _ in range(32):
                picture, photo = pictures.draw(rng)
                hole = data.mask(rng, low=0.03, high=0.45)
                photos.append(photo)
                on.append(rng.random() >= DROPOUT)
                inputs.append(picture)
                targets.append(picture if on[-1] else data.with_object(rng, picture, hole))
                masks.append(hole)
            m = torch.from_numpy(np.stack(masks))[:, None].float()
            with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
                moments = vae.encode(torch.cat([to_tensor(targets), grey(to_tensor(inputs), m)])).float()
            target, masked = moments.chunk(2)
            f = VAE_CONFIG.factor
            latents = target.half(), masked[:, : VAE_CONFIG.latent_channels].half(), m[:, :, ::f, ::f].half()
            rows.append((*latents, torch.tensor(on), torch.tensor(photos)))
        with replacing(path) as file:
            torch.save(tuple(torch.cat(column) for column in zip(*rows, strict=True)), file)
    return torch.load(path, weights_only=True)


def levels(t: Tensor) -> tuple[Tensor, Tensor]:
    """What is left of the picture, and what there is of noise."""
    a = ALPHAS[t][:, None, None, None]
    return a.sqrt(), (1 - a).sqrt()


@torch.no_grad()
def own_run(predict: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor], surroundings: Tensor, power: float) -> tuple[Tensor, Tensor]:
    """y and t somewhere in a guided run of the model as it is: from noise alone, up to HOPS steps of any length."""
    b = len(surroundings)
    t = torch.randint(900, 1000, (b,))
    y = torch.randn(b, UNET_CONFIG.out_channels, *surroundings.shape[2:])
    guidance = 1 + (GUIDANCE - 1) * torch.rand(b, 1, 1, 1)
    on = torch.tensor([True, False]).repeat_interleave(b)
    for _ in range(int(torch.randint(HOPS + 1, ()))):
        with_, without = predict(y.repeat(2, 1, 1, 1), t.repeat(2), surroundings.repeat(2, 1, 1, 1), on).chunk(2)
        noise = without + guidance * (with_ - without)
        left, noisy = levels(t)
        z = (y - noisy * noise) / left
        t = (t * torch.rand(b) ** power).long()
        left, noisy = levels(t)
        y = left * z + noisy * noise
    return y, t


def train_unet(out: Path, triples: tuple[Tensor, ...], scale: float, rounds: list[int]) -> TorchUNet:
    target, masked, mask, on, photo = triples
    unet = new_unet()
    half = UNET_CONFIG.num_embeddings // 2

    def predict(y: Tensor, t: Tensor, surroundings: Tensor, on: Tensor) -> Tensor:
        ids = torch.arange(half) + half * (~on).long()[:, None]
        with torch.autocast("cpu", torch.bfloat16):
            return unet.diff_model(torch.cat([y, surroundings], dim=1), t, unet.embedding_layer(ids)).float()

    everything, conditioned = torch.arange(len(on)), on.nonzero()[:, 0]
    more_photos = [torch.cat([rows] + (PHOTOS_WEIGHT - 1) * [rows[photo[rows]]]) for rows in (everything, conditioned)]

    def loss_of(step: int) -> tuple[Tensor, dict[str, float]]:
        own = OWN if step >= sum(UNET_ROUNDS[:2]) else 0
        rows, led = (everything, conditioned) if step < PHOTOS_FROM else more_photos
        if step < UNET_ROUNDS[0]:
            rows = rows[:FIRST_TRIPLES]
        pick = rows[torch.randint(len(rows), (UNET_BATCH,))]
        if own:
            pick[:own] = led[torch.randint(len(led), (own,))]
        mean, log_variance = target[pick].float().chunk(2, dim=1)
        z = (mean + torch.exp(0.5 * log_variance.clamp(-30, 20)) * torch.randn_like(mean)) * scale
        hole = mask[pick].float()
        surroundings = torch.cat([hole, masked[pick].float() * scale], dim=1)
        noise = torch.randn_like(z)
        t = (1000 * torch.rand(UNET_BATCH).sqrt()).long()  # more often where the surroundings must tell what the hole holds
        left, noisy = levels(t)
        y = left * z + noisy * noise
        if own:
            # A run that took a wrong turn early is to be led back: the answer is whatever in y is not the picture.
            y[:own], t[:own] = own_run(predict, surroundings[:own], HOP_POWER[step >= sum(UNET_ROUNDS[:3])])
            left, noisy = levels(t)
            noise[:own] = ((y - left * z) / noisy)[:own]
        error = (predict(y, t, surroundings, on[pick]) - noise).square()
        # Outside the hole the answer lies in the masked picture; inside it is what the model is for.
        weight = 0.15 + 0.85 * F.max_pool2d(hole, 3, 1, 1)
        # An error of the noise is an error of the picture, (1-a)/a times as large.
        picture = (noisy / left).square()
        importance = 0.2 + torch.clamp(picture, max=50.0)
        importance[:own] = OWN_WEIGHTS[step >= OWN_FROM] * picture[:own]  # the picture's error, alike at every level of noise
        loss = error * weight * importance
        return loss.mean(), {"eps": error[own:].mean().item(), "own loss": loss[:own].sum().item() / max(loss[:own].numel(), 1)}

    train("unet", unet, out, rounds, loss_of)
    return unet


# --- the file ---------------------------------------------------------------------------------------------------------------------


BLEND = "match"  # a model of this size does not hit the colours around a hole: its fills want joining


def export(path: Path, unet: TorchUNet, vae: TorchVAE, scale: float) -> None:
    def arrays(model: nn.Module) -> dict[str, np.ndarray]:
        return {k: v.contiguous().numpy() for k, v in model.state_dict().items() if not k.endswith("num_batches_tracked")}

    config = replace(VAE_CONFIG, scaling_factor=scale)
    write_bundle(path, UNET_CONFIG, arrays(unet), config, arrays(vae), half=True, blend=BLEND)
    print(f"{path}: {path.stat().st_size / 1e6:.2f} MB", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, help="folder for checkpoints, logs and nano.safetensors")
    parser.add_argument("--export", action="store_true", help="train no further: write nano.safetensors from the checkpoints")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    pictures = Pictures(args.out)
    vae = train_vae(args.out, pictures, [] if args.export else [VAE_STEPS])
    triples = encode_triples(args.out, vae, pictures)
    scale = round(1 / triples[0][:FIRST_TRIPLES, : VAE_CONFIG.latent_channels].float().std().item(), 5)
    export(args.out / "nano.safetensors", train_unet(args.out, triples, scale, [] if args.export else UNET_ROUNDS), vae, scale)


if __name__ == "__main__":
    main()
