"""What NumPy makes of bench_model's work, kept in a file: a machine that is lent by the minute need not make it again."""

from __future__ import annotations

from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from moebius.errors import UsageError
from moebius.files import replacing

ABOUT = "about"
OUTPUTS = ("encode", "step", "decode", "picture")


def read(path: Path | None, about: str) -> dict[str, np.ndarray] | None:
    """None where there is no such file yet; refuses one about something else."""
    if path is None or not path.exists():
        return None
    try:
        with np.load(path, allow_pickle=False) as file:
            said = str(file[ABOUT])
            outputs = {name: file[name] for name in OUTPUTS}
    except (OSError, EOFError, ValueError, TypeError, KeyError, BadZipFile) as error:
        raise UsageError(f"{path} is not what --reference writes; name another file, or remove it.") from error
    if said != about:
        raise UsageError(f"{path} is of {said}, and this is {about}; name another file, or remove it.")
    return outputs


def write(path: Path | None, about: str, outputs: dict[str, np.ndarray]) -> None:
    if path is not None:
        with replacing(path) as file:
            np.savez(file, allow_pickle=False, **{ABOUT: np.array(about), **outputs})
