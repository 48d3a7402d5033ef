"""The memory that intermediate tensors lie in: one for all plans of a device, for it runs one after the other."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from itertools import zip_longest
from typing import Any, Protocol


class User(Protocol):
    def vacate(self) -> None:
        """Leaves the memory, and takes it again when it next runs. Nothing in there is wanted any more."""


class Arena:
    """As large as its largest user wants it, buffer by buffer, the largest first. It belongs to its users, and goes with the last."""

    def __init__(self) -> None:
        self._memory: list[tuple[int, weakref.ref[Any]]] = []
        self._users = weakref.WeakSet[User]()

    def lend(self, user: User, sizes: Sequence[int], create: Callable[[int, str], Any], trim: Callable[[], None]) -> list[Any]:
        """Buffers of at least these sizes. Where they are larger than what is there, the others vacate that first."""
        there = [(nbytes, memory()) for nbytes, memory in self._memory]
        there = [one for one in there if one[1] is not None]
        wanted = [max(a, b) for a, b in zip_longest(sizes, (nbytes for nbytes, _ in there), fillvalue=0)]
        if any(nbytes < want for (nbytes, _), want in zip(there, wanted, strict=False)):
            for other in list(self._users):
                other.vacate()
            there = [(nbytes, handle) for nbytes, handle in there if nbytes in wanted]
            trim()
        lent: list[Any] = []
        for i, want in enumerate(wanted):
            at = next((j for j, (nbytes, _) in enumerate(there) if nbytes == want), None)
            lent.append(create(want, f"arena {i}") if at is None else there.pop(at)[1])
        self._memory = [(want, weakref.ref(handle)) for want, handle in zip(wanted, lent, strict=True)]
        self._users.add(user)
        return lent[: len(sizes)]
