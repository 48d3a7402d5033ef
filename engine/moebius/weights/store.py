"""Where weights come from: the Hub, a folder, a file. And where they are kept: one float32 .safetensors for each, mapped at every start.

A checkpoint is converted once. The copy holds float32 whatever the source held, because that is what every backend computes in and
packs from: the second start hands out views of the mapped file and decodes nothing. A 16-bit source takes twice its size on the disk
for that. A float32 .safetensors is used where it lies.

The cache is $MOEBIUS_CACHE, else $HF_HOME/moebius, else moebius in the user's folder for caches:

    weights/NET-HASH.safetensors    the copies; the hash is over the source's content, the config beside it, and CONVERTER
    refs/HASH.json                  from a source (repository, revision and file; or path, size and times) to its copy
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
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from moebius.errors import UsageError, WeightError
from moebius.files import replacing
from moebius.model.unet import UNetConfig
from moebius.model.vae import VAEConfig
from moebius.weights import hub, infer
from moebius.weights.checkpoint import Float32, Net, Network, Weights, in_memory, is_bundle, is_ready, open_tensors, read_bundle, recognise
from moebius.weights.formats import safetensors
from moebius.weights.formats.mapped import MappedTensors
from moebius.weights.hub import HubError, HubFile, OfflineError, Progress

UNET_REPO, VAE_REPO = "hustvl/Moebius", "hustvl/PixelHacker"
# A branch moves: what it names today is fetched once and then kept. To be replaced by the 40 hex digits of a commit as soon as they
# can be looked up; `moebius download` prints them.
REVISIONS = {UNET_REPO: "main", VAE_REPO: "main"}
FOLDERS = {"pretrained": "pretrained", "places2": "ft_places2", "celebahq": "ft_celebahq", "ffhq": "ft_ffhq"}
STEM = "diffusion_pytorch_model"
CONVERTER = 1  # goes up when a copy would be written differently, so that older ones are no longer found
MAX_CONFIG = 1 << 20
MAX_GROWTH = 8  # bytes of a copy for a byte of its source; float16 doubles


def load(
    model: str | Path,
    *,
    vae: str | Path | None = None,
    revision: str | None = None,
    cache: bool = True,
    progress: Progress | None = None,
) -> Weights:
    """The weights of a published model by name (`FOLDERS`), of a folder, or of a file.

    A folder holds diffusion_pytorch_model.safetensors or .bin, and its VAE in vae/. A file is a UNet, or a bundle of both networks. `vae`
    is a file or folder, for where there is none beside; the published one is the default. `revision` is another one of the UNet's
    repository. `cache=False` writes no copy: what has to be converted is converted into memory.
    """
    commit: str | None
    vae_source: Path | HubFile = published_vae()
    if isinstance(model, str) and model in FOLDERS:
        name = model
        unet, commit = from_hub("unet", published_unet(model, revision), cache, progress)
    else:
        if revision is not None:
            raise UsageError(f"revision={revision!r} goes with a published model ({', '.join(FOLDERS)}), not with a path.")
        path = Path(model).expanduser()
        if path.suffix.lower() == ".safetensors" and path.is_file() and vae is None and is_bundle(safetensors.read(path)):
            return read_bundle(path)
        found = find(path, model)
        beside = [c for folder in (found.parent, found.parent.parent) for c in candidates(folder / "vae") if c.is_file()]
        vae_source = beside[0] if beside else vae_source
        name, commit = path.resolve().stem if path.is_file() else path.resolve().name, None
        unet = from_path("unet", found, cache, progress)
    if vae is not None:
        vae_source = find(Path(vae).expanduser(), vae, "vae")
    if isinstance(vae_source, HubFile):
        decoder, _ = from_hub("vae", vae_source, cache, progress)
    else:
        decoder = from_path("vae", vae_source, cache, progress)
    assert isinstance(unet.config, UNetConfig)
    assert isinstance(decoder.config, VAEConfig)
    return Weights(name, unet.config, unet.tensors, decoder.config, decoder.tensors, commit, (*unet.ignored, *decoder.ignored))


def published_unet(name: str, revision: str | None = None) -> HubFile:
    if name not in FOLDERS:
        raise UsageError(f"{name!r} is no published model. There are {', '.join(FOLDERS)}.")
    return HubFile(UNET_REPO, f"{FOLDERS[name]}/{STEM}.bin", revision or REVISIONS[UNET_REPO])


def published_vae() -> HubFile:
    return HubFile(VAE_REPO, f"vae/{STEM}.bin", REVISIONS[VAE_REPO])


def candidates(folder: Path) -> list[Path]:
    """Safetensors first: nothing in it can be anything but a tensor."""
    return [folder / f"{STEM}{ending}" for ending in (".safetensors", ".bin")]


def find(path: Path, given: str | Path, below: str = "unet") -> Path:
    """The weights that a path means: the file itself, or the one in a folder."""
    if path.is_file():
        return path
    if not path.exists():
        raise UsageError(f"{str(given)!r} is neither a published model ({', '.join(FOLDERS)}) nor a file or folder. Check its spelling.")
    found = next((c for c in (*candidates(path), *candidates(path / below)) if c.is_file()), None)
    if found is None:
        raise UsageError(f"{path} holds neither {STEM}.safetensors nor {STEM}.bin, nor a folder {below} that does. Give the file itself.")
    return found


# One network ---------------------------------------------------------------------------------------------------------


def from_path(net: Net, path: Path, cache: bool, progress: Progress | None) -> Network:
    try:
        path = path.resolve()
        beside = path.with_name("config.json")
        text = beside.read_bytes()[:MAX_CONFIG].decode("utf-8", "replace") if beside.is_file() else ""
        stat = path.stat()
    except OSError as error:
        raise WeightError(f"{path} cannot be read: {error}.") from error
    # The times and the inode change whenever the content does, so a source that was converted once is not read again.
    signature = f"{net} {path} {stat.st_size} {stat.st_mtime_ns} {stat.st_ctime_ns} {stat.st_ino} {text}"
    if cache and (copy := look_up(signature)):
        return copy[0]
    config = infer.parse(text, str(beside)) if text else None
    return convert(net, path, str(path), config, text, {"path": str(path)}, signature, cache, progress)


def from_hub(net: Net, wanted: HubFile, cache: bool, progress: Progress | None, update: bool = False) -> tuple[Network, str | None]:
    """The network and the commit it is of. Once there is a copy the Hub is not asked again, but for an `update`."""
    signature = f"{net} {wanted}"
    if cache and not update and (copy := look_up(signature)):
        return copy[0], copy[1].get("commit")
    with alone(wanted):
        copy = look_up(signature) if cache else None
        if copy and not update:  # another process was quicker
            return copy[0], copy[1].get("commit")
        try:
            remote = ask_if_online(wanted)
        except OfflineError:
            if copy:
                return copy[0], copy[1].get("commit")
            raise
        source = {"repo": wanted.repo, "file": wanted.file, "revision": wanted.revision}
        if remote:
            source["commit"] = remote.commit
        text = config_text(wanted, remote, progress) if net == "vae" else ""
        if remote and cache and hub.is_sha256(remote.etag):
            known = open_copy(net, copy_file(net, remote.etag, text))
            if known:  # the same content under another revision, or converted already from a file
                remember(signature, net, remote.etag, text, source)
                return known, remote.commit
        path, commit, temporary = fetch(wanted, remote, progress)
        if commit:
            source["commit"] = commit
        config = infer.parse(text, f"{wanted.repo}'s config.json") if text else None
        found = convert(net, path, str(wanted), config, text, source, signature, cache, progress)
        if temporary and cache:
            path.unlink(missing_ok=True)
        return found, commit


def config_text(wanted: HubFile, remote: hub.Remote | None, progress: Progress | None) -> str:
    """The config.json beside a file of the Hub, of the same commit."""
    beside = HubFile(wanted.repo, f"{wanted.file.rpartition('/')[0]}/config.json", remote.commit if remote else wanted.revision)
    path, _, temporary = fetch(beside, ask_if_online(beside), progress)
    text = path.read_bytes()[:MAX_CONFIG].decode("utf-8", "replace")
    if temporary:
        path.unlink(missing_ok=True)
    return text


@contextmanager
def alone(wanted: HubFile) -> Iterator[None]:
    """One process at a time fetches a file."""
    from huggingface_hub.utils import WeakFileLock  # type: ignore[attr-defined]

    lock = cache_folder() / "parts" / f"{hashlib.sha256(f'{wanted.repo}/{wanted.file}'.encode()).hexdigest()[:32]}.lock"
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        lock.touch()
    except OSError as error:
        raise cannot_write(error, str(wanted), lock) from error
    with WeakFileLock(lock):
        yield


def convert(
    net: Net,
    path: Path,
    label: str,
    config: dict[str, Any] | None,
    text: str,
    source: dict[str, str],
    signature: str,
    cache: bool,
    progress: Progress | None,
) -> Network:
    """Reads a checkpoint, and writes its copy where one is of use. Errors say `label` for the path."""
    try:
        kind, tensors = recognise(net, open_tensors(path, source.get("file")), config)
        if not cache or ("path" in source and path.suffix.lower() == ".safetensors" and is_ready(tensors)):
            return Network(kind, in_memory(tensors), tensors.ignored)
        size = 4 * sum(t.size for t in tensors.info.values())
        if size > MAX_GROWTH * tensors.file.size:
            raise WeightError(f"{path} has many tensors that are the same bytes, which no checkpoint of this model has. Get it again.")
        tensors.verify()
    except WeightError as error:
        named = str(error) if str(path) in str(error) else f"{label}: {error}"
        raise WeightError(named.replace(str(path), label)) from error
    digest = hub.sha256(path)
    target = copy_file(net, digest, text)
    known = open_copy(net, target)
    if known is None:
        need_room(target, size, label)
        metadata = {
            "net": net,
            "config": json.dumps(infer.to_json(kind)),
            "ignored": json.dumps(tensors.ignored),
            "source": json.dumps({**source, "sha256": digest}),
        }
        arrays = Reporting(tensors, f"converting {label}", progress)
        like = {name: (np.dtype(np.float32), shape) for name, shape in arrays.shapes.items()}
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            safetensors.write(target, arrays, metadata, like)
        except WeightError as error:
            raise WeightError(str(error).replace(str(path), label)) from error
        except OSError as error:
            if not target.exists():  # else another process has just put it there, and Windows does not replace what is mapped
                raise cannot_write(error, label, target) from error
    remember(signature, net, digest, text, source)
    return known or read_copy(net, target)


class Reporting(Float32):
    """Says how far the conversion is, as arrays are asked for."""

    def __init__(self, tensors: MappedTensors, doing: str, progress: Progress | None) -> None:
        super().__init__(tensors)
        self.doing, self.progress, self.done = doing, progress, 0
        self.total = 4 * sum(t.size for t in tensors.info.values())

    def __getitem__(self, name: str) -> np.ndarray:
        array = super().__getitem__(name)
        self.done += array.nbytes
        if self.progress:
            self.progress(self.doing, self.done, self.total)
        return array


def ask_if_online(wanted: HubFile) -> hub.Remote | None:
    try:
        return hub.ask(wanted)
    except OfflineError:
        if hub.in_hub_cache(wanted) is None:
            raise
        return None


def fetch(wanted: HubFile, remote: hub.Remote | None, progress: Progress | None) -> tuple[Path, str | None, bool]:
    """(the file, its commit, whether it is ours to remove). The Hub's own cache is looked into first; without `remote` it alone."""
    cached = hub.in_hub_cache(HubFile(wanted.repo, wanted.file, remote.commit) if remote else wanted)
    if cached is not None:
        return cached, remote.commit if remote else hub.commit_of(cached), False
    assert remote is not None, "ask_if_online looks into the Hub's cache too"
    parts = cache_folder() / "parts"
    part = hub.part_file(remote, parts)
    need_room(part, remote.size - (part.stat().st_size if part.exists() else 0), str(wanted))
    return hub.download(wanted, remote, parts, progress), remote.commit, True


# The cache -----------------------------------------------------------------------------------------------------------


def cache_folder() -> Path:
    """Where copies and downloads lie. HF_HOME counts, because who sets it says where large model files are to go."""
    if given := os.environ.get("MOEBIUS_CACHE"):
        return Path(given).expanduser().absolute()
    if given := os.environ.get("HF_HOME"):
        return Path(given).expanduser().absolute() / "moebius"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData/Local") / "moebius/cache"
    if sys.platform == "darwin":
        return Path.home() / "Library/Caches/moebius"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "moebius"


def copy_file(net: Net, digest: str, text: str) -> Path:
    key = hashlib.sha256(f"{CONVERTER} {net} {digest} {text}".encode()).hexdigest()
    return cache_folder() / "weights" / f"{net}-{key}.safetensors"


def read_copy(net: Net, path: Path) -> Network:
    """Its values were found finite when it was written."""
    tensors = safetensors.read(path)
    given = infer.parse(tensors.metadata.get("config", ""), f"The config in {path}")
    config = infer.build(UNetConfig, given) if net == "unet" else infer.build(VAEConfig, given)
    return Network(config, tensors, tuple(json.loads(tensors.metadata.get("ignored", "[]"))))


def open_copy(net: Net, path: Path) -> Network | None:
    """A copy, or None where there is none or it is damaged; it is made again then."""
    try:
        return read_copy(net, path)
    except (WeightError, ValueError, TypeError):
        return None


def ref_file(signature: str) -> Path:
    return cache_folder() / "refs" / f"{hashlib.sha256(f'{CONVERTER} {signature}'.encode()).hexdigest()}.json"


def look_up(signature: str) -> tuple[Network, dict[str, str]] | None:
    """The copy that a source was converted into, and what was noted of the source."""
    ref = read_ref(ref_file(signature))
    copy = open_copy(ref["net"], cache_folder() / "weights" / ref["copy"]) if ref else None
    return (copy, ref["source"]) if ref and copy else None


def read_ref(path: Path) -> dict[str, Any] | None:
    try:
        ref = json.loads(path.read_text("utf-8"))
        sound = ref["net"] in ("unet", "vae") and re.fullmatch(r"(unet|vae)-[0-9a-f]{64}\.safetensors", ref["copy"])
        return ref if sound and isinstance(ref["source"], dict) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def remember(signature: str, net: Net, digest: str, text: str, source: dict[str, str]) -> None:
    path = ref_file(signature)
    ref = {"net": net, "copy": copy_file(net, digest, text).name, "source": source}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as file:
            file.write(json.dumps(ref).encode())
    except OSError as error:
        raise cannot_write(error, str(source.get("path") or source.get("file")), path) from error


def need_room(target: Path, size: int, label: str) -> None:
    """A full disk is better found before the transfer than at its end."""
    folder = target.parent
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if free < size:
        raise HubError(
            f"The disk of {target.parent} is full: {label} takes {size / 1e6:.1f} MB and {free / 1e6:.1f} MB are free. {hub.MAKE_ROOM}"
        )


def cannot_write(error: OSError, label: str, target: Path) -> WeightError:
    if error.errno in hub.DISK_FULL:
        return WeightError(f"The disk of {target.parent} is full: there is no room for the converted {label}. {hub.MAKE_ROOM}")
    return WeightError(f"{target} cannot be written: {error.strerror or error}. Set MOEBIUS_CACHE to a folder that can.")


# For the command line ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Item:
    """A file of a published model. `state` is "ready" (converted, nothing will be fetched), "cached" (in the Hub's own cache),
    "partial" (`have` of its `size` bytes are there) or "missing"."""

    file: HubFile
    commit: str | None
    size: int | None
    state: str
    have: int = 0


def download(name: str, *, revision: str | None = None, dry_run: bool = False, progress: Progress | None = None) -> list[Item]:
    """Fetches and converts a published model and its VAE ahead, or only says what there is and what that would take.

    Unlike `load` it asks the Hub whether a branch has moved. Both items come back "ready" unless it is a dry run.
    """
    wanted: list[tuple[Net, HubFile]] = [("unet", published_unet(name, revision)), ("vae", published_vae())]
    if not dry_run:
        for net, file in wanted:
            from_hub(net, file, True, progress, update=True)
    return [item(net, file) for net, file in wanted]


def item(net: Net, wanted: HubFile) -> Item:
    copy = look_up(f"{net} {wanted}")
    try:
        remote = hub.ask(wanted)
    except OfflineError:
        if copy:
            return Item(wanted, copy[1].get("commit"), None, "ready")
        if cached := hub.in_hub_cache(wanted):
            return Item(wanted, hub.commit_of(cached), cached.stat().st_size, "cached")
        raise
    if copy and copy[1].get("commit") == remote.commit:
        return Item(wanted, remote.commit, remote.size, "ready")
    if hub.in_hub_cache(HubFile(wanted.repo, wanted.file, remote.commit)):
        return Item(wanted, remote.commit, remote.size, "cached")
    part = hub.part_file(remote, cache_folder() / "parts")
    have = part.stat().st_size if part.exists() else 0
    return Item(wanted, remote.commit, remote.size, "partial" if have else "missing", have)


@dataclass(frozen=True)
class CacheEntry:
    """A file of the cache. `sources` says what it was made of: repository, file and revision, or a path."""

    path: Path
    size: int
    sources: tuple[str, ...]


def cache_entries() -> list[CacheEntry]:
    """Copies and unfinished downloads, the largest first."""
    sources: dict[str, list[str]] = {}
    for _, ref in refs():
        s = ref["source"]
        sources.setdefault(ref["copy"], []).append(str(s.get("path") or f"{s.get('repo')}/{s.get('file')} at {s.get('revision')}"))
    found = []
    for folder in ("weights", "parts"):
        for path in files(cache_folder() / folder):
            if path.suffix in (".safetensors", ".part"):
                found.append(CacheEntry(path, path.stat().st_size, tuple(sources.get(path.name, ()))))
    return sorted(found, key=lambda entry: -entry.size)


def clear_cache(match: str = "") -> list[CacheEntry]:
    """Removes what has `match` in a source or in its file name (all, if it is empty), and returns that."""
    removed = [e for e in cache_entries() if not match or any(match in text for text in (*e.sources, e.path.name))]
    try:
        for entry in removed:
            entry.path.unlink(missing_ok=True)
        for path, ref in refs():
            if not (cache_folder() / "weights" / ref["copy"]).exists():
                path.unlink(missing_ok=True)
    except OSError as error:
        raise WeightError(f"{error.filename} cannot be removed: {error.strerror}. It may be in use; end that program first.") from error
    return removed


def refs() -> Iterator[tuple[Path, dict[str, Any]]]:
    for path in files(cache_folder() / "refs"):
        if ref := read_ref(path):
            yield path, ref


def files(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.is_file()) if folder.is_dir() else []
