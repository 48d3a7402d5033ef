"""One guided step on the CPU: the UNet at batch 2, `CPU()` against eager PyTorch, on the same cores, in turn.

    python benchmarks/bench_cpu.py --config full --runs 5

Both get the same synthetic weights and the same latents; their outputs are compared before anything is timed. The two take turns
(A B A B …) in one process, so that what else the machine does meets both. The last line is a summary in JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

TOLERANCE = 2e-5  # relative L2 between the two outputs; each is 3e-6 to 7e-6 from float64


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--config", choices=["tiny", "full"], default="full")
    parser.add_argument("--runs", type=int, default=5, help="timed runs of each, after one of each to warm up")
    parser.add_argument("--cores", type=int, default=2, help="cores for both")
    return parser.parse_args()


def limit(count: int) -> int:
    """Leaves this process `count` cores. Before NumPy and PyTorch are loaded: OpenBLAS and OpenMP count them then."""
    if hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))[:count]
        os.sched_setaffinity(0, cores)
        count = len(cores)
    for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = str(count)
    return count


def main() -> None:
    args = arguments()
    cores = limit(args.cores)

    import numpy as np
    import torch
    from peers.torch_moebius import TorchUNet, load

    from moebius.cpu import CPU
    from moebius.unet import UNet, UNetConfig, shapes
    from moebius.weights import rng, synthetic

    torch.set_num_threads(cores)
    config = UNetConfig.tiny() if args.config == "tiny" else UNetConfig.full()
    weights = synthetic(shapes(config), 0)
    latents = rng(0, "bench_cpu.latents").standard_normal((2, config.in_channels, *[config.sample_size] * 2), dtype=np.float32)
    ids = np.array([np.arange(10, 20), np.arange(0, 10)])

    unet = UNet(config, weights, CPU(threads=cores))
    peer = TorchUNet(config)
    load(peer, weights)
    latents_torch, ids_torch = torch.from_numpy(latents), torch.from_numpy(ids)

    def ours() -> np.ndarray:
        return unet(latents, 811, ids)

    def theirs() -> np.ndarray:
        with torch.inference_mode():
            return peer(latents_torch, 811, ids_torch).numpy()

    a, b = ours().astype(np.float64), theirs().astype(np.float64)  # also the warm-up
    error = float(np.linalg.norm(a - b) / np.linalg.norm(b))
    print(f"{args.config}, batch 2, {cores} cores, NumPy {np.__version__} against PyTorch {torch.__version__} eager")
    print(f"outputs differ by {error:.1e} (relative L2)")
    if error > TOLERANCE:
        sys.exit(f"The outputs differ by {error:.1e}, more than {TOLERANCE:.0e}: there is nothing to time.")

    times: dict[str, list[float]] = {"cpu": [], "torch": []}
    for i in range(args.runs):
        times["cpu"].append(seconds(ours))
        times["torch"].append(seconds(theirs))
        print(
            f"run {i}: CPU {times['cpu'][-1]:.3f} s, PyTorch {times['torch'][-1]:.3f} s, ratio {times['cpu'][-1] / times['torch'][-1]:.3f}"
        )
    ratios = [x / y for x, y in zip(times["cpu"], times["torch"], strict=True)]
    medians = {name: statistics.median(values) for name, values in times.items()}
    print(f"median: CPU {medians['cpu']:.3f} s, PyTorch {medians['torch']:.3f} s, ratio of the pairs {statistics.median(ratios):.3f}")
    print(
        json.dumps(
            {
                "bench": Path(__file__).stem,
                "config": args.config,
                "cores": cores,
                "processor": processor(),
                "openblas_coretype": os.environ.get("OPENBLAS_CORETYPE", "its own choice"),
                "numpy": np.__version__,
                "torch": torch.__version__,
                "runs": args.runs,
                "relative_l2": error,
                "cpu_s": medians["cpu"],
                "torch_s": medians["torch"],
                "ratio_median": statistics.median(ratios),
                "ratio_worst": max(ratios),
            }
        )
    )


def seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


if __name__ == "__main__":
    main()
