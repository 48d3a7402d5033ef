"""`moebius tune`: which kernels are fastest for a model's dense layers on this machine's adapter, measured and kept."""

from __future__ import annotations

import argparse
import json
import math
from typing import TYPE_CHECKING, Any

from moebius.cli import options
from moebius.cli.output import say
from moebius.errors import UsageError

if TYPE_CHECKING:
    from moebius.backends.webgpu import WebGPU
    from moebius.backends.webgpu.calls import GemmCall
    from moebius.backends.webgpu.tuner import Measured


def add_parser(commands: Any) -> None:
    p = commands.add_parser(
        "tune",
        help="measure which kernels are fastest on an adapter, and keep that for later runs",
        description="Every dense layer's shape on every kernel that the adapter can run; what computes wrong is named and not used. A GPU "
        "is tried by itself the first time, for three seconds; this takes as long as it needs, or --seconds, and measures anew. Exit code "
        "1 when a kernel computes wrong.",
    )
    p.add_argument("--config", choices=options.CONFIGS, help="whose layers (full on a GPU, nano on a software driver)")
    options.add_adapter(p)
    p.add_argument("--seconds", metavar="S", type=float, default=math.inf, help="end after so many; the costliest shapes come first")
    p.add_argument("--json", action="store_true", help="every shape with its times, in milliseconds")
    p.set_defaults(command=tune)


def tune(args: argparse.Namespace) -> int:
    from moebius.backends.webgpu import WebGPU
    from moebius.backends.webgpu.tuned import Table
    from moebius.backends.webgpu.tuner import Tuner, shapes
    from moebius.inpaint import tuning

    if not args.seconds > 0:
        raise UsageError(f"--seconds is {args.seconds:g}; give how long it may take, above 0.")
    ops = WebGPU(args.adapter, limits=args.limits, precision=args.precision, matrix_units=args.matrix_units)
    config = args.config or ("nano" if ops.caps.is_software else "full")
    calls = layers(ops, config)
    table, tuner = Table(), Tuner(ops.gpu, ops.caps)
    rows: list[Measured] = []
    if not args.json:
        clock = "its timestamps" if tuner.by == "timestamp" else "the wall's clock"
        print(f"{len(shapes(calls))} shapes of the {config} model in {ops.precision} on {ops.name}, by {clock}")
        print(f"{'':28} {'default':>10} {'fastest':>10}  kernel")

    def report(done: int, of: int, found: Measured) -> None:
        rows.append(found)
        if args.json:
            say(f"{done} of {of}: {line(found)}")
        else:
            print(line(found), flush=True)

    tuning.measure(ops, calls, table, args.seconds, tuner=tuner, report=report)
    left, args.prints = len(shapes(calls)) - len(table.picks), True
    if args.json:
        shown = [{"shape": row.shape, "ms": row.ms, "wrong": row.wrong, "kernel": row.pick.row if row.pick else None} for row in rows]
        about = {
            "adapter": ops.name,
            "precision": ops.precision,
            "config": config,
            "clock": tuner.by,
            "seconds": table.seconds,
            "left": left,
            "wrong": table.wrong,
        }
        print(json.dumps(about | {"shapes": shown}, indent=2))
    else:
        others = sum(p.gain > 1 for p in table.picks.values())
        rest = f" {left} shapes were not measured, and keep what they had." if left else ""
        print(f"{len(table.picks)} shapes in {table.seconds:.1f} s, {others} with another kernel than the default.{rest}")
    if not tuning.is_on():
        say(f"{tuning.SWITCH}=0 is set: until it is not, runs take the defaults.")
    elif not table.picks.keys() <= tuning.read(tuning.file_of(ops)).picks.keys():
        say("The cache cannot be written, so this is not kept. Set MOEBIUS_CACHE to a folder that can.")
    return 1 if table.wrong else 0


def line(found: Measured) -> str:
    times = list(found.ms.values())
    pick = found.pick
    if pick is None:
        return f"{found.shape:28} {'':>10} {'':>10}  not measured"
    gain = f" ({pick.gain:.2f} times as fast)" if pick.gain > 1 else " (the default)"
    return f"{found.shape:28} {times[0]:7.4f} ms {found.ms[pick.row]:7.4f} ms  {pick.row}{gain}"


def layers(ops: WebGPU, config: str) -> list[GemmCall]:
    """The dense layers of a guided step, of an encoding and of a decoding."""
    from moebius.check import parts
    from moebius.check.lockstep import networks
    from moebius.model.unet import UNet
    from moebius.model.vae import VAE

    unet_config, unet_weights, vae_config, vae_weights = networks(config)
    net, coder, side = UNet(unet_config, unet_weights, ops), VAE(vae_config, vae_weights, ops), unet_config.sample_size
    every = parts.step(net), parts.encoder(coder, side), parts.decoder(coder, side)
    return [call for part in every for call in ops.layers(*part)[0]]
