"""What a run is given: settings and pictures, in every form that is taken; and what is refused, with which error."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from inpainter_cases import BOXES, PHOTO
from PIL import Image

from moebius import errors
from moebius.inpaint import run as runs
from moebius.inpaint.inpainter import Inpainter
from moebius.inpaint.settings import Settings
from moebius.pictures import photo as photos

pytest_plugins = ("inpainter_fixtures",)


def png(array: np.ndarray = PHOTO) -> bytes:
    file = io.BytesIO()
    Image.fromarray(array).save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize(
    "settings",
    [
        {"steps": 1},
        {"steps": 1001},
        {"steps": True},
        {"steps": "20"},
        {"strength": 1.5},
        {"strength": 1e308},
        {"guidance": 10**401},
        {"guidance": 1j},
        {"noise_offset": -1e9},
        {"num_images": 10**9},
        {"seed": 2**64},
        {"seed": 2**64 - 1, "num_images": 2},
        {"seed": 10**6000},
        {"rng": ["numpy"]},
        {"rng": np.zeros(3)},
        {"blend": "paset"},
        {"crop": None},
        {"invert": 1},
        {"grow": "2"},
        {"feather": np.nan},
    ],
    ids=lambda s: ", ".join(s),
)
def test_settings_are_bounded(settings: dict[str, Any]) -> None:
    with pytest.raises(errors.UsageError) as caught:
        Settings(**settings)
    assert len(str(caught.value)) < 250


def test_the_nearest_name_is_told(small: Inpainter) -> None:
    for call, name in (
        (lambda: Settings(blend="paset"), "paste"),
        (lambda: small.steps(PHOTO, BOXES, guidence=2), "guidance"),
        (lambda: Inpainter.from_pretrained("plaecs2", device="cpu"), "places2"),
    ):
        with pytest.raises(errors.UsageError, match=f"Did you mean {name}\\?$"):
            call()


def test_nano_takes_no_vae_and_no_revision() -> None:
    for more in ({"vae": "x.bin"}, {"revision": "main"}):
        with pytest.raises(errors.UsageError, match=f"leave out {next(iter(more))}"):
            Inpainter.from_pretrained("nano", device="no device is opened", **more)


def test_more_work_than_a_call_can_have_is_refused_before_any_list_is_made(small: Inpainter, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "MOST_ITEMS", 5)
    assert len(small.steps(PHOTO, BOXES, num_images=2)) > 0
    with pytest.raises(errors.UsageError, match="6 runs of the model; at most 5"):
        small.steps(PHOTO, BOXES, num_images=3)


def test_the_limit_of_pixels_can_be_raised(small: Inpainter) -> None:
    with pytest.raises(errors.UsageError, match=r"max_pixels \(--max-pixels\)"):
        small.steps(PHOTO, BOXES, max_pixels=PHOTO.size // 3 - 1)
    with pytest.raises(errors.UsageError, match=r"The mask has .*max_pixels"):
        small.steps(PHOTO, np.ones((80, 180), np.uint8), max_pixels=PHOTO.size // 3)
    small.steps(PHOTO, BOXES, max_pixels=PHOTO.size // 3)


def test_a_picture_comes_from_bytes_files_and_data_urls(tmp_path: Path) -> None:
    data, path = png(), tmp_path / "ü.png"
    path.write_bytes(data)
    encoded = base64.b64encode(data).decode()
    with path.open("rb") as file, io.BytesIO(b"xx" + data) as later:
        later.seek(2)
        sources: list[Any] = [path, str(path), data, bytearray(data), memoryview(data), io.BytesIO(data), file, later]
        sources += [
            f"data:image/png;base64,{encoded}",
            f"data:;base64,{encoded[:50]}\n{encoded[50:]}",
            f"DATA:image/png;base64,{encoded.rstrip('=')}",
        ]
        sources += ["data:image/png," + "".join(f"%{byte:02x}" for byte in data), f"data:;base64,{base64.urlsafe_b64encode(data).decode()}"]
        for source in sources:
            np.testing.assert_array_equal(photos.load(source).rgb, PHOTO)
        assert not file.closed


@pytest.mark.parametrize(
    "source",
    [
        "https://user:secret@host/a.png",
        "ftp://secret",
        "file:///secret",
        Path("https://secret/a.png"),
        base64.b64encode(b"secret" * 1000).decode(),
        "secret\nsecret",
        "secret\0",
        "",
        b"",
        io.BytesIO(),
        io.StringIO("secret"),
        "data:image/png;base64",
        "data:image/png;base64,secret!",
        "data:,secret",
        object(),
        None,
        3,
        [1, 2],
    ],
    ids=lambda s: type(s).__name__,
)
def test_anything_else_is_bad_input_and_is_not_repeated(source: Any, small: Inpainter) -> None:
    for call in (lambda: small(source, BOXES), lambda: small(PHOTO, source if source is not None else 3)):
        with pytest.raises(errors.UsageError) as caught:
            call()
        assert "secret" not in str(caught.value)
        assert len(str(caught.value)) < 250


def test_a_file_opened_for_writing_or_closed(tmp_path: Path) -> None:
    with (tmp_path / "a.png").open("wb") as file, pytest.raises(errors.UsageError, match="cannot be read"):
        photos.load(file)
    with pytest.raises(errors.UsageError, match="cannot be read"):
        photos.load(file)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int64])
def test_a_mask_of_0_and_255_is_the_same_of_any_type(dtype: type, small: Inpainter) -> None:
    mask = np.zeros(PHOTO.shape[:2], dtype)
    mask[5:9, 5:9] = 255
    assert small.steps(PHOTO, mask).mask.fill.sum() == 16
    if dtype is not np.uint8:
        mask[0, 0] = 300
        with pytest.raises(errors.UsageError):  # of 16 bits it is nearly black
            small.steps(PHOTO, mask)


def device_lost(*_: Any) -> None:
    raise errors.DeviceLostError("x")


BAD_INPUT: list[Callable[[Inpainter], Any]] = [
    lambda m: m(b"no picture", BOXES),
    lambda m: m(png()[:200], BOXES),
    lambda m: m(PHOTO),
    lambda m: m(PHOTO, [(900, 900, 1, 1)]),
    lambda m: m(PHOTO, [("a", 0, 1, 1)]),
    lambda m: m(PHOTO, BOXES, steps=0),
    lambda m: m(PHOTO, BOXES, stepz=3),
    lambda m: m(PHOTO, BOXES, noise=5),
    lambda m: m(PHOTO, BOXES, noise={"start": "x"}),
    lambda m: m(PHOTO, BOXES, steps=2).save("x.exe"),
    lambda m: m(PHOTO, BOXES, steps=2).to_bytes("png", index=1),
]


@pytest.mark.parametrize("call", BAD_INPUT, ids=range(len(BAD_INPUT)))
def test_bad_input_is_a_usage_error(call: Callable[[Inpainter], Any], small: Inpainter, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(errors.UsageError):
        call(small)


def test_bad_luck_is_another_error(small: Inpainter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = small(PHOTO, BOXES, steps=2)
    with pytest.raises(errors.MoebiusError) as caught:
        result.save(tmp_path / "no folder" / "a.png")
    assert not isinstance(caught.value, errors.UsageError)
    monkeypatch.setattr(small, "moments_each", device_lost)
    with pytest.raises(errors.DeviceLostError) as lost:
        small(PHOTO, BOXES, steps=2)
    assert not isinstance(lost.value, errors.UsageError | ValueError)
