"""A model and a server of it, once for each module. A plugin of those that ask it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from serve_cases import Client, made, serving

from moebius.backends.cpu import CPU
from moebius.inpaint.inpainter import Inpainter


@pytest.fixture(scope="module")
def model() -> Inpainter:
    return made(CPU(threads=1))


@pytest.fixture(scope="module")
def client(model: Inpainter) -> Iterator[Client]:
    with serving(model) as started:
        yield started
