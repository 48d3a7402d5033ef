"""An export as files: plan.json says what there is, weights.bin holds the weights, and a file an edition what to run.

plan.json::

    {"format": 2, "binary": {"file", "size", "sha256", "piece": bytes, "pieces": [SHA-256 of so many bytes, …]},
     "weights": [{"at", "size"}, …]       buffers of the GPU whose content lies in weights.bin
     "arrays": {name: {"at", "type": "float32" | "uint8", "shape"}},
     "editions": [{"name", "file", "sha256", "size", …}, …]   the quickest first; the last is for every browser, and has the widest range
     …}                                   what `export` says about the model, the page's settings, its check, and "constants"

The file of an edition, gzipped to a tenth; "size" is the file's, "sha256" that of what is in it::

    {"modules": [WGSL text, …],
     "pipelines": [{"module", "entry", "access": ["read" | "read_write" | "uniform", …]}, …],
     "buffers": [bytes, …]                of its own, which begin as zeros
     "plans": {name: {"inputs": [TENSOR], "outputs": [TENSOR], "prologue": [DISPATCH], "steps": [DISPATCH], "taps": [TAP], …}}}

    TENSOR    {"buffer", "shape": [B, H, W, C]}, float32, channels padded to a multiple of four
    DISPATCH  {"pipeline", "grid": [x, y, z], "params": [word, …], "bind": [buffer, offset, size, …]}, in the order of the bindings
    TAP       {"path", "dispatch", "buffer", "type": "f32" | "f16" | "quad", "size", "at": [offset, …]}: right after that dispatch,
              samples of the module's output

A buffer is a number: from 0 on the edition's own, and -1 - i is the i-th of "weights".

A sampling plan also has "state" (the buffer of the step's number), "sinusoid" (TENSOR), "coefficients" (a buffer), "guidance"
([step, word]: where among the params), "carry": [from, to, bytes] after a step, and "rows", the most steps a run may have.
"""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from moebius.web.edition import ALIGN, Edition, Weights

FORMAT = 2
PLAN, WEIGHTS = "plan.json", "weights.bin"
Progress = Callable[[str, int, int | None], None]
PIECE = 1 << 22  # bytes of weights.bin that a browser checks at a time: few enough to hold, many enough to be quick


def edition_file(name: str) -> str:
    return f"plan-{name}.json.gz"


class Digests:
    """SHA-256 of all that comes, and of every PIECE bytes of it."""

    def __init__(self) -> None:
        self.whole, self._piece, self._filled = hashlib.sha256(), hashlib.sha256(), 0
        self._done: list[str] = []

    def update(self, data: bytes) -> None:
        self.whole.update(data)
        view = memoryview(data)
        while view:
            part = view[: PIECE - self._filled]
            self._piece.update(part)
            self._filled, view = self._filled + len(part), view[len(part) :]
            if self._filled == PIECE:
                self._done.append(self._piece.hexdigest())
                self._piece, self._filled = hashlib.sha256(), 0

    def about(self) -> dict[str, Any]:
        pieces = [*self._done, self._piece.hexdigest()] if self._filled else self._done
        return {"sha256": self.whole.hexdigest(), "piece": PIECE, "pieces": pieces}


class Bundle:
    """Collects editions and arrays, then writes the files."""

    def __init__(self) -> None:
        self.editions: dict[str, tuple[Edition, dict[str, Any]]] = {}
        self.arrays: dict[str, np.ndarray] = {}
        self.weights = Weights()

    def edition(self, name: str, **about: Any) -> Edition:
        """A new one, slower than those before. `about` is what plan.json says of it."""
        made = Edition(self.weights)
        self.editions[name] = made, about
        return made

    def write(self, folder: Path, about: dict[str, Any], progress: Progress | None = None) -> int:
        """All files; how many bytes they have."""
        editions, total = [], 0
        for name, (edition, said) in self.editions.items():
            text, file = _json(edition.data()), edition_file(name)
            size = (folder / file).write_bytes(gzip.compress(text, mtime=0))
            total += size
            digest = hashlib.sha256(text).hexdigest()
            editions.append({"name": name, "file": file, "sha256": digest, "size": size, **said})
        binary, weights, arrays = self._binary(folder / WEIGHTS, progress)
        plan = {"format": FORMAT, **about, "binary": binary, "weights": weights, "arrays": arrays, "editions": editions}
        return total + int(binary["size"]) + (folder / PLAN).write_bytes(_json(plan))

    def _binary(self, path: Path, progress: Progress | None) -> tuple[dict[str, Any], list[Any], dict[str, Any]]:
        """weights.bin, and what lies where in it."""
        digests, at = Digests(), 0
        total = sum(self.weights.sizes) + sum(-(-a.nbytes // ALIGN) * ALIGN for a in self.arrays.values())
        with path.open("wb") as file:

            def put(data: bytes) -> int:
                nonlocal at
                begin = at
                for part in (data, bytes(-len(data) % ALIGN)):
                    file.write(part)
                    digests.update(part)
                    at += len(part)
                if progress is not None:
                    progress(f"Writing {WEIGHTS}", at, total)
                return begin

            arrays, begins = {}, dict[int, int]()
            for name, array in self.arrays.items():
                little = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
                arrays[name] = {"at": put(little.tobytes()), "type": array.dtype.name, "shape": list(array.shape)}
            for buffer, segment, _ in self.weights.placed.values():  # the first of a segment at its beginning
                assert buffer.fill is not None
                data = np.ascontiguousarray(buffer.fill()).reshape(-1).view(np.uint8)
                begins.setdefault(segment, put(data.tobytes() + bytes(buffer.nbytes - data.nbytes)))
        weights = [{"at": begins[i], "size": size} for i, size in enumerate(self.weights.sizes)]
        return {"file": WEIGHTS, "size": at, **digests.about()}, weights, arrays


def _json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
