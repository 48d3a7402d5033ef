"""The window and its loop: glfw's events to the App, the App's scene to the Renderer. The only file that imports glfw.

The loop sleeps in glfw until something happens; a frame is drawn when something has changed, at most as often as the screen
shows one, and with everything that the pointer has done by then. The worker wakes it by an empty event.
"""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import glfw

from moebius.backends.webgpu.device import adapters
from moebius.errors import AdapterError, DeviceLostError, MoebiusError
from moebius.view import layout
from moebius.view.app import App
from moebius.view.draw import Renderer
from moebius.view.errands import Errands
from moebius.view.job import Load, Worker
from moebius.view.scene import Painter

SIZE = (1120, 780)
SMALLEST = (360, 280)
LARGEST = 0.92  # of the screen, to begin with
ASLEEP = 0.5  # seconds: a Ctrl-C in the terminal is seen when the loop comes round
RETRY = 0.1  # seconds until a frame that the window could not take is tried again
PATIENCE = 5.0  # seconds that a closed window waits for the step under way, which may take minutes
SWITCH = 0.0005  # seconds until the window's thread gets the GIL back from a worker in Python code; Python's own 5 ms add up

BUTTONS = {glfw.MOUSE_BUTTON_LEFT: "left", glfw.MOUSE_BUTTON_RIGHT: "right", glfw.MOUSE_BUTTON_MIDDLE: "middle"}
NAMED = {
    glfw.KEY_ENTER: "enter",
    glfw.KEY_KP_ENTER: "enter",
    glfw.KEY_ESCAPE: "escape",
    glfw.KEY_SPACE: "space",
    glfw.KEY_LEFT: "left",
    glfw.KEY_RIGHT: "right",
    glfw.KEY_BACKSPACE: "backspace",
    glfw.KEY_F1: "f1",
    glfw.KEY_KP_ADD: "+",
    glfw.KEY_KP_SUBTRACT: "-",
}
TYPED = "[]?+=-"  # by what is printed, however many keys it takes on this keyboard
REPEATING = ("left", "right", "backspace")


class Window:
    def __init__(self, load: Load, settings: dict[str, Any], listed: Callable[[], list[Any]] = adapters) -> None:
        glfw.ERROR_REPORTING = "ignore"  # asked for where it matters
        if not glfw.init():
            raise AdapterError(f"There is no display to open a window on ({_glfw_error()}). `moebius inpaint` needs none.")
        try:
            self._open(load, settings, listed)
        except BaseException:
            glfw.terminate()
            raise

    def _open(self, load: Load, settings: dict[str, Any], listed: Callable[[], list[Any]]) -> None:
        glfw.window_hint(glfw.CLIENT_API, glfw.NO_API)
        glfw.window_hint(glfw.SCALE_TO_MONITOR, True)
        glfw.window_hint(glfw.VISIBLE, False)
        self.handle = glfw.create_window(*SIZE, "moebius", None, None)
        if not self.handle:
            raise AdapterError(f"The display opens no window ({_glfw_error()}).")
        self._keep_on_screen()
        glfw.set_window_size_limits(self.handle, *SMALLEST, glfw.DONT_CARE, glfw.DONT_CARE)
        self.renderer = Renderer(present_info(self.handle), listed)
        self.worker = Worker(load, glfw.post_empty_event, self.renderer.largest_side)
        self.app = App(self.worker, Errands(glfw.post_empty_event, begun=False), settings, self.renderer.largest_side)
        self.app.paste_text = self._clipboard
        self.painter = Painter()
        self.frames, self._next_frame, self._title = 0, 0.0, ""
        mode = glfw.get_video_mode(glfw.get_primary_monitor()) if glfw.get_primary_monitor() else None
        self._frame_time = 1 / max(30, mode.refresh_rate if mode is not None and mode.refresh_rate else 60)
        self._cursors = [glfw.create_standard_cursor(kind) for kind in (glfw.CROSSHAIR_CURSOR, glfw.ARROW_CURSOR)]
        self._in_bars = True
        self._listen()
        glfw.show_window(self.handle)
        self._resized()

    def _keep_on_screen(self) -> None:
        monitor = glfw.get_primary_monitor()
        if monitor:
            room = glfw.get_monitor_workarea(monitor)[2:]
            size = glfw.get_window_size(self.handle)
            fitting = [min(n, round(LARGEST * most)) for n, most in zip(size, room, strict=True)]
            glfw.set_window_size(self.handle, *fitting)

    def _listen(self) -> None:
        w = self.handle
        glfw.set_cursor_pos_callback(w, lambda _, x, y: self._move(x, y))
        glfw.set_cursor_enter_callback(w, lambda _, inside: None if inside or self.app.easel.drag else self.app.move(None))
        glfw.set_mouse_button_callback(w, lambda _, button, action, mods: self._button(button, action, mods))
        glfw.set_scroll_callback(w, lambda _, dx, dy: self.app.wheel(dy, self._control()))
        glfw.set_key_callback(w, lambda _, key, scancode, action, mods: self._key(key, scancode, action, mods))
        glfw.set_char_callback(w, lambda _, code: self._char(chr(code)))
        glfw.set_window_close_callback(w, lambda _: self._asked_to_close())
        dropped: Any = lambda _, paths: self.app.drop([Path(p) for p in paths])  # noqa: E731 # glfw's stub has its C signature
        glfw.set_drop_callback(w, dropped)
        glfw.set_window_focus_callback(w, lambda _, focused: None if focused else self.app.focus_lost())
        glfw.set_framebuffer_size_callback(w, lambda *_: self._resized(draw=True))
        glfw.set_window_content_scale_callback(w, lambda *_: self._resized())
        glfw.set_window_refresh_callback(w, lambda _: self._draw())

    # events ------------------------------------------------------------------------------------------------------
    def _pixel(self, x: float, y: float) -> tuple[float, float]:
        """glfw's positions are in the window's units, which on some systems are not pixels."""
        size, pixels = glfw.get_window_size(self.handle), glfw.get_framebuffer_size(self.handle)
        return x * pixels[0] / max(1, size[0]), y * pixels[1] / max(1, size[1])

    def _move(self, x: float, y: float) -> None:
        at = self._pixel(x, y)
        in_bars = self.app.easel.sheet is None or layout.in_bars(at, self.app.camera.window, self.app.ui)
        if in_bars != self._in_bars:
            self._in_bars = in_bars
            glfw.set_cursor(self.handle, self._cursors[in_bars])
        self.app.move(at)

    def _char(self, letter: str) -> None:
        if self.app.typed is not None:
            self.app.type(letter)
        elif letter in TYPED:
            self.app.key(letter)

    def _asked_to_close(self) -> None:
        self.app.close()
        glfw.set_window_should_close(self.handle, self.app.closing)

    def _clipboard(self) -> str:
        text = glfw.get_clipboard_string(self.handle)
        return text.decode("utf-8", "replace") if isinstance(text, bytes) else text or ""

    def _control(self) -> bool:
        keys = (glfw.KEY_LEFT_CONTROL, glfw.KEY_RIGHT_CONTROL, glfw.KEY_LEFT_SUPER, glfw.KEY_RIGHT_SUPER)
        return any(glfw.get_key(self.handle, key) == glfw.PRESS for key in keys)

    def _button(self, button: int, action: int, mods: int) -> None:
        if button not in BUTTONS:
            return
        if self.app.easel.pointer is None:  # else where the events say: asked now, it may be strokes ahead of this press
            self.app.move(self._pixel(*glfw.get_cursor_pos(self.handle)))
        if action == glfw.PRESS:
            self.app.press(BUTTONS[button], bool(mods & glfw.MOD_SHIFT))
        else:
            self.app.release(BUTTONS[button])

    def _key(self, key: int, scancode: int, action: int, mods: int) -> None:
        name = NAMED.get(key) or (glfw.get_key_name(key, scancode) or "").lower()  # a letter where this keyboard has it
        if not name.isascii() and glfw.KEY_A <= key <= glfw.KEY_Z:  # a keyboard with other letters: where the American one has them
            name = chr(key).lower()
        control = bool(mods & (glfw.MOD_CONTROL | glfw.MOD_SUPER))
        if action == glfw.RELEASE:
            self.app.key_up(name)
        elif (control or name not in TYPED) and (action == glfw.PRESS or control or name in REPEATING):
            self.app.key(name, control, bool(mods & glfw.MOD_SHIFT))

    def _resized(self, draw: bool = False) -> None:
        self.app.resize(glfw.get_framebuffer_size(self.handle), glfw.get_window_content_scale(self.handle)[0] or 1.0)
        if draw:  # while a border is dragged, some systems do not let the loop go on
            self._draw()

    # the loop ----------------------------------------------------------------------------------------------------
    def run(self) -> bool:
        """Until it is closed; then all is given back. Ctrl-C closes it too, and is raised at the end.

        False where the step under way did not end in time, and still uses the device: nothing but the end of the process stops it. A second
        Ctrl-C does not wait for it.
        """
        interval, interrupts = sys.getswitchinterval(), 0

        def interrupt(*_: object) -> None:  # an exception would be lost where it meets a callback of glfw's or wgpu's
            nonlocal interrupts
            interrupts += 1

        before = {number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
        sys.setswitchinterval(SWITCH)
        try:
            self._draw()  # before anything else takes the processor
            self.app.errands.begin()
            self.renderer.make_ready()
            self.worker.begin()
            while not self.app.closing and not interrupts:
                self._turn()
        finally:
            sys.setswitchinterval(interval)
            pressed = interrupts
            ended = self.close(lambda: interrupts > pressed)
            for number, handler in before.items():
                signal.signal(number, handler)
        if interrupts:
            raise Interrupted(ended)
        return ended

    def _turn(self) -> None:
        due = self.app.due()
        asleep = ASLEEP if due is None else min(ASLEEP, due)
        wait = self._next_frame - time.monotonic() if self.app.changed else asleep
        if wait > 0:
            glfw.wait_events_timeout(wait)
        else:
            glfw.poll_events()
        self.app.handle_events()
        if self.app.changed and time.monotonic() >= self._next_frame:
            self._draw()

    def _draw(self) -> None:
        if min(glfw.get_framebuffer_size(self.handle)) < 1 or glfw.get_window_attrib(self.handle, glfw.ICONIFIED):
            self.app.changed = False  # it asks for a frame when it is back
            return
        if self.app.title != self._title:
            self._title = self.app.title
            glfw.set_window_title(self.handle, self._title)
        begun = time.monotonic()
        try:
            drawn = self.renderer.draw(self.painter.build(self.app))
        except DeviceLostError as error:
            self._draw_again(error)
            return
        except MoebiusError as error:
            if self.app.easel.sheet is None:
                raise
            self.app.close_picture(str(error))
            return
        self.frames += drawn
        self.app.changed = not drawn
        self._next_frame = begun + (self._frame_time if drawn else RETRY)

    def _draw_again(self, error: DeviceLostError) -> None:
        """The device that draws was lost, or out of memory. A new one shows the same; without the picture, if that was too much."""
        sheet = self.app.easel.sheet
        self.renderer.close()
        self.renderer = Renderer(present_info(self.handle))
        try:
            self.renderer.draw(self.painter.build(self.app))
            self.app.say(str(error), error=True)
        except DeviceLostError as again:
            if sheet is None:
                raise
            self.app.close_picture(str(again))

    def close(self, hurried: Callable[[], bool] = lambda: False) -> bool:
        """Whether the run's thread has ended; else nothing that it may use is given back."""
        glfw.hide_window(self.handle)  # it is gone at once
        self.app.dialog.close()
        self.app.errands.close()
        if not self.worker.close(PATIENCE, hurried):
            return False
        self.renderer.close()
        glfw.destroy_window(self.handle)
        glfw.terminate()
        return True


class Interrupted(KeyboardInterrupt):
    """Ctrl-C, or SIGTERM. `ended`: as what `run` returns."""

    def __init__(self, ended: bool) -> None:
        super().__init__()
        self.ended = ended


def present_info(handle: Any) -> dict[str, Any]:
    """What wgpu wants to know of a window. No vsync: frames are made when something has changed, and must not queue up."""
    if sys.platform == "win32":
        return {"platform": "windows", "window": int(glfw.get_win32_window(handle)), "vsync": False}
    if sys.platform == "darwin":
        return {"platform": "cocoa", "window": int(glfw.get_cocoa_window(handle)), "vsync": False}
    api: Any = glfw  # these have no types
    if api.get_platform() == api.PLATFORM_WAYLAND:
        place = {"platform": "wayland", "window": api.get_wayland_window(handle), "display": api.get_wayland_display()}
    else:
        place = {"platform": "x11", "window": api.get_x11_window(handle), "display": api.get_x11_display()}
    return place | {"vsync": False, "window": int(place["window"]), "display": int(place["display"])}


def _glfw_error() -> str:
    """What glfw says about its last failure."""
    _, text = glfw.get_error()
    return (text.decode("utf-8", "replace") if isinstance(text, bytes) else text or "glfw does not say why").rstrip(".")
