"""Which networks of a model are on its device where memory is low: those at work."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol
from weakref import WeakSet


class Owner(Protocol):
    unet: Any
    vae: Any

    def give_back(self, net: Any) -> None:
        """The memory of one of its networks, which takes it again when it computes."""


class Room:
    """Of a model in every precision. Runs take it from many threads, and leave it in whichever Python collects them: single operations of
    lists, and no lock."""

    def __init__(self) -> None:
        self.low_memory = False
        self._owners = WeakSet[Owner]()
        self._at_work: list[Any] = []  # as often as there is work for it

    def join(self, owner: Owner) -> None:
        self._owners.add(owner)

    @contextmanager
    def at_work(self, net: Any) -> Iterator[None]:
        """While a network computes. With `low_memory` those that nobody has at work give their memory back before."""
        self._at_work.append(net)
        try:
            self.make()
            yield
        finally:
            self._at_work.remove(net)

    def make(self) -> None:
        for owner in list(self._owners) if self.low_memory else ():
            for net in (owner.unet, owner.vae):
                if net not in self._at_work:
                    owner.give_back(net)
