"""One window for all its tests, opened once. A plugin of the modules that need it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import CI
from PIL import Image
from view_harness import Screen, Session, missing
from view_screen import MODEL, PHOTO_SIZE, STEPS, gradient

from moebius.backends.webgpu import WebGPU


@pytest.fixture(scope="session")
def screen(llvmpipe: WebGPU) -> Iterator[Screen]:
    if absent := missing():
        give_up = pytest.fail if CI else pytest.skip
        give_up(f"{' and '.join(absent)} cannot be found. Run tools/test, which installs them.")
    made = Screen()
    yield made
    made.close()


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("view")
    Image.fromarray(gradient(*PHOTO_SIZE)).save(made / "photo.png")
    return made


@pytest.fixture(scope="session")
def shared(screen: Screen, folder: Path) -> Iterator[Session]:
    session = Session(screen, folder / "photo.png", *MODEL, "--steps", STEPS, cwd=folder)
    session.wait("state", lambda state: state["device"])
    yield session
    session.kill()


@pytest.fixture
def view(shared: Session, folder: Path) -> Iterator[Session]:
    """The window as it opens with the photo."""
    shared.ask(f"take_steps {STEPS}")
    shared.key("Escape")
    shared.drop(folder / "photo.png")
    yield shared
    assert "Traceback" not in shared.said()
