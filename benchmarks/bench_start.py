"""From a checkpoint on disk to the first step ready: where the time goes, and how much host memory it takes.

    python benchmarks/bench_start.py [--config tiny|full] [--adapter NAME] [--json FILE]
    python benchmarks/bench_start.py --window [PHOTO ...]

Writes synthetic weights to a temporary folder, as a published model is laid out and in 16 bits, then starts twice in processes of their
own: the first converts them (the full model's copies: 904 + 335 MB) and warms the page cache, the second is measured. On a software
driver the GPU's buffers are host memory too, and are counted apart.

With --window: from the start of `moebius view`, five times, to the first frame on the display there is (`xvfb-run -a` makes one). Of the
sample and of a photo of 24 megapixels that is made for it, where none is named.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

FIRST_FRAME = Path(__file__).with_name("first_frame.py")


def start(path: str, adapter: str | None) -> dict[str, float]:
    """In the measured process: everything is imported in here, and counted."""
    clock, seconds = time.perf_counter(), {}

    def lap(name: str) -> None:
        nonlocal clock
        now = time.perf_counter()
        seconds[name], clock = now - clock, now

    from moebius.backends.webgpu import WebGPU
    from moebius.inpaint.inpainter import Inpainter
    from moebius.inpaint.settings import Settings
    from moebius.model import unet, vae
    from moebius.weights import store

    lap("import")
    gpu = WebGPU(adapter)
    lap("open the device")
    weights = store.load(path)
    net = unet.UNet(weights.unet_config, weights.unet, gpu)
    lap("map and check the weights")
    inpainter = Inpainter(net, vae.VAE(weights.vae_config, weights.vae, gpu))
    denoiser = inpainter.denoiser(1, inpainter.scheduler.timesteps(20), Settings())
    s, c = weights.unet_config.sample_size, weights.unet_config.out_channels
    plan = gpu.plan(denoiser.step, [(1, s, s, c), (1, s, s, 1), (1, s, s, c)], slice(None))
    lap("record the step")
    buffers = {id(b.buffer): b.buffer for d in plan.dispatches for b in d.bindings if b.buffer.kind == "weight"}.values()
    packing = 0.0
    for buffer in buffers:
        if buffer.fill is not None:
            fill = buffer.fill

            def timed(fill: object = fill) -> object:
                nonlocal packing
                begin = time.perf_counter()
                array = fill()  # type: ignore[operator]
                packing += time.perf_counter() - begin
                return array

            buffer.fill = timed  # type: ignore[assignment]
        buffer.allocate()
    gpu.read(gpu.tensor(denoiser.coefficients[None, None, :1, :1]))  # waits for the uploads
    lap("pack and upload")
    seconds["  of it packing (read, fold, transpose)"] = packing
    plan.prepare()
    lap("pipelines and bind groups")
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines())
    megabytes = {
        name: int(status[key].split()[0]) / 1024 for name, key in (("peak", "VmHWM"), ("anonymous", "RssAnon"), ("mapped", "RssFile"))
    }
    uploaded = sum(b.nbytes for b in buffers) / 2**20
    return {
        **seconds,
        **{f"MiB {k}": v for k, v in megabytes.items()},
        "MiB uploaded": uploaded,
        "software driver": float(gpu.caps.is_software),
    }


def measure(path: Path, adapter: str | None) -> dict[str, float]:
    """The second of two starts, each in a process of its own."""
    from moebius.errors import MoebiusError

    command = [sys.executable, __file__, "--start", str(path), *(["--adapter", adapter] if adapter else [])]
    for _ in range(2):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise MoebiusError(f"The start that is measured failed: {(done.stderr.strip().splitlines() or ['no word'])[-1]}")
    out: dict[str, float] = json.loads(done.stdout)
    return out


def window_starts(photos: list[str], count: int = 5) -> dict[str, list[float]]:
    """Of each photo, in turns."""
    import glfw

    glfw.init()  # a display on which nobody is begins anew, and takes nobody meanwhile
    seconds: dict[str, list[float]] = {photo: [] for photo in photos}
    for photo in photos * count:
        begun = time.monotonic()
        done = subprocess.run([sys.executable, str(FIRST_FRAME), photo], capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(done.stderr.strip())
        seconds[photo].append(float(done.stdout) - begun)
    return seconds


def windows(photos: list[str]) -> int:
    """What `--window` prints."""
    from PIL import Image

    with tempfile.TemporaryDirectory() as folder:
        if not photos:
            large = Path(folder) / "24-megapixels.jpg"
            Image.effect_noise((600, 400), 64).resize((6000, 4000)).convert("RGB").save(large)
            photos = ["", str(large)]
        for photo, seconds in window_starts(photos).items():
            each = ", ".join(f"{s:.2f}" for s in sorted(seconds))
            print(f"{Path(photo).name or 'sample':20} first frame after {statistics.median(seconds):.2f} s, the median of {each}")
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", choices=["tiny", "full"], default="full")
    parser.add_argument("--adapter")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result")
    parser.add_argument("--start", help=argparse.SUPPRESS)
    parser.add_argument("--window", metavar="PHOTO", nargs="*", help="the window's first frame instead, with these photos")
    args = parser.parse_args()
    if args.start:
        print(json.dumps(start(args.start, args.adapter)))
        return 0
    from common import write_json

    if args.window is not None:
        return windows(args.window)

    from moebius.model import unet, vae
    from moebius.model.synthetic import synthetic
    from moebius.weights import infer, store
    from moebius.weights.formats import safetensors

    full = args.config == "full"
    configs = (unet.UNetConfig.full(), vae.VAEConfig.full()) if full else (unet.UNetConfig.tiny(), vae.VAEConfig.tiny())
    with tempfile.TemporaryDirectory() as folder:
        os.environ["MOEBIUS_CACHE"] = str(Path(folder) / "cache")
        path = Path(folder) / "model"
        unet_bytes = 0
        for config, shapes, place in zip(configs, (unet.shapes(configs[0]), vae.shapes(configs[1])), (path, path / "vae"), strict=True):
            place.mkdir()
            weights = synthetic(shapes, 0)
            safetensors.write(place / f"{store.STEM}.safetensors", {name: a.astype("float16") for name, a in weights.items()})
            (place / store.CONFIG_FILE).write_text(json.dumps(infer.to_json(config)), encoding="utf-8")
            unet_bytes = unet_bytes or sum(a.nbytes for a in weights.values())
            del weights
        out = measure(path, args.adapter)
    total = sum(v for k, v in out.items() if not k.startswith(("  ", "MiB", "software")))
    for name, value in out.items():
        if not name.startswith(("MiB", "software")):
            print(f"{name:40} {value:8.2f} s  {100 * value / total:5.1f} %")
    print(f"{'first step ready':40} {total:8.2f} s")
    weights = unet_bytes / 2**20
    on_gpu = out["MiB uploaded"] if out["software driver"] else 0.0
    host = out["MiB peak"] - on_gpu
    print(f"UNet weights {weights:.0f} MiB; peak resident {out['MiB peak']:.0f} MiB, less {on_gpu:.0f} MiB of a software driver's buffers:")
    print(f"host memory {host:.0f} MiB, {host / weights:.2f} times the weights")
    result = {**out, "total": total, "host / weights": host / weights}
    print(json.dumps(result))
    if args.json:
        write_json(args.json, result)
    return 0


if __name__ == "__main__":
    if "--start" in sys.argv:  # nothing is imported that is not counted
        main()
    else:
        from common import run

        run(main)
