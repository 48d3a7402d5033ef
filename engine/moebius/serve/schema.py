"""What the OpenAPI schema says of requests and answers, in tables."""

from __future__ import annotations

from typing import Any

from moebius.serve.fields import FORM, JSON

PICTURE = "a picture: a file of the form, or base64, or a data URL"
FIELDS: dict[str, tuple[str, str]] = {  # name: type, what
    "image": ("string", PICTURE),
    "mask": ("string", f"{PICTURE}; white is filled in. Without it what is transparent in the image"),
    "boxes": ("array", "rectangles to fill: [[x,y,width,height],…]"),
    "extend": ("string", "L,T,R,B: pixels of new canvas at each side, to be filled"),
    "steps": ("integer", "sampling steps"),
    "guidance": ("number", "how strongly to follow the condition; 1 costs half"),
    "strength": ("number", "how much of the schedule to run, up to 1"),
    "noise_offset": ("number", "one shift a channel added to the noise"),
    "seed": ("integer", "of the noise; -1 is one by chance"),
    "rng": ("string", "whose noise: numpy or torch"),
    "crop": ("string", "where to work: auto, full or upstream"),
    "max_windows": ("integer", "for one picture; with fewer, larger and scaled ones"),
    "refine": ("number", "how strongly native windows draw over a scaled one's fill, 0 to 1"),
    "blend": ("string", "how to put it back: paste, match, compensate or raw"),
    "detail": ("number", "grain of the surroundings that match adds, 0 to 1"),
    "grow": ("number", "pixels by which the mask grows"),
    "feather": ("number", "pixels of blur at the seam"),
    "invert": ("boolean", "fill in the black part of the mask"),
    "force": ("boolean", "take a mask that looks like a photograph"),
    "allow_empty": ("boolean", "where the mask marks nothing, the picture as it is"),
    "format": ("string", "of the answer: png, jpg, webp, tif, …"),
    "sd_steps": ("integer", "steps, as IOPaint's clients name it"),
    "sd_guidance_scale": ("number", "guidance, likewise"),
    "sd_strength": ("number", "strength, likewise"),
    "sd_seed": ("integer", "seed, likewise"),
    "use_extender": ("boolean", "a new canvas: extender_x, extender_y, extender_width, extender_height"),
    "use_croper": ("boolean", "fill within a box alone: croper_x, croper_y, croper_width, croper_height"),
    "prompt": ("string", "has no effect: the model reads no text"),
}


def request() -> dict[str, Any]:
    """The body of a request for a picture, as a form or as JSON."""

    def of(kind: str) -> dict[str, Any]:
        fields = {name: {"type": of, "description": what} for name, (of, what) in FIELDS.items()}
        if kind == FORM:
            for name in ("image", "mask"):
                fields[name]["format"] = "binary"
        return {"schema": {"type": "object", "required": ["image"], "properties": fields}}

    return {"requestBody": {"required": True, "content": {kind: of(kind) for kind in (FORM, JSON)}}}


FAILURES: dict[int, str] = {
    400: "the body is no form and no JSON, or ends in the middle; a field is not what it should be",
    401: "no token, or a wrong one",
    408: "the body does not come",
    413: "it is too large",
    415: "it is of another type",
    422: "what is wrong with image, mask or settings",
    429: "the queue is full; Retry-After says for how many seconds",
    500: "the weights or the device",
    503: "the device's memory; or the server is stopping",
    504: "the time for one picture is over",
}


def answers(good: int, what: str, content: str = JSON, *failures: int) -> dict[int | str, dict[str, Any]]:
    error = {"type": "object", "properties": {name: {"type": "string"} for name in ("error", "message", "errors")}}
    bad: dict[int | str, dict[str, Any]] = {}
    for status in failures or FAILURES:
        bad[status] = {"description": FAILURES[status], "content": {JSON: {"schema": error}}}
    return {good: {"description": what, "content": {content: {}}}, **bad}
