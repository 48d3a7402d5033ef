"""Quads on the window, by view.wgsl. What is drawn is a `Scene`; what it is made of lies in six textures that live on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, Literal

import numpy as np

from moebius.backends.webgpu import native, wgsl
from moebius.backends.webgpu.device import NO_ADAPTER_DRIVER, adapters, guard
from moebius.errors import AdapterError, DeviceLostError
from moebius.view.canvas import MaskCanvas
from moebius.view.geometry import Four, Rect
from moebius.view.picture import Picture, reduction

Kind = Literal["photo", "result", "patch", "overlay", "panel", "text"]
KINDS: tuple[Kind, ...] = ("photo", "result", "patch", "overlay", "panel", "text")
TEXTURES = {
    "photo": "rgba8unorm",
    "result": "rgba8unorm",
    "mask": "r8unorm",
    "hole": "r8unorm",
    "patches": "rgba8unorm",
    "labels": "r8unorm",
}
QUAD_BYTES = 64
BACKGROUND = (0.094, 0.098, 0.114)


@dataclass(frozen=True)
class Quad:
    """See view.wgsl for what `source` and `shape` mean to each kind."""

    kind: Kind
    rect: Four
    source: Four = (0, 0, 1, 1)
    colour: Four = (1, 1, 1, 1)
    shape: Four = (0, 0, 0, 0)


@dataclass
class Scene:
    """All that a frame shows. Arrays are uploaded when they are other objects than those of the frame before."""

    window: tuple[int, int]
    picture: tuple[int, int] = (1, 1)
    quads: list[Quad] = field(default_factory=list)
    photo: Picture | None = None
    result: Picture | None = None
    mask: MaskCanvas | None = None
    hole: np.ndarray | None = None
    patches: np.ndarray | None = None
    labels: np.ndarray | None = None


class Renderer:
    """A device of its own, on an adapter that can show on this window."""

    def __init__(self, present_info: dict[str, Any], listed: Callable[[], list[Any]] = adapters) -> None:
        there = listed()
        self.module = native.load("wgpu")
        if not there:  # to ask for something to draw on would end the process
            raise AdapterError(f"{NO_ADAPTER_DRIVER}, or use `moebius inpaint`.")
        with guard("The window", "getting something to draw on"):
            self.context: Any = self.module.gpu.get_canvas_context(present_info)
        try:
            adapter = self.module.gpu.request_adapter_sync(power_preference="high-performance", canvas=self.context)
        except Exception as error:  # wgpu has a type of its own for "none"
            names = "; ".join(a.summary for a in there)
            raise AdapterError(f"No adapter can draw on this display (found: {names}). `moebius inpaint` needs no window.") from error
        self.name = adapter.summary
        self.largest_side = int(adapter.limits["max-texture-dimension-2d"])
        with guard(self.name, "opening the device of the window"):
            self.device = adapter.request_device_sync(label="window", required_limits={"max-texture-dimension-2d": self.largest_side})
            self.format = self.context.get_preferred_format(adapter).removesuffix("-srgb")  # our colours are stored as they are shown
            self.context.configure(device=self.device, format=self.format)
            self._make_layouts()
        self._shaders: dict[bool, Any] = {}
        self._pipelines: dict[tuple[Kind, bool], Any] = {}
        self._size = (0, 0)
        self._textures: dict[str, Any] = {}
        self._shown: dict[str, Any] = {}
        self._bound: Any = None
        usage = self.module.BufferUsage
        self._frame = self.device.create_buffer(label="frame", size=16, usage=usage.UNIFORM | usage.COPY_DST)
        self._quads = self._quad_buffer(256)
        self._sampler = self.device.create_sampler(
            mag_filter="linear",
            min_filter="linear",
            mipmap_filter="nearest",
            address_mode_u="clamp-to-edge",
            address_mode_v="clamp-to-edge",
        )

    def _quad_buffer(self, count: int) -> Any:
        usage = self.module.BufferUsage
        return self.device.create_buffer(label="quads", size=QUAD_BYTES * count, usage=usage.VERTEX | usage.COPY_DST)

    def _make_layouts(self) -> None:
        stage = self.module.ShaderStage
        entries: list[dict[str, Any]] = [
            {"binding": 0, "visibility": stage.VERTEX | stage.FRAGMENT, "buffer": {"type": "uniform"}},
            {"binding": 1, "visibility": stage.FRAGMENT, "sampler": {"type": "filtering"}},
        ]
        entries += [{"binding": i, "visibility": stage.FRAGMENT, "texture": {"sample_type": "float"}} for i in range(2, 2 + len(TEXTURES))]
        self._layout = self.device.create_bind_group_layout(entries=entries)
        self._pipeline_layout = self.device.create_pipeline_layout(bind_group_layouts=[self._layout])

    def make_ready(self) -> None:
        """All pipelines; else each is made for the first frame that needs it, and the very first frames need few."""
        with guard(self.name, "compiling view.wgsl"):
            for kind in KINDS:
                for small in (False, True) if kind in ("photo", "result") else (False,):
                    self._pipeline(kind, small)

    def _pipeline(self, kind: Kind, small: bool) -> Any:
        """Both ways to sample in one shader would cost a software driver both: it masks branches, it does not skip them."""
        if (kind, small) not in self._pipelines:
            if small not in self._shaders:
                self._shaders[small] = self.device.create_shader_module(label="view", code=wgsl.specialise("view", (("SMALL", small),)))
            attributes = [{"format": "float32x4", "offset": 16 * i, "shader_location": i} for i in range(4)]
            buffers = [{"array_stride": QUAD_BYTES, "step_mode": "instance", "attributes": attributes}]
            over = {"operation": "add", "src_factor": "src-alpha", "dst_factor": "one-minus-src-alpha"}
            target = {"format": self.format, "blend": {"color": over, "alpha": over}}
            self._pipelines[kind, small] = self.device.create_render_pipeline(
                label=f"show_{kind}",
                layout=self._pipeline_layout,
                primitive={"topology": "triangle-strip"},
                vertex={"module": self._shaders[small], "entry_point": "corner", "buffers": buffers},
                fragment={"module": self._shaders[small], "entry_point": f"show_{kind}", "targets": [target]},
            )
        return self._pipelines[kind, small]

    # frames ------------------------------------------------------------------------------------------------------
    def draw(self, scene: Scene) -> bool:
        """False where the window could not take a frame just now. DeviceLostError where another Renderer is needed."""
        with guard(self.name, "drawing the window"):
            try:
                # The first call of a frame: that a device was lost is an exception here, and the end of the process in those below.
                encoder = self.device.create_command_encoder()
            except Exception as error:
                raise DeviceLostError(f"{self.name}, which draws the window, was lost ({error}).") from error
            self._upload(scene)
            return self._show(encoder, scene)

    def _show(self, encoder: Any, scene: Scene) -> bool:
        queue = self.device.queue
        quads = np.array([(*q.rect, *q.source, *q.colour, *q.shape) for q in scene.quads], np.float32).reshape(-1, 16)
        if quads.nbytes > self._quads.size:
            self._quads = self._quad_buffer(2 * len(quads))
        queue.write_buffer(self._frame, 0, np.array([*scene.window, *scene.picture], np.float32))
        if len(quads):
            queue.write_buffer(self._quads, 0, quads)
        if scene.window != self._size:
            self._size = scene.window
            self.context.set_physical_size(*scene.window)
        try:
            view = self.context.get_current_texture().create_view()
        except self.module.classes.DrawCancelled:  # it is hidden, or was resized just now
            return False
        attachment = {"view": view, "load_op": "clear", "store_op": "store", "clear_value": (*BACKGROUND, 1)}
        frame = encoder.begin_render_pass(color_attachments=[attachment])
        frame.set_bind_group(0, self._bound)
        frame.set_vertex_buffer(0, self._quads)
        first = 0
        for (kind, small), run in groupby((q.kind, q.kind in ("photo", "result") and self._is_small(q, scene)) for q in scene.quads):
            count = len(list(run))
            frame.set_pipeline(self._pipeline(kind, small))
            frame.draw(4, count, 0, first)
            first += count
        frame.end()
        queue.submit([encoder.finish()])
        self.context.present()
        return True

    def _is_small(self, quad: Quad, scene: Scene) -> bool:
        """Whether a pixel of the window covers several texels."""
        return quad.rect[2] * reduction(scene.picture, self.largest_side) < quad.source[2]

    def close(self) -> None:
        """The surface goes before the window it belongs to."""
        self._textures.clear()
        self._bound = None
        if self.context is not None:
            self.context.unconfigure()
            self.context = None

    # textures ----------------------------------------------------------------------------------------------------
    def _upload(self, scene: Scene) -> None:
        for name, picture in (("photo", scene.photo), ("result", scene.result)):
            if self._is_new(name, picture):
                self._texture(name, [np.zeros((1, 1, 4), np.uint8)] if picture is None else picture.levels)
        for name, array in (("patches", scene.patches), ("labels", scene.labels)):
            if self._is_new(name, array):
                self._texture(name, [np.zeros((1, 1, 4) if name == "patches" else (1, 1), np.uint8) if array is None else array])
        if self._is_new("hole", scene.hole):
            self._texture("hole", [np.zeros((1, 1), np.uint8) if scene.hole is None else self._reduced(scene.hole)])
        if self._is_new("mask", scene.mask):
            self._texture("mask", [np.zeros((1, 1), np.uint8) if scene.mask is None else self._reduced(scene.mask.fill)])
            if scene.mask is not None:
                scene.mask.take_dirty()
        elif scene.mask is not None and (dirty := scene.mask.take_dirty()):
            step = reduction(scene.picture, self.largest_side)
            aligned = Rect(dirty.x0 // step * step, dirty.y0 // step * step, dirty.x1, dirty.y1)
            self._write(
                self._textures["mask"], self._reduced(scene.mask.fill[aligned.slices], step), 0, (aligned.x0 // step, aligned.y0 // step)
            )
        if self._bound is None:
            views = [self._textures[name].create_view() for name in TEXTURES]
            resources = [{"buffer": self._frame, "offset": 0, "size": 16}, self._sampler, *views]
            entries = [{"binding": i, "resource": resource} for i, resource in enumerate(resources)]
            self._bound = self.device.create_bind_group(layout=self._layout, entries=entries)

    def _is_new(self, name: str, content: Any) -> bool:
        if name in self._shown and self._shown[name] is content:
            return False
        self._shown[name] = content
        return True

    def _reduced(self, fill: np.ndarray, step: int | None = None) -> np.ndarray:
        step = step or reduction((fill.shape[1], fill.shape[0]), self.largest_side)
        return np.where(fill[::step, ::step], np.uint8(255), np.uint8(0))

    def _texture(self, name: str, levels: Sequence[np.ndarray]) -> None:
        """Writes into the texture of that name; into a new one where the size has changed."""
        tall, wide = levels[0].shape[:2]
        texture = self._textures.get(name)
        if texture is None or texture.size[:2] != (wide, tall):
            usage = self.module.TextureUsage
            self._shown.pop(name)  # if there is no memory, it is not shown
            self._textures[name] = texture = self.device.create_texture(
                label=name,
                size=(wide, tall, 1),
                mip_level_count=len(levels),
                format=TEXTURES[name],
                usage=usage.TEXTURE_BINDING | usage.COPY_DST,
            )
            self._bound = None
        for level, array in enumerate(levels):
            self._write(texture, array, level)

    def _write(self, texture: Any, array: np.ndarray, level: int = 0, origin: tuple[int, int] = (0, 0)) -> None:
        tall, wide = array.shape[:2]
        self.device.queue.write_texture(
            {"texture": texture, "mip_level": level, "origin": (*origin, 0)},
            np.ascontiguousarray(array),
            {"bytes_per_row": array.nbytes // tall, "rows_per_image": tall},
            (wide, tall, 1),
        )
