"""The Hub, for real, on loopback: what is asked, what is kept, and that it is what the library asks."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pytest
from hub_cases import PUBLISHED, UNET_BYTES, UNET_FILE, VAE_BYTES, VAE_FILE, environment
from hub_fixtures import here, server  # noqa: F401
from hub_server import COMMIT, HubServer
from huggingface_hub import constants
from torch_files import torch_file
from weights_cases import CODER, UNET, UNET_WEIGHTS, VAE_WEIGHTS, bfloat16, same

from moebius.errors import UsageError
from moebius.weights import store
from moebius.weights.cache import cache_entries

# ruff: noqa: F811 (fixtures)


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
    kept = list((here / "hub").rglob("*.bin"))  # they are not ours to remove
    assert len(kept) == 2
    assert all(path.exists() for path in kept)


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


# From outside --------------------------------------------------------------------------------------------------------
RUN = """
import json, sys
from moebius.weights import store
events = []
loaded = store.load("places2", progress=lambda *event: events.append(event))
total = {name: float(abs(a).sum(dtype="float64")) for name, a in loaded.unet.items()}
print(json.dumps({"events": len(events), "commit": loaded.commit, "sum": sum(total.values()), "hub": "huggingface_hub" in sys.modules}))
"""


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
