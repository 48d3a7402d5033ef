"""What a request asks for: from the bytes of its body, a form or JSON, to pictures as bytes and settings of the right types."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from moebius.errors import did_you_mean
from moebius.pictures.formats import ENDINGS
from moebius.pictures.source import of_data_url
from moebius.serve.answers import RefusedError

FORM, JSON = "multipart/form-data", "application/json"
MOST_PARTS = 200  # of a form; IOPaint's clients send some fifty fields
LONGEST_TEXT = 10_000  # characters of a field that is no picture
BY_CHANCE = 2**32  # seeds below this, for -1

Box = tuple[int, int, int, int]


@dataclass
class Asked:
    """A request, its pictures not yet decoded."""

    image: bytes
    mask: bytes | None = None
    boxes: list[Any] | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    format: str = "png"
    force: bool = False
    allow_empty: bool = False
    only: Box | None = None  # x, y, width, height: of the mask no more than this
    canvas: Box | None = None  # the same of the new canvas, from the image's corner


def wrong(name: str, what: str) -> RefusedError:
    return RefusedError(400, "BadField", f"{name} {what}.")


def whole(name: str, value: Any) -> int:
    try:
        number = int(value)
    except (TypeError, ValueError, OverflowError):
        raise wrong(name, "is no whole number") from None
    if isinstance(value, bool) or (isinstance(value, float) and number != value):
        raise wrong(name, "is no whole number")
    return number


def real(name: str, value: Any) -> float:
    try:
        if not isinstance(value, bool):
            return float(value)
    except (TypeError, ValueError, OverflowError):
        pass
    raise wrong(name, "is no number")


def text(name: str, value: Any) -> str:
    if isinstance(value, str) and len(value) <= LONGEST_TEXT:
        return value
    raise wrong(name, "is no short text")


def truth(name: str, value: Any) -> bool:
    words = {"true": True, "1": True, "on": True, "yes": True, "false": False, "0": False, "off": False, "no": False}
    found = words.get(str(value).lower()[:8])
    if found is None:
        raise wrong(name, "is neither true nor false")
    return found


def seed(name: str, value: Any) -> int:
    number = whole(name, value)
    return secrets.randbelow(BY_CHANCE) if number == -1 else number


def four(name: str, value: Any) -> Box:
    """Four whole numbers, as a list, or with commas between."""
    parts = value.split(",") if isinstance(value, str) else value
    if not isinstance(parts, list) or len(parts) != 4:
        raise wrong(name, "is no four whole numbers")
    a, b, c, d = (whole(name, part) for part in parts)
    return a, b, c, d


def ending(name: str, value: Any) -> str:
    found = text(name, value).lower().strip(".")
    if f".{found}" not in ENDINGS:
        raise wrong(name, f"is not one of {', '.join(e[1:] for e in ENDINGS)}")
    return found


def boxes(name: str, value: Any) -> list[Any]:
    """[[x, y, w, h], …]"""
    try:
        found = json.loads(value) if isinstance(value, str) else value
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, list) or len(found) > 10_000:
        raise wrong(name, "is no list of boxes; write [[x,y,width,height],…]")
    return [list(four(name, box)) for box in found]


# The fields that change a setting, ours and IOPaint's; and the others that have an effect.
KINDS: dict[str, Callable[[str, Any], Any]] = {
    "steps": whole,
    "guidance": real,
    "strength": real,
    "noise_offset": real,
    "seed": seed,
    "rng": text,
    "crop": text,
    "max_windows": whole,
    "refine": real,
    "blend": text,
    "detail": real,
    "grow": real,
    "feather": real,
    "invert": truth,
    "extend": four,
}
IOPAINT = {"sd_steps": "steps", "sd_guidance_scale": "guidance", "sd_strength": "strength", "sd_seed": "seed"}
OTHERS: dict[str, Callable[[str, Any], Any]] = {"boxes": boxes, "format": ending, "force": truth, "allow_empty": truth}
SQUARES = {"croper": "only", "extender": "canvas"}  # use_NAME, NAME_x, NAME_y, NAME_width, NAME_height
# What IOPaint's clients send for models of other kinds.
WITHOUT_EFFECT = frozenset(
    [
        "prompt",
        "negative_prompt",
        "name",
        "ldm_steps",
        "ldm_sampler",
        "zits_wireframe",
        "hd_strategy",
        "hd_strategy_crop_trigger_size",
        "hd_strategy_crop_margin",
        "hd_strategy_resize_limit",
        "sd_scale",
        "sd_mask_blur",
        "sd_sampler",
        "sd_match_histograms",
        "sd_outpainting_softness",
        "sd_outpainting_space",
        "sd_lcm_lora",
        "sd_keep_unmasked_area",
        "sd_freeu",
        "sd_freeu_config",
        "sd_prevent_unmasked_area",
        "cv2_flag",
        "cv2_radius",
        "paint_by_example_example_image",
        "p2p_image_guidance_scale",
        "enable_controlnet",
        "controlnet_conditioning_scale",
        "controlnet_method",
        "enable_brushnet",
        "brushnet_method",
        "brushnet_conditioning_scale",
        "enable_powerpaint_v2",
        "powerpaint_task",
        "fitting_degree",
        "size_limit",
    ]
)
KNOWN = (
    {"image", "mask", *KINDS, *IOPAINT, *OTHERS}
    | WITHOUT_EFFECT
    | {f"use_{name}" for name in SQUARES}
    | {f"{name}_{part}" for name in SQUARES for part in ("x", "y", "width", "height")}
)


def asked(body: bytes, content_type: str) -> Asked:
    """Of a body that is there whole."""
    kind, options = parse_options_header(content_type)
    values = of_form(body, options.get(b"boundary", b"")) if kind == FORM.encode() else of_json(body)
    unknown = sorted(values.keys() - KNOWN)
    if unknown:
        name = str(unknown[0])[:60]
        raise RefusedError(400, "BadField", f"There is no field {name!r}.{did_you_mean(name, sorted(KNOWN - WITHOUT_EFFECT))}")
    values = {name: value for name, value in values.items() if value is not None and value not in ("", b"")}
    if "image" not in values:
        raise RefusedError(400, "BadField", "There is no image; send one as the field image, a file of a form, or base64.")
    out = Asked(picture("image", values["image"]))
    if "mask" in values:
        out.mask = picture("mask", values["mask"])
    for theirs, ours in IOPAINT.items():
        if theirs in values and ours not in values:
            out.settings[ours] = KINDS[ours](theirs, as_text(theirs, values[theirs]))
    for name, of in KINDS.items():
        if name in values:
            out.settings[name] = of(name, as_text(name, values[name]))
    for name, of in OTHERS.items():
        if name in values:
            setattr(out, name, of(name, as_text(name, values[name])))
    for name, attribute in SQUARES.items():
        if truth(f"use_{name}", as_text(f"use_{name}", values.get(f"use_{name}", False))):
            parts = [f"{name}_{part}" for part in ("x", "y", "width", "height")]
            setattr(out, attribute, four(name, [whole(part, as_text(part, values.get(part, 0))) for part in parts]))
    return out


def picture(name: str, value: Any) -> bytes:
    """A file of a form as it is, a text as base64 or a data URL. A path or an address is neither, and nothing is opened or fetched."""
    if isinstance(value, bytes):
        return value
    if not isinstance(value, str):
        raise wrong(name, "is no picture; send a file of a form, or base64")
    try:
        return of_data_url(value if value[:5].lower() == "data:" else f"data:;base64,{value}", f"The {name}")
    except ValueError:  # a UsageError, or of text that no encoding has
        raise wrong(name, "is neither a file of a form, nor base64, nor a data URL of it") from None


def as_text(name: str, value: Any) -> Any:
    """Of a field that was sent as a file, too."""
    if not isinstance(value, bytes):
        return value
    try:
        return value.decode() if len(value) <= LONGEST_TEXT else wrong_text(name)
    except UnicodeDecodeError:
        return wrong_text(name)


def wrong_text(name: str) -> Any:
    raise wrong(name, "is no short text")


def of_json(body: bytes) -> Mapping[str, Any]:
    try:
        values = json.loads(body)
    except (ValueError, RecursionError):
        raise RefusedError(400, "BadBody", "The body is not JSON; send an object of the fields, or a multipart form.") from None
    if not isinstance(values, dict):
        raise RefusedError(400, "BadBody", "The body is JSON, but no object; send one of the fields.")
    return values


def of_form(body: bytes, boundary: bytes) -> dict[str, Any]:
    """Its fields by name, a file as bytes, a text as a string. All in memory: the parser's own files would be on the disk."""
    form = Form()
    try:
        parser = MultipartParser(boundary, form.callbacks())
        parser.write(body)
        parser.finalize()
    except (FormParserError, ValueError) as error:
        raise RefusedError(
            400, "BadBody", f"The form cannot be read ({str(error)[:100]}); send multipart/form-data with its boundary."
        ) from None
    if not form.ended:
        raise RefusedError(400, "BadBody", "The form ends in the middle, without its last boundary.")
    return form.values


class Form:
    """Takes what the parser finds."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}
        self.ended = False
        self._headers: dict[bytes, bytes] = {}
        self._name, self._value, self._data, self._parts = b"", b"", bytearray(), 0

    def callbacks(self) -> Any:
        return {
            "on_part_begin": self.begin,
            "on_header_field": self.header_name,
            "on_header_value": self.header_value,
            "on_header_end": self.header_end,
            "on_part_data": self.data,
            "on_part_end": self.end,
            "on_end": self.all,
        }

    def begin(self) -> None:
        self._parts += 1
        if self._parts > MOST_PARTS:
            raise ValueError(f"it has more than {MOST_PARTS} parts")
        self._headers, self._data = {}, bytearray()

    def header_name(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]

    def header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def header_end(self) -> None:
        self._headers[self._name.lower()] = self._value
        self._name = self._value = b""

    def data(self, data: bytes, start: int, end: int) -> None:
        self._data += memoryview(data)[start:end]

    def end(self) -> None:
        _, options = parse_options_header(self._headers.get(b"content-disposition"))
        kind, _ = parse_options_header(self._headers.get(b"content-type"))
        if b"name" not in options:
            raise ValueError("a part has no name")
        name = options[b"name"].decode("utf-8", "replace")
        is_file = b"filename" in options or kind.startswith((b"image/", b"application/octet-stream"))
        self.values[name] = bytes(self._data) if is_file else self._data.decode()
        self._data = bytearray()

    def all(self) -> None:
        self.ended = True
