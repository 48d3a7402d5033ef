"""How large should the parts, bands and scratch memory of a decoder be? Each choice's milliseconds, dispatches and memory, interleaved.

    python benchmarks/bench_sizes.py [--config full|tiny] [--side N] [--adapter NAME] [--precision f16] [--matrix-units] [--json FILE]

The constants are those of backends/webgpu/gemm.py and ops/dense.py; the first row is what is in them. They change no bit of a picture: one
that is another is an error. Software drivers have no parts, so there the plans are those of a discrete GPU.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from common import environment, run, write_json

from moebius.backends.webgpu import WebGPU, gemm
from moebius.backends.webgpu.ops import dense, lambdas, norms
from moebius.backends.webgpu.plan import Plan
from moebius.backends.webgpu.timing import timed
from moebius.check.lockstep import networks
from moebius.errors import MoebiusError
from moebius.inpaint import tuning
from moebius.model.vae import VAE

NAME = Path(__file__).stem
ROUNDS = 5
MODULES = {"gemm": gemm, "dense": dense, "lambdas": lambdas, "norms": norms}
MIB = 1 << 20
NEVER = 1 << 40


def parts(mib: int) -> dict[str, int]:
    return dict.fromkeys(dense.PART, mib * MIB)


ROWS: dict[str, dict[str, Any]] = {
    "as it is": {},
    "bands of 32 MiB": {"gemm.NORMED": 32 * MIB},
    "parts of 32 MiB": {"dense.PART": parts(32)},
    "scratch of 80 MiB": {"gemm.SCRATCH": 80 * MIB},
    "enlarging of 96 MiB": {"gemm.ENLARGED": 96 * MIB},
    "all four": {"gemm.NORMED": 32 * MIB, "dense.PART": parts(32), "gemm.SCRATCH": 80 * MIB, "gemm.ENLARGED": 96 * MIB},
    "no parts": {"dense.WHOLE": NEVER},
    "no parts, bands of 64 MiB": {"dense.WHOLE": NEVER, "gemm.NORMED": 64 * MIB},
    "no parts, bands of 64 MiB, scratch of 160": {"dense.WHOLE": NEVER, "gemm.NORMED": 64 * MIB, "gemm.SCRATCH": 160 * MIB},
}


def _set(values: Mapping[str, Any]) -> None:
    for name, value in values.items():
        module, _, constant = name.partition(".")
        setattr(MODULES[module], constant, value)


@contextmanager
def constants(values: Mapping[str, Any]) -> Iterator[None]:
    """Recorded with these, each named by its module."""
    before = {name: getattr(MODULES[name.partition(".")[0]], name.partition(".")[2]) for name in values}
    try:
        _set(values)
        yield
    finally:
        _set(before)


def picture(plan: Plan, z: np.ndarray) -> np.ndarray:
    plan.upload([z])
    plan.start()
    plan.replay()
    out = plan.outputs[0]
    return out.buffer.read(out.nbytes)


def main() -> int:
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", choices=["full", "tiny"], default="full")
    parser.add_argument("--side", type=int, default=64, help="of the latents (64)")
    parser.add_argument("--adapter", help="by name or number, as `moebius adapters` lists them; default: the best")
    parser.add_argument("--precision", choices=["f32", "f16"], default="f32", help="what it computes in (f32)")
    parser.add_argument("--matrix-units", action="store_true", help="with the adapter's matrix units, through Dawn")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result")
    args = parser.parse_args()
    gpu = WebGPU(args.adapter, precision=args.precision, matrix_units=args.matrix_units)
    clock = "timestamp" if gpu.gpu.timestamps and not gpu.caps.is_software else "wall"
    if gpu.caps.is_software:
        gpu = WebGPU(gpu.gpu, replace(gpu.caps, kind="discrete"))
    else:
        tuning.apply(gpu)
    config, weights = networks(args.config)[2:]
    coder = VAE(config, weights, gpu)
    z = np.random.default_rng(0).standard_normal((1, args.side, args.side, config.latent_channels), np.float32)
    plans: dict[str, Plan] = {}
    for name, values in ROWS.items():
        with constants(values):
            plans[name] = gpu.record(coder.decoder, [z.shape])
    print(f"decoder of the {args.config} model at {args.side}², {gpu.precision} on {gpu.name}; clock: {clock}")
    with gpu.gpu.turns:
        pictures = {name: picture(plan, z) for name, plan in plans.items()}
        for name, made in pictures.items():
            if not np.array_equal(made, pictures["as it is"]):
                raise MoebiusError(f"With {name} the picture is another one than with the sizes that are there.")
        whole = {name: partial(plan.encode, indices=range(len(plan.dispatches))) for name, plan in plans.items()}
        rounds = [timed(gpu.gpu, list(whole.values()), clock) for _ in range(1 + ROUNDS)][1:]
    rows = {}
    for (name, plan), ms in zip(plans.items(), np.transpose(rounds).tolist(), strict=True):
        summary = plan.summary()
        rows[name] = {"ms": median(ms), "runs": ms} | {key: summary[key] for key in ("dispatches", "flops", "bytes", "peak_bytes")}
        print(f"{name:44} {rows[name]['ms']:9.2f} ms {summary['dispatches']:6} dispatches {summary['peak_bytes'] / 1e6:8.0f} MB")
    if args.json:
        about = {"bench": NAME, "config": args.config, "side": args.side, "precision": gpu.precision, "clock": clock}
        write_json(args.json, about | {"matrix_units": args.matrix_units, "environment": environment(gpu.gpu), "rows": rows})
    return 0


if __name__ == "__main__":
    run(main)
