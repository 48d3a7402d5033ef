"""The picture of a bench_model result: a bar for each contender, and what a picture costs us against size, batch and steps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from moebius.errors import MoebiusError
from moebius.files import replacing

WIDTH, MARGIN, BAR, LABEL = 1200, 24, 34, 210
CHART = 220
COLOURS = {"encode": "#7fa8d1", "step": "#2f5d8c", "decode": "#b9a15a", "rest": "#c9c9c9"}
INK, PALE = "#222222", "#dddddd"


def draw(result: dict[str, Any], path: Path) -> None:
    ours = result.get("ours")
    rows = result["contenders"]
    height = 3 * MARGIN + 34 + BAR * len(rows) + (CHART + 2 * MARGIN if ours else 0)
    image = Image.new("RGB", (WIDTH, height), "white")
    canvas = ImageDraw.Draw(image)
    bars(canvas, result)
    if ours:
        charts(canvas, ours, height - CHART - MARGIN)
    try:
        with replacing(path) as file:
            image.save(file, "PNG")
    except OSError as error:
        raise MoebiusError(f"{path} cannot be written: {error.strerror or error}.") from error


def text(canvas: ImageDraw.ImageDraw, at: tuple[float, float], words: str, size: int = 14, anchor: str = "la") -> None:
    canvas.text(at, words, fill=INK, font=ImageFont.load_default(size), anchor=anchor)


def bars(canvas: ImageDraw.ImageDraw, result: dict[str, Any]) -> None:
    """Seconds of a picture, by part; the rest is windows, masks and blending."""
    rows, steps = result["contenders"], result["steps"]
    adapter = result["environment"]["adapter"]
    title = f"Seconds a picture, {result['config']} model, {steps} steps, float32; "
    text(canvas, (MARGIN, MARGIN - 8), title + (adapter["name"] if adapter else result["environment"]["processor"]), 16)
    x = MARGIN + LABEL
    for name, colour in COLOURS.items():
        canvas.rectangle((x, MARGIN + 18, x + 12, MARGIN + 30), fill=colour)
        text(canvas, (x + 18, MARGIN + 16), {"step": "all steps"}.get(name, name), 13)
        x += 110
    most = max(row["image"]["median_s"] for row in rows.values())
    scale = (WIDTH - LABEL - 2 * MARGIN - 170) / most
    for i, (name, row) in enumerate(rows.items()):
        y, x = MARGIN + 42 + BAR * i, float(MARGIN + LABEL)
        text(canvas, (MARGIN, y + 4), name, 15)
        whole, encode, decode = row["image"]["median_s"], row["encode"]["median_s"], row["decode"]["median_s"]
        stepping = min(row["step"]["median_s"] * result["calls"], whole - encode - decode)
        for part, value in (("encode", encode), ("step", stepping), ("decode", decode), ("rest", whole - encode - decode - stepping)):
            canvas.rectangle((x, y, x + value * scale, y + BAR - 12), fill=COLOURS[part])
            x += value * scale
        against = "" if name == result["against"] else f"  ({row['image']['ratio_median']:.2f})"
        text(canvas, (x + 8, y + 4), f"{whole:.3g} s{against}", 14)


def charts(canvas: ImageDraw.ImageDraw, ours: dict[str, Any], top: int) -> None:
    series = [
        ("seconds against the image's side", [(c["pixels"], c["seconds"]) for c in ours["image_size"]]),
        ("seconds an image against the batch", [(c["images"], c["seconds_per_image"]) for c in ours["batch"]]),
        ("seconds against steps", [(c["steps"], c["seconds"]) for c in ours["steps"]["runs"]]),
    ]
    width = (WIDTH - MARGIN * (len(series) + 1)) / len(series)
    for i, (title, points) in enumerate(series):
        line(canvas, MARGIN + i * (width + MARGIN), top, width, title, points)


def line(canvas: ImageDraw.ImageDraw, left: float, top: float, width: float, title: str, points: list[tuple[float, float]]) -> None:
    """Both axes from zero."""
    text(canvas, (left, top), title, 14)
    x0, y0, w, h = left + 6, top + CHART - 20, width - 50, CHART - 60
    canvas.line((x0, y0 - h, x0, y0, x0 + w, y0), fill=PALE, width=2)
    right, high = max(x for x, _ in points), max(y for _, y in points)
    at = [(x0 + w * x / right, y0 - h * y / high) for x, y in points]
    canvas.line(at, fill=COLOURS["step"], width=3)
    for (x, y), (px, py) in zip(points, at, strict=True):
        canvas.ellipse((px - 4, py - 4, px + 4, py + 4), fill=COLOURS["step"])
        text(canvas, (px, py - 8), f"{y:.3g}", 13, "mb")
        text(canvas, (px, y0 + 4), f"{x:g}", 13, "ma")
