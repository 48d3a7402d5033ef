"""What lies in the cache: listed, compared with its seals, and removed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from moebius.errors import UsageError, WeightError
from moebius.weights import refs
from moebius.weights.checkpoint import Net
from moebius.weights.copies import checked_file, open_copy
from moebius.weights.folders import MARK, OWN, cache_folder, subfolder
from moebius.weights.loading import Loading


@dataclass(frozen=True)
class CacheEntry:
    """A file of the cache. `sources` says what it was converted from: repository, file and revision, or a path."""

    path: Path
    size: int
    sources: tuple[str, ...]


def cache_entries(match: str = "") -> list[CacheEntry]:
    """Copies, those set aside, and unfinished downloads, the largest first: all, or what has `match` in a source or in its file name."""
    sources: dict[str, list[str]] = {}
    for _, ref in all_refs():
        s = ref.source
        if ref.copy is not None:
            what = s.get("path") or f"{s.get('repo')}/{s.get('file')} at {s.get('revision')}"
            sources.setdefault(ref.copy, []).append(what if ref.precision == "f32" else f"{what} in {ref.precision}")
    entries = [
        CacheEntry(path, size, tuple(sources.get(path.name.removesuffix(".damaged"), ())))
        for name in ("weights", "parts")
        for path, size in own_files(name)
    ]
    entries.sort(key=lambda entry: -entry.size)
    return [e for e in entries if not match or any(match in text for text in (*e.sources, e.path.name))]


def remove(entries: Sequence[CacheEntry]) -> None:
    """Removes files that `cache_entries` listed, and what is known of sources that are left without a copy.

    Only in a folder that this program has marked as its own.
    """
    if entries and not (cache_folder() / MARK).is_file():
        raise UsageError(
            f"{cache_folder()} is not marked as this program's own (it has no {MARK}), so nothing was removed. Check MOEBIUS_CACHE, or "
            "remove the files yourself."
        )
    try:
        for entry in entries:
            entry.path.unlink(missing_ok=True)
            checked_file(entry.path).unlink(missing_ok=True)
        for path, ref in all_refs():
            if ref.copy is not None and not (subfolder("weights") / ref.copy).exists():
                path.unlink(missing_ok=True)
        if not cache_entries():  # all is gone: so are the digests, what is known of devices, and what a killed process left
            for name in ("refs", "checked", "verdicts", "tuned", "contests"):
                for path, _ in own_files(name):
                    path.unlink(missing_ok=True)
    except OSError as error:
        raise WeightError(f"{error.filename} cannot be removed: {error.strerror}. It may be in use; end that program first.") from error


def check_all() -> Iterator[tuple[CacheEntry, str]]:
    """Every copy, compared with its seal whatever is noted of it, and "" or how it was found damaged and set aside."""
    for entry in cache_entries():
        if entry.path.suffix == ".safetensors":
            checked_file(entry.path).unlink(missing_ok=True)
            loading = Loading()
            net: Net = "unet" if entry.path.name.startswith("unet-") else "vae"
            open_copy(net, entry.path, loading)
            yield entry, " ".join(loading.notes)


def all_refs() -> Iterator[tuple[Path, refs.Ref]]:
    """Every readable reference with its file."""
    for path, _ in own_files("refs"):
        if ref := refs.read(path):
            yield path, ref


def own_files(name: str) -> list[tuple[Path, int]]:
    """The files of this program's in one of its folders, with their sizes."""
    folder, found = subfolder(name), []
    try:
        for path in sorted(folder.iterdir()) if folder.is_dir() else []:
            try:
                if OWN[name].fullmatch(path.name) and not path.is_symlink() and path.is_file():
                    found.append((path, path.stat().st_size))
            except FileNotFoundError:  # another process has just renamed or removed it
                continue
    except OSError as error:
        raise WeightError(f"{folder} cannot be read: {error.strerror}. Check MOEBIUS_CACHE, or the rights to that folder.") from error
    return found
