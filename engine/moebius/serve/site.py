"""The page of `web/site/`, read into memory at the start: no request ever opens a file. And the page of the API, made of its schema."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from pathlib import PurePath
from typing import Any

TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".json": "application/json",
    ".webmanifest": "application/manifest+json",
    ".svg": "image/svg+xml",
    ".png": "image/png",
}
ENGINE = "engine.json"
STYLE = """body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color-scheme: light dark; }
code { font-family: ui-monospace, monospace; } h2 { margin-top: 2rem; font-size: 1.1rem; } td { padding: 0 1rem 0 0; vertical-align: top; }
"""


@dataclass(frozen=True)
class File:
    data: bytes
    type: str

    @property
    def tag(self) -> str:
        return f'"{hashlib.sha256(self.data).hexdigest()[:32]}"'


def site(token: bool) -> dict[str, File]:
    """All that is served beside the API, by its path."""
    found = {
        f"/{item.name}": File(item.read_bytes(), TYPES.get(PurePath(item.name).suffix, "application/octet-stream"))
        for item in files("moebius.web").joinpath("site").iterdir()
        if item.is_file() and not item.name.startswith(".")
    }
    engine = json.dumps({"engine": "server", "api": "api/v1", "token": token})
    return found | {
        "/": found["/index.html"],
        f"/{ENGINE}": File(engine.encode(), TYPES[".json"]),
        "/docs.css": File(STYLE.encode(), TYPES[".css"]),
    }


def reference(schema: dict[str, Any]) -> File:
    """The schema for people: each request, its fields, its answers."""
    title = escape(schema["info"]["title"])
    parts = [
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{title}</title><link rel=stylesheet href=docs.css>",
        f"<h1>{title}</h1><p>As a schema: <a href=openapi.json>openapi.json</a></p>",
    ]
    for path, methods in schema["paths"].items():
        for method, about in methods.items():
            form = about.get("requestBody", {}).get("content", {}).get("multipart/form-data", {})
            lines = [(name, what["description"]) for name, what in form.get("schema", {}).get("properties", {}).items()]
            lines += [(given["name"], "") for given in about.get("parameters", ())]
            lines += [(status, answer["description"]) for status, answer in about["responses"].items()]
            rows = "".join(f"<tr><td><code>{escape(name)}</code></td><td>{escape(what)}</td></tr>" for name, what in lines)
            parts.append(f"<h2><code>{method.upper()} {escape(path)}</code></h2><p>{escape(about['description'])}</p><table>{rows}</table>")
    return File("".join(parts).encode(), TYPES[".html"])
