"""The server, asked by real clients over loopback: what is sent, and what comes back."""

from __future__ import annotations

import base64
import io
import json
import os
from typing import Any

import numpy as np
import pytest
from PIL import Image
from serve_cases import FILES, HOLE, IMAGE, MASK, PHOTO, Client, form, pixels, png, until

from moebius.errors import OutOfMemoryError, WeightError
from moebius.inpaint.inpainter import Inpainter
from moebius.inpaint.run import Run
from moebius.pictures.metadata import read_metadata
from moebius.serve.worker import told

pytest_plugins = ("serve_fixtures",)

NOISE = png(np.random.default_rng(1).integers(0, 256, (40, 60, 3), np.uint8))


# one request, one picture --------------------------------------------------------------------------------------------
def test_a_form_is_answered_with_the_picture_of_the_same_call(client: Client, model: Inpainter) -> None:
    status, headers, body = client.post(**FILES, steps=3, seed=7)
    assert (status, headers["content-type"], headers["x-seed"]) == (200, "image/png", "7")
    want = model(IMAGE, HOLE, steps=3, seed=7)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(body))), np.asarray(want.image))
    record = {key: value for key, value in want.metadata.items() if key != "timings"}
    assert read_metadata(body) == json.loads(headers["x-moebius-settings"]) == json.loads(json.dumps(record))
    assert json.loads(headers["x-moebius-notes"]) == list(want.notes)


def test_json_with_the_names_of_iopaint(client: Client) -> None:
    """As its own page sends them; what is for other models has no effect."""
    theirs = {
        "sd_steps": 3,
        "sd_seed": 7,
        "sd_guidance_scale": 2.5,
        "sd_strength": 0.99,
        "prompt": "a dog",
        "ldm_steps": 20,
        "sd_mask_blur": 12,
    }
    want = client.post(**FILES, steps=3, seed=7)[2]
    for image in (base64.b64encode(IMAGE).decode(), "data:image/png;base64," + base64.b64encode(IMAGE).decode()):
        status, _, body = client.ask(
            "POST",
            "/api/v1/inpaint",
            json.dumps({"image": image, "mask": base64.b64encode(HOLE).decode(), **theirs, "use_croper": False, "cv2_flag": None}),
            Content_Type="application/json; charset=utf-8",
        )
        assert status == 200
        assert body == want
    assert client.post(**FILES, steps=3, seed=7, sd_steps=9)[2] == want  # ours wins
    seeds = {client.post(**FILES, steps=3, sd_seed=-1)[1]["x-seed"] for _ in range(2)}
    assert len(seeds) == 2


def test_boxes_transparency_formats_and_a_new_canvas(client: Client) -> None:
    boxed = client.post(image=IMAGE, boxes="[[20,10,20,20]]", steps=3, seed=7)
    assert pixels(boxed[2]).tobytes() == pixels(client.post(**FILES, steps=3, seed=7)[2]).tobytes()
    rgba = png(np.dstack([PHOTO, np.where(MASK, 0, 255).astype(np.uint8)]))
    assert client.post(image=rgba, steps=2)[0] == 200
    status, headers, body = client.post(**FILES, steps=2, format="jpg")
    assert (status, headers["content-type"], Image.open(io.BytesIO(body)).format) == (200, "image/jpeg", "JPEG")
    wide = pixels(client.post(image=IMAGE, extend="0,0,12,5", steps=2, feather=0)[2])
    assert wide.shape == (45, 72, 3)
    assert np.array_equal(wide[:40, :60], PHOTO)
    theirs = client.post(
        image=IMAGE, use_extender="true", extender_x=0, extender_y=0, extender_width=72, extender_height=45, steps=2, feather=0
    )
    assert pixels(theirs[2]).tobytes() == wide.tobytes()
    cropped = pixels(
        client.post(**FILES, use_croper=True, croper_x=20, croper_y=10, croper_width=8, croper_height=30, steps=2, feather=0)[2]
    )
    assert (cropped[:, 20:28] != PHOTO[:, 20:28]).any()
    assert np.array_equal(cropped[:, 30:], PHOTO[:, 30:])


# what is wrong -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("status", "kind", "fields"),
    [
        (400, "BadField", {"mask": HOLE}),
        (400, "BadField", {**FILES, "stepps": 3}),
        (400, "BadField", {**FILES, "steps": "many"}),
        (400, "BadField", {**FILES, "steps": "9" * 5000}),
        (400, "BadField", {**FILES, "guidance": "1e"}),
        (400, "BadField", {**FILES, "invert": "perhaps"}),
        (400, "BadField", {**FILES, "extend": "1,2,3"}),
        (400, "BadField", {**FILES, "boxes": "[" * 100_000}),
        (400, "BadField", {**FILES, "format": "exe"}),
        (422, "UsageError", {"image": "/etc/passwd"}),
        (400, "BadField", {"image": "http://127.0.0.1/"}),
        (422, "UsageError", {"image": b"no picture", "mask": HOLE}),
        (422, "UsageError", {"image": IMAGE[:60], "mask": HOLE}),
        (422, "UsageError", {"image": IMAGE}),
        (422, "UsageError", {**FILES, "steps": 0}),
        (422, "UsageError", {**FILES, "steps": 201}),
        (422, "UsageError", {**FILES, "guidance": "nan"}),
        (422, "UsageError", {**FILES, "refine": 2}),
        (422, "UsageError", {**FILES, "extend": "-1,0,0,0"}),
        (422, "UsageError", {**FILES, "extend": "100000,100000,0,0"}),
        (422, "UsageError", {"image": IMAGE, "mask": NOISE}),
        (422, "UsageError", {"image": IMAGE, "boxes": "[[900,0,1,1]]"}),
        (422, "EmptyMaskError", {"image": IMAGE, "mask": png(~MASK & MASK)}),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, dict) else str(value),
)
def test_what_is_wrong_is_said(client: Client, status: int, kind: str, fields: dict[str, Any]) -> None:
    got, headers, body = client.post(**fields)
    answer = json.loads(body)
    assert (got, answer["error"]) == (status, kind), answer
    assert answer["message"] == answer["errors"]
    assert len(answer["message"]) < 400
    assert headers["x-content-type-options"] == "nosniff"


def test_hostile_and_truncated_bodies(client: Client, caplog: pytest.LogCaptureFixture) -> None:
    good, kind = form({**FILES, "steps": "2"})
    assert client.ask("POST", "/api/v1/inpaint", good[:-9], Content_Type=kind)[0] == 400
    assert client.ask("POST", "/api/v1/inpaint", good, Content_Type="multipart/form-data")[0] == 400
    assert client.ask("POST", "/api/v1/inpaint", good, Content_Type="multipart/form-data; boundary=y")[0] == 400
    assert client.ask("POST", "/api/v1/inpaint", b"x" * 9, Content_Type="text/plain")[0] == 415
    assert client.ask("POST", "/api/v1/inpaint", good, Content_Type=kind, Content_Encoding="gzip")[0] == 415
    many = form({f"a{i}": "x" for i in range(300)})
    assert client.ask("POST", "/api/v1/inpaint", many[0], Content_Type=many[1])[0] == 400
    for body in (
        b"{",
        b"[]",
        b'"\xff"',
        b"[" * 200_000,
        b'{"image": 3}',
        b'{"image": "\\ud800"}',
        b'{"image": {"a": 1}}',
        b'{"steps": NaN}',
    ):
        status, _, answer = client.ask("POST", "/api/v1/inpaint", body, Content_Type="application/json")
        assert status == 400, body[:40]
        json.loads(answer)
    strange = json.dumps({"image": base64.b64encode(IMAGE).decode(), "rng": "\ud800"})
    assert client.ask("POST", "/api/v1/inpaint", strange, Content_Type="application/json")[0] == 422
    with client.raw(b"POST /api/v1/inpaint HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n") as connection:
        answer = connection.recv(9000)
        assert b" 400 " in answer
        assert b"nosniff" in answer
    with client.raw(b"GET /health HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n") as connection:
        assert b" 200 " in connection.recv(100)
        connection.sendall(b"no chunk\r\n")  # when all has been answered
        while connection.recv(9000):
            pass
    assert client.post(**FILES, steps=2)[0] == 200
    assert not caplog.records  # nobody fills the log


# bad luck ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("error", "status"),
    [(OutOfMemoryError("no room"), 503), (WeightError("wrong"), 500), (MemoryError(), 503), (ZeroDivisionError("x"), 500)],
)
def test_bad_luck_is_told_from_bad_input(client: Client, monkeypatch: pytest.MonkeyPatch, error: Exception, status: int) -> None:
    left: list[Run] = []

    def unlucky(run: Run) -> None:
        raise error

    for where in ("begin", "denoise", "finish"):
        with monkeypatch.context() as patch:
            patch.setattr(Run, where, unlucky)
            patch.setattr(Run, "leave", lambda run: left.append(run))
            got, _, body = client.post(**FILES, steps=1, strength=1)
            assert until(lambda: left.pop() if left else None), f"what it took is given back after {where}"
        assert (got, json.loads(body)["error"]) == (status, type(error).__name__)
        assert b"Traceback" not in body
    assert client.post(**FILES, steps=1, strength=1)[0] == 200
    assert client.ask("GET", "/health")[0] == 200


# what is told --------------------------------------------------------------------------------------------------------
def test_the_model_is_told(client: Client, model: Inpainter) -> None:
    status, facts = client.json("GET", "/api/v1/model")
    assert status == 200
    assert (facts["name"], facts["device"], facts["size"]) == (model.model, model.device, model.size)
    assert facts["defaults"]["steps"] == 20
    assert facts["limits"]["waiting"] == 32
    assert facts["batch"]["size"] == 1


def test_no_folder_of_this_machine_is_told() -> None:
    source = {"unet": {"path": os.path.join("home", "name", "unet.safetensors")}, "vae": {"repo": "a/b", "file": "vae.safetensors"}}
    record = told({"seed": 3, "timings": {"write": 1.0}, "source": source})
    assert record == {"seed": 3, "num_images": 1, "source": {"unet": {"path": "unet.safetensors"}, "vae": source["vae"]}}
