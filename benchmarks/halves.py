"""How far f16 is from f32 on an adapter: nano's picture of the sample, end to end; the tiny networks op by op, held against what halves may
lose; the full model's latents, with weights made from a seed.

    python benchmarks/halves.py [--adapter NAME] [--kind discrete] [--parts nano tiny full] [--side 512]

With --kind a software driver computes what a GPU would: its plans, which store more in 16 bits. Results are merged into
benchmarks/results/halves.json, so that adapters and parts can be measured one at a time; benchmarks/readme.py writes the table from that
file. The full model's take hours at 512² on a software driver, and minutes at --side 128.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from typing import Any

import numpy as np
from common import RESULTS, environment, run, write_json
from PIL import Image

from moebius import sample
from moebius.backends.webgpu import WebGPU
from moebius.backends.webgpu.caps import KINDS
from moebius.check import lockstep
from moebius.inpaint.inpainter import Inpainter
from moebius.many.recipe import made
from moebius.model.contract import Precision
from moebius.model.synthetic import synthetic
from moebius.model.unet import UNet, UNetConfig
from moebius.model.unet import shapes as unet_shapes
from moebius.model.vae import VAE, VAEConfig
from moebius.model.vae import shapes as vae_shapes
from moebius.weights import store
from moebius.weights.published import NANO

FILE = RESULTS / "halves.json"
STEPS = 20


def pictures(gpu: WebGPU, inpainter: Any, **settings: Any) -> dict[str, float]:
    """One picture in both precisions: what is different within the hole, of 255 levels, and between their latents."""
    made_in: dict[Precision, Any] = {}
    for precision in ("f32", "f16"):
        with inpainter(WebGPU(gpu.gpu, gpu.caps, precision=precision)) as model:
            made_in[precision] = model(sample.photo(), sample.mask(), steps=STEPS, **settings)
        found = made_in[precision].metadata["precision"]
        print(f"{precision}: {sum(made_in[precision].timings.values()):.1f} s, made in {found}", flush=True)
    with Image.open(sample.mask()) as mask:
        hole = np.asarray(mask.convert("L")) > 127
    one, other = (np.asarray(made_in[p].image.convert("RGB"), np.float64)[hole] for p in ("f32", "f16"))
    want, got = (made_in[p].latents for p in ("f32", "f16"))
    apart = np.abs(one - other)
    return {
        "psnr": round(float(10 * np.log10(255**2 / max(np.mean(apart**2), 1e-12))), 2),
        "mean": round(float(apart.mean()), 4),
        "largest": float(apart.max()),
        "latents": float(np.linalg.norm(got - want) / np.linalg.norm(want)),
        "in_f16": made_in["f16"].metadata["precision"] == "f16",
    }


def full(on: WebGPU, side: int) -> Inpainter:
    """The full model's weights from a seed, for pictures of this size: its λ layers have tables of theirs, and all else is the same."""
    config, vae_config = UNetConfig.full(), VAEConfig.full()
    config = replace(config, sample_size=side // vae_config.factor)
    unet = UNet(config, synthetic(unet_shapes(config), 0), on)
    return Inpainter(unet, VAE(vae_config, synthetic(vae_shapes(vae_config), 0), on), model=f"synthetic full, {side}²")


def ops(gpu: WebGPU, precision: Precision) -> dict[str, Any]:
    """Every op of the tiny networks against float64, from the adapter's own inputs."""
    rows: list[lockstep.Row] = []
    lockstep.validate(WebGPU(gpu.gpu, gpu.caps, precision=precision), "tiny", None, rows.append)
    used = [row.relative_l2 / row.limit for row in rows if row.limit]
    worst = max(rows, key=lambda row: row.relative_l2)
    of = {"inside": sum(row.ok for row in rows), "count": len(rows), "used": round(max(used), 4)}
    return {**of, "worst": worst.relative_l2, "worst_op": worst.op, "median": float(np.median([row.relative_l2 for row in rows]))}


def main() -> int:
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--adapter", help="by name or number, as `moebius adapters` lists them; default: the best")
    parser.add_argument("--kind", choices=KINDS.values(), help="record for an adapter of this kind, in place of the adapter's own")
    parser.add_argument("--parts", nargs="+", choices=("nano", "tiny", "full"), default=["nano", "tiny"], help="default: nano tiny")
    parser.add_argument("--side", type=int, default=512, help="pixels of the full model's picture; default: the published 512")
    args = parser.parse_args()
    gpu, weights = WebGPU(args.adapter), store.load(NANO)
    name = gpu.name
    if args.kind:
        gpu, name = WebGPU(gpu.gpu, replace(gpu.caps, kind=args.kind)), f"{gpu.name}, its plans those of a {args.kind} GPU"
    result: dict[str, Any] = {"environment": environment(gpu.gpu)}
    if "nano" in args.parts:
        result["nano"] = pictures(gpu, lambda on: Inpainter.from_weights(weights, on), detail=0)
        print(json.dumps(result["nano"]), flush=True)
    if "tiny" in args.parts:
        result["tiny"] = {precision: ops(gpu, precision) for precision in ("f32", "f16")}
        print(json.dumps(result["tiny"]), flush=True)
        result["tiny"]["latents"] = pictures(gpu, lambda on: made("tiny", on))["latents"]
    if "full" in args.parts:
        result["full"] = {**pictures(gpu, lambda on: full(on, args.side)), "side": args.side}
        print(json.dumps(result["full"]), flush=True)
    known = json.loads(FILE.read_text(encoding="utf-8"))["adapters"] if FILE.exists() else {}
    merged = known | {name: known.get(name, {}) | result}
    write_json(FILE, {"bench": "halves", "steps": STEPS, "adapters": dict(sorted(merged.items()))})
    return 0


if __name__ == "__main__":
    run(main)
