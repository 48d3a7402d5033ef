"""The scripts of examples/, each run as a user runs it, in an empty folder."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from io import BytesIO
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from moebius import Inpainter, sample

EXAMPLES = Path(__file__).parents[1] / "examples"
LARGEST = 1e-5  # of any module of the small UNet against PyTorch; measured 5.3e-6


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "1")


def run(name: str, *arguments: str | Path, cwd: Path, code: int = 0) -> str:
    command = [sys.executable, str(EXAMPLES / name), *map(str, arguments)]
    done = subprocess.run(
        command, cwd=cwd, capture_output=True, text=True, encoding="utf-8", env={**os.environ, "PYTHONIOENCODING": "utf-8"}
    )
    assert done.returncode == code, f"{' '.join(command)}: exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout + done.stderr


def changed(path: Path) -> np.ndarray:
    """Where the picture differs from the packaged photo, as (H, W) bool."""
    got, photo = (np.asarray(Image.open(p).convert("RGB"), int) for p in (path, sample.photo()))
    return (got != photo).any(axis=2)


def hole() -> np.ndarray:
    return np.asarray(Image.open(sample.mask()).convert("L")) > 127


def test_every_script_has_a_test_and_a_line_in_the_readme() -> None:
    scripts = {path.name for path in EXAMPLES.glob("*.py")}
    assert scripts == set(re.findall(r'\b(?:run|serving|loaded)\("(\w+\.py)"', Path(__file__).read_text(encoding="utf-8"))) | {
        "server.py",
        "client.py",
    }  # which test_serve_command.py runs
    assert scripts == set(re.findall(r"\[(\w+\.py)\]", (EXAMPLES / "README.md").read_text(encoding="utf-8")))


def test_fill(tmp_path: Path) -> None:
    out = run("fill.py", cwd=tmp_path)
    assert "filled.png: 320×214, filled on " in out
    assert [p.name for p in tmp_path.iterdir()] == ["filled.png"]
    assert changed(tmp_path / "filled.png")[hole()].mean() > 0.9
    assert not changed(tmp_path / "filled.png")[~hole()].any()


def test_steps_are_watched(tmp_path: Path) -> None:
    out = run("steps.py", cwd=tmp_path)
    assert re.findall(r"step (\d+) of 11", out) == [str(i) for i in range(1, 12)]
    assert sorted(p.name for p in tmp_path.iterdir()) == [*(f"step-{i:02}.png" for i in range(11)), "steps.png"]


def test_steps_are_cancelled(tmp_path: Path) -> None:
    assert "cancelled: the time is up" in run("steps.py", "0", cwd=tmp_path, code=1)
    assert [p.name for p in tmp_path.iterdir()] == ["step-00.png"]


def test_folder(tmp_path: Path) -> None:
    photos, masks = tmp_path / "photos", tmp_path / "masks"
    photos.mkdir()
    masks.mkdir()
    for name in ("a", "b", "broken", "without"):
        Image.open(sample.photo()).save(photos / f"{name}.png")
        if name != "without":
            Image.open(sample.mask()).save(masks / f"{name}.png")
    (photos / "broken.png").write_bytes(b"no picture")
    out = run("folder.py", "photos/", "masks/", "filled/", cwd=tmp_path, code=1)
    assert sorted(p.name for p in (tmp_path / "filled").iterdir()) == ["a.png", "b.png"]
    assert out.count("windows") == 2
    assert "broken.png: " in out
    assert "without.png: there is no mask" in out


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """The server on a free port; its address."""
    command = [sys.executable, str(EXAMPLES / "server.py"), "0"]
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process.stdout.readline().strip()
        finally:
            process.terminate()


def post(url: str, **fields: bytes) -> tuple[int, bytes]:
    """A form as curl -F sends it: the status and the body of the answer."""
    parts = [
        f'--x\r\nContent-Disposition: form-data; name="{name}"\r\nContent-Type: application/octet-stream\r\n\r\n'.encode() + value
        for name, value in fields.items()
    ]
    request = urllib.request.Request(
        url, b"\r\n".join([*parts, b"--x--\r\n"]), {"Content-Type": "multipart/form-data; boundary=x"}, method="POST"
    )
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=120) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def test_server(tmp_path: Path) -> None:
    photo, mask = sample.photo().read_bytes(), sample.mask().read_bytes()
    with serving(tmp_path) as url:
        status, body = post(url, image=photo, mask=mask, steps=b"2")
        assert status == 200, body.decode()
        (tmp_path / "out.png").write_bytes(body)
        assert Image.open(BytesIO(body)).format == "PNG"
        assert changed(tmp_path / "out.png")[hole()].mean() > 0.9
        assert not changed(tmp_path / "out.png")[~hole()].any()
        assert post(url, mask=mask) == (400, b"Send a multipart form with image=@FILE and mask=@FILE.")
        assert post(url, image=photo, mask=mask, steps=b"0") == (400, b"steps is 0; it must be a whole number from 1 up.")
        assert post(url, image=photo, mask=mask, steps=b"many")[0] == 400
        assert post(url, image=b"no picture", mask=mask)[0] == 400
        assert post(url, image=photo)[0] == 400  # no mask, and no transparency to take one from
        Image.new("CMYK", (32, 32)).save(printed := BytesIO(), "JPEG")
        box = BytesIO()
        Image.fromarray(np.eye(32, dtype=bool)).save(box, "PNG")
        assert post(url, image=printed.getvalue(), mask=box.getvalue(), steps=b"2")[0] == 400  # a PNG has no such mode


def loaded(name: str) -> ModuleType:
    """An example that is a module; it computes on the CPU device."""
    assert len((EXAMPLES / name).read_text(encoding="utf-8").splitlines()) <= 60
    spec = spec_from_file_location(name.removesuffix(".py"), EXAMPLES / name)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def nano() -> Inpainter:
    return Inpainter.from_pretrained("nano", device="cpu")


def test_a_gradio_app(nano: Inpainter, monkeypatch: pytest.MonkeyPatch) -> None:
    example = loaded("gradio_app.py")
    monkeypatch.setattr(example, "inpainter", lambda model: nano)
    photo = np.asarray(Image.open(sample.photo()).convert("RGBA"))
    layer = np.dstack([np.zeros_like(photo[..., :3]), np.where(hole(), 255, 0).astype(np.uint8)])
    *previews, result = example.fill({"background": photo, "layers": [layer], "composite": photo}, 3, 2.5, 0)
    assert len(previews) == 2
    differs = (np.asarray(result) != photo[..., :3]).any(axis=2)
    assert differs[hole()].mean() > 0.9
    assert not differs[~hole()].any()
    if find_spec("gradio") is not None:
        assert len(example.app().fns) == 1


def test_a_comfyui_node(nano: Inpainter, monkeypatch: pytest.MonkeyPatch) -> None:
    example = loaded("comfyui_node.py")
    monkeypatch.setattr(example, "inpainter", lambda model: nano)
    node = example.NODE_CLASS_MAPPINGS["MoebiusInpaint"]
    names = list(node.INPUT_TYPES()["required"])
    assert names == ["image", "mask", "model", "steps", "guidance", "seed", "grow"]
    photo = np.asarray(Image.open(sample.photo()).convert("RGB"), np.float32)[None] / 255
    given = np.concatenate([photo, photo[:, ::-1]])
    (filled,) = getattr(node(), node.FUNCTION)(given, hole()[None].astype(np.float32), "nano", 2, 2.5, 0, 0)
    assert (filled.shape, filled.dtype) == (given.shape, np.float32)
    assert (filled != given)[0][hole()].any(axis=1).mean() > 0.9
    assert np.abs(filled - given)[:, ~hole()].max() == 0

    (same,) = node().fill(given, np.zeros((64, 64), np.float32), "nano", 2, 2.5, 0, 0)  # ComfyUI's mask of a picture without transparency
    assert np.array_equal(same, given)

    class Tensor(np.ndarray):
        """What a node needs of PyTorch's."""

        new_tensor = staticmethod(lambda array: array.view(Tensor))

    (tensor,) = node().fill(given[:1].view(Tensor), hole()[None].astype(np.float32), "nano", 2, 2.5, 0, 0)
    assert isinstance(tensor, Tensor)
    assert np.array_equal(tensor, filled[:1])


def test_tensors_against_pytorch(tmp_path: Path) -> None:
    if find_spec("torch") is None:
        assert "This example needs PyTorch: pip install torch" in run("tensors.py", cwd=tmp_path, code=1)
        pytest.skip("PyTorch is not installed")
    out = run("tensors.py", "cpu", cwd=tmp_path)
    count, error = re.findall(r"^(\d+) modules; the furthest apart is \S+, by (\S+)$", out, re.M)[0]
    assert int(count) > 600
    assert float(error) < LARGEST
