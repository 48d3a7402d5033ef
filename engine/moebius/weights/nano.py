"""The small demonstration model that comes inside the package."""

from __future__ import annotations

from pathlib import Path

from moebius.errors import UsageError
from moebius.weights.published import NAMES

NOTE = f"nano is a small demonstration model; for a published one (1.2 GB to download) name {NAMES}."


def packaged_nano() -> Path:
    """Its bundle of weights, a file inside the package."""
    path = Path(__file__).with_name("nano.safetensors")
    if not path.is_file():
        raise UsageError(
            f"This version has no nano model inside. Name a published model ({NAMES}), a folder or a file; "
            "or try the engine with --synthetic tiny."
        )
    return path
