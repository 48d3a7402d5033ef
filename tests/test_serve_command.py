"""Who may ask the server, its page, its command and its end."""

from __future__ import annotations

import errno
import io
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
from chromium import Browser, Page
from hand import Hand
from javascript import fetched
from PIL import Image
from serve_cases import FILES, MASK, PHOTO, TOKEN, Client, ask, form, held, serving, until

from moebius import sample
from moebius.cli.main import run as command
from moebius.errors import UsageError
from moebius.inpaint.inpainter import Inpainter
from moebius.serve import listen, service
from moebius.serve.guard import Rules, rules

pytest_plugins = ("serve_fixtures",)


# who may ask ---------------------------------------------------------------------------------------------------------
def test_hosts_and_origins(client: Client) -> None:
    own = f"127.0.0.1:{client.port}"
    for host, status in (
        ("evil.example", 403),
        ("127.0.0.1.evil.example", 403),
        ("10.0.0.1", 403),
        ("localhost:1", 200),
        ("proxy.example", 200),
    ):
        assert client.ask("GET", "/health", Host=host)[0] == status, host
    for origin, status in (("http://evil.example", 403), ("null", 403), (f"http://{own}", 200), ("http://localhost:1", 403)):
        assert client.post(**FILES, steps=1, strength=1, headers={"Origin": origin})[0] == status, origin
    assert client.ask("GET", "/api/v1/model", Sec_Fetch_Site="cross-site")[0] == 403
    status, headers, _ = client.ask("GET", "/api/v1/model", Origin="http://friend.example", Sec_Fetch_Site="cross-site")
    assert (status, headers["access-control-allow-origin"], headers["vary"]) == (200, "http://friend.example", "Origin")
    assert client.ask("OPTIONS", "/api/v1/inpaint", Origin="http://friend.example")[0] == 204
    assert "access-control-allow-origin" not in client.ask("GET", "/api/v1/model")[1]


def test_the_token(model: Inpainter) -> None:
    with pytest.raises(UsageError):
        rules("127.0.0.1", "short")
    assert rules("127.0.0.1", None).token is None
    assert len(rules("0.0.0.0", None).token or "") >= 32
    with serving(model, token=TOKEN, host="0.0.0.0") as client, listen.opened("127.0.0.1", 0) as listener:
        assert listen.address(rules("127.0.0.1", TOKEN), listener) == f"http://127.0.0.1:{listener.getsockname()[1]}/#token={TOKEN}"
        for path in ("/api/v1/model", "/api/v1/jobs/x", "/api/v1/jobs/x/result"):
            assert client.ask("GET", path)[0] == 401
            assert client.ask("GET", path, Authorization="Bearer wrong")[0] == 401
            assert client.ask("GET", path, Authorization=f"Bearer {TOKEN}")[0] in (200, 404)
        assert client.post(**FILES)[0] == 401
        assert client.ask("GET", "/health")[0] == client.ask("GET", "/api/v1/health")[0] == client.ask("GET", "/")[0] == 200
        assert json.loads(client.ask("GET", "/engine.json")[2])["token"] is True
        assert client.ask("GET", "/health", Host="rebound.example")[0] == 403
        assert client.ask("GET", "/health", Host="192.168.3.4:8080")[0] == 200


# the page ------------------------------------------------------------------------------------------------------------
def test_the_page_and_the_reference(client: Client) -> None:
    status, headers, _body = client.ask("GET", "/")
    assert (status, headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert "script-src 'self';" in headers["content-security-policy"]
    assert client.ask("GET", "/page.js")[1]["content-type"].startswith("text/javascript")
    assert client.ask("GET", "/page.js", If_None_Match=client.ask("GET", "/page.js")[1]["etag"])[0] == 304
    assert json.loads(client.ask("GET", "/engine.json")[2]) == {"engine": "server", "api": "api/v1", "token": False}
    for path in ("/../pyproject.toml", "/%2e%2e/serve/app.py", "/page.js/..", "//etc/passwd", "/nothing", "/__init__.py"):
        assert client.ask("GET", path)[0] == 404, path
    docs = client.ask("GET", "/docs")[2].decode()
    schema = json.loads(client.ask("GET", "/openapi.json")[2])
    assert {"/api/v1/inpaint", "/api/v1/jobs", "/api/v1/jobs/{job_id}/events", "/api/v1/model", "/health"} <= schema["paths"].keys()
    assert all(path in docs for path in schema["paths"])
    assert "<script" not in docs
    assert "http:" not in docs + "https:" not in docs
    assert client.ask("DELETE", "/api/v1/inpaint")[0] == 405


def test_the_page_fills_a_picture(model: Inpainter, chromium: Browser, tmp_path: Path) -> None:
    """The page and the server as they are, the token between them."""
    for name, data in FILES.items():
        (tmp_path / f"{name}.png").write_bytes(data)
    with serving(model, token=TOKEN) as client:
        page = Page(chromium, f"http://127.0.0.1:{client.port}/#token={TOKEN}")
        page.wait("moebius.state !== 'loading'")
        assert page.run("[moebius.state, moebius.error ?? null, location.hash]") == ["ready", None, ""]
        hand = Hand(page)
        hand.choose("#open", tmp_path / "image.png")
        page.wait("moebius.editor.picture?.width === 60")
        hand.choose("#open-mask", tmp_path / "mask.png")
        page.wait("moebius.editor.marks.length")
        page.run("document.getElementById('run').click()")
        page.wait("moebius.result || moebius.error")
        assert page.run("moebius.error ?? null") is None
        script = "return (await import('./bitmaps.js')).pictureOf(moebius.editor.picture).data;"
        filled = fetched(page, script).reshape(PHOTO.shape)
        assert (filled != PHOTO).any(axis=2)[MASK].mean() > 0.9
        answer = client.post(**FILES, headers={"Authorization": f"Bearer {TOKEN}"})[2]
        assert np.array_equal(filled, np.asarray(Image.open(io.BytesIO(answer))))
        assert page.log == []  # no policy was in the way
        page.run("moebius.editor.history.keptSaved()")
        page.close()


# its end -------------------------------------------------------------------------------------------------------------
def test_a_signal_finishes_what_runs_and_answers_the_rest(model: Inpainter, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(model) as client, ThreadPoolExecutor(4) as pool:
        with held(monkeypatch) as go:
            running = json.loads(client.post("/api/v1/jobs", **FILES, steps=2)[2])["id"]
            until(lambda: client.service.queue.running)
            listening = pool.submit(client.events, running)
            waiting = [pool.submit(client.post, **FILES) for _ in range(2)]
            until(lambda: client.service.queue.waiting == 2)
            client.server.stop()
            assert [answer.result()[0] for answer in waiting] == [503, 503]
            assert client.ask("GET", "/health")[0] == client.post(**FILES)[0] == 503
            go.set()
        assert listening.result()[-1][0] == "done"
        assert client.ask("GET", f"/api/v1/jobs/{running}/result")[0] == 200
        until(lambda: not client.server.started or client.server.should_exit or not client.service.worker.is_alive())


# the command ---------------------------------------------------------------------------------------------------------
@pytest.mark.skipif(sys.platform == "win32", reason="has no SIGTERM")
def test_the_command(tmp_path: Path) -> None:
    """Serves nano to the example's client of ten lines; SIGTERM ends it well, and what runs then is answered. It writes nothing."""
    script = Path(__file__).parents[1] / "examples/client.py"
    lines = script.read_text(encoding="utf-8").partition('"""\n\n')[2].splitlines()
    assert len([line for line in lines if line and not line.startswith(("import", "from"))]) <= 10
    folder = tmp_path / "server"
    folder.mkdir()
    arguments = ["serve", "--port", "0", "--device", "cpu", "--threads", "1"]
    env = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "MOEBIUS_CACHE": str(folder / "cache"), "TMPDIR": str(folder), "no_proxy": "*"}
    process = subprocess.Popen([sys.executable, "-m", "moebius", *arguments], cwd=folder, env=env, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        line = next(line for line in process.stderr if "http://" in line)
        url = line.partition("Serving at ")[2].partition("/ ")[0]
        client = [sys.executable, str(script), str(sample.photo()), str(sample.mask()), str(tmp_path / "out.png"), url]
        assert "seed 0" in subprocess.run(client, env=env, capture_output=True, text=True, check=True).stdout
        assert Image.open(tmp_path / "out.png").size == (320, 214)
        port = int(url.rpartition(":")[2])
        body, kind = form({"image": sample.photo().read_bytes(), "mask": sample.mask().read_bytes(), "steps": 12})
        with ThreadPoolExecutor(1) as pool:
            running = pool.submit(ask, port, "POST", "/api/v1/inpaint", body, Content_Type=kind)
            until(lambda: running.done() or json.loads(ask(port, "GET", "/api/v1/model")[2])["queue"]["running"])
            process.send_signal(signal.SIGTERM)
            assert running.result()[0] == 200
        assert process.wait(120) == 0
    finally:
        process.kill()
    assert not list(folder.rglob("*"))


def test_a_token_that_was_given_is_not_printed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    shown: list[str] = []

    class Started:
        def __init__(self, service: service.Service, rules: Rules, started: Callable[[], None]) -> None:
            self.started = started

        def run(self, sockets: list[socket.socket]) -> None:
            self.started()

    monkeypatch.setattr(listen, "server", Started)
    monkeypatch.setattr("webbrowser.open", shown.append)
    arguments = ["serve", "--port", "0", "--device", "cpu", "--open"]
    assert command([*arguments, "--token", TOKEN]) == 0
    assert TOKEN not in "".join(capsys.readouterr())
    assert shown[0].endswith(f"/#token={TOKEN}")
    assert command([*arguments, "--host", "0.0.0.0", "--quiet"]) == 0
    assert shown[1] in "".join(capsys.readouterr())


def test_the_command_refuses_before_a_model_is_loaded(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert command(["serve", "--port", str(taken.getsockname()[1]), "--model", "nothing"]) == 1
        assert "[Errno" not in capsys.readouterr().err
    for name, fault in ((socket.gaierror(-2, "Name or service not known"), "not known"), (OSError(errno.EADDRNOTAVAIL, "x"), "(x)")):
        monkeypatch.setattr(socket, "getaddrinfo", Mock(side_effect=name))
        assert command(["serve", "--host", "nosuch", "--model", "nothing"]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert (fault in line, "--host" in line, "--port" in line) == (True, True, False), line
    monkeypatch.undo()
    assert command(["serve", "--token", "short"]) == 2
    assert command(["serve", "--allow-origin", "friend.example/path"]) == 2
    assert command(["serve", "--max-steps", "0"]) == 2
    monkeypatch.setattr("moebius.cli.serve.find_spec", lambda name: None)
    capsys.readouterr()
    assert command(["serve"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "moebius-webgpu[serve]" in line
