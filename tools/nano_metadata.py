"""Rewrites the metadata of the packaged nano.safetensors and leaves its tensors alone, byte for byte.

python tools/nano_metadata.py '{"blend": "match"}'     # sets these fields of the bundle's entry; null takes one away
"""

from __future__ import annotations

import argparse
import json
from typing import Any

from moebius.weights.bundle import BUNDLE_KEY, read_bundle
from moebius.weights.formats import safetensors
from moebius.weights.nano import packaged_nano


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("fields", type=json.loads, help="a JSON object")
    rewrite(parser.parse_args().fields)
    print(f"{packaged_nano()}: {dict(read_bundle(packaged_nano()).digests)}")


def rewrite(fields: dict[str, Any]) -> None:
    """The digests are of configs and weights, so they must be the same afterwards."""
    path = packaged_nano()
    tensors, before = safetensors.read(path), dict(read_bundle(path).digests)
    entry = json.loads(tensors.metadata[BUNDLE_KEY]) | fields
    entry = {name: value for name, value in entry.items() if value is not None}
    in_order = {name: tensors[name] for name in sorted(tensors, key=lambda name: tensors.info[name].offset)}
    data = b"".join(array.tobytes() for array in in_order.values())
    safetensors.write(path, in_order, {**tensors.metadata, BUNDLE_KEY: json.dumps(entry)})
    written = safetensors.read(path)
    start = min(t.offset for t in written.info.values())
    if written.file[start:] != data or read_bundle(path).digests != before:
        raise SystemExit(f"{path} came out with other weights; restore it.")


if __name__ == "__main__":
    main()
