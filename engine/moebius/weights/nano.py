"""The small demonstration model that comes inside the package."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from moebius.errors import UsageError

NOTE = "nano is a small demonstration model; for the published one (1.2 GB to download) name places2, celebahq, ffhq or pretrained."


def packaged_nano() -> Path:
    """Its bundle of weights, a file inside the package."""
    path = Path(str(files("moebius.weights") / "nano.safetensors"))
    if not path.is_file():
        raise UsageError(
            "This version has no nano model inside. Name a published model (pretrained, places2, celebahq, ffhq), a folder or a file; "
            "or try the engine with --synthetic tiny."
        )
    return path
