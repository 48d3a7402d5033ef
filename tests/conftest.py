"""The adapters the tests run on. Software drivers are enough, and `tools/test` installs them."""

from __future__ import annotations

import atexit
import logging
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import one_thread  # noqa: F401 # before NumPy
import pytest
from chromium import Browser, browser, find

from moebius.backends.webgpu import WebGPU, adapters
from moebius.backends.webgpu.device import rank
from moebius.errors import AdapterError
from moebius.model import checks

CI = os.environ.get("CI") == "true"
SLOW_TIMEOUT = 7200

# The Vulkan loader finds every installed driver but SwiftShader, which is a part of chromium or lies where tools/test put it.
# Set before the first adapter is asked for, and left alone where someone has chosen drivers.
SWIFTSHADER = [
    path
    for folder in (Path("/usr/lib/chromium"), Path(__file__).parents[1] / ".cache/swiftshader")
    if (path := folder / "vk_swiftshader_icd.json").exists()
]
if SWIFTSHADER and not {"VK_ICD_FILENAMES", "VK_DRIVER_FILES", "VK_ADD_DRIVER_FILES"} & os.environ.keys():
    os.environ["VK_ADD_DRIVER_FILES"] = str(SWIFTSHADER[0])

# A cache of the tests' own: nobody's files are touched, and an adapter that is opened by name is checked once.
os.environ["MOEBIUS_CACHE"] = tempfile.mkdtemp(prefix="moebius-tests-")
atexit.register(shutil.rmtree, os.environ["MOEBIUS_CACHE"], ignore_errors=True)
os.environ.setdefault("MOEBIUS_TUNE", "0")  # the kernels that a table names, not those that were a hair faster today

# Whoever starts the tests in the background may ignore these, and every process that a test starts and stops would inherit it.
for _name, _usual in (("SIGINT", signal.default_int_handler), ("SIGHUP", signal.SIG_DFL)):
    if (_number := getattr(signal, _name, None)) is not None and signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, _usual)

os.environ.setdefault("PYTHONFAULTHANDLER", "1")  # pytest has its own on; this is for the processes that tests start


@pytest.hookimpl(tryfirst=True)  # xdist reads the groups
def pytest_collection_modifyitems(items: Sequence[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker("slow") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(SLOW_TIMEOUT))
        item.add_marker(pytest.mark.xdist_group(together(item)))


def together(item: pytest.Item) -> str:
    """Tests with the same one run in one process: of a file, on a driver. So fixtures are made once; and there is one window."""
    call = getattr(item, "callspec", None)
    driver = next((call.params[name] for name in ("gpu", "of_any_limits") if name in call.params), "") if call else ""
    file = item.path.stem
    return "test_view" if file.startswith("test_view") else f"{file} {driver}".strip()


def hardware_index() -> str | None:
    """The best adapter that is not a software driver."""
    found = [(rank(a), str(i)) for i, a in enumerate(adapters()) if a.info["adapter_type"] != "CPU"]
    return min(found)[1] if found else None


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """`gpu` in turn is every software driver, there or not (a missing one must show), and a GPU where there is one. `of_any_limits` is the
    same for what no limit has a say in."""
    hardware = ["hardware"] * (hardware_index() is not None)
    for name, limited in (("gpu", ["minimum"]), ("of_any_limits", [])):
        if name in metafunc.fixturenames:
            metafunc.parametrize(name, ["llvmpipe", *limited, "swiftshader", "dawn", *hardware], indirect=True, scope="session")


@pytest.fixture(scope="session")
def gpu(request: pytest.FixtureRequest) -> WebGPU:
    opened: WebGPU = request.getfixturevalue(request.param)
    return opened


@pytest.fixture(scope="session")
def of_any_limits(request: pytest.FixtureRequest) -> WebGPU:
    opened: WebGPU = request.getfixturevalue(request.param)
    return opened


@pytest.fixture(scope="session")
def llvmpipe() -> WebGPU:
    return opened("llvmpipe")


@pytest.fixture(scope="session")
def swiftshader() -> WebGPU:
    return opened("SwiftShader")


@pytest.fixture(scope="session")
def dawn() -> WebGPU:
    return opened("dawn:SwiftShader")


@pytest.fixture(scope="session")
def minimum() -> WebGPU:
    """With the limits that every WebGPU has, and no more."""
    return opened("llvmpipe", limits="webgpu")


@pytest.fixture(scope="session")
def hardware() -> WebGPU:
    return WebGPU(hardware_index())


@pytest.fixture(scope="session")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    if find() is None:
        (pytest.fail if CI else pytest.skip)("Chromium is not installed; on Debian it is the package chromium.")
    with browser(tmp_path_factory.mktemp("profile")) as started:
        yield started


@pytest.fixture(autouse=True)
def words() -> Iterator[None]:
    """`--quiet` silences the package's logger for its process, which here is every other test's too."""
    logger = logging.getLogger("moebius")
    level = logger.level
    yield
    logger.setLevel(level)


@pytest.fixture
def untested_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights reach the kernels as they are. A backend refuses those that are not finite; where a kernel is what is tested, its weights are
    the way to have it make a NaN, as an overflow would."""
    monkeypatch.setattr(checks, "check_parameter", lambda array, name: None)


def opened(adapter: str, limits: str = "adapter") -> WebGPU:
    try:
        return WebGPU(adapter, limits=limits)
    except AdapterError as error:
        if not adapters():
            pytest.fail(f"There is no WebGPU adapter at all. Run tools/test, which installs software ones. ({error})")
        give_up = pytest.fail if CI else pytest.skip
        give_up(f"{adapter} cannot be opened. Run tools/test, which installs it. ({error})")
