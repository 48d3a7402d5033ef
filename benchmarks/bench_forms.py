"""Which forms of its kernels is a guided step fastest with? One choice is another at a time, and each layer is timed where it stands.

    python benchmarks/bench_forms.py [--config full|tiny] [--adapter NAME] [--precision f16] [--matrix-units]
                                     [--part step|encode|decode] [--filter WORD] [--json FILE]

`moebius tune` times a dense layer by itself, over and over, with all that it reads in the caches. Here the plan runs as in a picture: once
for every row of the menu, in all layers that it is worth a measurement for, and once for every form of the kernels beside them
(`FORMS`: constants of backends/webgpu/ops, which prefer a form where there is room and work for it). Milliseconds by GPU timestamps where
there are some. The first row is what is there; one that changes nothing is left out. Below the table stands what another is faster with.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any

from bench_sizes import constants
from common import environment, run, write_json
from whole import milliseconds, plans

from moebius import Inpainter
from moebius.backends.webgpu import WebGPU, choice
from moebius.backends.webgpu.calls import GemmCall
from moebius.backends.webgpu.caps import Caps
from moebius.backends.webgpu.choice import Choose
from moebius.backends.webgpu.menu import Gemm
from moebius.backends.webgpu.ops import dense, lambdas
from moebius.backends.webgpu.ops.dense import Block
from moebius.backends.webgpu.ops.lambdas import Content, Cross, UnitWindow, Window
from moebius.backends.webgpu.plan import Plan
from moebius.check.lockstep import networks
from moebius.errors import MoebiusError
from moebius.model.unet import UNet
from moebius.model.vae import VAE

NAME = Path(__file__).stem
AS_IT_IS = "as it is"
FASTER = 0.97  # of what is there, from which on a form is named
WINDOWS = (
    (16, 1, 1, 4, False),
    (16, 1, 3, 8, False),
    (8, 1, 2, 4, False),
    (8, 1, 5, 4, False),
    (8, 1, 3, 2, False),
    (8, 1, 3, 8, False),
    (8, 2, 3, 8, False),
    (4, 1, 3, 4, False),
    (4, 1, 5, 4, False),
    (2, 1, 3, 2, True),
    (2, 1, 5, 2, True),
)
ON_UNITS = (
    *((8, 1, 1), (8, 2, 1), (4, 1, 1), (4, 2, 1), (4, 3, 1), (2, 1, 1), (2, 2, 1), (2, 3, 1), (2, 5, 1)),
    *((1, 1, 2), (1, 2, 2), (1, 3, 2), (1, 4, 2), (1, 1, 5), (1, 3, 1)),
)
# Where few workgroups, 64, are enough: for the smallest level. On units the other kernel is not run.
FEW: dict[str, Any] = {"lambdas.GROUPS": 64}
FEW_WINDOWS = ((4, 1, 3, 4, False), (4, 1, 3, 4, True), (8, 1, 3, 4, False))
FEW_ON_UNITS = ((2, 1, 2), (2, 2, 1), (2, 2, 2), (2, 3, 2))
CONTENT = (
    (128, 2, 1, 8),
    (128, 1, 1, 8),
    (256, 1, 1, 4),
    (64, 2, 1, 8),
    (64, 4, 1, 4),
    (32, 4, 1, 8),
    (32, 8, 1, 8),
    (16, 8, 1, 4),
    (16, 4, 2, 8),
)
CROSS = ((10, 3, 40), (10, 2, 20), (5, 4, 40), (20, 3, 40), (20, 2, 20), (20, 1, 10), (20, 1, 20), (20, 1, 40), (40, 1, 20))
BLOCKS = (
    *((1, 64, 8, 4), (1, 128, 8, 4), (1, 128, 16, 4), (1, 256, 8, 4), (1, 256, 8, 8), (1, 256, 16, 4), (1, 256, 32, 2), (1, 256, 4, 4)),
    *((2, 64, 8, 4), (2, 128, 8, 4), (2, 256, 8, 4), (2, 128, 16, 4)),
)
# Constants of other values, by what is changed.
FORMS: dict[str, dict[str, Any]] = {
    **{f"window {form}": {"lambdas.WINDOWS": (Window(*form), *lambdas.WINDOWS)} for form in WINDOWS},
    **{
        f"window {form} few": {"lambdas.WINDOWS": (Window(*form), *lambdas.WINDOWS), "lambdas.UNIT_WINDOWS": (), **FEW}
        for form in FEW_WINDOWS
    },
    **{f"window on units {form}": {"lambdas.UNIT_WINDOWS": (UnitWindow(*form), *lambdas.UNIT_WINDOWS)} for form in ON_UNITS},
    **{f"window on units {form} few": {"lambdas.UNIT_WINDOWS": (UnitWindow(*form), *lambdas.UNIT_WINDOWS), **FEW} for form in FEW_ON_UNITS},
    "window beside units": {"lambdas.UNIT_WINDOWS": ()},
    **{f"content {form}": {"lambdas.CONTENT": (Content(*form), *lambdas.CONTENT)} for form in CONTENT},
    **{f"cross {form}": {"lambdas.CROSS_FORM": Cross(*form)} for form in CROSS},
    **{f"depthwise {form}": {f"dense.{name}": Block(*form) for name in ("BLOCK", "SOFTWARE_BLOCK")} for form in BLOCKS},
    **{f"group norm {threads} threads": {"norms.SCALE_THREADS": threads} for threads in (256, 512)},
    **{f"group norm {ahead} ahead": {"norms.SCALE_AHEAD": ahead} for ahead in (4, 8, 16)},
    "norms of float32": {"dense.INNER": dict.fromkeys(dense.INNER, "f32")},
    **{f"parts of {mib} MiB": {"dense.PART": dict.fromkeys(dense.PART, mib << 20)} for mib in (16, 32, 64)},
}


def everywhere(row: Gemm) -> Choose:
    """A row for all layers, wherever it may be."""

    def choose(caps: Caps, call: GemmCall) -> Gemm:
        default = choice.choose(caps, call)
        return row if row in choice.candidates(caps, call) else default

    return choose


def layers(plan: Plan) -> dict[str, tuple[str, list[int]]]:
    """Dispatches of a plan by what they are a part of: an op, a family of kernels, and the size of a layer; and how they are made."""
    out: dict[str, tuple[str, list[int]]] = {}
    first = len(plan.recording.prologue)
    for i, d in enumerate(plan.dispatches[first:]):
        size = "×".join(map(str, d.outputs[0].shape)) + (f" of {4 * d.params['k4']}" if {"n4", "k4"} <= d.params.keys() else "")
        name = f"{d.op} {d.shader.partition('_')[0]} {size}"
        how, which = out.get(name, ("", []))
        out[name] = f"{how} {d.shader} {d.entry} {d.constants} {d.grid}", [*which, i]
    return out


def faster(found: Mapping[str, Any]) -> list[tuple[str, float, float, str]]:
    """Layers with what they take as it is, the least they take, and with what."""
    out = []
    for layer, ms in found[AS_IT_IS]["layers"].items():
        name = min(found, key=lambda name: found[name]["layers"].get(layer, ms))
        less = found[name]["layers"].get(layer, ms)
        if less < FASTER * ms:
            out.append((layer, ms, less, name))
    return sorted(out, key=lambda row: row[2] - row[1])


def main() -> int:
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", choices=["full", "tiny"], default="full")
    parser.add_argument("--adapter", help="by name or number, as `moebius adapters` lists them; default: the best")
    parser.add_argument("--precision", choices=["f32", "f16"], default="f32", help="what it computes in (f32)")
    parser.add_argument("--matrix-units", action="store_true", help="with the adapter's matrix units, through Dawn")
    parser.add_argument("--part", choices=["step", "encode", "decode"], default="step", help="of a picture (step)")
    parser.add_argument("--filter", default="", metavar="WORD", help="only forms and rows whose name has it")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result")
    args = parser.parse_args()
    gpu = WebGPU(args.adapter, precision=args.precision, matrix_units=args.matrix_units)
    clock = "timestamp" if gpu.gpu.timestamps and not gpu.caps.is_software else "wall"
    unet_config, unet, vae_config, vae = networks(args.config)
    made = Inpainter(UNet(unet_config, unet, gpu), VAE(vae_config, vae, gpu))
    rows = {row.key: row for row in choice.ROWS if row.software == gpu.caps.is_software and row.fits(gpu.caps)}
    print(f"{args.part} of the {args.config} model, {gpu.precision} on {gpu.name}; clock: {clock}")
    about: dict[str, Any] = {"bench": NAME, "config": args.config, "part": args.part, "precision": gpu.precision, "clock": clock}
    about |= {"matrix_units": args.matrix_units, "environment": environment(gpu.gpu), "rows": {}}
    found: dict[str, dict[str, Any]] = about["rows"]
    as_it_is: dict[str, str] = {}
    for name in [AS_IT_IS, *(name for name in (*FORMS, *rows) if args.filter in name)]:
        gpu.choose = everywhere(rows[name]) if name in rows else choice.choose
        try:
            with constants(FORMS.get(name, {})), gpu.gpu.turns:
                plan = plans(made, gpu)[args.part]()
                others = {layer: which for layer, (how, which) in layers(plan).items() if how != as_it_is.get(layer)}
                if not others:
                    continue
                ms, each = median(milliseconds(plan, clock)), [row["ms"] for row in plan.profile()]
        except MoebiusError as error:  # a row or a form that this device makes wrong
            if name == AS_IT_IS:
                raise
            print(f"{name:44} {error}")
            continue
        as_it_is = as_it_is or {layer: how for layer, (how, _) in layers(plan).items()}
        found[name] = {"ms": ms, "layers": {layer: sum(each[i] for i in which) for layer, which in others.items()}}
        print(f"{name:44} {ms:9.3f} ms", flush=True)
        if args.json:
            write_json(args.json, about)  # what is stopped after this leaves so much
    for layer, ms, less, name in faster(found):
        print(f"{layer:44} {ms:9.3f} ms, {less:9.3f} with {name}")
    return 0


if __name__ == "__main__":
    run(main)
