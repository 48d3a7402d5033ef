"""Drivers that are known to compute wrong, or to have done so elsewhere: each row with its reason and where that can be read.

A row is a reason to look closer and no verdict: what was measured on the adapter in front of us decides.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Known:
    """Adapters whose device name and backend fit, with a driver version from `since` up and below `until` (None: every one)."""

    device: str  # a regular expression, as is `backend`
    reason: str
    advice: str
    source: str
    backend: str = ""
    driver: str = ""  # a regular expression whose group is the version
    since: tuple[int, ...] | None = None
    until: tuple[int, ...] | None = None
    handled: bool = False  # this engine keeps clear of it

    def fits(self, info: Mapping[str, Any]) -> bool:
        """Whether an adapter's info is one of these."""
        if not re.search(self.device, str(info.get("device") or ""), re.I):
            return False
        if not re.search(self.backend, str(info.get("backend_type") or ""), re.I):
            return False
        if not self.driver:
            return True
        found = re.search(self.driver, str(info.get("description") or ""), re.I)
        if found is None:
            return False
        version = tuple(map(int, found[1].split(".")))
        return (self.since is None or version >= self.since) and (self.until is None or version < self.until)


MESA = r"Mesa (\d+(?:\.\d+)+)"
UPDATE = "Update the graphics driver"

KNOWN = (
    Known(
        "llvmpipe",
        "llvmpipe of Mesa before 25 ends an invocation after 65 535 iterations of its loops, without a word",
        "Nothing is to be done: every kernel stays below 60 000, or is refused",
        "https://github.com/ggml-org/llama.cpp/pull/13813",
        driver=MESA,
        until=(25,),
        handled=True,
    ),
    Known(
        r"Adreno \(TM\) 840",
        "on Qualcomm's driver for the Adreno 840, float32 products of many rows were wrong in a quarter of all runs",
        f"{UPDATE}, and use --device cpu where two runs differ",
        "https://github.com/pytorch/executorch/issues/22327",
        backend="Vulkan",
    ),
    Known(
        r"Turnip Adreno.*\b702\b",
        "on Mesa's Turnip for the Adreno 702, products of few rows were wrong",
        "Use --device cpu if a kernel is wrong below",
        "https://github.com/ggml-org/llama.cpp/issues/25906",
    ),
    Known(
        "Mali-G720",
        "on Arm's driver for the Mali-G720, a fifth of all matrix products were wrong",
        f"{UPDATE}, or use --device cpu if a kernel is wrong below",
        "https://github.com/ggml-org/llama.cpp/issues/23241",
        backend="Vulkan",
    ),
    Known(
        r"Radeon(\(TM\))? (RX )?(Vega|Graphics)",
        "on AMD's Windows driver 31.0 for integrated Vega, matrix products of odd sizes were wrong",
        f"{UPDATE}, or use --device cpu if a kernel is wrong below",
        "https://github.com/tracel-ai/burn/issues/4355",
        backend="Vulkan",
        driver=r"(?:^|\s)(31\.0\.\d+(?:\.\d+)?)",
        until=(31, 0, 22000),
    ),
    Known(
        r"Intel|UHD|Iris|Arc",
        "on Direct3D 12 with the old shader compiler FXC, Intel's driver computed products of vec4 wrong",
        "Take the Vulkan adapter of the same GPU (--adapter), or use --device cpu if a kernel is wrong below",
        "https://github.com/microsoft/onnxruntime/pull/17388",
        backend="D3D12",
    ),
    Known(
        "V3D",
        "on the Raspberry Pi's OpenGL driver, compute shaders wrote garbage",
        "Take its Vulkan adapter (--adapter), or use --device cpu",
        "https://github.com/gfx-rs/wgpu/issues/1583",
        backend="OpenGL",
    ),
)


def known(info: Mapping[str, Any]) -> list[Known]:
    """The rows that an adapter's info fits."""
    return [row for row in KNOWN if row.fits(info)]
