"""Every adapter of this machine: each Vulkan driver loaded alone, what is not Vulkan, each implementation, and NumPy."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from moebius.backends.webgpu.native import IMPLEMENTATIONS
from moebius.errors import AdapterError

# Where Vulkan's loader looks on Linux, and where browsers keep the SwiftShader that they bring along.
MANIFESTS = ("/etc/vulkan/icd.d", "/usr/local/share/vulkan/icd.d", "/usr/share/vulkan/icd.d", "~/.local/share/vulkan/icd.d")
BROWSERS = ("/usr/lib/chromium", "/usr/lib/chromium-browser", "/opt/google/chrome")
LIST_TIMEOUT = 60.0
NUMPY = {"oracle": "NumPy float64 (the oracle)", "cpu": "CPU device, NumPy float32"}


@dataclass(frozen=True)
class Target:
    """What one process measures: `selector` as `child` takes it, in the environment plus `environment`."""

    name: str
    implementation: str
    selector: str
    environment: dict[str, str] = field(default_factory=dict)
    twin: int = 1  # the second of two equal GPUs is 2
    fault: str = ""  # why it could not even be listed

    def distinct(self, name: str) -> str:
        return name if self.twin == 1 else f"{name} #{self.twin}"


def drivers(environment: Mapping[str, str] = os.environ) -> list[Path]:
    """Vulkan's driver manifests. Those named in the environment are the user's choice, and there are no others then."""
    if sys.platform != "linux":
        return []
    for name in ("VK_DRIVER_FILES", "VK_ICD_FILENAMES"):
        if environment.get(name):
            return [Path(p) for p in environment[name].split(os.pathsep) if p]
    added = [Path(p) for p in environment.get("VK_ADD_DRIVER_FILES", "").split(os.pathsep) if p]
    for folder in MANIFESTS:
        added += sorted(Path(os.path.expanduser(folder)).glob("*.json"))
    added += [path for folder in BROWSERS if (path := Path(folder) / "vk_swiftshader_icd.json").exists()]
    return list({path.resolve(): path for path in added}.values())


def targets(ask: Callable[[Sequence[str], dict[str, str], float], dict], say: Callable[[str], None]) -> list[Target]:
    """All that can be measured on this machine. `ask` puts a question to a process of its own, for listing adapters loads drivers; several
    are asked at once.
    WGPU_BACKEND_TYPE, which wgpu knows too, keeps to one backend: Vulkan, OpenGL, Metal or D3D12."""
    every = [Target(name, "numpy", selector) for selector, name in NUMPY.items()]
    only = os.environ.get("WGPU_BACKEND_TYPE", "").strip()
    for implementation in IMPLEMENTATIONS:
        environments = [*({"VK_DRIVER_FILES": str(path), "VK_ICD_FILENAMES": str(path)} for path in drivers()), {}]
        mine: list[Target] = []
        for environment, answer in zip(environments, answers(partial(ask, ["list", implementation]), environments), strict=False):
            where = f"{implementation} with {Path(environment['VK_DRIVER_FILES']).name}" if environment else implementation
            if isinstance(answer, Exception):
                mine.append(Target(where, implementation, "", environment, fault=f"listing its adapters: {answer}"))
                continue
            if "adapters" not in answer:
                say(f"{implementation} is left out: {answer.get('refused', answer.get('failed', ''))}")
                break
            known = {t.name for t in mine}
            for i, adapter in enumerate(answer["adapters"]):
                name = f"{adapter['summary']}, {implementation}"
                if only and adapter["backend"] != only:
                    continue
                if environment and adapter["backend"] != "Vulkan":
                    continue  # the same without the driver: it is listed last
                if not environment and name in known:
                    continue
                twin = 1 + sum(t.name.split(" #")[0] == name for t in mine)  # two browsers bring the same SwiftShader
                target = Target(name, implementation, f"{implementation}:{i}", environment, twin)
                mine.append(replace(target, name=target.distinct(name)))
        every += mine
    return every


def answers(ask: Callable[[dict[str, str], float], dict], environments: Sequence[dict[str, str]]) -> Iterator[dict | Exception]:
    """What each says, or why it does not. The first is asked alone: where an implementation is missing that is all there is to know."""

    def said(environment: dict[str, str]) -> dict | Exception:
        try:
            return ask(environment, LIST_TIMEOUT)
        except Exception as error:
            return error

    yield said(environments[0])
    pool = ThreadPoolExecutor(max_workers=os.cpu_count())
    try:
        yield from pool.map(said, environments[1:])
    finally:  # nobody wants the others
        pool.shutdown(wait=False, cancel_futures=True)


def chosen(targets: Sequence[Target], names: Sequence[str]) -> list[Target]:
    """Those whose name has every word of one of `names`; dawn:WORDS and wgpu:WORDS as elsewhere; cpu and oracle are NumPy's."""
    if not names:
        return list(targets)
    kept = []
    for name in names:
        implementation, _, words = name.rpartition(":")
        matching = [
            t
            for t in targets
            if implementation in ("", t.implementation)
            and (t.selector == words if words in NUMPY else all(w in t.name.lower() for w in words.lower().split()))
        ]
        if not matching:
            raise AdapterError(f"No adapter matches {name!r}. There are {'; '.join(t.name for t in targets)}.")
        kept += [t for t in matching if t not in kept]
    return kept
