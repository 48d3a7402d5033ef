"""Where weights come from: a published model of the Hub by its name, a folder, a file.

What is read is converted once (`convert.py`) and its copy kept (`cache.py`); `hub.py` speaks with the Hub.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from moebius.errors import UsageError, WeightError
from moebius.files import open_regular
from moebius.model.unet import UNetConfig
from moebius.model.vae import VAEConfig
from moebius.weights import hub
from moebius.weights.bundle import is_bundle, read_bundle
from moebius.weights.cache import cannot_write, copy_file, look_up, need_room, open_copy, parts_folder, remember
from moebius.weights.checkpoint import Net, Network, Weights
from moebius.weights.convert import Source, convert
from moebius.weights.formats import safetensors
from moebius.weights.hub import HubFile, OfflineError, Progress
from moebius.weights.published import FOLDERS, NAMES, REVISIONS, UNET_REPO, VAE_REPO

STEM = "diffusion_pytorch_model"
CONFIG_FILE = "config.json"
MAX_CONFIG = 1 << 20


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
            raise UsageError(f"revision={revision!r} goes with a published model ({NAMES}), not with a path.")
        path = Path(model).expanduser()
        if path.suffix.lower() == ".safetensors" and path.is_file() and vae is None and is_bundle(safetensors.read(path)):
            return read_bundle(path)
        file = weights_file(path, model)
        # A VAE lies in the folder of its UNet, or one above: a published repository has a folder for each UNet.
        vae_source = first_file(*candidates(file.parent / "vae"), *candidates(file.parent.parent / "vae")) or vae_source
        name, commit = path.resolve().stem if path.is_file() else path.resolve().name, None
        unet = from_path("unet", file, cache, progress)
    if vae is not None:
        vae_source = weights_file(Path(vae).expanduser(), vae, "vae")
    if isinstance(vae_source, HubFile):
        decoder, _ = from_hub("vae", vae_source, cache, progress)
    else:
        decoder = from_path("vae", vae_source, cache, progress)
    assert isinstance(unet.config, UNetConfig)
    assert isinstance(decoder.config, VAEConfig)
    return Weights(name, unet.config, unet.tensors, decoder.config, decoder.tensors, commit, (*unet.ignored, *decoder.ignored))


def published_unet(name: str, revision: str | None = None) -> HubFile:
    if name not in FOLDERS:
        raise UsageError(f"{name!r} is no published model. There are {NAMES}.")
    return HubFile(UNET_REPO, f"{FOLDERS[name]}/{STEM}.bin", revision or REVISIONS[UNET_REPO])


def published_vae() -> HubFile:
    return HubFile(VAE_REPO, f"vae/{STEM}.bin", REVISIONS[VAE_REPO])


def candidates(folder: Path) -> list[Path]:
    """What weights in a folder are called. Safetensors first: nothing in it can be anything but a tensor."""
    return [folder / f"{STEM}{ending}" for ending in (".safetensors", ".bin")]


def first_file(*paths: Path) -> Path | None:
    return next((path for path in paths if path.is_file()), None)


def weights_file(path: Path, typed: str | Path, subfolder: str = "unet") -> Path:
    """The weights that a path means: the file itself, or the one in a folder. Errors say what was `typed`."""
    if path.is_file():
        return path
    if not path.exists():
        raise UsageError(f"{str(typed)!r} is neither a published model ({NAMES}) nor a file or folder. Check its spelling.")
    if not path.is_dir():
        raise UsageError(f"{path} is neither a regular file nor a folder. Copy it into a file first.")
    file = first_file(*candidates(path), *candidates(path / subfolder))
    if file is None:
        raise UsageError(
            f"{path} holds neither {STEM}.safetensors nor {STEM}.bin, nor a folder {subfolder} that does. Give the file itself."
        )
    return file


# One network ----------------------------------------------------------------------------------------------------------


def from_path(net: Net, path: Path, cache: bool, progress: Progress | None) -> Network:
    try:
        path = path.resolve()
        config_path = path.with_name(CONFIG_FILE)
        config_text = read_config(config_path) if config_path.exists() else ""
        stat = path.stat()
    except OSError as error:
        raise WeightError(f"{path} cannot be read: {error}.") from error
    # The times and the inode change whenever the content does, so a source that was converted once is not read again.
    signature = f"{net} {path} {stat.st_size} {stat.st_mtime_ns} {stat.st_ctime_ns} {stat.st_ino} {config_text}"
    if cache and (copy := look_up(signature)):
        return copy.network
    source = Source(net, path, str(path), config_text, str(config_path), {"path": str(path)}, signature)
    return convert(source, cache, progress)


def read_config(path: Path) -> str:
    with open_regular(path) as file:
        return file.read(MAX_CONFIG).decode("utf-8", "replace")


def from_hub(net: Net, wanted: HubFile, cache: bool, progress: Progress | None, update: bool = False) -> tuple[Network, str | None]:
    """The network and the commit it is of. Once there is a copy the Hub is not asked again, but for an `update`."""
    signature = hub_signature(net, wanted)
    if cache and not update and (copy := look_up(signature)):
        return copy.network, copy.source.get("commit")
    with alone(wanted):
        copy = look_up(signature) if cache else None
        if copy and not update:  # another process was quicker
            return copy.network, copy.source.get("commit")
        try:
            remote = ask_if_online(wanted)
        except OfflineError:
            if copy:
                return copy.network, copy.source.get("commit")
            raise
        return fetch_and_convert(net, wanted, remote, cache, progress)


def hub_signature(net: Net, wanted: HubFile) -> str:
    """What the cache knows a file of the Hub by."""
    return f"{net} {wanted}"


def fetch_and_convert(
    net: Net, wanted: HubFile, remote: hub.Remote | None, cache: bool, progress: Progress | None
) -> tuple[Network, str | None]:
    """The network and its commit, from a copy of the same content if there is one, else from the file. `remote` is None offline."""
    signature = hub_signature(net, wanted)
    origin = {"repo": wanted.repo, "file": wanted.file, "revision": wanted.revision}
    if remote:
        origin["commit"] = remote.commit
    config_text = fetch_config(wanted, remote, progress) if net == "vae" else ""
    if remote and cache and hub.is_sha256(remote.etag):
        copy = copy_file(net, remote.etag, config_text)
        if network := open_copy(net, copy):  # the same content under another revision, or converted already from a file
            remember(signature, net, copy, origin)
            return network, remote.commit
    fetched = fetch(wanted, remote, progress)
    if fetched.commit:
        origin["commit"] = fetched.commit
    source = Source(net, fetched.path, str(wanted), config_text, f"{wanted.repo}'s {CONFIG_FILE}", origin, signature)
    network = convert(source, cache, progress)
    if fetched.temporary and cache:
        fetched.path.unlink(missing_ok=True)
    return network, fetched.commit


def fetch_config(wanted: HubFile, remote: hub.Remote | None, progress: Progress | None) -> str:
    """The text of the config.json beside a file of the Hub, of the same commit."""
    config = HubFile(wanted.repo, f"{wanted.file.rpartition('/')[0]}/{CONFIG_FILE}", remote.commit if remote else wanted.revision)
    fetched = fetch(config, ask_if_online(config), progress)
    text = read_config(fetched.path)
    if fetched.temporary:
        fetched.path.unlink(missing_ok=True)
    return text


@contextmanager
def alone(wanted: HubFile) -> Iterator[None]:
    """One process at a time fetches a file."""
    from huggingface_hub.utils import WeakFileLock  # type: ignore[attr-defined]

    lock = parts_folder() / f"{hashlib.sha256(f'{wanted.repo}/{wanted.file}'.encode()).hexdigest()[:32]}.lock"
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        lock.touch()
    except OSError as error:
        raise cannot_write(error, str(wanted), lock) from error
    with WeakFileLock(lock):
        yield


def ask_if_online(wanted: HubFile) -> hub.Remote | None:
    """What the Hub says of a file; None where it cannot be asked and its own cache has the file."""
    try:
        return hub.ask(wanted)
    except OfflineError:
        if hub.in_hub_cache(wanted) is None:
            raise
        return None


class Fetched(NamedTuple):
    """A file on this machine. `temporary`: it is a download of ours, to be removed once it is converted."""

    path: Path
    commit: str | None
    temporary: bool


def fetch(wanted: HubFile, remote: hub.Remote | None, progress: Progress | None) -> Fetched:
    """From the Hub's own cache if it is there, else a download. Without `remote` the cache alone is looked into."""
    cached = hub.in_hub_cache(HubFile(wanted.repo, wanted.file, remote.commit) if remote else wanted)
    if cached is not None:
        return Fetched(cached, remote.commit if remote else hub.commit_of(cached), False)
    assert remote is not None, "ask_if_online looks into the Hub's cache too"
    part = hub.part_file(remote, parts_folder())
    need_room(part, remote.size - (part.stat().st_size if part.exists() else 0), str(wanted))
    return Fetched(hub.download(wanted, remote, parts_folder(), progress), remote.commit, True)


# Downloading ahead ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Item:
    """A file of a published model. It is "ready" (converted, nothing will be fetched), "cached" (in the Hub's own cache),
    "partial" (`have` of its `size` bytes are there) or "missing"."""

    file: HubFile
    commit: str | None
    size: int | None
    state: Literal["ready", "cached", "partial", "missing"]
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
    """How far a file of a published model has come onto this machine."""
    copy = look_up(hub_signature(net, wanted))
    try:
        remote = hub.ask(wanted)
    except OfflineError:
        if copy:
            return Item(wanted, copy.source.get("commit"), None, "ready")
        if cached := hub.in_hub_cache(wanted):
            return Item(wanted, hub.commit_of(cached), cached.stat().st_size, "cached")
        raise
    if copy and copy.source.get("commit") == remote.commit:
        return Item(wanted, remote.commit, remote.size, "ready")
    if hub.in_hub_cache(HubFile(wanted.repo, wanted.file, remote.commit)):
        return Item(wanted, remote.commit, remote.size, "cached")
    part = hub.part_file(remote, parts_folder())
    have = part.stat().st_size if part.exists() else 0
    return Item(wanted, remote.commit, remote.size, "partial" if have else "missing", have)
