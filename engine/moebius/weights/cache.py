"""Where converted weights are kept: one float32 .safetensors for each network, mapped at every start.

The cache is $MOEBIUS_CACHE, else $HF_HOME/moebius, else moebius in the user's folder for caches:

    weights/NET-HASH.safetensors    the copies; the hash is over the source's content, the config beside it, and CONVERTER
    refs/HASH.json                  from a source (its signature: repository, revision and file; or path, size and times) to its copy
    parts/ETAG.part                 downloads under way
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from moebius.errors import WeightError
from moebius.files import replacing
from moebius.model.unet import UNetConfig
from moebius.model.vae import VAEConfig
from moebius.weights import hub, infer
from moebius.weights.checkpoint import Net, Network
from moebius.weights.formats import safetensors

CONVERTER = 1  # goes up when a copy would be written differently, so that older ones are no longer found


def cache_folder() -> Path:
    """Where copies and downloads lie. HF_HOME counts, because who sets it says where large model files are to go."""
    if folder := os.environ.get("MOEBIUS_CACHE"):
        return Path(folder).expanduser().absolute()
    if folder := os.environ.get("HF_HOME"):
        return Path(folder).expanduser().absolute() / "moebius"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData/Local") / "moebius/cache"
    if sys.platform == "darwin":
        return Path.home() / "Library/Caches/moebius"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "moebius"


def copies_folder() -> Path:
    return cache_folder() / "weights"


def refs_folder() -> Path:
    return cache_folder() / "refs"


def parts_folder() -> Path:
    return cache_folder() / "parts"


# Copies and references ------------------------------------------------------------------------------------------------


class Copy(NamedTuple):
    """A source's copy, and what was noted of the source: its path, or its repository, file, revision and commit."""

    network: Network
    source: dict[str, str]


def copy_file(net: Net, digest: str, config_text: str) -> Path:
    """Where the copy of a content lies, or would lie. `digest` is the content's SHA-256, `config_text` the config beside it."""
    key = hashlib.sha256(f"{CONVERTER} {net} {digest} {config_text}".encode()).hexdigest()
    return copies_folder() / f"{net}-{key}.safetensors"


def read_copy(net: Net, path: Path) -> Network:
    """The network of a copy. Its values are not looked at: they were checked when it was written."""
    tensors = safetensors.read(path)
    fields = infer.parse(tensors.metadata.get("config", ""), f"The config in {path}")
    config = infer.build(UNetConfig, fields) if net == "unet" else infer.build(VAEConfig, fields)
    return Network(config, tensors, tuple(json.loads(tensors.metadata.get("ignored", "[]"))))


def open_copy(net: Net, path: Path) -> Network | None:
    """The network of a copy, or None where there is no copy or it is damaged; it is written again then."""
    try:
        return read_copy(net, path)
    except (WeightError, ValueError, TypeError):
        return None


def ref_file(signature: str) -> Path:
    return refs_folder() / f"{hashlib.sha256(f'{CONVERTER} {signature}'.encode()).hexdigest()}.json"


def look_up(signature: str) -> Copy | None:
    """The copy that a source of this signature was converted into."""
    ref = read_ref(ref_file(signature))
    network = open_copy(ref["net"], copies_folder() / ref["copy"]) if ref else None
    return Copy(network, ref["source"]) if ref and network else None


def read_ref(path: Path) -> dict[str, Any] | None:
    """A reference {net, copy, source}, or None where it cannot be read or names what no copy is called."""
    try:
        ref = json.loads(path.read_text("utf-8"))
        sound = ref["net"] in ("unet", "vae") and re.fullmatch(r"(unet|vae)-[0-9a-f]{64}\.safetensors", ref["copy"])
        return ref if sound and isinstance(ref["source"], dict) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def remember(signature: str, net: Net, copy: Path, source: dict[str, str]) -> None:
    """Writes the reference by which `look_up` finds the copy."""
    path = ref_file(signature)
    ref = {"net": net, "copy": copy.name, "source": source}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as file:
            file.write(json.dumps(ref).encode())
    except OSError as error:
        raise cannot_write(error, str(source.get("path") or source.get("file")), path) from error


# Room on the disk -----------------------------------------------------------------------------------------------------


def need_room(target: Path, size: int, label: str) -> None:
    """Refuses to begin what would fill the disk: a full one is better reported before the transfer than at its end."""
    folder = target.parent
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if free < size:
        raise hub.HubError(
            f"The disk of {target.parent} is full: {label} takes {size / 1e6:.1f} MB and {free / 1e6:.1f} MB are free. {hub.MAKE_ROOM}"
        )


def cannot_write(error: OSError, label: str, target: Path) -> WeightError:
    if error.errno in hub.DISK_FULL:
        return WeightError(f"The disk of {target.parent} is full: there is no room for the converted {label}. {hub.MAKE_ROOM}")
    return WeightError(f"{target} cannot be written: {error.strerror or error}. Set MOEBIUS_CACHE to a folder that can.")


# Listing and clearing -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class CacheEntry:
    """A file of the cache. `sources` says what it was converted from: repository, file and revision, or a path."""

    path: Path
    size: int
    sources: tuple[str, ...]


def cache_entries() -> list[CacheEntry]:
    """Copies and unfinished downloads, the largest first."""
    sources: dict[str, list[str]] = {}
    for _, ref in refs():
        s = ref["source"]
        sources.setdefault(ref["copy"], []).append(str(s.get("path") or f"{s.get('repo')}/{s.get('file')} at {s.get('revision')}"))
    entries = [
        CacheEntry(path, path.stat().st_size, tuple(sources.get(path.name, ())))
        for folder in (copies_folder(), parts_folder())
        for path in files(folder)
        if path.suffix in (".safetensors", ".part")
    ]
    return sorted(entries, key=lambda entry: -entry.size)


def clear_cache(match: str = "") -> list[CacheEntry]:
    """Removes what has `match` in a source or in its file name (all, if it is empty), and returns that."""
    removed = [e for e in cache_entries() if not match or any(match in text for text in (*e.sources, e.path.name))]
    try:
        for entry in removed:
            entry.path.unlink(missing_ok=True)
        for path, ref in refs():
            if not (copies_folder() / ref["copy"]).exists():
                path.unlink(missing_ok=True)
    except OSError as error:
        raise WeightError(f"{error.filename} cannot be removed: {error.strerror}. It may be in use; end that program first.") from error
    return removed


def refs() -> Iterator[tuple[Path, dict[str, Any]]]:
    """Every readable reference with its file."""
    for path in files(refs_folder()):
        if ref := read_ref(path):
            yield path, ref


def files(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.is_file()) if folder.is_dir() else []
