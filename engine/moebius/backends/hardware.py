"""Whether a hardware GPU can be here at all, without loading WebGPU and every installed driver, which takes longer than nano takes."""

from __future__ import annotations

import sys
from pathlib import Path

DEV = Path("/dev")
# What a Vulkan driver opens on Linux: a GPU's own node, NVIDIA's, WSL's, Qualcomm's, ARM's, Imagination's, Tegra's.
NODES = ("dri/*", "nvidia*", "dxg", "kgsl*", "mali*", "pvr*", "nvmap", "nvhost*", "galcore")


def possible() -> bool:
    """False only where it is certain."""
    return sys.platform != "linux" or any(True for pattern in NODES for _ in DEV.glob(pattern))
