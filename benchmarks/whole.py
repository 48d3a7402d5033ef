"""Where a picture's time goes on a GPU, by part and by op: a guided step, an encoding and a decoding as whole plans, and pictures.

    python benchmarks/whole.py [--config full|tiny|nano] [--adapter NAME] [--precision f16] [--matrix-units] [--json FILE]

bench_kernels times each kernel by itself, over and over; here a plan runs as it does in a picture, and what each of its dispatches takes in
turn. On the kernels that `moebius tune` found there, where it ran (MOEBIUS_TUNE=0: the defaults). By GPU timestamps where there are some;
weights are made from a seed. Nobody else is compared: bench_model does that.
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from common import environment, run, write_json
from workload import picture

from moebius import Inpainter
from moebius.backends.webgpu import WebGPU
from moebius.backends.webgpu.plan import Plan
from moebius.backends.webgpu.timing import timed
from moebius.check.lockstep import networks
from moebius.inpaint import tuning
from moebius.inpaint.settings import Settings
from moebius.model.arrays import time_sinusoid
from moebius.model.unet import UNet
from moebius.model.vae import VAE

NAME = Path(__file__).stem
STEPS, RUNS, PICTURES = 20, 5, 3
FIRST = 2  # pictures that are not: the first makes its plans, and at the second memory that grew for a later part is bound to the others
WARM = 0.2  # seconds: a GPU's clock may fall while the host compiles


def arguments() -> argparse.Namespace:
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", choices=["full", "tiny", "nano"], help="default: full on a GPU, tiny on a software driver")
    parser.add_argument("--adapter", help="by name or number, as `moebius adapters` lists them; default: the best")
    parser.add_argument("--precision", choices=["f32", "f16"], default="f32", help="what it computes in (f32)")
    parser.add_argument("--matrix-units", action="store_true", help="with the adapter's matrix units, through Dawn")
    parser.add_argument("--pictures", type=int, default=PICTURES, metavar="N", help=f"pictures that are timed ({PICTURES})")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result")
    return parser.parse_args()


def step(made: Inpainter, gpu: WebGPU) -> Plan:
    """As a picture's, with noise for inputs."""
    unet, settings = made.unet.config, Settings(steps=STEPS)
    denoiser = made.denoiser(1, made.scheduler.timesteps(STEPS, settings.strength), settings)
    side = unet.sample_size
    latents = [(1, side, side, channels) for channels in (unet.out_channels, 1, unet.out_channels)]
    return with_noise(gpu.record(denoiser.step, latents, slice(None)))


def plans(made: Inpainter, gpu: WebGPU) -> dict[str, Callable[[], Plan]]:
    """What records each part of a picture."""
    vae, side, size = made.vae.config, made.unet.config.sample_size, made.size
    return {
        "step": lambda: step(made, gpu),
        "encode": lambda: with_noise(gpu.record(made.vae.encoder, [(1, size, size, vae.in_channels)])),
        "decode": lambda: with_noise(gpu.record(made.vae.decoder, [(1, side, side, vae.latent_channels)])),
    }


def with_noise(plan: Plan) -> Plan:
    rng = np.random.default_rng(0)
    plan.upload([rng.standard_normal(t.shape, np.float32) for t in plan.inputs])
    return plan


def milliseconds(plan: Plan, clock: str) -> list[float]:
    """Of a plan as a whole, of some runs in a row."""
    table = plan.recording.sinusoid
    plan.start(None if table is None else time_sinusoid(range(table.shape[2]), table.shape[3]))
    whole = partial(plan.encode, indices=range(len(plan.recording.prologue), len(plan.dispatches)))
    end = time.perf_counter() + WARM
    timed(plan.device, [whole], clock)
    while time.perf_counter() < end:
        timed(plan.device, [whole], clock)
    return [float(t) for t in timed(plan.device, [whole] * RUNS, clock)]


def measured(plan: Plan, clock: str) -> dict[str, Any]:
    """Milliseconds of a plan as a whole, and of each op's dispatches in it."""
    ms = milliseconds(plan, clock)
    ops: dict[str, dict[str, float]] = defaultdict(lambda: {"dispatches": 0, "ms": 0.0, "flops": 0})
    for row in plan.profile():
        op = ops[f"{row['op']} {row['shader']}"]
        op["dispatches"] += 1
        op["ms"] += row["ms"]
        op["flops"] += row["flops"]
    return {"ms": median(ms), "runs": ms, "dispatches": len(plan.recording.steps), "ops": dict(ops)}


def main() -> int:
    args = arguments()
    gpu = WebGPU(args.adapter, precision=args.precision, matrix_units=args.matrix_units)
    table = tuning.apply(gpu)  # what users get
    config = args.config or ("tiny" if gpu.caps.is_software else "full")
    unet_config, unet, vae_config, vae = networks(config)
    made = Inpainter(UNet(unet_config, unet, gpu), VAE(vae_config, vae, gpu))
    clock = "timestamp" if gpu.gpu.timestamps and not gpu.caps.is_software else "wall"
    print(f"{config} model in {gpu.precision} on {gpu.name}; clock: {clock}")
    with gpu.gpu.turns:
        parts = {name: measured(record(), clock) for name, record in plans(made, gpu).items()}
    for name, part in parts.items():
        print(f"{name}: {part['ms']:.3f} ms, {part['dispatches']} dispatches")
        for op, row in sorted(part["ops"].items(), key=lambda item: -item[1]["ms"])[:12]:
            print(f"  {op:34} {row['dispatches']:4} × {row['ms']:9.3f} ms {row['flops'] / max(row['ms'], 1e-9) / 1e6:10.1f} GFLOP/s")
    about: dict[str, Any] = {"bench": NAME, "config": config, "precision": gpu.precision, "matrix_units": args.matrix_units, "clock": clock}
    about |= {"tuned": len(table.picks), "steps": STEPS, "environment": environment(gpu.gpu), "parts": parts, "pictures": []}
    if args.json:
        write_json(args.json, about)  # what is stopped after this leaves so much
    for _ in range(FIRST if args.pictures else 0):
        picture(made, STEPS)
    about["pictures"] = pictures = [picture(made, STEPS)[0] for _ in range(args.pictures)]
    if pictures:
        medians = {name: median(p[name] for p in pictures) for name in pictures[0]}
        print("pictures: " + ", ".join(f"{name} {1e3 * seconds:.1f} ms" for name, seconds in medians.items()))
    if args.json:
        write_json(args.json, about)
        print(f"written: {args.json}")
    return 0


if __name__ == "__main__":
    run(main)
