"""A Hub on loopback, with the paths, headers and error codes that huggingface_hub asks for, and the faults that a test asks for.

    with HubServer({("hustvl/Moebius", "ft_places2/diffusion_pytorch_model.bin"): data}) as hub:
        os.environ["HF_ENDPOINT"] = hub.url

Large files are redirected to "localhost", another host than 127.0.0.1 to a client, as the real Hub redirects to a content network:
there, a token must not be sent.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from contextlib import suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote

COMMIT = "0123456789abcdef0123456789abcdef01234567"
COMMIT_HEADER = "X-Repo-Commit"
LARGE = 1024  # bytes: from here on a file is kept apart, and its etag is its SHA-256


@dataclass
class Request:
    method: str
    path: str
    range: str | None
    token: str | None


class HubServer:
    """`files` are {(repository, path): bytes}, all of one commit, named by it and by "main".

    token: who does not send it gets 401. gated: everyone gets 403. cuts: how many bytes each of the next transfers brings before the
    connection is closed. status: answered to everything. no_range: whole files only. lie: bytes other than the checksums say; lie_small: of
    small files. surplus: bytes sent beyond a large file's end, in chunks without a length. shift: bytes by which an answer begins too late.
    """

    def __init__(self, files: dict[tuple[str, str], bytes]) -> None:
        self.files = files
        self.commit = COMMIT
        self.token: str | None = None
        self.gated = False
        self.cuts: list[int] = []
        self.status: int | None = None
        self.no_range = False
        self.lie = self.lie_small = False
        self.surplus = self.shift = self.sent = 0
        self.requests: list[Request] = []
        self.problems: list[str] = []

    def __enter__(self) -> HubServer:
        hub = self

        class Handler(Answer):
            server_state = hub

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.port = self.server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()
        assert not self.problems, self.problems

    @property
    def transfers(self) -> list[Request]:
        """What was asked for with its content."""
        return [r for r in self.requests if r.method == "GET" and "/api/" not in r.path]


class Answer(BaseHTTPRequestHandler):
    server_state: HubServer
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.answer()

    def answer(self) -> None:
        hub, path, token = self.server_state, unquote(self.path.partition("?")[0]), self.headers.get("authorization")
        hub.requests.append(Request(self.command, path, self.headers.get("range"), token))
        if hub.status:
            return self.error(hub.status)
        if match := re.fullmatch(r"/cdn/([0-9a-f]{64})", path):
            if token:
                hub.problems.append(f"{path} was sent a token")
            data = next(d for d in hub.files.values() if hashlib.sha256(d).hexdigest() == match[1])
            return self.content(data, {"ETag": f'"{match[1][:32]}"'})
        if hub.token and token != f"Bearer {hub.token}":
            message = "Invalid credentials in Authorization header" if token else "Invalid username or password."
            return self.error(401, None if token else "RepoNotFound", message)
        if hub.gated:
            return self.error(403, "GatedRepo", "Access to this model is restricted.")
        if match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            return self.resolve(*match.groups())
        if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/(revision|tree)/([^/]+))?", path):
            return self.api(match[1], match[2] or "revision", match[3] or "main")
        return self.error(404)

    def knows(self, repo: str, revision: str) -> bool:
        if not any(r == repo for r, _ in self.server_state.files):
            self.error(401, "RepoNotFound", "Invalid username or password.")  # so the real one answers, not to tell what is private
        elif revision not in ("main", self.server_state.commit):
            self.error(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        else:
            return True
        return False

    def resolve(self, repo: str, revision: str, file: str) -> None:
        if not self.knows(repo, revision):
            return
        data = self.server_state.files.get((repo, file))
        if data is None:
            return self.error(404, "EntryNotFound", "Entry not found")
        headers = {COMMIT_HEADER: self.server_state.commit}
        if len(data) < LARGE:
            return self.content(data, {**headers, "ETag": f'"{blob_id(data)}"'})
        sha = hashlib.sha256(data).hexdigest()
        self.send_response(302)
        linked = {"X-Linked-Etag": f'"{sha}"', "X-Linked-Size": str(len(data))}
        location = f"http://localhost:{self.server_state.port}/cdn/{sha}"
        self.headers_of({**headers, **linked, "ETag": '"of-the-pointer"', "Location": location, "Content-Length": "0"})

    def api(self, repo: str, what: str, revision: str) -> None:
        if not self.knows(repo, revision):
            return
        entries = []
        for (r, file), data in self.server_state.files.items():
            if r == repo:
                entry: dict[str, Any] = {"type": "file", "path": file, "size": len(data), "oid": blob_id(data)}
                if len(data) >= LARGE:
                    entry["lfs"] = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 134}
                entries.append(entry)
        info = {
            "_id": "0",
            "id": repo,
            "modelId": repo,
            "sha": self.server_state.commit,
            "private": False,
            "tags": [],
            "downloads": 0,
            "likes": 0,
        }
        body = json.dumps(entries if what == "tree" else {**info, "siblings": [{"rfilename": e["path"]} for e in entries]}).encode()
        self.content(body, {"Content-Type": "application/json"})

    def content(self, data: bytes, headers: dict[str, str]) -> None:
        hub, start, total = self.server_state, 0, len(data)
        if hub.lie or (hub.lie_small and total < LARGE):
            data = bytes(total)
        wanted_range = re.fullmatch(r"bytes=(\d+)-", self.headers.get("range") or "")
        if wanted_range and not hub.no_range:
            start = int(wanted_range[1]) + hub.shift
            self.send_response(206)
            headers = {**headers, "Content-Range": f"bytes {start}-{total - 1}/{total}"}
        else:
            self.send_response(200)
        body = data[start:]
        if hub.surplus and total >= LARGE and self.command == "GET":
            return self.chunks(body, headers)
        self.headers_of({**headers, "Content-Length": str(total - start), "Accept-Ranges": "bytes"})
        if self.command == "HEAD":
            return
        if hub.cuts and total >= LARGE:
            body = body[: hub.cuts.pop(0)]
            self.close_connection = True
        with suppress(ConnectionError):  # the other side may have heard enough
            self.wfile.write(body)

    def chunks(self, body: bytes, headers: dict[str, str]) -> None:
        """More than was announced, for as long as the other side listens."""
        hub = self.server_state
        self.headers_of({**headers, "Transfer-Encoding": "chunked"})
        self.close_connection = True
        piece = bytes(1 << 20)
        try:
            for data in (body, *[piece] * (hub.surplus // len(piece))):
                self.wfile.write(b"%x\r\n%b\r\n" % (len(data), data))
                hub.sent += len(data)
        except OSError:
            pass

    def error(self, status: int, code: str | None = None, message: str = "") -> None:
        self.send_response(status)
        headers = {"Content-Length": "0"}
        if code:
            headers["X-Error-Code"] = code
        if message:
            headers["X-Error-Message"] = message
        self.headers_of(headers)

    def headers_of(self, headers: dict[str, str]) -> None:
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()


def blob_id(data: bytes) -> str:
    """What git calls a file's content."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
