"""The window's files: pictures that are opened, dropped, typed or pasted, fills that are saved, and the question before one is lost.

All reading and writing is an errand, so that the window goes on meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from moebius.errors import MoebiusError
from moebius.view import clipboard, layout, opening
from moebius.view.brush import Brush
from moebius.view.camera import Camera
from moebius.view.canvas import MaskCanvas
from moebius.view.dialogs import Dialog, NoDialogError
from moebius.view.easel import Easel
from moebius.view.errands import Errands
from moebius.view.history import Fill
from moebius.view.notices import Notices
from moebius.view.opening import Opened
from moebius.view.save import save

BEFORE_OPENING = "before another picture is opened"
BEFORE_CLOSING = "before the window closes"
NO_MEMORY = "There is not enough memory for this picture; close other programs, or use a smaller one."


@dataclass(frozen=True)
class Question:
    """What is asked before work is lost: the words of every answer, its key, and what it does."""

    text: str
    answers: tuple[tuple[str, str, Callable[[], object]], ...]


class Desk:
    def __init__(self, errands: Errands, largest_side: int, first_seed: int, clock: Callable[[], float]) -> None:
        self.errands, self.largest_side, self.clock = errands, largest_side, clock
        self.seed = self.first_seed = first_seed
        self.easel, self.ui = Easel(), 1.0  # ui: framebuffer pixels a logical one
        self.notices, self.dialog = Notices(), Dialog()
        self.path: Path | None = None
        self.folder: Path | None = None  # where results go; None: beside the photo
        self.is_sample = False  # a picture of one's own is still to come
        self.help = False
        self.opening = ""  # the name of what is being read
        self.typed: str | None = None  # the path that is being typed, where there is no dialog
        self.question: Question | None = None
        self.closing = False  # the window may go
        self.unsaved = False  # a fill was made since the last one was saved
        self.saving, self._leaving = 0, False  # files that are being written; the window goes when they are
        self.changed = True  # something is to be drawn
        self.paste_text: Callable[[], str] = lambda: ""  # the clipboard's
        self._choosing, self._opened = False, 0

    @property
    def camera(self) -> Camera:
        return self.easel.camera

    @property
    def brush(self) -> Brush:
        return self.easel.brush

    @property
    def canvas(self) -> MaskCanvas | None:
        return None if self.easel.sheet is None else self.easel.sheet.canvas

    @property
    def results(self) -> list[Fill]:
        """The fills of what is painted on."""
        return [] if self.easel.sheet is None else self.easel.sheet.fills

    @property
    def shown(self) -> int:
        """0 is the picture that is painted on, n its nth fill."""
        return 0 if self.easel.sheet is None else self.easel.sheet.shown

    @property
    def message(self) -> str:
        return self.notices.text

    @property
    def is_error(self) -> bool:
        return self.notices.is_error

    # pictures ----------------------------------------------------------------------------------------------------
    def open(self, source: Path | bytes, mask: Path | None = None, folder: Path | None = None, sample: bool = False) -> None:
        """Another photo, as soon as it is read. One that cannot be read leaves all as it was."""
        if self.at_stake:
            self._ask(BEFORE_OPENING, partial(self._read, source, mask, folder))
        else:
            self._read(source, mask, folder, sample)

    def _read(self, source: Path | bytes, mask: Path | None = None, folder: Path | None = None, sample: bool = False) -> None:
        self._opened += 1
        self.opening, self.changed = source.name if isinstance(source, Path) else opening.PASTED, True
        work = partial(opening.read, source, mask, self.largest_side)
        folder = folder if isinstance(source, Path) else folder or Path.cwd()
        number = self._opened
        self.errands.file(work, partial(self._show, number, folder, sample), partial(self._not_read, number))

    def _show(self, number: int, folder: Path | None, sample: bool, opened: Opened) -> None:
        if number != self._opened:  # another one was asked for meanwhile
            return
        if self.at_stake:  # a run has ended meanwhile, or something was painted
            self._ask(BEFORE_OPENING, partial(self._show, number, folder, sample, opened))
            return
        self.cancel()
        self.path, self.folder, self.is_sample, self.opening = opened.path, folder, sample, ""
        self.seed, self.unsaved, self.help = self.first_seed, False, False
        self._fit_bars()
        self.easel.put(opened.photo, opened.picture, opened.marked)
        self.say(self.notices.once(opened.notes))

    def _not_read(self, number: int, error: Exception) -> None:
        if number == self._opened:
            self.opening = ""
            self.wrong(error)

    def close_picture(self, why: str) -> None:
        """There is no memory on the GPU to show it."""
        self.cancel()
        self.easel.clear()
        self.path, self.unsaved = None, False
        self.say(why, error=True)

    def drop(self, paths: list[Path]) -> None:
        if paths and self.question is None:
            self.typed = None
            self.open(paths[0])

    def choose(self) -> None:
        """By the system's dialog; where there is none, by a path that is typed."""
        if not self._choosing:
            self._choosing = True
            folder = (self.path if self.path is not None and not self.is_sample else Path.cwd() / "_").absolute().parent
            self.errands.beside(partial(self.dialog.choose, folder), self._chosen, self._not_chosen)

    def _chosen(self, path: Path | None) -> None:
        self._choosing = False
        if path is not None:
            self.drop([path])

    def _not_chosen(self, error: Exception) -> None:
        self._choosing = False
        if isinstance(error, NoDialogError):
            self.typed, self.changed = "", True
        else:
            self.wrong(error)

    def paste(self) -> None:
        if self.typed is not None:
            self.type("".join(self.paste_text().splitlines()))
        elif self.question is None:
            self.errands.beside(partial(clipboard.pasted, self.paste_text()), self.open, self.wrong)

    def type(self, text: str) -> None:
        """Letters of a path."""
        if self.typed is not None:
            self.typed, self.changed = (self.typed + text)[: clipboard.LONGEST], True

    # saving ------------------------------------------------------------------------------------------------------
    def save(self, then: Callable[[], object] | None = None) -> None:
        """The fill in view, beside the photo; `then` follows when it is written."""
        sheet = self.easel.sheet
        fill = None if sheet is None else sheet.fill
        if fill is None or self.path is None:
            self.say("There is no result in view to save; Enter makes one." if not self.results else "Right shows a result to save.")
            return
        self.saving, self.unsaved = self.saving + 1, False
        self.say(f"Saving {self.path.stem}-filled …")
        work = partial(save, fill.result, fill.photo, self.path, self.folder)
        self.errands.file(work, partial(self._saved, then), self._not_saved)

    def _saved(self, then: Callable[[], object] | None, path: Path) -> None:
        self.saving -= 1
        self.say(f"Saved as {path}")
        if then is not None:
            then()
        elif self._leaving:
            self.close()

    def _not_saved(self, error: Exception) -> None:
        self.saving, self.unsaved, self._leaving = self.saving - 1, True, False
        self.wrong(error)

    # leaving -----------------------------------------------------------------------------------------------------
    def close(self) -> None:
        """Somebody wants the window to go."""
        if self.saving:
            self._leaving = True
        elif not self.at_stake:
            self.closing = True
        elif self.question is None:
            self._ask(BEFORE_CLOSING, self._let_close)

    @property
    def is_painted(self) -> bool:
        """Something was painted, and not filled in since."""
        return self.easel.sheet is not None and self.easel.sheet.canvas.is_new

    @property
    def at_stake(self) -> bool:
        """There is work that would be lost with the picture."""
        return self.unsaved or self.is_painted

    def _let_close(self) -> None:
        self.closing = True

    def _ask(self, before: str, go_on: Callable[[], object]) -> None:
        self.typed, self.help, self.changed = None, False, True
        discard, stay = ("Discard", "d", partial(self._discard, go_on)), ("Cancel", "escape", self._stay)
        if self.unsaved:
            save = "Save", "s", partial(self._save_newest, go_on)
            self.question = Question(f"The last fill is not saved. Save it {before}?", (save, discard, stay))
        else:  # Enter takes the first answer
            self.question = Question("What is painted is not filled in yet. Discard it?", (stay, discard))

    def _stay(self) -> None:
        self.opening = ""

    def _discard(self, then: Callable[[], object]) -> None:
        self.unsaved = False
        self._give_up_painting()
        then()

    def _give_up_painting(self) -> None:
        if self.easel.sheet is not None:
            self.easel.sheet.canvas.settle()

    def _save_newest(self, then: Callable[[], object]) -> None:
        """The fill that is not saved may be out of view."""
        sheet = self.easel.sheet
        if sheet is not None and sheet.fill is None and sheet.fills:
            sheet.shown = len(sheet.fills)
        self._give_up_painting()  # it is no work to ask about once more
        self.save(then)

    def answer(self, index: int) -> None:
        if self.question is not None:
            question, self.question, self.changed = self.question, None, True
            question.answers[index][2]()

    # what it says ------------------------------------------------------------------------------------------------
    def say(self, text: str, error: bool = False) -> None:
        self.notices.say(text, error, self.clock())
        self.changed = True

    def wrong(self, error: Exception) -> None:
        """What failed on another thread."""
        if isinstance(error, MoebiusError):
            self.say(str(error), error=True)
        elif isinstance(error, MemoryError):
            self.say(NO_MEMORY, error=True)
        else:
            self.say(f"This is a bug: {type(error).__name__}: {error}.", error=True)

    def cancel(self) -> None:
        """Stops the run under way, if there is one."""

    def _fit_bars(self, window: tuple[int, int] | None = None) -> None:
        foot = layout.FOOT + (layout.DROP if self.is_sample else 0)
        self.camera.resize(window or self.camera.window, layout.MARGIN * self.ui, foot * self.ui, layout.HEAD * self.ui)
