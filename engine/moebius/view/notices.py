"""What the window says, and for how long: as long as it takes to read. A failure stays longer; notes are given once."""

from __future__ import annotations

from collections.abc import Iterable

FIRST, LETTER = 3.0, 0.06  # seconds, and for every letter
FAILURE = 3.0  # times as long


class Notices:
    """One message at a time. `now` is in seconds, of any clock."""

    def __init__(self) -> None:
        self.text, self.is_error = "", False
        self.slowness = 1.0  # times longer
        self._until = 0.0
        self._given: set[str] = set()

    def say(self, text: str, error: bool, now: float) -> None:
        self.text, self.is_error = text, error
        self._until = now + (FIRST + LETTER * len(text)) * (FAILURE if error else 1.0) * self.slowness

    def once(self, notes: Iterable[str]) -> str:
        """Those that were not given before, as one text: what a model is, is said after its first fill alone."""
        new = [note for note in dict.fromkeys(notes) if note not in self._given]
        self._given.update(new)
        return " ".join(new)

    def expire(self, now: float) -> bool:
        """Whether the message went away now."""
        if not self.text or now < self._until:
            return False
        self.text = ""
        return True

    def due(self, now: float) -> float | None:
        """Seconds until it goes away."""
        return max(0.0, self._until - now) if self.text else None
