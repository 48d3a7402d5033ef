"""How far every backend is from the float64 oracle and from the published code's outputs.

    python benchmarks/accuracy.py [--full] [--adapter NAME …]

Results are merged into benchmarks/results/accuracy.json, so that adapters can be measured one at a time; benchmarks/readme.py
writes the tables from that file.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
from common import ROOT, write_json
from readme import CASES

sys.path.insert(0, str(ROOT / "tests"))
from goldens import CONFIGS, IDS, load, noise, relative, sample, weights

from moebius.backends.cpu import CPU
from moebius.backends.reference import Reference
from moebius.backends.webgpu import WebGPU
from moebius.model.unet import UNet
from moebius.model.vae import VAE

RESULTS = ROOT / "benchmarks/results/accuracy.json"


def unet_case(golden: str, net: str, t: int) -> tuple[Callable[[Any], list[np.ndarray]], list[np.ndarray]]:
    s = CONFIGS[net].sample_size
    x = noise(f"{golden}.latent", (2, 9, s, s))
    return lambda ops: [UNet(CONFIGS[net], weights(net), ops)(x, t, IDS)], [load(golden)["output"]]


def vae_case(golden: str, net: str, size: int) -> tuple[Callable[[Any], list[np.ndarray]], list[np.ndarray]]:
    want = load(golden)

    def run(ops: Any) -> list[np.ndarray]:
        coder = VAE(CONFIGS[net], weights(net), ops)
        image = np.clip(noise(f"{golden}.image", (1, 3, size, size)), -1, 1)
        return [coder.encode(image), coder.decode(noise(f"{golden}.latent", (1, 4, size // 8, size // 8)))]

    return run, [want["moments"], want["image"]]


def against_golden(path: str, got: np.ndarray, want: np.ndarray) -> float:
    return relative(got if got.shape == want.shape else sample(got, path, want.size), want)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--full", action="store_true", help="the full-size networks too")
    parser.add_argument("--adapter", nargs="*", default=[], help="adapters besides NumPy")
    parser.add_argument("--cases", nargs="*", choices=CASES)
    args = parser.parse_args()
    results: dict[str, dict[str, dict[str, float]]] = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    cases = {
        "UNet tiny": lambda: unet_case("unet_nano_seed0_t500", "unet_nano", 500),
        "VAE tiny": lambda: vae_case("vae_nano_128", "vae_nano", 128),
        "UNet full": lambda: unet_case("unet_full_seed0_t811", "unet_full", 811),
        "VAE full 512²": lambda: vae_case("vae_full_512", "vae_full", 512),
    }
    for case in args.cases or CASES[: 4 if args.full else 2]:
        run, golden = cases[case]()
        oracle = run(Reference())
        # The adapter is opened inside the loop, so that one case's buffers are gone before the next begins.
        backends: list[Callable[[], Any]] = [Reference, CPU, *(lambda a=a: WebGPU(a) for a in args.adapter)]  # type: ignore[misc]
        for make in backends:
            ops = make()
            out = oracle if type(ops) is Reference else run(ops)
            paths = ["output"] if len(out) == 1 else ["moments", "image"]
            row = {
                "oracle": max(relative(a, b) for a, b in zip(out, oracle, strict=True)),
                "published": max(against_golden(p, a, b) for p, a, b in zip(paths, out, golden, strict=True)),
            }
            label = (
                "NumPy float64 (the oracle)"
                if type(ops) is Reference
                else "NumPy float32 (the CPU device)"
                if isinstance(ops, CPU)
                else ops.gpu.name
            )
            results.setdefault(label, {})[case] = row
            print(f"{case:14} {row['oracle']:9.2e} {row['published']:9.2e}  {label}", flush=True)
            RESULTS.parent.mkdir(exist_ok=True)
            write_json(RESULTS, {label: dict(sorted(rows.items())) for label, rows in sorted(results.items())})


if __name__ == "__main__":
    main()
