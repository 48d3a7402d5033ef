"""Where weights come from: a published model of the Hub by its name, a folder, a file.

What is read is converted once (`convert.py`) and its copy kept (`copies.py`); `hub.py` speaks with the Hub.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, NamedTuple

from moebius.errors import UsageError, WeightError, did_you_mean
from moebius.files import open_regular
from moebius.model.contract import Precision
from moebius.model.unet import UNetConfig
from moebius.model.vae import VAEConfig
from moebius.weights import hub, refs
from moebius.weights.bundle import is_bundle, read_bundle
from moebius.weights.checkpoint import Net, Network, Weights
from moebius.weights.convert import Source, convert, file_signature, halved
from moebius.weights.copies import copy_file, open_copy
from moebius.weights.folders import cannot_write, make, need_room, subfolder
from moebius.weights.formats import safetensors
from moebius.weights.formats.tensors import identity_of
from moebius.weights.hub import HubFile, OfflineError
from moebius.weights.loading import Loading, Progress
from moebius.weights.nano import packaged_nano
from moebius.weights.published import FOLDERS, NAMES, NANO, REVISIONS, UNET_REPO, VAE_REPO

STEM = "diffusion_pytorch_model"
CONFIG_FILE = "config.json"
MAX_CONFIG = 1 << 20
ROUNDED = "The weights on this machine are rounded to f16, as they were downloaded; `moebius download NAME` gets them whole."


def load(
    model: str | Path,
    *,
    vae: str | Path | None = None,
    revision: str | None = None,
    cache: bool = True,
    progress: Progress | None = None,
) -> Weights:
    """The weights of "nano", of a published model by name (`FOLDERS`), of a folder, or of a file.

    A folder holds diffusion_pytorch_model.safetensors or .bin, and its VAE in vae/. A file is a UNet, or a bundle of both networks. `vae`
    is a file or folder, for where there is none beside; the published one is the default. `revision` is another one of the UNet's
    repository. `cache=False` writes no copy: what has to be converted is converted into memory.
    """
    check_choice(model, vae, revision)
    loading = Loading(cache, progress)
    try:
        if model == NANO:
            return read_bundle(packaged_nano(), NANO, {"packaged": NANO})
        if isinstance(model, str) and model in FOLDERS:
            name, unet = model, from_hub("unet", published_unet(model, revision), loading)
            decoder = given_vae(vae, loading) or from_hub("vae", published_vae(), loading)
        else:
            path = expanded(model)
            file = weights_file(path, model)
            if file == path and path.suffix.lower() == ".safetensors" and is_bundle(safetensors.read(path)):
                if vae is not None:
                    raise UsageError(
                        f"{path.name} brings a VAE of its own, that it was trained with; leave out the other one, {model_text(vae)}."
                    )
                return read_bundle(path, path.name, {"path": str(path)})
            unet = from_path("unet", file, loading)
            name = path.name if path.name not in ("", "..") else path.resolve().name
            decoder = given_vae(vae, loading) or vae_of(file, unet, loading)
    except WeightError as error:
        if loading.notes:  # a copy that was set aside could not be made again: that is why the source was asked for
            kind = type(error) if isinstance(error, hub.HubError) else WeightError
            raise kind(" ".join([str(error), *loading.notes])) from error
        raise
    return together(name, unet, decoder, loading)


def check_choice(model: str | Path, vae: str | Path | None, revision: str | None) -> None:
    """Refuses what does not go together, and a name that is nearly one of a model; what is far from all of them may be a path."""
    if model == NANO and vae is not None:
        raise UsageError("nano has a VAE of its own, in its own file; leave out vae (--vae), or name another model.")
    if revision is not None and not (isinstance(model, str) and model in FOLDERS):
        raise UsageError(
            f"revision={revision!r} goes with a published model ({NAMES}), not with {model_text(model)}; leave out revision (--revision)."
        )
    if not isinstance(model, str) or model in (*FOLDERS, NANO) or os.path.lexists(os.path.expanduser(model)):
        return
    if near := did_you_mean(model, (*FOLDERS, NANO)):
        raise UsageError(f"{model_text(model)} is neither a published model ({NAMES}) nor a file or folder.{near}")


def together(name: str, unet: Network, vae: Network, loading: Loading) -> Weights:
    assert isinstance(unet.config, UNetConfig)
    assert isinstance(vae.config, VAEConfig)
    return Weights(
        name,
        unet.config,
        unet.tensors,
        vae.config,
        vae.tensors,
        {"unet": unet.source, "vae": vae.source},
        {"unet": unet.digest, "vae": vae.digest},
        ignored=(*unet.ignored, *vae.ignored),
        notes=tuple(loading.notes),
    )


def given_vae(vae: str | Path | None, loading: Loading) -> Network | None:
    return None if vae is None else from_path("vae", weights_file(expanded(vae), vae, "vae"), loading)


def vae_of(file: Path, unet: Network, loading: Loading) -> Network:
    """The VAE that lies in the folder of its UNet, or one above (a published repository has a folder for each UNet); else the published
    one, where that can go with it."""
    beside = first_file(*candidates(file.parent / "vae"), *candidates(file.parent.parent / "vae"))
    if beside is not None:
        return from_path("vae", beside, loading)
    assert isinstance(unet.config, UNetConfig)
    lacks = f"There is no VAE with {file} (looked for {file.parent / 'vae'}, {STEM}.safetensors or .bin)"
    advice = "Put it there, or name its file: vae=…, on the command line --vae FILE."
    if (latent := unet.config.out_channels) != (published := VAEConfig.full().latent_channels):
        raise WeightError(
            f"{lacks}, and the published one does not go with it: it has {published} latent channels, this UNet {latent}. {advice}"
        )
    try:
        return from_hub("vae", published_vae(), loading)
    except hub.HubError as error:
        raise type(error)(f"{lacks}, and the published one cannot be had. {advice} ({error})") from error


def expanded(path: str | Path) -> Path:
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise UsageError(f"{model_text(path)} names a user who is not here ({error}). Give the whole path.") from error


def model_text(typed: str | Path) -> str:
    """What was typed, for an error."""
    return ascii(str(typed))[:200]


def published_unet(name: str, revision: str | None = None) -> HubFile:
    if name not in FOLDERS:
        raise UsageError(f"{name!r} is no published model. There are {NAMES}.")
    return HubFile(UNET_REPO, f"{FOLDERS[name]}/{STEM}.bin", revision or REVISIONS[UNET_REPO])


def published_vae() -> HubFile:
    return HubFile(VAE_REPO, f"vae/{STEM}.bin", REVISIONS[VAE_REPO])


def candidates(folder: Path) -> list[Path]:
    """What weights in a folder are called. Safetensors first: nothing in it can be anything but a tensor. The variant in 16 bits that
    some publish beside it counts where there is no other."""
    return [folder / f"{STEM}{ending}" for ending in (".safetensors", ".bin", ".fp16.safetensors", ".fp16.bin")]


def first_file(*paths: Path) -> Path | None:
    return next((path for path in paths if path.is_file()), None)


def weights_file(path: Path, typed: str | Path, subfolder: str = "unet") -> Path:
    """The weights that a path means: the file itself, or the one in a folder. Errors say what was `typed`."""
    try:
        if path.is_file():
            return path
        there, folder = path.exists(), path.is_dir()
        file = first_file(*candidates(path), *candidates(path / subfolder))
    except (OSError, ValueError) as error:
        raise UsageError(f"{model_text(typed)} cannot be read: {getattr(error, 'strerror', None) or error}. Check its spelling.") from error
    if not there:
        raise UsageError(f"{model_text(typed)} is neither a published model ({NAMES}) nor a file or folder. Check its spelling.")
    if not folder:
        raise UsageError(f"{model_text(typed)} is neither a regular file nor a folder. Copy the weights into a file first.")
    if file is None:
        raise UsageError(
            f"{path} holds neither {STEM}.safetensors nor {STEM}.bin, nor a folder {subfolder} that does. Give the file itself."
        )
    return file


# One network ----------------------------------------------------------------------------------------------------------


def from_path(net: Net, path: Path, loading: Loading) -> Network:
    try:
        path = path.absolute()  # not `resolve`: in a folder of the Hub's cache a link leads to a file without name and neighbours
        config_path = path.with_name(CONFIG_FILE)
        config_text = read_config(config_path) if config_path.exists() else ""
        identity = identity_of(path.stat())
    except OSError as error:
        raise WeightError(f"{error.filename or path} cannot be read: {error.strerror or error}. Check it and its rights.") from error
    source = Source(net, path, str(path), config_text, str(config_path), {"path": str(path)}, f"{net} {path} {config_text}")
    if loading.cache and (copy := look_up(net, file_signature(source.signature, identity), loading)):
        return copy
    return convert(source, loading)


def look_up(net: Net, signature: str, loading: Loading) -> Network | None:
    """The copy that a source of this signature was converted into, if there is a sound one."""
    ref = refs.find(signature, net)
    network = open_copy(net, subfolder("weights") / ref.copy, loading) if ref and ref.copy else None
    return replace(network, source=ref.source) if ref and network else None


def read_config(path: Path) -> str:
    """At most MAX_CONFIG bytes of text; the size is looked at first, and a file that grows meanwhile is cut."""
    with open_regular(path) as file:
        if (size := os.fstat(file.fileno()).st_size) > MAX_CONFIG:
            raise WeightError(f"{path} has {size} bytes, and no config has more than {MAX_CONFIG}. Put the model's own in its place.")
        return file.read(MAX_CONFIG).decode("utf-8", "replace")


def from_hub(net: Net, wanted: HubFile, loading: Loading, update: bool = False) -> Network:
    """A network of the Hub; its source has the commit. Once there is a copy the Hub is not asked again, but for an `update`."""
    if loading.cache and not update and (copy := on_disk(net, wanted, loading)):
        return copy
    with alone(wanted):
        if loading.cache and not update and (copy := on_disk(net, wanted, loading)):  # another process was quicker
            return copy
        copy = look_up(net, hub_signature(net, wanted, loading.precision), loading) if loading.cache else None
        try:
            remote = ask_if_online(wanted)
        except OfflineError:
            if copy:
                return copy
            raise
        return fetch_and_convert(net, wanted, remote, loading)


def hub_signature(net: Net, wanted: HubFile, precision: Precision) -> str:
    """What the cache knows a file of the Hub by, in this precision."""
    return f"{net} {wanted}" + ("" if precision == "f32" else f" {precision}")


def on_disk(net: Net, wanted: HubFile, loading: Loading) -> Network | None:
    """The whole copy of a file of the Hub, else the one in f16: whatever precision a run computes in, it takes what is nearest."""
    if whole := look_up(net, hub_signature(net, wanted, "f32"), loading):
        return whole
    half = look_up(net, hub_signature(net, wanted, "f16"), loading)
    if half and ROUNDED not in loading.notes:
        loading.notes.append(ROUNDED)
    return half


def fetch_and_convert(net: Net, wanted: HubFile, remote: hub.Remote | None, loading: Loading) -> Network:
    """From a copy of the same content if there is one, else from the file. `remote` is None offline."""
    signature = hub_signature(net, wanted, loading.precision)
    origin = {"repo": wanted.repo, "file": wanted.file, "revision": wanted.revision}
    if remote:
        origin["commit"] = remote.commit
    config_text = fetch_config(wanted, remote, loading) if net == "vae" else ""
    if remote and loading.cache and hub.is_sha256(remote.etag):
        copy = copy_file(net, remote.etag, config_text, loading.precision)
        network = open_copy(net, copy, loading)  # the same content under another revision, or converted already from a file
        whole = copy_file(net, remote.etag, config_text)
        if network is None and loading.precision == "f16" and os.path.isfile(whole):
            network = halved(net, whole, copy, str(wanted), loading)
        if network:
            refs.remember(signature, refs.Ref(net, origin, copy=copy.name, precision=loading.precision))
            return replace(network, source=origin)
    fetched = fetch(wanted, remote, loading)
    if fetched.commit:
        origin["commit"] = fetched.commit
    network = convert(Source(net, fetched.path, str(wanted), config_text, f"{wanted.repo}'s {CONFIG_FILE}", origin, signature), loading)
    if fetched.temporary and loading.cache:
        fetched.path.unlink(missing_ok=True)
    return network


def fetch_config(wanted: HubFile, remote: hub.Remote | None, loading: Loading) -> str:
    """The text of the config.json beside a file of the Hub, of the same commit."""
    config = HubFile(wanted.repo, f"{wanted.file.rpartition('/')[0]}/{CONFIG_FILE}", remote.commit if remote else wanted.revision)
    announced = ask_if_online(config)
    if announced and announced.size > MAX_CONFIG:
        raise hub.HubError(f"{config} has {announced.size} bytes, and no config has more than {MAX_CONFIG}. Check HF_ENDPOINT.")
    fetched = fetch(config, announced, loading)
    text = read_config(fetched.path)
    if fetched.temporary:
        fetched.path.unlink(missing_ok=True)
    return text


@contextmanager
def alone(wanted: HubFile) -> Iterator[None]:
    """One process at a time fetches a file."""
    hub.check_endpoint()
    from huggingface_hub.utils import WeakFileLock  # type: ignore[attr-defined]

    lock = subfolder("parts") / f"{hashlib.sha256(f'{wanted.repo}/{wanted.file}'.encode()).hexdigest()[:32]}.lock"
    try:
        make(lock.parent)
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


def fetch(wanted: HubFile, remote: hub.Remote | None, loading: Loading) -> Fetched:
    """From the Hub's own cache if it is there, else a download. Without `remote` the cache alone is looked into."""
    cached = hub.in_hub_cache(HubFile(wanted.repo, wanted.file, remote.commit) if remote else wanted)
    if cached is not None:
        return Fetched(cached, remote.commit if remote else hub.commit_of(cached), False)
    assert remote is not None, "ask_if_online looks into the Hub's cache too"
    part = hub.part_file(remote, subfolder("parts"))
    need_room(part, remote.size - size_of(part), str(wanted))
    return Fetched(hub.download(wanted, remote, part.parent, loading.progress), remote.commit, True)


def size_of(part: Path) -> int:
    """Of what has come of a download."""
    try:
        return part.stat().st_size
    except OSError:
        return 0


# Downloading ahead ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Item:
    """A file of a published model. It is "ready" (converted, nothing will be fetched), "cached" (in the Hub's own cache, or
    as a whole copy where one in f16 is wanted), "partial" (`have` of its `size` bytes are there) or "missing"."""

    file: HubFile
    commit: str | None
    size: int | None
    state: Literal["ready", "cached", "partial", "missing"]
    have: int = 0


def download(
    name: str,
    *,
    revision: str | None = None,
    dry_run: bool = False,
    progress: Progress | None = None,
    notes: list[str] | None = None,
    precision: Precision = "f32",
) -> list[Item]:
    """Fetches and converts a published model and its VAE ahead, or only says what there is and what that would take.

    Unlike `load` it asks the Hub whether a branch has moved. Both items come back "ready" unless it is a dry run. `notes` gets what the
    user should know. With precision "f16" the copies are half as large, their matrices rounded to float16.
    """
    loading = Loading(progress=progress, notes=[] if notes is None else notes, precision=precision)
    wanted: list[tuple[Net, HubFile]] = [("unet", published_unet(name, revision)), ("vae", published_vae())]
    if not dry_run:
        for net, file in wanted:
            from_hub(net, file, loading, update=True)
    if precision == "f16" and not dry_run and any(look_up(net, hub_signature(net, file, "f32"), loading) for net, file in wanted):
        loading.notes.append("Whole copies are there too, and are what runs read; `moebius cache` lists both, and --clear removes them.")
    return [item(net, file, loading) for net, file in wanted]


def item(net: Net, wanted: HubFile, loading: Loading) -> Item:
    """How far a file of a published model has come onto this machine."""
    copy = look_up(net, hub_signature(net, wanted, loading.precision), loading)
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
    whole = look_up(net, hub_signature(net, wanted, "f32"), loading)  # what a copy in f16 is made of
    if hub.in_hub_cache(HubFile(wanted.repo, wanted.file, remote.commit)) or (whole and whole.source.get("commit") == remote.commit):
        return Item(wanted, remote.commit, remote.size, "cached")
    have = size_of(hub.part_file(remote, subfolder("parts")))
    return Item(wanted, remote.commit, remote.size, "partial" if have else "missing", have)
