"""A Hub on loopback. Who imports `here` asks it in every test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hub_cases import PUBLISHED
from hub_server import HubServer
from huggingface_hub import constants

from moebius.weights import hub


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
