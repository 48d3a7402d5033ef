"""The work of bench_model: who takes part, whether they agree, how long each takes in turn."""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import common
import reference
from apart import Apart, PeerError
from contenders import NUMPY, OURS, Contender, LeftOutError, Setting, contenders, dawn_adapter
from part import Outputs, Part, Task
from plot import draw
from workload import relative

from moebius.backends.webgpu.device import Device
from moebius.errors import AdapterError, MoebiusError, UsageError
from moebius.model import unet, vae
from moebius.model.synthetic import synthetic
from moebius.model.unet import UNetConfig
from moebius.model.vae import VAEConfig
from moebius.weights.bundle import write_bundle
from moebius.weights.nano import packaged_nano

Worker = Part | Apart
PARTS = ("encode", "step", "decode", "image")
PREPARING = 0.8  # of --budget, before those who are there are timed
WHOLE_RUN = 20  # a picture's latents may differ by so many tolerances of a single call: every step starts from the last one's


def bench(args: argparse.Namespace) -> int:
    software = is_software(args.adapter)
    config = args.config or ("tiny" if args.small or software else "full")
    print(
        f"{config} model, {args.steps} steps, {args.runs} pictures each, after one that is compared" + (" (--small)" if args.small else "")
    )
    if args.config is None and not args.small:
        print(f"--config {config}, because the adapter is {'a software driver, or there is none' if software else 'a GPU'}")
    with tempfile.TemporaryDirectory(prefix="moebius-bench-") as folder:
        path = packaged_nano() if config == "nano" else write_synthetic(config, Path(folder) / "weights.safetensors")
        setting = Setting(
            path, Path(folder), args.adapter, args.cores or common.cores(), args.small, tuple(args.only), args.precision, args.matrix_units
        )
        result = measure(config, setting, args)
    show(result)
    if args.json:
        common.write_json(args.json, result)
    if args.plot:
        draw(result, args.plot)
    print(json.dumps(summary(result), ensure_ascii=False))
    return 0


def is_software(adapter: str | None) -> bool:
    try:
        return Device.open(adapter).caps.is_software
    except AdapterError:
        if adapter is not None:
            raise
        return True


def write_synthetic(config: str, path: Path) -> Path:
    full = config == "full"
    configs = (UNetConfig.full(), VAEConfig.full()) if full else (UNetConfig.tiny(), VAEConfig.tiny())
    write_bundle(path, configs[0], synthetic(unet.shapes(configs[0]), 0), configs[1], synthetic(vae.shapes(configs[1]), 0))
    return path


def measure(config: str, setting: Setting, args: argparse.Namespace) -> dict[str, Any]:
    known = {c.name: c for c in contenders(setting.precision)}
    if unknown := [name for name in args.only if name not in known]:
        raise UsageError(f"--only names {', '.join(map(repr, unknown))}. There are {', '.join(map(repr, known))}.")
    wanted = [c for name, c in known.items() if not args.only or name in args.only]
    if not any(c.name == NUMPY for c in wanted):  # it is what outputs are compared with
        wanted.insert(0, known[NUMPY])
    wanted.sort(key=lambda c: c.name != NUMPY)
    working: dict[str, Worker] = {}
    about = f"the {config} model in {args.steps} steps"
    try:
        present, left_out = prepare(wanted, setting, args, working, about)
        if args.only and NUMPY not in args.only:
            present = [c for c in present if c.name != NUMPY]
        present.sort(key=lambda c: list(known).index(c.name))
        left_out |= take_turns(present, working, args)
        present = [c for c in present if c.name not in left_out]
        if not present:
            raise MoebiusError(f"Nobody is left to be timed: {'; '.join(f'{k}: {v}' for k, v in left_out.items())}.")
        main = present[0]
        facts = working[main.name].facts()
        result: dict[str, Any] = {
            "bench": "bench_model",
            "config": config,
            "small": args.small,
            "steps": args.steps,
            "calls": facts["calls"],
            "runs": args.runs,
            "cores": setting.cores,
            "precision": {"f32": "float32", "f16": "float16"}[setting.precision],
            "environment": facts["environment"],
            "against": main.name,
            "contenders": {c.name: figures(c, main) for c in present},
            "left_out": left_out,
        }
        if any(c.name == "ONNX Runtime WebGPU" for c in present):
            result["contenders"]["ONNX Runtime WebGPU"]["adapter"] = dawn_adapter()
        if main.name == OURS and not args.brief:
            try:
                result |= {"ours": ours} if (ours := working[OURS].costs()) else {}
            except LeftOutError as error:  # what was timed is worth keeping
                left_out[f"costs of {OURS}"] = str(error)
        return result
    finally:
        for worker in working.values():
            worker.stop()


def at_work(contender: Contender, setting: Setting, task: Task, seconds: float) -> Worker:
    """In a process of its own, which may take so many seconds for any one thing."""
    return Apart(contender.name, setting, task, seconds)


def prepare(
    wanted: list[Contender], setting: Setting, args: argparse.Namespace, working: dict[str, Worker], about: str
) -> tuple[list[Contender], dict[str, str]]:
    """Has everyone load and make each output of the work `about` once, and compares them; returns who is left, and why others are not."""
    present: list[Contender] = []
    left_out: dict[str, str] = {}
    outputs: dict[str, Outputs] = {}
    end = time.monotonic() + PREPARING * args.budget
    for contender in wanted:
        print(f"… {contender.name}", flush=True)
        try:
            is_timed = not args.only or NUMPY in args.only
            kept = reference.read(args.reference, about) if contender.name == NUMPY and not is_timed else None
            if kept is not None:
                outputs[NUMPY] = kept
                continue
            left = min(args.patience, end - time.monotonic())
            if left <= 0:
                raise LeftOutError(f"the time was over: --budget is {args.budget:g}")
            worker = working[contender.name] = at_work(contender, setting, Task(args.steps, args.limit), left)
            outputs[contender.name], found = worker.prepare()
            contender.figures |= found
            compare(contender, outputs[contender.name], outputs[NUMPY])
            present.append(contender)
            if contender.name == NUMPY:
                reference.write(args.reference, about, outputs[NUMPY])
        except Exception as error:  # a peer that fails, in whatever way, is left out by name
            excused = isinstance(error, AdapterError | LeftOutError)
            if contender.name == NUMPY or (contender.name == OURS and not excused):
                raise
            left_out[contender.name] = reason(error)
            print(f"  {left_out[contender.name]}", flush=True)
            if contender.name in working:
                working.pop(contender.name).stop()
    return present, left_out


def take_turns(present: list[Contender], working: dict[str, Worker], args: argparse.Namespace) -> dict[str, str]:
    """Times everyone's pictures, every second turn in the opposite order; returns the peers that failed on the way, and why."""
    failed: dict[str, str] = {}
    for contender in present:
        contender.figures["times"] = []
    for turn in range(args.runs):
        for contender in present[:: 1 if turn % 2 == 0 else -1]:
            if contender.name in failed:
                continue
            try:
                contender.figures["times"].append(working[contender.name].picture())
            except Exception as error:
                if contender.name in (OURS, NUMPY):
                    raise
                failed[contender.name] = f"failed while it was timed: {reason(error)}"
    return failed


def reason(error: Exception) -> str:
    """A peer's own error comes with its class in its text."""
    text = " ".join(str(error).split())[:300]
    return text if isinstance(error, MoebiusError | PeerError) else f"{type(error).__name__}: {text}"


def compare(contender: Contender, got: Outputs, want: Outputs) -> None:
    errors = {name: relative(got[name], want[name]) for name in want}
    contender.figures["differs_by"] = errors
    for name, error in errors.items():
        limit = contender.tolerance * (WHOLE_RUN if name == "picture" else 1)
        if not error <= limit:
            raise MoebiusError(f"its {name} differs from that of {NUMPY} by {error:.1e} (relative L2), more than {limit:.0e}")


# the result ----------------------------------------------------------------------------------------------------------
def figures(contender: Contender, main: Contender) -> dict[str, Any]:
    """Medians, spreads, and ratios turn by turn: the main contender's time in this one's."""
    times, theirs = main.figures["times"], contender.figures["times"]
    out: dict[str, Any] = {k: v for k, v in contender.figures.items() if k != "times"}
    for part in PARTS:
        values = [t[part] for t in theirs]
        ratios = [a[part] / b[part] for a, b in zip(times, theirs, strict=True)]
        out[part] = {
            "median_s": statistics.median(values),
            "spread": (max(values) - min(values)) / statistics.median(values),
            "seconds": values,
            "ratio_median": statistics.median(ratios),
            "ratio_best": min(ratios),
            "ratio_worst": max(ratios),
        }
    return out


def show(result: dict[str, Any]) -> None:
    adapter = result["environment"]["adapter"]
    where = adapter["name"] if adapter else "no adapter"
    print(f"\n{where}; {result['environment']['processor']}, {result['cores']} cores; {result['precision']}")
    print(f"BLAS of NumPy: {'; '.join(result['environment']['blas']) or 'not known'}")
    print(f"{'outputs differ from ' + NUMPY + ' by':32} {'encode':>9} {'1st step':>9} {'decode':>9} {'picture':>9}")
    for name, c in result["contenders"].items():
        print(f"{name:32} " + " ".join(f"{c['differs_by'][k]:9.1e}" for k in reference.OUTPUTS))
    print(f"\n{'seconds, medians':26} {'load':>8} {'first':>8}" + "".join(f" {part:>9}" for part in PARTS) + f"  {result['against']} takes")
    for name, c in result["contenders"].items():
        image = c["image"]
        ratio = f"{image['ratio_median']:.2f} of its time ({image['ratio_best']:.2f} to {image['ratio_worst']:.2f})"
        cells = "".join(f" {c[part]['median_s']:9.4f}" for part in PARTS)
        print(f"{name:26} {c['load_s']:8.2f} {c['first_calls_s']:8.2f}{cells}  {'' if name == result['against'] else ratio}")
    if note := common.busy(result["environment"]):
        print(f"{note}; measure again when it is not")
    for name, why in result["left_out"].items():
        print(f"left out: {name}: {why}")
    peer = result["contenders"].get("ONNX Runtime WebGPU")
    if peer and adapter and peer["adapter"] != adapter["device"]:
        print(f"ONNX Runtime WebGPU ran on {peer['adapter']}, and {result['against']} on {adapter['device']}: not the same adapter.")
    peaks = [f"{name} {c['peak_bytes'] / 1e6:,.0f} MB" for name, c in result["contenders"].items() if c.get("peak_bytes")]
    if peaks:
        print(f"\nGPU memory at the peak of a picture, weights included: {', '.join(peaks)}")
    if ours := result.get("ours"):
        print(f"\nhost: {ours['host']['us_per_dispatch']:.1f} µs a dispatch, {ours['host']['dispatches']} dispatches a step")
        print(f"plans: {plans(ours['plans'])}")
        print("image size: " + ", ".join(f"{c['pixels']}² {c['seconds']:.3f} s" for c in ours["image_size"]))
        print("batch: " + ", ".join(f"{c['images']} {c['seconds_per_image']:.3f} s an image" for c in ours["batch"]))
        steps = ours["steps"]
        print("steps: " + ", ".join(f"{c['steps']} {c['seconds']:.3f} s" for c in steps["runs"]), end="")
        print(f"; {steps['fixed_s']:.3f} s and {steps['per_step_s']:.4f} s a step")


def plans(of: dict[str, dict[str, int]]) -> str:
    return ", ".join(f"{name} {p['peak_bytes'] / 1e6:.1f} MB and {p['weight_bytes'] / 1e6:.1f} MB of weights" for name, p in of.items())


def summary(result: dict[str, Any]) -> dict[str, Any]:
    return {
        "bench": result["bench"],
        "config": result["config"],
        "adapter": (result["environment"]["adapter"] or {}).get("name"),
        "commit": result["environment"]["commit"],
        "against": result["against"],
        "image_s": {name: round(c["image"]["median_s"], 4) for name, c in result["contenders"].items()},
        "step_s": {name: round(c["step"]["median_s"], 5) for name, c in result["contenders"].items()},
        "ratio_median": {name: round(c["image"]["ratio_median"], 3) for name, c in result["contenders"].items()},
        "left_out": result["left_out"],
    }
