"""The page's editor in a browser, opened anew for every test. A plugin of those that ask it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from chromium import Address, Browser, Page, served
from hand import Hand
from web_editor_cases import opened_page

from moebius.web.export import write_site


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Address]:
    folder = tmp_path_factory.mktemp("editor")
    write_site(folder)
    shutil.copy(Path(__file__).with_name("engine_stub.js"), folder / "engine_webgpu.js")
    with served(folder) as address:
        yield address


@pytest.fixture
def page(chromium: Browser, site: Address) -> Iterator[Page]:
    opened = opened_page(chromium, site)
    yield opened
    opened.run("moebius.editor.history.keptSaved()")  # or leaving would ask
    opened.close()


@pytest.fixture
def hand(page: Page) -> Hand:
    return Hand(page)
