"""What goes along while a model is loaded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from moebius.model.contract import Precision

Progress = Callable[[str, int, int], None]  # (what is being done, bytes done, bytes in all)


@dataclass(frozen=True)
class Loading:
    """How to load, and what the user should know afterwards.

    cache: whether a copy may be kept. progress: told how far a download or a conversion is. notes: what happened on the way. precision: of
    a copy that is written; in f16 it has half the size.
    """

    cache: bool = True
    progress: Progress | None = None
    notes: list[str] = field(default_factory=list)
    precision: Precision = "f32"

    def say(self, doing: str, done: int, total: int) -> None:
        if self.progress:
            self.progress(doing, done, total)
