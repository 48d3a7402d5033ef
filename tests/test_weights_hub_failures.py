"""The Hub, for real, on loopback: what is resumed when a download is cut, and the sentence for every failure."""

from __future__ import annotations

import errno
import io
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hub_cases import CONFIG_FILE, UNET_BYTES, UNET_FILE, VAE_BYTES, environment, failure, saved_vae
from hub_fixtures import here, server  # noqa: F401
from hub_server import COMMIT, HubServer
from weights_cases import CODER, UNET_WEIGHTS, bfloat16, same

from moebius.errors import WeightError
from moebius.weights import hub, store
from moebius.weights.cache import cache_entries, remove
from moebius.weights.folders import MAKE_ROOM
from moebius.weights.formats import safetensors
from moebius.weights.hub import HubError, OfflineError

# ruff: noqa: F811 (fixtures)


# What is cut ---------------------------------------------------------------------------------------------------------
def test_a_cut_connection_is_taken_up_again(server: HubServer) -> None:
    server.cuts = [10_000, 1, 5_000]
    sizes: list[int] = []
    loaded = store.load("places2", progress=lambda what, done, _: sizes.append(done) if what.endswith(UNET_FILE[1]) else None)
    assert same(loaded.unet, bfloat16(UNET_WEIGHTS))
    ranges = [r.range for r in server.transfers if "/cdn/" in r.path][:4]
    assert ranges == ["bytes=0-", "bytes=10000-", "bytes=10001-", "bytes=15001-"]


def test_a_download_that_failed_goes_on_in_the_next_run(server: HubServer, here: Path) -> None:
    server.cuts = [20_000] + [0] * (hub.RETRIES + 1)
    message = failure(OfflineError)
    assert "was cut before hustvl/Moebius/ft_places2/diffusion_pytorch_model.bin at main was complete" in message
    assert "The 0.0 MB that arrived are kept." in message
    assert message.endswith("run the same command again; it goes on from there.")
    (part,) = (here / "cache/parts").glob("*.part")
    assert part.read_bytes() == UNET_BYTES[:20_000]
    partial = store.download("places2", dry_run=True)[0]
    assert (partial.state, partial.have, partial.size) == ("partial", 20_000, len(UNET_BYTES))
    server.requests.clear()
    assert same(store.load("places2").unet, bfloat16(UNET_WEIGHTS))
    assert next(r.range for r in server.transfers if "/cdn/" in r.path) == "bytes=20000-"


def test_ctrl_c_keeps_what_came(server: HubServer, here: Path) -> None:
    def stop(what: str, done: int, _: int) -> None:
        if done > 30_000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.load("places2", progress=stop)
    (part,) = (here / "cache/parts").glob("*.part")
    assert 30_000 < part.stat().st_size < len(UNET_BYTES)
    server.requests.clear()
    assert same(store.load("places2").unet, bfloat16(UNET_WEIGHTS))
    assert next(r.range for r in server.transfers if "/cdn/" in r.path) != "bytes=0-"


def test_a_server_that_sends_whole_files_only(server: HubServer) -> None:
    server.cuts, server.no_range = [20_000, 30_000], True
    assert same(store.load("places2").unet, bfloat16(UNET_WEIGHTS))


def test_a_part_that_is_too_long_or_of_other_bytes(server: HubServer, here: Path) -> None:
    remote = hub.ask(store.published_unet("places2"))
    part = hub.part_file(remote, here / "cache/parts")
    part.parent.mkdir(parents=True)
    part.write_bytes(UNET_BYTES + b"more")
    assert same(store.load("places2").unet, bfloat16(UNET_WEIGHTS))
    remove(cache_entries())
    part.write_bytes(b"\0" * 5000)
    message = failure()
    assert "the Hub announced" in message
    assert not part.exists()
    assert same(store.load("places2").unet, bfloat16(UNET_WEIGHTS))


def test_two_processes_at_once(server: HubServer, here: Path) -> None:
    code = "from moebius.weights import store; print(len(store.load('places2').unet))"
    both = [subprocess.Popen([sys.executable, "-c", code], env=environment(server, here), stdout=subprocess.PIPE) for _ in range(2)]
    assert {p.communicate()[0].split()[0] for p in both} == {str(len(UNET_WEIGHTS)).encode()}
    assert len([r for r in server.transfers if "/cdn/" in r.path]) == 2


def test_a_server_that_cuts_for_ever_is_left(server: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each connection brings a byte: tries are counted over the whole file, and pauses grow."""
    pauses: list[float] = []
    monkeypatch.setattr("moebius.weights.hub.time.sleep", pauses.append)
    monkeypatch.setattr(hub, "RETRY_SECONDS", 1)
    for ignores_range in (False, True):
        server.cuts, server.no_range = [1] * 1000, ignores_range
        server.requests.clear()
        pauses.clear()
        failure(OfflineError)
        assert len([r for r in server.transfers if "/cdn/" in r.path]) == hub.RETRIES + 1
        assert pauses == [1, 2, 4, 8, 16, *[hub.LONGEST_PAUSE] * (hub.RETRIES - 5)]


@pytest.mark.parametrize("begun", [0, 7])
def test_never_a_byte_beyond_what_was_announced(begun: int, server: HubServer, here: Path) -> None:
    part = hub.part_file(hub.ask(store.published_unet("places2")), here / "cache/parts")
    part.parent.mkdir(parents=True)
    part.write_bytes(UNET_BYTES[:begun])
    server.surplus = 50 << 20
    message = failure()
    assert f"more of hustvl/Moebius/{UNET_FILE[1]} at main than the {len(UNET_BYTES)} bytes" in message
    assert part.stat().st_size == len(UNET_BYTES)
    assert server.sent < 20 << 20  # the connection was closed
    server.surplus = 0
    assert same(store.load("places2").unet, bfloat16(UNET_WEIGHTS))


def test_an_answer_from_another_place_of_the_file(server: HubServer, here: Path) -> None:
    part = hub.part_file(hub.ask(store.published_unet("places2")), here / "cache/parts")
    part.parent.mkdir(parents=True)
    part.write_bytes(UNET_BYTES[:1000])
    server.shift = 1
    assert "others came" in failure(OfflineError)
    assert part.read_bytes() == UNET_BYTES[:1000]


def test_a_config_that_is_no_config(server: HubServer) -> None:
    server.files[CONFIG_FILE] = bytes(2 << 20)
    with pytest.raises(HubError, match="no config has more"):
        store.load("places2")
    server.files[CONFIG_FILE] = b"{}"
    assert store.load("places2").vae_config == CODER


def test_a_small_file_s_checksum_counts_too(server: HubServer) -> None:
    server.lie_small = True
    with pytest.raises(HubError, match=r"vae/config\.json .*thrown away"):
        store.load("places2")


def test_caches_that_cannot_be_read(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever runs the tests may read everything, so the system's refusal is played."""

    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", "/somewhere/hub")

    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", refuse)
    assert "Hub's cache cannot be read" in failure(WeightError)
    monkeypatch.undo()


def test_a_token_that_cannot_be_read(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", "/somewhere/token")

    monkeypatch.setattr("huggingface_hub.get_hf_file_metadata", refuse)
    assert failure().startswith("/somewhere/token cannot be read: Permission denied.")


# What fails ----------------------------------------------------------------------------------------------------------
def test_wrong_revision() -> None:
    assert failure(revision="v9") == "hustvl/Moebius has no revision 'v9'. Check its name, or leave it out for the pinned one."


def test_missing_file(server: HubServer) -> None:
    del server.files[UNET_FILE]
    server.files["hustvl/Moebius", "README.md"] = b"."
    assert "hustvl/Moebius has no file ft_places2/diffusion_pytorch_model.bin at main." in failure()


def test_missing_config_of_the_vae(server: HubServer) -> None:
    del server.files[CONFIG_FILE]
    with pytest.raises(HubError, match=rf"has no file vae/config\.json at {COMMIT}"):
        store.load("places2")


def test_missing_repository(server: HubServer) -> None:
    server.files.clear()
    message = failure()
    assert message.startswith(f"{server.url} shows no repository hustvl/Moebius: there is none, or it is private.")
    assert "HF_TOKEN" in message


def test_no_token_wrong_token_and_gated(server: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    server.token = "hf_right"
    assert "set HF_TOKEN" in failure()
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    assert "(HTTP 401). Set HF_TOKEN to a valid token" in failure()
    monkeypatch.setenv("HF_TOKEN", "hf_right")
    server.gated = True
    assert failure() == f"hustvl/Moebius is gated. Ask for access on its page at {server.url}/hustvl/Moebius, then set HF_TOKEN."


@pytest.mark.parametrize("status", [403, 404, 429, 500, 503])
def test_other_answers(status: int, server: HubServer) -> None:
    server.status = status
    assert f"HTTP {status}" in failure()


@pytest.mark.parametrize("endpoint", ["http://127.0.0.1:99999", "http://127.0.0.1:x", "http://[::1"])
def test_an_endpoint_that_the_library_cannot_be_imported_with(endpoint: str, here: Path) -> None:
    """In a process of its own: here the library has been imported long since."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("HF_")}
    code = "from moebius.weights import store\ntry: store.load('places2')\nexcept Exception as error: print(type(error).__name__, error)"
    done = subprocess.run([sys.executable, "-c", code], env={**kept, "HF_ENDPOINT": endpoint}, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"HubError HF_ENDPOINT is {endpoint!r}, which is no address")


@pytest.mark.parametrize("endpoint", ["http://127.0.0.1:9", "http://a..b", "not-a-url", "ftp://127.0.0.1"])
def test_no_server(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", endpoint)
    message = failure(OfflineError)
    assert message.startswith(f"The connection to {endpoint} failed")
    assert "Check the network and HF_ENDPOINT" in message


def test_not_a_hub(server: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hub_server.COMMIT_HEADER", "X-Nothing")
    assert "does not answer as the Hub does. Check HF_ENDPOINT" in failure()


def test_offline_and_not_cached(server: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    message = failure(OfflineError)
    assert "is not on this machine, and HF_HUB_OFFLINE forbids to fetch it. Unset it, or run `moebius download`" in message
    assert not server.requests


def test_bytes_that_are_not_what_was_announced(server: HubServer, here: Path) -> None:
    server.lie = True
    assert "so it was thrown away" in failure()
    assert not list((here / "cache/parts").glob("*.part"))


def test_a_disk_that_fills_up(server: HubServer, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full(io.FileIO):
        def write(self, data: Any) -> int:
            super().write(data[: 8192 - self.tell()])
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(hub, "open", lambda path, mode: Full(path, mode), raising=False)
    message = failure()
    assert message.startswith("The disk is full: there is no room for hustvl/Moebius/ft_places2/")
    assert message.endswith(MAKE_ROOM)
    monkeypatch.undo()
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    monkeypatch.setenv("MOEBIUS_CACHE", str(here / "cache"))
    server.requests.clear()
    assert same(store.load("places2", vae=saved_vae(here)).unet, bfloat16(UNET_WEIGHTS))
    assert next(r.range for r in server.transfers if "/cdn/" in r.path) == "bytes=8192-"


def test_a_disk_that_is_full_is_seen_before(server: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(1 << 40, 1 << 40, 1000))
    message = failure(WeightError)
    assert "is full: hustvl/Moebius/ft_places2/diffusion_pytorch_model.bin at main takes" in message
    assert not server.transfers


def test_a_disk_that_is_full_when_converting(server: HubServer, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(safetensors, "write", full)
    assert "no room for the converted hustvl/Moebius" in failure(WeightError)
    assert len(list((here / "cache/parts").glob("*.part"))) == 1  # not to be fetched again


def test_weights_that_do_not_fit(server: HubServer) -> None:
    server.files[UNET_FILE] = VAE_BYTES
    message = failure(WeightError)
    assert message.startswith("hustvl/Moebius/ft_places2/diffusion_pytorch_model.bin at main: These weights are no UNet")
    assert ".part" not in message
