"""The whole model: load, encode, per step, decode, whole image, side by side in one run with what a user would pick instead.

    python benchmarks/bench_model.py [--small] [--config full|tiny|nano] [--adapter NAME] [--only NAMES] [--json FILE] [--plot FILE]

Everyone works in a process of their own; who takes longer than --patience is stopped, with a word on what it was doing, and the others go
on. Everyone reads the same weights from the same file and makes the same picture with the same noise and the same loop round the networks,
in float32 but where a name says TF32 or f16. Outputs are compared before any time is printed; then everyone takes turns, and ratios are of
the pairs of a turn. Then, for ours: host time per dispatch, cost against image size, batch and steps. The last line is a summary in JSON.
"""

from __future__ import annotations

import argparse
import math
import os
from pathlib import Path


def arguments() -> argparse.Namespace:
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="two minutes on two cores: the tiny model, 4 steps, what is slow left out")
    parser.add_argument(
        "--config", choices=["full", "tiny", "nano"], help="default: full on a GPU, tiny on a software driver and with --small"
    )
    parser.add_argument("--adapter", help="by name or number, as `moebius adapters` lists them; default: the best")
    parser.add_argument("--precision", choices=["f32", "f16"], default="f32", help="what we compute in on the GPU (f32)")
    parser.add_argument("--matrix-units", action="store_true", help="ours with the adapter's matrix units, through Dawn")
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="take part: 'moebius WebGPU', 'PyTorch CPU eager', …")
    parser.add_argument("--steps", type=int, help="sampling steps; default 20, with --small 4")
    parser.add_argument("--runs", type=int, help="timed pictures of each, after one that is compared; default 5, with --small 3")
    parser.add_argument("--limit", type=float, help="seconds a picture may take: who is slower is left out; default 300, with --small 8")
    parser.add_argument(
        "--patience", type=float, help="seconds a contender may take to load and make its first picture; default 900, with --small 120"
    )
    parser.add_argument("--budget", type=float, default=math.inf, help="seconds in all: who has not begun by then is left out")
    parser.add_argument("--brief", action="store_true", help="leave out what pictures cost us by size, batch and steps")
    parser.add_argument(
        "--reference", type=Path, metavar="FILE.npz", help="NumPy's outputs: read there, or made and written where it is not"
    )
    parser.add_argument("--cores", type=int, help="keep everyone to so many cores; default: all")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result")
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="draw the result")
    args = parser.parse_args()
    for name, default, small in (("steps", 20, 4), ("runs", 5, 3), ("limit", 300.0, 8.0), ("patience", 900.0, 120.0)):
        if getattr(args, name) is None:
            setattr(args, name, small if args.small else default)
        if not getattr(args, name) > 0:
            parser.error(f"--{name} is {getattr(args, name)}; it must be above 0")
    if args.steps < 2:
        parser.error(f"--steps is {args.steps}; it must be 2 or more, for a strength below 1 leaves one out")
    if args.cores is not None and args.cores < 1:
        parser.error(f"--cores is {args.cores}; it must be 1 or more")
    return args


def keep_to(count: int) -> None:
    """Leaves this process `count` cores. Before NumPy and PyTorch are loaded: OpenBLAS and OpenMP count them then."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:count])
    for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = str(count)


def as_installed() -> None:
    """Lets OpenBLAS choose its own kernel: a name in the environment can keep it from the processor's best. Before NumPy is loaded."""
    for name in ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE"):
        os.environ.pop(name, None)


if __name__ == "__main__":
    given = arguments()
    as_installed()
    if given.cores is not None:
        keep_to(given.cores)

    from common import run
    from model import bench

    run(lambda: bench(given))
