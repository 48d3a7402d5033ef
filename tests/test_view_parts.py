"""What the window is made of, without a window: the mask canvas, the camera, text, file names, the estimate of a step."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np
import pytest
from PIL import Image

from moebius import Inpainter
from moebius.backends.cpu import CPU
from moebius.errors import MoebiusError
from moebius.model.synthetic import synthetic
from moebius.model.unet import UNet, UNetConfig
from moebius.model.unet import shapes as unet_shapes
from moebius.model.vae import VAE, VAEConfig
from moebius.model.vae import shapes as vae_shapes
from moebius.pictures import photo as photos
from moebius.view import labels, scene
from moebius.view.camera import Camera
from moebius.view.canvas import UNDO_BYTES, MaskCanvas
from moebius.view.geometry import Rect
from moebius.view.job import Worker
from moebius.view.picture import Picture, reduction
from moebius.view.save import reserve


# canvas --------------------------------------------------------------------------------------------------------------
def near_segment(a: tuple[float, float], b: tuple[float, float], width: int, height: int) -> np.ndarray:
    """Distance of every pixel's centre from a segment."""
    y, x = np.mgrid[0:height, 0:width] + 0.5
    d = np.subtract(b, a)
    t = np.clip(((x - a[0]) * d[0] + (y - a[1]) * d[1]) / max(1e-30, float(d @ d)), 0, 1)
    return np.hypot(x - a[0] - t * d[0], y - a[1] - t * d[1])


@pytest.mark.parametrize("case", range(60))
def test_a_stroke_is_all_pixels_near_its_segment(case: int) -> None:
    """Also beyond the picture, upright, level, without length, and thinner than a pixel."""
    rng = np.random.default_rng(case)
    width, height = rng.integers(1, 90, 2).tolist()
    a, b = ((float(x), float(y)) for x, y in rng.uniform(-40, 130, (2, 2)))
    b = [b, a, (a[0], b[1]), (b[0], a[1])][case % 4]
    radius = float(rng.choice([0.1, 1.0, 5.5, 40.0]))
    canvas = MaskCanvas(width, height)
    canvas.take_dirty()
    canvas.stroke(a, b, radius, True)
    distance = near_segment(a, b, width, height)
    radius = max(radius, 0.75)
    clear = np.abs(distance - radius) > 1e-6
    assert np.array_equal(canvas.fill[clear], (distance <= radius)[clear])
    outside = np.ones((height, width), bool)
    outside[canvas.take_dirty().slices] = False
    assert not canvas.fill[outside].any()


def random_edit(canvas: MaskCanvas, rng: np.random.Generator) -> None:
    kind, value = rng.integers(5), bool(rng.random() < 0.7)
    a, b = ((float(x), float(y)) for x, y in rng.uniform(-10, 60, (2, 2)))
    if kind == 0:
        canvas.clear()
    elif kind == 1:
        canvas.invert()
    else:
        canvas.begin()
        for _ in range(rng.integers(1, 4)):
            if kind == 2:
                canvas.box(a, b, value)
            else:
                canvas.stroke(a, b, 4.0, value)
            a, b = b, (a[0] + 7, b[1] - 3)
        canvas.end()


def test_undo_and_redo_go_through_every_state() -> None:
    rng, canvas, states = np.random.default_rng(3), MaskCanvas(50, 40), [np.zeros((40, 50), bool)]
    shown = canvas.fill.copy()  # kept up from `dirty` alone, as a texture is
    for _ in range(40):
        random_edit(canvas, rng)
        if not np.array_equal(canvas.fill, states[-1]):
            states.append(canvas.fill.copy())
        dirty = canvas.take_dirty()
        shown[dirty.slices] = canvas.fill[dirty.slices]
        assert np.array_equal(shown, canvas.fill)
        beyond = np.ones_like(canvas.fill)
        beyond[canvas.extent.slices] = False
        assert not canvas.fill[beyond].any()
    for state in states[-2::-1]:
        assert canvas.undo()
        assert np.array_equal(canvas.fill, state)
    assert not canvas.undo()
    for state in states[1:]:
        assert canvas.redo()
        assert np.array_equal(canvas.fill, state)
    assert not canvas.redo()
    canvas.undo()
    canvas.invert()
    assert not canvas.redo()  # after another edit there is nothing to come back to


def test_undo_forgets_the_oldest_before_it_takes_too_much(monkeypatch: pytest.MonkeyPatch) -> None:
    assert UNDO_BYTES > 100_000_000 // 8  # one edit of the largest photo
    monkeypatch.setattr("moebius.view.canvas.UNDO_BYTES", 3 * 64 * 64 // 8)
    canvas = MaskCanvas(64, 64)
    for _ in range(5):
        canvas.invert()
    assert [canvas.undo() for _ in range(4)] == [True, True, True, False]


def test_a_box_covers_the_pixels_it_touches() -> None:
    canvas = MaskCanvas(20, 10)
    assert canvas.box_of((12.2, 3.1), (4.9, -8)) == Rect(4, 0, 13, 4)
    assert not canvas.box_of((30, 3), (40, 8))


def test_a_fast_stroke_over_a_large_picture_does_not_lag() -> None:
    """24 megapixels from corner to corner with a brush of 400 pixels."""
    canvas = MaskCanvas(6000, 4000)
    start = time.thread_time()
    canvas.stroke((0, 0), (6000, 4000), 200, True)
    assert time.thread_time() - start < 0.1
    assert canvas.fill.mean() > 0.1


# camera --------------------------------------------------------------------------------------------------------------
def test_the_camera_goes_there_and_back() -> None:
    camera = Camera(picture=(300, 200))
    camera.resize((800, 600), 10, 50)
    assert (camera.scale, camera.origin) == (780 / 300, (10, 20))  # the foot is left free
    for at in ((0.0, 0.0), (123.0, 456.0)):
        assert np.allclose(camera.to_window(camera.to_picture(at)), at)
    before = camera.to_picture((200.0, 100.0))
    camera.zoom(3.7, (200.0, 100.0))
    assert np.abs(np.subtract(camera.to_picture((200.0, 100.0)), before)).max() < 1 / camera.scale
    camera.zoom(1e9, (0.0, 0.0))
    assert camera.scale == 64
    camera.zoom(1e-9, (0.0, 0.0))
    assert camera.scale == pytest.approx(780 / 300 / 4)


def test_the_picture_cannot_be_lost_out_of_the_window() -> None:
    camera = Camera(picture=(300, 200))
    camera.resize((800, 600), 10, 50)
    for far in (1e6, -1e6):
        camera.pan(far, far)
        x, y = camera.origin
        assert x < 800
        assert y < 600
        assert x + 300 * camera.scale > 0
        assert y + 200 * camera.scale > 0


# pictures and text ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("size", [(1, 1), (5, 3), (64, 64), (37, 200)])
def test_levels_are_those_of_a_texture_and_keep_the_mean(size: tuple[int, int]) -> None:
    array = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 4), np.uint8)
    picture = Picture.of(photos.load(array), largest_side=64)
    step = reduction(size, 64)
    assert picture.size == size
    wide, tall = -(-size[0] // step), -(-size[1] // step)
    for level in picture.levels:
        assert level.shape == (tall, wide, 4)
        wide, tall = max(1, wide // 2), max(1, tall // 2)
    assert picture.levels[-1].shape == (1, 1, 4)
    assert np.abs(picture.levels[-1][0, 0] - array.mean(axis=(0, 1))).max() < 12
    if step == 1:
        assert np.array_equal(picture.levels[0], array)


def test_lines_fit_and_no_word_is_lost() -> None:
    text = "It cannot be read: /a/very/long/path/with/no/space/at/all/in/it/whatever.png is not a picture – é, 像."
    lines = labels.wrapped(text, 15, 200)
    assert all(labels.width(line, 15) <= 200 for line in lines)
    assert "".join(lines).replace(" ", "") == labels.plain(text).replace(" ", "")
    assert labels.plain("e\u0301 ×像\n") == "é x像 "


def test_the_atlas_holds_what_was_placed() -> None:
    atlas = labels.Atlas()
    places = {text: atlas.place(text, size) for text, size in (("Enter", 14), ("12 ms/step", 28))}
    image = atlas.finish()
    for text, size in (("Enter", 14), ("12 ms/step", 28)):
        x, y, w, h = places[text]
        assert np.array_equal(image[y : y + h, x : x + w], labels.drawn(text, size))
        assert image[y : y + h, x : x + w].max() == 255
    for text, size in (("Enter", 14), ("12 ms/step", 28)):
        atlas.place(text, size)
    assert atlas.finish() is image  # nothing to upload


@pytest.mark.parametrize("count", [1, 2, 7, 400])
def test_patches_share_an_atlas_that_a_texture_holds(count: int) -> None:
    """A mask of specks has hundreds of windows; a texture may have 8192 texels a side."""
    patches = {(i, 0, 512, 512): np.full((64, 64, 3), i % 251, np.uint8) for i in range(count)}
    places = scene.cells(patches)
    assert max(max(x + w, y + h) for x, y, w, h in places) <= 64 * math.ceil(math.sqrt(count))
    assert len({(x, y) for x, y, _, _ in places}) == count
    assert {(x % 64, y % 64, w, h) for x, y, w, h in places} == {(0, 0, 64, 64)}


# the worker ----------------------------------------------------------------------------------------------------------
def test_closing_ends_a_download() -> None:
    begun = threading.Event()

    def load(go_on: Callable[[], None]) -> Inpainter:
        while True:
            go_on()
            begun.set()

    worker = Worker(load, lambda: None, largest_side=64)
    worker.begin()
    assert begun.wait(60)
    assert worker.close(60)


def test_closing_does_not_wait_for_a_step_without_end() -> None:
    over = SimpleQueue[None]()

    def load(_: Callable[[], None]) -> Any:
        over.get()
        raise MoebiusError("enough")

    worker = Worker(load, lambda: None, 64)
    worker.begin()
    assert not worker.close(0.1)
    assert not worker.close(60, lambda: True)  # a second Ctrl-C
    over.put(None)
    assert worker.close(60)


# files ---------------------------------------------------------------------------------------------------------------
def test_names_are_taken_once(tmp_path: Path) -> None:
    names = [reserve(tmp_path / "a.filled.png").name for _ in range(3)]
    assert names == ["a.filled.png", "a.filled-2.png", "a.filled-3.png"]
    with pytest.raises(MoebiusError, match="cannot be written"):
        reserve(tmp_path / "missing" / "a.png")


# the estimate --------------------------------------------------------------------------------------------------------
def test_patches_are_what_the_preview_is_made_of() -> None:
    net, coder, ops = UNetConfig.tiny(), VAEConfig.tiny(), CPU()
    inpaint = Inpainter(UNet(net, synthetic(unet_shapes(net), 0), ops), VAE(coder, synthetic(vae_shapes(coder), 0), ops))
    photo = np.random.default_rng(1).integers(0, 256, (100, 220, 3), np.uint8)
    run = inpaint.steps(photo, [(20, 20, 30, 30), (170, 40, 30, 30)], steps=2)
    for step in run:
        shown = {(w.x, w.y): rgb for w, rgb in step.patches}
        assert set(shown) == {(w.x, w.y) for w in run.windows}
        assert len(shown) == 2
        preview = np.asarray(step.preview)
        for window in run.windows:
            rgb = shown[window.x, window.y]
            assert rgb.shape == (net.sample_size, net.sample_size, 3)
            grown = np.asarray(Image.fromarray(rgb).resize((window.width, window.height), Image.Resampling.BILINEAR))
            rows, columns = window.inside()
            hole = run.mask.fill[rows, columns]
            here = grown[rows.start - window.y : rows.stop - window.y, columns.start - window.x : columns.stop - window.x]
            assert np.array_equal(preview[rows, columns][hole], here[hole])
