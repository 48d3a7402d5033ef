"""Files of the Hub: asked about, looked up in the Hub's own cache, or downloaded, going on where a cut download stopped.

`huggingface_hub` knows the Hub's address, tokens, proxies and errors; it is imported when the Hub is first needed. The transfer itself
is done here, because the library's (2.4, with hf-xet 1.8 or without) lacks four things. What came of a file is thrown away when its
process ends (since 1.18, every try has a file of its own). No checksum is compared. Tries are counted from the last byte that came, so
that a server that sends one and cuts is asked for ever, and what comes is written however much it is. A full disk is only warned of.
"""

from __future__ import annotations

import errno
import hashlib
import importlib
import os
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlsplit

from moebius.errors import WeightError
from moebius.weights.folders import DISK_FULL, MAKE_ROOM, make
from moebius.weights.loading import Progress

RETRIES = 9  # connections more than one, over the whole file: whatever a server does, it is asked ten times
RETRY_SECONDS = 1.0  # the first pause; every further one is twice as long
LONGEST_PAUSE = 30.0
TIMEOUT_SECONDS = 10.0


class HubError(WeightError):
    """A file could not be had from the Hub."""


class OfflineError(HubError):
    """It could not be had because the Hub cannot be reached, or must not be asked."""


@dataclass(frozen=True)
class HubFile:
    """A file of a repository. `revision` is a branch, a tag, or the 40 hex digits of a commit."""

    repo: str
    file: str
    revision: str

    def __str__(self) -> str:
        return f"{self.repo}/{self.file} at {self.revision}"


@dataclass(frozen=True)
class Remote:
    """What the Hub says of a file. `etag` is the SHA-256 of a large one."""

    commit: str
    etag: str
    size: int


def check_endpoint() -> None:
    """To be called before `huggingface_hub` is imported, which an HF_ENDPOINT with a port beyond 65535 breaks."""
    address = os.environ.get("HF_ENDPOINT", "")
    try:
        urlsplit(address).port  # noqa: B018 (it is read for what it raises)
    except ValueError as error:
        raise HubError(f"HF_ENDPOINT is {ascii(address)[:200]}, which is no address ({error}). Correct it, or unset it.") from error


def is_offline() -> bool:
    """Whether the user forbids to ask the Hub."""
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE) or os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")


def endpoint() -> str:
    from huggingface_hub import constants

    return os.environ.get("HF_ENDPOINT", constants.ENDPOINT).rstrip("/")


def url(wanted: HubFile, revision: str) -> str:
    from huggingface_hub import hf_hub_url

    return hf_hub_url(wanted.repo, wanted.file, revision=revision, endpoint=endpoint())


def ask(wanted: HubFile) -> Remote:
    """Size, commit and checksum, without the file."""
    check_endpoint()
    from huggingface_hub import get_hf_file_metadata

    try:
        if is_offline():
            raise OfflineError(offline_sentence(wanted))
        answer = get_hf_file_metadata(url(wanted, wanted.revision), timeout=TIMEOUT_SECONDS)
    except Exception as error:
        if sentence := explained(error, wanted):
            raise sentence from error
        raise
    if not answer.commit_hash or not answer.etag or answer.size is None or answer.size < 0:
        raise HubError(f"{endpoint()} does not answer as the Hub does. Check HF_ENDPOINT, or a proxy that answers in its place.")
    return Remote(answer.commit_hash, answer.etag, answer.size)


def in_hub_cache(wanted: HubFile) -> Path | None:
    """Where the Hub's own cache has the file: another program, or `hf download`, may have put it there."""
    check_endpoint()
    from huggingface_hub import try_to_load_from_cache

    try:
        path = try_to_load_from_cache(wanted.repo, wanted.file, revision=wanted.revision)
    except OSError as error:
        raise WeightError(
            f"The Hub's cache cannot be read: {error}. Set HF_HOME to a folder that can, or mend the rights to this one."
        ) from error
    return Path(path) if isinstance(path, str) else None  # else a token for "not there", or None for "not known"


def commit_of(path: Path) -> str | None:
    """The commit, from a path in the Hub's cache: …/snapshots/COMMIT/FILE."""
    match = re.search(r"[/\\]snapshots[/\\]([0-9a-f]{40})[/\\]", str(path))
    return match[1] if match else None


def part_file(remote: Remote, folder: Path) -> Path:
    """Where a download lies until it is used. Its name is that of the content, so that it is found again."""
    return folder / f"download-{hashlib.sha256(remote.etag.encode()).hexdigest()}.part"


def download(wanted: HubFile, remote: Remote, folder: Path, progress: Progress | None = None) -> Path:
    """Downloads into `folder`, going on from what an earlier call left there, and checks what came. The caller removes the file, and sees
    to it that no other process does the same, and that there is room."""
    part = part_file(remote, folder)
    try:
        make(folder)
        with open(part, "ab") as file:
            transfer(wanted, remote, file, progress)
        if (digest := checksum(part, remote.etag)) and digest != remote.etag:
            part.unlink()
            raise HubError(
                f"{wanted} came with the checksum {digest[:12]}… and the Hub announced {remote.etag[:12]}…, so it was thrown away. "
                "Run the same command again; if this happens again, look for a proxy that changes files."
            )
    except Exception as error:
        if sentence := explained(error, wanted, part):
            raise sentence from error
        raise
    return part


def transfer(wanted: HubFile, remote: Remote, file: BinaryIO, progress: Progress | None) -> None:
    """Appends what is missing, and never a byte beyond what was announced. RETRIES are counted over the whole file."""
    transport_error = http().TransportError
    for attempt in range(RETRIES + 1):
        if file.seek(0, os.SEEK_END) > remote.size:
            file.truncate(0)
        try:
            receive(wanted, remote, file, progress)
            break
        except transport_error:
            file.flush()
            if attempt == RETRIES:
                raise
            time.sleep(min(RETRY_SECONDS * 2**attempt, LONGEST_PAUSE))
    file.flush()
    os.fsync(file.fileno())


def receive(wanted: HubFile, remote: Remote, file: BinaryIO, progress: Progress | None) -> None:
    """One connection: from the file's end to the announced size, or a transport error."""
    from huggingface_hub import get_session, hf_raise_for_status
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

    done = file.seek(0, os.SEEK_END)
    if done == remote.size:
        return
    # Asked of the Hub each time, not of the address it redirects to, which expires.
    address = url(wanted, remote.commit)
    headers = {**build_hf_headers(), "Accept-Encoding": "identity", "Range": f"bytes={done}-"}
    with get_session().stream("GET", address, headers=headers, follow_redirects=True, timeout=TIMEOUT_SECONDS) as response:
        hf_raise_for_status(response)
        begin = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
        if response.status_code != 206:  # the whole file, from its start
            done = file.truncate(0)
        elif begin is None or int(begin[1]) != done:
            raise http().TransportError(f"bytes from {done} on were asked for, and others came")
        for chunk in response.iter_bytes():  # as they come: what a fixed size waits for is lost in a cut
            file.write(chunk[: remote.size - done])
            done += len(chunk)
            if progress:
                progress(f"downloading {wanted.repo}/{wanted.file}", min(done, remote.size), remote.size)
            if done > remote.size:
                raise HubError(
                    f"{endpoint()} sends more of {wanted} than the {remote.size} bytes it announced. Check HF_ENDPOINT, or a proxy."
                )
        if done != remote.size:
            raise http().TransportError(f"{done} bytes came of {remote.size}")


def http() -> Any:
    """httpx or httpx2, whichever this version of huggingface_hub is built on."""
    from huggingface_hub.errors import HfHubHTTPError

    return importlib.import_module(HfHubHTTPError.__bases__[0].__module__.partition(".")[0])


def is_sha256(etag: str) -> bool:
    return re.fullmatch("[0-9a-f]{64}", etag) is not None


def checksum(path: Path, etag: str) -> str | None:
    """A file's checksum of the kind that the Hub announced: SHA-256 for large files, git's name for small ones; None for no known one."""
    with open(path, "rb") as file:
        if is_sha256(etag):
            return hashlib.file_digest(file, "sha256").hexdigest()
        if re.fullmatch("[0-9a-f]{40}", etag):
            data = file.read()
            return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
    return None


NOT_ALLOWED = (errno.EACCES, errno.EPERM, errno.EROFS)


def offline_sentence(wanted: HubFile) -> str:
    return (
        f"{wanted} is not on this machine, and HF_HUB_OFFLINE forbids to fetch it. Unset it, or run `moebius download` where there is a "
        "network, or give the path of weights that you have."
    )


def explained(error: Exception, wanted: HubFile, part: Path | None = None) -> HubError | None:
    """What went wrong with a file of the Hub, and what to do. None for errors that say so already, and for our own mistakes."""
    from huggingface_hub import errors

    if isinstance(error, WeightError):
        return None
    if isinstance(error, errors.OfflineModeIsEnabled):
        return OfflineError(offline_sentence(wanted))
    if isinstance(error, errors.RevisionNotFoundError):
        return HubError(f"{wanted.repo} has no revision {wanted.revision!r}. Check its name, or leave it out for the pinned one.")
    if isinstance(error, errors.EntryNotFoundError):
        return HubError(f"{wanted.repo} has no file {wanted.file} at {wanted.revision}. Check the revision, or give a path instead.")
    if isinstance(error, errors.GatedRepoError):
        return HubError(f"{wanted.repo} is gated. Ask for access on its page at {endpoint()}/{wanted.repo}, then set HF_TOKEN.")
    if isinstance(error, errors.RepositoryNotFoundError):
        return HubError(
            f"{endpoint()} shows no repository {wanted.repo}: there is none, or it is private. Check HF_ENDPOINT, and set HF_TOKEN "
            "(or run `hf auth login`) if it needs a login."
        )
    if isinstance(error, errors.HfHubHTTPError):
        status = error.response.status_code
        if status in (401, 403):
            return HubError(f"{endpoint()} refuses {wanted} (HTTP {status}). Set HF_TOKEN to a valid token that may read it, or unset it.")
        return HubError(f"{endpoint()} answers HTTP {status} for {wanted}. Run the same command again later.")
    size = part.stat().st_size if part is not None and part.exists() else 0
    kept = f" The {size / 1e6:.1f} MB that arrived are kept." if size else ""
    if isinstance(error, OSError) and error.errno in DISK_FULL:
        return HubError(f"The disk is full: there is no room for {wanted}.{kept} {MAKE_ROOM}")
    if isinstance(error, OSError) and error.errno in NOT_ALLOWED:
        file = str(error.filename or part)
        if part is not None and Path(file).parent in (part.parent, part.parent.parent):
            return HubError(f"{file} cannot be written: {error.strerror}. Set MOEBIUS_CACHE to a folder that can.")
        return HubError(f"{file} cannot be read: {error.strerror}. Mend the rights to it, or set HF_HOME to another folder.")
    # A port beyond 65535 and the like come from the socket's own checks of its arguments.
    if isinstance(error, (http().HTTPError, http().InvalidURL, OSError, OverflowError, UnicodeError)):
        return OfflineError(
            f"The connection to {endpoint()} failed or was cut before {wanted} was complete ({str(error) or type(error).__name__}).{kept} "
            f"Check the network and HF_ENDPOINT, and run the same command again{'; it goes on from there' if kept else ''}."
        )
    return None
