"""How far f16 is from f32 on an adapter: nano's picture of the sample, end to end; the tiny networks op by op, held against what halves may
lose; with --full the full model's latents.

    python benchmarks/halves.py [--adapter NAME] [--full]

Results are merged into benchmarks/results/halves.json, so that adapters can be measured one at a time; benchmarks/readme.py writes the
table from that file. With --full it takes hours on a software driver.
"""

from __future__ import annotations

import argparse
import json
from typing import Any

import numpy as np
from common import RESULTS, environment, run, write_json
from PIL import Image

from moebius import sample
from moebius.backends.webgpu import WebGPU
from moebius.check import lockstep
from moebius.inpaint.inpainter import Inpainter
from moebius.many.recipe import made
from moebius.model.contract import Precision
from moebius.weights import store
from moebius.weights.published import NANO

FILE = RESULTS / "halves.json"
STEPS = 20


def pictures(gpu: WebGPU, inpainter: Any, **settings: Any) -> dict[str, float]:
    """One picture in both precisions: what is different within the hole, of 255 levels, and between their latents."""
    made_in: dict[Precision, Any] = {}
    for precision in ("f32", "f16"):
        with inpainter(WebGPU(gpu.gpu, precision=precision)) as model:
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


def ops(gpu: WebGPU, precision: Precision) -> dict[str, Any]:
    """Every op of the tiny networks against float64, from the adapter's own inputs."""
    rows: list[lockstep.Row] = []
    lockstep.validate(WebGPU(gpu.gpu, precision=precision), "tiny", None, rows.append)
    used = [row.relative_l2 / row.limit for row in rows if row.limit]
    worst = max(rows, key=lambda row: row.relative_l2)
    of = {"inside": sum(row.ok for row in rows), "count": len(rows), "used": round(max(used), 4)}
    return {**of, "worst": worst.relative_l2, "worst_op": worst.op, "median": float(np.median([row.relative_l2 for row in rows]))}


def main() -> int:
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--adapter", help="by name or number, as `moebius adapters` lists them; default: the best")
    parser.add_argument("--full", action="store_true", help="the full model's latents too, with weights made from a seed")
    args = parser.parse_args()
    gpu, weights = WebGPU(args.adapter), store.load(NANO)
    result: dict[str, Any] = {"environment": environment(gpu.gpu)}
    result["nano"] = pictures(gpu, lambda on: Inpainter.from_weights(weights, on), detail=0)
    print(json.dumps(result["nano"]), flush=True)
    result["tiny"] = {precision: ops(gpu, precision) for precision in ("f32", "f16")}
    print(json.dumps(result["tiny"]), flush=True)
    result["tiny"]["latents"] = pictures(gpu, lambda on: made("tiny", on))["latents"]
    if args.full:
        result["full"] = pictures(gpu, lambda on: made("full", on))
        print(json.dumps(result["full"]), flush=True)
    old = json.loads(FILE.read_text(encoding="utf-8")) if FILE.exists() else {}
    write_json(FILE, {"bench": "halves", "steps": STEPS, "adapters": dict(sorted({**old.get("adapters", {}), gpu.name: result}.items()))})
    return 0


if __name__ == "__main__":
    run(main)
