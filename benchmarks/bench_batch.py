"""Many pictures: how much of a batch's time its device works, what a second worker brings, and how little a film flickers.

    python benchmarks/bench_batch.py [--only plain scaling driver host frames] [--pictures N] [--steps N] [--json FILE]

All on the CPU device with nano, on the sample photograph at 160×107. Nothing else should run: the figures are times.

plain     a batch in one process: its seconds to the seconds that its device alone takes for the same runs, one after the other
scaling   one Ray worker pinned to a core, then two pinned to a core each: pictures a second once all are ready
driver    pictures a second that a driver hands out and takes back, to workers that do nothing: what a cluster can never exceed
host      a photograph of 12 million pixels, a JPEG: the seconds of one thread before the device and after it, and the files' sizes
frames    a still scene, the photograph with a camera's noise in each frame and a hole that drifts a few pixels: the mean difference of
          neighbouring frames in the hole, with --frames and each frame by itself; and how fine a fill is in the first frame and the last
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import common
import numpy as np
from PIL import Image

import moebius
from moebius import sample
from moebius.inpaint.inpainter import Inpainter
from moebius.many import cluster as machines_of
from moebius.many import here
from moebius.many.batch import listed
from moebius.many.cluster import Actor, Cluster
from moebius.many.jobs import Job, Outcome
from moebius.many.recipe import Recipe
from moebius.many.worker import Options, Worker

SIZE, BOX = (160, 107), (60, 40, 30, 30)
PARTS = ("plain", "scaling", "driver", "host", "frames")
LARGE = 4000, 3000


def pictures(folder: Path, count: int) -> tuple[Path, Path]:
    """The sample turned a little more in each, as JPEG; and one mask for all."""
    photo = Image.open(sample.photo()).convert("RGB").resize(SIZE)
    (folder / "in").mkdir()
    for k in range(count):
        photo.rotate(3 * k).save(folder / f"in/{k:04}.jpg", quality=92)
    mask = Image.new("L", SIZE)
    x, y, w, h = BOX
    mask.paste(255, (x, y, x + w, y + h))
    mask.save(folder / "m.png")
    return folder / "in", folder / "m.png"


def plain(count: int, settings: dict[str, Any]) -> dict[str, float]:
    """The batch's seconds, and those that the device takes alone: for every other picture before it, for the rest after it."""
    model = Inpainter.from_pretrained("nano", device="cpu")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        options = Options(settings)
        work = listed(*pictures(folder, count), folder / "out", options)
        jobs = list(work.jobs())
        photos = [(np.asarray(Image.open(job.image)), np.asarray(Image.open(job.mask))) for job in jobs]
        model(*photos[0], **settings)

        def alone(some: list[tuple[np.ndarray, np.ndarray]]) -> float:
            seconds = 0.0
            for photo, mask in some:
                run = model.steps(photo, mask, **settings)
                run.prepare()
                began = time.perf_counter()
                for _ in run:
                    pass
                seconds += time.perf_counter() - began
            return seconds

        before = alone(photos[::2])
        began = time.perf_counter()
        ended = list(here.outcomes(iter(jobs), Worker(model, options)))
        whole = time.perf_counter() - began
        after = alone(photos[1::2])
    if [o for o in ended if o.how != "done"]:
        raise RuntimeError(str(next(o.error for o in ended if o.error)))
    device = before + after
    return {
        "pictures": count,
        "seconds": whole,
        "device alone": device,
        "ratio": whole / device,
        "device in the batch": sum(o.seconds for o in ended),
    }


# Ray -------------------------------------------------------------------------------------------------------------------
def started(cores: int) -> Any:
    """Ray on this machine, with so many CPUs to give."""
    os.environ |= {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_USAGE_STATS_ENABLED": "0"}
    import ray

    options = {"include_dashboard": False, "object_store_memory": machines_of.STORE, "log_to_driver": False, "logging_level": "ERROR"}
    ray.init(num_cpus=cores, **options)
    return ray


def pin(pid: int, core: int) -> None:
    """All threads of a process to one core."""
    for thread in os.listdir(f"/proc/{pid}/task"):
        os.sched_setaffinity(int(thread), {core})


def ready(machines: Cluster) -> list[int]:
    while any(slot.about is None for slot in machines.slots):
        machines.look(1.0)
    return [slot.about.pid for slot in machines.slots if slot.about]


def scaling(count: int, settings: dict[str, Any]) -> dict[str, float]:
    recipe = Recipe("nano", device={"device": "cpu", "threads": 1})
    cores = sorted(os.sched_getaffinity(0))[:2]
    rates = {}
    ray = started(2)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        images, mask = pictures(folder, count * 2)
        for workers in (1, 2):
            options = Options(settings)
            jobs = list(listed(images, mask, folder / str(workers), options).jobs())[: count * workers]
            with Cluster(recipe, options, workers=workers) as machines:
                for pid, core in zip(ready(machines), cores, strict=False):
                    pin(pid, core)
                warm = list(machines.outcomes(jobs[: 2 * workers]))
                began = time.perf_counter()
                ended = list(machines.outcomes(jobs))
                rates[workers] = len(ended) / (time.perf_counter() - began)
                if [o for o in [*warm, *ended] if o.how != "done"]:
                    raise RuntimeError(str(next(o.error for o in [*warm, *ended] if o.error)))
    ray.shutdown()
    return {"one worker": rates[1], "two workers": rates[2], "ratio": rates[2] / rates[1]}


class Idle(Actor):
    """Does nothing at once."""

    def one(self, job: Job, tried: int) -> Outcome:
        return Outcome(job, "done", ("out",), metadata={"timings": {"denoise": 1.0}, "settings": "x" * 500})


def driver(count: int) -> dict[str, float]:
    ray = started(2)
    import ray.cloudpickle as pickle

    pickle.register_pickle_by_value(sys.modules[__name__])
    machines_of.Actor = Idle  # type: ignore[misc]
    jobs = (Job(Path(f"in/{k}.png"), Path("m.png"), Path(f"out/{k}.png"), f"{k}.png", index=k) for k in range(count))
    with Cluster(Recipe("nano", device={"device": "cpu"}), Options(), workers=2) as machines:
        ready(machines)
        began = time.perf_counter()
        ended = sum(1 for _ in machines.outcomes(jobs))
        seconds = time.perf_counter() - began
    machines_of.Actor = Actor  # type: ignore[misc]
    ray.shutdown()
    return {"pictures": ended, "per second": ended / seconds}


def host() -> dict[str, float]:
    model = Inpainter.from_pretrained("nano", device="cpu")
    with tempfile.TemporaryDirectory() as name:
        image, out = Path(name, "photo.jpg"), Path(name, "out.jpg")
        Image.open(sample.photo()).convert("RGB").resize(LARGE, Image.Resampling.BICUBIC).save(image, quality=95)
        mask = Image.new("L", LARGE)
        mask.paste(255, (2000, 1500, 2080, 1580))
        mask.save(Path(name, "m.png"))
        seconds = []
        for _ in range(3):
            began = time.perf_counter()
            run = model.steps(image, Path(name, "m.png"), steps=2)
            run.prepare()
            read = time.perf_counter() - began
            for _step in run:
                pass
            began = time.perf_counter()
            run.result.save(out)
            seconds.append((read, time.perf_counter() - began))
        read, write = min(seconds, key=sum)
        return {"before": read, "after": write, "MB read": image.stat().st_size / 1e6, "MB written": out.stat().st_size / 1e6}


# Frames ----------------------------------------------------------------------------------------------------------------
def film(folder: Path, count: int) -> list[np.ndarray]:
    """Writes the frames and their masks; returns the masks."""
    still = np.asarray(Image.open(sample.photo()).convert("RGB")).astype(np.float64)
    (folder / "in").mkdir()
    (folder / "masks").mkdir()
    masks = []
    for k in range(count):
        noise = np.random.default_rng(k).normal(0, 2, still.shape)
        Image.fromarray((still + noise).round().clip(0, 255).astype(np.uint8)).save(folder / f"in/{k:03}.png")
        fill = np.zeros(still.shape[:2], bool)
        x, y = 140 + round(6 * np.sin(k / 3)), 90 + round(3 * np.cos(k / 4))
        fill[y : y + 50, x : x + 50] = True
        Image.fromarray(fill.astype(np.uint8) * 255).save(folder / f"masks/{k:03}.png")
        masks.append(fill)
    return masks


def frames(count: int, settings: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {"frames": count}
    model = Inpainter.from_pretrained("nano", device="cpu")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        masks = film(folder, count)
        for how, more in (("by itself", {}), ("--frames", {"frames": True})):
            out = folder / how.strip("-")
            began = time.perf_counter()
            summary = moebius.batch(folder / "in", folder / "masks", out, model=model, **more, **settings)
            if summary.failed:
                raise RuntimeError(str(summary.failures[0].error))
            made = [np.asarray(Image.open(out / f"{k:03}.png")).astype(np.float64) for k in range(count)]
            apart = [np.abs(a - b)[m & n].mean() for a, b, m, n in zip(made, made[1:], masks, masks[1:], strict=False)]
            fine = [np.abs(np.diff(p, axis=1))[m[:, 1:]].mean() for p, m in zip(made, masks, strict=True)]
            found[how] = {
                "difference": float(np.mean(apart)),
                "fine, first and last": [float(fine[0]), float(fine[-1])],
                "seconds a frame": (time.perf_counter() - began) / count,
            }
        given = [np.asarray(Image.open(folder / f"in/{k:03}.png")).astype(np.float64) for k in range(count)]
        found["the film itself"] = float(np.mean([np.abs(a - b)[m].mean() for a, b, m in zip(given, given[1:], masks, strict=False)]))
    found["ratio"] = found["--frames"]["difference"] / found["by itself"]["difference"]
    return found


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--pictures", type=int, default=100)
    parser.add_argument("--steps", type=int, default=2, help="of all but the frames, which have 8")
    parser.add_argument("--json", type=Path, metavar="FILE", help="written here; parts that are there and are not measured now stay")
    args = parser.parse_args(argv)
    settings = {"steps": args.steps}
    parts = {
        "plain": lambda: plain(args.pictures, settings),
        "scaling": lambda: scaling(args.pictures // 2, settings),
        "driver": lambda: driver(20 * args.pictures),
        "host": host,
        "frames": lambda: frames(min(args.pictures, 24), {"steps": 8}),
    }
    result: dict[str, Any] = {"bench": "bench_batch", "machine": common.environment(None), "steps": args.steps}
    if args.json is not None and args.json.exists():
        result = common.read_json(args.json, "bench_batch") | result
    for name in args.only:
        result[name] = parts[name]()
        print(name, result[name])
    if why := common.busy(result["machine"]):
        print(why)
    if args.json is not None:
        common.write_json(args.json, result)
    return 0


if __name__ == "__main__":
    common.run(main)
