"""A server on a thread, a client of it, and a model as small as there can be: what the tests of the server share."""

from __future__ import annotations

import io
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPResponse
from typing import Any

import numpy as np
import pytest
from PIL import Image

from moebius.backends.cpu import CPU
from moebius.backends.webgpu import WebGPU
from moebius.inpaint.inpainter import Inpainter
from moebius.inpaint.run import Run
from moebius.model import unet, vae
from moebius.model.synthetic import synthetic
from moebius.model.unet import UNet, UNetConfig
from moebius.model.vae import VAE, VAEConfig

pytest.importorskip("fastapi")
from moebius.serve import listen, service
from moebius.serve.batching import Batching
from moebius.serve.guard import rules
from moebius.serve.limits import Limits

ALONE = Batching(1, "not here")
TOKEN = "a-token-of-some-length"
PHOTO = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
MASK = np.zeros((40, 60), bool)
MASK[10:30, 20:40] = True

UNET = UNetConfig(4, block_out_channels=(8,), heads=2, layers_per_block=1, cross_attention_dim=8, encoder_hid_dim=8, norm_num_groups=4)
VAE_CONFIG = VAEConfig((8, 8, 8, 8), layers_per_block=1, norm_num_groups=4)


def png(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(array).save(file, "PNG")
    return file.getvalue()


IMAGE, HOLE = png(PHOTO), png(MASK)
FILES = {"image": IMAGE, "mask": HOLE}


def made(ops: CPU | WebGPU) -> Inpainter:
    """Windows of 32 pixels, and as few channels and layers as there can be."""
    return Inpainter(UNet(UNET, synthetic(unet.shapes(UNET), 0), ops), VAE(VAE_CONFIG, synthetic(vae.shapes(VAE_CONFIG), 0), ops))


def ask(port: int, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of the answer."""
    connection = HTTPConnection("127.0.0.1", port, timeout=120)
    connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
    answer = connection.getresponse()
    data = answer.read()
    connection.close()
    return answer.status, {name.lower(): value for name, value in answer.getheaders()}, data


class Client:
    """A server on a thread, and requests to it."""

    def __init__(self, server: listen.Server, port: int) -> None:
        self.server, self.port = server, port
        self.service = server.service

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, dict[str, str], bytes]:
        return ask(self.port, method, path, body, **headers)

    def post(
        self, path: str = "/api/v1/inpaint", headers: dict[str, str] | None = None, **fields: Any
    ) -> tuple[int, dict[str, str], bytes]:
        body, kind = form(fields)
        return self.ask("POST", path, body, Content_Type=kind, **(headers or {}))

    def json(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        status, _, data = self.ask(method, path, None if body is None else json.dumps(body), Content_Type="application/json")
        return status, json.loads(data)

    def raw(self, data: bytes) -> socket.socket:
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=120)
        connection.sendall(data)
        return connection

    def events(self, job: str, preview: str = "none") -> list[tuple[str, dict[str, Any]]]:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=120)
        connection.request("GET", f"/api/v1/jobs/{job}/events?preview={preview}")
        return parsed(connection.getresponse())


def parsed(answer: HTTPResponse) -> list[tuple[str, dict[str, Any]]]:
    found = []
    for block in answer.read().decode().split("\n\n"):
        lines = [line for line in block.splitlines() if not line.startswith(":")]
        if lines:
            found.append((lines[0].removeprefix("event: "), json.loads(lines[1].removeprefix("data: "))))
    return found


def form(fields: dict[str, Any]) -> tuple[bytes, str]:
    parts = []
    for name, value in fields.items():
        file = '; filename="x"\r\nContent-Type: application/octet-stream' if isinstance(value, bytes) else ""
        data = value if isinstance(value, bytes) else str(value).encode()
        parts.append(f'--=x\r\nContent-Disposition: form-data; name="{name}"{file}\r\n\r\n'.encode() + data + b"\r\n")
    return b"".join(parts) + b"--=x--\r\n", 'multipart/form-data; boundary="=x"'


def head(body: bytes, kind: str, length: int | None = None, path: str = "/api/v1/inpaint") -> bytes:
    length = len(body) if length is None else length
    return f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n\r\n".encode()


def pixels(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)))


@contextmanager
def serving(
    model: Inpainter, batch: Batching | None = ALONE, token: str | None = None, host: str = "127.0.0.1", **limits: Any
) -> Iterator[Client]:
    ready = threading.Event()
    with listen.opened("127.0.0.1", 0) as listener:
        chosen = rules(host, token, ["proxy.example"], ["http://friend.example"])
        server = listen.server(service.Service(model, Limits(**limits), batch), chosen, ready.set)
        thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
        thread.start()
        assert ready.wait(120)
        try:
            yield Client(server, listener.getsockname()[1])
        finally:
            server.stop()
            server.stop()
            thread.join(120)
            assert not thread.is_alive(), "the server does not end"


@contextmanager
def held(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """The device does not begin with a run before this is set."""
    go, begin = threading.Event(), Run.begin

    def waiting(run: Run) -> None:
        assert go.wait(240)
        begin(run)

    monkeypatch.setattr(Run, "begin", waiting)
    try:
        yield go
    finally:
        go.set()


def until(true: Callable[[], Any]) -> Any:
    """Its value, as soon as it is one."""
    end = time.monotonic() + 120
    while not (value := true()):
        assert time.monotonic() < end, "it does not come"
        time.sleep(0.005)
    return value
