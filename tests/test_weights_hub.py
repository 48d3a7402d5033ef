"""The Hub, for real, on loopback: what is asked, what is kept, what is resumed, and the sentence for every failure."""

from __future__ import annotations

import errno
import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pytest
from hub_server import COMMIT, HubServer
from huggingface_hub import constants
from test_weights_store import CODER, UNET, UNET_WEIGHTS, VAE_WEIGHTS, bfloat16, same
from torch_files import torch_file

from moebius.errors import UsageError, WeightError
from moebius.weights import hub, store
from moebius.weights.cache import cache_entries, remove
from moebius.weights.folders import MAKE_ROOM, cache_folder
from moebius.weights.formats import safetensors
from moebius.weights.hub import HubError, OfflineError

UNET_FILE = ("hustvl/Moebius", "ft_places2/diffusion_pytorch_model.bin")
VAE_FILE = ("hustvl/PixelHacker", "vae/diffusion_pytorch_model.bin")
CONFIG_FILE = ("hustvl/PixelHacker", "vae/config.json")
UNET_BYTES, VAE_BYTES = torch_file(UNET_WEIGHTS, "BF16"), torch_file(VAE_WEIGHTS, "BF16")
PUBLISHED = {UNET_FILE: UNET_BYTES, VAE_FILE: VAE_BYTES, CONFIG_FILE: json.dumps({"scaling_factor": 0.25}).encode()}


@pytest.fixture
def server() -> Iterator[HubServer]:
    with HubServer(dict(PUBLISHED)) as server:
        yield server


@pytest.fixture(autouse=True)
def here(server: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """This process, with that Hub and caches of the test's own."""
    for variable in ("HF_HUB_OFFLINE", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    monkeypatch.setenv("MOEBIUS_CACHE", str(tmp_path / "cache"))
    for name, value in (("HF_HUB_CACHE", "hub"), ("HF_TOKEN_PATH", "token"), ("HF_HUB_OFFLINE", "")):
        monkeypatch.setattr(constants, name, value and str(tmp_path / value))
    monkeypatch.setattr(hub, "RETRY_SECONDS", 0)
    return tmp_path


def failure(kind: type[WeightError] = HubError, **options: Any) -> str:
    """The sentence. Nothing that could be taken for weights is left behind."""
    with pytest.raises(kind) as caught:
        store.load("places2", **options)
    assert not list(cache_folder().glob("weights/*"))
    message = str(caught.value)
    assert "\n" not in message
    assert message.endswith(".")
    assert len(message) < 500
    return message


# What works ----------------------------------------------------------------------------------------------------------


def test_first_run_downloads_and_later_ones_ask_nobody(server: HubServer, here: Path) -> None:
    events: list[tuple[str, int, int]] = []
    first = store.load("places2", progress=lambda *event: events.append(event))
    assert (first.name, first.unet_config, first.commit, first.vae_config.scaling_factor) == ("places2", UNET, COMMIT, 0.25)
    assert same(first.unet, bfloat16(UNET_WEIGHTS))
    assert same(first.vae, bfloat16(VAE_WEIGHTS))
    downloads = [e for e in events if e[0] == f"downloading {'/'.join(UNET_FILE)}"]
    assert len(downloads) > 1
    assert [done for _, done, _ in downloads] == sorted(done for _, done, _ in downloads)
    assert downloads[-1][1:] == (len(UNET_BYTES), len(UNET_BYTES))
    assert {what.split()[0] for what, _, _ in events} == {"downloading", "converting"}
    assert not list((here / "cache/parts").glob("*.part"))  # what was converted is not kept twice
    assert not (here / "hub").exists()

    requests = len(server.requests)
    second = store.load("places2", progress=lambda *_: pytest.fail("there was something to do"))
    assert len(server.requests) == requests
    assert same(second.unet, dict(first.unet))
    assert second.commit == COMMIT


def test_the_vae_is_shared(server: HubServer) -> None:
    server.files["hustvl/Moebius", "ft_ffhq/diffusion_pytorch_model.bin"] = UNET_BYTES
    store.load("places2")
    transfers = len(server.transfers)
    store.load("ffhq")  # even the UNet: in this test it is the same file
    assert len(server.transfers) == transfers


def test_offline_from_the_cache(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store.load("places2")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert same(store.load("places2").unet, bfloat16(UNET_WEIGHTS))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert same(store.load("places2").unet, bfloat16(UNET_WEIGHTS))
    assert [item.state for item in store.download("places2")] == ["ready", "ready"]


def test_revision(server: HubServer) -> None:
    store.load("places2", revision=COMMIT)
    assert any(COMMIT in r.path for r in server.requests)
    assert [i.file.revision for i in store.download("places2", revision=COMMIT, dry_run=True)] == [COMMIT, "main"]


def test_a_vae_from_elsewhere(server: HubServer, here: Path) -> None:
    (here / "vae.bin").write_bytes(torch_file(VAE_WEIGHTS))
    assert same(store.load("places2", vae=here / "vae.bin").vae, VAE_WEIGHTS)
    assert not any("PixelHacker" in r.path for r in server.requests)


def test_a_token_is_sent_to_the_hub_alone(server: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    server.token = "hf_secret"
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    store.load("places2")  # the server notes a token that comes to the other host
    assert any(r.token for r in server.requests)


def test_what_the_hub_s_own_cache_has_is_used(server: HubServer, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for repo, file in PUBLISHED:
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(here / "hub"))
        huggingface_hub.hf_hub_download(repo, file, endpoint=server.url)
    transfers = len(server.transfers)
    assert [(i.state, i.size) for i in store.download("places2", dry_run=True)] == [("cached", len(UNET_BYTES)), ("cached", len(VAE_BYTES))]
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert [(i.state, i.commit) for i in store.download("places2", dry_run=True)] == [("cached", COMMIT)] * 2
    loaded = store.load("places2")
    assert same(loaded.unet, bfloat16(UNET_WEIGHTS))
    assert loaded.commit == COMMIT
    assert loaded.vae_config.scaling_factor == 0.25
    assert len(server.transfers) == transfers
    assert all(Path(path).exists() for path in (here / "hub").rglob("*.bin"))  # it is not ours to remove


def test_dry_run_and_download(server: HubServer, here: Path) -> None:
    planned = store.download("places2", dry_run=True)
    assert [(i.file.repo, i.file.file, i.state, i.size, i.have, i.commit) for i in planned] == [
        (*UNET_FILE, "missing", len(UNET_BYTES), 0, COMMIT),
        (*VAE_FILE, "missing", len(VAE_BYTES), 0, COMMIT),
    ]
    assert not server.transfers
    assert not list(here.glob("cache/*/*.safetensors"))
    assert [i.state for i in store.download("places2")] == ["ready", "ready"]
    assert [i.state for i in store.download("places2", dry_run=True)] == ["ready", "ready"]
    (listed, _) = sorted(cache_entries(), key=lambda e: e.path.name)
    assert listed.sources == ("hustvl/Moebius/ft_places2/diffusion_pytorch_model.bin at main",)
    with pytest.raises(UsageError, match="no published model"):
        store.download("plces2")


def test_download_follows_a_branch_that_moved(server: HubServer) -> None:
    store.download("places2")
    new = {k: a + np.float32(1) for k, a in UNET_WEIGHTS.items()}
    server.files[UNET_FILE] = torch_file(new, "BF16")
    server.commit = "f" * 40
    assert same(store.load("places2").unet, bfloat16(UNET_WEIGHTS))  # load asks nobody
    assert [i.state for i in store.download("places2", dry_run=True)] == ["missing", "missing"]
    assert [(i.state, i.commit) for i in store.download("places2")] == [("ready", "f" * 40)] * 2
    assert same(store.load("places2").unet, bfloat16(new))
    assert len([r for r in server.transfers if "/cdn/" in r.path]) == 3  # the VAE did not change


def test_without_a_cache_the_download_is_kept(server: HubServer, here: Path) -> None:
    for _ in range(2):
        assert same(store.load("places2", cache=False).unet, bfloat16(UNET_WEIGHTS))
    assert len([r for r in server.transfers if "/cdn/" in r.path]) == 2
    assert not (here / "cache/weights").exists()


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


# From outside --------------------------------------------------------------------------------------------------------

RUN = """
import json, sys
from moebius.weights import store
events = []
loaded = store.load("places2", progress=lambda *event: events.append(event))
total = {name: float(abs(a).sum(dtype="float64")) for name, a in loaded.unet.items()}
print(json.dumps({"events": len(events), "commit": loaded.commit, "sum": sum(total.values()), "hub": "huggingface_hub" in sys.modules}))
"""


def environment(server: HubServer, home: Path, **more: str) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "MOEBIUS"))}
    return {**kept, "HF_ENDPOINT": server.url, "HF_HOME": str(home / "home"), **more}


def test_by_environment_alone(server: HubServer, here: Path) -> None:
    """HF_HOME, HF_ENDPOINT, HF_TOKEN and HF_HUB_OFFLINE, as a user sets them: a first run, and one without a network."""
    server.token = "hf_secret"

    def run(**more: str) -> dict[str, Any]:
        done = subprocess.run([sys.executable, "-c", RUN], env=environment(server, here, **more), capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert not done.stderr
        result: dict[str, Any] = json.loads(done.stdout)
        return result

    first = run(HF_TOKEN="hf_secret")
    assert first["events"] > 1
    assert first["commit"] == COMMIT
    assert len(list((here / "home/moebius/weights").iterdir())) == 2
    requests = len(server.requests)
    second = run(HF_HUB_OFFLINE="1")
    assert len(server.requests) == requests
    assert second == {**first, "events": 0, "hub": False}  # the library is not even imported


def test_the_server_speaks_the_library_s_language(server: HubServer, here: Path) -> None:
    """So that what is tested above is what the library asks the real Hub."""
    planned = huggingface_hub.snapshot_download(UNET_FILE[0], endpoint=server.url, cache_dir=here / "x", dry_run=True)
    assert [(f.filename, f.file_size, f.commit_hash) for f in planned] == [(UNET_FILE[1], len(UNET_BYTES), COMMIT)]
    path = huggingface_hub.snapshot_download(VAE_FILE[0], endpoint=server.url, cache_dir=here / "x")
    assert (Path(path) / VAE_FILE[1]).read_bytes() == VAE_BYTES
    assert CODER.factor == 2


def saved_vae(folder: Path) -> Path:
    (folder / "vae.bin").write_bytes(torch_file(VAE_WEIGHTS))
    return folder / "vae.bin"
