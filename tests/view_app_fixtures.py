"""The application with a photo open. A plugin of those that ask it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from view_app_cases import SIZE, Clock, Results, patient

from moebius.view.app import App
from moebius.view.errands import Errands


@pytest.fixture
def app(tmp_path: Path) -> Any:
    Image.new("RGB", SIZE, (90, 120, 150)).save(tmp_path / "photo.png")
    made = App(Results(), Errands(lambda: None), {}, 4096, Clock())  # type: ignore[arg-type]
    made.resize((800, 600), 1.0)
    made.open(tmp_path / "photo.png")
    assert made.opening == "photo.png"
    patient(made)
    yield made
    made.errands.close()
