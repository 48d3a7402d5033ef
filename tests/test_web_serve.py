"""The server of an exported page: only what lies in the folder, and only so many threads."""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path

import pytest

from moebius.web import serve as serving
from moebius.web.serve import LOOPBACK, Handler, Server


@pytest.fixture
def page(tmp_path: Path) -> Path:
    folder = tmp_path / "page"
    (folder / "sub").mkdir(parents=True)
    (folder / "index.html").write_text("index")
    (folder / "a b.js").write_text("script")
    (tmp_path / "secret.txt").write_text("secret")
    (folder / "sub/file.txt").write_text("secret")
    return folder


@pytest.fixture
def server(page: Path) -> Iterator[Server]:
    with serving.opened(page, 0) as started:
        thread = threading.Thread(target=started.serve_forever, args=(0.01,))
        thread.start()
        yield started
        started.shutdown()
        thread.join()


def get(server: Server, address: str) -> tuple[int, bytes]:
    connection = HTTPConnection(LOOPBACK, server.server_port, timeout=120)
    connection.request("GET", address)
    answer = connection.getresponse()
    return answer.status, answer.read()


def test_files_of_the_folder_are_served(server: Server) -> None:
    assert get(server, "/") == get(server, "/index.html?x=1") == (200, b"index")
    assert get(server, "/a%20b.js") == (200, b"script")


def test_headers_of_every_answer(server: Server) -> None:
    for address, status in (("/", 200), ("/nothing", 404)):
        connection = HTTPConnection(LOOPBACK, server.server_port, timeout=120)
        connection.request("GET", address)
        answer = connection.getresponse()
        assert answer.status == status
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert "frame-ancestors 'none'" in answer.headers["Content-Security-Policy"]
        assert answer.headers["Cache-Control"] == "no-cache"


@pytest.mark.skipif(sys.platform == "win32", reason="links need a right there")
def test_nothing_else_is(server: Server, page: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (page / "out.txt").symlink_to("../secret.txt")
    (page / "far.txt").symlink_to(page.parent / "secret.txt")
    (page / "folder").symlink_to("..")
    (page / "loop").symlink_to("loop")
    (page / "inside.js").symlink_to("a b.js")
    os.mkfifo(page / "pipe")
    assert get(server, "/inside.js") == (200, b"script")
    for address in ("/out.txt", "/far.txt", "/folder/secret.txt", "/folder", "/loop", "/pipe", "/../secret.txt", "/%2e%2e/secret.txt"):
        assert get(server, address)[0] == 404, address
    for address in ("/sub", "/sub/", "/sub/file.txt", "/%00", "/" + "x" * 5000, "/%ff%0a", "//etc/passwd"):
        assert get(server, address)[0] == 404, address
    (page / "index.html").unlink()
    for name in ("index.html", "index.htm"):
        (page / name).symlink_to(page.parent / "secret.txt")
        assert get(server, "/")[0] == 404
    assert "Traceback" not in capfd.readouterr().err


def test_threads_are_bounded_and_silent_browsers_go(page: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(serving, "MOST_AT_ONCE", 3)
    monkeypatch.setattr(Handler, "timeout", 0.4)
    with serving.opened(page, 0) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        before = threading.active_count()
        thread.start()
        silent = [socket.create_connection((LOOPBACK, server.server_port)) for _ in range(6)]
        most, looks, end = 0, 0, time.monotonic() + 120
        while looks < 20 and time.monotonic() < end:  # 20 of them once as many are there as may be
            most = max(most, threading.active_count() - before - 1)
            looks += most >= 3
            time.sleep(0.01)
        assert most == 3, "each has a thread, and no more have"
        assert get(server, "/index.html") == (200, b"index"), "after those before it were sent away"
        for connection in silent:
            connection.close()
        server.shutdown()
        thread.join()
    assert "Traceback" not in capfd.readouterr().err
