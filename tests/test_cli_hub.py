"""The commands that meet the Hub, as a user types them: what they print, and their exit codes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hub_cases import UNET_FILE
from hub_fixtures import here, server  # noqa: F401 (fixtures)
from hub_server import COMMIT, HubServer
from PIL import Image
from test_cli import IMAGE, MASK, run


def inpaint(capsys: pytest.CaptureFixture, out: Path, *more: object) -> tuple[int, str, str]:
    return run(capsys, "inpaint", IMAGE, MASK, "--model", "places2", "--device", "cpu", "--steps", 1, "--strength", 1, "-o", out, *more)


def test_download_inpaint_list_and_clear(capsys: pytest.CaptureFixture, here: Path, server: HubServer, monkeypatch) -> None:  # noqa: F811
    code, out, err = run(capsys, "download", "places2", "--dry-run")
    assert (code, err) == (0, "")
    assert out.count("missing") == 2, out
    assert str(UNET_FILE[1]) in out
    assert not server.transfers

    code, out, err = run(capsys, "download", "places2")
    assert code == 0, err
    assert "downloading" in err
    assert COMMIT in out

    (copy,) = (here / "cache/weights").glob("unet-*")
    copy.write_bytes(copy.read_bytes()[:-1])
    code, _, err = run(capsys, "download", "places2")
    assert (code, f"{copy}.damaged" in err) == (0, True)
    (here / f"cache/weights/{copy.name}.damaged").unlink()

    code, out, err = run(capsys, "cache")
    assert (code, err) == (0, "")
    assert "2 files" in out
    assert "places2" in out

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    asked, target = len(server.requests), here / "out.png"
    code, out, err = inpaint(capsys, target)
    assert code == 0, err
    assert len(server.requests) == asked
    code, out, _ = run(capsys, "info", target)
    assert "places2" in out
    assert COMMIT in out
    assert not (np.asarray(Image.open(target)) == np.asarray(Image.open(IMAGE))).all()

    code, out, _ = run(capsys, "cache", "--clear")
    assert (code, "Removed 2 files" in out) == (0, True)
    code, _, err = inpaint(capsys, here / "again.png")
    assert code == 1
    assert "HF_HUB_OFFLINE" in err
    assert not (here / "again.png").exists()


def without_the_unet(server: HubServer) -> None:  # noqa: F811
    server.files["hustvl/Moebius", "README.md"] = server.files.pop(UNET_FILE)


@pytest.mark.parametrize(
    ("change", "argv", "says"),
    [
        (without_the_unet, [], "has no file ft_places2/diffusion_pytorch_model.bin"),
        (lambda s: setattr(s, "token", "hf_right"), [], "set HF_TOKEN"),
        (lambda s: setattr(s, "gated", True), [], "Ask for access on its page"),
        (lambda s: None, ["--revision", "v9"], "has no revision 'v9'"),
        (lambda s: setattr(s, "status", 503), [], "HTTP 503"),
    ],
    ids=["404", "401", "gated", "revision", "503"],
)
def test_what_the_hub_refuses_is_one_sentence(change, argv, says, capsys, here: Path, server: HubServer) -> None:  # noqa: F811
    change(server)
    for command in (lambda: run(capsys, "download", "places2", *argv), lambda: inpaint(capsys, here / "out.png", *argv)):
        code, out, err = command()
        assert (code, out) == (1, "")
        last = err.strip().splitlines()[-1]
        assert last.startswith("moebius: ")
        assert says in last
        assert "Traceback" not in err
    assert not (here / "out.png").exists()


def test_a_name_that_is_no_model(capsys: pytest.CaptureFixture) -> None:
    code, _, err = run(capsys, "download", "places3")
    assert code == 2
    assert "places3" in err
    assert "places2" in err
