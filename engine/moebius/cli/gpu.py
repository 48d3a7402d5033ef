"""`moebius adapters`, `plan` and `validate`: which GPUs there are, what the model costs on one, whether it computes right."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from typing import Any

from moebius.cli import options
from moebius.cli.options import CONFIGS

KINDS = ["discrete", "integrated", "software"]


def add_parsers(commands: Any) -> None:
    p = commands.add_parser("adapters", help="list adapters and mark the one that would be chosen")
    p.add_argument("--implementation", choices=["wgpu", "dawn"], default="wgpu")
    p.add_argument("--json", action="store_true")
    p.set_defaults(command=adapters, prints=True)

    p = commands.add_parser("plan", help="what one guided step of the UNet costs, from its recorded plan")
    p.add_argument("--config", choices=CONFIGS, default="full")
    options.add_adapter(p)
    p.add_argument("--kind", choices=KINDS, help="record for an adapter of this kind, in place of the adapter's own")
    p.add_argument("--json", action="store_true", help="flops, dispatches, bytes, peak_bytes, weight_bytes and every dispatch")
    p.set_defaults(command=plan, prints=True)

    p = commands.add_parser("validate", help="every op on the GPU against the float64 oracle, from the GPU's own inputs")
    p.add_argument("--config", choices=CONFIGS, default="tiny", help="nano: with its own weights; the others have synthetic ones")
    options.add_adapter(p)
    p.add_argument("--image-size", type=int, help="side of the VAE's image (default: the config's own)")
    p.add_argument("--json", action="store_true")
    p.set_defaults(command=validate)


def adapters(args: argparse.Namespace) -> int:
    """The CPU device is one of them: it is what computes where there is no hardware GPU."""
    from moebius.backends.cpu import CPU
    from moebius.backends.webgpu import device
    from moebius.backends.webgpu.caps import DEFAULT_LIMITS
    from moebius.inpaint.device import preferred

    listed = device.adapters(args.implementation)
    is_dawn = args.implementation == "dawn"  # among whose adapters "auto" does not choose
    best = None if is_dawn else preferred(listed)
    rows: list[dict[str, Any]] = [
        {
            "index": f"dawn:{i}" if is_dawn else i,
            "name": a.info["device"],
            "type": a.info["adapter_type"],
            "backend": a.info["backend_type"],
            "vendor": a.info["vendor"],
            "driver": a.info["description"],
            "chosen": a is best,
            "limits": {k: a.limits[k] for k in DEFAULT_LIMITS if k in a.limits},
            "features": sorted(a.features),
        }
        for i, a in enumerate(listed)
    ]
    cpu = {"index": "cpu", "name": CPU().name, "type": "CPU device", "backend": "NumPy", "vendor": "", "driver": ""}
    rows.append({**cpu, "chosen": best is None and not is_dawn, "limits": {}, "features": []})
    if args.json:
        print(json.dumps(rows, indent=2))
        return 0
    for row in rows:
        limits = row["limits"]
        mark = "* " if row["chosen"] else "  "
        if not limits:
            print(f"{mark}{row['index']}: {row['name']}")
            continue
        print(f"{mark}{row['index']}: {row['name']} ({row['type']}) via {row['backend']}, driver: {row['driver'] or row['vendor']}")
        print(
            f"     binding {limits['max-storage-buffer-binding-size'] >> 20} MiB, buffer {limits['max-buffer-size'] >> 20} MiB, "
            f"workgroup {limits['max-compute-invocations-per-workgroup']} invocations and "
            f"{limits['max-compute-workgroup-storage-size'] >> 10} KiB, {limits['max-storage-buffers-per-shader-stage']} storage buffers"
        )
        print(f"     features: {', '.join(row['features'])}")
    if is_dawn:
        print("--device auto chooses among the adapters that `moebius adapters` lists without --implementation.")
        print("What stands before a name here works as --device, and all but cpu as --adapter; so do words of a name, as dawn:WORDS.")
        return 0
    print("* is what --device auto chooses: a discrete GPU before an integrated one, the CPU device before a software driver.")
    print("Any name or index here works as --device, and all but cpu as --adapter.")
    return 0


def plan(args: argparse.Namespace) -> int:
    import numpy as np

    from moebius.backends.webgpu import WebGPU
    from moebius.check import parts
    from moebius.check.lockstep import configs
    from moebius.inpaint import tuning

    config, vae_config = configs(args.config)
    gpu = WebGPU(args.adapter, limits=args.limits, precision=args.precision, matrix_units=args.matrix_units)
    if args.kind is None:
        tuning.apply(gpu)
    else:
        gpu = WebGPU(gpu.gpu, replace(gpu.caps, kind=args.kind))
    step, encoder, decoder = parts.recorded(gpu, config, vae_config)
    summary, rows = step.summary() | parts.memory(step, encoder, decoder), step.describe()
    if args.json:
        about = {"config": args.config, "adapter": gpu.name, "precision": gpu.precision}
        print(json.dumps({**about, **summary, "plan": rows}))
        return 0
    print(f"One guided step, {args.config} config, in {gpu.precision} on {gpu.name}")
    print(f"{'op':18} {'shader':15} {'grid':>16} {'MFLOP':>10} {'MB':>8}  path  [kernel; why]")
    for row in rows:
        grid = "×".join(map(str, row["grid"]))
        kernel = f"  [{row['kernel']}]" if row["kernel"] else ""
        print(f"{row['op']:18} {row['shader']:15} {grid:>16} {row['flops'] / 1e6:10.1f} {row['bytes'] / 1e6:8.2f}  {row['path']}{kernel}")
    by_op: dict[str, Any] = {}
    for row in rows:
        n, flops = by_op.get(row["op"], (0, 0))
        by_op[row["op"]] = n + 1, flops + row["flops"]
    print()
    for op, (n, flops) in sorted(by_op.items(), key=lambda item: -item[1][1]):
        print(f"{op:18} {n:4} dispatches {flops / 1e9:10.3f} GFLOP {100 * flops / np.maximum(summary['flops'], 1):5.1f} %")
    print(f"{'flops':14}{summary['flops']:>16,}")
    print(f"{'dispatches':14}{summary['dispatches']:>16,}")
    print(f"{'bytes':14}{summary['bytes']:>16,}  bound, over all dispatches")
    print(f"{'peak_bytes':14}{summary['peak_bytes']:>16,}  beyond the weights")
    print(f"{'weight_bytes':14}{summary['weight_bytes']:>16,}")
    print(f"{'early_bytes':14}{summary['early_bytes']:>16,}  of weights that are given back when the tables of the timesteps are made")
    print(f"{'model_bytes':14}{summary['model_bytes']:>16,}  the weights of both networks, without those")
    print(f"{'picture_bytes':14}{summary['picture_bytes']:>16,}  at a picture's peak: those, and what the plans of it take")
    print(f"{'low_memory':14}{summary['low_memory_bytes']:>16,}  the same with --low-memory")
    return 0


def validate(args: argparse.Namespace) -> int:
    from moebius.backends.webgpu import WebGPU
    from moebius.check import lockstep
    from moebius.inpaint import tuning

    lockstep.check_image_size(args.image_size)
    gpu = WebGPU(args.adapter, limits=args.limits, precision=args.precision, matrix_units=args.matrix_units)
    tuning.apply(gpu)
    rows: list[lockstep.Row] = []

    def report(row: lockstep.Row) -> None:
        rows.append(row)
        if not args.json:
            shape = "×".join(map(str, row.shape))
            verdict = "ok" if row.ok else "OVER"
            print(f"{row.op:17} {shape:>17} {row.max_abs:9.2e} {row.relative_l2:9.2e} {row.limit:9.2e} {verdict:5} {row.path}", flush=True)

    if not args.json:
        print(f"Every op of the {args.config} UNet and VAE in {gpu.precision} on {gpu.name}, against float64")
        print(f"{'op':17} {'shape':>17} {'max abs':>9} {'rel. L2':>9} {'limit':>9} {'':5} path")
    lockstep.validate(gpu, args.config, args.image_size, report)
    over, args.prints = [row for row in rows if not row.ok], True
    worst = max(rows, key=lambda r: r.relative_l2 / r.limit if r.limit else r.relative_l2 * 1e30)
    if args.json:
        about = {"adapter": gpu.name, "precision": gpu.precision, "config": args.config, "ok": not over}
        print(json.dumps(about | {"rows": [lockstep.as_dict(r) for r in rows]}))
    else:
        nearest = f"{worst.op} {worst.path} at {worst.relative_l2:.2e} of {worst.limit:.2e}"
        print(f"{len(rows)} ops, {len(over)} over their limit; nearest to it: {nearest}")
    return 1 if over else 0
