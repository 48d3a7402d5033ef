"""What the cache knows of a source: which copy it was converted into, or, where it is used as it is, its digest.

A source is known by its signature: repository, revision and file; or path, size, times and inode, with the config beside it.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import get_args

from moebius.model.contract import Precision
from moebius.weights.checkpoint import Net
from moebius.weights.folders import COPY, cannot_write, read_note, subfolder, write_note

FORMAT = 2  # goes up when a reference or a copy would be written differently, so that older ones are no longer found


@dataclass(frozen=True)
class Ref:
    """`source` is what was noted of it: its path, or its repository, file, revision and commit. `copy` is a name in weights/, and
    `precision` the copy's."""

    net: Net
    source: dict[str, str]
    copy: str | None = None
    digest: str | None = None
    precision: Precision = "f32"


def ref_file(signature: str) -> Path:
    return subfolder("refs") / f"{hashlib.sha256(f'{FORMAT} {signature}'.encode('utf-8', 'surrogateescape')).hexdigest()}.json"


def find(signature: str, net: Net) -> Ref | None:
    """What is known of a source as a network of this kind."""
    ref = read(ref_file(signature))
    return ref if ref and ref.net == net else None


def read(path: Path) -> Ref | None:
    """A reference, or None where it cannot be read or says what none says: the source is read again then."""
    try:
        ref = Ref(**read_note(path))
        sound = ref.net in ("unet", "vae") and ref.precision in get_args(Precision) and all(isinstance(v, str) for v in ref.source.values())
        if ref.copy is not None:
            sound = sound and ref.copy.startswith(f"{ref.net}-") and re.fullmatch(COPY, ref.copy) is not None
        if ref.digest is not None:
            sound = sound and re.fullmatch("[0-9a-f]{64}", ref.digest) is not None
        return ref if sound else None
    except (TypeError, AttributeError):
        return None


def remember(signature: str, ref: Ref) -> None:
    """Writes the reference by which `find` knows the source."""
    path = ref_file(signature)
    try:
        write_note(path, asdict(ref))
    except OSError as error:
        raise cannot_write(error, str(ref.source.get("path") or ref.source.get("file")), path) from error
