"""The page's modules outside a page: Node to run them, and arrays to and from a script, in Node or in a tab of `chromium`."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any, Protocol

import numpy as np

# A script a line in, {"value"} or {"error"} a line out. It lies beside the modules, so that a script's import('./…') finds them.
RUNNER = """
import { createInterface } from 'node:readline';
for await (const line of createInterface({ input: process.stdin })) {
  let answer;
  try {
    answer = { value: await (0, eval)(JSON.parse(line)) };
  } catch (error) {
    answer = { error: String(error?.stack ?? error) };
  }
  process.stdout.write(JSON.stringify(answer) + '\\n');
}
"""


class Scripts(Protocol):
    """What runs scripts: `Node`, or a `chromium.Page`."""

    def run(self, script: str) -> Any:
        """The value of an expression, or of what an async function's body returns where it holds `return`."""
        ...


class ScriptError(Exception):
    """What a script threw."""


def find_node() -> str | None:
    return shutil.which("node")


class Node:
    """Node in a folder that holds the page's modules."""

    def __init__(self, folder: Path) -> None:
        executable = find_node()
        assert executable, "Node is not installed."
        (folder / "package.json").write_text('{"type": "module"}')  # or .js would be CommonJS
        (folder / "runner.js").write_text(RUNNER)
        self.process = subprocess.Popen(
            [executable, "runner.js"], cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8"
        )

    def run(self, script: str) -> Any:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(f"(async () => {{ {script} }})()" if "return" in script else script) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise ScriptError(f"Node ended (exit {self.process.wait()}).")
        answer = json.loads(line)
        if "error" in answer:
            raise ScriptError(answer["error"])
        return answer.get("value")

    def close(self) -> None:
        self.process.communicate(timeout=120)


# arrays to and from a script -----------------------------------------------------------------------------------------
def floats(array: np.ndarray) -> str:
    """A JavaScript expression that makes the Float32Array."""
    return f"new Float32Array({_bytes(np.float32(array))}.buffer)"


def bytes_of(array: np.ndarray) -> str:
    return _bytes(np.uint8(array))


def picture_of(array: np.ndarray) -> str:
    return f"{{data: {bytes_of(array)}, width: {array.shape[1]}, height: {array.shape[0]}}}"


def _bytes(array: np.ndarray) -> str:
    return f"Uint8Array.from(atob('{base64.b64encode(array.tobytes()).decode()}'), c => c.charCodeAt(0))"


def fetched(scripts: Scripts, script: str) -> np.ndarray:
    """The bytes of what the script returns, a typed array."""
    back = "let s = ''; for (const b of new Uint8Array(a.buffer, a.byteOffset, a.byteLength)) s += String.fromCharCode(b); return btoa(s);"
    return np.frombuffer(base64.b64decode(scripts.run(f"const a = await (async () => {{ {script} }})(); {back}")), np.uint8)
